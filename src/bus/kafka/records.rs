//! Events as Kafka has them: there and back.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header as NativeHeader, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::util::IntoOpaque;

use super::topics::TopicInfo;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Header, Headers, Message, Record, TopicName};
use crate::text::quoted;

/// The record with its value as bytes.
pub(in crate::bus) fn encoded<T, C: Codec<T>>(record: Record<T>, codec: &C) -> Result<Record> {
    let Record { value, key, headers, timestamp, partition } = record;
    let mut bytes = Vec::new();
    let value = match value {
        Some(event) => {
            codec.encode(&event, &mut bytes)?;
            Some(Bytes::from(bytes))
        }
        None => None,
    };
    Ok(Record { value, key, headers, timestamp, partition })
}

/// A record on its way into a topic.
#[derive(Debug, Clone)]
pub(in crate::bus) struct Outgoing {
    pub(super) topic: Arc<str>,
    pub(super) record: Record,
}

impl Outgoing {
    pub(in crate::bus) fn new(topic: &TopicInfo, record: Record) -> Result<Self> {
        topic.check_partition(record.partition)?;
        Ok(Self { topic: Arc::clone(&topic.name), record })
    }

    /// What the producer is given; `now` is the time of an event that says none.
    pub(super) fn native<D: IntoOpaque>(&self, now_micros: i64, opaque: D) -> BaseRecord<'_, [u8], [u8], D> {
        let record = &self.record;
        let mut native = BaseRecord::with_opaque_to(&self.topic, opaque).timestamp(millis(record, now_micros));
        native.key = record.key.as_deref();
        native.payload = record.value.as_deref();
        native.partition = record.partition.and_then(|partition| i32::try_from(partition).ok());
        native.headers = Some(native_headers(&record.headers));
        native
    }
}

/// The record's time, or this one.
pub(super) fn millis(record: &Record, now_micros: i64) -> i64 {
    record.timestamp.map_or(now_micros, |time| time.timestamp_micros()).div_euclid(1000)
}

pub(super) fn native_headers(headers: &Headers) -> OwnedHeaders {
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    headers.iter().fold(empty, |all, header| {
        all.insert(NativeHeader { key: header.name(), value: header.value().map(|value| &value[..]) })
    })
}

/// The names of the topics that a reader has met.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<Box<str>, TopicName>,
    /// What has brought a member's reading to its end.
    ended: Option<Error>,
}

impl Names {
    pub(super) fn of(&mut self, name: &str) -> TopicName {
        match self.known.get(name) {
            Some(known) => Arc::clone(known),
            None => {
                let new: TopicName = Arc::new(name.into());
                self.known.insert(name.into(), Arc::clone(&new));
                new
            }
        }
    }
}

/// What a member has read. After a record that it cannot read there is nothing but this error, which ends the subscription: were
/// anything read beyond it, the record would be taken as done.
pub(super) fn message(native: &BorrowedMessage<'_>, names: &mut Names) -> Result<Message> {
    if let Some(ended) = &names.ended {
        return Err(ended.clone());
    }
    record(native, names).map_err(|error| {
        let error = Error::with_source(ErrorKind::Mismatch, "reading has come to an end", error);
        names.ended.insert(error).clone()
    })
}

/// What was read, with memory of its own.
pub(super) fn record(native: &BorrowedMessage<'_>, names: &mut Names) -> Result<Message> {
    let unreadable = |what: &str| Error::invalid(format!("topic {} has a record with {what}", native.topic()));
    Ok(Message {
        topic: names.of(native.topic()),
        partition: u32::try_from(native.partition()).map_err(|_| unreadable("a negative partition"))?,
        offset: u64::try_from(native.offset()).map_err(|_| unreadable("a negative offset"))?,
        commit: 0,
        timestamp_micros: native.timestamp().to_millis().unwrap_or(0).saturating_mul(1000),
        key: native.key().map(Bytes::copy_from_slice),
        headers: headers(native)?,
        value: native.payload().map(Bytes::copy_from_slice),
    })
}

fn headers(native: &BorrowedMessage<'_>) -> Result<Headers> {
    let Some(all) = native.headers() else { return Ok(Headers::new()) };
    let read = || {
        let mut headers = Headers::new();
        for header in all.iter() {
            headers.push(Header::read(header.key, header.value.map(Bytes::copy_from_slice)));
        }
        headers
    };
    // The client library's binding panics over a name that is no text.
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "topic {}, partition {}: the record at offset {} has a header whose name is no text in UTF-8",
                quoted(native.topic()),
                native.partition(),
                native.offset()
            ),
        )
    })
}
