//! The checkpoint: saying durably up to where the partition files need no recovery, and freeing the journal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::engine::Engine;
use crate::error::{Corruption, Error, Result};
use crate::format::checkpoint::{Checkpoint, CheckpointEntry};
use crate::format::manifest::Manifest;
use crate::partition::Partition;
use crate::planted::{self, Bug};
use crate::segment::lock;
use crate::storage::files::{read_small, replace_file};
use crate::storage::{Env, Storage};

/// The name of the file.
pub(crate) const CHECKPOINT_NAME: &str = "CHECKPOINT";
/// The largest checkpoint: more partitions than a directory will ever have.
const CHECKPOINT_BYTES_MAX: u64 = 256 << 20;
/// A synced partition is checkpointed after this many bytes, which bounds what an open after a crash reads.
pub(crate) const CHECKPOINT_BYTES: u64 = 16 << 20;
/// A relaxed one is synced for its checkpoint, so that comes more rarely.
pub(crate) const CHECKPOINT_BYTES_RELAXED: u64 = 64 << 20;

/// What the last checkpoint said.
#[derive(Debug, Default)]
pub(crate) struct Checkpointed {
    pub(crate) serial: u64,
    pub(crate) entries: BTreeMap<(u128, u32), CheckpointEntry>,
}

/// Reads the checkpoint file. One that is missing or damaged is no loss of records: recovery reads more then.
pub(crate) fn read(storage: &dyn Storage, root: &Path, log_id: u128) -> Option<Checkpoint> {
    let bytes = read_small(storage, &root.join(CHECKPOINT_NAME), CHECKPOINT_BYTES_MAX).ok()?;
    Checkpoint::decode(&bytes).ok().filter(|checkpoint| checkpoint.log_id == log_id)
}

/// What the checkpoint says of each partition.
pub(super) fn by_partition(checkpoint: Option<&Checkpoint>) -> BTreeMap<(u128, u32), CheckpointEntry> {
    let entries = checkpoint.into_iter().flat_map(|checkpoint| &checkpoint.entries);
    entries.map(|entry| ((entry.topic_id, entry.partition), *entry)).collect()
}

/// That the checkpoint which the manifest names is not there: since it is written first, it was lost. Recovery reads more then,
/// and takes each partition to start where its first file does.
pub(crate) fn lost(found: Option<&Checkpoint>, manifest: &Manifest) -> Option<Error> {
    let why = match found {
        Some(found) if found.serial >= manifest.checkpoint => return None,
        Some(_) => "is an older one",
        None if manifest.checkpoint == 0 => return None,
        None => "is missing or damaged",
    };
    let corruption = Corruption {
        file: CHECKPOINT_NAME.into(),
        topic: None,
        partition: None,
        position: 0,
        first_offset: None,
        next_offset: None,
    };
    let what =
        format!("the checkpoint {why}: damage at the very end of a partition cannot be told from an unfinished write");
    Some(Error::corrupt(what, corruption))
}

/// Writes the checkpoint file.
pub(crate) fn write(env: &Env, root: &Path, log_id: u128, checkpointed: &Checkpointed) -> Result<()> {
    let entries = checkpointed.entries.values().copied().collect();
    let file = Checkpoint { serial: checkpointed.serial, log_id, entries };
    replace_file(&*env.storage, root, CHECKPOINT_NAME, &file.encode())
        .map_err(|error| Error::io("cannot write the checkpoint", error))
}

impl Engine {
    /// Syncs what the journal holds, and what has grown far beyond the last checkpoint; says so in the checkpoint file; then
    /// frees the journal files that are in nobody's way any more.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.checkpoint_upto(|journal| journal.last_closed())
    }

    pub(super) fn checkpoint_upto(&self, upto: impl FnOnce(&crate::journal::Journal) -> Option<u64>) -> Result<()> {
        let mut checkpointed = lock(&self.checkpointed);
        // Whatever the files up to here hold was published by a commit that is over, or still has its partitions locked.
        let closed = upto(&lock(&self.journal));
        if planted::is(Bug::CheckpointBeforeSync)
            && let Some(sequence) = closed
        {
            self.free_journal(sequence)?;
        }
        let mut failed = None;
        for topic in self.topics() {
            for partition in topic.partitions().iter() {
                let journaled = partition.take_journaled();
                let grown = partition.since_checkpoint()
                    >= if partition.config.synced { CHECKPOINT_BYTES } else { CHECKPOINT_BYTES_RELAXED };
                if !journaled && !grown {
                    continue;
                }
                let synced =
                    if planted::is(Bug::CheckpointAhead) { Ok(()) } else { partition.sync_written().map(drop) };
                if let Err(error) = synced {
                    if journaled {
                        partition.mark_journaled();
                        failed = Some(error);
                    }
                    continue;
                }
                if let Some(entry) = partition.checkpoint_entry() {
                    checkpointed.entries.insert((entry.topic_id, entry.partition), entry);
                }
            }
        }
        self.write_checkpoint(&mut checkpointed)?;
        if let Some(error) = failed {
            return Err(error);
        }
        match closed {
            Some(sequence) => self.free_journal(sequence),
            None => Ok(()),
        }
    }

    /// Puts all of a partition on the disk and says so in the checkpoint file. Answers with the offset at which the segment
    /// begins that the file names now.
    pub(crate) fn checkpoint_of(&self, partition: &Partition) -> Result<u64> {
        let mut checkpointed = lock(&self.checkpointed);
        partition.sync_written()?;
        let Some(entry) = partition.checkpoint_entry() else { return Ok(0) };
        checkpointed.entries.insert(partition.key(), entry);
        self.write_checkpoint(&mut checkpointed)?;
        Ok(entry.place.segment_base)
    }

    /// Makes the checkpoint file say what `checkpointed` holds, and the manifest name it.
    pub(super) fn write_checkpoint(&self, checkpointed: &mut Checkpointed) -> Result<()> {
        let live: std::collections::BTreeSet<u128> = self.topics().iter().map(|topic| topic.id).collect();
        // A topic whose deletion has failed may be there again after a power loss, and starts where it did.
        let may_be_back = self.names_unknown.load(Ordering::Relaxed);
        checkpointed.entries.retain(|(topic, _), _| may_be_back || live.contains(topic));
        checkpointed.serial += 1;
        let serial = checkpointed.serial;
        write(&self.env, &self.root, self.id, checkpointed)?;
        lock(&self.manifest).update(|manifest| manifest.checkpoint = serial)
    }

    fn free_journal(&self, sequence: u64) -> Result<()> {
        let mut journal = lock(&self.journal);
        let next = journal.live().next;
        lock(&self.manifest).update(|manifest| {
            manifest.journal_first = sequence + 1;
            manifest.journal_next = next;
        })?;
        journal.free_upto(sequence);
        Ok(())
    }
}
