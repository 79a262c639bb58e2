//! Logs that are mirrored through one topic.

use annals::mirror::{KafkaConfig, Mirror, ORIGIN_LOG, Source, TargetTopics};
use annals::{Log, Record, TopicSettings};

use super::support::{Writer, caught_up, found, source, text};
use crate::support::{Broker, PATIENCE, until};

struct Side {
    log: Log,
    mirror: Mirror,
    source: Source,
}

async fn side(broker: &Broker, topic: &str, name: &str) -> Side {
    let log = Log::in_memory().unwrap();
    log.create_raw_topic(topic, TopicSettings::default().partitions(2)).await.unwrap();
    let kafka = KafkaConfig::new(broker.bootstrap());
    let mirror = Mirror::builder(&log)
        .name(name)
        .topics([topic])
        .to(kafka)
        .create_topics(TargetTopics::default())
        .checkpoint_topic(format!("{topic}.checkpoints"))
        .spawn()
        .unwrap();
    let source = source(&log, broker, &[topic]).spawn().unwrap();
    Side { log, mirror, source }
}

/// Each log has its own records, those of the other, and those that somebody else has written to Kafka, once each; and Kafka has all of
/// them once.
#[tokio::test]
async fn two_logs_converge_through_one_topic_without_echo() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("together");
    broker.create_topic(&topic, 2).await;
    let (a, b) = (side(broker, &topic, "a").await, side(broker, &topic, "b").await);
    let elsewhere = Writer::new(broker);
    for round in 0..20 {
        for (name, side) in [("a", &a), ("b", &b)] {
            let partition = round % 2;
            let value = format!("{name} {round}");
            side.log
                .raw_topic(&topic)
                .unwrap()
                .produce(Record::new(value.into()).key(format!("key {round}")).partition(partition).header("h", name))
                .await
                .unwrap();
        }
        elsewhere.write(&topic, &[text((round % 2) as i32, &format!("c {round}"))]);
    }
    // Each passes on what it has until nobody has anything new. A mirror that sent back what came would never come to an end.
    for _ in 0..3 {
        for side in [&a, &b] {
            tokio::time::timeout(PATIENCE, side.mirror.caught_up()).await.unwrap().unwrap();
        }
        for side in [&a, &b] {
            caught_up(&side.source).await;
        }
    }
    let expected: Vec<String> = {
        let each = |name: &str| (0..20).map(|round| format!("{name} {round}")).collect::<Vec<_>>();
        let mut all = [each("a"), each("b"), each("c")].concat();
        all.sort();
        all
    };
    let sorted = |mut values: Vec<String>| {
        values.sort();
        values
    };
    let dumped = broker.dump(&topic).await;
    let in_kafka = dumped.iter().map(|dumped| String::from_utf8(dumped.value.clone().unwrap()).unwrap()).collect();
    assert_eq!(sorted(in_kafka), expected, "Kafka has each of them once");
    for (name, side, other) in [("a", &a, "b"), ("b", &b, "a")] {
        let found = found(&side.log, &topic);
        assert_eq!(sorted(found.iter().map(|found| found.value().to_owned()).collect()), expected, "the log of {name}");
        for record in &found {
            // What came keeps its origin; what was written here has none.
            assert_eq!(record.header(ORIGIN_LOG).is_none(), record.value().starts_with(name), "{record:?}");
        }
        // What came from one place is in the order that it had there.
        for from in [name, other, "c"] {
            for partition in [0, 1] {
                let of = found.iter().filter(|found| found.partition == partition && found.value().starts_with(from));
                let rounds: Vec<u32> = of.map(|found| found.value()[2..].parse().unwrap()).collect();
                assert!(rounds.is_sorted() && rounds.len() == 10, "{from} in {name}: {rounds:?}");
            }
        }
        let status = side.source.status();
        assert_eq!((status.received, status.passed_over), (40, 20), "{name}");
        assert_eq!(side.mirror.status().forwarded, 20, "{name}");
    }
    // And it stays so.
    let before = (broker.end(&topic, 0), broker.end(&topic, 1));
    a.log.raw_topic(&topic).unwrap().produce(Record::new("a 20".into()).partition(0)).await.unwrap();
    until("the last has come over", async || found(&b.log, &topic).len() == 61).await;
    caught_up(&a.source).await;
    tokio::time::timeout(PATIENCE, b.mirror.caught_up()).await.unwrap().unwrap();
    let grown = (broker.end(&topic, 0) - before.0, broker.end(&topic, 1) - before.1);
    // One record, and the mark of its transaction.
    assert_eq!(grown, (2, 0));
    for side in [a, b] {
        side.mirror.stop().await.unwrap();
        side.source.stop().await.unwrap();
    }
}
