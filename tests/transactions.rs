//! Transactions: all or nothing, with or without consumers, beside other producers, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/copy.rs"]
mod copy;

use annals::{
    Durability, ErrorKind, Log, Receipt, Record, RecordRef, Start, Topic, TopicDef, TopicSettings, Transaction,
};
use bytes::Bytes;
use copy::killed;

fn create(log: &Log, name: &str, settings: TopicSettings) -> Topic {
    log.blocking_create_topic(TopicDef::named(name), settings).unwrap()
}

fn record(text: &str) -> Record {
    Record::new(Bytes::copy_from_slice(text.as_bytes()))
}

fn values(topic: &Topic) -> Vec<String> {
    let mut history = topic.replay(Start::Earliest).blocking().unwrap();
    let mut values = Vec::new();
    while let Some(message) = history.next_message().unwrap() {
        values.push(String::from_utf8(message.value().unwrap().to_vec()).unwrap());
    }
    values
}

fn kind<T: std::fmt::Debug>(answer: annals::Result<T>) -> ErrorKind {
    answer.unwrap_err().kind()
}

#[test]
fn all_of_it_is_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let (input, output) = (create(&log, "in", TopicSettings::default()), create(&log, "out", TopicSettings::default()));
    let audit = create(&log, "audit", TopicSettings::default().partitions(3).durability(Durability::Os));
    for number in 0..3 {
        input.blocking_produce(record(&number.to_string())).unwrap();
    }
    let mut consumer = input.subscribe("g").blocking_build().unwrap();
    let message = consumer.blocking_recv().unwrap().unwrap();
    let mut tx = log.transaction();
    tx.produce(&output, record("done 0")).unwrap();
    tx.produce_ref(&audit, RecordRef::new("audit").key("k")).unwrap();
    tx.commit_offset(&consumer, &message).unwrap();
    assert!(values(&output).is_empty(), "nothing is written before the commit");
    let receipts = tx.blocking_commit().unwrap();
    assert_eq!(receipts.len(), 2);
    assert_eq!(receipts[0].commit, receipts[1].commit);
    assert!(receipts.iter().all(|receipt| receipt.durability == Durability::Sync));
    // Dropped, it leaves no trace.
    let message = consumer.blocking_recv().unwrap().unwrap();
    let mut tx = log.transaction();
    tx.produce(&output, record("never")).unwrap();
    tx.commit_offset(&consumer, &message).unwrap();
    tx.abort();
    let crashed = killed(log.path());
    let log = Log::blocking_open(crashed.path()).unwrap();
    assert_eq!(values(&log.raw_topic("out").unwrap()), ["done 0"]);
    let mut consumer = log.raw_topic("in").unwrap().subscribe("g").blocking_build().unwrap();
    assert_eq!(consumer.blocking_recv().unwrap().unwrap().offset(), 1);
}

#[test]
fn other_producers_go_on_meanwhile() {
    let log = Log::in_memory().unwrap();
    let topic = create(&log, "t", TopicSettings::default());
    let mut tx = log.transaction();
    tx.produce(&topic, record("in the transaction")).unwrap();
    topic.blocking_produce(record("beside it")).unwrap();
    assert_eq!(values(&topic), ["beside it"]);
    tx.blocking_commit().unwrap();
    assert_eq!(values(&topic), ["beside it", "in the transaction"]);
}

/// With records alone, offsets alone, and nothing at all.
#[test]
fn any_part_may_be_missing() {
    let log = Log::temporary().unwrap();
    assert!(log.transaction().blocking_commit().unwrap().is_empty());
    let relaxed = create(&log, "relaxed", TopicSettings::default().durability(Durability::Os));
    let mut tx = log.transaction();
    tx.produce(&relaxed, record("a")).unwrap();
    let receipt = tx.blocking_commit().unwrap().remove(0);
    assert_eq!(receipt.durability, Durability::Sync);
    assert_eq!(relaxed.watermarks(0).unwrap().durable_end, 1);
    let mut consumer = relaxed.subscribe("g").blocking_build().unwrap();
    let message = consumer.blocking_recv().unwrap().unwrap();
    let mut tx = log.transaction();
    tx.commit_offset(&consumer, &message).unwrap();
    assert!(tx.blocking_commit().unwrap().is_empty());
    drop(consumer);
    let mut consumer = relaxed.subscribe("g").blocking_build().unwrap();
    assert!(consumer.try_recv().unwrap().is_none());
}

/// Records whose identities are known are not written again, and what goes along is committed all the same.
#[test]
fn identities_are_written_once_and_offsets_committed() {
    let log = Log::temporary().unwrap();
    let input = create(&log, "in", TopicSettings::default());
    let output = create(&log, "out", TopicSettings::default().dedup_count_max(100));
    for number in 0..2 {
        input.blocking_produce(record(&number.to_string())).unwrap();
    }
    let first = output.blocking_produce(record("0").id("0")).unwrap();
    let mut consumer = input.subscribe("g").blocking_build().unwrap();
    let mut receipts: Vec<Receipt> = Vec::new();
    for ids in [&["0"][..], &["0", "1"]] {
        let message = consumer.blocking_recv().unwrap().unwrap();
        let mut tx = log.transaction();
        ids.iter().for_each(|id| tx.produce(&output, record(id).id(*id)).unwrap());
        tx.commit_offset(&consumer, &message).unwrap();
        receipts.extend(tx.blocking_commit().unwrap());
    }
    assert_eq!(receipts.iter().map(|receipt| receipt.offset).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(receipts[0].commit, first.commit);
    assert_eq!(values(&output), ["0", "1"]);
    drop(consumer);
    assert!(input.subscribe("g").blocking_build().unwrap().try_recv().unwrap().is_none());
}

#[test]
fn a_large_one_is_refused_and_stays_usable() {
    let log = Log::builder().commit_bytes_max(256 << 10).in_memory().unwrap();
    let topic = create(&log, "t", TopicSettings::default().record_bytes_max(100 << 10));
    let mut tx = log.transaction();
    let large = Bytes::from(vec![1; 90 << 10]);
    tx.produce(&topic, Record::new(large.clone())).unwrap();
    tx.produce(&topic, Record::new(large.clone())).unwrap();
    let refused = tx.produce(&topic, Record::new(large)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("commit_bytes_max"), "{refused}");
    assert_eq!(tx.blocking_commit().unwrap().len(), 2);
}

#[tokio::test]
async fn what_belongs_elsewhere_is_refused() {
    let (log, other) = (Log::in_memory().unwrap(), Log::in_memory().unwrap());
    let (topic, theirs) = (create(&log, "t", TopicSettings::default()), create(&other, "t", TopicSettings::default()));
    topic.blocking_produce(record("a")).unwrap();
    theirs.blocking_produce(record("a")).unwrap();
    let mut consumer = theirs.subscribe("g").blocking_build().unwrap();
    let message = consumer.blocking_recv().unwrap().unwrap();
    let mut tx = log.transaction();
    assert_eq!(kind(tx.produce(&theirs, record("b"))), ErrorKind::Invalid);
    assert_eq!(kind(tx.commit_offset(&consumer, &message)), ErrorKind::Invalid);
    let mut mine = topic.subscribe("g").blocking_build().unwrap();
    assert_eq!(kind(tx.commit_offset(&mine, &message)), ErrorKind::Invalid, "it was delivered by another log");
    let message = mine.blocking_recv().unwrap().unwrap();
    tx.commit_offset(&mine, &message).unwrap();
    tx.produce(&topic, record("b")).unwrap();
    log.delete_topic("t").await.unwrap();
    let answer = tx.blocking_commit();
    assert!(matches!(kind(answer), ErrorKind::NotFound | ErrorKind::Fenced));
    let tx: Transaction = log.transaction();
    log.blocking_close().unwrap();
    assert_eq!(kind(tx.blocking_commit()), ErrorKind::Closed);
}

/// A commit and a transaction of one partition follow each other in the log as they do in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_and_transactions_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let (input, output) = (create(&log, "in", TopicSettings::default()), create(&log, "out", TopicSettings::default()));
    for number in 0..60 {
        input.produce(record(&number.to_string())).await.unwrap();
    }
    let mut consumer = input.subscribe("g").build().await.unwrap();
    for round in 0..15 {
        let messages = consumer.recv_batch(4).await.unwrap();
        consumer.commit_async(&messages[0]).unwrap();
        let plain = consumer.commit(&messages[1]);
        let mut tx = log.transaction();
        tx.produce(&output, record(&round.to_string())).unwrap();
        tx.commit_offset(&consumer, &messages[2]).unwrap();
        let (plain, sent) = tokio::join!(plain, tx.commit());
        plain.unwrap();
        sent.unwrap();
        if round % 2 == 0 {
            consumer.commit_async(&messages[3]).unwrap();
        }
        let crashed = killed(log.path());
        let copy = Log::open(crashed.path()).await.unwrap();
        let mut again = copy.raw_topic("in").unwrap().subscribe("g").build().await.unwrap();
        let next = again.recv().await.unwrap().map(|message| message.offset());
        assert!(next.is_none_or(|next| next > messages[2].offset()), "{next:?} after {}", messages[2].offset());
        if next.is_none_or(|next| next >= 56) {
            break;
        }
    }
}
