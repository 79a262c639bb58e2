//! Appends that are carried out only if the newest record is the expected one.

use super::batch::Batch;
use super::delivery::Receipt;
use super::guarded::Condition;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::expected::Expected;
use crate::record::Record;
use crate::topic::Topic;

impl<T, C: Codec<T>> Topic<T, C> {
    /// Writes a record if the newest one of its key is the expected one: of any number of producers that have seen the same
    /// version, one succeeds. A tombstone counts as no record.
    ///
    /// The first conditional append to a partition after an opening reads it whole; from then on the offset of the newest record
    /// of each key is kept in memory, 32 bytes and what a hash table adds. Every append to the partition takes part, conditional or
    /// not.
    ///
    /// # Errors
    ///
    /// [`Conflict`](ErrorKind::Conflict) if it is another; nothing was written, and [`Error::current_version`] says which it is.
    /// [`Invalid`](ErrorKind::Invalid) for a record without a key. Else as [`produce`](Self::produce).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the record may be written or not.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{ErrorKind, Expected, Log, Record, TopicSettings};
    ///
    /// let log = Log::in_memory()?;
    /// let accounts = log.create_raw_topic("accounts", TopicSettings::default()).await?;
    /// let event = |text: &str| Record::new(text.to_owned().into()).key("account-7");
    ///
    /// let opened = accounts.produce_if(event("opened"), Expected::Empty).await?;
    /// let closed = accounts.produce_if(event("closed"), Expected::Exact(opened.offset)).await?;
    /// let late = accounts.produce_if(event("paid in"), Expected::Exact(opened.offset)).await.unwrap_err();
    /// assert_eq!(late.kind(), ErrorKind::Conflict);
    /// assert_eq!(late.current_version(), Some(Expected::Exact(closed.offset)));
    /// # Ok(()) }
    /// ```
    pub async fn produce_if(&self, record: impl Into<Record<T>>, expected: Expected) -> Result<Receipt> {
        first(self.produce_batch_if([record.into()], expected).await?)
    }

    /// [`produce_if`](Self::produce_if) for threads.
    ///
    /// # Errors
    ///
    /// As [`produce_if`](Self::produce_if).
    pub fn blocking_produce_if(&self, record: impl Into<Record<T>>, expected: Expected) -> Result<Receipt> {
        first(self.blocking_produce_batch_if([record.into()], expected)?)
    }

    /// [`produce_if`](Self::produce_if) of several records of one key: all of them are written, or none.
    ///
    /// # Errors
    ///
    /// As [`produce_if`](Self::produce_if), and [`Invalid`](ErrorKind::Invalid) for records of different keys.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the batch may be written or not, and is whole in either case.
    pub async fn produce_batch_if(
        &self,
        records: impl IntoIterator<Item = Record<T>>,
        expected: Expected,
    ) -> Result<Vec<Receipt>> {
        self.batch_of_one_key(records)?.produce(self.engine(), Some(Condition::Key(expected))).await
    }

    /// [`produce_batch_if`](Self::produce_batch_if) for threads.
    ///
    /// # Errors
    ///
    /// As [`produce_batch_if`](Self::produce_batch_if).
    pub fn blocking_produce_batch_if(
        &self,
        records: impl IntoIterator<Item = Record<T>>,
        expected: Expected,
    ) -> Result<Vec<Receipt>> {
        self.batch_of_one_key(records)?.blocking_produce(self.engine(), Some(Condition::Key(expected)))
    }

    /// Writes a record if the newest one of its partition is the expected one, whatever its key: for a partition that has one
    /// writer at a time, or whose records are numbered.
    ///
    /// # Errors
    ///
    /// As [`produce_if`](Self::produce_if), but that [`Invalid`](ErrorKind::Invalid) is a record that has neither a key nor a
    /// partition, where the topic has several.
    ///
    /// # Cancel safety
    ///
    /// As [`produce_if`](Self::produce_if).
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Expected, Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let blocks = log.create_raw_topic("blocks", TopicSettings::default()).await?;
    /// let genesis = blocks.produce_if_last(Record::new("genesis".into()), Expected::Empty).await?;
    /// blocks.produce_if_last(Record::new("second".into()), Expected::Exact(genesis.offset)).await?;
    /// assert!(blocks.produce_if_last(Record::new("fork".into()), Expected::Exact(genesis.offset)).await.is_err());
    /// # Ok(()) }
    /// ```
    pub async fn produce_if_last(&self, record: impl Into<Record<T>>, expected: Expected) -> Result<Receipt> {
        first(self.batch_for_a_partition(record.into())?.produce(self.engine(), partition_is(expected)).await?)
    }

    /// [`produce_if_last`](Self::produce_if_last) for threads.
    ///
    /// # Errors
    ///
    /// As [`produce_if_last`](Self::produce_if_last).
    pub fn blocking_produce_if_last(&self, record: impl Into<Record<T>>, expected: Expected) -> Result<Receipt> {
        first(self.batch_for_a_partition(record.into())?.blocking_produce(self.engine(), partition_is(expected))?)
    }

    fn batch_of_one_key(&self, records: impl IntoIterator<Item = Record<T>>) -> Result<Batch> {
        let mut batch = Batch::new();
        let mut of = None;
        for record in records {
            let key =
                record.key.clone().ok_or_else(|| Error::invalid("a record that expects a version needs a key"))?;
            let place = (key, record.partition);
            if *of.get_or_insert_with(|| place.clone()) != place {
                return Err(Error::invalid(
                    "the records of a batch that expects a version need one key and one partition",
                ));
            }
            batch.add(self, record)?;
        }
        Ok(batch)
    }

    fn batch_for_a_partition(&self, record: Record<T>) -> Result<Batch> {
        if record.key.is_none() && record.partition.is_none() && self.partitions() > 1 {
            return Err(Error::invalid("a record that expects a version of its partition needs a key or a partition"));
        }
        self.batch_of([record])
    }
}

fn partition_is(expected: Expected) -> Option<Condition> {
    Some(Condition::Partition(expected))
}

fn first(receipts: Vec<Receipt>) -> Result<Receipt> {
    receipts.into_iter().next().ok_or_else(|| Error::new(ErrorKind::Invalid, "there is no record to write"))
}
