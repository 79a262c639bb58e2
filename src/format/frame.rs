//! The frame: what one append call, or one group of them, becomes on disk.
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | `header_crc` | CRC-32 of bytes 4 to 71 |
//! | 4 | 1 | `kind` | 1 records, 2 footer, 3 journal entry; 0 never, since preallocated space is zeros |
//! | 5 | 1 | `compression` | of the body: 0 none, 1 lz4, 2 zstd; of kind 1 only. See [`compression`](super::compression) |
//! | 6 | 2 | `flags` | zero; none is defined yet, and an unknown one is refused |
//! | 8 | 4 | `body_len` | bytes after the header, as they are stored |
//! | 12 | 4 | `body_crc` | CRC-32 of the body, as it is stored |
//! | 16 | 8 | `incarnation` | that of the file's header: stale bytes of a recycled file have another |
//! | 24 | 8 | `base_offset` | the first offset that the frame spans; that of the first record, unless offsets were left out |
//! | 32 | 4 | `record_count` | records in the body; 0 for a frame that only spans offsets which are gone |
//! | 36 | 4 | `last_offset_delta` | the last offset that the frame spans, less `base_offset` |
//! | 40 | 8 | `base_timestamp` | microseconds; what the records' timestamps are relative to |
//! | 48 | 8 | `max_timestamp` | the largest timestamp of a record; the smallest `i64` if there is none |
//! | 56 | 8 | `durable_upto` | the offset below which the partition was proven on disk when this frame was written |
//! | 64 | 8 | `commit` | the commit number |
//!
//! `durable_upto` is what tells damage from an unfinished write: a damaged frame below a later frame's `durable_upto` was
//! on the disk once, so something has destroyed it; above all of them it may never have been finished.

use super::compression::Method;
use super::{FormatError, FormatResult};

/// Bytes of a frame header.
pub(crate) const FRAME_HEADER_BYTES: usize = 72;
/// The largest body that a frame can have: the largest commit that can be configured, and room for its encoding.
pub(crate) const FRAME_BODY_BYTES_MAX: u32 = 288 * 1024 * 1024;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    Records = 1,
    Footer = 2,
    Journal = 3,
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) compression: Method,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) incarnation: u64,
    pub(crate) base_offset: u64,
    pub(crate) record_count: u32,
    pub(crate) last_offset_delta: u32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) durable_upto: u64,
    pub(crate) commit: u64,
}

impl FrameHeader {
    /// The offset after the last that the frame spans.
    #[inline]
    pub(crate) fn next_offset(&self) -> u64 {
        self.base_offset.saturating_add(u64::from(self.last_offset_delta)).saturating_add(1)
    }

    /// Bytes of header and body.
    #[inline]
    pub(crate) fn frame_len(&self) -> usize {
        FRAME_HEADER_BYTES + self.body_len as usize
    }

    /// Writes the header, its checksum last, and returns the checksum.
    pub(crate) fn encode_into(&self, out: &mut [u8; FRAME_HEADER_BYTES]) -> u32 {
        out[4] = self.kind as u8;
        out[5] = self.compression as u8;
        out[6..8].copy_from_slice(&[0, 0]);
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        out[24..32].copy_from_slice(&self.base_offset.to_le_bytes());
        out[32..36].copy_from_slice(&self.record_count.to_le_bytes());
        out[36..40].copy_from_slice(&self.last_offset_delta.to_le_bytes());
        out[40..48].copy_from_slice(&self.base_timestamp.to_le_bytes());
        out[48..56].copy_from_slice(&self.max_timestamp.to_le_bytes());
        out[56..64].copy_from_slice(&self.durable_upto.to_le_bytes());
        out[64..72].copy_from_slice(&self.commit.to_le_bytes());
        let crc = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads a header. The checksum comes first: no field is looked at before it holds, so no length is ever taken from
    /// damaged bytes.
    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let bytes: &[u8; FRAME_HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::Short)?;
        if header_crc(bytes) != crc32fast::hash(&bytes[4..]) {
            return Err(if bytes.iter().all(|byte| *byte == 0) {
                FormatError::Zeros
            } else {
                FormatError::HeaderChecksum
            });
        }
        let kind = match bytes[4] {
            1 => FrameKind::Records,
            2 => FrameKind::Footer,
            3 => FrameKind::Journal,
            0 => return Err(FormatError::Zeros),
            other => return Err(FormatError::Kind(other)),
        };
        let compression = Method::of(bytes[5])?;
        if compression != Method::Plain && kind != FrameKind::Records {
            return Err(FormatError::Compression(bytes[5]));
        }
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        if flags != 0 {
            return Err(FormatError::Flags(flags));
        }
        let header = Self {
            kind,
            compression,
            body_len: u32_at(bytes, 8),
            body_crc: u32_at(bytes, 12),
            incarnation: u64_at(bytes, 16),
            base_offset: u64_at(bytes, 24),
            record_count: u32_at(bytes, 32),
            last_offset_delta: u32_at(bytes, 36),
            base_timestamp: u64_at(bytes, 40) as i64,
            max_timestamp: u64_at(bytes, 48) as i64,
            durable_upto: u64_at(bytes, 56),
            commit: u64_at(bytes, 64),
        };
        if header.body_len > FRAME_BODY_BYTES_MAX {
            return Err(FormatError::Length);
        }
        Ok(header)
    }

    /// Whether `body` is what was written.
    #[inline]
    pub(crate) fn check_body(&self, body: &[u8]) -> FormatResult<()> {
        if body.len() != self.body_len as usize {
            return Err(FormatError::Short);
        }
        if crc32fast::hash(body) != self.body_crc {
            return Err(FormatError::BodyChecksum);
        }
        Ok(())
    }
}

/// The checksum that a header claims.
#[inline]
pub(crate) fn header_crc(bytes: &[u8; FRAME_HEADER_BYTES]) -> u32 {
    u32_at(bytes, 0)
}

/// Reads the header at the front of `bytes` and checks that the whole frame is there and belongs to this file.
#[inline]
pub(crate) fn parse(bytes: &[u8], incarnation: u64) -> FormatResult<(FrameHeader, &[u8])> {
    let header = parse_header(bytes, incarnation)?;
    let body = bytes.get(FRAME_HEADER_BYTES..header.frame_len()).ok_or(FormatError::Short)?;
    header.check_body(body)?;
    Ok((header, body))
}

/// Reads the header at the front of `bytes` and checks that it belongs to this file; the body is left to the caller.
#[inline]
pub(crate) fn parse_header(bytes: &[u8], incarnation: u64) -> FormatResult<FrameHeader> {
    let header = match FrameHeader::decode(bytes) {
        // Whatever a later version has left in another incarnation of the file is stale like anything else.
        Err(why) if why.is_from_the_future() && !is_of(bytes, incarnation) => return Err(FormatError::Incarnation),
        other => other?,
    };
    if header.incarnation != incarnation {
        return Err(FormatError::Incarnation);
    }
    Ok(header)
}

fn is_of(bytes: &[u8], incarnation: u64) -> bool {
    bytes.first_chunk().is_some_and(|header| u64_at(header, 16) == incarnation)
}

/// Looks beyond damage for a header of the same incarnation, to learn whether what is damaged had been durable. Returns its
/// position in `bytes` with the header. Only for telling rot from a torn tail: nothing found this way is ever adopted.
pub(crate) fn find_header(bytes: &[u8], incarnation: u64, from: usize) -> Option<(usize, FrameHeader)> {
    let mark = incarnation.to_le_bytes();
    let mut at = from;
    while let Some(window) = bytes.get(at + 16..) {
        let found = window.windows(8).position(|candidate| candidate == mark)?;
        at += found;
        if let Some(Ok(header)) = bytes.get(at..).map(FrameHeader::decode)
            && header.incarnation == incarnation
        {
            return Some((at, header));
        }
        at += 1;
    }
    None
}

#[inline]
fn u32_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

#[inline]
fn u64_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
