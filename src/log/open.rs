//! Opening a directory: a new log, one that was closed cleanly, or one that was not.
//!
//! The steps, in the order that makes a crash in any of them harmless: the journal's frames are written where they belong and
//! synced; each partition finds its end and makes what it adopts durable; the checkpoint says so; only then does the manifest
//! stop counting the journal's files. Until that last write a second recovery begins from the same state.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Builder;

use super::catalogue::{self, FoundTopic, TOPICS_DIR};
use super::checkpoint;
use super::engine::{COMMIT_RESERVE, Engine};
use super::manifest_file::{MANIFEST_NAME, ManifestFile};
use super::report::RecoveryReport;
use super::settings::LogSettings;
use super::topic::{TopicState, partition_dir};
use crate::error::{Corruption, Error, ErrorKind, Result};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::journal::JournaledFrame;
use crate::format::manifest::Manifest;
use crate::journal::{self, Journal, Live};
use crate::partition::recover;
use crate::planted::{self, Bug};
use crate::segment::Segment;
use crate::segment::scan;
use crate::storage::files::{create_dirs, read_full_at, replace_file, write_all_at};
use crate::storage::{EntryKind, Env, File, Lock, OpenMode};

/// The name of the lock file.
pub(crate) const LOCK_NAME: &str = "LOCK";
/// The directory of the journal.
pub(crate) const JOURNAL_DIR: &str = "journal";

/// Opens the log in `root`, creating it if `create` and there is none.
pub(crate) fn open(env: Env, root: PathBuf, settings: LogSettings, create: bool) -> Result<Engine> {
    let started = env.clock.monotonic();
    let held = prepare_root(&env, &root, create)?;
    let mut report = RecoveryReport::default();
    let mut manifest = match ManifestFile::open(&*env.storage, &root)? {
        Some(manifest) => manifest,
        None => {
            check_is_new(&env, &root)?;
            report.created = true;
            create_log(&env, &root)?
        }
    };
    let mut before = *manifest.current();
    report.clean = before.clean;
    let found = catalogue::load(&env, &root)?;
    // A new manifest may have got its name from a creation that failed right after.
    if (!before.clean || before.serial == 0) && !planted::is(Bug::NamesNotAdopted) {
        adopt_names(&env, &root, &found)?;
    }
    let mut redo = Redo {
        env: &env,
        topics: &found,
        files: BTreeMap::new(),
        upto: BTreeMap::new(),
        restored: 0,
        damage: Vec::new(),
    };
    let live = Live { first: before.journal_first, next: before.journal_next };
    let replayed = if planted::is(Bug::JournalNotRedone) {
        journal::recover::Replayed::default()
    } else {
        journal::recover::replay(&env, &root.join(JOURNAL_DIR), before.log_id, live, |frame| redo.apply(frame))?
    };
    redo.sync()?;
    if before.clean && replayed.entries > 0 {
        // The mark is that of an older slot of the manifest: the newer one is damaged.
        before.clean = false;
        report.clean = false;
        adopt_names(&env, &root, &found)?;
    }
    report.journal_entries = replayed.entries;
    report.journal_frames_restored = redo.restored;
    report.cut_bytes = replayed.torn_bytes;
    report.damage = redo.damage;
    let journaled = redo.upto;

    let last = checkpoint::read(&*env.storage, &root, before.log_id);
    let entries: BTreeMap<(u128, u32), CheckpointEntry> = last
        .iter()
        .flat_map(|checkpoint| &checkpoint.entries)
        .map(|entry| ((entry.topic_id, entry.partition), *entry))
        .collect();
    let mut last_commit = replayed.last_commit;
    let mut topics = BTreeMap::new();
    for found in found {
        let topic =
            open_topic(&env, &settings, before.log_id, found, &entries, &journaled, &mut report, &mut last_commit)?;
        topics.insert(topic.name.to_string(), Arc::new(topic));
    }
    report.topics = topics.len();

    let next_commit = next_commit(&before, last_commit);
    report.epoch = before.epoch + u64::from(!before.clean);
    let next_sequence = replayed.next_sequence.max(before.journal_next);
    let journal = Journal::new(
        env.clone(),
        root.join(JOURNAL_DIR),
        before.log_id,
        settings.journal_bytes,
        replayed.slots,
        next_sequence,
    );
    let serial = last.map_or(0, |checkpoint| checkpoint.serial).max(before.checkpoint);
    let opened = Manifest {
        clean: planted::is(Bug::CleanMarkStays) && before.clean,
        epoch: report.epoch,
        commit_limit: next_commit + COMMIT_RESERVE,
        journal_first: next_sequence,
        journal_next: next_sequence,
        ..before
    };
    let mut checkpointed = checkpoint::Checkpointed { serial, entries };
    if !before.clean {
        // The manifest still names the journal here: only after this checkpoint may it let go of it.
        checkpointed.serial += 1;
        checkpoint_recovered(&env, &root, before.log_id, &mut checkpointed, &topics)?;
    }
    manifest.update(|manifest| *manifest = Manifest { checkpoint: checkpointed.serial, ..opened })?;
    report.took = env.clock.monotonic().saturating_sub(started);
    Ok(Engine::new(env, root, settings, held, manifest, journal, topics, checkpointed, next_commit, report))
}

/// Makes sure that `root` is a directory that can hold a log, and takes its lock.
fn prepare_root(env: &Env, root: &Path, create: bool) -> Result<Box<dyn Lock>> {
    let storage = &*env.storage;
    match storage.list(root) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::invalid(format!("{} is not a directory; a log needs one of its own", root.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => create_dirs(storage, root)
            .map_err(|error| Error::io(format!("cannot create the directory {}", root.display()), error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no log in {}", root.display())));
        }
        Err(error) => return Err(Error::io(format!("cannot open the directory {}", root.display()), error)),
    }
    if !create && !has_manifest(env, root)? {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no log in {}", root.display())));
    }
    check_is_ours(env, root)?;
    storage.lock(&root.join(LOCK_NAME)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::new(
            ErrorKind::Locked,
            format!("{} is open for writing already, in another process or through another handle", root.display()),
        ),
        _ => Error::io(format!("cannot lock {}", root.display()), error),
    })
}

fn has_manifest(env: &Env, root: &Path) -> Result<bool> {
    let entries =
        env.storage.list(root).map_err(|error| Error::io(format!("cannot list {}", root.display()), error))?;
    Ok(entries.iter().any(|entry| entry.name == MANIFEST_NAME))
}

/// Refuses, before anything is created in it, a directory that holds something but no log.
fn check_is_ours(env: &Env, root: &Path) -> Result<()> {
    if has_manifest(env, root)? {
        return Ok(());
    }
    let entries =
        env.storage.list(root).map_err(|error| Error::io(format!("cannot list {}", root.display()), error))?;
    let manifest_tmp = format!("{MANIFEST_NAME}.tmp");
    // What a creation that was cut off leaves, and what file systems put into their top directory.
    let harmless = [LOCK_NAME, TOPICS_DIR, JOURNAL_DIR, &manifest_tmp, "lost+found"];
    match entries.iter().find(|entry| !harmless.contains(&entry.name.as_str())) {
        Some(foreign) => Err(Error::invalid(format!(
            "{} holds no log but other files ({}); give the log a directory of its own",
            root.display(),
            crate::text::quoted(&foreign.name)
        ))),
        None => Ok(()),
    }
}

/// Refuses to begin anew where topics are but the manifest is gone.
fn check_is_new(env: &Env, root: &Path) -> Result<()> {
    match env.storage.list(&root.join(TOPICS_DIR)) {
        Ok(topics) if topics.iter().any(|entry| entry.kind == EntryKind::Dir) => Err(Error::corrupt(
            "the manifest is missing though there are topics",
            Corruption {
                file: MANIFEST_NAME.into(),
                topic: None,
                partition: None,
                position: 0,
                first_offset: None,
                next_offset: None,
            },
        )),
        _ => Ok(()),
    }
}

fn create_log(env: &Env, root: &Path) -> Result<ManifestFile> {
    create_dirs(&*env.storage, &root.join(TOPICS_DIR))
        .map_err(|error| Error::io(format!("cannot create a log in {}", root.display()), error))?;
    let now = env.clock.now_micros();
    let manifest = Manifest {
        serial: 0,
        log_id: new_id(env, now),
        epoch: 0,
        clean: true,
        commit_limit: 1,
        journal_first: 0,
        journal_next: 0,
        checkpoint: 0,
        created_at: now,
    };
    ManifestFile::create(&*env.storage, root, manifest)
}

/// A version 7 UUID out of the injected clock and randomness.
pub(super) fn new_id(env: &Env, now_micros: i64) -> u128 {
    let random = (u128::from(env.random.next_u64()) << 64 | u128::from(env.random.next_u64())).to_be_bytes();
    let mut ten = [0; 10];
    ten.copy_from_slice(&random[..10]);
    Builder::from_unix_timestamp_millis(now_micros.max(0) as u64 / 1000, &ten).into_uuid().as_u128()
}

/// After an unclean close a name may be there for us and not yet on the disk: what is built upon is made durable.
fn adopt_names(env: &Env, root: &Path, found: &[FoundTopic]) -> Result<()> {
    catalogue::sync_names(env, root, found.iter().map(|topic| (topic.dir.as_path(), topic.file.settings.partitions)))
}

#[expect(clippy::too_many_arguments, reason = "one caller, which has them all at hand")]
fn open_topic(
    env: &Env,
    settings: &LogSettings,
    log_id: u128,
    found: FoundTopic,
    entries: &BTreeMap<(u128, u32), CheckpointEntry>,
    journaled: &BTreeMap<(u128, u32), u64>,
    report: &mut RecoveryReport,
    last_commit: &mut u64,
) -> Result<TopicState> {
    let FoundTopic { dir, file } = found;
    let name: Arc<str> = file.name.as_str().into();
    let id = file.id.as_u128();
    let mut partitions = Vec::with_capacity(file.settings.partitions as usize);
    for number in 0..file.settings.partitions {
        let owner = catalogue::owner(&name, id, number);
        let config = catalogue::config(log_id, settings, &file.settings);
        let entry = entries.get(&(id, number));
        let upto = journaled.get(&(id, number)).copied().unwrap_or(0);
        let (partition, findings) = recover::open(env, owner, config, partition_dir(&dir, number), entry, upto)?;
        report.partitions += 1;
        report.scanned_bytes += findings.scanned_bytes;
        report.adopted_records += findings.adopted_records;
        report.cut_bytes += findings.cut_bytes;
        report.cut_saved.extend(findings.cut_saved);
        report.damage.extend(findings.damage);
        *last_commit = (*last_commit).max(findings.last_commit);
        partitions.push(Arc::new(partition));
    }
    Ok(TopicState::new(name, id, file.created_at.timestamp_micros(), file.settings, partitions))
}

/// The first commit number of this opening: after a crash beyond all that may have been handed out, whether found or lost.
fn next_commit(before: &Manifest, last_commit: u64) -> u64 {
    if planted::is(Bug::CommitNumbersReused) {
        return last_commit + 1;
    }
    before.commit_limit.max(last_commit + 1)
}

fn checkpoint_recovered(
    env: &Env,
    root: &Path,
    log_id: u128,
    checkpointed: &mut checkpoint::Checkpointed,
    topics: &BTreeMap<String, Arc<TopicState>>,
) -> Result<()> {
    let mut entries = BTreeMap::new();
    for topic in topics.values() {
        for partition in topic.partitions().iter() {
            let key = partition.key();
            // Of a damaged partition the last checkpoint still holds.
            let entry = partition.checkpoint_entry().or_else(|| checkpointed.entries.get(&key).copied());
            entries.extend(entry.map(|entry| (key, entry)));
        }
    }
    checkpointed.entries = entries;
    checkpoint::write(env, root, log_id, checkpointed)
}

/// Writes the journal's frames where they belong.
struct Redo<'a> {
    env: &'a Env,
    topics: &'a [FoundTopic],
    files: BTreeMap<PathBuf, Arc<dyn File>>,
    /// For each partition the offset after the last frame that the journal holds of it.
    upto: BTreeMap<(u128, u32), u64>,
    restored: u64,
    damage: Vec<Error>,
}

impl Redo<'_> {
    /// Writes one frame, unless the file holds a later one in its place. What is there already is written again: it may be
    /// in the page cache only, and left there by a sync that failed.
    fn apply(&mut self, frame: &JournaledFrame<'_>) -> Result<()> {
        let target = &frame.target;
        let Some(topic) = self.topics.iter().find(|topic| topic.file.id.as_u128() == target.topic_id) else {
            // The topic was deleted after the commit.
            return Ok(());
        };
        let upto = self.upto.entry((target.topic_id, target.partition)).or_default();
        *upto = (*upto).max(frame.header.next_offset());
        let dir = partition_dir(&topic.dir, target.partition);
        let path = dir.join(Segment::file_name(target.segment_base));
        let failed = |error| Error::io(format!("cannot restore a commit to {}", path.display()), error);
        let file = match self.files.get(&path) {
            Some(file) => Arc::clone(file),
            None => match self.env.storage.open(&path, OpenMode::ReadWrite) {
                Ok(file) => Arc::clone(self.files.entry(path.clone()).or_insert(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return self.set_aside(frame, topic, &dir),
                Err(error) => return Err(failed(error)),
            },
        };
        let mut there = vec![0; frame.bytes.len()];
        let read = read_full_at(&*file, &mut there, target.position).map_err(failed)?;
        if scan::is_newer(&there[..read], &frame.header) {
            return Ok(());
        }
        if there != frame.bytes {
            self.restored += 1;
        }
        write_all_at(&*file, frame.bytes, target.position).map_err(failed)
    }

    /// The segment is gone. The frame is kept beside where it was, since the journal will be written over.
    fn set_aside(&mut self, frame: &JournaledFrame<'_>, topic: &FoundTopic, dir: &Path) -> Result<()> {
        let target = &frame.target;
        let name = format!("{:020}-{}.journaled", target.segment_base, target.position);
        replace_file(&*self.env.storage, dir, &name, frame.bytes)
            .map_err(|error| Error::io(format!("cannot keep a commit in {}", dir.display()), error))?;
        self.damage.push(Error::corrupt(
            format!("the segment of a committed frame is missing; the frame is kept as {name}"),
            Corruption {
                file: format!(
                    "topics/{}/{}/{}",
                    topic.file.name,
                    target.partition,
                    Segment::file_name(target.segment_base)
                ),
                topic: Some(topic.file.name.clone()),
                partition: Some(target.partition),
                position: target.position,
                first_offset: Some(frame.header.base_offset),
                next_offset: Some(frame.header.next_offset()),
            },
        ));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if planted::is(Bug::RedoNotSynced) {
            return Ok(());
        }
        for (path, file) in &self.files {
            file.sync_data().map_err(|error| Error::io(format!("cannot sync {}", path.display()), error))?;
        }
        Ok(())
    }
}
