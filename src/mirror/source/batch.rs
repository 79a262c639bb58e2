//! What goes into the log together: records, and how far their partitions have come.

use std::collections::BTreeSet;

use rdkafka::message::{BorrowedMessage, Message as _};

use super::super::checkpoint::Place;
use super::super::origin::{GAP_FROM, GAP_TO, MARKER};
use super::checkpoint::{CHECKPOINT_BYTES_MAX, Checkpoint};
use super::lane::{Lane, Target};
use super::record::{self, HeaderList};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Log;
use crate::record::RecordRef;
use crate::topic::Topic;
use crate::transaction::Transaction;

/// So many bytes of records are written together at most, so that neither memory nor the log's journal is filled by one commit.
const BYTES_MAX: usize = 1024 * 1024;
/// What a record takes of a transaction beside its key, value and headers, at most; a header takes some bytes, too.
const RECORD_OVERHEAD: usize = 64;
const HEADER_OVERHEAD: usize = 16;

/// A transaction in the making.
pub(super) struct Batch {
    log: Log,
    source: String,
    cluster: String,
    checkpoints: Topic,
    transaction: Option<Transaction>,
    /// The lanes that have come further.
    lanes: BTreeSet<usize>,
    bytes: usize,
    pub(super) done: Done,
}

/// What a batch has in it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) passed_over: u64,
    pub(super) refused: u64,
}

/// What became of a record that was to be added.
pub(super) enum Added {
    Yes,
    /// There is no room for it beside the others: commit first.
    Full,
    /// The log does not take it.
    Refused(Error),
}

impl Batch {
    pub(super) fn new(log: Log, source: String, cluster: String, checkpoints: Topic) -> Self {
        let (lanes, done) = (BTreeSet::new(), Done::default());
        Self { log, source, cluster, checkpoints, transaction: None, lanes, bytes: 0, done }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max()
    }

    fn bytes_max(&self) -> usize {
        BYTES_MAX.min(self.log.commit_bytes_max() / 4)
    }

    /// Adds a record of a lane. Nothing has changed unless it was added.
    pub(super) fn add(
        &mut self,
        log: uuid::Uuid,
        index: usize,
        lane: &mut Lane,
        message: &BorrowedMessage<'_>,
        with_origin: bool,
    ) -> Result<Added> {
        let Some(target) = &mut lane.target else { return Err(no_target(&lane.place)) };
        let mut headers = match record::headers(message) {
            Ok(headers) => headers,
            Err(error) => return Ok(Added::Refused(error)),
        };
        if record::is_own(&headers, log) {
            self.advance(index, lane, message);
            self.done.passed_over += 1;
            return Ok(Added::Yes);
        }
        let (named, bytes) = (record::named_origin(&headers).is_some(), record::bytes_of(message, &headers));
        let Target { topic, partition, origin, .. } = target;
        if with_origin && !named {
            origin.add(&mut headers, message.offset());
        }
        let mut fields = RecordRef::default().headers(&headers);
        fields.value = message.payload();
        fields.key = message.key();
        fields.timestamp = record::time(message);
        fields.partition = partition.or_else(|| keyless_partition(message, topic));
        let added = self.produce(topic, fields, takes(message, &headers));
        if matches!(added, Ok(Added::Yes)) {
            self.advance(index, lane, message);
            self.done.received += 1;
            self.done.received_bytes += bytes as u64;
        }
        added
    }

    /// Adds the mark that stands for a record that the log does not take.
    pub(super) fn add_skipped(
        &mut self,
        index: usize,
        lane: &mut Lane,
        message: &BorrowedMessage<'_>,
        error: &Error,
    ) -> Result<Added> {
        let Some(target) = &mut lane.target else { return Err(no_target(&lane.place)) };
        let text = error.to_string();
        let mut headers: HeaderList<'_> = vec![(MARKER, Some(b"skipped")), ("annals.error", Some(text.as_bytes()))];
        let Target { topic, partition, origin, .. } = target;
        origin.add(&mut headers, message.offset());
        let mut fields = RecordRef::new(b"").headers(&headers);
        fields.key = message.key();
        fields.timestamp = record::time(message);
        fields.partition = partition.or_else(|| keyless_partition(message, topic));
        let bytes = takes(message, &headers);
        let added = self.produce(topic, fields, bytes);
        if matches!(added, Ok(Added::Yes)) {
            self.advance(index, lane, message);
            self.done.refused += 1;
        }
        added
    }

    /// Adds the mark that stands for records that Kafka has let go, and has the lane go on behind them.
    pub(super) fn add_gap(&mut self, index: usize, lane: &mut Lane, to: i64) -> Result<Added> {
        let from = lane.taken;
        let Some(target) = &mut lane.target else { return Err(no_target(&lane.place)) };
        let (from_text, to_text) = (from.to_string(), to.to_string());
        let mut headers: HeaderList<'_> =
            vec![(MARKER, Some(b"gap")), (GAP_FROM, Some(from_text.as_bytes())), (GAP_TO, Some(to_text.as_bytes()))];
        let Target { topic, partition, origin, .. } = target;
        origin.add(&mut headers, from);
        let mut fields = RecordRef::new(b"").headers(&headers);
        // Only where the key picks the partition is there none yet.
        fields.partition = Some(partition.unwrap_or(lane.place.1 % topic.partitions().max(1)));
        let added = self.produce(topic, fields, CHECKPOINT_BYTES_MAX);
        if matches!(added, Ok(Added::Yes)) {
            (lane.taken, lane.last, lane.verify) = (to, None, None);
            self.lanes.insert(index);
        }
        added
    }

    /// Has the checkpoint of a lane written although nothing came: where it begins is not to change.
    pub(super) fn add_beginning(&mut self, index: usize) {
        self.lanes.insert(index);
    }

    fn produce(&mut self, topic: &Topic, record: RecordRef<'_>, bytes: usize) -> Result<Added> {
        // What the checkpoints will take is kept free.
        let reserved = (self.lanes.len() + 1) * CHECKPOINT_BYTES_MAX;
        let room = self.log.commit_bytes_max().saturating_sub(reserved + self.bytes);
        if bytes > room && !self.is_empty() {
            return Ok(Added::Full);
        }
        let transaction = self.transaction.get_or_insert_with(|| self.log.transaction());
        match transaction.produce_ref(topic, record) {
            Ok(()) => {
                self.bytes += bytes;
                Ok(Added::Yes)
            }
            Err(error) if !self.is_empty() && error.kind() == ErrorKind::Invalid => Ok(Added::Full),
            Err(error) if error.kind() == ErrorKind::Invalid => Ok(Added::Refused(error)),
            Err(error) => Err(error),
        }
    }

    fn advance(&mut self, index: usize, lane: &mut Lane, message: &BorrowedMessage<'_>) {
        lane.taken = message.offset() + 1;
        lane.last = Some(super::checkpoint::Print::of(message));
        self.lanes.insert(index);
    }

    /// Commits: the records, and that they were read, are in the log, or neither is. Answers what was in it.
    pub(super) fn commit(&mut self, lanes: &mut [Lane]) -> Result<Done> {
        if self.is_empty() {
            return Ok(Done::default());
        }
        let mut transaction = self.transaction.take().unwrap_or_else(|| self.log.transaction());
        let touched = std::mem::take(&mut self.lanes);
        let done = std::mem::take(&mut self.done);
        self.bytes = 0;
        for lane in touched.iter().filter_map(|index| lanes.get(*index)) {
            let Some(target) = &lane.target else { return Err(no_target(&lane.place)) };
            let checkpoint = Checkpoint::new(self.cluster.clone(), target.topic_id.clone(), lane.taken, lane.last);
            checkpoint.put(&mut transaction, &self.checkpoints, &self.source, &lane.place)?;
        }
        transaction.blocking_commit()?;
        for index in touched {
            if let Some(lane) = lanes.get_mut(index) {
                lane.next = lane.taken;
            }
        }
        Ok(done)
    }
}

/// About what a record takes of a transaction.
fn takes(message: &BorrowedMessage<'_>, headers: &HeaderList<'_>) -> usize {
    record::bytes_of(message, headers) + headers.len() * HEADER_OVERHEAD + RECORD_OVERHEAD
}

/// Where a record without a key goes if the key picks the partition: what is in one partition of Kafka stays together.
fn keyless_partition(message: &BorrowedMessage<'_>, topic: &Topic) -> Option<u32> {
    let partition = u32::try_from(message.partition()).unwrap_or(0);
    message.key().is_none().then(|| partition % topic.partitions().max(1))
}

fn no_target(place: &Place) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("topic {}, partition {} of Kafka has no topic in the log", place.0, place.1),
    )
}
