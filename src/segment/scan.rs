//! Walking the frames of a file from a known place: for recovery with every checksum, for an index with the headers only.

use std::io;
use std::sync::Arc;

use super::advance;
use crate::format::FormatError;
use crate::format::checkpoint::SegmentPlace;
use crate::format::frame::{self, FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::format::segment::{FOOTER_BODY_BYTES, Footer};
use crate::planted::{self, Bug};
use crate::storage::File;
use crate::storage::files::read_full_at;

const SCAN_BYTES: usize = 1024 * 1024;

/// Where and why a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScanEnd {
    /// At the limit, or where only zeros follow.
    Clean,
    /// At a footer that agrees with the frames before it.
    Sealed,
    /// At bytes that are no valid next frame.
    Damaged(FormatError),
}

/// A piece of the file in memory that moves forward with the walk.
struct Window<'a> {
    file: &'a Arc<dyn File>,
    limit: u64,
    buffer: Vec<u8>,
    start: u64,
    len: usize,
}

impl<'a> Window<'a> {
    fn new(file: &'a Arc<dyn File>, limit: u64) -> Self {
        Self { file, limit, buffer: Vec::new(), start: 0, len: 0 }
    }

    /// At least `want` bytes at `position`, or all that there are before the limit.
    fn at(&mut self, position: u64, want: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.limit.saturating_sub(position)).unwrap_or(usize::MAX);
        let want = want.min(left);
        let inside = position.checked_sub(self.start).map(|skip| skip as usize).filter(|skip| skip + want <= self.len);
        let skip = match inside {
            Some(skip) => skip,
            None => {
                let size = want.max(SCAN_BYTES).min(left);
                if self.buffer.len() < size {
                    self.buffer.resize(size, 0);
                }
                self.len = read_full_at(&**self.file, &mut self.buffer[..size], position)?;
                self.start = position;
                0
            }
        };
        Ok(self.buffer.get(skip..self.len).unwrap_or_default())
    }
}

/// Walks frames with all their checks from `place`, which moves past each that holds, up to `limit`.
pub(crate) fn frames(
    file: &Arc<dyn File>,
    place: &mut SegmentPlace,
    limit: u64,
    mut on_frame: impl FnMut(u64, &FrameHeader),
) -> io::Result<ScanEnd> {
    let mut window = Window::new(file, limit);
    loop {
        let bytes = window.at(place.position, FRAME_HEADER_BYTES)?;
        if bytes.is_empty() {
            return Ok(ScanEnd::Clean);
        }
        let wanted = FrameHeader::decode(bytes).map(|header| header.frame_len());
        let bytes = match wanted {
            Ok(len) if len > bytes.len() => window.at(place.position, len)?,
            _ => bytes,
        };
        match check(bytes, place) {
            Ok(Checked::Frame(header, crc)) => {
                on_frame(place.position, &header);
                advance(place, &header, crc);
            }
            Ok(Checked::Footer) => return Ok(ScanEnd::Sealed),
            Err(_) if planted::is(Bug::ResyncPastHole) && resync(file, place, limit)? => {}
            Err(why) => {
                let zeros = only_zeros(file, place.position, limit)?;
                return Ok(if zeros { ScanEnd::Clean } else { ScanEnd::Damaged(why) });
            }
        }
    }
}

/// The planted defect: goes on at the next frame that looks whole.
fn resync(file: &Arc<dyn File>, place: &mut SegmentPlace, limit: u64) -> io::Result<bool> {
    let mut window = Window::new(file, limit);
    let bytes = window.at(place.position, SCAN_BYTES)?;
    let Some((at, header)) = frame::find_header(bytes, place.incarnation, 1) else { return Ok(false) };
    place.position += at as u64;
    place.next_offset = header.base_offset;
    Ok(true)
}

enum Checked {
    Frame(FrameHeader, u32),
    Footer,
}

fn check(bytes: &[u8], place: &SegmentPlace) -> Result<Checked, FormatError> {
    let parsed = if planted::is(Bug::BodyNotChecked) {
        FrameHeader::decode(bytes)
            .map(|header| (header, bytes.get(FRAME_HEADER_BYTES..header.frame_len()).unwrap_or(&[])))
    } else if planted::is(Bug::IncarnationIgnored) {
        FrameHeader::decode(bytes).and_then(|header| frame::parse(bytes, header.incarnation))
    } else {
        frame::parse(bytes, place.incarnation)
    };
    let (header, body) = parsed?;
    let crc = bytes.first_chunk().map(frame::header_crc).ok_or(FormatError::Short)?;
    match header.kind {
        FrameKind::Records if header.base_offset == place.next_offset => Ok(Checked::Frame(header, crc)),
        FrameKind::Footer if header.base_offset == place.segment_base => {
            let footer = Footer::decode(body)?;
            let agrees = footer.frame_count == place.frame_count
                && footer.record_count == place.record_count
                && footer.chain_crc == place.chain_crc;
            if agrees { Ok(Checked::Footer) } else { Err(FormatError::BodyChecksum) }
        }
        FrameKind::Records | FrameKind::Footer => Err(FormatError::Offset),
        FrameKind::Journal => Err(FormatError::Kind(FrameKind::Journal as u8)),
    }
}

/// Walks frame headers without their bodies, up to `limit`.
pub(crate) fn headers(
    file: &Arc<dyn File>,
    place: &mut SegmentPlace,
    limit: u64,
    mut on_frame: impl FnMut(u64, &FrameHeader),
) -> io::Result<ScanEnd> {
    let mut window = Window::new(file, limit);
    while place.position < limit {
        let bytes = window.at(place.position, FRAME_HEADER_BYTES)?;
        match FrameHeader::decode(bytes) {
            Ok(header) if header.incarnation != place.incarnation => {
                return Ok(ScanEnd::Damaged(FormatError::Incarnation));
            }
            Ok(header) if header.kind == FrameKind::Footer => return Ok(ScanEnd::Sealed),
            Ok(header) if header.base_offset != place.next_offset => return Ok(ScanEnd::Damaged(FormatError::Offset)),
            Ok(header) => {
                on_frame(place.position, &header);
                advance(place, &header, bytes.first_chunk().map_or(0, frame::header_crc));
            }
            Err(why) => return Ok(ScanEnd::Damaged(why)),
        }
    }
    Ok(ScanEnd::Clean)
}

/// Whether `[from, to)` holds nothing but zeros.
pub(crate) fn only_zeros(file: &Arc<dyn File>, from: u64, to: u64) -> io::Result<bool> {
    // Most often the first bytes tell.
    let mut first = [0; FRAME_HEADER_BYTES];
    let len = first.len().min(usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX));
    let read = read_full_at(&**file, &mut first[..len], from)?;
    if first[..read].iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    Ok(last_nonzero(file, from, to)?.is_none())
}

/// The position after the last byte of `[from, to)` that is not zero.
pub(crate) fn last_nonzero(file: &Arc<dyn File>, from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut window = Window::new(file, to);
    let mut position = from;
    let mut last = None;
    loop {
        let bytes = window.at(position, SCAN_BYTES)?;
        if bytes.is_empty() {
            return Ok(last);
        }
        if let Some(index) = bytes.iter().rposition(|byte| *byte != 0) {
            last = Some(position + index as u64 + 1);
        }
        position += bytes.len() as u64;
    }
}

/// Looks behind damage at `from` for a frame that proves that `next_offset` had been on the disk: then the damage is rot and
/// no unfinished write. Returns where that frame is.
pub(crate) fn proof_of_rot(
    file: &Arc<dyn File>,
    incarnation: u64,
    next_offset: u64,
    from: u64,
    to: u64,
) -> io::Result<Option<(u64, FrameHeader)>> {
    let mut window = Window::new(file, to);
    let mut position = from;
    loop {
        let bytes = window.at(position, SCAN_BYTES)?;
        if bytes.len() < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let mut at = 0;
        while let Some((found, header)) = frame::find_header(bytes, incarnation, at) {
            if header.durable_upto > next_offset {
                return Ok(Some((position + found as u64, header)));
            }
            at = found + 1;
        }
        // A header may lie across the edge of two windows.
        position += (bytes.len() - (FRAME_HEADER_BYTES - 1)) as u64;
        if position + FRAME_HEADER_BYTES as u64 > to {
            return Ok(None);
        }
    }
}

/// Reads the footer of a sealed file, if its last bytes are one.
pub(crate) fn footer(
    file: &Arc<dyn File>,
    incarnation: u64,
    len: u64,
) -> io::Result<Option<(FrameHeader, Footer, u64)>> {
    const BYTES: usize = FRAME_HEADER_BYTES + FOOTER_BODY_BYTES;
    let Some(position) = len.checked_sub(BYTES as u64) else { return Ok(None) };
    let mut bytes = [0; BYTES];
    if read_full_at(&**file, &mut bytes, position)? < BYTES {
        return Ok(None);
    }
    let parsed = frame::parse(&bytes, incarnation).ok().filter(|(header, _)| header.kind == FrameKind::Footer);
    Ok(parsed.and_then(|(header, body)| Some((header, Footer::decode(body).ok()?, position))))
}

/// Whether `bytes` are a whole frame of the same file that was committed after `header`.
pub(crate) fn is_newer(bytes: &[u8], header: &FrameHeader) -> bool {
    FrameHeader::decode(bytes)
        .is_ok_and(|there| there.incarnation == header.incarnation && there.commit > header.commit)
}
