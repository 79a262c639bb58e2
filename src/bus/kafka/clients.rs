//! The clients of Kafka, and how they are set up.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::FutureProducer;

use super::{ANSWER_MAX, DELIVERY_MAX, TRANSACTION_MAX};
use crate::error::{Error, Result};
use crate::kafka::{Class, KafkaConfig, KafkaContext, class, code, from_kafka};
use crate::storage::Clock;

pub(super) type Client = BaseConsumer<KafkaContext>;
pub(super) type Producer = FutureProducer<KafkaContext>;

/// What a client is told unless the user has said otherwise, and what it must be told.
fn configured(mut client: ClientConfig, usual: &[(&str, &str)], needed: &[(&str, &str)]) -> ClientConfig {
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

fn cannot_make(error: KafkaError) -> Error {
    from_kafka("cannot make a client of Kafka", error)
}

fn consumer(config: &KafkaConfig, needed: &[(&str, &str)]) -> Result<Client> {
    let usual = [("queued.max.messages.kbytes", "16384")];
    configured(config.consumer(), &usual, needed).create_with_context(KafkaContext::new(config)).map_err(cannot_make)
}

/// A client that asks where partitions begin and end. Records count for it before their transaction is over.
pub(super) fn query(config: &KafkaConfig) -> Result<Client> {
    consumer(config, &[("isolation.level", "read_uncommitted")])
}

/// A client that reads what is committed, without being in a group.
pub(super) fn reader(config: &KafkaConfig) -> Result<Client> {
    // Nobody is given partitions without the name of a group; nothing is ever committed to this one.
    consumer(config, &[("group.id", "annals-reader"), ("auto.offset.reset", "earliest")])
}

/// A client that asks what a group has committed, and is not in it.
pub(super) fn outsider(config: &KafkaConfig, group: &str) -> Result<Client> {
    consumer(config, &[("group.id", group)])
}

pub(super) fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

/// Keys go where Kafka's own clients send them. Which record is too large is left to the topic's setting.
const PLACED: (&str, &str) = ("partitioner", "murmur2_random");
const RECORD_BYTES_MAX: (&str, &str) = ("message.max.bytes", "100000000");

/// The producer of single events.
pub(super) fn producer(config: &KafkaConfig) -> Result<Producer> {
    let client = config.producer();
    let delivery = DELIVERY_MAX.as_millis().to_string();
    let mut usual = vec![("linger.ms", "0"), RECORD_BYTES_MAX];
    if client.get("message.timeout.ms").is_none() {
        usual.push(("delivery.timeout.ms", &delivery));
    }
    configured(client, &usual, &[PLACED]).create_with_context(KafkaContext::new(config)).map_err(cannot_make)
}

/// A producer of transactions.
pub(super) fn transactional(config: &KafkaConfig, id: &str) -> ClientConfig {
    let timeout = TRANSACTION_MAX.as_millis().to_string();
    let usual = [
        ("linger.ms", "0"),
        // The brokers want to be asked again while the transaction before is brought to its end: a matter of milliseconds.
        ("retry.backoff.ms", "10"),
        ("retry.backoff.max.ms", "500"),
        RECORD_BYTES_MAX,
        ("transaction.timeout.ms", &timeout),
    ];
    let mut client = configured(config.producer(), &usual, &[PLACED, ("transactional.id", id)]);
    // Bounded by the transaction's own.
    client.remove("message.timeout.ms").remove("delivery.timeout.ms");
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
    ];
    let mut client = configured(config.consumer(), &usual, &needed);
    if let Some(name) = name {
        client.set("client.id", name);
    }
    client
}

/// How long a question waits before the client's own events are served: tokens are asked for by one.
const SLICE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer, or an error that does not pass, or the time is over.
pub(super) fn asked<T>(
    clock: &dyn Clock,
    client: &Client,
    context: &str,
    ask: impl Fn(&Client, Duration) -> Result<T, KafkaError>,
) -> Result<T> {
    let until = clock.monotonic().saturating_add(ANSWER_MAX);
    let mut pause = PAUSE;
    loop {
        // Nothing is consumed: there are events only.
        drop(client.poll(Duration::ZERO));
        let error = match ask(client, SLICE) {
            Ok(answer) => {
                // Whatever there was before has passed.
                client.context().take_trouble(context);
                return Ok(answer);
            }
            Err(error) => error,
        };
        drop(client.poll(pause));
        pause = pause.saturating_mul(2).min(SLICE);
        let is_new = code(&error) == Some(Code::UnknownPartition);
        if is_new {
            // It was added, and by itself the client hears of that some minutes later.
            drop(client.fetch_metadata(None, SLICE));
        }
        let passes = is_new || code(&error).is_none_or(|code| class(code) == Class::Passing);
        // What went wrong in the background says more: nobody has let this client in.
        let trouble = client.context().take_trouble(context);
        match trouble {
            Some((Class::Fatal, known)) => return Err(known),
            Some((_, known)) if passes && clock.monotonic() >= until => return Err(known),
            _ if !passes || clock.monotonic() >= until => return Err(from_kafka(context, error)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientContext;
    use rdkafka::consumer::Consumer;
    use rdkafka::error::KafkaError;

    use super::{Code, asked, query};
    use crate::kafka::{Class, KafkaConfig};
    use crate::storage::clock::ManualClock;

    #[test]
    fn an_answer_shows_that_earlier_trouble_has_passed() {
        // Nobody listens there.
        let client = query(&KafkaConfig::new("127.0.0.1:9")).unwrap();
        client.context().error(KafkaError::Global(Code::Authentication), "not let in");
        asked(&ManualClock::new(0), &client, "asked", |_, _| Ok(())).unwrap();
        // That there is no broker may have been found out meanwhile.
        let known = client.context().take_trouble("known");
        assert!(!matches!(known, Some((Class::Fatal, _))), "{known:?}");
    }
}
