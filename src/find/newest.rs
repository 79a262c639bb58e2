//! The newest record of a key, and what a single record is known by.

use std::sync::Arc;

use super::index::HeaderIndex;
use super::matcher::Wanted;
use super::search::{Query, RecordReader, Scope};
use crate::error::{Error, Result};
use crate::log::engine::Engine;
use crate::log::running::Running;
use crate::log::topic::TopicState;
use crate::partition::Partition;

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
