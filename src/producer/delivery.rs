//! What a producer gets back: a receipt, at once or later.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chrono::{DateTime, Utc};
use event_listener::EventListener;

use super::guard::{Awaited, Place};
use crate::error::Result;
use crate::log::committer::{Outcome, Ticket};
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::record::datetime_from_micros;

/// Where a record was written, and what that promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The partition.
    pub partition: u32,
    /// The offset in the partition.
    pub offset: u64,
    /// The number of the commit: whatever is sent after this receipt gets a larger one.
    pub commit: u64,
    /// The record's timestamp, in microseconds since 1970.
    pub timestamp_micros: i64,
    /// The level that was reached.
    pub durability: Durability,
}

impl Receipt {
    /// The record's timestamp.
    pub fn timestamp(&self) -> DateTime<Utc> {
        datetime_from_micros(self.timestamp_micros)
    }
}

/// A record on its way: resolves to its [`Receipt`] once the topic's [`Durability`] is reached.
///
/// The record is written whether this is awaited or not. Many deliveries may be under way at once; they resolve in the order in
/// which they were sent to a partition.
///
/// # Cancel safety
///
/// Dropping a delivery, or a future that awaits it, loses nothing but the news.
#[derive(Debug)]
#[must_use = "without awaiting the delivery nobody learns whether the record was written"]
pub struct Delivery {
    state: State,
    partition: u32,
    timestamp_micros: i64,
}

#[derive(Debug)]
enum State {
    /// Written at a relaxed level.
    Written(u64, u64, Durability),
    /// In a group of the committer.
    Waiting { ticket: Ticket, engine: Arc<Engine>, listener: Option<EventListener> },
}

impl Delivery {
    pub(super) fn written(
        partition: u32,
        timestamp_micros: i64,
        offset: u64,
        commit: u64,
        durability: Durability,
    ) -> Self {
        Self { state: State::Written(offset, commit, durability), partition, timestamp_micros }
    }

    pub(super) fn waiting(partition: u32, timestamp_micros: i64, ticket: Ticket, engine: Arc<Engine>) -> Self {
        Self { state: State::Waiting { ticket, engine, listener: None }, partition, timestamp_micros }
    }

    /// Where the record is, or what tells.
    pub(super) fn awaited(&self) -> Result<Place, Awaited> {
        match &self.state {
            State::Written(offset, commit, _) => Ok(Place { offset: *offset, commit: *commit }),
            State::Waiting { ticket, .. } => Err(Awaited { ticket: ticket.clone(), is_unit: false }),
        }
    }

    fn receipt(&self, offset: u64, commit: u64, durability: Durability) -> Receipt {
        Receipt { partition: self.partition, offset, commit, timestamp_micros: self.timestamp_micros, durability }
    }

    fn answered(&self, ticket: &Ticket, outcome: &Result<Outcome>) -> Result<Receipt> {
        match outcome {
            Ok(outcome) => Ok(self.receipt(ticket.offset(outcome), outcome.commit, Durability::Sync)),
            Err(error) => Err(error.clone()),
        }
    }

    /// The receipt, if the delivery has come to its end.
    ///
    /// # Errors
    ///
    /// As awaiting it.
    pub fn try_receipt(&self) -> Option<Result<Receipt>> {
        match &self.state {
            State::Written(offset, commit, durability) => Some(Ok(self.receipt(*offset, *commit, *durability))),
            State::Waiting { ticket, .. } => ticket.group.outcome().map(|outcome| self.answered(ticket, outcome)),
        }
    }

    /// Waits for the receipt on this thread, which carries the commit out itself if nobody else is at it.
    ///
    /// # Errors
    ///
    /// [`StorageFull`](crate::ErrorKind::StorageFull) and [`Io`](crate::ErrorKind::Io) if the record could not be written,
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed, [`NotFound`](crate::ErrorKind::NotFound) if the topic was
    /// deleted meanwhile.
    pub fn wait(self) -> Result<Receipt> {
        match &self.state {
            State::Written(offset, commit, durability) => Ok(self.receipt(*offset, *commit, *durability)),
            State::Waiting { ticket, engine, .. } => {
                if ticket.group.outcome().is_none() {
                    engine.lead();
                }
                self.answered(ticket, ticket.group.wait())
            }
        }
    }
}

impl Future for Delivery {
    type Output = Result<Receipt>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if let Some(receipt) = this.try_receipt() {
                return Poll::Ready(receipt);
            }
            let State::Waiting { ticket, listener, .. } = &mut this.state else { continue };
            match listener {
                // Listening comes before the second look, or the answer could come between the two.
                None => *listener = Some(ticket.group.done().listen()),
                Some(waiting) => match Pin::new(waiting).poll(cx) {
                    Poll::Ready(()) => *listener = None,
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}
