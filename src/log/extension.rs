//! What layers above keep with an open log, without the log knowing what it is.

use std::any::Any;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::engine::Engine;

/// Something to be told what happens to the log.
pub(crate) trait Extension: Any + Debug + Send + Sync {
    /// A checkpoint was written. Called in the background; nothing waits for it.
    fn checkpointed(&self, _: &Engine) {}
    /// Topics or partitions have come, changed or gone. Called by whoever changed them.
    fn catalogue_changed(&self, _: &Engine) {}
    /// The time has come that [`Upkeep::want_call`](super::upkeep::Upkeep::want_call) was asked for, by whichever extension.
    fn due(&self, _: &Engine, _now: Duration) {}
    /// The log is about to close: the last moment to write to it.
    fn draining(&self, _: &Engine) {}
    /// All is on the disk, and nothing is written any more. Called once, before the lock of the directory is released.
    fn closing(&self, _: &Engine) {}
}

/// The extensions of one log, one of a type.
#[derive(Debug, Default)]
pub(crate) struct Extensions(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    there: Vec<Arc<dyn Extension>>,
    closed: bool,
}

impl State {
    fn find<T: Extension>(&self) -> Option<Arc<T>> {
        self.there.iter().find_map(|extension| {
            let extension: Arc<dyn Any + Send + Sync> = Arc::clone(extension) as _;
            extension.downcast().ok()
        })
    }
}

impl Extensions {
    /// The one of this type, made if there is none; `None` once the log is closed.
    pub(crate) fn get_or_init<T: Extension>(&self, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        if let Some(there) = self.get() {
            return Some(there);
        }
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        Some(state.find().unwrap_or_else(|| {
            let made = Arc::new(make());
            state.there.push(Arc::clone(&made) as _);
            made
        }))
    }

    /// The one of this type, if there is one.
    pub(crate) fn get<T: Extension>(&self) -> Option<Arc<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).find()
    }

    pub(super) fn each(&self, tell: impl Fn(&dyn Extension)) {
        // Cloned: whoever is told may look for others.
        let there = self.0.read().unwrap_or_else(PoisonError::into_inner).there.clone();
        there.iter().for_each(|extension| tell(&**extension));
    }

    /// The same, for the last time: none is added any more.
    pub(super) fn close(&self, tell: impl Fn(&dyn Extension)) {
        let there = {
            let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
            state.closed = true;
            std::mem::take(&mut state.there)
        };
        there.iter().for_each(|extension| tell(&**extension));
    }
}
