//! Borrowed records become what owned ones become, and are refused for the same reasons.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;

use annals::{
    Batch, Durability, Error, ErrorKind, Header, Json, Log, Message, Raw, Receipt, Record, RecordRef, Start, Topic,
    TopicDef, TopicSettings,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use proptest::prelude::*;

/// A header as a [`RecordRef`] holds it, and owned.
type RefHeader<'a> = (&'a str, Option<&'a [u8]>);
type OwnHeader = (String, Option<Vec<u8>>);

/// The parts of a record, of which both kinds are made.
#[derive(Debug, Clone)]
struct Parts {
    value: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Vec<OwnHeader>,
    timestamp: Option<DateTime<Utc>>,
    partition: Option<u32>,
}

impl Parts {
    fn owned(&self) -> Record {
        let mut record = self.value.clone().map_or_else(Record::tombstone, |value| Record::new(Bytes::from(value)));
        record.key = self.key.clone().map(Bytes::from);
        record.headers = self
            .headers
            .iter()
            .map(|(name, value)| match value {
                Some(value) => Header::new(name.as_str(), value),
                None => Header::absent(name.as_str()),
            })
            .collect();
        record.timestamp = self.timestamp;
        record.partition = self.partition;
        record
    }

    fn ref_headers(&self) -> Vec<RefHeader<'_>> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect()
    }

    fn borrowed<'a>(&'a self, headers: &'a [RefHeader<'a>]) -> RecordRef<'a> {
        let mut record = self.value.as_ref().map_or_else(RecordRef::tombstone, RecordRef::new).headers(headers);
        record.key = self.key.as_deref();
        record.timestamp = self.timestamp;
        record.partition = self.partition;
        record
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    let header = ("[a-zé]{1,5}", prop::option::of(bytes(9)));
    let timestamp = (-2_000_000_000_000_000i64..2_000_000_000_000_000)
        .prop_map(|micros| DateTime::from_timestamp_micros(micros).unwrap());
    (
        prop::option::weighted(0.9, bytes(300)),
        prop::option::of(bytes(12)),
        prop::collection::vec(header, 0..4),
        prop::option::of(timestamp),
        // One more than there are: some are refused.
        prop::option::weighted(0.3, 0u32..4),
    )
        .prop_map(|(value, key, headers, timestamp, partition)| Parts {
            value,
            key,
            headers,
            timestamp,
            partition,
        })
}

#[derive(Debug, Clone, Copy)]
enum How {
    Produce,
    Send,
    Batch,
    Add,
}

const HOW: [How; 4] = [How::Produce, How::Send, How::Batch, How::Add];

fn topic(durability: Durability) -> (Log, Topic) {
    let log = Log::in_memory().unwrap();
    let settings = TopicSettings::default().partitions(3).durability(durability).record_bytes_max(280);
    let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::new("t"), settings).unwrap();
    (log, topic)
}

fn append_owned((log, topic): &(Log, Topic), how: How, all: &[Parts]) -> Vec<Result<Receipt, Error>> {
    let each = |one: &dyn Fn(Record) -> Result<Receipt, Error>| all.iter().map(|parts| one(parts.owned())).collect();
    match how {
        How::Produce => each(&|record| topic.blocking_produce(record)),
        How::Send => each(&|record| topic.blocking_send(record)?.wait()),
        How::Batch => whole(topic.blocking_produce_batch(all.iter().map(Parts::owned))),
        How::Add => {
            let mut batch = Batch::new();
            let refused: Vec<_> =
                all.iter().filter_map(|parts| batch.add(topic, parts.owned()).err()).map(Err).collect();
            [refused, whole(log.blocking_produce_all(batch))].into_iter().flatten().collect()
        }
    }
}

fn append_borrowed((log, topic): &(Log, Topic), how: How, all: &[Parts]) -> Vec<Result<Receipt, Error>> {
    let headers: Vec<_> = all.iter().map(Parts::ref_headers).collect();
    let records: Vec<_> = all.iter().zip(&headers).map(|(parts, headers)| parts.borrowed(headers)).collect();
    match how {
        How::Produce => records.into_iter().map(|record| topic.blocking_produce_ref(record)).collect(),
        How::Send => records.into_iter().map(|record| topic.blocking_send_ref(record)?.wait()).collect(),
        How::Batch => whole(topic.blocking_produce_batch_refs(records)),
        How::Add => {
            let mut batch = Batch::new();
            let refused: Vec<_> =
                records.into_iter().filter_map(|record| batch.add_ref(topic, record).err()).map(Err).collect();
            [refused, whole(log.blocking_produce_all(batch))].into_iter().flatten().collect()
        }
    }
}

fn whole(answer: Result<Vec<Receipt>, Error>) -> Vec<Result<Receipt, Error>> {
    answer.map_or_else(|error| vec![Err(error)], |receipts| receipts.into_iter().map(Ok).collect())
}

/// What can be compared: the clock has gone on between the two, so a time that annals has taken counts as none.
fn told(answers: Vec<Result<Receipt, Error>>, set: &[DateTime<Utc>]) -> Vec<Result<Receipt, (ErrorKind, String)>> {
    let receipt = |mut receipt: Receipt| {
        if !set.contains(&receipt.timestamp()) {
            receipt.timestamp_micros = 0;
        }
        receipt
    };
    answers.into_iter().map(|answer| answer.map(receipt).map_err(|error| (error.kind(), error.to_string()))).collect()
}

fn messages(topic: &Topic) -> Vec<Message> {
    let mut history = topic.replay(Start::Earliest).blocking().unwrap();
    std::iter::from_fn(|| history.next_message().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn owned_and_borrowed_give_the_same(
        all in prop::collection::vec(parts(), 0..12),
        how in 0usize..4,
        synced in any::<bool>(),
    ) {
        let durability = if synced { Durability::Sync } else { Durability::Os };
        let (left, right) = (topic(durability), topic(durability));
        let set: Vec<_> = all.iter().filter_map(|parts| parts.timestamp).collect();
        let owned = append_owned(&left, HOW[how], &all);
        let borrowed = append_borrowed(&right, HOW[how], &all);
        prop_assert_eq!(told(owned, &set), told(borrowed, &set));
        let (owned, borrowed) = (messages(&left.1), messages(&right.1));
        prop_assert_eq!(owned.len(), borrowed.len());
        for (owned, borrowed) in owned.iter().zip(&borrowed) {
            let place = |message: &Message| (message.partition(), message.offset(), message.commit());
            prop_assert_eq!(place(owned), place(borrowed));
            prop_assert_eq!(owned.key(), borrowed.key());
            prop_assert_eq!(owned.value(), borrowed.value());
            prop_assert_eq!(owned.headers(), borrowed.headers());
            if set.contains(&owned.timestamp()) || set.contains(&borrowed.timestamp()) {
                prop_assert_eq!(owned.timestamp(), borrowed.timestamp());
            }
        }
    }
}

#[tokio::test]
async fn tasks_append_borrowed_records() {
    for durability in [Durability::Sync, Durability::Os] {
        let (_log, topic) = topic(durability);
        let first = topic.produce_ref(RecordRef::new("one").key("k").partition(1)).await.unwrap();
        let second = topic.send_ref(RecordRef::new(b"two").partition(1)).await.unwrap().await.unwrap();
        let rest =
            topic.produce_batch_refs(["three", "four"].map(|value| RecordRef::new(value).partition(1))).await.unwrap();
        let offsets = [first.offset, second.offset, rest[0].offset, rest[1].offset];
        assert_eq!(offsets, [0, 1, 2, 3]);
        assert_eq!((first.durability, rest[0].durability), (durability, durability));
        let values: Vec<_> = messages(&topic).into_iter().map(|message| message.into_value().unwrap()).collect();
        assert_eq!(values, ["one", "two", "three", "four"]);
    }
}

#[test]
fn a_borrowed_value_is_what_the_codec_writes_and_is_not_checked() {
    let log = Log::in_memory().unwrap();
    let typed = TopicDef::<String, Json>::new("t");
    let topic = log.blocking_create_topic(typed, TopicSettings::default()).unwrap();
    topic.blocking_produce("a".to_string()).unwrap();
    topic.blocking_produce_ref(RecordRef::new(r#""b""#)).unwrap();
    topic.blocking_produce_ref(RecordRef::new("no JSON").key("k")).unwrap();
    topic.blocking_produce_ref(RecordRef::tombstone().key("k")).unwrap();
    let mut history = topic.replay(Start::Earliest).blocking().unwrap();
    assert_eq!(history.next_message().unwrap().unwrap().event().unwrap(), "a");
    assert_eq!(history.next_message().unwrap().unwrap().event().unwrap(), "b");
    let error = history.next_message().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("offset 2"), "{error}");
    assert!(history.next_message().unwrap().unwrap().is_tombstone());
}

#[test]
fn borrowed_records_are_refused_as_owned_ones_are() {
    let (log, topic) = topic(Durability::Os);
    let large = [7; 281];
    let many = vec![("n", None); 65_536];
    let long = "n".repeat(256);
    for (record, says) in [
        (RecordRef::new(&large), "the record has 281 bytes; the topic's `record_bytes_max` allows 280"),
        (RecordRef::new("").headers(&[("", None)]), "the header name \"\" has 0 bytes; 1 to 255 are allowed"),
        (RecordRef::new("").headers(&[("a", None), (&long, None)]), "has 256 bytes; 1 to 255 are allowed"),
        (RecordRef::new("").headers(&many), "the record has 65536 headers, of which 65535 are allowed"),
        (RecordRef::tombstone().partition(3), "asks for partition 3, but topic t has 0 to 2"),
    ] {
        let mut batch = Batch::new();
        batch.add_ref(&topic, RecordRef::new("good")).unwrap();
        for answer in [
            topic.blocking_produce_ref(record).map(drop),
            topic.blocking_send_ref(record).map(drop),
            topic.blocking_produce_batch_refs([RecordRef::new("good"), record]).map(drop),
            batch.add_ref(&topic, record),
        ] {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert_eq!(batch.len(), 1, "the batch is as it was");
    }
    assert_eq!(messages(&topic), [], "nothing of a refused batch was written");

    let other = Log::in_memory().unwrap();
    let foreign = other.blocking_create_topic(TopicDef::<Bytes, Raw>::new("t"), TopicSettings::default()).unwrap();
    let mut batch = Batch::new();
    batch.add_ref(&topic, RecordRef::new("a")).unwrap();
    assert_eq!(batch.add_ref(&foreign, RecordRef::new("b")).unwrap_err().kind(), ErrorKind::Invalid);
    log.blocking_close().unwrap();
    assert_eq!(topic.blocking_produce_ref(RecordRef::new("late")).unwrap_err().kind(), ErrorKind::Closed);
}

/// The receipts of a batch whose records alternate between times and partitions, so that no two in a row have both in common.
#[test]
fn each_record_of_a_batch_has_a_receipt_of_its_own() {
    let (_log, topic) = topic(Durability::Os);
    let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    let records =
        (0..12u32).map(|index| RecordRef::new("v").partition(index / 2 % 2).timestamp(at(i64::from(index % 3))));
    let receipts = topic.blocking_produce_batch_refs(records).unwrap();
    let found = messages(&topic);
    assert_eq!((receipts.len(), found.len()), (12, 12));
    for (index, receipt) in receipts.iter().enumerate() {
        let message = found
            .iter()
            .find(|message| (message.partition(), message.offset()) == (receipt.partition, receipt.offset))
            .unwrap();
        assert_eq!(receipt.partition as usize, index / 2 % 2);
        assert_eq!(message.timestamp(), at(index as i64 % 3));
        assert_eq!(message.timestamp(), receipt.timestamp());
        assert_eq!(message.commit(), receipt.commit);
    }
}

/// A value may be `Send` and not `Sync`: the futures that own one must still be `Send`.
#[test]
fn appending_in_a_task_asks_of_a_value_no_more_than_to_be_send() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let log = Log::in_memory().unwrap();
    let typed = TopicDef::<Cell<u32>, Json>::new("t");
    let topic = log.blocking_create_topic(typed, TopicSettings::default().durability(Durability::Os)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(sendable(topic.produce(Cell::new(1)))).unwrap();
    runtime.block_on(sendable(topic.send(Cell::new(2)))).unwrap().wait().unwrap();
    runtime.block_on(sendable(topic.produce_batch([Record::new(Cell::new(3))]))).unwrap();
    runtime.block_on(sendable(topic.produce_ref(RecordRef::new("4")))).unwrap();
    let mut history = topic.replay(Start::Earliest).blocking().unwrap();
    for expected in 1..=4 {
        assert_eq!(history.next_message().unwrap().unwrap().into_value().unwrap().get(), expected);
    }
}
