//! okaywal 0.3: a write-ahead log with group commit. Committing always syncs: durable only. Meant to be
//! checkpointed and reused, so here it is told never to; and it is read by recovering it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Producer, Result},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "okaywal",
    class: Class::Peer,
    bars: &[Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9],
    syncs: true,
    checks: true,
    recovers: true,
    note: "never checkpointed; 64 MiB preallocated; P5 is one entry of many chunks",
    open: |dir, _, _| {
        let wal = open(dir, Recover(Arc::default()))?;
        Ok(Box::new(Log { dir: dir.to_owned(), wal: Mutex::new(Some(wal)) }))
    },
}];

/// As large as its default of 1 MiB is small: without it, every sync of a longer log is one of a growing file.
const PREALLOCATE_BYTES: u32 = 64 << 20;

fn open(dir: &Path, manager: impl LogManager) -> Result<WriteAheadLog> {
    let settings = Configuration::default_for(dir).preallocate_bytes(PREALLOCATE_BYTES);
    Ok(settings.checkpoint_after_bytes(u64::MAX).open(manager)?)
}

/// Shows what is recovered to a tally. It has to read every chunk whether anybody counts or not: a chunk that the
/// manager leaves unread is skipped four bytes too far, recovery ends there, and new entries overwrite old ones.
#[derive(Debug)]
struct Recover(Arc<Mutex<Tally>>);

impl LogManager for Recover {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut tally = self.0.lock().map_err(|_| io::Error::other("poisoned"))?;
        for chunk in entry.read_all_chunks()?.into_iter().flatten() {
            // A recovery cannot be cut short.
            let _ = tally.see(&chunk);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

struct Log {
    dir: PathBuf,
    wal: Mutex<Option<WriteAheadLog>>,
}

impl Contender for Log {
    fn producer(&self, _number: usize) -> Result<Box<dyn Producer + '_>> {
        let wal = self.wal.lock().map_err(|_| "poisoned")?.clone().ok_or("closed")?;
        Ok(Box::new(LogProducer { wal, sent: Vec::new(), lengths: Vec::new() }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        let mut wal = self.wal.lock().map_err(|_| "poisoned")?;
        if let Some(wal) = wal.take() {
            wal.shutdown()?;
        }
        let counted = Arc::new(Mutex::new(std::mem::take(tally)));
        *wal = Some(open(&self.dir, Recover(Arc::clone(&counted)))?);
        *tally = std::mem::take(&mut *counted.lock().map_err(|_| "poisoned")?);
        tally.stopped = false;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        let wal = self.wal.into_inner().map_err(|_| "poisoned")?;
        Ok(wal.map_or(Ok(()), WriteAheadLog::shutdown)?)
    }
}

struct LogProducer {
    wal: WriteAheadLog,
    /// An open entry would lock the log: what is sent waits here.
    sent: Vec<u8>,
    lengths: Vec<usize>,
}

impl LogProducer {
    fn commit<'p>(&self, payloads: impl Iterator<Item = &'p [u8]>) -> Result<()> {
        let mut entry = self.wal.begin_entry()?;
        for payload in payloads {
            entry.write_chunk(payload)?;
        }
        entry.commit()?;
        Ok(())
    }
}

impl Producer for LogProducer {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.commit([payload].into_iter())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        self.commit(batch.records())
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.sent.extend_from_slice(payload);
        self.lengths.push(payload.len());
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let mut rest = self.sent.as_slice();
        self.commit(self.lengths.iter().map(|length| {
            let (payload, after) = rest.split_at(*length);
            rest = after;
            payload
        }))?;
        self.sent.clear();
        self.lengths.clear();
        Ok(())
    }
}
