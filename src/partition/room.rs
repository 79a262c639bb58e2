//! What a partition has done for it in the background, and at its end: room ahead of the writer, indexes, the last sync.

use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use super::Partition;
use super::writer::{ROOM_BYTES_MAX, Writer};
use crate::error::Result;
use crate::planted::{self, Bug};
use crate::segment::{Segment, lock};
use crate::storage::File;
use crate::storage::files::{is_full, write_zeros};

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

/// What file systems find places for on the disk.
const PAGE_BYTES: u64 = 4096;

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

    /// Up to where there should be room ahead of a synced writer. A reserve lies behind that, also behind the end of a full
    /// segment: on a full disk no other can be begun.
    pub(super) fn room_end(&self, position: u64, step: u64) -> u64 {
        let live = &self.config.live;
        let reserve = if planted::is(Bug::ReserveNotMade) { 0 } else { live.reserve_bytes() };
        (position + step).min(live.segment_bytes_max()) + reserve
    }

    /// Makes the room that is kept for a full disk. Failing to is no error: it is tried again in the background.
    pub(crate) fn make_reserve(&self) {
        if self.config.live.reserve_bytes() > 0 {
            self.make_room_ahead();
        }
    }

    /// Makes it in a segment that is about to be the active one; or else takes that away, as the one in use has a reserve still.
    /// Answers up to where there is room.
    pub(super) fn reserve_in(&self, segment: &Segment) -> Result<u64> {
        let (from, reserve) = (segment.readable(), self.config.live.reserve_bytes());
        if reserve == 0 {
            return Ok(from);
        }
        let make = || -> Result<()> {
            let file = segment.file()?;
            let made = write_zeros(&*file, from, from + reserve).and_then(|()| file.sync_data());
            made.map_err(|error| segment.io("make room in", error))
        };
        make().inspect_err(|_| {
            if let Err(error) = segment.storage().remove_file(segment.path()) {
                tracing::debug!(%error, "a segment that was not begun is left to the next open");
            }
        })?;
        Ok(from + reserve)
    }

    /// Writes zeros ahead of the writer, so that its syncs need not change the file's size. Failing to is no error: the
    /// writer makes its own room then.
    pub(crate) fn make_room_ahead(&self) {
        let (file, from, to, is_unsynced, _claim) = {
            let mut writer = lock(&self.writer);
            let Ok(claim) = self.prewriting.try_lock() else { return };
            if self.check_open().is_err() {
                return;
            }
            let from = self.prewritten.load(Ordering::Acquire).max(writer.place.position);
            let step = writer.room_step;
            let to = self.room_end(writer.place.position, step);
            let Ok(file) = writer.active.own_handle() else { return };
            writer.room_step = (step * 2).min(ROOM_BYTES_MAX);
            // A reserve that is only in the cache may have no place on the disk.
            (file, from, to, writer.is_journaled && self.config.live.reserve_bytes() == 0, claim)
        };
        if from >= to {
            return;
        }
        match self.fill(&*file, from, to) {
            // Many partitions that share their commits would else have as many syncs between those of the journal.
            Ok(to) => match if is_unsynced { Ok(()) } else { file.sync_data() } {
                Ok(()) => self.prewritten.store(to, Ordering::Release),
                // The error may have been about somebody's records: syncs report for the whole file.
                Err(error) => drop(self.poison(error)),
            },
            Err(error) => tracing::debug!(%error, "no room ahead of the writer"),
        }
    }

    /// Writes zeros; of a reserve as many as there is room for. Answers up to where.
    fn fill(&self, file: &dyn File, from: u64, to: u64) -> io::Result<u64> {
        match write_zeros(file, from, to) {
            Err(error) if is_full(&error) && self.config.live.reserve_bytes() > 0 => {
                // A system may refuse all of a write of which a part has room.
                let mut end = from;
                while end < to && write_zeros(file, end, to.min((end + 1).next_multiple_of(PAGE_BYTES))).is_ok() {
                    end = to.min((end + 1).next_multiple_of(PAGE_BYTES));
                }
                if end > from { Ok(end) } else { Err(error) }
            }
            written => written.map(|()| to),
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

    /// Syncs and cuts the room ahead off, so that a closed log has no bytes but its own and what it keeps for a full disk.
    pub(crate) fn finish(&self) -> Result<()> {
        self.write_deferred()?;
        let cut = {
            let mut writer = lock(&self.writer);
            let settled = lock(&self.prewriting);
            let end = self.prewritten.load(Ordering::Acquire).max(writer.found_len);
            let kept = writer.place.position + self.config.live.reserve_bytes();
            let cut = self.failure().is_none() && end > kept;
            if cut {
                writer.window = None;
                writer.file()?.set_len(kept).map_err(|error| writer.active.io("cut", error))?;
                self.prewritten.store(kept.min(self.prewritten.load(Ordering::Acquire)), Ordering::Release);
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
