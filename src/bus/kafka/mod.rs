//! A bus on Kafka: events are in its topics, what groups have done in its consumer groups, and nothing that was acknowledged is
//! anywhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::{Bus, BusSettings};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Log, LogBuilder};
use crate::kafka::{Admin, KafkaConfig};
use crate::log::engine::Engine;
use crate::segment::lock;
use crate::storage::Clock;

mod clients;
mod committer;
mod desk;
mod ends;
mod feed;
mod letters;
mod look;
mod member;
mod note;
mod places;
mod publish;
mod read;
mod records;
mod take_over;
#[cfg(test)]
mod tests;
mod threads;
mod topics;
mod wanted;
mod writer;

pub(super) use feed::{Feed, Join};
pub(super) use publish::publish;
pub(super) use records::{Outgoing, encoded};
pub(super) use topics::{TopicInfo, not_found};

use clients::{Client, Producer};
use desk::Place;
use writer::Writer;

/// How long one question to the brokers may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long an event that is published may take to be taken.
const DELIVERY_MAX: Duration = Duration::from_secs(30);
/// How long a transaction may take. What a process leaves behind that is killed holds others up for as long, and for as long again until
/// the brokers look.
const TRANSACTION_MAX: Duration = Duration::from_secs(10);

/// The cluster that a bus is on.
pub(super) struct Cluster {
    config: KafkaConfig,
    /// Its clock, and whether the bus is closed: there are no events in it.
    engine: Arc<Engine>,
    query: Client,
    admin: Admin,
    producer: Mutex<Producer>,
    /// For events that are published as one.
    batches: Mutex<Option<Writer>>,
    /// What this bus is known by, if it has to be.
    id: String,
    topics: RwLock<BTreeMap<Arc<str>, Arc<TopicInfo>>>,
    /// Why the last event could not be published, if it could not.
    trouble: Mutex<Option<Error>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Bus {
    /// A bus on Kafka: the same handlers, retries and dead letters, with topics and consumer groups of a cluster under them, for
    /// when one machine is no longer enough. Nothing is sent before the first event or subscription.
    ///
    /// What only a log can do is an error here, [`Unsupported`](ErrorKind::Unsupported), when it is asked for;
    /// `docs/KAFKA.md` has the table. [`Bus::log`] is an empty log in memory that takes no topics; closing it closes the bus.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for settings outside of what is allowed, and for properties that the client does not have.
    ///
    /// # Example
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::mirror::KafkaConfig;
    /// use annals::{Bus, BusSettings, Context, Event, Json, TopicDef};
    ///
    /// const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");
    /// const INVOICES: TopicDef<u64, Json> = TopicDef::new("invoices");
    ///
    /// let bus = Bus::on_kafka(KafkaConfig::new("kafka-1:9092,kafka-2:9092"), BusSettings::default())?;
    /// bus.on(ORDERS, "billing", |order: Event<u64>, cx: Context| async move {
    ///     cx.publish(INVOICES, order.value().copied().unwrap_or(0) * 2).await   // with the order's offset, as one transaction
    /// })
    /// .spawn()
    /// .await?;
    /// bus.publish(ORDERS, 17).await?;
    /// # Ok(()) }
    /// ```
    pub fn on_kafka(config: KafkaConfig, settings: BusSettings) -> Result<Self> {
        settings.validate()?;
        let log = LogBuilder::default().in_memory()?;
        let cluster = Cluster::new(config, &log)?;
        Ok(Self::with_store(log, settings, super::backend::Store::Kafka(cluster)))
    }
}

impl Cluster {
    fn new(config: KafkaConfig, log: &Log) -> Result<Arc<Self>> {
        let engine = Arc::clone(&log.inner.engine);
        engine.refuse_topics(
            "the bus is on Kafka, and its topics are there: this log takes none; that of a bus on a log, in memory or on a disk, does",
        );
        let id = format!("annals-{:016x}{:016x}", engine.env.random.next_u64(), engine.env.random.next_u64());
        Ok(Arc::new(Self {
            query: clients::query(&config)?,
            admin: Admin::new(&config)?,
            producer: Mutex::new(clients::producer(&config)?),
            batches: Mutex::default(),
            topics: RwLock::default(),
            trouble: Mutex::default(),
            config,
            engine,
            id,
        }))
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        &self.engine.env.clock
    }

    fn now(&self) -> Duration {
        self.clock().monotonic()
    }

    /// Asks where partitions begin and end.
    fn asked<T>(&self, context: &str, ask: impl Fn(&Client, Duration) -> Result<T, KafkaError>) -> Result<T> {
        clients::asked(&**self.clock(), &self.query, context, ask)
    }

    /// Why the last event could not be published, if it was for the brokers.
    pub(super) fn trouble(&self) -> Option<Error> {
        lock(&self.trouble).clone()
    }

    fn check_open(&self) -> Result<()> {
        self.engine.check_open()
    }
}

/// What only a log can do.
pub(super) fn unsupported(what: &str) -> Error {
    let sentence = format!("a bus on Kafka has no {what}; a bus on a log, in memory or on a disk, has");
    Error::new(ErrorKind::Unsupported, sentence)
}

fn place_list(places: &[Place]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
}

/// All partitions of a topic.
fn places_of(topic: &TopicInfo) -> Vec<Place> {
    let count = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    (0..count).map(|partition| (Arc::clone(&topic.name), partition)).collect()
}
