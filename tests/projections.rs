//! Projections: the state is a fold of the log, whatever happens to the process, to the view and to the log.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use annals::{
    Batch, Durability, ErrorKind, Json, Log, Message, Progress, Projection, ProjectionBuilder, ProjectionState, Raw,
    Rebuild, Record, Start, Topic, TopicDef, TopicSettings,
};
use bytes::Bytes;
use proptest::prelude::*;

#[path = "support/copy.rs"]
mod copy;

use copy::{copy_dir, killed};

const TOPICS: [&str; 2] = ["a", "b"];

/// How many, and what came of them in their order.
type Counted = (u64, u64);
type State = BTreeMap<String, Counted>;

fn raw(log: &Log, name: &str, settings: TopicSettings) -> Topic {
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings).unwrap()
}

fn record(key: u8, value: u64) -> Record<Bytes> {
    Record::new(Bytes::copy_from_slice(&value.to_le_bytes())).key([key])
}

fn value_of(message: &Message) -> u64 {
    u64::from_le_bytes(message.value().unwrap().as_ref().try_into().unwrap())
}

/// What a record does to a state: it depends on the order, changes several keys, and takes one out now and then.
fn effect(message: &Message, mut change: impl FnMut(&str, Option<&dyn Fn(&mut Counted)>)) {
    let value = value_of(message);
    let count = move |counted: &mut Counted| {
        *counted = (counted.0 + 1, counted.1.wrapping_mul(1_000_003).wrapping_add(value));
    };
    let key = message.key().map_or(0, |key| key[0]);
    change("all", Some(&count));
    change(&format!("topic/{}", message.topic()), Some(&count));
    match value % 5 {
        0 => change(&format!("key/{key}"), None),
        _ => change(&format!("key/{key}"), Some(&count)),
    }
}

fn apply(state: &mut ProjectionState, message: &Message) -> Result<(), annals::ApplyError> {
    let mut done = Ok(());
    effect(message, |key, how| match how {
        Some(how) => done = done.clone().and_then(|()| state.update(key, |counted| how(counted))),
        None => state.remove(key),
    });
    Ok(done?)
}

/// The state as a straight fold of what is in the log.
fn folded(log: &Log) -> State {
    let mut state = State::new();
    let mut records = log.replay_topics(TOPICS, Start::Earliest).unwrap().blocking().unwrap();
    while let Some(message) = records.next_message().unwrap() {
        effect(&message, |key, how| match how {
            Some(how) => how(state.entry(key.to_owned()).or_default()),
            None => drop(state.remove(key)),
        });
    }
    state
}

fn shown(projection: &Projection) -> State {
    let all = projection.range::<Counted>("").unwrap();
    all.into_iter().map(|(key, value)| (String::from_utf8(key.to_vec()).unwrap(), value)).collect()
}

fn builder(log: &Log, version: u32) -> ProjectionBuilder {
    TOPICS.iter().fold(log.projection("counts", version), |builder, topic| builder.on_raw(topic, apply))
}

/// Waits until the projection has everything that was written before this.
fn settle(log: &Log, projection: &Projection) {
    let receipt = raw(log, "tick", TopicSettings::default()).blocking_produce(record(0, 0)).unwrap();
    projection.blocking_wait_for(&receipt).unwrap();
}

fn create(log: &Log) -> [Topic; 2] {
    TOPICS.map(|name| raw(log, name, TopicSettings::default().partitions(2).durability(Durability::Os)))
}

/// Opens the projection, and holds it against the fold. Answers why it was built anew, if it was.
fn check(log: &Log) -> Option<Rebuild> {
    let projection = builder(log, 1).blocking_spawn().unwrap();
    let why = projection.last_rebuild();
    settle(log, &projection);
    assert_eq!(shown(&projection), folded(log));
    projection.blocking_close();
    why
}

fn aside(log: &Path) -> Vec<String> {
    let entries = fs::read_dir(log.join("views")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.contains("aside")).collect();
    names.sort();
    names
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize, u8, u64),
    /// Over both topics, as one.
    Batch(Vec<(usize, u8, u64)>),
    Settle,
    /// The projection alone.
    Close,
    Rebuild,
    Reopen,
    /// What a kill would leave is gone on with.
    Kill,
    /// Of the view.
    Forget,
    Save,
    PutBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = || (0..2_usize, 0..6_u8, 0..1000_u64);
    let step = prop_oneof![
        6 => one().prop_map(|(topic, key, value)| Step::Append(topic, key, value)),
        3 => prop::collection::vec(one(), 1..40).prop_map(Step::Batch),
        3 => Just(Step::Settle),
        1 => Just(Step::Close),
        1 => Just(Step::Rebuild),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::Forget),
        1 => Just(Step::Save),
        1 => Just(Step::PutBack),
    ];
    prop::collection::vec(step, 1..40)
}

struct World {
    dir: tempfile::TempDir,
    saved: tempfile::TempDir,
    log: Option<Log>,
    projection: Option<Projection>,
}

impl World {
    fn log(&mut self) -> Log {
        let dir = self.dir.path();
        self.log
            .get_or_insert_with(|| {
                let log = Log::blocking_open(dir).unwrap();
                create(&log);
                log
            })
            .clone()
    }

    fn projection(&mut self) -> Projection {
        let log = self.log();
        self.projection.get_or_insert_with(|| builder(&log, 1).blocking_spawn().unwrap()).clone()
    }

    fn close(&mut self) {
        if let Some(log) = self.log.take() {
            log.blocking_close().unwrap();
        }
        self.projection = None;
    }

    fn view(&self) -> PathBuf {
        self.dir.path().join("views/projection-counts")
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(topic, key, value) => {
                let _running = self.projection();
                create(&self.log())[*topic].blocking_produce(record(*key, *value)).unwrap();
            }
            Step::Batch(records) => {
                let (topics, mut batch) = (create(&self.log()), Batch::new());
                for (topic, key, value) in records {
                    batch.add(&topics[*topic], record(*key, *value)).unwrap();
                }
                self.log().blocking_produce_all(batch).unwrap();
            }
            Step::Settle => {
                let (log, projection) = (self.log(), self.projection());
                settle(&log, &projection);
                assert_eq!(shown(&projection), folded(&log));
            }
            Step::Close => drop(self.projection.take()),
            Step::Rebuild => self.projection().rebuild(),
            Step::Reopen => self.close(),
            Step::Kill => {
                self.log();
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
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_a_fold_of_the_log_whatever_happens(steps in steps()) {
        let (dir, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut world = World { dir, saved, log: None, projection: None };
        steps.iter().chain([&Step::Settle]).for_each(|step| world.step(step));
        world.close();
    }
}

/// Goes on with a log, and with its projection, until it has so many records.
fn grow(dir: &Path, rounds: &[u64], shift: u64) {
    for upto in rounds {
        let log = Log::blocking_open(dir).unwrap();
        let topics = create(&log);
        let ends =
            topics.iter().flat_map(|topic| (0..2).map(|number| topic.watermarks(number).unwrap().high_watermark));
        let written: u64 = ends.sum();
        for number in written..*upto {
            topics[number as usize % 2].blocking_produce(record(number as u8 % 7, number * 3 + shift)).unwrap();
        }
        check(&log);
        log.blocking_close().unwrap();
    }
}

/// Opens a log and checks the projection; then the same again, with what the first has left.
fn check_closed(dir: &Path, what: &str) -> Option<Rebuild> {
    let mut why = None;
    for again in ["", ", and again"] {
        let checked = std::panic::catch_unwind(|| {
            let log = Log::blocking_open(dir).unwrap();
            let why = check(&log);
            log.blocking_close().unwrap();
            why
        });
        let checked = checked.unwrap_or_else(|_| panic!("{what}{again}"));
        assert!(again.is_empty() || checked.is_none(), "{what}: built once more");
        why = why.or(checked);
    }
    why
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

fn replace(target: &Path, by: &Path) {
    drop(fs::remove_dir_all(target));
    copy_dir(by, target);
}

/// Whatever happens to the files of the view, the state is never a wrong one.
#[test]
fn nothing_that_happens_to_the_view_makes_a_wrong_state() {
    let dir = tempfile::tempdir().unwrap();
    let (original, old) = (dir.path().join("original"), dir.path().join("old"));
    grow(&original, &[20], 0);
    copy_dir(&original.join("views"), &old);
    grow(&original, &[60, 90], 0);
    let views = original.join("views");
    let (copied, mut cases, mut asides) = (dir.path().join("copied"), 0, 0);
    let mut check = |what: &str, damage: &dyn Fn(&Path)| {
        copy_dir(&original, &copied);
        damage(&copied.join("views"));
        check_closed(&copied, what);
        cases += 1;
        asides += usize::from(!aside(&copied).is_empty());
        fs::remove_dir_all(&copied).unwrap();
    };
    check("nothing", &|_| {});
    check("gone", &|views| fs::remove_dir_all(views).unwrap());
    check("a file in its place", &|views| {
        fs::remove_dir_all(views.join("projection-counts")).unwrap();
        fs::write(views.join("projection-counts"), b"not a directory").unwrap();
    });
    check("an old copy", &|views| replace(views, &old));
    for path in files(&views) {
        let name = path.strip_prefix(&views).unwrap();
        let bytes = fs::read(&path).unwrap();
        check(&format!("{name:?} gone"), &|views| fs::remove_file(views.join(name)).unwrap());
        check(&format!("{name:?} of the old copy"), &|views| drop(fs::copy(old.join(name), views.join(name))));
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..used).step_by((used / 20).max(1)).chain([used, bytes.len().saturating_sub(1)]) {
            check(&format!("{name:?} cut at {at}"), &|views| fs::write(views.join(name), &bytes[..at]).unwrap());
        }
        for at in (0..used).step_by((used / 60).max(1)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            check(&format!("{name:?} flipped at {at}"), &|views| fs::write(views.join(name), &flipped).unwrap());
        }
    }
    eprintln!("{cases} cases, {asides} set aside");
    assert!(cases > 80 && asides > 20, "{asides} of {cases} were noticed by the view itself");
}

/// A view may be newer than its log, or come from another history that has gone on from the same copy: offsets and commit numbers
/// are the same there, and only the records differ.
#[test]
fn a_state_of_another_history_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, start, newer) = (dir.path().join("log"), dir.path().join("start"), dir.path().join("newer"));
    grow(&log, &[30], 0);
    copy_dir(&log, &start);
    grow(&log, &[60], 0);
    copy_dir(&log.join("views"), &newer);

    let other = dir.path().join("other");
    copy_dir(&start, &other);
    replace(&start.join("views"), &newer);
    let why = check_closed(&start, "a state that is newer than its log").unwrap();
    let Rebuild::Rewound(rewound) = why else { panic!("{why:?}") };
    assert!(rewound.to < rewound.from && TOPICS.contains(&&*rewound.topic));

    for (name, upto) in [("shorter", 45), ("as long", 60), ("longer", 75)] {
        let history = dir.path().join(name);
        copy_dir(&other, &history);
        grow(&history, &[upto], 1);
        replace(&history.join("views"), &newer);
        assert!(matches!(check_closed(&history, name), Some(Rebuild::Rewound(_))), "{name}");
        assert_eq!(aside(&history).len(), 1);
    }

    let another = dir.path().join("another");
    grow(&another, &[75], 0);
    replace(&another.join("views"), &newer);
    assert_eq!(check_closed(&another, "the state of another log"), Some(Rebuild::New));
    assert_eq!(aside(&another).len(), 1);
}

#[test]
fn another_version_is_built_anew_with_progress() {
    let dir = tempfile::tempdir().unwrap();
    grow(dir.path(), &[500], 0);
    let log = Log::blocking_open(dir.path()).unwrap();
    let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let progress = Arc::clone(&told);
    let next = builder(&log, 2).on_progress(move |now| progress.lock().unwrap().push(now)).blocking_spawn().unwrap();
    next.blocking_ready().unwrap();
    assert_eq!(next.last_rebuild(), Some(Rebuild::Definition));
    assert_eq!(shown(&next), folded(&log));
    let told = told.lock().unwrap().clone();
    let last = told.last().unwrap();
    assert_eq!((last.done, last.to_do), (500, 0));
    assert_eq!((next.progress().done, next.progress().to_do), (500, 0));
    assert!(told.is_sorted_by_key(|progress| progress.done));
    assert_eq!(aside(dir.path()), ["projection-counts.aside-0"], "what was there is kept");
    next.blocking_close();

    // The same version again, and then other topics.
    assert_eq!(builder(&log, 2).blocking_spawn().unwrap().last_rebuild(), None);
    let fewer = log.projection("counts", 2).on_raw("a", apply).blocking_spawn().unwrap();
    assert_eq!(fewer.last_rebuild(), Some(Rebuild::Definition));
}

/// A function fails: the state stays as it was before the record, and everybody is told which one it was.
#[test]
fn what_a_function_cannot_take_in_stops_the_projection() {
    for panics in [false, true] {
        let log = Log::in_memory().unwrap();
        let topics = create(&log);
        let failing = move |state: &mut ProjectionState, message: &Message| {
            if value_of(message) == 13 {
                state.put("all", &(u64::MAX, 0_u64))?;
                state.put("new", &1_u8)?;
                state.remove("topic/a");
                assert!(!panics, "on purpose");
                return Err("thirteen".into());
            }
            apply(state, message)
        };
        let projection = log.projection("counts", 1).on_raw("a", failing).blocking_spawn().unwrap();
        let receipts: Vec<_> =
            [1, 2, 13, 4].map(|value| topics[0].blocking_produce(record(1, value)).unwrap()).to_vec();
        let error = projection.blocking_wait_for(&receipts[3]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        let failed = error.failed_record().unwrap();
        assert_eq!((&*failed.topic, failed.partition, failed.panicked), ("a", receipts[2].partition, panics));
        assert_eq!(failed.offset, receipts[2].offset);
        assert_eq!(error.to_string().ends_with(": thirteen"), !panics, "{error}");
        assert_eq!(projection.error().unwrap().failed_record(), Some(failed));
        assert!(!projection.is_ready());
        let state = shown(&projection);
        assert_eq!((state["all"].0, state["topic/a"].0, state.len()), (2, 2, 3), "{state:?}");
        assert_eq!(projection.position("a", failed.partition), Some(failed.offset));

        // Built again it fails again, at the same record.
        projection.rebuild();
        assert_eq!(projection.blocking_ready().unwrap_err().failed_record(), Some(failed));
        assert_eq!(shown(&projection), state);
        projection.blocking_close();
        assert_eq!(projection.get::<Counted>("all").unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(projection.blocking_wait_for(&receipts[0]).unwrap_err().kind(), ErrorKind::Closed);
    }
}

/// Whoever mends the function goes on where it has failed.
#[test]
fn a_mended_function_goes_on() {
    let log = Log::temporary().unwrap();
    let [topic, _] = create(&log);
    let given = Arc::new(AtomicU64::new(0));
    let mended = Arc::new(AtomicBool::new(false));
    let spawn = || {
        let (given, mended) = (Arc::clone(&given), Arc::clone(&mended));
        let builder = log.projection("counts", 1).on_raw("a", move |state, message| {
            given.fetch_add(1, Ordering::Relaxed);
            if value_of(message) == 500 && !mended.load(Ordering::Relaxed) {
                return Err("not yet".into());
            }
            state.update("count", |count: &mut u64| *count += 1)?;
            Ok(())
        });
        builder.blocking_spawn().unwrap()
    };
    topic.blocking_produce_batch((0..1000).map(|number| record(0, number))).unwrap();
    let projection = spawn();
    assert_eq!(projection.blocking_ready().unwrap_err().failed_record().unwrap().offset, 500);
    assert_eq!(projection.get::<u64>("count").unwrap(), Some(500), "what it had is shown");
    drop(projection);
    mended.store(true, Ordering::Relaxed);
    let projection = spawn();
    assert_eq!(projection.last_rebuild(), None);
    projection.blocking_ready().unwrap();
    assert_eq!(projection.get::<u64>("count").unwrap(), Some(1000));
    assert_eq!(given.load(Ordering::Relaxed), 1001, "one was given twice");
}

#[test]
fn records_that_have_gone_are_told_of() {
    let log = Log::temporary().unwrap();
    let [topic, _] = create(&log);
    let send = |count: u64| {
        let receipts: Vec<_> = (0..count).map(|number| topic.blocking_produce(record(0, number)).unwrap()).collect();
        receipts[receipts.len() - 1]
    };
    let partition = send(30).partition;
    log.blocking_delete_records("a", partition, 10).unwrap();
    let counting = || {
        let count =
            |state: &mut ProjectionState, _: &Message| Ok(state.update("count", |count: &mut u64| *count += 1)?);
        log.projection("counts", 1).on_raw("a", count).blocking_spawn().unwrap()
    };
    let projection = counting();
    projection.blocking_ready().unwrap();
    assert_eq!(projection.get::<u64>("count").unwrap(), Some(20));
    let gaps = |projection: &Projection| projection.gaps().iter().map(|gap| (gap.from, gap.to)).collect::<Vec<_>>();
    assert_eq!(gaps(&projection), [(0, 10)]);
    assert_eq!((&*projection.gaps()[0].topic, projection.gaps()[0].partition), ("a", partition));
    projection.blocking_close();

    send(20);
    log.blocking_delete_records("a", partition, 40).unwrap();
    let projection = counting();
    settle(&log, &projection);
    assert_eq!(projection.last_rebuild(), None);
    assert_eq!(projection.get::<u64>("count").unwrap(), Some(30));
    assert_eq!(gaps(&projection), [(0, 10), (30, 40)]);
    projection.blocking_close();
    assert_eq!(gaps(&counting()), [(0, 10), (30, 40)], "they are remembered");
}

/// What compaction has taken away was superseded: no gap, and no reason to build anew.
#[test]
fn a_compacted_topic_is_followed() {
    let log = Log::temporary().unwrap();
    let settings = TopicSettings::default().compaction(true).segment_bytes_max(64 << 10).durability(Durability::Os);
    let topic = raw(&log, "table", settings);
    let last = |state: &mut ProjectionState, message: &Message| {
        state.put(message.key().unwrap(), &value_of(message))?;
        Ok(())
    };
    let spawn = || log.projection("table", 1).on_raw("table", last).blocking_spawn().unwrap();
    for round in 0..4_u64 {
        // Over many segments, so that what is followed has holes.
        for from in (0..30_000).step_by(100) {
            let records = (from..from + 100).map(|number| record((number % 100) as u8, number + round));
            topic.blocking_produce_batch(records).unwrap();
        }
        log.blocking_compact_topic("table").unwrap();
        let projection = spawn();
        settle(&log, &projection);
        assert_eq!((projection.last_rebuild().is_some(), projection.gaps()), (round == 0, vec![]));
        let state: Vec<u64> = projection.range("").unwrap().into_iter().map(|(_, value)| value).collect();
        assert_eq!(state, (29_900 + round..30_000 + round).collect::<Vec<_>>());
        assert!(projection.progress().done < 10_000, "most of it was taken away before");
    }
}

/// Whoever has a receipt reads what it stands for.
#[test]
fn writers_read_their_writes() {
    let log = Log::in_memory().unwrap();
    let topics = create(&log);
    let projection = builder(&log, 1).blocking_spawn().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (topics, projection) = (&topics, &projection);
            scope.spawn(move || {
                for round in 1..=100 {
                    let receipt = topics[round % 2].blocking_produce(record(thread, 1)).unwrap();
                    projection.blocking_wait_for(&receipt).unwrap();
                    let (count, _) = projection.get::<Counted>(format!("key/{thread}")).unwrap().unwrap();
                    assert_eq!(count, round as u64);
                }
            });
        }
    });
    assert_eq!(shown(&projection), folded(&log));
    assert!(projection.lag().iter().all(|lag| lag.records() == 0));
}

/// Many keys, more records than a batch has, partitions that are added meanwhile.
#[test]
fn a_projection_follows_a_topic_that_grows() {
    let log = Log::temporary().unwrap();
    let topics = create(&log);
    let projection = builder(&log, 1).blocking_spawn().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for round in 0..4_u32 {
        for topic in &topics {
            topic.blocking_produce_batch((0..3000).map(|number| record(number as u8, number))).unwrap();
        }
        let name = TOPICS[round as usize % 2];
        let partitions = topics[round as usize % 2].partitions() + 1;
        runtime.block_on(log.add_partitions(name, partitions)).unwrap();
        topics[round as usize % 2].blocking_produce(record(0, 1).partition(partitions - 1)).unwrap();
        // Of one commit: the order is that of the topics and partitions, whenever these have come.
        let mut batch = Batch::new();
        for topic in topics.iter().rev() {
            for number in (0..topic.partitions()).rev() {
                batch.add(topic, record(0, u64::from(number) + 1).partition(number)).unwrap();
            }
        }
        log.blocking_produce_all(batch).unwrap();
        settle(&log, &projection);
        assert_eq!(shown(&projection), folded(&log));
    }
    projection.blocking_close();
    assert_eq!(check(&log), None);
}

#[test]
fn events_are_decoded_and_picked_by_their_type() {
    const NUMBERS: TopicDef<u64, Json> = TopicDef::new("numbers");
    let log = Log::in_memory().unwrap();
    let numbers = log.blocking_create_topic(NUMBERS, TopicSettings::default()).unwrap();
    let sum = |key: &'static str| {
        move |state: &mut ProjectionState, message: &Message<u64>| {
            let event = *message.event().unwrap_or(&0);
            Ok(state.update(key, |sum: &mut u64| *sum += event)?)
        }
    };
    let projection = log
        .projection("sums", 1)
        .on_type(NUMBERS, "small", sum("small"))
        .on(NUMBERS, sum("all"))
        .on_raw("numbers", |state, message| Ok(state.put("last", &message.value().map(|value| value.to_vec()))?))
        .blocking_spawn()
        .unwrap();
    numbers.blocking_produce(Record::new(1).header("event_type", "small")).unwrap();
    numbers.blocking_produce(Record::new(200)).unwrap();
    numbers.blocking_produce(Record::tombstone().key("k")).unwrap();
    let receipt = numbers.blocking_produce(Record::new(3).header("event_type", "small")).unwrap();
    projection.blocking_wait_for(&receipt).unwrap();
    assert_eq!(projection.get::<u64>("small").unwrap(), Some(4));
    assert_eq!(projection.get::<u64>("all").unwrap(), Some(204));
    assert_eq!(projection.get::<Option<Vec<u8>>>("last").unwrap(), Some(Some(b"3".to_vec())));
    assert_eq!(projection.get::<String>("small").unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(projection.get::<u64>("small").unwrap(), Some(4), "that was no damage");

    let receipt = log.raw_topic("numbers").unwrap().blocking_produce(Record::new("no number".into())).unwrap();
    let error = projection.blocking_wait_for(&receipt).unwrap_err();
    assert_eq!((error.kind(), error.failed_record().unwrap().offset), (ErrorKind::Failed, receipt.offset));
}

#[test]
fn a_page_is_a_part_of_a_range() {
    let log = Log::in_memory().unwrap();
    let [topic, _] = create(&log);
    let receipt = topic.blocking_produce(record(0, 0)).unwrap();
    let fill = |state: &mut ProjectionState, _: &Message| {
        for number in 0..20_u8 {
            state.put([b'n', number], &number)?;
        }
        state.put("o", &0_u8)?;
        state.remove([b'n', 3]);
        assert_eq!(state.range::<u8>("n")?.len(), 19);
        assert_eq!(state.range::<u8>("")?.len(), 20);
        assert_eq!(state.get::<u8>([b'n', 3])?, None);
        Ok(())
    };
    let projection = log.projection("pages", 1).on_raw("a", fill).blocking_spawn().unwrap();
    projection.blocking_wait_for(&receipt).unwrap();
    let page = projection.page::<u8>("n", [b'n', 3], 2).unwrap();
    assert_eq!(page.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(projection.page::<u8>("n", "n", 100).unwrap().len(), 19);
    assert_eq!(projection.page::<u8>("n", "o", 100).unwrap(), []);
    assert_eq!(projection.range::<u8>("nothing").unwrap(), []);
}

#[test]
fn what_cannot_be_projected_is_said() {
    let log = Log::temporary().unwrap();
    create(&log);
    let kind = |builder: ProjectionBuilder| builder.blocking_spawn().unwrap_err().kind();
    assert_eq!(kind(log.projection("../escape", 1).on_raw("a", apply)), ErrorKind::Invalid);
    assert_eq!(kind(log.projection("none", 1)), ErrorKind::Invalid);
    assert_eq!(kind(log.projection("missing", 1).on_raw("missing", apply)), ErrorKind::NotFound);
    let projection = builder(&log, 1).blocking_spawn().unwrap();
    assert_eq!(kind(builder(&log, 1)), ErrorKind::Locked);
    assert_eq!(projection.position("a", 0), Some(0));
    assert_eq!(projection.position("a", 7), None);
    assert_eq!(projection.position("c", 0), None);
    drop(projection);
    let projection = builder(&log, 1).blocking_spawn().unwrap();
    log.blocking_close().unwrap();
    assert_eq!(projection.blocking_ready().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(projection.range::<Counted>("").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(kind(builder(&log, 1)), ErrorKind::Closed);
}

/// In a log that another process writes the state is in memory, and follows all the same.
#[test]
fn a_log_that_is_open_read_only_is_projected_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    grow(dir.path(), &[50], 0);
    let views = files(&dir.path().join("views"));
    let log = Log::blocking_open_read_only(dir.path()).unwrap();
    let projection = builder(&log, 1).blocking_spawn().unwrap();
    projection.blocking_ready().unwrap();
    assert_eq!(shown(&projection), folded(&log));
    drop((projection, log));
    assert_eq!(files(&dir.path().join("views")), views);
}

#[tokio::test]
async fn tasks_have_the_same() {
    let log = Log::in_memory().unwrap();
    let topics = create(&log);
    let projection = builder(&log, 1).spawn().await.unwrap();
    projection.ready().await.unwrap();
    let receipt = topics[0].produce(record(1, 1)).await.unwrap();
    projection.wait_for(&receipt).await.unwrap();
    assert_eq!(shown(&projection), folded(&log));
    projection.rebuild();
    projection.ready().await.unwrap();
    assert_eq!((shown(&projection), projection.last_rebuild()), (folded(&log), Some(Rebuild::Asked)));
    projection.close().await;
    assert_eq!(projection.ready().await.unwrap_err().kind(), ErrorKind::Closed);

    // A topic that goes takes those along who follow nothing else.
    let projection = log.projection("one", 1).on_raw("a", apply).spawn().await.unwrap();
    projection.ready().await.unwrap();
    log.delete_topic("a").await.unwrap();
    let tick = topics[1].produce(record(1, 1)).await.unwrap();
    let stopped = loop {
        drop(projection.wait_for(&tick).await);
        if let Some(error) = projection.error() {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(stopped.kind(), ErrorKind::NotFound);
    assert_eq!(projection.get::<Counted>("all").unwrap().unwrap().0, 1, "what it had is shown");
}
