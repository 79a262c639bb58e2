//! A mirror at work.

use std::fmt;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::broadcast;

use super::alone::Alone;
use super::checkpoint::Place;
use super::run::Runner;
use super::settings::{Guarantee, MirrorBuilder};
use super::shared::Shared;
use super::status::{MirrorError, MirrorStatus};
use crate::codec::Raw;
use crate::error::{Error, ErrorKind, Result};
use crate::group::pattern::Subscription;
use crate::handle::Log;
use crate::topic::Topic;

/// Forwards topics of a log to a Kafka cluster, on a thread of its own: pull, never push, so that a slow or absent cluster slows no
/// publisher. Whatever happens to either side, it goes on by itself from where the target says it had come to.
///
/// Only records that are on the disk are forwarded, those of a partition in their order, with key, value or tombstone, headers and
/// time (Kafka's times have milliseconds), and four more headers that say [where they come from](super::Origin).
///
/// Dropped, it stops as with [`stop`](Self::stop), in the background.
///
/// # Example
///
/// ```no_run
/// # async fn example() -> annals::Result<()> {
/// use annals::Log;
/// use annals::mirror::{KafkaConfig, Mirror, TargetTopics};
///
/// let log = Log::open("data").await?;
/// let mirror = Mirror::builder(&log)
///     .topics(["orders", "audit.*"])
///     .to(KafkaConfig::new("broker-1:9092,broker-2:9092"))
///     .prefix("shop.")
///     .create_topics(TargetTopics::default().replication(3))
///     .spawn()?;
/// mirror.caught_up().await?;
/// println!("{:?}", mirror.status());
/// mirror.stop().await?;
/// # Ok(()) }
/// ```
pub struct Mirror {
    log: Log,
    names: Subscription,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("state", &self.shared.state()).finish_non_exhaustive()
    }
}

impl Mirror {
    /// A mirror of topics of this log.
    pub fn builder(log: &Log) -> MirrorBuilder {
        MirrorBuilder::new(log.clone())
    }

    pub(super) fn spawn(settings: MirrorBuilder) -> Result<Self> {
        settings.validate()?;
        let alone = match settings.guarantee {
            Guarantee::AtLeastOnce => Alone::claim("mirror", &settings.log, &settings.name)?,
            // The cluster sees to which of them goes on, across processes as well.
            Guarantee::ExactlyOnce => Alone::share("mirror", &settings.log, &settings.name)?,
        };
        let shared = Shared::new("mirror", &settings.name);
        #[cfg(feature = "metrics")]
        let shared = shared.exporting(settings.export_metrics);
        let shared = Arc::new(shared);
        settings.log.show_link(&shared)?;
        let log = settings.log.clone();
        let runner = Runner::new(settings, Arc::clone(&shared))?;
        let names = runner.names.clone();
        let of_thread = Arc::clone(&shared);
        let thread_failed = |error| Error::io("cannot start a thread of the mirror", error);
        let ((over, is_over), watch) = (mpsc::channel(), Arc::clone(&runner.watch));
        let watching = std::thread::Builder::new()
            .name("annals-mirror-watch".into())
            .spawn(move || watch.run(&is_over))
            .map_err(thread_failed)?;
        let work = move || {
            let failure = of_thread.failure_of(|| runner.run());
            // Who is told that it has ended may begin another one, and open the log again.
            drop((alone, over));
            // It looks, which is all that it can fail in.
            let _looked = watching.join();
            of_thread.end(failure);
        };
        let thread = std::thread::Builder::new().name("annals-mirror".into()).spawn(work).map_err(thread_failed)?;
        Ok(Self { log, names, shared, thread: Mutex::new(Some(thread)) })
    }

    /// How it is doing. What it says of the partitions is at most about a second old.
    pub fn status(&self) -> MirrorStatus {
        self.shared.status()
    }

    /// The errors that it meets from now on. Who does not read them in time misses the oldest of them.
    pub fn errors(&self) -> broadcast::Receiver<MirrorError> {
        self.shared.errors()
    }

    /// Commits what it has begun, and forwards nothing more until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.shared.pause(true);
    }

    /// Goes on after [`pause`](Self::pause), and tries partitions again that were paused for an error.
    pub fn resume(&self) {
        self.shared.pause(false);
    }

    /// The partitions, and where they end on the disk.
    fn goals(&self) -> Result<Vec<Goal>> {
        let mut goals = Vec::new();
        for found in self.log.topics()?.into_iter().filter(|topic| self.names.matches(&topic.name)) {
            let topic = match self.log.raw_topic(&found.name) {
                // It was deleted a moment ago.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                topic => topic?,
            };
            let ends = found.partitions.iter().map(|there| ((found.name.clone(), there.partition), there.durable_end));
            goals.extend(ends.map(|(place, end)| Goal { topic: topic.clone(), place, end }));
        }
        Ok(goals)
    }

    /// Waits until all that was durable when this was called, in the partitions that are not paused, is in the target.
    ///
    /// # Errors
    ///
    /// The error that it has ended with; [`Closed`](ErrorKind::Closed) if it was stopped before.
    ///
    /// # Cancel safety
    ///
    /// Nothing has changed if the future is dropped.
    pub async fn caught_up(&self) -> Result<()> {
        let goals = self.goals()?;
        self.shared.until(|shared| is_caught_up(shared, &goals)).await
    }

    /// [`caught_up`](Self::caught_up) for threads.
    ///
    /// # Errors
    ///
    /// As [`caught_up`](Self::caught_up).
    pub fn blocking_caught_up(&self) -> Result<()> {
        let goals = self.goals()?;
        self.shared.blocking_until(|shared| is_caught_up(shared, &goals))
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

    /// Commits what it has begun, which takes as long as the cluster lets it, and ends: at most about half a minute if there is no
    /// cluster.
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
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// How far a partition is to be forwarded.
struct Goal {
    topic: Topic<Bytes, Raw>,
    place: Place,
    end: u64,
}

fn is_caught_up(shared: &Shared, goals: &[Goal]) -> Option<Result<()>> {
    if let Some(ended) = shared.ended() {
        return Some(ended.and_then(|()| Err(Error::new(ErrorKind::Closed, "the mirror was stopped"))));
    }
    let partitions = shared.partitions();
    let is_there = |Goal { topic, place, end }: &Goal| {
        match partitions.iter().find(|found| found.topic == place.0 && found.partition == place.1) {
            Some(found) => found.paused.is_some() || found.next_offset >= *end,
            // It may have been deleted meanwhile.
            None => topic.watermarks(place.1).is_err_and(|error| error.kind() == ErrorKind::NotFound),
        }
    };
    goals.iter().all(is_there).then_some(Ok(()))
}
