//! The producer of a mirror: what it is told, and what becomes of what it was given.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext};

use super::settings::{Guarantee, MirrorBuilder};
use super::shared::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{Class, KafkaConfig, KafkaContext, class, from_code, from_kafka};

/// How long a transaction may be open before the cluster aborts it, unless the settings say otherwise.
const TRANSACTION_MAX: Duration = Duration::from_secs(60);
/// How long the first question to the cluster may take: whoever connects tries again, and looks at its partitions in between.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// How long one question to the cluster may take before whoever waits for it looks round.
const SLICE: Duration = Duration::from_secs(2);
/// How often it looks whether there is room, or whether everything is delivered. The library's own waits go to their end whatever comes,
/// and keep a processor busy for the last millisecond of each.
const LOOK: Duration = Duration::from_micros(500);
/// How long it waits for the other reports once one thing was not delivered.
const REPORTS_MAX: Duration = Duration::from_secs(2);
/// How many records the client library may hold: they cost it memory beside their bytes.
const IN_FLIGHT_RECORDS_MAX: usize = 500_000;

/// What the client library tells.
pub(super) struct Told {
    kafka: KafkaContext,
    /// The records that were not delivered, by their numbers in the unit.
    failed: Mutex<Vec<(usize, Code)>>,
}

impl ClientContext for Told {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = KafkaContext::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.kafka.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.kafka.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.kafka.generate_oauth_token(config)
    }
}

impl ProducerContext<NoCustomPartitioner> for Told {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        if let Err((error, _)) = result {
            lock(&self.failed).push((number, error.rdkafka_error_code().unwrap_or(Code::Fail)));
        }
    }
}

/// A record as the client library takes it.
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: OwnedHeaders,
    /// In milliseconds; the library's own time without it.
    pub(super) timestamp: Option<i64>,
}

/// A producer that has begun: whoever had its identity before is fenced off.
pub(super) struct Producer {
    inner: BaseProducer<Told>,
    transactional: bool,
}

/// Why something did not work.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It passes.
    Passing(Error),
    /// Nothing can go on, unless the cluster has shut the mirror out: it does so for another instance, and for a transaction that was open
    /// for too long.
    Fatal(Error),
    /// Another instance goes on in place of this one.
    Superseded(Error),
    /// Everything was seen to: begin again from where the target says it has come to.
    Again,
    /// Somebody wants it to stop.
    Stopped,
}

impl Trouble {
    /// What an error of the client library means for all of the mirror.
    pub(super) fn of(context: impl Into<String>, error: KafkaError) -> Self {
        let is_fatal = match &error {
            KafkaError::Transaction(inner) => inner.is_fatal() && class(inner.code()) == Class::Fatal,
            other => other.rdkafka_error_code().is_some_and(|code| class(code) == Class::Fatal),
        };
        let error = from_kafka(context, error);
        if is_fatal { Self::Fatal(error) } else { Self::Passing(error) }
    }
}

impl From<Error> for Trouble {
    /// What an error of the log, or one that was understood already, means.
    fn from(error: Error) -> Self {
        match error.kind() {
            // A topic of the log that was deleted is found out about when it begins again.
            ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::StorageFull | ErrorKind::NotFound => {
                Self::Passing(error)
            }
            _ => Self::Fatal(error),
        }
    }
}

impl Producer {
    /// Makes one, and keeps whoever has the same identity from going on.
    pub(super) fn begin(
        settings: &MirrorBuilder,
        kafka: &KafkaConfig,
        is_stopping: impl Fn() -> bool,
    ) -> Result<Self, Trouble> {
        let transactional = settings.guarantee == Guarantee::ExactlyOnce;
        // The library counts what waits in these.
        let kilobytes = settings.in_flight_bytes_max / 1024;
        let mut config = kafka.producer();
        config
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.kbytes", kilobytes.to_string())
            .set("queue.buffering.max.messages", IN_FLIGHT_RECORDS_MAX.to_string())
            .set("message.max.bytes", (kilobytes * 1024).min(1_000_000_000).to_string());
        if transactional {
            config.set("transactional.id", format!("annals.{}.{}", settings.log.id(), settings.name));
            if config.get("transaction.timeout.ms").is_none() {
                // No record may wait for longer than its transaction.
                let millis = |name: &str| config.get(name).and_then(|millis| millis.parse().ok()).unwrap_or(0);
                let longest = millis("delivery.timeout.ms").max(millis("linger.ms") + 1);
                config.set("transaction.timeout.ms", longest.max(TRANSACTION_MAX.as_millis()).to_string());
            }
        }
        let inner: BaseProducer<Told> = config
            .create_with_context(Told { kafka: KafkaContext::new(kafka), failed: Mutex::default() })
            .map_err(|error| Trouble::Fatal(from_kafka("the Kafka client cannot be made", error)))?;
        let producer = Self { inner, transactional };
        if transactional {
            producer.patiently("the mirror cannot begin its transactions", &is_stopping, BEGIN_MAX, || {
                producer.inner.init_transactions(SLICE)
            })?;
        }
        Ok(producer)
    }

    /// Does something again that has not answered in time, for as long as it may take.
    fn patiently(
        &self,
        context: &str,
        is_stopping: impl Fn() -> bool,
        most: Duration,
        mut act: impl FnMut() -> Result<(), KafkaError>,
    ) -> Result<(), Trouble> {
        let mut slices = most.as_secs() / SLICE.as_secs();
        loop {
            let error = match act() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.inner.poll(Duration::ZERO);
            self.check_denied()?;
            slices -= 1;
            let again = matches!(&error, KafkaError::Transaction(inner) if inner.is_retriable());
            if !again || slices == 0 {
                return Err(self.trouble(context, error));
            }
            if is_stopping() {
                return Err(Trouble::Stopped);
            }
        }
    }

    /// Whether the cluster has said that it does not let this client in, which no call is told.
    fn check_denied(&self) -> Result<(), Trouble> {
        match self.inner.context().kafka.take_trouble("the cluster does not let the mirror in") {
            Some((Class::Fatal, error)) => Err(Trouble::Fatal(error)),
            _ => Ok(()),
        }
    }

    /// What has made this client useless, if anything has: whatever else is said of it only follows from that. Another client may do
    /// better.
    pub(super) fn broken(&self, context: &str) -> Option<Trouble> {
        let (code, reason) = self.inner.client().fatal_error()?;
        let error = from_code(context, code, reason);
        Some(if class(code) == Class::Fatal { Trouble::Fatal(error) } else { Trouble::Passing(error) })
    }

    /// Why the transaction cannot be committed, if records were not delivered without any of them being to blame. It is committed in no
    /// case then: the library sees to that, and is asked for the reason like this only.
    pub(super) fn refusal(&self) -> Option<KafkaError> {
        if self.transactional { self.inner.commit_transaction(SLICE).err() } else { None }
    }

    fn trouble(&self, context: &str, error: KafkaError) -> Trouble {
        self.broken(context).unwrap_or_else(|| Trouble::of(context, error))
    }

    pub(super) fn begin_transaction(&self) -> Result<(), Trouble> {
        if !self.transactional {
            return Ok(());
        }
        self.inner.begin_transaction().map_err(|error| self.trouble("the mirror cannot begin a transaction", error))
    }

    /// Hands a record over; waits as long as there is no room. `Ok(Some)` if the library will not take this record.
    pub(super) fn send(
        &self,
        number: usize,
        outgoing: Outgoing<'_>,
        is_stopping: impl Fn() -> bool,
    ) -> Result<Option<Code>, Trouble> {
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(outgoing.topic, number).partition(outgoing.partition as i32);
        (record.key, record.payload, record.timestamp) = (outgoing.key, outgoing.value, outgoing.timestamp);
        record.headers = Some(outgoing.headers);
        loop {
            let (error, back) = match self.inner.send(record) {
                Ok(()) => return Ok(None),
                Err(refused) => refused,
            };
            match error.rdkafka_error_code() {
                Some(Code::QueueFull) => {
                    self.inner.poll(Duration::ZERO);
                    self.check_denied()?;
                    if self.has_failed() {
                        // Whoever looks at what has failed finds out why.
                        return Ok(None);
                    }
                    if is_stopping() {
                        return Err(Trouble::Stopped);
                    }
                    std::thread::sleep(LOOK);
                    record = back;
                }
                // A record of this transaction was refused. Which one will be told in a moment, and matters more than this.
                Some(Code::State) if self.transactional => {
                    self.flush(&is_stopping)?;
                    if !self.has_failed() {
                        return Err(self.trouble("the Kafka client does not take a record", error));
                    }
                    return Ok(None);
                }
                // The client does not know the newest partitions. Another one asks for them.
                Some(Code::UnknownPartition | Code::UnknownTopic) => {
                    let context = format!(
                        "the Kafka client does not know partition {} of topic {}",
                        outgoing.partition, outgoing.topic
                    );
                    return Err(Trouble::Passing(from_kafka(context, error)));
                }
                Some(code) if class(code) == Class::Partition => return Ok(Some(code)),
                _ => return Err(self.trouble("the Kafka client does not take a record", error)),
            }
        }
    }

    /// Lets the library tell what there is to tell.
    pub(super) fn poll(&self) {
        self.inner.poll(Duration::ZERO);
    }

    pub(super) fn has_failed(&self) -> bool {
        !lock(&self.inner.context().failed).is_empty()
    }

    /// What was not delivered; nothing if all was. What was only thrown away for something else may be told before that, so the rest is
    /// waited for.
    pub(super) fn take_failed(&self) -> Vec<(usize, Code)> {
        if self.has_failed() {
            let mut looks = REPORTS_MAX.as_nanos() / LOOK.as_nanos();
            while self.inner.in_flight_count() > 0 && looks > 0 {
                self.inner.poll(Duration::ZERO);
                std::thread::sleep(LOOK);
                looks -= 1;
            }
        }
        std::mem::take(&mut lock(&self.inner.context().failed))
    }

    /// Waits until everything that was handed over is delivered, or one thing is not.
    pub(super) fn flush(&self, is_stopping: impl Fn() -> bool) -> Result<(), Trouble> {
        while self.inner.flush(Duration::ZERO).is_err() {
            self.inner.poll(Duration::ZERO);
            self.check_denied()?;
            if self.has_failed() {
                return Ok(());
            }
            if is_stopping() {
                return Err(Trouble::Stopped);
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Commits the transaction. If it is not known whether it is committed, the checkpoint tells.
    pub(super) fn commit(&self, is_stopping: impl Fn() -> bool) -> Result<(), Trouble> {
        if !self.transactional {
            return Ok(());
        }
        self.patiently("the mirror cannot commit its transaction", is_stopping, TRANSACTION_MAX, || {
            self.inner.commit_transaction(SLICE)
        })
    }

    /// Aborts the transaction as well as it can: what it cannot, the next `init_transactions` does, or the cluster in time.
    pub(super) fn abort(&self) {
        if self.transactional
            && let Err(error) = self.inner.abort_transaction(SLICE)
        {
            tracing::debug!(%error, "a transaction was left for the cluster to abort");
        }
    }
}
