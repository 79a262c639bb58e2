//! The thread that completes the index in the background, so that whoever searches has little to wait for.

use std::sync::{Condvar, Mutex, PoisonError, Weak};
use std::thread::{Builder, JoinHandle, ThreadId};
use std::time::Duration;

use super::index::HeaderIndex;
use crate::log::engine::Engine;
use crate::segment::lock;

/// The thread, started with the first thing to do.
#[derive(Debug)]
pub(super) struct Worker {
    engine: Weak<Engine>,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    stopping: bool,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn new(engine: Weak<Engine>) -> Self {
        Self { engine, state: Mutex::default(), wake: Condvar::new() }
    }

    /// Whether the thread runs.
    pub(super) fn is_there(&self) -> bool {
        lock(&self.state).thread.is_some()
    }

    /// Says that something may be missing in the index.
    pub(super) fn want(&self) {
        let mut state = lock(&self.state);
        if state.stopping {
            return;
        }
        state.wanted = true;
        if state.thread.is_some() {
            self.wake.notify_one();
            return;
        }
        let engine = Weak::clone(&self.engine);
        match Builder::new().name("annals-index".into()).spawn(move || run(&engine)) {
            Ok(thread) => state.thread = Some(thread),
            // Whoever searches completes the index, too.
            Err(error) => tracing::warn!(%error, "no thread for the header indexes"),
        }
    }

    /// Waits until there is something to do; `false` once stopped.
    fn wait(&self) -> bool {
        let state = lock(&self.state);
        let waited = self.wake.wait_while(state, |state| !state.wanted && !state.stopping);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.wanted = false;
        !state.stopping
    }

    /// Leaves the processor to others for a while; `false` once stopped.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = lock(&self.state);
        let waited = self.wake.wait_timeout_while(state, time, |state| !state.stopping);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let thread = {
            let mut state = lock(&self.state);
            state.stopping = true;
            self.wake.notify_all();
            state.thread.take()
        };
        let is_this = |thread: ThreadId| thread == std::thread::current().id();
        if let Some(thread) = thread.filter(|thread| !is_this(thread.thread().id()))
            && thread.join().is_err()
        {
            tracing::error!("the thread of the header indexes has panicked");
        }
    }
}

/// The engine is held while there is something to do, and no longer: it closes with its last handle.
fn run(engine: &Weak<Engine>) {
    let index = || engine.upgrade()?.extensions.get::<HeaderIndex>();
    while index().is_some_and(|index| index.worker.wait()) {
        let Some(engine) = engine.upgrade() else { return };
        if let Some(index) = engine.extensions.get::<HeaderIndex>() {
            index.complete_all(&engine);
        }
    }
}
