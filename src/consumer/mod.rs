//! Consuming: a member of a group reads the partitions that are assigned to it, from where the group has come to, and on.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::group::Groups;
use crate::group::commit::Held;
use crate::log::running::Running;
use crate::record::Message;
use crate::replay::decode;
use crate::task::block;

pub(crate) mod builder;
mod commits;
mod core;
mod fetching;
mod items;
mod mail;
mod places;
mod rebalance;
mod source;
mod working;

pub use builder::Subscribe;
pub use items::{Item, Lag, OnGap, TopicPartition};
pub use rebalance::{Rebalance, Revoked};

pub(crate) use places::resolve;

use core::{Core, Io};

/// A member of a consumer group.
///
/// The members of a group share the partitions of the topics that they subscribe to; each group gets everything. History and live
/// records are one stream: within a partition each record once, in the order of the offsets, from where the group has come to.
/// What was delivered and not committed is delivered again, to whoever owns the partition, after this member has left, was
/// dropped, or the process has crashed.
///
/// Messages come from [`recv`](Self::recv), [`recv_batch`](Self::recv_batch), [`try_recv`](Self::try_recv), or from the
/// [`Stream`], which has an [`Item`] for what is no message as well.
///
/// # Cancel safety
///
/// Every method may be cancelled and called again: no message is lost or delivered twice by that.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Log, Record, TopicSettings};
///
/// let log = Log::in_memory()?;
/// let orders = log.create_raw_topic("orders", TopicSettings::default().partitions(4)).await?;
/// orders.produce(Record::new("paid".into()).key("order-17")).await?;
///
/// let mut consumer = orders.subscribe("billing").build().await?;
/// while let Some(message) = consumer.recv().await? {
///     println!("{:?}", message.value());
///     consumer.commit(&message).await?;
///     # break;
/// }
/// # Ok(()) }
/// ```
pub struct Consumer<T = bytes::Bytes, C = crate::codec::Raw> {
    core: Core,
    codec: Arc<C>,
    values: PhantomData<fn() -> T>,
}

impl<T, C> fmt::Debug for Consumer<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.group.name)
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl<T, C: Codec<T>> Consumer<T, C> {
    fn new(core: Core, codec: Arc<C>) -> Self {
        Self { core, codec, values: PhantomData }
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>, io: Io) -> Poll<Option<Result<Item<T>>>> {
        self.core.poll_item(cx, io).map(|next| {
            next.map(|item| {
                Ok(match item? {
                    Item::Message(message) => Item::Message(decode(&*self.codec, message)?),
                    Item::CaughtUp => Item::CaughtUp,
                    Item::Gap(gap) => Item::Gap(gap),
                    Item::Rewound(rewound) => Item::Rewound(rewound),
                })
            })
        })
    }

    fn poll_message(&mut self, cx: &mut Context<'_>, io: Io) -> Poll<Result<Option<Message<T>>>> {
        loop {
            return Poll::Ready(match std::task::ready!(self.poll_decoded(cx, io)) {
                None => Ok(None),
                Some(Ok(Item::Message(message))) => Ok(Some(message)),
                Some(Ok(Item::CaughtUp)) => continue,
                Some(Ok(Item::Gap(gap))) => Err(Error::of_gap(gap)),
                Some(Ok(Item::Rewound(rewound))) => Err(Error::of_rewound(rewound)),
                Some(Err(error)) => Err(error),
            });
        }
    }

    /// The next message; waits until there is one. `None` once the log is closed.
    ///
    /// # Errors
    ///
    /// None of these is the end; the next call goes on. [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange) with a
    /// [gap](Error::gap) where records are gone, or with how far the consumer was [set back](Error::rewound);
    /// [`Codec`](crate::ErrorKind::Codec) for a value that cannot be decoded: the message counts as delivered;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where bytes are damaged, once: the other partitions go on;
    /// [`NotFound`](crate::ErrorKind::NotFound) once a topic that was named in the subscription is deleted, and where
    /// [nothing is committed that has to be](Subscribe::require_committed); [`Io`](crate::ErrorKind::Io).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing is lost.
    pub async fn recv(&mut self) -> Result<Option<Message<T>>> {
        std::future::poll_fn(|cx| self.poll_message(cx, Io::Away)).await
    }

    /// Up to `max` messages that are there, at least one: waits until there is one. Empty once the log is closed.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv); an error behind some messages is met again by the next call. `max` of 0 is
    /// [`Invalid`](crate::ErrorKind::Invalid).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing is lost.
    pub async fn recv_batch(&mut self, max: usize) -> Result<Vec<Message<T>>> {
        std::future::poll_fn(|cx| self.poll_batch(cx, Io::Away, max)).await
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>, io: Io, max: usize) -> Poll<Result<Vec<Message<T>>>> {
        if max == 0 {
            return Poll::Ready(Err(Error::invalid("a batch of 0 messages was asked for; 1 or more are allowed")));
        }
        let first = match std::task::ready!(self.poll_message(cx, io)) {
            Ok(Some(first)) => first,
            Ok(None) => return Poll::Ready(Ok(Vec::new())),
            Err(error) => return Poll::Ready(Err(error)),
        };
        let mut batch = Vec::with_capacity(max.min(1 + self.core.at_hand()));
        batch.push(first);
        while batch.len() < max {
            // Nothing of the batch is finished before the next call.
            match self.core.next_at_hand(io) {
                Some(message) => match decode(&*self.codec, message) {
                    Ok(message) => batch.push(message),
                    Err(error) => {
                        self.core.tell(error);
                        break;
                    }
                },
                None => break,
            }
        }
        Poll::Ready(Ok(batch))
    }

    /// The next message, if there is one that needs no waiting.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and [`Closed`](crate::ErrorKind::Closed) once the log is closed.
    pub fn try_recv(&mut self) -> Result<Option<Message<T>>> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll_message(&mut cx, Io::Look) {
            Poll::Pending => Ok(None),
            Poll::Ready(Ok(None)) => Err(Error::closed()),
            Poll::Ready(next) => next,
        }
    }

    /// [`recv`](Self::recv) for threads.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn blocking_recv(&mut self) -> Result<Option<Message<T>>> {
        block(|cx| self.poll_message(cx, Io::Here))
    }

    /// [`recv_batch`](Self::recv_batch) for threads.
    ///
    /// # Errors
    ///
    /// As [`recv_batch`](Self::recv_batch).
    pub fn blocking_recv_batch(&mut self, max: usize) -> Result<Vec<Message<T>>> {
        block(|cx| self.poll_batch(cx, Io::Here, max))
    }

    /// The next item of the stream, for threads. `None` once the log is closed.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), but for what is an [`Item`].
    pub fn blocking_item(&mut self) -> Result<Option<Item<T>>> {
        block(|cx| self.poll_decoded(cx, Io::Here)).transpose()
    }

    /// Leaves the group at once, after what was said to be finished is committed: with
    /// [`auto_commit`](Subscribe::auto_commit) everything that was received, else what `commit_async` was called with. Dropping a
    /// consumer leaves as well, and commits in the background what was finished; of the message received last nobody knows then
    /// whether it is.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit). The member has left all the same.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the member has left; what was finished may be committed or not.
    pub async fn close(mut self) -> Result<()> {
        let finished = self.core.finish_received();
        let flushed = self.core.flush().await;
        self.core.leave();
        finished.and(flushed)
    }

    /// [`close`](Self::close) for threads.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn blocking_close(mut self) -> Result<()> {
        let finished = self.core.finish_received();
        let flushed = self.core.blocking_flush();
        self.core.leave();
        finished.and(flushed)
    }
}

impl<T, C> Consumer<T, C> {
    /// The log that it reads.
    pub(crate) fn log(&self) -> &Arc<Running> {
        &self.core.log
    }

    #[cfg(test)]
    pub(crate) fn core_group(&self) -> Arc<crate::group::membership::Group> {
        Arc::clone(&self.core.group)
    }

    pub(crate) fn groups(&self) -> &Arc<Groups> {
        &self.core.groups
    }

    /// What a message that this consumer has delivered is committed by.
    pub(crate) fn held<V>(&self, message: &Message<V>) -> Result<Held> {
        let (_, source) = self.core.source_of(message)?;
        Ok((Arc::clone(&source.lane), source.tenure))
    }
}

impl<T, C: Codec<T>> Stream for Consumer<T, C> {
    type Item = Result<Item<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_decoded(cx, Io::Away)
    }
}
