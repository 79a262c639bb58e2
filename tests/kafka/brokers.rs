//! The brokers themselves: what the other tests rely on.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;

use crate::support::admin::reaches;
use crate::support::{Broker, Isolation, Options, PATIENCE, password, until};

fn producer(config: &ClientConfig) -> FutureProducer {
    config.clone().set("enable.idempotence", "true").create().unwrap()
}

async fn send(producer: &FutureProducer, topic: &str, partition: i32, value: &str) -> Result<i64, RDKafkaErrorCode> {
    let record = FutureRecord::<(), str>::to(topic).partition(partition).payload(value);
    let sent = producer.send(record, Timeout::After(PATIENCE)).await;
    sent.map(|delivery| delivery.offset).map_err(|(error, _)| error.rdkafka_error_code().unwrap())
}

#[tokio::test]
async fn a_dump_is_what_was_sent_and_committed() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("dump");
    broker.create_topic(&topic, 2).await;
    let producer: BaseProducer = broker.client().set("transactional.id", &topic).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header { key: "a", value: Some("") })
        .insert(Header::<&str> { key: "b", value: None });
    for (value, commits) in [("aborted", false), ("committed", true)] {
        producer.begin_transaction().unwrap();
        let record = BaseRecord::to(&topic).partition(1).key(&[0xff, 0]).payload(value).timestamp(1_700_000_000_123);
        producer.send(record.headers(headers.clone())).map_err(|(error, _)| error).unwrap();
        producer
            .send(BaseRecord::<[u8; 1], str>::to(&topic).partition(0).key(&[7]))
            .map_err(|(error, _)| error)
            .unwrap();
        producer.flush(PATIENCE).unwrap();
        if commits { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.unwrap();
    }
    let dumped = broker.dump(&topic).await;
    assert_eq!(dumped.len(), 2, "{dumped:?}");
    let (tombstone, full) = (&dumped[0], &dumped[1]);
    assert_eq!((tombstone.partition, &tombstone.key, &tombstone.value), (0, &Some(vec![7]), &None));
    assert_eq!((tombstone.headers.len(), &*tombstone.timestamp_type), (0, "CreateTime"));
    assert_eq!((full.partition, full.timestamp), (1, 1_700_000_000_123));
    assert_eq!((&full.key, &full.value), (&Some(vec![0xff, 0]), &Some(b"committed".to_vec())));
    let expected = [("a", Some("1")), ("a", Some("")), ("b", None)];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.map(|value| value.as_bytes().to_vec())));
    assert_eq!(full.headers, expected);
    assert_eq!(broker.dump_as(&topic, Isolation::Uncommitted).await.len(), 4);
}

/// The dump is a program of this project on Kafka's client. This is a program of Kafka's.
#[tokio::test]
async fn the_console_consumer_sees_what_a_dump_sees() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("console");
    broker.create_topic(&topic, 1).await;
    let producer = producer(&broker.client());
    for count in 0..10 {
        send(&producer, &topic, 0, &format!("value {count}")).await.unwrap();
    }
    let read = tokio::task::spawn_blocking({
        let (bootstrap, topic) = (broker.bootstrap(), topic.clone());
        move || {
            let about = ["--bootstrap-server", bootstrap, "--topic", &topic, "--from-beginning"];
            let how = ["--isolation-level", "read_committed", "--max-messages", "10", "--timeout-ms", "60000"];
            let print = ["--property", "print.offset=true", "--property", "print.partition=true"];
            broker.tool("console-consumer", &[&about[..], &how, &print].concat())
        }
    });
    let read = read.await.unwrap();
    let dumped = broker.dump(&topic).await;
    let dumped: Vec<String> = dumped
        .iter()
        .map(|record| {
            let value = String::from_utf8(record.value.clone().unwrap()).unwrap();
            format!("Partition:{}\tOffset:{}\t{value}", record.partition, record.offset)
        })
        .collect();
    assert_eq!(read.lines().collect::<Vec<_>>(), dumped);
}

#[tokio::test]
async fn topics_are_made_changed_and_deleted() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("topics");
    broker.create_topic_with(&topic, 1, 1, &[("cleanup.policy", "compact")]).await;
    broker.add_partitions(&topic, 3).await;
    broker.set_topic_config(&topic, "max.message.bytes", "2000").await;
    let producer = producer(&broker.client());
    assert_eq!(send(&producer, &topic, 2, &"x".repeat(4000)).await, Err(RDKafkaErrorCode::MessageSizeTooLarge));
    // Compacted still: a key is needed.
    let sent = send(&producer, &topic, 2, "small").await;
    assert_eq!(sent, Err(RDKafkaErrorCode::InvalidRecord));
    assert_eq!((broker.leader(&topic, 2), broker.in_sync(&topic, 2)), (Some(1), vec![1]));
    broker.delete_topic(&topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_sasl_let_in_whom_they_should() {
    let Some(broker) = Broker::start(Options::new().tls().acl()) else { return };
    let trusting = |bootstrap: &str, protocol: &str| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("security.protocol", protocol);
        config.set("ssl.ca.location", broker.ca().to_str().unwrap());
        config
    };
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let tls = trusting(broker.tls_bootstrap(), "ssl");
    assert_eq!(reaches(&tls), Ok(1));
    assert_eq!(reaches(tls.clone().set("ssl.ca.location", path(broker.other_ca()))), Err(RDKafkaErrorCode::SSL));
    let mutual = trusting(broker.mutual_tls_bootstrap(), "ssl");
    assert!(reaches(&mutual).is_err());
    let mut with_certificate = mutual.clone();
    with_certificate.set("ssl.certificate.location", path(broker.client_certificate()));
    assert_eq!(reaches(with_certificate.clone().set("ssl.key.location", path(broker.client_key()))), Ok(1));
    with_certificate.set("ssl.key.location", path(broker.client_key_encrypted()));
    assert_eq!(reaches(with_certificate.set("ssl.key.password", "client-secret")), Ok(1));

    let user = |bootstrap: &str, protocol: &str, mechanism: &str, user: &str, password: &str| {
        let mut config = trusting(bootstrap, protocol);
        config.set("sasl.mechanism", mechanism).set("sasl.username", user).set("sasl.password", password);
        config
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for (bootstrap, protocol) in
            [(broker.sasl_bootstrap(), "sasl_plaintext"), (broker.sasl_tls_bootstrap(), "sasl_ssl")]
        {
            let right = user(bootstrap, protocol, mechanism, "writer", &password("writer"));
            assert_eq!(reaches(&right), Ok(1), "{mechanism} {protocol}");
            let wrong = user(bootstrap, protocol, mechanism, "writer", "wrong");
            assert_eq!(reaches(&wrong), Err(RDKafkaErrorCode::Authentication), "{mechanism} {protocol}");
        }
    }
    let mut token = trusting(broker.sasl_bootstrap(), "sasl_plaintext");
    token.set("sasl.mechanism", "OAUTHBEARER").set("enable.sasl.oauthbearer.unsecure.jwt", "true");
    token.set("sasl.oauthbearer.config", "principal=writer");
    assert_eq!(reaches(&token), Ok(1));

    let topic = broker.unique("guarded");
    broker.create_topic(&topic, 1).await;
    let send_as = async |name: &str| {
        let config = user(broker.sasl_bootstrap(), "sasl_plaintext", "SCRAM-SHA-512", name, &password(name));
        // Idempotence would be a permission of its own.
        send(&config.create().unwrap(), &topic, 0, name).await
    };
    assert_eq!(send_as("writer").await, Ok(0));
    assert_eq!(send_as("reader").await, Err(RDKafkaErrorCode::TopicAuthorizationFailed));
    assert_eq!(send_as("admin").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_kill_and_a_clean_stop() {
    let Some(broker) = Broker::start(Options::new()) else { return };
    broker.create_topic("kept", 1).await;
    let producer = producer(&broker.client());
    for (count, end) in [Broker::kill, Broker::stop_cleanly].into_iter().enumerate() {
        assert_eq!(send(&producer, "kept", 0, "x").await, Ok(count as i64));
        end(&broker);
        assert!(reaches(&broker.client()).is_err());
        broker.restart();
    }
    // It is there, and says nothing.
    broker.pause();
    assert!(reaches(&broker.client()).is_err());
    broker.resume();
    assert_eq!(send(&producer, "kept", 0, "x").await, Ok(2));
    assert_eq!(broker.dump("kept").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_of_three_brokers_takes_over() {
    let Some(broker) = Broker::start(Options::new().brokers(3)) else { return };
    broker.create_topic_with("shared", 1, 3, &[("min.insync.replicas", "2")]).await;
    let producer = producer(&broker.client());
    assert_eq!(send(&producer, "shared", 0, "x").await, Ok(0));
    let first = broker.leader("shared", 0).unwrap();
    broker.kill_one(first);
    until("another one leads", async || broker.leader("shared", 0).is_some_and(|leader| leader != first)).await;
    assert_eq!(send(&producer, "shared", 0, "x").await, Ok(1));
    broker.restart();
    until("all three are in sync again", async || broker.in_sync("shared", 0).len() == 3).await;
    assert_eq!(broker.dump("shared").await.len(), 2);
}

/// With the process that has started them, however that ends.
#[test]
fn brokers_do_not_outlive_who_has_started_them() {
    let Some(_shared) = Broker::shared() else { return };
    if std::env::var_os("ANNALS_TEST_KAFKA").is_some() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/broker");
    let scratch = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let parent = std::process::Command::new("bash")
        .args(["-c", "\"$0\" start --parent $$ && kill -9 $$", script])
        .env("TMPDIR", scratch)
        .env("CARGO_TARGET_DIR", scratch.parent().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8(parent.stdout).unwrap();
    let value = |name| said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let (dir, bootstrap) = (value("dir="), value("bootstrap="));
    crate::support::blocking_until("the brokers have ended", || {
        let gone = !std::path::Path::new(dir).exists();
        let timeout = Duration::from_secs(1);
        gone && std::net::TcpStream::connect_timeout(&bootstrap.parse().unwrap(), timeout).is_err()
    });
}
