//! Topics and partitions as they are at one moment.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::log::settings::TopicSettings;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::record::datetime_from_micros;

/// A topic at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The name.
    pub name: String,
    /// The identity: a topic that is deleted and created again has another.
    pub id: Uuid,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// The settings.
    pub settings: TopicSettings,
    /// The partitions, by number.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// The number.
    pub partition: u32,
    /// The first offset that is there.
    pub log_start: u64,
    /// One past the last offset that readers see.
    pub high_watermark: u64,
    /// One past the last offset known to be on the disk.
    pub durable_end: u64,
    /// Bytes of all segments.
    pub size_bytes: u64,
    /// How many files they are in.
    pub segments: usize,
    /// Why the partition takes no records, if it does not: a failed sync, or damage.
    pub failure: Option<Error>,
}

pub(crate) fn describe_partition(partition: &Partition) -> PartitionDescription {
    PartitionDescription {
        partition: partition.owner.partition,
        log_start: partition.log_start(),
        high_watermark: partition.visible_end(),
        durable_end: partition.durable_end(),
        size_bytes: partition.size_bytes(),
        segments: partition.segments().len(),
        failure: partition.failure().cloned(),
    }
}

pub(crate) fn describe(topic: &TopicState) -> TopicDescription {
    let snapshot = topic.snapshot();
    TopicDescription {
        name: topic.name.to_string(),
        id: Uuid::from_u128(topic.id),
        created_at: datetime_from_micros(topic.created_at),
        settings: snapshot.settings.clone(),
        partitions: snapshot.partitions.iter().map(|partition| describe_partition(partition)).collect(),
    }
}
