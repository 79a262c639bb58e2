//! What stands in the place of what is not there.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Corruption, Error};
use crate::format::checkpoint::{CheckpointEntry, SegmentPlace};
use crate::format::segment::SegmentHeader;
use crate::segment::{Owner, Segment, first_place};
use crate::storage::Env;

pub(super) fn missing(owner: &Owner, offset: u64, what: &str) -> Error {
    Error::corrupt(
        what,
        Corruption {
            file: format!("topics/{}/{}/{}", owner.topic, owner.partition, Segment::file_name(offset)),
            topic: Some(owner.topic.to_string()),
            partition: Some(owner.partition),
            position: 0,
            first_offset: Some(offset),
            next_offset: None,
        },
    )
}

/// Where a partition ends whose files cannot even be walked.
pub(super) fn unreachable_place(checkpoint: Option<&CheckpointEntry>) -> SegmentPlace {
    checkpoint.map_or(first_place(0, 0), |entry| entry.place)
}

/// Stands for the active segment of a partition that has none to write to, because it is damaged.
pub(super) fn no_segment(env: &Env, owner: &Arc<Owner>, dir: &Path) -> Segment {
    let header = SegmentHeader {
        log_id: 0,
        topic_id: owner.topic_id,
        partition: owner.partition,
        base_offset: 0,
        incarnation: 0,
        created_at: 0,
        compacted: false,
    };
    Segment::existing(env, Arc::clone(owner), dir.join(Segment::file_name(0)), &header, 0, None)
}
