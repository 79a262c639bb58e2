//! Whether what was made of the records up to some place was made of the records that are there.

use std::sync::Arc;

use crate::error::Result;
use crate::find::mark_of;
use crate::partition::Partition;
use crate::replay::first_after;

/// Up to where records were read, and what the last of them is known by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) next_offset: u64,
    pub(super) commit: u64,
    pub(super) crc: u32,
}

/// The offset from which on the partition is not what was read; `None` if it is what it was.
///
/// After a power loss, and in an older copy of the log, what is written later has other commit numbers, or there is less. A log that was
/// copied back and written to uses the numbers again for other records: that the checksum tells.
pub(super) fn differs_at(partition: &Arc<Partition>, read: Read) -> Result<Option<u64>> {
    let Some(last) = read.next_offset.checked_sub(1) else { return Ok(None) };
    let end = partition.visible_end();
    if end < read.next_offset {
        return Ok(Some(end));
    }
    if let Some(later) = first_after(partition, read.commit, read.next_offset)? {
        return Ok(Some(later));
    }
    if last < partition.log_start() {
        return Ok(None);
    }
    // A compaction may have taken the record away; it does not change one.
    let mark = mark_of(partition, last)?;
    Ok(mark.filter(|mark| *mark != (read.commit, read.crc)).map(|_| last))
}
