//! The clients of Kafka, and how they are set up.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel as Level};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::FutureProducer;

use super::{ANSWER_MAX, DELIVERY_MAX};
use crate::error::Result;
use crate::kafka::{KafkaConfig, from_kafka};

/// What a client does beside its work: what it has to say goes into the log of the program.
#[derive(Debug)]
pub(super) struct Background;

impl Background {
    pub(super) fn of(_: &KafkaConfig) -> Self {
        Self
    }
}

impl ClientContext for Background {
    fn log(&self, level: Level, facility: &str, line: &str) {
        match level {
            Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning => {
                tracing::warn!(target: "annals::kafka", facility, "{line}");
            }
            Level::Notice | Level::Info => tracing::info!(target: "annals::kafka", facility, "{line}"),
            Level::Debug => tracing::debug!(target: "annals::kafka", facility, "{line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "annals::kafka", %error, "{reason}");
    }
}

impl ConsumerContext for Background {}

pub(super) type Query = BaseConsumer<Background>;
pub(super) type Admin = AdminClient<Background>;
pub(super) type Producer = FutureProducer<Background>;

/// What every client is told, what it is told unless the user has said otherwise, and what it must be told.
pub(super) fn configured(config: &KafkaConfig, usual: &[(&str, &str)], needed: &[(&str, &str)]) -> ClientConfig {
    let mut client = config.client();
    for (name, value) in usual {
        if client.get(name).is_none() {
            client.set(*name, *value);
        }
    }
    for (name, value) in needed {
        client.set(*name, *value);
    }
    client
}

fn create<C: ClientContext, T: FromClientConfigAndContext<C>>(client: &ClientConfig, context: C, what: &str) -> Result<T> {
    T::from_config_and_context(client, context)
        .map_err(|error| from_kafka(format!("cannot make {what} of Kafka"), error))
}

/// A client that asks: for topics, and for where partitions begin and end. It is told of records before their transaction is over.
pub(super) fn query(config: &KafkaConfig) -> Result<Query> {
    let needed = [("isolation.level", "read_uncommitted"), ("allow.auto.create.topics", "false")];
    create(&configured(config, &[], &needed), Background::of(config), "a consumer")
}

pub(super) fn admin(config: &KafkaConfig) -> Result<Admin> {
    create(&configured(config, &[], &[]), Background::of(config), "an administrator")
}

pub(super) fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

/// What every producer is told. Which record is too large is left to the topic's own setting.
const PRODUCER: [(&str, &str); 3] =
    [("enable.idempotence", "true"), ("acks", "all"), ("partitioner", "murmur2_random")];
const RECORD_BYTES_MAX: (&str, &str) = ("message.max.bytes", "100000000");

/// The producer of single events.
pub(super) fn producer(config: &KafkaConfig) -> Result<Producer> {
    let delivery = DELIVERY_MAX.as_millis().to_string();
    let mut usual = vec![("linger.ms", "0"), RECORD_BYTES_MAX];
    if config.client().get("message.timeout.ms").is_none() {
        usual.push(("delivery.timeout.ms", &delivery));
    }
    create(&configured(config, &usual, &PRODUCER), Background::of(config), "a producer")
}

/// A producer of transactions.
pub(super) fn transactional(config: &KafkaConfig, id: &str) -> ClientConfig {
    let timeout = super::TRANSACTION_MAX.as_millis().to_string();
    let usual = [("linger.ms", "0"), RECORD_BYTES_MAX, ("transaction.timeout.ms", &*timeout)];
    let mut client = configured(config, &usual, &PRODUCER);
    // Bounded by the transaction's own.
    client.remove("message.timeout.ms").remove("delivery.timeout.ms");
    client.set("transactional.id", id);
    client
}

/// The member of a group.
pub(super) fn member(config: &KafkaConfig, group: &str, name: Option<&str>) -> ClientConfig {
    let usual = [
        ("session.timeout.ms", "10000"),
        ("heartbeat.interval.ms", "1000"),
        ("queued.max.messages.kbytes", "16384"),
        ("fetch.queue.backoff.ms", "20"),
    ];
    let needed = [
        ("group.id", group),
        // Members that read the same topics have the same partitions of them: of events, and of those that are replayed.
        ("partition.assignment.strategy", "range"),
        ("group.protocol", "classic"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // Where events are gone it says so, and does not just go on elsewhere.
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("allow.auto.create.topics", "false"),
    ];
    let mut client = configured(config, &usual, &needed);
    if let Some(name) = name {
        client.set("client.id", name);
    }
    client
}

/// A client that reads what is committed, without being in a group.
pub(super) fn reader(config: &KafkaConfig) -> Result<Query> {
    // A consumer cannot be assigned partitions without the name of a group; nothing is ever committed to this one.
    let needed = [
        ("group.id", "annals-reader"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "earliest"),
        ("isolation.level", "read_committed"),
        ("allow.auto.create.topics", "false"),
    ];
    create(
        &configured(config, &[("queued.max.messages.kbytes", "16384")], &needed),
        Background::of(config),
        "a consumer",
    )
}

/// A client that asks what a group has committed, and is not in it.
pub(super) fn outsider(config: &KafkaConfig, group: &str) -> Result<Query> {
    let needed = [("group.id", group), ("enable.auto.commit", "false"), ("isolation.level", "read_committed")];
    create(&configured(config, &[], &needed), Background::of(config), "a consumer")
}
