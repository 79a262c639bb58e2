//! Brokers that go away.

use std::time::{Duration, Instant};

use annals::mirror::{KafkaConfig, SaslMechanism, SecurityProtocol};
use annals::{Bus, BusSettings, Context, ErrorKind, Event, HandlerError, TopicDef};

use super::{DLQ, NUMBERS, OTHERS, soon};
use crate::support::{Broker, Options, PATIENCE, password, until};

const ROUNDS: u32 = 3;

/// Handlers go on once the brokers are back, and each output is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_costs_nothing_but_time() {
    let options = Options::new().property("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500");
    let Some(broker) = Broker::start(options) else { return };
    let config = KafkaConfig::new(broker.bootstrap())
        .delivery_timeout(Duration::from_secs(3))
        .request_timeout(Duration::from_secs(3))
        .transaction_timeout(Duration::from_secs(3));
    let bus = Bus::on_kafka(config, BusSettings::default()).unwrap();
    let handler = |event: Event<u64>, cx: Context| async move {
        cx.publish(OTHERS, event.value().copied().unwrap_or(u64::MAX)).await?;
        Ok::<_, HandlerError>(())
    };
    let subscription = bus.on(NUMBERS, "group", handler).concurrency(4).spawn().await.unwrap();
    let mut published = 0;
    for round in 0..ROUNDS {
        let until_then = published + 200;
        while published < until_then {
            bus.publish(NUMBERS, published).await.unwrap();
            published += 1;
        }
        let succeeded = subscription.stats().succeeded;
        broker.kill();
        if round == 0 {
            let began = Instant::now();
            let error = bus.publish(NUMBERS, u64::MAX).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
            assert!(!bus.health().ready && bus.health().live, "{:?}", bus.health());
            let error = bus.publish(TopicDef::<u64, annals::Json>::new("new"), 1).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        broker.restart();
        until("the subscription goes on", async || {
            subscription.stats().succeeded > succeeded || subscription.stats().succeeded >= published
        })
        .await;
    }
    assert!(bus.health().ready, "{:?}", bus.health());
    match tokio::time::timeout(2 * PATIENCE, subscription.idle()).await {
        Ok(idle) => idle.unwrap(),
        Err(_) => panic!("{:?}, {:?}, {:?}", subscription.stats(), subscription.last_error(), bus.lag("group").await),
    }
    soon("it ends", subscription.unsubscribe()).await.unwrap();
    let mut outputs: Vec<u64> =
        bus.history(OTHERS, 10_000).await.unwrap().into_iter().filter_map(|it| it.into_value()).collect();
    outputs.sort_unstable();
    // The one that was refused may have been written after all, when the broker came back.
    outputs.retain(|value| *value != u64::MAX);
    assert_eq!(outputs, (0..published).collect::<Vec<_>>());
}

/// Without brokers, everything that asks them says so in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_hangs_without_brokers() {
    // Nobody listens there.
    let config = KafkaConfig::new("127.0.0.1:9").request_timeout(Duration::from_secs(2));
    let bus = Bus::on_kafka(config, BusSettings::default()).unwrap();
    let handler = |_: Event<u64>, _: Context| Ok::<_, HandlerError>(());
    let letters = bus.dead_letters("group", "dlq").unwrap();
    let kinds = [
        soon("publish", bus.publish(NUMBERS, 1)).await.map(drop),
        soon("publish_batch", bus.publish_batch(NUMBERS, [1])).await.map(drop),
        soon("history", bus.history(NUMBERS, 1)).await.map(drop),
        soon("clear_history", bus.clear_history("numbers")).await,
        soon("lag", bus.lag("group")).await.map(drop),
        soon("spawn", bus.on(NUMBERS, "group", handler).spawn()).await.map(drop),
        soon("list", letters.list(1)).await.map(drop),
        soon("replay", letters.replay_all()).await.map(drop),
    ];
    for (number, done) in kinds.into_iter().enumerate() {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "number {number}: {error}");
    }
    soon("flush", bus.flush()).await.unwrap();
    soon("shutdown", bus.shutdown()).await.unwrap();
}

/// Who may not do something is told so, and not kept waiting; no password is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_so() {
    let Some(broker) = Broker::start(Options::new().sasl().acl()) else { return };
    let of = |user: &str, secret: &str| {
        let config = KafkaConfig::new(broker.sasl_bootstrap())
            .security_protocol(SecurityProtocol::SaslPlaintext)
            .sasl_mechanism(SaslMechanism::ScramSha256)
            .sasl_username(user)
            .sasl_password(secret)
            .request_timeout(Duration::from_secs(10));
        Bus::on_kafka(config, BusSettings::default()).unwrap()
    };
    let handler = |_: Event<u64>, _: Context| Ok::<_, HandlerError>(());
    let admin = of("admin", &password("admin"));
    admin.publish(NUMBERS, 1).await.unwrap();
    for (user, secret) in [("nobody", password("nobody")), ("admin", "wrong-secret".to_owned())] {
        let bus = of(user, &secret);
        let kinds = [
            soon("publish", bus.publish(NUMBERS, 2)).await.map(drop),
            soon("publish_batch", bus.publish_batch(NUMBERS, [2])).await.map(drop),
            soon("history", bus.history(NUMBERS, 1)).await.map(drop),
            soon("spawn", bus.on(NUMBERS, "group", handler).spawn()).await.map(drop),
        ];
        for (number, done) in kinds.into_iter().enumerate() {
            let error = done.unwrap_err();
            // With a wrong password nobody is even connected, and the client library does not try again at once.
            let is_told = error.kind() == ErrorKind::Denied
                || user == "admin" && number > 0 && error.kind() == ErrorKind::Unavailable;
            assert!(is_told, "{user}, number {number}: {error}");
            assert!(!format!("{error} {error:?} {bus:?}").contains(&secret), "{user}, number {number}");
        }
    }
    // Who may read does not write.
    let reader = of("reader", &password("reader"));
    let error = reader.publish(NUMBERS, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let history = admin.history(NUMBERS, 10).await.unwrap();
    assert_eq!(history.len(), 1, "something was written that must not be");

    // Where it would be forgotten which dead letters are closed none is closed.
    let failing = |_: Event<u64>, _: Context| Err::<(), _>(HandlerError::permanent("no"));
    let subscription = admin.on(NUMBERS, "failing", failing).dead_letter(DLQ).spawn().await.unwrap();
    soon("it has failed", subscription.idle()).await.unwrap();
    broker.create_topic("__dead_letters", 1).await;
    let letters = admin.dead_letters("failing", DLQ).unwrap();
    let error = letters.purge_all().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("`cleanup.policy`"), "{error}");
    assert_eq!(letters.count().await.unwrap(), 1);
    broker.set_topic_config("__dead_letters", "cleanup.policy", "compact").await;
    assert_eq!(letters.purge_all().await.unwrap(), 1);
    subscription.unsubscribe().await.unwrap();
}
