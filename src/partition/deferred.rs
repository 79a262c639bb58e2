//! Frames of journaled commits on their way into the partition's file.
//!
//! The journal holds them durably and readers have them from memory, so their write can wait until one call takes many of them:
//! small commits over many partitions would else pay a system call for each frame.

use std::sync::atomic::Ordering;

use super::Partition;
use super::writer::{Staged, WriterGuard};
use crate::error::Result;
use crate::storage::files::write_all_at;

/// So many bytes of published frames wait for their write at the most: then one write takes them all.
const DEFERRED_BYTES_MAX: usize = 16 * 1024;
/// The memory that a partition keeps for the next of them.
const DEFERRED_BYTES_KEPT: usize = 4 * 1024;

/// Frames that the journal holds and readers see, one after the other in the active segment, and not yet in its file. Many
/// small commits over many partitions would else pay a write for each frame.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    position: u64,
    next_offset: u64,
    bytes: Vec<u8>,
}

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn push(&mut self, staged: &Staged) {
        if self.is_empty() {
            self.position = staged.target.position;
        }
        debug_assert_eq!(self.position + self.bytes.len() as u64, staged.target.position, "frames lie side by side");
        self.bytes.extend_from_slice(&staged.bytes);
        self.next_offset = staged.header.next_offset();
    }
}

impl Partition {
    /// Whether published frames have begun to wait for their write, and nobody was told yet.
    #[inline]
    pub(crate) fn take_wants_write(&self) -> bool {
        self.wants_write.load(Ordering::Relaxed) && self.wants_write.swap(false, Ordering::AcqRel)
    }

    /// Writes the published frames that wait for it to the file.
    pub(crate) fn write_deferred(&self) -> Result<()> {
        self.writer().write_deferred()
    }
}

impl WriterGuard<'_> {
    /// Has a published frame written to its file, soon and together with others.
    pub(crate) fn defer(&mut self, staged: &Staged) -> Result<()> {
        let was_empty = self.writer.deferred.is_empty();
        self.writer.deferred.push(staged);
        if self.writer.deferred.bytes.len() >= DEFERRED_BYTES_MAX {
            return self.write_deferred();
        }
        if was_empty {
            self.partition.wants_write.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes the published frames that wait for it. An error poisons the partition: the journal keeps them for the next open,
    /// and memory keeps them for readers until then.
    pub(crate) fn write_deferred(&mut self) -> Result<()> {
        if self.writer.deferred.is_empty() {
            return Ok(());
        }
        if let Some(failure) = self.partition.failure() {
            return Err(failure.clone());
        }
        if self.writer.active.is_retired() {
            // The topic was deleted.
            return Ok(());
        }
        let file = self.writer.file()?;
        let Deferred { position, next_offset, bytes } = &mut self.writer.deferred;
        write_all_at(&*file, bytes, *position).map_err(|error| self.partition.poison(error))?;
        let (end, next_offset) = (*position + bytes.len() as u64, *next_offset);
        bytes.clear();
        // A quiet partition keeps no memory for it.
        bytes.shrink_to(DEFERRED_BYTES_KEPT);
        self.writer.mark_unsynced();
        self.writer.active.set_readable(end);
        self.partition.tail.written(next_offset);
        Ok(())
    }
}
