//! Replies that do not come, and requests that do not arrive: the mirror does not know then what the target has done.

use std::time::{Duration, UNIX_EPOCH};

use annals::mirror::{Guarantee, KafkaConfig, MirrorBuilder};

use super::child::Chance;
use super::compare::{at_least_once, expected};
use super::world::{World, assert_whole, caught_up, stop};
use crate::support::{Api, Broker, Fault, Options, Proxy, until};

fn behind_proxy() -> Option<(Proxy, Broker)> {
    let proxy = Proxy::new();
    let broker = Broker::start(Options::new().behind(&proxy))?;
    proxy.lead_to(broker.line("proxied"));
    Some((proxy, broker))
}

fn mirror(world: &World<'_>, proxy: &Proxy) -> MirrorBuilder {
    world.mirror().to(KafkaConfig::new(proxy.bootstrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_or_a_request_that_is_lost_neither_loses_nor_doubles() {
    let Some((proxy, broker)) = behind_proxy() else { return };
    let at_start = [Api::Metadata, Api::FindCoordinator, Api::InitProducerId, Api::ListOffsets, Api::Fetch];
    let at_work = [Api::AddPartitionsToTxn, Api::Produce, Api::EndTxn];
    for (index, api) in at_start.into_iter().chain(at_work).enumerate() {
        for fault in [Fault::LoseReply, Fault::LoseRequest] {
            let (world, before) = (World::new(&broker), proxy.hits(api));
            world.topic("orders", 2).await;
            world.publish("orders", 100).await;
            let mirror = if index < at_start.len() {
                // There is a checkpoint to be read.
                let first = mirror(&world, &proxy).spawn().unwrap();
                caught_up(&first).await;
                stop(first).await;
                world.publish("orders", 100).await;
                proxy.plan(api, 1, fault);
                mirror(&world, &proxy).spawn().unwrap()
            } else {
                let mirror = mirror(&world, &proxy).spawn().unwrap();
                caught_up(&mirror).await;
                proxy.plan(api, 1, fault);
                mirror
            };
            world.publish("orders", 100).await;
            caught_up(&mirror).await;
            world.publish("orders", 100).await;
            caught_up(&mirror).await;
            proxy.clear();
            assert_whole(&mirror);
            stop(mirror).await;
            assert!(proxy.hits(api) > before, "{api:?} {fault:?}: nothing was lost");
            println!("{api:?} {fault:?}");
            world.assert_exactly_once("orders").await;
        }
    }
}

/// For longer than the client library asks again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn commits_whose_replies_are_lost_for_long_are_not_made_twice() {
    let Some((proxy, broker)) = behind_proxy() else { return };
    for fault in [Fault::LoseReply, Fault::LoseRequest] {
        let world = World::new(&broker);
        world.topic("orders", 2).await;
        world.publish("orders", 100).await;
        let mirror = mirror(&world, &proxy).spawn().unwrap();
        caught_up(&mirror).await;
        let before = proxy.hits(Api::EndTxn);
        proxy.plan(Api::EndTxn, u32::MAX, fault);
        world.publish("orders", 100).await;
        until("many commits are lost", async || proxy.hits(Api::EndTxn) >= before + 8).await;
        world.publish("orders", 100).await;
        proxy.clear();
        caught_up(&mirror).await;
        stop(mirror).await;
        world.assert_exactly_once("orders").await;
    }
}

/// The mirror is stopped, and another one begun, while it is not known what was committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_begins_while_a_commit_is_unknown_finds_out() {
    let Some((proxy, broker)) = behind_proxy() else { return };
    for fault in [Fault::LoseReply, Fault::LoseRequest] {
        let world = World::new(&broker);
        world.topic("orders", 2).await;
        world.publish("orders", 100).await;
        let first = mirror(&world, &proxy).spawn().unwrap();
        caught_up(&first).await;
        let before = proxy.hits(Api::EndTxn);
        proxy.plan(Api::EndTxn, u32::MAX, fault);
        world.publish("orders", 100).await;
        until("a commit is lost", async || proxy.hits(Api::EndTxn) > before).await;
        // Past the proxy, and while the first one still tries.
        let second = world.mirror().spawn().unwrap();
        caught_up(&second).await;
        world.publish("orders", 100).await;
        caught_up(&second).await;
        proxy.clear();
        // Fenced off, or not yet told so.
        drop(first);
        stop(second).await;
        world.assert_exactly_once("orders").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_come_late_are_waited_for() {
    let Some((proxy, broker)) = behind_proxy() else { return };
    let world = World::new(&broker);
    world.topic("orders", 2).await;
    let mirror = mirror(&world, &proxy).spawn().unwrap();
    caught_up(&mirror).await;
    for api in [Api::Produce, Api::AddPartitionsToTxn, Api::EndTxn] {
        proxy.plan(api, 2, Fault::Delay(Duration::from_secs(3)));
        world.publish("orders", 100).await;
        caught_up(&mirror).await;
        assert!(proxy.hits(api) > 0);
    }
    stop(mirror).await;
    world.assert_exactly_once("orders").await;
}

/// Any of them at any time, for both promises. `ANNALS_KILL_SEED` chooses.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_lost_at_random_nothing_is_lost_in_the_end() {
    let Some((proxy, broker)) = behind_proxy() else { return };
    let given = std::env::var("ANNALS_KILL_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed: u64 = given.unwrap_or_else(|| UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    println!("ANNALS_KILL_SEED={seed}");
    let mut chance = Chance::new(&[seed]);
    for guarantee in [Guarantee::ExactlyOnce, Guarantee::AtLeastOnce] {
        let world = World::new(&broker);
        world.topic("orders", 3).await;
        let mirror = mirror(&world, &proxy).guarantee(guarantee).spawn().unwrap();
        let apis: &[Api] = match guarantee {
            Guarantee::ExactlyOnce => &[Api::Produce, Api::AddPartitionsToTxn, Api::EndTxn],
            Guarantee::AtLeastOnce => &[Api::Produce],
        };
        for _ in 0..15 {
            let api = apis[chance.below(apis.len() as u64) as usize];
            let fault = match chance.below(5) {
                0 | 1 => Fault::LoseReply,
                2 | 3 => Fault::LoseRequest,
                _ => Fault::Delay(Duration::from_millis(chance.below(1500))),
            };
            let before = proxy.hits(api);
            proxy.plan(api, 1 + chance.below(2) as u32, fault);
            world.publish("orders", 1 + chance.below(60)).await;
            until("something is lost", async || proxy.hits(api) > before).await;
            tokio::time::sleep(Duration::from_millis(chance.below(200))).await;
        }
        proxy.clear();
        caught_up(&mirror).await;
        assert_whole(&mirror);
        stop(mirror).await;
        match guarantee {
            Guarantee::ExactlyOnce => world.assert_exactly_once("orders").await,
            Guarantee::AtLeastOnce => {
                at_least_once(&expected(&world.log, "orders"), &world.dump("orders").await).unwrap();
            }
        }
    }
}
