//! What a partition has done for it in the background, and at its end: room ahead of the writer, indexes, the last sync.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use super::Partition;
use super::writer::{ROOM_BYTES_MAX, Writer};
use crate::error::Result;
use crate::planted::{self, Bug};
use crate::segment::lock;
use crate::storage::files::write_zeros;

/// Whether the numbers below are those for tests, whose files and frames are small and must have room ahead, too.
const SMALL: bool = cfg!(any(test, feature = "fuzzing"));
/// What a relaxed writer has ahead of it at the most, and at the least.
const RELAXED_ROOM_BYTES: RangeInclusive<u64> = if SMALL { 512..=512 } else { 4096..=128 * 1024 };
/// Of small segments it is one in so many parts.
const RELAXED_ROOM_ONE_IN: u64 = 16;
/// A segment that is smaller than so much room has none, so that quiet partitions stay small.
const RELAXED_ROOM_AFTER: u64 = if SMALL { 1 } else { 8 };
/// Larger frames are large writes themselves.
const RELAXED_FRAME_MAX: u64 = 2;
/// Larger frames are written, as one call for many pages is faster than the first store to each.
pub(super) const MAPPED_FRAME_BYTES_MAX: u64 = 4096;

/// How much room is made at once in segments of a size. The room also ends at a multiple of it: the system takes large pages for
/// large writes that are aligned.
fn relaxed_room_bytes(segment_bytes_max: u64) -> u64 {
    let part = segment_bytes_max / RELAXED_ROOM_ONE_IN;
    (part - part % RELAXED_ROOM_BYTES.start()).clamp(*RELAXED_ROOM_BYTES.start(), *RELAXED_ROOM_BYTES.end())
}

impl Partition {
    /// Writes zeros ahead of a relaxed writer that is about to write a frame of `len` bytes. It costs the system several times
    /// as much to bring a new page of a file into memory as to write over it, and the less a page the more a write brings. So
    /// one large write of zeros, and the frames over it, is faster than the frames alone. Nothing is synced, and nothing relies
    /// on the room: failing to make it is no error.
    #[inline]
    pub(super) fn make_relaxed_room(&self, writer: &mut Writer, len: usize) {
        let end = writer.place.position + len as u64;
        if end > self.prewritten.load(Ordering::Relaxed) {
            self.write_relaxed_room(writer, end);
        }
    }

    fn write_relaxed_room(&self, writer: &mut Writer, end: u64) {
        let position = writer.place.position;
        let segment_bytes_max = self.config.live.segment_bytes_max();
        let step = relaxed_room_bytes(segment_bytes_max);
        let from = self.prewritten.load(Ordering::Relaxed).max(position);
        let to = end.next_multiple_of(step).min(segment_bytes_max);
        if position < step * RELAXED_ROOM_AFTER || end - position > step * RELAXED_FRAME_MAX || to < end {
            return;
        }
        let Ok(file) = writer.file() else { return };
        // The one before is of no use any more, whatever happens.
        writer.window = None;
        let made = if planted::is(Bug::WindowOverHole) { file.set_len(to) } else { write_zeros(&*file, from, to) };
        if let Err(error) = made {
            tracing::debug!(%error, "no room ahead of the writer");
            return;
        }
        self.prewritten.store(to, Ordering::Release);
        if self.config.mapped && !self.config.synced && end - position <= MAPPED_FRAME_BYTES_MAX {
            writer.window = file.window(position, to).unwrap_or_else(|error| {
                tracing::debug!(%error, "no window: frames are written");
                None
            });
        }
    }

    /// Writes zeros ahead of the writer, so that its syncs need not change the file's size. Failing to is no error: the
    /// writer makes its own room then.
    pub(crate) fn make_room_ahead(&self) {
        let (file, from, to, is_journaled, _claim) = {
            let mut writer = lock(&self.writer);
            let Ok(claim) = self.prewriting.try_lock() else { return };
            if self.check_open().is_err() {
                return;
            }
            let from = self.prewritten.load(Ordering::Acquire).max(writer.place.position);
            let step = writer.room_step;
            let to = (writer.place.position + step).min(self.config.live.segment_bytes_max());
            let Ok(file) = writer.active.own_handle() else { return };
            writer.room_step = (step * 2).min(ROOM_BYTES_MAX);
            (file, from, to, writer.is_journaled, claim)
        };
        if from >= to {
            return;
        }
        match write_zeros(&*file, from, to) {
            // Many partitions that share their commits would else have as many syncs between those of the journal.
            Ok(()) => match if is_journaled { Ok(()) } else { file.sync_data() } {
                Ok(()) => self.prewritten.store(to, Ordering::Release),
                // The error may have been about somebody's records: syncs report for the whole file.
                Err(error) => drop(self.poison(error)),
            },
            Err(error) => tracing::debug!(%error, "no room ahead of the writer"),
        }
    }

    /// Recovery has found a file of `len` bytes, with zeros at its end. They are not relied on: a part of them may have no place on
    /// the disk.
    pub(super) fn has_room_behind(&self, len: u64) {
        lock(&self.writer).found_len = len;
    }

    /// Writes the indexes of segments that were sealed since the last call. Answers whether there were any.
    pub(crate) fn store_indexes(&self) -> bool {
        let unindexed = std::mem::take(&mut lock(&self.writer).unindexed);
        let sealed = !unindexed.is_empty();
        for (segment, place) in unindexed {
            if let Err(error) = segment.store_index(&place) {
                tracing::debug!(%error, "an index was not written; it will be rebuilt");
            }
        }
        sealed
    }

    /// Syncs and cuts the room ahead off, so that a closed log has no bytes but its own.
    pub(crate) fn finish(&self) -> Result<()> {
        self.write_deferred()?;
        let cut = {
            let mut writer = lock(&self.writer);
            let settled = lock(&self.prewriting);
            let end = self.prewritten.load(Ordering::Acquire).max(writer.found_len);
            let cut = self.failure().is_none() && end > writer.place.position;
            if cut {
                writer.window = None;
                let (file, position) = (writer.file()?, writer.place.position);
                file.set_len(position).map_err(|error| writer.active.io("cut", error))?;
                self.prewritten.store(position, Ordering::Release);
                writer.found_len = 0;
                writer.mark_unsynced();
            }
            drop(settled);
            cut
        };
        let unsynced = cut || !lock(&self.writer).unsynced.is_empty();
        if unsynced {
            self.sync_written()?;
        }
        self.store_indexes();
        Ok(())
    }
}
