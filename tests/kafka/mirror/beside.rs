//! What one partition has must not become of the others: a backlog, a dead letter that is not taken, damage, a topic that goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use annals::mirror::{
    Guarantee, KafkaConfig, Mirror, MirrorState, ORIGIN_LOG, ORIGIN_OFFSET, ORIGIN_PARTITION, ORIGIN_TOPIC, OnRefused,
};
use annals::{ErrorKind, Log, Record, TopicSettings};
use bytes::Bytes;

use super::world::{World, caught_up, paused, resume, stop, values};
use crate::support::{Broker, until};

/// A topic that a source fills: everything in it came from another log.
async fn fill_with_foreign(world: &World<'_>, topic: &str, count: u64) {
    let topic = world.log.raw_topic(topic).unwrap();
    let other = "00000000-0000-7000-8000-000000000001";
    for begin in (0..count).step_by(1000) {
        let foreign = (begin..begin + 1000).map(|number| {
            Record::new(Bytes::from_static(b"foreign"))
                .header(ORIGIN_LOG, other)
                .header(ORIGIN_TOPIC, "there")
                .header(ORIGIN_PARTITION, "0")
                .header(ORIGIN_OFFSET, number.to_string())
        });
        topic.produce_batch(foreign).await.unwrap();
    }
}

/// A transaction that is open for too long is aborted by the brokers, and everything would begin again.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_end_in_time_however_much_is_passed_over() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    for topic in ["foreign", "orders"] {
        world.topic(topic, 1).await;
    }
    fill_with_foreign(&world, "foreign", 200_000).await;
    world.publish("orders", 10).await;
    let mirror = world.mirror().commit_interval(Duration::from_millis(1)).spawn().unwrap();
    caught_up(&mirror).await;
    let status = mirror.status();
    assert_eq!(status.passed_over, 200_000);
    assert!(status.committed > 10, "{} transactions", status.committed);
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_passes_everything_over_stops_at_once() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    fill_with_foreign(&world, "orders", 1000).await;
    // As slow as a record may be.
    let slow = |_: &annals::Message| {
        std::thread::sleep(Duration::from_millis(20));
        false
    };
    let mirror = world.mirror().forward_foreign(true).filter(slow).commit_interval(Duration::from_secs(30));
    let mirror = mirror.spawn().unwrap();
    until("it has begun", async || mirror.status().state == MirrorState::Running).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // All of them take 20 seconds.
    tokio::time::timeout(Duration::from_secs(15), mirror.stop()).await.expect("it goes on").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_holds_no_other_partition_up() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    // By their names, this is the order of the turns.
    for topic in ["backlog", "orders"] {
        world.topic(topic, 1).await;
    }
    let large = Bytes::from(vec![b'x'; 10_000]);
    for _ in 0..40 {
        let some = (0..100).map(|_| Record::new(large.clone()));
        world.log.raw_topic("backlog").unwrap().produce_batch(some).await.unwrap();
    }
    world.publish("orders", 10).await;
    // Each transaction has much less than a turn.
    let mirror = world.mirror().in_flight_bytes_max(64 << 10).spawn().unwrap();
    let next = |topic: &str| {
        let found = mirror.status().partitions.into_iter().find(|found| found.topic == topic);
        found.map_or(0, |found| found.next_offset)
    };
    until("the few are forwarded", async || next("orders") == 10).await;
    let of_many = next("backlog");
    assert!(of_many < 2000, "{of_many} of 4000 were forwarded before");
    caught_up(&mirror).await;
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

/// What a topic does not take, neither in the target nor as a dead letter, is kept where it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_not_taken_stops_its_partition() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    for topic in ["orders", "others"] {
        world.topic(topic, 1).await;
        let limit = [("max.message.bytes", "20000"), ("retention.ms", "-1")];
        broker.create_topic_with(&world.target(topic), 1, 1, &limit).await;
    }
    let small = TopicSettings::default().record_bytes_max(30_050);
    world.log.create_raw_topic("dead", small.clone()).await.unwrap();
    let large = Record::new(Bytes::from(vec![b'x'; 30_000]));
    world.publish_one("orders", large).await;
    world.publish_one("orders", Record::new(Bytes::from("behind"))).await;
    world.publish_one("others", Record::new(Bytes::from("other"))).await;
    let mirror = Mirror::builder(&world.log)
        .name(&world.name)
        .topics(["orders", "others"])
        .to(KafkaConfig::new(broker.bootstrap()))
        .prefix(world.target(""))
        .on_refused(OnRefused::DeadLetter("dead".to_owned()))
        .retry_paused(None)
        .spawn()
        .unwrap();
    let error = paused(&mirror, "orders", 0).await;
    assert!(error.to_string().contains("topic dead does not take the dead letter"), "{error}");
    caught_up(&mirror).await;
    assert_eq!(values(&world.dump("others").await)[&0], ["other"]);
    // As the error says.
    world.log.alter_topic("dead", small.record_bytes_max(100_000)).await.unwrap();
    resume(&mirror).await;
    caught_up(&mirror).await;
    stop(mirror).await;
    assert_eq!(values(&world.dump("orders").await)[&0], ["behind"]);
    assert_eq!(world.log.describe_topic("dead").unwrap().partitions[0].high_watermark, 1);
}

/// The client library counts what waits in KiB. What is more than these would wait for room for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_for_which_there_is_never_room_stops_its_partition() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    for topic in ["orders", "others"] {
        world.topic(topic, 1).await;
    }
    world.publish_one("orders", Record::new(Bytes::from(vec![b'x'; 99_700]))).await;
    world.publish("others", 10).await;
    let mirror = world.mirror().in_flight_bytes_max(100_000).retry_paused(None).spawn().unwrap();
    let error = paused(&mirror, "orders", 0).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    caught_up(&mirror).await;
    stop(mirror).await;
    world.assert_exactly_once("others").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_refused_itself_has_no_dead_letter() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    world.log.create_raw_topic("dead", TopicSettings::default()).await.unwrap();
    let limit = [("max.message.bytes", "20000"), ("retention.ms", "-1")];
    for topic in ["orders", "dead"] {
        broker.create_topic_with(&world.target(topic), 1, 1, &limit).await;
    }
    world.publish_one("orders", Record::new(Bytes::from(vec![b'x'; 30_000]))).await;
    world.publish_one("orders", Record::new(Bytes::from("behind"))).await;
    // All topics, and so the one for dead letters.
    let mirror = world.bare_mirror().on_refused(OnRefused::DeadLetter("dead".to_owned())).retry_paused(None);
    let mirror = mirror.spawn().unwrap();
    let error = paused(&mirror, "dead", 0).await;
    assert!(error.to_string().contains("topic dead is where dead letters go"), "{error}");
    caught_up(&mirror).await;
    stop(mirror).await;
    assert_eq!(values(&world.dump("orders").await)[&0], ["behind"]);
    assert_eq!(world.log.describe_topic("dead").unwrap().partitions[0].high_watermark, 1);
}

/// The first segment of a topic's only partition.
fn segment(dir: &Path, topic: &str) -> PathBuf {
    let dir = dir.join("topics").join(topic).join("0");
    let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|it| it == "log")).min().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_stops_its_partition_only() {
    let Some(broker) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let world = World::of(broker, Log::open(dir.path()).await.unwrap());
    for topic in ["orders", "others"] {
        world.topic(topic, 1).await;
    }
    // A frame each.
    for number in 0..10 {
        world.publish_one("orders", Record::new(format!("{number:0>100}").into())).await;
    }
    world.publish("others", 10).await;
    world.log.close().await.unwrap();
    let segment = segment(dir.path(), "orders");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let world = world.with_log(Log::open(dir.path()).await.unwrap());
    for round in 0..2 {
        let mirror = world.mirror().retry_paused(Some(Duration::from_millis(100))).spawn().unwrap();
        let error = paused(&mirror, "orders", 0).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        // It begins anew all the time, and once more in another instance.
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.publish("others", 10).await;
        caught_up(&mirror).await;
        stop(mirror).await;
        world.assert_exactly_once("others").await;
        let there = values(&world.dump("orders").await)[&0].len();
        assert!((1..9).contains(&there), "{there} in round {round}");
    }
}

/// Its offsets are those of another topic, of which nothing was forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn without_transactions_a_topic_that_is_made_again_is_forwarded_from_its_beginning() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    world.publish("orders", 100).await;
    let mirror = world.mirror().guarantee(Guarantee::AtLeastOnce).spawn().unwrap();
    caught_up(&mirror).await;
    world.log.delete_topic("orders").await.unwrap();
    world.topic("orders", 1).await;
    for number in 0..30 {
        world.publish_one("orders", Record::new(format!("new {number}").into())).await;
    }
    let is_new = |value: &&String| value.starts_with("new ");
    until("the new ones are forwarded", async || {
        let all = values(&world.dump("orders").await);
        all[&0].iter().filter(is_new).count() >= 30
    })
    .await;
    caught_up(&mirror).await;
    stop(mirror).await;
    let found = values(&world.dump("orders").await);
    let expected: Vec<String> = (0..30).map(|number| format!("new {number}")).collect();
    assert_eq!(found[&0].iter().filter(is_new).cloned().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_topic_that_is_gone() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    for topic in ["orders", "gone"] {
        world.topic(topic, 1).await;
    }
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    mirror.pause();
    until("it has paused", async || mirror.status().state == MirrorState::Paused).await;
    world.publish("gone", 10).await;
    let waits = caught_up(&mirror);
    let goes = async {
        // Nothing is told of when somebody begins to wait.
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.log.delete_topic("gone").await.unwrap();
        mirror.resume();
    };
    tokio::join!(waits, goes);
    stop(mirror).await;
}
