//! Explores the schedules of what threads of annals tell each other, with loom: each model is run once for every way in which
//! its threads may be interleaved, up to a number of preemptions, and in which their loads may be answered. What is explored are
//! the very sources of annals, compiled with another `std` (see `std/`); around them stands as little as they need.
//!
//! Sequentially consistent loads and stores are no more than acquire and release to loom, so what rests on their single order
//! (`Partition::follow` and `wake_followers`) is not explored here.

#![allow(dead_code, reason = "the sources have more than the models need")]

extern crate std_with_loom as std;

#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/expected.rs"]
mod expected;
#[path = "../../../src/task.rs"]
mod task;
#[path = "../../../src/text.rs"]
mod text;

mod group;
mod handover;
mod log;
mod news;
mod partition;
mod planted;
mod segment;
mod woken;

use planted::Bug;

/// A model, how many preemptions its schedules have at the most, and the defects that must make it fail.
struct Model {
    name: &'static str,
    run: fn(),
    preemptions: usize,
    defects: &'static [Bug],
}

const MODELS: &[Model] = &[
    Model { name: "a thread that sleeps", run: woken::asleep, preemptions: 3, defects: &[] },
    Model { name: "a thread that looks, and sleeps", run: woken::awake, preemptions: 3, defects: &[] },
    Model { name: "a thread that is woken late", run: woken::late, preemptions: 3, defects: &[] },
    Model { name: "one partition, three appends", run: news::one_partition, preemptions: 3, defects: &[] },
    Model { name: "two partitions, two producers", run: news::two_partitions, preemptions: 2, defects: &[] },
    Model { name: "an append and a close", run: news::close, preemptions: 3, defects: &[] },
    Model { name: "a partition given up", run: handover::given_up, preemptions: 3, defects: &[Bug::FenceIgnored] },
    Model { name: "a partition taken away", run: handover::taken_away, preemptions: 3, defects: &[Bug::FenceIgnored] },
];

/// Runs a model in all its schedules, on a thread of its own. Answers how many there were, if it held in all.
fn explore(model: &'static Model, bug: Option<Bug>) -> Option<usize> {
    let explorer = real::thread::spawn(move || {
        planted::plant(bug);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(model.preemptions);
        builder.max_branches = 10_000;
        let count = real::sync::Arc::new(real::sync::atomic::AtomicUsize::new(0));
        let counted = real::sync::Arc::clone(&count);
        builder.check(move || {
            counted.fetch_add(1, real::sync::atomic::Ordering::Relaxed);
            (model.run)();
        });
        count.load(real::sync::atomic::Ordering::Relaxed)
    });
    explorer.join().ok()
}

extern crate std as real;

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let mut failed = false;
    for model in MODELS.iter().filter(|model| model.name.contains(&wanted)) {
        let begun = std::time::Instant::now();
        match explore(model, None) {
            Some(count) => println!("{}: {count} schedules in {:.1} s", model.name, begun.elapsed().as_secs_f64()),
            None => {
                println!("{}: FAILED", model.name);
                failed = true;
            }
        }
        for bug in model.defects {
            let said = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let found = explore(model, Some(*bug)).is_none();
            std::panic::set_hook(said);
            println!("{}: {bug:?} {}", model.name, if found { "is found" } else { "was NOT FOUND" });
            failed |= !found;
        }
    }
    std::process::exit(i32::from(failed));
}
