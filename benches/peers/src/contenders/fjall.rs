//! fjall 3: an LSM store as a log, keyed by sequence number; a keyspace a partition. Durable is
//! `PersistMode::SyncData` after the write; a plain write reaches the page cache.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Level, Producer, Result, Shape},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "fjall",
    class: Class::Peer,
    bars: &[Bar::P1, Bar::P2, Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9, Bar::P15],
    syncs: true,
    checks: true,
    recovers: true,
    note: "shares no sync; a cached block is not checked again",
    open: |dir, level, shape| Ok(Box::new(Store::open(dir, level, shape)?)),
}];

struct Store {
    db: Database,
    partitions: Vec<(Keyspace, AtomicU64)>,
    level: Level,
}

impl Store {
    fn open(dir: &Path, level: Level, shape: Shape) -> Result<Self> {
        let db = Database::builder(dir).open()?;
        let mut partitions = Vec::new();
        for number in 0..shape.total() {
            let keyspace = db.keyspace(&format!("partition-{number:02}"), KeyspaceCreateOptions::default)?;
            let next = match keyspace.last_key_value() {
                Some(last) => u64::from_be_bytes(last.key()?.as_ref().try_into()?) + 1,
                None => 0,
            };
            partitions.push((keyspace, AtomicU64::new(next)));
        }
        Ok(Self { db, partitions, level })
    }
}

impl Contender for Store {
    fn producer(&self, number: usize) -> Result<Box<dyn Producer + '_>> {
        let (keyspace, next) = &self.partitions[number % self.partitions.len()];
        Ok(Box::new(StoreProducer { store: self, keyspace, next }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        for item in self.partitions[0].0.iter() {
            if !tally.see(&item.value()?) {
                break;
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }
}

struct StoreProducer<'a> {
    store: &'a Store,
    keyspace: &'a Keyspace,
    next: &'a AtomicU64,
}

impl StoreProducer<'_> {
    fn next_key(&self) -> [u8; 8] {
        self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }
}

impl Producer for StoreProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.send(payload)?;
        if self.store.level == Level::Durable { self.settle() } else { Ok(()) }
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        let mode = if self.store.level == Level::Durable { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut writes = self.store.db.batch().durability(Some(mode));
        for payload in batch.records() {
            writes.insert(self.keyspace, self.next_key(), payload);
        }
        Ok(writes.commit()?)
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        Ok(self.keyspace.insert(self.next_key(), payload)?)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.store.db.persist(PersistMode::SyncData)?)
    }
}
