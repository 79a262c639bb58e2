//! Reading from the log what the view lacks.

use std::sync::Arc;

use super::matcher::HeaderHasher;
use crate::error::{Corruption, Error, Result};
use crate::format::FormatError;
use crate::format::frame::FrameHeader;
use crate::format::record::{RawRecord, RecordIter};
use crate::log::settings::indexed::KEY;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::replay::checksum;
use crate::views::index::{Mark, RUN_OFFSETS_MAX};

/// So many entries are taken in at once: 32 MiB while they are sorted.
const ENTRIES_MAX: usize = 2 << 20;
/// What is read where a single record is looked for.
pub(super) const LOOKUP_READ_BYTES: usize = 16 << 10;

/// What was read of a partition.
#[derive(Debug)]
pub(super) struct Slice {
    /// One past the last offset, and what the record before it is known by; `None` if there was nothing.
    pub(super) upto: Option<(u64, Mark)>,
    /// The hashes and offsets of the headers.
    pub(super) entries: Vec<(u32, u64)>,
    pub(super) bytes: u64,
    /// Whether nothing is left.
    pub(super) done: bool,
}

/// Reads frames from `from` on up to `end`, but no more of them once they have `bytes_max`.
pub(super) fn slice(
    partition: &Arc<Partition>,
    (from, end): (u64, u64),
    names: &[String],
    hasher: &HeaderHasher,
    bytes_max: u64,
) -> Result<Slice> {
    let mut slice = Slice { upto: None, entries: Vec::new(), bytes: 0, done: false };
    let keys = names.iter().any(|name| name == KEY);
    let mut cursor = PartitionCursor::new(Arc::clone(partition), from);
    while slice.bytes < bytes_max && slice.entries.len() < ENTRIES_MAX {
        let frame = match cursor.next_frame(end) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                slice.done = true;
                break;
            }
            // Retention was faster: what has gone is not looked for.
            Err(error) if error.gap().is_some() => continue,
            // What was read before is of use all the same; the next slice meets this again.
            Err(_) if slice.upto.is_some() => break,
            Err(error) => return Err(error),
        };
        let upto = frame.header.next_offset();
        if slice.upto.is_some() && upto - from > RUN_OFFSETS_MAX {
            break;
        }
        let mut last = None;
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = records.next_record().map_err(|why| malformed(partition, &frame.header, why))? {
            if record.offset >= from {
                let headers = record.headers.iter().filter(|(name, _)| names.iter().any(|indexed| indexed == name));
                let hashes = headers.filter_map(|(name, value)| Some(hasher.hash(name, value?)));
                slice.entries.extend(hashes.map(|hash| (hash, record.offset)));
                if let Some(key) = record.key.filter(|_| keys) {
                    slice.entries.push((hasher.hash(KEY, key), record.offset));
                }
            }
            last = Some(record);
        }
        slice.bytes += frame.body.len() as u64 + 1;
        slice.upto = Some((upto, mark(&frame.header, last.as_ref())));
    }
    Ok(slice)
}

/// What the record before `upto` is known by; `None` if no frame ends there, or it cannot be read.
pub(super) fn mark_at(partition: &Arc<Partition>, upto: u64) -> Option<Mark> {
    let offset = upto.checked_sub(1).filter(|offset| *offset >= partition.log_start())?;
    if upto > partition.visible_end() {
        return None;
    }
    let mut cursor = PartitionCursor::new(Arc::clone(partition), offset).with_read_bytes(LOOKUP_READ_BYTES);
    let frame = cursor.next_frame(upto).ok()??;
    if frame.header.next_offset() != upto {
        return None;
    }
    let (mut records, mut last) = (RecordIter::new(&frame.header, &frame.body), None);
    while let Some(record) = records.next_record().ok()? {
        last = Some(record);
    }
    Some(mark(&frame.header, last.as_ref()))
}

/// What the end of a frame is known by. One without records has its commit only.
fn mark(header: &FrameHeader, last: Option<&RawRecord<'_>>) -> Mark {
    Mark { commit: header.commit, crc: last.map_or(0, checksum) }
}

pub(super) fn malformed(partition: &Partition, header: &FrameHeader, why: FormatError) -> Error {
    let owner = &partition.owner;
    Error::corrupt(
        format!("a frame whose checksum holds is malformed: {why}"),
        Corruption {
            file: format!("topics/{}/{}", owner.topic, owner.partition),
            topic: Some(owner.topic.to_string()),
            partition: Some(owner.partition),
            position: 0,
            first_offset: Some(header.base_offset),
            next_offset: Some(header.next_offset()),
        },
    )
}
