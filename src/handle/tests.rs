//! What the public surface cannot hold still: a commit that does not end, a leader that panics, followers that go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;

use super::Log;
use crate::codec::{Raw, TopicDef};
use crate::error::ErrorKind;
use crate::log::committer::Refused;
use crate::log::open::open;
use crate::log::settings::{LogSettings, TopicSettings};
use crate::log::tests::env;
use crate::partition::IDLE;
use crate::record::Record;
use crate::replay::Start;
use crate::storage::memory::MemoryDisk;

const DEF: TopicDef<Bytes, Raw> = TopicDef::new("t");

#[test]
fn who_finds_no_room_gets_the_record_back_or_waits() {
    let log = Log::builder().commit_bytes_max(128 << 10).journal_bytes(256 << 10).in_memory().unwrap();
    let topic = log.blocking_create_topic(DEF, TopicSettings::default().record_bytes_max(60_000)).unwrap();
    let partition = topic.state.partition(0).unwrap();
    // Whoever leads waits for the partition's writer, so that what is pending stays.
    let held = partition.writer();
    let record = || Record::new(Bytes::from(vec![7; 50_000]));
    let mut deliveries = Vec::new();
    let refused = loop {
        match topic.try_send(record()) {
            Ok(delivery) => deliveries.push(delivery),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.error.kind(), ErrorKind::Busy);
    assert!(refused.error.to_string().contains("131072 bytes"), "{refused}");
    assert_eq!(refused.record, record());
    assert!(deliveries.len() >= 2 && deliveries.len() <= 4, "{}", deliveries.len());
    // The leader may take the first ones only now; then there is room at once.
    let mut waiting = pin!(topic.send(refused.record));
    let mut cx = Context::from_waker(Waker::noop());
    let early = waiting.as_mut().poll(&mut cx);
    drop(held);
    let sent = match early {
        Poll::Ready(sent) => sent,
        Poll::Pending => loop {
            if let Poll::Ready(sent) = waiting.as_mut().poll(&mut cx) {
                break sent;
            }
            std::thread::yield_now();
        },
    };
    deliveries.push(sent.unwrap());
    for (offset, delivery) in deliveries.into_iter().enumerate() {
        assert_eq!(delivery.wait().unwrap().offset, offset as u64);
    }
}

#[test]
fn a_leader_that_panics_answers_everybody_and_holds_nobody_up() {
    let engine =
        open(env(Arc::new(MemoryDisk::default()), 1), PathBuf::from("/log"), LogSettings::default(), true).unwrap();
    let topic = engine.create_topic("t", TopicSettings::default().partitions(2)).unwrap();
    let partitions = topic.partitions();
    for number in [0, 1] {
        // A frame without records is something that no caller makes; it stands for whatever may panic in a commit.
        let bad = engine.enqueue(&partitions[number], 100, crate::log::committer::Leader::Thread, |_| {});
        let bad = match (number, bad) {
            (0, bad) => bad.unwrap(),
            (_, Err(Refused::Failed(error))) => {
                assert_eq!(error.kind(), ErrorKind::Poisoned, "nothing is accepted behind what nobody knows");
                continue;
            }
            (_, other) => panic!("{other:?}"),
        };
        let good = engine
            .enqueue(&partitions[1], 100, crate::log::committer::Leader::Thread, |builder| {
                builder.push(0, None, Some(b"x"), std::iter::empty())
            })
            .unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| engine.lead())).is_err());
        for ticket in [bad, good] {
            assert_eq!(ticket.group.wait().clone().unwrap_err().kind(), ErrorKind::Poisoned);
        }
    }
    assert!(partitions.iter().all(|partition| partition.inflight() == IDLE), "readers are not held up");
}

/// What each frame costs in the journal is counted, whatever the number of partitions in a group.
#[test]
fn a_group_over_many_partitions_fits_into_the_journal() {
    let settings = LogSettings { commit_bytes_max: 128 << 10, journal_bytes: 256 << 10, ..LogSettings::default() };
    let engine = open(env(Arc::new(MemoryDisk::default()), 1), PathBuf::from("/log"), settings, true).unwrap();
    let settings = TopicSettings::default().partitions(3000).record_bytes_max(100);
    let topic = engine.create_topic("t", settings).unwrap();
    let mut tickets = Vec::new();
    for partition in topic.partitions().iter() {
        match engine.enqueue(partition, 150, crate::log::committer::Leader::Thread, |builder| {
            builder.push(0, None, Some(b"x"), std::iter::empty())
        }) {
            Ok(ticket) => tickets.push(ticket),
            Err(Refused::Full) => while engine.lead() {},
            Err(refused) => panic!("{refused:?}"),
        }
    }
    while engine.lead() {}
    for ticket in tickets {
        ticket.group.wait().clone().unwrap();
    }
}

#[test]
fn a_follower_that_goes_leaves_nothing_behind() {
    let log = Log::in_memory().unwrap();
    let topic = log.blocking_create_topic(DEF, TopicSettings::default().partitions(2)).unwrap();
    let partitions = topic.state.partitions();
    let is_followed = || partitions.iter().any(|partition| partition.tail.is_followed());
    let mut cx = Context::from_waker(Waker::noop());
    for polls in 0..6 {
        let mut stream = log.replay(Start::Earliest).follow();
        for _ in 0..polls {
            // Outside of a runtime everything is done by the poll itself.
            drop(Pin::new(&mut stream).poll_next(&mut cx));
        }
        assert_eq!(is_followed(), polls > 0);
        topic.blocking_produce(Bytes::from_static(b"x")).unwrap();
        drop(stream);
        let blocking = topic.replay(Start::Latest).follow().blocking().unwrap();
        assert!(is_followed());
        drop(blocking);
        assert!(!is_followed());
        // Nor does one that could not begin.
        topic.replay(Start::Offset(0)).follow().blocking().unwrap_err();
        topic.replay_partition(1, Start::Offset(99)).follow().blocking().unwrap_err();
        assert!(!is_followed());
    }
    // Sealed by its last record: nothing of the partitions stays in memory.
    for partition in partitions.iter() {
        drop(partition.writer());
        assert!((0..partition.visible_end()).all(|offset| partition.tail.get(offset).is_none()));
    }
}

fn prices(log: &Log) -> crate::Topic<Bytes, Raw> {
    let settings = TopicSettings::default().compaction(true).segment_bytes_max(4096).partitions(2);
    log.blocking_create_topic(DEF, settings).unwrap()
}

fn fill(topic: &crate::Topic<Bytes, Raw>) {
    let records = (0..400).map(|number| Record::new(Bytes::from(vec![7; 100])).key(format!("key-{}", number % 5)));
    let sent: Vec<_> = records.map(|record| topic.blocking_send(record).unwrap()).collect();
    sent.into_iter().for_each(|delivery| assert!(delivery.wait().is_ok()));
}

#[test]
fn a_record_without_a_key_has_no_place_in_a_compacted_topic() {
    let log = Log::in_memory().unwrap();
    let topic = prices(&log);
    let refused = topic.blocking_produce(Bytes::from_static(b"x")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("needs a key"), "{refused}");
    let keyed = Record::new(Bytes::from_static(b"x")).key("k");
    let batch = topic.blocking_produce_batch([keyed.clone(), Record::new(Bytes::from_static(b"y"))]).unwrap_err();
    assert_eq!(batch.kind(), ErrorKind::Invalid);
    let mut batch = crate::Batch::new();
    batch.add(&topic, Record::new(Bytes::new())).unwrap_err();
    assert!(batch.is_empty(), "the batch is as it was");
    assert_eq!(topic.blocking_produce(keyed).unwrap().offset, 0, "nothing was written before");
}

#[test]
fn compaction_begins_by_itself_and_ends_with_the_log() {
    let log = Log::in_memory().unwrap();
    let topic = prices(&log);
    let count = || {
        let mut history = topic.replay(Start::Earliest).blocking().unwrap();
        let mut count = 0;
        while history.next().unwrap().is_some() {
            count += 1;
        }
        count
    };
    let mut rounds = 0;
    while rounds < 4 || count() > 400 * rounds / 2 {
        fill(&topic);
        rounds += 1;
        assert!(rounds < 1000, "nothing is compacted: there are {}", count());
    }
    log.blocking_close().unwrap();
    assert_eq!(log.blocking_compact_topic("t").unwrap_err().kind(), ErrorKind::Closed);
}

/// A slow pass holds neither a close nor a deletion up.
#[test]
fn a_throttled_pass_stops_promptly() {
    let started = std::time::Duration::from_secs;
    for delete in [false, true] {
        let log = Log::builder().maintenance_bytes_per_second_max(64 << 10).in_memory().unwrap();
        let topic = prices(&log);
        // At that speed what is written here takes many seconds.
        (0..20).for_each(|_| fill(&topic));
        let begun = log.inner.engine.env.clock.monotonic();
        if delete {
            log.inner.engine.delete_topic("t").unwrap();
        }
        log.blocking_close().unwrap();
        let took = log.inner.engine.env.clock.monotonic() - begun;
        assert!(took < started(3), "{took:?}");
    }
}
