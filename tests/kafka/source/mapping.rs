//! Which topic and which partition of the log a record goes to.

use annals::mirror::{ErrorClass, MirrorState, ORIGIN_LOG, Source, SourcePartitions};
use annals::{ErrorKind, Log, TopicSettings};

use super::support::{New, Writer, caught_up, error_with, found, numbers, source, text, texts};
use crate::support::{Broker, until};

#[tokio::test]
async fn the_key_picks_the_partition_where_it_is_to() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("by-key");
    broker.create_topic(&topic, 5).await;
    let writer = Writer::new(broker);
    let keys: Vec<String> = (0..60).map(|number| format!("key-{}", number % 20)).collect();
    let values: Vec<String> = numbers(0..60).collect();
    // As Kafka's own clients place them: all of a key in one partition.
    let records = keys.iter().zip(&values).map(|(key, value)| New {
        partition: key.len() as i32 % 5,
        key: Some(key.as_bytes()),
        value: Some(value.as_bytes()),
        ..New::default()
    });
    writer.write(&topic, &records.collect::<Vec<_>>());
    for partition in 0..5 {
        writer.write_texts(&topic, partition, (0..4).map(|number| format!("{partition} {number}")));
    }
    let log = Log::in_memory().unwrap();
    let by_key = source(&log, broker, &[&topic])
        .partitions(SourcePartitions::ByKey)
        .create_topics(TopicSettings::default().partitions(3))
        .rename(|name| format!("{}.by-key", name.split('-').next().unwrap()));
    let reading = by_key.spawn().unwrap();
    caught_up(&reading).await;
    let name = format!("{}.by-key", topic.split('-').next().unwrap());
    let handle = log.raw_topic(&name).unwrap();
    assert_eq!(handle.partitions(), 3);
    let all = found(&log, &name);
    assert_eq!(all.len(), 80);
    for key in &keys {
        let of_key: Vec<_> = all.iter().filter(|found| found.key.as_deref() == Some(key.as_bytes())).collect();
        assert!(of_key.iter().all(|found| found.partition == handle.partition_for(key.as_bytes())));
        let order: Vec<u32> = of_key.iter().map(|found| found.value().parse().unwrap()).collect();
        assert!(order.is_sorted() && order.len() == 3, "{key}: {order:?}");
    }
    for partition in 0..5 {
        let without = all.iter().filter(|found| found.key.is_none());
        let of_one: Vec<_> = without.filter(|found| found.value().starts_with(&format!("{partition} "))).collect();
        assert!(of_one.iter().all(|found| found.partition == partition % 3));
        let expected: Vec<_> = (0..4).map(|number| format!("{partition} {number}")).collect();
        assert_eq!(of_one.iter().map(|found| found.value().to_owned()).collect::<Vec<_>>(), expected);
    }
    reading.stop().await.unwrap();
}

#[tokio::test]
async fn partitions_that_the_log_lacks_are_said_and_join_once_they_are_there() {
    let Some(broker) = Broker::shared() else { return };
    let (topic, missing) = (broker.unique("fewer"), broker.unique("missing"));
    broker.create_topic(&topic, 3).await;
    let writer = Writer::new(broker);
    for partition in 0..3 {
        writer.write_texts(&topic, partition, numbers(0..5));
    }
    let log = Log::in_memory().unwrap();
    let without_making = |topics: &[&str]| {
        Source::builder(&log)
            .topics(topics.iter().copied())
            .from(annals::mirror::KafkaConfig::new(broker.bootstrap()))
            .spawn()
            .unwrap()
    };
    // No topic of the log, and none of Kafka.
    let reading = without_making(&[&topic, &missing]);
    let mut errors = reading.errors();
    caught_up(&reading).await;
    let paused = |error: ErrorKind, partition: &str| {
        let status = reading.status();
        let found = status.partitions.iter().filter(|found| found.topic == partition);
        found.filter_map(|found| found.paused.clone()).filter(|paused| paused.kind() == error).count()
    };
    until("all are paused", async || {
        (paused(ErrorKind::NotFound, &topic), paused(ErrorKind::NotFound, &missing)) == (3, 1)
    })
    .await;
    log.create_raw_topic(&topic, TopicSettings::default().partitions(2)).await.unwrap();
    until("two partitions have come", async || {
        log.raw_topic(&topic).is_ok() && (0..2).all(|partition| texts(&log, &topic, partition).len() == 5)
    })
    .await;
    let met = error_with(&mut errors, "has 2 partitions, and partition 2").await;
    assert_eq!((met.class, met.partition), (ErrorClass::Partition, Some((topic.clone(), 2))));
    assert_eq!(paused(ErrorKind::Invalid, &topic), 1);
    // Both are there now.
    log.add_partitions(&topic, 3).await.unwrap();
    broker.create_topic(&missing, 1).await;
    writer.write_texts(&missing, 0, numbers(0..5));
    log.create_raw_topic(&missing, TopicSettings::default()).await.unwrap();
    reading.resume();
    until("all have come", async || texts(&log, &topic, 2).len() == 5 && texts(&log, &missing, 0).len() == 5).await;
    caught_up(&reading).await;
    assert_eq!(found(&log, &topic).len(), 15);
    reading.stop().await.unwrap();
}

#[tokio::test]
async fn topics_and_partitions_that_are_made_on_the_way_join() {
    let Some(broker) = Broker::shared() else { return };
    let prefix = broker.unique("grow");
    let (first, second) = (format!("{prefix}.first"), format!("{prefix}.second"));
    broker.create_topic(&first, 1).await;
    let writer = Writer::new(broker);
    writer.write_texts(&first, 0, numbers(0..5));
    let log = Log::in_memory().unwrap();
    let reading = source(&log, broker, &[&format!("{prefix}.*")]).spawn().unwrap();
    caught_up(&reading).await;
    broker.add_partitions(&first, 2).await;
    broker.create_topic(&second, 2).await;
    // One that knows of them.
    let writer = Writer::new(broker);
    for (topic, partition) in [(&first, 1), (&second, 0), (&second, 1)] {
        writer.write_texts(topic, partition, numbers(0..5));
    }
    until("all have come", async || {
        let has = |topic: &str, partition| log.raw_topic(topic).is_ok() && texts(&log, topic, partition).len() == 5;
        has(&first, 0) && has(&first, 1) && has(&second, 0) && has(&second, 1)
    })
    .await;
    assert_eq!(log.raw_topic(&first).unwrap().partitions(), 2);
    reading.stop().await.unwrap();
}

/// A log has no two topics whose names differ in case only: on some disks these would be one directory.
#[tokio::test]
async fn of_two_names_that_differ_in_case_only_one_is_paused() {
    let Some(broker) = Broker::shared() else { return };
    let rest = broker.unique("rders");
    let both = [format!("O{rest}"), format!("o{rest}")];
    let writer = Writer::new(broker);
    for topic in &both {
        broker.create_topic(topic, 2).await;
        for partition in [0, 1] {
            writer.write_texts(topic, partition, numbers(0..5));
        }
    }
    let log = Log::in_memory().unwrap();
    let reading = source(&log, broker, &[&format!("*{rest}")]).spawn().unwrap();
    let mut errors = reading.errors();
    let (mut had, mut lacking) = (None, None);
    // From one beginning to the next it keeps to the same one, and nothing comes twice.
    for round in 0_u32..2 {
        caught_up(&reading).await;
        // It may be about to begin anew.
        until("it runs", async || reading.status().state == MirrorState::Running).await;
        let (paused, whole): (Vec<_>, Vec<_>) =
            reading.status().partitions.into_iter().partition(|partition| partition.paused.is_some());
        assert_eq!((paused.len(), whole.len()), (2, 2), "{paused:?} {whole:?}");
        for partition in &paused {
            assert_eq!(partition.topic, paused[0].topic);
            let error = partition.paused.as_ref().unwrap();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        }
        let (name, other) = (whole[0].topic.clone(), paused[0].topic.clone());
        assert_ne!(name, other);
        assert_eq!(*had.get_or_insert_with(|| name.clone()), name);
        lacking = Some(other);
        for partition in [0, 1] {
            assert_eq!(texts(&log, &name, partition), numbers(0..5 + round).collect::<Vec<_>>());
        }
        for partition in [0, 1] {
            writer.write_texts(&name, partition, numbers(5 + round..6 + round));
        }
        reading.resume();
    }
    let told = error_with(&mut errors, "").await;
    assert_eq!(told.class, ErrorClass::Partition);
    assert_eq!(told.partition.map(|place| place.0), lacking);
    reading.stop().await.unwrap();
}

/// For a log without a mirror of the same topics: the records are as they were written.
#[tokio::test]
async fn where_it_is_not_wanted_records_get_no_origin() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("bare");
    broker.create_topic(&topic, 1).await;
    let own: &[(&str, Option<&[u8]>)] = &[("a", Some(b"1"))];
    let from_a_log: &[(&str, Option<&[u8]>)] = &[(ORIGIN_LOG, Some(b"another")), ("b", None)];
    let records = [own, &[], from_a_log].map(|headers| New { headers, ..text(0, "x") });
    Writer::new(broker).write(&topic, &records);
    for adds in [true, false] {
        let log = Log::in_memory().unwrap();
        let reading = source(&log, broker, &[&topic]).origin_headers(adds).spawn().unwrap();
        caught_up(&reading).await;
        reading.stop().await.unwrap();
        let names: Vec<Vec<String>> =
            found(&log, &topic).into_iter().map(|found| found.headers.into_iter().map(|it| it.0).collect()).collect();
        // What says already where it comes from says so still.
        let of_log = vec![ORIGIN_LOG.to_owned(), "b".to_owned()];
        if adds {
            assert_eq!((names[0].len(), names[1].len()), (5, 4), "{names:?}");
            assert!(names[1].iter().all(|name| name.starts_with("annals.origin.")), "{names:?}");
            assert_eq!(names[2], of_log);
        } else {
            assert_eq!(names, [vec!["a".to_owned()], vec![], of_log]);
        }
    }
}
