//! What the public surface cannot bring about: commits that fail, disks that lose power, answers out of order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::versions::Versions;
use super::window::{At, Limits, Window};
use super::{PartitionGuard, Place};
use crate::codec::Raw;
use crate::error::ErrorKind;
use crate::expected::Expected;
use crate::handle::Log;
use crate::log::open::open;
use crate::log::settings::{Durability, LogSettings, TopicSettings};
use crate::record::Record;
use crate::replay::Start;
use crate::storage::Env;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::sim::{SimDisk, SimFault, SimOptions};
use crate::topic::Topic;
use crate::views::dedup::DedupView;
use crate::{Batch, Receipt, TopicDef};

fn log_on(disk: &SimDisk, seed: u64) -> crate::Result<Log> {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let env = Env::new(disk.mount(), clock, Arc::new(SeededRandom::new(seed)), 64);
    let settings = LogSettings {
        commit_bytes_max: 128 << 10,
        journal_bytes: 256 << 10,
        tail_bytes_max: 0,
        ..LogSettings::default()
    };
    Log::start(open(env, PathBuf::from("/log"), settings, true)?, None)
}

fn topic_on(log: &Log, durability: Durability) -> crate::Result<Topic> {
    let settings = TopicSettings::default()
        .partitions(2)
        .durability(durability)
        .record_bytes_max(8 << 10)
        .segment_bytes_max(4096)
        .dedup_count_max(10_000);
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("t"), settings)
}

fn record(id: usize) -> Record {
    Record::new(Bytes::from(format!("{id}"))).key(format!("key {}", id % 5)).id(format!("id {id}"))
}

fn place(receipt: &Receipt) -> (u32, u64, u64) {
    (receipt.partition, receipt.offset, receipt.commit)
}

fn ids(topic: &Topic) -> Vec<String> {
    let mut history = topic.replay(Start::Earliest).blocking().unwrap();
    let mut values = Vec::new();
    while let Some(message) = history.next_message().unwrap() {
        values.push(String::from_utf8(message.value().unwrap().to_vec()).unwrap());
    }
    values
}

/// A disk that is full fails appends: what they would have changed is taken back, and they succeed once there is room.
pub(crate) fn a_refused_append_is_forgotten() -> Result<(), String> {
    for durability in [Durability::Sync, Durability::Os] {
        let disk = SimDisk::new(7, SimOptions::default());
        let log = log_on(&disk, 7).unwrap();
        let topic = topic_on(&log, durability).unwrap();
        let large = |id: usize, key: &str| {
            Record::new(Bytes::from(vec![id as u8; 7000])).key(key.to_owned()).id(format!("large {id}"))
        };
        let first = topic.blocking_produce_if(large(0, "k"), Expected::Empty).unwrap();
        let partition = topic.state.partition(first.partition).unwrap();
        disk.set_capacity(Some(disk.used()));
        let mut failed = Vec::new();
        for id in 1..20 {
            match topic.blocking_produce(large(id, "k")) {
                Ok(receipt) => assert_eq!(receipt.partition, first.partition),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                    failed.push(id);
                }
            }
        }
        assert!(!failed.is_empty(), "the disk was full");
        let newest = partition.visible_end() - 1;
        let refused = topic.blocking_produce_if(large(30, "k"), Expected::Exact(newest)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull, "the version is that of what was written: {refused}");
        // Under way together, all of them fail, and those that repeat an identity with the first.
        let held = partition.writer();
        let mut deliveries = Vec::new();
        if durability == Durability::Sync {
            deliveries.extend((0..3).map(|_| topic.blocking_send(large(40, "k")).unwrap()));
        }
        drop(held);
        for delivery in deliveries {
            assert_eq!(delivery.wait().unwrap_err().kind(), ErrorKind::StorageFull);
        }
        disk.set_capacity(None);
        for id in failed.into_iter().chain([30, 40]) {
            let end = partition.visible_end();
            let receipt = topic.blocking_produce(large(id, "k")).unwrap();
            assert_eq!(receipt.offset, end, "{durability}: {id} was not written before");
            assert_eq!(topic.blocking_produce(large(id, "k")).unwrap(), receipt);
        }
        let newest = partition.visible_end() - 1;
        let conflict = topic.blocking_produce_if(large(50, "k"), Expected::Empty).unwrap_err();
        assert_eq!(conflict.current_version(), Some(Expected::Exact(newest)));
    }
    Ok(())
}

#[test]
fn a_commit_that_fails_takes_back_what_it_would_have_changed() {
    a_refused_append_is_forgotten().unwrap();
}

/// The record that a condition is about waits for its commit: the answer is not known before.
pub(crate) fn a_condition_waits_for_what_is_under_way() -> Result<(), String> {
    for scope in ["key", "partition"] {
        let log = Log::in_memory().unwrap();
        let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("t"), TopicSettings::default()).unwrap();
        let record = |text: &str| Record::new(Bytes::from(text.to_owned())).key("k");
        let first = Expected::Exact(topic.blocking_produce_if(record("first"), Expected::Empty).unwrap().offset);
        let partition = topic.state.partition(0).unwrap();
        let held = partition.writer();
        let under_way = topic.blocking_send(record("under way")).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut late: Pin<Box<dyn Future<Output = crate::Result<Receipt>>>> = match scope {
            "key" => Box::pin(topic.produce_if(record("late"), first)),
            _ => Box::pin(topic.produce_if_last(record("late"), first)),
        };
        assert!(late.as_mut().poll(&mut cx).is_pending());
        drop(held);
        under_way.wait().unwrap();
        let answer = loop {
            match late.as_mut().poll(&mut cx) {
                Poll::Ready(answer) => break answer,
                Poll::Pending => std::thread::yield_now(),
            }
        };
        match answer {
            Err(error) if error.current_version() == Some(Expected::Exact(1)) => {}
            other => return Err(format!("{scope}: decided before what was under way was known: {other:?}")),
        }
    }
    Ok(())
}

#[test]
fn a_conditional_append_waits_for_what_is_under_way() {
    a_condition_waits_for_what_is_under_way().unwrap();
}

/// A relaxed topic has lost its last records in a power loss, and others have taken their offsets; the view still has them.
pub(crate) fn a_view_ahead_of_the_log_is_not_believed() -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let settings = TopicSettings::default().durability(Durability::Os).dedup_count_max(100);
    let log = Log::blocking_open(dir.path()).unwrap();
    let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("t"), settings).unwrap();
    for id in ["kept", "other"] {
        topic.blocking_produce(Record::new(Bytes::from(id)).id(id)).unwrap();
    }
    let whose = topic.state.partition(0).unwrap().key();
    log.blocking_close().unwrap();
    // In the view there is, at the offset of the last record, the one that was lost: of another commit.
    let (clock, random) = (Arc::new(ManualClock::new(0)), Arc::new(SeededRandom::new(1)));
    let env = Env::new(Arc::new(crate::storage::disk::Disk), clock, random, 64);
    let mut view = DedupView::open(&env, dir.path(), log.id().as_u128()).unwrap();
    let mut saved = view.load(whose).unwrap().unwrap();
    saved.meta.commit += 1000;
    let last = saved.entries.last_mut().unwrap();
    (last.commit, last.id) = (saved.meta.commit, b"lost"[..].into());
    view.save(whose, saved.meta, &saved.entries, 0, true).unwrap();
    drop(view);
    let log = Log::blocking_open(dir.path()).unwrap();
    let topic = log.raw_topic("t").unwrap();
    let offset = |id: &'static str| topic.blocking_produce(Record::new(Bytes::from(id)).id(id)).unwrap().offset;
    let offsets = ["other", "lost", "lost", "kept"].map(offset);
    if offsets == [1, 2, 2, 0] { Ok(()) } else { Err(format!("a view was believed: {offsets:?}")) }
}

#[test]
fn a_view_that_has_what_the_log_has_lost_is_not_believed() {
    a_view_ahead_of_the_log_is_not_believed().unwrap();
}

/// A process sends each record until it is acknowledged, and loses the power or its life in between; then it sends all of them
/// again. Every identity is there once, and who was answered before gets the same answer.
#[test]
fn whatever_is_sent_again_after_a_crash_is_there_once() {
    let (mut crashes, mut found) = (0, 0);
    for seed in 0..150_u64 {
        let disk = SimDisk::new(seed, SimOptions::default());
        let random = SeededRandom::new(seed);
        let durability = if seed % 3 == 0 { Durability::Os } else { Durability::Sync };
        let mut acknowledged = BTreeMap::new();
        for life in 0..4_u64 {
            let log = log_on(&disk, seed * 10 + life).unwrap();
            let Ok(topic) = topic_on(&log, durability) else { panic!("the topic can be made") };
            if life < 3 {
                let at = disk.calls() + random_below(&random, 60);
                match random_below(&random, 3) {
                    0 => disk.fail_at(at, SimFault::FsyncDrop),
                    1 => disk.fail_at(at, SimFault::Eio),
                    _ => disk.crash_at(at),
                }
            }
            let mut id = 0;
            while id < 30 {
                let answer = match random_below(&random, 3) {
                    0 => topic.blocking_produce(record(id)).map(|receipt| vec![receipt]),
                    1 => topic.blocking_produce_batch((id..id + 3).map(record)),
                    _ => {
                        let mut batch = Batch::new();
                        (id..id + 2).for_each(|id| batch.add(&topic, record(id)).unwrap());
                        log.blocking_produce_all(batch)
                    }
                };
                match answer {
                    Ok(receipts) => {
                        for receipt in receipts {
                            // A relaxed topic may have lost what it had acknowledged.
                            let before =
                                acknowledged.insert(id, place(&receipt)).filter(|_| durability == Durability::Sync);
                            assert!(before.is_none_or(|before| before == place(&receipt)), "seed {seed}, id {id}");
                            found += usize::from(before.is_some());
                            id += 1;
                        }
                    }
                    Err(error) => {
                        let kinds = [ErrorKind::Io, ErrorKind::Poisoned, ErrorKind::StorageFull];
                        assert!(life < 3 && kinds.contains(&error.kind()), "seed {seed}: {error}");
                        break;
                    }
                }
            }
            if life == 3 {
                let mut there: Vec<usize> = ids(&topic).iter().map(|id| id.parse().unwrap()).collect();
                there.sort_unstable();
                let expected: Vec<usize> = (0..there.len()).collect();
                assert!(there.len() >= 30 && there == expected, "seed {seed}: {there:?}");
            }
            crashes += 1;
            if random_below(&random, 3) == 0 {
                disk.kill();
            } else {
                disk.power_loss();
            }
            drop(topic);
            drop(log);
            disk.clear_faults();
            disk.crash_at(u64::MAX);
        }
    }
    eprintln!("{crashes} crashes, {found} records sent again that were there");
    assert!(found > 100, "{found}");
}

fn random_below(random: &SeededRandom, limit: u64) -> u64 {
    crate::storage::Random::next_u64(random) % limit
}

#[test]
fn answers_may_come_in_another_order_than_offsets() {
    let mut versions = Versions::default();
    for tombstone in [false, true] {
        versions.sent(1);
        versions.sent(1);
        versions.sent(1);
        assert!(versions.is_pending(1));
        versions.answered(1, Some(10), tombstone);
        versions.answered(1, Some(9), false);
        assert!(versions.is_pending(1));
        versions.answered(1, None, false);
        assert!(!versions.is_pending(1));
        assert_eq!(versions.current(1), (!tombstone).then_some(10));
    }
    versions.found(2, 5, false);
    assert_eq!(versions.current(2), Some(5));
    versions.found(2, 6, true);
    assert_eq!(versions.current(2), None);
}

#[test]
fn the_window_keeps_no_trail_of_what_failed() {
    let limits = Limits { count_max: 4, age_max: 100 };
    let mut window = Window::new();
    let at = |offset| At::Written(Place { offset, commit: offset });
    window.add(b"stays"[..].into(), 0, at(0), limits);
    let id: Arc<[u8]> = b"fails"[..].into();
    for _ in 0..1000 {
        let number = window.add(Arc::clone(&id), 0, at(1), limits);
        window.answered(&id, number, None);
        assert!(window.find(&id, 0, limits).is_none());
    }
    assert_eq!(window.iter().count(), 1);
    assert_eq!(window.remembered(), 1);
    // One that was sent again in between is another.
    let old = window.add(Arc::clone(&id), 0, at(1), limits);
    let new = window.add(Arc::clone(&id), 0, at(2), limits);
    window.answered(&id, old, None);
    assert!(window.find(&id, 0, limits).is_some());
    window.answered(&id, new, None);
    assert!(window.find(&id, 0, limits).is_none());
    for number in 0..20_u8 {
        window.add([number][..].into(), i64::from(number), at(u64::from(number)), limits);
        assert!(window.iter().count() <= 4);
    }
    assert!(window.find(&[16], 116, limits).is_some());
    assert!(window.find(&[16], 117, limits).is_none());
}

/// Whoever begins to read and is dropped leaves the duty to the next.
#[test]
fn a_reading_that_is_given_up_is_done_by_the_next() {
    let log = Log::in_memory().unwrap();
    let settings = TopicSettings::default().dedup_count_max(10);
    let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("t"), settings).unwrap();
    let partition = topic.state.partition(0).unwrap();
    let guard = PartitionGuard::of(&partition, topic.engine());
    let needs = super::Needs { settled: true, ..super::Needs::default() };
    let unready = |needs| {
        let mut state = guard.lock();
        guard.is_unready(&mut state, needs, &partition, topic.engine())
    };
    let building = unready(needs);
    assert!(matches!(building, Some(super::Wait::Build(_))));
    assert!(matches!(unready(needs), Some(super::Wait::Ready(_))));
    let busy = topic.try_send(record(1)).unwrap_err();
    assert_eq!(busy.error.kind(), ErrorKind::Busy);
    drop(building);
    let Some(super::Wait::Build(build)) = unready(needs) else { panic!("it is this one's now") };
    build.run().unwrap();
    assert!(unready(needs).is_none());
    assert_eq!(topic.try_send(record(1)).unwrap().wait().unwrap().offset, 0);
    assert_eq!(topic.try_send(record(1)).unwrap().wait().unwrap().offset, 0);
}
