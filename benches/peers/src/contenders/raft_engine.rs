//! raft-engine 0.4: one log for many raft groups, with group commit; TiKV's. A producer is a raft group, since the
//! entries of one group have to be numbered by one writer.

use std::path::Path;

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt};

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Level, Producer, Result},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "raft-engine",
    class: Class::Peer,
    bars: &[Bar::P1, Bar::P2, Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9, Bar::P15],
    syncs: true,
    checks: true,
    recovers: true,
    note: "a raft group a producer, in P4 too",
    open: |dir, level, _| Ok(Box::new(Log::open(dir, level)?)),
}];

/// How many entries one read fetches.
const READ_ENTRIES: u64 = 1_000;
const INDEX_BYTES: usize = 8;

/// Entries are protobuf messages that know their index: here, bytes that begin with it.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |index| u64::from_le_bytes(*index))
    }
}

struct Log {
    engine: Engine,
    level: Level,
}

impl Log {
    fn open(dir: &Path, level: Level) -> Result<Self> {
        let dir = dir.to_str().ok_or("the directory's name is no text")?.to_owned();
        Ok(Self { engine: Engine::open(Config { dir, ..Config::default() })?, level })
    }
}

impl Contender for Log {
    fn producer(&self, number: usize) -> Result<Box<dyn Producer + '_>> {
        let group = number as u64 + 1;
        let next = self.engine.last_index(group).map_or(1, |last| last + 1);
        let entry = BytesValue::new();
        Ok(Box::new(LogProducer { log: self, group, next, batch: LogBatch::default(), entry }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        let (Some(first), Some(last)) = (self.engine.first_index(1), self.engine.last_index(1)) else {
            return Ok(());
        };
        let mut entries = Vec::new();
        let mut from = first;
        while from <= last {
            let to = last.saturating_add(1).min(from + READ_ENTRIES);
            entries.clear();
            self.engine.fetch_entries_to::<Entries>(1, from, to, None, &mut entries)?;
            for entry in &entries {
                if !tally.see(&entry.value[INDEX_BYTES..]) {
                    return Ok(());
                }
            }
            from = to;
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct LogProducer<'a> {
    log: &'a Log,
    group: u64,
    next: u64,
    batch: LogBatch,
    entry: BytesValue,
}

impl LogProducer<'_> {
    fn add(&mut self, payload: &[u8]) -> Result<()> {
        self.entry.value.clear();
        self.entry.value.extend_from_slice(&self.next.to_le_bytes());
        self.entry.value.extend_from_slice(payload);
        self.next += 1;
        Ok(self.batch.add_entries::<Entries>(self.group, std::slice::from_ref(&self.entry))?)
    }

    fn write(&mut self, sync: bool) -> Result<()> {
        self.log.engine.write(&mut self.batch, sync)?;
        Ok(())
    }
}

impl Producer for LogProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.add(payload)?;
        self.write(self.log.level == Level::Durable)
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        batch.records().try_for_each(|payload| self.add(payload))?;
        self.write(self.log.level == Level::Durable)
    }

    /// A batch of 100 at a time goes to the page cache. Its `Engine::sync` writes an empty batch, which returns
    /// before it syncs anything; so the last batch is kept back for `settle`.
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        if self.next.is_multiple_of(100) {
            self.write(false)?;
        }
        self.add(payload)
    }

    fn settle(&mut self) -> Result<()> {
        self.write(true)
    }
}
