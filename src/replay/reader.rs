//! Merging partitions into the one order in which they were committed.
//!
//! What was acknowledged before something else was sent has the smaller commit number, so merging by commit number is causal
//! order. A frame is only handed out below the *horizon*: the number below which nothing can become visible any more in what is
//! read (see `Engine::horizon`). A single partition needs neither.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use event_listener::EventListener;

use super::{Start, position};
use crate::error::{Error, Result};
use crate::log::engine::Engine;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
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
    cursor: PartitionCursor,
    /// Records below this offset are not wanted.
    from: u64,
    /// Where reading ends, unless the reader follows.
    end: u64,
    head: Option<Frame>,
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
pub(super) struct Item {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) frame: Frame,
    /// The first offset of the frame that is wanted.
    pub(super) from: u64,
}

/// Reads frames in order.
#[derive(Debug)]
pub(super) struct Reader {
    engine: Arc<Engine>,
    scope: Scope,
    sources: Vec<Source>,
    /// Sources with a frame at hand, the lowest commit first; those of one commit in the order of their partitions.
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    /// Sources without one.
    empty: Vec<usize>,
    horizon: u64,
    follow: bool,
    listeners: Vec<EventListener>,
    /// Records to be passed over before the first that is wanted.
    pub(super) pass_over: u64,
}

impl Reader {
    pub(super) fn new(engine: Arc<Engine>, scope: Scope, start: Start, follow: bool) -> Result<Self> {
        engine.check_open()?;
        let mut reader = Self {
            engine,
            scope,
            sources: Vec::new(),
            heap: BinaryHeap::new(),
            empty: Vec::new(),
            horizon: 0,
            follow,
            listeners: Vec::new(),
            pass_over: 0,
        };
        let found = reader.partitions_in_scope()?;
        let partitions: Vec<Arc<Partition>> = found.iter().map(|(_, partition)| Arc::clone(partition)).collect();
        // Followed before the place is looked up, so that what is written meanwhile is kept in memory.
        if follow {
            partitions.iter().for_each(|partition| partition.tail.follow());
        }
        let resolved = position::resolve(&partitions, start);
        let offsets = match resolved {
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
        for ((topic, partition), from) in found.into_iter().zip(offsets) {
            reader.add(topic, partition, from, read_bytes);
        }
        reader.look_ahead();
        Ok(reader)
    }

    fn add(&mut self, topic: Arc<TopicState>, partition: Arc<Partition>, from: u64, read_bytes: usize) {
        self.empty.push(self.sources.len());
        self.sources.push(Source {
            topic,
            cursor: PartitionCursor::new(partition, from).with_read_bytes(read_bytes),
            from,
            end: 0,
            head: None,
            follows: self.follow,
        });
    }

    fn partitions_in_scope(&self) -> Result<Vec<(Arc<TopicState>, Arc<Partition>)>> {
        let topics = match &self.scope {
            Scope::Partition(topic, number) => return Ok(vec![(Arc::clone(topic), topic.partition(*number)?)]),
            Scope::Topics(topics) => topics.clone(),
            Scope::Log => self.engine.topics(),
        };
        let all = topics.iter().flat_map(|topic| {
            topic.partitions().iter().map(|partition| (Arc::clone(topic), Arc::clone(partition))).collect::<Vec<_>>()
        });
        Ok(all.collect())
    }

    /// Fixes what "now" is: the horizon first, then the ends. Everything below the horizon is below the ends.
    fn look_ahead(&mut self) {
        self.horizon = self.engine.horizon(self.sources.iter().map(|source| source.cursor.partition()));
        for source in &mut self.sources {
            source.end = source.cursor.partition().visible_end();
        }
    }

    /// The next frame; `None` if there is none up to now.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        if let [source] = self.sources.as_mut_slice()
            && !matches!(self.scope, Scope::Log)
        {
            let end = if self.follow { u64::MAX } else { source.end };
            let frame = match source.cursor.next_frame(end)? {
                Some(frame) => frame,
                None => return source.ended(self.follow),
            };
            return Ok(Some(source.item(frame)));
        }
        loop {
            if let Some(item) = self.next_merged()? {
                return Ok(Some(item));
            }
            if !self.follow {
                return self.damage_at_end();
            }
            let before = self.horizon;
            self.add_new_sources()?;
            self.look_ahead();
            if self.horizon == before && self.heap.is_empty() {
                return self.closed();
            }
            if self.horizon == before {
                return Ok(None);
            }
            if !self.refill()? {
                return self.closed();
            }
        }
    }

    fn next_merged(&mut self) -> Result<Option<Item>> {
        if !self.empty.is_empty() && !self.refill()? && self.heap.is_empty() {
            return Ok(None);
        }
        let Some(Reverse((commit, index))) = self.heap.peek().copied() else { return Ok(None) };
        if commit >= self.horizon {
            return Ok(None);
        }
        self.heap.pop();
        self.empty.push(index);
        let Some(source) = self.sources.get_mut(index) else { return Ok(None) };
        let Some(frame) = source.head.take() else { return Ok(None) };
        Ok(Some(source.item(frame)))
    }

    /// Gives each source that has none its next frame, and answers whether any has one.
    fn refill(&mut self) -> Result<bool> {
        let mut still_empty = Vec::new();
        while let Some(index) = self.empty.pop() {
            let Some(source) = self.sources.get_mut(index) else { continue };
            match source.cursor.next_frame(source.end)? {
                Some(frame) => {
                    self.heap.push(Reverse((frame.header.commit, index)));
                    source.head = Some(frame);
                }
                None => still_empty.push(index),
            }
        }
        self.empty = still_empty;
        Ok(!self.heap.is_empty())
    }

    /// Topics and partitions that have come since.
    fn add_new_sources(&mut self) -> Result<()> {
        if matches!(self.scope, Scope::Partition(..)) {
            return Ok(());
        }
        for (topic, partition) in self.partitions_in_scope()? {
            if !self.sources.iter().any(|source| Arc::ptr_eq(source.cursor.partition(), &partition)) {
                partition.tail.follow();
                let from = partition.log_start();
                self.add(topic, partition, from, READ_BYTES_MIN);
            }
        }
        Ok(())
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

    /// Nothing is there; an error if nothing will come either.
    fn closed(&mut self) -> Result<Option<Item>> {
        let damaged = self.damage_at_end()?;
        if let [source] = self.sources.as_slice() {
            return source.ended(true);
        }
        if self.engine.is_closed() { Err(Error::closed()) } else { Ok(damaged) }
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
    fn item(&self, frame: Frame) -> Item {
        Item {
            topic: Arc::clone(&self.topic.name),
            partition: self.cursor.partition().owner.partition,
            from: self.from.max(frame.header.base_offset),
            frame,
        }
    }

    /// What the end means: nothing yet, or an error if nothing will come any more.
    fn ended(&self, follow: bool) -> Result<Option<Item>> {
        match self.cursor.partition().closed() {
            Some(closed) if follow => Err(closed.clone()),
            _ => Ok(None),
        }
    }
}
