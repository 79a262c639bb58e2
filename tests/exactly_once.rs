//! Appends that are carried out only if the newest record is the expected one, and records that are written only once: races,
//! crashes, batches, and what the view of the identities goes through.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/copy.rs"]
mod copy;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals::{
    Batch, Durability, ErrorKind, Expected, Log, Raw, Receipt, Record, RecordRef, Start, Topic, TopicDef, TopicSettings,
};
use bytes::Bytes;
use chrono::DateTime;
use copy::{copy_dir, killed};

const LEVELS: [Durability; 2] = [Durability::Sync, Durability::Os];

fn create(log: &Log, name: &str, settings: TopicSettings) -> Topic {
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings).unwrap()
}

fn record(text: &str) -> Record {
    Record::new(Bytes::copy_from_slice(text.as_bytes()))
}

fn keyed(key: &str, text: &str) -> Record {
    record(text).key(key)
}

fn values(topic: &Topic) -> Vec<String> {
    let mut history = topic.replay(Start::Earliest).blocking().unwrap();
    let mut values = Vec::new();
    while let Some(message) = history.next_message().unwrap() {
        values.push(message.value().map_or("-".to_owned(), |value| String::from_utf8(value.to_vec()).unwrap()));
    }
    values
}

#[track_caller]
fn conflict(answer: annals::Result<Receipt>, current: Expected) {
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(error.current_version(), Some(current), "{error}");
}

#[test]
fn the_version_of_a_key_is_its_newest_record() {
    for durability in LEVELS {
        let log = Log::in_memory().unwrap();
        let topic = create(&log, "t", TopicSettings::default().durability(durability));
        // What was there before anybody asked counts.
        topic.blocking_produce(keyed("a", "a0")).unwrap();
        topic.blocking_produce(keyed("b", "b1")).unwrap();
        topic.blocking_produce(keyed("a", "a2")).unwrap();
        topic.blocking_produce(Record::tombstone().key("b")).unwrap();
        conflict(topic.blocking_produce_if(keyed("a", "no"), Expected::Empty), Expected::Exact(2));
        conflict(topic.blocking_produce_if(keyed("a", "no"), Expected::Exact(0)), Expected::Exact(2));
        conflict(topic.blocking_produce_if(keyed("b", "no"), Expected::Exact(1)), Expected::Empty);
        conflict(topic.blocking_produce_if(keyed("new", "no"), Expected::Exact(3)), Expected::Empty);
        assert_eq!(topic.blocking_produce_if(keyed("b", "b4"), Expected::Empty).unwrap().offset, 4);
        assert_eq!(topic.blocking_produce_if(keyed("a", "a5"), Expected::Exact(2)).unwrap().offset, 5);
        assert_eq!(topic.blocking_produce_if(keyed("a", "a6"), Expected::Any).unwrap().offset, 6);
        // So does what is sent without asking, and in a batch.
        topic.blocking_produce(keyed("a", "a7")).unwrap();
        conflict(topic.blocking_produce_if(keyed("a", "no"), Expected::Exact(6)), Expected::Exact(7));
        topic.blocking_produce_batch([keyed("a", "a8"), keyed("c", "c9"), keyed("a", "a10")]).unwrap();
        conflict(topic.blocking_produce_if(keyed("a", "no"), Expected::Exact(8)), Expected::Exact(10));
        topic.blocking_produce_batch([keyed("a", "a11"), Record::tombstone().key("a")]).unwrap();
        conflict(topic.blocking_produce_if(keyed("a", "no"), Expected::Exact(11)), Expected::Empty);
        let receipts =
            topic.blocking_produce_batch_if([keyed("c", "c13"), keyed("c", "c14")], Expected::Exact(9)).unwrap();
        assert_eq!(receipts.iter().map(|receipt| receipt.offset).collect::<Vec<_>>(), [13, 14]);
        conflict(topic.blocking_produce_if(keyed("c", "no"), Expected::Exact(13)), Expected::Exact(14));
        assert!(!values(&topic).contains(&"no".to_owned()), "{durability}");
    }
}

#[test]
fn the_version_of_a_partition_is_its_last_record() {
    for durability in LEVELS {
        let log = Log::in_memory().unwrap();
        let topic = create(&log, "t", TopicSettings::default().partitions(2).durability(durability));
        let to = |partition: u32, text: &str| record(text).partition(partition);
        conflict(topic.blocking_produce_if_last(to(0, "no"), Expected::Exact(0)), Expected::Empty);
        assert_eq!(topic.blocking_produce_if_last(to(0, "a"), Expected::Empty).unwrap().offset, 0);
        topic.blocking_produce(to(0, "b")).unwrap();
        topic.blocking_produce(to(1, "elsewhere")).unwrap();
        conflict(topic.blocking_produce_if_last(to(0, "no"), Expected::Exact(0)), Expected::Exact(1));
        assert_eq!(topic.blocking_produce_if_last(to(0, "c"), Expected::Exact(1)).unwrap().offset, 2);
        let pipelined: Vec<_> = (0..5).map(|_| topic.blocking_send(to(0, "d")).unwrap()).collect();
        conflict(topic.blocking_produce_if_last(to(0, "no"), Expected::Exact(2)), Expected::Exact(7));
        pipelined.into_iter().for_each(|delivery| assert!(delivery.wait().is_ok()));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let log = Log::in_memory().unwrap();
    let topic = create(&log, "t", TopicSettings::default().partitions(2).dedup_count_max(10));
    let refused = |answer: annals::Result<Receipt>, says: &str| {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.current_version(), None);
    };
    refused(topic.blocking_produce_if(record("x"), Expected::Empty), "needs a key");
    refused(topic.blocking_produce_if_last(record("x"), Expected::Empty), "a key or a partition");
    refused(topic.blocking_produce(record("x").id("")), "0 bytes; 1 to 255");
    refused(topic.blocking_produce(record("x").id("x".repeat(256))), "256 bytes; 1 to 255");
    let two = topic.blocking_produce_batch_if([keyed("a", "x"), keyed("b", "x")], Expected::Empty);
    refused(two.map(|receipts| receipts[0]), "one key");
    assert!(topic.blocking_produce_batch_if([], Expected::Empty).unwrap().is_empty());
    topic.blocking_produce(record("x").id("x".repeat(255))).unwrap();
    for settings in [
        TopicSettings::default().dedup_age_max(Duration::from_secs(60)),
        TopicSettings::default().dedup_count_max(10_000_001),
        TopicSettings::default().dedup_count_max(1).dedup_age_max(Duration::from_millis(999)),
    ] {
        let error = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("u"), settings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("`dedup_"), "{error}");
    }
}

/// Many producers add to a counter under one key, each from the version that it has read: none of the steps is lost.
#[test]
fn of_many_producers_with_one_version_one_wins() {
    const THREADS: u64 = 8;
    const STEPS: u64 = 40;
    for durability in LEVELS {
        let log = Log::temporary().unwrap();
        let topic = create(&log, "t", TopicSettings::default().partitions(2).durability(durability));
        let conflicts = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (topic, conflicts) = (topic.clone(), &conflicts);
                scope.spawn(move || {
                    let mut expected = Expected::Empty;
                    for step in 0..STEPS {
                        loop {
                            // Others write as well, unconditionally, to other keys and in batches.
                            if step % 8 == 3 {
                                let noise = (0..3).map(|n| keyed(&format!("noise {n}"), "noise"));
                                topic.blocking_produce_batch(noise.collect::<Vec<_>>()).unwrap();
                            }
                            match topic
                                .blocking_produce_if(keyed("counter", &format!("{thread} {expected:?}")), expected)
                            {
                                Ok(receipt) => {
                                    expected = Expected::Exact(receipt.offset);
                                    break;
                                }
                                Err(error) => {
                                    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                                    conflicts.fetch_add(1, Ordering::Relaxed);
                                    expected = error.current_version().unwrap();
                                }
                            }
                        }
                    }
                });
            }
        });
        let mut history = topic.replay_partition(topic.partition_for(b"counter"), Start::Earliest).blocking().unwrap();
        let (mut version, mut counted) = (Expected::Empty, 0);
        while let Some(message) = history.next_message().unwrap() {
            if message.key().unwrap() == "counter" {
                let value = String::from_utf8(message.value().unwrap().to_vec()).unwrap();
                assert!(value.ends_with(&format!(" {version:?}")), "{value} came after {version:?}");
                version = Expected::Exact(message.offset());
                counted += 1;
            }
        }
        assert_eq!(counted, THREADS * STEPS, "{durability}, {} conflicts", conflicts.into_inner());
    }
}

/// The guard comes while others are in the middle of sending.
#[test]
fn the_first_condition_sees_what_is_under_way() {
    for durability in LEVELS {
        for _ in 0..20 {
            let log = Log::in_memory().unwrap();
            let topic = create(&log, "t", TopicSettings::default().durability(durability));
            let sent = std::thread::scope(|scope| {
                let senders: Vec<_> = (0..3)
                    .map(|_| {
                        scope.spawn(|| (0..50).map(|_| topic.blocking_produce(keyed("k", "v")).unwrap().offset).max())
                    })
                    .collect();
                let mut expected = Expected::Empty;
                let mut wins = 0;
                for _ in 0..30 {
                    match topic.blocking_produce_if(keyed("k", "mine"), expected) {
                        Ok(receipt) => {
                            // Every record has the key, so nothing lies between.
                            let before = receipt.offset.checked_sub(1).map_or(Expected::Empty, Expected::Exact);
                            assert_eq!(before, expected);
                            wins += 1;
                            expected = Expected::Exact(receipt.offset);
                        }
                        Err(error) => expected = error.current_version().unwrap(),
                    }
                }
                senders.into_iter().for_each(|sender| assert!(sender.join().unwrap().is_some()));
                wins
            });
            let all = values(&topic);
            assert_eq!(all.len(), 150 + sent);
            conflict(
                topic.blocking_produce_if(keyed("k", "no"), Expected::Empty),
                Expected::Exact(all.len() as u64 - 1),
            );
        }
    }
}

#[tokio::test]
async fn tasks_race_as_threads_do() {
    let log = Log::in_memory().unwrap();
    let topic = log.create_raw_topic("t", TopicSettings::default().dedup_count_max(1000)).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|task| {
            let topic = topic.clone();
            tokio::spawn(async move {
                let mut wins = 0;
                for round in 0..10_u64 {
                    let expected = if round == 0 { Expected::Empty } else { Expected::Exact(round - 1) };
                    match topic.produce_if(keyed("k", &format!("{task}")).id(format!("{task}-{round}")), expected).await
                    {
                        Ok(_) => wins += 1,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
                    }
                    tokio::task::yield_now().await;
                }
                wins
            })
        })
        .collect();
    let mut wins = 0;
    for task in tasks {
        wins += task.await.unwrap();
    }
    assert_eq!(wins, values(&topic).len());
    assert!((1..=10).contains(&wins), "{wins}");
}

#[test]
fn a_repeated_identity_gets_the_first_receipt() {
    for durability in LEVELS {
        let log = Log::in_memory().unwrap();
        let settings = TopicSettings::default().partitions(3).durability(durability).dedup_count_max(100);
        let topic = create(&log, "t", settings);
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let first = topic.blocking_produce(record("once").id("1").timestamp(at(1000))).unwrap();
        let again = topic.blocking_produce(record("twice").id("1").timestamp(at(2000))).unwrap();
        assert_eq!(first, again);
        assert_eq!(again.timestamp(), at(1000));
        // Under way, in all ways of sending.
        let deliveries: Vec<_> = (0..10).map(|_| topic.blocking_send(record("piped").id("2")).unwrap()).collect();
        let receipts: Vec<_> = deliveries.into_iter().map(|delivery| delivery.wait().unwrap()).collect();
        assert!(receipts.iter().all(|receipt| *receipt == receipts[0]));
        assert_eq!(topic.try_send(record("tried").id("2")).unwrap().wait().unwrap(), receipts[0]);
        // A batch writes what is new of it.
        let batch = || ["2", "3", "4", "3"].map(|id| record(&format!("batch {id}")).id(id));
        let written = topic.blocking_produce_batch(batch()).unwrap();
        assert_eq!(written[0], receipts[0]);
        assert_eq!(written[1], written[3]);
        assert_eq!(
            topic.blocking_produce_batch(batch()).unwrap().iter().map(place).collect::<Vec<_>>(),
            written.iter().map(place).collect::<Vec<_>>()
        );
        let mut all = values(&topic);
        all.sort();
        assert_eq!(all, ["batch 3", "batch 4", "once", "piped"], "{durability}");
        // Records without an identity are as ever.
        topic.blocking_produce(record("plain")).unwrap();
        topic.blocking_produce(record("plain")).unwrap();
        assert_eq!(values(&topic).len(), 6);
        // So is everything of a topic that does not remember.
        let other = create(&log, "other", TopicSettings::default().durability(durability));
        assert_ne!(
            other.blocking_produce(record("x").id("1")).unwrap().offset,
            other.blocking_produce(record("x").id("1")).unwrap().offset
        );
    }
}

fn place(receipt: &Receipt) -> (u32, u64, u64) {
    (receipt.partition, receipt.offset, receipt.commit)
}

#[test]
fn a_retry_with_the_same_identity_comes_before_the_condition() {
    let log = Log::in_memory().unwrap();
    let topic = create(&log, "t", TopicSettings::default().dedup_count_max(100));
    let events = || [keyed("order", "placed").id("e1"), keyed("order", "paid").id("e2")];
    let first = topic.blocking_produce_batch_if(events(), Expected::Empty).unwrap();
    assert_eq!(topic.blocking_produce_batch_if(events(), Expected::Empty).unwrap(), first);
    conflict(topic.blocking_produce_if(keyed("order", "again").id("e3"), Expected::Empty), Expected::Exact(1));
    // What was refused may come again, and is not taken for written.
    assert_eq!(topic.blocking_produce_if(keyed("order", "again").id("e3"), Expected::Exact(1)).unwrap().offset, 2);
    assert_eq!(values(&topic), ["placed", "paid", "again"]);
}

#[test]
fn the_window_has_its_bounds() {
    let log = Log::in_memory().unwrap();
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
    let by_count = create(&log, "count", TopicSettings::default().dedup_count_max(3));
    let offset = |id: &str| by_count.blocking_produce(record(id).id(id)).unwrap().offset;
    assert_eq!(["a", "b", "c", "a", "b"].map(offset), [0, 1, 2, 0, 1]);
    assert_eq!(offset("d"), 3);
    assert_eq!(["b", "c", "d"].map(offset), [1, 2, 3]);
    assert_eq!(offset("a"), 4, "three came after it");
    let settings = TopicSettings::default().dedup_count_max(1000).dedup_age_max(Duration::from_secs(60));
    let by_age = create(&log, "age", settings);
    let offset = |id: &str, time| by_age.blocking_produce(record(id).id(id).timestamp(at(time))).unwrap().offset;
    assert_eq!((offset("a", 1000), offset("a", 1060)), (0, 0));
    assert_eq!(offset("a", 1061), 1, "too old by its own time, though nothing was written in between");
    assert_eq!(offset("a", 500), 1, "an earlier time does not turn the clock back");
    assert_eq!(offset("b", 500), 2);
    assert_eq!(offset("b", 1100), 2, "it was sent at the time of the window");
    by_age.blocking_produce(record("no identity").timestamp(at(5000))).unwrap();
    assert_eq!(offset("b", 1100), 4, "every record moves the time");
}

/// Without a limit of age the oldest and the newest timestamp that there can be are in one window, also when the log is read again.
#[test]
fn no_limit_of_age_is_none_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let topic = create(&log, "t", TopicSettings::default().dedup_count_max(10));
    let first = record("old").id("old").timestamp(DateTime::from_timestamp_micros(-8_334_601_228_800_000_000).unwrap());
    topic.blocking_produce(first).unwrap();
    topic
        .blocking_produce(record("new").timestamp(DateTime::from_timestamp_micros(8_210_266_876_799_999_999).unwrap()))
        .unwrap();
    let crashed = killed(log.path());
    let log = Log::blocking_open(crashed.path()).unwrap();
    let again = log.raw_topic("t").unwrap().blocking_produce(record("again").id("old")).unwrap();
    assert_eq!(again.offset, 0);
}

/// The same after a reopen, with the view that the close has left, without it, and after a crash.
#[test]
fn first_receipts_and_versions_outlive_the_process() {
    for durability in LEVELS {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::blocking_open(dir.path()).unwrap();
        let settings = TopicSettings::default().partitions(2).durability(durability).dedup_count_max(1000);
        let topic = create(&log, "t", settings.segment_bytes_max(64 << 10));
        let mut first = BTreeMap::new();
        let mut send = |topic: &Topic, ids: std::ops::Range<u32>| {
            for id in ids {
                let record = keyed(&format!("key {}", id % 7), &"x".repeat(300)).id(format!("id {id}"));
                let receipt = topic.blocking_produce(record).unwrap();
                assert_eq!(*first.entry(id).or_insert(place(&receipt)), place(&receipt), "{id}, {durability}");
            }
        };
        send(&topic, 0..300);
        let crashed = killed(log.path());
        log.blocking_close().unwrap();
        assert!(dir.path().join("views/dedup").is_dir());

        for (case, dir) in [dir.path(), crashed.path()].into_iter().enumerate() {
            for round in 0..3 {
                if round == 1 {
                    fs::rename(dir.join("views"), dir.join("views.gone")).unwrap();
                }
                let log = Log::blocking_open(dir).unwrap();
                let topic = log.raw_topic("t").unwrap();
                send(&topic, 100..300);
                send(&topic, 0..100);
                let written: u64 = (0..2).map(|number| topic.watermarks(number).unwrap().high_watermark).sum();
                assert_eq!(written, 300, "{durability}, {case}, {round}");
                let key = keyed("key 3", "no");
                let partition = topic.partition_for(b"key 3");
                let newest = (0..300).rev().find(|id| id % 7 == 3).unwrap();
                let mut history = topic.replay_partition(partition, Start::Earliest).blocking().unwrap();
                let mut offset = 0;
                while let Some(message) = history.next_message().unwrap() {
                    if message.headers().get_str("message_id") == Some(&format!("id {newest}")) {
                        offset = message.offset();
                    }
                }
                conflict(topic.blocking_produce_if(key, Expected::Empty), Expected::Exact(offset));
                log.blocking_close().unwrap();
            }
            if case == 0 {
                let log = Log::blocking_open(dir).unwrap();
                assert_eq!(log.raw_topic("t").unwrap().settings().dedup_count_max, 1000);
            }
        }
    }
}

/// A relaxed topic that has lost its end has other records at the offsets that the view knows.
#[test]
fn a_view_that_is_ahead_of_the_log_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || TopicSettings::default().durability(Durability::Os).dedup_count_max(1000);
    let log = Log::blocking_open(dir.path()).unwrap();
    create(&log, "t", settings()).blocking_produce(record("kept").id("kept")).unwrap();
    log.blocking_close().unwrap();
    let before = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), before.path());
    let log = Log::blocking_open(dir.path()).unwrap();
    log.raw_topic("t").unwrap().blocking_produce_batch(["lost", "too"].map(|id| record(id).id(id))).unwrap();
    log.blocking_close().unwrap();
    // The older log with the newer view.
    fs::remove_dir_all(before.path().join("views")).unwrap();
    copy_dir(&dir.path().join("views"), &before.path().join("views"));
    let log = Log::blocking_open(before.path()).unwrap();
    let topic = log.raw_topic("t").unwrap();
    assert_eq!(topic.blocking_produce(record("kept").id("kept")).unwrap().offset, 0);
    assert_eq!(topic.blocking_produce(record("other").id("other")).unwrap().offset, 1);
    assert_eq!(topic.blocking_produce(record("lost").id("lost")).unwrap().offset, 2, "it is not in this log");
    assert_eq!(topic.blocking_produce(record("lost").id("lost")).unwrap().offset, 2);
    log.blocking_close().unwrap();
    let log = Log::blocking_open(before.path()).unwrap();
    let topic = log.raw_topic("t").unwrap();
    assert_eq!(
        ["kept", "other", "lost"].map(|id| topic.blocking_produce(record(id).id(id)).unwrap().offset),
        [0, 1, 2]
    );
}

/// One commit over several topics, of which some remember.
#[test]
fn a_batch_over_topics_goes_through_all_guards() {
    let log = Log::in_memory().unwrap();
    let plain = create(&log, "plain", TopicSettings::default().partitions(2));
    let dedup = create(&log, "dedup", TopicSettings::default().dedup_count_max(100));
    let os = create(&log, "os", TopicSettings::default().durability(Durability::Os).dedup_count_max(100));
    let send = |n: usize| {
        let mut batch = Batch::new();
        batch.add(&plain, keyed("k", &format!("plain {n}"))).unwrap();
        batch.add(&dedup, record("dedup").id("d")).unwrap();
        batch.add(&os, record(&format!("os {n}")).id(format!("o{}", n / 2))).unwrap();
        batch.add(&plain, record(&format!("more {n}")).partition(0)).unwrap();
        log.blocking_produce_all(batch).unwrap()
    };
    let receipts: Vec<_> = (0..4).map(send).collect();
    assert!(receipts.iter().all(|later| place(&later[1]) == place(&receipts[0][1])));
    assert_eq!(receipts.iter().map(|receipts| receipts[2].offset).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert_eq!(values(&dedup).len(), 1);
    assert_eq!(values(&os), ["os 0", "os 2"]);
    assert_eq!(values(&plain).len(), 8);
    let newest = receipts[3][0].offset;
    conflict(plain.blocking_produce_if(keyed("k", "no"), Expected::Empty), Expected::Exact(newest));
    assert_eq!(receipts[0][1].commit, receipts[0][0].commit);
}

/// Retries of many producers at once, in all ways of sending: every identity is there once.
#[test]
fn of_many_that_send_the_same_each_identity_is_written_once() {
    for durability in LEVELS {
        let log = Log::temporary().unwrap();
        let settings = TopicSettings::default().partitions(2).durability(durability).dedup_count_max(10_000);
        let topic = create(&log, "t", settings);
        let receipts = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6_usize)
                .map(|thread| {
                    let topic = topic.clone();
                    scope.spawn(move || {
                        let mut places = BTreeMap::new();
                        for id in (0..200).map(|n| (n * 7 + thread * 31) % 200) {
                            let make = |id: usize| record(&format!("{id}")).id(format!("{id}"));
                            match thread % 3 {
                                0 => {
                                    places.insert(id, topic.blocking_produce(make(id)).unwrap());
                                }
                                1 => {
                                    places.insert(id, topic.blocking_send(make(id)).unwrap().wait().unwrap());
                                }
                                _ => {
                                    let ids = [id, (id + 1) % 200, (id + 50) % 200];
                                    let receipts = topic.blocking_produce_batch(ids.map(make)).unwrap();
                                    places.extend(ids.into_iter().zip(receipts));
                                }
                            }
                        }
                        places
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let mut written = values(&topic);
        written.sort_by_key(|id| id.parse::<usize>().unwrap());
        assert_eq!(written, (0..200).map(|id| id.to_string()).collect::<Vec<_>>(), "{durability}");
        for places in &receipts {
            for (id, receipt) in places {
                assert_eq!(place(receipt), place(&receipts[0][id]), "{durability}");
            }
        }
    }
}

/// Borrowed records have identities in their headers, and take part like any other.
#[test]
fn borrowed_records_take_part() {
    for durability in LEVELS {
        let log = Log::in_memory().unwrap();
        let settings = TopicSettings::default().partitions(4).durability(durability).dedup_count_max(100);
        let topic = create(&log, "t", settings);
        let headers = [("message_id", Some(&b"1"[..]))];
        let borrowed = RecordRef::new("once").headers(&headers);
        let first = topic.blocking_produce_ref(borrowed).unwrap();
        assert_eq!(topic.blocking_produce(record("twice").id("1")).unwrap(), first);
        assert_eq!(topic.blocking_produce_batch_refs([borrowed, RecordRef::new("other")]).unwrap()[0], first);
        topic.blocking_produce_ref(RecordRef::new("keyed").key("k")).unwrap();
        assert!(topic.blocking_produce_if(keyed("k", "no"), Expected::Empty).is_err());
        let newest = topic.blocking_produce_ref(RecordRef::new("newer").key("k")).unwrap();
        conflict(topic.blocking_produce_if(keyed("k", "no"), Expected::Empty), Expected::Exact(newest.offset));
        let too_long = "x".repeat(256);
        let headers = [("message_id", Some(too_long.as_bytes()))];
        let refused = topic.blocking_produce_ref(RecordRef::new("x").headers(&headers)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert_eq!(values(&topic).len(), 4, "{durability}");
    }
}

/// Turned on and off while the topic is open, the window is always that of the log.
#[tokio::test]
async fn identities_can_be_remembered_from_now_on() {
    let log = Log::in_memory().unwrap();
    let settings = TopicSettings::default();
    let topic = log.create_raw_topic("t", settings.clone()).await.unwrap();
    let mut offset = 0;
    for _ in 0..3 {
        for id in ["a", "a"] {
            assert_eq!(topic.produce(record(id).id(id)).await.unwrap().offset, offset);
            offset += 1;
        }
        log.alter_topic("t", settings.clone().dedup_count_max(10)).await.unwrap();
        assert_eq!(
            topic.produce(record("a").id("a")).await.unwrap().offset,
            offset - 1,
            "the newest, as the log has it"
        );
        assert_eq!(topic.produce(record("b").id("b")).await.unwrap().offset, 2);
        offset = topic.watermarks(0).unwrap().high_watermark;
        log.alter_topic("t", settings.clone()).await.unwrap();
    }
}
