//! commitlog 0.2: append-only segments with a memory-mapped index. Its `flush` syncs nothing: page cache only.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard},
};

use commitlog::{
    CommitLog, LogOptions, ReadLimit,
    message::{MessageBuf, MessageSet},
};

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Producer, Result},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "commitlog",
    class: Class::Peer,
    bars: &[Bar::P1, Bar::P2, Bar::P6, Bar::P8, Bar::P9],
    syncs: false,
    checks: true,
    recovers: false,
    note: "never syncs; recovers nothing",
    open: |dir, _, _| Ok(Box::new(Log(Mutex::new(open(dir)?)))),
}];

const READ_BYTES: usize = 256 << 10;

fn open(dir: &Path) -> Result<CommitLog> {
    Ok(CommitLog::new(LogOptions::new(dir))?)
}

/// It has one writer, whose lock the producer keeps.
struct Log(Mutex<CommitLog>);

impl Contender for Log {
    fn producer(&self, _number: usize) -> Result<Box<dyn Producer + '_>> {
        let log = self.0.lock().map_err(|_| "poisoned")?;
        Ok(Box::new(LogProducer { log, messages: MessageBuf::default() }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        let log = self.0.lock().map_err(|_| "poisoned")?;
        let mut offset = 0;
        loop {
            // Reading checks each message's CRC.
            let messages = log.read(offset, ReadLimit::max_bytes(READ_BYTES))?;
            if messages.is_empty() {
                return Ok(());
            }
            for message in messages.iter() {
                if !tally.see(message.payload()) {
                    return Ok(());
                }
                offset = message.offset() + 1;
            }
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.0.into_inner().map_err(|_| "poisoned")?.flush()?)
    }
}

struct LogProducer<'a> {
    log: MutexGuard<'a, CommitLog>,
    messages: MessageBuf,
}

impl LogProducer<'_> {
    fn append<'p>(&mut self, payloads: impl Iterator<Item = &'p [u8]>) -> Result<()> {
        self.messages.clear();
        for payload in payloads {
            self.messages.push(payload).map_err(|error| format!("{error:?}"))?;
        }
        self.log.append(&mut self.messages)?;
        Ok(())
    }
}

impl Producer for LogProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.append([payload].into_iter())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        self.append(batch.records())
    }
}
