//! What the target does not take: records, topics, users.

use std::time::{Duration, Instant};

use annals::mirror::{
    ErrorClass, Guarantee, KafkaConfig, MARKER, Mirror, MirrorBuilder, ORIGIN_OFFSET, OnRefused, Partitions,
    SaslMechanism, SecurityProtocol, TargetTopics,
};
use annals::{ErrorKind, Record, Start, TopicSettings};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use super::world::{World, assert_whole, caught_up, failed, met, paused, resume, stop, values};
use crate::support::{Broker, Options, PATIENCE, password};

/// More than the topics of these tests take.
const LARGE: usize = 50_000;

/// A target that refuses records of more than 20,000 bytes, and what is written: in partition 0 the record `bad` between others, in
/// partition 1 others.
async fn with_one_refused<'b>(broker: &'b Broker, bad: Record<Bytes>, setting: (&str, &str)) -> World<'b> {
    let world = World::new(broker);
    world.topic("orders", 2).await;
    world.log.create_raw_topic("dead", TopicSettings::default()).await.unwrap();
    broker.create_topic_with(&world.target("orders"), 2, 1, &[setting, ("retention.ms", "-1")]).await;
    let text = |text: &'static str| Record::new(Bytes::from_static(text.as_bytes()));
    let records = [text("a"), text("b"), bad, text("c"), text("d")].map(|record| record.partition(0).key("k"));
    let others = [text("e"), text("f")].map(|record| record.partition(1));
    world.log.raw_topic("orders").unwrap().produce_batch(records.into_iter().chain(others)).await.unwrap();
    world
}

/// Only the one topic: the other one is for dead letters.
fn mirror(world: &World<'_>, on_refused: OnRefused) -> MirrorBuilder {
    Mirror::builder(&world.log)
        .name(&world.name)
        .topics(["orders"])
        .to(KafkaConfig::new(world.broker.bootstrap()))
        .prefix(world.target(""))
        .commit_interval(Duration::from_millis(20))
        .on_refused(on_refused)
}

async fn assert_stops(world: &World<'_>, kind: ErrorKind, said: &str) {
    let mirror = mirror(world, OnRefused::Stop).retry_paused(None).spawn().unwrap();
    let error = paused(&mirror, "orders", 0).await;
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(said), "{error}");
    // What comes before it is there, and the other partitions go on.
    world.publish_one("orders", Record::new(Bytes::from("g")).partition(1)).await;
    caught_up(&mirror).await;
    let there = values(&world.dump("orders").await);
    assert_eq!(there[&0], ["a", "b"]);
    assert_eq!(there[&1], ["e", "f", "g"]);
    stop(mirror).await;
}

async fn assert_dead_letter(world: &World<'_>, bad: &Record<Bytes>) {
    let mirror = mirror(world, OnRefused::DeadLetter("dead".to_owned())).spawn().unwrap();
    let mut errors = mirror.errors();
    caught_up(&mirror).await;
    assert_eq!(met(&mut errors, ErrorClass::Skipped).await.partition, Some(("orders".to_owned(), 0)));
    let status = mirror.status();
    assert_eq!(status.refused, 1, "{status:?}");
    stop(mirror).await;
    let there = values(&world.dump("orders").await);
    assert_eq!(there[&0], ["a", "b", "c", "d"]);
    let mut dead = world.log.raw_topic("dead").unwrap().replay(Start::Earliest).blocking().unwrap();
    let letter = dead.next_message().unwrap().unwrap();
    assert_eq!(letter.value(), bad.value.as_ref());
    assert_eq!(letter.key().map(|key| &key[..]), Some(&b"k"[..]));
    assert_eq!(letter.headers().get_str("dead-letter.topic"), Some("orders"));
    assert_eq!(letter.headers().get_str("dead-letter.partition"), Some("0"));
    assert_eq!(letter.headers().get_str("dead-letter.offset"), Some("2"));
    assert!(letter.headers().get_str("dead-letter.error").is_some_and(|error| error.contains("offset 2")));
    assert!(dead.next_message().unwrap().is_none());
}

async fn assert_skips(world: &World<'_>) {
    let mirror = mirror(world, OnRefused::Skip).spawn().unwrap();
    let mut errors = mirror.errors();
    caught_up(&mirror).await;
    assert_eq!(met(&mut errors, ErrorClass::Skipped).await.partition, Some(("orders".to_owned(), 0)));
    let status = mirror.status();
    assert_eq!(status.refused, 1, "{status:?}");
    stop(mirror).await;
    let dumped = world.dump("orders").await;
    assert_eq!(values(&dumped)[&0], ["a", "b", "", "c", "d"]);
    let mark = dumped.iter().find(|record| record.partition == 0 && record.header(ORIGIN_OFFSET) == Some("2")).unwrap();
    assert_eq!(mark.header(MARKER), Some("skipped"));
    assert_eq!(mark.key.as_deref(), Some(&b"k"[..]));
    assert!(mark.header("annals.error").is_some_and(|error| error.contains("offset 2")), "{mark:?}");
}

fn large() -> Record<Bytes> {
    // Not to be compressed away.
    let bytes = (0..LARGE as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8);
    Record::new(bytes.collect::<Vec<u8>>().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_record_does_what_was_asked_for() {
    let Some(broker) = Broker::shared() else { return };
    let limit = ("max.message.bytes", "20000");
    assert_stops(&with_one_refused(broker, large(), limit).await, ErrorKind::Invalid, "offset 2").await;
    assert_dead_letter(&with_one_refused(broker, large(), limit).await, &large()).await;
    assert_skips(&with_one_refused(broker, large(), limit).await).await;
}

/// Once the target takes it, the mirror goes on where it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_stopped_goes_on_when_the_target_has_learnt_to_take_the_record() {
    let Some(broker) = Broker::shared() else { return };
    let world = with_one_refused(broker, large(), ("max.message.bytes", "20000")).await;
    let mirror = mirror(&world, OnRefused::Stop).retry_paused(None).spawn().unwrap();
    paused(&mirror, "orders", 0).await;
    broker.set_topic_config(&world.target("orders"), "max.message.bytes", "200000").await;
    resume(&mirror).await;
    caught_up(&mirror).await;
    assert_whole(&mirror);
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_for_the_client_does_what_was_asked_for() {
    let Some(broker) = Broker::shared() else { return };
    let limit = ("max.message.bytes", "10000000");
    let bad = || Record::new(Bytes::from(vec![7; 100_000]));
    for on_refused in [OnRefused::Stop, OnRefused::Skip] {
        let world = with_one_refused(broker, bad(), limit).await;
        let mirror =
            mirror(&world, on_refused.clone()).in_flight_bytes_max(64 * 1024).retry_paused(None).spawn().unwrap();
        let expected: &[&str] = if on_refused == OnRefused::Stop {
            paused(&mirror, "orders", 0).await;
            &["a", "b"]
        } else {
            &["a", "b", "", "c", "d"]
        };
        caught_up(&mirror).await;
        stop(mirror).await;
        assert_eq!(values(&world.dump("orders").await)[&0], expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_the_broker_refuses_does_what_was_asked_for() {
    let Some(broker) = Broker::shared() else { return };
    // A day is the most that it may be old.
    let limit = ("message.timestamp.before.max.ms", "86400000");
    let bad = || Record::new(Bytes::from("old")).timestamp(Utc::now() - TimeDelta::days(10));
    assert_stops(&with_one_refused(broker, bad(), limit).await, ErrorKind::Invalid, "offset 2").await;
    assert_dead_letter(&with_one_refused(broker, bad(), limit).await, &bad()).await;
    assert_skips(&with_one_refused(broker, bad(), limit).await).await;
}

/// Kafka has no numbers for two milliseconds: one says that there is no time, the other one that it is now.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_kafka_cannot_say_does_what_was_asked_for() {
    let Some(broker) = Broker::shared() else { return };
    let none = ("retention.bytes", "-1");
    for micros in [0, 999, -1, -1000] {
        let time = DateTime::from_timestamp_micros(micros).unwrap();
        let bad = || Record::new(Bytes::from("old")).timestamp(time);
        assert_stops(&with_one_refused(broker, bad(), none).await, ErrorKind::Invalid, "1970").await;
    }
    let bad = || Record::new(Bytes::from("old")).timestamp(DateTime::UNIX_EPOCH);
    assert_skips(&with_one_refused(broker, bad(), none).await).await;
    assert_dead_letter(&with_one_refused(broker, bad(), none).await, &bad()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_before_1970_are_kept() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    for micros in [-1001, -86_400_000_000, -2_208_988_800_000_000, 1000] {
        let time = DateTime::from_timestamp_micros(micros).unwrap();
        world.publish_one("orders", Record::new(Bytes::from("old")).timestamp(time)).await;
    }
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    assert_whole(&mirror);
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_does_with_an_oversized_record_what_was_asked_for() {
    let Some(broker) = Broker::shared() else { return };
    let world = with_one_refused(broker, large(), ("max.message.bytes", "20000")).await;
    let mirror = mirror(&world, OnRefused::Skip).guarantee(Guarantee::AtLeastOnce).spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    let mut there = values(&world.dump("orders").await);
    // What was in the batch before may have come twice.
    there.values_mut().for_each(|values| values.dedup());
    let there: Vec<&str> = there[&0].iter().map(String::as_str).collect();
    assert!(there.ends_with(&["", "c", "d"]) && there.starts_with(&["a", "b"]), "{there:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_topic_pauses_its_partitions_until_it_is_there() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("known", 1).await;
    world.topic("unknown", 2).await;
    broker.create_topic_with(&world.target("known"), 1, 1, &[("retention.ms", "-1")]).await;
    let mirror = world.bare_mirror().retry_paused(None).spawn().unwrap();
    for topic in ["known", "unknown"] {
        world.publish(topic, 100).await;
    }
    let error = paused(&mirror, "unknown", 1).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains(&world.target("unknown")), "{error}");
    caught_up(&mirror).await;
    world.assert_exactly_once("known").await;
    broker.create_topic_with(&world.target("unknown"), 2, 1, &[("retention.ms", "-1")]).await;
    resume(&mirror).await;
    caught_up(&mirror).await;
    assert_whole(&mirror);
    stop(mirror).await;
    world.assert_exactly_once("unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_topic_that_is_deleted_pauses_its_partitions() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    world.topic("others", 1).await;
    world.publish("orders", 100).await;
    for topic in ["orders", "others"] {
        broker.create_topic_with(&world.target(topic), 1, 1, &[("retention.ms", "-1")]).await;
    }
    let mirror = world.bare_mirror().retry_paused(None).spawn().unwrap();
    caught_up(&mirror).await;
    broker.delete_topic(&world.target("orders")).await;
    world.publish("orders", 100).await;
    world.publish("others", 100).await;
    let error = paused(&mirror, "orders", 0).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    caught_up(&mirror).await;
    stop(mirror).await;
    world.assert_exactly_once("others").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_fewer_partitions_is_refused_unless_records_go_by_key() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 4).await;
    world.publish("orders", 400).await;
    broker.create_topic_with(&world.target("orders"), 3, 1, &[("retention.ms", "-1")]).await;
    let error = failed(&world.bare_mirror().spawn().unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("has 4 partitions") && error.to_string().contains("target 3"), "{error}");
    assert!(world.dump("orders").await.is_empty());

    let mirror = world.bare_mirror().partitions(Partitions::ByKey).spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    let dumped = world.dump("orders").await;
    assert_eq!(dumped.len(), 400);
    // Records of one key are in one partition, in the order in which they were written.
    let mut expected = super::compare::expected(&world.log, "orders");
    expected.retain(|record| record.key.is_some());
    let keys: std::collections::BTreeSet<_> = expected.iter().map(|record| record.key.clone()).collect();
    for key in keys {
        let there: Vec<_> = dumped.iter().filter(|record| record.key == key).collect();
        assert!(there.iter().all(|record| record.partition == there[0].partition), "{key:?}");
        let ids: Vec<_> = there.iter().map(|record| record.header("id")).collect();
        let id = |record: &super::compare::Forwarded| {
            let (_, value) = record.headers.iter().find(|(name, _)| name == "id").unwrap();
            String::from_utf8(value.clone().unwrap()).unwrap()
        };
        let written: Vec<String> = expected.iter().filter(|record| record.key == key).map(id).collect();
        assert_eq!(ids, written.iter().map(|id| Some(id.as_str())).collect::<Vec<_>>(), "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_on_the_way_join() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 2).await;
    world.publish("orders", 200).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    world.log.add_partitions("orders", 5).await.unwrap();
    world.publish("orders", 500).await;
    // Topics, too.
    world.topic("more", 1).await;
    world.publish("more", 100).await;
    crate::support::until("all partitions are mirrored", async || mirror.status().partitions.len() == 6).await;
    caught_up(&mirror).await;
    assert_whole(&mirror);
    stop(mirror).await;
    assert_eq!(broker.partitions(&world.target("orders")), Some(5));
    for topic in ["orders", "more"] {
        world.assert_exactly_once(topic).await;
    }
}

/// Where the mirror may not add partitions to the target, those that are there go on.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_the_target_lacks_wait_for_it() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 2).await;
    broker.create_topic_with(&world.target("orders"), 2, 1, &[("retention.ms", "-1")]).await;
    let mirror = world.bare_mirror().retry_paused(Some(Duration::from_millis(100))).spawn().unwrap();
    let mut errors = mirror.errors();
    world.publish("orders", 200).await;
    caught_up(&mirror).await;
    world.log.add_partitions("orders", 3).await.unwrap();
    world.publish("orders", 200).await;
    let error = paused(&mirror, "orders", 2).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    // It connects anew each time it tries, and the others go on all the same.
    for _ in 0..4 {
        let told = met(&mut errors, ErrorClass::Partition).await;
        assert_eq!((told.partition, told.error.kind()), (Some(("orders".to_owned(), 2)), ErrorKind::Invalid));
        world.publish("orders", 100).await;
        caught_up(&mirror).await;
    }
    let there = values(&world.dump("orders").await);
    assert_eq!(there.len(), 2);
    broker.add_partitions(&world.target("orders"), 3).await;
    resume(&mirror).await;
    caught_up(&mirror).await;
    assert_whole(&mirror);
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

fn as_user(broker: &Broker, user: &str, password: &str) -> KafkaConfig {
    KafkaConfig::new(broker.sasl_bootstrap())
        .security_protocol(SecurityProtocol::SaslPlaintext)
        .sasl_mechanism(SaslMechanism::ScramSha512)
        .sasl_username(user)
        .sasl_password(password)
}

/// Changes whether `writer` is denied a topic.
fn deny(broker: &Broker, change: &str, topic: &str) {
    let principal = ["--deny-principal", "User:writer", "--operation", "Write", "--topic", topic];
    let arguments = [&["--bootstrap-server", broker.bootstrap(), change, "--force"][..], &principal].concat();
    tokio::task::block_in_place(|| broker.tool("acls", &arguments));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so() {
    let Some(broker) = Broker::start(Options::new().acl()) else { return };
    let world = World::new(&broker);
    for topic in ["open", "closed"] {
        world.topic(topic, 1).await;
        world.publish(topic, 100).await;
        broker.create_topic_with(&world.target(topic), 1, 1, &[("retention.ms", "-1")]).await;
    }
    deny(&broker, "--add", &world.target("closed"));

    // Nobody lets it in.
    for (guarantee, user, password) in [
        (Guarantee::ExactlyOnce, "writer", "wrong".to_owned()),
        (Guarantee::ExactlyOnce, "nobody", password("nobody")),
        (Guarantee::ExactlyOnce, "reader", password("reader")),
        (Guarantee::AtLeastOnce, "writer", "wrong".to_owned()),
        (Guarantee::AtLeastOnce, "nobody", password("nobody")),
        (Guarantee::AtLeastOnce, "reader", password("reader")),
    ] {
        let mirror = world.bare_mirror().to(as_user(&broker, user, &password)).guarantee(guarantee).retry_paused(None);
        let mirror = mirror.spawn().unwrap();
        let is_known = password != "wrong";
        let denied = async {
            tokio::select! {
                error = failed(&mirror) => error,
                error = paused(&mirror, "open", 0), if is_known => error,
            }
        };
        let error = denied.await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{guarantee:?} {user}: {error}");
        let said = format!("{error} {error:?} {:?}", mirror.status());
        assert!(!said.contains(&password), "{said}");
        let _ended = mirror.stop().await;
    }

    // One topic does not take it, the other one does.
    let writer = as_user(&broker, "writer", &password("writer"));
    let mirror = world.bare_mirror().to(writer).retry_paused(None).spawn().unwrap();
    let mut errors = mirror.errors();
    let error = paused(&mirror, "closed", 0).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    caught_up(&mirror).await;
    world.assert_exactly_once("open").await;
    // It is taken away while the mirror runs, and given back.
    deny(&broker, "--add", &world.target("open"));
    world.publish("open", 100).await;
    while met(&mut errors, ErrorClass::Partition).await.partition != Some(("open".to_owned(), 0)) {}
    for topic in ["open", "closed"] {
        deny(&broker, "--remove", &world.target(topic));
    }
    resume(&mirror).await;
    caught_up(&mirror).await;
    stop(mirror).await;
    for topic in ["open", "closed"] {
        world.assert_exactly_once(topic).await;
    }
}

/// Gives `nobody`, who may do nothing else, a right to what a name or the beginning of one says.
fn allow(broker: &Broker, operations: &[&str], resource: &[&str]) {
    let operations = operations.iter().flat_map(|operation| ["--operation", operation]);
    let at = ["--bootstrap-server", broker.bootstrap(), "--add", "--force", "--allow-principal", "User:nobody"];
    let arguments: Vec<&str> = at.into_iter().chain(operations).chain(resource.iter().copied()).collect();
    tokio::task::block_in_place(|| broker.tool("acls", &arguments));
}

/// Spawns a mirror until it goes on: a right comes into force some time after it is given.
async fn once_allowed(builder: &dyn Fn() -> MirrorBuilder) -> Mirror {
    let begun = Instant::now();
    let mirror = loop {
        let mirror = builder().spawn().unwrap();
        match mirror.caught_up().await {
            Ok(()) => break mirror,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    resume(&mirror).await;
    caught_up(&mirror).await;
    mirror
}

/// These are the rights that docs/KAFKA.md names.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_needs_few_rights() {
    let Some(broker) = Broker::start(Options::new().acl()) else { return };
    let world = World::new(&broker);
    world.topic("orders", 1).await;
    world.publish("orders", 100).await;
    let (checkpoints, target) = (world.target("places"), world.target("orders"));
    for (topic, setting) in [(&checkpoints, ("cleanup.policy", "compact")), (&target, ("retention.ms", "-1"))] {
        broker.create_topic_with(topic, 1, 1, &[setting]).await;
    }
    let nobody = || as_user(&broker, "nobody", &password("nobody"));
    let mirror = || world.bare_mirror().to(nobody()).checkpoint_topic(&checkpoints).retry_paused(None);
    let id = format!("annals.{}.{}", world.log.id(), world.name);
    // To write a thing is to be told of it, too.
    let needed: [(&[&str], &[&str]); 3] = [
        (&["Write"], &["--topic", &target]),
        (&["Write", "Read"], &["--topic", &checkpoints]),
        (&["Write"], &["--transactional-id", &id]),
    ];
    for (operations, resource) in needed {
        let mirror = mirror().spawn().unwrap();
        let error = failed(&mirror).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "before {resource:?}: {error}");
        allow(&broker, operations, resource);
    }
    let at_work = once_allowed(&mirror).await;
    stop(at_work).await;
    world.assert_exactly_once("orders").await;

    // Without transactions one is enough.
    let plain = World::new(&broker);
    plain.topic("orders", 1).await;
    plain.publish("orders", 100).await;
    broker.create_topic_with(&plain.target("orders"), 1, 1, &[("retention.ms", "-1")]).await;
    allow(&broker, &["Write"], &["--topic", &plain.target("orders")]);
    let builder = || plain.bare_mirror().to(nobody()).guarantee(Guarantee::AtLeastOnce).retry_paused(None);
    let at_work = once_allowed(&builder).await;
    stop(at_work).await;
    plain.assert_exactly_once("orders").await;

    // To make topics, and to add partitions.
    world.topic("more", 1).await;
    world.publish("more", 100).await;
    let making = || mirror().create_topics(TargetTopics::default().config("retention.ms", "-1"));
    let at_work = making().spawn().unwrap();
    let error = paused(&at_work, "more", 0).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let beginning = ["--topic", &world.target(""), "--resource-pattern-type", "prefixed"];
    allow(&broker, &["Create", "Write"], &beginning);
    resume(&at_work).await;
    caught_up(&at_work).await;
    world.log.add_partitions("more", 2).await.unwrap();
    world.publish("more", 100).await;
    let error = paused(&at_work, "more", 1).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    allow(&broker, &["Alter"], &beginning);
    resume(&at_work).await;
    caught_up(&at_work).await;
    stop(at_work).await;
    for topic in ["orders", "more"] {
        world.assert_exactly_once(topic).await;
    }
}

/// A mirror that stands still for longer than its checkpoints are kept would forward everything again.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_would_let_go_of_checkpoints_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    world.publish("orders", 10).await;
    let own = world.target("checkpoints");
    broker.create_topic_with(&own, 1, 1, &[("cleanup.policy", "delete")]).await;
    let spawn = || world.mirror().checkpoint_topic(&own).spawn().unwrap();
    let error = failed(&spawn()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(&own) && error.to_string().contains("`cleanup.policy` is `delete`"), "{error}");
    // Nothing was forwarded.
    assert_eq!(broker.partitions(&world.target("orders")), None);
    for (name, value) in [("cleanup.policy", "compact"), ("cleanup.policy", "delete")] {
        broker.set_topic_config(&own, name, value).await;
        broker.set_topic_config(&own, "retention.ms", "-1").await;
        world.publish("orders", 10).await;
        let mirror = spawn();
        caught_up(&mirror).await;
        stop(mirror).await;
    }
    world.assert_exactly_once("orders").await;
    // One that the mirror makes keeps them, and is compacted before it is long.
    let made = format!("{own}-made");
    let mirror = world.mirror().name(format!("{}-2", world.name)).prefix("x.").checkpoint_topic(&made).spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    let about = ["--entity-type", "topics", "--entity-name", &*made, "--describe"];
    let at = ["--bootstrap-server", broker.bootstrap()];
    let said = tokio::task::block_in_place(|| broker.tool("configs", &[&at[..], &about].concat()));
    for setting in ["cleanup.policy=compact", "segment.bytes=16777216", "min.cleanable.dirty.ratio=0.1"] {
        assert!(said.contains(setting), "{said}");
    }
}

/// Where its own topic does not take it nothing can go on, neither then nor after another start, and nothing of what was begun counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_may_not_keep_its_place_ends() {
    let Some(broker) = Broker::start(Options::new().acl()) else { return };
    let world = World::new(&broker);
    world.topic("orders", 1).await;
    world.publish("orders", 100).await;
    let own = world.target("checkpoints");
    for (topic, setting) in [(&own, ("cleanup.policy", "compact")), (&world.target("orders"), ("retention.ms", "-1"))] {
        broker.create_topic_with(topic, 1, 1, &[setting]).await;
    }
    let spawn = || {
        let writer = as_user(&broker, "writer", &password("writer"));
        world.bare_mirror().to(writer).checkpoint_topic(&own).spawn().unwrap()
    };
    let mirror = spawn();
    caught_up(&mirror).await;
    deny(&broker, "--add", &own);
    // It is denied some time later.
    let at_work = world.publish_until("orders", 20, Duration::from_millis(50), failed(&mirror)).await;
    for error in [at_work, failed(&spawn()).await] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(&own), "{error}");
    }
    deny(&broker, "--remove", &own);
    let begun = Instant::now();
    let mirror = loop {
        let mirror = spawn();
        match mirror.caught_up().await {
            Ok(()) => break mirror,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}
