//! annals itself, through its public interface and with its default settings but for the acknowledgement level.
//!
//! One producer (P1, P2, P3, P5, and the fills) appends borrowed records, `RecordRef`: the other interfaces take slices, too, and
//! copy them before they return. The tasks of P4 and P15 send owned records.

use std::path::Path;

use annals::{Compression, Delivery, Durability, Log, Record, RecordRef, Start, Topic, TopicSettings};
use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, KEY_BYTES, Level, Producer, Result, Shape},
    load::{Load, Pace, Tally, race_tasks},
};

pub(crate) const ENTRANTS: &[Entrant] = &[
    entrant("annals", &Bar::ALL, "keys, timestamps and checksums on; P4 and P15 are tasks", |dir, level, shape| {
        Annals::open(dir, level, shape, true, Compression::None)
    }),
    entrant("annals, written", &[Bar::P1, Bar::P2], "without mapped appends", |dir, level, shape| {
        Annals::open(dir, level, shape, false, Compression::None)
    }),
    entrant("annals, lz4", &[Bar::P2, Bar::P6, Bar::P9], "compressed", |dir, level, shape| {
        Annals::open(dir, level, shape, true, Compression::Lz4)
    }),
    entrant("annals, zstd", &[Bar::P2, Bar::P6, Bar::P9], "compressed, level 3", |dir, level, shape| {
        Annals::open(dir, level, shape, true, Compression::Zstd { level: 3 })
    }),
];

type Open = fn(&Path, Level, Shape) -> Result<Box<dyn Contender>>;

const fn entrant(name: &'static str, bars: &'static [Bar], note: &'static str, open: Open) -> Entrant {
    Entrant { name, class: Class::Annals, bars, syncs: true, checks: true, recovers: true, note, open }
}

struct Annals {
    runtime: Runtime,
    log: Log,
    topics: Vec<Topic>,
    shape: Shape,
}

impl Annals {
    fn open(
        dir: &Path,
        level: Level,
        shape: Shape,
        mapped: bool,
        compression: Compression,
    ) -> Result<Box<dyn Contender>> {
        let runtime = Runtime::new()?;
        let log = Log::builder().mapped_appends(mapped).blocking_open(dir)?;
        let durability = if level == Level::Durable { Durability::Sync } else { Durability::Os };
        let partitions = u32::try_from(shape.partitions)?;
        let settings = TopicSettings::default().partitions(partitions).durability(durability).compression(compression);
        let mut topics = Vec::new();
        for number in 0..shape.topics {
            topics.push(runtime.block_on(log.create_raw_topic(&format!("topic-{number:02}"), settings.clone()))?);
        }
        Ok(Box::new(Self { runtime, log, topics, shape }))
    }

    /// The topic and the partition of it that a producer writes to.
    fn place(&self, number: usize) -> (&Topic, u32) {
        let partition = number % self.shape.total();
        (&self.topics[partition / self.shape.partitions], (partition % self.shape.partitions) as u32)
    }
}

fn record(payload: &[u8], partition: u32) -> Record {
    let (key, value) = payload.split_at(KEY_BYTES);
    Record::new(Bytes::copy_from_slice(value)).key(key).partition(partition)
}

fn borrowed(payload: &[u8], partition: u32) -> RecordRef<'_> {
    let (key, value) = payload.split_at(KEY_BYTES);
    RecordRef::new(value).key(key).partition(partition)
}

impl Contender for Annals {
    fn producer(&self, number: usize) -> Result<Box<dyn Producer + '_>> {
        let (topic, partition) = self.place(number);
        Ok(Box::new(AnnalsProducer { topic, partition, sent: Vec::new() }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        let mut history = self.topics[0].replay_partition(0, Start::Earliest).blocking()?;
        while let Some(record) = history.next()? {
            if !tally.see_parts(record.key().unwrap_or_default(), record.value().unwrap_or_default()) {
                break;
            }
        }
        Ok(())
    }

    fn replay_merged(&self, tally: &mut Tally) -> Result<()> {
        let mut history = self.log.replay(Start::Earliest).blocking()?;
        while let Some(record) = history.next()? {
            if !tally.see_parts(record.key().unwrap_or_default(), record.value().unwrap_or_default()) {
                break;
            }
        }
        Ok(())
    }

    fn race(&self, load: &Load) -> Result<Vec<Pace>> {
        race_tasks(&self.runtime, load, |number, mut pace| {
            let (topic, partition) = self.place(number);
            let topic = topic.clone();
            async move {
                while let Some(payload) = pace.next() {
                    topic.produce(record(payload, partition)).await?;
                    pace.acknowledged();
                }
                Ok(pace)
            }
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.log.blocking_close()?)
    }
}

struct AnnalsProducer<'a> {
    topic: &'a Topic,
    partition: u32,
    sent: Vec<Delivery>,
}

impl Producer for AnnalsProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.topic.blocking_produce_ref(borrowed(payload, self.partition))?;
        Ok(())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        self.topic.blocking_produce_batch_refs(batch.records().map(|payload| borrowed(payload, self.partition)))?;
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.sent.push(self.topic.blocking_send_ref(borrowed(payload, self.partition))?);
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        for delivery in self.sent.drain(..) {
            delivery.wait()?;
        }
        Ok(())
    }
}
