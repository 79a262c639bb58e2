//! The event bus, through its public interface.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::{
    Bus, BusSettings, CircuitBreaker, Context, ErrorKind, Event, Filter, Handler, HandlerError, Json, Log, Raw, Reason,
    Record, Retry, Router, TopicDef, TopicSettings, UnknownType, blocking,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const NUMBERS: TopicDef<u64, Json> = TopicDef::new("numbers");
const OUTPUT: TopicDef<u64, Json> = TopicDef::new("output");
const SECOND: Duration = Duration::from_secs(1);

/// A retry that waits for next to nothing.
fn quick(attempts: u32) -> Retry {
    Retry::fixed(attempts, Duration::from_micros(100))
}

fn bus() -> Bus {
    Log::in_memory().unwrap().bus()
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Sighting>>>);

/// A key and a value.
type Sighting = (Option<Bytes>, u64);

impl Seen {
    fn note(&self, event: &Event<u64>) {
        self.0.lock().unwrap().push((event.key().cloned(), *event.value().unwrap()));
    }

    fn values(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|(_, value)| *value).collect()
    }

    fn by_key(&self) -> HashMap<Option<Bytes>, Vec<u64>> {
        let mut keys: HashMap<_, Vec<u64>> = HashMap::new();
        for (key, value) in &*self.0.lock().unwrap() {
            keys.entry(key.clone()).or_default().push(*value);
        }
        keys
    }
}

/// A handler that takes note of what it is called with.
struct Noting(Seen);

impl Handler<u64> for Noting {
    async fn handle(&self, event: Event<u64>, _: Context) -> Result<(), HandlerError> {
        self.0.note(&event);
        Ok(())
    }
}

#[tokio::test]
async fn an_event_goes_to_every_group_and_to_one_member_of_each() {
    let bus = bus();
    let (first, second, third) = (Seen::default(), Seen::default(), Seen::default());
    let a = bus.on(NUMBERS, "a", Noting(first.clone())).spawn().await.unwrap();
    let b = bus.on(NUMBERS, "b", Noting(second.clone())).spawn().await.unwrap();
    let c = bus.on(NUMBERS, "b", Noting(third.clone())).spawn().await.unwrap();
    assert_eq!(bus.subscriber_count("numbers"), 3);
    for number in 0..10 {
        bus.publish(NUMBERS, number).await.unwrap();
    }
    for subscription in [&a, &b, &c] {
        subscription.idle().await.unwrap();
    }
    assert_eq!(first.values(), (0..10).collect::<Vec<_>>());
    let mut shared = [second.values(), third.values()].concat();
    shared.sort_unstable();
    assert_eq!(shared, (0..10).collect::<Vec<_>>());
    bus.shutdown().await.unwrap();
    assert_eq!(bus.subscriber_count("numbers"), 0);
    let error = bus.on(NUMBERS, "a", Noting(first)).spawn().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn handlers_are_functions_of_every_kind() {
    let bus = bus();
    let count = Arc::new(AtomicU32::new(0));
    let (a, b, c) = (Arc::clone(&count), Arc::clone(&count), Arc::clone(&count));
    let plain = bus
        .on(NUMBERS, "plain", move |_: Event<u64>, _: Context| {
            a.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(())
        })
        .spawn()
        .await
        .unwrap();
    let asynchronous = bus
        .on(NUMBERS, "async", move |_: Event<u64>, _: Context| {
            let b = Arc::clone(&b);
            async move {
                tokio::task::yield_now().await;
                b.fetch_add(10, Ordering::Relaxed);
                Ok::<_, &str>(())
            }
        })
        .spawn()
        .await
        .unwrap();
    let threads = bus
        .on(
            NUMBERS,
            "threads",
            blocking(move |_: Event<u64>, _: Context| {
                c.fetch_add(100, Ordering::Relaxed);
                Ok::<_, String>(())
            }),
        )
        .spawn()
        .await
        .unwrap();
    bus.publish(NUMBERS, 1).await.unwrap();
    for subscription in [plain, asynchronous, threads] {
        subscription.idle().await.unwrap();
    }
    assert_eq!(count.load(Ordering::Relaxed), 111);
}

#[tokio::test]
async fn the_standard_headers_are_filled_in_and_kept() {
    let bus = Log::in_memory().unwrap().bus_with(BusSettings::default().source("shop").environment("dev")).unwrap();
    bus.publish(NUMBERS, 1).await.unwrap();
    bus.publish(
        NUMBERS,
        Record::new(2).id("mine").event_type("number.chosen").source("elsewhere").correlation_id("story"),
    )
    .await
    .unwrap();
    let events = bus.history(NUMBERS, 10).await.unwrap();
    let first = &events[0];
    let id = std::str::from_utf8(first.message_id().unwrap()).unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(&id[14..15], "7", "a UUID of version 7: {id}");
    assert_eq!(first.correlation_id(), Some(id), "what begins something is called after itself");
    assert_eq!(first.source(), Some("shop"));
    assert_eq!(first.event_type(), Some("u64"));
    assert_eq!(first.content_type(), Some("application/json"));
    assert_eq!(first.environment(), Some("dev"));
    assert!(first.trace_parent().is_some());
    assert_eq!((first.causation_id(), first.headers().get_str("causation_depth")), (None, None));
    assert_eq!(first.topic(), "dev.numbers");
    let second = &events[1];
    assert_eq!(second.message_id().unwrap(), "mine");
    assert_eq!(second.event_type(), Some("number.chosen"));
    assert_eq!(second.source(), Some("elsewhere"));
    assert_eq!(second.correlation_id(), Some("story"));
}

#[tokio::test]
async fn what_a_handler_publishes_inherits_and_is_there_once() {
    let bus = bus();
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let doubling = bus
        .on(NUMBERS, "doubling", move |event: Event<u64>, cx: Context| {
            let counted = Arc::clone(&counted);
            async move {
                cx.publish(OUTPUT, event.value().unwrap() * 2).await?;
                // Written at once, and again with each attempt.
                cx.bus().publish(TopicDef::<u64, Json>::new("tries"), u64::from(cx.attempt())).await?;
                match counted.fetch_add(1, Ordering::Relaxed) {
                    0 => Err(HandlerError::from("not yet")),
                    _ => Ok(()),
                }
            }
        })
        .retry(quick(3))
        .spawn()
        .await
        .unwrap();
    bus.publish(NUMBERS, Record::new(21).correlation_id("story")).await.unwrap();
    doubling.idle().await.unwrap();
    let source = &bus.history(NUMBERS, 1).await.unwrap()[0];
    let output = bus.history(OUTPUT, 10).await.unwrap();
    assert_eq!(output.len(), 1);
    assert_eq!(output[0].value(), Some(&42));
    for event in [&output[0], &bus.history(TopicDef::<u64, Json>::new("tries"), 10).await.unwrap()[1]] {
        assert_eq!(event.correlation_id(), Some("story"));
        assert_eq!(event.causation_id().map(str::as_bytes), source.message_id().map(|id| &id[..]));
        assert_eq!(event.headers().get_str("causation_depth"), Some("1"));
        let (child, parent) = (event.trace_parent().unwrap(), source.trace_parent().unwrap());
        assert_eq!(child.trace_id(), parent.trace_id());
        assert_ne!(child.span_id(), parent.span_id());
    }
    let stats = doubling.stats();
    assert_eq!((stats.delivered, stats.succeeded, stats.failed, stats.retried), (1, 1, 1, 1));
}

#[tokio::test]
async fn a_failing_key_waits_and_the_others_flow() {
    let bus = bus();
    let seen = Seen::default();
    let noted = seen.clone();
    let subscription = bus
        .on(NUMBERS, "group", move |event: Event<u64>, _: Context| {
            let values = noted.values();
            // Until the last of the other keys are done.
            if event.value() == Some(&3) && !(values.contains(&28) && values.contains(&29)) {
                return Err("three is difficult");
            }
            noted.note(&event);
            Ok(())
        })
        .retry(Retry::forever().ceiling(Duration::from_millis(1)))
        .concurrency(4)
        .spawn()
        .await
        .unwrap();
    for number in 0..30 {
        bus.publish(NUMBERS, Record::new(number).key(format!("key {}", number % 3))).await.unwrap();
    }
    subscription.idle().await.unwrap();
    for (key, values) in seen.by_key() {
        assert!(values.is_sorted(), "{key:?}: {values:?}");
        assert_eq!(values.len(), 10);
    }
    // The key of 3 is that of 0, and the others did not wait for it.
    let values = seen.values();
    let place = |wanted: u64| values.iter().position(|value| *value == wanted).unwrap();
    assert!(place(28) < place(3) && place(29) < place(3), "{values:?}");
}

#[tokio::test]
async fn dead_letters_say_why_and_are_replayed_to_their_group_only() {
    let bus = bus();
    let (broken, seen, others) = (Arc::new(AtomicUsize::new(1)), Seen::default(), Seen::default());
    let (state, noted) = (Arc::clone(&broken), seen.clone());
    let billing = bus
        .on(NUMBERS, "billing", move |event: Event<u64>, _: Context| {
            if state.load(Ordering::Relaxed) == 1 && event.value() == Some(&7) {
                return Err(std::io::Error::other("seven is broken"));
            }
            noted.note(&event);
            Ok(())
        })
        .retry(quick(3))
        .dead_letter("dlq")
        .spawn()
        .await
        .unwrap();
    let other = bus.on(NUMBERS, "other", Noting(others.clone())).dead_letter("dlq").spawn().await.unwrap();
    for number in [6, 7, 8] {
        bus.publish(
            NUMBERS,
            Record::new(number).key("k").header("mine", "1").header("mine", "2").header_absent("gone"),
        )
        .await
        .unwrap();
    }
    billing.idle().await.unwrap();
    other.idle().await.unwrap();
    assert_eq!(seen.values(), [6, 8]);

    let letters = bus.dead_letters("billing", "dlq").unwrap();
    let listed = letters.list(10).await.unwrap();
    assert_eq!(listed.len(), 1);
    let letter = &listed[0];
    assert_eq!((letter.source_topic.as_str(), letter.source_partition, letter.source_offset), ("numbers", 0, 1));
    assert_eq!((letter.group.as_str(), letter.reason, letter.attempts), ("billing", Reason::Failed, 3));
    assert_eq!(letter.errors, ["seven is broken"]);
    assert!(letter.first_failure.unwrap() <= letter.last_failure.unwrap());
    assert_eq!(letter.value.as_deref(), Some(&b"7"[..]));
    let original = &bus.history(NUMBERS, 2).await.unwrap()[0];
    assert_eq!(
        &letter.headers.iter().take(original.headers().len()).cloned().collect::<annals::Headers>(),
        original.headers()
    );
    assert_eq!(bus.dead_letters("other", "dlq").unwrap().count().await.unwrap(), 0);
    assert_eq!(letters.get(letter.partition, letter.offset).await.unwrap().source_offset, 1);
    let error = letters.replay([(0, 17)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    broken.store(0, Ordering::Relaxed);
    assert_eq!(letters.replay_all().await.unwrap(), 1);
    billing.idle().await.unwrap();
    other.idle().await.unwrap();
    assert_eq!(seen.values(), [6, 8, 7]);
    assert_eq!(others.values(), [6, 7, 8]);
    assert_eq!(letters.count().await.unwrap(), 0);
    assert_eq!(letters.replay_all().await.unwrap(), 0);
}

#[tokio::test]
async fn a_replayed_event_looks_as_it_did_the_first_time() {
    let bus = bus();
    let places = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&places);
    let subscription = bus
        .on(NUMBERS, "group", move |event: Event<u64>, cx: Context| {
            let headers: Vec<_> = event
                .headers()
                .iter()
                .filter(|header| header.name() != "retry_count" && header.name() != "max_retries")
                .cloned()
                .collect();
            noted.lock().unwrap().push((
                event.topic().to_owned(),
                event.partition(),
                event.offset(),
                event.timestamp(),
                headers,
            ));
            if cx.attempt() == 1 && noted.lock().unwrap().len() == 1 { Err("first") } else { Ok(()) }
        })
        .retry(Retry::never())
        .dead_letter("dlq")
        .spawn()
        .await
        .unwrap();
    bus.publish(NUMBERS, Record::new(1).key("k").user_id("eve")).await.unwrap();
    subscription.idle().await.unwrap();
    bus.dead_letters("group", "dlq").unwrap().replay_all().await.unwrap();
    subscription.idle().await.unwrap();
    let places = places.lock().unwrap();
    assert_eq!(places.len(), 2);
    assert_eq!(places[0], places[1]);
}

#[tokio::test]
async fn with_sequenced_dead_letters_a_key_keeps_its_order() {
    let log = Log::in_memory().unwrap();
    let bus = log.bus();
    let (broken, seen) = (Arc::new(AtomicUsize::new(1)), Seen::default());
    let on = |bus: &Bus| {
        let (state, noted) = (Arc::clone(&broken), seen.clone());
        bus.on(NUMBERS, "group", move |event: Event<u64>, _: Context| {
            if state.load(Ordering::Relaxed) == 1 && event.value() == Some(&1) {
                return Err("one is broken");
            }
            noted.note(&event);
            Ok(())
        })
        .retry(Retry::never())
        .dead_letter("dlq")
        .sequenced()
    };
    let subscription = on(&bus).spawn().await.unwrap();
    let publish = async |number: u64, key: &str| bus.publish(NUMBERS, Record::new(number).key(key)).await.unwrap();
    for (number, key) in [(0, "a"), (1, "a"), (2, "a"), (10, "b"), (3, "a")] {
        publish(number, key).await;
    }
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [0, 10]);
    assert_eq!(subscription.stats().parked, 2);
    // It is known after a restart, too.
    subscription.unsubscribe().await.unwrap();
    let subscription = on(&bus).spawn().await.unwrap();
    publish(4, "a").await;
    publish(11, "b").await;
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [0, 10, 11]);
    let letters = bus.dead_letters("group", "dlq").unwrap();
    let reasons: Vec<_> = letters.list(10).await.unwrap().iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, [Reason::Failed, Reason::Parked, Reason::Parked, Reason::Parked]);
    // It fails again: all of them are dead letters again, in order.
    assert_eq!(letters.replay_all().await.unwrap(), 4);
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [0, 10, 11]);
    assert_eq!(letters.count().await.unwrap(), 4);
    broken.store(0, Ordering::Relaxed);
    assert_eq!(letters.replay_all().await.unwrap(), 4);
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [0, 10, 11, 1, 2, 3, 4]);
    publish(5, "a").await;
    subscription.idle().await.unwrap();
    assert_eq!(seen.values().last(), Some(&5));
    assert_eq!(letters.count().await.unwrap(), 0);
}

#[tokio::test]
async fn purging_lets_a_key_go_on() {
    let bus = bus();
    let seen = Seen::default();
    let noted = seen.clone();
    let subscription = bus
        .on(NUMBERS, "group", move |event: Event<u64>, _: Context| {
            if event.value() == Some(&1) {
                return Err("broken");
            }
            noted.note(&event);
            Ok(())
        })
        .retry(Retry::never())
        .dead_letter("dlq")
        .sequenced()
        .spawn()
        .await
        .unwrap();
    bus.publish(NUMBERS, Record::new(1).key("a")).await.unwrap();
    subscription.idle().await.unwrap();
    assert_eq!(bus.dead_letters("group", "dlq").unwrap().purge([(0, 0)]).await.unwrap(), 1);
    bus.publish(NUMBERS, Record::new(2).key("a")).await.unwrap();
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [2]);
}

#[tokio::test]
async fn a_panic_a_hang_and_nonsense_are_failures_and_harm_nobody_else() {
    let bus = bus();
    let seen = Seen::default();
    let bystander = bus.on(NUMBERS, "bystander", Noting(seen.clone())).skip_failed().spawn().await.unwrap();
    let wild = bus
        .on(NUMBERS, "wild", |event: Event<u64>, _: Context| async move {
            match event.value() {
                Some(0) => panic!("no zero"),
                Some(1) => std::future::pending().await,
                _ => Ok::<_, HandlerError>(()),
            }
        })
        .deadline(Duration::from_millis(5))
        .retry(quick(2))
        .concurrency(2)
        .dead_letter("dlq")
        .spawn()
        .await
        .unwrap();
    for number in 0..3 {
        bus.publish(NUMBERS, number).await.unwrap();
    }
    bus.publish(TopicDef::<String, Json>::new("numbers"), "four".to_owned()).await.unwrap();
    wild.idle().await.unwrap();
    bystander.idle().await.unwrap();
    assert_eq!(seen.values(), [0, 1, 2]);
    assert_eq!(bystander.stats().skipped, 1);
    let letters = bus.dead_letters("wild", "dlq").unwrap().list(10).await.unwrap();
    let mut why: Vec<_> = letters.iter().map(|letter| (letter.source_offset, letter.reason, letter.attempts)).collect();
    why.sort_by_key(|(offset, ..)| *offset);
    assert_eq!(why, [(0, Reason::Panicked, 2), (1, Reason::TimedOut, 2), (3, Reason::Undecodable, 1)]);
    let undecodable = letters.iter().find(|letter| letter.source_offset == 3).unwrap();
    assert_eq!(undecodable.value.as_deref(), Some(&b"\"four\""[..]));
    assert!(letters.iter().any(|letter| letter.errors == ["no zero"]));
}

#[tokio::test]
async fn without_a_dead_letter_topic_nothing_is_passed_over() {
    let bus = bus();
    let subscription = bus
        .on(
            NUMBERS,
            "group",
            |event: Event<u64>, _: Context| if event.value() == Some(&1) { Err("no") } else { Ok(()) },
        )
        .retry(quick(2))
        .spawn()
        .await
        .unwrap();
    for number in 0..3 {
        bus.publish(NUMBERS, Record::new(number).key("k")).await.unwrap();
    }
    let error = subscription.stopped().await.unwrap_err();
    assert!(error.to_string().contains("topic numbers, partition 0, offset 1 after 2 attempts"), "{error}");
    assert!(!bus.health().ready && bus.health().live);
    // It is delivered again, and what was done is not.
    let seen = Seen::default();
    let again = bus.on(NUMBERS, "group", Noting(seen.clone())).spawn().await.unwrap();
    again.idle().await.unwrap();
    assert_eq!(seen.values(), [1, 2]);
}

#[tokio::test]
async fn filters_pass_what_they_say() {
    let bus = bus();
    let seen = Seen::default();
    let filter = Filter::event_type("order.*")
        .and(Filter::header("tenant_id", "acme").or(Filter::key("k")))
        .and(Filter::by(|message| message.partition() == 0))
        .and(Filter::header("x", "y").not());
    let subscription = bus.on(NUMBERS, "group", Noting(seen.clone())).filter(filter).spawn().await.unwrap();
    let base = |number| Record::new(number).event_type("order.paid");
    for record in [
        base(0),
        base(1).tenant_id("acme"),
        base(2).key("k"),
        base(3).key("k").event_type("orders"),
        base(4).key("k").header("x", "y"),
        base(5).key("k").header("x", "z"),
    ] {
        bus.publish(NUMBERS, record).await.unwrap();
    }
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [1, 2, 5]);
    assert_eq!(subscription.stats().filtered, 3);
}

#[tokio::test]
async fn a_router_knows_types() {
    #[derive(Serialize, Deserialize)]
    struct OrderPlaced {
        amount: u64,
    }
    #[derive(Serialize, Deserialize)]
    struct OrderCancelled;
    const RAW: TopicDef<Bytes, Raw> = TopicDef::new("orders");
    let bus = bus();
    let sum = Arc::new(AtomicU32::new(0));
    let (a, b) = (Arc::clone(&sum), Arc::clone(&sum));
    let router = Router::new(UnknownType::DeadLetter)
        .on("order.placed", Json, move |order: Event<OrderPlaced>, _: Context| {
            a.fetch_add(u32::try_from(order.value().unwrap().amount).unwrap(), Ordering::Relaxed);
            Ok::<_, HandlerError>(())
        })
        .on("order.cancelled", Json, move |_: Event<OrderCancelled>, _: Context| {
            let b = Arc::clone(&b);
            async move {
                b.fetch_add(1000, Ordering::Relaxed);
                Ok::<_, HandlerError>(())
            }
        });
    let subscription = bus.on(RAW, "group", router).dead_letter("dlq").spawn().await.unwrap();
    bus.publish(TopicDef::<_, Json>::new("orders"), OrderPlaced { amount: 17 }).await.unwrap();
    bus.publish(TopicDef::<_, Json>::new("orders"), OrderCancelled).await.unwrap();
    bus.publish(TopicDef::<u64, Json>::new("orders"), Record::new(1_u64).event_type("order.lost")).await.unwrap();
    subscription.idle().await.unwrap();
    assert_eq!(sum.load(Ordering::Relaxed), 1017);
    let letters = bus.dead_letters("group", "dlq").unwrap().list(10).await.unwrap();
    assert_eq!(letters[0].reason, Reason::UnknownType);
    assert_eq!(letters[0].errors, ["there is no handler for events of type \"order.lost\""]);
    let twice = Router::new(UnknownType::Skip).on("a", Json, |_: Event<u64>, _: Context| Ok::<_, HandlerError>(())).on(
        "a",
        Json,
        |_: Event<u64>, _: Context| Ok::<_, HandlerError>(()),
    );
    let error = bus.on(RAW, "other", twice).spawn().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_breaker_stops_the_calls_and_loses_nothing() {
    let bus = bus();
    let (calls, healthy) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, state) = (Arc::clone(&calls), Arc::clone(&healthy));
    let subscription = bus
        .on(NUMBERS, "group", move |_: Event<u64>, _: Context| {
            counted.fetch_add(1, Ordering::Relaxed);
            if state.load(Ordering::Relaxed) == 0 { Err("down") } else { Ok(()) }
        })
        .retry(Retry::forever().base(Duration::from_micros(1)).ceiling(Duration::from_micros(1)))
        .circuit_breaker(CircuitBreaker::default().failures(3).open_for(Duration::from_millis(20)))
        .spawn()
        .await
        .unwrap();
    for number in 0..10 {
        bus.publish(NUMBERS, number).await.unwrap();
    }
    while calls.load(Ordering::Relaxed) < 5 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    healthy.store(1, Ordering::Relaxed);
    subscription.idle().await.unwrap();
    assert_eq!(subscription.stats().succeeded, 10);
    // Three to open it, then one each time.
    assert!(subscription.stats().failed < 40, "{:?}", subscription.stats());
}

#[tokio::test]
async fn events_expire() {
    let bus = bus();
    let seen = Seen::default();
    let old = chrono::DateTime::from_timestamp(1_000_000_000, 0).unwrap();
    bus.publish(NUMBERS, Record::new(1).timestamp(old).ttl(SECOND)).await.unwrap();
    bus.publish(NUMBERS, Record::new(2).timestamp(old).ttl(Duration::from_secs(u64::from(u32::MAX)))).await.unwrap();
    bus.publish(NUMBERS, Record::new(3).timestamp(old)).await.unwrap();
    bus.publish(NUMBERS, Record::new(4)).await.unwrap();
    let subscription =
        bus.on(NUMBERS, "group", Noting(seen.clone())).ttl(Duration::from_secs(3600)).spawn().await.unwrap();
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [2, 4]);
    assert_eq!(subscription.stats().expired, 2);
}

#[tokio::test]
async fn acknowledged_by_hand_an_event_is_done_when_it_is_said_to_be() {
    let bus = bus();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeping = Arc::clone(&kept);
    let subscription = bus
        .on(NUMBERS, "group", move |event: Event<u64>, cx: Context| {
            // The second attempt of 2 is acknowledged at once; its first never.
            match (*event.value().unwrap(), cx.attempt()) {
                (2, 1) => {}
                (2, _) => cx.acknowledge(),
                _ => keeping.lock().unwrap().push(cx),
            }
            Ok::<_, HandlerError>(())
        })
        .manual_acknowledgement()
        .concurrency(10)
        .retry(quick(2))
        .spawn()
        .await
        .unwrap();
    for number in 0..3 {
        bus.publish(NUMBERS, number).await.unwrap();
    }
    while subscription.stats().succeeded < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(subscription.stats().running, 2);
    std::mem::take(&mut *kept.lock().unwrap()).iter().for_each(Context::acknowledge);
    subscription.idle().await.unwrap();
    assert_eq!((subscription.stats().succeeded, subscription.stats().failed), (3, 1));
}

#[tokio::test]
async fn two_handlers_that_answer_each_other_come_to_an_end() {
    let bus = Log::in_memory().unwrap().bus_with(BusSettings::default().causation_depth_max(5)).unwrap();
    let echo = bus
        .on(NUMBERS, "echo", |event: Event<u64>, cx: Context| async move {
            cx.publish(NUMBERS, event.value().unwrap() + 1).await
        })
        .retry(Retry::never())
        .dead_letter("dlq")
        .spawn()
        .await
        .unwrap();
    bus.publish(NUMBERS, 0).await.unwrap();
    echo.idle().await.unwrap();
    assert_eq!(bus.history(NUMBERS, 100).await.unwrap().len(), 6);
    let letters = bus.dead_letters("echo", "dlq").unwrap().list(10).await.unwrap();
    assert!(
        letters[0].errors[0].contains("5 are allowed. Do two handlers answer each other?"),
        "{:?}",
        letters[0].errors
    );
}

#[tokio::test]
async fn pausing_seeking_and_unsubscribing() {
    let bus = bus();
    let seen = Seen::default();
    let subscription = bus.on(NUMBERS, "group", Noting(seen.clone())).spawn().await.unwrap();
    bus.publish_batch(NUMBERS, 0..3).await.unwrap();
    subscription.idle().await.unwrap();
    subscription.pause();
    bus.publish(NUMBERS, 3).await.unwrap();
    subscription.seek("numbers", 0, annals::Start::Offset(2)).await.unwrap();
    assert_eq!(seen.values(), [0, 1, 2]);
    subscription.resume();
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [0, 1, 2, 2, 3]);
    subscription.unsubscribe().await.unwrap();
    bus.publish(NUMBERS, 4).await.unwrap();
    assert_eq!(bus.lag("group").await.unwrap()[0].lag_records, 1);
    assert!(subscription.seek("numbers", 0, annals::Start::Earliest).await.is_err());
}

#[tokio::test]
async fn unsubscribing_waits_for_what_is_running_and_gives_back_the_rest() {
    let bus = bus();
    let (begun, go) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go));
    let subscription = bus
        .on(NUMBERS, "group", move |_: Event<u64>, _: Context| {
            let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
            async move {
                tell.notify_one();
                wait.notified().await;
                Ok::<_, HandlerError>(())
            }
        })
        .spawn()
        .await
        .unwrap();
    bus.publish_batch(NUMBERS, 0..3).await.unwrap();
    begun.notified().await;
    let ending = tokio::spawn({
        let subscription = subscription.clone();
        async move { subscription.unsubscribe().await }
    });
    tokio::task::yield_now().await;
    assert!(!ending.is_finished());
    go.notify_one();
    ending.await.unwrap().unwrap();
    let seen = Seen::default();
    let again = bus.on(NUMBERS, "group", Noting(seen.clone())).spawn().await.unwrap();
    again.idle().await.unwrap();
    assert_eq!(seen.values(), [1, 2]);
}

/// Another member gets its partition once what runs is over, however many events of a key wait behind it.
#[tokio::test]
async fn a_line_of_events_does_not_hold_a_partition_back() {
    const LINE: u64 = 500;
    let bus = bus();
    bus.create_topic(NUMBERS, TopicSettings::default().partitions(2)).await.unwrap();
    for number in 0..2 * LINE {
        let record = Record::new(number).key("key").partition(u32::try_from(number % 2).unwrap());
        bus.publish(NUMBERS, record).await.unwrap();
    }
    let (first, second) = (Seen::default(), Seen::default());
    let member = async |seen: &Seen| {
        let seen = seen.clone();
        let handler = move |event: Event<u64>, _: Context| {
            let seen = seen.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                seen.note(&event);
                Ok::<_, HandlerError>(())
            }
        };
        bus.on(NUMBERS, "group", handler).concurrency(4).spawn().await.unwrap()
    };
    let begun = async |seen: &Seen| {
        while seen.values().len() < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let subscription = member(&first).await;
    begun(&first).await;
    let other = member(&second).await;
    begun(&second).await;
    assert!(first.values().len() < 200, "the other member had to wait for {} events", first.values().len());
    subscription.unsubscribe().await.unwrap();
    other.idle().await.unwrap();
    // In order, and none twice.
    for rest in 0..2 {
        let handled = [first.values(), second.values()].concat();
        let handled: Vec<u64> = handled.into_iter().filter(|number| number % 2 == rest).collect();
        assert_eq!(handled, (0..2 * LINE).filter(|number| number % 2 == rest).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn patterns_pick_up_topics_that_come_later() {
    let bus = bus();
    let seen = Seen::default();
    let subscription = bus.on(TopicDef::<u64, Json>::new("eu.*"), "group", Noting(seen.clone())).spawn().await.unwrap();
    bus.publish(TopicDef::<u64, Json>::new("eu.berlin"), 1).await.unwrap();
    bus.publish(TopicDef::<u64, Json>::new("us.boston"), 2).await.unwrap();
    subscription.idle().await.unwrap();
    assert_eq!(seen.values(), [1]);
    assert_eq!((bus.subscriber_count("eu.rome"), bus.subscriber_count("us.boston")), (1, 0));
}

#[tokio::test]
async fn history_is_isolated_by_topic_and_can_be_cleared() {
    let bus = bus();
    bus.publish_batch(NUMBERS, 0..5).await.unwrap();
    bus.publish(OUTPUT, 9).await.unwrap();
    let values = async |topic, count| -> Vec<u64> {
        bus.history(topic, count).await.unwrap().into_iter().filter_map(annals::Message::into_value).collect()
    };
    assert_eq!(values(NUMBERS, 2).await, [3, 4]);
    assert_eq!(values(OUTPUT, 10).await, [9]);
    bus.clear_history("numbers").await.unwrap();
    assert_eq!(values(NUMBERS, 10).await, [0_u64; 0]);
    assert_eq!(values(OUTPUT, 10).await, [9]);
    assert_eq!(values(TopicDef::new("none"), 10).await, [0_u64; 0]);
    bus.log().close().await.unwrap();
    assert_eq!(bus.publish(NUMBERS, 1).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(!bus.health().live);
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_happens() {
    let log = Log::in_memory().unwrap();
    let bus = log.bus();
    let on = || bus.on(NUMBERS, "group", Noting(Seen::default()));
    log.create_raw_topic("compacted", TopicSettings::default().compaction(true)).await.unwrap();
    for (wrong, part) in [
        (on().concurrency(0), "`concurrency` is 0; 1 to 10000"),
        (on().waiting_max(0, 1 << 20), "`waiting_max` is 0"),
        (on().waiting_max(1, 1), "`waiting_bytes_max` is 1"),
        (on().deadline(Duration::ZERO), "`deadline`"),
        (on().ttl(Duration::ZERO), "`ttl`"),
        (on().retry(Retry::exponential(0)), "`retry.attempts` is 0"),
        (on().circuit_breaker(CircuitBreaker::default().failures(0)), "`circuit_breaker.failures`"),
        (on().filter(Filter::event_type("")), "the event type \"\""),
        (on().sequenced(), "`sequenced` needs a dead-letter topic"),
        (on().dead_letter("numbers"), "is one that group \"group\" subscribes to"),
        (on().and("num*").dead_letter("numbers.dlq"), "is one that group \"group\" subscribes to"),
        (on().dead_letter("compacted"), "would lose dead letters"),
        (on().dead_letter("../x"), "contains '/'"),
        (on().and("a/*"), "the pattern \"a/*\""),
        (bus.on(NUMBERS, "", Noting(Seen::default())), "the group name"),
    ] {
        let error = wrong.spawn().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    for (wrong, part) in [
        (BusSettings::default().source(""), "`source` is \"\""),
        (BusSettings::default().environment("a/b"), "`environment` is \"a/b\""),
        (BusSettings::default().causation_depth_max(0), "`causation_depth_max` is 0"),
    ] {
        let error = log.bus_with(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(part), "{error}");
    }
    let strict = log.bus_with(BusSettings::default().create_topics(false)).unwrap();
    assert_eq!(strict.publish(TopicDef::<u64, Json>::new("new"), 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    let error = strict.on(TopicDef::<u64, Json>::new("new"), "g", Noting(Seen::default())).spawn().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
