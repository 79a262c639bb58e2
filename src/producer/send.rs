//! Sending to one topic: one record or a batch, waiting or not, from tasks and from threads.

use std::fmt;
use std::sync::Arc;

use super::batch::Batch;
use super::delivery::{Delivery, Receipt};
use super::encode::{Encoded, choose, with_encoded};
use super::guard::Wait;
use super::guard::window::Limits;
use super::guarded::{Guarded, send_guarded};
use super::outgoing::{Outgoing, Owned};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::log::committer::{Leader, Refused};
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::partition::writer::Written;
use crate::partition::{Partition, Pass};
use crate::record::Record;
use crate::topic::Topic;

/// A record that was not taken, given back with the reason.
#[derive(Debug)]
pub struct SendError<T> {
    /// The record, as it was given.
    pub record: Record<T>,
    /// Why it was not taken.
    pub error: Error,
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the record was not sent: {}", self.error)
    }
}

impl<T: fmt::Debug> std::error::Error for SendError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<SendError<T>> for Error {
    fn from(error: SendError<T>) -> Self {
        error.error
    }
}

/// What became of an attempt to send.
pub(super) enum Attempt {
    Sent(Delivery),
    Full,
    /// The guard of the partition cannot decide yet.
    Wait(Wait),
    /// The partition has a guard.
    Guarded,
}

impl<T, C: Codec<T>> Topic<T, C> {
    /// Writes a record and returns once the topic's [`Durability`] is reached; by default, once it is on the disk.
    ///
    /// Records that are under way at the same time share their sync, so many tasks that each await their own record are fast,
    /// and one task that awaits each record before the next is as slow as the disk. [`send`](Self::send) pipelines.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for a record that is too large or asks for a partition that does not exist,
    /// [`Codec`](ErrorKind::Codec) for a value that cannot be encoded; else as [`Delivery::wait`]. The record was not written,
    /// except after [`Poisoned`](ErrorKind::Poisoned), when it may have been.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the record may be written or not, and stays whole in either case.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Json, Log, Record, TopicDef, TopicSettings};
    ///
    /// let log = Log::in_memory()?;
    /// let orders = log.create_topic(TopicDef::<String, Json>::new("orders"), TopicSettings::default()).await?;
    /// let receipt = orders.produce(Record::new("paid".to_string()).key("order-17")).await?;
    /// assert_eq!(receipt.offset, 0);
    /// # Ok(()) }
    /// ```
    pub async fn produce(&self, record: impl Into<Record<T>>) -> Result<Receipt> {
        self.send(record).await?.await
    }

    /// [`produce`](Self::produce) for threads: the caller carries the commit out itself if nobody else is at it.
    ///
    /// # Errors
    ///
    /// As [`produce`](Self::produce).
    pub fn blocking_produce(&self, record: impl Into<Record<T>>) -> Result<Receipt> {
        let record = record.into();
        self.blocking_hand_over(&self.outgoing(&record), Leader::Caller)?.wait()
    }

    /// Hands a record over and returns a [`Delivery`] to await later: this is how one task keeps the disk busy. Waits only while
    /// there is no room for more pending records. Records of one task to one partition keep their order.
    ///
    /// # Errors
    ///
    /// Gives the record back: see [`produce`](Self::produce) for the reasons.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the record was not sent.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let topic = log.create_raw_topic("lines", TopicSettings::default()).await?;
    /// let mut deliveries = Vec::new();
    /// for line in ["one", "two", "three"] {
    ///     deliveries.push(topic.send(Record::new(line.into())).await?);
    /// }
    /// for (offset, delivery) in deliveries.into_iter().enumerate() {
    ///     assert_eq!(delivery.await?.offset, offset as u64);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn send(&self, record: impl Into<Record<T>>) -> Result<Delivery, SendError<T>> {
        let record = record.into();
        loop {
            // By itself: what is borrowed must not live across the wait, or the value would have to be `Sync`.
            let attempt = self.attempt_or_listen(&self.outgoing(&record), Leader::Thread);
            match attempt {
                Ok(Ok(delivery)) => return Ok(delivery),
                Ok(Err(why)) => {
                    if let Err(error) = why.wait().await {
                        return Err(SendError { record, error });
                    }
                }
                Err(error) => return Err(SendError { record, error }),
            }
        }
    }

    /// [`send`](Self::send) for threads.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send(&self, record: impl Into<Record<T>>) -> Result<Delivery, SendError<T>> {
        let record = record.into();
        let sent = self.blocking_hand_over(&self.outgoing(&record), Leader::Thread);
        sent.map_err(|error| SendError { record, error })
    }

    /// [`send`](Self::send) that never waits, but where it is the first to a partition whose
    /// [identities](crate::TopicSettings::dedup_count_max) must be read.
    ///
    /// # Errors
    ///
    /// Gives the record back; with [`Busy`](ErrorKind::Busy) if there is no room for it now, or what was written before is being
    /// read.
    pub fn try_send(&self, record: impl Into<Record<T>>) -> Result<Delivery, SendError<T>> {
        let record = record.into();
        let mut attempt = self.attempt(&self.outgoing(&record), Leader::Thread);
        if let Ok(Attempt::Wait(wait @ Wait::Build(_))) = attempt {
            // Nobody else would.
            attempt = wait.block(self.engine()).and_then(|()| self.attempt(&self.outgoing(&record), Leader::Thread));
        }
        match attempt {
            Ok(Attempt::Sent(delivery)) => Ok(delivery),
            Ok(Attempt::Wait(_) | Attempt::Guarded) => {
                let error =
                    Error::new(ErrorKind::Busy, "what was written before is being read or committed; try again");
                Err(SendError { record, error })
            }
            Ok(Attempt::Full) => {
                let error = Error::new(
                    ErrorKind::Busy,
                    format!(
                        "{} bytes of records wait to be written, and that is all that may; try again later",
                        self.engine().committer.bytes_max()
                    ),
                );
                Err(SendError { record, error })
            }
            Err(error) => Err(SendError { record, error }),
        }
    }

    /// Writes records as one: after any crash all of them are there or none is. Returns their receipts in their order.
    ///
    /// Keyless records without a partition go to one partition together. A batch that lies in one partition is written at the
    /// topic's [`Durability`]; one that spans several is a commit over all of them, and always reaches [`Durability::Sync`].
    ///
    /// # Errors
    ///
    /// As [`produce`](Self::produce), and [`Invalid`](ErrorKind::Invalid) if the batch is larger than the log's
    /// `commit_bytes_max`. Nothing of the batch was written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the batch may be written or not, and is whole in either case.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let topic = log.create_raw_topic("lines", TopicSettings::default()).await?;
    /// let receipts = topic.produce_batch(["one", "two"].map(|line| Record::new(line.into()))).await?;
    /// assert_eq!(receipts.len(), 2);
    /// # Ok(()) }
    /// ```
    pub async fn produce_batch(&self, records: impl IntoIterator<Item = Record<T>>) -> Result<Vec<Receipt>> {
        self.batch_of(records)?.produce(self.engine(), None).await
    }

    /// [`produce_batch`](Self::produce_batch) for threads.
    ///
    /// # Errors
    ///
    /// As [`produce_batch`](Self::produce_batch).
    pub fn blocking_produce_batch(&self, records: impl IntoIterator<Item = Record<T>>) -> Result<Vec<Receipt>> {
        self.batch_of(records)?.blocking_produce(self.engine(), None)
    }

    pub(super) fn batch_of(&self, records: impl IntoIterator<Item = Record<T>>) -> Result<Batch> {
        let mut batch = Batch::new();
        for record in records {
            batch.add(self, record)?;
        }
        Ok(batch)
    }

    fn outgoing<'a>(&'a self, record: &'a Record<T>) -> Owned<'a, T, C> {
        Owned { record, codec: &*self.codec }
    }
}

/// What owned and borrowed records have in common.
impl<T, C> Topic<T, C> {
    pub(super) fn blocking_hand_over(&self, record: &impl Outgoing, leader: Leader) -> Result<Delivery> {
        loop {
            match self.attempt_or_listen(record, leader)? {
                Ok(delivery) => return Ok(delivery),
                Err(why) => why.block(self.engine())?,
            }
        }
    }

    /// Hands a record over, or says what to wait for until it can be.
    #[inline]
    pub(super) fn attempt_or_listen(&self, record: &impl Outgoing, leader: Leader) -> Result<Result<Delivery, Wait>> {
        match self.attempt(record, leader)? {
            Attempt::Sent(delivery) => return Ok(Ok(delivery)),
            Attempt::Wait(wait) => return Ok(Err(wait)),
            Attempt::Full | Attempt::Guarded => {}
        }
        let room = self.engine().committer.space.listen();
        // Room may have come before the listener was there.
        match self.attempt(record, leader)? {
            Attempt::Sent(delivery) => Ok(Ok(delivery)),
            Attempt::Wait(wait) => Ok(Err(wait)),
            Attempt::Full | Attempt::Guarded => Ok(Err(Wait::Room(room))),
        }
    }

    #[inline]
    fn attempt(&self, record: &impl Outgoing, leader: Leader) -> Result<Attempt> {
        let topic = self.state.snapshot();
        let settings = &topic.settings;
        let limits = Limits::of(settings);
        let partition = choose(record, &topic.partitions, &self.sticky, self.name(), limits.is_some())?;
        let engine = self.engine();
        with_encoded(
            record,
            settings,
            || engine.env.clock.now_micros(),
            |encoded| {
                let send = |pass| send(engine, partition, settings.durability, &encoded, leader, pass);
                if limits.is_none() && partition.guard().is_none() {
                    match send(Pass::Open)? {
                        Attempt::Guarded => {}
                        attempt => return Ok(attempt),
                    }
                }
                let guarded = Guarded { encoded: &encoded, durability: settings.durability, limits };
                send_guarded(engine, partition, &guarded, || send(Pass::Guard))
            },
        )
    }
}

/// Hands an encoded record over.
#[inline]
fn send<O: Outgoing>(
    engine: &Arc<Engine>,
    partition: &Arc<Partition>,
    durability: Durability,
    encoded: &Encoded<'_, O>,
    leader: Leader,
    pass: Pass,
) -> Result<Attempt> {
    let (number, timestamp) = (partition.owner.partition, encoded.timestamp);
    if durability != Durability::Sync {
        let written = engine.append_relaxed_by(pass, partition, durability, |builder| encoded.put(builder))?;
        return Ok(match written {
            Some(Written { base_offset, commit }) => {
                Attempt::Sent(Delivery::written(number, timestamp, base_offset, commit, durability))
            }
            None => Attempt::Guarded,
        });
    }
    let len = encoded.len() + FRAME_HEADER_BYTES;
    match engine.enqueue_by(pass, partition, len, leader, |builder| encoded.put(builder)) {
        Ok(ticket) => Ok(Attempt::Sent(Delivery::waiting(number, timestamp, ticket, Arc::clone(engine)))),
        Err(Refused::Full) => Ok(Attempt::Full),
        Err(Refused::Guarded) => Ok(Attempt::Guarded),
        Err(Refused::Failed(error)) => Err(error),
    }
}
