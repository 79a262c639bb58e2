//! What is read.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Headers, datetime_from_micros};

/// The name of a topic, counted by each reader for itself: many that count one and the same would hinder each other.
pub(crate) type TopicName = Arc<Arc<str>>;

/// What is read: a record with its place in the log.
///
/// `T` is the event's type, or [`Bytes`] where nothing was decoded. The value and the key may share the memory of
/// everything that was read along with them: keep a message for long, and that stays, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<T = Bytes> {
    pub(crate) topic: TopicName,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) commit: u64,
    pub(crate) timestamp_micros: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) headers: Headers,
    pub(crate) value: Option<T>,
}

impl<T> Message<T> {
    /// The name of the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The offset in the partition.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of the commit that wrote it. Commit numbers grow over the whole log: of two messages of different
    /// commits, the one with the smaller number was written first, whatever their topics and partitions.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// When it happened: what the producer said, or else when annals took the record. In microseconds.
    pub fn timestamp(&self) -> DateTime<Utc> {
        datetime_from_micros(self.timestamp_micros)
    }

    /// The key.
    pub fn key(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// The headers, in the order in which the producer added them.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The identity that the producer gave it, if any; see [`Record::id`](super::Record::id).
    pub fn message_id(&self) -> Option<&Bytes> {
        self.headers.message_id()
    }

    /// The event; `None` for a tombstone. The same as [`value`](Message::value), by the name that fits typed topics.
    pub fn event(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The value; `None` for a tombstone.
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The value by itself; `None` for a tombstone.
    pub fn into_value(self) -> Option<T> {
        self.value
    }

    /// Whether there is no value: what the key stood for is gone.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// The same message of another value. A tombstone stays one.
    #[must_use]
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Message<U> {
        let (bare, value) = self.split();
        bare.with_value(value.map(convert))
    }

    /// The same message of another value, or the message without one together with the reason why not: whoever cannot
    /// decode a value still has to say which one it was.
    pub(crate) fn try_map<U, E>(self, convert: impl FnOnce(T) -> Result<U, E>) -> Result<Message<U>, (Message<()>, E)> {
        let (bare, value) = self.split();
        match value.map(convert).transpose() {
            Ok(converted) => Ok(bare.with_value(converted)),
            Err(error) => Err((bare, error)),
        }
    }

    /// The same message, with memory of its own.
    pub(crate) fn detached(&self) -> Message<T>
    where
        T: AsRef<[u8]> + From<Bytes>,
    {
        let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        Self {
            topic: Arc::clone(&self.topic),
            key: self.key.as_deref().map(copy),
            headers: self.headers.detached(),
            value: self.value.as_ref().map(|value| T::from(copy(value.as_ref()))),
            ..*self
        }
    }

    fn split(self) -> (Message<()>, Option<T>) {
        let Self { topic, partition, offset, commit, timestamp_micros, key, headers, value } = self;
        (Message { topic, partition, offset, commit, timestamp_micros, key, headers, value: None }, value)
    }
}

impl Message<()> {
    fn with_value<U>(self, value: Option<U>) -> Message<U> {
        let Self { topic, partition, offset, commit, timestamp_micros, key, headers, value: _ } = self;
        Message { topic, partition, offset, commit, timestamp_micros, key, headers, value }
    }
}
