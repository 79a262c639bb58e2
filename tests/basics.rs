//! The public surface, as its user meets it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use annals::{Batch, Durability, ErrorKind, Json, Log, Record, Start, TopicDef, TopicSettings};
use futures_util::StreamExt;

const LEVELS: [Durability; 3] = [Durability::Sync, Durability::Interval(Duration::from_millis(5)), Durability::Os];

async fn collect(topic: &annals::Topic<String, Json>, start: Start) -> Vec<String> {
    topic.replay(start).map(|message| message.unwrap().into_value().unwrap()).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_level_keeps_what_it_acknowledged_through_a_reopening() {
    for durability in LEVELS {
        let dir = tempfile::tempdir().unwrap();
        let def = || TopicDef::<String, Json>::new("orders");
        let settings = TopicSettings::default().partitions(4).durability(durability);
        let mut expected = Vec::new();
        for round in 0..3 {
            let log = Log::open(dir.path()).await.unwrap();
            assert!(log.recovery().clean);
            let topic = log.create_topic(def(), settings.clone()).await.unwrap();
            for index in 0..50 {
                let value = format!("{round}-{index}");
                let receipt = topic.produce(Record::new(value.clone()).key(format!("k{}", index % 7))).await.unwrap();
                assert_eq!(receipt.durability, durability);
                expected.push(value);
            }
            assert_eq!(collect(&topic, Start::Earliest).await, expected);
            assert_eq!(collect(&topic, Start::Last(3)).await, expected[expected.len() - 3..]);
            log.close().await.unwrap();
            assert_eq!(topic.produce("late".to_string()).await.unwrap_err().kind(), ErrorKind::Closed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_syncs_and_each_keeps_its_order() {
    let log = Log::temporary().unwrap();
    let topic = log
        .create_topic(TopicDef::<String, Json>::new("orders"), TopicSettings::default().partitions(8))
        .await
        .unwrap();
    let mut follower = topic.replay(Start::Earliest).follow();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let topic = topic.clone();
            tokio::spawn(async move {
                for index in 0..50 {
                    topic.produce(Record::new(format!("{task} {index}")).key(format!("{task}"))).await.unwrap();
                }
            })
        })
        .collect();
    let mut next = [0; 16];
    let mut commit = 0;
    for _ in 0..16 * 50 {
        let message = tokio::time::timeout(Duration::from_secs(20), follower.next()).await.unwrap().unwrap().unwrap();
        assert!(message.commit() >= commit, "causal order");
        commit = message.commit();
        let (task, index) = message.value().unwrap().split_once(' ').unwrap();
        let (task, index): (usize, i32) = (task.parse().unwrap(), index.parse().unwrap());
        assert_eq!(next[task], index);
        next[task] += 1;
    }
    for task in tasks {
        task.await.unwrap();
    }
    let waiting = tokio::spawn(async move { follower.next().await });
    tokio::task::yield_now().await;
    log.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn threads_need_no_runtime() {
    let log = Log::temporary().unwrap();
    let orders = TopicDef::<String, Json>::new("orders");
    let topic = log.blocking_create_topic(orders, TopicSettings::default().partitions(3)).unwrap();
    let deliveries: Vec<_> =
        (0..100).map(|index| topic.blocking_send(Record::new(format!("{index}"))).unwrap()).collect();
    for delivery in deliveries {
        delivery.wait().unwrap();
    }
    let mut batch = Batch::new();
    for partition in 0..3 {
        batch.add(&topic, Record::new(format!("all {partition}")).partition(partition)).unwrap();
    }
    let receipts = log.blocking_produce_all(batch).unwrap();
    assert!(receipts.iter().all(|receipt| receipt.commit == receipts[0].commit));
    let mut history = topic.replay(Start::Commit(receipts[0].commit)).blocking().unwrap();
    for partition in 0..3 {
        let message = history.next_message().unwrap().unwrap();
        assert_eq!(message.value().unwrap(), &format!("all {partition}"));
    }
    assert!(history.next().unwrap().is_none());
}

#[test]
fn a_lock_is_held_until_close_and_released_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    assert_eq!(Log::blocking_open(dir.path()).unwrap_err().kind(), ErrorKind::Locked);
    let keeps_alive =
        log.blocking_create_topic(TopicDef::<String, Json>::new("orders"), TopicSettings::default()).unwrap();
    log.blocking_close().unwrap();
    let again = Log::blocking_open(dir.path()).unwrap();
    assert_eq!(keeps_alive.blocking_produce("x".to_string()).unwrap_err().kind(), ErrorKind::Closed);
    drop(again);
}

/// A codec that keeps a note of each value in another topic.
struct Noting(std::sync::OnceLock<annals::Topic<String, Json>>);

static NOTES: Noting = Noting(std::sync::OnceLock::new());

#[derive(Default)]
struct SendsItself;

impl annals::Codec<String> for SendsItself {
    const CONTENT_TYPE: &'static str = "text/plain";

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<(), annals::CodecError> {
        let notes = NOTES.0.get().ok_or_else(|| annals::CodecError::new("no topic for notes"))?;
        notes.blocking_produce(format!("about {value}")).map_err(annals::CodecError::new)?;
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &bytes::Bytes) -> Result<String, annals::CodecError> {
        String::from_utf8(bytes.to_vec()).map_err(annals::CodecError::new)
    }
}

#[test]
fn a_codec_may_send_records_itself() {
    let log = Log::in_memory().unwrap();
    let notes = log.blocking_create_topic(TopicDef::<String, Json>::new("notes"), TopicSettings::default()).unwrap();
    NOTES.0.set(notes.clone()).unwrap();
    let plain = TopicDef::<String, SendsItself>::new("plain");
    let topic = log.blocking_create_topic(plain, TopicSettings::default()).unwrap();
    topic.blocking_produce("this".to_string()).unwrap();
    let read = topic.replay(Start::Earliest).blocking().unwrap().next_message().unwrap().unwrap();
    assert_eq!(read.value().unwrap(), "this");
    let noted = notes.replay(Start::Earliest).blocking().unwrap().next_message().unwrap().unwrap();
    assert_eq!(noted.value().unwrap(), "about this");
}

#[test]
fn a_sync_waits_for_what_was_sent() {
    let log = Log::temporary().unwrap();
    let topic = log.blocking_create_topic(TopicDef::<String, Json>::new("orders"), TopicSettings::default()).unwrap();
    for round in 0..50 {
        let delivery = topic.blocking_send(format!("{round}")).unwrap();
        log.blocking_sync().unwrap();
        assert!(delivery.try_receipt().is_some(), "what was sent before the sync has its receipt after it");
    }
}
