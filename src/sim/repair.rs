//! The logs of [`super::damage`], cut and flipped in the same ways, checked and repaired: the check says what an opening says
//! and changes nothing; a repair keeps every record that is whole, says which offsets are lost, and leaves a log that opens,
//! reads and checks without damage; a power loss in the middle of it costs nothing.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::bench::{Bench, TOPIC, compacted, put, rows};
use super::damage::{Left, Original, Rows, Stored, TOPICS, original, positions};
use super::world::ROOT;
use super::{Verdict, ensure};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::RecordIter;
use crate::inspect::{RepairOptions, RepairReport, VerifyReport, repair_in, verify_in};
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::partition::cursor::PartitionCursor;
use crate::storage::sim::SimFault;

fn verify(bench: &Bench) -> Result<VerifyReport> {
    verify_in(&bench.env(bench.disk.mount()), Path::new(ROOT), |_| ())
}

fn repair(bench: &Bench, apply: bool) -> Result<RepairReport> {
    repair_in(&bench.env(bench.disk.mount()), Path::new(ROOT), RepairOptions::default().apply(apply))
}

/// The records of a partition with their offsets, which may leave some out.
fn records(engine: &Engine, topic: &str, partition: u32) -> Verdict<Vec<(u64, String)>> {
    let partition = engine.topic(topic).and_then(|topic| topic.partition(partition)).map_err(|e| e.to_string())?;
    let mut cursor = PartitionCursor::new(Arc::clone(&partition), partition.log_start());
    let mut found = Vec::new();
    while let Some(frame) = cursor.next_frame(u64::MAX).map_err(|error| format!("reading: {error}"))? {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = records.next_record().map_err(|error| error.to_string())? {
            let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).map_err(|e| e.to_string())?;
            found.push((record.offset, value));
        }
    }
    Ok(found)
}

/// What an opening and a reading of everything says: whether a partition, or the log, is damaged, and whether all is there.
fn opened(original: &Original, copy: &Bench) -> (bool, bool) {
    let Ok(engine) = copy.try_open() else { return (true, false) };
    let all: Vec<_> = TOPICS.iter().map(|(topic, partition)| rows(&engine, topic, *partition, 0)).collect();
    let named = !engine.report.damage.is_empty() || all.iter().any(|(_, error)| error.is_some());
    let whole = all.iter().zip(&original.sent).all(|((values, _), sent)| values == sent);
    copy.disk.kill();
    (named, whole)
}

/// How often which answer came.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    intact: u64,
    repaired: u64,
    lost: u64,
    refused: u64,
    /// Damaged, though every record can be read: a footer, say, or a header that nothing needs.
    harmless: u64,
}

fn judge(original: &Original, copy: &Bench, left: Left, counts: &mut Counts) -> Verdict {
    let before = copy.disk.fingerprint();
    let checked = verify(copy);
    ensure!(copy.disk.fingerprint() == before, "a check has changed something");
    copy.disk.kill();
    let (named, whole) = opened(original, &copy.fork());
    let damaged = match &checked {
        Ok(report) => !report.is_intact(),
        Err(error) => {
            ensure!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "the check failed with {error:?}");
            true
        }
    };
    ensure!(damaged || !named, "an opening names damage that the check does not: {checked:?}");
    ensure!(named || whole || !damaged, "the check names damage that an opening cuts off: {checked:?}");
    counts.harmless += u64::from(damaged && !named);

    let dry = repair(copy, false);
    copy.disk.kill();
    let applied = match (repair(copy, true), &dry) {
        (Ok(applied), Ok(_)) => applied,
        (Err(error), _) => {
            // What refuses the log refuses its repair.
            ensure!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid),
                "the repair failed with {error:?}"
            );
            ensure!(copy.try_open().is_err(), "the log opens, and its repair failed with {error:?}");
            counts.refused += 1;
            return Ok(());
        }
        (Ok(_), Err(error)) => return Err(format!("a dry run fails where the repair does not: {error:?}")),
    };
    let dry = dry.map_err(|error| error.to_string())?;
    copy.disk.kill();
    let lost = lost(&applied);
    ensure!(lost == self::lost(&dry), "{:?} were to be lost, and {lost:?} are", self::lost(&dry));
    ensure!(damaged || applied.partitions.is_empty(), "nothing was damaged, and something repaired: {applied:?}");
    let told = [applied.partitions.len(), applied.left.len(), applied.by_opening.len()];
    ensure!(!damaged || told != [0; 3], "nothing is said of the damage");
    if applied.partitions.is_empty() {
        counts.intact += u64::from(!damaged);
        counts.refused += u64::from(!applied.left.is_empty());
        return Ok(());
    }
    counts.repaired += 1;
    counts.lost += lost.iter().map(|(_, _, lost)| lost.end - lost.start).sum::<u64>();
    mended(original, copy, left, &lost, &applied)
}

fn lost(report: &RepairReport) -> Vec<(String, u32, Range<u64>)> {
    let of = |partition: &crate::inspect::PartitionRepair| {
        let (topic, number) = (partition.topic.clone(), partition.partition);
        partition.lost.iter().cloned().map(move |lost| (topic.clone(), number, lost)).collect::<Vec<_>>()
    };
    report.partitions.iter().flat_map(of).collect()
}

/// Whether everything is there but for what is lost, and the log is whole again and takes records.
fn mended(
    original: &Original,
    copy: &Bench,
    left: Left,
    lost: &[(String, u32, Range<u64>)],
    applied: &RepairReport,
) -> Verdict {
    let report = verify(copy).map_err(|error| format!("the check after the repair: {error}"))?;
    ensure!(report.damage.len() == applied.left.len(), "damage is left: {:?}", report.damage);
    let engine = copy.try_open().map_err(|error| format!("the repaired log does not open: {error}"))?;
    ensure!(applied.left.len() >= engine.report.damage.len(), "opened with {:?}", engine.report.damage);
    for ((topic, partition), sent) in TOPICS.iter().zip(&original.sent) {
        let is_lost =
            |offset: u64| lost.iter().any(|(t, p, range)| t == topic && p == partition && range.contains(&offset));
        let mut found = records(&engine, topic, *partition)?;
        let mut expected: Vec<_> = sent.iter().filter(|(offset, _)| !is_lost(*offset)).cloned().collect();
        // The newest frame that nothing proves may have been cut off as unfinished.
        if left == Left::Unclean && found.len() + 1 == expected.len() {
            expected.pop();
        }
        ensure!(found == expected, "{topic}/{partition} holds {found:.20?} and should hold {expected:.20?}");
        put(&engine, topic, *partition, "after").map_err(|error| format!("{topic}/{partition}: {error}"))?;
        let end = found.last().map_or(0, |(offset, _)| offset + 1);
        found = records(&engine, topic, *partition)?;
        let (offset, value) = found.pop().ok_or("nothing was written")?;
        ensure!(value == "after" && offset >= end && !is_lost(offset), "written to offset {offset}");
    }
    engine.close().map_err(|error| error.to_string())?;
    drop(engine);
    copy.disk.power_loss();
    let again = copy.try_open().map_err(|error| format!("it does not open again: {error}"))?;
    ensure!(again.report.clean, "the close was not clean");
    copy.disk.kill();
    Ok(())
}

fn each(
    left: Left,
    stored: Stored,
    what: &str,
    cases: impl Fn(&[u64]) -> Vec<u64>,
    damage: impl Fn(&Bench, &str, u64),
) -> Counts {
    let original = original(left, stored);
    let mut counts = Counts::default();
    let mut findings: Vec<String> = Vec::new();
    for file in original.bench.disk.paths() {
        if file.ends_with("/LOCK") {
            continue;
        }
        for case in cases(&positions(&original.bench, &file)) {
            let copy = original.bench.fork();
            damage(&copy, &file, case);
            let judged = catch_unwind(AssertUnwindSafe(|| judge(&original, &copy, left, &mut counts)));
            if let Err(why) = judged.unwrap_or_else(|_| Err("panic".to_owned())) {
                findings.push(format!("{file}, {case}: {why}"));
            }
        }
    }
    eprintln!("repair, {left:?}, {what}: {counts:?}");
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings[..findings.len().min(20)].join("\n"));
    counts
}

/// A bit of every so many bytes, with all of the first ones.
fn flips(positions: &[u64]) -> Vec<u64> {
    let chosen = positions.iter().filter(|at| **at < 160 || **at % 5 == 0);
    chosen.map(|at| at * 8 + at % 8).collect()
}

fn cuts(positions: &[u64]) -> Vec<u64> {
    positions.iter().copied().filter(|at| *at < 160 || at % 7 == 0).collect()
}

fn flip(left: Left, stored: Stored) {
    let flip = |copy: &Bench, file: &str, bit: u64| copy.disk.flip_bit(file, bit / 8, (bit % 8) as u8);
    let counts = each(left, stored, "flip", flips, flip);
    assert!(counts.repaired > 500 && counts.lost > 500, "{counts:?}");
}

fn cut(left: Left, stored: Stored) {
    let counts = each(left, stored, "cut", cuts, |copy, file, at| copy.disk.truncate(file, at));
    assert!(counts.repaired > 300, "{counts:?}");
}

#[test]
fn every_flip_in_a_log_that_was_killed_is_found_and_repaired() {
    flip(Left::Unclean, Stored::Plain);
}

#[test]
fn every_flip_in_a_log_that_was_closed_is_found_and_repaired() {
    flip(Left::Closed, Stored::Compressed);
}

#[test]
fn every_cut_of_a_log_that_was_killed_is_found_and_repaired() {
    cut(Left::Unclean, Stored::Compressed);
}

#[test]
fn every_cut_of_a_log_that_was_closed_is_found_and_repaired() {
    cut(Left::Closed, Stored::Plain);
}

/// The segments of a partition are damaged in their headers and in several frames each, and the last one is cut.
fn badly_damaged(original: &Original) -> Bench {
    let copy = original.bench.fork();
    let dir = format!("{ROOT}/topics/a/0/");
    let segments: Vec<_> =
        copy.disk.paths().into_iter().filter(|path| path.starts_with(&dir) && path.ends_with(".log")).collect();
    assert!(segments.len() > 1, "{segments:?}");
    for (index, segment) in segments.iter().enumerate() {
        let len = copy.disk.read_file(segment).len() as u64;
        copy.disk.flip_bit(segment, 60, 1);
        (200..len).step_by(1500).for_each(|at| copy.disk.flip_bit(segment, at, 3));
        if index + 1 == segments.len() {
            copy.disk.truncate(segment, len / 2);
        }
    }
    copy
}

#[test]
fn a_power_loss_in_a_repair_costs_nothing() {
    let original = original(Left::Closed, Stored::Plain);
    let count = {
        let copy = badly_damaged(&original);
        let before = copy.disk.calls();
        let report = repair(&copy, true).unwrap();
        assert!(report.partitions.len() == 1 && !lost(&report).is_empty(), "{report:?}");
        copy.disk.calls() - before
    };
    assert!(count > 30, "{count} calls");
    let lost_without = lost(&repair(&badly_damaged(&original), true).unwrap());
    for call in 0..count {
        for seed in 0..4 {
            let copy = badly_damaged(&original).fork_with(seed);
            copy.disk.crash_at(copy.disk.calls() + call);
            let cut_off: Result<_, Error> = repair(&copy, true);
            assert!(cut_off.is_err(), "the power went at call {call}");
            copy.disk.power_loss();
            let report = repair(&copy, true).unwrap();
            copy.disk.kill();
            let judged = mended(&original, &copy, Left::Closed, &lost_without, &report);
            judged.unwrap_or_else(|why| panic!("call {call}, seed {seed}: {why}"));
        }
    }
    eprintln!("repair, power lost at each of {count} calls");
}

/// Each call fails once: the repair says so or is done, and can be run again.
#[test]
fn a_repair_that_fails_can_be_run_again() {
    let original = original(Left::Closed, Stored::Plain);
    let count = {
        let copy = badly_damaged(&original);
        let before = copy.disk.calls();
        repair(&copy, true).unwrap();
        copy.disk.calls() - before
    };
    let expected = lost(&repair(&badly_damaged(&original), true).unwrap());
    let mut failed = 0;
    for call in 0..count {
        for fault in [SimFault::Eio, SimFault::Enospc, SimFault::ShortWrite, SimFault::FsyncDrop] {
            let copy = badly_damaged(&original);
            copy.disk.fail_at(copy.disk.calls() + call, fault);
            failed += u64::from(repair(&copy, true).is_err());
            copy.disk.clear_faults();
            copy.disk.kill();
            let report = repair(&copy, true).unwrap();
            copy.disk.kill();
            let judged = mended(&original, &copy, Left::Closed, &expected, &report);
            judged.unwrap_or_else(|why| panic!("call {call}, {fault:?}: {why}"));
        }
    }
    assert!(failed > count, "{failed} of {count} calls failed");
}

/// Evidence is kept: the bytes as they were.
#[test]
fn the_damaged_files_are_kept() {
    let original = original(Left::Closed, Stored::Plain);
    let copy = badly_damaged(&original);
    let before: Vec<_> = copy.disk.paths().into_iter().map(|path| (copy.disk.read_file(&path), path)).collect();
    let report = repair(&copy, true).unwrap();
    let evidence = &report.partitions[0].evidence;
    assert!(evidence.len() > 1, "{report:?}");
    for path in evidence {
        let name = path.to_str().unwrap().strip_suffix(".damaged").unwrap();
        let (bytes, _) = before.iter().find(|(_, path)| path == name).unwrap();
        assert_eq!(&copy.disk.read_file(path), bytes, "{name}");
    }
    // Again: nothing is left to do, and nothing is done.
    copy.disk.kill();
    let report = repair(&copy, true).unwrap();
    assert!(report.partitions.is_empty() && report.left.is_empty(), "{report:?}");
}

/// A killed log with a compacted segment, of which the journal still holds commits at places of the file that it was made of.
/// Answers with what was sent, and what is left of that.
fn with_commits_to_a_file_that_is_gone() -> (Bench, Rows, Rows) {
    let bench = Bench::new(5);
    let engine = bench.open();
    engine.create_topic(TOPIC, compacted(2, Durability::Sync)).unwrap();
    for number in 0..14 {
        let text = format!("{}={number}-{}", number % 3, "w".repeat(300));
        let written =
            if number % 3 == 1 { bench.unit(&engine, &[0, 1], &text) } else { bench.put(&engine, 0, &text).map(drop) };
        written.unwrap();
    }
    let sent = rows(&engine, TOPIC, 0, 0).0;
    assert!(engine.compact_topic(TOPIC).unwrap().removed > 3);
    let all = rows(&engine, TOPIC, 0, 0).0;
    bench.disk.kill();
    drop(engine);
    (bench, sent, all)
}

/// The journal still holds commits at places of the file that the compacted one was made of: they are no part of it.
#[test]
fn a_compacted_segment_has_nothing_of_what_it_was_made_of() {
    let (bench, sent, all) = with_commits_to_a_file_that_is_gone();
    let file = bench.segments(0).remove(0);
    let mut repaired = 0;
    let len = bench.disk.read_file(&file).len() as u64;
    for at in 0..2 * len {
        let copy = bench.fork();
        match at.checked_sub(len) {
            Some(at) => copy.disk.truncate(&file, at),
            None => copy.disk.flip_bit(&file, at, (at % 8) as u8),
        }
        let report = match repair(&copy, true) {
            Ok(report) => report,
            // A version that is raised is that of a newer annals.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{at}: {error:?}");
                continue;
            }
        };
        copy.disk.kill();
        repaired += report.partitions.len();
        let lost = lost(&report);
        let is_lost = |offset: u64| lost.iter().any(|(_, partition, lost)| *partition == 0 && lost.contains(&offset));
        let engine = copy.open();
        let (found, error) = rows(&engine, TOPIC, 0, 0);
        let whole = all.iter().filter(|(offset, _)| !is_lost(*offset)).all(|row| found.contains(row));
        // Where nothing is left of the compacted file, the journal's commits are better than nothing.
        let known = found.iter().all(|row| sent.contains(row));
        assert!(error.is_none() && whole && known, "{at} of {len}: {found:.8?}, {error:?}, {report:?}");
        copy.disk.kill();
    }
    assert!(repaired > 500, "{repaired} repairs");
}

/// Only the header of the compacted file is damaged: whose file it is its frames tell, and an opening leaves them alone.
#[test]
fn a_compacted_segment_with_a_damaged_header_keeps_its_frames() {
    let (bench, _, all) = with_commits_to_a_file_that_is_gone();
    let file = bench.segments(0).remove(0);
    let before = bench.disk.read_file(&file);
    let (at, bit) = (20, 3);
    bench.disk.flip_bit(&file, at, bit);
    let engine = bench.open();
    assert!(!engine.report.damage.is_empty());
    bench.disk.kill();
    drop(engine);
    bench.disk.flip_bit(&file, at, bit);
    assert_eq!(bench.disk.read_file(&file), before);
    assert_eq!(rows(&bench.open(), TOPIC, 0, 0).0, all);
}
