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
    Env { storage, clock: Arc::new(ManualClock::new(1_000_000)), random: Arc::new(SeededRandom::new(seed)) }
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
