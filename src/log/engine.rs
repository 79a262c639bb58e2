//! The open directory as one value: what the layers above append to and read from. Synchronous, and without threads of its
//! own: whoever holds it leads commits and does the upkeep.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use event_listener::Event;

use super::catalogue::{TOPICS_DIR, sync_names};
use super::checkpoint::{CHECKPOINT_BYTES, CHECKPOINT_BYTES_RELAXED, Checkpointed};
use super::committer::{Committer, Leader, Refused, Ticket};
use super::extension::Extensions;
use super::follow::Follower;
use super::maintenance::Maintenance;
use super::manifest_file::ManifestFile;
use super::meter::{Meter, Way};
use super::report::RecoveryReport;
use super::settings::{Durability, LogSettings};
use super::topic::{TopicState, partition_dir};
use super::upkeep::{Round, Upkeep};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::FrameBuilder;
use crate::journal::Journal;
use crate::partition::follow::read_only;
use crate::partition::writer::Written;
use crate::partition::{Partition, Pass};
use crate::segment::lock;
use crate::storage::{Env, Lock};

/// An open log.
pub(crate) struct Engine {
    pub(crate) env: Env,
    pub(crate) root: PathBuf,
    pub(crate) settings: LogSettings,
    pub(crate) id: u128,
    pub(super) lock: Mutex<Option<Box<dyn Lock>>>,
    pub(super) manifest: Mutex<ManifestFile>,
    pub(super) journal: Mutex<Journal>,
    pub(super) topics: RwLock<BTreeMap<String, Arc<TopicState>>>,
    /// Held while topics are created, changed or deleted.
    pub(super) catalogue: Mutex<()>,
    pub(crate) committer: Committer,
    pub(crate) meter: Meter,
    pub(crate) upkeep: Upkeep,
    pub(crate) maintenance: Maintenance,
    pub(crate) next_commit: AtomicU64,
    /// Numbers below are reserved in the manifest: after a crash none of them is used again.
    pub(super) commit_limit: AtomicU64,
    pub(super) checkpointed: Mutex<Checkpointed>,
    pub(crate) extensions: Extensions,
    pub(crate) report: RecoveryReport,
    /// Notified when the set of topics or partitions has changed, or the log has closed.
    pub(crate) catalogue_changed: Event,
    /// A change of the catalogue has failed at its last step: which names the disk has is not known.
    pub(super) names_unknown: AtomicBool,
    /// Why this log takes no topics, if it does not.
    pub(super) no_topics: OnceLock<&'static str>,
    closed: AtomicBool,
    /// A checkpoint is on the list of things to do.
    checkpoint_wanted: AtomicBool,
    /// Every partition there ever will be is closed: what is visible now is all.
    pub(super) ended: AtomicBool,
    /// The log was opened read-only: what is known of what its writer does.
    pub(super) follower: Option<Mutex<Follower>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("root", &self.root).field("id", &self.id).finish_non_exhaustive()
    }
}

/// How long a frame that is in the journal waits at the most until it is written to its partition's file, too.
const DEFERRED_FOR: Duration = Duration::from_millis(20);
/// How many commit numbers are reserved at once.
pub(super) const COMMIT_RESERVE: u64 = 1 << 32;

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "one caller, and each argument is a field")]
    pub(super) fn new(
        env: Env,
        root: PathBuf,
        settings: LogSettings,
        lock: Option<Box<dyn Lock>>,
        manifest: ManifestFile,
        journal: Journal,
        topics: BTreeMap<String, Arc<TopicState>>,
        checkpointed: Checkpointed,
        next_commit: u64,
        report: RecoveryReport,
    ) -> Self {
        let (id, limit) = (manifest.current().log_id, manifest.current().commit_limit);
        Self {
            env,
            root,
            committer: Committer::new(settings.commit_bytes_max as usize),
            meter: Meter::default(),
            settings,
            id,
            lock: Mutex::new(lock),
            manifest: Mutex::new(manifest),
            journal: Mutex::new(journal),
            topics: RwLock::new(topics),
            catalogue: Mutex::new(()),
            upkeep: Upkeep::default(),
            maintenance: Maintenance::default(),
            next_commit: AtomicU64::new(next_commit),
            commit_limit: AtomicU64::new(limit),
            checkpointed: Mutex::new(checkpointed),
            extensions: Extensions::default(),
            report,
            catalogue_changed: Event::new(),
            names_unknown: AtomicBool::new(false),
            no_topics: OnceLock::new(),
            closed: AtomicBool::new(false),
            checkpoint_wanted: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            follower: None,
        }
    }

    /// When the log was created, in microseconds since 1970.
    pub(crate) fn created_at(&self) -> i64 {
        lock(&self.manifest).current().created_at
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether the closing has come so far that nothing becomes visible any more.
    pub(crate) fn takes_no_more(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(Error::closed()) } else { Ok(()) }
    }

    /// Whether another process writes the log.
    pub(crate) fn is_read_only(&self) -> bool {
        self.follower.is_some()
    }

    /// Whether the catalogue can be changed; the guard keeps others from it meanwhile.
    pub(super) fn change_catalogue(&self) -> Result<MutexGuard<'_, ()>> {
        let guard = lock(&self.catalogue);
        self.check_open()?;
        if self.is_read_only() { Err(read_only()) } else { Ok(guard) }
    }

    /// All topics, by name.
    pub(crate) fn topics(&self) -> Vec<Arc<TopicState>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Appends at the level of a relaxed topic: written, visible, not synced. `None` if the partition has a guard that the
    /// append must come through.
    #[inline]
    pub(crate) fn append_relaxed_by(
        &self,
        pass: Pass,
        partition: &Arc<Partition>,
        durability: Durability,
        fill: impl FnOnce(&mut FrameBuilder),
    ) -> Result<Option<Written>> {
        let written =
            partition.append_relaxed(pass, &self.next_commit, fill).inspect_err(|error| self.refused(error))?;
        self.after_relaxed(partition, durability);
        Ok(written)
    }

    /// [`append_relaxed_by`](Self::append_relaxed_by) where there is no guard.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn append_relaxed(
        &self,
        partition: &Arc<Partition>,
        durability: Durability,
        fill: impl FnOnce(&mut FrameBuilder),
    ) -> Result<Written> {
        let written = self.append_relaxed_by(Pass::Open, partition, durability, fill)?;
        Ok(written.expect("there is no guard"))
    }

    /// [`append_relaxed_by`](Self::append_relaxed_by) of a frame that is built already.
    pub(crate) fn append_relaxed_built(
        &self,
        pass: Pass,
        partition: &Arc<Partition>,
        durability: Durability,
        builder: &mut FrameBuilder,
    ) -> Result<Option<Written>> {
        let written = partition
            .append_relaxed_built(pass, builder, &self.next_commit)
            .inspect_err(|error| self.refused(error))?;
        self.after_relaxed(partition, durability);
        Ok(written)
    }

    #[inline]
    fn after_relaxed(&self, partition: &Arc<Partition>, durability: Durability) {
        if let Durability::Interval(interval) = durability
            && !partition.sync_is_due.load(Ordering::Relaxed)
            && !partition.sync_is_due.swap(true, Ordering::AcqRel)
        {
            self.upkeep.want_sync(partition, self.env.clock.monotonic() + interval);
        }
        self.after_append(partition);
    }

    /// Adds an append of a synced topic to the group that is forming. Somebody must [lead](Self::lead) for it to be
    /// committed: the commit thread, or the caller.
    #[inline]
    pub(crate) fn enqueue_by(
        &self,
        pass: Pass,
        partition: &Arc<Partition>,
        len: usize,
        leader: Leader,
        fill: impl FnOnce(&mut FrameBuilder),
    ) -> Result<Ticket, Refused> {
        let ticket = self.committer.enqueue(pass, partition, len, leader, fill)?;
        if ticket.first == 0 && self.meter.is_on() {
            ticket.group.begins(self.env.clock.monotonic());
        }
        Ok(ticket)
    }

    /// Takes note of why something was not written.
    #[cold]
    pub(super) fn refused(&self, error: &Error) {
        if error.kind() == ErrorKind::StorageFull {
            self.meter.note_disk_full();
        }
    }

    /// [`enqueue_by`](Self::enqueue_by) where there is no guard.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn enqueue(
        &self,
        partition: &Arc<Partition>,
        len: usize,
        leader: Leader,
        fill: impl FnOnce(&mut FrameBuilder),
    ) -> Result<Ticket, Refused> {
        self.enqueue_by(Pass::Open, partition, len, leader, fill)
    }

    /// Notes what an append has left to be done in the background.
    #[inline]
    pub(super) fn after_append(&self, partition: &Arc<Partition>) {
        if partition.take_wants_upkeep() {
            self.upkeep.want(partition);
        }
        if partition.take_wants_write() {
            self.upkeep.want_write(partition, || self.env.clock.monotonic() + DEFERRED_FOR);
        }
        let due = if partition.config.synced { CHECKPOINT_BYTES } else { CHECKPOINT_BYTES_RELAXED };
        if partition.since_checkpoint() >= due && !self.checkpoint_wanted.swap(true, Ordering::AcqRel) {
            self.upkeep.want_checkpoint();
        }
    }

    /// The number that the next commit takes: whatever is acknowledged by now has a lower one.
    pub(crate) fn next_commit(&self) -> u64 {
        self.next_commit.load(Ordering::SeqCst)
    }

    /// A commit number, `next` at the most, below which everything in `partitions` is visible, for following several in one
    /// order. `next` is a [`next_commit`](Self::next_commit) from before `partitions` were looked up.
    ///
    /// Whoever is about to take numbers first announces the counter's value in the partitions concerned. So either a number
    /// below `next` is announced there, or what has it is visible by now.
    ///
    /// Releases and acquires are enough for that, since the counter is only ever changed by read-modify-writes: whoever has read
    /// `next` has synchronized with every one that took a number below it, and so sees what was stored before that one, the
    /// announcement, or what was stored over it since. What is stored over it, by `announce_end` or by the next writer under the
    /// same lock, is stored after the frame became visible, and reading it brings that along.
    pub(crate) fn horizon_below<'a>(&self, next: u64, partitions: impl Iterator<Item = &'a Arc<Partition>>) -> u64 {
        partitions.map(|partition| partition.inflight()).fold(next, u64::min)
    }

    /// Tells everybody that topics or partitions have come, changed or gone.
    pub(super) fn announce_catalogue(&self) {
        self.catalogue_changed.notify(usize::MAX);
        self.extensions.each(|extension| extension.catalogue_changed(self));
    }

    /// Has the reserves made that topics keep for a full disk.
    pub(crate) fn look_for_reserves(&self) {
        let partitions = self.topics().into_iter().flat_map(|topic| topic.partitions().to_vec());
        let reserving = partitions.filter(|partition| partition.config.live.reserve_bytes() > 0);
        reserving.for_each(|partition| self.upkeep.want(&partition));
    }

    /// Does one round of upkeep.
    pub(crate) fn do_round(&self, round: Round) {
        for partition in round.due {
            // Taken back first: what is appended from now on makes a date of its own.
            partition.sync_is_due.store(false, Ordering::Release);
            let began = self.meter.begin(&self.env);
            let synced = partition.sync_written();
            self.meter.synced(self.meter.took(&self.env, began), Way::Interval);
            if let Err(error) = synced {
                tracing::error!(%error, "a partition could not be synced at its interval");
            }
        }
        for partition in round.writes {
            if let Err(error) = partition.write_deferred() {
                // Acknowledged, in the journal, readable from memory; the next open puts them into their file.
                tracing::error!(%error, "committed frames could not be written to their file");
            }
        }
        let mut sealed = false;
        for partition in round.partitions {
            if partition.upkeep() {
                sealed = true;
                self.look_at(&partition);
            }
        }
        if round.retention {
            match self.retain() {
                Ok(None) => {}
                Ok(Some(wait)) => self.upkeep.want_retention(self.env.clock.monotonic().saturating_add(wait)),
                Err(error) if self.is_closed() => tracing::debug!(%error, "nothing was let go"),
                // Looked for again when the next segment is sealed.
                Err(error) => tracing::warn!(%error, "not all could be let go that is not to be kept"),
            }
        }
        if sealed {
            self.look_for_retention();
        }
        if round.checkpoint {
            self.checkpoint_wanted.store(false, Ordering::Release);
        }
        if round.checkpoint
            && !self.is_closed()
            && let Err(error) = self.checkpoint()
        {
            tracing::warn!(%error, "no checkpoint");
        }
        if round.checkpoint {
            self.extensions.each(|extension| extension.checkpointed(self));
        }
        if round.calls {
            let now = self.env.clock.monotonic();
            self.extensions.each(|extension| extension.due(self, now));
        }
        self.reserve_commits();
    }

    /// Does whatever upkeep is waiting, on this thread.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn do_upkeep(&self, now: Duration) {
        let round = self.upkeep.take(now);
        if !round.is_empty() {
            self.do_round(round);
        }
    }

    /// Reserves more commit numbers long before those in the manifest are used up.
    fn reserve_commits(&self) {
        let limit = self.commit_limit.load(Ordering::Relaxed);
        if self.next_commit.load(Ordering::Relaxed) + COMMIT_RESERVE / 2 < limit {
            return;
        }
        match lock(&self.manifest).update(|manifest| manifest.commit_limit = limit + COMMIT_RESERVE) {
            Ok(()) => self.commit_limit.store(limit + COMMIT_RESERVE, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "commit numbers could not be reserved"),
        }
    }

    /// Commits what is pending and puts everything that is written on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.check_open()?;
        if self.is_read_only() {
            // Nothing was written through this handle.
            return Ok(());
        }
        self.committer.flush(|work| self.carry_out(work));
        for topic in self.topics() {
            for partition in topic.partitions().iter() {
                partition.sync_written()?;
            }
        }
        Ok(())
    }

    /// Accepts no more appends, commits what is pending, syncs everything, and leaves the mark of a clean close. The lock is
    /// released last, whatever happens. Later calls do nothing.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.is_closed() {
            self.extensions.each(|extension| extension.draining(self));
        }
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let closed = Error::closed();
        if self.is_read_only() {
            self.stop_following(&closed);
            self.extensions.close(|extension| extension.closing(self));
            return Ok(());
        }
        self.committer.close(closed.clone());
        self.committer.drain(|work| self.carry_out(work));
        let answer = self.close_partitions(&closed);
        self.catalogue_changed.notify(usize::MAX);
        self.extensions.close(|extension| extension.closing(self));
        drop(lock(&self.lock).take());
        answer
    }

    fn close_partitions(&self, closed: &Error) -> Result<()> {
        let _no_changes = lock(&self.catalogue);
        let topics = self.topics();
        let partitions: Vec<_> = topics.iter().map(|topic| topic.partitions()).collect();
        // Until everything is over: nobody may touch the files behind the lock of the log.
        let _alone: Vec<_> = partitions.iter().flat_map(|all| all.iter()).map(|one| one.stop_maintenance()).collect();
        let mut first = None;
        for topic in topics.iter() {
            topic.close(closed);
            for partition in topic.partitions().iter() {
                if partition.failure().is_none()
                    && let Err(error) = partition.finish()
                {
                    first.get_or_insert(error);
                }
            }
        }
        if self.names_unknown.load(Ordering::Relaxed) {
            first = first.or(self.sync_names().err());
        }
        self.ended.store(true, Ordering::Release);
        let failed = first.or_else(|| lock(&self.journal).failure().cloned()).or_else(|| self.first_poisoned());
        self.finish(failed.is_none())?;
        failed.map_or(Ok(()), Err)
    }

    fn sync_names(&self) -> Result<()> {
        let dirs = self.topics().into_iter().flat_map(|topic| {
            let dir = self.root.join(TOPICS_DIR).join(&*topic.name);
            let partitions: Vec<_> =
                (0..topic.settings().partitions).map(|number| partition_dir(&dir, number)).collect();
            std::iter::once(dir).chain(partitions)
        });
        sync_names(&self.env, &self.root, dirs.collect())
    }

    /// A partition that a failed sync has poisoned. (Damage that was there before is no reason for an unclean close.)
    fn first_poisoned(&self) -> Option<Error> {
        let topics = self.topics();
        let mut partitions = topics.iter().flat_map(|topic| topic.partitions().to_vec());
        partitions.find_map(|partition| partition.failure().filter(|_| partition.damage().is_none()).cloned())
    }

    /// The last checkpoint, and the clean-close mark if everything is on the disk.
    fn finish(&self, clean: bool) -> Result<()> {
        let mut checkpointed = lock(&self.checkpointed);
        for topic in self.topics() {
            for partition in topic.partitions().iter() {
                if let Some(entry) = partition.checkpoint_entry() {
                    checkpointed.entries.insert((entry.topic_id, entry.partition), entry);
                }
            }
        }
        self.write_checkpoint(&mut checkpointed)?;
        if !clean {
            return Ok(());
        }
        let next_commit = self.next_commit.load(Ordering::SeqCst);
        let next = lock(&self.journal).live().next;
        lock(&self.manifest).update(|manifest| {
            manifest.clean = true;
            manifest.commit_limit = next_commit;
            manifest.journal_first = next;
            manifest.journal_next = next;
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the log was not closed cleanly");
        }
    }
}
