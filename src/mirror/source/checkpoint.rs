//! How far a source has come: a record for each partition of Kafka in annals' own topic `__sources`, written in the transaction that
//! has the records before it.

use std::collections::BTreeMap;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Message as _};
use serde::{Deserialize, Serialize};

use super::super::checkpoint::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Log;
use crate::log::settings::TopicSettings;
use crate::record::RecordRef;
use crate::replay::Start;
use crate::topic::Topic;
use crate::transaction::Transaction;

/// annals' own topic of what sources have read.
const SOURCES_TOPIC: &str = "__sources";

/// The version that is written. Another one is refused.
const VERSION: u32 = 1;

/// No checkpoint takes more than this of a transaction: three names of 249 bytes at most, and some numbers.
pub(super) const CHECKPOINT_BYTES_MAX: usize = 2048;

/// How far a source has come in one partition of Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    version: u32,
    /// The identity of the Kafka cluster.
    pub(super) cluster: String,
    /// The identity of the topic of the log that has the records: one that is deleted and made again has another.
    pub(super) topic_id: String,
    /// The first offset in Kafka that is not in the log.
    pub(super) next_offset: i64,
    /// The last record that was read.
    pub(super) last: Option<Print>,
}

/// What tells a record of Kafka from another one at the same offset: the topic was deleted and made again, or the cluster has lost its
/// end and gone another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Print {
    pub(super) offset: i64,
    timestamp: Option<i64>,
    check: u32,
}

impl Print {
    pub(super) fn of(message: &BorrowedMessage<'_>) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        for part in [message.key(), message.payload()] {
            hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hasher.update(part.unwrap_or_default());
        }
        Self { offset: message.offset(), timestamp: message.timestamp().to_millis(), check: hasher.finalize() }
    }
}

impl Checkpoint {
    pub(super) fn new(cluster: String, topic_id: String, next_offset: i64, last: Option<Print>) -> Self {
        Self { version: VERSION, cluster, topic_id, next_offset, last }
    }

    fn read(key: &str, value: &[u8]) -> Result<Self> {
        let wrong = |what: String| {
            Error::new(ErrorKind::Mismatch, format!("what {key:?} in {SOURCES_TOPIC} says cannot be used: {what}"))
        };
        let found: Self = serde_json::from_slice(value).map_err(|error| wrong(error.to_string()))?;
        match found.version {
            VERSION => Ok(found),
            other => Err(wrong(format!("it has version {other}, and this program knows version {VERSION}"))),
        }
    }

    /// Adds the checkpoint to a transaction, in place of the one before.
    pub(super) fn put(
        &self,
        transaction: &mut Transaction,
        topic: &Topic<Bytes>,
        source: &str,
        place: &Place,
    ) -> Result<()> {
        // Numbers and texts can always be written.
        let value = serde_json::to_vec(self).unwrap_or_default();
        transaction.produce_ref(topic, RecordRef::new(&value).key(&key(source, place)))
    }
}

/// The cluster is not in the key: that the same source is pointed at another one has to be noticed.
fn key(source: &str, (topic, partition): &Place) -> String {
    format!("{source}/{topic}/{partition}")
}

/// The topic of the checkpoints. It is made if it is missing.
pub(super) fn open(log: &Log) -> Result<Topic<Bytes>> {
    log.own_topic(SOURCES_TOPIC, TopicSettings::default().compaction(true))
}

/// The checkpoints of a source.
pub(super) fn read_all(log: &Log, source: &str) -> Result<BTreeMap<Place, Checkpoint>> {
    let prefix = format!("{source}/");
    let mut found = BTreeMap::new();
    let mut history = log.replay_topics([SOURCES_TOPIC], Start::Earliest)?.blocking()?;
    while let Some(record) = history.next()? {
        let Some(key) = record.key().and_then(|key| std::str::from_utf8(key).ok()) else { continue };
        let Some((topic, number)) = key.strip_prefix(&prefix).and_then(|rest| rest.rsplit_once('/')) else { continue };
        let Ok(number) = number.parse() else { continue };
        let place = (topic.to_owned(), number);
        match record.value() {
            Some(value) => found.insert(place, Checkpoint::read(key, value)?),
            None => found.remove(&place),
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{CHECKPOINT_BYTES_MAX, Checkpoint, Print, key, open, read_all};
    use crate::error::ErrorKind;
    use crate::handle::Log;

    fn checkpoint(next_offset: i64) -> Checkpoint {
        let last = Print { offset: i64::MAX, timestamp: Some(i64::MIN), check: u32::MAX };
        Checkpoint::new("c".repeat(40), uuid::Uuid::max().to_string(), next_offset, Some(last))
    }

    #[test]
    fn the_last_checkpoint_of_each_partition_counts() {
        let log = Log::in_memory().unwrap();
        let topic = open(&log).unwrap();
        for (source, place, next) in [("a", 0, 1), ("a", 1, 5), ("b", 0, 9), ("a", 0, 7)] {
            let mut transaction = log.transaction();
            checkpoint(next).put(&mut transaction, &topic, source, &("t/x".into(), place)).unwrap();
            transaction.blocking_commit().unwrap();
        }
        let found = read_all(&log, "a").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[&("t/x".to_owned(), 0)], checkpoint(7));
        assert_eq!(found[&("t/x".to_owned(), 1)], checkpoint(5));
        // Nobody else writes there.
        assert_eq!(log.raw_topic("__sources").unwrap_err().kind(), ErrorKind::Invalid);
        open(&log).unwrap();
    }

    #[test]
    fn a_checkpoint_is_no_larger_than_what_is_kept_for_it() {
        let place = ("t".repeat(249), u32::MAX);
        let length = key(&"n".repeat(100), &place).len() + serde_json::to_vec(&checkpoint(i64::MAX)).unwrap().len();
        assert!(length * 2 < CHECKPOINT_BYTES_MAX, "{length}");
    }

    #[test]
    fn what_another_version_wrote_is_refused() {
        let mut text = serde_json::to_value(checkpoint(1)).unwrap();
        text["version"] = 2.into();
        let refused = Checkpoint::read("k", &serde_json::to_vec(&text).unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch);
        assert!(refused.to_string().contains("version 2"), "{refused}");
        assert_eq!(Checkpoint::read("k", b"{}").unwrap_err().kind(), ErrorKind::Mismatch);
    }
}
