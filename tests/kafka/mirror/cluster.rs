//! Brokers that are down, silent, slow or too few, while publishing goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals::mirror::{
    ErrorClass, KafkaConfig, Mirror, MirrorState, OAuthToken, SaslMechanism, SecurityProtocol, TargetTopics,
};
use annals::{ErrorKind, Message};

use super::world::{World, assert_whole, caught_up, met, stop};
use crate::support::{Broker, Options, password, until};

/// Publishes for so long, a little at a time, and answers how many records.
async fn publish_for(world: &World<'_>, topic: &str, time: Duration) -> u64 {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        world.publish(topic, 20).await;
        count += 20;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    count
}

fn lag(mirror: &Mirror) -> u64 {
    mirror.status().lag_records()
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_goes_on_while_the_broker_is_down_and_nothing_is_lost_or_doubled() {
    let Some(broker) = Broker::start(Options::new()) else { return };
    let world = World::new(&broker);
    world.topic("orders", 3).await;
    let mirror = world.mirror().spawn().unwrap();
    let mut errors = mirror.errors();
    world.publish("orders", 1000).await;
    caught_up(&mirror).await;
    for (is_killed, seconds) in [(true, 60), (false, 8)] {
        let end = if is_killed { Broker::kill } else { Broker::stop_cleanly };
        let down = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::task::block_in_place(|| end(&broker));
        };
        let (published, ()) = tokio::join!(publish_for(&world, "orders", Duration::from_secs(seconds)), down);
        assert!(published > 60 * seconds, "{published}");
        until("the lag shows it", async || lag(&mirror) > 0).await;
        let status = mirror.status();
        assert!(!matches!(status.state, MirrorState::Failed | MirrorState::Stopped), "{status:?}");
        tokio::task::block_in_place(|| broker.restart());
        world.publish("orders", 100).await;
        caught_up(&mirror).await;
    }
    assert_whole(&mirror);
    stop(mirror).await;
    // If it has met anything, it was something that passes.
    while let Ok(met) = errors.try_recv() {
        assert_eq!((met.class, met.error.kind()), (ErrorClass::Passing, ErrorKind::Unavailable), "{met:?}");
    }
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_begins_and_stops_without_its_cluster() {
    let Some(broker) = Broker::start(Options::new()) else { return };
    let world = World::new(&broker);
    world.topic("orders", 1).await;
    broker.kill();
    for paused in [false, true] {
        let mirror = world.mirror().spawn().unwrap();
        let mut errors = mirror.errors();
        world.publish("orders", 100).await;
        let met = met(&mut errors, ErrorClass::Passing).await;
        assert_eq!(met.error.kind(), ErrorKind::Unavailable, "{met:?}");
        assert_eq!(mirror.status().state, MirrorState::Connecting);
        if paused {
            // What is told to stop need not have come anywhere.
            mirror.pause();
        }
        stop(mirror).await;
    }
    let mirror = world.mirror().spawn().unwrap();
    tokio::task::block_in_place(|| broker.restart());
    caught_up(&mirror).await;
    // In the middle of its work.
    tokio::task::block_in_place(|| broker.kill());
    world.publish("orders", 100).await;
    stop(mirror).await;
    tokio::task::block_in_place(|| broker.restart());
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_says_nothing_is_waited_for() {
    let Some(broker) = Broker::start(Options::new()) else { return };
    let world = World::new(&broker);
    world.topic("orders", 3).await;
    let mirror = world.mirror().spawn().unwrap();
    world.publish("orders", 1000).await;
    caught_up(&mirror).await;
    let silent = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::block_in_place(|| broker.pause());
        tokio::time::sleep(Duration::from_secs(8)).await;
        tokio::task::block_in_place(|| broker.resume());
    };
    tokio::join!(publish_for(&world, "orders", Duration::from_secs(10)), silent);
    caught_up(&mirror).await;
    assert_whole(&mirror);
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

/// Brokers abort what is open for too long, and shut out whoever has begun it, as if another instance had taken over. There is none. And
/// they forget whoever has nothing to write for a week.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_was_asleep_goes_on() {
    let options = Options::new()
        .property("transaction.abort.timed.out.transaction.cleanup.interval.ms", "50")
        .property("transactional.id.expiration.ms", "8000")
        .property("transaction.remove.expired.transaction.cleanup.interval.ms", "100")
        .property("producer.id.expiration.ms", "8000")
        .property("producer.id.expiration.check.interval.ms", "100");
    let Some(broker) = Broker::start(options) else { return };
    let world = World::new(&broker);
    world.topic("orders", 3).await;
    let kafka = KafkaConfig::new(broker.bootstrap()).transaction_timeout(Duration::from_secs(1));
    // As a machine that was put to sleep, three times, with a transaction open.
    let (count, sleeps) = (AtomicU64::new(0), [700, 1100, 1101]);
    let keep = move |_: &Message| {
        if sleeps.contains(&count.fetch_add(1, Ordering::Relaxed)) {
            std::thread::sleep(Duration::from_secs(3));
        }
        true
    };
    world.publish("orders", 2000).await;
    let mirror = world.mirror().to(kafka).commit_interval(Duration::from_millis(500)).filter(keep).spawn().unwrap();
    let mut errors = mirror.errors();
    caught_up(&mirror).await;
    let mut passing = || {
        let mut count = 0;
        while let Ok(met) = errors.try_recv() {
            assert_eq!(met.class, ErrorClass::Passing, "{met:?}");
            count += 1;
        }
        count
    };
    assert!(passing() > 0, "no transaction was aborted");
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.publish("orders", 100).await;
    caught_up(&mirror).await;
    assert!(passing() > 0, "the brokers have not forgotten it");
    assert_whole(&mirror);
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_slows_the_mirror_down_slows_no_publisher() {
    let Some(broker) = Broker::start(Options::new()) else { return };
    let world = World::new(&broker);
    world.topic("orders", 1).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    let limit = ["--alter", "--entity-type", "clients", "--entity-default", "--add-config", "producer_byte_rate=20000"];
    let at = ["--bootstrap-server", broker.bootstrap()];
    tokio::task::block_in_place(|| broker.tool("configs", &[&at[..], &limit].concat()));
    let began = Instant::now();
    world.publish("orders", 600).await;
    let published = began.elapsed();
    caught_up(&mirror).await;
    let mirrored = began.elapsed();
    // Some 600,000 bytes, of which the broker takes 20,000 a second, once it has had those of the first seconds.
    assert!(mirrored > Duration::from_secs(5) && published < mirrored / 2, "{published:?}, {mirrored:?}");
    assert_whole(&mirror);
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_changes_and_replicas_that_are_missing_are_waited_for() {
    let Some(broker) = Broker::start(Options::new().brokers(3)) else { return };
    let world = World::new(&broker);
    world.topic("led", 3).await;
    world.topic("copied", 1).await;
    let replicated = [("retention.ms", "-1"), ("min.insync.replicas", "2")];
    broker.create_topic_with(&world.target("led"), 3, 3, &replicated).await;
    broker.create_topic_with(&world.target("copied"), 1, 2, &replicated).await;
    let create = TargetTopics::default().replication(3);
    let mirror = world.mirror().create_topics(create).spawn().unwrap();
    for topic in ["led", "copied"] {
        world.publish(topic, 300).await;
    }
    caught_up(&mirror).await;
    // Each of them in turn: partitions have other leaders, and the transactions have another coordinator.
    for id in 1..=3 {
        let (leader, copies) = (broker.leader(&world.target("led"), 0), broker.in_sync(&world.target("copied"), 0));
        let killed = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            tokio::task::block_in_place(|| broker.kill_one(id));
            if leader == Some(id) {
                let other = async || broker.leader(&world.target("led"), 0).is_some_and(|leader| leader != id);
                until("another one leads", other).await;
            }
        };
        tokio::join!(publish_for(&world, "led", Duration::from_secs(4)), killed);
        if copies.contains(&id) {
            // One of two is not enough: it waits, and so does nobody who publishes.
            world.publish("copied", 100).await;
            until("the lag shows it", async || lag(&mirror) > 0).await;
            assert_ne!(mirror.status().state, MirrorState::Failed);
        } else {
            caught_up(&mirror).await;
        }
        tokio::task::block_in_place(|| broker.restart());
        caught_up(&mirror).await;
        until("all are in sync again", async || {
            broker.in_sync(&world.target("copied"), 0).len() == 2 && broker.in_sync(&world.target("led"), 0).len() == 3
        })
        .await;
    }
    assert_whole(&mirror);
    stop(mirror).await;
    for topic in ["led", "copied"] {
        world.assert_exactly_once(topic).await;
    }
}

/// A token that is not signed, as the broker of the tests takes it.
fn token(user: &str) -> OAuthToken {
    let base64 = |text: &str| {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let digits = |bytes: &[u8]| {
            let word = bytes.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - bytes.len()));
            (0..=bytes.len())
                .map(|place| char::from(DIGITS[(word >> (18 - 6 * place)) as usize & 63]))
                .collect::<Vec<_>>()
        };
        text.as_bytes().chunks(3).flat_map(digits).collect::<String>()
    };
    let ends = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let (now, end) = (chrono::Utc::now().timestamp(), ends.timestamp());
    let claims = format!(r#"{{"sub":"{user}","iat":{now},"exp":{end}}}"#);
    OAuthToken::new(format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(&claims)), user, ends)
}

/// What a broker says while it begins is not taken for its last word.
#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_be_let_in_outlives_a_broker_that_begins_anew() {
    let Some(broker) = Broker::start(Options::new().tls().sasl()) else { return };
    let plain = |bootstrap: &str, protocol| KafkaConfig::new(bootstrap).security_protocol(protocol);
    let user = |config: KafkaConfig, mechanism| {
        config.sasl_mechanism(mechanism).sasl_username("writer").sasl_password(password("writer"))
    };
    let (sasl, both) = (SecurityProtocol::SaslPlaintext, SecurityProtocol::SaslSsl);
    let configs = [
        plain(broker.tls_bootstrap(), SecurityProtocol::Ssl).ca_file(broker.ca()),
        plain(broker.mutual_tls_bootstrap(), SecurityProtocol::Ssl)
            .ca_file(broker.ca())
            .client_certificate(broker.client_certificate(), broker.client_key_encrypted())
            .key_password("client-secret"),
        user(plain(broker.sasl_bootstrap(), sasl), SaslMechanism::Plain),
        user(plain(broker.sasl_bootstrap(), sasl), SaslMechanism::ScramSha256),
        user(plain(broker.sasl_tls_bootstrap(), both).ca_file(broker.ca()), SaslMechanism::ScramSha512),
        plain(broker.sasl_bootstrap(), sasl)
            .sasl_mechanism(SaslMechanism::OAuthBearer)
            .oauth_token(|| Ok(token("writer"))),
    ];
    let mut worlds = Vec::new();
    for config in configs {
        let world = World::new(&broker);
        world.topic("orders", 1).await;
        world.publish("orders", 100).await;
        // With a token the mirror makes no topics.
        broker.create_topic_with(&world.target("orders"), 1, 1, &[("retention.ms", "-1")]).await;
        let mirror = world.bare_mirror().to(config).spawn().unwrap();
        caught_up(&mirror).await;
        assert_whole(&mirror);
        worlds.push((world, mirror));
    }
    for end in [Broker::kill, Broker::stop_cleanly] {
        tokio::task::block_in_place(|| {
            end(&broker);
            broker.restart();
        });
        for (world, _) in &worlds {
            world.publish("orders", 100).await;
        }
        for (_, mirror) in &worlds {
            caught_up(mirror).await;
            assert_whole(mirror);
        }
    }
    for (world, mirror) in worlds {
        stop(mirror).await;
        world.assert_exactly_once("orders").await;
    }
}
