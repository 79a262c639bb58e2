//! The sparse index of a segment in memory, and finding a place with it.

use std::io;

use super::scan::{self, ScanEnd};
use super::{Segment, first_place};
use crate::error::Result;
use crate::format::checkpoint::SegmentPlace;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::index::{IndexEntry, IndexFile};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::storage::files::{read_full_at, read_small, replace_file};

/// One entry for about so many bytes: a lookup walks half as many at the most before it is there.
pub(crate) const INDEX_INTERVAL_BYTES: u64 = 64 * 1024;
/// The largest index file that can be: one entry an interval of the largest segment, twice over.
const INDEX_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Entries for the frames from `from` on; those before it are still on disk only.
#[derive(Debug)]
pub(crate) struct SparseIndex {
    from: u64,
    entries: Vec<IndexEntry>,
    next_due: u64,
    max_timestamp: i64,
}

/// What to look for in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The frame that holds this offset, or the first after it.
    Offset(u64),
    /// The first frame that holds a record of this time or later.
    Timestamp(i64),
    /// The first frame of this commit or a later one.
    Commit(u64),
}

impl Target {
    /// Whether the frame, or one after it, is what is looked for.
    pub(crate) fn reached_by(&self, header: &FrameHeader) -> bool {
        match *self {
            Self::Offset(offset) => header.next_offset() > offset,
            Self::Timestamp(timestamp) => header.max_timestamp >= timestamp,
            Self::Commit(commit) => header.commit >= commit,
        }
    }

    /// Whether everything that is looked for lies at or behind the entry.
    fn at_or_behind(&self, entry: &IndexEntry) -> bool {
        match *self {
            Self::Offset(offset) => entry.offset <= offset,
            Self::Timestamp(timestamp) => entry.max_timestamp_before < timestamp,
            // Several frames of one partition may share a commit: the first of them is wanted.
            Self::Commit(commit) => entry.commit < commit,
        }
    }
}

impl SparseIndex {
    /// An index that knows nothing of the frames before `from`.
    pub(crate) fn from(from: u64) -> Self {
        Self { from, entries: Vec::new(), next_due: from, max_timestamp: i64::MIN }
    }

    /// The largest timestamp below `from`, where a checkpoint has told it.
    pub(crate) fn set_max_timestamp(&mut self, timestamp: i64) {
        self.max_timestamp = self.max_timestamp.max(timestamp);
    }

    /// The position from which on the next frame is worth an entry.
    pub(crate) fn next_due(&self) -> u64 {
        self.next_due
    }

    /// Adds an entry for a frame that was appended at `place`; answers from which position on the next one is due.
    pub(crate) fn add(&mut self, place: &SegmentPlace, header: &FrameHeader) -> u64 {
        self.max_timestamp = self.max_timestamp.max(place.max_timestamp);
        self.next_due = place.position;
        self.note(place.position, header);
        self.next_due
    }

    /// Notes a frame found at `position`, walking.
    #[inline]
    pub(crate) fn note(&mut self, position: u64, header: &FrameHeader) {
        if position >= self.next_due {
            self.next_due = position + INDEX_INTERVAL_BYTES;
            self.entries.push(IndexEntry {
                offset: header.base_offset,
                position,
                commit: header.commit,
                max_timestamp_before: self.max_timestamp,
            });
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// Forgets all entries, those from `from` on included. The largest timestamp stays: what the writer notes before the
    /// rest is rebuilt must not claim that there was none.
    fn forget(&mut self, from: u64) {
        *self = Self { max_timestamp: self.max_timestamp, ..Self::from(from) };
    }

    /// Puts the entries of the frames before `from` in front. Two readers may have loaded them at once: the first counts.
    fn prepend(&mut self, mut entries: Vec<IndexEntry>) {
        if self.from > SEGMENT_HEADER_BYTES as u64 {
            entries.append(&mut self.entries);
            self.entries = entries;
            self.from = SEGMENT_HEADER_BYTES as u64;
        }
    }

    /// The last entry at or before what is looked for, of those below `readable`: frames of a commit that is in the journal
    /// are noted before they are in the file.
    fn best(&self, target: Target, readable: u64) -> Option<IndexEntry> {
        let behind = self.entries.partition_point(|entry| entry.position < readable && target.at_or_behind(entry));
        behind.checked_sub(1).and_then(|last| self.entries.get(last)).copied()
    }
}

impl Segment {
    /// A position at or before the frame that is looked for, from which walking frames leads to it.
    pub(crate) fn seek(&self, target: Target) -> Result<(u64, u64)> {
        let start = (SEGMENT_HEADER_BYTES as u64, self.base_offset);
        self.load_index()?;
        let readable = self.readable();
        let Some(entry) = self.index().best(target, readable) else { return Ok(start) };
        if self.entry_holds(&entry)? {
            return Ok((entry.position, entry.offset));
        }
        tracing::warn!(segment = ?self.path(), "the index does not match the segment; rebuilding it");
        self.index().forget(readable);
        self.rebuild_index()?;
        match self.index().best(target, readable) {
            Some(entry) if self.entry_holds(&entry)? => Ok((entry.position, entry.offset)),
            _ => Ok(start),
        }
    }

    /// Writes the index beside the segment. It can be rebuilt, so nobody waits for it to be durable.
    pub(crate) fn store_index(&self, place: &SegmentPlace) -> Result<()> {
        if self.is_retired() {
            return Ok(());
        }
        self.load_index()?;
        let bytes = {
            let index = self.index();
            IndexFile { incarnation: self.incarnation, covered: place.position, entries: index.entries.clone() }
                .encode()
        };
        let (Some(dir), Some(name)) = (self.path().parent(), self.index_name()) else { return Ok(()) };
        replace_file(&**self.storage(), dir, &name, &bytes).map_err(|error| self.io("write the index of", error))
    }

    /// The name of the index file.
    pub(crate) fn index_name(&self) -> Option<String> {
        let stem = self.path().file_stem()?.to_str()?;
        Some(format!("{stem}.index"))
    }

    fn entry_holds(&self, entry: &IndexEntry) -> Result<bool> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let file = self.file()?;
        read_full_at(&*file, &mut bytes, entry.position).map_err(|error| self.io("read", error))?;
        Ok(FrameHeader::decode(&bytes).is_ok_and(|header| {
            header.incarnation == self.incarnation
                && header.base_offset == entry.offset
                && header.commit == entry.commit
        }))
    }

    /// Fills in what lies before `from`: out of the index file if it fits the segment, else out of the frames.
    fn load_index(&self) -> Result<()> {
        let from = self.index().from;
        if from <= SEGMENT_HEADER_BYTES as u64 {
            return Ok(());
        }
        match self.read_index_file() {
            Ok(Some(file)) if file.covered >= from => {
                let mut entries = file.entries;
                entries.retain(|entry| entry.position < from);
                self.index().prepend(entries);
                Ok(())
            }
            _ => self.rebuild_index(),
        }
    }

    fn read_index_file(&self) -> io::Result<Option<IndexFile>> {
        let (Some(dir), Some(name)) = (self.path().parent(), self.index_name()) else { return Ok(None) };
        let bytes = read_small(&**self.storage(), &dir.join(name), INDEX_FILE_BYTES_MAX)?;
        Ok(IndexFile::decode(&bytes).ok().filter(|file| file.incarnation == self.incarnation))
    }

    /// Walks the frame headers below `from`. Damage ends the walk early and is left for the reader that meets it to report.
    fn rebuild_index(&self) -> Result<()> {
        let from = self.index().from;
        let mut rebuilt = SparseIndex::from(SEGMENT_HEADER_BYTES as u64);
        let file = self.file()?;
        let mut place = first_place(self.base_offset, self.incarnation);
        let end = scan::headers(&file, &mut place, from, |position, header| rebuilt.note(position, header))
            .map_err(|error| self.io("read", error))?;
        if !matches!(end, ScanEnd::Clean) {
            tracing::warn!(segment = ?self.path(), position = place.position, "the index ends at damage");
        }
        let mut index = self.index();
        index.set_max_timestamp(rebuilt.max_timestamp);
        index.prepend(rebuilt.entries);
        Ok(())
    }
}
