//! The public surface against a model that is nothing but vectors: random actions, every answer compared, every replay
//! compared record by record.
//!
//! `PROPTEST_CASES` sets how many sequences are tried. A sequence that fails is shrunk, printed, and kept in
//! `proptest-regressions/model.txt`, whose seeds are tried first from then on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/copy.rs"]
mod copy;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use annals::{
    Batch, BlockingReplay, Durability, ErrorKind, Header, Log, Message, Raw, Receipt, Record, RecordView, Replay,
    Start, Topic, TopicSettings,
};
use bytes::Bytes;
use chrono::DateTime;
use copy::killed;
use futures_util::{Stream, StreamExt};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];
/// The last of them is compacted, whenever the log likes.
const COMPACTED: &str = "d";
/// Records that are produced one by one have an identity here.
const ONCE: &str = "b";
/// Longer than anything here takes, however busy the machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Level {
    Sync,
    Interval,
    Os,
}

#[derive(Debug, Clone)]
struct Rec {
    key: Option<u8>,
    /// A seed and a length.
    value: Option<(u8, usize)>,
    headers: Vec<(u8, Option<u8>)>,
    micros: Option<i64>,
    partition: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Scope {
    Partition(usize, u32),
    Topic(usize),
    Topics(usize, usize),
    Log,
}

#[derive(Debug, Clone, Copy)]
enum From {
    Earliest,
    Latest,
    Offset(u64),
    Timestamp(i64),
    /// The commit of this record, modulo how many there are, and whether to start behind it.
    Commit(usize, bool),
    Last(u64),
}

#[derive(Debug, Clone)]
enum Action {
    Create(usize, u32, Level),
    Delete(usize),
    Grow(usize, u32),
    Produce(usize, Rec, bool),
    TrySend(usize, Rec),
    Batch(usize, Vec<Rec>, bool),
    All(Vec<(usize, Rec)>, bool),
    Pipeline(Vec<(usize, Rec)>, bool),
    Replay(Scope, From, bool),
    Follow(From, bool),
    CatchUp,
    Describe,
    Sync(bool),
    /// A part of a partition's records, in percent; more than 100 is too much.
    DeleteRecords(usize, u32, u64, bool),
    Compact(usize, bool),
    /// Sends a record with the identity of an earlier one.
    Repeat(usize, bool),
    /// Opens the log read-only beside its writer.
    Look,
    Reopen,
    Crash,
}

/// An action on a line of its own, however a sequence of them is printed.
#[derive(Clone)]
struct Step(Action);

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn any_rec() -> impl Strategy<Value = Rec> {
    let len = prop_oneof![6 => 0usize..200, 3 => 2_000usize..9_000, 1 => Just(40_000usize)];
    let micros = prop_oneof![
        4 => Just(None),
        4 => (-20i64..20).prop_map(Some),
        1 => Just(Some(DateTime::<chrono::Utc>::MIN_UTC.timestamp_micros())),
        1 => Just(Some(DateTime::<chrono::Utc>::MAX_UTC.timestamp_micros())),
    ];
    (
        proptest::option::of(0u8..5),
        proptest::option::weighted(0.9, (any::<u8>(), len)),
        proptest::collection::vec((0u8..3, proptest::option::of(any::<u8>())), 0..3),
        micros,
        proptest::option::weighted(0.2, 0u32..6),
    )
        .prop_map(|(key, value, headers, micros, partition)| Rec { key, value, headers, micros, partition })
}

fn any_from() -> impl Strategy<Value = From> {
    prop_oneof![
        3 => Just(From::Earliest),
        1 => Just(From::Latest),
        2 => (0u64..20).prop_map(From::Offset),
        2 => (-25i64..25).prop_map(From::Timestamp),
        1 => Just(From::Timestamp(i64::MAX / 2)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, behind)| From::Commit(at, behind)),
        2 => (0u64..25).prop_map(From::Last),
    ]
}

fn any_scope() -> impl Strategy<Value = Scope> {
    let topic = 0..TOPICS.len();
    prop_oneof![
        (topic.clone(), 0u32..4).prop_map(|(topic, partition)| Scope::Partition(topic, partition)),
        topic.clone().prop_map(Scope::Topic),
        (topic.clone(), topic).prop_map(|(one, other)| Scope::Topics(one, other)),
        Just(Scope::Log),
    ]
}

fn any_step(durable: bool) -> impl Strategy<Value = Step> {
    let topic = 0..TOPICS.len();
    let level = prop_oneof![3 => Just(Level::Sync), 1 => Just(Level::Interval), 2 => Just(Level::Os)];
    let some = |max| proptest::collection::vec((0..TOPICS.len(), any_rec()), 0..max);
    prop_oneof![
        6 => (topic.clone(), 1u32..4, level).prop_map(|(topic, count, level)| Action::Create(topic, count, level)),
        1 => topic.clone().prop_map(Action::Delete),
        1 => (topic.clone(), 1u32..6).prop_map(|(topic, count)| Action::Grow(topic, count)),
        8 => (topic.clone(), any_rec(), any::<bool>()).prop_map(|(topic, rec, sync)| Action::Produce(topic, rec, sync)),
        1 => (topic.clone(), any_rec()).prop_map(|(topic, rec)| Action::TrySend(topic, rec)),
        3 => (topic, proptest::collection::vec(any_rec(), 0..6), any::<bool>())
            .prop_map(|(topic, recs, sync)| Action::Batch(topic, recs, sync)),
        3 => (some(8), any::<bool>()).prop_map(|(recs, sync)| Action::All(recs, sync)),
        4 => (some(20), any::<bool>()).prop_map(|(recs, sync)| Action::Pipeline(recs, sync)),
        8 => (any_scope(), any_from(), any::<bool>()).prop_map(|(scope, from, sync)| Action::Replay(scope, from, sync)),
        2 => (any_from(), any::<bool>()).prop_map(|(from, sync)| Action::Follow(from, sync)),
        2 => Just(Action::CatchUp),
        1 => Just(Action::Describe),
        1 => any::<bool>().prop_map(Action::Sync),
        2 => ((0..TOPICS.len()), 0u32..4, 0u64..110, any::<bool>())
            .prop_map(|(topic, partition, part, sync)| Action::DeleteRecords(topic, partition, part, sync)),
        1 => ((0..TOPICS.len()), any::<bool>()).prop_map(|(topic, sync)| Action::Compact(topic, sync)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, sync)| Action::Repeat(at, sync)),
        1 => Just(if durable { Action::Look } else { Action::CatchUp }),
        1 => Just(if durable { Action::Reopen } else { Action::CatchUp }),
        1 => Just(if durable { Action::Crash } else { Action::CatchUp }),
    ]
    .prop_map(Step)
}

/// A record as the model keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    topic: String,
    partition: u32,
    offset: u64,
    commit: u64,
    micros: i64,
    key: Option<Bytes>,
    headers: Vec<(String, Option<Bytes>)>,
    value: Option<Bytes>,
}

impl Stored {
    fn of_message(message: &Message) -> Self {
        let header = |header: &Header| (header.name().to_owned(), header.value().cloned());
        Self {
            topic: message.topic().into(),
            partition: message.partition(),
            offset: message.offset(),
            commit: message.commit(),
            micros: message.timestamp().timestamp_micros(),
            key: message.key().cloned(),
            headers: message.headers().iter().map(header).collect(),
            value: message.value().cloned(),
        }
    }

    fn of_view(view: RecordView<'_>) -> Self {
        let own = Bytes::copy_from_slice;
        let stored = Self {
            topic: view.topic().into(),
            partition: view.partition(),
            offset: view.offset(),
            commit: view.commit(),
            micros: view.timestamp_micros(),
            key: view.key().map(own),
            headers: view.headers().map(|(name, value)| (name.to_owned(), value.map(own))).collect(),
            value: view.value().map(own),
        };
        assert_eq!(stored, Self::of_message(&view.to_message()), "a view and its message are the same record");
        stored
    }

    fn place(&self) -> (u64, &str, u32, u64) {
        (self.commit, &self.topic, self.partition, self.offset)
    }
}

fn bytes_of((seed, len): (u8, usize)) -> Bytes {
    (0..len).map(|at| seed.wrapping_add((at % 251) as u8)).collect::<Vec<u8>>().into()
}

impl Rec {
    fn record(&self, topic: &Topic) -> Record {
        let partitions = topic.partitions();
        let mut record = Record::tombstone();
        record.value = self.value.map(bytes_of);
        // A compacted topic takes no records without one.
        let key = self.key.or((topic.name() == COMPACTED).then_some(0));
        record.key = key.map(|key| Bytes::from(format!("key {key}")));
        record.partition = self.partition.map(|partition| partition % partitions);
        record.timestamp = self.micros.map(|micros| DateTime::from_timestamp_micros(micros).unwrap());
        for (name, value) in &self.headers {
            record.headers.push(match value {
                Some(value) => Header::new(format!("h{name}"), [*value; 3]),
                None => Header::absent(format!("h{name}")),
            });
        }
        record
    }
}

#[derive(Debug)]
struct ModelTopic {
    settings: TopicSettings,
    partitions: Vec<ModelPartition>,
}

#[derive(Debug, Clone, Default)]
struct ModelPartition {
    /// Those before this offset were deleted.
    start: usize,
    /// All that were ever there.
    all: Vec<Stored>,
}

impl ModelPartition {
    fn there(&self) -> &[Stored] {
        &self.all[self.start..]
    }
}

enum Reading {
    Stream(Box<Replay<Bytes, Raw>>),
    Blocking(Box<BlockingReplay<Bytes, Raw>>),
}

/// Somebody who follows the whole log.
struct Follower {
    reading: Reading,
    expected: Vec<Stored>,
    /// What came as the following began.
    early: Vec<Stored>,
}

struct World {
    runtime: Runtime,
    log: Log,
    dir: Option<TempDir>,
    topics: BTreeMap<String, ModelTopic>,
    handles: BTreeMap<String, Topic>,
    last_commit: u64,
    follower: Option<Follower>,
    /// What has an identity: its number is that of its place here.
    identities: Vec<Receipt>,
}

impl World {
    fn new(durable: bool) -> Self {
        let dir = durable.then(|| tempfile::tempdir().unwrap());
        let log = match &dir {
            Some(dir) => Log::blocking_open(dir.path()).unwrap(),
            None => Log::in_memory().unwrap(),
        };
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let (topics, handles, identities) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { runtime, log, dir, topics, handles, last_commit: 0, follower: None, identities }
    }

    fn run(&mut self, action: &Action) {
        match action {
            Action::Create(topic, partitions, level) => self.create(TOPICS[*topic], *partitions, *level),
            Action::Delete(topic) => self.delete(TOPICS[*topic]),
            Action::Grow(topic, partitions) => self.grow(TOPICS[*topic], *partitions),
            Action::Produce(topic, rec, blocking) => self.produce(TOPICS[*topic], rec, *blocking),
            Action::TrySend(topic, rec) => self.try_send(TOPICS[*topic], rec),
            Action::Batch(topic, recs, blocking) => self.batch(TOPICS[*topic], recs, *blocking),
            Action::All(recs, blocking) => self.all(recs, *blocking),
            Action::Pipeline(recs, blocking) => self.pipeline(recs, *blocking),
            Action::Replay(scope, from, blocking) => self.replay(*scope, *from, *blocking),
            Action::Follow(from, blocking) => self.follow(*from, *blocking),
            Action::CatchUp => self.catch_up(),
            Action::Describe => self.describe(),
            Action::Sync(blocking) => self.sync(*blocking),
            Action::DeleteRecords(topic, partition, part, blocking) => {
                self.delete_records(TOPICS[*topic], *partition, *part, *blocking);
            }
            Action::Compact(topic, blocking) => self.compact(TOPICS[*topic], *blocking),
            Action::Repeat(at, blocking) => self.repeat(*at, *blocking),
            Action::Look => self.look(),
            Action::Reopen => self.reopen(),
            Action::Crash => self.crash(),
        }
    }

    fn create(&mut self, name: &str, partitions: u32, level: Level) {
        let durability = match level {
            Level::Sync => Durability::Sync,
            Level::Interval => Durability::Interval(Duration::from_millis(2)),
            Level::Os => Durability::Os,
        };
        let settings =
            TopicSettings::default().partitions(partitions).durability(durability).segment_bytes_max(64 << 10);
        let settings = settings.compaction(name == COMPACTED).dedup_count_max(if name == ONCE { 10_000 } else { 0 });
        let created = self.runtime.block_on(self.log.create_raw_topic(name, settings.clone()));
        match self.topics.get(name) {
            Some(there) if there.settings != settings => {
                assert_eq!(created.unwrap_err().kind(), ErrorKind::AlreadyExists);
            }
            Some(_) => assert_eq!(created.unwrap().settings(), settings),
            None => {
                self.handles.insert(name.into(), created.unwrap());
                let partitions = vec![ModelPartition::default(); partitions as usize];
                self.topics.insert(name.into(), ModelTopic { settings, partitions });
            }
        }
    }

    fn delete(&mut self, name: &str) {
        // A follower that has not looked since the topic was created may miss it altogether.
        self.catch_up();
        let deleted = self.runtime.block_on(self.log.delete_topic(name));
        match self.topics.remove(name) {
            None => assert_eq!(deleted.unwrap_err().kind(), ErrorKind::NotFound),
            Some(_) => {
                deleted.unwrap();
                if name == ONCE {
                    self.identities.clear();
                }
                let handle = self.handles.remove(name).unwrap();
                let late = Record::new(Bytes::from_static(b"late")).key("late");
                let refused = handle.blocking_produce(late).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::NotFound);
            }
        }
    }

    fn grow(&mut self, name: &str, partitions: u32) {
        let grown = self.runtime.block_on(self.log.add_partitions(name, partitions));
        let Some(topic) = self.topics.get_mut(name) else {
            assert_eq!(grown.unwrap_err().kind(), ErrorKind::NotFound);
            return;
        };
        if partitions <= topic.settings.partitions {
            assert_eq!(grown.unwrap_err().kind(), ErrorKind::Invalid);
        } else {
            grown.unwrap();
            topic.settings.partitions = partitions;
            topic.partitions.resize(partitions as usize, ModelPartition::default());
        }
    }

    /// Checks a receipt against the record and the model, and notes the record.
    fn note(&mut self, name: &str, record: &Record, receipt: &Receipt) {
        let handle = &self.handles[name];
        let topic = self.topics.get_mut(name).unwrap();
        match (record.partition, &record.key) {
            (Some(partition), _) => assert_eq!(receipt.partition, partition),
            (None, Some(key)) => assert_eq!(receipt.partition, handle.partition_for(key)),
            (None, None) => assert!(receipt.partition < topic.settings.partitions),
        }
        let partition = &mut topic.partitions[receipt.partition as usize].all;
        assert_eq!(receipt.offset, partition.len() as u64, "offsets have no gap");
        assert!(partition.last().is_none_or(|last| last.commit <= receipt.commit), "commits ascend in a partition");
        if let Some(timestamp) = record.timestamp {
            assert_eq!(receipt.timestamp_micros, timestamp.timestamp_micros());
        }
        assert!(receipt.durability.is_at_least(topic.settings.durability));
        let stored = Stored {
            topic: name.into(),
            partition: receipt.partition,
            offset: receipt.offset,
            commit: receipt.commit,
            micros: receipt.timestamp_micros,
            key: record.key.clone(),
            headers: record.headers.iter().map(|header| (header.name().to_owned(), header.value().cloned())).collect(),
            value: record.value.clone(),
        };
        partition.push(stored.clone());
        if let Some(follower) = &mut self.follower {
            follower.expected.push(stored);
        }
    }

    /// Everything that was sent after an answer has a higher number than the answer.
    fn note_commits(&mut self, receipts: &[Receipt]) {
        for receipt in receipts {
            assert!(receipt.commit > self.last_commit, "what is sent later has a higher commit number");
        }
        self.last_commit = receipts.iter().map(|receipt| receipt.commit).max().unwrap_or(self.last_commit);
    }

    fn handle(&self, name: &str) -> Option<Topic> {
        self.handles.get(name).cloned()
    }

    fn produce(&mut self, name: &str, rec: &Rec, blocking: bool) {
        let Some(handle) = self.handle(name) else { return };
        let mut record = rec.record(&handle);
        if name == ONCE {
            record = record.id(format!("identity {}", self.identities.len()));
        }
        let receipt = if blocking {
            handle.blocking_produce(record.clone()).unwrap()
        } else {
            self.runtime.block_on(handle.produce(record.clone())).unwrap()
        };
        if name == ONCE {
            self.identities.push(receipt);
        }
        self.note_commits(&[receipt]);
        self.note(name, &record, &receipt);
    }

    /// Whatever is sent again under an identity is not written again, and the answer is the first one.
    fn repeat(&mut self, at: usize, blocking: bool) {
        let Some(handle) = self.handle(ONCE).filter(|_| !self.identities.is_empty()) else { return };
        let number = at % self.identities.len();
        let first = self.identities[number];
        if first.offset < self.topics[ONCE].partitions[first.partition as usize].start as u64 {
            // It was deleted, and may be known no more.
            return;
        }
        let again = Record::new(Bytes::from_static(b"again"));
        let again = again.id(format!("identity {number}")).partition(first.partition);
        let receipt = if blocking {
            handle.blocking_produce(again).unwrap()
        } else {
            self.runtime.block_on(handle.produce(again)).unwrap()
        };
        let place = |receipt: &Receipt| (receipt.partition, receipt.offset, receipt.commit, receipt.timestamp_micros);
        assert_eq!(place(&receipt), place(&first), "identity {number}");
    }

    /// Whoever only reads sees all that was acknowledged, while the log is open for writing.
    fn look(&self) {
        let reader = Log::builder().blocking_open_read_only(self.log.path()).unwrap();
        assert!(reader.recovery().damage.is_empty(), "{:?}", reader.recovery());
        let mut read = Vec::new();
        let mut replay = reader.replay(Start::Earliest).blocking().unwrap();
        let done = replay.try_for_each(|view| {
            read.push(Stored::of_view(view));
            Ok(())
        });
        done.unwrap();
        self.assert_same(&read, &self.expected(Scope::Log, Start::Earliest).unwrap());
    }

    fn try_send(&mut self, name: &str, rec: &Rec) {
        let Some(handle) = self.handle(name) else { return };
        let record = rec.record(&handle);
        // Nothing else is pending, so there is room.
        let receipt = self.runtime.block_on(handle.try_send(record.clone()).unwrap()).unwrap();
        self.note_commits(&[receipt]);
        self.note(name, &record, &receipt);
    }

    fn batch(&mut self, name: &str, recs: &[Rec], blocking: bool) {
        let Some(handle) = self.handle(name) else { return };
        let records: Vec<Record> = recs.iter().map(|rec| rec.record(&handle)).collect();
        let receipts = if blocking {
            handle.blocking_produce_batch(records.clone()).unwrap()
        } else {
            self.runtime.block_on(handle.produce_batch(records.clone())).unwrap()
        };
        let named: Vec<_> = records.into_iter().map(|record| (name, record)).collect();
        self.note_whole(&named, &receipts);
    }

    fn all(&mut self, recs: &[(usize, Rec)], blocking: bool) {
        let mut batch = Batch::new();
        let mut named = Vec::new();
        for (topic, rec) in recs {
            let Some(handle) = self.handle(TOPICS[*topic]) else { continue };
            let record = rec.record(&handle);
            batch.add(&handle, record.clone()).unwrap();
            named.push((TOPICS[*topic], record));
        }
        assert_eq!(batch.len(), named.len());
        let receipts = if blocking {
            self.log.blocking_produce_all(batch).unwrap()
        } else {
            self.runtime.block_on(self.log.produce_all(batch)).unwrap()
        };
        self.note_whole(&named, &receipts);
    }

    fn note_whole(&mut self, named: &[(&str, Record)], receipts: &[Receipt]) {
        assert_eq!(named.len(), receipts.len());
        assert!(receipts.iter().all(|receipt| receipt.commit == receipts[0].commit), "one commit");
        self.note_commits(receipts);
        for ((name, record), receipt) in named.iter().zip(receipts) {
            self.note(name, record, receipt);
        }
    }

    fn pipeline(&mut self, recs: &[(usize, Rec)], blocking: bool) {
        let (mut named, mut deliveries) = (Vec::new(), Vec::new());
        for (topic, rec) in recs {
            let Some(handle) = self.handle(TOPICS[*topic]) else { continue };
            let record = rec.record(&handle);
            deliveries.push(if blocking {
                handle.blocking_send(record.clone()).unwrap()
            } else {
                self.runtime.block_on(handle.send(record.clone())).unwrap()
            });
            named.push((TOPICS[*topic], record));
        }
        let wait = |delivery: annals::Delivery| {
            if blocking { delivery.wait().unwrap() } else { self.runtime.block_on(delivery).unwrap() }
        };
        let receipts: Vec<Receipt> = deliveries.into_iter().map(wait).collect();
        self.note_commits(&receipts);
        for ((name, record), receipt) in named.iter().zip(&receipts) {
            self.note(name, record, receipt);
        }
    }

    /// The partitions that a scope covers, in the order in which one commit's records come; `None` if they do not exist.
    fn covered(&self, scope: Scope) -> Option<Vec<&ModelPartition>> {
        let whole = |names: &[&str]| -> Option<Vec<&ModelPartition>> {
            let topics = names.iter().map(|name| self.topics.get(*name)).collect::<Option<Vec<_>>>()?;
            Some(topics.into_iter().flat_map(|topic| &topic.partitions).collect())
        };
        match scope {
            Scope::Partition(topic, partition) => {
                Some(vec![self.topics.get(TOPICS[topic])?.partitions.get(partition as usize)?])
            }
            Scope::Topic(topic) => whole(&[TOPICS[topic]]),
            Scope::Topics(one, other) if one == other => whole(&[TOPICS[one]]),
            Scope::Topics(one, other) => whole(&[TOPICS[one], TOPICS[other]]),
            Scope::Log => Some(self.topics.values().flat_map(|topic| &topic.partitions).collect()),
        }
    }

    fn start(&self, from: From) -> Start {
        match from {
            From::Earliest => Start::Earliest,
            From::Latest => Start::Latest,
            From::Offset(offset) => Start::Offset(offset),
            From::Timestamp(micros) => {
                Start::Timestamp(DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<chrono::Utc>::MAX_UTC))
            }
            From::Commit(at, behind) => {
                let all: Vec<_> = self
                    .topics
                    .values()
                    .flat_map(|topic| topic.partitions.iter().flat_map(|partition| &partition.all))
                    .collect();
                let commit = if all.is_empty() { 0 } else { all[at % all.len()].commit };
                Start::Commit(commit + u64::from(behind))
            }
            From::Last(count) => Start::Last(count),
        }
    }

    /// What a replay must bring, or the kind of its error.
    fn expected(&self, scope: Scope, start: Start) -> Result<Vec<Stored>, ErrorKind> {
        let partitions = self.covered(scope).ok_or(ErrorKind::NotFound)?;
        if let Start::Offset(offset) = start {
            return match partitions.as_slice() {
                [partition] => match partition.all.get(offset as usize..) {
                    Some(rest) if offset >= partition.start as u64 => Ok(rest.to_vec()),
                    _ => Err(ErrorKind::OffsetOutOfRange),
                },
                _ => Err(ErrorKind::Invalid),
            };
        }
        let mut found: Vec<(u64, usize, &Stored)> = Vec::new();
        for (index, partition) in partitions.iter().map(|partition| partition.there()).enumerate() {
            let first = match start {
                Start::Latest => None,
                Start::Timestamp(time) => partition.iter().position(|stored| stored.micros >= time.timestamp_micros()),
                Start::Commit(commit) => partition.iter().position(|stored| stored.commit >= commit),
                _ => Some(0),
            };
            let wanted = &partition[first.unwrap_or(partition.len())..];
            found.extend(wanted.iter().map(|stored| (stored.commit, index, stored)));
        }
        // Stable: the records of one partition keep their order.
        found.sort_by_key(|(commit, index, _)| (*commit, *index));
        if let Start::Last(count) = start {
            found.drain(..found.len().saturating_sub(count as usize));
        }
        Ok(found.into_iter().map(|(_, _, stored)| stored.clone()).collect())
    }

    fn open_replay(&self, scope: Scope, start: Start) -> annals::Result<Replay<Bytes, Raw>> {
        match scope {
            Scope::Partition(topic, partition) => {
                Ok(self.log.raw_topic(TOPICS[topic])?.replay_partition(partition, start))
            }
            Scope::Topic(topic) => Ok(self.log.raw_topic(TOPICS[topic])?.replay(start)),
            Scope::Topics(one, other) => self.log.replay_topics([TOPICS[one], TOPICS[other]], start),
            Scope::Log => Ok(self.log.replay(start)),
        }
    }

    fn replay(&self, scope: Scope, from: From, blocking: bool) {
        let start = self.start(from);
        let read = self.open_replay(scope, start).and_then(|replay| {
            if blocking {
                let mut records = Vec::new();
                replay.blocking()?.try_for_each(|view| {
                    records.push(Stored::of_view(view));
                    Ok(())
                })?;
                Ok(records)
            } else {
                let messages: Vec<_> = self.runtime.block_on(replay.collect());
                messages.iter().map(|message| Ok(Stored::of_message(message.as_ref().map_err(Clone::clone)?))).collect()
            }
        });
        match (read, self.expected(scope, start)) {
            (Ok(read), Ok(expected)) => {
                let (of_compacted, others): (Vec<_>, Vec<_>) =
                    read.iter().cloned().partition(|stored| stored.topic == COMPACTED);
                if of_compacted.is_empty() && expected.iter().all(|stored| stored.topic != COMPACTED) {
                    return self.assert_same(&read, &expected);
                }
                // Where a compaction has taken records away the last ones reach back further, and the first one of some time is
                // another one.
                for stored in &of_compacted {
                    let partition = &self.topics[COMPACTED].partitions[stored.partition as usize];
                    assert!(*stored == partition.all[stored.offset as usize], "{:?}", stored.place());
                }
                assert!(read.is_sorted_by_key(|stored| stored.commit), "causal order");
                match start {
                    Start::Last(count) => assert!(read.len() as u64 <= count),
                    Start::Timestamp(_) => {
                        let is_other = |stored: &Stored| stored.topic != COMPACTED;
                        self.assert_same(&others, &expected.into_iter().filter(is_other).collect::<Vec<_>>());
                    }
                    _ => self.assert_same(&read, &expected),
                }
            }
            (read, expected) => assert_eq!(read.map_err(|error| error.kind()), expected),
        }
    }

    fn follow(&mut self, from: From, blocking: bool) {
        self.catch_up();
        // Where a compaction may have taken the first record away, others may be the first of that time, or the last.
        let from = match from {
            From::Timestamp(_) | From::Last(_) if self.topics.contains_key(COMPACTED) => From::Earliest,
            from => from,
        };
        let start = self.start(from);
        let Ok(expected) = self.expected(Scope::Log, start) else { return };
        let replay = self.log.replay(start).follow();
        let mut early = Vec::new();
        let reading = if blocking {
            Reading::Blocking(Box::new(replay.blocking().unwrap()))
        } else {
            let mut replay = Box::new(replay);
            // The place is looked up by the first poll; outside of the runtime, right here.
            match Pin::new(&mut replay).poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(first)) => early.push(Stored::of_message(&first.unwrap())),
                Poll::Ready(None) => panic!("following does not end"),
                Poll::Pending => {}
            }
            Reading::Stream(replay)
        };
        self.follower = Some(Follower { reading, expected, early });
    }

    /// Whether a compaction may have taken a record away: a later one has its key.
    fn is_superseded(&self, stored: &Stored) -> bool {
        let topic = self.topics.get(&stored.topic).filter(|topic| topic.settings.compaction);
        topic.is_some_and(|topic| {
            let later = topic.partitions[stored.partition as usize].all.iter().skip(stored.offset as usize + 1);
            later.into_iter().any(|later| later.key == stored.key)
        })
    }

    /// Lets the follower read all there is for it: exactly that, in order.
    fn catch_up(&mut self) {
        let Some(mut follower) = self.follower.take() else { return };
        let mut seen = std::mem::take(&mut follower.early);
        // The last of each key stay, and among them is the last of each partition.
        let is_required = |stored: &&Stored| !self.is_superseded(stored);
        let required = follower.expected.iter().filter(is_required).count();
        while seen.iter().filter(is_required).count() < required {
            seen.push(match &mut follower.reading {
                Reading::Stream(replay) => {
                    let next = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, replay.next()).await });
                    Stored::of_message(&next.expect("a follower hears of every record").unwrap().unwrap())
                }
                Reading::Blocking(replay) => Stored::of_view(replay.next().unwrap().unwrap()),
            });
        }
        if let Reading::Stream(replay) = &mut follower.reading {
            let more = Pin::new(replay).poll_next(&mut Context::from_waker(Waker::noop()));
            assert!(more.is_pending(), "a follower sees nothing twice: {more:?}");
        }
        assert!(seen.is_sorted_by_key(|stored| stored.commit), "causal order");
        let mut next: BTreeMap<(&str, u32), u64> = BTreeMap::new();
        for stored in &seen {
            let next = next.entry((&stored.topic, stored.partition)).or_insert(stored.offset);
            let is_next = *next == stored.offset || stored.topic == COMPACTED && *next < stored.offset;
            assert!(is_next, "offset order: {next} was to come, {} came", stored.offset);
            *next = stored.offset + 1;
        }
        // Among the partitions of one commit those that came later may come later.
        let mut expected = std::mem::take(&mut follower.expected);
        expected.sort_by(|a, b| a.place().cmp(&b.place()));
        seen.sort_by(|a, b| a.place().cmp(&b.place()));
        self.assert_same(&seen, &expected);
        self.follower = Some(follower);
    }

    fn delete_records(&mut self, name: &str, number: u32, part: u64, blocking: bool) {
        // Whoever is behind would get a gap.
        self.catch_up();
        let partition = self.topics.get_mut(name).and_then(|topic| topic.partitions.get_mut(number as usize));
        let before = partition.as_ref().map_or(0, |partition| partition.all.len() as u64 * part / 100);
        let deleted = if blocking {
            self.log.blocking_delete_records(name, number, before)
        } else {
            self.runtime.block_on(self.log.delete_records(name, number, before))
        };
        match partition {
            None => assert_eq!(deleted.unwrap_err().kind(), ErrorKind::NotFound),
            Some(partition) if before > partition.all.len() as u64 => {
                assert_eq!(deleted.unwrap_err().kind(), ErrorKind::OffsetOutOfRange);
            }
            Some(partition) => {
                partition.start = partition.start.max(before as usize);
                assert_eq!(deleted.unwrap(), partition.start as u64);
            }
        }
    }

    fn compact(&mut self, name: &str, blocking: bool) {
        let compacted = if blocking {
            self.log.blocking_compact_topic(name)
        } else {
            self.runtime.block_on(self.log.compact_topic(name))
        };
        match self.topics.get(name) {
            None => assert_eq!(compacted.unwrap_err().kind(), ErrorKind::NotFound),
            Some(topic) if !topic.settings.compaction => {
                assert_eq!(compacted.unwrap_err().kind(), ErrorKind::Invalid);
            }
            Some(_) => assert!(compacted.unwrap().complete),
        }
        self.replay(Scope::Log, From::Earliest, blocking);
    }

    /// Compares without printing kilobytes of values. What a compaction may have taken away may be missing.
    fn assert_same(&self, read: &[Stored], expected: &[Stored]) {
        let place = |stored: Option<&Stored>| {
            stored.map(|s| format!("{} {}/{} commit {} ({} us)", s.topic, s.partition, s.offset, s.commit, s.micros))
        };
        let mut read = read.iter().peekable();
        for (at, should_be) in expected.iter().enumerate() {
            let is = read.next_if(|is| is.place() == should_be.place() || !self.is_superseded(should_be));
            if is.is_none() && self.is_superseded(should_be) {
                continue;
            }
            let (is_at, should_be_at) = (place(is), place(Some(should_be)));
            assert_eq!(is_at, should_be_at, "record {at} of {} is not the expected one", expected.len());
            assert!(is == Some(should_be), "record {at}, {is_at:?}, has other contents");
        }
        assert_eq!(place(read.next()), None, "more than the {} that were expected", expected.len());
    }

    fn describe(&self) {
        let described = self.log.topics().unwrap();
        assert!(described.iter().map(|topic| &topic.name).eq(self.topics.keys()));
        for topic in described {
            let model = &self.topics[&topic.name];
            assert_eq!(topic.settings, model.settings);
            assert_eq!(self.log.describe_topic(&topic.name).unwrap().id, topic.id);
            assert_eq!(topic.partitions.len(), model.partitions.len());
            for (number, (partition, stored)) in topic.partitions.iter().zip(&model.partitions).enumerate() {
                assert_eq!(partition.partition, number as u32);
                let expected = (stored.start as u64, stored.all.len() as u64);
                assert_eq!((partition.log_start, partition.high_watermark), expected);
                assert!(partition.durable_end <= partition.high_watermark);
                if model.settings.durability == Durability::Sync {
                    assert_eq!(partition.durable_end, partition.high_watermark, "acknowledged is on the disk");
                }
                assert!(partition.failure.is_none());
                let marks = self.handles[&topic.name].watermarks(number as u32).unwrap();
                assert_eq!(marks.high_watermark, partition.high_watermark);
            }
        }
    }

    fn sync(&self, blocking: bool) {
        if blocking {
            self.log.blocking_sync().unwrap();
        } else {
            self.runtime.block_on(self.log.sync()).unwrap();
        }
        for topic in self.log.topics().unwrap() {
            let model = &self.topics[&topic.name];
            for (partition, stored) in topic.partitions.iter().zip(&model.partitions) {
                assert_eq!(partition.durable_end, stored.all.len() as u64);
                if model.settings.compaction {
                    continue;
                }
                let bytes: usize =
                    stored.there().iter().map(|stored| stored.value.as_ref().map_or(0, Bytes::len)).sum();
                assert!(partition.size_bytes >= bytes as u64);
                assert!(partition.segments > bytes / (128 << 10), "segments roll");
            }
        }
    }

    fn reopen(&mut self) {
        self.runtime.block_on(self.log.close()).unwrap();
        assert_eq!(self.log.topics().unwrap_err().kind(), ErrorKind::Closed);
        // What was acknowledged before the end is still delivered to who follows, and then the end.
        let mut follower = self.follower.take();
        if let Some(Follower { reading, expected, early }) = &mut follower {
            let mut seen = std::mem::take(early);
            let error = loop {
                let next = match reading {
                    Reading::Stream(replay) => {
                        self.runtime.block_on(replay.next()).unwrap().map(|message| Stored::of_message(&message))
                    }
                    Reading::Blocking(replay) => replay.next().map(|view| Stored::of_view(view.unwrap())),
                };
                match next {
                    Ok(stored) => seen.push(stored),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::Closed);
            expected.sort_by(|a, b| a.place().cmp(&b.place()));
            seen.sort_by(|a, b| a.place().cmp(&b.place()));
            self.assert_same(&seen, expected);
        }
        let dir = self.dir.take().unwrap();
        self.open(dir, true);
    }

    /// A process that is killed leaves its files as they are at that moment.
    fn crash(&mut self) {
        let copy = killed(self.log.path());
        self.open(copy, false);
    }

    fn open(&mut self, dir: TempDir, clean: bool) {
        self.follower = None;
        let (epoch, id) = (self.log.recovery().epoch, self.log.id());
        self.log = Log::blocking_open(dir.path()).unwrap();
        let report = self.log.recovery();
        assert_eq!(report.clean, clean);
        assert_eq!(report.epoch, epoch + u64::from(!clean));
        assert!(report.damage.is_empty(), "{report:?}");
        assert!(!report.created && self.log.id() == id);
        self.handles = self.topics.keys().map(|name| (name.clone(), self.log.raw_topic(name).unwrap())).collect();
        self.dir = Some(dir);
        self.describe();
        self.replay(Scope::Log, From::Earliest, true);
    }
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        max_shrink_time: 120_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/model.txt"))),
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 100;
    }
    config
}

fn check(durable: bool, steps: &[Step]) {
    let mut world = World::new(durable);
    for Step(action) in steps {
        world.run(action);
    }
    world.catch_up();
    world.describe();
    world.replay(Scope::Log, From::Earliest, false);
    world.runtime.block_on(world.log.close()).unwrap();
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_log_in_memory_is_the_model(steps in proptest::collection::vec(any_step(false), 1..80)) {
        check(false, &steps);
    }

    #[test]
    fn a_log_on_a_disk_is_the_model_through_closes_and_crashes(
        steps in proptest::collection::vec(any_step(true), 1..60),
    ) {
        check(true, &steps);
    }
}
