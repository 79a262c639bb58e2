//! What a topic of Kafka may hold, and become, that a log's cannot; and what Kafka refuses.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::mirror::{KafkaConfig, OAuthToken, SaslMechanism, SecurityProtocol};
use annals::{Bus, BusSettings, Context, ErrorKind, Event, HandlerError, Record, Start, TopicSettings};
use rdkafka::bindings;
use rdkafka::error::IsError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{DLQ, NUMBERS, OTHERS, bus, of, soon};
use crate::support::{Broker, Options, PATIENCE, password, until};

/// Sends a record with a header whose name is no text. Nothing but the client library itself can be made to do that.
#[expect(unsafe_code, reason = "the library is not Rust's")]
fn send_unreadable(broker: &Broker, topic: &str) {
    use bindings::rd_kafka_vtype_t as V;
    let producer: BaseProducer = broker.client().create().unwrap();
    let (topic, name) = (CString::new(topic).unwrap(), b"\xff");
    // SAFETY: all that is pointed to is there until the end; the library copies it, and owns the headers once it has taken the record.
    unsafe {
        let headers = bindings::rd_kafka_headers_new(1);
        let added = bindings::rd_kafka_header_add(headers, name.as_ptr().cast(), 1, name.as_ptr().cast(), 1);
        assert!(!added.is_error(), "{added:?}");
        let sent = bindings::rd_kafka_producev(
            producer.client().native_ptr(),
            V::RD_KAFKA_VTYPE_TOPIC,
            topic.as_ptr(),
            V::RD_KAFKA_VTYPE_PARTITION,
            0_i32,
            V::RD_KAFKA_VTYPE_MSGFLAGS,
            bindings::RD_KAFKA_MSG_F_COPY,
            V::RD_KAFKA_VTYPE_VALUE,
            b"2".as_ptr(),
            1_usize,
            V::RD_KAFKA_VTYPE_HEADERS,
            headers,
            V::RD_KAFKA_VTYPE_END,
        );
        assert!(!sent.is_error(), "{sent:?}");
    }
    producer.flush(PATIENCE).unwrap();
}

/// Nobody hangs over a record that cannot be read, and nobody passes over it: whoever meets it says where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_ends_the_subscription() {
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let bus = of(broker, &environment);
    bus.publish(NUMBERS, 0).await.unwrap();
    bus.publish(NUMBERS, 1).await.unwrap();
    send_unreadable(broker, &format!("{environment}.numbers"));
    bus.publish(NUMBERS, 3).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    // Whoever begins again meets it again.
    for _ in 0..2 {
        let handler = {
            let seen = Arc::clone(&seen);
            move |event: Event<u64>, _: Context| {
                seen.lock().unwrap().push(event.into_value().unwrap());
                Ok::<_, HandlerError>(())
            }
        };
        let subscription = bus.on(NUMBERS, "group", handler).spawn().await.unwrap();
        let error = soon("it ends", subscription.idle()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("offset 2 has a header"), "{error}");
        let health = bus.health();
        assert!(!health.ready && !health.subscriptions[0].running, "{health:?}");
        assert!(health.subscriptions[0].error.is_some(), "{health:?}");
        soon("it is over", subscription.unsubscribe()).await.unwrap_err();
    }
    assert_eq!(*seen.lock().unwrap(), [0, 1]);
    let kinds = [
        soon("history", bus.history(NUMBERS, 10)).await.map(drop),
        soon("lag", bus.lag("group")).await.map(drop),
        soon("letters", bus.dead_letters("group", "numbers").unwrap().list(1)).await.map(drop),
    ];
    for (number, done) in kinds.into_iter().enumerate() {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "number {number}: {error}");
        assert!(error.to_string().contains("offset 2 has a header"), "number {number}: {error}");
    }
}

/// The mark of a transaction at the end of one partition is found though events of another never cease to come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_partition_is_read_beside_a_busy_one() {
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let bus = of(broker, &environment);
    bus.create_topic(NUMBERS, TopicSettings::default().partitions(2)).await.unwrap();
    let quiet = [1, 2, 3].map(|number| Record::new(number).partition(0));
    bus.publish_batch(NUMBERS, quiet).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let busy = {
        let (stop, topic) = (Arc::clone(&stop), format!("{environment}.numbers"));
        let producer: BaseProducer = broker.client().create().unwrap();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..100 {
                    // What there is no room for is left out.
                    let _full = producer.send(BaseRecord::<(), _>::to(&topic).partition(1).payload("0"));
                }
                producer.poll(Duration::from_millis(1));
            }
        })
    };
    let end = || broker.end(&format!("{environment}.numbers"), 1);
    until("the other is busy", async || end() > 1000).await;
    let history = tokio::time::timeout(PATIENCE, bus.history(NUMBERS, 100)).await;
    stop.store(true, Ordering::Relaxed);
    busy.join().unwrap();
    let history = history.expect("it is not read in time").unwrap();
    assert_eq!(history.len(), 100);
}

/// Dead letters of a partition that was added after a bus has looked are replayed and purged by it as all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_partitions_that_came_later_are_closed() {
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let fails = Arc::new(AtomicBool::new(true));
    let handler = || {
        let fails = Arc::clone(&fails);
        move |_: Event<u64>, _: Context| match fails.load(Ordering::Relaxed) {
            true => Err(HandlerError::permanent("not yet")),
            false => Ok(()),
        }
    };
    let here = of(broker, &environment);
    let first = here.on(NUMBERS, "group", handler()).dead_letter(DLQ).spawn().await.unwrap();
    here.publish(NUMBERS, 1).await.unwrap();
    soon("it has failed", first.idle()).await.unwrap();
    let letters = here.dead_letters("group", DLQ).unwrap();
    assert_eq!(letters.purge_all().await.unwrap(), 1);
    first.unsubscribe().await.unwrap();
    broker.add_partitions(&format!("{environment}.numbers"), 3).await;
    // Another process knows of them, and makes dead letters of their events.
    let there = of(broker, &environment);
    let second = there.on(NUMBERS, "group", handler()).dead_letter(DLQ).spawn().await.unwrap();
    there.publish(NUMBERS, Record::new(2).partition(2)).await.unwrap();
    soon("it has failed", second.idle()).await.unwrap();
    assert_eq!(letters.count().await.unwrap(), 1);
    fails.store(false, Ordering::Relaxed);
    assert_eq!(letters.replay_all().await.unwrap(), 1);
    until("it is replayed", async || second.stats().succeeded == 1).await;
    let lag = here.lag("group").await.unwrap();
    assert_eq!(lag.iter().filter(|of| of.partition.topic.ends_with(".numbers")).count(), 3, "{lag:?}");
    second.unsubscribe().await.unwrap();
}

/// What was published as one is followed by a mark that nobody takes, and nobody is behind because of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_behind_because_of_the_mark_of_a_transaction() {
    let Some(broker) = Broker::shared() else { return };
    let bus = bus(broker);
    bus.publish_batch(NUMBERS, 0..3).await.unwrap();
    let handler = |_: Event<u64>, _: Context| Ok::<_, HandlerError>(());
    let subscription = bus.on(NUMBERS, "group", handler).spawn().await.unwrap();
    soon("all are handled", subscription.idle()).await.unwrap();
    subscription.unsubscribe().await.unwrap();
    let lag = bus.lag("group").await.unwrap();
    assert_eq!((lag[0].committed, lag[0].high_watermark, lag[0].lag_records), (Some(3), 4, 0), "{lag:?}");
    bus.publish_batch(NUMBERS, 3..5).await.unwrap();
    let lag = bus.lag("group").await.unwrap();
    assert!(lag[0].lag_records >= 2, "{lag:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_deleted_is_said() {
    // Nobody is asked: there are no tokens for that.
    let token = || Ok(OAuthToken::new("token", "somebody", chrono::DateTime::<chrono::Utc>::MAX_UTC));
    let config = KafkaConfig::new("127.0.0.1:9")
        .security_protocol(SecurityProtocol::SaslPlaintext)
        .sasl_mechanism(SaslMechanism::OAuthBearer)
        .oauth_token(token);
    let with_tokens = Bus::on_kafka(config, BusSettings::default()).unwrap();
    let error = soon("it is refused", with_tokens.clear_history("numbers")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("OAUTHBEARER"), "{error}");

    let Some(broker) = Broker::shared() else { return };
    let bus = bus(broker);
    bus.create_topic(OTHERS, TopicSettings::default().compaction(true)).await.unwrap();
    bus.publish(OTHERS, Record::new(1).key("key")).await.unwrap();
    let error = bus.clear_history("others").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("compacted"), "{error}");
    assert_eq!(bus.history(OTHERS, 10).await.unwrap().len(), 1);
}

/// What docs/KAFKA.md lists is all that a program needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_are_listed_are_enough() {
    let Some(broker) = Broker::start(Options::new().sasl().acl()) else { return };
    let connect = || {
        let config = KafkaConfig::new(broker.sasl_bootstrap())
            .security_protocol(SecurityProtocol::SaslPlaintext)
            .sasl_mechanism(SaslMechanism::ScramSha256)
            .sasl_username("nobody")
            .sasl_password(password("nobody"));
        Bus::on_kafka(config, BusSettings::default()).unwrap()
    };
    let bus = connect();
    let lists: [&[&str]; 3] = [
        &[
            "--operation=Read",
            "--operation=Write",
            "--operation=Describe",
            "--operation=DescribeConfigs",
            "--operation=Create",
            "--operation=Alter",
            "--operation=Delete",
            "--topic=*",
        ],
        &["--operation=Read", "--group=group", "--group=annals-reader"],
        &["--operation=Write", "--transactional-id=annals-", "--resource-pattern-type=prefixed"],
    ];
    for list in lists {
        let who = ["--bootstrap-server", broker.bootstrap(), "--add", "--allow-principal", "User:nobody"];
        broker.tool("acls", &[&who[..], list].concat());
    }
    let fails = Arc::new(AtomicBool::new(true));
    let handler = {
        let fails = Arc::clone(&fails);
        move |_: Event<u64>, cx: Context| {
            let fails = fails.load(Ordering::Relaxed);
            async move {
                cx.publish(OTHERS, 1).await?;
                if fails { Err(HandlerError::permanent("not yet")) } else { Ok(()) }
            }
        }
    };
    let subscription = bus.on(NUMBERS, "group", handler).dead_letter(DLQ).sequenced().spawn().await.unwrap();
    bus.publish(NUMBERS, 1).await.unwrap();
    bus.publish_batch(NUMBERS, [2, 3]).await.unwrap();
    soon("all have failed", subscription.idle()).await.unwrap();
    fails.store(false, Ordering::Relaxed);
    let letters = bus.dead_letters("group", DLQ).unwrap();
    assert_eq!(letters.replay_all().await.unwrap(), 3);
    until("all are replayed", async || subscription.stats().succeeded == 3).await;
    soon("all are done", subscription.idle()).await.unwrap();
    assert_eq!(bus.history(OTHERS, 10).await.unwrap().len(), 3);
    assert_eq!(bus.lag("group").await.unwrap()[0].lag_records, 0);
    bus.clear_history("numbers").await.unwrap();
    subscription.unsubscribe().await.unwrap();
    // Dead letters of a partition that is added need one more partition of annals' own topic.
    broker.add_partitions("numbers", 2).await;
    let handler = |_: Event<u64>, _: Context| Ok::<_, HandlerError>(());
    assert_eq!(broker.partitions("__replays.numbers"), Some(1));
    let subscription = connect().on(NUMBERS, "group", handler).dead_letter(DLQ).spawn().await.unwrap();
    assert_eq!(broker.partitions("__replays.numbers"), Some(2));
    subscription.unsubscribe().await.unwrap();
}

/// With a topic the brokers forget what groups have finished in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_begins_anew_in_a_topic_that_was_made_anew() {
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let seen = Arc::new(Mutex::new(Vec::new()));
    for (from, to) in [(0, 5), (5, 12)] {
        let bus = of(broker, &environment);
        bus.publish_batch(NUMBERS, from..to).await.unwrap();
        let handler = {
            let seen = Arc::clone(&seen);
            move |event: Event<u64>, _: Context| {
                seen.lock().unwrap().push(event.into_value().unwrap());
                Ok::<_, HandlerError>(())
            }
        };
        let subscription = bus.on(NUMBERS, "group", handler).start(Start::Earliest).spawn().await.unwrap();
        soon("all are handled", subscription.idle()).await.unwrap();
        subscription.unsubscribe().await.unwrap();
        broker.delete_topic(&format!("{environment}.numbers")).await;
    }
    assert_eq!(*seen.lock().unwrap(), (0..12).collect::<Vec<_>>());
}
