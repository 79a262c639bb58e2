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
    /// Whoever moves the clock does it: see [`super::by_hand`].
    #[cfg(feature = "testing")]
    by_hand: std::sync::atomic::AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    partitions: Vec<Arc<Partition>>,
    due: Vec<(Duration, Arc<Partition>)>,
    writes: Vec<Arc<Partition>>,
    /// When those are due, all at once.
    writes_due: Option<Duration>,
    retention_due: Option<Duration>,
    call_due: Option<Duration>,
    checkpoint: bool,
    maintenance: bool,
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
    /// With published frames that are to be written to the file.
    pub(crate) writes: Vec<Arc<Partition>>,
    /// Something may have become too old, or too much.
    pub(crate) retention: bool,
    /// An extension wanted to be called.
    pub(crate) calls: bool,
    pub(crate) checkpoint: bool,
    /// Maintenance has something to do: its thread may have to be started.
    pub(crate) maintenance: bool,
}

impl Upkeep {
    pub(crate) fn want(&self, partition: &Arc<Partition>) {
        self.add(|state| state.partitions.push(Arc::clone(partition)));
    }

    pub(crate) fn want_checkpoint(&self) {
        self.add(|state| state.checkpoint = true);
    }

    /// Says that maintenance has something to do.
    pub(crate) fn want_maintenance(&self) {
        self.add(|state| state.maintenance = true);
    }

    /// Asks for a sync of `partition` at `deadline`, on the monotonic clock.
    pub(crate) fn want_sync(&self, partition: &Arc<Partition>, deadline: Duration) {
        self.add(|state| state.due.push((deadline, Arc::clone(partition))));
    }

    /// Asks for the deferred frames of `partition` to be written, at `deadline` on the monotonic clock or together with those
    /// that wait already.
    pub(crate) fn want_write(&self, partition: &Arc<Partition>, deadline: impl FnOnce() -> Duration) {
        let mut state = lock(&self.state);
        state.writes.push(Arc::clone(partition));
        let first = state.writes_due.is_none();
        if first {
            state.writes_due = Some(deadline());
        }
        let wake = first && state.sleeps;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Asks for a look at what may go, at `at` on the monotonic clock.
    pub(crate) fn want_retention(&self, at: Duration) {
        self.add(|state| state.retention_due = Some(state.retention_due.map_or(at, |known| known.min(at))));
    }

    /// Asks for the [extensions](super::extension::Extension::due) to be called, at `at` on the monotonic clock.
    pub(crate) fn want_call(&self, at: Duration) {
        self.add(|state| state.call_due = Some(state.call_due.map_or(at, |known| known.min(at))));
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

    /// Leaves what there is to do to whoever moves the clock.
    #[cfg(feature = "testing")]
    pub(crate) fn go_by_hand(&self) {
        self.by_hand.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    #[cfg(feature = "testing")]
    pub(super) fn is_by_hand(&self) -> bool {
        self.by_hand.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Looks at the deadlines anew: the clock was moved by hand.
    #[cfg(feature = "testing")]
    pub(super) fn look_again(&self) {
        self.add(|_| ());
    }

    /// Waits for `time`, whatever there is to do; `false` once stopped.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let mut state = lock(&self.state);
        if !state.stopping {
            state.sleeps = true;
            state = self.wake.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
            state.sleeps = false;
        }
        !state.stopping
    }

    /// What is to be done at `now`, without waiting.
    #[cfg(any(test, feature = "fuzzing", feature = "testing"))]
    pub(crate) fn take(&self, now: Duration) -> Round {
        Self::take_from(&mut lock(&self.state), now)
    }

    fn take_from(state: &mut State, now: Duration) -> Round {
        let due = state.due.extract_if(.., |(deadline, _)| *deadline <= now).map(|(_, partition)| partition).collect();
        let write = state.writes_due.is_some_and(|deadline| deadline <= now);
        let writes = if write { std::mem::take(&mut state.writes) } else { Vec::new() };
        state.writes_due = state.writes_due.filter(|_| !write);
        let retention = state.retention_due.is_some_and(|due| due <= now);
        state.retention_due = state.retention_due.filter(|_| !retention);
        let calls = state.call_due.is_some_and(|due| due <= now);
        state.call_due = state.call_due.filter(|_| !calls);
        Round {
            partitions: std::mem::take(&mut state.partitions),
            due,
            writes,
            retention,
            calls,
            checkpoint: std::mem::take(&mut state.checkpoint),
            maintenance: std::mem::take(&mut state.maintenance),
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
            let next = state
                .due
                .iter()
                .map(|(deadline, _)| *deadline)
                .chain(state.writes_due)
                .chain(state.retention_due)
                .chain(state.call_due)
                .min();
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
        let lists = [&self.partitions, &self.due, &self.writes];
        lists.iter().all(|list| list.is_empty())
            && !self.checkpoint
            && !self.retention
            && !self.calls
            && !self.maintenance
    }
}
