//! A partition: segments as one space of offsets, with one writer and any number of readers.
//!
//! Invariants:
//! - `log_start <= durable_end`, `visible_end <= log end`; for a synced topic `visible_end <= durable_end`.
//! - What is visible never goes away or changes while the log is open.
//! - A reader takes an immutable snapshot of the segments and no lock that a writer holds during I/O.
//! - After a failed sync nothing is written any more: what the disk holds above `durable_end` is unknown.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use event_listener::Event;

use crate::error::{Error, ErrorKind, OffsetRange, Result};
use crate::format::checkpoint::{CheckpointEntry, SegmentPlace};
use crate::planted::{self, Bug};
use crate::segment::{Owner, Segment, lock};
use crate::storage::Env;

pub(crate) mod cursor;
pub(crate) mod recover;
mod room;
pub(crate) mod tail;
pub(crate) mod writer;

#[cfg(test)]
mod tests;

use tail::Tail;
use writer::Writer;

/// Nothing is being committed.
pub(crate) const IDLE: u64 = u64::MAX;

/// What a partition needs to know of its topic and its log.
#[derive(Debug, Clone)]
pub(crate) struct PartitionConfig {
    pub(crate) log_id: u128,
    /// Whether records become visible once they are on the disk (else once they are written).
    pub(crate) synced: bool,
    pub(crate) segment_bytes_max: u64,
    pub(crate) tail_bytes_max: usize,
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
    prewritten: AtomicU64,
    /// The file should be written ahead, or an index be stored.
    wants_upkeep: AtomicBool,
    /// The partition is on the list of those with something to do.
    upkeep_queued: AtomicBool,
    /// Bytes appended since the last checkpoint.
    since_checkpoint: AtomicU64,
    /// The journal may hold frames that the segments have not synced.
    journaled: AtomicBool,
    /// The partition is on the list of those to be synced by interval.
    pub(crate) sync_is_due: AtomicBool,
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    log_start: AtomicU64,
    visible_end: AtomicU64,
    durable_end: AtomicU64,
    /// A lower bound of the commit numbers that are being written right now; [`IDLE`] if there are none.
    inflight: AtomicU64,
    pub(crate) tail: Tail,
    /// Notified when `visible_end` has moved, or the partition has failed or closed.
    pub(crate) changed: Event,
    failure: OnceLock<Error>,
    closed: OnceLock<Error>,
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
            wants_upkeep: AtomicBool::new(false),
            upkeep_queued: AtomicBool::new(false),
            since_checkpoint: AtomicU64::new(0),
            journaled: AtomicBool::new(false),
            sync_is_due: AtomicBool::new(false),
            segments: RwLock::new(Arc::new(segments)),
            log_start: AtomicU64::new(log_start),
            visible_end: AtomicU64::new(end),
            durable_end: AtomicU64::new(end),
            inflight: AtomicU64::new(IDLE),
            changed: Event::new(),
            failure: OnceLock::new(),
            closed: OnceLock::new(),
            queue_slot: AtomicUsize::new(usize::MAX),
        }
    }

    /// What partitions are sorted and told apart by.
    pub(crate) fn key(&self) -> (u128, u32) {
        (self.owner.topic_id, self.owner.partition)
    }

    /// The first offset that is there.
    pub(crate) fn log_start(&self) -> u64 {
        self.log_start.load(Ordering::Acquire)
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
            self.changed.notify(usize::MAX);
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
        self.changed.notify(usize::MAX);
    }

    /// Why no append is accepted any more.
    pub(crate) fn closed(&self) -> Option<&Error> {
        self.closed.get()
    }

    /// Whether the partition takes records.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closed.get().or_else(|| self.failure.get()) {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// A lower bound of the commits that are assigned and not yet visible here.
    pub(crate) fn inflight(&self) -> u64 {
        self.inflight.load(Ordering::SeqCst)
    }

    /// Announces, holding the writer, that commit numbers are about to be taken from `next_commit`. See `Engine::horizon`.
    pub(crate) fn announce(&self, next_commit: &AtomicU64) {
        self.inflight.store(next_commit.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// What was announced is visible, or has failed.
    pub(crate) fn announce_end(&self) {
        self.inflight.store(IDLE, Ordering::SeqCst);
    }

    /// Which offsets exist.
    pub(crate) fn range(&self) -> OffsetRange {
        OffsetRange { log_start: self.log_start(), high_watermark: self.visible_end() }
    }

    /// What a checkpoint says of this partition: a place that is on the disk. `None` if that is not known: the caller syncs
    /// first, or keeps what the last checkpoint said.
    pub(crate) fn checkpoint_entry(&self) -> Option<CheckpointEntry> {
        let writer = lock(&self.writer);
        let known = writer.unsynced.is_empty() || planted::is(Bug::CheckpointAhead);
        if !known || self.failure().is_some() {
            return None;
        }
        self.since_checkpoint.store(0, Ordering::Relaxed);
        Some(CheckpointEntry {
            topic_id: self.owner.topic_id,
            partition: self.owner.partition,
            log_start: self.log_start(),
            place: writer.place,
        })
    }

    /// Bytes appended since the last checkpoint.
    pub(crate) fn since_checkpoint(&self) -> u64 {
        self.since_checkpoint.load(Ordering::Relaxed)
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

    /// Does in the background what the writer wished for.
    pub(crate) fn upkeep(&self) {
        // Taken back first: what is wished for from now on is a wish of its own.
        self.wants_upkeep.store(false, Ordering::Relaxed);
        self.upkeep_queued.store(false, Ordering::Release);
        self.store_indexes();
        if self.config.synced {
            self.make_room_ahead();
        }
    }
}
