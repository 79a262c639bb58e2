//! The checkpoint: for each partition a position up to which it is known to be on the disk and intact, so that recovery
//! starts there. Unlike an index it is a statement to be believed: bytes below it that are gone or damaged were lost.
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | `magic` | `ANNALCHK` |
//! | 8 | 2 | `version` | 1 |
//! | 10 | 2 | reserved | zero |
//! | 12 | 4 | `entry_count` | |
//! | 16 | 8 | `serial` | the manifest names the one that belongs to it |
//! | 24 | 16 | `log_id` | UUID of the log |
//! | 40 | 112 each | entries | see below |
//! | end | 4 | `crc` | CRC-32 of all before it |
//!
//! Entry: `topic_id` (16), `partition` (4), `chain_crc` (4), `log_start` (8), `segment_base` (8), `incarnation` (8),
//! `position` (8), `next_offset` (8), `first_commit` (8), `last_commit` (8), `max_timestamp` (8), `frame_count` (8),
//! `record_count` (8), `clean_end` (8).

use super::cursor::Cursor;
use super::segment::check_preamble;
use super::{FORMAT_VERSION, FormatError, FormatResult};

const MAGIC: [u8; 8] = *b"ANNALCHK";
const ENTRY_BYTES: usize = 112;

/// What is known of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckpointEntry {
    pub(crate) topic_id: u128,
    pub(crate) partition: u32,
    pub(crate) log_start: u64,
    /// Everything before it was compacted. A hint, as lower ones only make for more work.
    pub(crate) clean_end: u64,
    pub(crate) place: SegmentPlace,
}

/// A position between two frames of a segment, with the sums over all the frames before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentPlace {
    pub(crate) segment_base: u64,
    pub(crate) incarnation: u64,
    pub(crate) position: u64,
    pub(crate) next_offset: u64,
    pub(crate) first_commit: u64,
    pub(crate) last_commit: u64,
    pub(crate) max_timestamp: i64,
    pub(crate) frame_count: u64,
    pub(crate) record_count: u64,
    pub(crate) chain_crc: u32,
}

/// A whole checkpoint file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) serial: u64,
    pub(crate) log_id: u128,
    pub(crate) entries: Vec<CheckpointEntry>,
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(44 + self.entries.len() * ENTRY_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.serial.to_le_bytes());
        out.extend_from_slice(&self.log_id.to_be_bytes());
        for entry in &self.entries {
            let place = &entry.place;
            out.extend_from_slice(&entry.topic_id.to_be_bytes());
            out.extend_from_slice(&entry.partition.to_le_bytes());
            out.extend_from_slice(&place.chain_crc.to_le_bytes());
            for value in [
                entry.log_start,
                place.segment_base,
                place.incarnation,
                place.position,
                place.next_offset,
                place.first_commit,
                place.last_commit,
                place.max_timestamp as u64,
                place.frame_count,
                place.record_count,
                entry.clean_end,
            ] {
                out.extend_from_slice(&value.to_le_bytes());
            }
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
        let serial = cursor.u64()?;
        let log_id = u128::from_be_bytes(cursor.array()?);
        if cursor.rest().len() != count.checked_mul(ENTRY_BYTES).ok_or(FormatError::Length)? + 4 {
            return Err(FormatError::Length);
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(decode_entry(&mut cursor)?);
        }
        Ok(Self { serial, log_id, entries })
    }
}

fn decode_entry(cursor: &mut Cursor<'_>) -> FormatResult<CheckpointEntry> {
    let topic_id = u128::from_be_bytes(cursor.array()?);
    let (partition, chain_crc, log_start) = (cursor.u32()?, cursor.u32()?, cursor.u64()?);
    let place = SegmentPlace {
        segment_base: cursor.u64()?,
        incarnation: cursor.u64()?,
        position: cursor.u64()?,
        next_offset: cursor.u64()?,
        first_commit: cursor.u64()?,
        last_commit: cursor.u64()?,
        max_timestamp: cursor.i64()?,
        frame_count: cursor.u64()?,
        record_count: cursor.u64()?,
        chain_crc,
    };
    Ok(CheckpointEntry { topic_id, partition, log_start, clean_end: cursor.u64()?, place })
}
