//! Compression through the public surface: what is read is what was sent, whatever the way in and the way out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use annals::{Batch, Compression, Durability, ErrorKind, Log, Raw, Record, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;
use futures_util::StreamExt;

const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd { level: 3 }];

fn text(number: usize, repeats: usize) -> Bytes {
    format!("order {number} was paid; ").repeat(repeats).into()
}

/// Bytes that no compression makes smaller.
fn noise(len: usize) -> Bytes {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn topic(log: &Log, name: &str, settings: TopicSettings) -> Topic {
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings).unwrap()
}

fn read(topic: &Topic) -> Vec<Bytes> {
    let mut history = topic.replay(Start::Earliest).blocking().unwrap();
    let mut values = Vec::new();
    while let Some(message) = history.next_message().unwrap() {
        values.push(message.into_value().unwrap());
    }
    values
}

/// Every way of sending, some of it compressible and some not. Answers what was sent.
fn send_all_ways(log: &Log, topic: &Topic, first: usize) -> Vec<Bytes> {
    let mut sent = Vec::new();
    let mut send = |value: Bytes| {
        sent.push(value.clone());
        Record::new(value)
    };
    topic.blocking_produce(send(text(first, 1))).unwrap();
    topic.blocking_produce(send(text(first + 1, 100))).unwrap();
    topic.blocking_produce(send(noise(3000))).unwrap();
    topic.blocking_produce_batch((2..40).map(|n| send(text(first + n, 3))).collect::<Vec<_>>()).unwrap();
    let deliveries: Vec<_> = (40..80).map(|n| topic.blocking_send(send(text(first + n, 5))).unwrap()).collect();
    for delivery in deliveries {
        delivery.wait().unwrap();
    }
    let other = log.raw_topic("other").unwrap();
    let mut batch = Batch::new();
    for n in 80..120 {
        batch.add(topic, send(text(first + n, 2))).unwrap();
        batch.add(&other, Record::new(text(n, 2))).unwrap();
    }
    log.blocking_produce_all(batch).unwrap();
    sent
}

fn bytes_on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "log")).map(|p| p.metadata().unwrap().len()).sum()
}

#[test]
fn what_is_sent_any_way_is_read_and_stays_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    for durability in [Durability::Sync, Durability::Os] {
        let mut sizes = Vec::new();
        for compression in ALL {
            let name = format!("{durability}-{}", compression.to_string().replace(' ', "-"));
            let settings = TopicSettings::default().durability(durability).compression(compression);
            let log = Log::blocking_open(dir.path()).unwrap();
            topic(&log, "other", TopicSettings::default().compression(Compression::Lz4));
            let orders = topic(&log, &name, settings.clone());
            let mut sent = send_all_ways(&log, &orders, 0);
            assert_eq!(read(&orders), sent, "{name}");
            log.blocking_close().unwrap();

            let log = Log::blocking_open(dir.path()).unwrap();
            let orders = log.raw_topic(&name).unwrap();
            assert_eq!(orders.settings(), settings);
            assert_eq!(read(&orders), sent, "{name} after a reopen");
            sent.extend(send_all_ways(&log, &orders, 1000));
            assert_eq!(read(&orders), sent, "{name}, both");
            log.blocking_close().unwrap();
            sizes.push(bytes_on_disk(&dir.path().join("topics").join(&name).join("0")));
        }
        assert!(sizes[1] < sizes[0] && sizes[2] < sizes[0], "{durability}: {sizes:?}");
    }
}

/// Followers get frames from memory, readers of history from the disk; both see the same.
#[tokio::test]
async fn followers_and_readers_of_history_see_the_same() {
    for compression in ALL {
        for durability in [Durability::Sync, Durability::Os] {
            let log = Log::in_memory().unwrap();
            let settings = TopicSettings::default().partitions(2).durability(durability).compression(compression);
            let topic = log.create_raw_topic("orders", settings).await.unwrap();
            let mut live = topic.replay(Start::Earliest).follow();
            let mut sent = Vec::new();
            for round in 0..20_usize {
                let partition = (round % 2) as u32;
                let records = (0..10).map(|n| Record::new(text(round * 10 + n, 4)).partition(partition));
                sent.extend(records.clone().map(|record| record.value.unwrap()));
                topic.produce_batch(records).await.unwrap();
                for value in &sent[round * 10..] {
                    assert_eq!(live.next().await.unwrap().unwrap().value(), Some(value), "{compression}, {durability}");
                }
            }
            let history: Vec<_> = topic.replay(Start::Earliest).collect().await;
            assert!(history.into_iter().map(|message| message.unwrap().into_value().unwrap()).eq(sent));
            // From the middle of a frame, and by commit and time.
            for offset in [1, 17, 99] {
                let mut some = topic.replay_partition(0, Start::Offset(offset));
                assert_eq!(some.next().await.unwrap().unwrap().offset(), offset);
            }
        }
    }
}

#[test]
fn a_level_that_does_not_exist_is_refused() {
    let log = Log::in_memory().unwrap();
    for level in [0, 23, 255] {
        let settings = TopicSettings::default().compression(Compression::Zstd { level });
        let created = log.blocking_create_topic(TopicDef::<Bytes, Raw>::new("orders"), settings);
        assert_eq!(created.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
