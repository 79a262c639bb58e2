//! What cannot be seen from outside: what the index has, and when.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::index::HeaderIndex;
use super::matcher::HeaderHasher;
use crate::log::extension::Extension;
use crate::partition::Partition;
use crate::storage::Env;
use crate::storage::clock::{SystemClock, SystemRandom};
use crate::storage::disk::Disk;
use crate::views::index::IndexView;
use crate::{Durability, Log, Raw, Record, Topic, TopicDef, TopicSettings};

/// Longer than anything here takes, however busy the machine; only a test that fails waits for it.
const PATIENCE: u32 = 6000;

fn topic(log: &Log, name: &str, settings: TopicSettings) -> Topic {
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings).unwrap()
}

fn indexed() -> TopicSettings {
    TopicSettings::default().indexed_headers(["id"])
}

fn record(id: impl ToString) -> Record<Bytes> {
    Record::new(Bytes::from_static(b"value")).header("id", id.to_string())
}

fn send(topic: &Topic, ids: std::ops::Range<u64>) {
    topic.blocking_produce_batch(ids.map(record)).unwrap();
}

fn partition(topic: &Topic) -> Arc<Partition> {
    topic.state.partition(0).unwrap()
}

fn index(log: &Log) -> Arc<HeaderIndex> {
    HeaderIndex::of(&log.inner.engine).unwrap()
}

fn extent(log: &Log, topic: &Topic) -> Option<(u64, u64)> {
    index(log).extent(partition(topic).key())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..PATIENCE {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

fn offsets(topic: &Topic, id: &str) -> Vec<u64> {
    topic.find("id", id).blocking().unwrap().map(|found| found.unwrap().offset()).collect()
}

/// Two values of one hash are two values.
#[test]
fn what_the_index_names_is_held_against_the_record() {
    let log = Log::in_memory().unwrap();
    let hasher = HeaderHasher::new(log.id().as_u128());
    let mut seen = HashMap::new();
    let (one, other) =
        (0_u64..).find_map(|id| Some((seen.insert(hasher.hash("id", id.to_string().as_bytes()), id)?, id))).unwrap();
    let topic = topic(&log, "t", indexed());
    for id in [one, other, other, one] {
        topic.blocking_produce(record(id)).unwrap();
    }
    assert_eq!(offsets(&topic, &one.to_string()), [0, 3]);
    assert_eq!(offsets(&topic, &other.to_string()), [1, 2]);
}

/// What has to be read when somebody searches is little: the rest was done before.
#[test]
fn the_index_is_completed_in_the_background_and_at_the_close() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let topic = topic(&log, "t", TopicSettings::default());
    send(&topic, 0..1000);
    index(&log).checkpointed(&log.inner.engine);
    assert_eq!(extent(&log, &topic), None);
    assert!(!dir.path().join("views").exists(), "nobody has asked for an index");
    log.blocking_alter_topic("t", indexed()).unwrap();
    wait_until("a new setting is made true", || extent(&log, &topic) == Some((1000, 1000)));
    send(&topic, 1000..1500);
    assert_eq!(extent(&log, &topic), Some((1000, 1000)), "nobody who writes does anything for it");
    index(&log).checkpointed(&log.inner.engine);
    wait_until("so it is at a checkpoint", || extent(&log, &topic) == Some((1500, 1500)));
    send(&topic, 1500..1600);
    let (whose, id) = (partition(&topic).key(), log.id().as_u128());
    log.blocking_close().unwrap();
    assert!(HeaderIndex::of(&log.inner.engine).is_none());
    let env = Env::new(Arc::new(Disk), Arc::new(SystemClock), Arc::new(SystemRandom), 64);
    let mut view = IndexView::open(&env, dir.path(), id);
    let runs = view.load(whose).unwrap().unwrap();
    assert_eq!((runs.position(), runs.count()), (Some(1600), 1600));
}

#[test]
fn of_what_has_gone_nothing_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let (short, kept) = (topic(&log, "short", indexed()), topic(&log, "kept", indexed()));
    send(&short, 0..1000);
    send(&kept, 0..10);
    assert_eq!(offsets(&short, "999"), [999]);
    assert_eq!(offsets(&kept, "9"), [9]);
    assert_eq!(extent(&log, &short), Some((1000, 1000)));
    log.blocking_delete_records("short", 0, 1000).unwrap();
    assert_eq!(offsets(&short, "999"), [0_u64; 0]);
    send(&short, 1000..1001);
    assert_eq!(offsets(&short, "1000"), [1000]);
    assert_eq!(extent(&log, &short), Some((1001, 1)), "what retention has taken");

    let whose = partition(&short).key();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(log.delete_topic("short")).unwrap();
    wait_until("a deleted topic", || index(&log).extent(whose).is_none());
    log.blocking_alter_topic("kept", TopicSettings::default()).unwrap();
    index(&log).worker.want();
    wait_until("a topic that indexes nothing any more", || extent(&log, &kept).is_none());
    let (id, other) = (log.id().as_u128(), partition(&kept).key());
    log.blocking_close().unwrap();
    let env = Env::new(Arc::new(Disk), Arc::new(SystemClock), Arc::new(SystemRandom), 64);
    let mut view = IndexView::open(&env, dir.path(), id);
    assert_eq!((view.load(whose).unwrap(), view.load(other).unwrap()), (None, None));
}

/// A table of few keys that is written to for years must not have an index of all that was ever written.
#[test]
fn entries_of_compacted_records_are_let_go() {
    let log = Log::in_memory().unwrap();
    let settings = indexed().compaction(true).segment_bytes_max(4096).durability(Durability::Os);
    let topic = topic(&log, "t", settings);
    let mut largest = 0;
    for round in 0..40 {
        topic.blocking_produce_batch((0..500).map(|number| record(round).key(vec![number as u8 % 10]))).unwrap();
        log.blocking_compact_topic("t").unwrap();
        let found = offsets(&topic, &round.to_string());
        assert!(!found.is_empty());
        largest = largest.max(extent(&log, &topic).unwrap().1);
    }
    assert_eq!(extent(&log, &topic).unwrap().0, 20_000);
    assert!(largest < 3000, "{largest} entries for some hundred records");
    assert_eq!(offsets(&topic, "1"), [0_u64; 0]);
}
