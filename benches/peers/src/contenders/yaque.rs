//! yaque 0.6: a queue of one sender in segment files. It never syncs: page cache only.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use yaque::{Sender, queue::QueueIter, recovery};

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Producer, Result},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[Entrant {
    name: "yaque",
    class: Class::Peer,
    bars: &[Bar::P1, Bar::P2, Bar::P6, Bar::P8, Bar::P9],
    syncs: false,
    checks: false,
    recovers: false,
    note: "never syncs; checks nothing it reads",
    open: |dir, _, _| Ok(Box::new(Queue { dir: dir.to_owned(), sender: Mutex::new(open(dir)?) })),
}];

fn open(dir: &Path) -> Result<Sender> {
    // A killed sender leaves its lock file behind.
    if dir.join("send.lock").exists() {
        recovery::recover(dir)?;
    }
    Ok(Sender::open(dir)?)
}

struct Queue {
    dir: PathBuf,
    sender: Mutex<Sender>,
}

impl Contender for Queue {
    fn producer(&self, _number: usize) -> Result<Box<dyn Producer + '_>> {
        Ok(Box::new(QueueProducer(self.sender.lock().map_err(|_| "poisoned")?)))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        for payload in QueueIter::open(&self.dir)? {
            if !tally.see(&payload?) {
                break;
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct QueueProducer<'a>(MutexGuard<'a, Sender>);

impl Producer for QueueProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.0.try_send(payload).map_err(|error| error.to_string().into())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        self.0.try_send_batch(batch.records()).map_err(|error| format!("{:?}", error.unwrap_io()).into())
    }
}
