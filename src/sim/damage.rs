//! A small log with every file cut at every byte, and with every bit of every file flipped: what is read is the original, or
//! a prefix that the fault model allows, or damage is named. Never other data, never a silent loss of what a later byte
//! proves, never a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::bench::{Bench, compacted, put, rows, settings, unit};
use super::{Verdict, ensure};
use crate::error::ErrorKind;
use crate::log::engine::Engine;
use crate::log::settings::{Compression, Durability};

/// One damaged log in so many is read before it is recovered.
const READER_ONE_IN: u64 = 7;
/// The last of them is compacted.
pub(super) const TOPICS: [(&str, u32); 4] = [("a", 0), ("a", 1), ("b", 0), ("c", 0)];

/// The records of a partition with their offsets.
pub(super) type Rows = Vec<(u64, String)>;

/// The original and what each partition of it holds.
pub(super) struct Original {
    pub(super) bench: Bench,
    pub(super) sent: Vec<Rows>,
}

/// How the process ended that wrote the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Killed with live journal entries and frames above the checkpoint.
    Unclean,
    Closed,
}

/// How it wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Plain,
    Compressed,
}

/// Text of 700 bytes: of one letter, or such that a half of it is left when it is compressed.
fn filler(stored: Stored, seed: usize) -> String {
    match stored {
        Stored::Plain => "w".repeat(700),
        Stored::Compressed => {
            let bytes = (0..175_u32).map(|at| (at + seed as u32 * 1000).wrapping_mul(2_654_435_761) >> 24);
            bytes.map(|byte| format!("{byte:04x}")).collect()
        }
    }
}

pub(super) fn original(left: Left, stored: Stored) -> Original {
    let bench = Bench::new(99);
    let engine = bench.open();
    let (lz4, zstd) = match stored {
        Stored::Plain => (Compression::None, Compression::None),
        Stored::Compressed => (Compression::Lz4, Compression::Zstd { level: 3 }),
    };
    engine.create_topic("a", settings(2, Durability::Sync).compression(lz4)).unwrap();
    engine.create_topic("b", settings(1, Durability::Sync).compression(zstd)).unwrap();
    engine.create_topic("c", compacted(1, Durability::Sync).compression(lz4)).unwrap();
    let text = |seed| match stored {
        Stored::Plain => "w".repeat(450),
        Stored::Compressed => filler(stored, seed),
    };
    for round in 0..3 {
        // Two of these fill a segment, so that sealed ones are there.
        for (at, (topic, partition)) in [("a", 0), ("a", 0), ("b", 0)].into_iter().enumerate() {
            put(&engine, topic, partition, &format!("{round}-{}", filler(stored, round * 3 + at))).unwrap();
        }
        // Of these one segment is left when it is compacted, while the journal still holds frames of those that are gone.
        for number in 0..9 {
            put(&engine, "c", 0, &format!("{}={round}-{number}-{}", number % 3, text(round * 9 + number))).unwrap();
        }
        unit(&engine, &TOPICS, &format!("{round}=unit")).unwrap();
        if round == 1 {
            engine.checkpoint().unwrap();
            engine.do_upkeep(std::time::Duration::MAX);
        }
    }
    assert!(engine.compact_topic("c").unwrap().removed > 10);
    for text in ["short 1", "short 2"] {
        put(&engine, "a", 0, text).unwrap();
        // All but the last commit gets into the partition files.
        engine.do_upkeep(std::time::Duration::MAX);
        unit(&engine, &TOPICS, &format!("{text} unit")).unwrap();
    }
    let sent = TOPICS.iter().map(|(topic, partition)| rows(&engine, topic, *partition, 0).0).collect();
    if left == Left::Closed {
        engine.close().unwrap();
    }
    bench.disk.kill();
    drop(engine);
    Original { bench, sent }
}

/// What opening a damaged log came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// All is there.
    Whole,
    /// Damage is named.
    Named,
    /// The last records of one partition are gone, as after an unfinished write.
    Shortened,
}

/// What can be read of each partition, and what reading ends with.
fn read_all(engine: &Engine) -> Vec<(Rows, Option<ErrorKind>)> {
    let read = |(topic, partition): &(&str, u32)| {
        let (values, error) = rows(engine, topic, *partition, 0);
        (values, error.map(|error| error.kind()))
    };
    TOPICS.iter().map(read).collect()
}

/// Opens a damaged copy and judges what can be read. `file` is the one that was damaged. Whoever opens it read-only before sees
/// the same, and changes nothing.
fn judge(original: &Original, copy: &Bench, file: &str, with_reader: bool) -> Verdict<Answer> {
    let mut seen = None;
    if with_reader {
        let before = super::read_only::all_files(&copy.disk);
        seen = Some(copy.open_read_only().map(|reader| read_all(&reader)).map_err(|error| error.kind()));
        ensure!(super::read_only::all_files(&copy.disk) == before, "reading has changed files");
    }
    let opened = copy.try_open();
    if let Some(seen) = seen {
        let found = opened.as_ref().map(read_all).map_err(crate::Error::kind);
        ensure!(seen == found, "a reader has seen {seen:?}, recovery has left {found:?}");
    }
    let engine = match opened {
        Ok(engine) => engine,
        Err(error) => {
            ensure!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "opening failed with {error:?}");
            let shared = ["MANIFEST", "journal/", "topic.toml"].iter().any(|name| file.contains(name));
            // A segment whose version is raised is one that a newer annals has written.
            let newer = error.kind() == ErrorKind::Invalid;
            ensure!(shared || newer, "damage to one partition closes the log: {error:?}");
            return Ok(Answer::Named);
        }
    };
    let mut answer = Answer::Whole;
    for ((topic, partition), sent) in TOPICS.iter().zip(&original.sent) {
        let (values, error) = rows(&engine, topic, *partition, 0);
        let next = sent.get(values.len()).map_or(u64::MAX, |(offset, _)| *offset);
        ensure!(values.len() <= sent.len() && values[..] == sent[..values.len()], "{topic}/{partition} has other data");
        let named = |error: &crate::Error| {
            error.kind() == ErrorKind::Corrupt
                && error.corruption().is_some_and(|at| {
                    at.topic.as_deref() == Some(topic)
                        && at.partition == Some(*partition)
                        && at.first_offset.is_none_or(|first| first <= next)
                })
        };
        if let Some(error) = &error {
            ensure!(named(error), "{topic}/{partition} ends at {} with {error:?}", values.len());
        }
        let mine = file.contains(&format!("topics/{topic}/{partition}/"));
        if values.len() == sent.len() && error.is_none() {
            continue;
        }
        // The last commit is in the journal only, and no later entry says that it was whole.
        let journal = file.contains("/journal/");
        ensure!(mine || journal, "{topic}/{partition} has lost records though {file} was damaged");
        let reported = error.iter().chain(&engine.report.damage).any(named);
        let lost = sent.len() - values.len();
        if !reported {
            ensure!(lost == 1, "{topic}/{partition} has lost {lost} records silently");
        }
        answer = answer.max(if reported { Answer::Named } else { Answer::Shortened });
    }
    copy.disk.kill();
    Ok(answer)
}

/// Damages a copy in one way after the other. Answers how often which answer came.
fn each(
    original: &Original,
    file: &str,
    cases: impl Iterator<Item = u64>,
    damage: impl Fn(&Bench, u64),
) -> Verdict<[u64; 3]> {
    let mut counts = [0; 3];
    for case in cases {
        let copy = original.bench.fork();
        damage(&copy, case);
        let judged = catch_unwind(AssertUnwindSafe(|| judge(original, &copy, file, case % READER_ONE_IN == 0)));
        let answer =
            judged.unwrap_or_else(|_| Err("panic".to_owned())).map_err(|why| format!("{file}, {case}: {why}"))?;
        counts[answer as usize] += 1;
    }
    Ok(counts)
}

fn run(left: Left, stored: Stored, what: &str, one: impl Fn(&Original, &str, u64) -> Verdict<[u64; 3]>) {
    let original = original(left, stored);
    let (mut total, mut findings) = ([0; 3], Vec::new());
    for file in original.bench.disk.paths() {
        if file.ends_with("/LOCK") {
            continue;
        }
        let len = original.bench.disk.read_file(&file).len() as u64;
        match one(&original, &file, len) {
            Ok(counts) => {
                eprintln!("damage, {left:?}, {stored:?}, {what}, {file} of {len} bytes: {counts:?}");
                (0..3).for_each(|answer| total[answer] += counts[answer]);
            }
            Err(why) => findings.push(why),
        }
    }
    eprintln!("damage, {left:?}, {stored:?}, {what}: {} whole, {} named, {} shortened", total[0], total[1], total[2]);
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// The part of a file that is not just room ahead: beyond it every 61st byte will do.
pub(super) fn positions(bench: &Bench, file: &str) -> Vec<u64> {
    let bytes = bench.disk.read_file(file);
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 200).min(bytes.len());
    (0..used).chain((used..bytes.len()).step_by(61)).map(|at| at as u64).collect()
}

fn cut(left: Left, stored: Stored) {
    run(left, stored, "cut", |original, file, _| {
        let cases = positions(&original.bench, file);
        each(original, file, cases.into_iter(), |copy, at| copy.disk.truncate(file, at))
    });
}

/// One bit of each byte, another one at each position; all bits where headers are.
fn flip(left: Left, stored: Stored) {
    run(left, stored, "flip", |original, file, _| {
        let bits = positions(&original.bench, file).into_iter().flat_map(|at| {
            let all = at < 160;
            (0..8).filter(move |bit| all || *bit == at % 8).map(move |bit| at * 8 + bit)
        });
        each(original, file, bits, |copy, at| copy.disk.flip_bit(file, at / 8, (at % 8) as u8))
    });
}

#[test]
fn every_cut_of_a_log_that_was_killed() {
    cut(Left::Unclean, Stored::Plain);
}

#[test]
fn every_cut_of_a_log_that_was_closed() {
    cut(Left::Closed, Stored::Plain);
}

#[test]
fn every_flip_in_a_log_that_was_killed() {
    flip(Left::Unclean, Stored::Plain);
}

#[test]
fn every_flip_in_a_log_that_was_closed() {
    flip(Left::Closed, Stored::Plain);
}

#[test]
fn every_cut_of_a_compressed_log_that_was_killed() {
    cut(Left::Unclean, Stored::Compressed);
}

#[test]
fn every_cut_of_a_compressed_log_that_was_closed() {
    cut(Left::Closed, Stored::Compressed);
}

#[test]
fn every_flip_in_a_compressed_log_that_was_killed() {
    flip(Left::Unclean, Stored::Compressed);
}

#[test]
fn every_flip_in_a_compressed_log_that_was_closed() {
    flip(Left::Closed, Stored::Compressed);
}
