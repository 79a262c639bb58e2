//! Reading `__offsets`: the newest record of each key is what holds.

use std::collections::HashMap;
use std::sync::Arc;

use super::record::{Committed, OFFSETS_TOPIC, Whose, decode_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::RecordIter;
use crate::log::engine::Engine;
use crate::partition::cursor::PartitionCursor;

/// Calls `each` with all that is committed.
pub(super) fn load(engine: &Engine, mut each: impl FnMut(&Arc<str>, Whose, Committed)) -> Result<()> {
    engine.check_open()?;
    let topic = match engine.topic(OFFSETS_TOPIC) {
        Ok(topic) => topic,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let partition = topic.partition(0)?;
    let end = partition.visible_end();
    let mut newest: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut cursor = PartitionCursor::new(Arc::clone(&partition), partition.log_start());
    while let Some(frame) = cursor.next_frame(end)? {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        loop {
            match records.next_record() {
                Ok(Some(record)) => {
                    let Some(key) = record.key else { continue };
                    match (record.value, newest.get_mut(key)) {
                        (Some(value), Some(there)) => {
                            there.clear();
                            there.extend_from_slice(value);
                        }
                        (Some(value), None) => drop(newest.insert(key.to_vec(), value.to_vec())),
                        (None, _) => drop(newest.remove(key)),
                    }
                }
                Ok(None) => break,
                Err(why) => {
                    let what =
                        format!("a frame of {OFFSETS_TOPIC} at offset {} is malformed", frame.header.base_offset);
                    return Err(Error::with_source(ErrorKind::Corrupt, what, why));
                }
            }
        }
    }
    if let Some(damage) = partition.damage() {
        // What lies behind the damage may be newer: to begin anywhere would be to repeat, or to pass over, in silence.
        return Err(damage.clone());
    }
    let mut names: HashMap<String, Arc<str>> = HashMap::new();
    for (key, value) in &newest {
        let (group, whose) = decode_key(key)?;
        let group = names.entry(group.to_owned()).or_insert_with(|| group.into());
        each(group, whose, Committed::decode(value)?);
    }
    Ok(())
}
