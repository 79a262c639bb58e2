//! Topics of the real broker.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;

use super::{Broker, until};

const ANSWER_MAX: Duration = Duration::from_secs(30);

impl Broker {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    /// Makes a topic with as many replicas as the cluster gives by itself, and waits until it can be written to.
    pub(crate) async fn create_topic(&self, name: &str, partitions: u32) {
        self.create_topic_with(name, partitions, -1, &[]).await;
    }

    /// Makes a topic with so many replicas and this configuration.
    pub(crate) async fn create_topic_with(&self, name: &str, partitions: u32, replicas: i32, config: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions as i32, TopicReplication::Fixed(replicas));
        let topic = config.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let made = self.admin().create_topics([&topic], &options()).await.unwrap();
        made.into_iter().for_each(|made| drop(made.unwrap()));
        self.until_partitions(name, partitions).await;
    }

    pub(crate) async fn delete_topic(&self, name: &str) {
        let deleted = self.admin().delete_topics(&[name], &options()).await.unwrap();
        deleted.into_iter().for_each(|deleted| drop(deleted.unwrap()));
        until("the topic is gone", async || self.partitions(name).is_none()).await;
    }

    /// Adds partitions to a topic, so that it has as many.
    pub(crate) async fn add_partitions(&self, name: &str, total: u32) {
        let new = NewPartitions::new(name, total as usize);
        let added = self.admin().create_partitions([&new], &options()).await.unwrap();
        added.into_iter().for_each(|added| drop(added.unwrap()));
        self.until_partitions(name, total).await;
    }

    /// Changes one setting of a topic, and no other.
    pub(crate) async fn set_topic_config(&self, name: &str, setting: &str, value: &str) {
        let (bootstrap, name) = (self.bootstrap().to_owned(), name.to_owned());
        let setting = format!("{setting}={value}");
        let change = move || {
            let about = ["--entity-type", "topics", "--entity-name", &name, "--alter", "--add-config", &setting];
            let output = super::script(&["tool", "configs", "--bootstrap-server", &bootstrap]).args(about).output();
            super::checked("configs", &output.unwrap());
        };
        tokio::task::spawn_blocking(change).await.unwrap();
    }

    async fn until_partitions(&self, name: &str, partitions: u32) {
        until("each partition of the topic has a leader", async || self.partitions(name) == Some(partitions)).await;
    }

    /// How many partitions a topic has, all of which have leaders; `None` if there is none, or one that has none.
    pub(crate) fn partitions(&self, name: &str) -> Option<u32> {
        self.metadata(name, |topic| {
            let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0).count();
            (topic.error().is_none() && led == topic.partitions().len() && led > 0).then_some(led as u32)
        })?
    }

    /// The broker that leads a partition.
    pub(crate) fn leader(&self, name: &str, partition: u32) -> Option<u32> {
        self.metadata(name, |topic| {
            let mut partitions = topic.partitions().iter();
            let found = partitions.find(|found| found.id() == partition as i32)?;
            u32::try_from(found.leader()).ok()
        })?
    }

    /// The brokers that have a replica of a partition that is in sync.
    pub(crate) fn in_sync(&self, name: &str, partition: u32) -> Vec<u32> {
        let found = self.metadata(name, |topic| {
            let mut partitions = topic.partitions().iter();
            let found = partitions.find(|found| found.id() == partition as i32);
            found.map(|found| found.isr().iter().map(|id| *id as u32).collect())
        });
        found.flatten().unwrap_or_default()
    }

    fn metadata<T>(&self, name: &str, read: impl FnOnce(&MetadataTopic) -> T) -> Option<T> {
        let client: BaseConsumer = self.client().create().unwrap();
        // A broker that is down has not answered: who asks asks again.
        let metadata = client.fetch_metadata(Some(name), Duration::from_secs(5)).ok()?;
        metadata.topics().iter().find(|topic| topic.name() == name).map(read)
    }

    /// How many records a partition has had, markers of transactions included, but nothing of a transaction that is not marked as over.
    pub(crate) fn end(&self, topic: &str, partition: u32) -> i64 {
        let client: BaseConsumer = self.client().create().unwrap();
        client.fetch_watermarks(topic, partition as i32, ANSWER_MAX).unwrap().1
    }
}

/// How many brokers a client of this configuration gets to see; the error if it is not let in, or nobody answers.
pub(crate) fn reaches(config: &ClientConfig) -> Result<usize, RDKafkaErrorCode> {
    let client: BaseConsumer = config.create().map_err(|error| error.rdkafka_error_code().unwrap())?;
    let mut last = None;
    for _ in 0..10 {
        match client.fetch_metadata(None, Duration::from_millis(500)) {
            Ok(metadata) => return Ok(metadata.brokers().len()),
            Err(error) => last = error.rdkafka_error_code(),
        }
        // Asking tells of a timeout only; why is told here.
        let told = client.poll(Duration::ZERO).and_then(Result::err).and_then(|error| error.rdkafka_error_code());
        if let Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::AllBrokersDown) = told
        {
            return Err(told.unwrap());
        }
    }
    Err(last.unwrap())
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}
