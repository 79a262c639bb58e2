//! What the handles of a projection, the registry of the log and the thread share.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, ThreadId};

use event_listener::{Event, Listener};

use crate::error::{Error, ErrorKind, Result, Rewound};
use crate::log::topic::TopicState;
use crate::segment::lock;
use crate::views::state::{Place, StateView, Whose};

/// How far a projection is that is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many records were taken in since the building began.
    pub done: u64,
    /// How many offsets are still to be looked at, as far as the log goes now.
    pub to_do: u64,
}

/// Why a projection was built anew.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebuild {
    /// There was none.
    New,
    /// What there was is of another version, or of other topics.
    Definition,
    /// What there was is damaged, or could not be written.
    Damaged,
    /// What there was is of records that the log has lost, or that somebody has put others in the place of.
    Rewound(Rewound),
    /// [`Projection::rebuild`](super::Projection::rebuild) was called.
    Asked,
}

impl fmt::Display for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("there was none"),
            Self::Definition => f.write_str("it is of another version, or of other topics"),
            Self::Damaged => f.write_str("it is damaged, or could not be written"),
            Self::Rewound(Rewound { topic, partition, from, to }) => write!(
                f,
                "it has read up to offset {from} of topic {topic}, partition {partition}, which is another from offset {to} on"
            ),
            Self::Asked => f.write_str("somebody has asked for it"),
        }
    }
}

/// What a projection is at.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// It has not come to the end since it was begun anew: what it has is not shown.
    Building,
    Following,
    /// It has stopped. What it has is as it was before the record that it stopped at.
    Failed(Error),
    Closed,
}

#[derive(Debug)]
pub(super) struct Status {
    pub(super) phase: Phase,
    /// Every record with a lower commit number is in the state.
    pub(super) read_below: u64,
    pub(super) places: HashMap<Whose, Place>,
    pub(super) done: u64,
    pub(super) rebuild: Option<Rebuild>,
    /// The view as it was when the projection was begun: another one is empty.
    pub(super) generation: u64,
    /// What is wanted of the thread.
    pub(super) wanted: Wanted,
}

#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) close: bool,
    pub(super) rebuild: Option<Rebuild>,
    pub(super) flush: bool,
}

pub(super) struct Shared {
    pub(super) name: String,
    pub(super) topics: Vec<Arc<TopicState>>,
    /// `None` once it is closed.
    pub(super) view: Mutex<Option<StateView>>,
    status: Mutex<Status>,
    /// Something is wanted of the thread, or it is to look whether there is more.
    pub(super) asked: AtomicBool,
    /// Wakes the thread.
    pub(super) wake: Event,
    /// Wakes those who wait for the thread.
    changed: Event,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) thread_id: OnceLock<ThreadId>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projection").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(name: String, topics: Vec<Arc<TopicState>>, view: StateView, status: Status) -> Self {
        Self {
            name,
            topics,
            view: Mutex::new(Some(view)),
            status: Mutex::new(status),
            asked: AtomicBool::new(false),
            wake: Event::new(),
            changed: Event::new(),
            thread: Mutex::new(None),
            thread_id: OnceLock::new(),
        }
    }

    /// Looks at the status.
    pub(super) fn status<T>(&self, look: impl FnOnce(&Status) -> T) -> T {
        look(&lock(&self.status))
    }

    /// Changes the status, and wakes those who wait for that.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let answer = change(&mut lock(&self.status));
        self.changed.notify(usize::MAX);
        answer
    }

    /// The view has been begun anew.
    pub(super) fn set_generation(&self, generation: u64) {
        lock(&self.status).generation = generation;
    }

    /// Wants something of the thread.
    pub(super) fn ask(&self, want: impl FnOnce(&mut Status)) {
        want(&mut lock(&self.status));
        self.asked.store(true, Ordering::SeqCst);
        self.wake.notify(usize::MAX);
    }

    /// What is wanted of the thread, once.
    pub(super) fn take_wanted(&self) -> Wanted {
        // Taken back first: what is wanted from now on is seen by the next look.
        self.asked.store(false, Ordering::SeqCst);
        let mut status = lock(&self.status);
        let close = status.wanted.close;
        let wanted = std::mem::take(&mut status.wanted);
        status.wanted.close = close;
        wanted
    }

    /// Asks the view, whatever phase it is in. What is damaged is built again.
    pub(super) fn kept<T>(&self, ask: impl FnOnce(&mut StateView) -> Result<T>) -> Result<T> {
        let answer = match lock(&self.view).as_mut() {
            None => return Err(Error::closed()),
            Some(view) => ask(view),
        };
        if answer.is_err() {
            self.want_rebuild(Rebuild::Damaged);
        }
        answer
    }

    /// Has it built anew. From now on nothing is shown of what there was.
    pub(super) fn want_rebuild(&self, why: Rebuild) {
        self.ask(|status| {
            if !matches!(status.phase, Phase::Closed) {
                status.phase = Phase::Building;
                status.wanted.rebuild = Some(why);
            }
        });
        self.changed.notify(usize::MAX);
    }

    /// Asks the view for somebody outside.
    pub(super) fn shown<T>(&self, ask: impl FnOnce(&mut StateView) -> Result<T>) -> Result<T> {
        let mut view = lock(&self.view);
        let Some(there) = view.as_mut() else { return Err(closed(&self.name)) };
        self.status(|status| match &status.phase {
            Phase::Closed => Err(closed(&self.name)),
            // Whoever meets damage empties the view, and only then says so.
            Phase::Following | Phase::Failed(_) if there.generation() == status.generation => Ok(()),
            Phase::Building | Phase::Following | Phase::Failed(_) => Err(Error::new(
                ErrorKind::Busy,
                format!("projection {} is being built: {} records so far", self.name, status.done),
            )),
        })?;
        let answer = ask(there);
        drop(view);
        answer.map_err(|error| {
            self.want_rebuild(Rebuild::Damaged);
            Error::with_source(ErrorKind::Busy, format!("projection {} is damaged, and built again", self.name), error)
        })
    }

    /// Waits until `holds` has an answer.
    pub(super) async fn wait<T>(&self, mut holds: impl FnMut(&Status) -> Option<T>) -> T {
        loop {
            let listener = self.changed.listen();
            if let Some(answer) = self.status(&mut holds) {
                return answer;
            }
            listener.await;
        }
    }

    /// The same on a thread.
    pub(super) fn blocking_wait<T>(&self, mut holds: impl FnMut(&Status) -> Option<T>) -> T {
        loop {
            let listener = self.changed.listen();
            if let Some(answer) = self.status(&mut holds) {
                return answer;
            }
            listener.wait();
        }
    }

    /// Damages the value of a key.
    #[cfg(test)]
    pub(super) fn spoil(&self, key: &[u8]) {
        if let Some(view) = lock(&self.view).as_mut() {
            view.spoil(key);
        }
    }

    /// Ends the thread and closes the view. Who comes second waits for the first. A function of the application that closes its own
    /// projection is not waited for.
    pub(super) fn close(&self) {
        self.ask(|status| status.wanted.close = true);
        if self.thread_id.get() == Some(&std::thread::current().id()) {
            return;
        }
        let mut thread = lock(&self.thread);
        if thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(projection = self.name, "the thread of a projection has panicked");
        }
        drop(thread);
        self.change(|status| status.phase = Phase::Closed);
        let view = lock(&self.view).take();
        drop(view);
    }
}

pub(super) fn closed(name: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("projection {name} has been closed"))
}
