//! Walking the frames of a file from a known place: for recovery with every checksum, for an index with the headers only.

use std::io;
use std::sync::Arc;

use super::advance;
use crate::format::checkpoint::SegmentPlace;
use crate::format::frame::{self, FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::format::segment::{FOOTER_BODY_BYTES, Footer, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{FormatError, FormatResult};
use crate::planted::{self, Bug};
use crate::storage::File;
use crate::storage::files::read_full_at;

/// How much is read at once: a piece that stays in the cache while it is checked.
const SCAN_BYTES: usize = 256 * 1024;

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

    /// The checksum of `[from, from + len)`, piece by piece: a frame need not fit into memory. `None` if the limit or the end
    /// of the file comes first.
    fn crc(&mut self, from: u64, len: u64) -> io::Result<Option<u32>> {
        let end = from + len;
        if end > self.limit {
            return Ok(None);
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut position = from;
        while position < end {
            let bytes = self.at(position, 1)?;
            let left = usize::try_from(end - position).unwrap_or(usize::MAX);
            let piece = bytes.get(..left).unwrap_or(bytes);
            if piece.is_empty() {
                return Ok(None);
            }
            hasher.update(piece);
            position += piece.len() as u64;
        }
        Ok(Some(hasher.finalize()))
    }
}

/// Why a walk went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The limit, or the end of the file.
    End,
    /// A footer that agrees with the frames before it.
    Footer,
    /// Bytes that are no valid next frame; zeros among them.
    At(FormatError),
}

/// Walks frames with all their checks from `place`, which moves past each that holds, up to `limit`.
pub(crate) fn frames(
    file: &Arc<dyn File>,
    place: &mut SegmentPlace,
    limit: u64,
    mut on_frame: impl FnMut(u64, &FrameHeader),
) -> io::Result<ScanEnd> {
    let each = |position, header: &FrameHeader| {
        on_frame(position, header);
        true
    };
    match walk(file, place, limit, each)? {
        Stop::End => Ok(ScanEnd::Clean),
        Stop::Footer => Ok(ScanEnd::Sealed),
        Stop::At(_) if only_zeros(file, place.position, limit)? => Ok(ScanEnd::Clean),
        Stop::At(why) => Ok(ScanEnd::Damaged(why)),
    }
}

/// [`frames`] without a look at what lies behind the last one, and only as long as each is `wanted`.
pub(crate) fn walk(
    file: &Arc<dyn File>,
    place: &mut SegmentPlace,
    limit: u64,
    mut wanted: impl FnMut(u64, &FrameHeader) -> bool,
) -> io::Result<Stop> {
    let mut window = Window::new(file, limit);
    loop {
        if window.at(place.position, FRAME_HEADER_BYTES)?.is_empty() {
            return Ok(Stop::End);
        }
        match check(&mut window, place)? {
            Ok(Checked::Frame(header, crc)) => {
                if !wanted(place.position, &header) {
                    return Ok(Stop::End);
                }
                advance(place, &header, crc);
            }
            Ok(Checked::Footer) => return Ok(Stop::Footer),
            Err(_) if planted::is(Bug::ResyncPastHole) && resync(file, place, limit)? => {}
            Err(why) => return Ok(Stop::At(why)),
        }
    }
}

/// [`frames`] with a check more, which sees the stored bodies: a frame that it does not let pass ends the walk as damage does.
/// For a look at everything; recovery is content with the checksums.
pub(crate) fn whole_frames(
    file: &Arc<dyn File>,
    place: &mut SegmentPlace,
    limit: u64,
    mut on_frame: impl FnMut(u64, &FrameHeader, &[u8]) -> FormatResult<()>,
) -> io::Result<ScanEnd> {
    let mut window = Window::new(file, limit);
    loop {
        if window.at(place.position, FRAME_HEADER_BYTES)?.is_empty() {
            return Ok(ScanEnd::Clean);
        }
        let why = match check(&mut window, place)? {
            Ok(Checked::Footer) => return Ok(ScanEnd::Sealed),
            Ok(Checked::Frame(header, crc)) => {
                let body = window.at(place.position + FRAME_HEADER_BYTES as u64, header.body_len as usize)?;
                let body = body.get(..header.body_len as usize).unwrap_or_default();
                match on_frame(place.position, &header, body) {
                    Ok(()) => {
                        advance(place, &header, crc);
                        continue;
                    }
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        let zeros = only_zeros(file, place.position, limit)?;
        return Ok(if zeros { ScanEnd::Clean } else { ScanEnd::Damaged(why) });
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

/// Checks what is at `place`: the header, then the body behind it.
fn check(window: &mut Window<'_>, place: &SegmentPlace) -> io::Result<Result<Checked, FormatError>> {
    let bytes = window.at(place.position, FRAME_HEADER_BYTES)?;
    let mut incarnation = place.incarnation;
    if planted::is(Bug::IncarnationIgnored) {
        incarnation = FrameHeader::decode(bytes).map_or(incarnation, |header| header.incarnation);
    }
    let header = match frame::parse_header(bytes, incarnation) {
        Ok(header) => header,
        Err(why) => return Ok(Err(why)),
    };
    let header_crc = bytes.first_chunk().map_or(0, frame::header_crc);
    let body = place.position + FRAME_HEADER_BYTES as u64;
    let checked = window.crc(body, u64::from(header.body_len))?;
    if checked != Some(header.body_crc) && !planted::is(Bug::BodyNotChecked) {
        return Ok(Err(if checked.is_none() { FormatError::Short } else { FormatError::BodyChecksum }));
    }
    Ok(match header.kind {
        FrameKind::Records if header.base_offset == place.next_offset => Ok(Checked::Frame(header, header_crc)),
        FrameKind::Footer if header.base_offset == place.segment_base => {
            check_footer(window.at(body, FOOTER_BODY_BYTES)?, &header, place)
        }
        FrameKind::Records | FrameKind::Footer => Err(FormatError::Offset),
        FrameKind::Journal => Err(FormatError::Kind(FrameKind::Journal as u8)),
    })
}

fn check_footer(bytes: &[u8], header: &FrameHeader, place: &SegmentPlace) -> Result<Checked, FormatError> {
    let footer = Footer::decode(bytes.get(..header.body_len as usize).unwrap_or_default())?;
    let agrees = footer.frame_count == place.frame_count
        && footer.record_count == place.record_count
        && footer.chain_crc == place.chain_crc;
    if agrees { Ok(Checked::Footer) } else { Err(FormatError::BodyChecksum) }
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

static ZEROS: [u8; 4096] = [0; 4096];

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
        // Room ahead is megabytes of zeros: compared in pieces, as the machine does that ten times as fast as byte by byte.
        let pieces = bytes.rchunks(ZEROS.len());
        let nonzero = pieces.enumerate().find(|(_, piece)| ZEROS.get(..piece.len()) != Some(*piece));
        if let Some((behind, piece)) = nonzero {
            let end = bytes.len() - behind * ZEROS.len();
            let index = piece.iter().rposition(|byte| *byte != 0).unwrap_or_default();
            last = Some(position + (end - piece.len() + index) as u64 + 1);
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

/// Looks behind damage for the frame that `accept` lets pass, for a repair, which gives up what lies before it; recovery never
/// does this. `accept` sees every header of the incarnation, and the stored body where it holds.
pub(crate) fn find_frame(
    file: &Arc<dyn File>,
    incarnation: u64,
    from: u64,
    to: u64,
    mut accept: impl FnMut(&FrameHeader, Option<&[u8]>) -> bool,
) -> io::Result<Option<(u64, FrameHeader)>> {
    let mut position = from;
    let mut window = Window::new(file, to);
    // Apart from the window of the search, which a large frame would drive out.
    let mut frames = Window::new(file, to);
    while position + FRAME_HEADER_BYTES as u64 <= to {
        let bytes = window.at(position, SCAN_BYTES)?;
        let mut at = 0;
        while let Some((found, header)) = frame::find_header(bytes, incarnation, at) {
            let whole = frames.at(position + found as u64, header.frame_len())?;
            if accept(&header, frame::parse(whole, incarnation).ok().map(|(_, body)| body)) {
                return Ok(Some((position + found as u64, header)));
            }
            at = found + 1;
        }
        if bytes.len() < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        // A header may lie across the edge of two windows.
        position += (bytes.len() - (FRAME_HEADER_BYTES - 1)) as u64;
    }
    Ok(None)
}

/// What the frames of a file repeat: as its header says or, where that does not hold, as the first frame does.
pub(crate) fn incarnation_of(file: &dyn File) -> io::Result<Option<u64>> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES];
    let read = read_full_at(file, &mut bytes, 0)?;
    let (header, frame) = bytes[..read].split_at(read.min(SEGMENT_HEADER_BYTES));
    let header = SegmentHeader::decode(header).map(|header| header.incarnation);
    Ok(header.or_else(|_| FrameHeader::decode(frame).map(|frame| frame.incarnation)).ok())
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
