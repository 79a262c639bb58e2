//! The first bytes of a segment file, and the body of the footer that ends a sealed one.
//!
//! Segment header:
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | `magic` | `ANNALSEG` |
//! | 8 | 2 | `version` | 1 |
//! | 10 | 2 | `flags` | 1: compacted; an unknown one is refused |
//! | 12 | 4 | `partition` | |
//! | 16 | 16 | `log_id` | UUID of the log |
//! | 32 | 16 | `topic_id` | UUID of the topic |
//! | 48 | 8 | `base_offset` | offset of the first record, as in the file's name |
//! | 56 | 8 | `incarnation` | random; every frame of the file repeats it |
//! | 64 | 8 | `created_at` | microseconds since 1970 |
//! | 72 | 4 | reserved | zero |
//! | 76 | 4 | `crc` | CRC-32 of bytes 0 to 75 |
//!
//! A *compacted* file was whole on the disk, its footer included, before it got its name. It stands for everything that was in
//! the files whose offsets it spans.
//!
//! Footer body: `frame_count` (8), `record_count` (8), `chain_crc` (4), reserved (4), `first_commit` (8), `last_commit` (8).
//! The frame header around it says the rest: `base_offset` and `last_offset_delta` span the segment (a segment of 2^32
//! offsets is sealed before it gets there), `base_timestamp` and `max_timestamp` are both the largest of any record,
//! `commit` is the last. `chain_crc` is the CRC-32 of all the frames' `header_crc` fields one after the other: as
//! each of them covers its frame's fields and body checksum, it stands for every byte of the file.

use super::cursor::Cursor;
use super::{FORMAT_VERSION, FormatError, FormatResult};

/// Bytes of a segment header: where the first frame begins.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 80;
/// Bytes of a footer's body.
pub(crate) const FOOTER_BODY_BYTES: usize = 40;
const MAGIC: [u8; 8] = *b"ANNALSEG";
const COMPACTED: u16 = 1;

/// Which file this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u128,
    pub(crate) topic_id: u128,
    pub(crate) partition: u32,
    pub(crate) base_offset: u64,
    pub(crate) incarnation: u64,
    pub(crate) created_at: i64,
    /// Whether a compaction made the file.
    pub(crate) compacted: bool,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(if self.compacted { COMPACTED } else { 0 }).to_le_bytes());
        out[12..16].copy_from_slice(&self.partition.to_le_bytes());
        out[16..32].copy_from_slice(&self.log_id.to_be_bytes());
        out[32..48].copy_from_slice(&self.topic_id.to_be_bytes());
        out[48..56].copy_from_slice(&self.base_offset.to_le_bytes());
        out[56..64].copy_from_slice(&self.incarnation.to_le_bytes());
        out[64..72].copy_from_slice(&self.created_at.to_le_bytes());
        let crc = crc32fast::hash(&out[..76]);
        out[76..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let bytes: &[u8; SEGMENT_HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::Short)?;
        let mut cursor = Cursor::new(bytes);
        check_preamble(bytes, &mut cursor, MAGIC)?;
        let flags = cursor.u16()?;
        if flags & !COMPACTED != 0 {
            return Err(FormatError::Flags(flags & !COMPACTED));
        }
        let partition = cursor.u32()?;
        Ok(Self {
            log_id: u128::from_be_bytes(cursor.array()?),
            topic_id: u128::from_be_bytes(cursor.array()?),
            partition,
            base_offset: cursor.u64()?,
            incarnation: cursor.u64()?,
            created_at: cursor.i64()?,
            compacted: flags & COMPACTED != 0,
        })
    }
}

/// Checks magic, version and the checksum in the last four bytes, and leaves `cursor` after the version. The version is
/// looked at before the checksum, since a newer format may keep its checksum elsewhere.
pub(super) fn check_preamble(bytes: &[u8], cursor: &mut Cursor<'_>, magic: [u8; 8]) -> FormatResult<()> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(FormatError::Zeros);
    }
    if cursor.array::<8>()? != magic {
        return Err(FormatError::Magic);
    }
    let version = cursor.u16()?;
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(FormatError::Short)?;
    let intact = u32::from_le_bytes(*crc) == crc32fast::hash(covered);
    match (version, intact) {
        (FORMAT_VERSION, true) => Ok(()),
        (newer, _) if newer > FORMAT_VERSION => Err(FormatError::Newer(newer)),
        _ => Err(FormatError::HeaderChecksum),
    }
}

/// What a sealed segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) frame_count: u64,
    pub(crate) record_count: u64,
    pub(crate) chain_crc: u32,
    pub(crate) first_commit: u64,
    pub(crate) last_commit: u64,
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_BODY_BYTES] {
        let mut out = [0; FOOTER_BODY_BYTES];
        out[..8].copy_from_slice(&self.frame_count.to_le_bytes());
        out[8..16].copy_from_slice(&self.record_count.to_le_bytes());
        out[16..20].copy_from_slice(&self.chain_crc.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_commit.to_le_bytes());
        out[32..].copy_from_slice(&self.last_commit.to_le_bytes());
        out
    }

    pub(crate) fn decode(body: &[u8]) -> FormatResult<Self> {
        if body.len() != FOOTER_BODY_BYTES {
            return Err(FormatError::Length);
        }
        let mut cursor = Cursor::new(body);
        let (frame_count, record_count, chain_crc) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
        cursor.u32()?;
        Ok(Self { frame_count, record_count, chain_crc, first_commit: cursor.u64()?, last_commit: cursor.u64()? })
    }
}
