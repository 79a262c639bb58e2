//! Sending what belongs to somebody else: [`RecordRef`]s, with no allocation and no copy but the one into the frame.

use super::batch::Batch;
use super::delivery::{Delivery, Receipt};
use crate::error::Result;
use crate::log::committer::Leader;
use crate::record::RecordRef;
use crate::topic::Topic;

impl<T, C> Topic<T, C> {
    /// [`produce`](Self::produce) of a record whose parts are borrowed and whose value is encoded.
    ///
    /// # Errors
    ///
    /// As [`produce`](Self::produce).
    ///
    /// # Cancel safety
    ///
    /// As [`produce`](Self::produce).
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Json, Log, RecordRef, TopicDef, TopicSettings};
    ///
    /// let log = Log::in_memory()?;
    /// let orders = log.create_topic(TopicDef::<String, Json>::new("orders"), TopicSettings::default()).await?;
    /// // The value as the topic's codec writes it: for JSON, with the quotation marks.
    /// let receipt = orders.produce_ref(RecordRef::new(r#""paid""#).key("order-17")).await?;
    /// assert_eq!(receipt.offset, 0);
    /// # Ok(()) }
    /// ```
    pub async fn produce_ref(&self, record: RecordRef<'_>) -> Result<Receipt> {
        self.send_ref(record).await?.await
    }

    /// [`produce_ref`](Self::produce_ref) for threads: the caller carries the commit out itself if nobody else is at it.
    ///
    /// # Errors
    ///
    /// As [`produce_ref`](Self::produce_ref).
    pub fn blocking_produce_ref(&self, record: RecordRef<'_>) -> Result<Receipt> {
        self.blocking_hand_over(&record, Leader::Caller)?.wait()
    }

    /// [`send`](Self::send) of a record whose parts are borrowed and whose value is encoded. They are copied before this
    /// returns.
    ///
    /// # Errors
    ///
    /// As [`produce_ref`](Self::produce_ref).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the record was not sent.
    pub async fn send_ref(&self, record: RecordRef<'_>) -> Result<Delivery> {
        loop {
            match self.attempt_or_listen(&record, Leader::Thread)? {
                Ok(delivery) => return Ok(delivery),
                Err(why) => why.wait().await?,
            }
        }
    }

    /// [`send_ref`](Self::send_ref) for threads.
    ///
    /// # Errors
    ///
    /// As [`send_ref`](Self::send_ref).
    pub fn blocking_send_ref(&self, record: RecordRef<'_>) -> Result<Delivery> {
        self.blocking_hand_over(&record, Leader::Thread)
    }

    /// [`produce_batch`](Self::produce_batch) of records whose parts are borrowed and whose values are encoded: the fastest way
    /// to append.
    ///
    /// # Errors
    ///
    /// As [`produce_batch`](Self::produce_batch).
    ///
    /// # Cancel safety
    ///
    /// As [`produce_batch`](Self::produce_batch).
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, RecordRef, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let topic = log.create_raw_topic("lines", TopicSettings::default()).await?;
    /// let text = "one\ntwo\nthree";
    /// let receipts = topic.produce_batch_refs(text.lines().map(RecordRef::new)).await?;
    /// assert_eq!(receipts.len(), 3);
    /// # Ok(()) }
    /// ```
    pub async fn produce_batch_refs<'r>(
        &self,
        records: impl IntoIterator<Item = RecordRef<'r>>,
    ) -> Result<Vec<Receipt>> {
        self.batch_of_refs(records)?.produce(self.engine(), None).await
    }

    /// [`produce_batch_refs`](Self::produce_batch_refs) for threads.
    ///
    /// # Errors
    ///
    /// As [`produce_batch_refs`](Self::produce_batch_refs).
    pub fn blocking_produce_batch_refs<'r>(
        &self,
        records: impl IntoIterator<Item = RecordRef<'r>>,
    ) -> Result<Vec<Receipt>> {
        self.batch_of_refs(records)?.blocking_produce(self.engine(), None)
    }

    fn batch_of_refs<'r>(&self, records: impl IntoIterator<Item = RecordRef<'r>>) -> Result<Batch> {
        let mut batch = Batch::new();
        for record in records {
            batch.add_ref(self, record)?;
        }
        Ok(batch)
    }
}
