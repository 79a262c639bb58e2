//! A record on its way into a frame: its value as bytes, its size, its partition.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::format::record::{FrameBuilder, RECORD_OVERHEAD_BYTES_MAX};
use crate::partition::Partition;
use crate::partitioner::{Sticky, partition_of_key};
use crate::record::Record;

thread_local! {
    /// Where values are encoded, outside of every lock.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A scratch buffer that one large value has grown beyond this is given back.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

/// The bytes of everything in a record, before the encoding adds its own.
fn payload_len<T>(record: &Record<T>, value_len: usize) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|header| header.name().len() + header.value().map_or(0, Bytes::len) + 2 * HEADER_LEN_BYTES)
        .sum();
    record.key.as_ref().map_or(0, Bytes::len) + value_len + headers
}

/// The length of a header's name or value, at the most.
const HEADER_LEN_BYTES: usize = 5;

/// A record whose value is encoded: it knows its size.
pub(crate) struct Encoded<'a, T> {
    record: &'a Record<T>,
    value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    len: usize,
}

impl<T> Encoded<'_, T> {
    /// Bytes in the frame, at the most.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts the record into a frame.
    #[inline]
    pub(crate) fn put(&self, builder: &mut FrameBuilder) {
        let headers = self.record.headers.iter();
        builder.push(
            self.timestamp,
            self.record.key.as_deref(),
            self.value,
            headers.map(|header| (header.name(), header.value().map(|value| &value[..]))),
        );
    }
}

/// Encodes the value and checks the record, then runs `then` with it. The value is borrowed where the codec can lend it, and
/// encoded into a buffer of the thread where it cannot.
#[inline]
pub(crate) fn with_encoded<T, C: Codec<T>, R>(
    codec: &C,
    record: &Record<T>,
    record_bytes_max: u32,
    now: impl FnOnce() -> i64,
    then: impl FnOnce(Encoded<'_, T>) -> Result<R>,
) -> Result<R> {
    let timestamp = record.timestamp_micros().unwrap_or_else(now);
    let finish = |value: Option<&[u8]>| {
        let payload = payload_len(record, value.map_or(0, <[u8]>::len));
        if payload > record_bytes_max as usize {
            return Err(Error::invalid(format!(
                "the record has {payload} bytes; the topic's `record_bytes_max` allows {record_bytes_max}"
            )));
        }
        then(Encoded { record, value, timestamp, len: payload + RECORD_OVERHEAD_BYTES_MAX })
    };
    if !record.headers.is_empty() {
        record.validate()?;
    }
    let Some(value) = &record.value else { return finish(None) };
    if let Some(bytes) = codec.as_bytes(value) {
        return finish(Some(bytes));
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        codec.encode(value, scratch).map_err(|error| error.in_context("the value could not be encoded"))?;
        let answer = finish(Some(scratch));
        if scratch.capacity() > SCRATCH_BYTES_MAX {
            *scratch = Vec::new();
        }
        answer
    })
}

/// The partition that a record goes to.
#[inline]
pub(crate) fn choose<'a, T>(
    record: &Record<T>,
    partitions: &'a [Arc<Partition>],
    sticky: &Sticky,
    topic: &str,
) -> Result<&'a Arc<Partition>> {
    let count = partitions.len() as u32;
    let number = match (record.partition, &record.key) {
        (Some(number), _) => number,
        (None, Some(key)) => partition_of_key(key, count),
        (None, None) if count == 1 => 0,
        (None, None) => sticky.partition(payload_len(record, 64), count),
    };
    partitions.get(number as usize).ok_or_else(|| {
        Error::invalid(format!(
            "the record asks for partition {number}, but topic {topic} has 0 to {}",
            count.saturating_sub(1)
        ))
    })
}
