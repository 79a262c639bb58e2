//! Every call to the disk fails, once and from then on: never a panic, always an error that says what to do, and nothing
//! that was acknowledged is lost. A full disk heals without reopening.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::bench::{Bench, compacted, put, put_relaxed, read, settings, unit};
use super::{Verdict, ensure};
use crate::error::{Error, ErrorKind, Result};
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::storage::fault::{Class, Fault, FaultDisk, Plan, Repeat};

/// What was sent to each partition, with whether it was acknowledged.
type Sent = BTreeMap<(&'static str, u32), Vec<(String, bool)>>;

#[derive(Default)]
struct Run {
    sent: Sent,
    errors: Vec<Error>,
    count: usize,
}

impl Run {
    fn note(&mut self, places: &[(&'static str, u32)], text: &str, answer: Result<()>) {
        for place in places {
            self.sent.entry(*place).or_default().push((text.to_owned(), answer.is_ok()));
        }
        self.errors.extend(answer.err());
    }

    fn text(&mut self, len: usize) -> String {
        self.count += 1;
        format!("{}-{}", self.count, "v".repeat(len))
    }

    fn step<T>(&mut self, answer: Result<T>) -> Option<T> {
        answer.map_err(|error| self.errors.push(error)).ok()
    }

    /// Topics of each kind; appends, units, rotations of segments and of the journal, checkpoints.
    fn work(&mut self, engine: &Engine) {
        for (name, durability) in [("s", Durability::Sync), ("o", Durability::Os)] {
            if engine.topic(name).is_err() {
                self.step(engine.create_topic(name, settings(2, durability)));
            }
        }
        if engine.topic("c").is_err() {
            self.step(engine.create_topic("c", compacted(1, Durability::Sync)));
        }
        for round in 0..4 {
            for partition in 0..2 {
                let text = self.text(700);
                self.note(&[("s", partition)], &text, put(engine, "s", partition, &text));
                let text = self.text(700);
                self.note(&[("o", partition)], &text, put_relaxed(engine, "o", partition, &text));
            }
            let places = [("s", 0), ("s", 1), ("o", 0)];
            let text = self.text(1500);
            self.note(&places, &text, unit(engine, &places, &text));
            let text = self.text(1500);
            self.note(&places[..2], &text, unit(engine, &places[..2], &text));
            if round < 2 {
                // Together three segments of records of two keys.
                for number in 0..5 {
                    let text = format!("{}={}", number % 2, self.text(900));
                    self.note(&[("c", 0)], &text, put(engine, "c", 0, &text));
                }
                let text = format!("u={}", self.text(10));
                self.note(&[("c", 0), ("s", 0)], &text, unit(engine, &[("c", 0), ("s", 0)], &text));
            }
            if round == 1 {
                self.step(engine.compact_topic("c"));
            }
            engine.do_upkeep(Duration::MAX);
            if round == 2 {
                self.step(engine.checkpoint());
                if engine.topic("o").is_ok_and(|topic| topic.settings().partitions == 2) {
                    self.step(engine.add_partitions("o", 3));
                }
            }
        }
        self.step(engine.create_topic("gone", settings(1, Durability::Sync)));
        self.step(engine.delete_topic("gone"));
    }

    /// Opens, works, closes, opens again, works on, all through the disk that fails.
    fn all(&mut self, bench: &Bench, disk: &Arc<FaultDisk>) {
        for _ in 0..2 {
            if let Some(engine) = self.step(bench.open_through(Arc::clone(disk) as _)) {
                self.work(&engine);
                let closed = engine.close();
                self.step(closed);
            }
        }
    }

    /// Compares what is there now with what was acknowledged.
    fn check(&self, engine: &Engine, power_lost: bool) -> Verdict {
        ensure!(engine.report.damage.is_empty(), "damage that nobody did: {:?}", engine.report.damage);
        for ((topic, partition), sent) in &self.sent {
            let Ok(found) = engine.topic(topic).and_then(|topic| topic.partition(*partition)) else {
                ensure!(sent.iter().all(|(_, acked)| !acked), "{topic}/{partition} is gone");
                continue;
            };
            let (values, error) = read(engine, topic, *partition, found.log_start());
            ensure!(error.is_none(), "{topic}/{partition}: {error:?}");
            // A compaction may take away what has a later record of its key.
            let is_superseded = |at: usize, text: &str| {
                let key = |text: &str| text.split_once('=').map(|(key, _)| key.to_owned());
                let later = |(later, _): &(String, bool)| key(later) == key(text) && values.contains(later);
                *topic == "c" && sent[at + 1..].iter().any(later)
            };
            let must_be = |at: usize, text: &str, acked: bool| acked && *topic != "o" && !is_superseded(at, text);
            let mut rest = sent.iter().enumerate();
            for value in &values {
                let at = rest.find(|(at, (text, acked))| text == value || must_be(*at, text, *acked)).map(|(_, at)| at);
                ensure!(
                    at.is_some_and(|(text, _)| text == value),
                    "{topic}/{partition} holds {value:.8} too much or too late"
                );
            }
            let left = rest.find(|(at, (text, acked))| *acked && !is_superseded(*at, text));
            ensure!(left.is_none() || power_lost && *topic == "o", "{topic}/{partition} has lost {left:.40?}");
        }
        Ok(())
    }
}

fn bench() -> (Bench, Arc<FaultDisk>) {
    let bench = Bench::new(77);
    let disk = Arc::new(FaultDisk::new(bench.disk.mount()));
    (bench, disk)
}

/// Runs the scenario with a plan and judges what it leaves. Answers how many calls it has failed.
fn run(plan: Plan) -> Verdict<u64> {
    let (bench, disk) = bench();
    disk.arm(plan);
    let mut run = Run::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| run.all(&bench, &disk)));
    ensure!(outcome.is_ok(), "panic");
    let fired = disk.fired();
    for error in &run.errors {
        let kinds = [
            ErrorKind::Io,
            ErrorKind::StorageFull,
            ErrorKind::Poisoned,
            // What could not be created is not there.
            ErrorKind::NotFound,
        ];
        ensure!(kinds.contains(&error.kind()), "a failed call became {error:?}");
        ensure!(fired > 0, "nothing failed, yet {error:?}");
    }
    ensure!(fired > 0 || run.errors.is_empty(), "nothing failed, yet {:?}", run.errors);
    disk.disarm();
    let heals = plan.fault == Fault::Enospc && plan.repeat == Repeat::Once;
    if heals {
        heal(plan)?;
    }
    for power_lost in [false, true] {
        if power_lost {
            bench.disk.power_loss();
        } else {
            bench.disk.kill();
        }
        let engine = bench.try_open().map_err(|error| format!("it does not open afterwards: {error:?}"))?;
        run.check(&engine, power_lost).map_err(|why| format!("power lost {power_lost}: {why}"))?;
        bench.disk.kill();
    }
    Ok(fired)
}

/// After a disk that was full once, all goes on without reopening, unless it was a sync that failed.
fn heal(plan: Plan) -> Verdict {
    let (bench, disk) = bench();
    let Ok(engine) = bench.open_through(Arc::clone(&disk) as _) else {
        return Err("a new log does not open".to_owned());
    };
    disk.arm(plan);
    let mut run = Run::default();
    run.work(&engine);
    disk.disarm();
    let topics = engine.topics();
    let mut partitions = topics.iter().flat_map(|topic| topic.partitions().to_vec());
    let poisoned = partitions.any(|partition| partition.failure().is_some());
    if poisoned || run.errors.iter().any(|error| error.kind() == ErrorKind::Poisoned) {
        return Ok(());
    }
    for (name, durability) in [("s", Durability::Sync), ("o", Durability::Os)] {
        let partitions = engine.topic(name).map_or(2, |topic| topic.settings().partitions);
        let made = engine.create_topic(name, settings(partitions, durability));
        ensure!(made.is_ok(), "topic {name} cannot be made again: {made:?}");
    }
    for (topic, partition) in [("s", 0), ("s", 1), ("o", 0), ("o", 1)] {
        let answer = put(&engine, topic, partition, "healed");
        ensure!(answer.is_ok(), "{topic}/{partition} does not heal: {answer:?}, after {:?}", run.errors);
    }
    let places = [("s", 0), ("s", 1), ("o", 0)];
    let answer = unit(&engine, &places, "healed");
    ensure!(answer.is_ok(), "units do not heal: {answer:?}, after {:?}", run.errors);
    Ok(())
}

fn fail_every_call(fault: Fault, repeat: Repeat) {
    let classes = Class::ALL;
    let mut findings = Vec::new();
    let (mut at, mut fired) = (0, 0);
    loop {
        let plan = Plan { classes, at, fault, repeat };
        match run(plan) {
            Ok(hit) => fired += hit,
            Err(why) => findings.push(format!("call {at}, {fault:?}, {repeat:?}: {why}")),
        }
        at += 1;
        if at >= calls() || findings.len() >= 8 {
            break;
        }
    }
    eprintln!("kth_call {fault:?} {repeat:?}: {at} calls, {fired} failed");
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// How many calls the scenario makes when nothing fails.
fn calls() -> u64 {
    static CALLS: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *CALLS.get_or_init(|| {
        let (bench, disk) = bench();
        let mut run = Run::default();
        run.all(&bench, &disk);
        assert!(run.errors.is_empty(), "{:?}", run.errors);
        disk.calls()
    })
}

macro_rules! each_call {
    ($($name:ident: $fault:ident, $repeat:ident;)+) => {$(
        #[test]
        fn $name() {
            fail_every_call(Fault::$fault, Repeat::$repeat);
        }
    )+};
}

each_call! {
    an_error_once: Eio, Once;
    errors_from_then_on: Eio, AllClasses;
    errors_of_one_class_from_then_on: Eio, SameClass;
    a_full_disk_once: Enospc, Once;
    a_full_disk_from_then_on: Enospc, AllClasses;
    a_full_disk_for_one_class: Enospc, SameClass;
    a_short_transfer_once: Short, Once;
    short_transfers_from_then_on: Short, AllClasses;
    a_write_of_nothing_once: Zero, Once;
    writes_of_nothing_from_then_on: Zero, AllClasses;
    an_interruption: Interrupted, Once;
}
