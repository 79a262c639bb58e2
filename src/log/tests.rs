//! The engine by itself: appends, commits, rotation, reopening.

use std::path::PathBuf;
use std::sync::Arc;

use super::engine::Engine;
use super::open::open;
use super::settings::{Durability, LogSettings, TopicSettings};
use crate::format::record::{FrameBuilder, RecordIter};
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::memory::MemoryDisk;
use crate::storage::{Env, Storage};

pub(crate) fn env(storage: Arc<dyn Storage>, seed: u64) -> Env {
    // So few that they are closed and opened again all the time.
    Env::new(storage, Arc::new(ManualClock::new(1_000_000)), Arc::new(SeededRandom::new(seed)), 3)
}

fn open_at(storage: &Arc<MemoryDisk>, seed: u64) -> Engine {
    let storage: Arc<dyn Storage> = Arc::clone(storage) as _;
    open(env(storage, seed), PathBuf::from("/log"), LogSettings::default(), true).unwrap()
}

fn put(builder: &mut FrameBuilder, value: &str) {
    builder.push(0, None, Some(value.as_bytes()), std::iter::empty());
}

pub(crate) fn values(partition: &Arc<Partition>) -> Vec<String> {
    let mut cursor = PartitionCursor::new(Arc::clone(partition), partition.log_start());
    let mut values = Vec::new();
    while let Some(frame) = cursor.next_frame(u64::MAX).unwrap() {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = records.next_record().unwrap() {
            assert_eq!(record.offset, values.len() as u64);
            values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

#[test]
fn what_is_appended_is_there_after_reopening() {
    let disk = Arc::new(MemoryDisk::default());
    let mut expected = vec![Vec::new(); 3];
    for round in 0..3 {
        let engine = open_at(&disk, round);
        assert!(engine.report.clean);
        for (name, durability) in [("sync", Durability::Sync), ("os", Durability::Os)] {
            let settings = TopicSettings::default().partitions(3).durability(durability).segment_bytes_max(4096);
            engine.create_topic(name, settings).unwrap();
        }
        let (sync, os) = (engine.topic("sync").unwrap(), engine.topic("os").unwrap());
        for index in 0..100 {
            let value = format!("{round}-{index}-{}", "x".repeat(index));
            for (number, expected) in expected.iter_mut().enumerate() {
                expected.push(value.clone());
                let partition = os.partition(number as u32).unwrap();
                engine.append_relaxed(&partition, Durability::Os, |builder| put(builder, &value)).unwrap();
                let partition = sync.partition(number as u32).unwrap();
                let ticket = engine
                    .enqueue(&partition, 500, crate::log::committer::Leader::Thread, |builder| put(builder, &value))
                    .unwrap();
                if index % 3 == 0 {
                    engine.lead();
                    let outcome = ticket.group.wait().clone().unwrap();
                    assert_eq!(ticket.offset(&outcome), expected.len() as u64 - 1);
                }
            }
            engine.lead();
            engine.do_upkeep(std::time::Duration::MAX);
        }
        for (number, expected) in expected.iter().enumerate() {
            assert_eq!(&values(&os.partition(number as u32).unwrap()), expected);
            assert_eq!(&values(&sync.partition(number as u32).unwrap()), expected);
        }
        engine.close().unwrap();
    }
}

/// The list of things to do, worked off by hand.
#[test]
fn what_is_to_be_compacted_is_found_and_done_in_time() {
    use std::time::Duration;

    let clock = Arc::new(ManualClock::new(1_000_000));
    let disk: Arc<dyn Storage> = Arc::new(MemoryDisk::default());
    let open_it = |seed| {
        let env = Env { clock: Arc::clone(&clock) as _, ..env(Arc::clone(&disk), seed) };
        open(env, PathBuf::from("/log"), LogSettings::default(), true).unwrap()
    };
    let engine = open_it(1);
    let settings = TopicSettings::default().durability(Durability::Os).segment_bytes_max(4096).compaction(true);
    let topic = engine.create_topic("c", settings.tombstone_age_max(Duration::from_secs(60))).unwrap();
    let partition = topic.partition(0).unwrap();
    let now = || engine.env.clock.monotonic();
    let append = |engine: &Engine, value: Option<&[u8]>| {
        let partition = engine.topic("c").unwrap().partition(0).unwrap();
        engine
            .append_relaxed(&partition, Durability::Os, |builder| {
                builder.push(0, Some(b"key"), value, std::iter::empty());
            })
            .unwrap();
    };
    append(&engine, None);
    for _ in 0..20 {
        append(&engine, Some(&[7; 1000]));
        engine.do_upkeep(Duration::MAX);
    }
    let task = engine.maintenance.take(now()).expect("segments were sealed");
    assert!(engine.maintenance.take(Duration::MAX).is_none(), "a partition is on the list once");
    engine.maintain(task);
    assert_eq!(partition.segments().len(), 2);
    assert!(engine.maintenance.take(Duration::MAX).is_none(), "nothing is left to do");

    // A tombstone is looked at again when its time is over.
    append(&engine, None);
    for _ in 0..6 {
        engine
            .append_relaxed(&partition, Durability::Os, |builder| {
                builder.push(0, Some(b"other"), Some(&[7; 1000]), std::iter::empty());
            })
            .unwrap();
    }
    engine.do_upkeep(Duration::MAX);
    engine.maintain(engine.maintenance.take(now()).expect("segments were sealed"));
    assert!(engine.maintenance.take(now()).is_none());
    let task = engine.maintenance.take(now() + Duration::from_secs(61)).expect("the tombstone is kept for a minute");
    let end = partition.visible_end();
    let there = || partition.last_records(end, u64::MAX).unwrap().1;
    let before = there();
    clock.advance(61_000_000);
    engine.maintain(task);
    assert_eq!(there(), before - 1);

    // After an opening, what nobody has compacted is found.
    (0..20).for_each(|_| append(&engine, Some(&[7; 1000])));
    engine.close().unwrap();
    let engine = open_it(2);
    assert!(engine.maintenance.take(Duration::MAX).is_none());
    engine.look_for_maintenance();
    let task = engine.maintenance.take(Duration::MAX).expect("the partition is dirty");
    let partition = engine.topic("c").unwrap().partition(0).unwrap();
    assert!(partition.segments().len() > 5);
    engine.maintain(task);
    assert!(partition.segments().len() < 4);
    engine.maintenance.stop();
    assert!(engine.maintenance.wait(|| Duration::ZERO).is_none(), "a stopped list has nothing to give");
}
