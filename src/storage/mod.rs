//! Everything annals knows about the outside world: files, the clock and randomness.
//!
//! The layers above speak to [`Storage`], [`File`], [`Clock`] and [`Random`] only, so the engine that serves a real disk is,
//! byte for byte, the engine that the simulator cuts the power of. Five implementations exist:
//!
//! | implementation | for |
//! |---|---|
//! | [`disk::Disk`] | the file system |
//! | [`memory::MemoryDisk`] | `Log::in_memory()` |
//! | [`read_only::ReadOnly`] | `Log::open_read_only()`: any other storage, without its changes |
//! | `sim::SimDisk` | tests, those of users (feature `testing`) among them: page-level power loss and faults, deterministic from a seed |
//! | `fault::FaultDisk` | tests: fails the k-th call of any other storage |

use std::fmt;
use std::io;
#[cfg(any(target_os = "linux", test, feature = "fuzzing", feature = "testing"))]
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub(crate) mod clock;
pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod fault;
pub(crate) mod files;
pub(crate) mod handles;
#[cfg(target_os = "linux")]
mod mapped;
pub(crate) mod memory;
pub(crate) mod parallel;
pub(crate) mod read_only;
#[cfg(any(test, feature = "fuzzing", feature = "testing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "others than tests use a part of it"))]
pub(crate) mod sim;
#[cfg(test)]
mod tests;

pub(crate) use clock::{Clock, Random};
use handles::Handles;

/// A place that holds directories and files.
///
/// Every method may be called from any thread. A name created, renamed or removed is durable only once [`sync_dir`] of its
/// parent has returned; the bytes of a file only once [`File::sync_data`] has. No method follows symbolic links out of the
/// directory that it is given: [`list`] reports them as [`EntryKind::Other`] and nobody opens those.
///
/// Everywhere: a missing name, or a missing directory above it, is `NotFound`; a file where a directory has to be is
/// `NotADirectory`; the empty path is the directory that relative paths start from.
///
/// [`sync_dir`]: Storage::sync_dir
/// [`list`]: Storage::list
pub(crate) trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Creates one directory level. `AlreadyExists` if the name is taken, `NotFound` if the parent is missing.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted by name; `NotFound` if it is missing, `NotADirectory` if it is a file.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Opens a file. `IsADirectory` if it is a directory, `InvalidInput` if it is anything else that is no plain file, a
    /// symbolic link among them; `AlreadyExists` under [`OpenMode::CreateNew`] whatever the name stands for.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Renames a file or a directory, replacing a file of the target name atomically. Handles that are open stay on the
    /// file they were opened on, be it renamed or replaced. A directory needs a target name that is free: a file there, or
    /// a directory with entries, is an error, and an empty directory is replaced on some systems only.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Handles that are open keep reading it. A directory is an error.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory; `DirectoryNotEmpty` if it is not.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes durable the names in a directory: those in it, not its own name in its parent, nor the bytes of the files.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether others may change what is here at any moment: a name may come to stand for another file.
    fn is_shared(&self) -> bool {
        false
    }
    /// Takes the exclusive lock that the file at `path` stands for, creating the file if need be. `WouldBlock` if another
    /// process, or another holder in this one, has it. Released when the answer is dropped, or when the process dies; the
    /// file stays, as removing it would let two owners lock two files of one name. Some systems let nobody else read the
    /// file meanwhile, so it is no place for anything worth reading.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// How many calls that wait for the device get more done than one after the other.
    fn calls_at_once(&self) -> usize {
        1
    }
    /// Whether paths are those of the operating system, so that others than annals can use them.
    fn is_file_system(&self) -> bool {
        false
    }
    /// How many bytes there is room for, below `path`, where somebody knows.
    fn free_bytes(&self, _path: &Path) -> Option<u64> {
        None
    }
}

/// How [`Storage::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new file, for reading and writing; `AlreadyExists` if the name is taken.
    CreateNew,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name, without its directory. A name that is not UTF-8 is reported lossily and with [`EntryKind::Other`].
    pub(crate) name: String,
    pub(crate) kind: EntryKind,
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Dir,
    /// A symbolic link, a socket, a name that is not UTF-8: none of ours.
    Other,
}

/// An open file. Calls may overlap; a read that overlaps a write sees, byte by byte, the old or the new.
///
/// [`write_at`](File::write_at) and [`set_len`](File::set_len) fail with `PermissionDenied` on a handle from
/// [`OpenMode::Read`]. `Interrupted` from any method means that nothing happened: call again.
pub(crate) trait File: fmt::Debug + Send + Sync {
    /// Reads at `position`; fewer bytes than asked for is no error, 0 is the end of the file.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes at `position`, growing the file with zeros if it is shorter; may write fewer bytes than given. After an error
    /// any part of the bytes may have been written.
    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file, or grows it with zeros. What was cut off does not come back when the file grows again.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns once every byte written before the call, through whichever handle, and the length, are on the disk
    /// (`fdatasync`). The name of a new file is another matter: see [`Storage::sync_dir`].
    ///
    /// After an error the state of everything written since the last success is unknown and must not be assumed to
    /// improve: a second call may succeed without having written anything.
    fn sync_data(&self) -> io::Result<()>;
    /// The part from `from` up to `to` as memory. Every byte of it must have been written before, through whichever handle, and
    /// the file must not be cut below `to` as long as the window is there: memory has no way to fail but to end the process.
    /// `None` where that could also come from a full disk, or where memory and files are not one.
    fn window(&self, _from: u64, _to: u64) -> io::Result<Option<Box<dyn Window>>> {
        Ok(None)
    }
}

/// A part of a file that is memory. What is stored is in the file at once, as if it had been written, without a call of the
/// system: it survives the end of the process, and [`File::sync_data`] puts it on the disk.
pub(crate) trait Window: fmt::Debug + Send + Sync {
    /// Stores bytes at `position` of the file, if all of them lie inside of the window. Answers whether they do.
    fn store(&mut self, bytes: &[u8], position: u64) -> io::Result<bool>;
}

/// Whether `len` bytes at `position` lie inside of a window.
#[cfg(any(target_os = "linux", test, feature = "fuzzing", feature = "testing"))]
fn is_inside(window: &Range<u64>, position: u64, len: usize) -> bool {
    window.start <= position && position.checked_add(len as u64).is_some_and(|end| end <= window.end)
}

/// Proof that [`Storage::lock`] was granted.
pub(crate) trait Lock: fmt::Debug + Send + Sync {}

/// The outside world as one value that every layer is handed.
#[derive(Debug, Clone)]
pub(crate) struct Env {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// The files of segments that are open.
    pub(crate) handles: Arc<Handles>,
}

impl Env {
    /// With so many files of segments open at once.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        open_files_max: usize,
    ) -> Self {
        Self { storage, clock, random, handles: Arc::new(Handles::new(open_files_max)) }
    }
}
