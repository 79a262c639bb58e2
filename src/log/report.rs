//! What opening a log has found.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::partition::recover::Findings;

/// What opening a log has found and done. A log that was closed cleanly has nothing to tell.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether the log was created by this opening.
    pub created: bool,
    /// Whether the log had been closed cleanly.
    pub clean: bool,
    /// The epoch: raised at each opening after an unclean close.
    pub epoch: u64,
    /// Topics found.
    pub topics: usize,
    /// Partitions found.
    pub partitions: usize,
    /// Commits over several partitions that the journal held.
    pub journal_entries: u64,
    /// Frames written back from the journal into partition files that did not have them.
    pub journal_frames_restored: u64,
    /// Bytes read beyond the last checkpoint.
    pub scanned_bytes: u64,
    /// Records found beyond the last checkpoint, and kept.
    pub adopted_records: u64,
    /// Bytes of unfinished writes that were cut off; nothing acknowledged is among them.
    pub cut_bytes: u64,
    /// Where the bytes that were cut off are kept.
    pub cut_saved: Vec<PathBuf>,
    /// Damage, of kind [`Corrupt`](crate::ErrorKind::Corrupt). A partition that is damaged takes no records and is readable
    /// up to the damage; all others serve on.
    pub damage: Vec<Error>,
    /// How long the opening took.
    pub took: Duration,
}

impl RecoveryReport {
    /// Adds what one partition had to tell.
    pub(super) fn add(&mut self, findings: Findings) {
        self.partitions += 1;
        self.scanned_bytes += findings.scanned_bytes;
        self.adopted_records += findings.adopted_records;
        self.cut_bytes += findings.cut_bytes;
        self.cut_saved.extend(findings.cut_saved);
        self.damage.extend(findings.damage);
    }
}
