//! Who the mirror is, and of what: a second instance, a copy of the log, a topic that is another one.

use std::time::Duration;

use annals::mirror::{Guarantee, Mirror, MirrorState};
use annals::{ErrorKind, Log, Record};

use super::world::{World, caught_up, failed, paused, stop};
use crate::support::{Broker, until};

#[path = "../../support/copy.rs"]
mod copy;

/// Begins a second instance while publishing goes on, and waits until the first has ended as one that was superseded: it notices when it
/// has something to write. The second may be shut out, too, by a first that begins anew at that moment, and goes on all the same.
async fn take_over(world: &World<'_>, first: &Mirror, second: Mirror) -> Mirror {
    let superseded = async {
        tokio::select! {
            error = failed(first) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
            error = failed(&second) => panic!("the second has made way for the first: {error}"),
        }
    };
    world.publish_until("orders", 20, Duration::from_millis(20), superseded).await;
    second
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_fences_the_first_off() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 2).await;
    world.publish("orders", 500).await;
    let first = world.mirror().spawn().unwrap();
    caught_up(&first).await;
    let second = take_over(&world, &first, world.mirror().spawn().unwrap()).await;
    assert_eq!(first.status().state, MirrorState::Failed);
    caught_up(&second).await;
    // It does not come back.
    assert_eq!(first.stop().await.unwrap_err().kind(), ErrorKind::Fenced);
    world.publish("orders", 500).await;
    caught_up(&second).await;
    stop(second).await;
    world.assert_exactly_once("orders").await;
}

/// The first one begins anew all the time, since one of its topics is not in the target. It does not take back what another has begun.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_begins_anew_makes_way_for_a_later_one() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    for topic in ["orders", "nowhere"] {
        world.topic(topic, 1).await;
        world.publish(topic, 100).await;
    }
    broker.create_topic_with(&world.target("orders"), 1, -1, &[("retention.ms", "-1")]).await;
    let first = world.bare_mirror().retry_paused(Some(Duration::from_millis(1))).spawn().unwrap();
    paused(&first, "nowhere", 0).await;
    let second = take_over(&world, &first, world.bare_mirror().retry_paused(None).spawn().unwrap()).await;
    caught_up(&second).await;
    stop(second).await;
    world.assert_exactly_once("orders").await;
}

/// Another process has the log open for reading only: that is how `annals mirror` runs beside an application.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_opening_takes_over_and_goes_on_where_the_target_says() {
    let Some(broker) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let world = World::of(broker, Log::open(dir.path()).await.unwrap());
    world.topic("orders", 2).await;
    world.publish("orders", 700).await;
    let first = world.mirror().spawn().unwrap();
    caught_up(&first).await;
    let beside = world.with_log(Log::open_read_only(dir.path()).await.unwrap());
    let second = take_over(&world, &first, beside.mirror().spawn().unwrap()).await;
    world.log.sync().await.unwrap();
    let all = world.log.describe_topic("orders").unwrap().partitions.iter().map(|it| it.high_watermark).sum::<u64>();
    until("all is forwarded", async || second.status().partitions.iter().map(|it| it.next_offset).sum::<u64>() == all)
        .await;
    stop(second).await;
    world.assert_exactly_once("orders").await;
}

/// Topics that are gone before the mirror has made theirs in the target.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_come_and_go_stop_nothing() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    // It looks for topics once a second, and takes some time to make one in the target.
    for round in 0..25 {
        let name = format!("brief-{round}");
        world.topic(&name, 1).await;
        world.publish(&name, 10).await;
        world.publish("orders", 10).await;
        tokio::time::sleep(Duration::from_millis(47 * round)).await;
        world.log.delete_topic(&name).await.unwrap();
    }
    caught_up(&mirror).await;
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_least_once_mirrors_of_one_name_are_refused() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    let first = world.mirror().guarantee(Guarantee::AtLeastOnce).spawn().unwrap();
    let error = world.mirror().guarantee(Guarantee::AtLeastOnce).spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    caught_up(&first).await;
    stop(first).await;
    stop(world.mirror().guarantee(Guarantee::AtLeastOnce).spawn().unwrap()).await;
}

/// Fails unless a mirror of a log that is not what was forwarded refuses to go on, says why, and has written nothing.
async fn assert_refused(world: &World<'_>, log: Log, why: &str) {
    let before = world.dump("orders").await.len();
    let copied = world.with_log(log);
    let error = failed(&copied.mirror().spawn().unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(world.dump("orders").await.len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_restored_from_a_copy_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let world = World::of(broker, Log::open(dir.path()).await.unwrap());
    world.topic("orders", 1).await;
    world.publish("orders", 50).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    world.log.sync().await.unwrap();
    let (short, other) = (copy::killed(dir.path()), copy::killed(dir.path()));
    world.publish("orders", 50).await;
    caught_up(&mirror).await;
    // While the mirror runs, which a copy must not shut out, and after that.
    for copied in [Log::open_read_only(short.path()).await.unwrap(), Log::open(short.path()).await.unwrap()] {
        assert_refused(&world, copied, "restored from an older copy").await;
        world.publish("orders", 50).await;
        caught_up(&mirror).await;
    }
    stop(mirror).await;
    assert_refused(&world, Log::open(short.path()).await.unwrap(), "restored from an older copy").await;
    // It has gone another way since, and is as long as what was forwarded, or longer.
    let log = Log::open(other.path()).await.unwrap();
    let orders = log.raw_topic("orders").unwrap();
    orders.produce_batch((0..180).map(|number| Record::new(format!("another {number}").into()))).await.unwrap();
    assert_refused(&world, log, "is another one now").await;
    // The log itself goes on.
    world.publish("orders", 50).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_and_made_again_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    world.publish("orders", 50).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    world.log.delete_topic("orders").await.unwrap();
    world.topic("orders", 1).await;
    world.publish("orders", 80).await;
    assert_refused(&world, world.log.clone(), "deleted and created again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_while_the_mirror_runs_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    world.publish("orders", 50).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    let before = world.dump("orders").await.len();
    world.log.delete_topic("orders").await.unwrap();
    world.topic("orders", 1).await;
    world.publish("orders", 80).await;
    let error = failed(&mirror).await;
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert_eq!(world.dump("orders").await.len(), before);
}

/// With the same name it would find the other log's place.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_of_another_log_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    world.publish("orders", 50).await;
    let mirror = world.mirror().spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    let other = World::new(broker);
    other.topic("orders", 1).await;
    other.publish("orders", 80).await;
    assert_refused(&world, other.log.clone(), &other.log.id().to_string()).await;
}

/// The cluster was set up anew: forwarding from where the log says would leave out, from the beginning could double.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_has_lost_the_checkpoints_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let world = World::new(broker);
    world.topic("orders", 1).await;
    world.publish("orders", 50).await;
    let checkpoints = world.target("checkpoints");
    let mirror = world.mirror().checkpoint_topic(&checkpoints).spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    broker.delete_topic(&checkpoints).await;
    let error = failed(&world.mirror().checkpoint_topic(&checkpoints).spawn().unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    // As the error says.
    world.log.delete_group(&format!("mirror.{}", world.name)).await.unwrap();
    broker.delete_topic(&world.target("orders")).await;
    let mirror = world.mirror().checkpoint_topic(&checkpoints).spawn().unwrap();
    caught_up(&mirror).await;
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}
