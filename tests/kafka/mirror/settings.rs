//! What a mirror is told, setting by setting, and what it says of itself.

use std::time::Duration;

use annals::mirror::{
    KafkaCompression, KafkaConfig, LinkHealth, LinkKind, Mirror, MirrorState, ORIGIN_LOG, ORIGIN_OFFSET, Source,
    TargetTopics,
};
use annals::{ErrorKind, Health, Message, Record, TopicSettings};
use bytes::Bytes;

use super::world::{World, assert_whole, caught_up, failed, paused, resume, stop, values};
use crate::support::{Broker, until};

/// The text of a record, as a number.
fn number(message: &Message) -> u32 {
    std::str::from_utf8(message.value().unwrap()).unwrap().parse().unwrap()
}

/// Writes records whose values are numbers, to one partition.
async fn count(world: &World<'_>, topic: &str, partition: u32, numbers: std::ops::Range<u32>) {
    let record = |number: u32| Record::new(Bytes::from(number.to_string())).partition(partition);
    world.log.raw_topic(topic).unwrap().produce_batch(numbers.map(record)).await.unwrap();
}

fn texts(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

/// The codec of each batch of records in a file of the broker's, markers of transactions left out.
fn codecs(file: &[u8]) -> Vec<u16> {
    let word = |at: usize| Some(u32::from_be_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let mut codecs = Vec::new();
    let mut at = 0;
    // Its length stands behind the offset, and counts what comes after it.
    while let Some(length) = word(at + 8).filter(|length| *length > 0) {
        assert_eq!(file[at + 16], 2, "another format of batches");
        let attributes = u16::from_be_bytes([file[at + 21], file[at + 22]]);
        if attributes & 0x20 == 0 {
            codecs.push(attributes & 7);
        }
        at += 12 + length as usize;
    }
    codecs
}

#[tokio::test(flavor = "multi_thread")]
async fn each_compression_is_that_of_the_batches_on_the_brokers_disk() {
    let Some(broker) = Broker::shared() else { return };
    for (compression, codec) in [
        (None, 0),
        (Some(KafkaCompression::None), 0),
        (Some(KafkaCompression::Gzip), 1),
        (Some(KafkaCompression::Snappy), 2),
        (Some(KafkaCompression::Lz4), 3),
        (Some(KafkaCompression::Zstd), 4),
    ] {
        let world = World::new(broker);
        world.topic("orders", 1).await;
        // The client leaves a batch as it is if it does not become smaller: each of these does, also alone.
        let record = |number: u32| Record::new(Bytes::from(format!("{number} ").repeat(500))).key(number.to_string());
        world.log.raw_topic("orders").unwrap().produce_batch((0..300).map(record)).await.unwrap();
        let kafka = KafkaConfig::new(broker.bootstrap());
        let kafka = compression.iter().fold(kafka, |kafka, compression| kafka.compression(*compression));
        let mirror = world.mirror().to(kafka).spawn().unwrap();
        caught_up(&mirror).await;
        assert_whole(&mirror);
        stop(mirror).await;
        world.assert_exactly_once("orders").await;
        // The files of a broker that was here before are its own affair.
        let Some(dir) = broker.dir() else { continue };
        let file = format!("{dir}/node-1/data/{}-0/00000000000000000000.log", world.target("orders"));
        let found = codecs(&std::fs::read(&file).unwrap());
        assert!(!found.is_empty(), "{file} has no batch of records");
        assert!(found.iter().all(|found| *found == codec), "{compression:?}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_picks_the_partition_of_each_record() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 2).await;
    for partition in [0, 1] {
        count(&world, "orders", partition, 100 * partition..100 * partition + 100).await;
    }
    // None that would come about otherwise: from the last one downwards.
    let pick = |message: &Message, there: u32| there - 1 - number(message) % there;
    let create = TargetTopics::default().partitions(5).config("retention.ms", "-1");
    let mirror = world.mirror().create_topics(create).partition_with(pick).spawn().unwrap();
    caught_up(&mirror).await;
    assert_whole(&mirror);
    stop(mirror).await;
    assert_eq!(broker.partitions(&world.target("orders")), Some(5));
    let there = values(&world.dump("orders").await);
    for partition in 0..5 {
        let picked = |from: u32| texts((from..from + 100).filter(|number| 4 - number % 5 == partition));
        // Those of each partition of the log have kept their order; between the two there is none.
        let of = |log: u32| {
            let own = |value: &&String| value.parse::<u32>().unwrap() / 100 == log;
            there[&partition].iter().filter(own).cloned().collect::<Vec<_>>()
        };
        assert_eq!((of(0), of(1)), (picked(0), picked(100)), "partition {partition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_not_there_cannot_be_picked() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 2).await;
    count(&world, "orders", 0, 0..20).await;
    count(&world, "orders", 1, 100..120).await;
    // The first one behind the last.
    let pick = |message: &Message, there: u32| if number(message) == 107 { there } else { message.partition() };
    let mirror = world.mirror().partition_with(pick).retry_paused(None).spawn().unwrap();
    let error = paused(&mirror, "orders", 1).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("partition 2 was picked for the record at offset 7"), "{error}");
    // The others go on, and what comes before it is there.
    count(&world, "orders", 0, 20..30).await;
    caught_up(&mirror).await;
    let status = mirror.status();
    assert!(status.partitions[0].paused.is_none() && status.state == MirrorState::Running, "{status:?}");
    stop(mirror).await;
    let there = values(&world.dump("orders").await);
    assert_eq!((&there[&0], &there[&1]), (&texts(0..30), &texts(100..107)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_filter_does_not_want_is_passed_over_once() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 2).await;
    let wanted = |number: &u32| !number.is_multiple_of(3);
    let spawn = || world.mirror().filter(move |message| wanted(&number(message))).spawn().unwrap();
    let mut written = 0;
    // The last record is one that it does not want, one that it wants, and of the third round there is none that it wants.
    for numbers in [0..100_u32, 100..200, 201..202, 202..301] {
        for partition in [0, 1] {
            count(&world, "orders", partition, numbers.clone()).await;
        }
        written += 2 * numbers.len() as u64;
        let mirror = spawn();
        caught_up(&mirror).await;
        assert_whole(&mirror);
        let status = mirror.status();
        let unwanted = 2 * numbers.clone().filter(|number| !wanted(number)).count() as u64;
        // Those of this round only: it has gone on behind what it passed over before.
        assert_eq!(status.passed_over, unwanted, "{numbers:?}");
        assert_eq!(status.forwarded, 2 * numbers.len() as u64 - unwanted, "{numbers:?}");
        assert_eq!(status.partitions.iter().map(|partition| partition.next_offset).sum::<u64>(), written);
        stop(mirror).await;
    }
    let there = values(&world.dump("orders").await);
    let expected = texts((0..200).chain(201..301).filter(wanted));
    assert_eq!((&there[&0], &there[&1], there.len()), (&expected, &expected, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_names_the_topics_of_the_target() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    let topics = ["orders", "audit.log"];
    for topic in topics {
        world.topic(topic, 2).await;
        world.publish(topic, 100).await;
    }
    let (run, name) = (world.name.clone(), world.name.clone());
    // No text before the name comes to the same.
    let rename = move |topic: &str| format!("{}.of.{run}", topic.to_uppercase());
    let expected = |topic: &str| format!("{}.of.{name}", topic.to_uppercase());
    let mirror = world.mirror().rename(rename).spawn().unwrap();
    caught_up(&mirror).await;
    for partition in mirror.status().partitions {
        assert_eq!(partition.target, expected(&partition.topic));
    }
    stop(mirror).await;
    for topic in topics {
        let dumped = broker.dump(&expected(topic)).await;
        super::compare::exactly_once(&super::compare::expected(&world.log, topic), &dumped).unwrap();
        assert_eq!(broker.partitions(&world.target(topic)), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_paused_forwards_nothing_and_says_how_far_behind_it_is() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 2).await;
    for partition in [0, 1] {
        count(&world, "orders", partition, 0..100).await;
    }
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    mirror.pause();
    until("it has paused", async || mirror.status().state == MirrorState::Paused).await;
    let ends = || [0, 1].map(|partition| broker.end(&world.target("orders"), partition));
    // A transaction is committed before the brokers have marked that in each partition, and the ends are told without what is not.
    let before = [101, 101];
    until("the transaction is marked as committed", async || ends() == before).await;
    let at_pause = mirror.status();
    assert_eq!((at_pause.lag_records(), at_pause.lag_bytes(), at_pause.lag()), (0, 0, Duration::ZERO), "{at_pause:?}");
    for partition in [0, 1] {
        for from in (100..350).step_by(25) {
            count(&world, "orders", partition, from..from + 25).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // It looks about once a second.
    until("the lag shows them", async || mirror.status().lag_records() == 500).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let status = mirror.status();
    assert_eq!((status.state, status.lag_records()), (MirrorState::Paused, 500), "{status:?}");
    assert!(status.lag_bytes() > 500, "{status:?}");
    assert!(status.lag() > Duration::from_millis(500), "{status:?}");
    assert_eq!((status.forwarded, status.committed), (at_pause.forwarded, at_pause.committed));
    assert_eq!(ends(), before, "the target has grown");
    mirror.resume();
    caught_up(&mirror).await;
    let status = mirror.status();
    assert_eq!((status.lag_records(), status.lag_bytes(), status.lag()), (0, 0, Duration::ZERO), "{status:?}");
    assert_eq!((status.state, status.forwarded), (MirrorState::Running, 700), "{status:?}");
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_from_another_log_is_forwarded_only_where_that_is_wanted() {
    let Some(broker) = Broker::shared() else { return };
    const OTHER: &str = "3f2f9b5e-0000-4000-8000-00000000beef";
    for forwards in [None, Some(false), Some(true)] {
        let world = World::new(broker);
        world.topic("orders", 1).await;
        let record = |number: u32| {
            let record = Record::new(Bytes::from(number.to_string()));
            if number % 4 == 1 { record.header(ORIGIN_LOG, OTHER).header(ORIGIN_OFFSET, "7") } else { record }
        };
        world.log.raw_topic("orders").unwrap().produce_batch((0..100).map(record)).await.unwrap();
        let builder = forwards.into_iter().fold(world.mirror(), |mirror, forwards| mirror.forward_foreign(forwards));
        let mirror = builder.spawn().unwrap();
        caught_up(&mirror).await;
        assert_whole(&mirror);
        let status = mirror.status();
        stop(mirror).await;
        let dumped = world.dump("orders").await;
        let foreign: Vec<_> = dumped.iter().filter(|record| record.header(ORIGIN_LOG) == Some(OTHER)).collect();
        let own = dumped.iter().filter(|record| record.header(ORIGIN_LOG) == Some(&*world.log.id().to_string()));
        assert_eq!(own.count(), 75);
        let there = values(&dumped).remove(&0).unwrap();
        if forwards == Some(true) {
            assert_eq!((status.forwarded, status.passed_over, foreign.len()), (100, 0, 25));
            assert_eq!(there, texts(0..100));
            // Their origin is still that one, or the log that they came from would take them for new ones.
            let is_as_it_was = |record: &&&crate::support::Dumped| record.headers.len() == 2;
            assert_eq!(foreign.iter().filter(is_as_it_was).count(), 25, "{foreign:?}");
        } else {
            assert_eq!((status.forwarded, status.passed_over, foreign.len()), (75, 25, 0));
            assert_eq!(there, texts((0..100).filter(|number| number % 4 != 1)));
        }
    }
}

fn link<'h>(health: &'h Health, kind: LinkKind, name: &str) -> &'h LinkHealth {
    let mut found = health.links.iter().filter(|link| link.kind == kind && link.name == name);
    found.next().unwrap_or_else(|| panic!("it is not shown: {health:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_says_how_the_mirrors_and_sources_of_its_log_are_doing() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    let bus = world.log.bus();
    let health = bus.health();
    assert!(health.ready && health.links.is_empty(), "{health:?}");
    for (topic, partitions) in [("there", 1), ("lacking", 2), ("wide", 2)] {
        world.topic(topic, partitions).await;
        world.publish(topic, 50).await;
    }
    let made = [("retention.ms", "-1")];
    for topic in ["there", "wide"] {
        broker.create_topic_with(&world.target(topic), 1, 1, &made).await;
    }
    let mirror_of = |name: &str, topics: &[&str]| {
        Mirror::builder(&world.log)
            .name(name)
            .topics(topics.iter().copied())
            .to(KafkaConfig::new(broker.bootstrap()))
            .prefix(world.target(""))
            .retry_paused(None)
    };
    let named = |what: &str| format!("{}.{what}", world.name);
    let (good, held, ended, away) = (named("good"), named("held"), named("ended"), named("away"));

    // At work.
    let at_work = mirror_of(&good, &["there"]).spawn().unwrap();
    caught_up(&at_work).await;
    let source = Source::builder(&world.log)
        .name(&good)
        .topics([&*world.target("there")])
        .from(KafkaConfig::new(broker.bootstrap()))
        .create_topics(TopicSettings::default())
        .spawn()
        .unwrap();
    source.caught_up().await.unwrap();
    let health = bus.health();
    assert!(health.live && health.ready && health.reasons.is_empty(), "{health:?}");
    assert_eq!(health.links.len(), 2);
    for kind in [LinkKind::Mirror, LinkKind::Source] {
        let link = link(&health, kind, &good);
        assert!(link.running && link.connected && !link.paused && link.error.is_none(), "{link:?}");
        assert_eq!((link.paused_partitions, link.lag_records), (0, 0), "{link:?}");
    }
    source.stop().await.unwrap();

    // Paused by hand, which is nobody's fault.
    at_work.pause();
    until("it has paused", async || at_work.status().state == MirrorState::Paused).await;
    world.publish("there", 10).await;
    until("the lag is shown", async || link(&bus.health(), LinkKind::Mirror, &good).lag_records == 10).await;
    let health = bus.health();
    assert!(health.ready && link(&health, LinkKind::Mirror, &good).paused, "{health:?}");
    at_work.resume();
    caught_up(&at_work).await;

    // Paused for an error, until that is seen to.
    let lacks = mirror_of(&held, &["lacking"]).spawn().unwrap();
    paused(&lacks, "lacking", 0).await;
    paused(&lacks, "lacking", 1).await;
    let health = bus.health();
    assert!(health.live && !health.ready, "{health:?}");
    assert_eq!(health.reasons, [format!("mirror {held} has paused 2 partitions for an error")]);
    let shown = link(&health, LinkKind::Mirror, &held);
    assert!(shown.running && shown.connected, "{shown:?}");
    assert_eq!(shown.paused_partitions, 2);
    assert_eq!(shown.error.as_ref().map(annals::Error::kind), Some(ErrorKind::NotFound), "{shown:?}");
    assert!(!link(&health, LinkKind::Mirror, &good).paused, "{health:?}");
    broker.create_topic_with(&world.target("lacking"), 2, 1, &made).await;
    resume(&lacks).await;
    caught_up(&lacks).await;
    let health = bus.health();
    assert!(health.ready, "{health:?}");

    // Ended with an error, for as long as somebody has it.
    let fatal = mirror_of(&ended, &["wide"]).spawn().unwrap();
    let error = failed(&fatal).await;
    let health = bus.health();
    assert!(health.live && !health.ready, "{health:?}");
    assert_eq!(health.reasons, [format!("mirror {ended} has ended: {error}")]);
    let shown = link(&health, LinkKind::Mirror, &ended);
    assert!(!shown.running && !shown.connected, "{shown:?}");
    drop(fatal);
    until("it is forgotten", async || bus.health().ready).await;

    // Without its cluster: nobody listens there.
    let lost = mirror_of(&away, &["there"]).to(KafkaConfig::new("127.0.0.1:9")).spawn().unwrap();
    until("it has no cluster", async || !bus.health().ready).await;
    let health = bus.health();
    assert_eq!(health.reasons.len(), 1, "{health:?}");
    assert!(health.reasons[0].starts_with(&format!("mirror {away} does not reach its cluster: ")), "{health:?}");
    assert!(link(&health, LinkKind::Mirror, &away).running, "{health:?}");

    // Stopped, each of them leaves nothing behind.
    for mirror in [lost, lacks, at_work] {
        stop(mirror).await;
    }
    until("nothing is left of them", async || bus.health().links.is_empty()).await;
    let health = bus.health();
    assert!(health.ready && health.reasons.is_empty(), "{health:?}");
}
