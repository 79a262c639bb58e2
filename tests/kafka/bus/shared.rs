//! Members of a group that come and go, while events are handled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::{Bus, Context, Event, HandlerError, Record, Subscription, TopicSettings};

use super::{NUMBERS, OTHERS, of, quick, soon};
use crate::support::{Broker, until};

const EVENTS: u64 = 600;
const KEYS: u64 = 17;

/// Who has handled what: member, and number.
type Seen = Arc<Mutex<Vec<(usize, u64)>>>;

async fn member(bus: &Bus, number: usize, seen: &Seen) -> Subscription {
    let seen = Arc::clone(seen);
    let handler = move |event: Event<u64>, cx: Context| {
        let seen = Arc::clone(&seen);
        async move {
            let value = event.value().copied().unwrap_or(u64::MAX);
            // Some overtake others, and some have to be tried again.
            tokio::time::sleep(Duration::from_millis(value % 4)).await;
            if value % 29 == 3 && cx.attempt() < 3 {
                return Err(HandlerError::from("not yet"));
            }
            seen.lock().unwrap().push((number, value));
            let key = event.key().cloned().unwrap_or_default();
            cx.publish(OTHERS, Record::new(value).key(key)).await?;
            Ok(())
        }
    };
    bus.on(NUMBERS, "group", handler).concurrency(8).retry(quick(5)).spawn().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_leave_each_output_once_and_in_order() {
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let buses = [of(broker, &environment), of(broker, &environment), of(broker, &environment)];
    let four = TopicSettings::default().partitions(4);
    buses[0].create_topic(NUMBERS, four.clone()).await.unwrap();
    buses[0].create_topic(OTHERS, four).await.unwrap();
    let seen = Seen::default();
    let handled = async |count: usize| {
        until("so many are handled", async || seen.lock().unwrap().len() >= count).await;
    };
    let first = member(&buses[0], 0, &seen).await;
    let publisher = buses[0].clone();
    let publishing = tokio::spawn(async move {
        for number in 0..EVENTS {
            publisher.publish(NUMBERS, Record::new(number).key(format!("key {}", number % KEYS))).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    handled(30).await;
    let second = member(&buses[1], 1, &seen).await;
    handled(150).await;
    let third = member(&buses[2], 2, &seen).await;
    handled(300).await;
    second.unsubscribe().await.unwrap();
    publishing.await.unwrap();
    soon("the first is idle", first.idle()).await.unwrap();
    soon("the third is idle", third.idle()).await.unwrap();
    let members = |who: usize| seen.lock().unwrap().iter().filter(|(by, _)| *by == who).count();
    assert!(members(0) > 0 && members(1) > 0 && members(2) > 0, "{} {} {}", members(0), members(1), members(2));
    first.unsubscribe().await.unwrap();
    third.unsubscribe().await.unwrap();
    // By Kafka's own client: each once, and those of a key in order.
    let mut by_key: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    for record in broker.dump(&format!("{environment}.others")).await {
        let value = String::from_utf8(record.value.unwrap()).unwrap().parse().unwrap();
        by_key.entry(record.key.unwrap()).or_default().push(value);
    }
    let expected: BTreeMap<Vec<u8>, Vec<u64>> = (0..KEYS)
        .map(|key| (format!("key {key}").into_bytes(), (0..EVENTS).filter(|number| number % KEYS == key).collect()))
        .collect();
    assert_eq!(by_key, expected);
    // All of it is committed.
    let lag = buses[0].lag("group").await.unwrap();
    assert_eq!(lag.iter().map(|partition| partition.lag_records).sum::<u64>(), 0, "{lag:?}");
    assert_eq!(lag.len(), 4);
}

/// What overtook an event that still waits is not handled again by whoever comes next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_beyond_an_event_that_waits_is_remembered() {
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let bus = of(broker, &environment);
    let (calls, attempts) = (Seen::default(), Arc::new(Mutex::new(0)));
    let subscribe = async |fails: bool| {
        let (calls, attempts) = (Arc::clone(&calls), Arc::clone(&attempts));
        let handler = move |event: Event<u64>, cx: Context| {
            let (calls, attempts) = (Arc::clone(&calls), Arc::clone(&attempts));
            async move {
                let value = event.value().copied().unwrap_or(u64::MAX);
                if value == 3 {
                    *attempts.lock().unwrap() = cx.attempt();
                    if fails {
                        return Err(HandlerError::from("not in this life"));
                    }
                }
                calls.lock().unwrap().push((0, value));
                if value % 2 == 0 {
                    cx.publish(OTHERS, value).await?;
                }
                Ok(())
            }
        };
        let retry = annals::Retry::fixed(1000, Duration::from_secs(if fails { 3600 } else { 0 }));
        bus.on(NUMBERS, "group", handler).retry(retry).concurrency(4).spawn().await.unwrap()
    };
    bus.publish_batch(NUMBERS, 0..20).await.unwrap();
    let stubborn = subscribe(true).await;
    until("all but one are handled", async || calls.lock().unwrap().len() == 19).await;
    until("the outputs are there", async || bus.history(OTHERS, 100).await.unwrap().len() == 10).await;
    stubborn.unsubscribe().await.unwrap();
    let lag = bus.lag("group").await.unwrap();
    assert_eq!((lag[0].committed, lag[0].finished_ahead), (Some(3), 16), "{lag:?}");
    let again = subscribe(false).await;
    soon("the last one is handled", again.idle()).await.unwrap();
    again.unsubscribe().await.unwrap();
    let mut all: Vec<u64> = calls.lock().unwrap().iter().map(|(_, value)| *value).collect();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>(), "something was handled twice");
    assert_eq!(*attempts.lock().unwrap(), 2, "the attempts were counted anew");
    assert_eq!(bus.history(OTHERS, 100).await.unwrap().len(), 10);
}
