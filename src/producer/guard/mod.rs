//! The guard of a partition: what it takes to append only if something holds, or only once.
//!
//! It stands before the committer's queue. Its lock is held from the check until the append is in the queue (or, at a relaxed
//! level, written), by every append to the partition once the guard is there; so nothing gets between a check and what it
//! allows. What it knows is of two kinds: what commits have answered, and what is under way. Nobody decides on what is under way:
//! a conditional append waits for the answer, and one that repeats a message identity shares it. A commit that fails takes back
//! what it would have changed.
//!
//! The guard is attached to its partition by the first append that needs one after an opening. From then on the committer and the
//! partition refuse, under their own locks, what does not come through it. What was sent before is committed, and then what the
//! guard must know is read from the log ([`build`]); all that only once, and only for what is asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use event_listener::{Event, EventListener, Listener};

use super::delivery::Delivery;
use crate::error::{Error, Result};
use crate::expected::Expected;
use crate::log::committer::{Group, Outcome, Ticket};
use crate::log::engine::Engine;
use crate::partition::Partition;
use crate::planted::{self, Bug};
use crate::segment::lock;

pub(crate) mod build;
pub(crate) mod saved;
mod versions;
pub(crate) mod window;

#[cfg(test)]
pub(crate) mod tests;

use build::Build;
use versions::{KeyHasher, Versions};
use window::{At, Limits, Window};

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) commit: u64,
}

/// Where a record will be, once its commit has answered.
#[derive(Debug, Clone)]
pub(crate) struct Awaited {
    pub(crate) ticket: Ticket,
    /// Whether that is a commit of its own, whose answer may come before those of single records with lower offsets.
    pub(crate) is_unit: bool,
}

impl Awaited {
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.ticket.group
    }

    fn place(&self, outcome: &Outcome) -> Place {
        Place { offset: self.ticket.offset(outcome), commit: outcome.commit }
    }
}

/// What the guard wants to know of a record.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) key: Option<u128>,
    pub(crate) tombstone: bool,
    pub(crate) id: Option<Arc<[u8]>>,
    pub(crate) timestamp: i64,
}

/// What an append is about to be held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The newest record of this key.
    Key(u128),
    /// The newest record of the partition.
    Partition,
}

/// What the guard must know before it can decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// That nothing is under way that it has not seen.
    pub(crate) settled: bool,
    pub(crate) versions: bool,
    pub(crate) window: Option<Limits>,
}

/// The guard of one partition.
#[derive(Debug)]
pub(crate) struct PartitionGuard {
    state: Mutex<State>,
    hasher: KeyHasher,
    /// Notified when a [`Build`] has ended, well or not.
    ready: Event,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    building: bool,
    settled: bool,
    inflight: VecDeque<Inflight>,
    versions: Option<Versions>,
    window: Option<Window>,
    /// The position up to which the view has the window; `None` if what the view has is of no use.
    saved: Option<u64>,
}

/// A record that waits for its commit.
#[derive(Debug)]
struct Inflight {
    awaited: Awaited,
    key: Option<u128>,
    tombstone: bool,
    id: Option<(Arc<[u8]>, u64)>,
}

/// Why an append has to be tried again, and when.
#[derive(Debug)]
pub(crate) enum Wait {
    /// Something must be read first, by whoever gets this.
    Build(Build),
    /// Somebody else reads it.
    Ready(EventListener),
    /// The answer of a commit is needed.
    Group(Arc<Group>),
    /// There is no room for more that waits.
    Room(EventListener),
}

impl Wait {
    /// Waits, and does what is to be done, on a thread for blocking work.
    pub(crate) async fn wait(self) -> Result<()> {
        match self {
            Self::Ready(listener) | Self::Room(listener) => listener.await,
            Self::Group(group) => {
                let _failed = group.answered().await.is_err();
            }
            Self::Build(build) => match tokio::runtime::Handle::try_current() {
                Ok(runtime) => match runtime.spawn_blocking(move || build.run()).await {
                    Ok(answer) => return answer,
                    Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
                    Err(_) => return Err(Error::closed()),
                },
                Err(_) => return build.run(),
            },
        }
        Ok(())
    }

    /// The same on this thread, which carries the commit out itself if nobody else is at it.
    pub(crate) fn block(self, engine: &Engine) -> Result<()> {
        match self {
            Self::Ready(listener) | Self::Room(listener) => listener.wait(),
            Self::Build(build) => return build.run(),
            Self::Group(group) => {
                engine.lead();
                group.wait();
            }
        }
        Ok(())
    }
}

/// What is known of a record with this identity.
#[derive(Debug)]
pub(crate) enum Known {
    Written { place: Place, timestamp: i64 },
    Pending { awaited: Awaited, timestamp: i64 },
}

impl PartitionGuard {
    /// The guard of `partition`, attached to it if there is none yet.
    pub(crate) fn of(partition: &Partition, engine: &Engine) -> Arc<Self> {
        let guard = partition.guard_or_attach(|| {
            Arc::new(Self { state: Mutex::default(), hasher: KeyHasher::new(&*engine.env.random), ready: Event::new() })
        });
        match Arc::clone(guard).downcast() {
            Ok(guard) => guard,
            Err(_) => unreachable!("nothing else is ever attached"),
        }
    }

    /// The guard that is there.
    pub(crate) fn attached(partition: &Partition) -> Option<Arc<Self>> {
        partition.guard().and_then(|guard| Arc::clone(guard).downcast().ok())
    }

    pub(crate) fn hash(&self, key: &[u8]) -> u128 {
        self.hasher.hash(key)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What is to be waited for before the guard can decide; `None` once it can.
    pub(crate) fn is_unready(
        self: &Arc<Self>,
        state: &mut State,
        needs: Needs,
        partition: &Arc<Partition>,
        engine: &Arc<Engine>,
    ) -> Option<Wait> {
        if state.building {
            // The lock is held: who builds cannot end before this listens.
            return Some(Wait::Ready(self.ready.listen()));
        }
        state.sweep();
        let missing = Needs {
            settled: needs.settled && !state.settled,
            versions: needs.versions && state.versions.is_none(),
            window: needs.window.filter(|_| state.window.is_none()),
        };
        if missing == Needs::default() {
            return None;
        }
        state.building = true;
        Some(Wait::Build(Build::new(Arc::clone(self), Arc::clone(partition), Arc::clone(engine), missing)))
    }
}

impl State {
    /// Takes note of all answers that have come.
    fn sweep(&mut self) {
        while let Some(outcome) = self.inflight.front().and_then(|first| first.awaited.group().outcome()) {
            let outcome = outcome.clone().ok();
            let Some(Inflight { awaited, key, tombstone, id }) = self.inflight.pop_front() else { return };
            let mut place = outcome.map(|outcome| awaited.place(&outcome));
            if planted::is(Bug::RefusedAppendRemembered) {
                place = place.or(Some(Place { offset: 0, commit: 0 }));
            }
            if let (Some(versions), Some(key)) = (&mut self.versions, key) {
                versions.answered(key, place.map(|place| place.offset), tombstone);
            }
            if let (Some(window), Some((id, number))) = (&mut self.window, id) {
                window.answered(&id, number, place);
            }
        }
    }

    /// The record of this identity that is in the window, or on its way.
    pub(crate) fn known(&self, id: &[u8], timestamp: i64, limits: Limits) -> Option<Known> {
        let entry = self.window.as_ref()?.find(id, timestamp, limits)?;
        let timestamp = entry.timestamp;
        Some(match &entry.at {
            At::Written(place) => Known::Written { place: *place, timestamp },
            At::Pending(awaited) => match awaited.group().outcome() {
                Some(Ok(outcome)) => Known::Written { place: awaited.place(outcome), timestamp },
                // It was not written, though nobody has taken note of that yet.
                Some(Err(_)) => return None,
                None => Known::Pending { awaited: awaited.clone(), timestamp },
            },
        })
    }

    /// Holds what is there against what is expected. `Err` of a commit that must answer first.
    pub(crate) fn check(
        &self,
        scope: Scope,
        expected: Expected,
        partition: &Partition,
    ) -> Result<Result<()>, Arc<Group>> {
        let awaits = match scope {
            _ if planted::is(Bug::GuardDecidesEarly) => None,
            Scope::Partition => self.inflight.back(),
            Scope::Key(key) if self.versions.as_ref().is_some_and(|versions| versions.is_pending(key)) => {
                self.inflight.iter().rfind(|inflight| inflight.key == Some(key))
            }
            Scope::Key(_) => None,
        };
        if let Some(inflight) = awaits {
            return Err(Arc::clone(inflight.awaited.group()));
        }
        let newest = match scope {
            Scope::Partition => partition.visible_end().checked_sub(1),
            // What is no longer in the log is no version of anything.
            Scope::Key(key) => {
                let newest = self.versions.as_ref().and_then(|versions| versions.current(key));
                newest.filter(|offset| *offset >= partition.log_start())
            }
        };
        let current = newest.map_or(Expected::Empty, Expected::Exact);
        Ok(if expected.is_met_by(current) { Ok(()) } else { Err(conflict(scope, expected, current, partition)) })
    }

    /// Takes note of a record that was sent.
    pub(crate) fn sent(&mut self, fact: Fact, awaited: Awaited, limits: Option<Limits>) {
        let Fact { key, tombstone, id, timestamp } = fact;
        if let (Some(versions), Some(key)) = (&mut self.versions, key) {
            versions.sent(key);
        }
        let id = self.note_time(id, timestamp, At::Pending(awaited.clone()), limits);
        self.inflight.push_back(Inflight { awaited, key, tombstone, id });
    }

    /// Takes note of a record that was written.
    pub(crate) fn written(&mut self, fact: Fact, place: Place, limits: Option<Limits>) {
        let Fact { key, tombstone, id, timestamp } = fact;
        if let (Some(versions), Some(key)) = (&mut self.versions, key) {
            versions.sent(key);
            versions.answered(key, Some(place.offset), tombstone);
        }
        self.note_time(id, timestamp, At::Written(place), limits);
    }

    fn note_time(
        &mut self,
        id: Option<Arc<[u8]>>,
        timestamp: i64,
        at: At,
        limits: Option<Limits>,
    ) -> Option<(Arc<[u8]>, u64)> {
        if limits.is_none() {
            // Identities are not asked for any more: should they be again, those of the time between count.
            (self.window, self.saved) = (None, None);
        }
        let window = self.window.as_mut()?;
        match (id, limits) {
            (Some(id), Some(limits)) => {
                let number = window.add(Arc::clone(&id), timestamp, at, limits);
                Some((id, number))
            }
            _ => {
                window.pass(timestamp);
                None
            }
        }
    }
}

/// Takes note of what became of a single append.
pub(crate) fn note(state: &mut State, fact: Fact, delivery: &Delivery, limits: Option<Limits>) {
    match delivery.awaited() {
        Ok(place) => state.written(fact, place, limits),
        Err(awaited) => state.sent(fact, awaited, limits),
    }
}

fn conflict(scope: Scope, expected: Expected, current: Expected, partition: &Partition) -> Error {
    let say = |version: Expected| match version {
        Expected::Any => "anything".to_owned(),
        Expected::Empty => "nothing".to_owned(),
        Expected::Exact(offset) => format!("offset {offset}"),
    };
    let of = match scope {
        Scope::Key(_) => "the key",
        Scope::Partition => "the partition",
    };
    Error::conflict(
        format!(
            "expected was {} as the newest record of {of}, in topic {}, partition {}, but there is {}",
            say(expected),
            partition.owner.topic,
            partition.owner.partition,
            say(current)
        ),
        current,
    )
}
