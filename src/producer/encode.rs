//! A record on its way into a frame: its value as bytes, its size, its partition.

use std::sync::Arc;

use super::outgoing::Outgoing;
use crate::error::{Error, Result};
use crate::format::record::{FrameBuilder, RECORD_OVERHEAD_BYTES_MAX};
use crate::log::settings::TopicSettings;
use crate::partition::Partition;
use crate::partitioner::{Sticky, partition_of_key};

/// The bytes of everything in a record, before the encoding adds its own.
#[inline]
fn payload_len(record: &impl Outgoing, value_len: usize) -> usize {
    let headers: usize =
        record.headers().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len) + 2 * HEADER_LEN_BYTES).sum();
    record.key().map_or(0, <[u8]>::len) + value_len + headers
}

/// The length of a header's name or value, at the most.
const HEADER_LEN_BYTES: usize = 5;

/// A record whose value is encoded: it knows its size.
pub(crate) struct Encoded<'a, O> {
    record: &'a O,
    value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    len: usize,
}

impl<O: Outgoing> Encoded<'_, O> {
    /// Bytes in the frame, at the most.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The record that was encoded.
    pub(super) fn record(&self) -> &O {
        self.record
    }

    /// Whether there is no value.
    pub(super) fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// Puts the record into a frame.
    #[inline]
    pub(crate) fn put(&self, builder: &mut FrameBuilder) {
        builder.push(self.timestamp, self.record.key(), self.value, self.record.headers());
    }
}

/// Encodes the value and checks the record, then runs `then` with it.
#[inline]
pub(crate) fn with_encoded<O: Outgoing, R>(
    record: &O,
    settings: &TopicSettings,
    now: impl FnOnce() -> i64,
    then: impl FnOnce(Encoded<'_, O>) -> Result<R>,
) -> Result<R> {
    if settings.compaction && record.key().is_none() {
        return Err(keyless());
    }
    let record_bytes_max = settings.record_bytes_max;
    let timestamp = record.timestamp_micros().unwrap_or_else(now);
    record.validate()?;
    record.with_value(|value| {
        let payload = payload_len(record, value.map_or(0, <[u8]>::len));
        if payload > record_bytes_max as usize {
            return Err(too_large(payload, record_bytes_max));
        }
        then(Encoded { record, value, timestamp, len: payload + RECORD_OVERHEAD_BYTES_MAX })
    })
}

#[cold]
fn keyless() -> Error {
    Error::invalid("the topic is compacted, so each of its records needs a key; this one has none")
}

#[cold]
fn too_large(payload: usize, record_bytes_max: u32) -> Error {
    Error::invalid(format!("the record has {payload} bytes; the topic's `record_bytes_max` allows {record_bytes_max}"))
}

/// The partition that a record goes to.
#[inline]
pub(crate) fn choose<'a>(
    record: &impl Outgoing,
    partitions: &'a [Arc<Partition>],
    sticky: &Sticky,
    topic: &str,
    by_id: bool,
) -> Result<&'a Arc<Partition>> {
    let count = partitions.len() as u32;
    let number = match (record.partition(), record.key()) {
        (Some(number), _) => number,
        (None, _) if count == 1 => 0,
        (None, Some(key)) => partition_of_key(key, count),
        // Sent again, it must come to where it was sent first.
        (None, None) if let Some(id) = by_id.then(|| record.message_id()).flatten() => partition_of_key(id, count),
        (None, None) => sticky.partition(payload_len(record, 64), count),
    };
    partitions.get(number as usize).ok_or_else(|| {
        Error::invalid(format!(
            "the record asks for partition {number}, but topic {topic} has 0 to {}",
            count.saturating_sub(1)
        ))
    })
}
