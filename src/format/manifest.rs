//! The manifest: what the log is and how it was left. Two slots, written in turn, each of one sector: a torn write leaves
//! the other slot, and the higher serial of the intact ones holds.
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | `magic` | `ANNALMAN` |
//! | 8 | 2 | `version` | 1 |
//! | 10 | 2 | `flags` | 1: closed cleanly |
//! | 12 | 4 | reserved | zero |
//! | 16 | 8 | `serial` | the higher one holds |
//! | 24 | 16 | `log_id` | UUID of the log |
//! | 40 | 8 | `epoch` | raised at each open after an unclean close |
//! | 48 | 8 | `commit_limit` | no commit number at or above this was used; after a clean close, the next to use |
//! | 56 | 8 | `journal_first` | the oldest journal file that recovery needs |
//! | 64 | 8 | `journal_next` | one past the newest; equal to `journal_first` if none is needed |
//! | 72 | 8 | `checkpoint` | the serial of the checkpoint file that belongs to this state; 0 for none |
//! | 80 | 8 | `created_at` | microseconds since 1970 |
//! | 88 | 8 | reserved | zero |
//! | 96 | 4 | `crc` | CRC-32 of bytes 0 to 95 |
//!
//! Slot 0 is at 0, slot 1 at 4096.

use super::cursor::Cursor;
use super::segment::check_preamble;
use super::{FORMAT_VERSION, FormatError, FormatResult};

/// Where the second slot begins: no device writes both with one sector or one page.
pub(crate) const MANIFEST_SLOT_STRIDE: u64 = 4096;
/// Bytes of a slot.
pub(crate) const MANIFEST_SLOT_BYTES: usize = 100;
const MAGIC: [u8; 8] = *b"ANNALMAN";
const FLAG_CLEAN: u16 = 1;

/// The state of the log as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) serial: u64,
    pub(crate) log_id: u128,
    pub(crate) epoch: u64,
    pub(crate) clean: bool,
    pub(crate) commit_limit: u64,
    pub(crate) journal_first: u64,
    pub(crate) journal_next: u64,
    pub(crate) checkpoint: u64,
    pub(crate) created_at: i64,
}

impl Manifest {
    pub(crate) fn encode(&self) -> [u8; MANIFEST_SLOT_BYTES] {
        let mut out = [0; MANIFEST_SLOT_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&if self.clean { FLAG_CLEAN } else { 0 }.to_le_bytes());
        out[16..24].copy_from_slice(&self.serial.to_le_bytes());
        out[24..40].copy_from_slice(&self.log_id.to_be_bytes());
        out[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        out[48..56].copy_from_slice(&self.commit_limit.to_le_bytes());
        out[56..64].copy_from_slice(&self.journal_first.to_le_bytes());
        out[64..72].copy_from_slice(&self.journal_next.to_le_bytes());
        out[72..80].copy_from_slice(&self.checkpoint.to_le_bytes());
        out[80..88].copy_from_slice(&self.created_at.to_le_bytes());
        let crc = crc32fast::hash(&out[..96]);
        out[96..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> FormatResult<Self> {
        let bytes: &[u8; MANIFEST_SLOT_BYTES] = bytes.first_chunk().ok_or(FormatError::Short)?;
        let mut cursor = Cursor::new(bytes);
        check_preamble(bytes, &mut cursor, MAGIC)?;
        let flags = cursor.u16()?;
        cursor.u32()?;
        let manifest = Self {
            clean: flags & FLAG_CLEAN != 0,
            serial: cursor.u64()?,
            log_id: u128::from_be_bytes(cursor.array()?),
            epoch: cursor.u64()?,
            commit_limit: cursor.u64()?,
            journal_first: cursor.u64()?,
            journal_next: cursor.u64()?,
            checkpoint: cursor.u64()?,
            created_at: cursor.i64()?,
        };
        if flags & !FLAG_CLEAN != 0 {
            return Err(FormatError::Flags(flags & !FLAG_CLEAN));
        }
        if manifest.journal_first > manifest.journal_next {
            return Err(FormatError::Length);
        }
        Ok(manifest)
    }
}
