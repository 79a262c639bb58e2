//! Sending to one topic: one record or a batch, waiting or not, from tasks and from threads.

use std::fmt;
use std::sync::Arc;

use event_listener::Listener;

use super::batch::Batch;
use super::delivery::{Delivery, Receipt};
use super::encode::{choose, with_encoded};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::log::committer::{Leader, Refused};
use crate::log::settings::Durability;
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
enum Attempt {
    Sent(Delivery),
    Full,
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
        self.hand_over(record.into(), Leader::Caller)?.wait()
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
            match self.attempt(&record, Leader::Thread) {
                Ok(Attempt::Sent(delivery)) => return Ok(delivery),
                Ok(Attempt::Full) => {}
                Err(error) => return Err(SendError { record, error }),
            }
            let listener = self.engine().committer.space.listen();
            // Room may have come before the listener was there.
            match self.attempt(&record, Leader::Thread) {
                Ok(Attempt::Sent(delivery)) => return Ok(delivery),
                Ok(Attempt::Full) => listener.await,
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
        self.hand_over(record.into(), Leader::Thread)
    }

    fn hand_over(&self, record: Record<T>, leader: Leader) -> Result<Delivery, SendError<T>> {
        loop {
            match self.attempt(&record, leader) {
                Ok(Attempt::Sent(delivery)) => return Ok(delivery),
                Ok(Attempt::Full) => {}
                Err(error) => return Err(SendError { record, error }),
            }
            let listener = self.engine().committer.space.listen();
            match self.attempt(&record, leader) {
                Ok(Attempt::Sent(delivery)) => return Ok(delivery),
                Ok(Attempt::Full) => listener.wait(),
                Err(error) => return Err(SendError { record, error }),
            }
        }
    }

    /// [`send`](Self::send) that never waits.
    ///
    /// # Errors
    ///
    /// Gives the record back; with [`Busy`](ErrorKind::Busy) if there is no room for it now.
    pub fn try_send(&self, record: impl Into<Record<T>>) -> Result<Delivery, SendError<T>> {
        let record = record.into();
        match self.attempt(&record, Leader::Thread) {
            Ok(Attempt::Sent(delivery)) => Ok(delivery),
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

    #[inline]
    fn attempt(&self, record: &Record<T>, leader: Leader) -> Result<Attempt> {
        let topic = self.state.snapshot();
        let settings = &topic.settings;
        let partition = choose(record, &topic.partitions, &self.sticky, self.name())?;
        let number = partition.owner.partition;
        let engine = self.engine();
        with_encoded(
            &*self.codec,
            record,
            settings.record_bytes_max,
            || engine.env.clock.now_micros(),
            |encoded| {
                let timestamp = encoded.timestamp;
                let len = encoded.len() + FRAME_HEADER_BYTES;
                if settings.durability != Durability::Sync {
                    let written =
                        engine.append_relaxed(partition, settings.durability, |builder| encoded.put(builder))?;
                    let (offset, commit) = (written.base_offset, written.commit);
                    return Ok(Attempt::Sent(Delivery::written(
                        number,
                        timestamp,
                        offset,
                        commit,
                        settings.durability,
                    )));
                }
                match engine.enqueue(partition, len, leader, |builder| encoded.put(builder)) {
                    Ok(ticket) => Ok(Attempt::Sent(Delivery::waiting(number, timestamp, ticket, Arc::clone(engine)))),
                    Err(Refused::Full) => Ok(Attempt::Full),
                    Err(Refused::Failed(error)) => Err(error),
                }
            },
        )
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
        let mut batch = self.batch_of(records)?;
        match batch.try_relaxed(self.engine()) {
            Some(receipts) => receipts,
            None => batch.commit(self.engine()).await,
        }
    }

    /// [`produce_batch`](Self::produce_batch) for threads.
    ///
    /// # Errors
    ///
    /// As [`produce_batch`](Self::produce_batch).
    pub fn blocking_produce_batch(&self, records: impl IntoIterator<Item = Record<T>>) -> Result<Vec<Receipt>> {
        let mut batch = self.batch_of(records)?;
        match batch.try_relaxed(self.engine()) {
            Some(receipts) => receipts,
            None => batch.blocking_commit(self.engine()),
        }
    }

    fn batch_of(&self, records: impl IntoIterator<Item = Record<T>>) -> Result<Batch> {
        let mut batch = Batch::new();
        for record in records {
            batch.add(self, record)?;
        }
        Ok(batch)
    }
}
