//! annals itself, through its public interface and with its default settings but for the acknowledgement level.

use std::path::Path;

use annals::{Delivery, Durability, Log, Record, Start, Topic, TopicSettings};
use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, KEY_BYTES, Level, Producer, Result, Shape},
    load::{Load, Pace, Tally, race_tasks},
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "annals",
    class: Class::Annals,
    bars: &Bar::ALL,
    syncs: true,
    checks: true,
    recovers: true,
    note: "keys, timestamps and checksums on; P4 and P15 are tasks",
    open: |dir, level, shape| Ok(Box::new(Annals::open(dir, level, shape)?)),
}];

struct Annals {
    runtime: Runtime,
    log: Log,
    topics: Vec<Topic>,
    shape: Shape,
}

impl Annals {
    fn open(dir: &Path, level: Level, shape: Shape) -> Result<Self> {
        let runtime = Runtime::new()?;
        let log = Log::blocking_open(dir)?;
        let durability = if level == Level::Durable { Durability::Sync } else { Durability::Os };
        let settings = TopicSettings::default().partitions(u32::try_from(shape.partitions)?).durability(durability);
        let mut topics = Vec::new();
        for number in 0..shape.topics {
            topics.push(runtime.block_on(log.create_raw_topic(&format!("topic-{number:02}"), settings.clone()))?);
        }
        Ok(Self { runtime, log, topics, shape })
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
        self.topic.blocking_produce(record(payload, self.partition))?;
        Ok(())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        self.topic.blocking_produce_batch(batch.records().map(|payload| record(payload, self.partition)))?;
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.sent.push(self.topic.blocking_send(record(payload, self.partition))?);
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        for delivery in self.sent.drain(..) {
            delivery.wait()?;
        }
        Ok(())
    }
}
