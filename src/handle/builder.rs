//! Opening a log with settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log::Log;
use crate::error::{Error, Result};
use crate::log::open::open;
use crate::log::settings::LogSettings;
use crate::storage::clock::{SystemClock, SystemRandom};
use crate::storage::disk::Disk;
use crate::storage::memory::MemoryDisk;
use crate::storage::{Env, Storage};

/// Settings for opening a log; made by [`Log::builder`].
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use annals::Log;
///
/// let log = Log::builder().commit_bytes_max(32 << 20).journal_bytes(64 << 20).open(dir.path()).await?;
/// # log.close().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder opens nothing until it is told to"]
pub struct LogBuilder {
    settings: LogSettings,
    create: bool,
}

impl Default for LogBuilder {
    fn default() -> Self {
        Self { settings: LogSettings::default(), create: true }
    }
}

impl LogBuilder {
    /// Sets the size of the largest atomic commit, which also bounds the memory for records that wait to be committed: 128 KiB
    /// to 256 MiB; by default 8 MiB.
    pub fn commit_bytes_max(mut self, bytes: u64) -> Self {
        self.settings.commit_bytes_max = bytes;
        self
    }

    /// Sets the size of each of the journal's files, normally two: at least twice `commit_bytes_max`, at most 1 GiB; by default
    /// 16 MiB. Files are made when the first commit over several partitions needs them.
    pub fn journal_bytes(mut self, bytes: u64) -> Self {
        self.settings.journal_bytes = bytes;
        self
    }

    /// Sets how much of the end of each partition is kept in memory for those who follow it: 0 to 64 MiB; by default 256 KiB.
    pub fn tail_bytes_max(mut self, bytes: u64) -> Self {
        self.settings.tail_bytes_max = bytes;
        self
    }

    /// Sets whether a log that does not exist is created; by default it is.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Opens the log in `dir`, on a thread for blocking work if a tokio runtime is there.
    ///
    /// # Errors
    ///
    /// [`Locked`](crate::ErrorKind::Locked) if it is open already, [`Invalid`](crate::ErrorKind::Invalid) for settings out of
    /// their range and for a directory that is a file, holds something else, or was written by a newer annals,
    /// [`NotFound`](crate::ErrorKind::NotFound) without [`create`](Self::create), [`Corrupt`](crate::ErrorKind::Corrupt) if the
    /// manifest or the journal is damaged. Damage to a partition does not fail the opening: see [`Log::recovery`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the log is opened all the same, and closed at once.
    pub async fn open(self, dir: impl AsRef<Path>) -> Result<Log> {
        let dir = dir.as_ref().to_path_buf();
        crate::handle::log::unblock(move || self.blocking_open(dir)).await
    }

    /// [`open`](Self::open) for threads.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn blocking_open(self, dir: impl AsRef<Path>) -> Result<Log> {
        self.open_on(Arc::new(Disk), dir.as_ref().to_path_buf(), None)
    }

    /// Opens a log that lives in memory and is gone when its last handle is. It is the same engine on another disk.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for settings out of their range.
    pub fn in_memory(self) -> Result<Log> {
        self.open_on(Arc::new(MemoryDisk::default()), PathBuf::from("/memory"), None)
    }

    /// Opens a log in a new temporary directory that is removed with the log's last handle.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn temporary(self) -> Result<Log> {
        let dir = tempfile::Builder::new()
            .prefix("annals-")
            .tempdir()
            .map_err(|error| Error::io("cannot create a temporary directory", error))?;
        let path = dir.path().to_path_buf();
        self.open_on(Arc::new(Disk), path, Some(dir))
    }

    fn open_on(self, storage: Arc<dyn Storage>, root: PathBuf, dir: Option<tempfile::TempDir>) -> Result<Log> {
        self.settings.validate()?;
        let env = Env { storage, clock: Arc::new(SystemClock), random: Arc::new(SystemRandom) };
        Log::start(open(env, root, self.settings, self.create)?, dir)
    }
}
