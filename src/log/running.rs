//! An engine with the threads of an open log: one commits for tasks, one does the upkeep; and, once there is any, one does
//! the maintenance. Of a log that is opened read-only, one looks for what its writer has added.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

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
        #[cfg(feature = "testing")]
        engine.watch_clock();
        engine.look_for_retention();
        engine.look_for_reserves();
        let threads =
            Threads::start(&engine).map_err(|error| Error::io("cannot start the threads of the log", error))?;
        Ok(Self { engine, threads: Mutex::new(Some(threads)), temporary })
    }

    /// Starts the thread of a log that another process writes: it looks for news every `interval`.
    pub(crate) fn follow(engine: Engine, interval: Duration) -> Result<Self> {
        let engine = Arc::new(engine);
        let threads = Threads::follow(&engine, interval)
            .map_err(|error| Error::io("cannot start the thread of the log", error))?;
        Ok(Self { engine, threads: Mutex::new(Some(threads)), temporary: None })
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
    commit: Option<JoinHandle<()>>,
    /// Of a log that is tested, whoever moves the clock may do it instead.
    upkeep: Option<JoinHandle<()>>,
    maintenance: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Starts the thread for maintenance if there is something to do and it does not run yet.
fn start_maintenance(engine: &Arc<Engine>, thread: &Mutex<Option<JoinHandle<()>>>) {
    let mut thread = lock(thread);
    if thread.is_some() || !engine.maintenance.is_wanted() {
        return;
    }
    let engine = Arc::clone(engine);
    let started = Builder::new().name("annals-maintenance".into()).spawn(move || {
        IS_OURS.set(true);
        while let Some(task) = engine.maintenance.wait(|| engine.env.clock.monotonic()) {
            engine.maintain(task);
        }
    });
    match started {
        Ok(started) => *thread = Some(started),
        Err(error) => tracing::warn!(%error, "no thread for the maintenance; it is tried again"),
    }
}

/// Ends the thread for maintenance, if it runs.
fn stop_maintenance(engine: &Engine, thread: &Mutex<Option<JoinHandle<()>>>) {
    engine.maintenance.stop();
    let thread = lock(thread).take();
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("the maintenance thread of the log has panicked");
    }
}

/// Looking for news takes no more than one part in so many of the time.
const LOOKING_ONE_IN: u32 = 5;

/// Looks for news until the log is closed.
fn look_for_news(engine: &Engine, interval: Duration) {
    let mut told = String::new();
    let mut pause = interval;
    while engine.upkeep.pause(pause) {
        let began = engine.env.clock.monotonic();
        let error = engine.refresh(false).err().filter(|_| !engine.is_closed()).map(|error| error.to_string());
        // The same trouble comes back in each round.
        if let Some(error) = error.as_ref().filter(|error| **error != told) {
            tracing::warn!(%error, "what the log's writer has added could not be read");
        }
        told = error.unwrap_or_default();
        pause = interval.max((engine.env.clock.monotonic().saturating_sub(began)) * (LOOKING_ONE_IN - 1));
    }
}

impl Threads {
    fn start(engine: &Arc<Engine>) -> io::Result<Self> {
        let maintenance = Arc::new(Mutex::new(None));
        engine.look_for_maintenance();
        #[cfg(feature = "testing")]
        if engine.upkeep.is_by_hand() {
            return Ok(Self { commit: Some(Self::start_commit(engine)?), upkeep: None, maintenance });
        }
        start_maintenance(engine, &maintenance);
        let upkeep = {
            let (engine, maintenance) = (Arc::clone(engine), Arc::clone(&maintenance));
            Builder::new().name("annals-upkeep".into()).spawn(move || {
                IS_OURS.set(true);
                while let Some(round) = engine.upkeep.wait(|| engine.env.clock.monotonic()) {
                    engine.do_round(round);
                    start_maintenance(&engine, &maintenance);
                }
            })
        };
        let upkeep = match upkeep {
            Ok(upkeep) => upkeep,
            Err(error) => {
                stop_maintenance(engine, &maintenance);
                return Err(error);
            }
        };
        match Self::start_commit(engine) {
            Ok(commit) => Ok(Self { commit: Some(commit), upkeep: Some(upkeep), maintenance }),
            Err(error) => {
                engine.upkeep.stop();
                // A panic of the upkeep thread has been printed where it happened.
                drop(upkeep.join());
                stop_maintenance(engine, &maintenance);
                Err(error)
            }
        }
    }

    fn start_commit(engine: &Arc<Engine>) -> io::Result<JoinHandle<()>> {
        let engine = Arc::clone(engine);
        Builder::new().name("annals-commit".into()).spawn(move || {
            IS_OURS.set(true);
            while let Some(work) = engine.committer.wait_to_lead() {
                engine.carry_out(work);
            }
        })
    }

    fn follow(engine: &Arc<Engine>, interval: Duration) -> io::Result<Self> {
        let engine = Arc::clone(engine);
        let upkeep = Builder::new().name("annals-refresh".into()).spawn(move || {
            IS_OURS.set(true);
            look_for_news(&engine, interval);
        })?;
        Ok(Self { commit: None, upkeep: Some(upkeep), maintenance: Arc::default() })
    }

    /// Ends the upkeep and the maintenance, closes the engine, and ends the commit thread once nothing is left to commit.
    fn close(self, engine: &Engine) -> Result<()> {
        engine.upkeep.stop();
        let upkeep = self.upkeep.map_or(Ok(()), JoinHandle::join);
        stop_maintenance(engine, &self.maintenance);
        let closed = engine.close();
        engine.committer.stop();
        if upkeep.and(self.commit.map_or(Ok(()), JoinHandle::join)).is_err() {
            tracing::error!("a background thread of the log has panicked");
        }
        closed
    }
}
