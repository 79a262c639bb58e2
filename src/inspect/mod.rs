//! Looking into the files of a log: checking all of them, showing their bytes, and repairing what is damaged.
//!
//! [`verify`] and the dumps only read, and may run beside a program that has the log open. [`repair`] needs the log for itself.
//!
//! ```
//! # fn main() -> annals::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! use annals::{Log, Record, TopicSettings, inspect};
//!
//! let log = Log::blocking_open(dir)?;
//! let lines = annals::TopicDef::<bytes::Bytes, annals::Raw>::new("lines");
//! let topic = log.blocking_create_topic(lines, TopicSettings::default())?;
//! topic.blocking_produce(Record::new("one".into()))?;
//!
//! let report = inspect::verify(dir, |_| ())?;
//! assert!(report.is_intact() && report.records == 1);
//! # Ok(()) }
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::storage::Env;
use crate::storage::clock::{SystemClock, SystemRandom};
use crate::storage::disk::Disk;

mod directory;
mod dump;
mod dump_journal;
mod journal;
mod listing;
mod partition;
mod repair;
mod report;
mod rewrite;
mod segment;
mod verify;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use {repair::repair as repair_in, verify::verify as verify_in};

pub use dump::dump_segment;
pub use dump_journal::dump_journal;
pub use report::{PartitionRepair, RepairOptions, RepairReport, VerifyProgress, VerifyReport};

/// Reads every byte of the log in `dir` that holds records or decides about them, with every check: checksums of headers and
/// bodies, incarnations, offsets, footers, each record, the journal, the manifest, the topics' files. Writes nothing, needs no
/// lock, and may run while a program writes to the log.
///
/// What counts as damage is what recovery would call so: bytes that had been on the disk. The end of a write that is under way,
/// or was never finished, is none; nor is what an index or a footer lost that can be made anew: both are told in
/// [`VerifyReport::notes`].
///
/// `progress` is called again and again with how far the work has come.
///
/// # Errors
///
/// [`NotFound`](crate::ErrorKind::NotFound) if there is no log, [`Invalid`](crate::ErrorKind::Invalid) if it is a newer annals',
/// [`Corrupt`](crate::ErrorKind::Corrupt) if both slots of the manifest are damaged, so that nothing is known of the rest, and
/// [`Io`](crate::ErrorKind::Io). All other damage is in the report.
pub fn verify(dir: impl AsRef<Path>, progress: impl FnMut(&VerifyProgress)) -> Result<VerifyReport> {
    verify::verify(&env(), dir.as_ref(), progress)
}

/// Salvages partitions that are damaged. Without [`RepairOptions::apply`] it only tells what it would do and what would be lost.
///
/// Each damaged segment is copied aside (`*.damaged`, never deleted by annals) and written anew: every whole frame that is still
/// there, and, in the place of what is not, a hole, which readers pass over and which leaves no offset to be used twice. The new
/// file takes the old one's place as one, after it is on the disk and checked; a crash at any moment leaves the old file or the
/// new one.
///
/// Before, the log is opened and closed once, as any opening recovers it, since the journal may hold what is damaged.
///
/// # Errors
///
/// [`Locked`](crate::ErrorKind::Locked) if the log is open; as opening it, for damage that makes the whole log unreadable; and
/// [`StorageFull`](crate::ErrorKind::StorageFull) and [`Io`](crate::ErrorKind::Io), after which it may be run again.
pub fn repair(dir: impl AsRef<Path>, options: RepairOptions) -> Result<RepairReport> {
    repair::repair(&env(), dir.as_ref(), options)
}

/// How many files of segments are open while a repair has the log open.
const OPEN_FILES_MAX: usize = 64;

fn env() -> Env {
    Env::new(Arc::new(Disk), Arc::new(SystemClock), Arc::new(SystemRandom), OPEN_FILES_MAX)
}

/// A path as it is shown: relative to the log's directory.
fn relative(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_path_buf()
}
