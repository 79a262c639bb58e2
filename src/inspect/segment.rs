//! One segment file as a check of everything finds it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use crate::error::{Corruption, Error, Result};
use crate::format::checkpoint::SegmentPlace;
use crate::format::compression::{Method, decompress};
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::format::record::RecordIter;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{FormatError, FormatResult};
use crate::segment::{Owner, Segment, scan};
use crate::storage::files::read_full_at;
use crate::storage::{Env, File, OpenMode};

/// A segment file, and what its header says.
#[derive(Debug, Clone)]
pub(super) struct SegmentFile {
    pub(super) base: u64,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    /// What is wrong with the header.
    pub(super) why: Option<FormatError>,
    pub(super) created_at: Option<i64>,
    /// It stands for all files that begin inside of it.
    pub(super) is_compacted: bool,
    /// What the frames must repeat: as the header says, or, where that is damaged, as the frames do; none if there are none.
    pub(super) incarnation: Option<u64>,
    /// There are only zeros behind the header.
    pub(super) is_empty: bool,
}

/// What lies in a segment, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Whole frames from one position to another, the first of which has this offset.
    Frames { from: u64, to: u64, first_offset: u64 },
    /// Offsets that are lost.
    Lost(Range<u64>),
}

/// A segment, whether its file is there or not.
#[derive(Debug, Clone)]
pub(super) struct Surveyed {
    pub(super) base: u64,
    pub(super) path: PathBuf,
    /// None if there is no file.
    pub(super) incarnation: Option<u64>,
    pub(super) created_at: Option<i64>,
    pub(super) is_compacted: bool,
    pub(super) exists: bool,
    pub(super) pieces: Vec<Piece>,
    /// Whether another follows, or a footer is there.
    pub(super) is_sealed: bool,
    /// Whether it must be written anew to be whole.
    pub(super) is_damaged: bool,
    /// Behind its last whole frame, with the sums.
    pub(super) place: SegmentPlace,
}

impl Surveyed {
    /// What is lost.
    pub(super) fn lost(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Lost(lost) if !lost.is_empty() => Some(lost.clone()),
            _ => None,
        })
    }
}

impl SegmentFile {
    /// Opens a segment file. `None` if it is gone by now.
    pub(super) fn open(env: &Env, dir: &Path, base: u64, log_id: u128, owner: &Owner) -> Result<Option<Self>> {
        let path = dir.join(Segment::file_name(base));
        let file = match env.storage.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, error)),
        };
        let failed = |error| unreadable(&path, error);
        let len = file.len().map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
        let decoded = SegmentHeader::decode(&bytes[..read]);
        let is_ours = |header: &SegmentHeader| {
            header.log_id == log_id
                && header.topic_id == owner.topic_id
                && header.partition == owner.partition
                && header.base_offset == base
        };
        let (why, incarnation) = match decoded {
            Ok(header) if is_ours(&header) => (None, Some(header.incarnation)),
            // Another file under this name: nothing in it is ours.
            Ok(_) => (Some(FormatError::Incarnation), None),
            Err(why) if why.is_from_the_future() => {
                return Err(Error::invalid(format!("{}: {why}", path.display())));
            }
            Err(why) => (Some(why), first_incarnation(&file, len).map_err(failed)?),
        };
        let is_empty = scan::only_zeros(&file, SEGMENT_HEADER_BYTES as u64, len).map_err(failed)?;
        let ours = decoded.ok().filter(is_ours);
        let (created_at, is_compacted) =
            (ours.map(|header| header.created_at), ours.is_some_and(|ours| ours.compacted));
        Ok(Some(Self { base, path, len, why, created_at, is_compacted, incarnation, is_empty }))
    }

    pub(super) fn handle(&self, env: &Env) -> Result<Arc<dyn File>> {
        env.storage.open(&self.path, OpenMode::Read).map_err(|error| unreadable(&self.path, error))
    }
}

/// The incarnation of the frames of a file whose header is damaged: that of the first frame that can be found.
fn first_incarnation(file: &Arc<dyn File>, len: u64) -> io::Result<Option<u64>> {
    const WINDOW: usize = 1024 * 1024;
    let mut bytes = vec![0; WINDOW];
    let mut position = SEGMENT_HEADER_BYTES as u64;
    while position < len {
        let read = read_full_at(&**file, &mut bytes, position)?;
        let found = bytes[..read].windows(FRAME_HEADER_BYTES).find_map(|window| {
            // The kind and the compression are cheaper to look at than a checksum.
            let likely = matches!(window.get(4..6), Some([1 | 2, _]));
            FrameHeader::decode(window).ok().filter(|header| likely && header.kind != FrameKind::Journal)
        });
        if let Some(header) = found {
            return Ok(Some(header.incarnation));
        }
        if read < WINDOW {
            break;
        }
        position += (read - (FRAME_HEADER_BYTES - 1)) as u64;
    }
    Ok(None)
}

/// Decompresses a stored body and reads all its records; answers with how many offsets the frame spans without one.
pub(super) fn check_records(header: &FrameHeader, stored: &[u8]) -> FormatResult<u64> {
    let mut unpacked = BytesMut::new();
    let mut records = RecordIter::new(header, records_of(header, stored, &mut unpacked)?);
    while records.next_record()?.is_some() {}
    Ok((u64::from(header.last_offset_delta) + 1).saturating_sub(u64::from(header.record_count)))
}

/// The records of a stored body, decompressed into `unpacked` if need be.
pub(super) fn records_of<'a>(
    header: &FrameHeader,
    stored: &'a [u8],
    unpacked: &'a mut BytesMut,
) -> FormatResult<&'a [u8]> {
    if header.compression == Method::Plain {
        return Ok(stored);
    }
    decompress(header.compression, stored, unpacked)?;
    Ok(unpacked)
}

/// Damage in a segment.
pub(super) fn corrupt(owner: &Owner, base: u64, what: &str, position: u64, offsets: (u64, Option<u64>)) -> Error {
    Error::corrupt(
        what,
        Corruption {
            file: format!("topics/{}/{}/{}", owner.topic, owner.partition, Segment::file_name(base)),
            topic: Some(owner.topic.to_string()),
            partition: Some(owner.partition),
            position,
            first_offset: Some(offsets.0),
            next_offset: offsets.1,
        },
    )
}

pub(super) fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::io(format!("cannot read {}", path.display()), error)
}
