//! A record lent by the blocking reader.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::format::record::{RawHeaders, RawRecord};
use crate::record::{Header, Headers, Message, TopicName, datetime_from_micros};

/// A record that borrows the reader's memory: nothing is copied until [`to_message`](Self::to_message).
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    topic: &'a TopicName,
    partition: u32,
    commit: u64,
    record: RawRecord<'a>,
    body: &'a Bytes,
}

impl<'a> RecordView<'a> {
    #[inline]
    pub(crate) fn new(
        topic: &'a TopicName,
        partition: u32,
        commit: u64,
        record: RawRecord<'a>,
        body: &'a Bytes,
    ) -> Self {
        Self { topic, partition, commit, record, body }
    }

    /// The name of the topic.
    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The offset in the partition.
    pub fn offset(&self) -> u64 {
        self.record.offset
    }

    /// The commit number: see [`Message::commit`].
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// The timestamp, in microseconds since 1970.
    pub fn timestamp_micros(&self) -> i64 {
        self.record.timestamp
    }

    /// The timestamp.
    pub fn timestamp(&self) -> DateTime<Utc> {
        datetime_from_micros(self.record.timestamp)
    }

    /// The key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.record.key
    }

    /// The value as it stands on the disk; `None` for a tombstone.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.record.value
    }

    /// The headers, in their order; a value may be absent.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.raw_headers().iter()
    }

    /// The value of the last header of this name, if it has one.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().filter(|(other, _)| *other == name).last().and_then(|(_, value)| value)
    }

    fn raw_headers(&self) -> RawHeaders<'a> {
        self.record.headers
    }

    /// What stands for all of the record, but for its commit.
    pub(crate) fn checksum(&self) -> u32 {
        checksum(&self.record)
    }

    /// The record as a message of its own. Key, values and headers share the memory that was read; nothing is copied.
    pub fn to_message(&self) -> Message {
        let own = |slice: &[u8]| self.body.slice_ref(slice);
        let headers: Headers = self.headers().map(|(name, value)| Header::read(name, value.map(own))).collect();
        Message {
            topic: Arc::clone(self.topic),
            partition: self.partition,
            offset: self.record.offset,
            commit: self.commit,
            timestamp_micros: self.record.timestamp,
            key: self.record.key.map(own),
            headers,
            value: self.record.value.map(own),
        }
    }
}

/// What stands for all of a record: key, value, headers, time and place.
pub(crate) fn checksum(record: &RawRecord<'_>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut part = |bytes: Option<&[u8]>| {
        // So that no byte can pass from one part to the next.
        hasher.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        hasher.update(bytes.unwrap_or_default());
    };
    part(Some(&record.offset.to_le_bytes()));
    part(Some(&record.timestamp.to_le_bytes()));
    part(record.key);
    part(record.value);
    for (name, value) in record.headers.iter() {
        part(Some(name.as_bytes()));
        part(value);
    }
    hasher.finalize()
}
