//! How far a mirror has come, as it stands in the target.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::Raw;
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{Class, KafkaContext, class, code, from_kafka};
use crate::record::Message;
use crate::replay::Start;
use crate::topic::Topic;

/// A partition of the log, by the name of its topic.
pub(super) type Place = (String, u32);

/// The version that is written. Another one is refused.
const VERSION: u32 = 1;
/// How long reading the checkpoints may take without anything coming.
const QUIET_MAX: Duration = Duration::from_secs(30);
/// How long a broker may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long one question may take before the client is polled again.
const ANSWER_SLICE: Duration = Duration::from_secs(2);
const ANSWER_PAUSE: Duration = Duration::from_millis(10);

/// How far a mirror has come in one partition. It is written in the transaction that has the records before `next_offset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    version: u32,
    /// The identity of the log.
    pub(super) log: Uuid,
    /// The identity of the topic: one that is deleted and made again has another.
    pub(super) topic_id: Uuid,
    /// The first offset that is not in the target.
    pub(super) next_offset: u64,
    /// How often the mirror has begun.
    pub(super) epoch: u64,
    /// What the record before `next_offset` was.
    pub(super) last: Option<Print>,
}

/// What tells a record from another one at the same offset: the log was copied back and has gone another way since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Print {
    offset: u64,
    commit: u64,
    check: u32,
}

impl Print {
    pub(super) fn of(message: &Message) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&message.timestamp_micros.to_le_bytes());
        for part in [message.key(), message.value()] {
            hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hasher.update(part.map_or(&[], |part| part));
        }
        Self { offset: message.offset(), commit: message.commit(), check: hasher.finalize() }
    }
}

impl Checkpoint {
    pub(super) fn new(log: Uuid, topic_id: Uuid, next_offset: u64, epoch: u64, last: Option<Print>) -> Self {
        Self { version: VERSION, log, topic_id, next_offset, epoch, last }
    }

    /// The key of the record. The log is not in it: a mirror of the same name on another log has to be noticed.
    pub(super) fn key(mirror: &str, place: &Place) -> String {
        format!("{mirror}/{}/{}", place.0, place.1)
    }

    pub(super) fn value(&self) -> Vec<u8> {
        // Numbers and texts can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn read(key: &str, value: &[u8]) -> Result<Self> {
        read(key, value, |found: &Self| found.version)
    }

    /// Checks that it is a place in this partition, and that what was forwarded before it is what the partition has there.
    pub(super) fn check(&self, of: &Topic<Bytes, Raw>, topic_id: Uuid, place: &Place, log: Uuid) -> Result<()> {
        let (topic, partition) = place;
        let refuse = |what: String| {
            Err(Error::new(
                ErrorKind::Mismatch,
                format!(
                    "the target has a checkpoint for topic {topic}, partition {partition} at offset {}, {what}. Forwarding from there \
                     would lose or double records. Give the mirror another name and another target to begin anew, or remove its \
                     checkpoint",
                    self.next_offset
                ),
            ))
        };
        if self.log != log {
            return refuse(format!("of log {}, and this is log {log}", self.log));
        }
        if self.topic_id != topic_id {
            return refuse(format!(
                "of an earlier topic of that name (its identity was {}, and is {topic_id} now: it was deleted and created again)",
                self.topic_id
            ));
        }
        let watermarks = of.watermarks(*partition)?;
        if self.next_offset > watermarks.high_watermark {
            return refuse(format!(
                "and the partition ends at {}: the log was restored from an older copy",
                watermarks.high_watermark
            ));
        }
        let Some(last) = self.last.filter(|last| last.offset >= watermarks.log_start) else { return Ok(()) };
        let found = match of.replay_partition(*partition, Start::Offset(last.offset)).blocking()?.next_message() {
            // Retention has let it go a moment ago.
            Err(error) if error.kind() == ErrorKind::OffsetOutOfRange => return Ok(()),
            found => found?,
        };
        // A compaction may have taken it away; what superseded it says nothing about it.
        match found.filter(|found| found.offset() == last.offset) {
            Some(found) if Print::of(&found) != last => refuse(format!(
                "and the record at offset {} is another one now than the one that was forwarded: the log was restored from an older copy",
                last.offset
            )),
            _ => Ok(()),
        }
    }
}

/// That an instance of a mirror has begun. An earlier one that finds the claim of a later one when it begins anew has nothing to do any
/// more: it would only fence the later one off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    version: u32,
    log: Uuid,
    /// The number of the beginning.
    pub(super) epoch: u64,
    /// Which instance has begun.
    instance: u64,
}

impl Claim {
    pub(super) fn new(log: Uuid, epoch: u64, instance: u64) -> Self {
        Self { version: VERSION, log, epoch, instance }
    }

    /// The key of the record. No mirror's name has an `@`, and mirrors of other logs are no concern of this one.
    pub(super) fn key(mirror: &str, log: Uuid) -> String {
        format!("{mirror}@{log}")
    }

    pub(super) fn value(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn read(key: &str, value: &[u8]) -> Result<Self> {
        read(key, value, |found: &Self| found.version)
    }
}

fn read<T: for<'a> Deserialize<'a>>(key: &str, value: &[u8], version: impl Fn(&T) -> u32) -> Result<T> {
    let wrong = |what: String| {
        Error::new(ErrorKind::Mismatch, format!("the checkpoint {key:?} in the target cannot be used: {what}"))
    };
    let found = serde_json::from_slice(value).map_err(|error| wrong(error.to_string()))?;
    match version(&found) {
        VERSION => Ok(found),
        other => Err(wrong(format!("it has version {other}, and this program knows version {VERSION}"))),
    }
}

/// Reads the checkpoints of a mirror, all that are committed. The producer that will write more of them has been initialised, so
/// nobody else commits any. It has written its claim last: (log, epoch, instance). `now` reads what is not committed, too.
///
/// Other mirrors may be in the middle of transactions on the same topic, and what is behind the beginning of the first of these is not
/// shown to who reads committed records only. So where the topic ends is asked first, and only when all transactions up to there are
/// over is it read.
pub(super) fn read_all(
    consumer: &BaseConsumer<KafkaContext>,
    now: &BaseConsumer<KafkaContext>,
    topic: &str,
    mirror: &str,
    claim: (Uuid, u64, u64),
    wait: impl Fn(Duration) -> Result<()>,
) -> Result<BTreeMap<Place, Checkpoint>> {
    let failed = |error| cannot_read(mirror, topic, error);
    let end = end_of(now, topic).map_err(failed)?;
    let mut pause = Duration::from_millis(5);
    while end_of(consumer, topic).map_err(failed)? < end {
        wait(pause)?;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
    let (log, epoch, instance) = claim;
    let (own, mut has_claim, mut found) = (Claim::key(mirror, log), false, BTreeMap::new());
    each(consumer, topic, mirror, end, |key, value| {
        if let Some(value) = value.filter(|_| key == own) {
            let claim = Claim::read(key, value)?;
            has_claim |= (claim.epoch, claim.instance) == (epoch, instance);
        }
        take(&mut found, mirror, key, value)
    })?;
    // A broker that is behind the others says that there is nothing more.
    if !has_claim {
        let what = format!("topic {topic} has not all that was written to it yet");
        return Err(Error::new(ErrorKind::Unavailable, what));
    }
    Ok(found)
}

/// What was written about a mirror of a log, whether it is committed or not.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The number of the newest beginning; 0 if it has never begun. One that is aborted only leaves a number out.
    pub(super) epoch: u64,
    /// Whose it is.
    pub(super) instance: u64,
    pub(super) checkpoints: BTreeMap<Place, Checkpoint>,
}

/// Reads what is written about a mirror now. It is not waited for transactions, which may be those of an instance that was killed.
pub(super) fn look(now: &BaseConsumer<KafkaContext>, topic: &str, mirror: &str, log: Uuid) -> Result<Seen> {
    let end = end_of(now, topic).map_err(|error| cannot_read(mirror, topic, error))?;
    let (claim, mut seen) = (Claim::key(mirror, log), Seen::default());
    each(now, topic, mirror, end, |key, value| {
        match value.filter(|_| key == claim) {
            Some(value) => {
                let claim = Claim::read(key, value)?;
                if claim.epoch >= seen.epoch {
                    (seen.epoch, seen.instance) = (claim.epoch, claim.instance);
                }
            }
            None => take(&mut seen.checkpoints, mirror, key, value)?,
        }
        Ok(())
    })?;
    Ok(seen)
}

/// Takes a record of the topic, if it is a checkpoint of this mirror.
fn take(found: &mut BTreeMap<Place, Checkpoint>, mirror: &str, key: &str, value: Option<&[u8]>) -> Result<()> {
    let place = key.strip_prefix(mirror).and_then(|rest| rest.strip_prefix('/')?.rsplit_once('/'));
    let Some((name, Ok(number))) = place.map(|(name, number)| (name, number.parse())) else { return Ok(()) };
    let place = (name.to_owned(), number);
    match value {
        Some(value) => found.insert(place, Checkpoint::read(key, value)?),
        None => found.remove(&place),
    };
    Ok(())
}

/// Goes through all that the topic has for this client up to an offset, where it ended: where other mirrors are at work there is always
/// more.
fn each(
    consumer: &BaseConsumer<KafkaContext>,
    topic: &str,
    mirror: &str,
    end: i64,
    mut read: impl FnMut(&str, Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let failed = |error| cannot_read(mirror, topic, error);
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).map_err(failed)?;
    consumer.assign(&from).map_err(failed)?;
    loop {
        let message = match consumer.poll(QUIET_MAX) {
            None => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("nothing came of topic {topic} for {QUIET_MAX:?}, and not its end either"),
                ));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            // There is nobody in the group, which the library wants to have the name of.
            Some(Err(error)) if code(&error) == Some(Code::GroupAuthorizationFailed) => continue,
            Some(message) => message.map_err(failed)?,
        };
        if let Some(key) = message.key().and_then(|key| std::str::from_utf8(key).ok()) {
            read(key, message.payload())?;
        }
        if message.offset() >= end - 1 {
            break;
        }
    }
    consumer.unassign().map_err(failed)
}

fn cannot_read(mirror: &str, topic: &str, error: KafkaError) -> Error {
    from_kafka(format!("cannot read the checkpoints of mirror {mirror} from topic {topic}"), error)
}

/// Where the topic ends for this client.
fn end_of(client: &BaseConsumer<KafkaContext>, topic: &str) -> Result<i64, KafkaError> {
    let mut slices = ANSWER_MAX.as_millis() / ANSWER_SLICE.as_millis();
    loop {
        // The library asks for a token by an event, and an event is told to whoever polls. There is nothing else to come yet.
        drop(client.poll(ANSWER_PAUSE));
        slices -= 1;
        match client.fetch_watermarks(topic, 0, ANSWER_SLICE) {
            Err(error) if slices > 0 && code(&error).is_none_or(|code| class(code) == Class::Passing) => {
                drop(client.poll(ANSWER_PAUSE * 10));
            }
            asked => return asked.map(|(_, end)| end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Checkpoint, Print, Uuid};
    use crate::error::ErrorKind;
    use crate::handle::Log;
    use crate::log::settings::TopicSettings;
    use crate::record::Record;
    use crate::replay::Start;

    fn prints(records: impl IntoIterator<Item = Record<bytes::Bytes>>) -> Vec<Print> {
        let log = Log::in_memory().unwrap();
        log.blocking_create_topic(
            crate::codec::TopicDef::<bytes::Bytes, crate::codec::Raw>::new("t"),
            TopicSettings::default(),
        )
        .unwrap();
        let topic = log.raw_topic("t").unwrap();
        for record in records {
            topic.blocking_produce(record.timestamp(chrono::DateTime::UNIX_EPOCH)).unwrap();
        }
        let mut replay = topic.replay(Start::Earliest).blocking().unwrap();
        std::iter::from_fn(|| replay.next_message().unwrap()).map(|message| Print::of(&message)).collect()
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_and_nothing_else_is() {
        let last = prints([Record::new("a".into())])[0];
        let written = Checkpoint::new(Uuid::from_u128(1), Uuid::from_u128(2), 17, 3, Some(last));
        assert_eq!(Checkpoint::key("m", &("a/b".to_owned(), 4)), "m/a/b/4");
        assert_eq!(Checkpoint::read("key", &written.value()).unwrap(), written);
        let newer = String::from_utf8(written.value()).unwrap().replace("\"version\":1", "\"version\":2");
        for wrong in [newer.as_bytes(), b"", b"{}", b"\xff"] {
            let error = Checkpoint::read("m/t/0", wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch);
            assert!(error.to_string().contains("\"m/t/0\""), "{error}");
        }
    }

    #[test]
    fn other_records_have_other_prints() {
        let record = |value: &'static str| Record::new(bytes::Bytes::from(value));
        let tombstone: Record<bytes::Bytes> = Record::tombstone();
        let all = [
            prints([record("ab")]),
            prints([record("b").key("a")]),
            prints([record("").key("ab")]),
            prints([record("")]),
            prints([tombstone]),
        ];
        let checks: std::collections::BTreeSet<_> = all.iter().map(|prints| prints[0].check).collect();
        assert_eq!(checks.len(), all.len());
        assert_eq!(all[0][0], prints([record("ab")])[0]);
    }
}
