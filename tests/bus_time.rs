//! What the event bus does at certain times, on a clock that is moved by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use annals::testing::SimulatedDisk;
use annals::{
    BreakerState, Bus, CircuitBreaker, Context, ErrorKind, Event, HandlerError, Json, Log, Reason, Record, Retry,
    Subscription, TopicDef, TopicSettings,
};
use chrono::TimeDelta;
use futures_util::FutureExt;

const EVENTS: TopicDef<u64, Json> = TopicDef::new("events");
const SECOND: Duration = Duration::from_secs(1);

/// Lets everybody have their turns, without any time passing.
async fn turns() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Waits for something that needs no time to pass but that of threads.
async fn until(holds: impl AsyncFn() -> bool) {
    for _ in 0..10_000 {
        if holds().await {
            return;
        }
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_micros(100));
    }
    panic!("it never comes to that");
}

async fn values(bus: &Bus) -> Vec<u64> {
    bus.history(EVENTS, 1000).await.unwrap().into_iter().filter_map(annals::Message::into_value).collect()
}

#[tokio::test]
async fn an_event_is_published_when_its_time_has_come_and_once() {
    let disk = SimulatedDisk::new(1);
    let log = disk.open(Log::builder()).unwrap();
    let bus = log.bus();
    let now = disk.clock().now();
    bus.publish_after(EVENTS, 3, 30 * SECOND).await.unwrap();
    bus.publish_at(EVENTS, Record::new(1).key("k").user_id("eve"), now + TimeDelta::seconds(10)).await.unwrap();
    let second = bus.publish_at(EVENTS, 2, now + TimeDelta::seconds(10)).await.unwrap();
    let gone = bus.publish_after(EVENTS, 9, 10 * SECOND).await.unwrap();
    bus.publish_at(EVENTS, 0, now - TimeDelta::seconds(1)).await.unwrap();
    assert_eq!(second.at(), now + TimeDelta::seconds(10));
    until(async || values(&bus).await == [0]).await;
    assert!(bus.cancel(gone).await.unwrap());
    assert!(!bus.cancel(gone).await.unwrap());
    disk.clock().advance(9 * SECOND);
    turns().await;
    assert_eq!(values(&bus).await, [0]);
    disk.clock().advance(SECOND);
    until(async || values(&bus).await == [0, 1, 2]).await;
    assert!(!bus.cancel(second).await.unwrap());
    let one = &bus.history(EVENTS, 2).await.unwrap()[0];
    assert_eq!((one.key().map(|key| &key[..]), one.user_id()), (Some(&b"k"[..]), Some("eve")));
    assert_eq!(one.timestamp(), disk.clock().now());
    assert!(one.headers().iter().all(|header| !header.name().starts_with("delayed")), "{:?}", one.headers());
    assert_eq!(bus.delayed_count().await.unwrap(), 1);
    log.close().await.unwrap();

    // The process was away when the time came.
    disk.clock().advance(3600 * SECOND);
    let bus = disk.open(Log::builder()).unwrap().bus();
    bus.publish(EVENTS, 4).await.unwrap();
    until(async || values(&bus).await.len() == 5).await;
    let mut all = values(&bus).await;
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4]);
    assert_eq!(bus.delayed_count().await.unwrap(), 0);
    bus.log().close().await.unwrap();
}

#[tokio::test]
async fn a_tombstone_and_a_partition_can_wait_too() {
    let disk = SimulatedDisk::new(2);
    let log = disk.open(Log::builder()).unwrap();
    log.create_topic(EVENTS, TopicSettings::default().partitions(4)).await.unwrap();
    let bus = log.bus();
    let at = disk.clock().now() + TimeDelta::days(-100);
    bus.publish_after(EVENTS, Record::<u64>::tombstone().key("k").partition(3).timestamp(at), SECOND).await.unwrap();
    let error = bus.publish_after(EVENTS, Record::new(1).partition(4), SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    disk.clock().advance(SECOND);
    until(async || bus.history(EVENTS, 9).await.unwrap().len() == 1).await;
    let message = &bus.history(EVENTS, 9).await.unwrap()[0];
    assert_eq!((message.partition(), message.is_tombstone(), message.timestamp()), (3, true, at));
    log.close().await.unwrap();
}

/// The power goes at each call that publishing later makes: what was acknowledged is published, once, and nothing twice.
#[test]
fn events_that_wait_survive_the_power_going_at_any_call() {
    let story = async |disk: &SimulatedDisk, acknowledged: &mut Vec<u64>| {
        let Ok(log) = disk.open(Log::builder()) else { return };
        let bus = log.bus();
        for number in 0..3 {
            if bus.publish_after(EVENTS, number, u32::try_from(number).unwrap() * SECOND).await.is_ok() {
                acknowledged.push(number);
            }
        }
        for _ in 0..3 {
            for _ in 0..20 {
                tokio::task::yield_now().await;
                std::thread::sleep(Duration::from_micros(50));
            }
            disk.clock().advance(SECOND);
        }
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let whole = SimulatedDisk::new(3);
    runtime().block_on(story(&whole, &mut Vec::new()));
    let calls = whole.calls();
    assert!(calls > 20, "{calls}");
    for call in 0..calls + 5 {
        let disk = SimulatedDisk::new(1000 + call);
        disk.lose_power_at(call);
        let mut acknowledged = Vec::new();
        let first = runtime();
        first.block_on(story(&disk, &mut acknowledged));
        disk.power_loss();
        drop(first);
        disk.lose_power_at(u64::MAX);
        runtime().block_on(async {
            let log = disk.open(Log::builder()).unwrap();
            let bus = log.bus();
            bus.delayed_count().await.unwrap();
            disk.clock().advance(10 * SECOND);
            until(async || {
                disk.clock().advance(SECOND);
                let found = values(&bus).await;
                acknowledged.iter().all(|number| found.contains(number))
            })
            .await;
            turns().await;
            let mut found = values(&bus).await;
            found.sort_unstable();
            let mut once = found.clone();
            once.dedup();
            assert_eq!(found, once, "call {call}");
            assert!(
                acknowledged.iter().all(|number| found.contains(number)),
                "call {call}: {acknowledged:?} {found:?}"
            );
            log.close().await.unwrap();
        });
    }
}

async fn failing(bus: &Bus, retry: Retry, breaker: Option<CircuitBreaker>) -> (Subscription, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let mut on = bus
        .on(EVENTS, "group", move |_: Event<u64>, _: Context| {
            counted.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>("no")
        })
        .retry(retry)
        .dead_letter("dlq");
    if let Some(breaker) = breaker {
        on = on.circuit_breaker(breaker);
    }
    (on.spawn().await.unwrap(), calls)
}

#[tokio::test]
async fn attempts_come_at_their_times_and_their_count_survives() {
    let disk = SimulatedDisk::new(4);
    let log = disk.open(Log::builder()).unwrap();
    let bus = log.bus();
    let retry = Retry::exponential(4).base(SECOND).factor(3.0).jitter(1.0, 1.0);
    let (_, calls) = failing(&bus, retry.clone(), None).await;
    bus.publish(EVENTS, 1).await.unwrap();
    let came = |calls: &Arc<AtomicU32>, count| {
        let calls = Arc::clone(calls);
        until(async move || calls.load(Ordering::Relaxed) == count)
    };
    came(&calls, 1).await;
    let first_failure = disk.clock().now();
    disk.clock().advance(SECOND - Duration::from_micros(1));
    turns().await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    disk.clock().advance(Duration::from_micros(1));
    came(&calls, 2).await;
    disk.clock().advance(2 * SECOND);
    turns().await;
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    log.close().await.unwrap();

    // Two are left, and the wait begins anew: the event is tried right away.
    let log = disk.open(Log::builder()).unwrap();
    let bus = log.bus();
    let (subscription, calls) = failing(&bus, retry, None).await;
    came(&calls, 1).await;
    disk.clock().advance(9 * SECOND);
    came(&calls, 2).await;
    subscription.idle().await.unwrap();
    let letters = bus.dead_letters("group", "dlq").unwrap().list(10).await.unwrap();
    assert_eq!((letters[0].attempts, letters[0].reason), (4, Reason::Failed));
    assert_eq!(letters[0].first_failure.unwrap(), first_failure);
    assert_eq!(letters[0].last_failure.unwrap(), disk.clock().now());
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_breaker_opens_and_tries_one() {
    let disk = SimulatedDisk::new(5);
    let log = disk.open(Log::builder()).unwrap();
    let bus = log.bus();
    let breaker = CircuitBreaker::default().failures(2).open_for(30 * SECOND);
    let (subscription, calls) = failing(&bus, Retry::fixed(100, Duration::from_millis(1)), Some(breaker)).await;
    for number in 0..5 {
        bus.publish(EVENTS, number).await.unwrap();
    }
    until(async || subscription.breaker() == BreakerState::Open).await;
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert!(!bus.health().ready);
    disk.clock().advance(29 * SECOND);
    turns().await;
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    disk.clock().advance(SECOND);
    until(async || calls.load(Ordering::Relaxed) == 3).await;
    turns().await;
    assert_eq!(calls.load(Ordering::Relaxed), 3, "one is tried, and fails");
    assert_eq!(subscription.breaker(), BreakerState::Open);
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_deadline_cancels_and_shutdown_gives_back() {
    let disk = SimulatedDisk::new(6);
    let log = disk.open(Log::builder()).unwrap();
    let bus = log.bus();
    let hanging = || {
        bus.on(EVENTS, "group", |_: Event<u64>, _: Context| std::future::pending::<Result<(), HandlerError>>())
            .deadline(60 * SECOND)
            .shutdown_timeout(5 * SECOND)
            .retry(Retry::never())
            .dead_letter("dlq")
    };
    let subscription = hanging().spawn().await.unwrap();
    bus.publish(EVENTS, 1).await.unwrap();
    until(async || subscription.stats().running == 1).await;
    let ending = subscription.unsubscribe();
    tokio::pin!(ending);
    assert!((&mut ending).now_or_never().is_none());
    turns().await;
    disk.clock().advance(5 * SECOND);
    ending.await.unwrap();
    // Given back, it is delivered again, and meets its deadline.
    let subscription = hanging().spawn().await.unwrap();
    until(async || subscription.stats().running == 1).await;
    disk.clock().advance(60 * SECOND);
    subscription.idle().await.unwrap();
    let letters = bus.dead_letters("group", "dlq").unwrap().list(10).await.unwrap();
    assert_eq!(letters[0].reason, Reason::TimedOut);
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_set_back_harms_nothing() {
    let disk = SimulatedDisk::new(7);
    let log = disk.open(Log::builder()).unwrap();
    let bus = log.bus();
    let (subscription, calls) = failing(&bus, Retry::fixed(2, SECOND), None).await;
    bus.publish_after(EVENTS, 7, 100 * SECOND).await.unwrap();
    bus.publish(EVENTS, Record::new(1).ttl(10 * SECOND)).await.unwrap();
    until(async || calls.load(Ordering::Relaxed) == 1).await;
    disk.clock().set(disk.clock().now() - TimeDelta::days(1));
    disk.clock().advance(SECOND);
    subscription.idle().await.unwrap();
    assert_eq!(subscription.stats().dead_lettered, 1, "the wait went on, and the event has not expired");
    // Set forward, what waits is due at the next look, a minute later at the most.
    disk.clock().set(disk.clock().now() + TimeDelta::days(2));
    disk.clock().advance(60 * SECOND);
    until(async || values(&bus).await == [1, 7]).await;
    log.close().await.unwrap();
}

/// Whoever fills the disk stops the publishers, and not those who work off what there is.
#[tokio::test]
async fn dead_letters_and_progress_have_room_on_a_full_disk() {
    let disk = SimulatedDisk::new(8);
    let log = disk.open(Log::builder()).unwrap();
    let bus = log.bus();
    let (subscription, calls) = failing(&bus, Retry::never(), None).await;
    subscription.pause();
    for number in 0..50 {
        bus.publish(EVENTS, number).await.unwrap();
    }
    // What is to be written ahead is written.
    for _ in 0..20 {
        disk.clock().advance(SECOND);
        turns().await;
    }
    // One has come through, so the journal has its files.
    subscription.resume();
    until(async || subscription.stats().dead_lettered >= 1).await;
    subscription.pause();
    disk.clock().advance(SECOND);
    disk.set_capacity(disk.used());
    let filler = log.create_raw_topic("filler", TopicSettings::default()).await;
    assert!(filler.is_err() || filler.unwrap().produce(Record::new(vec![7; 100_000].into())).await.is_err());
    subscription.resume();
    until(async || subscription.stats().dead_lettered == 50).await;
    assert_eq!(calls.load(Ordering::Relaxed), 50);
    assert!(subscription.last_error().is_none(), "{:?}", subscription.last_error());
    disk.set_capacity(None);
    log.close().await.unwrap();
    let bus = disk.open(Log::builder()).unwrap().bus();
    assert_eq!(bus.dead_letters("group", "dlq").unwrap().count().await.unwrap(), 50);
    bus.log().close().await.unwrap();
}

/// An event as large as its topic takes becomes a dead letter as well.
#[tokio::test]
async fn the_largest_event_can_be_a_dead_letter() {
    let log = Log::in_memory().unwrap();
    let bus = log.bus();
    const TEXTS: TopicDef<String, annals::Raw> = TopicDef::new("texts");
    let subscription = bus
        .on(TEXTS, "group", |_: Event<String>, _: Context| Err::<(), _>("no ".repeat(1000)))
        .retry(Retry::never())
        .dead_letter("dlq")
        .spawn()
        .await
        .unwrap();
    let largest = (1 << 20) - 1000;
    bus.publish(TEXTS, "x".repeat(largest)).await.unwrap();
    subscription.idle().await.unwrap();
    let letters = bus.dead_letters("group", "dlq").unwrap().list(2).await.unwrap();
    assert_eq!(letters[0].value.as_ref().unwrap().len(), largest);
}
