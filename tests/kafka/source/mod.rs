//! The way back, against real brokers.

mod faults;
mod kill;
mod mapping;
mod security;
mod support;
mod together;

use annals::mirror::{
    ErrorClass, MARKER, MirrorState, ORIGIN_LOG, ORIGIN_OFFSET, ORIGIN_PARTITION, ORIGIN_TOPIC, SourceStart,
};
use annals::{ErrorKind, Log};

use self::support::{Found, New, Writer, caught_up, error_with, found, numbers, source, text, texts};
use crate::support::{Broker, until};

#[tokio::test]
async fn records_come_as_they_are_and_only_those_that_are_committed() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("as-they-are");
    // Some of the records are old.
    broker.create_topic_with(&topic, 3, -1, &[("retention.ms", "-1")]).await;
    let headers: &[(&str, Option<&[u8]>)] =
        &[("b", Some(b"1")), ("a", None), ("b", Some(b"")), ("b", Some(&[0xff, 0])), ("message_id", Some(b"x"))];
    let records = [
        New { partition: 2, key: Some(b"k"), value: Some(b"v"), headers, timestamp: Some(1_700_000_000_123) },
        New { partition: 2, key: Some(b"k"), value: None, timestamp: Some(1), ..New::default() },
        New { partition: 0, key: None, value: Some(b""), ..New::default() },
        New { partition: 0, key: Some(b""), value: Some(&[0xff; 100]), ..New::default() },
        New { partition: 1, key: None, value: None, ..New::default() },
    ];
    let (plain, transactional) = (Writer::new(broker), Writer::transactional(broker));
    plain.write(&topic, &records);
    transactional.write_in_vain(&topic, &records);
    transactional.write(&topic, &records);
    transactional.write_in_vain(&topic, &records);

    let log = Log::in_memory().unwrap();
    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    caught_up(&reading).await;
    let dumped = broker.dump(&topic).await;
    assert_eq!(dumped.len(), 2 * records.len());
    let places: Vec<u64> = dumped.iter().map(|dumped| dumped.offset).collect();
    let (in_kafka, in_log): (Vec<Found>, Vec<Found>) =
        (dumped.into_iter().map(Found::from).collect(), found(&log, &topic));
    assert_eq!(in_log.iter().cloned().map(Found::bare).collect::<Vec<_>>(), in_kafka);
    // Where they come from stands behind their own headers.
    for (found, offset) in in_log.iter().zip(places) {
        let origin: Vec<&str> = found.headers.iter().rev().take(4).rev().map(|(name, _)| &**name).collect();
        assert_eq!(origin, [ORIGIN_LOG, ORIGIN_TOPIC, ORIGIN_PARTITION, ORIGIN_OFFSET]);
        assert_eq!(found.header(ORIGIN_TOPIC), Some(&*topic));
        assert_eq!(found.header(ORIGIN_PARTITION), Some(&*found.partition.to_string()));
        assert_eq!(found.header(ORIGIN_OFFSET), Some(&*offset.to_string()));
    }
    let status = reading.status();
    assert_eq!((status.received, status.passed_over, status.lag_records()), (10, 0, 0), "{status:?}");
    assert_eq!((status.state, status.partitions.len()), (MirrorState::Running, 3));
    assert!(status.last_commit.is_some() && status.committed > 0 && status.received_bytes > 200);
    reading.stop().await.unwrap();
}

#[tokio::test]
async fn it_goes_on_where_it_was_and_lives_with_what_comes() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("goes-on");
    broker.create_topic(&topic, 2).await;
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::transactional(broker);
    let mut written = 0;
    for round in 0..4 {
        let log = Log::open(dir.path()).await.unwrap();
        let reading = source(&log, broker, &[&topic]).spawn().unwrap();
        if round == 2 {
            // Nothing new: what was read last is looked at, and not written again.
            caught_up(&reading).await;
        }
        for _ in 0..2 {
            writer.write_texts(&topic, 0, numbers(written..written + 50));
            writer.write_texts(&topic, 1, numbers(written..written + 50));
            written += 50;
            caught_up(&reading).await;
            for partition in [0, 1] {
                assert_eq!(texts(&log, &topic, partition), numbers(0..written).collect::<Vec<_>>());
            }
        }
        reading.stop().await.unwrap();
        log.close().await.unwrap();
    }
}

#[tokio::test]
async fn it_pauses_and_tells_what_is_left() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("pauses");
    broker.create_topic(&topic, 1).await;
    let log = Log::in_memory().unwrap();
    let writer = Writer::new(broker);
    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    writer.write_texts(&topic, 0, numbers(0..10));
    caught_up(&reading).await;
    reading.pause();
    until("it has paused", async || reading.status().state == MirrorState::Paused).await;
    writer.write_texts(&topic, 0, numbers(10..30));
    until("the lag is seen", async || reading.status().lag_records() == 20).await;
    assert_eq!(texts(&log, &topic, 0).len(), 10);
    assert_eq!(reading.status().partitions[0].next_offset, 10);
    reading.resume();
    caught_up(&reading).await;
    assert_eq!(texts(&log, &topic, 0), numbers(0..30).collect::<Vec<_>>());
    assert_eq!(reading.status().lag_records(), 0);
    // One of a name at a time.
    let second = source(&log, broker, &[&topic]).spawn().unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Busy);
    let other = source(&log, broker, &[&topic]).name("other").prefix("other.").spawn().unwrap();
    caught_up(&other).await;
    assert_eq!(texts(&log, &format!("other.{topic}"), 0).len(), 30);
    other.stop().await.unwrap();
    reading.stop().await.unwrap();
    source(&log, broker, &[&topic]).spawn().unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn it_can_begin_with_what_comes_next_and_never_forgets_where_that_was() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("latest");
    broker.create_topic(&topic, 1).await;
    let log = Log::in_memory().unwrap();
    let writer = Writer::new(broker);
    writer.write_texts(&topic, 0, numbers(0..10));
    let latest = || source(&log, broker, &[&topic]).start(SourceStart::Latest).spawn().unwrap();
    let reading = latest();
    caught_up(&reading).await;
    reading.stop().await.unwrap();
    // While nobody reads.
    writer.write_texts(&topic, 0, numbers(10..20));
    let reading = latest();
    caught_up(&reading).await;
    assert_eq!(texts(&log, &topic, 0), numbers(10..20).collect::<Vec<_>>());
    reading.stop().await.unwrap();
}

#[tokio::test]
async fn a_record_that_the_log_does_not_take_holds_its_partition_or_becomes_a_mark() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("refused");
    broker.create_topic(&topic, 2).await;
    let log = Log::in_memory().unwrap();
    let small = annals::TopicSettings::default().partitions(2).record_bytes_max(1000);
    log.create_raw_topic(&topic, small.clone()).await.unwrap();
    let writer = Writer::new(broker);
    let large = "x".repeat(2000);
    writer.write(&topic, &[text(0, "a"), text(0, &large), text(0, "b"), text(1, "c")]);
    let reading = source(&log, broker, &[&topic]).spawn().unwrap();
    let mut errors = reading.errors();
    caught_up(&reading).await;
    until("the other partition goes on", async || texts(&log, &topic, 1) == ["c"]).await;
    assert_eq!(texts(&log, &topic, 0), ["a"]);
    let paused = reading.status().partitions[0].paused.clone().unwrap();
    assert_eq!(paused.kind(), ErrorKind::Invalid);
    assert!(paused.to_string().contains("offset 1") && paused.to_string().contains("record_bytes_max"), "{paused}");
    let met = errors.try_recv();
    assert!(met.is_err() || met.unwrap().class == ErrorClass::Partition);
    // With room for it, it comes.
    log.alter_topic(&topic, small.clone().record_bytes_max(4000)).await.unwrap();
    reading.resume();
    until("it is tried again", async || texts(&log, &topic, 0) == ["a", &large, "b"]).await;
    reading.stop().await.unwrap();

    let log = Log::in_memory().unwrap();
    log.create_raw_topic(&topic, small).await.unwrap();
    let skipping = source(&log, broker, &[&topic]).on_refused(annals::mirror::OnMissing::Skip).spawn().unwrap();
    let mut errors = skipping.errors();
    caught_up(&skipping).await;
    let told = error_with(&mut errors, "record_bytes_max").await;
    assert_eq!((told.class, told.partition), (ErrorClass::Skipped, Some((topic.clone(), 0))));
    let found = found(&log, &topic);
    assert_eq!(found.iter().map(Found::value).collect::<Vec<_>>(), ["a", "", "b", "c"]);
    assert_eq!((found[1].header(MARKER), found[1].header(ORIGIN_OFFSET)), (Some("skipped"), Some("1")));
    assert!(found[1].header("annals.error").unwrap().contains("record_bytes_max"));
    assert_eq!(skipping.status().refused, 1);
    skipping.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_is_read() {
    let log = Log::in_memory().unwrap();
    let kafka = || annals::mirror::KafkaConfig::new("localhost:1");
    let builder = || annals::mirror::Source::builder(&log).topics(["orders"]).from(kafka());
    let refused = |builder: annals::mirror::SourceBuilder, part: &str| {
        let error = builder.spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(builder().name(""), "1 to 100 ASCII letters");
    refused(builder().name("a/b"), "1 to 100 ASCII letters");
    refused(annals::mirror::Source::builder(&log).topics(["orders"]), "no cluster");
    refused(annals::mirror::Source::builder(&log).from(kafka()), "at least one topic");
    refused(builder().topics(["a b"]), "contains ' '");
    refused(builder().in_flight_bytes_max(1), "`in_flight_bytes_max` is 1");
    refused(builder().from(kafka().acks(annals::mirror::Acks::None)), "`acks`");
    refused(builder().create_topics(annals::TopicSettings::default().partitions(0)), "partitions");
    let dir = tempfile::tempdir().unwrap();
    Log::open(dir.path()).await.unwrap().close().await.unwrap();
    let read_only = Log::open_read_only(dir.path()).await.unwrap();
    refused(annals::mirror::Source::builder(&read_only).topics(["orders"]).from(kafka()), "open read-only");
    log.close().await.unwrap();
    assert_eq!(builder().spawn().unwrap_err().kind(), ErrorKind::Closed);
}
