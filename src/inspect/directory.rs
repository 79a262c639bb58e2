//! The directory of a log as it lies there: read without a lock, and without changing anything.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Corruption, Error, ErrorKind, Result};
use crate::format::FormatError;
use crate::format::checkpoint::CheckpointEntry;
use crate::format::manifest::{MANIFEST_SLOT_BYTES, MANIFEST_SLOT_STRIDE, Manifest};
use crate::log::catalogue::TOPICS_DIR;
use crate::log::checkpoint;
use crate::log::manifest_file::MANIFEST_NAME;
use crate::log::names::validate_topic_name;
use crate::log::settings::Durability;
use crate::log::topic::partition_dir;
use crate::log::topic_file::{TOPIC_FILE_BYTES_MAX, TOPIC_FILE_NAME, TopicFile};
use crate::segment::Owner;
use crate::storage::files::{read_full_at, read_small};
use crate::storage::{EntryKind, Env, OpenMode, Storage};

/// What the manifest and the checkpoint say, and the topics.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) root: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) checkpoint: BTreeMap<(u128, u32), CheckpointEntry>,
    pub(super) checkpoint_serial: u64,
    pub(super) topics: Vec<FoundTopic>,
    /// What costs no record.
    pub(super) notes: Vec<String>,
    /// Damage that is no partition's.
    pub(super) damage: Vec<Error>,
    /// That the checkpoint is lost: the next opening reads more, and writes another.
    pub(super) mended_by_opening: Option<Error>,
}

/// A topic whose file holds.
#[derive(Debug)]
pub(super) struct FoundTopic {
    pub(super) name: Arc<str>,
    pub(super) id: u128,
    pub(super) dir: PathBuf,
    pub(super) partitions: u32,
    pub(super) synced: bool,
}

impl FoundTopic {
    pub(super) fn owner(&self, partition: u32) -> Arc<Owner> {
        Arc::new(Owner { topic: Arc::clone(&self.name), topic_id: self.id, partition })
    }

    pub(super) fn partition_dir(&self, partition: u32) -> PathBuf {
        partition_dir(&self.dir, partition)
    }
}

impl Directory {
    pub(super) fn read(env: &Env, root: &Path) -> Result<Self> {
        let storage = &*env.storage;
        let mut notes = Vec::new();
        let manifest = read_manifest(storage, root, &mut notes)?;
        // Before the segments: whatever it says was on the disk by then.
        let last = checkpoint::read(storage, root, manifest.log_id);
        let lost = checkpoint::lost(last.as_ref(), &manifest);
        let mut found = Self {
            root: root.to_path_buf(),
            manifest,
            checkpoint_serial: last.as_ref().map_or(0, |last| last.serial).max(manifest.checkpoint),
            checkpoint: last
                .into_iter()
                .flat_map(|last| last.entries)
                .map(|entry| ((entry.topic_id, entry.partition), entry))
                .collect(),
            topics: Vec::new(),
            notes,
            damage: Vec::new(),
            mended_by_opening: lost,
        };
        found.read_topics(storage)?;
        Ok(found)
    }

    fn read_topics(&mut self, storage: &dyn Storage) -> Result<()> {
        let topics = self.root.join(TOPICS_DIR);
        let entries =
            storage.list(&topics).map_err(|error| Error::io(format!("cannot list {}", topics.display()), error))?;
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Dir) {
            if validate_topic_name(&entry.name).is_err() {
                continue;
            }
            let dir = topics.join(&entry.name);
            let shown = format!("{TOPICS_DIR}/{}/{TOPIC_FILE_NAME}", entry.name);
            let file = match read_small(storage, &dir.join(TOPIC_FILE_NAME), TOPIC_FILE_BYTES_MAX) {
                Ok(bytes) => TopicFile::decode(&bytes, &shown),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Deleted while it was looked at, or a foreign directory such as `lost+found`.
                    if storage.list(&dir.join("0")).is_err() {
                        continue;
                    }
                    Err(damaged(&shown, "a topic's settings are missing"))
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged(&shown, &error.to_string())),
                Err(error) => return Err(Error::io(format!("cannot read {shown}"), error)),
            };
            match file {
                Ok(file) if file.name == entry.name => self.topics.push(FoundTopic {
                    name: file.name.as_str().into(),
                    id: file.id.as_u128(),
                    dir,
                    partitions: file.settings.partitions,
                    synced: file.settings.durability == Durability::Sync,
                }),
                Ok(_) => self.damage.push(damaged(&shown, "a topic's directory has another topic's settings")),
                Err(error) if error.kind() == ErrorKind::Corrupt => self.damage.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The slot that holds.
pub(super) fn read_manifest(storage: &dyn Storage, root: &Path, notes: &mut Vec<String>) -> Result<Manifest> {
    let path = root.join(MANIFEST_NAME);
    let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
    let file = match storage.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no log in {}", root.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::invalid(format!("{} is not a directory", root.display())));
        }
        Err(error) => return Err(failed(error)),
    };
    let mut slots = Vec::new();
    let mut why = FormatError::Zeros;
    for slot in 0..2 {
        let mut bytes = [0; MANIFEST_SLOT_BYTES];
        let read = read_full_at(&*file, &mut bytes, slot * MANIFEST_SLOT_STRIDE).map_err(failed)?;
        match Manifest::decode(&bytes[..read]) {
            Ok(manifest) => slots.push(manifest),
            Err(error) if error.is_from_the_future() => {
                return Err(Error::invalid(format!("{}: {error}", path.display())));
            }
            // A new manifest has one slot.
            Err(FormatError::Zeros) => {}
            Err(error) => {
                why = error;
                notes.push(format!("slot {slot} of {MANIFEST_NAME} does not hold ({error}); the other one is used"));
            }
        }
    }
    slots
        .into_iter()
        .max_by_key(|manifest| manifest.serial)
        .ok_or_else(|| damaged(MANIFEST_NAME, &format!("neither slot of the manifest holds: {why}")))
}

/// Damage to a file as a whole.
pub(super) fn damaged(file: &str, what: &str) -> Error {
    Error::corrupt(
        what,
        Corruption {
            file: file.into(),
            topic: None,
            partition: None,
            position: 0,
            first_offset: None,
            next_offset: None,
        },
    )
}
