//! A disk that loses power: deterministic from a seed, and quick enough for hundreds of thousands of crashes a run.
//!
//! Every file has a live image, which reads see, and a durable one, which a power loss leaves. So has every directory.
//!
//! | call | live | durable |
//! |---|---|---|
//! | `write_at`, `set_len` | at once | page by page, whenever the kernel likes ([`SimOptions::writeback_one_in`]) |
//! | `sync_data` | | the bytes and the length of that file |
//! | `create_dir`, `open(CreateNew)`, `rename`, `remove_*` | at once | |
//! | `sync_dir` | | the names in that directory, and what they depend on |
//!
//! What is not durable when the [power goes](SimDisk::power_loss) is decided by the seed: each page old, new or mixed by
//! sector; the length old, new or between; the changes of a directory lost, kept up to one of them, or each by itself.
//!
//! A process is [killed](SimDisk::kill) without the disk losing anything, yet what it had not synced stays unsynced. Both
//! ends make all earlier handles answer "the power is off" and release all locks. An engine whose threads may outlive its
//! end in a test should be given [`SimDisk::mount`], which dies with it; the `SimDisk` itself can always be used.
//!
//! Calls that change something are numbered from 0: call `k` is the one that is made when [`SimDisk::calls`] is `k`.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Entry, Lock, OpenMode, Storage};
use content::{Content, Fate};
use dice::Hash;
use handle::Mount;
#[cfg(feature = "testing")]
pub(crate) use state::Step;
use state::{Scheduled, State};

mod content;
mod dice;
mod handle;
mod state;
#[cfg(test)]
mod tests;
mod tree;

/// What a [`SimDisk`] is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SimOptions {
    pub(crate) loss: Loss,
    /// Once in so many writes the kernel writes a dirty page of that file back by itself; 0 for never.
    pub(crate) writeback_one_in: u64,
    /// How many bytes files can take up, in whole pages of 4 KiB.
    pub(crate) capacity: Option<u64>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self { loss: Loss::Seeded, writeback_one_in: 8, capacity: None }
    }
}

/// What a power loss leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Whatever the seed says, all and nothing included.
    Seeded,
    /// Nothing, but for pages that the kernel wrote back by itself.
    Oldest,
    /// All.
    Newest,
}

/// How a call fails. A fault that means nothing to a call waits for one that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SimFault {
    /// Any call: `EIO`, and nothing is done. After a failed sync the pages are still dirty.
    Eio,
    /// Any call but a removal: `ENOSPC`, and nothing is done; of a `sync_data`, as with [`SimFault::FsyncDrop`].
    Enospc,
    /// A `write_at` of half the bytes, yet one at least, that succeeds.
    ShortWrite,
    /// A `sync_data` that answers `EIO` and leaves some or all dirty pages unwritten, yet clean, as Linux does: the next
    /// sync succeeds without writing them, and a power loss brings their old bytes back.
    FsyncDrop,
    /// A `write_at` that succeeds, but puts the bytes a page too far or too early.
    Misdirect,
}

/// The simulated disk. Clones are the same disk; see [`SimDisk::fork`] for a copy.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared(Mutex<State>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimDisk {
    /// An empty disk.
    pub(crate) fn new(seed: u64, options: SimOptions) -> Self {
        Self { shared: Arc::new(Shared(Mutex::new(State::new(seed, options)))) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// The disk as the process sees it that runs now: dead from the next [`kill`](Self::kill) or
    /// [`power_loss`](Self::power_loss) on, as handles are.
    pub(crate) fn mount(&self) -> Arc<dyn Storage> {
        Arc::new(self.mounted())
    }

    fn mounted(&self) -> Mount {
        Mount::new(Arc::clone(&self.shared), self.state().epoch())
    }

    /// A deep copy of both images, with choices of its own, without handles and locks: for crashing one state in many ways.
    /// The schedule of faults is copied, too.
    pub(crate) fn fork(&self, seed: u64) -> Self {
        Self { shared: Arc::new(Shared(Mutex::new(self.state().fork(seed)))) }
    }

    /// Power off and on again: only what is durable is left, as far as the seed has it.
    pub(crate) fn power_loss(&self) {
        self.state().power_loss();
    }

    /// The process dies, the machine goes on: the live image stays, unsynced as it is.
    pub(crate) fn kill(&self) {
        self.state().kill();
    }

    /// Fails the first call from number `call` on to which the fault means something.
    pub(crate) fn fail_at(&self, call: u64, fault: SimFault) {
        self.state().schedule(Scheduled { call, fault, once: true });
    }

    /// Fails every call from number `call` on to which the fault means something, until [`Self::clear_faults`].
    pub(crate) fn fail_from(&self, call: u64, fault: SimFault) {
        self.state().schedule(Scheduled { call, fault, once: false });
    }

    /// Forgets the faults that are still to come, not the crash.
    pub(crate) fn clear_faults(&self) {
        self.state().clear_faults();
    }

    /// How many calls have failed on schedule.
    pub(crate) fn faults_hit(&self) -> u64 {
        self.state().faults_hit()
    }

    /// How often something was stored through memory.
    pub(crate) fn stores(&self) -> u64 {
        self.state().stores()
    }

    /// From call number `call` on nothing answers but "the power is off". That call itself is done, done in part or not
    /// done, by the seed. [`Self::power_loss`] or [`Self::kill`] ends this.
    pub(crate) fn crash_at(&self, call: u64) {
        self.state().crash_at(call, None);
    }

    /// The same; that call is done, or it is not.
    #[cfg(feature = "testing")]
    pub(crate) fn crash_at_a_call(&self, call: u64, done: bool) {
        self.state().crash_at(call, Some(done));
    }

    /// Whether the call of [`Self::crash_at`] has come, and no reboot since.
    pub(crate) fn is_off(&self) -> bool {
        self.state().is_off()
    }

    /// Sets how many bytes files can take up, in whole pages of 4 KiB; below what they do take up, nothing can grow.
    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.state().set_capacity(bytes);
    }

    /// The bytes that files take up, in whole pages.
    pub(crate) fn used(&self) -> u64 {
        self.state().used()
    }

    /// How many calls there were that change something.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls()
    }

    #[cfg(feature = "testing")]
    /// How often a step that changes something was called.
    pub(crate) fn count(&self, step: Step) -> u64 {
        self.state().count(step)
    }

    #[cfg(feature = "testing")]
    /// The last call that changes something: the one at which the power went, if it [is off](Self::is_off).
    pub(crate) fn last_call(&self) -> Option<Step> {
        self.state().last()
    }

    /// A hash of all calls and their results so far, reads included: two runs of one seed must agree.
    pub(crate) fn trace_hash(&self) -> u64 {
        self.state().trace_hash()
    }

    /// A hash of all names and bytes in both images.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hash = Hash::new();
        let state = self.state();
        state.tree().hash_live(&mut hash);
        state.tree().hash_durable(&mut hash);
        hash.value()
    }

    /// The live bytes of a file. Like the other looks and damages below it is no call, and works with the power off.
    pub(crate) fn read_file(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let state = self.state();
        let id = state.tree().lookup(path.as_ref()).expect("the file exists");
        let content = state.tree().content(id).expect("it is a file");
        let mut bytes = vec![0; content.len() as usize];
        content.read(&mut bytes, 0);
        bytes
    }

    /// Replaces or creates a file in both images. Handles that are open stay on it.
    pub(crate) fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        self.state().tree_mut().plant(path.as_ref(), bytes).expect("the directory exists");
    }

    /// Cuts or grows a file in both images, and settles the rest of it.
    pub(crate) fn truncate(&self, path: impl AsRef<Path>, len: u64) {
        self.damage(path.as_ref(), |content| {
            content.set_len(len);
            content.sync();
        });
    }

    /// Flips one bit in both images.
    pub(crate) fn flip_bit(&self, path: impl AsRef<Path>, byte: u64, bit: u8) {
        self.damage(path.as_ref(), |content| content.flip_bit(byte, bit));
    }

    fn damage(&self, path: &Path, change: impl FnOnce(&mut Content)) {
        let mut state = self.state();
        let id = state.tree().lookup(path).expect("the file exists");
        state.tree_mut().change(id, change).expect("it is a file");
    }

    /// The paths of all files that can be seen, sorted within each directory.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.state().tree().paths()
    }

    /// Whether a power loss could take nothing from this file's bytes (its name is another matter).
    pub(crate) fn is_settled(&self, path: impl AsRef<Path>) -> bool {
        let state = self.state();
        let id = state.tree().lookup(path.as_ref()).expect("the file exists");
        state.tree().content(id).expect("it is a file").is_settled()
    }
}

impl From<Loss> for Fate {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::Seeded => Fate::Each,
            Loss::Oldest => Fate::Oldest,
            Loss::Newest => Fate::Newest,
        }
    }
}

/// The disk as whoever calls at this moment sees it.
impl Storage for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.mounted().create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.mounted().list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn super::File>> {
        self.mounted().open(path, mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.mounted().rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.mounted().remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.mounted().remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.mounted().sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.mounted().lock(path)
    }
}
