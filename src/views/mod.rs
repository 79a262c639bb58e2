//! Views over the log, kept by sled so that they need not be computed again at each opening.
//!
//! The log is the truth. A view is disposable: one that is missing is built from the log, one that is behind is completed, and one
//! that is not what it should be (it cannot be opened, panics, belongs to another log, or its sums do not hold) is set aside,
//! renamed and never deleted, and built anew. So nothing here is an error to anybody: what a view cannot do is told to
//! `tracing`, and done without it.
//!
//! sled 0.34 syncs less than it says, and can open a damaged file as an older state. Hence: nothing in a view is believed without
//! the position in the log that it was built up to; every value has a checksum of its own; every partition has a count and a sum.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{EntryKind, Env};

pub(crate) mod dedup;
pub(crate) mod index;
mod pages;
mod pairs;
pub(crate) mod snapshots;
pub(crate) mod state;
mod values;

#[cfg(test)]
mod tests;

/// The directory of all views, in that of the log.
pub(crate) const VIEWS_DIR: &str = "views";
const LOG_ID_KEY: &[u8] = b"log";
/// The cache is for what is read once, at the opening.
const CACHE_BYTES: u64 = 8 << 20;
const LOCKED_TRIES: u32 = 20;
const LOCKED_PAUSE: Duration = Duration::from_millis(25);

/// One view: a sled database of its own.
#[derive(Debug)]
struct Store {
    env: Env,
    views: PathBuf,
    name: String,
    cache_bytes: u64,
    log_id: u128,
    db: Option<sled::Db>,
}

impl Store {
    /// Opens the view `name` of the log in `root`, setting aside what is there if it is no such view.
    fn open(env: &Env, root: &Path, name: &str, log_id: u128) -> Result<Self> {
        Self::open_with_cache(env, root, name, log_id, CACHE_BYTES)
    }

    /// The same for a view that is read again and again.
    fn open_with_cache(env: &Env, root: &Path, name: &str, log_id: u128, cache_bytes: u64) -> Result<Self> {
        let (env, views) = (env.clone(), root.join(VIEWS_DIR));
        let mut store = Self { env, views, name: name.to_owned(), cache_bytes, log_id, db: None };
        let made = store.env.storage.create_dir(&store.views);
        if let Err(error) = made
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(store.failed("create the directory of", error));
        }
        match store.try_open() {
            // It is somebody's, and nothing to be renamed.
            Err(error) if error.kind() == ErrorKind::Locked => return Err(error),
            Err(error) => store.set_aside(&error)?,
            Ok(()) => {}
        }
        Ok(store)
    }

    fn dir(&self) -> PathBuf {
        self.views.join(&self.name)
    }

    fn failed(&self, what: &str, source: std::io::Error) -> Error {
        Error::io(format!("cannot {what} the view {}", self.dir().display()), source)
    }

    fn try_open(&mut self) -> Result<()> {
        self.remove_unfinished_snapshots()?;
        let config = sled::Config::new().path(self.dir()).flush_every_ms(None).cache_capacity(self.cache_bytes);
        // Who has just dropped a database may hold its lock for a moment more.
        for _ in 0..LOCKED_TRIES {
            match guarded(|| config.open()) {
                Err(error) if is_locked(&error) => std::thread::sleep(LOCKED_PAUSE),
                opened => return self.adopt(opened?),
            }
        }
        Err(Error::new(ErrorKind::Locked, format!("the view {} is in use", self.dir().display())))
    }

    /// Takes a database that is open, if it is of this log.
    fn adopt(&mut self, db: sled::Db) -> Result<()> {
        let log_id = self.log_id.to_be_bytes();
        guarded(|| {
            match db.get(LOG_ID_KEY)? {
                Some(there) if there[..] == log_id => {}
                None if db.is_empty() => drop(db.insert(LOG_ID_KEY, &log_id)?),
                _ => return Err(sled::Error::Unsupported("it belongs to another log".into())),
            }
            Ok(())
        })?;
        self.db = Some(db);
        Ok(())
    }

    /// sled stumbles over a snapshot that a crash has left half-written.
    fn remove_unfinished_snapshots(&self) -> Result<()> {
        let Ok(entries) = self.env.storage.list(&self.dir()) else { return Ok(()) };
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::File) {
            if entry.name.starts_with("snap.") && entry.name.ends_with(".generating") {
                let removed = self.env.storage.remove_file(&self.dir().join(&entry.name));
                removed.map_err(|error| self.failed("clear", error))?;
            }
        }
        Ok(())
    }

    /// Runs `work` on the database. If that fails the view is set aside, and a new, empty one is there.
    fn with<T>(&mut self, work: impl Fn(&sled::Db) -> sled::Result<T>) -> Result<T> {
        let Some(db) = &self.db else {
            return Err(Error::new(ErrorKind::Io, format!("the view {} is not open", self.dir().display())));
        };
        match guarded(|| work(db)) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.set_aside(&error)?;
                Err(error)
            }
        }
    }

    /// Renames the view, so that nothing of it is lost, and begins a new one.
    fn set_aside(&mut self, why: &Error) -> Result<()> {
        // Dropping a database writes to it.
        let db = self.db.take();
        drop(catch_unwind(AssertUnwindSafe(move || drop(db))));
        let taken = self.env.storage.list(&self.views).map_err(|error| self.failed("set aside", error))?;
        let free = |name: &String| !taken.iter().any(|entry| entry.name == *name);
        let Some(aside) = (0..u32::MAX).map(|number| format!("{}.aside-{number}", self.name)).find(free) else {
            return Err(Error::new(ErrorKind::Io, "there is no name left to set a view aside"));
        };
        tracing::warn!(error = %why, kept_as = aside, "a view is set aside, and built again from the log");
        let renamed = self.env.storage.rename(&self.dir(), &self.views.join(aside));
        renamed.map_err(|error| self.failed("set aside", error))?;
        self.try_open()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let db = self.db.take();
        drop(catch_unwind(AssertUnwindSafe(move || drop(db))));
    }
}

/// What sets a view aside, beside sled's own errors.
fn damaged(what: &str) -> sled::Error {
    sled::Error::Unsupported(format!("the view does not hold: {what}"))
}

/// sled says it in words only.
fn is_locked(error: &Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Runs what sled does, whose answer to damage may be a panic.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Error::with_source(ErrorKind::Io, "a view has failed", error)),
        Err(_) => Err(Error::new(ErrorKind::Io, "a view has panicked")),
    }
}
