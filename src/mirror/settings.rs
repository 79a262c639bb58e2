//! What a mirror is told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::handle::Log;
use crate::kafka::KafkaConfig;
use crate::record::Message;
use crate::text::quoted;

use super::handle::Mirror;

/// What a mirror promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guarantee {
    /// Each record is in the target once, for consumers that read committed records only: records and the place that the mirror has
    /// come to are one Kafka transaction. The default.
    #[default]
    ExactlyOnce,
    /// Each record is in the target at least once; after a crash those since the last acknowledged batch may come again, in the same
    /// order. For brokers without transactions. Its place is committed in the log, so this needs a log that is open for writing.
    AtLeastOnce,
}

/// The function that picks the target's partition of a record: the record, and how many partitions there are.
type Pick = Arc<dyn Fn(&Message, u32) -> u32 + Send + Sync>;

/// Which partition of the target a record goes to.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Partitions {
    /// The one with the same number. The target must have as many. The default.
    #[default]
    Preserve,
    /// The one that Kafka's default partitioner picks for the key; without a key that of the record's own partition, modulo.
    ByKey,
    /// The one that a function picks. Records of one partition that go to the same partition keep their order.
    Custom(Pick),
}

impl fmt::Debug for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preserve => "Preserve",
            Self::ByKey => "ByKey",
            Self::Custom(_) => "Custom(..)",
        })
    }
}

/// What becomes of a record that the target refuses for good: too large, or with a time that it does not take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnRefused {
    /// Its partition is paused and the error reported; the other partitions go on. The default.
    #[default]
    Stop,
    /// It goes to this topic of the log, which must be there, with the error in its headers; the mirror goes on. After a crash at that
    /// moment it may be there twice.
    DeadLetter(String),
    /// The target gets a mark in its place, with its key, its origin and the error in the headers; the mirror goes on.
    Skip,
}

/// What becomes of a mirror that retention has overrun: records are gone that it had not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnBreach {
    /// The partition is paused and the error reported; the other partitions go on. The default.
    #[default]
    Stop,
    /// The target gets a mark in their place that says which offsets are missing; the mirror goes on.
    Skip,
    /// It does not come to that: whoever appends to the partition gets [`Busy`](crate::ErrorKind::Busy) for as long as the mirror is so
    /// far behind. Needs a log that is open for writing, and a cap in bytes.
    Block,
}

/// How far a mirror holds retention back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// So many bytes of a partition are kept for it at most.
    pub bytes_max: Option<u64>,
    /// So long a record is kept for it at most, by its time.
    pub age_max: Option<Duration>,
}

impl Default for Hold {
    /// 10 GiB a partition, and a week.
    fn default() -> Self {
        Self { bytes_max: Some(10 << 30), age_max: Some(Duration::from_secs(7 * 86_400)) }
    }
}

/// How topics are made in the target, where the mirror may make them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TargetTopics {
    /// How many partitions; unless set, as many as the topic in the log has.
    pub partitions: Option<u32>,
    /// How many replicas of each; unless set, what the cluster's default is.
    pub replication: Option<u16>,
    /// Kafka's topic configuration, such as `retention.ms`.
    pub config: BTreeMap<String, String>,
}

impl TargetTopics {
    /// Sets how many partitions they have.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Sets how many replicas each partition has.
    #[must_use]
    pub fn replication(mut self, replicas: u16) -> Self {
        self.replication = Some(replicas);
        self
    }

    /// Sets one of Kafka's topic settings.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.insert(name.into(), value.into());
        self
    }
}

type Rename = Arc<dyn Fn(&str) -> String + Send + Sync>;
type Keep = Arc<dyn Fn(&Message) -> bool + Send + Sync>;

/// What a mirror is told, checked when it is spawned. From [`Mirror::builder`].
#[derive(Clone)]
#[must_use = "a mirror forwards nothing until it is spawned"]
pub struct MirrorBuilder {
    pub(super) log: Log,
    pub(super) name: String,
    pub(super) topics: Vec<String>,
    pub(super) kafka: Option<KafkaConfig>,
    pub(super) guarantee: Guarantee,
    pub(super) partitions: Partitions,
    pub(super) rename: Option<Rename>,
    pub(super) create: Option<TargetTopics>,
    pub(super) filter: Option<Keep>,
    pub(super) on_refused: OnRefused,
    pub(super) hold: Option<Hold>,
    pub(super) on_breach: OnBreach,
    pub(super) forward_foreign: bool,
    pub(super) checkpoint_topic: String,
    pub(super) commit_interval: Duration,
    pub(super) in_flight_bytes_max: usize,
    pub(super) retry_paused: Option<Duration>,
    #[cfg(feature = "metrics")]
    pub(super) export_metrics: bool,
}

impl fmt::Debug for MirrorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorBuilder")
            .field("name", &self.name)
            .field("topics", &self.topics)
            .field("kafka", &self.kafka)
            .field("guarantee", &self.guarantee)
            .finish_non_exhaustive()
    }
}

/// Where the mirrors of a cluster keep how far they have come, unless they are told otherwise.
const CHECKPOINT_TOPIC: &str = "annals-mirror-checkpoints";

const NAME_BYTES_MAX: usize = 100;
pub(super) const COMMIT_INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(30);
pub(super) const IN_FLIGHT_BYTES: std::ops::RangeInclusive<usize> = 64 * 1024..=1024 * 1024 * 1024;

/// Checks the name of a mirror, or of a source.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(Error::invalid(format!(
            "the {what}'s name is {}; 1 to {NAME_BYTES_MAX} ASCII letters, digits, '.', '_' and '-' are allowed",
            quoted(name)
        )));
    }
    Ok(())
}

/// Checks how many bytes a mirror, or a source, may have on the way.
pub(super) fn check_in_flight(bytes: usize) -> Result<()> {
    if !IN_FLIGHT_BYTES.contains(&bytes) {
        let (least, most) = (IN_FLIGHT_BYTES.start(), IN_FLIGHT_BYTES.end());
        return Err(Error::invalid(format!("`in_flight_bytes_max` is {bytes}; {least} to {most} are allowed")));
    }
    Ok(())
}

impl MirrorBuilder {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            name: "mirror".to_owned(),
            topics: Vec::new(),
            kafka: None,
            guarantee: Guarantee::default(),
            partitions: Partitions::default(),
            rename: None,
            create: None,
            filter: None,
            on_refused: OnRefused::default(),
            hold: Some(Hold::default()),
            on_breach: OnBreach::default(),
            forward_foreign: false,
            checkpoint_topic: CHECKPOINT_TOPIC.to_owned(),
            commit_interval: Duration::from_millis(100),
            in_flight_bytes_max: 32 * 1024 * 1024,
            retry_paused: Some(Duration::from_secs(60)),
            #[cfg(feature = "metrics")]
            export_metrics: false,
        }
    }

    /// Sets the name, by which it finds its place again and keeps a second instance out: 1 to 100 ASCII letters, digits, `.`, `_`
    /// and `-`. Unless set, `mirror`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds topics: names, and patterns in which `*` stands for any text. Topics that match a pattern and are made later join.
    pub fn topics<'a>(mut self, topics: impl IntoIterator<Item = &'a str>) -> Self {
        self.topics.extend(topics.into_iter().map(str::to_owned));
        self
    }

    /// Sets the cluster that it forwards to.
    pub fn to(mut self, kafka: KafkaConfig) -> Self {
        self.kafka = Some(kafka);
        self
    }

    /// Sets what it promises.
    pub fn guarantee(mut self, guarantee: Guarantee) -> Self {
        self.guarantee = guarantee;
        self
    }

    /// Sets which partition of the target a record goes to.
    pub fn partitions(mut self, partitions: Partitions) -> Self {
        self.partitions = partitions;
        self
    }

    /// Lets a function pick the partition of each record: it gets the record and the number of partitions, and must answer with less
    /// than that.
    pub fn partition_with(self, pick: impl Fn(&Message, u32) -> u32 + Send + Sync + 'static) -> Self {
        self.partitions(Partitions::Custom(Arc::new(pick)))
    }

    /// Puts a text before the names of all topics in the target.
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.rename(move |topic| format!("{prefix}{topic}"))
    }

    /// Lets a function name the topic of the target.
    pub fn rename(mut self, rename: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.rename = Some(Arc::new(rename));
        self
    }

    /// Lets it make topics that are missing in the target, and, where it preserves partitions, add partitions that the log has got.
    /// Unless set it makes none, but for the one of its checkpoints.
    pub fn create_topics(mut self, topics: TargetTopics) -> Self {
        self.create = Some(topics);
        self
    }

    /// Forwards only records that a function wants. The others count as forwarded.
    pub fn filter(mut self, keep: impl Fn(&Message) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(keep));
        self
    }

    /// Sets what becomes of records that the target refuses for good.
    pub fn on_refused(mut self, on_refused: OnRefused) -> Self {
        self.on_refused = on_refused;
        self
    }

    /// Sets how far it holds retention back; `None` does not hold it back at all. A read-only opening cannot.
    pub fn hold_retention(mut self, hold: Option<Hold>) -> Self {
        self.hold = hold;
        self
    }

    /// Sets what becomes of it when retention has overrun it.
    pub fn on_breach(mut self, on_breach: OnBreach) -> Self {
        self.on_breach = on_breach;
        self
    }

    /// Sets whether it forwards records that came from another log through Kafka. By default it does not: between two logs that mirror
    /// to, and read from, the same topic they would go round for ever.
    pub fn forward_foreign(mut self, forward: bool) -> Self {
        self.forward_foreign = forward;
        self
    }

    /// Sets the compacted topic of the target in which it keeps how far it has come. It is made if it is missing. Unless set,
    /// `annals-mirror-checkpoints`.
    pub fn checkpoint_topic(mut self, topic: impl Into<String>) -> Self {
        self.checkpoint_topic = topic.into();
        self
    }

    /// Sets how long a transaction stays open while records come: 1 ms to 30 s, and at most half of the cluster's
    /// [`transaction_timeout`](KafkaConfig::transaction_timeout); 100 ms unless set. Consumers that read committed records see them no
    /// sooner.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commit_interval = interval;
        self
    }

    /// Sets how many bytes wait for the brokers at once: 64 KiB to 1 GiB; 32 MiB unless set. A larger record is refused.
    pub fn in_flight_bytes_max(mut self, bytes: usize) -> Self {
        self.in_flight_bytes_max = bytes;
        self
    }

    /// Sets after how long a partition that was paused for an error is tried again; `None` waits for [`Mirror::resume`]. A minute unless
    /// set.
    pub fn retry_paused(mut self, after: Option<Duration>) -> Self {
        self.retry_paused = after;
        self
    }

    /// Exports metrics to the recorder of the crate `metrics` that is installed when it is spawned: about once a second, and with each
    /// transaction. `docs/OBSERVABILITY.md` lists the names.
    #[cfg(feature = "metrics")]
    pub fn export_metrics(mut self) -> Self {
        self.export_metrics = true;
        self
    }

    /// The topic's name in the target.
    pub(super) fn target(&self, topic: &str) -> String {
        self.rename.as_ref().map_or_else(|| topic.to_owned(), |rename| rename(topic))
    }

    pub(super) fn validate(&self) -> Result<()> {
        check_name("mirror", &self.name)?;
        let Some(kafka) = &self.kafka else {
            return Err(Error::invalid("the mirror has no cluster to forward to; name one with `to`"));
        };
        kafka.validate()?;
        let read_only = self.log.is_read_only();
        if read_only && self.guarantee == Guarantee::AtLeastOnce {
            return Err(Error::invalid(
                "a mirror on a log that is open read-only cannot commit its place there; only `ExactlyOnce` is allowed, which keeps it \
                 in the target",
            ));
        }
        if read_only && matches!(self.on_refused, OnRefused::DeadLetter(_)) {
            return Err(Error::invalid("a mirror on a log that is open read-only cannot write dead letters to it"));
        }
        if let OnRefused::DeadLetter(topic) = &self.on_refused {
            self.log.raw_topic(topic)?;
        }
        if self.on_breach == OnBreach::Block && (read_only || self.hold.is_none_or(|hold| hold.bytes_max.is_none())) {
            return Err(Error::invalid(
                "to block publishers the mirror needs a log that is open for writing and a retention hold with `bytes_max`",
            ));
        }
        if !COMMIT_INTERVAL.contains(&self.commit_interval) {
            return Err(Error::invalid(format!(
                "`commit_interval` is {:?}; 1 ms to 30 s are allowed",
                self.commit_interval
            )));
        }
        let transactional = self.guarantee == Guarantee::ExactlyOnce;
        if let Some(most) = kafka.transaction_max().filter(|most| transactional && self.commit_interval > *most / 2) {
            return Err(Error::invalid(format!(
                "`commit_interval` is {:?} and the cluster's `transaction_timeout` {most:?}; at most half of that is allowed, or the \
                 brokers would abort what the mirror has not committed yet",
                self.commit_interval
            )));
        }
        check_in_flight(self.in_flight_bytes_max)
    }

    /// Checks what can be checked without the cluster, and starts forwarding on a thread of its own. The cluster need not be there yet.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for settings outside of what is allowed, [`NotFound`](crate::ErrorKind::NotFound) for a
    /// dead-letter topic that is not there, [`Busy`](crate::ErrorKind::Busy) if this process has a mirror of this name on this log, unless
    /// both are [`ExactlyOnce`](Guarantee::ExactlyOnce): then this one takes over. [`Closed`](crate::ErrorKind::Closed),
    /// [`Io`](crate::ErrorKind::Io) if its threads cannot be started.
    pub fn spawn(self) -> Result<Mirror> {
        Mirror::spawn(self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Guarantee, KafkaConfig, Mirror};
    use crate::error::ErrorKind;
    use crate::handle::Log;

    #[test]
    fn what_cannot_work_is_said_before_anything_is_tried() {
        let log = Log::in_memory().unwrap();
        let brief = KafkaConfig::new("host:1").transaction_timeout(Duration::from_secs(1));
        let mirror =
            |interval| Mirror::builder(&log).to(brief.clone()).commit_interval(Duration::from_millis(interval));
        mirror(500).validate().unwrap();
        mirror(501).guarantee(Guarantee::AtLeastOnce).validate().unwrap();
        for (wrong, named) in [
            (mirror(501), ["`commit_interval`", "`transaction_timeout`"]),
            (mirror(1).to(KafkaConfig::new("host")), ["`bootstrap_servers`", "\"host\""]),
        ] {
            let error = wrong.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(named.iter().all(|name| error.to_string().contains(name)), "{error}");
        }
    }
}
