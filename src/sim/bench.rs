//! A small log for scenarios that are told step by step.

use std::path::PathBuf;
use std::sync::Arc;

use super::world::ROOT;
use crate::error::{Error, Result};
use crate::format::record::{FrameBuilder, RecordIter};
use crate::log::engine::Engine;
use crate::log::open::open;
use crate::log::settings::{Durability, LogSettings, TopicSettings};
use crate::partition::cursor::PartitionCursor;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::sim::{SimDisk, SimOptions};
use crate::storage::{Env, Random, Storage};

/// The topic that scenarios write to.
pub(super) const TOPIC: &str = "orders";

pub(super) struct Bench {
    pub(super) disk: SimDisk,
    random: Arc<SeededRandom>,
}

impl Bench {
    /// On a disk that writes nothing back by itself.
    pub(super) fn new(seed: u64) -> Self {
        let options = SimOptions { writeback_one_in: 0, ..SimOptions::default() };
        Self { disk: SimDisk::new(seed, options), random: Arc::new(SeededRandom::new(seed)) }
    }

    /// The same log on a copy of the disk.
    pub(super) fn fork(&self) -> Self {
        self.fork_with(1)
    }

    /// The same, where the disk makes choices of its own.
    pub(super) fn fork_with(&self, seed: u64) -> Self {
        Self { disk: self.disk.fork(seed), random: Arc::new(SeededRandom::new(self.random.next_u64())) }
    }

    pub(super) fn settings() -> LogSettings {
        LogSettings { commit_bytes_max: 72 << 10, journal_bytes: 24 << 10, tail_bytes_max: 0, ..LogSettings::default() }
    }

    pub(super) fn try_open(&self) -> Result<Engine> {
        self.open_through(self.disk.mount())
    }

    pub(super) fn open_through(&self, storage: Arc<dyn Storage>) -> Result<Engine> {
        open(self.env(storage), PathBuf::from(ROOT), Self::settings(), true)
    }

    pub(super) fn env(&self, storage: Arc<dyn Storage>) -> Env {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
        Env::new(storage, clock, Arc::clone(&self.random) as _, 3)
    }

    pub(super) fn open(&self) -> Engine {
        self.try_open().unwrap_or_else(|error| panic!("the log does not open: {error:?}"))
    }

    pub(super) fn create(&self, engine: &Engine, partitions: u32, durability: Durability) {
        engine.create_topic(TOPIC, settings(partitions, durability)).unwrap();
    }

    /// Sends one record, and waits.
    pub(super) fn put(&self, engine: &Engine, partition: u32, text: &str) -> Result<String> {
        put(engine, TOPIC, partition, text).map(|()| text.to_owned())
    }

    /// Sends the same record to several partitions as one unit, and waits.
    pub(super) fn unit(&self, engine: &Engine, partitions: &[u32], text: &str) -> Result<()> {
        let places: Vec<_> = partitions.iter().map(|partition| (TOPIC, *partition)).collect();
        unit(engine, &places, text)
    }

    /// The segment files of a partition, oldest first.
    pub(super) fn segments(&self, partition: u32) -> Vec<String> {
        let dir = format!("{ROOT}/topics/{TOPIC}/{partition}/");
        self.disk.paths().into_iter().filter(|path| path.starts_with(&dir) && path.ends_with(".log")).collect()
    }

    /// What reading a partition to its end fails with.
    pub(super) fn read_error(&self, engine: &Engine, partition: u32) -> Option<Error> {
        read(engine, TOPIC, partition, 0).1
    }

    pub(super) fn read_from(&self, engine: &Engine, partition: u32, offset: u64) -> Vec<String> {
        read(engine, TOPIC, partition, offset).0
    }
}

pub(super) fn settings(partitions: u32, durability: Durability) -> TopicSettings {
    TopicSettings::default()
        .partitions(partitions)
        .durability(durability)
        .segment_bytes_max(4096)
        .record_bytes_max(8 << 10)
}

/// The settings of a topic that keeps the last record of each key.
pub(super) fn compacted(partitions: u32, durability: Durability) -> TopicSettings {
    settings(partitions, durability).compaction(true)
}

/// A frame of one record.
pub(super) fn builder(text: &str) -> FrameBuilder {
    let mut builder = FrameBuilder::new();
    push(&mut builder, text);
    builder
}

/// The key is what stands before the first `=`, if there is one.
fn push(builder: &mut FrameBuilder, text: &str) {
    let key = text.split_once('=').map(|(key, _)| key.as_bytes());
    builder.push(5, key, Some(text.as_bytes()), std::iter::empty());
}

pub(super) fn put(engine: &Engine, topic: &str, partition: u32, text: &str) -> Result<()> {
    let partition = engine.topic(topic)?.partition(partition)?;
    let ticket = engine
        .enqueue(&partition, text.len() + 200, crate::log::committer::Leader::Thread, |builder| push(builder, text))
        .map_err(|refused| match refused {
            crate::log::committer::Refused::Failed(error) => error,
            refused => panic!("nothing else waits, and there is no guard: {refused:?}"),
        })?;
    while engine.lead() {}
    ticket.group.outcome().expect("it was led").clone().map(drop)
}

pub(super) fn put_relaxed(engine: &Engine, topic: &str, partition: u32, text: &str) -> Result<()> {
    let topic = engine.topic(topic)?;
    let partition = topic.partition(partition)?;
    engine.append_relaxed(&partition, topic.settings().durability, |builder| push(builder, text)).map(drop)
}

pub(super) fn unit(engine: &Engine, places: &[(&str, u32)], text: &str) -> Result<()> {
    let mut frames = Vec::new();
    for (topic, partition) in places {
        frames.push((engine.topic(topic)?.partition(*partition)?, builder(text)));
    }
    let group = engine
        .committer
        .enqueue_unit(frames, crate::log::committer::Leader::Thread)
        .unwrap_or_else(|_| panic!("nothing else waits"));
    while engine.lead() {}
    group.outcome().expect("it was led").clone().map(drop)
}

/// The values of a partition from an offset on, and what the reading ended with.
pub(super) fn read(engine: &Engine, topic: &str, partition: u32, from: u64) -> (Vec<String>, Option<Error>) {
    let (rows, error) = rows(engine, topic, partition, from);
    (rows.into_iter().map(|(_, value)| value).collect(), error)
}

/// The same with their offsets.
pub(super) fn rows(engine: &Engine, topic: &str, partition: u32, from: u64) -> (Vec<(u64, String)>, Option<Error>) {
    let topic = engine.topic(topic).expect("it exists");
    let (partition, is_dense) = (topic.partition(partition).expect("it exists"), !topic.settings().compaction);
    let mut cursor = PartitionCursor::new(Arc::clone(&partition), from).with_read_bytes(8192);
    let mut values = Vec::new();
    let mut next = None;
    loop {
        match cursor.next_frame(u64::MAX) {
            Ok(Some(frame)) => {
                let mut records = RecordIter::new(&frame.header, &frame.body);
                while let Some(record) = records.next_record().expect("a frame that holds has whole records") {
                    if record.offset < from {
                        continue;
                    }
                    let expected = *next.get_or_insert(from);
                    assert!(record.offset >= expected, "offsets ascend");
                    assert!(record.offset == expected || !is_dense, "offsets follow each other");
                    next = Some(record.offset + 1);
                    let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
                    values.push((record.offset, value));
                }
            }
            Ok(None) => return (values, None),
            Err(error) => return (values, Some(error)),
        }
    }
}

/// What can be read of a partition of the topic of scenarios.
pub(super) fn values(engine: &Engine, partition: u32) -> Vec<String> {
    read(engine, TOPIC, partition, 0).0
}

/// The topic, the partition and the first offset that an error names.
pub(super) fn damaged_offsets(error: &Error) -> (&str, u32, Option<u64>) {
    let corruption = error.corruption().expect("damage says where it is");
    (corruption.topic.as_deref().expect("a topic"), corruption.partition.expect("a partition"), corruption.first_offset)
}
