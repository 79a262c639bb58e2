//! The bus on real brokers.

use std::time::Duration;

use annals::mirror::KafkaConfig;
use annals::testing::conformance;
use annals::{
    Bus, BusSettings, Context, ErrorKind, Event, HandlerError, Json, Record, Retry, Saga, Start, Step, TopicDef,
    TopicSettings,
};

use crate::support::{Broker, PATIENCE, until};

mod faults;
mod kill;
mod limits;
mod shared;
mod standing;

const NUMBERS: TopicDef<u64, Json> = TopicDef::new("numbers");
const OTHERS: TopicDef<u64, Json> = TopicDef::new("others");
const DLQ: &str = "numbers.dlq";

/// A bus whose topics and groups nobody else has.
fn bus(broker: &Broker) -> Bus {
    of(broker, &broker.unique("bus"))
}

/// A bus like another process has it: with the same topics and groups.
fn of(broker: &Broker, environment: &str) -> Bus {
    let settings = BusSettings::default().environment(environment);
    Bus::on_kafka(KafkaConfig::new(broker.bootstrap()), settings).unwrap()
}

/// Fails if something takes too long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

fn quick(attempts: u32) -> Retry {
    Retry::fixed(attempts, Duration::from_millis(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_on_kafka_conforms() {
    let Some(broker) = Broker::shared() else { return };
    conformance::all(async || Ok(bus(broker))).await.unwrap();
}

/// Whatever only a log can do says so, when it is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kafka_cannot_do_is_an_error() {
    let Some(broker) = Broker::shared() else { return };
    let bus = bus(broker);
    let second = Duration::from_secs(1);
    let saga = Saga::new("checkout");
    let kinds = [
        bus.publish_after(NUMBERS, 1, second).await.map(drop),
        bus.publish_at(NUMBERS, 1, chrono::DateTime::UNIX_EPOCH).await.map(drop),
        bus.delayed_count().await.map(drop),
        bus.saga_count(&saga).await.map(drop),
        bus.saga(NUMBERS, saga, |_: Event<u64>, step: Step<u64>| async { Ok::<_, HandlerError>(step) })
            .spawn()
            .await
            .map(drop),
        bus.on(NUMBERS, "group", |_: Event<u64>, _: Context| Ok::<_, HandlerError>(()))
            .start(Start::Commit(7))
            .spawn()
            .await
            .map(drop),
        bus.create_topic(NUMBERS, TopicSettings::default().dedup_count_max(100)).await,
        bus.create_topic(NUMBERS, TopicSettings::default().indexed_headers(["tenant_id"])).await,
        bus.create_topic(NUMBERS, TopicSettings::default().index_keys(true)).await,
        bus.log().create_topic(NUMBERS, TopicSettings::default()).await.map(drop),
        bus.log().topic(NUMBERS).map(drop),
        bus.log().find("correlation_id", "17").blocking().map(drop),
        bus.log().find_key("order-17").blocking().map(drop),
        bus.log().replay(Start::Earliest).blocking().map(drop),
        bus.log().replay_topics(["numbers"], Start::Earliest).map(drop),
        bus.log().projection("counts", 1).on(NUMBERS, |_, _| Ok(())).spawn().await.map(drop),
    ];
    for (number, done) in kinds.into_iter().enumerate() {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "number {number}: {error}");
        assert!(error.to_string().contains("log"), "number {number} does not say who can: {error}");
    }
    bus.log().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_created_unless_it_may_be() {
    let Some(broker) = Broker::shared() else { return };
    let settings = BusSettings::default().environment(broker.unique("bus")).create_topics(false);
    let bus = Bus::on_kafka(KafkaConfig::new(broker.bootstrap()), settings).unwrap();
    let handler = |_: Event<u64>, _: Context| Ok::<_, HandlerError>(());
    let kinds = [
        bus.publish(NUMBERS, 1).await.map(drop),
        bus.publish_batch(NUMBERS, [1, 2]).await.map(drop),
        bus.on(NUMBERS, "group", handler).spawn().await.map(drop),
        bus.dead_letters("group", DLQ).unwrap().list(1).await.map(drop),
        bus.dead_letters("group", DLQ).unwrap().replay_all().await.map(drop),
    ];
    for (number, done) in kinds.into_iter().enumerate() {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "number {number}: {error}");
    }
    assert!(bus.history(NUMBERS, 10).await.unwrap().is_empty());
    bus.clear_history("numbers").await.unwrap();
    bus.create_topic(NUMBERS, TopicSettings::default().partitions(2)).await.unwrap();
    assert_eq!(bus.publish(NUMBERS, Record::new(1).partition(1)).await.unwrap().partition, 1);
    let error = bus.publish(NUMBERS, Record::new(1).partition(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

/// What is read back is what Kafka's own client reads, and what was published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_records_as_anybody_reads_them() {
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let bus = of(broker, &environment);
    let time = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
    let record = Record::new(5).key("k").timestamp(time).header("a", "1").header_absent("b").header("a", "2");
    let receipt = bus.publish(NUMBERS, record).await.unwrap();
    assert_eq!((receipt.partition, receipt.offset, receipt.timestamp()), (0, 0, time));
    bus.publish(NUMBERS, Record::tombstone().key("k")).await.unwrap();
    let dumped = broker.dump(&format!("{environment}.numbers")).await;
    let first = &dumped[0];
    assert_eq!((first.key.as_deref(), first.value.as_deref()), (Some(&b"k"[..]), Some(&b"5"[..])));
    assert_eq!(first.timestamp, time.timestamp_millis());
    assert_eq!(first.headers[0], ("a".to_owned(), Some(b"1".to_vec())));
    assert_eq!(first.headers[1], ("b".to_owned(), None));
    assert_eq!(first.headers[2], ("a".to_owned(), Some(b"2".to_vec())));
    assert_eq!(first.header("event_type"), Some("u64"));
    assert_eq!(dumped[1].value, None);
    let history = bus.history(NUMBERS, 10).await.unwrap();
    assert_eq!(history[0].timestamp(), time);
    assert!(history[1].is_tombstone());
    // Keys go where Kafka's own clients send them: as the murmur2 of the key says.
    bus.create_topic(OTHERS, TopicSettings::default().partitions(16)).await.unwrap();
    let placed = bus.publish(OTHERS, Record::new(1).key("order-17")).await.unwrap();
    assert_eq!(placed.partition, annals_murmur2(b"order-17") % 16);
}

/// Written down here once more, after Kafka's documentation.
fn annals_murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c_u32 ^ data.len() as u32;
    let (chunks, rest) = data.as_chunks::<4>();
    for chunk in chunks {
        let mut k = u32::from_le_bytes(*chunk).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    for (at, byte) in rest.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * at);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    (h ^ (h >> 15)) & 0x7fff_ffff
}

/// Only what was replayed or purged is closed, in whatever order; also for who looks later, in another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_closed_one_by_one() {
    let Some(broker) = Broker::shared() else { return };
    let environment = broker.unique("bus");
    let (here, there) = (of(broker, &environment), of(broker, &environment));
    let handler = |event: Event<u64>, cx: Context| async move {
        match event.value() {
            Some(number) if number % 2 == 1 && cx.attempt() < 100 => Err(HandlerError::permanent("odd")),
            _ => Ok(()),
        }
    };
    let on = || here.on(NUMBERS, "group", handler).dead_letter(DLQ);
    let subscription = on().sequenced().spawn().await.unwrap();
    for number in 0..10 {
        here.publish(NUMBERS, Record::new(number).key(format!("key {number}"))).await.unwrap();
    }
    soon("all are handled", subscription.idle()).await.unwrap();
    let letters = there.dead_letters("group", DLQ).unwrap();
    let open = async |of: &annals::DeadLetters| -> Vec<u64> {
        of.list(100).await.unwrap().iter().map(|letter| letter.source_offset).collect()
    };
    assert_eq!(open(&letters).await, [1, 3, 5, 7, 9]);
    let listed = letters.list(100).await.unwrap();
    let place = |at: usize| (listed[at].partition, listed[at].offset);
    assert_eq!(letters.purge([place(1), place(3)]).await.unwrap(), 2);
    assert_eq!(open(&here.dead_letters("group", DLQ).unwrap()).await, [1, 5, 9]);
    assert_eq!(letters.purge([place(1)]).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(letters.get(place(2).0, place(2).1).await.unwrap().source_offset, 5);
    // One comes back, and fails again.
    assert_eq!(letters.replay([place(2)]).await.unwrap(), 1);
    until("the replay has failed again", async || open(&letters).await == [1, 9, 5]).await;
    // A key whose letter was purged waits for nothing, and one whose letter is open waits.
    here.publish(NUMBERS, Record::new(100).key("key 3")).await.unwrap();
    here.publish(NUMBERS, Record::new(100).key("key 9")).await.unwrap();
    soon("all are handled", subscription.idle()).await.unwrap();
    assert_eq!(subscription.stats().parked, 1, "{:?}", subscription.stats());
    assert_eq!(letters.purge_all().await.unwrap(), 4);
    assert!(open(&letters).await.is_empty());
    assert_eq!(there.dead_letters("another", DLQ).unwrap().count().await.unwrap(), 0);
    subscription.unsubscribe().await.unwrap();
}

/// Where a group begins, goes on elsewhere, and finds events gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_where_it_should() {
    let Some(broker) = Broker::shared() else { return };
    let bus = bus(broker);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let subscribe = async |group: &str, start: Start| {
        let seen = std::sync::Arc::clone(&seen);
        let handler = move |event: Event<u64>, _: Context| {
            seen.lock().unwrap().push(event.value().copied().unwrap_or(u64::MAX));
            Ok::<_, HandlerError>(())
        };
        bus.on(NUMBERS, group, handler).start(start).spawn().await.unwrap()
    };
    let taken = || std::mem::take(&mut *seen.lock().unwrap());
    bus.publish_batch(NUMBERS, 0..10).await.unwrap();
    // Behind the last, and there also if nothing was handled before it begins again.
    let latest = subscribe("latest", Start::Latest).await;
    latest.unsubscribe().await.unwrap();
    bus.publish_batch(NUMBERS, 10..12).await.unwrap();
    let latest = subscribe("latest", Start::Latest).await;
    soon("the new ones are handled", latest.idle()).await.unwrap();
    assert_eq!(taken(), [10, 11]);
    latest.seek("numbers", 0, Start::Offset(8)).await.unwrap();
    soon("it goes on there", latest.idle()).await.unwrap();
    // A mark of the transaction stands between the batches.
    assert_eq!(taken(), [8, 9, 10, 11]);
    let error = latest.seek("numbers", 0, Start::Offset(1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange, "{error}");
    let error = latest.seek("numbers", 1, Start::Earliest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    latest.unsubscribe().await.unwrap();
    // What was deleted before it was handled is said to be gone.
    bus.publish_batch(NUMBERS, 20..25).await.unwrap();
    bus.clear_history("numbers").await.unwrap();
    bus.publish_batch(NUMBERS, 30..32).await.unwrap();
    let behind = subscribe("latest", Start::Latest).await;
    soon("the rest is handled", behind.idle()).await.unwrap();
    assert_eq!((taken(), behind.stats().gaps), (vec![30, 31], 1));
    behind.unsubscribe().await.unwrap();
}
