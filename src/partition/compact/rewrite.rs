//! Writing a group of segments anew, as one.
//!
//! The steps, in the order that makes a crash in any of them harmless:
//!
//! 1. The new file is written under another name (`.log.tmp`), with its footer, and synced. Recovery removes it.
//! 2. It is renamed over the first of the old files, and the directory is synced. If the others are still there, recovery finds
//!    that they begin inside a compacted file, and removes them.
//! 3. Only now the other old files are removed.
//!
//! The readers' list of segments is held still from before the rename until it names the new file. The old segments are
//! retired: whoever has one open reads on in it; nobody opens it any more.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::{Fate, Pass, next};
use crate::error::{Error, Result};
use crate::format::checkpoint::SegmentPlace;
use crate::format::compression::Compression;
use crate::format::frame::{FrameHeader, header_crc};
use crate::format::record::{FramePlace, RawRecord, RecordIter};
use crate::format::segment::SegmentHeader;
use crate::format::sparse::SparseFrame;
use crate::partition::Partition;
use crate::planted::{self, Bug};
use crate::segment::create::footer_bytes;
use crate::segment::reader::{Frame, FrameReader, READ_BYTES};
use crate::segment::{Segment, Summary, advance, first_place};
use crate::storage::files::write_all_at;
use crate::storage::{File, OpenMode};

/// How much is written at once.
const WRITE_BYTES: usize = 256 * 1024;
/// How much is synced at once: a single sync of a whole segment would hold up those that producers wait for.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// The file that is being written.
struct Output {
    segment: Segment,
    file: Arc<dyn File>,
    temporary: PathBuf,
    place: SegmentPlace,
    durable_upto: u64,
    compression: Compression,
    buffer: Vec<u8>,
    /// Where the buffer belongs.
    written: u64,
    synced: u64,
}

impl Pass<'_> {
    /// Writes segments anew as one, as many of them as it has room for. Answers how many those were; `None` if the pass was
    /// told to end, and then nothing has changed.
    pub(super) fn rewrite(&mut self, segments: &[Arc<Segment>]) -> Result<Option<usize>> {
        let Some(first) = segments.first() else { return Ok(Some(0)) };
        let mut output = self.partition.begin_output(first.base_offset, self.plan.limit)?;
        let removed_before = self.done.removed;
        let answer = match self.fill(&mut output, segments) {
            Ok(Some(count)) => output.finish().map(|()| Some(count)),
            other => other,
        };
        let Ok(Some(count)) = answer else {
            self.done.removed = removed_before;
            self.partition.abandon(&output.temporary);
            return answer;
        };
        let group = segments.get(..count).unwrap_or_default();
        let (before, after) = (group.iter().map(|segment| segment.readable()).sum::<u64>(), output.place.position);
        if !self.partition.put_in_place(group, output)? {
            self.done.removed = removed_before;
            return Ok(None);
        }
        self.done.bytes_before += before;
        self.done.bytes_after += after;
        Ok(Some(count))
    }

    fn fill(&mut self, output: &mut Output, segments: &[Arc<Segment>]) -> Result<Option<usize>> {
        let mut sparse = SparseFrame::new();
        // The last frame of which nothing was left.
        let mut gone: Option<FrameHeader> = None;
        let mut count = 0;
        for segment in segments {
            if count > 0 && !self.fits(output.segment.base_offset, output.place.position, segment) {
                break;
            }
            count += 1;
            let start = first_place(segment.base_offset, segment.incarnation);
            let mut reader = FrameReader::new(Arc::clone(segment), start.position, start.next_offset, READ_BYTES);
            while let Some(frame) = reader.next_frame()? {
                sparse.begin(output.place.next_offset, frame.header.base_timestamp);
                self.keep(segment, &frame, &mut sparse)?;
                let before = output.place.position;
                gone = if sparse.is_empty() {
                    Some(frame.header)
                } else {
                    output.append(&mut sparse, &frame.header)?;
                    None
                };
                if self.is_stopped(frame.header.frame_len() as u64 + output.place.position - before) {
                    return Ok(None);
                }
            }
        }
        if let Some(header) = gone {
            // A frame's end never moves, so the last one cannot stand for what is gone behind it.
            sparse.begin(output.place.next_offset, header.base_timestamp);
            output.append(&mut sparse, &header)?;
        }
        Ok(Some(count))
    }

    /// Puts what stays of a frame into `sparse`.
    fn keep(&mut self, segment: &Segment, frame: &Frame, sparse: &mut SparseFrame) -> Result<()> {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = next(segment, frame, &mut records)? {
            match self.fate(&record) {
                Fate::Stays => sparse.push(&record),
                Fate::Marked => sparse.push(&RawRecord { kept_at: Some(self.plan.now_micros), ..record }),
                Fate::Goes => self.done.removed += 1,
            }
        }
        Ok(())
    }
}

impl Output {
    /// Appends a frame that ends where `old` ends.
    fn append(&mut self, sparse: &mut SparseFrame, old: &FrameHeader) -> Result<()> {
        let place = FramePlace {
            incarnation: self.place.incarnation,
            base_offset: self.place.next_offset,
            durable_upto: self.durable_upto,
            commit: old.commit,
        };
        sparse.compress(self.compression);
        let (header, bytes) = sparse.finish(place, old.next_offset());
        self.segment.index().note(self.place.position, &header);
        advance(&mut self.place, &header, bytes.first_chunk().map_or(0, header_crc));
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let failed = |error| Error::io(format!("cannot write {}", self.temporary.display()), error);
        write_all_at(&*self.file, &self.buffer, self.written).map_err(failed)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync_data().map_err(failed)?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Writes the footer and puts everything on the disk.
    fn finish(&mut self) -> Result<()> {
        self.buffer.extend_from_slice(&footer_bytes(&self.place, self.durable_upto));
        self.flush()?;
        self.segment.set_readable(self.place.position);
        self.segment.set_sealed(Summary::of(&self.place));
        if planted::is(Bug::CompactedNotSynced) || planted::is(Bug::CompactedSyncedLate) {
            return Ok(());
        }
        let synced = self.file.sync_data();
        synced.map_err(|error| Error::io(format!("cannot sync {}", self.temporary.display()), error))
    }
}

impl Partition {
    fn begin_output(&self, base_offset: u64, durable_upto: u64) -> Result<Output> {
        let header = SegmentHeader {
            log_id: self.config.log_id,
            topic_id: self.owner.topic_id,
            partition: self.owner.partition,
            base_offset,
            incarnation: self.env.random.next_u64(),
            created_at: self.env.clock.now_micros(),
            compacted: true,
        };
        let path = self.dir.join(Segment::file_name(base_offset));
        let temporary = path.with_extension("log.tmp");
        // What an earlier attempt could not take away.
        self.abandon(&temporary);
        let failed = |error| Error::io(format!("cannot create {}", temporary.display()), error);
        let file = self.env.storage.open(&temporary, OpenMode::CreateNew).map_err(failed)?;
        let bytes = header.encode();
        let owner = Arc::clone(&self.owner);
        let segment = Segment::existing(&self.env, owner, path, &header, bytes.len() as u64, None);
        segment.adopt_file(Arc::clone(&file));
        let place = first_place(base_offset, header.incarnation);
        let (compression, buffer) = (self.config.live.compression(), bytes.to_vec());
        Ok(Output { segment, file, temporary, place, durable_upto, compression, buffer, written: 0, synced: 0 })
    }

    /// Takes an unfinished file away. Best effort: the next open does the same.
    fn abandon(&self, temporary: &Path) {
        if let Err(error) = self.env.storage.remove_file(temporary)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "an unfinished file is left to the next open");
        }
    }

    /// Puts the new file into the place of the old ones. `false` if retention has taken one of those away.
    fn put_in_place(&self, group: &[Arc<Segment>], output: Output) -> Result<bool> {
        let Output { segment, file, temporary, place, .. } = output;
        let new = Arc::new(segment);
        let exchanged = self.exchange(group, &new, &temporary);
        if !matches!(exchanged, Ok(true)) {
            self.abandon(&temporary);
            return exchanged;
        }
        if !planted::is(Bug::CompactedDirNotSynced) {
            // If this fails, what the directory holds after a power loss is unknown: the old files stay, and the next open
            // removes them, once it has made the new name durable.
            let synced = self.env.storage.sync_dir(&self.dir);
            synced.map_err(|error| Error::io(format!("cannot sync the directory {}", self.dir.display()), error))?;
        }
        if planted::is(Bug::CompactedSyncedLate) {
            file.sync_data().map_err(|error| new.io("sync", error))?;
        }
        for old in group.iter().skip(1) {
            self.remove_superseded(old);
        }
        if let Err(error) = new.store_index(&place) {
            tracing::debug!(%error, "an index was not written; it will be rebuilt");
        }
        Ok(true)
    }

    /// Renames the new file over the first of the old ones, and makes the list name it instead of them all. Not if one of them
    /// is on the list no more: its file is going, too.
    fn exchange(&self, group: &[Arc<Segment>], new: &Arc<Segment>, temporary: &Path) -> Result<bool> {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let is_old = |segment: &Arc<Segment>| group.iter().any(|old| Arc::ptr_eq(old, segment));
        if segments.iter().filter(|segment| is_old(segment)).count() < group.len() {
            return Ok(false);
        }
        group.iter().for_each(|old| old.retire(true));
        if let Err(error) = self.env.storage.rename(temporary, new.path()) {
            group.iter().for_each(|old| old.retire(false));
            return Err(new.io("rename a compacted file to", error));
        }
        let at = segments.iter().position(is_old).unwrap_or(0);
        let mut next: Vec<_> = segments.iter().filter(|segment| !is_old(segment)).cloned().collect();
        next.insert(at, Arc::clone(new));
        *segments = Arc::new(next);
        Ok(true)
    }

    /// Best effort: the next open removes what is left.
    fn remove_superseded(&self, old: &Segment) {
        let index = old.index_name().map(|name| self.dir.join(name));
        for path in [Some(old.path().clone()), index].into_iter().flatten() {
            match self.env.storage.remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::debug!(%error, "a superseded file is left to the next open");
                }
                _ => {}
            }
        }
    }
}
