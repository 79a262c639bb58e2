//! A subscription as its user holds it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::Bus;
use super::backend::Store;
use super::breaker::BreakerState;
use super::shared::{Seek, Shared};
use super::stats::SubscriptionStats;
use crate::consumer::resolve;
use crate::error::{Error, Result};
use crate::replay::Start;
use crate::task::unblock;

/// A subscription at work. Clones are the same subscription; dropping them ends nothing.
#[derive(Clone)]
pub struct Subscription {
    bus: Bus,
    shared: Arc<Shared>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("group", &self.shared.group)
            .field("topics", &self.shared.topics)
            .field("ended", &self.shared.has_ended())
            .finish_non_exhaustive()
    }
}

impl Subscription {
    pub(super) fn new(bus: Bus, shared: Arc<Shared>) -> Self {
        Self { bus, shared }
    }

    /// The group, as the log knows it.
    pub fn group(&self) -> &str {
        &self.shared.group
    }

    /// What it has done so far.
    pub fn stats(&self) -> SubscriptionStats {
        self.shared.counters.read()
    }

    /// What its circuit breaker is at.
    pub fn breaker(&self) -> BreakerState {
        self.shared.breaker()
    }

    /// The last error that did not end it: a partition that could not be read, a full disk.
    pub fn last_error(&self) -> Option<Error> {
        self.shared.last_error()
    }

    /// Takes no new event and begins no attempt until it is [resumed](Self::resume). What is running goes on.
    pub fn pause(&self) {
        self.shared.pause(true);
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.pause(false);
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.shared.is_paused()
    }

    /// Goes on elsewhere in a partition, as [`Consumer::seek`](crate::Consumer::seek). What waits of the partition is forgotten.
    ///
    /// # Errors
    ///
    /// As [`Consumer::seek`](crate::Consumer::seek), and [`Closed`](crate::ErrorKind::Closed) once the subscription has ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped it may go on elsewhere or not.
    pub async fn seek(&self, topic: &str, partition: u32, to: Start) -> Result<()> {
        let topic = self.bus.full_name(topic).into_owned();
        let to = match &self.bus.inner.store {
            Store::Log => {
                let source = self.bus.log().inner.engine.topic(&topic)?.partition(partition)?;
                unblock(move || resolve(&source, to)).await.map(Start::Offset)?
            }
            #[cfg(feature = "kafka")]
            Store::Kafka(_) => to,
        };
        let (answer, answered) = oneshot::channel();
        self.shared.want_seek(Seek { topic, partition, to, answer });
        answered.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    /// Resolves once everything that was published before is done: handled, a dead letter, or passed over. While the subscription
    /// is paused, or its breaker is open, that takes until it is not. For tests, above all. The group's offsets may follow a moment
    /// later; after [`unsubscribe`](Self::unsubscribe) they are in the log.
    ///
    /// # Errors
    ///
    /// Why the subscription has ended, if it has.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn idle(&self) -> Result<()> {
        let number = self.shared.ask_idle();
        self.shared.until(|shared| shared.has_ended() || shared.was_idle(number)).await;
        self.shared.failure().map_or(Ok(()), Err)
    }

    /// Whether everything that there was when it began has been delivered.
    pub fn is_caught_up(&self) -> bool {
        self.shared.is_caught_up()
    }

    /// How many events wait, and how many are being handled, right now.
    pub fn pending(&self) -> u64 {
        let counters = &self.shared.counters;
        counters.waiting.load(Ordering::Relaxed) + counters.running.load(Ordering::Relaxed)
    }

    /// Ends the subscription: takes nothing new, waits for the handlers that are running as long as
    /// [they may take](super::On::shutdown_timeout), commits what is done, and leaves the group, whose offsets stay. Answers why it
    /// had ended, if it had ended by itself.
    ///
    /// # Errors
    ///
    /// As [`stopped`](Self::stopped).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the subscription ends all the same.
    pub async fn unsubscribe(&self) -> Result<()> {
        self.shared.want_stop();
        self.shared.ended().await
    }

    /// Resolves once the subscription has ended.
    ///
    /// # Errors
    ///
    /// Why it could not go on: an event that had failed for good and was to be neither a dead letter nor skipped, or a log that takes
    /// no more commits.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn stopped(&self) -> Result<()> {
        self.shared.ended().await
    }

    /// Whether it has ended.
    pub fn is_stopped(&self) -> bool {
        self.shared.has_ended()
    }
}
