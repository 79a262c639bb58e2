//! A compaction that is cut off at each of its calls, by the end of the process or by a loss of power, the recovery after it
//! as well; and one of which each call fails, before a clean close. What is left is the last record of each key, and of the
//! others no less than there may be.

use super::bench::{Bench, TOPIC, compacted, rows};
use super::world::ROOT;
use super::{Verdict, ensure};
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::storage::sim::SimFault;

type Rows = Vec<(u64, String)>;

/// How a compaction is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Killed,
    PowerLoss,
    /// One call fails, and all goes on.
    Failed,
}

/// A log with a compacted partition of several segments, some frames of which the journal holds, too.
fn prepared(seed: u64, durability: Durability) -> (Bench, Engine, Rows) {
    let bench = Bench::new(seed);
    let engine = bench.open();
    engine.create_topic(TOPIC, compacted(2, durability)).unwrap();
    for number in 0..28 {
        let text = format!("{}={number}-{}", number % 4, "w".repeat(500));
        let written =
            if number % 5 == 3 { bench.unit(&engine, &[0, 1], &text) } else { bench.put(&engine, 0, &text).map(drop) };
        written.unwrap();
        if number == 11 {
            engine.compact_topic(TOPIC).unwrap();
        }
    }
    engine.do_upkeep(std::time::Duration::MAX);
    engine.sync().unwrap();
    let before = rows(&engine, TOPIC, 0, 0).0;
    (bench, engine, before)
}

fn active_base(engine: &Engine) -> u64 {
    let partition = engine.topic(TOPIC).and_then(|topic| topic.partition(0)).expect("it exists");
    partition.segments().last().map_or(0, |active| active.base_offset)
}

fn key(text: &str) -> &str {
    text.split_once('=').map_or("", |(key, _)| key)
}

/// What is there now is what was there before, but for what a later record below `limit` stands for.
fn check(engine: &Engine, before: &Rows, limit: u64) -> Verdict<Rows> {
    ensure!(engine.report.damage.is_empty(), "{:?}", engine.report.damage);
    let start = engine.topic(TOPIC).and_then(|topic| topic.partition(0)).expect("it exists").log_start();
    let before: Rows = before.iter().filter(|row| row.0 >= start).cloned().collect();
    let (found, error) = rows(engine, TOPIC, 0, start);
    ensure!(error.is_none(), "{error:?}");
    for row in &found {
        ensure!(before.contains(row), "{:.20} at {} was never there", row.1, row.0);
    }
    // From wherever one begins.
    for from in start..before.last().map_or(0, |last| last.0) {
        let after: Rows = found.iter().filter(|row| row.0 >= from).cloned().collect();
        ensure!(rows(engine, TOPIC, 0, from).0 == after, "from offset {from} on other records are read");
    }
    for (offset, text) in before.iter().filter(|row| !found.contains(row)) {
        let later = |(other, later): &(u64, String)| other > offset && *other < limit && key(later) == key(text);
        ensure!(before.iter().any(later), "{text:.20} at {offset} is gone");
    }
    Ok(found)
}

fn topic_files(bench: &Bench) -> Vec<(String, Vec<u8>)> {
    let paths = bench.disk.paths().into_iter().filter(|path| path.starts_with(&format!("{ROOT}/topics/")));
    paths.map(|path| (path.clone(), bench.disk.read_file(&path))).collect()
}

/// Cuts one compaction off. Answers whether there was such a call.
fn one(seed: u64, durability: Durability, cut: Cut, call: u64) -> Verdict<bool> {
    let (bench, engine, before) = prepared(seed, durability);
    let limit = active_base(&engine);
    let first = bench.disk.calls();
    match cut {
        Cut::Failed => bench.disk.fail_at(first + call, SimFault::Eio),
        Cut::Killed | Cut::PowerLoss => bench.disk.crash_at(first + call),
    }
    let done = engine.compact_topic(TOPIC);
    let hit = bench.disk.calls() > first + call;
    if cut == Cut::Failed {
        bench.disk.clear_faults();
        check(&engine, &before, limit)?;
        if seed % 2 == 1 {
            // In the middle of what may be one file by now, and several by name.
            drop(engine.delete_records(TOPIC, 0, limit * 2 / 3));
        }
        // A checkpoint that fails poisons nothing; the sync of records may.
        drop(engine.close());
        bench.disk.kill();
    }
    drop(engine);
    match cut {
        Cut::PowerLoss => bench.disk.power_loss(),
        Cut::Killed | Cut::Failed => bench.disk.kill(),
    }
    let reader = bench.open_read_only().map_err(|error| format!("{error:?}"))?;
    let seen = check(&reader, &before, limit).map_err(|why| format!("read-only: {why}"))?;
    drop(reader);
    if cut == Cut::Failed {
        // Clean, so that nobody has made the names durable but whoever builds upon them.
        drop(bench.try_open().map_err(|error| format!("{error:?}"))?);
        bench.disk.power_loss();
    } else {
        bench.disk.crash_at(bench.disk.calls() + call % 17);
        if let Ok(engine) = bench.try_open() {
            let left = check(&engine, &before, limit)?;
            ensure!(left == seen, "read-only {seen:?} was seen, {left:?} is left");
        }
        bench.disk.power_loss();
    }
    bench.disk.crash_at(u64::MAX);
    let engine = bench.try_open().map_err(|error| format!("{error:?}"))?;
    check(&engine, &before, limit)?;
    bench.disk.kill();
    drop(engine);
    let files = topic_files(&bench);
    let engine = bench.open();
    ensure!(topic_files(&bench) == files, "recovering again changed the files");
    let again = engine.compact_topic(TOPIC).map_err(|error| format!("{error:?}"))?;
    ensure!(again.complete, "{again:?} after {done:?}");
    for (offset, text) in check(&engine, &before, limit)? {
        let later = |(other, later): &(u64, String)| *other > offset && *other < limit && key(later) == key(&text);
        ensure!(!before.iter().any(later), "{text:.20} at {offset} was not taken away");
    }
    bench.disk.kill();
    Ok(hit)
}

fn each_call(seeds: std::ops::Range<u64>, cut: Cut) -> Verdict {
    for seed in seeds {
        let durability = if seed % 3 == 2 { Durability::Os } else { Durability::Sync };
        let mut call = 0;
        while one(seed, durability, cut, call).map_err(|why| format!("seed {seed}, {cut:?} at {call}: {why}"))? {
            call += 1;
        }
        ensure!(call > 20, "a compaction makes more than {call} calls");
    }
    Ok(())
}

/// For the planted defects: a few of the cases below.
pub(super) fn some_cuts() -> Verdict {
    each_call(0..2, Cut::PowerLoss)?;
    each_call(0..10, Cut::Failed)
}

#[test]
fn a_compaction_that_is_killed_at_any_call() {
    each_call(0..6, Cut::Killed).unwrap();
}

#[test]
fn a_compaction_that_loses_power_at_any_call() {
    each_call(0..12, Cut::PowerLoss).unwrap();
}

#[test]
fn a_compaction_of_which_any_call_fails_before_a_clean_close() {
    each_call(0..12, Cut::Failed).unwrap();
}

/// Damages one file of a log with a compacted segment in one way after the other: what is read is what was there, up to where
/// the damage is named.
fn each_damage(cases: impl Fn(&[u8]) -> Vec<u64>, damage: impl Fn(&Bench, &str, u64)) {
    let (bench, engine, _) = prepared(5, Durability::Sync);
    assert!(engine.compact_topic(TOPIC).unwrap().removed > 10);
    let expected = rows(&engine, TOPIC, 0, 0).0;
    let others = rows(&engine, TOPIC, 1, 0).0;
    bench.disk.kill();
    drop(engine);
    let (mut whole, mut named) = (0, 0);
    for file in bench.segments(0) {
        for case in cases(&bench.disk.read_file(&file)) {
            let copy = bench.fork();
            damage(&copy, &file, case);
            let engine = match copy.try_open() {
                Ok(engine) => engine,
                // A version that is raised is that of a newer annals, whose files are left alone.
                Err(error) => {
                    assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{file}, {case}: {error:?}");
                    named += 1;
                    continue;
                }
            };
            assert_eq!(rows(&engine, TOPIC, 1, 0).0, others, "{file}, {case}");
            let (found, error) = rows(&engine, TOPIC, 0, 0);
            assert_eq!(found[..], expected[..found.len()], "{file}, {case}");
            let next = expected.get(found.len()).map_or(u64::MAX, |(offset, _)| *offset);
            let is_named = |error: &crate::Error| {
                error.corruption().is_some_and(|at| at.partition == Some(0) && at.first_offset <= Some(next))
            };
            let is_last = found.len() + 1 == expected.len() && file == *bench.segments(0).last().unwrap();
            match error.iter().chain(&engine.report.damage).any(is_named) {
                true => named += 1,
                // The very last frame looks like one that was never finished.
                false => {
                    assert!(
                        found.len() == expected.len() || is_last,
                        "{file}, {case}: {} are left silently",
                        found.len()
                    );
                    whole += 1;
                }
            }
            copy.disk.kill();
        }
    }
    eprintln!("compacted segments damaged: {whole} read whole, {named} with the damage named");
    assert!(named > 1000);
}

#[test]
fn every_cut_of_a_compacted_segment() {
    each_damage(|bytes| (0..bytes.len() as u64).collect(), |copy, file, at| copy.disk.truncate(file, at));
}

#[test]
fn every_flip_in_a_compacted_segment() {
    each_damage(
        |bytes| (0..bytes.len() as u64).map(|at| at * 8 + at % 8).collect(),
        |copy, file, bit| copy.disk.flip_bit(file, bit / 8, (bit % 8) as u8),
    );
}
