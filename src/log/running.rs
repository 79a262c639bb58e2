//! An engine with the two threads of an open log: one commits for tasks, one does the upkeep.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use super::engine::Engine;
use crate::error::{Error, Result};
use crate::segment::lock;

/// An open log, shared by all its handles; closed when the last of them is dropped.
pub(crate) struct Running {
    pub(crate) engine: Arc<Engine>,
    threads: Mutex<Option<Threads>>,
    /// Removed after everything else is dropped.
    temporary: Option<tempfile::TempDir>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Running {
    /// Starts the threads.
    pub(crate) fn start(engine: Engine, temporary: Option<tempfile::TempDir>) -> Result<Self> {
        let engine = Arc::new(engine);
        let threads =
            Threads::start(&engine).map_err(|error| Error::io("cannot start the threads of the log", error))?;
        Ok(Self { engine, threads: Mutex::new(Some(threads)), temporary })
    }

    /// Closes the engine and ends the threads. Who comes second waits for the first.
    pub(crate) fn close(&self) -> Result<()> {
        match lock(&self.threads).take() {
            Some(threads) => threads.close(&self.engine),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let threads = lock(&self.threads).take();
        let (engine, temporary) = (Arc::clone(&self.engine), self.temporary.take());
        let close = move || {
            if let Some(threads) = threads
                && let Err(error) = threads.close(&engine)
            {
                tracing::error!(%error, "the log was not closed cleanly");
            }
            drop(engine);
            drop(temporary);
        };
        // A waker may drop the last handle on the thread that wakes it, which cannot wait for its own end.
        if !IS_OURS.get() {
            close();
        } else if let Err(error) = Builder::new().name("annals-close".into()).spawn(close) {
            tracing::error!(%error, "the log was not closed: no thread for it");
        }
    }
}

thread_local! {
    /// Whether this is one of the threads of a log.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

/// The threads, and how they end.
#[derive(Debug)]
struct Threads {
    commit: JoinHandle<()>,
    upkeep: JoinHandle<()>,
}

impl Threads {
    fn start(engine: &Arc<Engine>) -> io::Result<Self> {
        let upkeep = {
            let engine = Arc::clone(engine);
            Builder::new().name("annals-upkeep".into()).spawn(move || {
                IS_OURS.set(true);
                while let Some(round) = engine.upkeep.wait(|| engine.env.clock.monotonic()) {
                    engine.do_round(round);
                }
            })?
        };
        let commit = {
            let engine = Arc::clone(engine);
            Builder::new().name("annals-commit".into()).spawn(move || {
                IS_OURS.set(true);
                while let Some(work) = engine.committer.wait_to_lead() {
                    engine.carry_out(work);
                }
            })
        };
        match commit {
            Ok(commit) => Ok(Self { commit, upkeep }),
            Err(error) => {
                engine.upkeep.stop();
                // A panic of the upkeep thread has been printed where it happened.
                drop(upkeep.join());
                Err(error)
            }
        }
    }

    /// Ends the upkeep, closes the engine, and ends the commit thread once nothing is left to commit.
    fn close(self, engine: &Engine) -> Result<()> {
        engine.upkeep.stop();
        let upkeep = self.upkeep.join();
        let closed = engine.close();
        engine.committer.stop();
        if upkeep.and(self.commit.join()).is_err() {
            tracing::error!("a background thread of the log has panicked");
        }
        closed
    }
}
