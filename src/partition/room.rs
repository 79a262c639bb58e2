//! What a partition has done for it in the background, and at its end: room ahead of the writer, indexes, the last sync.

use std::sync::atomic::Ordering;

use super::Partition;
use super::writer::ROOM_BYTES_MAX;
use crate::error::Result;
use crate::segment::lock;
use crate::storage::files::write_zeros;

impl Partition {
    /// Writes zeros ahead of the writer, so that its syncs need not change the file's size. Failing to is no error: the
    /// writer makes its own room then.
    pub(crate) fn make_room_ahead(&self) {
        let (file, from, to, _claim) = {
            let mut writer = lock(&self.writer);
            let Ok(claim) = self.prewriting.try_lock() else { return };
            if self.check_open().is_err() {
                return;
            }
            let from = self.prewritten.load(Ordering::Acquire).max(writer.place.position);
            let step = writer.room_step;
            let to = (writer.place.position + step).min(self.config.segment_bytes_max);
            let Ok(file) = writer.active.own_handle() else { return };
            writer.room_step = (step * 2).min(ROOM_BYTES_MAX);
            (file, from, to, claim)
        };
        if from >= to {
            return;
        }
        match write_zeros(&*file, from, to) {
            Ok(()) => match file.sync_data() {
                Ok(()) => self.prewritten.store(to, Ordering::Release),
                // The error may have been about somebody's records: syncs report for the whole file.
                Err(error) => drop(self.poison(error)),
            },
            Err(error) => tracing::debug!(%error, "no room ahead of the writer"),
        }
    }

    /// Writes the indexes of segments that were sealed since the last call.
    pub(crate) fn store_indexes(&self) {
        let unindexed = std::mem::take(&mut lock(&self.writer).unindexed);
        for (segment, place) in unindexed {
            if let Err(error) = segment.store_index(&place) {
                tracing::debug!(%error, "an index was not written; it will be rebuilt");
            }
        }
    }

    /// Syncs and cuts the room ahead off, so that a closed log has no bytes but its own.
    pub(crate) fn finish(&self) -> Result<()> {
        let cut = {
            let mut writer = lock(&self.writer);
            let settled = lock(&self.prewriting);
            let cut = self.failure().is_none() && self.prewritten.load(Ordering::Acquire) > writer.place.position;
            if cut {
                let (file, position) = (writer.file()?, writer.place.position);
                file.set_len(position).map_err(|error| writer.active.io("cut", error))?;
                self.prewritten.store(position, Ordering::Release);
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
