//! Topics as directories: found at open, created, grown and deleted so that a crash leaves the whole or nothing.
//!
//! A new topic is built under a name that no topic can have and then renamed; a deleted one is first renamed and then removed.
//! What a crash leaves under such names is removed at the next open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use uuid::Uuid;

use super::engine::Engine;
use super::names::{collides, is_reserved, validate_topic_name};
use super::open::new_id;
use super::settings::{Durability, LogSettings, TopicSettings};
use super::topic::{TopicState, partition_dir};
use super::topic_file::{TOPIC_FILE_BYTES_MAX, TOPIC_FILE_NAME, TopicFile};
use crate::error::{Corruption, Error, ErrorKind, Result};
use crate::partition::live::LiveSettings;
use crate::partition::recover::{self, Known};
use crate::partition::{Partition, PartitionConfig};
use crate::planted::{self, Bug};
use crate::segment::{Owner, create, lock};
use crate::storage::files::{read_small, remove_tree, replace_file};
use crate::storage::{EntryKind, Env, parallel};

/// The directory of all topics.
pub(crate) const TOPICS_DIR: &str = "topics";
const CREATING: &str = ".creating-";
const DELETED: &str = ".deleted-";

/// A topic's directory, and what its file says.
#[derive(Debug)]
pub(super) struct FoundTopic {
    pub(super) dir: PathBuf,
    pub(super) file: TopicFile,
}

/// Who the segments of a partition belong to.
pub(super) fn owner(topic: &Arc<str>, topic_id: u128, partition: u32) -> Arc<Owner> {
    Arc::new(Owner { topic: Arc::clone(topic), topic_id, partition })
}

/// What a partition needs to know.
pub(super) fn config(log_id: u128, log: &LogSettings, topic: &TopicSettings) -> PartitionConfig {
    PartitionConfig {
        log_id,
        synced: topic.durability == Durability::Sync,
        tail_bytes_max: log.tail_bytes_max as usize,
        mapped: log.mapped_appends,
        live: Arc::new(LiveSettings::new(topic.compression, topic.segment_bytes_max, topic.reserve_bytes)),
    }
}

/// The topics of the log in `root`. Directories that are none of ours are left alone; so are, unless it `mends`, those that an
/// unfinished creation or deletion has left.
pub(super) fn load(env: &Env, root: &Path, mends: bool) -> Result<Vec<FoundTopic>> {
    let topics = root.join(TOPICS_DIR);
    let storage = &*env.storage;
    let entries =
        storage.list(&topics).map_err(|error| Error::io(format!("cannot list {}", topics.display()), error))?;
    let is_left_over = |name: &str| name.starts_with(CREATING) || name.starts_with(DELETED);
    if mends && entries.iter().any(|entry| is_left_over(&entry.name)) {
        // A topic that a power loss brings back under its own name must not come back without its files.
        sync_dir(env, &topics)?;
    }
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Dir) {
        let dir = topics.join(&entry.name);
        if is_left_over(&entry.name) {
            if !mends {
                continue;
            }
            remove_tree(storage, &dir).map_err(|error| Error::io(format!("cannot remove {}", dir.display()), error))?;
            continue;
        }
        if validate_topic_name(&entry.name).is_err() {
            continue;
        }
        let shown = format!("{TOPICS_DIR}/{}/{TOPIC_FILE_NAME}", entry.name);
        let bytes = match read_small(storage, &dir.join(TOPIC_FILE_NAME), TOPIC_FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !mends && matches!(storage.list(&dir), Err(error) if error.kind() == io::ErrorKind::NotFound) {
                    // Its writer has deleted it meanwhile.
                    continue;
                }
                if is_partitioned(env, &dir)? {
                    return Err(damaged(&shown, "a topic's settings are missing"));
                }
                // A foreign directory, such as `lost+found`.
                continue;
            }
            Err(error) => return Err(Error::io(format!("cannot read {shown}"), error)),
        };
        let file = TopicFile::decode(&bytes, &shown)?;
        if file.name != entry.name {
            return Err(damaged(&shown, "a topic's directory has another topic's settings"));
        }
        found.push(FoundTopic { dir, file });
    }
    Ok(found)
}

fn sync_dir(env: &Env, dir: &Path) -> Result<()> {
    env.storage.sync_dir(dir).map_err(|error| Error::io(format!("cannot sync the directory {}", dir.display()), error))
}

/// Makes the names of all topics durable, and those in some directories.
pub(super) fn sync_names(env: &Env, root: &Path, dirs: Vec<PathBuf>) -> Result<()> {
    sync_dir(env, root)?;
    sync_dir(env, &root.join(TOPICS_DIR))?;
    parallel::for_each(&*env.storage, dirs, |dir| sync_dir(env, &dir)).map(drop)
}

fn is_partitioned(env: &Env, dir: &Path) -> Result<bool> {
    let entries = env.storage.list(dir).map_err(|error| Error::io(format!("cannot list {}", dir.display()), error))?;
    Ok(entries.iter().any(|entry| entry.kind == EntryKind::Dir && entry.name == "0"))
}

fn damaged(file: &str, what: &str) -> Error {
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

impl Engine {
    /// One topic.
    pub(crate) fn topic(&self, name: &str) -> Result<Arc<TopicState>> {
        self.check_open()?;
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).cloned().ok_or_else(|| {
            let missing =
                || Error::new(ErrorKind::NotFound, format!("there is no topic {}", crate::text::quoted(name)));
            // annals' own are looked for by annals, which takes no for an answer.
            self.check_takes_topics().err().filter(|_| !is_reserved(name)).unwrap_or_else(missing)
        })
    }

    /// Refuses where there can be no topics: whoever wants to read some has the wrong log.
    pub(crate) fn check_takes_topics(&self) -> Result<()> {
        self.no_topics.get().map_or(Ok(()), |why| Err(Error::new(ErrorKind::Unsupported, *why)))
    }

    /// The topic of this name with these settings, if it exists: found without any I/O.
    pub(crate) fn existing_topic(&self, name: &str, settings: &TopicSettings) -> Result<Option<Arc<TopicState>>> {
        settings.validate_in(&self.settings)?;
        self.check_open()?;
        self.existing(name, settings)
    }

    /// From now on no topic is created, for this reason.
    #[cfg(feature = "kafka")]
    pub(crate) fn refuse_topics(&self, why: &'static str) {
        self.no_topics.get_or_init(|| why);
    }

    /// Creates a topic. One that exists with the same settings is simply returned.
    pub(crate) fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<Arc<TopicState>> {
        if let Some(existing) = self.existing_topic(name, &settings)? {
            return Ok(existing);
        }
        self.check_takes_topics()?;
        let _one_at_a_time = self.change_catalogue()?;
        // Somebody else may have created it meanwhile.
        if let Some(existing) = self.existing(name, &settings)? {
            return Ok(existing);
        }
        let now = self.env.clock.now_micros();
        let id = new_id(&self.env, now);
        let topics = self.root.join(TOPICS_DIR);
        let (temporary, dir) = (topics.join(format!("{CREATING}{}", Uuid::from_u128(id))), topics.join(name));
        let name: Arc<str> = name.into();
        let file = TopicFile::new(Uuid::from_u128(id), &*name, now, settings.clone());
        let built = self.build(&temporary, &dir, &name, &file);
        if let Err(error) = built {
            self.undo_build(&temporary, &dir);
            return Err(error);
        }
        let mut partitions = Vec::with_capacity(settings.partitions as usize);
        for number in 0..settings.partitions {
            let opened = self.open_partition(&name, id, number, &dir, &settings);
            partitions.push(opened.inspect_err(|_| self.undo_build(&temporary, &dir))?);
        }
        let topic =
            Arc::new(TopicState::new(Arc::clone(&name), id, file.created_at.timestamp_micros(), settings, partitions));
        self.topics.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), Arc::clone(&topic));
        self.announce_catalogue();
        self.look_for_retention();
        Ok(topic)
    }

    fn existing(&self, name: &str, settings: &TopicSettings) -> Result<Option<Arc<TopicState>>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(name) {
            let has = topic.settings();
            return if has == *settings {
                Ok(Some(Arc::clone(topic)))
            } else {
                Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("topic {name} exists with other settings: it has {has:?}, asked for was {settings:?}"),
                ))
            };
        }
        match topics.keys().find(|other| collides(other, name)) {
            Some(other) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "topic {name} differs from topic {other} in case only; some file systems cannot tell them apart"
                ),
            )),
            None => Ok(None),
        }
    }

    /// Builds the topic's directory under a temporary name and renames it: after a crash it is there whole or not at all.
    fn build(&self, temporary: &Path, dir: &Path, name: &Arc<str>, file: &TopicFile) -> Result<()> {
        let storage = &*self.env.storage;
        let failed = |error| Error::io(format!("cannot create topic {name}"), error);
        storage.create_dir(temporary).map_err(failed)?;
        for number in 0..file.settings.partitions {
            self.build_partition(temporary, name, file.id.as_u128(), number)?;
        }
        // Syncs the names of the partitions along with that of the file.
        replace_file(storage, temporary, TOPIC_FILE_NAME, &file.encode()?).map_err(failed)?;
        storage.rename(temporary, dir).map_err(failed)?;
        if planted::is(Bug::TopicDirNotSynced) {
            return Ok(());
        }
        storage.sync_dir(&self.root.join(TOPICS_DIR)).map_err(failed)
    }

    /// Takes a topic away that could not be made durable. Best effort: the next open does the same.
    fn undo_build(&self, temporary: &Path, dir: &Path) {
        let storage = &*self.env.storage;
        let topics = self.root.join(TOPICS_DIR);
        let undo = || -> io::Result<()> {
            if storage.list(temporary).is_err() && storage.list(dir).is_ok() {
                self.names_unknown.store(true, Ordering::Relaxed);
                storage.rename(dir, temporary)?;
                // Before anything in it is removed, or a power loss may bring the topic back without it.
                storage.sync_dir(&topics)?;
            }
            remove_tree(storage, temporary)
        };
        if let Err(error) = undo() {
            tracing::debug!(%error, "an unfinished topic is left to the next open");
        }
    }

    /// Builds one partition, durable but for its name in the topic's directory.
    fn build_partition(&self, topic_dir: &Path, name: &Arc<str>, id: u128, number: u32) -> Result<()> {
        let storage = &*self.env.storage;
        let dir = partition_dir(topic_dir, number);
        let failed = |error| Error::io(format!("cannot create partition {number} of topic {name}"), error);
        match storage.create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        create::create(&self.env, &dir, &owner(name, id, number), self.id, 0, true)?;
        Ok(())
    }

    fn open_partition(
        &self,
        name: &Arc<str>,
        id: u128,
        number: u32,
        dir: &Path,
        settings: &TopicSettings,
    ) -> Result<Arc<Partition>> {
        let config = config(self.id, &self.settings, settings);
        let known = Known { log_start: Some(0), ..Known::default() };
        let (partition, _) =
            recover::open(&self.env, owner(name, id, number), config, partition_dir(dir, number), known)?;
        // Before the first record, which may be the last for which there is room.
        partition.make_reserve();
        Ok(Arc::new(partition))
    }

    /// Adds partitions, so that the topic has `count`.
    pub(crate) fn add_partitions(&self, name: &str, count: u32) -> Result<Arc<TopicState>> {
        let _one_at_a_time = self.change_catalogue()?;
        let topic = self.topic(name)?;
        let old = topic.settings();
        if count <= old.partitions {
            return Err(Error::invalid(format!(
                "topic {name} has {} partitions; their number can only grow, and {count} is no more",
                old.partitions
            )));
        }
        let settings = TopicSettings { partitions: count, ..old.clone() };
        settings.validate_in(&self.settings)?;
        let dir = self.root.join(TOPICS_DIR).join(name);
        let failed = |error| Error::io(format!("cannot add partitions to topic {name}"), error);
        let mut partitions = topic.partitions().to_vec();
        for number in old.partitions..count {
            // What an earlier attempt left is made anew, but never missing: the topic's file may count it already, if all
            // that failed was a sync.
            self.build_partition(&dir, &topic.name, topic.id, number)?;
            partitions.push(self.open_partition(&topic.name, topic.id, number, &dir, &settings)?);
        }
        // Their names first: a power loss may leave the file that counts them, and not what it counts.
        sync_dir(&self.env, &dir)?;
        let file = TopicFile::new(Uuid::from_u128(topic.id), name, topic.created_at, settings.clone());
        replace_file(&*self.env.storage, &dir, TOPIC_FILE_NAME, &file.encode()?).map_err(|error| {
            self.names_unknown.store(true, Ordering::Relaxed);
            failed(error)
        })?;
        topic.change(settings, partitions);
        self.announce_catalogue();
        Ok(topic)
    }

    /// Gives a topic other settings, at once and durably. What would mean to write its records anew is refused.
    pub(crate) fn alter_topic(&self, name: &str, settings: TopicSettings) -> Result<Arc<TopicState>> {
        settings.validate_in(&self.settings)?;
        let _one_at_a_time = self.change_catalogue()?;
        let topic = self.topic(name)?;
        let old = topic.settings();
        if settings.partitions != old.partitions {
            return Err(Error::invalid(format!(
                "topic {name} has {} partitions; their number is no setting to alter: add partitions instead",
                old.partitions
            )));
        }
        if (settings.durability == Durability::Sync) != (old.durability == Durability::Sync) {
            return Err(Error::invalid(format!(
                "topic {name} has the durability `{}` and cannot get `{}`: what it holds was written by other rules;                  create another topic",
                old.durability, settings.durability
            )));
        }
        let dir = self.root.join(TOPICS_DIR).join(name);
        let file = TopicFile::new(Uuid::from_u128(topic.id), name, topic.created_at, settings.clone());
        replace_file(&*self.env.storage, &dir, TOPIC_FILE_NAME, &file.encode()?).map_err(|error| {
            self.names_unknown.store(true, Ordering::Relaxed);
            Error::io(format!("cannot alter topic {name}"), error)
        })?;
        for partition in topic.partitions().iter() {
            partition.config.live.apply(settings.compression, settings.segment_bytes_max, settings.reserve_bytes);
        }
        let partitions = topic.partitions().to_vec();
        topic.change(settings, partitions);
        self.look_for_retention();
        self.look_for_reserves();
        topic.partitions().iter().for_each(|partition| self.look_at(partition));
        self.announce_catalogue();
        Ok(topic)
    }

    /// Deletes a topic with all its records. Appends that wait are answered with an error; readers that hold the files open
    /// may read on.
    pub(crate) fn delete_topic(&self, name: &str) -> Result<()> {
        let _one_at_a_time = self.change_catalogue()?;
        let topic = self.topic(name)?;
        let storage = &*self.env.storage;
        let failed = |error| Error::io(format!("cannot delete topic {name}"), error);
        let topics = self.root.join(TOPICS_DIR);
        let aside = topics.join(format!("{DELETED}{}", Uuid::from_u128(topic.id)));
        // Whoever replaces segments would find another topic under the name that this one had.
        let partitions = topic.partitions();
        let _alone: Vec<_> = partitions.iter().map(|partition| partition.stop_maintenance()).collect();
        // Files are opened when they are needed: from here on none of this name is that of this topic.
        let retire = |retired| {
            for partition in topic.partitions().iter() {
                partition.segments().iter().for_each(|segment| segment.retire(retired));
            }
        };
        // A checkpoint that leaves the topic out must not come before the disk has.
        let no_checkpoint = lock(&self.checkpointed);
        retire(true);
        if let Err(error) = storage.rename(&topics.join(name), &aside) {
            retire(false);
            return Err(failed(error));
        }
        topic.close(&Error::new(ErrorKind::NotFound, format!("topic {name} has been deleted")));
        self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.announce_catalogue();
        storage.sync_dir(&topics).map_err(|error| {
            self.names_unknown.store(true, Ordering::Relaxed);
            failed(error)
        })?;
        drop(no_checkpoint);
        remove_tree(storage, &aside).map_err(failed)
    }
}
