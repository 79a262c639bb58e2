//! The bytes of a frame, to where the writer has its place: stored or written, and taken away again if that has failed.

use std::io;
use std::sync::atomic::Ordering;

use super::room::MAPPED_FRAME_BYTES_MAX;
use super::writer::WriterGuard;
use crate::error::Result;
use crate::planted::{self, Bug};
use crate::segment::lock;
use crate::storage::files::write_all_at;

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
        self.cut_back(position);
        Err(failed)
    }

    /// Takes away what a failed write may have left. If even that fails nothing may be written after it.
    pub(super) fn cut_back(&mut self, position: u64) {
        self.settle();
        // No store may come to where the file ends.
        self.writer.window = None;
        let cut = self.writer.file().and_then(|file| {
            // Synced, lest a power loss brings back in whole what was reported as not written.
            file.set_len(position)
                .and_then(|()| file.sync_data())
                .map_err(|error| self.writer.active.io("cut back", error))
        });
        match cut {
            Ok(()) => self.partition.prewritten.store(position, Ordering::Release),
            Err(error) => drop(self.partition.poison(io::Error::other(error))),
        }
    }

    /// Waits until nobody writes ahead. Holding the writer's lock, nobody can begin to.
    pub(super) fn settle(&self) {
        drop(lock(&self.partition.prewriting));
    }
}
