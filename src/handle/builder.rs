//! Opening a log with settings.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::log::Log;
use crate::error::{Error, Result};
use crate::log::open::open;
use crate::log::read_only::open_read_only;
use crate::log::settings::LogSettings;
use crate::storage::clock::{SystemClock, SystemRandom};
use crate::storage::disk::Disk;
use crate::storage::memory::MemoryDisk;
use crate::storage::{Clock, Env, Random, Storage};

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
    refresh_interval: Duration,
    #[cfg(feature = "testing")]
    pub(crate) given: Given,
}

/// The clock and the randomness of a test, in place of the machine's.
#[cfg(feature = "testing")]
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) random: Option<Arc<dyn Random>>,
}

/// How often a log that is opened read-only can look for news.
const REFRESH_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

impl Default for LogBuilder {
    fn default() -> Self {
        let refresh_interval = Duration::from_millis(20);
        Self {
            settings: LogSettings::default(),
            create: true,
            refresh_interval,
            #[cfg(feature = "testing")]
            given: Given::default(),
        }
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

    /// Sets whether the records of topics at the levels [`Interval`](crate::Durability::Interval) and
    /// [`Os`](crate::Durability::Os) are stored through memory that is a part of the file, rather than written by a call of the
    /// system for each; by default they are. It is done on Linux, on ext4 and tmpfs, and makes no difference to what survives:
    /// the system has the records either way once they are acknowledged.
    ///
    /// One risk is left, which a call does not have: if the disk fails in such a way that a part of the file which the system has
    /// let go of cannot be read again, the process is ended by the signal `SIGBUS`. A full disk does not lead to that.
    pub fn mapped_appends(mut self, mapped: bool) -> Self {
        self.settings.mapped_appends = mapped;
        self
    }

    /// Sets how many files of segments are open at once, the least recently used being closed for others: 16 to 1,000,000; by
    /// default 512. A log with more partitions than this opens and closes files all the time. Beside them a few more are open:
    /// the lock, the manifest, the journal, and whatever is being read or synced at the moment.
    pub fn open_files_max(mut self, files: u32) -> Self {
        self.settings.open_files_max = files;
        self
    }

    /// Sets how many bytes a second the work in the background may read and write that is not urgent, such as compaction: 64 KiB
    /// to 64 GiB; by default 64 MiB. A lower rate leaves more of the disk and of the processor to producers and consumers.
    pub fn maintenance_bytes_per_second_max(mut self, bytes: u64) -> Self {
        self.settings.maintenance_bytes_per_second_max = bytes;
        self
    }

    /// Sets whether a log that does not exist is created; by default it is.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets how often a log that is opened read-only looks for what its writer has added: every 1 millisecond to 1 hour; by
    /// default every 20 milliseconds. It looks less often if a look takes more than a fifth of the time.
    pub fn refresh_interval(mut self, interval: Duration) -> Self {
        self.refresh_interval = interval;
        self
    }

    /// Opens the log in `dir` for reading only, on a thread for blocking work if a tokio runtime is there: from any number of
    /// processes, whether another one is writing to it or not, and on a read-only file system.
    ///
    /// It takes no lock and never changes a file. It shows what is committed, of synced topics only what is on the disk, and
    /// followers see what the writer adds within the [refresh interval](Self::refresh_interval). After a writer's crash it shows
    /// what the next opening for writing will find, without mending anything. Records and changes are refused with
    /// [`Invalid`](crate::ErrorKind::Invalid).
    ///
    /// A commit number that the writer has taken and that never comes, since its append has failed, holds up followers of
    /// several partitions for a second at the most.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no log, [`Invalid`](crate::ErrorKind::Invalid) for settings out of
    /// their range, for a directory that is a file, and for a log that was written by a newer annals,
    /// [`Io`](crate::ErrorKind::Io) without the rights to read it, [`Corrupt`](crate::ErrorKind::Corrupt) if the manifest or the
    /// journal is damaged. Damage to a partition does not fail the opening: see [`Log::recovery`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the log is opened all the same, and closed at once.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path();
    /// use annals::{Log, Record, Start, TopicSettings};
    ///
    /// let log = Log::open(dir).await?;
    /// let lines = log.create_raw_topic("lines", TopicSettings::default()).await?;
    ///
    /// let reader = Log::open_read_only(dir).await?;   // most often in another process
    /// let mut tail = reader.raw_topic("lines")?.replay(Start::Earliest).follow().blocking()?;
    /// lines.produce(Record::new("one".into())).await?;
    /// assert_eq!(tail.next()?.unwrap().value(), Some(&b"one"[..]));
    /// # Ok(()) }
    /// ```
    pub async fn open_read_only(self, dir: impl AsRef<Path>) -> Result<Log> {
        let dir = dir.as_ref().to_path_buf();
        crate::task::unblock(move || self.blocking_open_read_only(dir)).await
    }

    /// [`open_read_only`](Self::open_read_only) for threads.
    ///
    /// # Errors
    ///
    /// As [`open_read_only`](Self::open_read_only).
    pub fn blocking_open_read_only(self, dir: impl AsRef<Path>) -> Result<Log> {
        self.validate()?;
        if !REFRESH_INTERVAL.contains(&self.refresh_interval) {
            return Err(Error::invalid(format!(
                "`refresh_interval` is {:?}, which is outside {:?} to {:?}",
                self.refresh_interval,
                REFRESH_INTERVAL.start(),
                REFRESH_INTERVAL.end()
            )));
        }
        Log::follow(
            open_read_only(self.env(Arc::new(Disk)), dir.as_ref().to_path_buf(), self.settings)?,
            self.refresh_interval,
        )
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
        crate::task::unblock(move || self.blocking_open(dir)).await
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

    /// Checks the settings that every opening needs.
    pub(crate) fn validate(&self) -> Result<()> {
        self.settings.validate()
    }

    fn open_on(self, storage: Arc<dyn Storage>, root: PathBuf, dir: Option<tempfile::TempDir>) -> Result<Log> {
        self.settings.validate()?;
        Log::start(open(self.env(storage), root, self.settings, self.create)?, dir)
    }

    /// Opens a log that does nothing in the background until its clock is moved.
    #[cfg(feature = "testing")]
    pub(crate) fn open_by_hand(self, storage: Arc<dyn Storage>, root: PathBuf) -> Result<Log> {
        self.settings.validate()?;
        let engine = open(self.env(storage), root, self.settings, self.create)?;
        engine.upkeep.go_by_hand();
        Log::start(engine, None)
    }

    fn env(&self, storage: Arc<dyn Storage>) -> Env {
        let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        #[cfg(feature = "testing")]
        let (clock, random) = (self.given.clock.clone().unwrap_or(clock), self.given.random.clone().unwrap_or(random));
        Env::new(storage, clock, random, self.settings.open_files_max as usize)
    }
}
