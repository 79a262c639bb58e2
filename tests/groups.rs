//! Consumer groups: sharing partitions, committing, going on after a restart, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/copy.rs"]
mod copy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::{
    Consumer, ErrorKind, Item, Log, Message, OnGap, Rebalance, Record, Reset, Start, Topic, TopicDef, TopicPartition,
    TopicSettings,
};
use bytes::Bytes;
use copy::killed;
use futures_util::StreamExt;

async fn topic(log: &Log, name: &str, partitions: u32) -> Topic {
    log.create_topic(TopicDef::named(name), TopicSettings::default().partitions(partitions)).await.unwrap()
}

async fn fill(topic: &Topic, partition: u32, count: u32) {
    for number in 0..count {
        topic.produce(Record::new(Bytes::from(number.to_string())).partition(partition)).await.unwrap();
    }
}

fn place(message: &Message) -> (u32, u64) {
    (message.partition(), message.offset())
}

/// Everything that there is.
async fn drain(consumer: &mut Consumer) -> Vec<Message> {
    let mut all: Vec<Message> = consumer.try_recv().unwrap().into_iter().collect();
    while consumer.lag().iter().any(|lag| lag.records() > 0) {
        match tokio::time::timeout(Duration::from_secs(20), consumer.next()).await.unwrap() {
            Some(Ok(Item::Message(message))) => all.push(message),
            Some(Ok(Item::CaughtUp)) => return all,
            other => panic!("{other:?}"),
        }
    }
    all
}

/// The next message, which must come.
async fn next(consumer: &mut Consumer) -> Message {
    tokio::time::timeout(Duration::from_secs(20), consumer.recv()).await.expect("a message comes").unwrap().unwrap()
}

/// That nothing comes for a while.
async fn silent(consumer: &mut Consumer) {
    let waited = tokio::time::timeout(Duration::from_millis(30), consumer.recv()).await;
    assert!(waited.is_err(), "{waited:?}");
}

fn partitions(consumer: &Consumer) -> Vec<u32> {
    consumer.assignment().into_iter().map(|place| place.partition).collect()
}

#[tokio::test]
async fn a_group_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let orders = topic(&log, "orders", 1).await;
    fill(&orders, 0, 10).await;
    let mut consumer = orders.subscribe("billing").build().await.unwrap();
    for offset in 0..4 {
        let message = next(&mut consumer).await;
        assert_eq!(message.offset(), offset);
        consumer.commit(&message).await.unwrap();
    }
    // Received, and not committed.
    assert_eq!(next(&mut consumer).await.offset(), 4);
    let crashed = killed(log.path());
    log.close().await.unwrap();
    assert!(consumer.recv().await.unwrap().is_none());
    for dir in [dir.path(), crashed.path()] {
        let log = Log::open(dir).await.unwrap();
        let orders = log.raw_topic("orders").unwrap();
        let mut again = orders.subscribe("billing").build().await.unwrap();
        assert_eq!(next(&mut again).await.offset(), 4);
        let mut other = orders.subscribe("shipping").build().await.unwrap();
        assert_eq!(next(&mut other).await.offset(), 0, "each group gets everything");
        drop((again, other));
        log.close().await.unwrap();
    }
}

#[tokio::test]
async fn history_and_live_records_are_one_stream() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 3).await;
    for partition in 0..3 {
        fill(&orders, partition, 20).await;
    }
    let mut consumer = orders.subscribe("billing").build().await.unwrap();
    assert_eq!(drain(&mut consumer).await.len(), 60);
    silent(&mut consumer).await;
    let producer = tokio::spawn({
        let orders = orders.clone();
        async move { fill(&orders, 1, 5).await }
    });
    for offset in 20..25 {
        assert_eq!(place(&next(&mut consumer).await), (1, offset));
    }
    producer.await.unwrap();
    assert_eq!(consumer.position("orders", 1).unwrap(), 25);
    assert_eq!(consumer.lag().iter().map(annals::Lag::records).sum::<u64>(), 0);
}

#[tokio::test]
async fn members_share_the_partitions() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 4).await;
    let mut first = orders.subscribe("billing").build().await.unwrap();
    assert_eq!(partitions(&first), [0, 1, 2, 3]);
    let mut second = orders.subscribe("billing").build().await.unwrap();
    // The first has nothing in its hands, so it is not even asked.
    assert_eq!(partitions(&second).len(), 2);
    drain(&mut first).await;
    assert_eq!(partitions(&first).len(), 2);
    for partition in 0..4 {
        fill(&orders, partition, 3).await;
    }
    let mut got = drain(&mut second).await;
    got.extend(drain(&mut first).await);
    let mut places: Vec<_> = got.iter().map(place).collect();
    places.sort_unstable();
    let all: Vec<_> = (0..4).flat_map(|partition| (0..3).map(move |offset| (partition, offset))).collect();
    assert_eq!(places, all);
    // What a member leaves unfinished is delivered again, by the other.
    drop(second);
    assert_eq!(drain(&mut first).await.len(), 6);
    assert_eq!(partitions(&first), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_partition_moves_when_its_member_asks_for_more() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 2).await;
    fill(&orders, 0, 3).await;
    fill(&orders, 1, 3).await;
    let mut first = orders.subscribe("billing").build().await.unwrap();
    let held = drain(&mut first).await;
    let generation = first.generation();
    let mut second = orders.subscribe("billing").build().await.unwrap();
    assert!(first.generation() > generation);
    assert!(partitions(&second).is_empty(), "the first has all of it in its hands");
    // Committing is still allowed.
    first.commit_many(&held[..2]).await.unwrap();
    let waiting = tokio::spawn(async move {
        let message = next(&mut second).await;
        (second, message)
    });
    silent(&mut first).await;
    let (second, message) = waiting.await.unwrap();
    let [moved] = partitions(&second)[..] else { panic!("one moves") };
    let next = held[..2].iter().filter(|held| held.partition() == moved).map(|held| held.offset() + 1).max();
    assert_eq!(place(&message), (moved, next.unwrap_or(0)), "it begins behind what was committed");
    let late = held.iter().rfind(|held| held.partition() == moved).unwrap();
    assert_eq!(first.commit(late).await.unwrap_err().kind(), ErrorKind::Fenced);
    second.commit(&message).await.unwrap();
}

#[tokio::test]
async fn partitions_that_are_added_are_shared_at_once() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 1).await;
    let mut first = orders.subscribe("g").start(Start::Latest).build().await.unwrap();
    let mut second = orders.subscribe("g").build().await.unwrap();
    assert_eq!((partitions(&first), partitions(&second).len()), (vec![0], 0));
    let waiting = tokio::spawn(async move { (next(&mut second).await, second) });
    tokio::task::yield_now().await;
    log.add_partitions("orders", 2).await.unwrap();
    fill(&orders, 1, 1).await;
    let (message, second) = waiting.await.unwrap();
    assert_eq!(place(&message), (1, 0), "also of a group that begins with what is new");
    second.commit(&message).await.unwrap();
    silent(&mut first).await;
}

#[tokio::test]
async fn whoever_takes_too_long_is_fenced() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 2).await;
    fill(&orders, 0, 3).await;
    fill(&orders, 1, 3).await;
    let mut hangs = orders.subscribe("g").revoke_timeout(Duration::from_millis(30)).build().await.unwrap();
    let held = drain(&mut hangs).await;
    let mut second = orders.subscribe("g").build().await.unwrap();
    let taken = tokio::time::timeout(Duration::from_secs(20), second.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(taken.offset(), 0);
    for message in &held {
        let committed = hangs.commit(message).await;
        match message.partition() == taken.partition() {
            true => assert_eq!(committed.unwrap_err().kind(), ErrorKind::Fenced),
            false => committed.unwrap(),
        }
    }
    let both = held.iter().rev().take(6);
    assert_eq!(hangs.commit_many(both).await.unwrap_err().kind(), ErrorKind::Fenced, "all or nothing");
    second.commit(&taken).await.unwrap();
}

#[tokio::test]
async fn the_listener_is_told_and_may_commit() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 2).await;
    fill(&orders, 0, 2).await;
    fill(&orders, 1, 2).await;
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = {
        let told = Arc::clone(&told);
        move |what: Rebalance<'_>| {
            let line = match what {
                Rebalance::Assigned(partitions) => format!("assigned {}", partitions.len()),
                Rebalance::Revoked(going) => {
                    going.commit_all().unwrap();
                    format!("revoked {}", going.partitions().len())
                }
                Rebalance::Lost(partitions) => format!("lost {}", partitions.len()),
                _ => "other".into(),
            };
            told.lock().unwrap().push(line);
        }
    };
    let mut first = orders.subscribe("g").on_rebalance(listener).build().await.unwrap();
    assert_eq!(drain(&mut first).await.len(), 4);
    let mut second = orders.subscribe("g").build().await.unwrap();
    assert!(partitions(&second).is_empty());
    let waiting = tokio::spawn(async move { (drain(&mut second).await, second) });
    silent(&mut first).await;
    let (got, second) = waiting.await.unwrap();
    assert!(got.is_empty(), "all of it was committed when it went: {got:?}");
    assert_eq!(partitions(&second).len(), 1);
    log.delete_topic("orders").await.unwrap();
    assert_eq!(first.recv().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(*told.lock().unwrap(), ["assigned 2", "revoked 1", "lost 1"]);
}

#[tokio::test]
async fn patterns_take_up_topics_that_come_later() {
    let log = Log::in_memory().unwrap();
    let mut consumer = log.subscribe("all", ["orders.*", "users"]).build().await.unwrap_err();
    assert_eq!(consumer.kind(), ErrorKind::NotFound, "a name is of a topic that exists");
    consumer = log.subscribe("all", ["bad name*"]).build().await.unwrap_err();
    assert_eq!(consumer.kind(), ErrorKind::Invalid);
    let mut consumer = log.subscribe("all", ["orders.*"]).start(Start::Latest).build().await.unwrap();
    assert!(consumer.assignment().is_empty());
    let waiting = tokio::spawn(async move {
        let message = next(&mut consumer).await;
        (consumer, message)
    });
    tokio::task::yield_now().await;
    let eu = topic(&log, "orders.eu", 1).await;
    topic(&log, "users", 1).await;
    fill(&eu, 0, 1).await;
    let (consumer, message) = waiting.await.unwrap();
    assert_eq!((message.topic(), message.offset()), ("orders.eu", 0));
    assert_eq!(consumer.assignment(), [TopicPartition { topic: "orders.eu".into(), partition: 0 }]);
}

#[tokio::test]
async fn where_a_group_begins() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 1).await;
    let start = chrono::DateTime::from_timestamp(1_000, 0).unwrap();
    for second in 0..10 {
        let at = start + chrono::Duration::seconds(second);
        orders.produce(Record::new(Bytes::new()).timestamp(at)).await.unwrap();
    }
    let mut latest = orders.subscribe("latest").start(Start::Latest).build().await.unwrap();
    let mut by_time =
        orders.subscribe("time").start(Start::Timestamp(start + chrono::Duration::seconds(7))).build().await.unwrap();
    let mut none = orders.subscribe("none").require_committed().build().await.unwrap();
    orders.produce(Record::new(Bytes::new())).await.unwrap();
    assert_eq!(next(&mut latest).await.offset(), 10);
    assert_eq!(next(&mut by_time).await.offset(), 7);
    assert_eq!(none.recv().await.unwrap_err().kind(), ErrorKind::NotFound);
    // Whoever takes over begins where the first began, also if that has committed nothing.
    drop(latest);
    let mut latest = orders.subscribe("latest").start(Start::Latest).build().await.unwrap();
    assert_eq!(next(&mut latest).await.offset(), 10);
    for start in [Start::Offset(3), Start::Last(2)] {
        let refused = orders.subscribe("g").start(start).build().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn automatic_commits_cover_what_was_followed_by_another_call() {
    let log = Log::temporary().unwrap();
    let orders = topic(&log, "orders", 2).await;
    fill(&orders, 0, 5).await;
    fill(&orders, 1, 5).await;
    let mut consumer = orders.subscribe("g").auto_commit(Duration::from_millis(1)).build().await.unwrap();
    let first = consumer.recv_batch(3).await.unwrap();
    assert_eq!(first.len(), 3);
    let second = next(&mut consumer).await;
    consumer.flush().await.unwrap();
    drop(consumer);
    let mut again = orders.subscribe("g").auto_commit(Duration::from_secs(3600)).build().await.unwrap();
    let rest = drain(&mut again).await;
    assert_eq!(rest.len(), 7, "the last message may be unfinished");
    assert!(rest.iter().any(|message| place(message) == place(&second)));
    again.close().await.unwrap();
    let mut last = orders.subscribe("g").build().await.unwrap();
    assert!(drain(&mut last).await.is_empty());
}

#[tokio::test]
async fn what_was_finished_out_of_order_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let orders = topic(&log, "orders", 1).await;
    fill(&orders, 0, 10).await;
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    let messages = consumer.recv_batch(8).await.unwrap();
    for at in [7, 1, 3, 2] {
        consumer.finish(&messages[at]).unwrap();
    }
    assert_eq!(consumer.note_attempt(&messages[0]).unwrap(), 1);
    assert_eq!(consumer.note_attempt(&messages[0]).unwrap(), 2);
    assert_eq!(consumer.note_attempt(&messages[4]).unwrap(), 1);
    consumer.commit_finished().await.unwrap();
    let crashed = killed(log.path());
    let log = Log::open(crashed.path()).await.unwrap();
    let orders = log.raw_topic("orders").unwrap();
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    let messages = drain(&mut consumer).await;
    assert_eq!(messages.iter().map(Message::offset).collect::<Vec<_>>(), [0, 4, 5, 6, 8, 9]);
    assert_eq!(consumer.attempts(&messages[0]).unwrap(), 2);
    assert_eq!(consumer.attempts(&messages[1]).unwrap(), 1);
    assert_eq!(consumer.attempts(&messages[2]).unwrap(), 0);
    for message in &messages[..4] {
        consumer.finish(message).unwrap();
    }
    consumer.commit_finished().await.unwrap();
    drop(consumer);
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    assert_eq!(drain(&mut consumer).await.iter().map(Message::offset).collect::<Vec<_>>(), [8, 9]);
}

#[tokio::test]
async fn seek_pause_and_resume() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 2).await;
    fill(&orders, 0, 5).await;
    fill(&orders, 1, 5).await;
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    let all = drain(&mut consumer).await;
    consumer.commit_all().await.unwrap();
    consumer.seek("orders", 0, Start::Offset(3)).await.unwrap();
    consumer.seek("orders", 1, Start::Last(1)).await.unwrap();
    let mut again: Vec<_> = drain(&mut consumer).await.iter().map(place).collect();
    again.sort_unstable();
    assert_eq!(again, [(0, 3), (0, 4), (1, 4)]);
    // After a seek a commit may lie before the last one.
    consumer.seek("orders", 0, Start::Earliest).await.unwrap();
    let first = next(&mut consumer).await;
    assert_eq!(place(&first), (0, 0));
    consumer.commit(&first).await.unwrap();
    consumer.pause("orders", 0).unwrap();
    fill(&orders, 1, 1).await;
    assert_eq!(place(&next(&mut consumer).await), (1, 5));
    silent(&mut consumer).await;
    consumer.resume("orders", 0).unwrap();
    assert_eq!(place(&next(&mut consumer).await), (0, 1));
    drop(consumer);
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    let mut places: Vec<_> = drain(&mut consumer).await.iter().map(place).collect();
    places.sort_unstable();
    assert_eq!(places, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5)]);
    // A commit of an earlier message changes nothing.
    consumer.commit_all().await.unwrap();
    consumer.commit(&all.into_iter().find(|message| place(message) == (0, 2)).unwrap()).await.unwrap();
    drop(consumer);
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    assert!(drain(&mut consumer).await.is_empty());
    for refused in [consumer.seek("orders", 7, Start::Earliest).await, consumer.seek("x", 0, Start::Earliest).await] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let refused = consumer.seek("orders", 0, Start::Offset(99)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OffsetOutOfRange);
    assert_eq!(refused.offset_range().unwrap().high_watermark, 5);
}

#[tokio::test]
async fn records_that_are_gone_are_an_item() {
    for (on_gap, first) in [(OnGap::Earliest, Some(6)), (OnGap::Latest, None), (OnGap::Error, None)] {
        let log = Log::in_memory().unwrap();
        let orders = topic(&log, "orders", 1).await;
        fill(&orders, 0, 10).await;
        let mut consumer = orders.subscribe("g").build().await.unwrap();
        let message = next(&mut consumer).await;
        consumer.commit(&message).await.unwrap();
        drop(consumer);
        log.delete_records("orders", 0, 6).await.unwrap();
        let mut consumer = orders.subscribe("g").on_gap(on_gap).build().await.unwrap();
        match consumer.next().await.unwrap() {
            Ok(Item::Gap(gap)) => assert_eq!((gap.from, gap.to), (1, first.unwrap_or(10))),
            Err(error) => {
                assert_eq!(on_gap, OnGap::Error);
                assert_eq!(error.gap().unwrap().to, 6);
                silent(&mut consumer).await;
                consumer.seek("orders", 0, Start::Earliest).await.unwrap();
                assert_eq!(next(&mut consumer).await.offset(), 6);
                continue;
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(drain(&mut consumer).await.first().map(Message::offset), first);
        fill(&orders, 0, 1).await;
        assert_eq!(next(&mut consumer).await.offset(), 10);
        // A new group has missed nothing.
        let mut fresh = orders.subscribe("fresh").build().await.unwrap();
        assert_eq!(drain(&mut fresh).await.len(), 5);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 2).await;
    fill(&orders, 0, 3).await;
    let kind = |answer: annals::Result<()>| answer.unwrap_err().kind();
    for name in ["", "a\0b", &"x".repeat(250)] {
        assert_eq!(orders.subscribe(name).build().await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(log.subscribe("g", []).build().await.unwrap_err().kind(), ErrorKind::Invalid);
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    let first = next(&mut consumer).await;
    let mut ahead = orders.subscribe("ahead").build().await.unwrap();
    let beyond = ahead.recv_batch(3).await.unwrap().pop().unwrap();
    assert_eq!(kind(consumer.commit(&beyond).await), ErrorKind::Invalid, "it was not delivered here");
    assert_eq!(kind(consumer.finish(&beyond)), ErrorKind::Invalid);
    assert_eq!(kind(consumer.commit_async(&beyond)), ErrorKind::Invalid);
    let other = Log::in_memory().unwrap();
    let theirs = topic(&other, "orders", 2).await;
    fill(&theirs, 0, 1).await;
    let mut foreign = theirs.subscribe("g").build().await.unwrap();
    let foreign = next(&mut foreign).await;
    assert_eq!(kind(consumer.commit(&foreign).await), ErrorKind::Invalid);
    let users = topic(&log, "users", 1).await;
    fill(&users, 0, 1).await;
    let mut of_users = users.subscribe("g").build().await.unwrap();
    let of_users = next(&mut of_users).await;
    assert_eq!(kind(consumer.commit(&of_users).await), ErrorKind::Fenced);
    assert_eq!(consumer.recv_batch(0).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(kind(consumer.pause("orders", 9)), ErrorKind::Invalid);
    log.close().await.unwrap();
    assert_eq!(kind(consumer.commit(&first).await), ErrorKind::Closed);
    assert_eq!(consumer.try_recv().unwrap_err().kind(), ErrorKind::Closed);
    assert!(consumer.next().await.is_none());
    assert_eq!(orders.subscribe("g").build().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn threads_consume_as_tasks_do() {
    let log = Log::temporary().unwrap();
    let orders =
        log.blocking_create_topic(TopicDef::<Bytes, annals::Raw>::named("orders"), TopicSettings::default()).unwrap();
    let consumed = std::thread::scope(|scope| {
        let mut consumer = orders.subscribe("g").blocking_build().unwrap();
        let reader = scope.spawn(move || {
            let mut values = Vec::new();
            while values.len() < 50 {
                let message = consumer.blocking_recv().unwrap().unwrap();
                consumer.blocking_commit(&message).unwrap();
                values.push(message.value().unwrap().clone());
            }
            consumer.blocking_close().unwrap();
            values
        });
        for number in 0..50 {
            orders.blocking_produce(Record::new(Bytes::from(number.to_string()))).unwrap();
        }
        reader.join().unwrap()
    });
    assert_eq!(consumed, (0..50).map(|number| Bytes::from(number.to_string())).collect::<Vec<_>>());
    let mut again = orders.subscribe("g").blocking_build().unwrap();
    assert!(matches!(again.blocking_item().unwrap(), Some(Item::CaughtUp)));
}

/// A topic that is deleted and created again is another: what was committed about the first says nothing about it.
#[tokio::test]
async fn offsets_do_not_outlive_their_topic() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    for round in 0..3 {
        let orders = topic(&log, "orders", 1).await;
        fill(&orders, 0, 5 - round).await;
        let mut consumer = orders.subscribe("g").build().await.unwrap();
        let all = drain(&mut consumer).await;
        assert_eq!(all.len() as u32, 5 - round);
        consumer.commit(all.last().unwrap()).await.unwrap();
        log.delete_topic("orders").await.unwrap();
        let gone = consumer.recv().await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        assert!(consumer.assignment().is_empty());
    }
    log.close().await.unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let orders = topic(&log, "orders", 1).await;
    fill(&orders, 0, 2).await;
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    assert_eq!(drain(&mut consumer).await.len(), 2);
}

/// What was said and not awaited is committed by the close of the log, and by a member that goes.
#[tokio::test]
async fn what_was_said_is_written_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for (round, end) in ["close the log", "drop the member", "close the member"].into_iter().enumerate() {
        let log = Log::open(dir.path()).await.unwrap();
        let orders = topic(&log, "orders", 1).await;
        fill(&orders, 0, 2).await;
        let mut consumer = orders.subscribe("g").auto_commit(Duration::from_secs(3600)).build().await.unwrap();
        let first = next(&mut consumer).await;
        assert_eq!(first.offset(), 2 * round as u64, "what was said before is committed; now: {end}");
        let second = next(&mut consumer).await;
        consumer.commit_async(&second).unwrap();
        match end {
            "close the log" => log.close().await.unwrap(),
            "drop the member" => drop(consumer),
            _ => consumer.close().await.unwrap(),
        }
        log.close().await.unwrap();
    }
}

/// A task that panics gives its partitions back, with what it has not finished.
#[tokio::test]
async fn a_consumer_that_panics_leaves() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 2).await;
    fill(&orders, 0, 2).await;
    fill(&orders, 1, 2).await;
    let mut panics = orders.subscribe("g").build().await.unwrap();
    let task = tokio::spawn(async move {
        let message = next(&mut panics).await;
        panics.commit(&message).await.unwrap();
        let message = next(&mut panics).await;
        assert!(message.value().is_none(), "it has a value");
    });
    assert!(task.await.unwrap_err().is_panic());
    let mut other = orders.subscribe("g").build().await.unwrap();
    assert_eq!(drain(&mut other).await.len(), 3);
}

/// What a repair could not save is told to consumers as what it is: missing.
#[tokio::test]
async fn what_a_repair_has_lost_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let orders = topic(&log, "orders", 1).await;
    for number in 0..6_u8 {
        orders.produce(Record::new(Bytes::from(vec![number; 5000]))).await.unwrap();
    }
    log.close().await.unwrap();
    let file = dir.path().join("topics/orders/0/00000000000000000000.log");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(100).position(|part| part == [2; 100]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let repaired = annals::inspect::repair(dir.path(), annals::inspect::RepairOptions::default().apply(true)).unwrap();
    assert!(repaired.applied);
    let log = Log::open(dir.path()).await.unwrap();
    let mut consumer = log.raw_topic("orders").unwrap().subscribe("g").build().await.unwrap();
    let mut got = Vec::new();
    while got.len() < 6 {
        match consumer.next().await.unwrap().unwrap() {
            Item::Message(message) => got.push(message.offset().to_string()),
            Item::Gap(gap) => got.push(format!("gap {} to {}", gap.from, gap.to)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, ["0", "1", "gap 2 to 3", "3", "4", "5"]);
}

/// How far a consumer has come in all its partitions together.
fn next_sum(consumer: &Consumer) -> u64 {
    consumer.lag().iter().map(|lag| lag.position).sum()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 40, ..Default::default() })]

    /// From any point of history to live there is no gap and no duplicate, however little stays in memory, while others write, and
    /// whatever the consumer does in between.
    #[test]
    fn there_is_no_seam_between_history_and_live(
        before in 0..300_usize,
        bursts in proptest::collection::vec((1..60_usize, 0..40_usize, proptest::prelude::any::<bool>()), 1..12),
        tail in proptest::sample::select(vec![0_u64, 2_000, 1 << 20]),
        partitions in 1..4_u32,
    ) {
        let log = Log::builder().tail_bytes_max(tail).in_memory().unwrap();
        let settings = TopicSettings::default().partitions(partitions).durability(annals::Durability::Os);
        let orders: Topic = log.blocking_create_topic(TopicDef::named("orders"), settings.segment_bytes_max(64 << 10)).unwrap();
        let produce = |orders: &Topic, count: usize| {
            for number in 0..count {
                let record = Record::new(Bytes::from(vec![0; 100])).partition(number as u32 % partitions);
                orders.blocking_produce(record).unwrap();
            }
        };
        produce(&orders, before);
        let total = before + bursts.iter().map(|(count, ..)| count).sum::<usize>();
        let mut consumer = orders.subscribe("g").blocking_build().unwrap();
        let mut next = vec![0_u64; partitions as usize];
        let mut received = 0;
        let mut take = |consumer: &mut Consumer, message: Option<Message>| {
            let Some(message) = message else { return false };
            assert_eq!(message.offset(), next[message.partition() as usize], "partition {}", message.partition());
            next[message.partition() as usize] += 1;
            received += 1;
            consumer.commit_async(&message).unwrap();
            true
        };
        std::thread::scope(|scope| {
            let (orders, bursts_too) = (orders.clone(), bursts.clone());
            scope.spawn(move || bursts_too.iter().for_each(|(count, ..)| produce(&orders, *count)));
            for (_, count, restart) in &bursts {
                for _ in 0..*count {
                    let message = consumer.try_recv().unwrap();
                    take(&mut consumer, message);
                }
                if *restart {
                    // The group goes on with another member, whose place is where this one has come to.
                    consumer.blocking_flush().unwrap();
                    consumer = log.subscribe("g", ["orders"]).blocking_build().unwrap();
                }
            }
        });
        let mut idle = 0;
        while idle < 2_000 {
            let message = consumer.try_recv().unwrap();
            if take(&mut consumer, message) {
                idle = 0;
            } else if next_sum(&consumer) == total as u64 {
                break;
            } else {
                idle += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(received, total);
    }
}

/// What many members of many groups get, at random, while records are written: each group everything, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_follow_a_topic_that_is_being_written() {
    let log = Log::temporary().unwrap();
    let orders = topic(&log, "orders", 4).await;
    let total = 2_000_u64;
    let mut tasks = Vec::new();
    for group in ["a", "b", "c"] {
        let seen: Arc<Mutex<BTreeMap<(u32, u64), u32>>> = Arc::default();
        for _ in 0..2 {
            let (orders, seen) = (orders.clone(), Arc::clone(&seen));
            tasks.push(tokio::spawn(async move {
                let mut consumer = orders.subscribe(group).build().await.unwrap();
                while (seen.lock().unwrap().len() as u64) < total {
                    let Ok(next) = tokio::time::timeout(Duration::from_millis(50), consumer.recv()).await else {
                        continue;
                    };
                    let message = next.unwrap().unwrap();
                    let committed = consumer.commit(&message).await;
                    let fenced = committed.is_err_and(|error| error.kind() == ErrorKind::Fenced);
                    if !fenced {
                        *seen.lock().unwrap().entry(place(&message)).or_insert(0) += 1;
                    }
                }
                seen.lock().unwrap().clone()
            }));
        }
    }
    for number in 0..total {
        orders.produce(Record::new(Bytes::new()).key(number.to_string())).await.unwrap();
    }
    for task in tasks {
        let seen = tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
        assert_eq!(seen.len() as u64, total);
        assert!(seen.values().all(|times| *times == 1), "once each");
    }
}

fn committed(log: &Log, group: &str) -> Vec<(u32, Option<u64>)> {
    let described = log.blocking_describe_group(group).unwrap();
    described.partitions.iter().map(|partition| (partition.partition.partition, partition.committed)).collect()
}

#[tokio::test]
async fn groups_are_listed_described_reset_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let orders = topic(&log, "orders", 2).await;
    fill(&orders, 0, 10).await;
    fill(&orders, 1, 4).await;
    assert!(log.groups().await.unwrap().is_empty());
    assert_eq!(log.describe_group("billing").await.unwrap_err().kind(), ErrorKind::NotFound);
    let mut consumer = orders.subscribe("billing").member("worker").build().await.unwrap();
    let messages = drain(&mut consumer).await;
    let of = |partition, offset| messages.iter().find(|message| place(message) == (partition, offset)).unwrap();
    consumer.commit_many([of(0, 5), of(1, 3)]).await.unwrap();
    consumer.finish(of(0, 8)).unwrap();
    consumer.commit_finished().await.unwrap();
    assert_eq!(log.groups().await.unwrap(), ["billing"]);
    let described = log.describe_group("billing").await.unwrap();
    assert_eq!(described.members.len(), 1);
    assert_eq!(described.members[0].id, "worker-1");
    assert_eq!(described.members[0].assignment.len(), 2);
    let first = &described.partitions[0];
    assert_eq!(first.member.as_deref(), Some("worker-1"));
    assert_eq!((first.committed, first.finished_ahead, first.high_watermark, first.lag_records), (Some(6), 1, 10, 3));
    assert!(first.lag > Duration::ZERO && first.committed_at.is_some());
    let second = &described.partitions[1];
    assert_eq!((second.committed, second.lag_records, second.lag), (Some(4), 0, Duration::ZERO));
    assert_eq!(described.lag_records(), 3);
    // Also beside the writer, where nothing can be changed.
    let reader = Log::open_read_only(dir.path()).await.unwrap();
    assert_eq!(reader.groups().await.unwrap(), ["billing"]);
    let beside = reader.describe_group("billing").await.unwrap();
    assert!(beside.members.is_empty());
    assert_eq!(beside.partitions[0].committed, Some(6));
    assert_eq!(reader.reset_group("billing", [], Reset::Latest).await.unwrap_err().kind(), ErrorKind::Invalid);
    let refused = reader.subscribe("billing", ["orders"]).build().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    // Nobody resets a group under its members' feet.
    for refused in [log.reset_group("billing", [], Reset::Earliest).await.map(drop), log.delete_group("billing").await]
    {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        assert!(refused.to_string().contains("1 members"), "{refused}");
    }
    drop(consumer);
    let plan = log.plan_group_reset("billing", [], Reset::Shift(-2)).await.unwrap();
    assert_eq!(
        plan.iter().map(|change| (change.before, change.after)).collect::<Vec<_>>(),
        [(Some(6), 4), (Some(4), 2)]
    );
    assert_eq!(committed(&log, "billing"), [(0, Some(6)), (1, Some(4))], "a plan changes nothing");
    let cases = [
        (Reset::Shift(-2), [4, 2]),
        (Reset::Shift(100), [10, 4]),
        (Reset::Earliest, [0, 0]),
        (Reset::Offset(3), [3, 3]),
        (Reset::Latest, [10, 4]),
        (Reset::Timestamp(chrono::DateTime::UNIX_EPOCH), [0, 0]),
    ];
    for (to, expected) in cases {
        let changes = log.reset_group("billing", ["orders"], to).await.unwrap();
        assert_eq!(changes.iter().map(|change| change.after).collect::<Vec<_>>(), expected, "{to:?}");
        assert_eq!(committed(&log, "billing"), [(0, Some(expected[0])), (1, Some(expected[1]))]);
        let crashed = killed(log.path());
        let copy = Log::open(crashed.path()).await.unwrap();
        assert_eq!(committed(&copy, "billing"), [(0, Some(expected[0])), (1, Some(expected[1]))], "it is on the disk");
    }
    let beyond = log.reset_group("billing", [], Reset::Offset(5)).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::OffsetOutOfRange);
    assert_eq!(log.reset_group("none", [], Reset::Latest).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.reset_group("billing", ["none"], Reset::Latest).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.reset_group("", ["orders"], Reset::Latest).await.unwrap_err().kind(), ErrorKind::Invalid);
    // A group can be set before anybody is in it.
    log.reset_group("fresh", ["orders"], Reset::Offset(2)).await.unwrap();
    let mut fresh = orders.subscribe("fresh").require_committed().build().await.unwrap();
    assert_eq!(drain(&mut fresh).await.len(), 10);
    log.delete_group("billing").await.unwrap();
    assert_eq!(log.delete_group("billing").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.groups().await.unwrap(), ["fresh"]);
    log.close().await.unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    assert_eq!(log.groups().await.unwrap(), ["fresh"], "what was set is committed, and what was deleted is gone");
}

/// annals' own topic is nobody else's business.
#[tokio::test]
async fn the_offsets_cannot_be_tampered_with() {
    let log = Log::in_memory().unwrap();
    let orders = topic(&log, "orders", 1).await;
    fill(&orders, 0, 1).await;
    let mut consumer = orders.subscribe("g").build().await.unwrap();
    let message = next(&mut consumer).await;
    consumer.commit(&message).await.unwrap();
    let own = "__offsets";
    assert_eq!(log.raw_topic(own).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(log.delete_topic(own).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(log.add_partitions(own, 2).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(log.delete_records(own, 0, 1).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(log.alter_topic(own, TopicSettings::default()).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(log.topics().unwrap().len(), 1, "it is not listed");
    let mut history = log.replay(Start::Earliest).blocking().unwrap();
    while let Some(record) = history.next().unwrap() {
        assert_eq!(record.topic(), "orders", "nor is it part of the history");
    }
    let mut own = log.replay_topics([own], Start::Earliest).unwrap().blocking().unwrap();
    assert!(own.next().unwrap().is_some(), "it can be read by its name");
}

/// A compaction lets frames begin before their first record. What lies before the offset that is committed is no reason to go back.
#[tokio::test]
async fn a_group_does_not_go_back_because_its_topic_was_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        TopicSettings::default().compaction(true).segment_bytes_max(64 << 10).durability(annals::Durability::Os);
    for round in 0..4_u32 {
        let log = Log::open(dir.path()).await.unwrap();
        let topic = log.create_raw_topic("states", settings.clone()).await.unwrap();
        let mut consumer = topic.subscribe("group").build().await.unwrap();
        for number in 0..1500_u32 {
            topic.produce(Record::new(vec![7; 100].into()).key(format!("key {}", number % 10))).await.unwrap();
        }
        log.compact_topic("states").await.unwrap();
        let mut last = None;
        loop {
            match futures_util::StreamExt::next(&mut consumer).await.unwrap().unwrap() {
                annals::Item::Message(message) => last = Some(message),
                annals::Item::CaughtUp => break,
                other => panic!("round {round}: {other:?}"),
            }
        }
        consumer.commit(&last.unwrap()).await.unwrap();
        drop(consumer);
        log.close().await.unwrap();
    }
}
