//! The progress of one group in one partition, and who may move it.
//!
//! Whoever owns the partition does, as long as it does: each time of owning has a *tenure*, and whatever comes with another one is
//! [`Fenced`](crate::ErrorKind::Fenced). What is said is sent to `__offsets`, and known to be there once its commit has answered.
//! Whoever owns the partition next begins where that leaves it, so it waits for the answers first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use super::progress::Progress;
use super::record::{Committed, Whose};
use crate::error::{Error, ErrorKind, Result};
use crate::log::committer::Group as Answer;
use crate::planted::{self, Bug};
use crate::segment::lock;

/// No tenure: nobody owns the partition.
pub(crate) const NOBODY: u64 = 0;

/// The progress of a group in a partition.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) group: Arc<str>,
    pub(crate) whose: Whose,
    state: Mutex<LaneState>,
}

#[derive(Debug, Default)]
pub(crate) struct LaneState {
    tenure: u64,
    pub(crate) generation: u64,
    /// What the disk has.
    committed: Option<Committed>,
    inflight: VecDeque<Inflight>,
    /// What the owner says; of no meaning before it has [begun](Self::begin).
    pub(crate) progress: Progress,
    /// Records below were handed out by the owner.
    pub(crate) claimed: u64,
    /// What is said and was not sent yet.
    pub(crate) unsent: bool,
    /// It is on the list of what is sent in the background.
    pub(crate) queued: bool,
    /// The owner has gone to another place by its own will, and the next commit may lie before the last one.
    sought: bool,
    /// What was sent in the background and could not be written.
    failure: Option<Error>,
    /// Where to begin as long as nothing is committed.
    start: Option<u64>,
    /// What is committed was written by this process, which has lost nothing since.
    pub(crate) verified: bool,
}

/// A commit that has not answered yet.
#[derive(Debug)]
struct Inflight {
    answer: Arc<Answer>,
    value: Option<Committed>,
    /// Together with records, which are not written either if it fails.
    is_unit: bool,
}

/// What a new owner finds.
pub(crate) enum Begin {
    /// Commits of the former owner have not answered yet.
    Wait(Arc<Answer>),
    /// The former owner has said something that was not sent yet.
    Send,
    At {
        committed: Option<Committed>,
        start: Option<u64>,
        verified: bool,
    },
}

impl Lane {
    pub(crate) fn new(group: Arc<str>, whose: Whose, committed: Option<Committed>) -> Self {
        let state = LaneState { committed, ..LaneState::default() };
        Self { group, whose, state: Mutex::new(state) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, LaneState> {
        lock(&self.state)
    }

    /// The owner is about to hand out records below `to`. Answers whether it still is the owner.
    pub(crate) fn claim(&self, tenure: u64, to: u64) -> bool {
        let mut state = self.lock();
        if !state.is_owned_by(tenure) {
            return false;
        }
        state.claimed = state.claimed.max(to);
        true
    }
}

impl LaneState {
    /// Whether this is the owner.
    pub(crate) fn check(&self, tenure: u64, lane: &Lane) -> Result<()> {
        if self.is_owned_by(tenure) { Ok(()) } else { Err(fenced(lane)) }
    }

    pub(crate) fn is_owned_by(&self, tenure: u64) -> bool {
        self.tenure == tenure || planted::is(Bug::FenceIgnored)
    }

    /// Gives the partition to somebody else, or to nobody.
    pub(crate) fn give(&mut self, tenure: u64, generation: u64) {
        (self.tenure, self.generation) = (tenure, generation);
        (self.claimed, self.sought) = (0, false);
    }

    /// Whether the owner has handed out nothing that it has not said to be finished.
    pub(crate) fn is_clean(&self) -> bool {
        self.claimed <= self.progress.low
    }

    /// What the owner begins with.
    pub(crate) fn begin(&mut self) -> Begin {
        self.sweep();
        if self.unsent {
            return Begin::Send;
        }
        if let Some(last) = self.inflight.back() {
            return Begin::Wait(Arc::clone(&last.answer));
        }
        Begin::At { committed: self.committed.clone(), start: self.start, verified: self.verified }
    }

    /// Where to begin as long as nothing is committed, for whoever is first.
    pub(crate) fn start_at(&mut self, offset: u64) {
        self.start.get_or_insert(offset);
    }

    /// The owner has begun here.
    pub(crate) fn begin_at(&mut self, progress: Progress, verified: bool) {
        (self.progress, self.verified) = (progress, verified);
    }

    /// Takes note of all answers that have come.
    pub(crate) fn sweep(&mut self) {
        while let Some(outcome) = self.inflight.front().and_then(|first| first.answer.outcome()) {
            let failed = outcome.as_ref().err().cloned();
            let Some(Inflight { value, is_unit, .. }) = self.inflight.pop_front() else { return };
            match failed {
                None => {
                    if let Some(value) = value.as_ref().filter(|_| is_unit) {
                        self.progress.finish_below(value.next_offset);
                        for (from, to) in &value.done {
                            self.progress.finish(*from, *to);
                        }
                    }
                    (self.committed, self.verified) = (value, true);
                }
                // Whoever waits for a transaction is told; nothing of it is said any more.
                Some(_) if is_unit => {}
                Some(error) => {
                    self.unsent = true;
                    self.failure = Some(error);
                }
            }
        }
    }

    /// The commit that must answer before another of the kind may be sent: what is sent together with records has a place of its
    /// own in the log, before or behind what is sent alone, and is said only if it succeeds.
    pub(crate) fn bars(&self, unit: bool) -> Option<&Arc<Answer>> {
        let last = self.inflight.back()?;
        (unit || last.is_unit).then_some(&last.answer)
    }

    /// Takes note of what was sent.
    pub(crate) fn sent(&mut self, answer: Arc<Answer>, value: Option<Committed>, is_unit: bool) {
        if !is_unit {
            self.unsent = false;
        }
        self.sought = false;
        self.inflight.push_back(Inflight { answer, value, is_unit });
    }

    /// The last commit that has not answered.
    pub(crate) fn last_sent(&self) -> Option<&Arc<Answer>> {
        self.inflight.back().map(|last| &last.answer)
    }

    /// What is known to be on the disk.
    pub(crate) fn committed(&mut self) -> Option<&Committed> {
        self.sweep();
        self.committed.as_ref()
    }

    /// Whether nothing is committed, nor about to be.
    pub(crate) fn is_blank(&mut self) -> bool {
        self.sweep();
        self.committed.is_none() && self.inflight.is_empty() && !self.unsent
    }

    /// Everything below `to` is finished.
    pub(crate) fn finish_below(&mut self, to: u64) {
        if std::mem::take(&mut self.sought) {
            self.progress = Progress::at(to);
            self.unsent = true;
        } else {
            self.unsent |= self.progress.finish_below(to);
        }
    }

    /// The owner goes on from `offset`. What is committed stays until it commits again.
    pub(crate) fn seek(&mut self, offset: u64) {
        (self.sought, self.claimed) = (true, offset);
        self.progress = Progress::at(offset);
    }

    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Somebody from outside says where the group has come to.
    pub(crate) fn set(&mut self, offset: u64, generation: u64) {
        self.give(NOBODY, generation);
        (self.progress, self.unsent) = (Progress::at(offset), true);
    }
}

fn fenced(lane: &Lane) -> Error {
    Error::new(
        ErrorKind::Fenced,
        format!(
            "partition {} is not assigned to this member of group {} any more: it was given to another in a rebalance; nothing was \
             committed",
            lane.whose.1, lane.group
        ),
    )
}
