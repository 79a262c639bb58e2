//! Transactions: records, and what a group has finished, are written as one.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::clients::transactional;
use super::records::{Outgoing, millis};
use super::{ANSWER_MAX, TRANSACTION_MAX};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{KafkaConfig, KafkaContext, from_kafka};
use crate::log::settings::Durability;
use crate::producer::Receipt;
use crate::segment::lock;
use crate::storage::Clock;

/// How a transaction has failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing of it is there, and the writer can go on.
    Aborted(Error),
    /// The writer is of no use any more: another has to be made, which first sees to what is left of this one's. Nothing of the
    /// transaction is there.
    Broken(Error),
    /// The same, and nobody knows what became of the transaction.
    Unknown(Error),
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Aborted(error) | Self::Broken(error) | Self::Unknown(error) => error,
        }
    }
}

/// What a group has finished, and what its member is known by.
pub(super) struct Offsets<'a> {
    pub(super) list: &'a TopicPartitionList,
    pub(super) member: &'a ConsumerGroupMetadata,
}

/// A producer of one transaction after the other.
pub(super) struct Writer {
    producer: ThreadedProducer<Told>,
    clock: Arc<dyn Clock>,
}

/// What became of the records of one transaction.
#[derive(Default)]
struct Answers {
    got: Mutex<Got>,
    more: Condvar,
}

/// Partition and offset.
type Delivered = Result<(i32, i64), Code>;

#[derive(Default)]
struct Got {
    /// Which transaction it is.
    number: u64,
    /// By the places of the records among those of the transaction.
    list: Vec<(usize, Delivered)>,
}

struct Told {
    background: KafkaContext,
    answers: Arc<Answers>,
}

impl ClientContext for Told {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = KafkaContext::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.background.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.background.error(error, reason);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> std::result::Result<OAuthToken, Box<dyn std::error::Error>> {
        self.background.generate_oauth_token(config)
    }
}

impl ProducerContext<NoCustomPartitioner> for Told {
    /// The number of the transaction, and the place in it.
    type DeliveryOpaque = Box<(u64, usize)>;

    fn delivery(&self, result: &DeliveryResult<'_>, whose: Box<(u64, usize)>) {
        let (number, at) = *whose;
        let answer = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(Code::Fail)),
        };
        let mut got = lock(&self.answers.got);
        // An answer may come late, after its transaction was taken back.
        if got.number == number {
            got.list.push((at, answer));
            self.answers.more.notify_all();
        }
    }
}

const WRITE: &str = "cannot write a transaction";

impl Writer {
    /// A writer of this name. An earlier one of the same name is shut out, and what it has begun is brought to its end.
    pub(super) fn open(config: &KafkaConfig, id: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let context = Told { background: KafkaContext::new(config), answers: Arc::default() };
        let producer = ThreadedProducer::from_config_and_context(&transactional(config, id), context)
            .map_err(|error| from_kafka("cannot make a producer of transactions", error))?;
        let writer = Self { producer, clock };
        let until = writer.clock.monotonic().saturating_add(OPEN_MAX);
        writer
            .again(until, || writer.producer.init_transactions(ANSWER_MAX))
            .map_err(|error| from_kafka("cannot begin with transactions", error))?;
        Ok(writer)
    }

    /// Does something as long as it fails for a reason that passes.
    fn again(&self, until: Duration, work: impl Fn() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
        loop {
            match work() {
                Err(error) if is_retriable(&error) && self.clock.monotonic() < until => {
                    std::thread::sleep(AGAIN_AFTER);
                }
                done => return done,
            }
        }
    }

    /// Writes records, and what is finished, as one. Takes a bounded time.
    pub(super) fn write(&self, records: &[&Outgoing], offsets: Option<&Offsets<'_>>) -> Result<Vec<Receipt>, Failure> {
        let until = self.clock.monotonic().saturating_add(TRANSACTION_MAX);
        let now_micros = self.clock.now_micros();
        let number = self.next();
        self.producer.begin_transaction().map_err(|error| Failure::Broken(from_kafka(WRITE, error)))?;
        for (at, one) in records.iter().enumerate() {
            if let Err(error) = self.send(one, now_micros, (number, at), until) {
                let context = format!("cannot write an event to topic {}", one.topic);
                return Err(self.abort(from_kafka(context, error)));
            }
        }
        let receipts = match self.receipts(records, now_micros) {
            Ok(receipts) => receipts,
            Err(error) => return Err(self.abort(error)),
        };
        if let Some(Offsets { list, member }) = offsets {
            let sent = self.again(until, || self.producer.send_offsets_to_transaction(list, member, ANSWER_MAX));
            if let Err(error) = sent {
                return Err(self.abort(of_offsets(error)));
            }
        }
        // Beyond this nothing can be taken back: it is asked until it is known.
        let until = self.clock.monotonic().saturating_add(COMMIT_MAX);
        match self.again(until, || self.producer.commit_transaction(ANSWER_MAX)) {
            Ok(()) => Ok(receipts),
            Err(error) if requires_abort(&error) => Err(self.abort(from_kafka(WRITE, error))),
            Err(error) => Err(Failure::Unknown(from_kafka("what became of a transaction is not known", error))),
        }
    }

    fn answers(&self) -> &Answers {
        &self.producer.context().answers
    }

    /// The number of the next transaction, of which nothing was answered yet.
    fn next(&self) -> u64 {
        let mut got = lock(&self.answers().got);
        *got = Got { number: got.number + 1, list: Vec::new() };
        got.number
    }

    fn send(&self, one: &Outgoing, now_micros: i64, at: (u64, usize), until: Duration) -> Result<(), KafkaError> {
        let mut record = one.native(now_micros, Box::new(at));
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) if self.clock.monotonic() < until => {
                    record = back;
                    std::thread::sleep(AGAIN_AFTER);
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// What became of the records, once all are answered. The client library's own wait would look every 100 ms only: another thread
    /// serves its answers.
    fn receipts(&self, records: &[&Outgoing], now_micros: i64) -> Result<Vec<Receipt>> {
        let answers = self.answers();
        let waiting = |got: &mut Got| got.list.len() < records.len();
        let got = answers.more.wait_timeout_while(lock(&answers.got), TRANSACTION_MAX, waiting);
        let (mut got, _) = got.unwrap_or_else(PoisonError::into_inner);
        let mut got = std::mem::take(&mut got.list);
        got.sort_unstable_by_key(|(at, _)| *at);
        if got.len() != records.len() {
            return Err(Error::new(ErrorKind::Unavailable, "Kafka has not answered for all events of a transaction"));
        }
        let receipt = |(one, (_, answer)): (&&Outgoing, _)| match answer {
            Ok((partition, offset)) => Ok(receipt(partition, offset, millis(&one.record, now_micros))),
            Err(code) => {
                let context = format!("cannot write an event to topic {}", one.topic);
                Err(from_kafka(context, KafkaError::MessageProduction(code)))
            }
        };
        records.iter().zip(got).map(receipt).collect()
    }

    /// Takes back what was begun, for this reason.
    fn abort(&self, error: Error) -> Failure {
        let until = self.clock.monotonic().saturating_add(TRANSACTION_MAX);
        match self.again(until, || self.producer.abort_transaction(ANSWER_MAX)) {
            Ok(()) => Failure::Aborted(error),
            // It was not committed, and ends with its time at the latest.
            Err(_) => Failure::Broken(error),
        }
    }
}

pub(super) fn receipt(partition: i32, offset: i64, millis: i64) -> Receipt {
    Receipt {
        partition: u32::try_from(partition).unwrap_or(0),
        offset: u64::try_from(offset).unwrap_or(0),
        commit: 0,
        timestamp_micros: millis.saturating_mul(1000),
        durability: Durability::Sync,
    }
}

/// How long a writer may take to begin: as long as one that is shut out may have something under way, and then some.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// How long it is asked what became of a commit.
const COMMIT_MAX: Duration = Duration::from_secs(30);
const AGAIN_AFTER: Duration = Duration::from_millis(20);

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable() && !error.txn_requires_abort(),
        KafkaError::Flush(code) => *code == Code::OperationTimedOut,
        _ => false,
    }
}

fn requires_abort(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort())
}

/// The error of a group that has moved on.
fn of_offsets(error: KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(
            Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::RebalanceInProgress
            | Code::FencedInstanceId
            | Code::AssignmentLost,
        ) => Error::with_source(ErrorKind::Fenced, "the group has given the partition to another member", error),
        Some(Code::OffsetMetadataTooLarge) => Error::with_source(
            ErrorKind::Invalid,
            format!(
                "the brokers keep too little with a commit: set `offset.metadata.max.bytes` to {} or more",
                super::note::BYTES_MAX
            ),
            error,
        ),
        _ => from_kafka("cannot commit what is done", error),
    }
}
