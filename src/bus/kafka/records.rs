//! Events as Kafka has them: there and back.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header as NativeHeader, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::util::IntoOpaque;

use super::topics::TopicInfo;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::record::{Header, Headers, Message, Record, TopicName};

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
pub(super) struct Names(HashMap<Box<str>, TopicName>);

impl Names {
    pub(super) fn of(&mut self, name: &str) -> TopicName {
        match self.0.get(name) {
            Some(known) => Arc::clone(known),
            None => {
                let new: TopicName = Arc::new(name.into());
                self.0.insert(name.into(), Arc::clone(&new));
                new
            }
        }
    }
}

/// What was read, with memory of its own.
pub(super) fn message(native: &BorrowedMessage<'_>, names: &mut Names) -> Result<Message> {
    let unreadable = |what: &str| Error::invalid(format!("topic {} has a record with {what}", native.topic()));
    let mut headers = Headers::new();
    for header in native.headers().into_iter().flat_map(|headers| headers.iter()) {
        headers.push(Header::read(header.key, header.value.map(Bytes::copy_from_slice)));
    }
    Ok(Message {
        topic: names.of(native.topic()),
        partition: u32::try_from(native.partition()).map_err(|_| unreadable("a negative partition"))?,
        offset: u64::try_from(native.offset()).map_err(|_| unreadable("a negative offset"))?,
        commit: 0,
        timestamp_micros: native.timestamp().to_millis().unwrap_or(0).saturating_mul(1000),
        key: native.key().map(Bytes::copy_from_slice),
        headers,
        value: native.payload().map(Bytes::copy_from_slice),
    })
}
