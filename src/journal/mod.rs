//! The journal: a ring of pre-written files that makes a commit over several partitions one write and one sync.
//!
//! Invariants:
//! - An entry is acknowledged only after the file's `sync_data` has returned.
//! - A file is written over only after the manifest, durably, no longer counts it among those that recovery needs.
//! - Entry numbers ascend by one over all files, so a missing or damaged entry cannot pass unnoticed unless it is the last.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::journal::{EntryBuilder, JOURNAL_HEADER_BYTES, JournalHeader};
use crate::planted::{self, Bug};
use crate::storage::files::{create_dirs, is_full, write_all_at, write_zeros};
use crate::storage::{Env, File, OpenMode};

pub(crate) mod follow;
pub(crate) mod recover;

#[cfg(test)]
mod tests;

/// Files of the ring as long as checkpoints keep up.
const RING_FILES: usize = 2;
/// The first file's size at the most; each later one is twice as large, up to what is configured. A log with few commits over
/// several partitions stays small, and its first such commit does not wait for a large file.
/// (The simulation has small journals, and wants them to grow.)
const FIRST_FILE_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 1 << 20 };
/// Files at the most, when a failed partition keeps the journal from being freed.
const RING_FILES_MAX: usize = 16;

/// The files that recovery needs: `first..next`, by sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) first: u64,
    pub(crate) next: u64,
}

/// The journal of a log that is open.
#[derive(Debug)]
pub(crate) struct Journal {
    env: Env,
    dir: PathBuf,
    log_id: u128,
    /// The size of a file, once the ring has grown.
    file_bytes: u64,
    /// The size of the next file.
    next_bytes: u64,
    active: Option<Active>,
    /// The names of the files that were found are durable.
    names_synced: bool,
    /// The manifest counts the active file among those that recovery reads.
    counted: bool,
    /// Files that hold entries not yet checkpointed, oldest first, the active one last.
    live: VecDeque<(u64, usize)>,
    free: Vec<usize>,
    slots: usize,
    next_sequence: u64,
    next_entry: u64,
    durable_entry: u64,
    builder: EntryBuilder,
    failure: Option<Error>,
}

#[derive(Debug)]
struct Active {
    file: Arc<dyn File>,
    incarnation: u64,
    position: u64,
    bytes: u64,
}

/// Entries that are being put together for one write.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    entries: u64,
}

impl Journal {
    /// A journal that recovery has emptied: files 0 to `slots` exist, and none is needed.
    pub(crate) fn new(env: Env, dir: PathBuf, log_id: u128, file_bytes: u64, slots: usize, next_sequence: u64) -> Self {
        Self {
            env,
            dir,
            log_id,
            file_bytes,
            next_bytes: file_bytes.min(FIRST_FILE_BYTES),
            active: None,
            names_synced: false,
            counted: false,
            live: VecDeque::new(),
            free: (0..slots).rev().collect(),
            slots,
            next_sequence,
            next_entry: 0,
            durable_entry: 0,
            builder: EntryBuilder::default(),
            failure: None,
        }
    }

    /// Why no commit over several partitions is possible any more.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Whether `len` bytes of entries fit into the file in use.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.active.as_ref().is_some_and(|active| active.position + len as u64 <= active.bytes)
    }

    /// Whether the manifest counts the file in use; before that no entry in it may be acknowledged.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted
    }

    /// The manifest counts the file in use, durably.
    pub(crate) fn set_counted(&mut self) {
        self.counted = true;
    }

    /// Whether another file can be begun without waiting for a checkpoint.
    pub(crate) fn can_rotate(&self) -> bool {
        !self.free.is_empty() || self.slots < RING_FILES
    }

    /// The largest batch of entries that a file takes.
    pub(crate) fn batch_bytes_max(&self) -> u64 {
        self.file_bytes - JOURNAL_HEADER_BYTES as u64
    }

    /// The files that recovery needs.
    pub(crate) fn live(&self) -> Live {
        Live { first: self.live.front().map_or(self.next_sequence, |(first, _)| *first), next: self.next_sequence }
    }

    /// The newest file that no entry is added to any more.
    pub(crate) fn last_closed(&self) -> Option<u64> {
        self.live.len().checked_sub(2).and_then(|index| self.live.get(index)).map(|(sequence, _)| *sequence)
    }

    /// Begins another file, which has room for `len` bytes of entries. The caller must make the manifest count it before an
    /// entry in it is acknowledged.
    pub(crate) fn rotate(&mut self, len: usize) -> Result<()> {
        if self.free.is_empty() && self.slots >= RING_FILES_MAX {
            return Err(Error::new(
                ErrorKind::Poisoned,
                format!(
                    "the journal has grown to its limit of {RING_FILES_MAX} files, because a partition that failed keeps \
                     it from being freed; open the log again"
                ),
            ));
        }
        let needed = len as u64 + JOURNAL_HEADER_BYTES as u64;
        let bytes = self.next_bytes.max(needed).min(self.file_bytes);
        let (slot, file, bytes) =
            self.next_file(bytes, needed).map_err(|error| Error::io("cannot make a journal file", error))?;
        let incarnation = self.env.random.next_u64();
        let header = JournalHeader {
            log_id: self.log_id,
            sequence: self.next_sequence,
            incarnation,
            first_entry: self.next_entry,
            // The settings allow no more.
            file_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        };
        let begun = write_all_at(&*file, &header.encode(), 0).and_then(|()| file.sync_data());
        if let Err(error) = begun {
            self.free.push(slot);
            return Err(Error::io("cannot begin a journal file", error));
        }
        self.live.push_back((self.next_sequence, slot));
        self.next_sequence += 1;
        self.counted = false;
        self.active = Some(Active { file, incarnation, position: JOURNAL_HEADER_BYTES as u64, bytes });
        self.next_bytes = (bytes * 2).min(self.file_bytes).max(self.next_bytes);
        Ok(())
    }

    /// A free file of the ring, or a new one written full of zeros, so that no later sync has to change its size. Where the disk
    /// is full, one that cannot grow serves as it is if it has the bytes that are needed.
    fn next_file(&mut self, bytes: u64, needed: u64) -> io::Result<(usize, Arc<dyn File>, u64)> {
        let storage = &*self.env.storage;
        if !self.names_synced && !self.free.is_empty() {
            // An earlier process may have failed to make the names of the files durable that it left.
            create_dirs(storage, &self.dir)?;
            storage.sync_dir(&self.dir)?;
            self.names_synced = true;
        }
        if let Some(slot) = self.free.pop() {
            let prepared = storage.open(&self.dir.join(file_name(slot)), OpenMode::ReadWrite).and_then(|file| {
                let len = file.len()?;
                let grown = if len < bytes { write_zeros(&*file, len, bytes) } else { Ok(()) };
                match grown {
                    Err(error) if is_full(&error) && len >= needed => {
                        file.set_len(len)?;
                        Ok((slot, file, len))
                    }
                    grown => grown.map(|()| (slot, file, len.max(bytes))),
                }
            });
            if prepared.is_err() {
                self.free.push(slot);
            }
            return prepared;
        }
        let slot = self.slots;
        let path = self.dir.join(file_name(slot));
        create_dirs(storage, &self.dir)?;
        match storage.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = storage.open(&path, OpenMode::CreateNew)?;
        let filled =
            write_zeros(&*file, 0, bytes).and_then(|()| file.sync_data()).and_then(|()| storage.sync_dir(&self.dir));
        if let Err(error) = filled {
            // Half a file would keep the space that is short.
            return match storage.remove_file(&path) {
                Ok(()) => Err(error),
                Err(second) => Err(io::Error::new(error.kind(), format!("{error}; nor can it be removed: {second}"))),
            };
        }
        self.slots += 1;
        Ok((slot, file, bytes))
    }

    /// Adds one entry of a commit to `batch`.
    pub(crate) fn add(&mut self, batch: &mut Batch, commit: u64, fill: impl FnOnce(&mut EntryBuilder)) {
        let Some(active) = &self.active else { return };
        self.builder.clear();
        fill(&mut self.builder);
        let number = self.next_entry + batch.entries;
        let bytes = self.builder.finish(active.incarnation, number, self.durable_entry, commit);
        batch.bytes.extend_from_slice(bytes);
        batch.entries += 1;
    }

    /// Writes and syncs a batch. After an error of the write nothing has changed; after one of the sync the journal is
    /// poisoned.
    pub(crate) fn append(&mut self, batch: &mut Batch) -> Result<()> {
        let Some(active) = &mut self.active else {
            return Err(Error::new(ErrorKind::Io, "no journal file was begun"));
        };
        let len = batch.bytes.len() as u64;
        if let Err(error) = write_all_at(&*active.file, &batch.bytes, active.position) {
            // Entries that were written in whole would be found by a recovery though they are reported as not written.
            let cleared = match planted::is(Bug::JournalNotCleared) {
                false => write_zeros(&*active.file, active.position, active.position + len),
                true => Ok(()),
            }
            .and_then(|()| active.file.sync_data());
            if let Err(second) = cleared {
                return Err(self.poison(second));
            }
            return Err(Error::io("cannot write to the journal", error));
        }
        if !planted::is(Bug::JournalAckBeforeSync) {
            let mut synced = active.file.sync_data();
            if synced.is_err() && planted::is(Bug::RetriedSync) {
                synced = active.file.sync_data();
            }
            if let Err(error) = synced {
                return Err(self.poison(error));
            }
        }
        active.position += len;
        self.next_entry += batch.entries;
        self.durable_entry = self.next_entry;
        batch.bytes.clear();
        batch.entries = 0;
        Ok(())
    }

    fn poison(&mut self, source: io::Error) -> Error {
        let error = Error::with_source(
            ErrorKind::Poisoned,
            "a sync of the journal failed, so what the disk holds of the last commits is unknown; synced topics take no more \
             records until the log is opened again",
            source,
        );
        tracing::error!(%error, "journal poisoned");
        self.failure.get_or_insert(error).clone()
    }

    /// Frees the files up to `sequence`. The manifest must have stopped counting them before.
    pub(crate) fn free_upto(&mut self, sequence: u64) {
        while let Some((first, slot)) = self.live.front().copied().filter(|(first, _)| *first <= sequence) {
            self.live.pop_front();
            // Behind a file whose beginning failed: that one has this sequence number, perhaps durably, and comes next.
            self.free.insert(0, slot);
            if self.next_sequence == first + 1 {
                self.active = None;
            }
        }
    }
}

impl Batch {}

/// The name of a file of the ring.
pub(crate) fn file_name(slot: usize) -> String {
    format!("{slot:04}.journal")
}
