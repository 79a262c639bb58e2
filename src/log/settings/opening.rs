//! Settings of one opening of a log.

use super::{check, ranges};
use crate::error::Result;
use crate::storage::handles::OPEN_FILES_MAX;

/// What a log is told when it is opened. Nothing of it is kept on the disk: another opening may choose other sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    /// The largest atomic commit, and the bound of the memory for records that wait for one.
    pub(crate) commit_bytes_max: u64,
    /// The size of each journal file. Two of the largest commits fit, so that one never waits for the other's
    /// checkpoint.
    pub(crate) journal_bytes: u64,
    /// How much of each partition's end is kept in memory for those who follow it; 0 keeps nothing.
    pub(crate) tail_bytes_max: u64,
    /// Whether records of topics below the level `Sync` are stored through memory where that is safe.
    pub(crate) mapped_appends: bool,
    /// How many files of segments are open at once.
    pub(crate) open_files_max: u32,
    /// How fast the work in the background goes that may take long.
    pub(crate) maintenance_bytes_per_second_max: u64,
    /// The memory for the keys of one compaction.
    pub(crate) compaction_memory_bytes: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            commit_bytes_max: 8 << 20,
            journal_bytes: 16 << 20,
            tail_bytes_max: 256 << 10,
            mapped_appends: true,
            open_files_max: OPEN_FILES_MAX as u32,
            maintenance_bytes_per_second_max: 64 << 20,
            compaction_memory_bytes: 32 << 20,
        }
    }
}

impl LogSettings {
    pub(crate) fn validate(&self) -> Result<()> {
        check("commit_bytes_max", self.commit_bytes_max, ranges::COMMIT_BYTES_MAX)?;
        check("journal_bytes", self.journal_bytes, 2 * self.commit_bytes_max..=ranges::JOURNAL_BYTES_MAX)?;
        check("tail_bytes_max", self.tail_bytes_max, ranges::TAIL_BYTES_MAX)?;
        check("open_files_max", self.open_files_max, ranges::OPEN_FILES_MAX)?;
        check(
            "maintenance_bytes_per_second_max",
            self.maintenance_bytes_per_second_max,
            ranges::MAINTENANCE_BYTES_PER_SECOND,
        )
    }
}
