//! What happened, as a test has recorded it: what was acknowledged, what was read, how far a consumer came.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use super::Place;
use crate::error::Result;
use crate::handle::Log;
use crate::log::names::is_reserved;
use crate::log::settings::Durability;
use crate::producer::Receipt;
use crate::record::{Message, Record};
use crate::replay::{RecordView, Start};

/// What was acknowledged: what must be there from then on.
///
/// ```
/// use annals::testing::{History, Observed, check};
/// use annals::{Log, Raw, Record, TopicDef, TopicSettings};
///
/// const ORDERS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("orders");
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Log::in_memory()?;
/// let orders = log.blocking_create_topic(ORDERS, TopicSettings::default())?;
///
/// let mut history = History::new();
/// let record = Record::new("paid".into()).key("order-17");
/// let receipt = orders.blocking_produce(record.clone())?;
/// history.acknowledged_bytes("orders", &record, &receipt);
///
/// check::no_loss(&history, &Observed::replay(&log)?)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct History {
    pub(super) records: Vec<Acknowledged>,
}

#[derive(Debug, Clone)]
pub(super) struct Acknowledged {
    pub(super) topic: Arc<str>,
    pub(super) place: Place,
    pub(super) key: Option<Bytes>,
    /// Of value, headers and timestamp, if those were told.
    pub(super) content: Option<u64>,
    durable: bool,
    /// A power loss may have taken it.
    pub(super) given_up: bool,
}

impl History {
    /// Nothing was acknowledged.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that `record` was acknowledged by `receipt`. Call it in the order in which the records were sent: of two records of
    /// a key in different partitions that is their order.
    ///
    /// Of the record only the key is remembered; [`acknowledged_bytes`](Self::acknowledged_bytes) remembers all of it.
    pub fn acknowledged<T>(&mut self, topic: &str, record: &Record<T>, receipt: &Receipt) {
        self.add(topic, record.key.clone(), None, receipt);
    }

    /// [`acknowledged`](Self::acknowledged), for records of bytes: value, headers and timestamp must come back as they are, too.
    pub fn acknowledged_bytes(&mut self, topic: &str, record: &Record<Bytes>, receipt: &Receipt) {
        let headers = record.headers.iter().map(|header| (header.name(), header.value().map(|value| &value[..])));
        let content = digest(record.value.as_deref(), headers, receipt.timestamp_micros);
        self.add(topic, record.key.clone(), Some(content), receipt);
    }

    fn add(&mut self, topic: &str, key: Option<Bytes>, content: Option<u64>, receipt: &Receipt) {
        let topic = match self.records.last() {
            Some(last) if *last.topic == *topic => Arc::clone(&last.topic),
            _ => Arc::from(topic),
        };
        let Receipt { partition, offset, commit, durability, .. } = *receipt;
        let place = Place { partition, offset, commit };
        let durable = durability == Durability::Sync;
        self.records.push(Acknowledged { topic, place, key, content, durable, given_up: false });
    }

    /// Records that [`Log::sync`] has succeeded: everything that was acknowledged by now, at whatever level, is on the disk.
    pub fn synced(&mut self) {
        self.records.iter_mut().filter(|record| !record.given_up).for_each(|record| record.durable = true);
    }

    /// Records that the power was lost: what was acknowledged below [`Durability::Sync`] and not [synced](Self::synced) since
    /// may be gone, so it is demanded no more. (A log that is killed loses nothing.)
    pub fn power_lost(&mut self) {
        self.records.iter_mut().filter(|record| !record.durable).for_each(|record| record.given_up = true);
    }

    /// How many records must be there.
    pub fn len(&self) -> usize {
        self.records.iter().filter(|record| !record.given_up).count()
    }

    /// Whether nothing must be there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What somebody has seen, in the order in which it came: a replay, a consumer, a handler.
///
/// Feed it where the effect of a record takes place, not where it is fetched, and it tells about the whole way there. For a
/// process that dies and reads again, call [`restarted`](Self::restarted) in between.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub(super) records: Vec<Seen>,
    life: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) topic: Arc<str>,
    pub(super) place: Place,
    pub(super) key: Option<Bytes>,
    pub(super) id: Option<Bytes>,
    pub(super) content: Option<u64>,
    pub(super) life: u32,
}

impl Observed {
    /// Nothing has been seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything that is in a log at this moment, in causal order: of a log in a test, or of a directory in production, which
    /// [`Log::blocking_open_read_only`] opens beside its writer.
    ///
    /// It keeps the place, the key and the identity of each record in memory: some 150 bytes for each, beside the keys.
    ///
    /// # Errors
    ///
    /// As reading it: [`Corrupt`](crate::ErrorKind::Corrupt), [`Io`](crate::ErrorKind::Io), [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Example
    ///
    /// ```
    /// use annals::Log;
    /// use annals::testing::{Observed, check};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// # Log::blocking_open(dir)?.blocking_close()?;
    /// let everything = Observed::replay(&Log::blocking_open_read_only(dir)?)?;
    /// check::no_gaps(&everything)?;
    /// check::no_duplicates(&everything)?;
    /// # Ok(()) }
    /// ```
    pub fn replay(log: &Log) -> Result<Self> {
        let topics = log.topics()?;
        let names: Vec<&str> = topics.iter().map(|topic| &*topic.name).filter(|name| !is_reserved(name)).collect();
        Self::replay_topics(log, names)
    }

    /// [`replay`](Self::replay) of some topics only.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay), and [`NotFound`](crate::ErrorKind::NotFound).
    pub fn replay_topics<'a>(log: &Log, topics: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut observed = Self::new();
        let mut history = log.replay_topics(topics, Start::Earliest)?.blocking()?;
        while let Some(record) = history.next()? {
            observed.record(&record);
        }
        Ok(observed)
    }

    /// Records a message that was seen, without its content.
    pub fn message<T>(&mut self, message: &Message<T>) {
        let place = Place { partition: message.partition(), offset: message.offset(), commit: message.commit() };
        self.add(
            message.topic(),
            place,
            message.key().map(|key| &key[..]),
            message.message_id().map(|id| &id[..]),
            None,
        );
    }

    /// Records a record that was seen, with its content.
    pub fn record(&mut self, record: &RecordView<'_>) {
        let place = Place { partition: record.partition(), offset: record.offset(), commit: record.commit() };
        let content = digest(record.value(), record.headers(), record.timestamp_micros());
        let id = record.headers().filter(|(name, value)| *name == crate::record::MESSAGE_ID && value.is_some()).last();
        self.add(record.topic(), place, record.key(), id.and_then(|(_, id)| id), Some(content));
    }

    fn add(&mut self, topic: &str, place: Place, key: Option<&[u8]>, id: Option<&[u8]>, content: Option<u64>) {
        let topic = match self.records.last() {
            Some(last) if *last.topic == *topic => Arc::clone(&last.topic),
            _ => Arc::from(topic),
        };
        // Copied: a slice would keep all alive that was read along with it.
        let [key, id] = [key, id].map(|bytes| bytes.map(Bytes::copy_from_slice));
        self.records.push(Seen { topic, place, key, id, content, life: self.life });
    }

    /// Records that the reader has died and begins again, perhaps at an earlier place: what it sees a second time from here on is
    /// a redelivery, and no fault of its own.
    pub fn restarted(&mut self) {
        self.life += 1;
    }

    /// How much was seen, repetitions counted.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

fn digest<'a>(value: Option<&[u8]>, headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>, micros: i64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (value, micros).hash(&mut hasher);
    headers.for_each(|header| header.hash(&mut hasher));
    hasher.finish()
}

/// What a consumer did: which records it was given, which of them it finished, what it committed.
///
/// ```
/// use annals::testing::{Progress, check};
///
/// let mut progress = Progress::new();
/// for offset in 0..3 {
///     progress.delivered("orders", 0, offset);
/// }
/// progress.finished("orders", 0, 0);
/// progress.finished("orders", 0, 2);
/// progress.committed("orders", 0, 1);
/// assert!(check::no_commit_past_unfinished(&progress).is_ok());
///
/// progress.committed("orders", 0, 3);   // 1 is still at work: a crash now would lose it
/// let violation = check::no_commit_past_unfinished(&progress).unwrap_err();
/// assert_eq!(
///     violation.to_string(),
///     "topic orders, partition 0: 3 was committed though offset 1 was delivered and is not finished"
/// );
/// ```
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub(super) steps: Vec<(Arc<str>, u32, Step)>,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Delivered(u64),
    Finished(u64),
    Committed { next: u64, remembered: Vec<u64> },
}

impl Progress {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that the record at `offset` was handed to the consumer.
    pub fn delivered(&mut self, topic: &str, partition: u32, offset: u64) {
        self.add(topic, partition, Step::Delivered(offset));
    }

    /// Records that the consumer is done with the record at `offset`: handled it, skipped it, or put it aside for good.
    pub fn finished(&mut self, topic: &str, partition: u32, offset: u64) {
        self.add(topic, partition, Step::Finished(offset));
    }

    /// Records that the consumer has committed: after a crash it goes on at the offset `next`.
    pub fn committed(&mut self, topic: &str, partition: u32, next: u64) {
        self.committed_but(topic, partition, next, []);
    }

    /// Records that the consumer has committed, and that the commit remembers some earlier offsets as unfinished: after a crash
    /// it goes on at `next`, and comes back to those.
    pub fn committed_but(&mut self, topic: &str, partition: u32, next: u64, unfinished: impl IntoIterator<Item = u64>) {
        let remembered = unfinished.into_iter().collect();
        self.add(topic, partition, Step::Committed { next, remembered });
    }

    fn add(&mut self, topic: &str, partition: u32, step: Step) {
        let topic = match self.steps.last() {
            Some((last, ..)) if **last == *topic => Arc::clone(last),
            _ => Arc::from(topic),
        };
        self.steps.push((topic, partition, step));
    }
}
