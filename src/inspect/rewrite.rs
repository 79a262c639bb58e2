//! Writing a damaged segment anew: the whole frames, and holes for what is lost.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::{Piece, Surveyed, check_records};
use crate::error::{Error, Result};
use crate::format::checkpoint::SegmentPlace;
use crate::format::compression::Method;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, header_crc};
use crate::format::segment::SegmentHeader;
use crate::segment::create::footer_bytes;
use crate::segment::scan::{self, ScanEnd};
use crate::segment::{Owner, advance, first_place};
use crate::storage::files::{read_full_at, write_all_at};
use crate::storage::{Env, File, OpenMode, Storage};

/// How much is copied, or collected before it is written, at once.
const STEP_BYTES: usize = 1024 * 1024;

/// Copies a file to the first free name of `name.damaged`, `name.damaged-1` ..., durably, and answers with its path.
pub(super) fn keep(env: &Env, path: &Path) -> Result<PathBuf> {
    let failed = |error| Error::io(format!("cannot keep a copy of {}", path.display()), error);
    let dir = path.parent().unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for number in 0.. {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let aside = dir.join(format!("{name}.damaged{suffix}"));
        let to = match env.storage.open(&aside, OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            opened => opened.map_err(failed)?,
        };
        let copied = copy(&*env.storage, path, &*to).and_then(|()| env.storage.sync_dir(dir));
        if let Err(error) = copied {
            drop(env.storage.remove_file(&aside));
            return Err(failed(error));
        }
        return Ok(aside);
    }
    Err(failed(io::ErrorKind::AlreadyExists.into()))
}

fn copy(storage: &dyn Storage, from: &Path, to: &dyn File) -> io::Result<()> {
    let from = storage.open(from, OpenMode::Read)?;
    let mut buffer = vec![0; STEP_BYTES];
    let mut position = 0;
    loop {
        let read = read_full_at(&*from, &mut buffer, position)?;
        if read == 0 {
            return to.sync_data();
        }
        write_all_at(to, &buffer[..read], position)?;
        position += read as u64;
    }
}

/// Writes the segment anew and puts it in the place of the old one, durably. `last_commit` is that of the segment before it.
/// Answers with the place behind its last frame.
pub(super) fn rewrite(
    env: &Env,
    owner: &Arc<Owner>,
    log_id: u128,
    segment: &Surveyed,
    last_commit: u64,
) -> Result<SegmentPlace> {
    let failed = |error| Error::io(format!("cannot write {} anew", segment.path.display()), error);
    let header = SegmentHeader {
        log_id,
        topic_id: owner.topic_id,
        partition: owner.partition,
        base_offset: segment.base,
        // A new file: nothing that belongs to the old one, in the journal, an index or a checkpoint, must pass for this one's.
        incarnation: env.random.next_u64(),
        created_at: segment.created_at.unwrap_or_else(|| env.clock.now_micros()),
        compacted: segment.is_compacted,
    };
    let temporary = segment.path.with_extension("log.tmp");
    let dir = segment.path.parent().unwrap_or(&segment.path);
    let storage = &*env.storage;
    let write = || -> io::Result<SegmentPlace> {
        match storage.remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = storage.open(&temporary, OpenMode::CreateNew)?;
        let mut out = Out::new(Arc::clone(&file), &header)?;
        for piece in &segment.pieces {
            match piece {
                Piece::Lost(lost) => out.hole(lost.start, lost.end, last_commit)?,
                Piece::Frames { from, to, first_offset } => {
                    let old = storage.open(&segment.path, OpenMode::Read)?;
                    out.copy(&old, segment.incarnation.unwrap_or(0), (*from, *to), *first_offset)?;
                }
            }
        }
        let place = out.finish(segment.is_sealed)?;
        file.sync_data()?;
        check(&file, &header, &place, segment.is_sealed)?;
        storage.rename(&temporary, &segment.path)?;
        storage.sync_dir(dir)?;
        Ok(place)
    };
    let place = write().map_err(|error| {
        drop(storage.remove_file(&temporary));
        failed(error)
    })?;
    // It belongs to the old file, and would be found not to fit. So this may fail.
    drop(storage.remove_file(&segment.path.with_extension("index")));
    Ok(place)
}

/// Reads back what was written.
fn check(file: &Arc<dyn File>, header: &SegmentHeader, expected: &SegmentPlace, is_sealed: bool) -> io::Result<()> {
    let mut place = first_place(header.base_offset, header.incarnation);
    let end =
        scan::whole_frames(file, &mut place, file.len()?, |_, header, body| check_records(header, body).map(drop))?;
    if place == *expected && end == if is_sealed { ScanEnd::Sealed } else { ScanEnd::Clean } {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "what was written does not read back"))
}

/// A segment that is being written.
struct Out {
    file: Arc<dyn File>,
    place: SegmentPlace,
    /// Frames that are not in the file yet: up to the place.
    pending: Vec<u8>,
}

impl Out {
    fn new(file: Arc<dyn File>, header: &SegmentHeader) -> io::Result<Self> {
        write_all_at(&*file, &header.encode(), 0)?;
        Ok(Self { file, place: first_place(header.base_offset, header.incarnation), pending: Vec::new() })
    }

    fn push(&mut self, header: FrameHeader, body: &[u8]) -> io::Result<()> {
        let header = FrameHeader { incarnation: self.place.incarnation, ..header };
        let mut front = [0; FRAME_HEADER_BYTES];
        header.encode_into(&mut front);
        self.pending.extend_from_slice(&front);
        self.pending.extend_from_slice(body);
        advance(&mut self.place, &header, header_crc(&front));
        if self.pending.len() >= STEP_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let position = self.place.position - self.pending.len() as u64;
        write_all_at(&*self.file, &self.pending, position)?;
        self.pending.clear();
        Ok(())
    }

    /// Copies whole frames out of the old file.
    fn copy(&mut self, old: &Arc<dyn File>, incarnation: u64, range: (u64, u64), first_offset: u64) -> io::Result<()> {
        let mut place = first_place(self.place.segment_base, incarnation);
        place.position = range.0;
        place.next_offset = first_offset;
        let mut failed = None;
        scan::whole_frames(old, &mut place, range.1, |_, header, body| {
            if failed.is_none() {
                failed = self.push(*header, body).err();
            }
            Ok(())
        })?;
        match failed {
            Some(error) => Err(error),
            None if place.position == range.1 => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "the file has changed meanwhile")),
        }
    }

    /// Frames without records that span `[first, next)`.
    fn hole(&mut self, mut first: u64, next: u64, last_commit: u64) -> io::Result<()> {
        while first < next {
            let span = (next - first).min(u64::from(u32::MAX));
            let header = FrameHeader {
                kind: FrameKind::Records,
                compression: Method::Plain,
                body_len: 0,
                body_crc: crc32fast::hash(&[]),
                incarnation: self.place.incarnation,
                base_offset: first,
                record_count: 0,
                last_offset_delta: (span - 1) as u32,
                base_timestamp: 0,
                // Of no record: no search by time ends here.
                max_timestamp: i64::MIN,
                durable_upto: first,
                // Commit numbers never go down; that of a frame without records says nothing else.
                commit: self.place.last_commit.max(last_commit),
            };
            self.push(header, &[])?;
            first += span;
        }
        Ok(())
    }

    fn finish(mut self, sealed: bool) -> io::Result<SegmentPlace> {
        self.flush()?;
        if sealed {
            write_all_at(&*self.file, &footer_bytes(&self.place, self.place.next_offset), self.place.position)?;
        }
        Ok(self.place)
    }
}
