//! Going through what the index names, partition by partition, and merging it into the order of the commits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::index::{self, HeaderIndex};
use super::matcher::Wanted;
use super::read::{LOOKUP_READ_BYTES, malformed};
use crate::codec::Raw;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::{RecordIter, RecordPosition};
use crate::log::engine::Engine;
use crate::log::running::Running;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::record::{Message, TopicName};
use crate::replay::{BlockingReplay, RecordView, Replay, Scope as ReplayScope, Start};
use crate::segment::reader::Frame;

/// So many offsets are asked for at once.
const AHEAD: usize = 256;
/// A record this near is come to by reading on.
const NEAR: u64 = 64;

/// Where is looked.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    Topic(Arc<TopicState>),
    /// All topics that index the header.
    Log,
    /// One partition from an offset on, be it indexed or not.
    Stream {
        topic: Arc<TopicState>,
        partition: Arc<Partition>,
        from: u64,
    },
}

/// What is looked for, where, and whether somebody still wants to know.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) log: Arc<Running>,
    pub(super) scope: Scope,
    pub(super) wanted: Wanted,
    pub(super) given_up: Arc<AtomicBool>,
}

/// Finds one record after the other.
#[derive(Debug)]
pub(super) enum Search {
    Index(IndexSearch),
    /// Where another process has the view, or there need not be any.
    Scan(Box<Scan>),
}

impl Query {
    /// Looks for the topics, and what is in them by now.
    pub(super) fn begin(self) -> Result<Search> {
        let engine = &self.log.engine;
        engine.check_open()?;
        // The number first, then the partitions, then their ends: see the reader of a replay.
        let next_commit = engine.next_commit();
        if let Scope::Stream { topic, partition, from } = self.scope.clone() {
            if engine.is_read_only() || !self.wanted.is_indexed_by(&topic.settings()) {
                return self.scan_from(&topic, &partition, from);
            }
            let index = HeaderIndex::of(engine).ok_or_else(Error::closed)?;
            let mut source = Source::new(&topic, &partition);
            source.asked = source.asked.max(from);
            return Ok(IndexSearch::begin(index, vec![source], next_commit, self));
        }
        let topics = self.topics(engine)?;
        if engine.is_read_only() {
            let replay =
                Replay::new(Arc::clone(&self.log), Arc::new(Raw), ReplayScope::Topics(topics), Start::Earliest);
            let (records, Self { wanted, given_up, .. }) = (replay.blocking()?, self);
            return Ok(Search::Scan(Box::new(Scan { records, wanted, given_up })));
        }
        let index = HeaderIndex::of(engine).ok_or_else(Error::closed)?;
        let mut sources = Vec::new();
        for topic in topics {
            sources.extend(topic.partitions().iter().map(|partition| Source::new(&topic, partition)));
        }
        Ok(IndexSearch::begin(index, sources, next_commit, self))
    }

    /// Reads a partition from an offset on; what has gone is passed over.
    fn scan_from(self, topic: &Arc<TopicState>, partition: &Arc<Partition>, from: u64) -> Result<Search> {
        let records = loop {
            let begin = from.max(partition.log_start()).min(partition.visible_end());
            let scope = ReplayScope::Partition(Arc::clone(topic), partition.owner.partition);
            match Replay::new(Arc::clone(&self.log), Arc::new(Raw), scope, Start::Offset(begin)).blocking() {
                // Retention was faster.
                Err(_) if begin < partition.log_start() => {}
                records => break records?,
            }
        };
        Ok(Search::Scan(Box::new(Scan { records, wanted: self.wanted.clone(), given_up: self.given_up })))
    }

    fn topics(&self, engine: &Engine) -> Result<Vec<Arc<TopicState>>> {
        let wanted = &self.wanted;
        match &self.scope {
            Scope::Stream { topic, .. } | Scope::Topic(topic) => {
                let snapshot = topic.snapshot();
                let deleted = snapshot.partitions.iter().find_map(|partition| partition.closed());
                if let Some(deleted) = deleted.filter(|why| why.kind() == ErrorKind::NotFound) {
                    return Err(deleted.clone());
                }
                if wanted.is_indexed_by(&snapshot.settings) {
                    Ok(vec![Arc::clone(topic)])
                } else {
                    Err(index::not_indexed(wanted, index::says(topic, &snapshot.settings.indexed())))
                }
            }
            Scope::Log => {
                engine.check_takes_topics()?;
                let all = engine.topics();
                let found: Vec<_> =
                    all.iter().filter(|topic| wanted.is_indexed_by(&topic.settings())).cloned().collect();
                if !found.is_empty() {
                    return Ok(found);
                }
                let mut indexed: Vec<String> = all.iter().flat_map(|topic| topic.settings().indexed()).collect();
                indexed.sort();
                indexed.dedup();
                Err(index::not_indexed(
                    wanted,
                    match &indexed[..] {
                        [] => "no topic indexes any".to_owned(),
                        indexed => format!("the topics index {}", index::listed(indexed)),
                    },
                ))
            }
        }
    }
}

impl Search {
    /// The next record; `None` if no more were there when the search began.
    pub(super) fn next(&mut self) -> Result<Option<Message>> {
        match self {
            Self::Index(search) => search.next(),
            Self::Scan(scan) => scan.next(),
        }
    }
}

/// The search by the index.
#[derive(Debug)]
pub(super) struct IndexSearch {
    index: Arc<HeaderIndex>,
    sources: Vec<Source>,
    /// Sources whose next record is not known.
    empty: Vec<usize>,
    /// The others, the lowest commit first; those of one commit in the order of their partitions.
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    /// What was acknowledged before the search began has a lower number.
    next_commit: u64,
    query: Query,
}

/// A partition.
#[derive(Debug)]
struct Source {
    topic: Arc<TopicState>,
    partition: Arc<Partition>,
    /// Up to where the index was asked, and what it has named.
    asked: u64,
    ahead: VecDeque<u64>,
    end: u64,
    reader: RecordReader,
    head: Option<Message>,
}

impl IndexSearch {
    fn begin(index: Arc<HeaderIndex>, sources: Vec<Source>, next_commit: u64, query: Query) -> Search {
        let empty = (0..sources.len()).rev().collect();
        Search::Index(Self { index, sources, empty, heap: BinaryHeap::new(), next_commit, query })
    }

    fn next(&mut self) -> Result<Option<Message>> {
        while let Some(&at) = self.empty.last() {
            let Some(source) = self.sources.get_mut(at) else { break };
            source.head = source.find(&self.index, &self.query, self.next_commit)?;
            self.empty.pop();
            if let Some(head) = &source.head {
                self.heap.push(Reverse((head.commit, at)));
            }
        }
        let Some(Reverse((_, at))) = self.heap.pop() else {
            // A damaged partition ends with its damage, not silently.
            let damage = self.sources.iter().find_map(|source| source.partition.damage());
            return damage.map_or(Ok(None), |damage| Err(damage.clone()));
        };
        self.empty.push(at);
        Ok(self.sources.get_mut(at).and_then(|source| source.head.take()))
    }
}

impl Source {
    fn new(topic: &Arc<TopicState>, partition: &Arc<Partition>) -> Self {
        Self {
            topic: Arc::clone(topic),
            asked: partition.log_start(),
            ahead: VecDeque::new(),
            end: partition.visible_end(),
            reader: RecordReader::new(partition),
            partition: Arc::clone(partition),
            head: None,
        }
    }

    /// The next record that has what is wanted.
    fn find(&mut self, index: &HeaderIndex, query: &Query, next_commit: u64) -> Result<Option<Message>> {
        loop {
            let Some(offset) = self.ahead.pop_front() else {
                if self.asked >= self.end {
                    return Ok(None);
                }
                let range = (self.asked, self.end);
                let engine = &query.log.engine;
                let found = index.matches(engine, &self.topic, &self.partition, &query.wanted, range, AHEAD)?;
                self.asked = match found.last() {
                    Some(last) if found.len() >= AHEAD => last + 1,
                    _ => self.end,
                };
                self.ahead = found.into();
                continue;
            };
            let read = self.reader.read(offset, |view| {
                let is_it = view.commit() < next_commit && query.wanted.is_met_by(&view);
                is_it.then(|| view.to_message())
            });
            match read {
                Ok(Some(message)) => return Ok(Some(message)),
                // Another record of the same hash, or one that a compaction has taken away.
                Ok(None) => {}
                // Retention has taken it away.
                Err(error) if error.gap().is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads single records of a partition, whose offsets ascend.
#[derive(Debug)]
pub(super) struct RecordReader {
    partition: Arc<Partition>,
    topic: TopicName,
    cursor: Option<PartitionCursor>,
    /// The frame that was read last, and up to where.
    frame: Option<(Frame, RecordPosition)>,
}

impl RecordReader {
    pub(super) fn new(partition: &Arc<Partition>) -> Self {
        let topic = Arc::new(Arc::clone(&partition.owner.topic));
        Self { partition: Arc::clone(partition), topic, cursor: None, frame: None }
    }

    /// Calls `each` with the record at this offset, if there is one.
    pub(super) fn read<T>(&mut self, offset: u64, each: impl FnOnce(RecordView<'_>) -> Option<T>) -> Result<Option<T>> {
        if self.frame.as_ref().is_none_or(|(frame, _)| frame.header.next_offset() <= offset) {
            self.frame = None;
            self.frame = self.next_frame(offset)?;
        }
        let Some((frame, position)) = &mut self.frame else { return Ok(None) };
        let mut records = RecordIter::resume(&frame.header, &frame.body, *position);
        loop {
            let record = records.next_record().map_err(|why| malformed(&self.partition, &frame.header, why))?;
            let Some(record) = record.filter(|record| record.offset <= offset) else { return Ok(None) };
            *position = records.state(&frame.body);
            if record.offset == offset {
                let number = self.partition.owner.partition;
                return Ok(each(RecordView::new(&self.topic, number, frame.header.commit, record, &frame.body)));
            }
        }
    }

    /// The frame that spans this offset.
    fn next_frame(&mut self, offset: u64) -> Result<Option<(Frame, RecordPosition)>> {
        let is_near = |cursor: &PartitionCursor| (cursor.next_offset()..cursor.next_offset() + NEAR).contains(&offset);
        let mut cursor = match self.cursor.take().filter(is_near) {
            Some(cursor) => cursor,
            None => PartitionCursor::new(Arc::clone(&self.partition), offset).with_read_bytes(LOOKUP_READ_BYTES),
        };
        while let Some(frame) = cursor.next_frame(offset + 1)? {
            if frame.header.next_offset() > offset {
                let position = RecordIter::new(&frame.header, &frame.body).state(&frame.body);
                self.cursor = Some(cursor);
                return Ok(Some((frame, position)));
            }
        }
        Ok(None)
    }
}

/// The search without an index: every record is looked at.
#[derive(Debug)]
pub(super) struct Scan {
    records: BlockingReplay<Bytes, Raw>,
    wanted: Wanted,
    given_up: Arc<AtomicBool>,
}

impl Scan {
    fn next(&mut self) -> Result<Option<Message>> {
        while !self.given_up.load(Ordering::Relaxed) {
            match self.records.next() {
                Ok(Some(record)) if self.wanted.is_met_by(&record) => return Ok(Some(record.to_message())),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // Retention was faster: what has gone is not found.
                Err(error) if error.gap().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
