//! kafko 0.3: topics and partitions on tokio, a writer task a partition. Acknowledges from the page cache; durable
//! here means `Partition::sync` after each append, as its documentation says.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use kafko::{Kafko, Partition, Record};
use tokio::runtime::Runtime;

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, KEY_BYTES, Level, Producer, Result, Shape},
    load::{Load, Pace, Tally, race_tasks},
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "kafko",
    class: Class::Peer,
    bars: &[Bar::P1, Bar::P2, Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9, Bar::P15],
    syncs: true,
    checks: true,
    recovers: true,
    note: "reads the rest of the segment for each record; shares no sync",
    open: |dir, level, shape| Ok(Box::new(Broker::open(dir, level, shape)?)),
}];

struct Broker {
    runtime: Runtime,
    broker: Kafko,
    partitions: Vec<Arc<Partition>>,
    level: Level,
}

impl Broker {
    fn open(dir: &Path, level: Level, shape: Shape) -> Result<Self> {
        let runtime = Runtime::new()?;
        let (broker, partitions) = runtime.block_on(async {
            let broker = Kafko::open(dir).await?;
            let mut partitions = Vec::new();
            for number in 0..shape.topics {
                let name = format!("topic-{number:02}");
                if !broker.has_topic(&name).await {
                    broker.create_topic_with_partitions(&name, u32::try_from(shape.partitions)?).await?;
                }
                let topic = broker.topic(&name).await.ok_or("a topic is missing")?;
                partitions.extend(topic.partitions().iter().cloned());
            }
            Result::Ok((broker, partitions))
        })?;
        Ok(Self { runtime, broker, partitions, level })
    }

    fn partition(&self, number: usize) -> &Arc<Partition> {
        &self.partitions[number % self.partitions.len()]
    }
}

fn record(payload: &[u8]) -> Record {
    let (key, value) = payload.split_at(KEY_BYTES);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Record::new(now.as_millis() as i64, Some(Bytes::copy_from_slice(key)), Bytes::copy_from_slice(value))
}

impl Contender for Broker {
    fn producer(&self, number: usize) -> Result<Box<dyn Producer + '_>> {
        Ok(Box::new(BrokerProducer { broker: self, partition: self.partition(number) }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        let partition = self.partition(0);
        self.runtime.block_on(async {
            let mut payload = Vec::new();
            for offset in 0..partition.high_water_mark() {
                let record = partition.read_record_at(offset).await?.ok_or("a record is missing")?;
                payload.clear();
                payload.extend_from_slice(record.key().map_or(&[][..], |key| key));
                payload.extend_from_slice(record.value());
                if !tally.see(&payload) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn race(&self, load: &Load) -> Result<Vec<Pace>> {
        race_tasks(&self.runtime, load, |number, mut pace| {
            let partition = Arc::clone(self.partition(number));
            async move {
                while let Some(payload) = pace.next() {
                    partition.append(record(payload)).await?;
                    partition.sync().await?;
                    pace.acknowledged();
                }
                Ok(pace)
            }
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self { runtime, broker, partitions, .. } = *self;
        drop(partitions);
        Ok(runtime.block_on(broker.shutdown())?)
    }
}

struct BrokerProducer<'a> {
    broker: &'a Broker,
    partition: &'a Partition,
}

impl Producer for BrokerProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.broker.runtime.block_on(async {
            self.partition.append(record(payload)).await?;
            if self.broker.level == Level::Durable {
                self.partition.sync().await?;
            }
            Ok(())
        })
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        let records = batch.records().map(record).collect();
        self.broker.runtime.block_on(async {
            self.partition.append_batch(records).await?;
            if self.broker.level == Level::Durable {
                self.partition.sync().await?;
            }
            Ok(())
        })
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.broker.runtime.block_on(self.partition.append(record(payload)))?;
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.broker.runtime.block_on(self.partition.sync())?)
    }
}
