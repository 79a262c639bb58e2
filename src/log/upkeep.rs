//! What happens in the background: files written ahead, indexes stored, intervals kept, the journal freed. The lists are
//! here; a thread works them off (or a test does, when it wants to).

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::partition::Partition;
use crate::segment::lock;

/// Things to do.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    partitions: Vec<Arc<Partition>>,
    due: Vec<(Duration, Arc<Partition>)>,
    checkpoint: bool,
    stopping: bool,
    sleeps: bool,
}

/// One round of things to do.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// To be written ahead, and to have their indexes stored.
    pub(crate) partitions: Vec<Arc<Partition>>,
    /// Whose interval is over.
    pub(crate) due: Vec<Arc<Partition>>,
    pub(crate) checkpoint: bool,
}

impl Upkeep {
    pub(crate) fn want(&self, partition: &Arc<Partition>) {
        self.add(|state| state.partitions.push(Arc::clone(partition)));
    }

    pub(crate) fn want_checkpoint(&self) {
        self.add(|state| state.checkpoint = true);
    }

    /// Asks for a sync of `partition` at `deadline`, on the monotonic clock.
    pub(crate) fn want_sync(&self, partition: &Arc<Partition>, deadline: Duration) {
        self.add(|state| state.due.push((deadline, Arc::clone(partition))));
    }

    pub(crate) fn stop(&self) {
        self.add(|state| state.stopping = true);
    }

    fn add(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        let wake = state.sleeps;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// What is to be done at `now`, without waiting.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn take(&self, now: Duration) -> Round {
        Self::take_from(&mut lock(&self.state), now)
    }

    fn take_from(state: &mut State, now: Duration) -> Round {
        let due = state.due.extract_if(.., |(deadline, _)| *deadline <= now).map(|(_, partition)| partition).collect();
        Round {
            partitions: std::mem::take(&mut state.partitions),
            due,
            checkpoint: std::mem::take(&mut state.checkpoint),
        }
    }

    /// Waits until there is something to do; `None` once stopped.
    pub(crate) fn wait(&self, now: impl Fn() -> Duration) -> Option<Round> {
        let mut state = lock(&self.state);
        loop {
            if state.stopping {
                return None;
            }
            let round = Self::take_from(&mut state, now());
            if !round.is_empty() {
                return Some(round);
            }
            let next = state.due.iter().map(|(deadline, _)| *deadline).min();
            state.sleeps = true;
            state = match next {
                Some(deadline) => {
                    let wait = deadline.saturating_sub(now());
                    self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.sleeps = false;
        }
    }
}

impl Round {
    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.is_empty() && self.due.is_empty() && !self.checkpoint
    }
}
