//! Consumers that crash: at every call to the disk, with the power or without, a group goes on where it has to, and a stage that
//! consumes, processes and produces in transactions has written its output once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::{Verdict, ensure};
use crate::TopicDef;
use crate::codec::Raw;
use crate::consumer::{Consumer, Item};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Log;
use crate::log::open::open;
use crate::log::settings::{Durability, LogSettings, TopicSettings};
use crate::record::{Message, Record};
use crate::replay::Start;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::fault::{Class, Fault, FaultDisk, Plan, Repeat};
use crate::storage::sim::{SimDisk, SimFault, SimOptions};
use crate::storage::{Env, Storage};
use crate::topic::Topic;

const KEYS: u64 = 5;
const INPUTS: u64 = 12;

fn open_on(disk: &SimDisk, life: u64) -> Result<Log> {
    open_storage(disk.mount(), life)
}

fn open_storage(storage: Arc<dyn Storage>, life: u64) -> Result<Log> {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let env = Env::new(storage, clock, Arc::new(SeededRandom::new(life)), 64);
    let settings = LogSettings {
        commit_bytes_max: 128 << 10,
        journal_bytes: 256 << 10,
        tail_bytes_max: if life.is_multiple_of(2) { 0 } else { 1 << 20 },
        ..LogSettings::default()
    };
    Log::start(open(env, PathBuf::from("/log"), settings, true)?, None)
}

fn topic(log: &Log, name: &str, partitions: u32, durability: Durability) -> Result<Topic> {
    let settings = TopicSettings::default().partitions(partitions).durability(durability);
    let settings = settings.segment_bytes_max(64 << 10).record_bytes_max(8 << 10).dedup_count_max(if name == "in" {
        1000
    } else {
        0
    });
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings)
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.value().map_or(&[][..], |value| &value[..])).into_owned()
}

/// The next message that needs no waiting; items that are none are handed to `told`.
fn next(consumer: &mut Consumer, told: &mut Vec<Error>) -> Result<Option<Message>> {
    loop {
        match consumer.try_recv() {
            Err(error) if error.gap().is_some() || error.rewound().is_some() => told.push(error),
            other => return other,
        }
    }
}

/// What a life of the process does: produces what is missing, and works off the rest in three ways.
fn live(disk: &SimDisk, life: u64, durability: Durability, seen: &mut Seen) -> Result<()> {
    let log = open_on(disk, life)?;
    let (input, output) = (topic(&log, "in", 2, durability)?, topic(&log, "out", 3, Durability::Sync)?);
    for number in 0..INPUTS {
        let record = Record::new(Bytes::from(number.to_string())).key((number % KEYS).to_string());
        input.blocking_produce(record.id(format!("id {number}")))?;
    }
    let mut told = Vec::new();
    let mut stage = input.subscribe("stage").blocking_build()?;
    while let Some(message) = next(&mut stage, &mut told)? {
        let mut tx = log.transaction();
        let key = message.key().cloned().unwrap_or_default();
        tx.produce(&output, Record::new(Bytes::from(format!("{}!", text(&message)))).key(key))?;
        tx.commit_offset(&stage, &message)?;
        if text(&message) == "7" {
            // Given up: it leaves no trace, and the message is still to be done.
            drop(tx);
            let mut tx = log.transaction();
            let key = message.key().cloned().unwrap_or_default();
            tx.produce(&output, Record::new(Bytes::from_static(b"7!")).key(key))?;
            tx.finish(&stage, &message)?;
            tx.blocking_commit()?;
        } else {
            tx.blocking_commit()?;
        }
    }
    let mut plain = input.subscribe("plain").blocking_build()?;
    let mut first = BTreeSet::new();
    while let Some(message) = next(&mut plain, &mut told)? {
        seen.deliver(&message, first.insert(message.partition()))?;
        plain.blocking_commit(&message)?;
        seen.committed.insert(message.partition(), message.offset() + 1);
    }
    let mut batch = Vec::new();
    let mut loose = input.subscribe("loose").blocking_build()?;
    while let Some(message) = next(&mut loose, &mut told)? {
        batch.push(message);
    }
    // From the last to the first, and not all of them at once.
    for messages in batch.rchunks(4) {
        for message in messages {
            if seen.finished.contains(&(message.partition(), message.offset())) && durability == Durability::Sync {
                return Err(Error::invalid(format!("{} was finished and is delivered again", text(message))));
            }
            seen.worked.insert((message.partition(), message.offset()));
            loose.finish(message)?;
        }
        loose.blocking_commit_finished()?;
        seen.finished.extend(messages.iter().map(|message| (message.partition(), message.offset())));
    }
    seen.told.extend(told);
    log.blocking_close()
}

/// What is known of all lives.
#[derive(Default)]
struct Seen {
    /// Of the group that commits each message: what was acknowledged, by partition.
    committed: BTreeMap<u32, u64>,
    delivered: BTreeSet<(u32, String)>,
    /// Of the group that works in another order: what was worked on, and what was acknowledged as finished.
    worked: BTreeSet<(u32, u64)>,
    finished: BTreeSet<(u32, u64)>,
    told: Vec<Error>,
    relaxed: bool,
}

impl Seen {
    fn deliver(&mut self, message: &Message, first: bool) -> Result<()> {
        let committed = self.committed.get(&message.partition()).copied().unwrap_or(0);
        if first && !self.relaxed && !(committed..=committed + 1).contains(&message.offset()) {
            return Err(Error::invalid(format!("{committed} was committed, and {} comes first", message.offset())));
        }
        self.delivered.insert((message.partition(), text(message)));
        Ok(())
    }
}

/// The output of the stage is each input once, those of a key in order; and everybody has seen everything.
fn judge(disk: &SimDisk, seen: &Seen) -> Verdict {
    let read = |log: &Log, name: &str| -> Result<Vec<Message>> {
        let mut history = log.raw_topic(name)?.replay(Start::Earliest).blocking()?;
        let mut all = Vec::new();
        while let Some(message) = history.next_message()? {
            all.push(message);
        }
        Ok(all)
    };
    let log = open_on(disk, 99).map_err(|error| error.to_string())?;
    let (input, output) = (read(&log, "in"), read(&log, "out"));
    let (input, output) = (input.map_err(|error| error.to_string())?, output.map_err(|error| error.to_string())?);
    let mut by_key: BTreeMap<Bytes, Vec<String>> = BTreeMap::new();
    for message in &output {
        by_key.entry(message.key().cloned().unwrap_or_default()).or_default().push(text(message));
    }
    for key in 0..KEYS {
        let expected: Vec<_> =
            (0..INPUTS).filter(|number| number % KEYS == key).map(|number| format!("{number}!")).collect();
        let there = by_key.get(key.to_string().as_bytes()).cloned().unwrap_or_default();
        if seen.relaxed {
            // What the input has lost was sent again, and is another record: at least once, then.
            let once: BTreeSet<_> = there.iter().collect();
            ensure!(once.len() == expected.len(), "key {key}: {there:?} of {expected:?}");
        } else {
            ensure!(there == expected, "key {key}: {there:?} instead of {expected:?}");
        }
    }
    for message in &input {
        let place = (message.partition(), text(message));
        ensure!(seen.delivered.contains(&place), "{place:?} was never delivered");
        let worked = seen.relaxed || seen.worked.contains(&(message.partition(), message.offset()));
        ensure!(worked, "{place:?} was passed over unfinished");
    }
    Ok(())
}

/// One crash, and then a life without any.
fn crash(seed: u64, durability: Durability, cut: impl Fn(&SimDisk, u64), at: u64, power: bool) -> Verdict<bool> {
    let disk = SimDisk::new(seed, SimOptions::default());
    let mut seen = Seen { relaxed: durability != Durability::Sync, ..Seen::default() };
    cut(&disk, at);
    let first = live(&disk, 0, durability, &mut seen);
    let over = first.is_ok() && disk.calls() < at;
    if let Err(error) = first {
        let kinds = [ErrorKind::Io, ErrorKind::Poisoned, ErrorKind::StorageFull, ErrorKind::Closed];
        ensure!(kinds.contains(&error.kind()), "at {at}: {error}");
    }
    if power {
        disk.power_loss();
    } else {
        disk.kill();
    }
    disk.clear_faults();
    disk.crash_at(u64::MAX);
    for life in 1..3 {
        live(&disk, life, durability, &mut seen).map_err(|error| format!("at {at}, life {life}: {error}"))?;
    }
    judge(&disk, &seen).map_err(|why| format!("at {at}: {why}"))?;
    Ok(over)
}

/// Every call in turn, `step` calls apart.
fn at_every_call(durability: Durability, step: u64) -> Verdict<u64> {
    let mut crashes = 0;
    let cuts: [fn(&SimDisk, u64); 4] = [
        |disk, at| disk.crash_at(at),
        |disk, at| disk.fail_at(at, SimFault::Eio),
        |disk, at| disk.fail_at(at, SimFault::FsyncDrop),
        |disk, at| disk.fail_from(at, SimFault::Enospc),
    ];
    for (number, cut) in cuts.into_iter().enumerate() {
        let mut at = 1 + number as u64 % step;
        while !crash(at, durability, cut, at, !at.is_multiple_of(3))? {
            crashes += 1;
            at += step;
        }
    }
    Ok(crashes)
}

#[test]
fn a_stage_that_crashes_at_any_call_has_written_its_output_once() {
    let crashes = at_every_call(Durability::Sync, 1).unwrap();
    let relaxed = at_every_call(Durability::Os, 2).unwrap();
    eprintln!("{crashes} crashes of a synced stage, {relaxed} of a relaxed one");
    assert!(crashes > 200 && relaxed > 100);
}

/// A relaxed topic loses its end with the power, and other records come to stand at its offsets: the group gets them, and is told.
pub(super) fn lost_records_do_not_hide_those_that_follow() -> Verdict {
    for (more, lost) in [(0, true), (2, true), (9, true), (3, false)] {
        let options =
            SimOptions { loss: crate::storage::sim::Loss::Oldest, writeback_one_in: 0, ..SimOptions::default() };
        let disk = SimDisk::new(3, options);
        let run = || -> Result<Vec<String>> {
            let log = open_on(&disk, 1)?;
            let input = topic(&log, "in", 1, Durability::Os)?;
            input.blocking_produce(Record::new(Bytes::from_static(b"kept")))?;
            log.blocking_sync()?;
            for number in 0..5 {
                input.blocking_produce(Record::new(Bytes::from(format!("lost {number}"))))?;
            }
            if !lost {
                log.blocking_sync()?;
            }
            let mut consumer = input.subscribe("g").blocking_build()?;
            while let Some(message) = consumer.try_recv()? {
                consumer.blocking_commit(&message)?;
            }
            disk.power_loss();
            drop((consumer, input, log));
            let log = open_on(&disk, 2)?;
            let input = log.raw_topic("in")?;
            for number in 0..more {
                input.blocking_produce(Record::new(Bytes::from(format!("new {number}"))))?;
            }
            let mut consumer = input.subscribe("g").blocking_build()?;
            let mut got = Vec::new();
            loop {
                match consumer.try_recv() {
                    Ok(Some(message)) => got.push(text(&message)),
                    Ok(None) => return Ok(got),
                    Err(error) => {
                        let rewound = error.rewound().ok_or(error.clone())?;
                        got.push(format!("rewound {} to {}", rewound.from, rewound.to));
                    }
                }
            }
        };
        let got = run().map_err(|error| error.to_string())?;
        let mut expected: Vec<String> = (0..more).map(|number| format!("new {number}")).collect();
        if lost {
            expected.insert(0, "rewound 6 to 1".into());
        }
        ensure!(got == expected, "{more} more, lost: {lost}: {got:?} instead of {expected:?}");
    }
    Ok(())
}

#[test]
fn what_stands_at_lost_offsets_is_delivered() {
    lost_records_do_not_hide_those_that_follow().unwrap();
}

/// Consumers hold on to nothing that was taken from them, whatever they say later.
pub(super) fn a_former_owner_is_fenced() -> Verdict {
    let run = || -> Result<Verdict> {
        let disk = SimDisk::new(4, SimOptions::default());
        let log = open_on(&disk, 1)?;
        let (input, output) = (topic(&log, "in", 1, Durability::Sync)?, topic(&log, "out", 1, Durability::Sync)?);
        for number in 0..3 {
            input.blocking_produce(Record::new(Bytes::from(number.to_string())))?;
        }
        let mut former = input.subscribe("g").blocking_build()?;
        let Some(held) = former.try_recv()? else { return Ok(Err("nothing came".into())) };
        let mut tx = log.transaction();
        tx.produce(&output, Record::new(Bytes::from_static(b"late")))?;
        tx.commit_offset(&former, &held)?;
        // The group is asked to forget the member, as if its time were over.
        let (group, groups) = (former.core_group(), former.groups().clone());
        group.leave(&log.inner.engine, &groups, 1);
        let mut latter = input.subscribe("g").blocking_build()?;
        let Some(again) = latter.try_recv()? else { return Ok(Err("nothing came again".into())) };
        if again.offset() != held.offset() {
            return Ok(Err(format!("{} instead of {}", again.offset(), held.offset())));
        }
        let fenced = [former.blocking_commit(&held), tx.blocking_commit().map(drop)];
        for answer in fenced {
            if answer.as_ref().map_err(Error::kind) != Err(ErrorKind::Fenced) {
                return Ok(Err(format!("{answer:?}")));
            }
        }
        if output.watermarks(0)?.high_watermark != 0 {
            return Ok(Err("a fenced transaction has written something".into()));
        }
        if let Some(Item::Message(message)) = former.try_recv()?.map(Item::Message) {
            return Ok(Err(format!("{} was delivered to a former owner", message.offset())));
        }
        latter.blocking_commit(&again)?;
        Ok(Ok(()))
    };
    run().map_err(|error| error.to_string())?
}

#[test]
fn whoever_has_lost_a_partition_is_fenced() {
    a_former_owner_is_fenced().unwrap();
}

/// What was finished out of order is remembered, and what was not comes again.
pub(super) fn unfinished_work_comes_again() -> Verdict {
    let run = || -> Result<Vec<u64>> {
        let disk = SimDisk::new(5, SimOptions::default());
        let log = open_on(&disk, 1)?;
        let input = topic(&log, "in", 1, Durability::Sync)?;
        for number in 0..6 {
            input.blocking_produce(Record::new(Bytes::from(number.to_string())))?;
        }
        let mut consumer = input.subscribe("g").blocking_build()?;
        let mut all = Vec::new();
        while let Some(message) = consumer.try_recv()? {
            all.push(message);
        }
        for at in [4, 1, 0] {
            consumer.finish(&all[at])?;
        }
        consumer.blocking_commit_finished()?;
        disk.power_loss();
        drop((consumer, input, log));
        let log = open_on(&disk, 2)?;
        let mut consumer = log.raw_topic("in")?.subscribe("g").blocking_build()?;
        let mut again = Vec::new();
        while let Some(message) = consumer.try_recv()? {
            again.push(message.offset());
        }
        Ok(again)
    };
    let again = run().map_err(|error| error.to_string())?;
    ensure!(again == [2, 3, 5], "{again:?} instead of what was not finished");
    Ok(())
}

#[test]
fn what_was_not_finished_comes_again() {
    unfinished_work_comes_again().unwrap();
}

/// A call to the disk that fails is told, and the next one tries again: nothing is passed over, and nobody waits for ever.
#[test]
fn a_read_that_fails_is_told_and_tried_again() {
    let mut told = 0;
    for at in 0..12 {
        let disk = SimDisk::new(6, SimOptions::default());
        let log = open_on(&disk, 2).unwrap();
        let input = topic(&log, "in", 2, Durability::Sync).unwrap();
        for number in 0..40 {
            input.blocking_produce(Record::new(Bytes::from(vec![number; 900])).key(number.to_string())).unwrap();
        }
        let mut consumer = input.subscribe("g").blocking_build().unwrap();
        for _ in 0..3 {
            let message = consumer.try_recv().unwrap().unwrap();
            consumer.blocking_commit(&message).unwrap();
        }
        drop((consumer, input));
        log.blocking_close().unwrap();
        drop(log);
        let faulty = Arc::new(FaultDisk::new(disk.mount()));
        let log = open_storage(Arc::clone(&faulty) as _, 4).unwrap();
        let input = log.raw_topic("in").unwrap();
        let mut consumer = input.subscribe("g").blocking_build().unwrap();
        faulty.arm(Plan { classes: &[Class::Read], at, fault: Fault::Eio, repeat: Repeat::Once });
        let (mut got, mut failed) = (0, 0);
        while got < 37 {
            match consumer.try_recv() {
                Ok(Some(_)) => got += 1,
                Ok(None) => panic!("at {at}: nothing more comes after {got}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "at {at}: {error}");
                    failed += 1;
                    assert!(failed < 3, "at {at}: it fails again and again");
                }
            }
        }
        assert!(consumer.try_recv().unwrap().is_none());
        told += failed;
    }
    eprintln!("{told} failed reads were told");
    assert!(told >= 3, "{told}");
}

/// The quick one of these, for the planted defects.
pub(super) fn a_stage_crashes_here_and_there() -> Verdict {
    at_every_call(Durability::Sync, 11).map(drop)
}
