//! The journal: commits over several partitions, each as one entry under one checksum.
//!
//! A journal file begins with this header:
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | `magic` | `ANNALJNL` |
//! | 8 | 2 | `version` | 1 |
//! | 10 | 6 | reserved | zero |
//! | 16 | 16 | `log_id` | UUID of the log |
//! | 32 | 8 | `sequence` | grows by one with each file of the ring |
//! | 40 | 8 | `incarnation` | random; every entry of the file repeats it |
//! | 48 | 8 | `first_entry` | the number of the first entry: all before it are on the disk in earlier files |
//! | 56 | 4 | `file_bytes` | the length that the file was made with: one that is shorter has been cut |
//! | 60 | 4 | `crc` | CRC-32 of bytes 0 to 59 |
//!
//! and goes on at 64 with entries: a frame of kind 3, whose `base_offset` is the entry's number (they ascend by one, from file
//! to file), `record_count` the number of frames in it, `durable_upto` the number of the entry below which all were on the disk
//! when it was written, and `commit` the highest commit number of its frames. The body is, for each frame,
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 16 | `topic_id` | |
//! | 16 | 4 | `partition` | |
//! | 20 | 4 | `frame_len` | |
//! | 24 | 8 | `segment_base` | the segment file that the frame belongs to |
//! | 32 | 8 | `position` | where in it |
//! | 40 | `frame_len` | the frame | byte for byte |

use super::compression::Method;
use super::cursor::Cursor;
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use super::segment::check_preamble;
use super::{FORMAT_VERSION, FormatError, FormatResult};

/// Where the first entry begins.
pub(crate) const JOURNAL_HEADER_BYTES: usize = 64;
/// What a frame costs in an entry beside its own bytes.
pub(crate) const JOURNAL_FRAME_OVERHEAD_BYTES: usize = 40;
const MAGIC: [u8; 8] = *b"ANNALJNL";

/// Which file of the ring this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalHeader {
    pub(crate) log_id: u128,
    pub(crate) sequence: u64,
    pub(crate) incarnation: u64,
    pub(crate) first_entry: u64,
    pub(crate) file_bytes: u32,
}

impl JournalHeader {
    pub(crate) fn encode(&self) -> [u8; JOURNAL_HEADER_BYTES] {
        let mut out = [0; JOURNAL_HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..32].copy_from_slice(&self.log_id.to_be_bytes());
        out[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        out[40..48].copy_from_slice(&self.incarnation.to_le_bytes());
        out[48..56].copy_from_slice(&self.first_entry.to_le_bytes());
        out[56..60].copy_from_slice(&self.file_bytes.to_le_bytes());
        let crc = crc32fast::hash(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let bytes: &[u8; JOURNAL_HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::Short)?;
        let mut cursor = Cursor::new(bytes);
        check_preamble(bytes, &mut cursor, MAGIC)?;
        cursor.take(6)?;
        Ok(Self {
            log_id: u128::from_be_bytes(cursor.array()?),
            sequence: cursor.u64()?,
            incarnation: cursor.u64()?,
            first_entry: cursor.u64()?,
            file_bytes: cursor.u32()?,
        })
    }
}

/// Collects the frames of one entry.
#[derive(Debug, Default)]
pub(crate) struct EntryBuilder {
    bytes: Vec<u8>,
    frame_count: u32,
}

/// Where a frame belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameTarget {
    pub(crate) topic_id: u128,
    pub(crate) partition: u32,
    pub(crate) segment_base: u64,
    pub(crate) position: u64,
}

impl EntryBuilder {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(FRAME_HEADER_BYTES, 0);
        self.frame_count = 0;
    }

    pub(crate) fn push(&mut self, target: &FrameTarget, frame: &[u8]) {
        self.bytes.reserve(JOURNAL_FRAME_OVERHEAD_BYTES + frame.len());
        self.bytes.extend_from_slice(&target.topic_id.to_be_bytes());
        self.bytes.extend_from_slice(&target.partition.to_le_bytes());
        self.bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&target.segment_base.to_le_bytes());
        self.bytes.extend_from_slice(&target.position.to_le_bytes());
        self.bytes.extend_from_slice(frame);
        self.frame_count += 1;
    }

    /// Fills the entry's header in and returns its bytes.
    pub(crate) fn finish(&mut self, incarnation: u64, number: u64, durable_upto: u64, commit: u64) -> &[u8] {
        let (front, body) = self.bytes.split_at_mut(FRAME_HEADER_BYTES);
        let header = FrameHeader {
            kind: FrameKind::Journal,
            compression: Method::Plain,
            body_len: body.len() as u32,
            body_crc: crc32fast::hash(body),
            incarnation,
            base_offset: number,
            record_count: self.frame_count,
            last_offset_delta: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            durable_upto,
            commit,
        };
        if let Some(front) = front.first_chunk_mut() {
            header.encode_into(front);
        }
        &self.bytes
    }
}

/// A frame out of a journal entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournaledFrame<'a> {
    pub(crate) target: FrameTarget,
    pub(crate) header: FrameHeader,
    pub(crate) bytes: &'a [u8],
}

/// The frames of an entry whose checksum has been verified.
pub(crate) fn frames<'a>(header: &FrameHeader, body: &'a [u8]) -> FormatResult<Vec<JournaledFrame<'a>>> {
    let mut cursor = Cursor::new(body);
    let mut found = Vec::new();
    for _ in 0..header.record_count {
        let topic_id = u128::from_be_bytes(cursor.array()?);
        let (partition, len) = (cursor.u32()?, cursor.u32()? as usize);
        let (segment_base, position) = (cursor.u64()?, cursor.u64()?);
        let bytes = cursor.take(len)?;
        let header = FrameHeader::decode(bytes)?;
        if header.frame_len() != len || header.kind != FrameKind::Records {
            return Err(FormatError::Length);
        }
        header.check_body(&bytes[FRAME_HEADER_BYTES..])?;
        found.push(JournaledFrame {
            target: FrameTarget { topic_id, partition, segment_base, position },
            header,
            bytes,
        });
    }
    if cursor.is_empty() { Ok(found) } else { Err(FormatError::Length) }
}
