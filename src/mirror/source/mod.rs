//! The way back: topics of Kafka into the log.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::broadcast;

use super::alone::Alone;
use super::shared::Shared;
use super::status::{MirrorError, MirrorState};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Log;

mod batch;
mod checkpoint;
mod connect;
mod lane;
mod look;
#[cfg(feature = "metrics")]
pub(super) mod metrics;
mod record;
mod run;
mod settings;
pub(super) mod status;

use run::{CaughtUp, Runner};
pub use settings::{OnMissing, SourceBuilder, SourcePartitions, SourceStart};
pub use status::{SourcePartition, SourceStatus};

/// Brings topics of a Kafka cluster into the log, on a thread of its own: exactly once, whatever happens to either side, since the
/// records and how far they were read are one transaction of the log.
///
/// Only what is committed in Kafka is read, the records of a partition in their order, with key, value or tombstone, headers and time.
/// Records that a [`Mirror`](super::Mirror) of this log has sent are passed over; those of other logs keep the headers that say
/// [where they come from](super::Origin), and the others get such headers, with the place in Kafka. So a mirror does not send them back.
///
/// Offsets are kept in annals' own topic `__sources`, by the name of the source; Kafka's consumer groups have no part in it. A Kafka
/// topic that was deleted and made again, another cluster, or another topic of the log than before is a
/// [`Mismatch`](ErrorKind::Mismatch), and ends the source before anything is written.
///
/// Dropped, it stops as with [`stop`](Self::stop), in the background.
///
/// # Example
///
/// ```no_run
/// # async fn example() -> annals::Result<()> {
/// use annals::mirror::{KafkaConfig, Source};
/// use annals::{Log, TopicSettings};
///
/// let log = Log::open("data").await?;
/// let source = Source::builder(&log)
///     .topics(["orders", "audit.*"])
///     .from(KafkaConfig::new("broker-1:9092,broker-2:9092"))
///     .prefix("kafka.")
///     .create_topics(TopicSettings::default())
///     .spawn()?;
/// source.caught_up().await?;
/// println!("{:?}", source.status());
/// source.stop().await?;
/// # Ok(()) }
/// ```
pub struct Source {
    shared: Arc<Shared<SourcePartition>>,
    caught_up: Arc<CaughtUp>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("state", &self.shared.state()).finish_non_exhaustive()
    }
}

impl Source {
    /// A source for this log.
    pub fn builder(log: &Log) -> SourceBuilder {
        SourceBuilder::new(log.clone())
    }

    fn spawn(settings: SourceBuilder) -> Result<Self> {
        let (kafka, names) = settings.validate()?;
        // A log that is closed says so now.
        settings.log.topics()?;
        let alone = Alone::claim("source", &settings.log, &settings.name)?;
        let shared = Shared::new("source", &settings.name);
        #[cfg(feature = "metrics")]
        let shared = shared.exporting(settings.export_metrics);
        let shared = Arc::new(shared);
        settings.log.show_link(&shared)?;
        let caught_up = Arc::new(CaughtUp::default());
        let runner = Runner::new(settings, kafka, names, Arc::clone(&shared), Arc::clone(&caught_up));
        let of_thread = Arc::clone(&shared);
        let work = move || {
            let failure = of_thread.failure_of(|| runner.run());
            // Whoever waits for the end may begin another one.
            drop(alone);
            of_thread.end(failure);
        };
        let thread = std::thread::Builder::new()
            .name("annals-source".into())
            .spawn(work)
            .map_err(|error| Error::io("cannot start the thread of the source", error))?;
        Ok(Self { shared, caught_up, thread: Mutex::new(Some(thread)) })
    }

    /// How it is doing. What it says of the partitions is at most about a second old.
    pub fn status(&self) -> SourceStatus {
        status::of(&self.shared)
    }

    /// The errors that it meets from now on. Who does not read them in time misses the oldest of them.
    pub fn errors(&self) -> broadcast::Receiver<MirrorError> {
        self.shared.errors()
    }

    /// Commits what it has begun, and reads nothing more until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.shared.pause(true);
    }

    /// Goes on after [`pause`](Self::pause), and tries partitions again that were paused for an error.
    pub fn resume(&self) {
        self.shared.pause(false);
    }

    /// Waits until all that was committed in Kafka when this was called, in the partitions that are not paused, is in the log.
    ///
    /// # Errors
    ///
    /// The error that it has ended with; [`Closed`](ErrorKind::Closed) if it was stopped before.
    ///
    /// # Cancel safety
    ///
    /// Nothing has changed if the future is dropped.
    pub async fn caught_up(&self) -> Result<()> {
        let question = self.ask();
        self.shared.until(|shared| self.answer(shared, question)).await
    }

    /// [`caught_up`](Self::caught_up) for threads.
    ///
    /// # Errors
    ///
    /// As [`caught_up`](Self::caught_up).
    pub fn blocking_caught_up(&self) -> Result<()> {
        let question = self.ask();
        self.shared.blocking_until(|shared| self.answer(shared, question))
    }

    fn ask(&self) -> u64 {
        let question = self.caught_up.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.shared.ring();
        question
    }

    fn answer(&self, shared: &Shared<SourcePartition>, question: u64) -> Option<Result<()>> {
        if self.caught_up.answered.load(Ordering::Acquire) >= question {
            return Some(Ok(()));
        }
        let closed = || Err(Error::new(ErrorKind::Closed, "the source was stopped"));
        shared.ended().map(|ended| ended.and_then(|()| closed()))
    }

    /// Waits until it has ended: an error that does not pass, or [`stop`](Self::stop).
    ///
    /// # Errors
    ///
    /// The error that it has ended with.
    ///
    /// # Cancel safety
    ///
    /// Nothing has changed if the future is dropped.
    pub async fn ended(&self) -> Result<()> {
        self.shared.until(Shared::ended).await
    }

    /// Commits what it has begun, and ends: after some seconds if it is waiting for a cluster that does not answer.
    ///
    /// # Errors
    ///
    /// The error that it had ended with before.
    ///
    /// # Cancel safety
    ///
    /// It stops all the same if the future is dropped.
    pub async fn stop(self) -> Result<()> {
        self.shared.stop();
        self.ended().await
    }

    /// [`stop`](Self::stop) for threads.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop).
    pub fn blocking_stop(self) -> Result<()> {
        self.shared.blocking_stop(&self.thread)
    }

    /// What it is about.
    pub fn state(&self) -> MirrorState {
        self.shared.state()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
