//! Finding, in each partition, the place where reading begins.

use std::sync::Arc;

use super::Start;
use crate::error::{Error, Result};
use crate::format::record::RecordIter;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::segment::index::Target;

/// The first offset to read of each of `partitions`, and how many records of their merged order to pass over. `ends` are their
/// visible ends, looked at once: they move while this counts.
pub(super) fn resolve(partitions: &[Arc<Partition>], ends: &[u64], start: Start) -> Result<(Vec<u64>, u64)> {
    let mut pass_over = 0;
    let offsets = match start {
        Start::Offset(offset) => match partitions {
            [partition] => vec![check_offset(partition, offset)?],
            _ => {
                return Err(Error::invalid(format!(
                    "an offset belongs to a single partition, and {} are read; name one, or start at a commit or a time",
                    partitions.len()
                )));
            }
        },
        Start::Last(count) => {
            let mut read = 0;
            let mut offsets = Vec::with_capacity(partitions.len());
            for (partition, end) in partitions.iter().zip(ends) {
                let (from, records) = partition.last_records(*end, count)?;
                offsets.push(from);
                read += records;
            }
            pass_over = u64::saturating_sub(read, count);
            offsets
        }
        Start::Latest => ends.to_vec(),
        _ => partitions.iter().map(|partition| resolve_one(partition, start)).collect::<Result<_>>()?,
    };
    Ok((offsets, pass_over))
}

fn resolve_one(partition: &Arc<Partition>, start: Start) -> Result<u64> {
    match start {
        Start::Timestamp(time) => first_at(partition, time.timestamp_micros()),
        Start::Commit(commit) => partition.find(Target::Commit(commit)),
        Start::Earliest | Start::Latest | Start::Offset(_) | Start::Last(_) => Ok(partition.log_start()),
    }
}

pub(crate) fn check_offset(partition: &Partition, offset: u64) -> Result<u64> {
    let range = partition.range();
    if (range.log_start..=range.high_watermark).contains(&offset) {
        return Ok(offset);
    }
    let owner = &partition.owner;
    Err(Error::out_of_range(
        format!(
            "offset {offset} of topic {}, partition {} is outside {} to {}",
            owner.topic, owner.partition, range.log_start, range.high_watermark
        ),
        range,
    ))
}

/// The first record of a commit after this one, below `end`; `None` if there is none.
///
/// The place that [`Partition::find`] answers with is that of a frame, and may lie before its first record: a compaction lets a frame
/// begin where the one before it ends.
pub(crate) fn first_after(partition: &Arc<Partition>, commit: u64, end: u64) -> Result<Option<u64>> {
    let found = partition.find(Target::Commit(commit.saturating_add(1)))?;
    let mut cursor = PartitionCursor::new(Arc::clone(partition), found).with_read_bytes(LOOKUP_READ_BYTES);
    loop {
        let frame = match cursor.next_frame(end) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            // Retention has taken it away.
            Err(error) if error.gap().is_some() => continue,
            Err(error) => return Err(error),
        };
        if frame.header.commit <= commit {
            continue;
        }
        let mut records = RecordIter::new(&frame.header, &frame.body);
        if let Ok(Some(first)) = records.next_record() {
            return Ok(Some(first.offset).filter(|offset| *offset < end));
        }
    }
}

/// So much is read at once where one frame is wanted.
const LOOKUP_READ_BYTES: usize = 16 << 10;

/// The first record with this time or a later one; the visible end if there is none.
pub(crate) fn first_at(partition: &Arc<Partition>, timestamp: i64) -> Result<u64> {
    let found = partition.find(Target::Timestamp(timestamp))?;
    let end = partition.visible_end();
    let mut cursor = PartitionCursor::new(Arc::clone(partition), found);
    while let Some(frame) = cursor.next_frame(end)? {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Ok(Some(record)) = records.next_record() {
            if record.offset >= found && record.timestamp >= timestamp {
                return Ok(record.offset);
            }
        }
        // The one that the frame was found for lies before the log start: the first frame may begin there. It is another one.
    }
    Ok(end)
}
