//! The log as its user holds it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::builder::LogBuilder;
use crate::codec::{Codec, Raw, TopicDef};
use crate::error::{Error, Result};
use crate::log::engine::Engine;
use crate::log::names::{refuse_reserved, validate_user_topic_name};
use crate::log::report::RecoveryReport;
use crate::log::running::Running;
use crate::log::settings::TopicSettings;
use crate::producer::{Batch, Receipt};
use crate::record::datetime_from_micros;
use crate::task::unblock;
use crate::topic::Topic;
use crate::transaction::Transaction;

/// An open log: a directory of topics.
///
/// Handles are cheap to clone and may be used from any thread and task. The log is closed by [`close`](Self::close), or when the
/// last handle (of the log, its topics or their readers) is dropped.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path();
/// use annals::{Json, Log, Record, Start, TopicDef, TopicSettings};
///
/// const ORDERS: TopicDef<String, Json> = TopicDef::new("orders");
///
/// let log = Log::open(dir).await?;
/// let orders = log.create_topic(ORDERS, TopicSettings::default().partitions(4)).await?;
/// orders.produce(Record::new("paid".to_string()).key("order-17")).await?;   // on the disk when this returns
/// log.close().await?;
///
/// let log = Log::open(dir).await?;
/// let mut history = log.topic(ORDERS)?.replay(Start::Earliest).blocking()?;
/// assert_eq!(history.next_message()?.unwrap().value().unwrap(), "paid");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Log {
    pub(crate) inner: Arc<Running>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("path", &self.path()).field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Log {
    pub(crate) fn start(engine: Engine, temporary: Option<tempfile::TempDir>) -> Result<Self> {
        let inner = Arc::new(Running::start(engine, temporary)?);
        crate::find::register(&inner.engine);
        Ok(Self { inner })
    }

    pub(super) fn follow(engine: Engine, interval: Duration) -> Result<Self> {
        Ok(Self { inner: Arc::new(Running::follow(engine, interval)?) })
    }

    /// Opens the log in `dir`, creating it if there is none, and recovering it if it was not closed.
    ///
    /// # Errors
    ///
    /// As [`LogBuilder::open`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the log is opened all the same, and closed at once.
    pub async fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(dir).await
    }

    /// [`open`](Self::open) for threads.
    ///
    /// # Errors
    ///
    /// As [`LogBuilder::open`].
    pub fn blocking_open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder().blocking_open(dir)
    }

    /// Opens the log in `dir` for reading only, beside its writer or without one. Nothing is locked and nothing is changed.
    ///
    /// # Errors
    ///
    /// As [`LogBuilder::open_read_only`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the log is opened all the same, and closed at once.
    pub async fn open_read_only(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open_read_only(dir).await
    }

    /// [`open_read_only`](Self::open_read_only) for threads.
    ///
    /// # Errors
    ///
    /// As [`LogBuilder::open_read_only`].
    pub fn blocking_open_read_only(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder().blocking_open_read_only(dir)
    }

    /// A log in memory: the same engine on another disk, gone with its last handle.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if its threads cannot be started.
    pub fn in_memory() -> Result<Self> {
        Self::builder().in_memory()
    }

    /// A log in a new temporary directory that is removed with its last handle.
    ///
    /// # Errors
    ///
    /// As [`LogBuilder::open`].
    pub fn temporary() -> Result<Self> {
        Self::builder().temporary()
    }

    /// Settings for opening a log.
    pub fn builder() -> LogBuilder {
        LogBuilder::default()
    }

    /// Creates a topic, or returns the one that exists with the same settings.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a name or settings outside of what is allowed,
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) for a topic that exists with other settings, or whose name differs from
    /// another's in case only; [`Closed`](crate::ErrorKind::Closed), [`Io`](crate::ErrorKind::Io),
    /// [`StorageFull`](crate::ErrorKind::StorageFull).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the topic may be created or not, never half.
    pub async fn create_topic<T, C>(&self, topic: TopicDef<T, C>, settings: TopicSettings) -> Result<Topic<T, C>>
    where
        C: Codec<T> + Default,
    {
        validate_user_topic_name(topic.name())?;
        let state = match self.inner.engine.existing_topic(topic.name(), &settings)? {
            Some(existing) => existing,
            None => {
                let (inner, name) = (Arc::clone(&self.inner), topic.name().to_owned());
                unblock(move || inner.engine.create_topic(&name, settings)).await?
            }
        };
        Ok(Topic::new(Arc::clone(&self.inner), state, topic.codec()))
    }

    /// [`create_topic`](Self::create_topic) for threads.
    ///
    /// # Errors
    ///
    /// As [`create_topic`](Self::create_topic).
    pub fn blocking_create_topic<T, C>(&self, topic: TopicDef<T, C>, settings: TopicSettings) -> Result<Topic<T, C>>
    where
        C: Codec<T> + Default,
    {
        validate_user_topic_name(topic.name())?;
        let state = self.inner.engine.create_topic(topic.name(), settings)?;
        Ok(Topic::new(Arc::clone(&self.inner), state, topic.codec()))
    }

    /// [`create_topic`](Self::create_topic) for a topic of bytes.
    ///
    /// # Errors
    ///
    /// As [`create_topic`](Self::create_topic).
    pub async fn create_raw_topic(&self, name: &str, settings: TopicSettings) -> Result<Topic<Bytes, Raw>> {
        self.create_topic(TopicDef::named(name), settings).await
    }

    /// A topic that exists.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Closed`](crate::ErrorKind::Closed); [`Invalid`](crate::ErrorKind::Invalid) for one of
    /// annals' own topics, which [`replay_topics`](Self::replay_topics) reads.
    pub fn topic<T, C>(&self, topic: TopicDef<T, C>) -> Result<Topic<T, C>>
    where
        C: Codec<T> + Default,
    {
        refuse_reserved(topic.name())?;
        let state = self.inner.engine.topic(topic.name())?;
        Ok(Topic::new(Arc::clone(&self.inner), state, topic.codec()))
    }

    /// A topic that exists, of bytes.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic).
    pub fn raw_topic(&self, name: &str) -> Result<Topic<Bytes, Raw>> {
        self.topic(TopicDef::named(name))
    }

    /// Writes all records of a batch as one commit, with one sync, over however many partitions and topics: after any crash all
    /// of them are there or none is. Always reaches [`Durability::Sync`](crate::Durability::Sync) if the batch spans several
    /// partitions; else the level of its topic. Returns the receipts in the order in which the records were added.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a batch of another log; else as [`Topic::produce`]. Nothing was written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the batch may be written or not, and is whole in either case.
    pub async fn produce_all(&self, batch: Batch) -> Result<Vec<Receipt>> {
        self.check_batch(&batch)?;
        batch.produce(&self.inner.engine, None).await
    }

    /// [`produce_all`](Self::produce_all) for threads.
    ///
    /// # Errors
    ///
    /// As [`produce_all`](Self::produce_all).
    pub fn blocking_produce_all(&self, batch: Batch) -> Result<Vec<Receipt>> {
        self.check_batch(&batch)?;
        batch.blocking_produce(&self.inner.engine, None)
    }

    /// Begins a [`Transaction`]: records and consumers' progress, to be committed as one.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(Arc::clone(&self.inner))
    }

    fn check_batch(&self, batch: &Batch) -> Result<()> {
        if batch.is_for(&self.inner.engine) { Ok(()) } else { Err(Error::invalid("the batch is for another log")) }
    }

    /// Puts everything that was written so far, at whatever level, on the disk.
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync fails or has failed, [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the sync goes on.
    pub async fn sync(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        unblock(move || inner.engine.sync()).await
    }

    /// [`sync`](Self::sync) for threads.
    ///
    /// # Errors
    ///
    /// As [`sync`](Self::sync).
    pub fn blocking_sync(&self) -> Result<()> {
        self.inner.engine.sync()
    }

    /// Whether the log was opened read-only.
    pub fn is_read_only(&self) -> bool {
        self.inner.engine.is_read_only()
    }

    /// Looks right now for what the writer of a log that is open read-only has added, instead of waiting for the next
    /// [refresh](LogBuilder::refresh_interval): what the writer acknowledged before this call is visible after it. A log that is
    /// open for writing has nothing to look for.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if something could not be read; the rest is visible, and the next look tries again.
    /// [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the look goes on.
    pub async fn refresh(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        unblock(move || inner.engine.refresh(true)).await
    }

    /// [`refresh`](Self::refresh) for threads.
    ///
    /// # Errors
    ///
    /// As [`refresh`](Self::refresh).
    pub fn blocking_refresh(&self) -> Result<()> {
        self.inner.engine.refresh(true)
    }

    /// Closes the log, whatever handles are still alive: takes no more records, commits those that wait, syncs everything, leaves
    /// the mark of a clean close, and releases the lock last. Later calls on any handle fail with
    /// [`Closed`](crate::ErrorKind::Closed); closing again does nothing.
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::ErrorKind::Poisoned), [`Io`](crate::ErrorKind::Io) or [`StorageFull`](crate::ErrorKind::StorageFull)
    /// if not everything could be put on the disk. The log is closed all the same, and the next opening recovers it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the closing goes on.
    pub async fn close(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        unblock(move || inner.close()).await
    }

    /// [`close`](Self::close) for threads.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn blocking_close(&self) -> Result<()> {
        self.inner.close()
    }

    /// What opening the log has found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.engine.report
    }

    /// The identity of the log, made when it was created.
    pub fn id(&self) -> Uuid {
        Uuid::from_u128(self.inner.engine.id)
    }

    /// When the log was created.
    pub fn created_at(&self) -> DateTime<Utc> {
        datetime_from_micros(self.inner.engine.created_at())
    }

    /// The time by the log's clock: that of the machine, unless a test has given it another.
    pub fn now(&self) -> DateTime<Utc> {
        datetime_from_micros(self.inner.engine.env.clock.now_micros())
    }

    /// The time since some moment, by the clock that waiting goes by.
    #[cfg(feature = "kafka")]
    pub(crate) fn monotonic(&self) -> Duration {
        self.inner.engine.env.clock.monotonic()
    }

    /// A number that nobody else has.
    #[cfg(feature = "kafka")]
    pub(crate) fn random(&self) -> u64 {
        self.inner.engine.env.random.next_u64()
    }

    /// The time of day, in microseconds since 1970, by the clock that records get theirs from.
    #[cfg(feature = "kafka")]
    pub(crate) fn now_micros(&self) -> i64 {
        self.inner.engine.env.clock.now_micros()
    }

    /// How many bytes one commit may have.
    #[cfg(feature = "kafka")]
    pub(crate) fn commit_bytes_max(&self) -> usize {
        usize::try_from(self.inner.engine.settings.commit_bytes_max).unwrap_or(usize::MAX)
    }

    /// A topic of annals' own, which nobody else writes to. It is made if it is missing.
    #[cfg(feature = "kafka")]
    pub(crate) fn own_topic(&self, name: &str, settings: TopicSettings) -> Result<Topic<Bytes, Raw>> {
        let engine = &self.inner.engine;
        let state = match engine.topic(name) {
            Err(error) if error.kind() == crate::error::ErrorKind::NotFound => engine.create_topic(name, settings)?,
            found => found?,
        };
        Ok(Topic::new(Arc::clone(&self.inner), state, Raw))
    }

    /// The directory of the log.
    pub fn path(&self) -> &Path {
        &self.inner.engine.root
    }
}
