//! The bytes of a frame, to where the writer has its place: stored or written, and taken away again if that has failed.

use std::io;
use std::sync::atomic::Ordering;

use super::room::MAPPED_FRAME_BYTES_MAX;
use super::writer::WriterGuard;
use crate::error::Result;
use crate::planted::{self, Bug};
use crate::segment::lock;
use crate::storage::files::{write_all_at, write_zeros};

impl WriterGuard<'_> {
    /// Writes at the end of the file. After an error the file is as it was.
    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        let end = position + bytes.len() as u64;
        if self.partition.config.synced && end > self.partition.prewritten.load(Ordering::Acquire) {
            // Whoever writes zeros ahead right now would write them over these bytes.
            self.settle();
        }
        let window = self.writer.window.as_mut().filter(|_| bytes.len() as u64 <= MAPPED_FRAME_BYTES_MAX);
        let stored = window.map_or(Ok(false), |window| window.store(bytes, position));
        let written = match stored {
            Ok(false) => {
                let file = self.writer.file()?;
                let written = write_all_at(&*file, bytes, position);
                if self.partition.config.synced {
                    self.held = Some(file);
                }
                written
            }
            stored => stored.map(drop),
        };
        let Err(error) = written else {
            if end > self.partition.prewritten.load(Ordering::Relaxed) {
                self.partition.prewritten.store(end, Ordering::Release);
            }
            return Ok(());
        };
        let failed = self.writer.active.io("write to", error);
        if planted::is(Bug::FailedWriteAdvances) {
            self.writer.place.position = end;
            return Err(failed);
        }
        self.cut_back(position, end);
        Err(failed)
    }

    /// Takes away what a failed write up to `end` may have left. If even that fails nothing may be written after it.
    pub(super) fn cut_back(&mut self, position: u64, end: u64) {
        self.settle();
        // No store may come to where the file ends.
        self.writer.window = None;
        let partition = self.partition;
        // The room that was there before is all that a full disk leaves, if it is not given back.
        let reserves = partition.config.live.reserve_bytes() > 0;
        let room = if reserves && !planted::is(Bug::ReserveGivenBack) {
            partition.prewritten.load(Ordering::Acquire).max(position)
        } else {
            position
        };
        let cut = self.writer.file().and_then(|file| {
            let cleared = room > position && write_zeros(&*file, position, end.min(room)).is_ok();
            let len = if cleared { room } else { position };
            // Synced, lest a power loss brings back in whole what was reported as not written.
            let cut = file.set_len(len).and_then(|()| file.sync_data()).map(|()| len);
            cut.map_err(|error| self.writer.active.io("cut back", error))
        });
        match cut {
            Ok(len) => partition.prewritten.store(len, Ordering::Release),
            Err(error) => drop(partition.poison(io::Error::other(error))),
        }
        if reserves {
            partition.wants_upkeep.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until nobody writes ahead. Holding the writer's lock, nobody can begin to.
    pub(super) fn settle(&self) {
        drop(lock(&self.partition.prewriting));
    }
}
