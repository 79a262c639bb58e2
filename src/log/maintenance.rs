//! Work in the background that is not urgent and may take long: compaction. A thread of its own works it off, slowly enough to
//! leave the disk to others; or a test or a user does, when they want to.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::engine::Engine;
use super::topic::TopicState;
use crate::error::{Error, Result};
use crate::partition::Partition;
pub use crate::partition::compact::Compacted;
use crate::partition::compact::{CompactionPlan, Pace};
use crate::segment::lock;

/// A throttle looks at the clock after this long at its speed.
const STEP: Duration = Duration::from_millis(5);

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) enum Task {
    Compact(Arc<Partition>),
}

impl Task {
    fn is_same(&self, other: &Self) -> bool {
        let (Self::Compact(one), Self::Compact(other)) = (self, other);
        Arc::ptr_eq(one, other)
    }
}

/// The list of things to do, each at its time on the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    due: Vec<(Duration, Task)>,
    stopping: bool,
}

impl Maintenance {
    /// Asks for a task at `at`. One that is on the list already is done at the earlier time.
    pub(crate) fn want(&self, at: Duration, task: Task) {
        let mut state = lock(&self.state);
        match state.due.iter_mut().find(|(_, known)| known.is_same(&task)) {
            Some((known, _)) => *known = at.min(*known),
            None => state.due.push((at, task)),
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Whether there is anything to do, now or later.
    pub(crate) fn is_wanted(&self) -> bool {
        !lock(&self.state).due.is_empty()
    }

    /// Looks at the times anew: the clock was moved by hand.
    #[cfg(feature = "testing")]
    pub(super) fn look_again(&self) {
        drop(lock(&self.state));
        self.wake.notify_one();
    }

    /// Ends the waiting, and whatever goes on at a throttled speed.
    pub(crate) fn stop(&self) {
        lock(&self.state).stopping = true;
        self.wake.notify_all();
    }

    /// What is to be done at `now`, without waiting.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn take(&self, now: Duration) -> Option<Task> {
        Self::take_from(&mut lock(&self.state), now)
    }

    fn take_from(state: &mut State, now: Duration) -> Option<Task> {
        let at = state.due.iter().position(|(at, _)| *at <= now)?;
        Some(state.due.remove(at).1)
    }

    /// Waits until there is something to do; `None` once stopped.
    pub(crate) fn wait(&self, now: impl Fn() -> Duration) -> Option<Task> {
        let mut state = lock(&self.state);
        loop {
            if state.stopping {
                return None;
            }
            if let Some(task) = Self::take_from(&mut state, now()) {
                return Some(task);
            }
            state = match state.due.iter().map(|(at, _)| *at).min() {
                Some(at) => {
                    let wait = at.saturating_sub(now());
                    self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Sleeps, and answers whether nobody has stopped it.
    fn sleep(&self, time: Duration) -> bool {
        let state = lock(&self.state);
        let slept = self.wake.wait_timeout_while(state, time, |state| !state.stopping);
        !slept.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}

/// As many bytes a second as the settings allow.
struct Throttled<'a> {
    engine: &'a Engine,
    /// Bytes since the last look at the clock, and when that was.
    since: Cell<(u64, Duration)>,
}

impl<'a> Throttled<'a> {
    fn new(engine: &'a Engine) -> Self {
        Self { engine, since: Cell::new((0, engine.env.clock.monotonic())) }
    }
}

impl Pace for Throttled<'_> {
    fn spend(&self, bytes: u64) -> bool {
        let (spent, from) = self.since.get();
        let spent = spent + bytes;
        let due = Duration::from_secs_f64(spent as f64 / self.engine.settings.maintenance_bytes_per_second_max as f64);
        if due < STEP {
            self.since.set((spent, from));
            return !self.engine.is_closed();
        }
        let taken = self.engine.env.clock.monotonic().saturating_sub(from);
        let goes_on = self.engine.maintenance.sleep(due.saturating_sub(taken));
        self.since.set((0, self.engine.env.clock.monotonic()));
        goes_on && !self.engine.is_closed()
    }
}

/// As fast as it goes, until the log is closed.
struct Unthrottled<'a>(&'a Engine);

impl Pace for Unthrottled<'_> {
    fn spend(&self, _bytes: u64) -> bool {
        !self.0.is_closed()
    }
}

impl Engine {
    /// Compacts all partitions of a topic now, whatever there is to gain.
    pub(crate) fn compact_topic(&self, name: &str) -> Result<Compacted> {
        let topic = self.topic(name)?;
        if !topic.settings().compaction {
            return Err(Error::invalid(format!("topic {name} is not compacted: its `compaction` is off")));
        }
        let mut sum = Compacted { complete: true, ..Compacted::default() };
        for partition in topic.partitions().iter() {
            sum.add(&self.compact_partition(&topic, partition, &Unthrottled(self))?);
        }
        Ok(sum)
    }

    fn compact_partition(&self, topic: &TopicState, partition: &Partition, pace: &dyn Pace) -> Result<Compacted> {
        let alone = partition.maintaining()?;
        self.check_open()?;
        let limit = self.checkpoint_of(partition)?;
        let plan = CompactionPlan {
            limit,
            now_micros: self.env.clock.now_micros(),
            tombstone_age_micros: i64::try_from(topic.settings().tombstone_age_max.as_micros()).unwrap_or(i64::MAX),
            memory_bytes: self.settings.compaction_memory_bytes as usize,
        };
        partition.compact(&alone, &plan, pace)
    }

    /// Looks for work in all partitions: after an opening nobody has asked for any.
    pub(crate) fn look_for_maintenance(&self) {
        for topic in self.topics() {
            topic.partitions().iter().for_each(|partition| self.look_at(partition));
        }
    }

    /// Puts a partition on the list if there is something to do in it.
    pub(super) fn look_at(&self, partition: &Arc<Partition>) {
        let Ok(topic) = self.topic(&partition.owner.topic) else { return };
        let settings = topic.settings();
        if !settings.compaction || topic.id != partition.owner.topic_id {
            return;
        }
        let (now, monotonic) = (self.env.clock.now_micros(), self.env.clock.monotonic());
        let wait = match partition.tombstones_due().saturating_sub(now) {
            _ if partition.wants_compaction(settings.compaction_dirty_ratio_min, now) => Duration::ZERO,
            _ if partition.tombstones_due() == i64::MAX => return,
            wait => Duration::from_micros(u64::try_from(wait).unwrap_or(0)),
        };
        self.maintenance.want(monotonic.saturating_add(wait), Task::Compact(Arc::clone(partition)));
        self.upkeep.want_maintenance();
    }

    /// Does one task, no faster than the settings allow.
    pub(crate) fn maintain(&self, task: Task) {
        let Task::Compact(partition) = task;
        let Ok(topic) = self.topic(&partition.owner.topic) else { return };
        let settings = topic.settings();
        let now = self.env.clock.now_micros();
        if !settings.compaction || !partition.wants_compaction(settings.compaction_dirty_ratio_min, now) {
            return;
        }
        let owner = &partition.owner;
        match self.compact_partition(&topic, &partition, &Throttled::new(self)) {
            Ok(done) => tracing::debug!(topic = %owner.topic, partition = owner.partition, ?done, "compacted"),
            // It is tried again when the next segment is sealed.
            Err(error) if self.is_closed() || partition.closed().is_some() => tracing::debug!(%error, "not compacted"),
            Err(error) => {
                tracing::warn!(topic = %owner.topic, partition = owner.partition, %error, "not compacted");
                return;
            }
        }
        self.look_at(&partition);
    }
}
