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
    let mut newest: HashMap<Arc<str>, HashMap<Whose, Committed>> = HashMap::new();
    let mut cursor = PartitionCursor::new(Arc::clone(&partition), partition.log_start());
    while let Some(frame) = cursor.next_frame(end)? {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        loop {
            match records.next_record() {
                Ok(Some(record)) => {
                    let Some(key) = record.key else { continue };
                    let (group, whose) = decode_key(key)?;
                    let committed = record.value.map(Committed::decode).transpose()?;
                    if !newest.contains_key(group) {
                        newest.insert(group.into(), HashMap::new());
                    }
                    let Some(known) = newest.get_mut(group) else { continue };
                    match committed {
                        Some(committed) => drop(known.insert(whose, committed)),
                        None => drop(known.remove(&whose)),
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
    for (group, known) in newest {
        known.into_iter().for_each(|(whose, committed)| each(&group, whose, committed));
    }
    Ok(())
}
