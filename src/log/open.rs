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
use super::redo::Redo;
use super::report::RecoveryReport;
use super::settings::LogSettings;
use super::topic::{TopicState, partition_dir};
use crate::error::{Corruption, Error, ErrorKind, Result};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::frame::FrameHeader;
use crate::format::journal::FrameTarget;
use crate::format::manifest::Manifest;
use crate::journal::{self, Journal, Live};
use crate::partition::Partition;
use crate::partition::recover::{self, Findings, Known};
use crate::planted::{self, Bug};
use crate::segment::{Owner, Segment};
use crate::storage::files::create_dirs;
use crate::storage::{Entry, EntryKind, Env, Lock, parallel};

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
    if !before.clean {
        manifest.settle()?;
    }
    let found = catalogue::load(&env, &root, true)?;
    // A new manifest may have got its name from a creation that failed right after.
    let mut names_in_doubt = !before.clean || before.serial == 0;
    if names_in_doubt {
        adopt_names(&env, &root, &found)?;
    }
    let last = checkpoint::read(&*env.storage, &root, before.log_id);
    let lost = checkpoint::lost(last.as_ref(), &before);
    // A checkpoint that is there names each partition that does not start at its beginning.
    let log_start = if lost.is_some() { None } else { Some(0) };
    report.damage.extend(lost);
    let entries = checkpoint::by_partition(last.as_ref());
    let mut redo = Redo::new(&env, &found, &entries);
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
        manifest.settle()?;
        names_in_doubt = true;
        adopt_names(&env, &root, &found)?;
    }
    report.journal_entries = replayed.entries;
    report.journal_frames_restored = redo.restored;
    report.cut_bytes = replayed.torn_bytes;
    report.damage.extend(redo.damage);
    let journaled = redo.upto;

    let mut last_commit = replayed.last_commit;
    let names: Vec<Arc<str>> = found.iter().map(|topic| topic.file.name.as_str().into()).collect();
    let places: Vec<_> = (0..found.len())
        .flat_map(|at| (0..found[at].file.settings.partitions).map(move |number| (at, number)))
        .collect();
    let opened = parallel::for_each(&*env.storage, places, |(at, number)| {
        let owner = catalogue::owner(&names[at], found[at].file.id.as_u128(), number);
        open_partition(
            &env,
            &settings,
            before.log_id,
            &found[at],
            owner,
            &entries,
            log_start,
            &journaled,
            names_in_doubt,
        )
    })?;
    let mut opened = opened.into_iter();
    let mut topics = BTreeMap::new();
    for (FoundTopic { file, .. }, name) in found.into_iter().zip(names) {
        let mut partitions = Vec::with_capacity(file.settings.partitions as usize);
        for (partition, findings) in opened.by_ref().take(file.settings.partitions as usize) {
            last_commit = last_commit.max(findings.last_commit);
            report.add(findings);
            partitions.push(Arc::new(partition));
        }
        let created_at = file.created_at.timestamp_micros();
        let topic = TopicState::new(name, file.id.as_u128(), created_at, file.settings, partitions);
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
    Ok(Engine::new(env, root, settings, Some(held), manifest, journal, topics, checkpointed, next_commit, report))
}

/// Makes sure that `root` is a directory that can hold a log, and takes its lock.
fn prepare_root(env: &Env, root: &Path, create: bool) -> Result<Box<dyn Lock>> {
    let storage = &*env.storage;
    let entries = match storage.list(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(no_directory(root)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            create_dirs(storage, root)
                .map_err(|error| Error::io(format!("cannot create the directory {}", root.display()), error))?;
            Vec::new()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_log(root)),
        Err(error) => return Err(Error::io(format!("cannot open the directory {}", root.display()), error)),
    };
    if !entries.iter().any(|entry| entry.name == MANIFEST_NAME) {
        if !create {
            return Err(no_log(root));
        }
        check_is_ours(root, &entries)?;
    }
    storage.lock(&root.join(LOCK_NAME)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::new(
            ErrorKind::Locked,
            format!("{} is open for writing already, in another process or through another handle", root.display()),
        ),
        _ => Error::io(format!("cannot lock {}", root.display()), error),
    })
}

pub(super) fn no_directory(root: &Path) -> Error {
    Error::invalid(format!("{} is not a directory; a log needs one of its own", root.display()))
}

pub(super) fn no_log(root: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no log in {}", root.display()))
}

/// Refuses, before anything is created in it, a directory that holds something but no log.
fn check_is_ours(root: &Path, entries: &[Entry]) -> Result<()> {
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
    if planted::is(Bug::NamesNotAdopted) {
        return Ok(());
    }
    catalogue::sync_names(env, root, found.iter().map(|topic| topic.dir.clone()).collect())
}

#[expect(clippy::too_many_arguments, reason = "one caller, which has them all at hand")]
fn open_partition(
    env: &Env,
    settings: &LogSettings,
    log_id: u128,
    topic: &FoundTopic,
    owner: Arc<Owner>,
    entries: &BTreeMap<(u128, u32), CheckpointEntry>,
    log_start: Option<u64>,
    journaled: &BTreeMap<(u128, u32), u64>,
    names_in_doubt: bool,
) -> Result<(Partition, Findings)> {
    let FoundTopic { dir, file } = topic;
    let key = (owner.topic_id, owner.partition);
    let config = catalogue::config(log_id, settings, &file.settings);
    let upto = journaled.get(&key).copied().unwrap_or(0);
    let known = Known { checkpoint: entries.get(&key), log_start, journaled_upto: upto, names_in_doubt };
    recover::open(env, owner, config, partition_dir(dir, key.1), known)
}

/// The first commit number of this opening: after a crash beyond all that may have been handed out, whether found or lost.
fn next_commit(before: &Manifest, last_commit: u64) -> u64 {
    if planted::is(Bug::CommitNumbersReused) {
        return last_commit + 1;
    }
    before.commit_limit.max(last_commit + 1)
}

/// That a frame of the journal has no file to go to.
pub(super) fn segment_missing(what: String, topic: &str, target: FrameTarget, header: &FrameHeader) -> Error {
    let FrameTarget { partition, segment_base, position, .. } = target;
    Error::corrupt(
        what,
        Corruption {
            file: format!("topics/{topic}/{partition}/{}", Segment::file_name(segment_base)),
            topic: Some(topic.to_owned()),
            partition: Some(partition),
            position,
            first_offset: Some(header.base_offset),
            next_offset: Some(header.next_offset()),
        },
    )
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
