//! What is mirrored, and how fast.

use std::time::{Duration, Instant};

use annals::mirror::{KafkaConfig, Mirror, MirrorState, TargetTopics};
use annals::{Log, Raw, Record, TopicDef, TopicSettings};
use bytes::Bytes;

use crate::Result;
use crate::broker::Broker;

pub(crate) const PARTITIONS: u32 = 4;
const TOPIC: TopicDef<Bytes, Raw> = TopicDef::new("events");
const BATCH: u64 = 1000;
/// Before the clock starts the connection is there, and this many records have gone through it.
const FIRST: u64 = PARTITIONS as u64;

/// Records in a log in memory: nothing but forwarding them is measured.
pub(crate) struct Workload {
    pub(crate) log: Log,
    pub(crate) records: u64,
    pub(crate) size: usize,
}

impl Workload {
    pub(crate) fn new(records: u64, size: usize) -> Result<Self> {
        let log = Log::in_memory()?;
        let topic = log.blocking_create_topic(TOPIC, TopicSettings::default().partitions(PARTITIONS))?;
        for partition in 0..PARTITIONS {
            topic.blocking_produce(record(0, size).partition(partition))?;
        }
        Ok(Self { log, records: records / BATCH * BATCH, size })
    }

    fn fill(&self) -> Result<()> {
        let topic = self.log.topic(TOPIC)?;
        for first in (0..self.records).step_by(BATCH as usize) {
            topic.blocking_produce_batch((first..first + BATCH).map(|number| record(number, self.size)))?;
        }
        Ok(())
    }
}

/// A record with a key of a thousand.
fn record(number: u64, size: usize) -> Record<Bytes> {
    Record::new(value(number, size)).key(key(number))
}

pub(crate) fn key(number: u64) -> String {
    format!("key-{:03}", number % 1000)
}

/// Bytes that compress as little as real ones hardly do; nothing compresses them here.
pub(crate) fn value(number: u64, size: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// Forwards the workload; answers how many records a second. It is paused while the log is filled, so that the connection is there
/// when the clock starts, as it is for the bare producer.
pub(crate) fn run(broker: &Broker, workload: &Workload) -> Result<f64> {
    let name = broker.unique("mirror");
    let mirror = Mirror::builder(&workload.log)
        .name(&name)
        .topics([TOPIC.name()])
        .to(KafkaConfig::new(&broker.servers))
        .prefix(format!("{name}."))
        .create_topics(TargetTopics::default())
        .hold_retention(None)
        .spawn()?;
    mirror.blocking_caught_up()?;
    mirror.pause();
    while mirror.status().state != MirrorState::Paused {
        std::thread::sleep(Duration::from_millis(1));
    }
    workload.fill()?;
    let began = Instant::now();
    mirror.resume();
    mirror.blocking_caught_up()?;
    let took = began.elapsed();
    let status = mirror.status();
    if status.forwarded != workload.records + FIRST {
        return Err(format!("{} records were forwarded, not {}", status.forwarded, workload.records + FIRST).into());
    }
    mirror.blocking_stop()?;
    Ok(workload.records as f64 / took.as_secs_f64())
}
