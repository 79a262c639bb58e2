//! What the tests of the source have in common: writing to Kafka, and reading the log.

use annals::mirror::{
    KafkaConfig, MirrorError, ORIGIN_LOG, ORIGIN_OFFSET, ORIGIN_PARTITION, ORIGIN_TOPIC, Source, SourceBuilder,
};
use annals::{Log, Start, TopicSettings};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio::sync::broadcast::Receiver;

use crate::support::{Broker, Dumped, PATIENCE};

/// A source of these topics that makes them in the log.
pub(crate) fn source(log: &Log, broker: &Broker, topics: &[&str]) -> SourceBuilder {
    Source::builder(log)
        .topics(topics.iter().copied())
        .from(KafkaConfig::new(broker.bootstrap()))
        .create_topics(TopicSettings::default())
}

/// A record that is to be written to Kafka.
#[derive(Debug, Clone, Default)]
pub(crate) struct New<'a> {
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'a str, Option<&'a [u8]>)],
    pub(crate) timestamp: Option<i64>,
}

/// A record of text.
pub(crate) fn text(partition: i32, value: &str) -> New<'_> {
    New { partition, value: Some(value.as_bytes()), ..New::default() }
}

/// Writes to Kafka, in transactions or without.
pub(crate) struct Writer(BaseProducer, bool);

impl Writer {
    pub(crate) fn new(broker: &Broker) -> Self {
        Self(broker.client().set("enable.idempotence", "true").create().unwrap(), false)
    }

    pub(crate) fn transactional(broker: &Broker) -> Self {
        let id = broker.unique("writer");
        let producer: BaseProducer = broker.client().set("transactional.id", id).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        Self(producer, true)
    }

    fn send(&self, topic: &str, new: &New<'_>) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(new.partition);
        (record.key, record.payload, record.timestamp) = (new.key, new.value, new.timestamp);
        if !new.headers.is_empty() {
            let headers = new
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: *value }));
            record.headers = Some(headers);
        }
        self.0.send(record).map_err(|(error, _)| error).unwrap();
    }

    /// Writes all of them, in one transaction if there are any.
    pub(crate) fn write(&self, topic: &str, records: &[New<'_>]) {
        self.attempt(topic, records, true);
    }

    /// Writes them in a transaction that is aborted.
    pub(crate) fn write_in_vain(&self, topic: &str, records: &[New<'_>]) {
        self.attempt(topic, records, false);
    }

    fn attempt(&self, topic: &str, records: &[New<'_>], commits: bool) {
        if self.1 {
            self.0.begin_transaction().unwrap();
        }
        for record in records {
            self.send(topic, record);
        }
        self.0.flush(PATIENCE).unwrap();
        match (self.1, commits) {
            (true, true) => self.0.commit_transaction(PATIENCE).unwrap(),
            (true, false) => self.0.abort_transaction(PATIENCE).unwrap(),
            (false, _) => {}
        }
    }

    pub(crate) fn write_texts(&self, topic: &str, partition: i32, texts: impl IntoIterator<Item = String>) {
        let texts: Vec<String> = texts.into_iter().collect();
        let records: Vec<New<'_>> = texts.iter().map(|value| text(partition, value)).collect();
        self.write(topic, &records);
    }
}

/// A record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) partition: u32,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Found {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(other, _)| other == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    pub(crate) fn value(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().unwrap()).unwrap()
    }

    /// Without the headers of an origin.
    pub(crate) fn bare(mut self) -> Self {
        let origin = [ORIGIN_LOG, ORIGIN_TOPIC, ORIGIN_PARTITION, ORIGIN_OFFSET];
        self.headers.retain(|(name, _)| !origin.contains(&&**name));
        self
    }
}

impl From<Dumped> for Found {
    fn from(dumped: Dumped) -> Self {
        let Dumped { partition, timestamp, key, value, headers, .. } = dumped;
        Self { partition, timestamp, key, value, headers }
    }
}

/// What a topic of the log has, by partition and in order.
pub(crate) fn found(log: &Log, topic: &str) -> Vec<Found> {
    let mut history = log.replay_topics([topic], Start::Earliest).unwrap().blocking().unwrap();
    let mut found = Vec::new();
    while let Some(record) = history.next().unwrap() {
        found.push(Found {
            partition: record.partition(),
            timestamp: record.timestamp_micros() / 1000,
            key: record.key().map(<[u8]>::to_vec),
            value: record.value().map(<[u8]>::to_vec),
            headers: record.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
        });
    }
    found.sort_by_key(|record| record.partition);
    found
}

/// The texts of one partition.
pub(crate) fn texts(log: &Log, topic: &str, partition: u32) -> Vec<String> {
    found(log, topic)
        .iter()
        .filter(|found| found.partition == partition)
        .map(|found| found.value().to_owned())
        .collect()
}

/// Waits for an error that says this.
pub(crate) async fn error_with(errors: &mut Receiver<MirrorError>, part: &str) -> MirrorError {
    let wait = async {
        loop {
            let met = errors.recv().await.unwrap();
            if met.error.to_string().contains(part) {
                return met;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("no error said {part:?}"))
}

/// Waits until the source has caught up.
pub(crate) async fn caught_up(source: &Source) {
    let caught_up = tokio::time::timeout(PATIENCE, source.caught_up()).await;
    caught_up.unwrap_or_else(|_| panic!("it did not catch up: {:?}", source.status())).unwrap();
}

pub(crate) fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}
