//! Merging partitions into the one order in which they were committed.
//!
//! What was acknowledged before something else was sent has the smaller commit number, so merging by commit number is causal
//! order. A frame is only handed out below the *horizon*: the number below which nothing can become visible any more in what is
//! read (see `Engine::horizon`). A single partition needs neither.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use event_listener::EventListener;

use super::{Start, position};
use crate::error::{Error, Result};
use crate::log::engine::Engine;
use crate::log::names::is_reserved;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::record::TopicName;
use crate::segment::reader::{Frame, READ_BYTES};

/// The smallest read of one of very many partitions.
const READ_BYTES_MIN: usize = 16 * 1024;

/// What is read.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// One partition.
    Partition(Arc<TopicState>, u32),
    /// All partitions of some topics.
    Topics(Vec<Arc<TopicState>>),
    /// Everything, topics that are created later included.
    Log,
}

/// A partition that is read.
#[derive(Debug)]
struct Source {
    topic: Arc<TopicState>,
    name: TopicName,
    cursor: PartitionCursor,
    /// Records below this offset are not wanted.
    from: u64,
    /// Nor are those of lower commits: one may have been in flight when the place was looked up.
    from_commit: u64,
    /// Where reading ends, unless the reader follows.
    end: u64,
    head: Option<Frame>,
    /// Its place among those of one commit.
    rank: u64,
    follows: bool,
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.follows {
            self.cursor.partition().tail.unfollow();
        }
    }
}

/// A frame with the place that it came from.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) topic: TopicName,
    pub(crate) partition: u32,
    pub(crate) frame: Frame,
    /// The first offset of the frame that is wanted.
    pub(crate) from: u64,
}

/// Reads frames in order.
#[derive(Debug)]
pub(super) struct Reader {
    engine: Arc<Engine>,
    scope: Scope,
    sources: Vec<Source>,
    /// Sources with a frame at hand, the lowest commit first; those of one commit in the order of their partitions.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// Sources without one.
    empty: Vec<usize>,
    horizon: u64,
    from_commit: u64,
    follow: bool,
    listeners: Vec<EventListener>,
    /// Records to be passed over before the first that is wanted.
    pub(super) pass_over: u64,
}

impl Reader {
    pub(super) fn new(engine: Arc<Engine>, scope: Scope, start: Start, follow: bool) -> Result<Self> {
        Self::begin(engine, scope, start, follow, |partitions, ends| position::resolve(partitions, ends, start))
    }

    /// Follows some topics from these offsets on, and from the beginning where none is given. One below the log start is met with a
    /// gap.
    pub(super) fn resume(engine: Arc<Engine>, scope: Scope, offsets: &HashMap<(u128, u32), u64>) -> Result<Self> {
        Self::begin(engine, scope, Start::Earliest, true, |partitions, _| {
            let offset = |partition: &Arc<Partition>| offsets.get(&partition.key()).copied().unwrap_or(0);
            Ok((partitions.iter().map(offset).collect(), 0))
        })
    }

    fn begin(
        engine: Arc<Engine>,
        scope: Scope,
        start: Start,
        follow: bool,
        resolve: impl FnOnce(&[Arc<Partition>], &[u64]) -> Result<(Vec<u64>, u64)>,
    ) -> Result<Self> {
        engine.check_open()?;
        let mut reader = Self {
            engine,
            scope,
            sources: Vec::new(),
            heap: BinaryHeap::new(),
            empty: Vec::new(),
            horizon: 0,
            from_commit: if let Start::Commit(commit) = start { commit } else { 0 },
            follow,
            listeners: Vec::new(),
            pass_over: 0,
        };
        // The number first, then the partitions, then their ends: whatever has a lower number was sent before this, so its
        // partition is found, and it is below the end if it is visible.
        let next = reader.engine.next_commit();
        let found = reader.partitions_in_scope()?;
        let partitions: Vec<Arc<Partition>> = found.iter().map(|(_, partition)| Arc::clone(partition)).collect();
        // Followed before the place is looked up, so that what is written meanwhile is kept in memory.
        if follow {
            partitions.iter().for_each(|partition| partition.follow());
        }
        reader.horizon = match start {
            _ if follow => reader.engine.horizon_below(next, partitions.iter()),
            // So many records are counted up to the ends.
            Start::Last(_) => u64::MAX,
            // What was acknowledged before this has a lower number. What is in flight is not there yet: no reason to wait.
            _ => next,
        };
        let ends: Vec<u64> = partitions.iter().map(|partition| partition.visible_end()).collect();
        let offsets = match resolve(&partitions, &ends) {
            Ok((offsets, pass_over)) => {
                reader.pass_over = pass_over;
                offsets
            }
            Err(error) => {
                if follow {
                    partitions.iter().for_each(|partition| partition.tail.unfollow());
                }
                return Err(error);
            }
        };
        let read_bytes = (READ_BYTES * 8 / partitions.len().max(8)).max(READ_BYTES_MIN);
        if start == Start::Latest {
            // One cut through all partitions: what is in flight is not wanted, and all that takes its number from now on is.
            reader.from_commit = reader.engine.next_commit();
        }
        for (((topic, partition), from), end) in found.into_iter().zip(offsets).zip(ends) {
            reader.add(topic, partition, from, end, read_bytes);
        }
        Ok(reader)
    }

    fn add(&mut self, topic: Arc<TopicState>, partition: Arc<Partition>, from: u64, end: u64, read_bytes: usize) {
        let rank = match &self.scope {
            // The same whether partitions were there from the beginning or have come since.
            Scope::Topics(topics) => {
                let at = topics.iter().position(|other| Arc::ptr_eq(other, &topic)).unwrap_or_default();
                (at as u64) << 32 | u64::from(partition.owner.partition)
            }
            Scope::Partition(..) | Scope::Log => self.sources.len() as u64,
        };
        self.empty.push(self.sources.len());
        self.sources.push(Source {
            name: Arc::new(Arc::clone(&topic.name)),
            rank,
            topic,
            cursor: PartitionCursor::new(partition, from).with_read_bytes(read_bytes),
            from,
            from_commit: self.from_commit,
            end,
            head: None,
            follows: self.follow,
        });
    }

    fn partitions_in_scope(&self) -> Result<Vec<(Arc<TopicState>, Arc<Partition>)>> {
        let topics = match &self.scope {
            Scope::Partition(topic, number) => return Ok(vec![(Arc::clone(topic), topic.partition(*number)?)]),
            Scope::Topics(topics) => topics.clone(),
            Scope::Log => {
                self.engine.check_takes_topics()?;
                // annals' own topics are no part of the history.
                self.engine.topics().into_iter().filter(|topic| !is_reserved(&topic.name)).collect()
            }
        };
        let all = topics.iter().flat_map(|topic| {
            topic.partitions().iter().map(|partition| (Arc::clone(topic), Arc::clone(partition))).collect::<Vec<_>>()
        });
        Ok(all.collect())
    }

    fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.sources.iter().map(|source| source.cursor.partition())
    }

    /// Moves "now" on, for following: the next number first, then the partitions that have come, then the horizon, then the
    /// ends. Everything below the horizon lies in a partition that is known, and below its end.
    fn look_ahead(&mut self) -> Result<()> {
        let next = self.engine.next_commit();
        self.add_new_sources()?;
        self.horizon = self.engine.horizon_below(next, self.partitions());
        for source in &mut self.sources {
            source.end = source.cursor.partition().visible_end();
        }
        Ok(())
    }

    /// The next frame; `None` if there is none up to now.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        if let [source] = self.sources.as_mut_slice()
            && !matches!(self.scope, Scope::Log)
        {
            // Asked before the look: what was written before the end of it all is found by the look.
            let closed = self.follow && source.cursor.partition().closed().is_some();
            let frame = source.next_frame(if self.follow { u64::MAX } else { source.end })?;
            // Asked after it: if what was found was sent after something in a new partition, that partition is there.
            if !self.follow || !self.scope.has_grown() {
                return match frame {
                    Some(frame) => Ok(Some(source.item(frame))),
                    None if closed => Err(self.ended()),
                    None => Ok(None),
                };
            }
            if let Some(frame) = frame {
                self.heap.push(Reverse((frame.header.commit, source.rank, 0)));
                self.empty.clear();
                source.head = Some(frame);
            }
            self.look_ahead()?;
        }
        loop {
            if let Some(item) = self.next_merged()? {
                return Ok(Some(item));
            }
            if !self.follow {
                return self.damage_at_end();
            }
            let over = self.is_over();
            self.look_ahead()?;
            self.refill()?;
            if self.heap.peek().is_some_and(|Reverse((commit, ..))| *commit < self.horizon) {
                continue;
            }
            if self.heap.is_empty() {
                self.damage_at_end()?;
                self.forget_deleted();
            }
            return if over { Err(self.ended()) } else { Ok(None) };
        }
    }

    fn next_merged(&mut self) -> Result<Option<Item>> {
        self.refill()?;
        let Some(Reverse((commit, _, index))) = self.heap.peek().copied() else { return Ok(None) };
        if commit >= self.horizon {
            return Ok(None);
        }
        self.heap.pop();
        self.empty.push(index);
        let Some(source) = self.sources.get_mut(index) else { return Ok(None) };
        let Some(frame) = source.head.take() else { return Ok(None) };
        Ok(Some(source.item(frame)))
    }

    /// Gives each source that has none its next frame. One that fails stays where it is, and fails again the next time:
    /// nothing is passed over.
    fn refill(&mut self) -> Result<()> {
        let mut at = 0;
        while let Some(&index) = self.empty.get(at) {
            let Some(source) = self.sources.get_mut(index) else { break };
            match source.next_frame(source.end)? {
                Some(frame) => {
                    self.heap.push(Reverse((frame.header.commit, source.rank, index)));
                    source.head = Some(frame);
                    self.empty.swap_remove(at);
                }
                None => at += 1,
            }
        }
        Ok(())
    }

    /// Topics and partitions that have come since.
    fn add_new_sources(&mut self) -> Result<()> {
        if matches!(self.scope, Scope::Partition(..)) {
            return Ok(());
        }
        for (topic, partition) in self.partitions_in_scope()? {
            if !self.partitions().any(|known| Arc::ptr_eq(known, &partition)) {
                partition.follow();
                if self.is_listening() {
                    // It came before the listening began, and the look that follows is the last one before waiting.
                    self.listeners.push(partition.changed.listen());
                }
                let from = partition.log_start();
                self.add(topic, partition, from, 0, READ_BYTES_MIN);
            }
        }
        Ok(())
    }

    /// Lets go of partitions of deleted topics, all of which was read: their files take space as long as they are open.
    fn forget_deleted(&mut self) {
        if !matches!(self.scope, Scope::Log) || self.partitions().all(|partition| partition.closed().is_none()) {
            return;
        }
        // Who is not listed any more never will be again: nothing that was forgotten can come back as new.
        let listed = self.engine.topics();
        self.sources.retain(|source| {
            let partition = source.cursor.partition();
            let is_over = partition.closed().is_some() && source.cursor.next_offset() >= partition.visible_end();
            !is_over || listed.iter().any(|topic| Arc::ptr_eq(topic, &source.topic))
        });
        self.empty = (0..self.sources.len()).collect();
    }

    /// A damaged partition ends with its damage, not silently.
    fn damage_at_end(&mut self) -> Result<Option<Item>> {
        for source in &self.sources {
            if let Some(damage) = source.cursor.partition().damage()
                && source.head.is_none()
            {
                return Err(damage.clone());
            }
        }
        Ok(None)
    }

    /// Whether nothing will come any more. Asked before a look, so that the look finds all there is.
    fn is_over(&self) -> bool {
        let all_closed = !self.sources.is_empty() && self.partitions().all(|partition| partition.closed().is_some());
        self.engine.takes_no_more() || all_closed && !matches!(self.scope, Scope::Log)
    }

    /// Why nothing will come any more.
    fn ended(&self) -> Error {
        let mut reasons = self.partitions().filter_map(|partition| partition.closed());
        match reasons.next() {
            Some(closed) if !self.engine.takes_no_more() => closed.clone(),
            _ => Error::closed(),
        }
    }

    /// The commit number below which all was read, of a reader that follows and has found nothing more; `None` if there is
    /// something by now.
    pub(super) fn read_below(&self) -> Option<u64> {
        let [source] = self.sources.as_slice() else { return Some(self.horizon) };
        if matches!(self.scope, Scope::Log) {
            return Some(self.horizon);
        }
        // As in a look ahead: a reader of a single partition does without until it is asked.
        let next = self.engine.next_commit();
        if self.scope.has_grown() {
            return None;
        }
        let horizon = self.engine.horizon_below(next, self.partitions());
        (source.cursor.next_offset() >= source.cursor.partition().visible_end()).then_some(horizon)
    }

    /// Whether the next frame needs no I/O.
    pub(super) fn is_in_memory(&self) -> bool {
        let sources = self.sources.iter().filter(|source| source.head.is_none());
        let mut cursors = sources.map(|source| &source.cursor);
        cursors.all(|cursor| cursor.next_offset() >= cursor.partition().visible_end() || cursor.is_in_memory())
    }

    /// Resolves when something has changed since [`listen`](Self::listen).
    pub(super) fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut changed = false;
        for listener in &mut self.listeners {
            changed |= Pin::new(listener).poll(cx).is_ready();
        }
        if changed {
            self.listeners.clear();
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Begins to listen; whoever does looks for a frame once more before waiting.
    pub(super) fn listen(&mut self) {
        self.listeners.clear();
        self.listeners.extend(self.sources.iter().map(|source| source.cursor.partition().changed.listen()));
        self.listeners.push(self.engine.catalogue_changed.listen());
    }

    pub(super) fn is_listening(&self) -> bool {
        !self.listeners.is_empty()
    }

    pub(super) fn follows(&self) -> bool {
        self.follow
    }
}

impl Source {
    #[inline]
    fn next_frame(&mut self, end: u64) -> Result<Option<Frame>> {
        loop {
            match self.cursor.next_frame(end)? {
                Some(frame) if frame.header.commit < self.from_commit => {}
                other => return Ok(other),
            }
        }
    }

    #[inline]
    fn item(&self, frame: Frame) -> Item {
        Item {
            topic: Arc::clone(&self.name),
            partition: self.cursor.partition().owner.partition,
            from: self.from.max(frame.header.base_offset),
            frame,
        }
    }
}

impl Scope {
    /// Whether what had one partition has more by now.
    #[inline]
    fn has_grown(&self) -> bool {
        match self {
            Self::Topics(topics) => topics.iter().map(|topic| topic.snapshot().partitions.len()).sum::<usize>() > 1,
            Self::Partition(..) | Self::Log => false,
        }
    }
}
