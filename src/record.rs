//! What is written, a [`Record`] or, borrowed, a [`RecordRef`], and what is read, a [`Message`].

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::error::Result;

mod borrowed;
mod headers;
mod into_bytes;
mod message;
mod names;
#[cfg(test)]
mod tests;

pub use borrowed::RecordRef;
pub(crate) use headers::HEADER_NAME_BYTES_MAX;
pub use headers::{Header, Headers, MESSAGE_ID};
pub use into_bytes::IntoBytes;
pub use message::Message;
pub(crate) use message::TopicName;
#[cfg(test)]
pub(crate) use names::known;

/// What is written: a value, or a tombstone, with whatever goes with it.
///
/// A record is plain data. Its fields can be read and changed directly; the methods of the same names build one in a
/// single expression:
///
/// ```
/// use annals::Record;
///
/// let record = Record::new("paid").key("order-17").header("event-type", "OrderPaid");
/// assert_eq!(record.value, Some("paid"));
/// assert_eq!(record.key.as_deref(), Some(&b"order-17"[..]));
/// assert_eq!(record.headers.get_str("event-type"), Some("OrderPaid"));
/// ```
///
/// Only the value is needed, and a plain value is a record, too: `Record::from(value)`.
///
/// Limits are checked when the record is sent: a header's name has 1 to 255 bytes, a record has at most 65,535 headers,
/// and all of it together is bounded by the topic's [`record_bytes_max`](crate::TopicSettings::record_bytes_max).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record<T = Bytes> {
    /// The value; `None` makes the record a tombstone.
    pub value: Option<T>,
    /// What the record is about. Records with the same key go to the same partition, so they keep their order.
    pub key: Option<Bytes>,
    /// Names and values beside the value, in the order in which they were added.
    pub headers: Headers,
    /// When it happened; `None` is the time at which annals takes the record.
    pub timestamp: Option<DateTime<Utc>>,
    /// The partition to go to; `None` leaves the choice to the key, or to annals where there is no key.
    pub partition: Option<u32>,
}

impl<T> Record<T> {
    /// A record of a value: no key, no headers, the time of sending, any partition.
    pub fn new(value: T) -> Self {
        Self { value: Some(value), key: None, headers: Headers::new(), timestamp: None, partition: None }
    }

    /// A record that says: there is nothing under this key any more. A compacted topic forgets the key.
    ///
    /// ```
    /// use annals::Record;
    ///
    /// let record = Record::<String>::tombstone().key("customer-17");
    /// assert!(record.is_tombstone());
    /// ```
    pub fn tombstone() -> Self {
        Self { value: None, key: None, headers: Headers::new(), timestamp: None, partition: None }
    }

    /// Sets the key: text or bytes, borrowed (copied) or owned (moved).
    ///
    /// ```
    /// use annals::Record;
    ///
    /// let id = format!("order-{}", 17);
    /// let borrowed = Record::new(1).key(&id);
    /// let bytes = Record::new(1).key(id.as_bytes());
    /// assert_eq!(borrowed, bytes);
    /// assert_eq!(borrowed, Record::new(1).key(id));
    /// ```
    #[must_use]
    pub fn key(mut self, key: impl IntoBytes) -> Self {
        self.key = Some(key.into_bytes());
        self
    }

    /// Adds a header. Names may repeat: headers are a list, not a map.
    ///
    /// ```
    /// use annals::Record;
    ///
    /// let record = Record::new(1).header("hop", "a").header("hop", "b");
    /// assert_eq!(record.headers.get_str("hop"), Some("b"));
    /// assert_eq!(record.headers.get_all("hop").count(), 2);
    /// ```
    #[must_use]
    pub fn header(mut self, name: impl Into<Box<str>>, value: impl IntoBytes) -> Self {
        self.headers.push(Header::new(name, value));
        self
    }

    /// Adds a header that has a name only, which is not the same as an empty value.
    #[must_use]
    pub fn header_absent(mut self, name: impl Into<Box<str>>) -> Self {
        self.headers.push(Header::absent(name));
        self
    }

    /// Sets the identity: 1 to 255 bytes that no other record of the topic has, usually a UUID of version 7. It is the header
    /// `message_id`, and takes the place of one that is there.
    ///
    /// A topic that [remembers identities](crate::TopicSettings::dedup_count_max) writes a record only once: who sends it again,
    /// because no answer came or the process has crashed, gets the receipt of the first.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Log, Record, TopicSettings};
    ///
    /// let log = Log::in_memory()?;
    /// let topic = log.create_raw_topic("payments", TopicSettings::default().dedup_count_max(100_000)).await?;
    /// let payment = Record::new("17 EUR".into()).id("0198c0de-0000-7000-8000-000000000001");
    /// let first = topic.produce(payment.clone()).await?;
    /// let again = topic.produce(payment).await?;
    /// assert_eq!(first, again);
    /// assert_eq!(topic.watermarks(0)?.high_watermark, 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn id(mut self, id: impl IntoBytes) -> Self {
        self.headers.remove_all(MESSAGE_ID);
        self.headers.push(Header::standard(MESSAGE_ID, id));
        self
    }

    /// The identity, if the record has one.
    pub fn message_id(&self) -> Option<&Bytes> {
        self.headers.message_id()
    }

    /// Sets when it happened. annals keeps microseconds; what is finer is cut off. Nothing is ordered by this.
    #[must_use]
    pub fn timestamp(mut self, timestamp: DateTime<Utc>) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the partition to go to, whatever the key.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Whether there is no value.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// The same record of another value. A tombstone stays one.
    ///
    /// ```
    /// use annals::Record;
    ///
    /// assert_eq!(Record::new(2).key("k").map(|n| n * 2), Record::new(4).key("k"));
    /// ```
    #[must_use]
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Record<U> {
        Record {
            value: self.value.map(convert),
            key: self.key,
            headers: self.headers,
            timestamp: self.timestamp,
            partition: self.partition,
        }
    }

    /// Checks what does not depend on the topic, before anything is encoded.
    #[inline]
    pub(crate) fn validate(&self) -> Result<()> {
        headers::validate(self.headers.iter().map(|header| (header.name(), header.value().map(|value| &value[..]))))
    }

    /// The timestamp as the format has it, where one was set.
    #[inline]
    pub(crate) fn timestamp_micros(&self) -> Option<i64> {
        self.timestamp.map(|timestamp| timestamp.timestamp_micros())
    }
}

impl<T> From<T> for Record<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

/// A stored timestamp at the surface. Microseconds reach further than the calendar does; what lies beyond (some 260,000
/// years away) becomes the calendar's first or last moment rather than an error, since nothing depends on it.
pub(crate) fn datetime_from_micros(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(if micros < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}
