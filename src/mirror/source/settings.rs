//! What a source is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::super::settings::{check_in_flight, check_name};
use super::Source;
use crate::error::{Error, Result};
use crate::group::pattern::Subscription;
use crate::handle::Log;
use crate::kafka::KafkaConfig;
use crate::log::settings::TopicSettings;

/// Where a source begins in a partition that it has never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceStart {
    /// At the first record that Kafka still has. The default.
    #[default]
    Earliest,
    /// Behind the last record that is committed when the source first sees the partition.
    Latest,
}

/// Which partition of the log a record goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourcePartitions {
    /// The one with the same number. The topic must have as many. The default.
    #[default]
    Preserve,
    /// The one that Kafka's default partitioner picks for the key; without a key that of the record's own partition, modulo. Records of
    /// one key keep their order if they are all in one partition of Kafka.
    ByKey,
}

/// What becomes of a partition if something of it can never be in the log: records that Kafka has let go before they were read, or one
/// that the log does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// It is paused and the error reported; the other partitions go on. The default.
    #[default]
    Stop,
    /// The log gets a mark in its place, a record with the headers [`MARKER`](crate::mirror::MARKER), what it stands for and its origin;
    /// the source goes on.
    Skip,
}

type Rename = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What a source is told, checked when it is spawned. From [`Source::builder`].
#[derive(Clone)]
#[must_use = "a source brings nothing before it is spawned"]
pub struct SourceBuilder {
    pub(super) log: Log,
    pub(super) name: String,
    pub(super) topics: Vec<String>,
    pub(super) kafka: Option<KafkaConfig>,
    pub(super) partitions: SourcePartitions,
    rename: Option<Rename>,
    pub(super) create: Option<TopicSettings>,
    pub(super) start: SourceStart,
    pub(super) on_gap: OnMissing,
    pub(super) on_refused: OnMissing,
    pub(super) origin_headers: bool,
    pub(super) in_flight_bytes_max: usize,
    pub(super) retry_paused: Option<Duration>,
    #[cfg(feature = "metrics")]
    pub(super) export_metrics: bool,
}

impl fmt::Debug for SourceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceBuilder")
            .field("name", &self.name)
            .field("topics", &self.topics)
            .field("kafka", &self.kafka)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl SourceBuilder {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            name: "source".to_owned(),
            topics: Vec::new(),
            kafka: None,
            partitions: SourcePartitions::default(),
            rename: None,
            create: None,
            start: SourceStart::default(),
            on_gap: OnMissing::default(),
            on_refused: OnMissing::default(),
            origin_headers: true,
            in_flight_bytes_max: 32 * 1024 * 1024,
            retry_paused: Some(Duration::from_secs(60)),
            #[cfg(feature = "metrics")]
            export_metrics: false,
        }
    }

    /// Sets the name, by which it finds its place again: 1 to 100 ASCII letters, digits, `.`, `_` and `-`. Unless set, `source`. One log can
    /// have several, of different names, from one cluster or several.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds topics of Kafka: names, and patterns in which `*` stands for any text. Topics that match and are made later join; those that
    /// begin with `__` do not.
    pub fn topics<'a>(mut self, topics: impl IntoIterator<Item = &'a str>) -> Self {
        self.topics.extend(topics.into_iter().map(str::to_owned));
        self
    }

    /// Sets the cluster that it reads from.
    pub fn from(mut self, kafka: KafkaConfig) -> Self {
        self.kafka = Some(kafka);
        self
    }

    /// Sets which partition of the log a record goes to.
    pub fn partitions(mut self, partitions: SourcePartitions) -> Self {
        self.partitions = partitions;
        self
    }

    /// Puts a text before the names of all topics in the log.
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.rename(move |topic| format!("{prefix}{topic}"))
    }

    /// Lets a function name the topic of the log. It must give the same name for the same topic each time.
    pub fn rename(mut self, rename: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.rename = Some(Arc::new(rename));
        self
    }

    /// Lets it make topics that are missing in the log, with these settings, and, where it preserves partitions, add those that a topic
    /// has in Kafka and not in the log. A topic that it makes then has as many partitions as that in Kafka, or as many as the settings say
    /// if these are more. Unless set it makes none.
    pub fn create_topics(mut self, settings: TopicSettings) -> Self {
        self.create = Some(settings);
        self
    }

    /// Sets where it begins in partitions that it has never read.
    pub fn start(mut self, start: SourceStart) -> Self {
        self.start = start;
        self
    }

    /// Sets what becomes of a partition of which Kafka has let records go before they were read.
    pub fn on_gap(mut self, on_gap: OnMissing) -> Self {
        self.on_gap = on_gap;
        self
    }

    /// Sets what becomes of a partition with a record that the log does not take: larger than the topic's
    /// [`record_bytes_max`](TopicSettings::record_bytes_max), or with a header name of more than 255 bytes.
    pub fn on_refused(mut self, on_refused: OnMissing) -> Self {
        self.on_refused = on_refused;
        self
    }

    /// Sets whether records that no log wrote get the [headers of an origin](crate::mirror::Origin), with the place in Kafka and an
    /// identity that stands for the cluster. It is so unless set, and must be so where a [`Mirror`](crate::mirror::Mirror) forwards the
    /// same topics to the same cluster: by these headers it knows that they came from there.
    pub fn origin_headers(mut self, add: bool) -> Self {
        self.origin_headers = add;
        self
    }

    /// Sets how many bytes are fetched ahead of what is in the log: 64 KiB to 1 GiB; 32 MiB unless set.
    pub fn in_flight_bytes_max(mut self, bytes: usize) -> Self {
        self.in_flight_bytes_max = bytes;
        self
    }

    /// Sets after how long a partition that was paused for an error is tried again; `None` waits for [`Source::resume`]. A minute unless
    /// set.
    pub fn retry_paused(mut self, after: Option<Duration>) -> Self {
        self.retry_paused = after;
        self
    }

    /// Exports metrics to the recorder of the crate `metrics` that is installed when it is spawned, about once a second.
    /// `docs/OBSERVABILITY.md` lists the names.
    #[cfg(feature = "metrics")]
    pub fn export_metrics(mut self) -> Self {
        self.export_metrics = true;
        self
    }

    /// The topic's name in the log.
    pub(super) fn target(&self, topic: &str) -> String {
        self.rename.as_ref().map_or_else(|| topic.to_owned(), |rename| rename(topic))
    }

    /// What was wrong with it, or what it is about: the cluster, and the topics.
    pub(super) fn validate(&self) -> Result<(KafkaConfig, Subscription)> {
        check_name("source", &self.name)?;
        let Some(kafka) = self.kafka.clone() else {
            return Err(Error::invalid("the source has no cluster to read from; name one with `from`"));
        };
        kafka.validate()?;
        if self.log.is_read_only() {
            return Err(Error::invalid("a source writes to the log, which is open read-only; open it for writing"));
        }
        check_in_flight(self.in_flight_bytes_max)?;
        if let Some(settings) = &self.create {
            settings.validate()?;
        }
        Ok((kafka, Subscription::new(self.topics.iter().map(String::as_str))?))
    }

    /// Checks what can be checked without the cluster, and starts reading on a thread of its own. The cluster need not be there yet.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for settings outside of what is allowed and for a log that is open read-only,
    /// [`Busy`](crate::ErrorKind::Busy) if this log has a source of this name already, [`Closed`](crate::ErrorKind::Closed),
    /// [`Io`](crate::ErrorKind::Io) if its thread cannot be started.
    pub fn spawn(self) -> Result<Source> {
        Source::spawn(self)
    }
}
