//! A partition that a consumer reads: where it begins, and how its frames are fetched.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::items::{Item, OnGap};
use crate::error::{Error, ErrorKind, Gap, Result, Rewound};
use crate::group::Groups;
use crate::group::commit::GATHERED_FOR;
use crate::group::lane::{Begin, Lane};
use crate::group::mailbox::{Grant, Mailbox};
use crate::group::progress::Progress;
use crate::group::record::Committed;
use crate::log::engine::Engine;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::partition::watch::Watcher;
use crate::planted::{self, Bug};
use crate::record::TopicName;
use crate::replay::{first_after, first_at};
use crate::segment::index::Target;
use crate::segment::reader::Frame;

/// How much one visit to a thread for blocking work brings back.
const FETCH_BYTES: usize = 256 * 1024;

/// Where a group begins that has committed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Earliest,
    /// Where the end was when the member joined; the lane knows.
    Latest,
    Timestamp(DateTime<Utc>),
    Commit(u64),
    /// Nowhere.
    Error,
}

/// How a consumer begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) origin: Origin,
    pub(super) on_gap: OnGap,
}

/// A partition that is read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) topic: Arc<TopicState>,
    pub(super) name: TopicName,
    pub(super) partition: Arc<Partition>,
    pub(super) lane: Arc<Lane>,
    pub(super) tenure: u64,
    /// Tells what was asked for last from what was asked for before.
    pub(super) serial: u64,
    pub(super) watcher: Arc<Watcher>,
    pub(super) state: State,
    /// Frames that were fetched.
    pub(super) ahead: VecDeque<Frame>,
    /// The next offset to be delivered.
    pub(super) position: u64,
    pub(super) paused: bool,
    /// It stands in the queue of those that may have something.
    pub(super) queued: bool,
    /// What is above the position and finished already.
    pub(super) may_skip: bool,
    /// It is known where it begins.
    pub(super) begun: bool,
}

/// What a source is at.
#[derive(Debug)]
pub(super) enum State {
    /// Nobody has looked where it begins.
    New,
    Open(PartitionCursor),
    /// A thread for blocking work has it.
    Away,
    /// It delivers nothing more, and has said why.
    Failed,
}

/// What opening or fetching brings.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) index: usize,
    pub(super) serial: u64,
    /// `None` if it could not be opened.
    pub(super) cursor: Option<PartitionCursor>,
    /// Where delivery begins, and what is to be told before, if it was opened.
    pub(super) opened: Option<Opened>,
    pub(super) frames: VecDeque<Frame>,
    pub(super) error: Option<Error>,
}

/// Where delivery begins.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) position: u64,
    pub(super) may_skip: bool,
    pub(super) told: Vec<Item>,
}

impl Source {
    pub(super) fn new(grant: Grant, mailbox: &Arc<Mailbox>, index: usize, serial: u64) -> Self {
        let Grant { topic, partition, lane, tenure } = grant;
        let watcher = Watcher::new(Arc::clone(mailbox) as _, index);
        partition.watch(Arc::clone(&watcher));
        Self {
            name: Arc::new(Arc::clone(&topic.name)),
            topic,
            partition,
            lane,
            tenure,
            serial,
            watcher,
            state: State::New,
            ahead: VecDeque::new(),
            position: 0,
            paused: false,
            queued: false,
            may_skip: false,
            begun: false,
        }
    }

    /// The next offset to be delivered, also before the first look.
    pub(super) fn position_or_begin(&self) -> u64 {
        if self.begun {
            return self.position;
        }
        match self.lane.lock().begin() {
            Begin::At { committed: Some(committed), .. } => committed.next_offset,
            Begin::At { start: Some(start), .. } => start,
            _ => self.partition.log_start(),
        }
    }

    /// Goes on at another place.
    pub(super) fn go_to(&mut self, offset: u64, serial: u64) {
        self.state = State::Open(PartitionCursor::new(Arc::clone(&self.partition), offset));
        self.ahead.clear();
        (self.position, self.serial) = (offset, serial);
    }

    /// Whether there is nothing to deliver right now.
    pub(super) fn is_at_end(&self) -> bool {
        self.ahead.is_empty()
            && match &self.state {
                State::Open(cursor) => cursor.next_offset() >= self.partition.visible_end(),
                State::Failed => true,
                State::New | State::Away => false,
            }
    }

    /// What is missing between the position and `offset`, the next that is there. What compaction has taken away is not missing.
    pub(super) fn missing_before(&self, offset: u64) -> Option<Gap> {
        let compacted = self.topic.settings().compaction;
        let to = if compacted { self.partition.log_start().min(offset) } else { offset };
        let (topic, partition) = (self.topic.name.to_string(), self.partition.owner.partition);
        (to > self.position).then_some(Gap { topic, partition, from: self.position, to })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.partition.unwatch(&self.watcher);
    }
}

/// What it takes to open a source on another thread.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    pub(super) index: usize,
    pub(super) serial: u64,
    pub(super) tenure: u64,
    pub(super) lane: Arc<Lane>,
    pub(super) topic: Arc<TopicState>,
    pub(super) partition: Arc<Partition>,
    pub(super) policy: Policy,
}

impl Opening {
    /// Whether it can be opened without waiting for anything.
    pub(super) fn is_instant(&self) -> bool {
        match self.lane.lock().begin() {
            Begin::Wait(_) | Begin::Send => false,
            Begin::At { committed: Some(_), verified, .. } => verified,
            Begin::At { start: Some(_), .. } => true,
            Begin::At { .. } => !matches!(self.policy.origin, Origin::Timestamp(_) | Origin::Commit(_)),
        }
    }

    /// Waits for what the former owner has committed, and finds where to begin.
    pub(super) fn open(self, engine: &Engine, groups: &Groups) -> Fetched {
        let (index, serial) = (self.index, self.serial);
        match self.try_open(engine, groups) {
            Ok(opened) => {
                let cursor = Some(PartitionCursor::new(Arc::clone(&self.partition), opened.position));
                Fetched { index, serial, cursor, opened: Some(opened), frames: VecDeque::new(), error: None }
            }
            Err(error) => {
                Fetched { index, serial, cursor: None, opened: None, frames: VecDeque::new(), error: Some(error) }
            }
        }
    }

    fn try_open(&self, engine: &Engine, groups: &Groups) -> Result<Opened> {
        let held = [(Arc::clone(&self.lane), self.tenure)];
        let (committed, start, verified) = loop {
            let begin = self.lane.lock().begin();
            match begin {
                Begin::Send => groups.blocking_commit(engine, &held, |_, _| Ok(()))?,
                Begin::Wait(answer) => {
                    engine.lead();
                    // If it failed, what it said was not committed.
                    let _failed = answer.wait().is_err();
                }
                Begin::At { committed, start, verified } => break (committed, start, verified),
            }
        };
        let mut told = Vec::new();
        let fresh = committed.is_none();
        let mut progress = match &committed {
            None => Progress::at(self.origin(start)?),
            Some(committed) => {
                let mut progress = Progress::of(committed);
                if !verified && !planted::is(Bug::LostOffsetsTrusted) {
                    self.rewind(committed, &mut progress, &mut told)?;
                }
                progress
            }
        };
        let log_start = self.partition.log_start();
        if progress.low < log_start {
            let gap = self.gap(progress.low, log_start);
            match self.policy.on_gap {
                // A group that begins at the beginning has missed nothing.
                _ if fresh => drop(progress.finish_below(log_start)),
                OnGap::Error => return Err(Error::of_gap(gap)),
                OnGap::Earliest => drop(progress.finish_below(log_start)),
                OnGap::Latest => drop(progress.finish_below(self.partition.visible_end())),
            }
            if !fresh {
                told.push(Item::Gap(Gap { to: progress.low, ..gap }));
            }
        }
        let mut state = self.lane.lock();
        state.check(self.tenure, &self.lane)?;
        let (position, may_skip) = (progress.low, !progress.done.is_empty());
        // Whoever comes after this one begins at the same place, should this one commit nothing.
        state.start_at(position);
        state.begin_at(progress, true);
        drop(state);
        if fresh && self.policy.origin != Origin::Earliest {
            // Written down, or a restart would begin at another "now", and pass over what came between.
            let [held] = &held;
            groups.commit_soon(engine, held, GATHERED_FOR, |state| {
                state.unsent = true;
                Ok(())
            })?;
        }
        Ok(Opened { position, may_skip, told })
    }

    fn gap(&self, from: u64, to: u64) -> Gap {
        Gap { topic: self.topic.name.to_string(), partition: self.partition.owner.partition, from, to }
    }

    fn origin(&self, start: Option<u64>) -> Result<u64> {
        let log_start = self.partition.log_start();
        if let Some(start) = start {
            return Ok(start);
        }
        match self.policy.origin {
            // What came after the member joined is wanted.
            Origin::Earliest | Origin::Latest => Ok(log_start),
            Origin::Timestamp(time) => first_at(&self.partition, time.timestamp_micros()),
            Origin::Commit(commit) => self.partition.find(Target::Commit(commit)),
            Origin::Error => Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "group {} has committed nothing in topic {}, partition {}, and is not to begin anywhere by itself",
                    self.lane.group, self.topic.name, self.lane.whose.1
                ),
            )),
        }
    }

    /// Sets the progress back to what the log still has: whatever was appended after the commit has a higher number.
    fn rewind(&self, committed: &Committed, progress: &mut Progress, told: &mut Vec<Item>) -> Result<()> {
        let from = progress.low;
        let end = self.partition.visible_end();
        let later = first_after(&self.partition, committed.commit, end)?.unwrap_or(end);
        progress.rewind(later);
        if later < from {
            told.push(Item::Rewound(Rewound {
                topic: self.topic.name.to_string(),
                partition: self.partition.owner.partition,
                from,
                to: later,
            }));
        }
        Ok(())
    }
}

/// Reads up to [`FETCH_BYTES`]. An error after some frames is met again by the next fetch.
pub(super) fn fetch(index: usize, serial: u64, mut cursor: PartitionCursor) -> Fetched {
    let (mut frames, mut error, mut bytes) = (VecDeque::new(), None, 0);
    while bytes < FETCH_BYTES {
        match cursor.next_frame(u64::MAX) {
            Ok(Some(frame)) => {
                bytes += frame.body.len();
                frames.push_back(frame);
            }
            Ok(None) => break,
            // The cursor goes on behind it, and the offsets show what is missing.
            Err(why) if why.gap().is_some() => {}
            Err(_) if !frames.is_empty() => break,
            Err(why) => {
                error = Some(why);
                break;
            }
        }
    }
    Fetched { index, serial, cursor: Some(cursor), opened: None, frames, error }
}
