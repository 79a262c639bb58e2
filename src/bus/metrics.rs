//! Exporting metrics: what is counted anyway is read from time to time and handed to the recorder of the crate `metrics`. Only
//! histograms are fed where things happen, and only once somebody exports.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::Bus;
use super::breaker::BreakerState;
use super::shared::Shared;
use super::stats::SubscriptionStats;
use super::timers::{Sleep, Timers};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Log;
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::segment::lock;
use crate::task::unblock;

/// What a bus has exported so far: counters are told what has come since.
#[derive(Debug, Default)]
pub(super) struct Exporter {
    /// Histograms are wanted of subscriptions to come, too.
    on: AtomicBool,
    told: Mutex<Told>,
    /// One sample at a time.
    sampling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Told {
    published: u64,
    subscriptions: Vec<Arc<Shared>>,
    groups: BTreeMap<String, Group>,
    lags: HashMap<LagOf, (u64, Duration)>,
}

/// A group's gauges, over all of its members here.
#[derive(Debug, Default, Clone, Copy)]
struct Group {
    members: u32,
    waiting: u64,
    running: u64,
    breaker: u8,
}

/// Group, topic and partition.
type LagOf = (String, String, u32);

/// What the log has exported so far, through whichever bus.
#[derive(Debug, Default)]
struct LogExporter(Mutex<LogTold>);

#[derive(Debug, Default)]
struct LogTold {
    /// By topic and partition: the high watermark, and the bytes appended.
    partitions: HashMap<(u128, u32), (u64, u64)>,
    begun: bool,
    commits: u64,
    disk_full: u64,
}

impl Extension for LogExporter {}

/// How often metrics may be sampled.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

impl Exporter {
    /// A subscription begins.
    pub(super) fn registered(&self, shared: &Arc<Shared>) {
        if self.on.load(Ordering::Relaxed) {
            shared.meter.turn_on(&shared.group);
            // Kept here from the beginning, or one that is over before the next sample would not be counted.
            lock(&self.told).subscriptions.push(Arc::clone(shared));
        }
    }
}

impl Bus {
    /// Exports metrics of this bus, of its log and of all groups of the log, to the recorder of the crate `metrics` that is installed
    /// now: counters and gauges are sampled every `interval` (10 ms to 1 h), histograms are fed as things happen. A task on tokio's
    /// runtime does it until the log is closed or the last handle of the bus and its subscriptions is dropped.
    /// `docs/OBSERVABILITY.md` lists the names.
    ///
    /// Install the recorder first: what is asked for before goes nowhere. Until this is called nothing is measured.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for an interval outside of what is allowed, and outside of a runtime;
    /// [`Closed`](ErrorKind::Closed).
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use std::time::Duration;
    /// # use annals::Log;
    /// // Here a recorder is installed, such as that of the crate `metrics-exporter-prometheus`.
    /// let bus = Log::in_memory()?.bus();
    /// bus.export_metrics(Duration::from_secs(10))?;
    /// # Ok(()) }
    /// ```
    pub fn export_metrics(&self, interval: Duration) -> Result<()> {
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
            return Err(Error::invalid(format!(
                "`interval` is {interval:?}; {INTERVAL_MIN:?} to {INTERVAL_MAX:?} are allowed"
            )));
        }
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::invalid("metrics are sampled by a task, and there is no tokio runtime here"))?;
        let engine = Arc::clone(&self.log().inner.engine);
        engine.check_open()?;
        let timers = Timers::of(&engine)?;
        self.turn_on();
        let inner = Arc::downgrade(&self.inner);
        runtime.spawn(async move {
            while slept(&engine, &timers, interval).await {
                let Some(inner) = inner.upgrade() else { break };
                match (Self { inner }).sample_metrics().await {
                    Err(error) if error.kind() == ErrorKind::Closed => break,
                    Err(error) => tracing::warn!(%error, "not all metrics could be sampled"),
                    Ok(()) => {}
                }
            }
        });
        Ok(())
    }

    /// Samples the metrics of [`export_metrics`](Self::export_metrics) once, now: for whoever has a rhythm of its own, or wants the last
    /// figures before the end.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed); [`Io`](ErrorKind::Io) and [`Corrupt`](ErrorKind::Corrupt) if a group's lag cannot be found
    /// out: the rest is sampled all the same.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped some metrics may be sampled and others not. Nothing is counted twice.
    pub async fn sample_metrics(&self) -> Result<()> {
        let engine = &self.log().inner.engine;
        engine.check_open()?;
        self.turn_on();
        let _one_at_a_time = self.inner.exporter.sampling.lock().await;
        self.sample_bus();
        sample_log(engine)?;
        let log = self.log().clone();
        let lags = unblock(move || Ok(lags(&log))).await?;
        self.tell_lags(lags)
    }

    fn turn_on(&self) {
        if !self.inner.exporter.on.swap(true, Ordering::Relaxed) {
            describe();
            // From now on it counts. That the log may be closed is found out by whoever samples.
            drop(sample_log(&self.log().inner.engine));
        }
        self.log().inner.engine.meter.turn_on();
        self.there().iter().for_each(|shared| shared.meter.turn_on(&shared.group));
    }

    fn sample_bus(&self) {
        let stats = self.stats();
        gauge!("annals_bus_active_subscriptions").set(stats.active_subscriptions as f64);
        // Taken out: recorders are other people's code, and not called under a lock.
        let mut told = std::mem::take(&mut *lock(&self.inner.exporter.told));
        counter!("annals_bus_published_total").increment(stats.published.saturating_sub(told.published));
        told.published = stats.published;
        told.subscriptions.extend(self.there());
        told.subscriptions.sort_by_key(Arc::as_ptr);
        told.subscriptions.dedup_by(|a, b| Arc::ptr_eq(a, b));
        // A group whose members have all ended is at nothing.
        told.groups.values_mut().for_each(|group| *group = Group::default());
        told.subscriptions.retain(|shared| {
            // Asked before the counters are read: what has ended counts no more.
            let ended = shared.has_ended();
            let now = shared.counters.read();
            count(&shared.group, &shared.meter.tell(now), &now);
            let group = told.groups.entry(shared.group.to_string()).or_default();
            group.members += u32::from(!ended);
            group.waiting += now.waiting;
            group.running += now.running;
            if !ended {
                group.breaker = group.breaker.max(match shared.breaker() {
                    BreakerState::Closed => 0,
                    BreakerState::HalfOpen => 1,
                    BreakerState::Open => 2,
                });
            }
            !ended
        });
        for (name, group) in &told.groups {
            let gauge = |metric: &'static str, value: f64| gauge!(metric, "group" => name.clone()).set(value);
            gauge("annals_bus_members", group.members.into());
            gauge("annals_bus_waiting", group.waiting as f64);
            gauge("annals_bus_running", group.running as f64);
            gauge("annals_bus_breaker_state", group.breaker.into());
        }
        self.put_back(told);
    }

    fn put_back(&self, mut told: Told) {
        let mut place = lock(&self.inner.exporter.told);
        told.subscriptions.append(&mut place.subscriptions);
        *place = told;
    }

    fn tell_lags(&self, (lags, failure): (Lags, Option<Error>)) -> Result<()> {
        let mut told = std::mem::take(&mut *lock(&self.inner.exporter.told));
        let gauges = |(group, topic, partition): &LagOf, (records, age): (u64, Duration)| {
            let labels = || [("group", group.clone()), ("topic", topic.clone()), ("partition", partition.to_string())];
            gauge!("annals_group_lag_records", &labels()).set(records as f64);
            gauge!("annals_group_lag_seconds", &labels()).set(age.as_secs_f64());
        };
        if failure.is_none() {
            // What is not there any more has no lag.
            told.lags.keys().filter(|of| !lags.contains_key(*of)).for_each(|of| gauges(of, (0, Duration::ZERO)));
        }
        lags.iter().for_each(|(of, lag)| gauges(of, *lag));
        told.lags = lags;
        self.put_back(told);
        failure.map_or(Ok(()), Err)
    }
}

/// Waits; `false` once the log is closed.
async fn slept(engine: &Arc<Engine>, timers: &Arc<Timers>, interval: Duration) -> bool {
    let mut sleep = pin!(Sleep::new(engine, timers, interval));
    std::future::poll_fn(|cx| match engine.is_closed() {
        true => Poll::Ready(false),
        false => sleep.as_mut().poll(cx).map(|()| true),
    })
    .await
}

fn count(group: &Arc<str>, before: &SubscriptionStats, now: &SubscriptionStats) {
    let tell = |metric: &'static str, before: u64, now: u64| {
        counter!(metric, "group" => group.to_string()).increment(now.saturating_sub(before));
    };
    tell("annals_bus_delivered_total", before.delivered, now.delivered);
    tell("annals_bus_succeeded_total", before.succeeded, now.succeeded);
    tell("annals_bus_failed_total", before.failed, now.failed);
    tell("annals_bus_retried_total", before.retried, now.retried);
    tell("annals_bus_dead_lettered_total", before.dead_lettered, now.dead_lettered);
    tell("annals_bus_parked_total", before.parked, now.parked);
    tell("annals_bus_skipped_total", before.skipped, now.skipped);
    tell("annals_bus_expired_total", before.expired, now.expired);
    tell("annals_bus_filtered_total", before.filtered, now.filtered);
    tell("annals_bus_delivered_bytes_total", before.bytes, now.bytes);
    tell("annals_bus_gaps_total", before.gaps, now.gaps);
    tell("annals_bus_rewound_total", before.rewound, now.rewound);
}

fn sample_log(engine: &Engine) -> Result<()> {
    let exporter = engine.extensions.get_or_init(LogExporter::default).ok_or_else(Error::closed)?;
    let mut appended = Vec::new();
    let mut guard = lock(&exporter.0);
    let told = &mut *guard;
    for topic in engine.topics() {
        let (mut records, mut bytes) = (0, 0);
        for partition in topic.partitions().iter() {
            let now = (partition.visible_end(), partition.appended_bytes());
            let key = (topic.id, partition.owner.partition);
            // What was there before the first sample was not written meanwhile; a partition that came since begins with nothing.
            let first = if told.begun { (0, 0) } else { now };
            let before = told.partitions.insert(key, now).unwrap_or(first);
            records += now.0.saturating_sub(before.0);
            bytes += now.1.saturating_sub(before.1);
        }
        appended.push((topic.name.to_string(), records, bytes));
    }
    let (commits, disk_full) = (engine.committer.rounds(), engine.meter.disk_full());
    if !told.begun {
        told.commits = commits;
    }
    let (more_commits, more_disk_full) =
        (commits.saturating_sub(told.commits), disk_full.saturating_sub(told.disk_full));
    (told.begun, told.commits, told.disk_full) = (true, commits, disk_full);
    drop(guard);
    for (topic, records, bytes) in appended {
        counter!("annals_log_appended_records_total", "topic" => topic.clone()).increment(records);
        counter!("annals_log_appended_bytes_total", "topic" => topic).increment(bytes);
    }
    counter!("annals_log_commits_total").increment(more_commits);
    counter!("annals_log_disk_full_total").increment(more_disk_full);
    if let Some(free) = engine.env.storage.free_bytes(&engine.root) {
        gauge!("annals_log_disk_free_bytes").set(free as f64);
    }
    Ok(())
}

type Lags = HashMap<LagOf, (u64, Duration)>;

/// How far each group is behind, and what could not be found out.
fn lags(log: &Log) -> (Lags, Option<Error>) {
    let mut found = HashMap::new();
    let mut failure = None;
    let names = log.blocking_groups().unwrap_or_else(|error| {
        failure = Some(error);
        Vec::new()
    });
    for name in names {
        match log.blocking_describe_group(&name) {
            Ok(group) => {
                found.extend(group.partitions.into_iter().map(|partition| {
                    let of = (group.name.clone(), partition.partition.topic, partition.partition.partition);
                    (of, (partition.lag_records, partition.lag))
                }));
            }
            // It was deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    (found, failure)
}

fn describe() {
    let counters = [
        ("annals_bus_published_total", "Events that were published through the bus"),
        ("annals_bus_delivered_total", "Events that the handler was called with, each once"),
        ("annals_bus_succeeded_total", "Events that the handler has done"),
        ("annals_bus_failed_total", "Attempts that have failed"),
        ("annals_bus_retried_total", "Attempts that were not the first"),
        ("annals_bus_dead_lettered_total", "Events that became dead letters"),
        ("annals_bus_parked_total", "Events that became dead letters because one of their key is one"),
        ("annals_bus_skipped_total", "Events that were given up and skipped"),
        ("annals_bus_expired_total", "Events whose time was over"),
        ("annals_bus_filtered_total", "Events that did not pass the filter"),
        ("annals_bus_gaps_total", "Gaps: records that retention had let go before they were delivered"),
        ("annals_bus_rewound_total", "How often a group was set back because records were lost"),
        ("annals_log_appended_records_total", "Records that were appended"),
        (
            "annals_log_commits_total",
            "Commits: rounds of writing and syncing that appends to synced topics have shared",
        ),
        ("annals_log_disk_full_total", "Appends and commits that were refused because the disk was full"),
    ];
    counters.into_iter().for_each(|(name, what)| describe_counter!(name, Unit::Count, what));
    describe_counter!(
        "annals_bus_delivered_bytes_total",
        Unit::Bytes,
        "Bytes of keys and values of the delivered events"
    );
    describe_counter!(
        "annals_log_appended_bytes_total",
        Unit::Bytes,
        "Bytes that were appended, as they are on the disk"
    );
    let gauges = [
        ("annals_bus_active_subscriptions", "Subscriptions that are running"),
        ("annals_bus_members", "Members of the group in this process"),
        ("annals_bus_waiting", "Events that wait in memory"),
        ("annals_bus_running", "Events that are being handled"),
        ("annals_bus_breaker_state", "The circuit breaker: 0 closed, 1 half-open, 2 open; the worst of the members"),
        ("annals_group_lag_records", "Records that the group has not finished"),
    ];
    gauges.into_iter().for_each(|(name, what)| describe_gauge!(name, Unit::Count, what));
    describe_gauge!(
        "annals_group_lag_seconds",
        Unit::Seconds,
        "How old the oldest record is that the group has not finished"
    );
    describe_gauge!("annals_log_disk_free_bytes", Unit::Bytes, "Bytes that are free on the disk");
}
