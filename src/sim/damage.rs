//! A small log with every file cut at every byte, and with every bit of every file flipped: what is read is the original, or
//! a prefix that the fault model allows, or damage is named. Never other data, never a silent loss of what a later byte
//! proves, never a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::bench::{Bench, put, read, settings, unit};
use super::{Verdict, ensure};
use crate::error::ErrorKind;
use crate::log::settings::Durability;

const TOPICS: [(&str, u32); 3] = [("a", 0), ("a", 1), ("b", 0)];

/// The original and what each partition of it holds.
struct Original {
    bench: Bench,
    sent: Vec<Vec<String>>,
}

/// How the process ended that wrote the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Killed with live journal entries and frames above the checkpoint.
    Unclean,
    Closed,
}

fn original(left: Left) -> Original {
    let bench = Bench::new(99);
    let engine = bench.open();
    engine.create_topic("a", settings(2, Durability::Sync)).unwrap();
    engine.create_topic("b", settings(1, Durability::Sync)).unwrap();
    for round in 0..3 {
        // Two of these fill a segment, so that sealed ones are there.
        for (topic, partition) in [("a", 0), ("a", 0), ("b", 0)] {
            put(&engine, topic, partition, &format!("{round}-{}", "w".repeat(700))).unwrap();
        }
        unit(&engine, &TOPICS, &format!("{round}-unit")).unwrap();
        if round == 1 {
            engine.checkpoint().unwrap();
            engine.do_upkeep(std::time::Duration::MAX);
        }
    }
    for text in ["short 1", "short 2"] {
        put(&engine, "a", 0, text).unwrap();
        unit(&engine, &TOPICS, &format!("{text} unit")).unwrap();
    }
    let sent = TOPICS.iter().map(|(topic, partition)| read(&engine, topic, *partition, 0).0).collect();
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

/// Opens a damaged copy and judges what can be read. `file` is the one that was damaged.
fn judge(original: &Original, copy: &Bench, file: &str) -> Verdict<Answer> {
    let engine = match copy.try_open() {
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
        let (values, error) = read(&engine, topic, *partition, 0);
        ensure!(values.len() <= sent.len() && values[..] == sent[..values.len()], "{topic}/{partition} has other data");
        let named = |error: &crate::Error| {
            error.kind() == ErrorKind::Corrupt
                && error.corruption().is_some_and(|at| {
                    at.topic.as_deref() == Some(topic)
                        && at.partition == Some(*partition)
                        && at.first_offset.is_none_or(|first| first <= values.len() as u64)
                })
        };
        if let Some(error) = &error {
            ensure!(named(error), "{topic}/{partition} ends at {} with {error:?}", values.len());
        }
        let mine = file.contains(&format!("topics/{topic}/{partition}/"));
        if values.len() == sent.len() && error.is_none() {
            continue;
        }
        ensure!(mine, "{topic}/{partition} has lost records though {file} was damaged");
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
        let judged = catch_unwind(AssertUnwindSafe(|| judge(original, &copy, file)));
        let answer =
            judged.unwrap_or_else(|_| Err("panic".to_owned())).map_err(|why| format!("{file}, {case}: {why}"))?;
        counts[answer as usize] += 1;
    }
    Ok(counts)
}

fn run(left: Left, what: &str, one: impl Fn(&Original, &str, u64) -> Verdict<[u64; 3]>) {
    let original = original(left);
    let (mut total, mut findings) = ([0; 3], Vec::new());
    for file in original.bench.disk.paths() {
        if file.ends_with("/LOCK") {
            continue;
        }
        let len = original.bench.disk.read_file(&file).len() as u64;
        match one(&original, &file, len) {
            Ok(counts) => {
                eprintln!("damage, {left:?}, {what}, {file} of {len} bytes: {counts:?}");
                (0..3).for_each(|answer| total[answer] += counts[answer]);
            }
            Err(why) => findings.push(why),
        }
    }
    eprintln!("damage, {left:?}, {what}: {} whole, {} named, {} shortened", total[0], total[1], total[2]);
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// The part of a file that is not just room ahead: beyond it every 61st byte will do.
fn positions(bench: &Bench, file: &str) -> Vec<u64> {
    let bytes = bench.disk.read_file(file);
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 200).min(bytes.len());
    (0..used).chain((used..bytes.len()).step_by(61)).map(|at| at as u64).collect()
}

fn cut(left: Left) {
    run(left, "cut", |original, file, _| {
        let cases = positions(&original.bench, file);
        each(original, file, cases.into_iter(), |copy, at| copy.disk.truncate(file, at))
    });
}

/// One bit of each byte, another one at each position; all bits where headers are.
fn flip(left: Left) {
    run(left, "flip", |original, file, _| {
        let bits = positions(&original.bench, file).into_iter().flat_map(|at| {
            let all = at < 160;
            (0..8).filter(move |bit| all || *bit == at % 8).map(move |bit| at * 8 + bit)
        });
        each(original, file, bits, |copy, at| copy.disk.flip_bit(file, at / 8, (at % 8) as u8))
    });
}

#[test]
fn every_cut_of_a_log_that_was_killed() {
    cut(Left::Unclean);
}

#[test]
fn every_cut_of_a_log_that_was_closed() {
    cut(Left::Closed);
}

#[test]
fn every_flip_in_a_log_that_was_killed() {
    flip(Left::Unclean);
}

#[test]
fn every_flip_in_a_log_that_was_closed() {
    flip(Left::Closed);
}
