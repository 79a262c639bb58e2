//! One log file: a header, frames one after the other, and a footer once it is sealed.
//!
//! The writer of the partition appends; any number of readers follow [`Segment::readable`], which only ever covers frames
//! that were written and published. The sparse index is kept in memory while the segment is written and beside it
//! (`.index`) once it is sealed; it is never trusted and can be rebuilt from the frames at any time.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Corruption, Error, Result};
use crate::format::FormatError;
use crate::format::checkpoint::SegmentPlace;
use crate::format::frame::FrameHeader;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::storage::files::read_full_at;
use crate::storage::handles::{Handles, Slot, is_exhausted};
use crate::storage::{Env, File, OpenMode, Storage};

pub(crate) mod create;
pub(crate) mod index;
pub(crate) mod reader;
pub(crate) mod scan;

#[cfg(test)]
mod tests;

use index::{SparseIndex, Target};

/// The topic and partition that a file belongs to, for finding it and for naming it in errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: u128,
    pub(crate) partition: u32,
}

/// One segment file.
pub(crate) struct Segment {
    pub(crate) owner: Arc<Owner>,
    pub(crate) base_offset: u64,
    pub(crate) incarnation: u64,
    path: PathBuf,
    storage: Arc<dyn Storage>,
    handles: Arc<Handles>,
    slot: Arc<Slot>,
    /// Another file has taken its place, or is about to.
    retired: AtomicBool,
    readable: AtomicU64,
    sealed: AtomicBool,
    /// Offsets were left out.
    sparse: AtomicBool,
    index: Mutex<SparseIndex>,
    summary: OnceLock<Summary>,
}

/// What a sealed segment holds, for passing it over without looking into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) next_offset: u64,
    pub(crate) max_timestamp: i64,
    pub(crate) last_commit: u64,
    pub(crate) record_count: u64,
}

impl Summary {
    /// The sums of a segment that ends at `place`.
    pub(crate) fn of(place: &SegmentPlace) -> Self {
        Self {
            next_offset: place.next_offset,
            max_timestamp: place.max_timestamp,
            last_commit: place.last_commit,
            record_count: place.record_count,
        }
    }

    /// Whether what is looked for can be in the segment.
    pub(crate) fn may_hold(&self, target: Target) -> bool {
        match target {
            Target::Offset(offset) => self.next_offset > offset,
            Target::Timestamp(timestamp) => self.max_timestamp >= timestamp,
            Target::Commit(commit) => self.last_commit >= commit,
        }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("path", &self.path)
            .field("base_offset", &self.base_offset)
            .field("readable", &self.readable())
            .field("sealed", &self.is_sealed())
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// A segment that exists, readable up to `readable`; with its sums if it is sealed.
    pub(crate) fn existing(
        env: &Env,
        owner: Arc<Owner>,
        path: PathBuf,
        header: &SegmentHeader,
        readable: u64,
        sealed: Option<Summary>,
    ) -> Self {
        let segment = Self {
            owner,
            base_offset: header.base_offset,
            incarnation: header.incarnation,
            path,
            storage: Arc::clone(&env.storage),
            handles: Arc::clone(&env.handles),
            slot: Arc::default(),
            retired: AtomicBool::new(false),
            readable: AtomicU64::new(readable),
            sealed: AtomicBool::new(sealed.is_some()),
            sparse: AtomicBool::new(false),
            index: Mutex::new(SparseIndex::from(readable)),
            summary: sealed.map_or_else(OnceLock::new, OnceLock::from),
        };
        if let Some(summary) = segment.summary() {
            segment.note_records(summary.record_count, summary.next_offset);
        }
        segment
    }

    /// The name of a segment file: its base offset in 20 digits, so that names sort as offsets do.
    pub(crate) fn file_name(base_offset: u64) -> String {
        format!("{base_offset:020}.log")
    }

    /// The base offset out of a name that [`file_name`](Self::file_name) made.
    pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".log")?;
        (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
    }

    /// The file, opened if it is not. It may be closed again as soon as the answer is dropped.
    pub(crate) fn file(&self) -> Result<Arc<dyn File>> {
        self.handles.get(&self.slot, || self.open(if self.is_sealed() { OpenMode::Read } else { OpenMode::ReadWrite }))
    }

    /// Notes that somebody uses the file who has a way to it of their own.
    #[inline]
    pub(crate) fn touch(&self) {
        self.slot.touch();
    }

    fn open(&self, mode: OpenMode) -> Result<Arc<dyn File>> {
        if self.is_retired() {
            return Err(self.io("open", io::Error::new(io::ErrorKind::NotFound, "another file has its place")));
        }
        let open = || self.storage.open(&self.path, mode);
        let opened = match open() {
            Err(error) if is_exhausted(&error) => {
                // Not this one: its place is taken for as long as it is being opened.
                self.handles.close_idle(&self.slot);
                open()
            }
            opened => opened,
        };
        let file = opened.map_err(|error| self.io("open", error))?;
        if self.storage.is_shared() && !self.is_in(&*file) {
            return Err(self.io("open", io::Error::new(io::ErrorKind::NotFound, "another file has its place")));
        }
        Ok(file)
    }

    /// Whether the file is this segment's.
    fn is_in(&self, file: &dyn File) -> bool {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let header = read_full_at(file, &mut bytes, 0).ok().and_then(|read| SegmentHeader::decode(&bytes[..read]).ok());
        header.is_some_and(|header| header.incarnation == self.incarnation)
    }

    /// Says that the name is about to be another file's, or nobody's, or takes that back. While that is said nobody opens the
    /// file, so nobody gets the other one in its stead; whoever has it open reads on.
    pub(crate) fn retire(&self, retired: bool) {
        self.slot.exclusively(|| self.retired.store(retired, Ordering::Release));
    }

    /// Whether another file has the name, or nobody any more.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// A handle of its own, for a sync in the background. The system reports a failed write-back once for each handle: a sync
    /// through the writer's would take the report away from the sync that the writer's records wait for.
    pub(crate) fn own_handle(&self) -> Result<Arc<dyn File>> {
        self.slot.exclusively(|| self.open(OpenMode::ReadWrite))
    }

    /// Hands the segment a file that is open already.
    pub(crate) fn adopt_file(&self, file: Arc<dyn File>) {
        self.handles.put(&self.slot, file);
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Bytes that readers may read: whole frames, written and published.
    #[inline]
    pub(crate) fn readable(&self) -> u64 {
        self.readable.load(Ordering::Acquire)
    }

    /// Publishes frames up to `position`.
    #[inline]
    pub(crate) fn set_readable(&self, position: u64) {
        self.readable.store(position, Ordering::Release);
    }

    /// Whether no frame will follow.
    #[inline]
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// No frame will follow; these are the sums.
    pub(crate) fn set_sealed(&self, summary: Summary) {
        self.note_records(summary.record_count, summary.next_offset);
        self.summary.get_or_init(|| summary);
        self.sealed.store(true, Ordering::Release);
    }

    /// How many records there are up to `next_offset`.
    pub(crate) fn note_records(&self, record_count: u64, next_offset: u64) {
        if record_count != next_offset.saturating_sub(self.base_offset) {
            self.sparse.store(true, Ordering::Release);
        }
    }

    /// Whether there may be fewer records than offsets.
    pub(crate) fn is_sparse(&self) -> bool {
        self.sparse.load(Ordering::Acquire)
    }

    /// The sums of a sealed segment.
    pub(crate) fn summary(&self) -> Option<&Summary> {
        self.summary.get()
    }

    /// Makes the index begin at `from`; what lies before is read or rebuilt when it is needed.
    pub(crate) fn reset_index(&self, from: u64) {
        *lock(&self.index) = SparseIndex::from(from);
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, SparseIndex> {
        lock(&self.index)
    }

    /// An I/O error of this file.
    pub(crate) fn io(&self, action: &str, source: std::io::Error) -> Error {
        Error::io(format!("cannot {action} {}", self.path.display()), source)
    }

    /// Damage in this file.
    pub(crate) fn corrupt(&self, why: FormatError, position: u64, first: Option<u64>, next: Option<u64>) -> Error {
        Error::corrupt(
            format!("a segment is damaged: {why}"),
            Corruption {
                file: self.relative_name(),
                topic: Some(self.owner.topic.to_string()),
                partition: Some(self.owner.partition),
                position,
                first_offset: first,
                next_offset: next,
            },
        )
    }

    fn relative_name(&self) -> String {
        format!("topics/{}/{}/{}", self.owner.topic, self.owner.partition, Self::file_name(self.base_offset))
    }
}

/// The place before the first frame of a new segment.
pub(crate) fn first_place(base_offset: u64, incarnation: u64) -> SegmentPlace {
    SegmentPlace {
        segment_base: base_offset,
        incarnation,
        position: SEGMENT_HEADER_BYTES as u64,
        next_offset: base_offset,
        first_commit: 0,
        last_commit: 0,
        max_timestamp: i64::MIN,
        frame_count: 0,
        record_count: 0,
        chain_crc: 0,
    }
}

/// Moves `place` past a frame.
#[inline]
pub(crate) fn advance(place: &mut SegmentPlace, header: &FrameHeader, header_crc: u32) {
    place.position += header.frame_len() as u64;
    place.next_offset = header.next_offset();
    if place.frame_count == 0 {
        place.first_commit = header.commit;
    }
    place.last_commit = header.commit;
    place.max_timestamp = place.max_timestamp.max(header.max_timestamp);
    place.frame_count += 1;
    place.record_count += u64::from(header.record_count);
    let mut chain = crc32fast::Hasher::new_with_initial(place.chain_crc);
    chain.update(&header_crc.to_le_bytes());
    place.chain_crc = chain.finalize();
}

/// Locks; a panic of another holder is no reason to stop: what the locks of this layer guard is never half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
