//! The sparse index of a segment: offset, time and commit number to position. Rebuildable, and never trusted: whoever
//! follows an entry checks the frame that it finds there.
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | `magic` | `ANNALIDX` |
//! | 8 | 2 | `version` | 1 |
//! | 10 | 2 | reserved | zero |
//! | 12 | 4 | `entry_count` | |
//! | 16 | 8 | `incarnation` | that of the segment |
//! | 24 | 8 | `covered` | the position in the segment up to which the index was built |
//! | 32 | 32 each | entries | `offset` (8), `position` (8), `commit` (8) of a frame, and `max_timestamp_before` (8): the largest timestamp of all records of the segment before it |
//! | end | 4 | `crc` | CRC-32 of all before it |

use super::cursor::Cursor;
use super::segment::check_preamble;
use super::{FORMAT_VERSION, FormatError, FormatResult};

const MAGIC: [u8; 8] = *b"ANNALIDX";
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 32;

/// Where one frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) offset: u64,
    pub(crate) position: u64,
    pub(crate) commit: u64,
    /// `i64::MIN` for the first frame.
    pub(crate) max_timestamp_before: i64,
}

/// A whole index file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexFile {
    pub(crate) incarnation: u64,
    pub(crate) covered: u64,
    pub(crate) entries: Vec<IndexEntry>,
}

impl IndexFile {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.covered.to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.offset.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
            out.extend_from_slice(&entry.commit.to_le_bytes());
            out.extend_from_slice(&entry.max_timestamp_before.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let mut cursor = Cursor::new(bytes);
        check_preamble(bytes, &mut cursor, MAGIC)?;
        cursor.u16()?;
        let count = cursor.u32()? as usize;
        let (incarnation, covered) = (cursor.u64()?, cursor.u64()?);
        // Compared before anything is allocated for it.
        if cursor.rest().len() != count.checked_mul(ENTRY_BYTES).ok_or(FormatError::Length)? + 4 {
            return Err(FormatError::Length);
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(IndexEntry {
                offset: cursor.u64()?,
                position: cursor.u64()?,
                commit: cursor.u64()?,
                max_timestamp_before: cursor.i64()?,
            });
        }
        let ascending = entries.windows(2).all(
            |pair| matches!(pair, [a, b] if a.offset < b.offset && a.position < b.position && a.commit <= b.commit),
        );
        if ascending { Ok(Self { incarnation, covered, entries }) } else { Err(FormatError::Offset) }
    }
}
