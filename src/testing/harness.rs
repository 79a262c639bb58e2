//! Carrying operations out on a log, and remembering what must be there.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{History, Observed, SimulatedDisk, Violation, check};
use crate::codec::TopicDef;
use crate::error::{Error, Result};
use crate::handle::{Log, LogBuilder};
use crate::log::settings::TopicSettings;
use crate::producer::{Batch, Receipt};
use crate::record::Record;
use crate::topic::Topic;

/// Something that happens to a log; [`strategy::operations`](super::strategy::operations) makes sequences of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// One record is produced.
    Produce {
        /// Where to.
        topic: String,
        /// The record.
        record: Record,
    },
    /// Several records are produced to one topic, with one acknowledgement.
    Batch {
        /// Where to.
        topic: String,
        /// The records.
        records: Vec<Record>,
    },
    /// Several records are produced to any topics, all of them or none.
    Transaction {
        /// The records, each with its topic.
        records: Vec<(String, Record)>,
    },
    /// Everything is put on the disk: [`Log::sync`].
    Sync,
    /// Time passes, and what is due in the background is done.
    Advance(Duration),
    /// The log is closed and opened again.
    Reopen,
    /// The process is killed, and another one opens the log.
    Kill,
    /// The power goes and comes back, and the log is opened again.
    PowerLoss,
}

/// A log on a simulated disk, through all its lives: it carries [`Operation`]s out, opens the log again after each end, and keeps the
/// [`History`] of what was acknowledged. What your application does with the log it does beside, through [`log`](Self::log).
///
/// See [`strategy::operations`](super::strategy::operations) for an example.
#[derive(Debug)]
pub struct Harness {
    disk: SimulatedDisk,
    builder: LogBuilder,
    topics: BTreeMap<String, (TopicSettings, Topic)>,
    log: Log,
    history: History,
}

impl Harness {
    /// Opens the log of a disk and creates the topics in it.
    ///
    /// # Errors
    ///
    /// As [`SimulatedDisk::open`] and [`Log::create_topic`].
    pub fn open<N: Into<String>>(
        disk: SimulatedDisk,
        builder: LogBuilder,
        topics: impl IntoIterator<Item = (N, TopicSettings)>,
    ) -> Result<Self> {
        let log = disk.open(builder.clone())?;
        let create = |(name, settings): (N, TopicSettings)| {
            let name = name.into();
            let topic = create(&log, &name, &settings)?;
            Ok((name, (settings, topic)))
        };
        let topics = topics.into_iter().map(create).collect::<Result<_>>()?;
        Ok(Self { disk, builder, topics, log, history: History::new() })
    }

    /// Carries one operation out. After a [`Reopen`](Operation::Reopen), [`Kill`](Operation::Kill) or
    /// [`PowerLoss`](Operation::PowerLoss) the log is another: handles from before it answer with errors.
    ///
    /// # Errors
    ///
    /// What the log says: [`NotFound`](crate::ErrorKind::NotFound) for a topic that the harness does not have,
    /// [`Invalid`](crate::ErrorKind::Invalid) for a record that the topic does not take; and, if calls were to fail, or the disk
    /// is full, [`Io`](crate::ErrorKind::Io), [`StorageFull`](crate::ErrorKind::StorageFull),
    /// [`Poisoned`](crate::ErrorKind::Poisoned). Nothing is demanded then of what was not acknowledged. If opening fails, the next
    /// operation meets a log that is closed; another `Reopen` tries again.
    pub fn apply(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Produce { topic, record } => {
                let receipt = self.topic(topic)?.blocking_produce(record.clone())?;
                self.history.acknowledged_bytes(topic, record, &receipt);
            }
            Operation::Batch { topic, records } => {
                let receipts = self.topic(topic)?.blocking_produce_batch(records.iter().cloned())?;
                self.note(records.iter().map(|record| (topic, record)), receipts);
            }
            Operation::Transaction { records } => {
                let mut batch = Batch::new();
                for (topic, record) in records {
                    batch.add(self.topic(topic)?, record.clone())?;
                }
                let receipts = self.log.blocking_produce_all(batch)?;
                self.note(records.iter().map(|(topic, record)| (topic, record)), receipts);
            }
            Operation::Sync => {
                self.log.blocking_sync()?;
                self.history.synced();
            }
            Operation::Advance(time) => self.disk.clock().advance(*time),
            Operation::Reopen => {
                let closed = self.log.blocking_close();
                if closed.is_ok() {
                    self.history.synced();
                }
                self.reopen()?;
                closed?;
            }
            Operation::Kill => {
                self.disk.kill();
                // The system may have forgotten what a failed sync did not write.
                if self.disk.faults_hit() > 0 {
                    self.history.power_lost();
                }
                self.reopen()?;
            }
            Operation::PowerLoss => {
                self.disk.power_loss();
                self.history.power_lost();
                self.reopen()?;
            }
        }
        Ok(())
    }

    /// Reads everything back and applies [`check::all`]: nothing that was acknowledged is lost or altered, nothing is there twice,
    /// out of order, or missing in between.
    ///
    /// Not for topics that are compacted or that let records go: give those to [`check`] yourself.
    ///
    /// # Errors
    ///
    /// What is wrong, or why it could not be read.
    pub fn check(&self) -> Result<(), CheckFailure> {
        let observed = Observed::replay_topics(&self.log, self.topics.keys().map(String::as_str))?;
        Ok(check::all(&self.history, &observed)?)
    }

    /// The log as it is open now.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The disk: for faults, its capacity, its clock.
    pub fn disk(&self) -> &SimulatedDisk {
        &self.disk
    }

    /// What was acknowledged.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The handle of a topic, as it is open now.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) for a topic that the harness was not given.
    pub fn topic(&self, name: &str) -> Result<&Topic> {
        match self.topics.get(name) {
            Some((_, topic)) => Ok(topic),
            None => Err(Error::new(
                crate::error::ErrorKind::NotFound,
                format!("the harness was given no topic {}", crate::text::quoted(name)),
            )),
        }
    }

    fn note<'a>(&mut self, records: impl Iterator<Item = (&'a String, &'a Record)>, receipts: Vec<Receipt>) {
        for ((topic, record), receipt) in records.zip(receipts) {
            self.history.acknowledged_bytes(topic, record, &receipt);
        }
    }

    fn reopen(&mut self) -> Result<()> {
        self.log = self.disk.open(self.builder.clone())?;
        for (name, (settings, topic)) in &mut self.topics {
            *topic = create(&self.log, name, settings)?;
        }
        Ok(())
    }
}

/// Why a [`Harness`] does not find all in order.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CheckFailure {
    /// The log does not hold what it should.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Unreadable(#[from] Error),
}

fn create(log: &Log, name: &str, settings: &TopicSettings) -> Result<Topic> {
    log.blocking_create_topic(TopicDef::named(name), settings.clone())
}
