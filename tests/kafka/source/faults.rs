//! What may go wrong: another topic, another cluster, records that are gone, brokers that are down.

use annals::mirror::{ErrorClass, GAP_FROM, GAP_TO, MARKER, MirrorState, OnMissing};
use annals::{ErrorKind, Log};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};

use super::support::{Writer, caught_up, error_with, found, numbers, source, texts};
use crate::support::{Broker, Options, PATIENCE, until};

#[tokio::test]
async fn a_topic_that_was_made_again_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let writer = Writer::new(broker);
    // With fewer records than were read, and with more.
    for again in [3, 30] {
        let topic = broker.unique("again");
        broker.create_topic(&topic, 1).await;
        writer.write_texts(&topic, 0, numbers(0..10));
        let log = Log::in_memory().unwrap();
        let reading = source(&log, broker, &[&topic]).spawn().unwrap();
        caught_up(&reading).await;
        reading.stop().await.unwrap();
        broker.delete_topic(&topic).await;
        broker.create_topic(&topic, 1).await;
        Writer::new(broker).write_texts(&topic, 0, numbers(100..100 + again));
        let reading = source(&log, broker, &[&topic]).spawn().unwrap();
        let refused = tokio::time::timeout(PATIENCE, reading.ended()).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
        assert!(refused.to_string().contains(&topic), "{refused}");
        assert_eq!(reading.caught_up().await.unwrap_err().kind(), ErrorKind::Mismatch);
        assert_eq!(texts(&log, &topic, 0), numbers(0..10).collect::<Vec<_>>(), "nothing was written");
        // Under another name it begins anew.
        let anew = source(&log, broker, &[&topic]).name("anew").spawn().unwrap();
        caught_up(&anew).await;
        assert_eq!(texts(&log, &topic, 0).len(), 10 + again as usize);
        anew.stop().await.unwrap();
    }
}

/// Nobody tells the source: the broker has a topic of that name all the time, as far as it can see, or has none for a moment.
#[tokio::test]
async fn a_topic_that_is_made_again_while_it_is_read_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    for again in [3, 30] {
        let topic = broker.unique("while-read");
        broker.create_topic(&topic, 1).await;
        Writer::new(broker).write_texts(&topic, 0, numbers(0..10));
        let log = Log::in_memory().unwrap();
        let retry = Some(std::time::Duration::from_secs(1));
        let reading = source(&log, broker, &[&topic]).retry_paused(retry).spawn().unwrap();
        caught_up(&reading).await;
        broker.delete_topic(&topic).await;
        broker.create_topic(&topic, 1).await;
        Writer::new(broker).write_texts(&topic, 0, numbers(100..100 + again));
        let ended = tokio::time::timeout(PATIENCE, reading.ended()).await;
        let refused = ended.unwrap_or_else(|_| panic!("{again}: {:?}", reading.status())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
        assert_eq!(texts(&log, &topic, 0), numbers(0..10).collect::<Vec<_>>(), "nothing was written");
    }
}

#[tokio::test]
async fn what_goes_while_it_reads_is_found_out_as_well() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("overrun");
    broker.create_topic(&topic, 1).await;
    let log = Log::in_memory().unwrap();
    let reading = source(&log, broker, &[&topic]).in_flight_bytes_max(64 << 10).spawn().unwrap();
    caught_up(&reading).await;
    reading.pause();
    until("it has paused", async || reading.status().state == MirrorState::Paused).await;
    // More than it may fetch ahead.
    let large = "x".repeat(100_000);
    Writer::new(broker).write_texts(&topic, 0, (0..100).map(|_| large.clone()));
    until("it sees them", async || reading.status().lag_records() == 100).await;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&topic, 0, Offset::Offset(90)).unwrap();
    let admin: AdminClient<DefaultClientContext> = broker.client().create().unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();
    let mut errors = reading.errors();
    reading.resume();
    let met = error_with(&mut errors, "are gone: retention was faster").await;
    assert_eq!((met.class, met.error.kind()), (ErrorClass::Partition, ErrorKind::OffsetOutOfRange), "{met:?}");
    let there = found(&log, &topic).len();
    assert!(there < 90, "{there} records were fetched ahead");
    assert!(met.error.to_string().contains(&format!("offsets {there} to 89")), "{}", met.error);
    reading.stop().await.unwrap();
}

#[tokio::test]
async fn a_topic_of_the_log_that_was_made_again_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("local");
    broker.create_topic(&topic, 1).await;
    Writer::new(broker).write_texts(&topic, 0, numbers(0..10));
    let log = Log::in_memory().unwrap();
    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    caught_up(&reading).await;
    reading.stop().await.unwrap();
    log.delete_topic(&topic).await.unwrap();
    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    let refused = tokio::time::timeout(PATIENCE, reading.ended()).await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
    assert!(refused.to_string().contains("another topic of the log"), "{refused}");
}

#[tokio::test]
async fn records_that_kafka_has_let_go_are_never_passed_over_in_silence() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("gone");
    broker.create_topic(&topic, 2).await;
    let writer = Writer::new(broker);
    for partition in [0, 1] {
        writer.write_texts(&topic, partition, numbers(0..10));
    }
    let log = Log::in_memory().unwrap();
    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    caught_up(&reading).await;
    reading.stop().await.unwrap();
    for partition in [0, 1] {
        writer.write_texts(&topic, partition, numbers(10..30));
    }
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&topic, 0, Offset::Offset(17)).unwrap();
    let admin: AdminClient<DefaultClientContext> = broker.client().create().unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();

    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    caught_up(&reading).await;
    let status = reading.status();
    let paused = status.partitions[0].paused.clone().unwrap();
    assert_eq!(paused.kind(), ErrorKind::OffsetOutOfRange);
    assert!(paused.to_string().contains("offsets 10 to 16"), "{paused}");
    assert_eq!(texts(&log, &topic, 0).len(), 10);
    assert_eq!(texts(&log, &topic, 1).len(), 30, "the other partition goes on");
    reading.stop().await.unwrap();

    let skipping = source(&log, broker, &[&topic]).on_gap(OnMissing::Skip).spawn().unwrap();
    let mut errors = skipping.errors();
    caught_up(&skipping).await;
    let told = error_with(&mut errors, "offsets 10 to 16").await;
    assert_eq!((told.class, told.partition), (ErrorClass::Skipped, Some((topic.clone(), 0))));
    let all = found(&log, &topic);
    let gaps: Vec<_> = all.iter().filter(|found| found.header(MARKER) == Some("gap")).collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].partition, gaps[0].header(GAP_FROM), gaps[0].header(GAP_TO)), (0, Some("10"), Some("17")));
    let expected: Vec<String> = numbers(0..10).chain([String::new()]).chain(numbers(17..30)).collect();
    assert_eq!(texts(&log, &topic, 0), expected);
    skipping.stop().await.unwrap();
    // The gap is told once.
    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    caught_up(&reading).await;
    assert!(reading.status().partitions.iter().all(|partition| partition.paused.is_none()));
    assert_eq!(found(&log, &topic).len(), all.len());
    reading.stop().await.unwrap();
}

#[tokio::test]
async fn brokers_that_are_killed_and_come_back_lose_and_double_nothing() {
    let Some(broker) = Broker::start(Options::new()) else { return };
    let topic = broker.unique("killed");
    broker.create_topic(&topic, 2).await;
    let log = Log::in_memory().unwrap();
    let reading = source(&log, &broker, &[&topic]).spawn().unwrap();
    let mut errors = reading.errors();
    let mut written = 0;
    for _ in 0..3 {
        let writer = Writer::transactional(&broker);
        for partition in [0, 1] {
            writer.write_texts(&topic, partition, numbers(written..written + 300));
        }
        written += 300;
        broker.kill();
        let met = error_with(&mut errors, "Kafka").await;
        assert_eq!(met.class, ErrorClass::Passing, "{met:?}");
        until("it says that it has no broker", async || reading.status().state == MirrorState::Connecting).await;
        broker.restart();
    }
    caught_up(&reading).await;
    until("it says that it has brokers", async || reading.status().state == MirrorState::Running).await;
    for partition in [0, 1] {
        assert_eq!(texts(&log, &topic, partition), numbers(0..written).collect::<Vec<_>>());
    }
    // Nobody there from the beginning: it waits, and stops when it is told to.
    reading.stop().await.unwrap();
    broker.kill();
    let waiting = source(&log, &broker, &[&topic]).spawn().unwrap();
    let met = error_with(&mut waiting.errors(), "Kafka").await;
    assert_eq!((met.class, met.error.kind()), (ErrorClass::Passing, ErrorKind::Unavailable));
    broker.restart();
    caught_up(&waiting).await;
    assert_eq!(found(&log, &topic).len(), 2 * written as usize);
    broker.kill();
    tokio::time::timeout(PATIENCE, waiting.stop()).await.unwrap().unwrap();
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let (Some(broker), Some(other)) = (Broker::shared(), Broker::start(Options::new())) else { return };
    let topic = broker.unique("cluster");
    let log = Log::in_memory().unwrap();
    for cluster in [broker, &other] {
        cluster.create_topic(&topic, 1).await;
        Writer::new(cluster).write_texts(&topic, 0, numbers(0..10));
    }
    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    caught_up(&reading).await;
    reading.stop().await.unwrap();
    let moved = source(&log, &other, &[&topic]).spawn().unwrap();
    let refused = tokio::time::timeout(PATIENCE, moved.ended()).await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
    assert!(refused.to_string().contains("this is cluster"), "{refused}");
    assert_eq!(texts(&log, &topic, 0).len(), 10);
}
