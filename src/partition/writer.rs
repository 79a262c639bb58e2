//! The one writer of a partition: placing frames, writing them, starting new segments, syncing, and making room ahead.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, Weak};

use bytes::Bytes;

use super::deferred::Deferred;
use super::follow::Followed;
use super::{Partition, Pass};
use crate::error::{ErrorKind, Result};
use crate::format::checkpoint::SegmentPlace;
use crate::format::frame::{FrameHeader, header_crc};
use crate::format::journal::FrameTarget;
use crate::format::record::{FrameBuilder, FramePlace};
use crate::planted::{self, Bug};
use crate::segment::reader::own_frame;
use crate::segment::{Segment, Summary, advance, create, first_place, lock};
use crate::storage::files::{write_all_at, write_zeros};
use crate::storage::{File, Window};

/// The first step in which a partition's file grows ahead of its writer; each step doubles up to the last.
const ROOM_BYTES_MIN: u64 = 8 * 1024;
pub(super) const ROOM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The end of the partition; changed under its lock only.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) active: Arc<Segment>,
    file: Option<Weak<dyn File>>,
    pub(crate) place: SegmentPlace,
    /// Segments that hold bytes no sync has covered yet, oldest first.
    pub(crate) unsynced: Vec<Arc<Segment>>,
    /// A place before which everything is on the disk, whatever was written behind it since.
    pub(super) synced_place: Option<SegmentPlace>,
    /// The name of the active segment is not durable yet.
    pub(super) dir_unsynced: bool,
    /// Sealed segments whose index is still to be written.
    pub(super) unindexed: Vec<(Arc<Segment>, SegmentPlace)>,
    pub(super) room_step: u64,
    /// The newest frame is in the journal: its file needs no sync soon.
    pub(super) is_journaled: bool,
    /// How long recovery has found the file.
    pub(super) found_len: u64,
    /// The room ahead as memory: what lies in it is stored there instead of being written.
    pub(super) window: Option<Box<dyn Window>>,
    /// The position from which on the next frame goes into the index.
    index_due: u64,
    scratch: FrameBuilder,
    pub(super) deferred: Deferred,
    /// What is known of a partition that another process writes.
    pub(super) followed: Followed,
}

impl Writer {
    pub(crate) fn new(active: Arc<Segment>, place: SegmentPlace) -> Self {
        let index_due = active.index().next_due();
        Self {
            index_due,
            active,
            file: None,
            place,
            unsynced: Vec::new(),
            synced_place: None,
            dir_unsynced: false,
            unindexed: Vec::new(),
            room_step: ROOM_BYTES_MIN,
            is_journaled: false,
            found_len: 0,
            window: None,
            scratch: FrameBuilder::new(),
            deferred: Deferred::default(),
            followed: Followed::default(),
        }
    }

    /// The file of the active segment. Held weakly, or a log of many partitions would have as many files open.
    #[inline]
    pub(super) fn file(&mut self) -> Result<Arc<dyn File>> {
        if let Some(file) = self.file.as_ref().and_then(Weak::upgrade) {
            self.active.touch();
            return Ok(file);
        }
        let file = self.active.file()?;
        self.file = Some(Arc::downgrade(&file));
        Ok(file)
    }

    /// Goes on in a segment that is there already, before its first frame.
    pub(super) fn enter(&mut self, segment: Arc<Segment>) {
        self.place = SegmentPlace {
            last_commit: self.place.last_commit,
            ..first_place(segment.base_offset, segment.incarnation)
        };
        self.file = None;
        self.active = segment;
    }

    pub(super) fn mark_unsynced(&mut self) {
        if self.unsynced.last().is_none_or(|last| !Arc::ptr_eq(last, &self.active)) {
            self.unsynced.push(Arc::clone(&self.active));
        }
    }
}

/// A frame that a journaled commit has placed: it has its offsets and its position, and is not yet in its file.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) header: FrameHeader,
    pub(crate) target: FrameTarget,
    /// What is stored, and the body that is read from it.
    pub(crate) bytes: Bytes,
    body: Bytes,
}

/// What an append without a sync has reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) base_offset: u64,
    pub(crate) commit: u64,
}

/// Exclusive access to the end of a partition.
pub(crate) struct WriterGuard<'a> {
    pub(super) partition: &'a Partition,
    pub(super) writer: MutexGuard<'a, Writer>,
    /// What was written to and is not synced yet: it must not be closed in between.
    pub(super) held: Option<Arc<dyn File>>,
}

/// A panic between the two announcements must not hold readers up for ever: nobody commits what was announced any more.
impl Drop for WriterGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.partition.announce_end();
        }
    }
}

impl Partition {
    /// Waits for the writer.
    pub(crate) fn writer(&self) -> WriterGuard<'_> {
        WriterGuard { partition: self, writer: lock(&self.writer), held: None }
    }

    /// Appends one frame to the page cache and makes it visible at once. `next_commit` is the log's counter: the number is
    /// taken under this partition's lock, so that numbers ascend within the partition. `None` if the partition has a guard that
    /// the append must come through.
    pub(crate) fn append_relaxed(
        &self,
        pass: Pass,
        next_commit: &AtomicU64,
        fill: impl FnOnce(&mut FrameBuilder),
    ) -> Result<Option<Written>> {
        let mut guard = self.writer();
        if self.bars(pass) {
            return Ok(None);
        }
        let mut scratch = std::mem::take(&mut guard.writer.scratch);
        scratch.clear();
        fill(&mut scratch);
        scratch.compress(self.config.live.compression());
        let answer = guard.append_visible(&mut scratch, next_commit);
        guard.writer.scratch = scratch;
        drop(guard);
        self.announce_written(answer)
    }

    /// [`append_relaxed`](Self::append_relaxed) of a frame that is built already.
    pub(crate) fn append_relaxed_built(
        &self,
        pass: Pass,
        builder: &mut FrameBuilder,
        next_commit: &AtomicU64,
    ) -> Result<Option<Written>> {
        // Before the lock is taken.
        builder.compress(self.config.live.compression());
        let mut guard = self.writer();
        if self.bars(pass) {
            return Ok(None);
        }
        let answer = guard.append_visible(builder, next_commit);
        drop(guard);
        self.announce_written(answer)
    }

    #[inline]
    fn announce_written(&self, answer: Result<FrameHeader>) -> Result<Option<Written>> {
        // After a failure as well: readers of several partitions were held up by the number that was announced.
        self.wake_followers();
        let header = answer?;
        Ok(Some(Written { base_offset: header.base_offset, commit: header.commit }))
    }

    /// Syncs everything that is written, oldest segment first, and returns the offset below which all is on the disk.
    pub(crate) fn sync_written(&self) -> Result<u64> {
        let _one_at_a_time = lock(&self.syncing);
        let (segments, active, place, dir_unsynced) = {
            let mut guard = self.writer();
            if let Some(failure) = self.failure() {
                return Err(failure.clone());
            }
            guard.write_deferred()?;
            let Writer { unsynced, active, place, dir_unsynced, .. } = &*guard.writer;
            (unsynced.clone(), Arc::clone(active), *place, *dir_unsynced)
        };
        let end = place.next_offset;
        for segment in &segments {
            segment.own_handle()?.sync_data().map_err(|error| self.poison(error))?;
        }
        if dir_unsynced {
            self.env.storage.sync_dir(&self.dir).map_err(|error| self.poison(error))?;
        }
        self.durable_end.fetch_max(end, Ordering::AcqRel);
        // The list is cleared only now, so that nobody takes it for empty while the sync runs; what was written to the
        // active segment meanwhile (or the footer it got) keeps it there.
        let mut writer = lock(&self.writer);
        writer.synced_place = Some(place);
        let untouched = Arc::ptr_eq(&writer.active, &active) && writer.place.position == place.position;
        let is_done = |segment: &Arc<Segment>| {
            segments.iter().any(|done| Arc::ptr_eq(done, segment)) && (untouched || !Arc::ptr_eq(segment, &active))
        };
        writer.unsynced.retain(|segment| !is_done(segment));
        if untouched {
            writer.dir_unsynced = false;
        }
        Ok(end)
    }
}

impl WriterGuard<'_> {
    /// Starts a new segment if `len` more bytes would be too many for this one.
    pub(crate) fn prepare(&mut self, len: usize) -> Result<()> {
        let place = &self.writer.place;
        let full =
            place.frame_count > 0 && place.position + len as u64 > self.partition.config.live.segment_bytes_max();
        // The footer's span of offsets has 32 bits.
        let long = place.next_offset - place.segment_base >= u64::from(u32::MAX / 2);
        if !full && !long {
            return Ok(());
        }
        let end = place.position + len as u64;
        match self.rotate() {
            // The file becomes larger than it should, as it has the only room that is left.
            Err(error) if error.kind() == ErrorKind::StorageFull && !long && self.is_reserved(end) => Ok(()),
            rotated => rotated,
        }
    }

    /// Whether there is a reserve up to here.
    fn is_reserved(&self, end: u64) -> bool {
        self.partition.config.live.reserve_bytes() > 0
            && !planted::is(Bug::ReserveNotUsed)
            && end <= self.partition.prewritten.load(Ordering::Acquire)
    }

    /// Writes a frame and makes it visible without a sync.
    fn append_visible(&mut self, builder: &mut FrameBuilder, next_commit: &AtomicU64) -> Result<FrameHeader> {
        self.partition.check_open()?;
        self.partition.check_blocked()?;
        self.prepare(builder.len())?;
        self.partition.make_relaxed_room(&mut self.writer, builder.len());
        // Announced before the number is taken: see `Engine::horizon_below`.
        self.partition.announce(next_commit);
        let answer = self.append(builder, next_commit.fetch_add(1, Ordering::AcqRel));
        if let Ok(header) = &answer {
            self.publish(header, builder);
        }
        self.partition.announce_end();
        answer
    }

    /// Gives the frame its offsets and writes it at the end; not yet synced or visible. After an error nothing has changed.
    pub(crate) fn append(&mut self, builder: &mut FrameBuilder, commit: u64) -> Result<FrameHeader> {
        // A sync of this frame says that those before it are on the disk as well.
        self.write_deferred()?;
        let place = self.writer.place;
        let (header, bytes) = builder.finish(self.frame_place(&place, commit));
        self.write(place.position, bytes)?;
        self.moved_past(&header, bytes);
        self.writer.is_journaled = false;
        self.writer.mark_unsynced();
        Ok(header)
    }

    /// Syncs what [`append`](Self::append) wrote. An error poisons the partition.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if planted::is(Bug::AckBeforeSync) {
            return Ok(());
        }
        if let Some(failure) = self.partition.failure() {
            // A sync has failed since the frame was written, when a segment was sealed. A second one may well succeed, and
            // would prove nothing.
            return Err(failure.clone());
        }
        if !self.partition.config.synced {
            return self.sync_relaxed();
        }
        let file = self.writer.file()?;
        let mut answer = file.sync_data();
        if answer.is_err() && planted::is(Bug::RetriedSync) {
            answer = file.sync_data();
        }
        answer.map_err(|error| self.partition.poison(error))?;
        // Older files may still wait for their sync: the journal holds what they lack.
        let active = Arc::clone(&self.writer.active);
        self.writer.unsynced.retain(|segment| !Arc::ptr_eq(segment, &active));
        Ok(())
    }

    /// Makes a synced frame visible.
    pub(crate) fn publish_synced(&mut self, header: &FrameHeader, builder: &FrameBuilder) {
        self.partition.durable_end.fetch_max(header.next_offset(), Ordering::AcqRel);
        self.publish(header, builder);
    }

    /// Makes a frame that is written visible.
    pub(crate) fn publish(&mut self, header: &FrameHeader, builder: &FrameBuilder) {
        let partition = self.partition;
        if partition.tail.is_followed() {
            partition.tail.written(header.next_offset());
            let body = Bytes::copy_from_slice(builder.body());
            partition.tail.push(own_frame(*header, builder.bytes(), body));
        }
        self.writer.active.set_readable(self.writer.place.position);
        partition.visible_end.store(header.next_offset(), Ordering::Release);
    }

    /// Makes sure that `len` more bytes have their place in the file, whatever happens to the disk's free space later, and
    /// that what lies before them is on the disk.
    pub(crate) fn prepare_journaled(&mut self, len: usize) -> Result<()> {
        self.prepare(len)?;
        if !self.partition.config.synced && !self.writer.unsynced.is_empty() {
            self.sync_relaxed()?;
        }
        if planted::is(Bug::RoomNotMade) {
            return Ok(());
        }
        let (from, to) = (self.partition.prewritten.load(Ordering::Acquire), self.writer.place.position + len as u64);
        if to <= from {
            return Ok(());
        }
        self.settle();
        let from = self.partition.prewritten.load(Ordering::Acquire).max(self.writer.place.position);
        let to =
            to.max((self.writer.place.position + ROOM_BYTES_MIN).min(self.partition.config.live.segment_bytes_max()));
        let file = self.writer.file()?;
        if from < to {
            if let Err(error) = write_zeros(&*file, from, to) {
                let error = self.writer.active.io("make room in", error);
                self.cut_back(self.writer.place.position, self.writer.place.position);
                return Err(error);
            }
            self.partition.prewritten.store(to, Ordering::Release);
        }
        Ok(())
    }

    /// A relaxed partition in a commit of several: everything before the commit goes to the disk first, or recovery would
    /// find a hole before it.
    fn sync_relaxed(&mut self) -> Result<()> {
        for segment in std::mem::take(&mut self.writer.unsynced) {
            let synced = segment.file().map_err(io::Error::other).and_then(|file| file.sync_data());
            synced.map_err(|error| self.partition.poison(error))?;
        }
        if std::mem::take(&mut self.writer.dir_unsynced) {
            let synced = self.partition.env.storage.sync_dir(&self.partition.dir);
            synced.map_err(|error| self.partition.poison(error))?;
        }
        self.partition.durable_end.fetch_max(self.writer.place.next_offset, Ordering::AcqRel);
        Ok(())
    }

    /// Gives a frame its offsets and position for the journal. `after` is the frame staged before it in the same commit.
    pub(crate) fn stage(&self, mut builder: FrameBuilder, commit: u64, after: Option<&Staged>) -> Staged {
        let mut place = self.writer.place;
        if let Some(after) = after {
            place.next_offset = after.header.next_offset();
            place.position = after.target.position + after.bytes.len() as u64;
        }
        let (header, _) = builder.finish(self.frame_place(&place, commit));
        let target = FrameTarget {
            topic_id: self.partition.owner.topic_id,
            partition: self.partition.owner.partition,
            segment_base: place.segment_base,
            position: place.position,
        };
        let (bytes, body) = builder.into_bytes();
        Staged { header, target, bytes, body }
    }

    /// Makes a staged frame visible: the journal holds it durably.
    pub(crate) fn publish_staged(&mut self, staged: &Staged) {
        self.moved_past(&staged.header, &staged.bytes);
        self.writer.is_journaled = true;
        let partition = self.partition;
        // From here on the journal must be kept, all the more if the frame never gets into its file.
        partition.mark_journaled();
        partition.tail.push(own_frame(staged.header, &staged.bytes, staged.body.clone()));
        partition.durable_end.fetch_max(staged.header.next_offset(), Ordering::AcqRel);
        partition.visible_end.store(staged.header.next_offset(), Ordering::Release);
    }

    fn frame_place(&self, place: &SegmentPlace, commit: u64) -> FramePlace {
        FramePlace {
            incarnation: place.incarnation,
            base_offset: place.next_offset,
            durable_upto: self.partition.durable_end(),
            commit,
        }
    }

    fn moved_past(&mut self, header: &FrameHeader, bytes: &[u8]) {
        // Only the writer changes it, under its lock: no need for an atomic addition.
        let grow = |sum: &AtomicU64| sum.store(sum.load(Ordering::Relaxed) + bytes.len() as u64, Ordering::Relaxed);
        grow(&self.partition.since_checkpoint);
        #[cfg(feature = "metrics")]
        grow(&self.partition.appended_bytes);
        let writer = &mut *self.writer;
        if writer.place.position >= writer.index_due {
            writer.index_due = writer.active.index().add(&writer.place, header);
        }
        advance(&mut writer.place, header, bytes.first_chunk().map_or(0, header_crc));
        let prewritten = self.partition.prewritten.load(Ordering::Relaxed);
        if self.partition.config.synced
            && self.partition.room_end(writer.place.position, writer.room_step / 4) > prewritten
        {
            self.partition.wants_upkeep.store(true, Ordering::Relaxed);
        }
    }

    /// Starts a new segment and seals the old one. If the new one cannot be made the old one stays in use.
    pub(super) fn rotate(&mut self) -> Result<()> {
        self.write_deferred()?;
        self.settle();
        let partition = self.partition;
        if partition.config.synced && !self.writer.unsynced.is_empty() {
            for segment in std::mem::take(&mut self.writer.unsynced) {
                let synced = segment.file().map_err(io::Error::other).and_then(|file| file.sync_data());
                synced.map_err(|error| partition.poison(error))?;
            }
        }
        let Partition { env, dir, owner, config, .. } = partition;
        let segment = create::create(env, dir, owner, config.log_id, self.writer.place.next_offset, config.synced)?;
        let room_end = partition.reserve_in(&segment)?;
        self.writer.active.set_readable(self.writer.place.position);
        self.seal();
        let segment = Arc::new(segment);
        partition.add_segment(Arc::clone(&segment));
        let writer = &mut *self.writer;
        let sealed_place = writer.place;
        writer.unindexed.push((Arc::clone(&writer.active), sealed_place));
        writer.place = first_place(segment.base_offset, segment.incarnation);
        partition.prewritten.store(room_end, Ordering::Release);
        writer.file = None;
        writer.found_len = 0;
        writer.index_due = writer.place.position;
        writer.active = segment;
        partition.wants_upkeep.store(true, Ordering::Relaxed);
        writer.dir_unsynced |= !partition.config.synced;
        if !partition.config.synced {
            writer.mark_unsynced();
        }
        Ok(())
    }

    /// Writes the footer and cuts the room ahead off. Nothing depends on either, so failing to is no error: recovery walks an
    /// unsealed segment as it does the last one.
    fn seal(&mut self) {
        if !planted::is(Bug::WindowKeptOverCut) {
            self.writer.window = None;
        }
        let Writer { active, place, .. } = &*self.writer;
        let sealed = create::footer_bytes(place, self.partition.durable_end());
        let written = self.writer.active.file().and_then(|file| {
            write_all_at(&*file, &sealed, place.position).map_err(|error| active.io("seal", error))?;
            file.set_len(place.position + sealed.len() as u64).map_err(|error| active.io("cut", error))
        });
        if let Err(error) = written {
            tracing::warn!(%error, "a segment was left without its footer");
        }
        active.set_sealed(Summary::of(place));
        self.writer.mark_unsynced();
    }
}
