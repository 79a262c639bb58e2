//! Random lives, each seed by itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::world::{Stats, World};
use super::{Verdict, ensure};

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 2_000;
const THREADS: u64 = 2;
const FINDINGS_MAX: usize = 10;
/// One seed in so many runs twice.
const TWICE_ONE_IN: u64 = 50;

/// Runs one seed. A panic anywhere in the engine is a finding like any other. Answers the statistics and the trace.
pub(super) fn run(seed: u64, talk: bool) -> Verdict<(Stats, u64)> {
    let run = || {
        let mut world = World::new(seed, talk);
        let verdict = world.run();
        verdict.map(|()| (world.stats, world.disk.trace_hash()))
    };
    let verdict = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("?")))
    });
    verdict.map_err(|why| format!("seed {seed}: {why}\nrun it alone with ANNALS_SIM_SEED={seed} cargo test --lib sim::power_loss -- --nocapture"))
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs every other seed; stops at a handful of findings, since one alone seldom shows the pattern.
fn run_share(from: u64, to: u64, share: u64) -> (Stats, Vec<String>) {
    let mut stats = Stats::default();
    let mut findings = Vec::new();
    for seed in (from..to).filter(|seed| seed % THREADS == share) {
        match run_checked(seed) {
            Ok(found) => stats.add(&found),
            Err(why) => findings.push(why),
        }
        if findings.len() >= FINDINGS_MAX {
            break;
        }
    }
    (stats, findings)
}

fn run_checked(seed: u64) -> Verdict<Stats> {
    let (stats, trace) = run(seed, false)?;
    if (seed / THREADS).is_multiple_of(TWICE_ONE_IN) {
        let again = run(seed, false)?;
        ensure!(again == (stats, trace), "seed {seed} did something else the second time");
    }
    Ok(stats)
}

/// No acknowledged record is lost, whatever happens; see the checks in [`super::judge`].
#[test]
fn what_was_acknowledged_survives() {
    if let Some(seed) = from_environment("ANNALS_SIM_SEED") {
        let (stats, trace) = run(seed, true).unwrap_or_else(|why| panic!("{why}"));
        eprintln!("{stats:?}, trace {trace:016x}");
        return;
    }
    let first = from_environment("ANNALS_SIM_FIRST").unwrap_or(0);
    let to = first + from_environment("ANNALS_SIM_SEEDS").unwrap_or(SEEDS);
    let (mut total, mut findings) = (Stats::default(), Vec::new());
    std::thread::scope(|scope| {
        let shares: Vec<_> = (0..THREADS).map(|share| scope.spawn(move || run_share(first, to, share))).collect();
        for share in shares {
            let (stats, found) = share.join().expect("a share does not panic");
            total.add(&stats);
            findings.extend(found);
        }
    });
    assert!(findings.is_empty(), "{} findings:\n\n{}", findings.len(), findings.join("\n\n"));
    eprintln!("power_loss: {total:?}");
    assert!(total.power_losses >= total.seeds && total.stores >= total.seeds, "{total:?}");
}
