//! Saying what is finished.

use std::sync::Arc;

use super::Consumer;
use super::core::{Core, SOON};
use crate::error::Result;
use crate::group::commit::{Held, sort};
use crate::group::lane::LaneState;
use crate::record::Message;

/// What a consumer says of one partition: everything below the offset is finished.
type Said = (Held, u64);

impl Core {
    /// In automatic mode, everything that was received is finished.
    pub(super) fn finish_received(&mut self) -> Result<()> {
        self.last.clear();
        if self.auto_commit.is_none() {
            return Ok(());
        }
        for ((lane, tenure), to) in self.received() {
            let mut state = lane.lock();
            state.check(tenure, &lane)?;
            state.finish_below(to);
        }
        Ok(())
    }

    /// All partitions, and up to where they were received.
    fn received(&self) -> Vec<Said> {
        let opened = self.sources.iter().flatten().filter(|source| source.begun);
        opened.map(|source| ((Arc::clone(&source.lane), source.tenure), source.position)).collect()
    }

    fn all(&self) -> Vec<Held> {
        let mut held: Vec<Held> =
            self.sources.iter().flatten().map(|source| (Arc::clone(&source.lane), source.tenure)).collect();
        sort(&mut held);
        held
    }

    pub(super) async fn flush(&self) -> Result<()> {
        for held in self.all().chunks(LANES_MAX) {
            self.groups.commit(&self.log.engine, held, failure).await?;
        }
        Ok(())
    }

    pub(super) fn blocking_flush(&self) -> Result<()> {
        for held in self.all().chunks(LANES_MAX) {
            self.groups.blocking_commit(&self.log.engine, held, failure)?;
        }
        Ok(())
    }

    async fn commit(&self, said: Vec<Said>) -> Result<()> {
        let (held, offsets) = ordered(said);
        self.groups.commit(&self.log.engine, &held, |at, state| finish_below(state, offsets.get(at))).await
    }

    fn blocking_commit(&self, said: Vec<Said>) -> Result<()> {
        let (held, offsets) = ordered(said);
        self.groups.blocking_commit(&self.log.engine, &held, |at, state| finish_below(state, offsets.get(at)))
    }

    fn said<T>(&self, message: &Message<T>) -> Result<Said> {
        let (_, source) = self.source_of(message)?;
        Ok(((Arc::clone(&source.lane), source.tenure), message.offset + 1))
    }

    /// For each partition among them the last message.
    fn said_of_many<'m, T: 'm>(&self, messages: impl IntoIterator<Item = &'m Message<T>>) -> Result<Vec<Said>> {
        let mut said: Vec<Said> = Vec::new();
        for message in messages {
            let ((lane, tenure), to) = self.said(message)?;
            match said.iter_mut().find(|((known, _), _)| Arc::ptr_eq(known, &lane)) {
                Some((_, known)) => *known = to.max(*known),
                None => said.push(((lane, tenure), to)),
            }
        }
        Ok(said)
    }
}

/// So many partitions are committed in one go.
const LANES_MAX: usize = 256;

fn failure(_: usize, state: &mut LaneState) -> Result<()> {
    state.take_failure().map_or(Ok(()), Err)
}

fn finish_below(state: &mut LaneState, to: Option<&u64>) -> Result<()> {
    to.iter().for_each(|to| state.finish_below(**to));
    Ok(())
}

/// In the order in which lanes are locked.
fn ordered(said: Vec<Said>) -> (Vec<Held>, Vec<u64>) {
    let mut held: Vec<Held> = said.iter().map(|(held, _)| held.clone()).collect();
    sort(&mut held);
    let offset =
        |(lane, _): &Held| said.iter().find(|((known, _), _)| Arc::ptr_eq(known, lane)).map_or(0, |(_, to)| *to);
    let offsets = held.iter().map(offset).collect();
    (held, offsets)
}

impl<T, C> Consumer<T, C> {
    /// Commits: everything in the message's partition up to the message, and the message itself, is finished. Resolves once that
    /// is on the disk. Commits of many tasks share their sync, as records do.
    ///
    /// A message below what is committed already changes nothing, unless the consumer has [sought](Self::seek) it.
    ///
    /// # Errors
    ///
    /// [`Fenced`](crate::ErrorKind::Fenced) if the partition is not this member's any more,
    /// [`Invalid`](crate::ErrorKind::Invalid) for a message that this consumer has not delivered, or of another log;
    /// [`Closed`](crate::ErrorKind::Closed), [`StorageFull`](crate::ErrorKind::StorageFull),
    /// [`Poisoned`](crate::ErrorKind::Poisoned), [`Io`](crate::ErrorKind::Io). Nothing was committed, except that after
    /// `Poisoned` it may have been.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped it may be committed or not.
    pub async fn commit<V>(&self, message: &Message<V>) -> Result<()> {
        self.core.commit(vec![self.core.said(message)?]).await
    }

    /// [`commit`](Self::commit) for threads.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn blocking_commit<V>(&self, message: &Message<V>) -> Result<()> {
        self.core.blocking_commit(vec![self.core.said(message)?])
    }

    /// [`commit`](Self::commit) of many messages at once, of any partitions: after a crash all of that holds or nothing.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit); if one partition is not this member's any more, nothing is committed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped all may be committed or nothing.
    pub async fn commit_many<'m, V: 'm>(&self, messages: impl IntoIterator<Item = &'m Message<V>>) -> Result<()> {
        let said = self.core.said_of_many(messages)?;
        self.core.commit(said).await
    }

    /// [`commit_many`](Self::commit_many) for threads.
    ///
    /// # Errors
    ///
    /// As [`commit_many`](Self::commit_many).
    pub fn blocking_commit_many<'m, V: 'm>(&self, messages: impl IntoIterator<Item = &'m Message<V>>) -> Result<()> {
        self.core.blocking_commit(self.core.said_of_many(messages)?)
    }

    /// Commits everything that was received.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped all may be committed or nothing.
    pub async fn commit_all(&self) -> Result<()> {
        self.core.commit(self.core.received()).await
    }

    /// [`commit_all`](Self::commit_all) for threads.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn blocking_commit_all(&self) -> Result<()> {
        self.core.blocking_commit(self.core.received())
    }

    /// Notes that everything up to this message is finished, and commits it in the background within some milliseconds. Of what is
    /// noted meanwhile only the last is written. [`flush`](Self::flush) waits for it.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit); what could not be written in the background is an error of the next call, or of `flush`.
    pub fn commit_async<V>(&self, message: &Message<V>) -> Result<()> {
        self.soon(message, |state| state.finish_below(message.offset + 1))
    }

    /// Says something of the message's partition, and commits it in the background.
    pub(super) fn soon<V>(&self, message: &Message<V>, say: impl FnOnce(&mut LaneState)) -> Result<()> {
        let (held, _) = self.core.said(message)?;
        self.core.groups.commit_soon(&self.core.log.engine, &held, SOON, |state| {
            say(state);
            Ok(())
        })
    }

    /// Resolves once everything that was noted is on the disk.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped it may be committed or not.
    pub async fn flush(&self) -> Result<()> {
        self.core.flush().await
    }

    /// [`flush`](Self::flush) for threads.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn blocking_flush(&self) -> Result<()> {
        self.core.blocking_flush()
    }

    /// Notes that this one message is finished, whatever becomes of those before it: for working on many at once. The next commit
    /// moves up to the first message that is not finished, and remembers which are beyond that; after a restart those are not
    /// delivered again. Commit with [`commit_finished`](Self::commit_finished).
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit), but for those of the disk.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// # let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// # orders.produce_batch(["a", "b", "c"].map(|order| Record::new(order.into()))).await?;
    /// let mut consumer = orders.subscribe("billing").build().await?;
    /// let messages = consumer.recv_batch(3).await?;
    /// consumer.finish(&messages[2])?;               // done first
    /// consumer.finish(&messages[0])?;
    /// consumer.commit_finished().await?;
    /// drop(consumer);
    ///
    /// let mut again = orders.subscribe("billing").build().await?;
    /// assert_eq!(again.recv().await?.unwrap().offset(), 1);   // the one that was not
    /// assert!(again.try_recv()?.is_none());
    /// # Ok(()) }
    /// ```
    pub fn finish<V>(&self, message: &Message<V>) -> Result<()> {
        self.with_lane(message, |state| {
            state.unsent |= state.progress.finish(message.offset, message.offset + 1);
        })
    }

    /// [`finish`](Self::finish), committed in the background within some milliseconds, as [`commit_async`](Self::commit_async) does.
    ///
    /// # Errors
    ///
    /// As [`commit_async`](Self::commit_async).
    pub fn finish_async<V>(&self, message: &Message<V>) -> Result<()> {
        self.soon(message, |state| state.unsent |= state.progress.finish(message.offset, message.offset + 1))
    }

    /// Commits what [`finish`](Self::finish) and [`note_attempt`](Self::note_attempt) were called with.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped it may be committed or not.
    pub async fn commit_finished(&self) -> Result<()> {
        self.core.flush().await
    }

    /// [`commit_finished`](Self::commit_finished) for threads.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn blocking_commit_finished(&self) -> Result<()> {
        self.core.blocking_flush()
    }

    /// Notes that a message was tried once more and not finished. Answers how often it was by now; the next commit writes it, so
    /// that a restart does not begin to count anew. It is forgotten when the message is finished.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn note_attempt<V>(&self, message: &Message<V>) -> Result<u32> {
        let now = self.core.log.engine.env.clock.now_micros();
        self.with_lane(message, |state| {
            let tries = state.progress.note_attempt(message.offset, now);
            state.unsent |= tries.is_some();
            tries.map_or(0, |tries| tries.count)
        })
    }

    /// How often a message was [tried](Self::note_attempt).
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn attempts<V>(&self, message: &Message<V>) -> Result<u32> {
        self.with_lane(message, |state| state.progress.tries(message.offset).count)
    }

    pub(super) fn with_lane<V, R>(&self, message: &Message<V>, work: impl FnOnce(&mut LaneState) -> R) -> Result<R> {
        let (_, source) = self.core.source_of(message)?;
        let mut state = source.lane.lock();
        state.check(source.tenure, &source.lane)?;
        Ok(work(&mut state))
    }
}
