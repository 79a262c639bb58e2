//! A record whose parts belong to somebody else.

use chrono::{DateTime, Utc};

use super::headers::validate;
use crate::error::Result;

/// A [`Record`](crate::Record) that owns nothing: for who has the bytes already, and appends so many that two small allocations a record
/// would count. What becomes of it is the same.
///
/// The value is what the topic's [`Codec`](crate::Codec) would write: the bytes themselves in a raw topic, the text in a JSON
/// one. Nothing checks that they are: bytes that the codec cannot decode come back as such an error when they are read.
///
/// ```
/// use annals::RecordRef;
///
/// let line = *b"order-17 paid";
/// let record = RecordRef::new(&line[9..]).key(&line[..8]).headers(&[("event-type", Some(b"OrderPaid")), ("seen", None)]);
/// assert_eq!(record.value, Some(&b"paid"[..]));
/// assert_eq!(record.key, Some(&b"order-17"[..]));
/// ```
///
/// The limits are those of a [`Record`](crate::Record), and checked when it is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordRef<'a> {
    /// The value, encoded; `None` makes the record a tombstone.
    pub value: Option<&'a [u8]>,
    /// What the record is about. Records with the same key go to the same partition, so they keep their order.
    pub key: Option<&'a [u8]>,
    /// Names and values beside the value, in their order. Names may repeat; a value may be absent.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// When it happened; `None` is the time at which annals takes the record.
    pub timestamp: Option<DateTime<Utc>>,
    /// The partition to go to; `None` leaves the choice to the key, or to annals where there is no key.
    pub partition: Option<u32>,
}

impl<'a> RecordRef<'a> {
    /// A record of an encoded value, text or bytes: no key, no headers, the time of sending, any partition.
    #[inline]
    pub fn new(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { value: Some(value.as_ref()), ..Self::default() }
    }

    /// A record that says: there is nothing under this key any more. See [`Record::tombstone`](crate::Record::tombstone).
    ///
    /// ```
    /// use annals::RecordRef;
    ///
    /// assert!(RecordRef::tombstone().key("customer-17").is_tombstone());
    /// ```
    pub fn tombstone() -> Self {
        Self::default()
    }

    /// Sets the key: text or bytes.
    #[inline]
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// Sets the headers, all of them.
    #[must_use]
    pub fn headers(mut self, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Self {
        self.headers = headers;
        self
    }

    /// Sets when it happened. annals keeps microseconds; what is finer is cut off. Nothing is ordered by this.
    #[must_use]
    pub fn timestamp(mut self, timestamp: DateTime<Utc>) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the partition to go to, whatever the key.
    #[inline]
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Whether there is no value.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// Checks what does not depend on the topic.
    #[inline]
    pub(crate) fn validate(&self) -> Result<()> {
        validate(self.headers.iter().copied())
    }

    /// The timestamp as the format has it, where one was set.
    #[inline]
    pub(crate) fn timestamp_micros(&self) -> Option<i64> {
        self.timestamp.map(|timestamp| timestamp.timestamp_micros())
    }
}
