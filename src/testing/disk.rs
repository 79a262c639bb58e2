//! The simulated disk as tests of applications see it.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::ManualClock;
use crate::error::Result;
use crate::handle::{Log, LogBuilder};
use crate::log::running::Running;
use crate::segment::lock;
use crate::storage::Clock;
use crate::storage::clock::{Random, SeededRandom};
use crate::storage::sim::{self, SimDisk, SimFault, SimOptions, Step};

/// Where the log of a disk is.
const ROOT: &str = "/log";

/// What a power loss leaves of what was not synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// Whatever the seed says: each page of 4 KiB old, new or mixed by sectors of 512 bytes; lengths old, new or between; names
    /// gone, there, or only the first of them. All and nothing are among it.
    #[default]
    Seeded,
    /// Nothing, but for pages that the system wrote by itself: see [`DiskOptions::writeback_one_in`].
    Nothing,
    /// All of it, as if the power had held a moment longer.
    All,
}

/// What a [`SimulatedDisk`] is like.
///
/// ```
/// use annals::testing::{DiskOptions, Loss, SimulatedDisk};
///
/// let disk = SimulatedDisk::with_options(17, DiskOptions::default().loss(Loss::Nothing).capacity(1 << 20));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskOptions {
    /// What a power loss leaves of what was not synced; by default what the seed says.
    pub loss: Loss,
    /// Once in so many writes the system writes a page of the file to the disk by itself, as it does whenever it likes; 0 for
    /// never; by default 8.
    pub writeback_one_in: u64,
    /// How many bytes the files can take up, in whole pages of 4 KiB; by default there is no limit.
    pub capacity: Option<u64>,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self { loss: Loss::default(), writeback_one_in: 8, capacity: None }
    }
}

impl DiskOptions {
    /// Sets what a power loss [leaves](DiskOptions#structfield.loss).
    #[must_use]
    pub fn loss(mut self, loss: Loss) -> Self {
        self.loss = loss;
        self
    }

    /// Sets how often the system [writes by itself](DiskOptions#structfield.writeback_one_in).
    #[must_use]
    pub fn writeback_one_in(mut self, writes: u64) -> Self {
        self.writeback_one_in = writes;
        self
    }

    /// Sets how many [bytes](DiskOptions#structfield.capacity) there is room for; `None` sets no limit.
    #[must_use]
    pub fn capacity(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.capacity = bytes.into();
        self
    }

    fn sim(self) -> SimOptions {
        let loss = match self.loss {
            Loss::Seeded => sim::Loss::Seeded,
            Loss::Nothing => sim::Loss::Oldest,
            Loss::All => sim::Loss::Newest,
        };
        SimOptions { loss, writeback_one_in: self.writeback_one_in, capacity: self.capacity }
    }
}

/// How a call to a [`SimulatedDisk`] fails. A fault that means nothing to a call waits for one that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Any call: an input/output error (`EIO`), and nothing is done.
    Io,
    /// Any call but a removal: no space left (`ENOSPC`), and nothing is done. Of a sync, as [`FailedSync`](Self::FailedSync).
    Full,
    /// A write of half the bytes, yet one at least, that succeeds.
    ShortWrite,
    /// A sync that fails and leaves some or all pages unwritten, yet clean, as Linux does: the next sync succeeds without writing
    /// them, and a power loss brings their old bytes back.
    FailedSync,
}

impl Fault {
    fn sim(self) -> SimFault {
        match self {
            Self::Io => SimFault::Eio,
            Self::Full => SimFault::Enospc,
            Self::ShortWrite => SimFault::ShortWrite,
            Self::FailedSync => SimFault::FsyncDrop,
        }
    }
}

/// How many calls there were to a [`SimulatedDisk`] that change something, by what they do. Reads are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCounts {
    /// Writes to files, and changes of their lengths.
    pub writes: u64,
    /// Stores into files that are mapped into memory: see
    /// [`mapped_appends`](crate::LogBuilder::mapped_appends).
    pub stores: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub directory_syncs: u64,
    /// Files and directories created, renamed and removed.
    pub names: u64,
}

/// A disk that loses power, fails and fills up when a test wants it to. All that it does follows from its seed and the calls to
/// it. Clones are the same disk.
///
/// Logs on it are those that serve a real disk, code for code: only the system calls are others. A log that is opened on it is
/// [`Log`] in every respect, with two differences that make a run repeatable: it goes by the disk's [clock](Self::clock), which
/// stands until it is moved, and it does nothing in the background but commit for tasks; the rest is done when the clock moves.
///
/// The same calls then follow each other the same way in each run, as long as the test itself does one thing at a time: it
/// awaits each `produce` before the next, or is a thread that blocks. With several producers at once all that is said here holds
/// but that.
///
/// # Example
///
/// ```
/// use annals::testing::{Observed, SimulatedDisk};
/// use annals::{Durability, Log, Raw, Record, TopicDef, TopicSettings};
///
/// # fn main() -> annals::Result<()> {
/// const PAYMENTS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("payments");
/// const CLICKS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("clicks");
///
/// let disk = SimulatedDisk::new(17);
/// let log = disk.open(Log::builder())?;
/// let payments = log.blocking_create_topic(PAYMENTS, TopicSettings::default())?;
/// let clicks = log.blocking_create_topic(CLICKS, TopicSettings::default().durability(Durability::Os))?;
/// payments.blocking_produce(Record::new("17 EUR".into()))?;
/// clicks.blocking_produce(Record::new("a click".into()))?;
///
/// disk.power_loss();
/// assert!(payments.blocking_produce(Record::new("lost".into())).is_err());   // that process is no more
///
/// let log = disk.open(Log::builder())?;
/// assert!(!log.recovery().clean);
/// assert_eq!(log.topic(PAYMENTS)?.watermarks(0)?.high_watermark, 1);   // it was acknowledged, so it is there
/// assert!(log.topic(CLICKS)?.watermarks(0)?.high_watermark <= 1);      // nobody had synced that
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Shared>);

struct Shared {
    sim: SimDisk,
    seed: u64,
    clock: ManualClock,
    /// How often a log was opened: each opening has randomness of its own.
    openings: AtomicU64,
    /// What ends with the process.
    logs: Mutex<Vec<Weak<Running>>>,
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("SimulatedDisk");
        text.field("seed", &self.0.seed).field("calls", &self.calls()).field("is_off", &self.is_off());
        text.finish_non_exhaustive()
    }
}

impl SimulatedDisk {
    /// An empty disk without a limit, whose power losses leave what the seed says.
    pub fn new(seed: u64) -> Self {
        Self::with_options(seed, DiskOptions::default())
    }

    /// An empty disk.
    pub fn with_options(seed: u64, options: DiskOptions) -> Self {
        Self::of(SimDisk::new(seed, options.sim()), seed, ManualClock::default(), 0)
    }

    fn of(sim: SimDisk, seed: u64, clock: ManualClock, openings: u64) -> Self {
        Self(Arc::new(Shared { sim, seed, clock, openings: AtomicU64::new(openings), logs: Mutex::default() }))
    }

    /// Opens the log of this disk, creating it if there is none and recovering it if it was not closed. It takes the settings of
    /// the builder; the clock and the seed, too, if some were given there.
    ///
    /// # Errors
    ///
    /// As [`LogBuilder::open`]: [`Locked`](crate::ErrorKind::Locked) if it is open already, [`Io`](crate::ErrorKind::Io) and
    /// [`StorageFull`](crate::ErrorKind::StorageFull) if a call fails that was to fail.
    pub fn open(&self, mut builder: LogBuilder) -> Result<Log> {
        let opening = self.0.openings.fetch_add(1, Ordering::Relaxed);
        let given = &mut builder.given;
        given.clock.get_or_insert_with(|| Arc::new(self.0.clock.clone()) as Arc<dyn Clock>);
        // Far from that of every other opening: numbers that go up in steps would be those of the opening before, shifted, and so
        // would be the identities that are made of them.
        let step = self.0.seed.wrapping_add(opening.wrapping_mul(0xd134_2543_de82_ef95));
        let seed = SeededRandom::new(step).next_u64();
        given.random.get_or_insert_with(|| Arc::new(SeededRandom::new(seed)));
        let log = builder.open_by_hand(self.0.sim.mount(), PathBuf::from(ROOT))?;
        let mut logs = lock(&self.0.logs);
        logs.retain(|known| known.strong_count() > 0);
        logs.push(Arc::downgrade(&log.inner));
        Ok(log)
    }

    /// The clock of the logs on this disk.
    pub fn clock(&self) -> &ManualClock {
        &self.0.clock
    }

    /// Power off and on again: what was not synced is lost, torn or mixed, as the seed and the [options](DiskOptions::loss) have
    /// it. The logs that are open end, all their handles answer with errors from now on, and their locks are released, so that the
    /// disk can be [opened](Self::open) right away. Faults that are still to come stay.
    pub fn power_loss(&self) {
        self.0.sim.power_loss();
        self.end_logs();
    }

    /// The process dies, the machine goes on: nothing is lost that was written, synced or not. The logs that are open end as in
    /// [`power_loss`](Self::power_loss), and what was not synced can still be lost in one.
    pub fn kill(&self) {
        self.0.sim.kill();
        self.end_logs();
    }

    /// Ends the logs that are open, on a disk that they do not reach any more.
    pub(super) fn end_logs(&self) {
        let logs = std::mem::take(&mut *lock(&self.0.logs));
        for log in logs.iter().filter_map(Weak::upgrade) {
            // Nothing of it gets through: it only ends those who wait.
            if let Err(error) = log.close() {
                tracing::debug!(%error, "a log has ended with its process");
            }
        }
    }

    /// A copy of the disk with a clock of its own, and without the logs that are open: for losing the power of one state in many
    /// ways. What is not decided yet follows from `seed`.
    pub fn fork(&self, seed: u64) -> Self {
        let openings = self.0.openings.load(Ordering::Relaxed);
        Self::of(self.0.sim.fork(seed), self.0.seed, ManualClock::new(self.0.clock.now()), openings)
    }

    /// Has the power go at call number `call`: it is done, done in part or not done, by the seed, and from then on nothing gets
    /// through until [`power_loss`](Self::power_loss) or [`kill`](Self::kill).
    pub fn lose_power_at(&self, call: u64) {
        self.0.sim.crash_at(call);
    }

    /// The same, at a call that is done or is not.
    pub(super) fn lose_power_at_a_call(&self, call: u64, done: bool) {
        self.0.sim.crash_at_a_call(call, done);
    }

    /// Whether the power went at the call of [`lose_power_at`](Self::lose_power_at), and has not come back.
    pub fn is_off(&self) -> bool {
        self.0.sim.is_off()
    }

    /// How many calls there were that change something. They are numbered from 0: the next one is number `calls()`.
    pub fn calls(&self) -> u64 {
        self.0.sim.calls()
    }

    /// The same, by what they do.
    ///
    /// ```
    /// use annals::testing::SimulatedDisk;
    /// use annals::{Log, Raw, Record, TopicDef, TopicSettings};
    ///
    /// const ORDERS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("orders");
    ///
    /// # fn main() -> annals::Result<()> {
    /// let disk = SimulatedDisk::new(17);
    /// let log = disk.open(Log::builder())?;
    /// let topic = log.blocking_create_topic(ORDERS, TopicSettings::default())?;
    ///
    /// let before = disk.call_counts().syncs;
    /// topic.blocking_produce_batch((0..100).map(|_| Record::new("paid".into())))?;
    /// assert_eq!(disk.call_counts().syncs, before + 1);   // one sync for all of them
    /// # Ok(()) }
    /// ```
    pub fn call_counts(&self) -> CallCounts {
        let sum = |steps: &[Step]| steps.iter().map(|step| self.0.sim.count(*step)).sum();
        CallCounts {
            writes: sum(&[Step::Write, Step::SetLen]),
            stores: sum(&[Step::Store]),
            syncs: sum(&[Step::SyncData]),
            directory_syncs: sum(&[Step::SyncDir]),
            names: sum(&[Step::CreateDir, Step::CreateFile, Step::Rename, Step::Remove]),
        }
    }

    /// The last call that changes something, in words.
    pub(super) fn last_call(&self) -> &'static str {
        match self.0.sim.last_call() {
            Some(Step::CreateDir) => "a directory being created",
            Some(Step::CreateFile) => "a file being created",
            Some(Step::Rename) => "a file being renamed",
            Some(Step::Remove) => "a file being removed",
            Some(Step::SyncDir) => "the sync of a directory",
            Some(Step::SetLen) => "the length of a file being set",
            Some(Step::SyncData) => "the sync of a file",
            Some(Step::Store) => "a store into a file",
            Some(Step::Write) => "a write to a file",
            Some(Step::Lock | Step::List | Step::Open | Step::Read | Step::Len) | None => "no call",
        }
    }

    /// A hash of all calls to this disk and of what they answered, reads included: two runs of one seed that did the same have
    /// the same.
    pub fn trace(&self) -> u64 {
        self.0.sim.trace_hash()
    }

    /// Fails, once, the first call from number `call` on to which the fault means something.
    ///
    /// ```
    /// use annals::testing::{Fault, SimulatedDisk};
    /// use annals::{ErrorKind, Log, Raw, Record, TopicDef, TopicSettings};
    ///
    /// const ORDERS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("orders");
    ///
    /// # fn main() -> annals::Result<()> {
    /// let disk = SimulatedDisk::new(17);
    /// let log = disk.open(Log::builder())?;
    /// let topic = log.blocking_create_topic(ORDERS, TopicSettings::default())?;
    ///
    /// disk.fail_call(disk.calls(), Fault::FailedSync);
    /// let error = topic.blocking_produce(Record::new("paid".into())).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Poisoned);   // nobody knows what is on the disk now
    /// # Ok(()) }
    /// ```
    pub fn fail_call(&self, call: u64, fault: Fault) {
        self.0.sim.fail_at(call, fault.sim());
    }

    /// Fails every call from number `call` on to which the fault means something, until [`clear_faults`](Self::clear_faults).
    pub fn fail_calls_from(&self, call: u64, fault: Fault) {
        self.0.sim.fail_from(call, fault.sim());
    }

    /// Forgets the faults that are still to come. What has failed stays as it is.
    pub fn clear_faults(&self) {
        self.0.sim.clear_faults();
    }

    /// How many calls have failed as they were told.
    pub fn faults_hit(&self) -> u64 {
        self.0.sim.faults_hit()
    }

    /// Sets how many bytes the files can take up, in whole pages of 4 KiB; `None` sets no limit. Below what they
    /// [take up](Self::used) nothing can grow.
    pub fn set_capacity(&self, bytes: impl Into<Option<u64>>) {
        self.0.sim.set_capacity(bytes.into());
    }

    /// The bytes that the files take up, in whole pages of 4 KiB.
    pub fn used(&self) -> u64 {
        self.0.sim.used()
    }
}
