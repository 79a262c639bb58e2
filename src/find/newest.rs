//! The newest record of a key, what a single record is known by, and where a later commit begins.

use std::sync::Arc;

use super::index::HeaderIndex;
use super::matcher::Wanted;
use super::read::{LOOKUP_READ_BYTES, malformed};
use super::search::{Query, RecordReader, Scope};
use crate::error::{Error, Result};
use crate::format::record::RecordIter;
use crate::log::engine::Engine;
use crate::log::running::Running;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::segment::index::Target;

/// Where the newest record of a key is, and whether it has a value; `None` if no record of the partition has the key.
pub(crate) fn newest(
    log: &Arc<Running>,
    topic: &Arc<TopicState>,
    partition: &Arc<Partition>,
    key: &[u8],
) -> Result<Option<(u64, bool)>> {
    log.engine.check_open()?;
    let wanted = Wanted::key(key);
    if !log.engine.is_read_only() && topic.settings().index_keys {
        return by_index(&log.engine, topic, partition, &wanted);
    }
    let scope =
        Scope::Stream { topic: Arc::clone(topic), partition: Arc::clone(partition), from: partition.log_start() };
    let mut search = Query { log: Arc::clone(log), scope, wanted, given_up: Arc::default() }.begin()?;
    let mut newest = None;
    while let Some(message) = search.next()? {
        newest = Some((message.offset(), !message.is_tombstone()));
    }
    Ok(newest)
}

/// The offsets are few bytes each: of the records none but the last is read.
fn by_index(
    engine: &Engine,
    topic: &Arc<TopicState>,
    partition: &Arc<Partition>,
    wanted: &Wanted,
) -> Result<Option<(u64, bool)>> {
    let index = HeaderIndex::of(engine).ok_or_else(Error::closed)?;
    let range = (partition.log_start(), partition.visible_end());
    let found = index.matches(engine, topic, partition, wanted, range, usize::MAX)?;
    for offset in found.into_iter().rev() {
        let read = RecordReader::new(partition)
            .read(offset, |record| wanted.is_met_by(&record).then(|| (offset, record.value().is_some())));
        match read {
            Ok(None) => {}
            // Retention has taken it away.
            Err(error) if error.gap().is_some() => {}
            found => return found,
        }
    }
    Ok(None)
}

/// The commit and the checksum of the record at an offset, if there is one.
pub(crate) fn mark_of(partition: &Arc<Partition>, offset: u64) -> Result<Option<(u64, u32)>> {
    match RecordReader::new(partition).read(offset, |record| Some((record.commit(), record.checksum()))) {
        Err(error) if error.gap().is_some() => Ok(None),
        read => read,
    }
}

/// The first record below `end` of a commit after this one, if there is any.
///
/// The place that [`Partition::find`] answers with is that of a frame, and may lie before its first record: a compaction lets a frame
/// begin where the one before it ends.
pub(crate) fn first_after(partition: &Arc<Partition>, commit: u64, end: u64) -> Result<Option<u64>> {
    let from = partition.find(Target::Commit(commit.saturating_add(1)))?;
    let mut cursor = PartitionCursor::new(Arc::clone(partition), from).with_read_bytes(LOOKUP_READ_BYTES);
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
        let first = records.next_record().map_err(|why| malformed(partition, &frame.header, why))?;
        if let Some(first) = first {
            return Ok(Some(first.offset).filter(|offset| *offset < end));
        }
    }
}
