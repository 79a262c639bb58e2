//! The stream of events of one key.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::expected::Expected;
use crate::find::{Find, Scope, newest};
use crate::partition::Partition;
use crate::producer::Receipt;
use crate::record::Record;
use crate::task::unblock;
use crate::topic::Topic;

/// The events of one key of a topic, in their order: the unit of event sourcing.
///
/// Made by [`Topic::stream`](crate::Topic::stream); cheap to clone. Its events are the records of the key's
/// [partition](crate::Topic::partition_for) that have the key. Its version is the newest of them, as in
/// [`produce_if`](crate::Topic::produce_if): a tombstone ends the stream, and it is [`Empty`](Expected::Empty) again.
///
/// A topic of streams should [index its keys](crate::TopicSettings#structfield.index_keys). Without the index each reading goes through
/// all of the partition. It should keep its partitions, since a key may belong to another one once there are more; and all of its
/// records: neither compaction nor retention know of streams.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Aggregate, ErrorKind, Json, Log, Message, TopicDef, TopicSettings};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Booked {
///     In(i64),
///     Out(i64),
/// }
///
/// #[derive(Default)]
/// struct Account {
///     balance: i64,
/// }
///
/// impl Aggregate for Account {
///     type Event = Booked;
///
///     fn apply(&mut self, event: &Booked, _: &Message<Booked>) {
///         match event {
///             Booked::In(amount) => self.balance += amount,
///             Booked::Out(amount) => self.balance -= amount,
///         }
///     }
/// }
///
/// const BOOKINGS: TopicDef<Booked, Json> = TopicDef::new("bookings");
///
/// let log = Log::in_memory()?;
/// let bookings = log.create_topic(BOOKINGS, TopicSettings::default().index_keys(true)).await?;
/// let stream = bookings.stream("account-7");
///
/// let account = stream.load::<Account>().await?;
/// stream.append([Booked::In(100), Booked::Out(30)], account.version).await?;
///
/// // Of all who have seen the same version, one succeeds.
/// let account = stream.load::<Account>().await?;
/// assert_eq!(account.state.balance, 70);
/// stream.append([Booked::Out(70)], account.version).await?;
/// let late = stream.append([Booked::Out(70)], account.version).await.unwrap_err();
/// assert_eq!(late.kind(), ErrorKind::Conflict);
/// # Ok(()) }
/// ```
pub struct EventStream<T, C> {
    pub(super) topic: Topic<T, C>,
    pub(super) key: Bytes,
}

impl<T, C> Clone for EventStream<T, C> {
    fn clone(&self) -> Self {
        Self { topic: self.topic.clone(), key: self.key.clone() }
    }
}

impl<T, C> fmt::Debug for EventStream<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("topic", &self.topic).field("key", &self.key).finish()
    }
}

impl<T, C: Codec<T>> EventStream<T, C> {
    pub(crate) fn new(topic: Topic<T, C>, key: Bytes) -> Self {
        Self { topic, key }
    }

    /// The key.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The partition that has the key.
    pub(super) fn partition(&self) -> Result<Arc<Partition>> {
        self.topic.state.partition(self.topic.partition_for(&self.key))
    }

    /// Appends events, all of them or none, if the stream has the expected version. Events are values, or
    /// [records](Record) with headers, an identity or a time; the key is set here. Answers with the receipt of the last one: the
    /// stream's version is [`Exact`](Expected::Exact) its offset now.
    ///
    /// [`Any`](Expected::Any) is an unconditional [`produce_batch`](crate::Topic::produce_batch). Any other is a
    /// [`produce_batch_if`](crate::Topic::produce_batch_if), with what that costs.
    ///
    /// # Errors
    ///
    /// [`Conflict`](ErrorKind::Conflict) if the stream has another version: load it again, and decide again. Nothing was written, and
    /// [`Error::current_version`] says which it is. [`Invalid`](ErrorKind::Invalid) for no events, and for a record of another key or
    /// with a partition. Else as [`produce_batch_if`](crate::Topic::produce_batch_if).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, all of the events may be written or none.
    ///
    /// # Example
    ///
    /// See [`EventStream`].
    pub async fn append<E: Into<Record<T>>>(
        &self,
        events: impl IntoIterator<Item = E>,
        expected: Expected,
    ) -> Result<Receipt> {
        let records = self.records(events)?;
        last(match expected {
            Expected::Any => self.topic.produce_batch(records).await?,
            _ => self.topic.produce_batch_if(records, expected).await?,
        })
    }

    /// [`append`](Self::append) for threads.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub fn blocking_append<E: Into<Record<T>>>(
        &self,
        events: impl IntoIterator<Item = E>,
        expected: Expected,
    ) -> Result<Receipt> {
        let records = self.records(events)?;
        last(match expected {
            Expected::Any => self.topic.blocking_produce_batch(records)?,
            _ => self.topic.blocking_produce_batch_if(records, expected)?,
        })
    }

    fn records<E: Into<Record<T>>>(&self, events: impl IntoIterator<Item = E>) -> Result<Vec<Record<T>>> {
        let own = |event: E| {
            let mut record = event.into();
            if record.partition.is_some() || record.key.as_ref().is_some_and(|key| *key != self.key) {
                return Err(Error::invalid("an event of a stream has the stream's key, and no partition of its own"));
            }
            record.key = Some(self.key.clone());
            Ok(record)
        };
        let records = events.into_iter().map(own).collect::<Result<Vec<_>>>()?;
        if records.is_empty() { Err(Error::invalid("there is no event to append")) } else { Ok(records) }
    }

    /// Reads the stream from its beginning, tombstones included, up to what is there when the reading begins: a
    /// [`Stream`](futures_core::Stream), and [on a thread](Find::blocking) an iterator.
    ///
    /// # Errors
    ///
    /// All of them are items: see [`Find`]. A topic need not index its keys for this.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Expected, Log, TopicSettings};
    /// use futures_util::TryStreamExt;
    ///
    /// # let log = Log::in_memory()?;
    /// let orders = log.create_raw_topic("orders", TopicSettings::default().index_keys(true)).await?;
    /// let stream = orders.stream("order-17");
    /// stream.append(["opened".into(), "paid".into()] as [bytes::Bytes; 2], Expected::Empty).await?;
    ///
    /// let events: Vec<_> = stream.read().try_collect().await?;
    /// assert_eq!(events[1].value().unwrap(), "paid");
    /// # Ok(()) }
    /// ```
    pub fn read(&self) -> Find<T, C> {
        self.read_from(0)
    }

    /// [`read`](Self::read) from an offset of the partition on; what has gone by now is passed over.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_from(&self, offset: u64) -> Find<T, C> {
        // Nobody but annals counts partitions by the topic as it is now, and there is at least one.
        let scope = match self.partition() {
            Ok(partition) => Scope::Stream { topic: Arc::clone(&self.topic.state), partition, from: offset },
            Err(_) => Scope::Topic(Arc::clone(&self.topic.state)),
        };
        Find::of_key(Arc::clone(&self.topic.log), Arc::clone(&self.topic.codec), scope, &self.key)
    }

    /// The version of the stream: what an [`append`](Self::append) right now has to expect.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed); [`Corrupt`](ErrorKind::Corrupt) and [`Io`](ErrorKind::Io) from reading.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Expected, Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// # let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// let stream = orders.stream("order-17");
    /// assert_eq!(stream.version().await?, Expected::Empty);
    /// let opened = stream.append([Record::new("opened".into())], Expected::Empty).await?;
    /// assert_eq!(stream.version().await?, Expected::Exact(opened.offset));
    /// # Ok(()) }
    /// ```
    pub async fn version(&self) -> Result<Expected>
    where
        T: 'static,
    {
        let stream = self.clone();
        unblock(move || stream.blocking_version()).await
    }

    /// [`version`](Self::version) for threads.
    ///
    /// # Errors
    ///
    /// As [`version`](Self::version).
    pub fn blocking_version(&self) -> Result<Expected> {
        let found = newest(&self.topic.log, &self.topic.state, &self.partition()?, &self.key)?;
        Ok(match found {
            Some((offset, true)) => Expected::Exact(offset),
            Some((_, false)) | None => Expected::Empty,
        })
    }
}

fn last(receipts: Vec<Receipt>) -> Result<Receipt> {
    receipts.into_iter().next_back().ok_or_else(|| Error::new(ErrorKind::Invalid, "there is no event to append"))
}
