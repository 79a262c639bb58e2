//! The record that a dead letter is, and the one that it is replayed as.
//!
//! Both are the original, key, value and headers, with headers behind that say where it comes from. They are text.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use super::super::handler::HandlerError;
use crate::event::{MAX_RETRIES, RETRY_COUNT};
use crate::record::{Header, Headers, Message, Record, datetime_from_micros};

/// What the headers of a dead letter begin with.
pub(super) const PREFIX: &str = "dead_letter_";
pub(super) const TOPIC: &str = "dead_letter_topic";
pub(super) const PARTITION: &str = "dead_letter_partition";
pub(super) const OFFSET: &str = "dead_letter_offset";
pub(super) const TIMESTAMP: &str = "dead_letter_timestamp";
pub(in super::super) const GROUP: &str = "dead_letter_group";
pub(super) const REASON: &str = "dead_letter_reason";
pub(super) const ATTEMPTS: &str = "dead_letter_attempts";
/// Once for each error of the chain.
pub(super) const ERROR: &str = "dead_letter_error";
pub(super) const FIRST_FAILURE: &str = "dead_letter_first_failure";
pub(super) const LAST_FAILURE: &str = "dead_letter_last_failure";

/// annals' own topic of dead letters that are to be handled again. On Kafka there is one for each topic of events, whose name is
/// behind a dot.
pub(in super::super) const REPLAYS_TOPIC: &str = "__replays";
/// What the headers of a replay begin with.
const REPLAY_PREFIX: &str = "replay_";
const REPLAY_TOPIC: &str = "replay_topic";
const REPLAY_PARTITION: &str = "replay_partition";
const REPLAY_OFFSET: &str = "replay_offset";
const REPLAY_TIMESTAMP: &str = "replay_timestamp";
const REPLAY_GROUP: &str = "replay_group";
/// It is no replay: the dead letter was purged.
#[cfg(feature = "kafka")]
const REPLAY_PURGED: &str = "replay_purged";

/// So much of an error is kept.
const ERROR_BYTES_MAX: usize = 1024;

/// A dead letter to be.
pub(in super::super) struct DeadLetterRecord<'a> {
    pub(in super::super) message: &'a Message,
    pub(in super::super) group: &'a str,
    pub(in super::super) error: &'a HandlerError,
    pub(in super::super) attempts: u32,
    pub(in super::super) attempts_max: u32,
    pub(in super::super) first_failure: i64,
    pub(in super::super) now: i64,
}

pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

impl DeadLetterRecord<'_> {
    pub(in super::super) fn to_record(&self) -> Record {
        let message = self.message;
        let mut headers = message.headers().clone();
        // Of what is a dead letter for the second time, the first time is history.
        headers
            .retain(|header| !header.name().starts_with(PREFIX) && !matches!(header.name(), RETRY_COUNT | MAX_RETRIES));
        let mut put = |name: &'static str, value: String| headers.push(Header::new(name, value));
        put(TOPIC, message.topic().to_owned());
        put(PARTITION, message.partition().to_string());
        put(OFFSET, message.offset().to_string());
        put(TIMESTAMP, time(message.timestamp()));
        put(GROUP, self.group.to_owned());
        put(REASON, self.error.reason().to_string());
        put(ATTEMPTS, self.attempts.to_string());
        for error in self.error.chain() {
            put(ERROR, cut(error));
        }
        let first = if self.first_failure == 0 { self.now } else { self.first_failure };
        put(FIRST_FAILURE, time(datetime_from_micros(first)));
        put(LAST_FAILURE, time(datetime_from_micros(self.now)));
        put(RETRY_COUNT, self.attempts.saturating_sub(1).to_string());
        if self.attempts_max != u32::MAX {
            put(MAX_RETRIES, self.attempts_max.saturating_sub(1).to_string());
        }
        Record {
            value: message.value().cloned(),
            key: message.key().cloned(),
            headers,
            timestamp: None,
            partition: None,
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > ERROR_BYTES_MAX {
        let end = (0..=ERROR_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The place of a message that somebody else's headers tell of.
pub(in super::super) struct Place {
    pub(in super::super) topic: Arc<str>,
    pub(in super::super) partition: u32,
    pub(in super::super) offset: u64,
    pub(in super::super) timestamp: DateTime<Utc>,
}

impl Place {
    pub(super) fn read(headers: &Headers, names: [&str; 4]) -> Option<Self> {
        let [topic, partition, offset, timestamp] = names.map(|name| headers.get_str(name));
        Some(Self {
            topic: topic?.into(),
            partition: partition?.parse().ok()?,
            offset: offset?.parse().ok()?,
            timestamp: DateTime::parse_from_rfc3339(timestamp?).ok()?.with_timezone(&Utc),
        })
    }

    pub(in super::super) fn of_dead_letter(headers: &Headers) -> Option<Self> {
        Self::read(headers, [TOPIC, PARTITION, OFFSET, TIMESTAMP])
    }
}

/// The headers of the original, and how often it was tried.
pub(super) fn original_headers(headers: &Headers) -> Headers {
    let mut original = headers.clone();
    original.retain(|header| !header.name().starts_with(PREFIX) && !header.name().starts_with(REPLAY_PREFIX));
    original
}

/// What brings a dead letter back to the group that has failed.
pub(in super::super) fn to_replay(letter: &Message, place: &Place, group: &str) -> Record<Bytes> {
    let mut headers = original_headers(letter.headers());
    let mut put = |name: &'static str, value: String| headers.push(Header::new(name, value));
    put(REPLAY_TOPIC, place.topic.to_string());
    put(REPLAY_PARTITION, place.partition.to_string());
    put(REPLAY_OFFSET, place.offset.to_string());
    put(REPLAY_TIMESTAMP, time(place.timestamp));
    put(REPLAY_GROUP, group.to_owned());
    Record { value: letter.value().cloned(), key: letter.key().cloned(), headers, timestamp: None, partition: None }
}

/// What tells the group that a dead letter was purged.
#[cfg(feature = "kafka")]
pub(in super::super) fn to_release(letter: &Message, place: &Place, group: &str) -> Record<Bytes> {
    let mut record = Record { value: None, ..to_replay(letter, place, group) };
    record.headers.push(Header::absent(REPLAY_PURGED));
    record
}

/// Whether a message says that a dead letter was purged.
#[cfg(feature = "kafka")]
pub(in super::super) fn is_release(message: &Message) -> bool {
    message.headers().contains(REPLAY_PURGED)
}

/// If a message is a replay: the message that it was, if it is this group's.
pub(in super::super) fn replayed(message: &Message, group: &str) -> Option<Option<Message>> {
    if !message.topic().starts_with(REPLAYS_TOPIC) {
        return None;
    }
    let headers = message.headers();
    if headers.get_str(REPLAY_GROUP) != Some(group) {
        return Some(None);
    }
    let names = [REPLAY_TOPIC, REPLAY_PARTITION, REPLAY_OFFSET, REPLAY_TIMESTAMP];
    let Some(place) = Place::read(headers, names) else { return Some(None) };
    let mut original = headers.clone();
    original.retain(|header| !header.name().starts_with(REPLAY_PREFIX));
    Some(Some(Message {
        topic: place.topic.into(),
        partition: place.partition,
        offset: place.offset,
        commit: message.commit,
        timestamp_micros: place.timestamp.timestamp_micros(),
        key: message.key.clone(),
        headers: original,
        value: message.value.clone(),
    }))
}
