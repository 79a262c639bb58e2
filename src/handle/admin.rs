//! Looking at topics and changing them.

use std::sync::Arc;

use super::log::Log;
use crate::error::Result;
use crate::log::maintenance::Compacted;
use crate::log::names::{is_reserved, refuse_reserved};
use crate::log::settings::TopicSettings;
use crate::task::unblock;
use crate::topic::TopicDescription;
use crate::topic::describe::describe;

impl Log {
    /// All topics, by name, but for annals' own.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed).
    pub fn topics(&self) -> Result<Vec<TopicDescription>> {
        self.inner.engine.check_open()?;
        let topics = self.inner.engine.topics();
        Ok(topics.iter().filter(|topic| !is_reserved(&topic.name)).map(|topic| describe(topic)).collect())
    }

    /// One topic.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Closed`](crate::ErrorKind::Closed).
    pub fn describe_topic(&self, name: &str) -> Result<TopicDescription> {
        Ok(describe(&*self.inner.engine.topic(name)?))
    }

    /// Adds partitions to a topic, so that it has `partitions`. The partition of a key depends on their number: records of a key
    /// that were written before stay where they are, and later ones may go elsewhere.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Invalid`](crate::ErrorKind::Invalid) unless it has fewer now,
    /// [`Closed`](crate::ErrorKind::Closed), [`Io`](crate::ErrorKind::Io), [`StorageFull`](crate::ErrorKind::StorageFull).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped they are added all the same.
    pub async fn add_partitions(&self, topic: &str, partitions: u32) -> Result<()> {
        refuse_reserved(topic)?;
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        unblock(move || inner.engine.add_partitions(&topic, partitions).map(drop)).await
    }

    /// Gives a topic other settings while it is in use: take those that it has from [`describe_topic`](Self::describe_topic) or
    /// [`Topic::settings`](crate::Topic::settings), change them, and hand them in. They hold for what is written from then on;
    /// retention begins to let go right away.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Invalid`](crate::ErrorKind::Invalid) for settings outside of what is allowed,
    /// for another number of partitions (see [`add_partitions`](Self::add_partitions)), and for a change between
    /// [`Durability::Sync`](crate::Durability::Sync) and the other levels, which would mean to write all records anew;
    /// [`Closed`](crate::ErrorKind::Closed), [`Io`](crate::ErrorKind::Io), [`StorageFull`](crate::ErrorKind::StorageFull).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped they are altered all the same.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use std::time::Duration;
    ///
    /// # use annals::{Log, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let clicks = log.create_raw_topic("clicks", TopicSettings::default()).await?;
    /// let week = Duration::from_secs(7 * 86_400);
    /// log.alter_topic("clicks", clicks.settings().retention_age_max(week)).await?;
    /// assert_eq!(clicks.settings().retention_age_max, Some(week));
    /// # Ok(()) }
    /// ```
    pub async fn alter_topic(&self, topic: &str, settings: TopicSettings) -> Result<()> {
        refuse_reserved(topic)?;
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        unblock(move || inner.engine.alter_topic(&topic, settings).map(drop)).await
    }

    /// [`alter_topic`](Self::alter_topic) for threads.
    ///
    /// # Errors
    ///
    /// As [`alter_topic`](Self::alter_topic).
    pub fn blocking_alter_topic(&self, topic: &str, settings: TopicSettings) -> Result<()> {
        refuse_reserved(topic)?;
        self.inner.engine.alter_topic(topic, settings).map(drop)
    }

    /// Lets all records of a partition go that lie before the offset `before`, durably. Answers with the log start, which is
    /// `before`, or higher if more had gone already. Files are removed as a whole: what shares one with records that stay
    /// takes its space until they go.
    ///
    /// A reader that has not come so far gets an item with a [gap](crate::Error::gap) and goes on behind it.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange) for an offset beyond the
    /// high watermark, [`Closed`](crate::ErrorKind::Closed), [`Poisoned`](crate::ErrorKind::Poisoned),
    /// [`Io`](crate::ErrorKind::Io). After an error of the disk they may be gone or not.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped they go all the same.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let lines = log.create_raw_topic("lines", TopicSettings::default()).await?;
    /// lines.produce_batch(["one", "two", "three"].map(|line| Record::new(line.into()))).await?;
    /// assert_eq!(log.delete_records("lines", 0, 2).await?, 2);
    /// assert_eq!(lines.watermarks(0)?.log_start, 2);
    /// # Ok(()) }
    /// ```
    pub async fn delete_records(&self, topic: &str, partition: u32, before: u64) -> Result<u64> {
        refuse_reserved(topic)?;
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        unblock(move || inner.engine.delete_records(&topic, partition, before)).await
    }

    /// [`delete_records`](Self::delete_records) for threads.
    ///
    /// # Errors
    ///
    /// As [`delete_records`](Self::delete_records).
    pub fn blocking_delete_records(&self, topic: &str, partition: u32, before: u64) -> Result<u64> {
        refuse_reserved(topic)?;
        self.inner.engine.delete_records(topic, partition, before)
    }

    /// Compacts a topic whose [`compaction`](crate::TopicSettings#structfield.compaction) is on: of the records with one key the
    /// last stays, and those before it are removed. This happens in the background by itself, so calling it is for those who
    /// want it now, at full speed.
    ///
    /// What stays keeps its offset. The newest records, up to `segment_bytes_max` of each partition, are never touched. A
    /// tombstone stays for [`tombstone_age_max`](crate::TopicSettings#structfield.tombstone_age_max) after the compaction that
    /// kept it first. Readers go on meanwhile. One segment at a time is written anew beside the old ones, and needs its room.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a topic without compaction, [`NotFound`](crate::ErrorKind::NotFound),
    /// [`Closed`](crate::ErrorKind::Closed), [`Corrupt`](crate::ErrorKind::Corrupt) where records are damaged: nothing from there
    /// on is compacted; [`Poisoned`](crate::ErrorKind::Poisoned), [`Io`](crate::ErrorKind::Io),
    /// [`StorageFull`](crate::ErrorKind::StorageFull). What was done before the error stays done.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the compaction goes on.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Log, Record, Start, TopicSettings};
    ///
    /// let log = Log::in_memory()?;
    /// let settings = TopicSettings::default().compaction(true).segment_bytes_max(64 << 10);
    /// let prices = log.create_raw_topic("prices", settings).await?;
    /// for round in 0..10 {
    ///     let price = |cents| Record::new(format!("{cents:>100} cents").into()).key("ACME");
    ///     prices.produce_batch((0..1000).map(|tick| price(round * 1000 + tick))).await?;
    /// }
    /// assert!(log.compact_topic("prices").await?.complete);
    ///
    /// let mut left = 0;
    /// let mut history = prices.replay(Start::Earliest).blocking()?;
    /// while history.next()?.is_some() {
    ///     left += 1;
    /// }
    /// assert_eq!(left, 1001);   // of nine batches one record is left, and the newest is not touched
    /// # Ok(()) }
    /// ```
    pub async fn compact_topic(&self, topic: &str) -> Result<Compacted> {
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        unblock(move || inner.engine.compact_topic(&topic)).await
    }

    /// [`compact_topic`](Self::compact_topic) for threads.
    ///
    /// # Errors
    ///
    /// As [`compact_topic`](Self::compact_topic).
    pub fn blocking_compact_topic(&self, topic: &str) -> Result<Compacted> {
        self.inner.engine.compact_topic(topic)
    }

    /// Deletes a topic with all its records. Sends that wait fail with [`NotFound`](crate::ErrorKind::NotFound), and so does
    /// whoever follows it, once everything is read.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Closed`](crate::ErrorKind::Closed), [`Io`](crate::ErrorKind::Io). If files
    /// remain they are removed at the next opening.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the topic is deleted all the same.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        refuse_reserved(topic)?;
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        unblock(move || inner.engine.delete_topic(&topic)).await
    }
}
