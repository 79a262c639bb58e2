//! sled 0.34: a key-value store as a log, keyed by sequence number. An insert stays in the process until a flush,
//! and a flush is `sync_file_range`, which does not flush the device's cache: no level below "durable", and that
//! one in name only.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use sled::Db;

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Producer, Result},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "sled",
    class: Class::Peer,
    bars: &[Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9],
    syncs: false,
    checks: true,
    recovers: true,
    note: "flush is sync_file_range: not durable",
    open: |dir, _, _| Ok(Box::new(Store::open(dir)?)),
}];

struct Store {
    db: Db,
    next: AtomicU64,
}

impl Store {
    fn open(dir: &Path) -> Result<Self> {
        let db = sled::open(dir.join("db"))?;
        let last = db.last()?.and_then(|(key, _)| key.as_ref().try_into().ok().map(u64::from_be_bytes));
        Ok(Self { db, next: AtomicU64::new(last.map_or(0, |last| last + 1)) })
    }
}

impl Contender for Store {
    fn producer(&self, _number: usize) -> Result<Box<dyn Producer + '_>> {
        Ok(Box::new(StoreProducer(self)))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        for item in self.db.iter().values() {
            if !tally.see(&item?) {
                break;
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }
}

struct StoreProducer<'a>(&'a Store);

impl StoreProducer<'_> {
    fn next_key(&self) -> [u8; 8] {
        self.0.next.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }
}

impl Producer for StoreProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.send(payload)?;
        self.settle()
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        let mut writes = sled::Batch::default();
        for payload in batch.records() {
            writes.insert(&self.next_key(), payload);
        }
        self.0.db.apply_batch(writes)?;
        self.settle()
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.0.db.insert(self.next_key(), payload)?;
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.0.db.flush()?;
        Ok(())
    }
}
