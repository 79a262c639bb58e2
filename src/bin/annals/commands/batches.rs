//! Writing many records: in atomic batches, one after the other, each of what has come while the last was under way.

use annals::{Batch, Durability, ErrorKind, Log, Raw, Record, Topic};
use bytes::Bytes;

/// How much is written as one: large enough that the sync of it costs little, small enough that a slow source is soon durable.
const BATCH_BYTES: usize = 1 << 20;
pub(crate) const BATCH_RECORDS: usize = 8192;

/// The batch that is being collected, and how much was written before.
pub(crate) struct Batches<'a> {
    log: &'a Log,
    topic: &'a Topic<Bytes, Raw>,
    /// Without this a power loss may take a batch of one partition and leave a later one of another.
    syncs: bool,
    batch: Batch,
    bytes: usize,
    records_max: usize,
    /// Records that are acknowledged.
    pub(crate) written: u64,
}

impl<'a> Batches<'a> {
    pub(crate) fn new(log: &'a Log, topic: &'a Topic<Bytes, Raw>, records_max: usize) -> Self {
        let settings = topic.settings();
        let syncs = settings.durability != Durability::Sync && settings.partitions > 1;
        Self { log, topic, syncs, batch: Batch::new(), bytes: 0, records_max, written: 0 }
    }

    /// Adds a record. One that does not fit behind the others begins a batch of its own.
    pub(crate) fn add(&mut self, record: Record<Bytes>) -> annals::Result<()> {
        let bytes = record.value.as_ref().map_or(0, Bytes::len) + record.key.as_ref().map_or(0, Bytes::len);
        match self.batch.add(self.topic, record.clone()) {
            Err(error) if error.kind() == ErrorKind::Invalid && !self.batch.is_empty() => {
                self.commit()?;
                self.batch.add(self.topic, record)?;
            }
            added => added?,
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Whether it should be committed before more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.batch.len() >= self.records_max
    }

    /// Writes what was added.
    pub(crate) fn commit(&mut self) -> annals::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        let receipts = self.log.blocking_produce_all(batch)?;
        if self.syncs {
            self.log.blocking_sync()?;
        }
        self.written += receipts.len() as u64;
        Ok(())
    }
}
