//! Streams of events by their key, states that are folds of them, and snapshots.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::{
    Aggregate, Bincode, Durability, ErrorKind, EventStream, Expected, Json, Loaded, Log, Message, Record, Snapshot,
    Topic, TopicDef, TopicSettings,
};
use futures_util::TryStreamExt;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[path = "support/copy.rs"]
mod copy;

use copy::{copy_dir, killed};

const THREADS: usize = 4;
const ROUNDS: u64 = 100;

const NUMBERS: TopicDef<u64, Json> = TopicDef::new("numbers");

fn settings(indexed: bool) -> TopicSettings {
    TopicSettings::default().partitions(2).index_keys(indexed).durability(Durability::Os)
}

fn numbers(log: &Log, indexed: bool) -> Topic<u64, Json> {
    log.blocking_create_topic(NUMBERS, settings(indexed)).unwrap()
}

type Stream = EventStream<u64, Json>;

/// Offsets and values.
fn read(stream: &Stream, from: u64) -> Vec<(u64, Option<u64>)> {
    let all = stream.read_from(from).blocking().unwrap();
    all.map(|message| message.map(|message| (message.offset(), message.value().copied())).unwrap()).collect()
}

/// Depends on the order of the events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Chain {
    count: u64,
    chain: u64,
    last_offset: u64,
}

impl Aggregate for Chain {
    type Event = u64;

    fn apply(&mut self, event: &u64, message: &Message<u64>) {
        self.count += 1;
        self.chain = self.chain.wrapping_mul(1_000_003).wrapping_add(*event);
        self.last_offset = message.offset();
    }
}

impl Snapshot for Chain {
    const NAME: &'static str = "chain";
    const VERSION: u32 = 1;
    const EVERY: u64 = 5;
}

/// The same state, whose later version counts double.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Doubled(Chain);

impl Aggregate for Doubled {
    type Event = u64;

    fn apply(&mut self, event: &u64, message: &Message<u64>) {
        self.0.apply(event, message);
        self.0.count += 1;
    }
}

impl Snapshot for Doubled {
    const NAME: &'static str = "chain";
    const VERSION: u32 = 2;
    const EVERY: u64 = 5;
}

/// Of all who have seen a version, one succeeds, and what succeeded is there, in its order.
#[test]
fn one_of_those_who_append_to_a_version_succeeds() {
    for indexed in [false, true] {
        let log = Log::in_memory().unwrap();
        let topic = numbers(&log, indexed);
        let (won, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        let seen = Barrier::new(THREADS);
        let appended: Vec<(u8, u64, Vec<u64>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS as u64)
                .map(|thread| {
                    let (topic, won, lost, seen) = (&topic, &won, &lost, &seen);
                    scope.spawn(move || {
                        let mut mine = Vec::new();
                        for round in 0..ROUNDS {
                            let key = (round % 3) as u8;
                            let stream = topic.stream([key]);
                            let version = stream.blocking_version().unwrap();
                            // All have seen the same, and append at the same time.
                            seen.wait();
                            let events: Vec<u64> = (0..=round % 2).map(|at| thread * 1000 + round * 10 + at).collect();
                            match stream.blocking_append(events.clone(), version) {
                                Ok(receipt) => {
                                    won.fetch_add(1, Ordering::Relaxed);
                                    mine.push((key, receipt.offset, events));
                                }
                                Err(error) => {
                                    assert_eq!(error.kind(), ErrorKind::Conflict);
                                    assert_ne!(error.current_version(), Some(version));
                                    lost.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                            seen.wait();
                        }
                        mine
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((won.into_inner(), lost.into_inner()), (ROUNDS, ROUNDS * (THREADS as u64 - 1)));
        for key in 0..3_u8 {
            let stream = topic.stream([key]);
            let mut mine: Vec<_> = appended.iter().filter(|(of, ..)| *of == key).collect();
            mine.sort_by_key(|(_, offset, _)| *offset);
            let mut expected = Vec::new();
            for (_, last, events) in mine {
                let first = last + 1 - events.len() as u64;
                expected.extend((first..).zip(events).map(|(offset, event)| (offset, Some(*event))));
            }
            assert_eq!(read(&stream, 0), expected, "no event is lost, none is too many");
            let last = expected.last().unwrap().0;
            assert_eq!(stream.blocking_version().unwrap(), Expected::Exact(last));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Any(u8, Vec<u64>),
    /// The version as it is, or one that it is not.
    Version(u8, bool, Vec<u64>),
    Delete(u8),
    Read(u8, u64),
    Load(u8),
    Index(bool),
    Reopen,
    Kill,
    /// Of the snapshots.
    Forget,
    Save,
    PutBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let events = || prop::collection::vec(0..1000_u64, 1..8);
    let key = || 0..4_u8;
    let step = prop_oneof![
        4 => (key(), events()).prop_map(|(key, events)| Step::Any(key, events)),
        4 => (key(), any::<bool>(), events()).prop_map(|(key, right, events)| Step::Version(key, right, events)),
        1 => key().prop_map(Step::Delete),
        2 => (key(), 0..60_u64).prop_map(|(key, from)| Step::Read(key, from)),
        5 => key().prop_map(Step::Load),
        1 => any::<bool>().prop_map(Step::Index),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::Forget),
        1 => Just(Step::Save),
        1 => Just(Step::PutBack),
    ];
    prop::collection::vec(step, 1..50)
}

struct World {
    dir: tempfile::TempDir,
    saved: tempfile::TempDir,
    log: Option<Log>,
    /// What each key's stream has, and at which offset.
    model: BTreeMap<u8, Vec<(u64, Option<u64>)>>,
}

impl World {
    fn topic(&mut self) -> Topic<u64, Json> {
        let dir = self.dir.path();
        let log = self.log.get_or_insert_with(|| Log::blocking_open(dir).unwrap());
        log.topic(NUMBERS).unwrap_or_else(|_| numbers(log, false))
    }

    fn close(&mut self) {
        if let Some(log) = self.log.take() {
            log.blocking_close().unwrap();
        }
    }

    fn version(&self, key: u8) -> Expected {
        match self.model.get(&key).and_then(|events| events.last()) {
            Some((offset, Some(_))) => Expected::Exact(*offset),
            _ => Expected::Empty,
        }
    }

    fn appended(&mut self, key: u8, events: &[u64], last: u64) {
        let first = last + 1 - events.len() as u64;
        let placed = (first..).zip(events).map(|(offset, event)| (offset, Some(*event)));
        self.model.entry(key).or_default().extend(placed);
    }

    fn load(&mut self, key: u8) {
        let (stream, model) = (self.topic().stream([key]), self.model.get(&key).cloned().unwrap_or_default());
        let begun = model.iter().rposition(|(_, value)| value.is_none()).map_or(0, |at| at + 1);
        let mut state = Chain::default();
        for (offset, value) in &model[begun..] {
            state.count += 1;
            state.chain = state.chain.wrapping_mul(1_000_003).wrapping_add(value.unwrap());
            state.last_offset = *offset;
        }
        let plain: Loaded<Chain> = stream.blocking_load().unwrap();
        assert_eq!((&plain.state, plain.version), (&state, self.version(key)));
        assert_eq!((plain.events, plain.read, plain.gap), (state.count, model.len() as u64, None));
        let snapshot: Loaded<Chain> = stream.blocking_load_snapshot().unwrap();
        assert_eq!((&snapshot.state, snapshot.version, snapshot.events), (&state, self.version(key), state.count));
        let again: Loaded<Chain> = stream.blocking_load_snapshot().unwrap();
        assert_eq!(again.state, state);
        // Behind a tombstone there is nothing to save.
        assert!(again.read < Chain::EVERY || state.count == 0, "{again:?}");
        // Two of one name: neither is ever taken for the other.
        let doubled: Loaded<Doubled> = stream.blocking_load_snapshot().unwrap();
        assert_eq!(doubled.state.0, Chain { count: 2 * state.count, ..state });
    }

    fn view(&self) -> PathBuf {
        self.dir.path().join("views/snapshots")
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Any(key, events) => {
                let receipt = self.topic().stream([*key]).blocking_append(events.clone(), Expected::Any).unwrap();
                self.appended(*key, events, receipt.offset);
            }
            Step::Version(key, true, events) => {
                let (stream, version) = (self.topic().stream([*key]), self.version(*key));
                assert_eq!(stream.blocking_version().unwrap(), version);
                let receipt = stream.blocking_append(events.clone(), version).unwrap();
                self.appended(*key, events, receipt.offset);
            }
            Step::Version(key, false, events) => {
                let (stream, version) = (self.topic().stream([*key]), self.version(*key));
                let wrong = if version == Expected::Empty { Expected::Exact(0) } else { Expected::Empty };
                let error = stream.blocking_append(events.clone(), wrong).unwrap_err();
                assert_eq!((error.kind(), error.current_version()), (ErrorKind::Conflict, Some(version)));
            }
            Step::Delete(key) => {
                let receipt =
                    self.topic().stream([*key]).blocking_append([Record::tombstone()], Expected::Any).unwrap();
                self.model.entry(*key).or_default().push((receipt.offset, None));
            }
            Step::Read(key, from) => {
                let expected: Vec<_> = self.model.get(key).into_iter().flatten().copied().collect();
                let stream = self.topic().stream([*key]);
                assert_eq!(read(&stream, 0), expected);
                let behind: Vec<_> = expected.into_iter().filter(|(offset, _)| offset >= from).collect();
                assert_eq!(read(&stream, *from), behind);
            }
            Step::Load(key) => self.load(*key),
            Step::Index(indexed) => {
                let settings = self.topic().settings().index_keys(*indexed);
                self.log.as_ref().unwrap().blocking_alter_topic("numbers", settings).unwrap();
            }
            Step::Reopen => self.close(),
            Step::Kill => {
                self.topic();
                let copy = killed(self.dir.path());
                self.close();
                self.dir = copy;
            }
            Step::Forget => {
                self.close();
                drop(fs::remove_dir_all(self.view()));
            }
            Step::Save => {
                self.close();
                if self.view().exists() {
                    drop(fs::remove_dir_all(self.saved.path()));
                    copy_dir(&self.view(), self.saved.path());
                }
            }
            Step::PutBack => {
                self.close();
                if self.view().exists() {
                    fs::remove_dir_all(self.view()).unwrap();
                    copy_dir(self.saved.path(), &self.view());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_is_what_was_appended_to_it(steps in steps()) {
        let (dir, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut world = World { dir, saved, log: None, model: BTreeMap::new() };
        steps.iter().for_each(|step| world.step(step));
        (0..4).for_each(|key| world.load(key));
        world.close();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Appends up to so many events, and loads the state of each key now and then, so that snapshots are there.
fn grow(dir: &Path, upto: u64, shift: u64) {
    let log = Log::blocking_open(dir).unwrap();
    let topic = numbers(&log, true);
    let written: u64 = (0..2).map(|number| topic.watermarks(number).unwrap().high_watermark).sum();
    for number in written..upto {
        let stream = topic.stream([number as u8 % 3]);
        stream.blocking_append([number + shift], Expected::Any).unwrap();
        if number % 10 == 0 {
            stream.blocking_load_snapshot::<Chain>().unwrap();
        }
    }
    log.blocking_close().unwrap();
}

/// With snapshots the state is the same as without. Answers how many records were read.
fn check(dir: &Path, what: &str) -> u64 {
    let checked = std::panic::catch_unwind(|| {
        let log = Log::blocking_open(dir).unwrap();
        let topic = numbers(&log, true);
        let loaded = (0..3).map(|key| {
            let stream = topic.stream([key]);
            let (plain, loaded) =
                (stream.blocking_load::<Chain>().unwrap(), stream.blocking_load_snapshot::<Chain>().unwrap());
            assert!(plain.events > 0);
            assert_eq!((plain.state, plain.version, plain.events), (loaded.state, loaded.version, loaded.events));
            loaded.read
        });
        let read = loaded.sum();
        log.blocking_close().unwrap();
        read
    });
    checked.unwrap_or_else(|_| panic!("{what}"))
}

#[test]
fn nothing_that_happens_to_snapshots_makes_a_wrong_state() {
    let dir = tempfile::tempdir().unwrap();
    let (original, old) = (dir.path().join("original"), dir.path().join("old"));
    grow(&original, 40, 0);
    copy_dir(&original.join("views"), &old);
    grow(&original, 100, 0);
    let views = original.join("views");
    let (copied, mut cases, mut costly) = (dir.path().join("copied"), 0, 0);
    let mut damaged = |what: &str, damage: &dyn Fn(&Path)| {
        copy_dir(&original, &copied);
        damage(&copied.join("views"));
        let read = check(&copied, what);
        (cases, costly) = (cases + 1, costly + u64::from(read > 30));
        fs::remove_dir_all(&copied).unwrap();
        read
    };
    assert!(damaged("nothing", &|_| {}) < 30, "snapshots save reading");
    assert_eq!(damaged("gone", &|views| fs::remove_dir_all(views).unwrap()), 100);
    damaged("an old copy", &|views| {
        fs::remove_dir_all(views).unwrap();
        copy_dir(&old, views);
    });
    for path in files(&views.join("snapshots")) {
        let name = path.strip_prefix(&views).unwrap();
        let bytes = fs::read(&path).unwrap();
        damaged(&format!("{name:?} gone"), &|views| fs::remove_file(views.join(name)).unwrap());
        damaged(&format!("{name:?} of the old copy"), &|views| drop(fs::copy(old.join(name), views.join(name))));
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..used).step_by((used / 20).max(1)).chain([used, bytes.len().saturating_sub(1)]) {
            damaged(&format!("{name:?} cut at {at}"), &|views| fs::write(views.join(name), &bytes[..at]).unwrap());
        }
        for at in (0..used).step_by((used / 60).max(1)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            damaged(&format!("{name:?} flipped at {at}"), &|views| fs::write(views.join(name), &flipped).unwrap());
        }
    }
    eprintln!("{cases} cases, {costly} had to be read anew");
    assert!(cases > 80 && costly > 10, "{costly} of {cases}");
}

/// Snapshots of records that are not in the log, or are others there.
#[test]
fn a_snapshot_of_another_history_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, start, newer) = (dir.path().join("log"), dir.path().join("start"), dir.path().join("newer"));
    grow(&log, 30, 0);
    copy_dir(&log, &start);
    grow(&log, 90, 0);
    copy_dir(&log.join("views"), &newer);
    for (name, upto) in [("as it was", 30), ("shorter", 45), ("as long", 90), ("longer", 120)] {
        let history = dir.path().join(name);
        copy_dir(&start, &history);
        grow(&history, upto, 1);
        fs::remove_dir_all(history.join("views")).unwrap();
        copy_dir(&newer, &history.join("views"));
        assert_eq!(check(&history, name), upto, "{name}");
        assert!(check(&history, name) < 30, "{name}, again");
    }
}

/// Where retention was faster the state may lack events: that is said, and not saved.
#[test]
fn what_has_gone_is_said() {
    let log = Log::temporary().unwrap();
    let topic = numbers(&log, true);
    let stream = topic.stream("a");
    stream.blocking_append(0..20, Expected::Empty).unwrap();
    let partition = topic.partition_for(b"a");
    log.blocking_delete_records("numbers", partition, 10).unwrap();
    for _ in 0..2 {
        let loaded = stream.blocking_load_snapshot::<Chain>().unwrap();
        assert_eq!((loaded.state.count, loaded.read), (10, 10));
        let gap = loaded.gap.unwrap();
        assert_eq!((&*gap.topic, gap.partition, gap.from, gap.to), ("numbers", partition, 0, 10));
    }
    // A snapshot from before stands for what has gone since.
    let elsewhere = (0..u8::MAX).find(|key| topic.partition_for(&[*key]) != partition).unwrap();
    let other = topic.stream([elsewhere]);
    other.blocking_append(0..20, Expected::Empty).unwrap();
    let before = other.blocking_load_snapshot::<Chain>().unwrap();
    log.blocking_delete_records("numbers", 1 - partition, 20).unwrap();
    let loaded = other.blocking_load_snapshot::<Chain>().unwrap();
    assert_eq!((loaded.state, loaded.read, loaded.gap), (before.state, 0, None));
    assert_eq!((loaded.version, other.blocking_version().unwrap()), (Expected::Empty, Expected::Empty));
    other.blocking_append([7], loaded.version).unwrap();
    assert!(other.blocking_load::<Chain>().unwrap().gap.is_some());
}

#[tokio::test]
async fn tasks_have_the_same() {
    let log = Log::in_memory().unwrap();
    let numbers: TopicDef<u64, Bincode> = TopicDef::new("numbers");
    let topic = log.create_topic(numbers, settings(true)).await.unwrap();
    let stream = topic.stream("a");
    assert_eq!(stream.version().await.unwrap(), Expected::Empty);
    let first = stream.append([1, 2, 3], Expected::Empty).await.unwrap();
    topic.stream("b").append([9], Expected::Empty).await.unwrap();
    let late = stream.append([4], Expected::Empty).await.unwrap_err();
    assert_eq!(late.current_version(), Some(Expected::Exact(first.offset)));
    let record = Record::new(4).header("correlation_id", "c").id("once");
    stream.append([record], Expected::Exact(first.offset)).await.unwrap();
    let events: Vec<_> = stream.read().try_collect().await.unwrap();
    assert_eq!(events.iter().map(|event| *event.event().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(stream.load::<Chain>().await.unwrap().state, stream.load_snapshot::<Chain>().await.unwrap().state);
    let none: [u64; 0] = [];
    assert_eq!(stream.append(none, Expected::Any).await.unwrap_err().kind(), ErrorKind::Invalid);
    let foreign = [Record::new(1).key("b")];
    assert_eq!(stream.append(foreign, Expected::Any).await.unwrap_err().kind(), ErrorKind::Invalid);
    let placed = [Record::new(1).partition(0)];
    assert_eq!(stream.append(placed, Expected::Any).await.unwrap_err().kind(), ErrorKind::Invalid);
}

/// The history of one case, of one type, and of one key, over all topics.
#[tokio::test]
async fn events_are_found_by_correlation_id_type_and_key() {
    let log = Log::temporary().unwrap();
    let settings =
        TopicSettings::default().indexed_headers(["correlation_id", "event_type"]).index_keys(true).partitions(3);
    let orders = log.create_raw_topic("orders", settings.clone()).await.unwrap();
    let invoices = log.create_raw_topic("invoices", settings).await.unwrap();
    for number in 0..60_u8 {
        let topic = if number % 2 == 0 { &orders } else { &invoices };
        let record = Record::new(vec![number].into())
            .key([number % 5])
            .header("correlation_id", [number % 7])
            .header("event_type", if number % 3 == 0 { "opened" } else { "paid" });
        topic.produce(record).await.unwrap();
    }
    let found = async |find: annals::Find<bytes::Bytes, annals::Raw>| {
        let found: Vec<_> = find.try_collect().await.unwrap();
        found.iter().map(|message| message.value().unwrap()[0]).collect::<Vec<_>>()
    };
    let those = |holds: fn(&u8) -> bool| (0..60).filter(holds).collect::<Vec<_>>();
    assert_eq!(found(log.find("correlation_id", [3])).await, those(|number| number % 7 == 3));
    assert_eq!(found(log.find("event_type", "opened")).await, those(|number| number % 3 == 0));
    assert_eq!(found(log.find_key([4])).await, those(|number| number % 5 == 4));
    assert_eq!(found(orders.find_key([4])).await, those(|number| number % 5 == 4 && number % 2 == 0));
    assert_eq!(found(orders.stream([4]).read()).await, those(|number| number % 5 == 4 && number % 2 == 0));

    let plain = log.create_raw_topic("plain", TopicSettings::default().indexed_headers(["a"])).await.unwrap();
    let refused = plain.find_key("x").blocking().unwrap_err();
    assert!(refused.to_string().ends_with(r#"the key is not indexed: topic plain indexes "a""#), "{refused}");
    let refused = orders.find("key", "x").blocking().unwrap_err();
    let said = r#"the header "key" is not indexed: topic orders indexes "correlation_id", "event_type", the key"#;
    assert!(refused.to_string().ends_with(said), "{refused}");
    assert_eq!(orders.find("", "x").blocking().unwrap_err().kind(), ErrorKind::Invalid, "no header has this name");
}
