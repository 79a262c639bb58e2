//! A record of the log as one of Kafka.

use std::fmt::Write as _;

use rdkafka::message::{Header, OwnedHeaders};
use uuid::Uuid;

use super::checkpoint::Place;
use super::origin::{GAP_FROM, GAP_TO, MARKER, ORIGIN_LOG, ORIGIN_OFFSET, ORIGIN_PARTITION, ORIGIN_TOPIC};
use crate::error::Error;
use crate::record::Message;

/// What the origin headers of a partition's records have in common.
#[derive(Debug)]
pub(super) struct OriginTexts {
    log: String,
    topic: String,
    partition: String,
    offset: String,
}

impl OriginTexts {
    pub(super) fn new(log: Uuid, place: &Place) -> Self {
        Self { log: log.to_string(), topic: place.0.clone(), partition: place.1.to_string(), offset: String::new() }
    }

    fn insert(&mut self, headers: OwnedHeaders, offset: u64) -> OwnedHeaders {
        self.offset.clear();
        // A text takes whatever is written to it.
        let _always = write!(self.offset, "{offset}");
        [
            (ORIGIN_LOG, &self.log),
            (ORIGIN_TOPIC, &self.topic),
            (ORIGIN_PARTITION, &self.partition),
            (ORIGIN_OFFSET, &self.offset),
        ]
        .into_iter()
        .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
    }

    /// The headers of a record: its own, in their order, and where it comes from.
    pub(super) fn headers(&mut self, message: &Message) -> OwnedHeaders {
        let own = message.headers();
        let mut headers = OwnedHeaders::new_with_capacity(own.len() + 4);
        for header in own.iter() {
            headers = headers.insert(Header { key: header.name(), value: header.value().map(|value| &**value) });
        }
        // One that came from another log keeps its origin, or that log would take it for a new one.
        if own.contains(ORIGIN_LOG) { headers } else { self.insert(headers, message.offset()) }
    }

    /// The headers of the mark that stands for offsets that are gone.
    pub(super) fn gap(&mut self, from: u64, to: u64) -> OwnedHeaders {
        let (from_text, to_text) = (from.to_string(), to.to_string());
        let headers = OwnedHeaders::new_with_capacity(7)
            .insert(Header { key: MARKER, value: Some("gap") })
            .insert(Header { key: GAP_FROM, value: Some(&from_text) })
            .insert(Header { key: GAP_TO, value: Some(&to_text) });
        self.insert(headers, from)
    }

    /// The headers of the mark that stands for a record that the target refuses.
    pub(super) fn skipped(&mut self, offset: u64, error: &Error) -> OwnedHeaders {
        let text = error.to_string();
        let headers = OwnedHeaders::new_with_capacity(6)
            .insert(Header { key: MARKER, value: Some("skipped") })
            .insert(Header { key: "annals.error", value: Some(&text) });
        self.insert(headers, offset)
    }
}

/// The bytes of a record's key, value and headers.
pub(super) fn bytes_of(message: &Message) -> usize {
    let headers =
        message.headers().iter().map(|header| header.name().len() + header.value().map_or(0, |value| value.len()));
    message.key().map_or(0, |key| key.len()) + message.value().map_or(0, |value| value.len()) + headers.sum::<usize>()
}

/// The time in milliseconds, if it is one that Kafka can have: -1 there says that there is none, and the client library takes 0 for now.
pub(super) fn millis(message: &Message) -> Option<i64> {
    Some(message.timestamp().timestamp_millis()).filter(|millis| !matches!(millis, -1 | 0))
}
