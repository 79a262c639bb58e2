//! A partition: segments as one space of offsets, with one writer and any number of readers.
//!
//! Invariants:
//! - `log_start <= durable_end`, `visible_end <= log end`; for a synced topic `visible_end <= durable_end`.
//! - What is visible never goes away or changes while the log is open, but for records that a compaction takes away.
//! - A reader takes an immutable snapshot of the segments and no lock that a writer holds during I/O.
//! - After a failed sync nothing is written any more: what the disk holds above `durable_end` is unknown.

use std::any::Any;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use event_listener::Event;

use crate::error::{Error, ErrorKind, OffsetRange, Result};
use crate::format::checkpoint::{CheckpointEntry, SegmentPlace};
use crate::planted::{self, Bug};
use crate::segment::{Owner, Segment, lock};
use crate::storage::Env;

pub(crate) mod compact;
pub(crate) mod cursor;
mod deferred;
pub(crate) mod follow;
pub(crate) mod hold;
pub(crate) mod live;
pub(crate) mod recover;
pub(crate) mod retain;
mod room;
pub(crate) mod tail;
pub(crate) mod watch;
mod write;
pub(crate) mod writer;

#[cfg(test)]
mod tests;

use live::LiveSettings;
use tail::Tail;
use watch::Watchers;
use writer::Writer;

/// Nothing is being committed.
pub(crate) const IDLE: u64 = u64::MAX;

/// Who appends to a partition that has a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Anybody: refused as soon as there is a guard.
    Open,
    /// The guard itself.
    Guard,
}

/// What a partition needs to know of its topic and its log.
#[derive(Debug, Clone)]
pub(crate) struct PartitionConfig {
    pub(crate) log_id: u128,
    /// Whether records become visible once they are on the disk (else once they are written).
    pub(crate) synced: bool,
    pub(crate) tail_bytes_max: usize,
    /// Whether frames that need no sync may be stored through memory.
    pub(crate) mapped: bool,
    pub(crate) live: Arc<LiveSettings>,
}

/// One partition of one topic.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) owner: Arc<Owner>,
    pub(crate) config: PartitionConfig,
    env: Env,
    dir: PathBuf,
    writer: Mutex<Writer>,
    /// Held while the file is written ahead of the writer, outside the writer's lock.
    prewriting: Mutex<()>,
    /// Held while unsynced files are being synced outside the writer's lock: one at a time.
    syncing: Mutex<()>,
    /// Held while segments are replaced or removed: one at a time.
    maintaining: Mutex<()>,
    /// How many wait for that to end.
    maintenance_stops: AtomicUsize,
    /// When the first tombstone may go that the last compaction has kept.
    tombstones_due: AtomicI64,
    prewritten: AtomicU64,
    /// The file should be written ahead, or an index be stored.
    wants_upkeep: AtomicBool,
    /// The partition is on the list of those with something to do.
    upkeep_queued: AtomicBool,
    /// Published frames wait to be written to the file.
    wants_write: AtomicBool,
    /// Bytes appended since the last checkpoint.
    since_checkpoint: AtomicU64,
    /// Bytes appended since the opening.
    #[cfg(feature = "metrics")]
    appended_bytes: AtomicU64,
    /// The journal may hold frames that the segments have not synced.
    journaled: AtomicBool,
    /// The journal may hold frames that belong at the end of the active segment, and nobody knows.
    end_unknown: AtomicBool,
    /// The partition is on the list of those to be synced by interval.
    pub(crate) sync_is_due: AtomicBool,
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    log_start: AtomicU64,
    /// Everything before this offset was compacted.
    clean_end: AtomicU64,
    visible_end: AtomicU64,
    durable_end: AtomicU64,
    /// A lower bound of the commit numbers that are being written right now; [`IDLE`] if there are none.
    inflight: AtomicU64,
    pub(crate) tail: Tail,
    /// Notified when `visible_end` has moved, or the partition has failed or closed.
    pub(crate) changed: Event,
    watchers: Watchers,
    /// What a layer above watches the appends with. Once it is there, they come through it.
    guard: OnceLock<Arc<dyn Any + Send + Sync>>,
    failure: OnceLock<Error>,
    closed: OnceLock<Error>,
    holds: hold::Holds,
    /// The log was opened read-only: why no record is taken.
    refused: OnceLock<Error>,
    /// The committer's place for this partition's pending frame; only the committer reads or writes it, under its lock.
    pub(crate) queue_slot: AtomicUsize,
}

impl Partition {
    #[expect(clippy::too_many_arguments, reason = "one caller, and each argument is a field")]
    fn new(
        env: Env,
        owner: Arc<Owner>,
        config: PartitionConfig,
        dir: PathBuf,
        segments: Vec<Arc<Segment>>,
        active: Arc<Segment>,
        place: SegmentPlace,
        log_start: u64,
    ) -> Self {
        let end = place.next_offset;
        Self {
            tail: Tail::new(config.tail_bytes_max, end),
            owner,
            config,
            env,
            dir,
            prewritten: AtomicU64::new(place.position),
            writer: Mutex::new(Writer::new(active, place)),
            prewriting: Mutex::new(()),
            syncing: Mutex::new(()),
            maintaining: Mutex::new(()),
            maintenance_stops: AtomicUsize::new(0),
            tombstones_due: AtomicI64::new(i64::MAX),
            wants_upkeep: AtomicBool::new(false),
            upkeep_queued: AtomicBool::new(false),
            wants_write: AtomicBool::new(false),
            since_checkpoint: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            appended_bytes: AtomicU64::new(0),
            journaled: AtomicBool::new(false),
            end_unknown: AtomicBool::new(false),
            sync_is_due: AtomicBool::new(false),
            segments: RwLock::new(Arc::new(segments)),
            log_start: AtomicU64::new(log_start),
            clean_end: AtomicU64::new(log_start),
            visible_end: AtomicU64::new(end),
            durable_end: AtomicU64::new(end),
            inflight: AtomicU64::new(IDLE),
            changed: Event::new(),
            watchers: Watchers::default(),
            guard: OnceLock::new(),
            failure: OnceLock::new(),
            closed: OnceLock::new(),
            holds: hold::Holds::default(),
            refused: OnceLock::new(),
            queue_slot: AtomicUsize::new(usize::MAX),
        }
    }

    /// What a layer above has attached.
    #[inline]
    pub(crate) fn guard(&self) -> Option<&Arc<dyn Any + Send + Sync>> {
        self.guard.get()
    }

    /// Attaches what `make` makes, if nothing is attached yet.
    pub(crate) fn guard_or_attach<T: Any + Send + Sync>(
        &self,
        make: impl FnOnce() -> Arc<T>,
    ) -> &Arc<dyn Any + Send + Sync> {
        self.guard.get_or_init(|| make())
    }

    /// Whether an append with this pass must go another way. Asked under the lock that puts appends in their order: whoever
    /// attaches a guard and then takes that lock knows that all others come through it.
    #[inline]
    pub(crate) fn bars(&self, pass: Pass) -> bool {
        pass == Pass::Open && self.guard.get().is_some()
    }

    /// The largest timestamp of any record; `None` where that is not known, or there is none.
    pub(crate) fn max_timestamp(&self) -> Option<i64> {
        let sealed: Vec<i64> = self
            .segments()
            .iter()
            .filter_map(|segment| segment.summary())
            .map(|summary| summary.max_timestamp)
            .collect();
        let newest = sealed.into_iter().fold(lock(&self.writer).place.max_timestamp, i64::max);
        // A segment that lacks its footer says the one, an empty partition the other.
        Some(newest).filter(|newest| *newest != i64::MAX && *newest != i64::MIN)
    }

    /// What partitions are sorted and told apart by.
    pub(crate) fn key(&self) -> (u128, u32) {
        (self.owner.topic_id, self.owner.partition)
    }

    /// The first offset that is there.
    pub(crate) fn log_start(&self) -> u64 {
        self.log_start.load(Ordering::Acquire)
    }

    /// The offset below which everything was compacted.
    pub(crate) fn clean_end(&self) -> u64 {
        self.clean_end.load(Ordering::Acquire).max(self.log_start())
    }

    /// Everything below `offset` was compacted.
    fn set_clean_end(&self, offset: u64) {
        self.clean_end.fetch_max(offset, Ordering::AcqRel);
    }

    /// The high watermark: one past the last offset that readers see.
    #[inline]
    pub(crate) fn visible_end(&self) -> u64 {
        self.visible_end.load(Ordering::Acquire)
    }

    /// One past the last offset known to be on the disk.
    pub(crate) fn durable_end(&self) -> u64 {
        self.durable_end.load(Ordering::Acquire)
    }

    /// Bytes of all segments.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.readable()).sum()
    }

    /// The segments at this moment, oldest first.
    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn add_segment(&self, segment: Arc<Segment>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Vec::with_capacity(segments.len() + 1);
        next.extend(segments.iter().cloned());
        next.push(segment);
        *segments = Arc::new(next);
    }

    /// Why nothing can be appended, or read beyond the end: a failed sync or damage.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Damage, which a reader must hear of when it gets there.
    pub(crate) fn damage(&self) -> Option<&Error> {
        self.failure().filter(|error| error.kind() == ErrorKind::Corrupt)
    }

    fn fail(&self, error: Error) {
        // The first failure is the cause; later ones are its consequences.
        if self.failure.set(error).is_ok() {
            self.wake_all();
        }
    }

    /// Refuses appends because of a failure elsewhere that leaves unknown what belongs at the end.
    pub(crate) fn poison_by(&self, error: &Error) {
        self.fail(error.clone());
    }

    /// Refuses appends after a failed sync and says so to everyone who asks.
    fn poison(&self, source: std::io::Error) -> Error {
        let Owner { topic, partition, .. } = &*self.owner;
        let error = Error::with_source(
            ErrorKind::Poisoned,
            format!(
                "a sync of topic {topic}, partition {partition} failed, so what the disk holds of its last records is \
                 unknown; it takes no more records until the log is opened again"
            ),
            source,
        );
        tracing::error!(%error, "partition poisoned");
        self.fail(error.clone());
        error
    }

    /// Refuses appends from now on; those under way finish first.
    pub(crate) fn close(&self, error: Error) {
        let writer = lock(&self.writer);
        // Whoever closed it first said why.
        let _first = self.closed.set(error);
        drop(writer);
        self.wake_all();
    }

    /// Why no append is accepted any more.
    pub(crate) fn closed(&self) -> Option<&Error> {
        self.closed.get()
    }

    /// Whether the partition takes records.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closed.get().or_else(|| self.failure.get()).or_else(|| self.refused.get()) {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// A lower bound of the commits that are assigned and not yet visible here.
    pub(crate) fn inflight(&self) -> u64 {
        self.inflight.load(Ordering::SeqCst)
    }

    /// Announces, holding the writer, that commit numbers are about to be taken from `next_commit`. Why that is enough, and why
    /// in this order: see `Engine::horizon_below`.
    #[inline]
    pub(crate) fn announce(&self, next_commit: &AtomicU64) {
        self.inflight.store(next_commit.load(Ordering::Relaxed), Ordering::Release);
    }

    /// What was announced is visible, or has failed.
    #[inline]
    pub(crate) fn announce_end(&self) {
        self.inflight.store(IDLE, Ordering::SeqCst);
    }

    /// Begins to follow: only who does may listen to `changed`, and it must do so before its last look.
    pub(crate) fn follow(&self) {
        self.tail.follow();
        // The other half of `wake_followers`.
        let _latest = self.inflight();
    }

    /// Wakes those who follow, after [`announce_end`](Self::announce_end). To wake costs a fence and a lock, so it is left out
    /// where nobody follows.
    ///
    /// Nobody sleeps through it. Four steps are sequentially consistent: here, the store of `announce_end` and then the load of
    /// the count; in [`follow`](Self::follow), the count's increment and then the load of `inflight`. If the load here misses
    /// the increment, all four happened in this order, so `follow` has read that store, or a later one of a writer that came
    /// after it, and with it everything that was made visible before: the follower's first look finds it. If the load does not
    /// miss it, the follower is woken, or is not asleep yet and looks once more before it is.
    #[inline]
    pub(crate) fn wake_followers(&self) {
        if self.tail.is_followed() {
            self.wake_all();
        }
    }

    /// Wakes everybody who waits for a change.
    pub(crate) fn wake_all(&self) {
        self.changed.notify(usize::MAX);
        self.watchers.tell();
    }

    /// Which offsets exist.
    pub(crate) fn range(&self) -> OffsetRange {
        OffsetRange { log_start: self.log_start(), high_watermark: self.visible_end() }
    }

    /// What a checkpoint says of this partition: a place before which all is on the disk. `None` if none is known: the caller
    /// syncs first, or keeps what the last checkpoint said.
    pub(crate) fn checkpoint_entry(&self) -> Option<CheckpointEntry> {
        let writer = lock(&self.writer);
        let all = writer.unsynced.is_empty() && writer.deferred.is_empty() || planted::is(Bug::CheckpointAhead);
        // A partition that is written to without a pause is never synced up to its end.
        let place = if all { Some(writer.place) } else { writer.synced_place };
        let place = place.filter(|_| self.failure().is_none())?;
        let same_file = place.segment_base == writer.place.segment_base;
        let since = writer.place.position - if same_file { place.position } else { 0 };
        self.since_checkpoint.store(since, Ordering::Relaxed);
        Some(CheckpointEntry {
            topic_id: self.owner.topic_id,
            partition: self.owner.partition,
            log_start: self.log_start(),
            clean_end: self.clean_end(),
            place,
        })
    }

    /// Bytes appended since the last checkpoint.
    pub(crate) fn since_checkpoint(&self) -> u64 {
        self.since_checkpoint.load(Ordering::Relaxed)
    }

    /// Bytes appended since the opening.
    #[cfg(feature = "metrics")]
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// Whether the journal may hold frames that the segments have not synced; asking takes the mark away.
    pub(crate) fn take_journaled(&self) -> bool {
        self.journaled.swap(false, Ordering::Relaxed)
    }

    /// Puts the mark of [`take_journaled`](Self::take_journaled) back.
    pub(crate) fn mark_journaled(&self) {
        self.journaled.store(true, Ordering::Relaxed);
    }

    /// Whether something is to be done in the background, and nobody was told yet.
    #[inline]
    pub(crate) fn take_wants_upkeep(&self) -> bool {
        self.wants_upkeep.load(Ordering::Relaxed) && !self.upkeep_queued.swap(true, Ordering::AcqRel)
    }

    /// Does in the background what the writer wished for. Answers whether it has sealed a segment since the last time.
    pub(crate) fn upkeep(&self) -> bool {
        // Taken back first: what is wished for from now on is a wish of its own.
        self.wants_upkeep.store(false, Ordering::Relaxed);
        self.upkeep_queued.store(false, Ordering::Release);
        let sealed = self.store_indexes();
        if self.config.synced {
            self.make_room_ahead();
        }
        sealed
    }
}
