//! Opening a log that another process may be writing: no lock is taken, nothing is changed, and what recovery would mend is
//! seen as recovery would leave it.
//!
//! Everything may change while it is looked at: files come and go, and what is half-written is whole a moment later. So what
//! looks missing or damaged is looked at again, and believed only if it stays.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::catalogue::{self, FoundTopic};
use super::checkpoint::{self, Checkpointed};
use super::engine::Engine;
use super::follow::{Commits, Follower, Overlay};
use super::manifest_file::ManifestFile;
use super::open::{JOURNAL_DIR, no_directory, no_log, segment_missing};
use super::report::RecoveryReport;
use super::settings::LogSettings;
use super::spans::Spans;
use super::topic::{TopicState, partition_dir};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::journal::JournaledFrame;
use crate::format::manifest::Manifest;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::journal::follow::Follower as JournalFollower;
use crate::journal::{Journal, Live};
use crate::partition::Partition;
use crate::partition::follow::{is_not_found, read_only};
use crate::partition::recover::{self, Findings, Known};
use crate::planted::{self, Bug};
use crate::storage::Env;
use crate::storage::read_only::{LaidOver, ReadOnly};

/// How often what looks wrong is looked at before it is believed.
const LOOKS_MAX: usize = 5;

/// Opens the log in `root` for reading.
pub(crate) fn open_read_only(env: Env, root: PathBuf, settings: LogSettings) -> Result<Engine> {
    // Frames of the journal are laid over segments, each of which has a header of its own.
    let laid_over = LaidOver { extension: "log", front_bytes: SEGMENT_HEADER_BYTES };
    let storage = Arc::new(ReadOnly::new(Arc::clone(&env.storage), laid_over));
    let env = Env { storage: Arc::clone(&storage) as _, ..env };
    let started = env.clock.monotonic();
    let mut looks = 0;
    let mut engine = loop {
        looks += 1;
        check_root(&env, &root)?;
        match look(&env, &storage, &root, &settings) {
            Err(error) if looks < LOOKS_MAX && may_pass(&error) => {}
            looked => break looked?,
        }
    };
    engine.report.took = env.clock.monotonic().saturating_sub(started);
    engine.committer.close(read_only());
    // Whatever was written meanwhile may be there in part; a second look finds the rest of it.
    engine.refresh(true)?;
    Ok(engine)
}

/// Whether another look may find it better.
fn may_pass(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt || is_not_found(error)
}

fn check_root(env: &Env, root: &Path) -> Result<()> {
    match env.storage.list(root) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(no_directory(root)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_log(root)),
        Err(error) => Err(Error::io(format!("cannot open the directory {}", root.display()), error)),
    }
}

/// What is known while the partitions are being opened.
struct Look<'a> {
    env: &'a Env,
    root: &'a Path,
    settings: &'a LogSettings,
    manifest: &'a Manifest,
    /// The checkpoint that the manifest names is not there.
    lost: bool,
    /// For each partition the offset after the last frame that the journal holds of it.
    journaled: BTreeMap<(u128, u32), u64>,
}

fn look(env: &Env, storage: &Arc<ReadOnly>, root: &Path, settings: &LogSettings) -> Result<Engine> {
    let manifest = ManifestFile::open(&*env.storage, root)?.ok_or_else(|| no_log(root))?;
    let before = *manifest.current();
    let found = catalogue::load(env, root, false)?;
    let mut report = RecoveryReport { clean: before.clean, epoch: before.epoch, ..RecoveryReport::default() };

    let last = checkpoint::read(&*env.storage, root, before.log_id);
    let lost = checkpoint::lost(last.as_ref(), &before);
    let is_lost = lost.is_some();
    report.damage.extend(lost);
    let entries = checkpoint::by_partition(last.as_ref());
    let (journaled, spans) = (BTreeMap::new(), Spans::default());
    let mut overlaying =
        Overlaying { env, storage, root, log_id: before.log_id, topics: &found, entries, journaled, spans };
    let live = Live { first: before.journal_first, next: before.journal_next };
    let (journal, replayed) = JournalFollower::begin(env, &root.join(JOURNAL_DIR), before.log_id, live, |frame| {
        if planted::is(Bug::ReadOnlyJournalIgnored) {
            return Ok(());
        }
        overlaying.lay_over(frame, &mut report)
    })?;
    let Overlaying { entries, journaled, .. } = overlaying;
    report.journal_entries = replayed.entries;

    let look = Look { env, root, settings, manifest: &before, lost: is_lost, journaled };
    let mut last_commit = replayed.last_commit;
    let mut topics = BTreeMap::new();
    for found in found {
        let topic = look.topic(found, &entries, &mut report, &mut last_commit)?;
        topics.insert(topic.name.to_string(), Arc::new(topic));
    }
    report.topics = topics.len();

    let journal_of_none =
        Journal::new(env.clone(), root.join(JOURNAL_DIR), before.log_id, settings.journal_bytes, 0, 0);
    let checkpointed = Checkpointed { serial: before.checkpoint, entries };
    let next = if before.clean { before.commit_limit } else { last_commit + 1 };
    let mut engine = Engine::new(
        env.clone(),
        root.to_path_buf(),
        settings.clone(),
        None,
        manifest,
        journal_of_none,
        topics,
        checkpointed,
        next,
        report,
    );
    let follower = Follower::new(Arc::clone(storage), journal, before, Commits::new(next));
    engine.follower = Some(Mutex::new(follower));
    Ok(engine)
}

/// What the journal's frames are shown with.
struct Overlaying<'a> {
    env: &'a Env,
    storage: &'a ReadOnly,
    root: &'a Path,
    log_id: u128,
    topics: &'a [FoundTopic],
    entries: BTreeMap<(u128, u32), CheckpointEntry>,
    journaled: BTreeMap<(u128, u32), u64>,
    spans: Spans,
}

impl Overlaying<'_> {
    /// Shows a frame where recovery would write it.
    fn lay_over(&mut self, frame: &JournaledFrame<'_>, report: &mut RecoveryReport) -> Result<()> {
        let target = &frame.target;
        let Some(topic) = self.topics.iter().find(|topic| topic.file.id.as_u128() == target.topic_id) else {
            // The topic was deleted after the commit.
            return Ok(());
        };
        let upto = self.journaled.entry((target.topic_id, target.partition)).or_default();
        *upto = (*upto).max(frame.header.next_offset());
        let dir = partition_dir(&topic.dir, target.partition);
        match super::follow::lay_over(self.storage, &dir, frame)? {
            Overlay::Laid => report.journal_frames_restored += 1,
            Overlay::NotNeeded => {}
            Overlay::NoFile if self.is_no_loss(frame, &dir)? => {}
            Overlay::NoFile => {
                let what = "the segment of a committed frame is missing; the journal holds the frame".to_owned();
                report.damage.push(segment_missing(what, &topic.file.name, *target, &frame.header));
            }
        }
        Ok(())
    }

    /// Whether retention has let a frame go, or a compaction; beside a writer it may just have been.
    fn is_no_loss(&mut self, frame: &JournaledFrame<'_>, dir: &Path) -> Result<bool> {
        let key = (frame.target.topic_id, frame.target.partition);
        for _ in 0..LOOKS_MAX {
            let entry = self.entries.get(&key);
            if entry.is_some_and(|entry| frame.header.next_offset() <= entry.log_start)
                || self.spans.hold(self.env, dir, &frame.header)?
            {
                return Ok(true);
            }
            // Retention says in the checkpoint what is to go before it goes.
            if let Some(last) = checkpoint::read(&*self.env.storage, self.root, self.log_id) {
                self.entries = checkpoint::by_partition(Some(&last));
            }
            self.spans.forget(dir);
        }
        Ok(false)
    }
}

impl Look<'_> {
    fn topic(
        &self,
        found: FoundTopic,
        entries: &BTreeMap<(u128, u32), CheckpointEntry>,
        report: &mut RecoveryReport,
        last_commit: &mut u64,
    ) -> Result<TopicState> {
        let FoundTopic { dir, file } = found;
        let name: Arc<str> = file.name.as_str().into();
        let id = file.id.as_u128();
        let mut partitions = Vec::with_capacity(file.settings.partitions as usize);
        for number in 0..file.settings.partitions {
            let look = |entries: &BTreeMap<_, CheckpointEntry>| {
                let owner = catalogue::owner(&name, id, number);
                let config = catalogue::config(self.manifest.log_id, self.settings, &file.settings);
                let known = Known {
                    checkpoint: entries.get(&(id, number)),
                    log_start: if self.lost { None } else { Some(0) },
                    journaled_upto: self.journaled.get(&(id, number)).copied().unwrap_or(0),
                    names_in_doubt: false,
                };
                recover::look(self.env, owner, config, partition_dir(&dir, number), known)
            };
            let (partition, findings) = self.until_it_stays(entries, look)?;
            *last_commit = (*last_commit).max(findings.last_commit);
            report.add(findings);
            partitions.push(Arc::new(partition));
        }
        Ok(TopicState::new(name, id, file.created_at.timestamp_micros(), file.settings, partitions))
    }

    /// Looks until nothing is wrong, or the same thing twice.
    fn until_it_stays(
        &self,
        entries: &BTreeMap<(u128, u32), CheckpointEntry>,
        look: impl Fn(&BTreeMap<(u128, u32), CheckpointEntry>) -> Result<(Partition, Findings)>,
    ) -> Result<(Partition, Findings)> {
        let mut before = String::new();
        let mut looked = look(entries);
        for _ in 1..LOOKS_MAX {
            let wrong = match &looked {
                Ok((_, findings)) => findings.damage.first(),
                Err(error) => Some(error).filter(|error| may_pass(error)),
            };
            let Some(wrong) = wrong.map(ToString::to_string).filter(|wrong| *wrong != before) else { break };
            before = wrong;
            // Retention says in the checkpoint what is to go before it goes.
            let last = checkpoint::read(&*self.env.storage, self.root, self.manifest.log_id);
            looked = look(&checkpoint::by_partition(last.as_ref()));
        }
        looked
    }
}

impl Follower {
    /// What the manifest counts of the journal now.
    pub(super) fn live(&self) -> Live {
        Live { first: self.manifest.journal_first, next: self.manifest.journal_next }
    }
}
