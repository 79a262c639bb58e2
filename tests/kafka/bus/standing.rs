//! Partitions that stand still for a while, and go on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use annals::mirror::KafkaConfig;
use annals::{Bus, BusSettings, Context, Event, HandlerError, Record, Retry, TopicSettings};

use super::{NUMBERS, OTHERS, bus, of, soon};
use crate::support::{Api, Broker, Fault, Options, Proxy, until};

/// Nobody knows what became of a transaction, while others wait behind it and more events than are read ahead wait for the driver. Each
/// output is there once in the end, and no event is left lying.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_which_nobody_knows_doubles_nothing_and_holds_nothing_up() {
    const EVENTS: u64 = 2000;
    let proxy = Proxy::new();
    let Some(broker) = Broker::start(Options::new().behind(&proxy)) else { return };
    proxy.lead_to(broker.line("proxied"));
    let direct = Bus::on_kafka(KafkaConfig::new(broker.bootstrap()), BusSettings::default()).unwrap();
    let proxied = Bus::on_kafka(KafkaConfig::new(proxy.bootstrap()), BusSettings::default()).unwrap();
    let handler = |event: Event<u64>, cx: Context| async move {
        cx.publish(OTHERS, event.value().copied().unwrap_or(u64::MAX)).await?;
        Ok::<_, HandlerError>(())
    };
    direct.publish(NUMBERS, 0).await.unwrap();
    let subscription = proxied.on(NUMBERS, "group", handler).concurrency(16).spawn().await.unwrap();
    soon("the first is handled", subscription.idle()).await.unwrap();
    proxy.plan(Api::EndTxn, u32::MAX, Fault::LoseReply);
    direct.publish(NUMBERS, 1).await.unwrap();
    until("its commit is under way", async || proxy.hits(Api::EndTxn) > 0).await;
    direct.publish_batch(NUMBERS, 2..EVENTS).await.unwrap();
    // Nothing is done to them; they are counted.
    proxy.plan(Api::InitProducerId, u32::MAX, Fault::Delay(Duration::ZERO));
    until("the commit is given up, and another writer begins", async || proxy.hits(Api::InitProducerId) > 0).await;
    proxy.clear();
    soon("the rest is handled", subscription.idle()).await.unwrap();
    soon("it ends", subscription.unsubscribe()).await.unwrap();
    let history = direct.history(OTHERS, 10_000).await.unwrap();
    let mut outputs: Vec<u64> = history.into_iter().filter_map(|event| event.into_value()).collect();
    outputs.sort_unstable();
    assert_eq!(outputs, (0..EVENTS).collect::<Vec<_>>());
}

/// A partition of which no more can be taken does not slow the others down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_partition_leaves_the_others_their_pace() {
    const EVENTS: u64 = 600;
    let Some(broker) = Broker::shared() else { return };
    let bus = bus(broker);
    bus.create_topic(NUMBERS, TopicSettings::default().partitions(2)).await.unwrap();
    let handled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handled);
    let handler = move |event: Event<u64>, _: Context| {
        if event.partition() == 0 {
            return Err(HandlerError::from("not in this life"));
        }
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let retry = Retry::fixed(1000, Duration::from_secs(3600));
    let subscription = bus.on(NUMBERS, "group", handler).retry(retry).concurrency(4).spawn().await.unwrap();
    bus.publish_batch(NUMBERS, (0..5000).map(|number| Record::new(number).partition(0))).await.unwrap();
    // As many are tried as a commit can tell of.
    until("no more is taken", async || {
        let before = subscription.stats().failed;
        tokio::time::sleep(Duration::from_secs(2)).await;
        before > 100 && subscription.stats().failed == before
    })
    .await;
    let began = Instant::now();
    bus.publish_batch(NUMBERS, (0..EVENTS).map(|number| Record::new(number).partition(1))).await.unwrap();
    until("the others are handled", async || handled.load(Ordering::Relaxed) == EVENTS).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    soon("it ends", subscription.unsubscribe()).await.unwrap();
}

/// A partition without a leader keeps nobody from the others, and is read when it has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_a_leader_is_left_out_until_it_has_one() {
    const PARTITIONS: u32 = 6;
    let Some(broker) = Broker::start(Options::new().brokers(3)) else { return };
    broker.create_topic_with("numbers", PARTITIONS, 1, &[]).await;
    let bus = Bus::on_kafka(KafkaConfig::new(broker.bootstrap()), BusSettings::default()).unwrap();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let subscribe = async || {
        let seen = Arc::clone(&seen);
        let handler = move |event: Event<u64>, _: Context| {
            seen.lock().unwrap().insert((event.partition(), event.value().copied().unwrap_or(u64::MAX)));
            Ok::<_, HandlerError>(())
        };
        soon("it is let in", bus.on(NUMBERS, "group", handler).spawn()).await.unwrap()
    };
    for partition in 0..PARTITIONS {
        bus.publish(NUMBERS, Record::new(1).partition(partition)).await.unwrap();
    }
    let victim = broker.leader("numbers", 0).unwrap();
    let led: Vec<u32> = (0..PARTITIONS).filter(|at| broker.leader("numbers", *at) != Some(victim)).collect();
    assert!(!led.is_empty() && led.len() < PARTITIONS as usize, "{led:?}");
    // Of a group that is new, and of one that was there before.
    broker.kill_one(victim);
    until("a partition has no leader", async || broker.leader("numbers", 0).is_none()).await;
    let subscription = subscribe().await;
    let all = |number: u64, of: &[u32]| of.iter().map(|partition| (*partition, number)).collect::<BTreeSet<_>>();
    until("the others are read", async || *seen.lock().unwrap() == all(1, &led)).await;
    broker.restart();
    let every: Vec<u32> = (0..PARTITIONS).collect();
    until("all are read", async || *seen.lock().unwrap() == all(1, &every)).await;
    soon("nothing is left", subscription.idle()).await.unwrap();
    soon("it ends", subscription.unsubscribe()).await.unwrap();
    for partition in &every {
        bus.publish(NUMBERS, Record::new(2).partition(*partition)).await.unwrap();
    }
    seen.lock().unwrap().clear();
    broker.kill_one(victim);
    until("a partition has no leader", async || broker.leader("numbers", 0).is_none()).await;
    let subscription = subscribe().await;
    until("the others are read", async || *seen.lock().unwrap() == all(2, &led)).await;
    broker.restart();
    until("all are read", async || *seen.lock().unwrap() == all(2, &every)).await;
    soon("nothing is left", subscription.idle()).await.unwrap();
    soon("it ends", subscription.unsubscribe()).await.unwrap();
}

/// Who joins waits for the events that are being handled, and not for those of their keys that wait behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_events_does_not_keep_a_group_waiting() {
    const LINE: u64 = 400;
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let buses = [of(broker, &environment), of(broker, &environment)];
    buses[0].create_topic(NUMBERS, TopicSettings::default().partitions(2)).await.unwrap();
    let seen = [Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new()))];
    let member = async |number: usize| {
        let seen = Arc::clone(&seen[number]);
        let handler = move |event: Event<u64>, _: Context| {
            let seen = Arc::clone(&seen);
            async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                seen.lock().unwrap().push(event.value().copied().unwrap_or(u64::MAX));
                Ok::<_, HandlerError>(())
            }
        };
        let on = buses[number].on(NUMBERS, "group", handler).concurrency(4);
        on.shutdown_timeout(Duration::from_secs(60)).spawn().await.unwrap()
    };
    let record = |number| Record::new(number).key("key").partition(u32::try_from(number % 2).unwrap_or(0));
    buses[0].publish_batch(NUMBERS, (0..2 * LINE).map(record)).await.unwrap();
    let first = member(0).await;
    until("the first has begun", async || seen[0].lock().unwrap().len() > 10).await;
    let second = soon("the second is let in", member(1)).await;
    let before = seen[0].lock().unwrap().len() as u64;
    assert!(before < LINE * 3 / 2, "the group stood still for {before} events");
    soon("the first is idle", first.idle()).await.unwrap();
    soon("the second is idle", second.idle()).await.unwrap();
    assert!(!seen[1].lock().unwrap().is_empty());
    first.unsubscribe().await.unwrap();
    second.unsubscribe().await.unwrap();
    // In order, and none twice.
    for rest in 0..2 {
        let handled = [seen[0].lock().unwrap().clone(), seen[1].lock().unwrap().clone()].concat();
        let handled: Vec<u64> = handled.into_iter().filter(|number| number % 2 == rest).collect();
        assert_eq!(handled, (0..2 * LINE).filter(|number| number % 2 == rest).collect::<Vec<_>>());
    }
}
