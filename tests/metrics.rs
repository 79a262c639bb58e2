//! What is exported, held against what has happened; and the names, held against what the documentation says.

#![expect(clippy::unwrap_used, reason = "a test fails where it must")]

use std::collections::BTreeSet;
use std::time::Duration;

use annals::testing::SimulatedDisk;
use annals::{
    Bus, BusSettings, CircuitBreaker, Context, Durability, ErrorKind, Event, Filter, Json, Log, Raw, Record, Retry,
    Subscription, TopicDef, TopicSettings,
};
use bytes::Bytes;

#[path = "support/kept.rs"]
mod kept;

use kept::Kept;

const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");

const HOUR: Duration = Duration::from_secs(3600);

fn bus(log: &Log) -> Bus {
    log.bus_with(BusSettings::default().environment("test")).unwrap()
}

/// Odd numbers fail, and those that end in a 0 are filtered out.
async fn scene(bus: &Bus) -> [Subscription; 2] {
    let handler = |order: Event<u64>, _: Context| match order.value() {
        Some(odd) if odd % 2 == 1 => Err("odd"),
        _ => Ok(()),
    };
    let billing = bus
        .on(ORDERS, "billing", handler)
        .filter(Filter::by(|message| message.value().is_some_and(|value| !value.ends_with(b"0"))))
        .retry(Retry::fixed(2, Duration::from_millis(1)))
        .dead_letter("orders.dlq")
        .spawn()
        .await
        .unwrap();
    let audit = bus.on(ORDERS, "audit", handler).retry(Retry::never()).skip_failed().spawn().await.unwrap();
    for number in 0..10 {
        bus.publish(ORDERS, number).await.unwrap();
    }
    billing.idle().await.unwrap();
    audit.idle().await.unwrap();
    [billing, audit]
}

const COUNTS: [&str; 6] =
    ["delivered_total", "succeeded_total", "failed_total", "retried_total", "dead_lettered_total", "skipped_total"];
const BILLING: [f64; 6] = [9.0, 4.0, 10.0, 5.0, 5.0, 0.0];
const AUDIT: [f64; 6] = [10.0, 5.0, 5.0, 0.0, 0.0, 5.0];

#[tokio::test(flavor = "current_thread")]
async fn what_happens_is_exported_under_the_documented_names() {
    let kept = Kept::default();
    let _installed = metrics::set_default_local_recorder(&kept);
    let log = Log::temporary().unwrap();
    let bus = bus(&log);
    bus.export_metrics(HOUR).unwrap();
    scene(&bus).await;
    bus.sample_metrics().await.unwrap();
    let lag = |group| kept.one(&format!("annals_group_lag_records{{group={group},topic=test.orders,partition=0}}"));
    // What is finished is committed a little later.
    while lag("test.billing") + lag("test.audit") > 0.0 {
        tokio::task::yield_now().await;
        bus.sample_metrics().await.unwrap();
    }

    assert_eq!(kept.one("annals_bus_published_total{}"), 10.0);
    assert_eq!(kept.one("annals_bus_active_subscriptions{}"), 2.0);
    let billing = |name: &str| kept.one(&format!("annals_bus_{name}{{group=test.billing}}"));
    let audit = |name: &str| kept.one(&format!("annals_bus_{name}{{group=test.audit}}"));
    assert_eq!(COUNTS.map(billing), BILLING);
    assert_eq!(COUNTS.map(audit), AUDIT);
    assert_eq!(["filtered_total", "expired_total", "delivered_bytes_total"].map(billing), [1.0, 0.0, 9.0]);
    assert_eq!(["members", "waiting", "running", "breaker_state"].map(billing), [1.0, 0.0, 0.0, 0.0]);
    for (group, attempts, delivered) in [("test.billing", 14, 9), ("test.audit", 10, 10)] {
        let handler = kept.all(&format!("annals_bus_handler_seconds{{group={group}}}"));
        let delivery = kept.all(&format!("annals_bus_delivery_seconds{{group={group}}}"));
        assert_eq!((handler.len(), delivery.len()), (attempts, delivered));
        assert!(handler.iter().chain(&delivery).all(|seconds| (0.0..60.0).contains(seconds)));
    }
    assert_eq!(kept.one("annals_log_appended_records_total{topic=test.orders}"), 10.0);
    assert_eq!(kept.one("annals_log_appended_records_total{topic=test.orders.dlq}"), 5.0);
    assert!(kept.one("annals_log_appended_bytes_total{topic=test.orders}") > 10.0 * 100.0);
    let commits = kept.one("annals_log_commits_total{}");
    // There may have been more since.
    assert!(commits >= 10.0 && kept.all("annals_commit_records{}").len() as f64 >= commits);
    let syncs =
        ["partition", "journal"].map(|way| kept.all_or_none(&format!("annals_sync_seconds{{way={way}}}")).len());
    assert!(syncs.iter().sum::<usize>() as f64 >= commits, "{syncs:?} of {commits}");
    // Each event was published by itself; of transactions it is not measured.
    assert!(kept.all("annals_append_seconds{}").len() >= 10);

    let documented: BTreeSet<String> = include_str!("../docs/OBSERVABILITY.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `annals_")?.split('`').next())
        // Those of mirrors and sources have tests of their own.
        .filter(|name| !name.starts_with("mirror_") && !name.starts_with("source_"))
        .map(|name| format!("annals_{name}"))
        .collect();
    assert_eq!(kept.names(), documented);
}

#[tokio::test(flavor = "current_thread")]
async fn what_was_before_is_counted_once_and_only_where_it_counts() {
    let kept = Kept::default();
    let _installed = metrics::set_default_local_recorder(&kept);
    let log = Log::in_memory().unwrap();
    let (bus, other) = (bus(&log), bus(&log));
    let [billing, audit] = scene(&bus).await;
    for _ in 0..3 {
        bus.sample_metrics().await.unwrap();
        other.sample_metrics().await.unwrap();
    }
    let of = |group: &'static str| COUNTS.map(|name| kept.one(&format!("annals_bus_{name}{{group=test.{group}}}")));
    // What this bus has counted since it was made; what the log had before anybody asked has no rate.
    assert_eq!((of("billing"), of("audit")), (BILLING, AUDIT));
    assert_eq!(kept.one("annals_log_appended_records_total{topic=test.orders}"), 0.0);
    assert!(kept.all_or_none("annals_bus_handler_seconds{group=test.audit}").is_empty());

    bus.publish(ORDERS, 2).await.unwrap();
    billing.idle().await.unwrap();
    audit.unsubscribe().await.unwrap();
    // One that is over before the next sample.
    let brief = bus.on(ORDERS, "brief", |_: Event<u64>, _: Context| Ok::<_, annals::Error>(())).spawn().await.unwrap();
    brief.idle().await.unwrap();
    brief.unsubscribe().await.unwrap();
    let again = bus.on(ORDERS, "brief", |_: Event<u64>, _: Context| Ok::<_, annals::Error>(())).spawn().await.unwrap();
    for _ in 0..2 {
        bus.sample_metrics().await.unwrap();
        other.sample_metrics().await.unwrap();
    }
    assert_eq!(of("billing")[0], 10.0);
    assert_eq!(of("brief")[0], 11.0);
    let members = |group: &str| kept.one(&format!("annals_bus_members{{group=test.{group}}}"));
    assert_eq!(["billing", "audit", "brief"].map(members), [1.0, 0.0, 1.0]);
    assert_eq!(kept.one("annals_log_appended_records_total{topic=test.orders}"), 1.0, "through whichever bus");
    assert_eq!(kept.all("annals_bus_handler_seconds{group=test.brief}").len(), 11);
    again.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn lags_and_breakers() {
    let kept = Kept::default();
    let _installed = metrics::set_default_local_recorder(&kept);
    let log = Log::in_memory().unwrap();
    let bus = bus(&log);
    let billing = bus
        .on(ORDERS, "billing", |_: Event<u64>, _: Context| Err::<(), _>("down"))
        .retry(Retry::forever())
        .circuit_breaker(CircuitBreaker::default().failures(1).open_for(HOUR))
        .spawn()
        .await
        .unwrap();
    for number in 0..7 {
        bus.publish(ORDERS, number).await.unwrap();
    }
    while billing.breaker() != annals::BreakerState::Open {
        tokio::task::yield_now().await;
    }
    // The group has committed something, or nobody knows of it.
    log.reset_group("test.late", ["test.orders"], annals::Reset::Earliest).await.unwrap();
    bus.sample_metrics().await.unwrap();
    assert_eq!(kept.one("annals_bus_breaker_state{group=test.billing}"), 2.0);
    assert_eq!(kept.one("annals_bus_waiting{group=test.billing}"), 1.0);
    assert_eq!(kept.one("annals_group_lag_records{group=test.late,topic=test.orders,partition=0}"), 7.0);
    assert!(kept.one("annals_group_lag_seconds{group=test.late,topic=test.orders,partition=0}") > 0.0);
    log.delete_group("test.late").await.unwrap();
    billing.unsubscribe().await.unwrap();
    bus.sample_metrics().await.unwrap();
    assert_eq!(kept.one("annals_group_lag_records{group=test.late,topic=test.orders,partition=0}"), 0.0);
    assert_eq!(kept.one("annals_bus_breaker_state{group=test.billing}"), 0.0, "it is not there any more");
}

#[tokio::test(flavor = "current_thread")]
async fn a_full_disk_is_counted() {
    let kept = Kept::default();
    let _installed = metrics::set_default_local_recorder(&kept);
    let disk = SimulatedDisk::new(1);
    let log = disk.open(Log::builder()).unwrap();
    let relaxed = TopicSettings::default().durability(Durability::Os);
    let topics = [TopicSettings::default(), relaxed].map(|settings| {
        let name = if settings.durability == Durability::Os { "relaxed" } else { "synced" };
        log.blocking_create_topic(TopicDef::<Bytes, Raw>::new(name), settings).unwrap()
    });
    let bus = log.bus();
    bus.sample_metrics().await.unwrap();
    assert_eq!(kept.one("annals_log_disk_full_total{}"), 0.0);
    disk.set_capacity(disk.used());
    let mut refused = 0.0;
    for topic in &topics {
        for _ in 0..3 {
            let failed = topic.produce(Record::new(vec![7; 300_000].into())).await.unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::StorageFull);
            refused += 1.0;
            bus.sample_metrics().await.unwrap();
            assert_eq!(kept.one("annals_log_disk_full_total{}"), refused);
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_task_samples_until_the_log_is_closed() {
    let kept = Kept::default();
    let _installed = metrics::set_default_local_recorder(&kept);
    let log = Log::in_memory().unwrap();
    let bus = bus(&log);
    for interval in [Duration::ZERO, Duration::from_millis(9), HOUR * 2] {
        let refused = bus.export_metrics(interval).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("10ms to 3600s are allowed"), "{refused}");
    }
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    bus.export_metrics(Duration::from_millis(10)).unwrap();
    assert_eq!(tasks(), 1);
    bus.publish(ORDERS, 17).await.unwrap();
    while kept.all_or_none("annals_bus_published_total{}") != [1.0] {
        tokio::task::yield_now().await;
    }
    // One with hours to go ends with the log as well.
    bus.export_metrics(HOUR).unwrap();
    log.close().await.unwrap();
    while tasks() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bus.export_metrics(HOUR).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(bus.sample_metrics().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn outside_of_a_runtime_it_says_so_and_without_a_recorder_nothing_happens() {
    let log = Log::in_memory().unwrap();
    let bus = log.bus();
    assert_eq!(bus.export_metrics(HOUR).unwrap_err().kind(), ErrorKind::Invalid);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        bus.export_metrics(HOUR).unwrap();
        bus.publish(ORDERS, 17).await.unwrap();
        bus.sample_metrics().await.unwrap();
    });
}
