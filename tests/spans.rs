//! The spans that docs/OBSERVABILITY.md tells of: their fields, and what they are inside of.

#![expect(clippy::unwrap_used, reason = "a test fails where it must")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use annals::{Batch, Context, Event, Json, Log, Record, TopicDef, TopicSettings};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Metadata, Subscriber};

const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");

#[derive(Debug, Default)]
struct Seen {
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
    entered: u32,
    left: u32,
}

/// Keeps every span of annals.
#[derive(Clone, Default)]
struct Keeper {
    next: Arc<AtomicU64>,
    spans: Arc<Mutex<BTreeMap<u64, Seen>>>,
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

impl Keeper {
    fn change(&self, span: &Id, change: impl FnOnce(&mut Seen)) {
        change(self.spans.lock().unwrap().get_mut(&span.into_u64()).unwrap());
    }

    /// The spans of this name, in order.
    fn take(&self, name: &str) -> Vec<Seen> {
        let mut spans = self.spans.lock().unwrap();
        let ids: Vec<u64> = spans.iter().filter(|(_, seen)| seen.name == name).map(|(id, _)| *id).collect();
        ids.iter().filter_map(|id| spans.remove(id)).collect()
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("annals")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut seen = Seen { name: span.metadata().name(), ..Seen::default() };
        span.record(&mut seen);
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.spans.lock().unwrap().insert(id, seen);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Values<'_>) {
        self.change(span, |seen| values.record(seen));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, span: &Id) {
        self.change(span, |seen| seen.entered += 1);
    }

    fn exit(&self, span: &Id) {
        self.change(span, |seen| seen.left += 1);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn publishing_delivering_and_syncing_have_spans() {
    let keeper = Keeper::default();
    tracing::subscriber::set_global_default(keeper.clone()).unwrap();
    let log = Log::in_memory().unwrap();
    let bus = log.bus();
    let billing = bus
        .on(ORDERS, "billing", |order: Event<u64>, cx: Context| match (order.value(), cx.attempt()) {
            (Some(17), 1) => Err("not yet"),
            _ => Ok(()),
        })
        .spawn()
        .await
        .unwrap();
    bus.publish(ORDERS, Record::new(17).event_type("order.placed")).await.unwrap();
    billing.idle().await.unwrap();

    let [publish] = &keeper.take("publish")[..] else { panic!("one was published") };
    let field = |name: &str| publish.fields[name].as_str();
    assert_eq!(["topic", "event_type", "offset"].map(field), ["orders", "order.placed", "0"]);
    assert!(!field("message_id").is_empty());
    let deliveries = keeper.take("deliver");
    let attempts: Vec<&str> = deliveries.iter().map(|seen| seen.fields["attempt"].as_str()).collect();
    assert_eq!(attempts, ["1", "2"]);
    for delivery in &deliveries {
        let field = |name: &str| delivery.fields[name].as_str();
        assert_eq!(["group", "topic", "partition", "offset"].map(field), ["billing", "orders", "0", "0"]);
        // The trace of the publisher.
        assert_eq!(field("traceparent"), publish.fields["traceparent"]);
        assert!(delivery.entered >= 1);
    }

    let topic =
        log.create_topic(TopicDef::<u64, Json>::new("wide"), TopicSettings::default().partitions(2)).await.unwrap();
    keeper.take("sync");
    topic.produce(Record::new(1).partition(1)).await.unwrap();
    let mut batch = Batch::new();
    for partition in 0..2 {
        batch.add(&topic, Record::new(2).partition(partition)).unwrap();
    }
    log.produce_all(batch).await.unwrap();
    log.close().await.unwrap();
    let syncs = keeper.take("sync");
    let of = |way: &str| syncs.iter().filter(|seen| seen.fields["way"] == way).collect::<Vec<_>>();
    let single = of("partition").into_iter().find(|seen| seen.fields["topic"] == "wide").unwrap();
    assert_eq!((single.fields["partition"].as_str(), single.fields["frames"].as_str()), ("1", "1"));
    assert_eq!(of("journal")[0].fields["partitions"], "2");
    assert!(syncs.iter().all(|seen| (seen.entered, seen.left) == (1, 1)), "{syncs:?}");
}
