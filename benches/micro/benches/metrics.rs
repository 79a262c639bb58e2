//! What exporting metrics costs an append and a delivery: run it with and without `--features metrics`, in turns, and compare. Each
//! figure is the best of many rounds, since a machine that has other things to do only ever adds.

use std::time::{Duration, Instant};

use annals::{Bus, Context, Durability, Event, Log, Raw, Record, TopicDef, TopicSettings};
use bytes::Bytes;

const EVENTS: TopicDef<Bytes, Raw> = TopicDef::new("events");
/// Short rounds: some of them are left alone by whatever else the machine does.
const APPENDS: u32 = 2_000;
const ROUNDS: u32 = 300;

fn best(what: &str, mut round: impl FnMut() -> Duration) {
    let best = (0..ROUNDS).map(|_| round()).min().unwrap_or_default();
    println!("  {what:<34} {:>8.1} ns", best.as_nanos() as f64 / f64::from(APPENDS));
}

fn appends(log: &Log, name: &'static str, durability: Durability) {
    let topic = log
        .blocking_create_topic(TopicDef::<Bytes, Raw>::new(name), TopicSettings::default().durability(durability))
        .expect("created");
    let value = Bytes::from(vec![7; 100]);
    best(&format!("append, {name}"), || {
        let began = Instant::now();
        for _ in 0..APPENDS {
            topic.blocking_produce(Record::new(value.clone())).expect("produced");
        }
        let took = began.elapsed();
        let end = topic.watermarks(0).expect("there").high_watermark;
        log.blocking_delete_records(name, 0, end).expect("deleted");
        took
    });
}

/// From a published event to the end of its handler, thousands at a time.
fn deliveries(runtime: &tokio::runtime::Runtime, bus: &Bus) {
    let value = Bytes::from(vec![7; 100]);
    let mut number = 0;
    best("delivery", || {
        number += 1;
        runtime.block_on(async {
            bus.clear_history("events").await.expect("cleared");
            let topic = bus.log().topic(EVENTS).expect("there");
            topic.produce_batch((0..APPENDS).map(|_| Record::new(value.clone()))).await.expect("produced");
            let began = Instant::now();
            let group = bus
                .on(EVENTS, format!("group-{number}"), |_: Event<Bytes>, _: Context| Ok::<_, annals::Error>(()))
                .spawn()
                .await
                .expect("spawned");
            group.idle().await.expect("handled");
            let took = began.elapsed();
            assert_eq!(group.stats().succeeded, u64::from(APPENDS));
            group.unsubscribe().await.expect("ended");
            took
        })
    });
}

fn measure(what: &str, export: bool) {
    println!("{what}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let log = Log::in_memory().expect("opened");
    let bus = log.bus();
    log.blocking_create_topic(EVENTS, TopicSettings::default()).expect("created");
    if export {
        #[cfg(feature = "metrics")]
        runtime.block_on(async { bus.export_metrics(Duration::from_secs(1)).expect("exported") });
    }
    appends(&log, "page-cache", Durability::Os);
    appends(&log, "group-commit-alone", Durability::Sync);
    deliveries(&runtime, &bus);
    log.blocking_close().expect("closed");
}

#[cfg(feature = "metrics")]
mod recorder {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    /// What any recorder has to do at least.
    pub struct Cheap;

    #[derive(Default)]
    struct Sum(AtomicU64);

    impl HistogramFn for Sum {
        fn record(&self, value: f64) {
            self.0.fetch_add(value.to_bits(), std::sync::atomic::Ordering::Relaxed);
        }
    }

    impl Recorder for Cheap {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(AtomicU64::new(0)))
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(AtomicU64::new(0)))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(Arc::new(Sum::default()))
        }
    }
}

fn main() {
    if cfg!(feature = "metrics") {
        measure("with the feature, nothing exported", false);
        measure("exported, no recorder installed", true);
        #[cfg(feature = "metrics")]
        if metrics::set_global_recorder(recorder::Cheap).is_ok() {
            measure("exported to a recorder that only adds", true);
        }
    } else {
        measure("without the feature", false);
    }
}
