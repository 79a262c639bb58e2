//! What the inspections answer with.

use std::ops::Range;
use std::path::PathBuf;

use crate::error::Error;

/// How far [`verify`](super::verify) has come.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// The topic that is being read.
    pub topic: String,
    /// The partition that is being read.
    pub partition: u32,
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes to read, as far as it is known; grows if the log does.
    pub bytes_total: u64,
    /// Records read.
    pub records: u64,
    /// Places that are damaged.
    pub damage: usize,
}

/// What [`verify`](super::verify) has found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Topics read.
    pub topics: usize,
    /// Partitions read.
    pub partitions: usize,
    /// Segment files read.
    pub segments: usize,
    /// Whole frames in them.
    pub frames: u64,
    /// Records in those.
    pub records: u64,
    /// Bytes of segments read.
    pub bytes: u64,
    /// Offsets that the frames say are not there: left out, or given up by a [`repair`](super::repair).
    pub absent_offsets: u64,
    /// Whole entries of the journal that recovery would read.
    pub journal_entries: u64,
    /// What costs no record: unfinished writes, files that are made anew when they are needed.
    pub notes: Vec<String>,
    /// Damage, each of kind [`Corrupt`](crate::ErrorKind::Corrupt) with the place where it is.
    pub damage: Vec<Error>,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    pub fn is_intact(&self) -> bool {
        self.damage.is_empty()
    }
}

/// What [`repair`](super::repair) is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairOptions {
    /// Whether anything is changed; by default nothing is.
    pub apply: bool,
}

impl RepairOptions {
    /// Sets whether anything is [changed](RepairOptions#structfield.apply).
    #[must_use]
    pub fn apply(mut self, apply: bool) -> Self {
        self.apply = apply;
        self
    }
}

/// What [`repair`](super::repair) has done, or would do.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// Whether it was done.
    pub applied: bool,
    /// Damage that the opening before a repair mends, as any opening does.
    pub by_opening: Vec<Error>,
    /// The partitions that are damaged.
    pub partitions: Vec<PartitionRepair>,
    /// Damage that cannot be repaired this way, with the reasons. It is left alone.
    pub left: Vec<Error>,
}

/// The repair of one partition.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PartitionRepair {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// What is damaged.
    pub damage: Vec<Error>,
    /// The offsets that are lost.
    pub lost: Vec<Range<u64>>,
    /// Records in the files that are written anew, all of which are kept.
    pub kept_records: u64,
    /// The steps, in their order, as sentences.
    pub steps: Vec<String>,
    /// Where the damaged files are kept, once they are.
    pub evidence: Vec<PathBuf>,
}
