//! Retention and a mirror that has not come so far: what it holds back, and what becomes of it when it was overrun.

use std::time::Duration;

use annals::mirror::{
    ErrorClass, GAP_FROM, GAP_TO, Guarantee, Hold, KafkaConfig, MARKER, Mirror, MirrorBuilder, MirrorState, OnBreach,
};
use annals::{Durability, ErrorKind, Record, Topic, TopicSettings};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use super::world::{World, assert_whole, caught_up, met, paused, stop, values};
use crate::support::{Broker, Options, until};

const SEGMENT: u64 = 64 << 10;
const RECORD: usize = 4 << 10;

/// A topic that keeps two segments at most, and one that keeps everything.
async fn world(broker: &Broker) -> World<'_> {
    let world = World::new(broker);
    let settings = TopicSettings::default().segment_bytes_max(SEGMENT).durability(Durability::Os);
    world.log.create_raw_topic("short", settings.retention_bytes_max(2 * SEGMENT)).await.unwrap();
    world.topic("long", 1).await;
    world
}

fn short(world: &World<'_>) -> Topic<Bytes, annals::Raw> {
    world.log.raw_topic("short").unwrap()
}

/// Writes records that say their number, and are on the disk then.
async fn fill(world: &World<'_>, numbers: std::ops::Range<u64>) {
    fill_at(world, numbers, Utc::now()).await;
}

async fn fill_at(world: &World<'_>, numbers: std::ops::Range<u64>, time: DateTime<Utc>) {
    let record = |number| Record::new(Bytes::from(format!("{number:>RECORD$}"))).timestamp(time);
    let numbers: Vec<u64> = numbers.collect();
    // A batch is never spread over segments.
    for some in numbers.chunks(10) {
        short(world).produce_batch(some.iter().map(|number| record(*number))).await.unwrap();
    }
    world.log.sync().await.unwrap();
}

fn log_start(world: &World<'_>) -> u64 {
    short(world).watermarks(0).unwrap().log_start
}

/// Forwards the first records, stops, and lets retention overrun it. Answers how many it had forwarded, and where the log begins.
async fn overrun(world: &World<'_>) -> (u64, u64) {
    fill(world, 0..20).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    fill(world, 20..300).await;
    // All that it will: of segments with a batch each it leaves four.
    let size = || world.log.describe_topic("short").unwrap().partitions[0].size_bytes;
    until("retention lets records go", async || size() < 3 * SEGMENT).await;
    assert!(log_start(world) > 100);
    (20, log_start(world))
}

fn numbers(values: &[String]) -> Vec<&str> {
    values.iter().map(|value| value.trim()).collect()
}

/// It has been there, and had nothing to forward yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_before_anything_was_forwarded_is_said_as_well() {
    let Some(broker) = Broker::shared() else { return };
    for guarantee in [Guarantee::ExactlyOnce, Guarantee::AtLeastOnce] {
        let world = world(broker).await;
        let mirror = world.mirror().guarantee(guarantee).spawn().unwrap();
        caught_up(&mirror).await;
        until("it has its partitions", async || mirror.status().partitions.len() == 2).await;
        stop(mirror).await;
        fill(&world, 0..300).await;
        until("retention lets records go", async || log_start(&world) > 100).await;
        let mirror = world.mirror().guarantee(guarantee).spawn().unwrap();
        let error = paused(&mirror, "short", 0).await;
        assert!(error.to_string().contains("offsets 0 to "), "{error}");
        stop(mirror).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_was_overrun_stops_unless_it_is_told_otherwise() {
    let Some(broker) = Broker::shared() else { return };
    for on_breach in [OnBreach::Stop, OnBreach::Block] {
        let world = world(broker).await;
        let (forwarded, begins) = overrun(&world).await;
        let mirror = world.mirror().on_breach(on_breach).spawn().unwrap();
        let error = paused(&mirror, "short", 0).await;
        assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange, "{error}");
        let said = error.to_string();
        assert!(said.contains(&format!("offsets {forwarded} to {}", begins - 1)), "{said}");
        // The others go on.
        world.publish("long", 50).await;
        caught_up(&mirror).await;
        stop(mirror).await;
        assert_eq!(world.dump("short").await.len() as u64, forwarded);
        world.assert_exactly_once("long").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_was_overrun_may_go_on_and_say_what_is_missing() {
    let Some(broker) = Broker::shared() else { return };
    let world = world(broker).await;
    let (forwarded, begins) = overrun(&world).await;
    let mirror = world.mirror().on_breach(OnBreach::Skip).spawn().unwrap();
    let mut errors = mirror.errors();
    caught_up(&mirror).await;
    assert_whole(&mirror);
    let told = met(&mut errors, ErrorClass::Skipped).await;
    assert_eq!((told.partition, told.error.kind()), (Some(("short".to_owned(), 0)), ErrorKind::OffsetOutOfRange));
    fill(&world, 300..310).await;
    caught_up(&mirror).await;
    stop(mirror).await;
    let dumped = world.dump("short").await;
    let marks: Vec<_> = dumped.iter().filter(|record| record.header(MARKER).is_some()).collect();
    assert_eq!(marks.len(), 1, "{marks:?}");
    assert_eq!(marks[0].header(MARKER), Some("gap"));
    assert_eq!(marks[0].header(GAP_FROM), Some(&*forwarded.to_string()));
    assert_eq!(marks[0].header(GAP_TO), Some(&*begins.to_string()));
    // Before the mark what was forwarded, behind it the rest.
    let place = dumped.iter().position(|record| record.header(MARKER).is_some()).unwrap() as u64;
    assert_eq!(place, forwarded);
    let expected_numbers: Vec<String> = (0..forwarded).chain(begins..310).map(|number| number.to_string()).collect();
    let mut there = values(&dumped).remove(&0).unwrap();
    there.remove(place as usize);
    assert_eq!(numbers(&there), expected_numbers);
}

fn small_hold(world: &World<'_>, bytes_max: u64) -> MirrorBuilder {
    let mut hold = Hold::default();
    hold.bytes_max = Some(bytes_max);
    world.mirror().hold_retention(Some(hold))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_without_its_cluster_holds_retention_back() {
    let Some(broker) = Broker::start(Options::new()) else { return };
    let world = world(&broker).await;
    let mirror = world.mirror().spawn().unwrap();
    fill(&world, 0..20).await;
    caught_up(&mirror).await;
    tokio::task::block_in_place(|| broker.kill());
    fill(&world, 20..300).await;
    // Retention would have let most of it go by now: see the others of these tests.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(log_start(&world) <= 20);
    tokio::task::block_in_place(|| broker.restart());
    caught_up(&mirror).await;
    // It is not needed any more.
    fill(&world, 300..340).await;
    until("retention lets records go", async || log_start(&world) > 100).await;
    caught_up(&mirror).await;
    stop(mirror).await;
    let there = values(&world.dump("short").await).remove(&0).unwrap();
    let expected: Vec<String> = (0..340).map(|number| number.to_string()).collect();
    assert_eq!(numbers(&there), expected);
}

/// Waits until whoever appends is refused, and answers how many were taken before.
async fn append_until_refused(world: &World<'_>, mirror: &Mirror) -> u64 {
    for number in 0..2_000 {
        let record = Record::new(Bytes::from(format!("{number:>RECORD$}")));
        match short(world).produce(record).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                return number;
            }
        }
        world.log.sync().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody was refused: {:?}", mirror.status());
}

/// The cluster goes away while the mirror is at work, or was never there.
#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_wanted_publishers_are_blocked_until_the_mirror_has_caught_up() {
    let Some(broker) = Broker::start(Options::new()) else { return };
    for was_there in [true, false] {
        let world = world(&broker).await;
        if !was_there {
            tokio::task::block_in_place(|| broker.kill());
        }
        let mirror = small_hold(&world, 4 * SEGMENT).on_breach(OnBreach::Block).spawn().unwrap();
        if was_there {
            caught_up(&mirror).await;
            tokio::task::block_in_place(|| broker.kill());
        }
        let taken = append_until_refused(&world, &mirror).await;
        assert!(taken * RECORD as u64 >= 2 * SEGMENT, "{taken} were taken only");
        // Nothing of it is let go, and other topics are not blocked.
        assert_eq!(log_start(&world), 0);
        world.publish("long", 10).await;
        assert_ne!(mirror.status().state, MirrorState::Failed);
        tokio::task::block_in_place(|| broker.restart());
        caught_up(&mirror).await;
        until("publishers go on", async || {
            let record = Record::new(Bytes::from(format!("{taken:>RECORD$}")));
            short(&world).produce(record).await.is_ok()
        })
        .await;
        world.log.sync().await.unwrap();
        caught_up(&mirror).await;
        stop(mirror).await;
        let there = values(&world.dump("short").await).remove(&0).unwrap();
        let expected: Vec<String> = (0..=taken).map(|number| number.to_string()).collect();
        assert_eq!(numbers(&there), expected);
    }
}

/// A cluster that is not there must not keep anybody from writing for ever, unless that is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_cap_a_mirror_holds_nothing_back() {
    let Some(broker) = Broker::shared() else { return };
    let world = world(broker).await;
    // Nobody listens there.
    let mirror = small_hold(&world, 4 * SEGMENT).to(KafkaConfig::new("127.0.0.1:9")).spawn().unwrap();
    fill(&world, 0..300).await;
    until("retention lets records go", async || log_start(&world) > 100).await;
    stop(mirror).await;
    let mirror = world.mirror().spawn().unwrap();
    // It has never come anywhere: it begins where the log begins.
    caught_up(&mirror).await;
    stop(mirror).await;
    world.assert_exactly_once("short").await;
}

/// What nobody has fetched for so long is not kept any longer, however little it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_not_held_back() {
    let Some(broker) = Broker::shared() else { return };
    const HOUR: Duration = Duration::from_secs(3600);
    for is_old in [false, true] {
        let world = world(broker).await;
        let mut hold = Hold::default();
        (hold.bytes_max, hold.age_max) = (None, Some(HOUR));
        // Nobody listens there.
        let nobody = KafkaConfig::new("127.0.0.1:9");
        let mirror = world.mirror().hold_retention(Some(hold)).to(nobody).spawn().unwrap();
        // The age is that of the record's own time.
        let age = if is_old { TimeDelta::minutes(61) } else { TimeDelta::minutes(30) };
        fill_at(&world, 0..300, Utc::now() - age).await;
        if is_old {
            until("retention lets records go", async || log_start(&world) > 100).await;
        } else {
            // Retention would have let most of it go by now.
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(log_start(&world), 0);
        }
        stop(mirror).await;
        let mirror = world.mirror().spawn().unwrap();
        caught_up(&mirror).await;
        stop(mirror).await;
        let there = values(&world.dump("short").await).remove(&0).unwrap();
        let there = numbers(&there);
        // All of it, or its end without a gap.
        let first = if is_old { 300 - there.len() as u64 } else { 0 };
        assert_eq!(is_old, first > 100);
        assert_eq!(there, (first..300).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}
