//! Asking a cluster about its topics, and making them. Everything here blocks the thread, each call for a bounded time.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic as NativeTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::{Metadata, MetadataTopic};

use super::config::KafkaConfig;
use super::context::KafkaContext;
use super::error::{Class, class, code, from_kafka};
use crate::error::{Error, ErrorKind, Result};
use crate::task::block;
use crate::text::quoted;

/// How long one question may take; what is asked again has its bound in how often.
const SLICE: Duration = Duration::from_secs(1);

/// How long to wait, with an ear to the client's events, before asking again.
const PAUSE: Duration = Duration::from_millis(100);

/// A topic as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicInfo {
    pub(crate) name: String,
    /// By their numbers, from 0 on.
    pub(crate) partitions: Vec<PartitionInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionInfo {
    /// The broker that leads it, if there is one just now.
    pub(crate) leader: Option<i32>,
    pub(crate) replicas: usize,
    pub(crate) in_sync: usize,
}

/// A topic that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: u32,
    /// `None` leaves it to the brokers.
    pub(crate) replication: Option<u16>,
    /// By Kafka's names: `cleanup.policy`, `min.insync.replicas`.
    pub(crate) config: BTreeMap<String, String>,
}

/// Asks a cluster. It never makes a topic but in [`create`](Self::create).
pub(crate) struct Admin {
    config: KafkaConfig,
    /// A consumer that consumes nothing: asked about a topic that is not there, a producer would make it.
    client: BaseConsumer<KafkaContext>,
    wait: Duration,
    given_up: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Admin {
    /// Checks the configuration, and connects in the background.
    pub(crate) fn new(config: &KafkaConfig) -> Result<Self> {
        config.validate()?;
        let client = config
            .consumer()
            .create_with_context(KafkaContext::new(config))
            .map_err(|error| from_kafka("cannot make a client of Kafka", error))?;
        Ok(Self { config: config.clone(), client, wait: config.wait(), given_up: Box::new(|| false) })
    }

    /// The same, but no question takes longer than this.
    pub(crate) fn within(mut self, wait: Duration) -> Self {
        self.wait = self.wait.min(wait);
        self
    }

    /// The same, but nothing is asked again once somebody does not want to know any more.
    pub(crate) fn unless(mut self, given_up: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.given_up = Box::new(given_up);
        self
    }

    /// The identity that the cluster was formatted with.
    pub(crate) fn cluster_id(&self) -> Result<String> {
        self.asked("cannot ask Kafka who it is", || {
            self.client.client().fetch_cluster_id(SLICE).ok_or(KafkaError::MetadataFetch(Code::OperationTimedOut))
        })
    }

    /// The topic, if it is there.
    pub(crate) fn describe(&self, topic: &str) -> Result<Option<TopicInfo>> {
        self.asked(&format!("cannot ask Kafka about topic {}", quoted(topic)), || {
            let metadata = self.client.fetch_metadata(Some(topic), SLICE)?;
            match metadata.topics().iter().find(|found| found.name() == topic) {
                Some(found) => found_topic(found),
                None => Ok(None),
            }
        })
    }

    /// All topics, in the order of their names, without those of Kafka itself.
    pub(crate) fn topics(&self) -> Result<Vec<TopicInfo>> {
        let all = |metadata: &Metadata| {
            let mut topics = Vec::new();
            for topic in metadata.topics() {
                topics.extend(found_topic(topic)?.filter(|topic| !topic.name.starts_with("__")));
            }
            topics.sort_by(|a: &TopicInfo, b| a.name.cmp(&b.name));
            Ok(topics)
        };
        self.asked("cannot ask Kafka about its topics", || all(&self.client.fetch_metadata(None, SLICE)?))
    }

    /// The first offset that is there, and the one behind the last record that is replicated; what is not committed counts.
    pub(crate) fn watermarks(&self, topic: &str, partition: u32) -> Result<(i64, i64)> {
        self.asked(&format!("cannot ask Kafka about topic {}, partition {partition}", quoted(topic)), || {
            self.client.fetch_watermarks(topic, number(partition), SLICE)
        })
    }

    /// Makes a topic, and waits until all of its partitions are led. `false` if it was there already, whatever it is like.
    pub(crate) fn create(&self, topic: &NewTopic) -> Result<bool> {
        let context = format!("cannot make topic {} in Kafka", quoted(&topic.name));
        if self.describe(&topic.name)?.is_some() {
            return Ok(false);
        }
        let admin = self.native(&context)?;
        let replication = TopicReplication::Fixed(topic.replication.map_or(-1, i32::from));
        let mut native = NativeTopic::new(&topic.name, number(topic.partitions), replication);
        for (name, value) in &topic.config {
            native = native.set(name, value);
        }
        let options = self.options();
        let mut asked = pin!(admin.create_topics([&native], &options));
        let results = block(|cx| asked.as_mut().poll(cx)).map_err(|error| from_kafka(context.as_str(), error))?;
        match results.into_iter().next() {
            // Somebody else was faster, and not every broker may have heard of it yet.
            Some(Err((_, Code::TopicAlreadyExists))) => {
                self.await_leaders(&topic.name, 1)?;
                return Ok(false);
            }
            Some(Err((_, code))) => return Err(from_kafka(context, KafkaError::AdminOp(code))),
            Some(Ok(_)) | None => {}
        }
        self.await_leaders(&topic.name, topic.partitions)?;
        Ok(true)
    }

    /// Gives a topic more partitions, so that it has `partitions` of them, and waits until all of them are led.
    pub(crate) fn add_partitions(&self, topic: &str, partitions: u32) -> Result<()> {
        let context = format!("cannot add partitions to topic {} in Kafka", quoted(topic));
        let admin = self.native(&context)?;
        let wanted = NewPartitions::new(topic, partitions as usize);
        let options = self.options();
        let mut asked = pin!(admin.create_partitions([&wanted], &options));
        let results = block(|cx| asked.as_mut().poll(cx)).map_err(|error| from_kafka(context.as_str(), error))?;
        if let Some(Err((_, code))) = results.into_iter().next() {
            return Err(from_kafka(context, KafkaError::AdminOp(code)));
        }
        self.await_leaders(topic, partitions)
    }

    /// The settings of a topic that is there, by Kafka's names, those included that are the brokers' defaults.
    ///
    /// # Errors
    ///
    /// `Unsupported` where there are no tokens for asking, `Denied` without the right to.
    pub(crate) fn settings(&self, topic: &str) -> Result<BTreeMap<String, String>> {
        let context = format!("cannot look at the settings of topic {}", quoted(topic));
        let admin = self.native(&context)?;
        let (resource, options) = ([ResourceSpecifier::Topic(topic)], self.options());
        let mut asked = pin!(admin.describe_configs(&resource, &options));
        let answers = block(|cx| asked.as_mut().poll(cx)).map_err(|error| from_kafka(context.as_str(), error))?;
        let mut settings = BTreeMap::new();
        for answer in answers {
            let found = answer.map_err(|code| from_kafka(context.as_str(), KafkaError::AdminOp(code)))?;
            settings.extend(found.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
        }
        Ok(settings)
    }

    /// Checks that a topic keeps its records for as long as nothing newer supersedes them. Where the cluster does not let anybody look that
    /// is left to whoever has made the topic, with a warning.
    ///
    /// # Errors
    ///
    /// `Invalid` with the settings by which it lets them go.
    pub(crate) fn check_keeps(&self, topic: &str) -> Result<()> {
        match self.settings(topic) {
            Ok(settings) => match lets_go(&settings) {
                Some(by) => Err(Error::invalid(format!(
                    "topic {} of Kafka lets records go that are still needed ({by}); set its `cleanup.policy` to `compact`",
                    quoted(topic)
                ))),
                None => Ok(()),
            },
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
                tracing::warn!(topic, %error, "it is not known whether the topic keeps its records: it has to be compacted");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A client that may change something.
    ///
    /// # Errors
    ///
    /// `Unsupported` where there are no tokens for it.
    pub(crate) fn native(&self, context: &str) -> Result<AdminClient<KafkaContext>> {
        if self.config.token().is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{context}: the client library has no tokens (OAUTHBEARER) for that; do it before"),
            ));
        }
        self.config
            .client()
            .create_with_context(KafkaContext::new(&self.config))
            .map_err(|error| from_kafka(context, error))
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.wait)).operation_timeout(Some(self.wait))
    }

    /// Waits until a topic has so many partitions, or more, and all of them are led.
    fn await_leaders(&self, topic: &str, partitions: u32) -> Result<()> {
        let mut rounds = self.rounds();
        loop {
            let found = self.describe(topic)?;
            let is_led = |found: &TopicInfo| {
                found.partitions.len() >= partitions as usize
                    && found.partitions.iter().all(|partition| partition.leader.is_some())
            };
            if found.as_ref().is_some_and(is_led) {
                return Ok(());
            }
            rounds -= 1;
            if rounds == 0 || (self.given_up)() {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("topic {} is there in Kafka, but not all of its partitions are led", quoted(topic)),
                ));
            }
            self.listen(PAUSE);
        }
    }

    /// Asks until there is an answer, or an error that does not pass, or the time is over.
    fn asked<T>(&self, context: &str, mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T> {
        let mut rounds = self.rounds();
        loop {
            // A token is asked for by an event, and a refusal told by one.
            self.listen(Duration::ZERO);
            let error = match ask() {
                Ok(answer) => {
                    // Whatever there was before has passed.
                    self.client.context().take_trouble(context);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let passes = code(&error).is_none_or(|code| class(code) == Class::Passing);
            self.listen(PAUSE);
            // The background knows more: the question was not answered because nobody let this client in.
            let trouble = self.client.context().take_trouble(context);
            if let Some((Class::Fatal, error)) = trouble {
                return Err(error);
            }
            rounds -= 1;
            if !passes || rounds == 0 || (self.given_up)() {
                return Err(match trouble {
                    Some((_, known)) if passes => known,
                    _ => from_kafka(context, error),
                });
            }
        }
    }

    /// How often a question of at most [`SLICE`] fits into the time that there is.
    fn rounds(&self) -> u32 {
        u32::try_from(self.wait.as_millis() / (SLICE + PAUSE).as_millis()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Serves what the client has to say. There are no records among it, since nothing is consumed.
    fn listen(&self, time: Duration) {
        drop(self.client.poll(time));
    }
}

/// The topic, if it is there, and not on its way.
fn found_topic(topic: &MetadataTopic) -> Result<Option<TopicInfo>, KafkaError> {
    match topic.error().map(Code::from) {
        None => {}
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Ok(None),
        Some(code) => return Err(KafkaError::MetadataFetch(code)),
    }
    let mut partitions: Vec<_> = topic.partitions().iter().collect();
    partitions.sort_by_key(|partition| partition.id());
    let partitions = partitions.into_iter().map(|partition| PartitionInfo {
        leader: Some(partition.leader()).filter(|leader| *leader >= 0),
        replicas: partition.replicas().len(),
        in_sync: partition.isr().len(),
    });
    Ok(Some(TopicInfo { name: topic.name().to_owned(), partitions: partitions.collect() }))
}

/// The settings by which a topic lets records go that nothing newer supersedes, if there are any.
fn lets_go(settings: &BTreeMap<String, String>) -> Option<String> {
    let says = |name: &str| settings.get(name).map_or("", String::as_str);
    let policy = says("cleanup.policy");
    if !policy.split(',').any(|policy| policy.trim() == "delete") {
        return None;
    }
    let is_bound = |limit: &&str| !matches!(says(limit), "" | "-1");
    let limit = ["retention.ms", "retention.bytes"].into_iter().find(is_bound)?;
    Some(format!("its `cleanup.policy` is `{policy}` and its `{limit}` {}", says(limit)))
}

/// A number of partitions, as Kafka counts them; more than there can be is refused by it.
fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::lets_go;

    #[test]
    fn what_lets_records_go_is_named() {
        let of = |all: &[(&str, &str)]| {
            lets_go(&all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        let week = ("retention.ms", "604800000");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("cleanup.policy", "compact"), week]), None);
        assert_eq!(of(&[("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")]), None);
        for policy in ["delete", "compact,delete", "delete, compact"] {
            let by = of(&[("cleanup.policy", policy), week]).unwrap();
            assert!(by.contains(policy) && by.contains("`retention.ms` 604800000"), "{by}");
        }
        let by = of(&[("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "1")]).unwrap();
        assert!(by.contains("`retention.bytes` 1"), "{by}");
    }
}
