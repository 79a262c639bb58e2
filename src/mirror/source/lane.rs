//! A partition of Kafka on its way into the log.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;

use super::super::checkpoint::Place;
use super::checkpoint::Print;
use super::record::ClusterOrigin;
use super::status::SourcePartition;
use crate::error::Error;
use crate::kafka::KafkaContext;
use crate::topic::Topic;

/// Why a partition is paused, and since when.
#[derive(Debug, Clone)]
pub(super) struct Paused {
    pub(super) error: Error,
    pub(super) since: Duration,
}

pub(super) struct Lane {
    pub(super) place: Place,
    /// The topic of the log, if it is known.
    pub(super) target: Option<Target>,
    pub(super) target_name: Arc<str>,
    /// What comes of Kafka; nothing if it is paused from the beginning.
    pub(super) queue: Option<PartitionQueue<KafkaContext>>,
    /// The first offset in Kafka that is not in the log.
    pub(super) next: i64,
    /// The first offset that is neither in the log nor in the transaction.
    pub(super) taken: i64,
    /// The last record that was taken.
    pub(super) last: Option<Print>,
    /// What has to come first, if it is still there.
    pub(super) verify: Option<Print>,
    /// The offset behind the last record that is committed in Kafka, as far as is known.
    pub(super) end: i64,
    /// What was known of that when it was last looked at.
    pub(super) asked_at_end: i64,
    /// The library has said that there is nothing more, and nothing came since.
    pub(super) at_end: bool,
    /// Up to which offset it last said so.
    pub(super) ended_at: i64,
    /// Who wants to know whether it has caught up wants it to come here.
    pub(super) goal: Option<i64>,
    pub(super) paused: Option<Paused>,
}

/// Where the records go.
pub(super) struct Target {
    pub(super) topic: Topic,
    pub(super) topic_id: String,
    /// The partition, if it is the same for all records.
    pub(super) partition: Option<u32>,
    pub(super) origin: ClusterOrigin,
}

impl Lane {
    /// A partition of which nothing is known yet.
    pub(super) fn new(place: Place, target_name: &Arc<str>) -> Self {
        Self {
            place,
            target: None,
            target_name: Arc::clone(target_name),
            queue: None,
            next: 0,
            taken: 0,
            last: None,
            verify: None,
            end: 0,
            asked_at_end: -1,
            at_end: false,
            ended_at: -1,
            goal: None,
            paused: None,
        }
    }

    /// Where fetching begins: at the record that was read last, if there is one, to see that it is still the same.
    pub(super) fn fetch_from(&self) -> i64 {
        self.verify.map_or(self.taken, |last| last.offset)
    }

    /// Whether all is in the log that was committed in Kafka at the time of the question. What is between the last record and the end
    /// may be marks of transactions, which nobody is shown.
    pub(super) fn has_come_to(&self, offset: i64) -> bool {
        self.next >= offset || (self.at_end && self.taken == self.next && self.ended_at >= offset)
    }

    pub(super) fn status(&self) -> SourcePartition {
        let lag = if self.has_come_to(self.end) { 0 } else { self.end - self.next };
        SourcePartition {
            topic: self.place.0.clone(),
            partition: self.place.1,
            target: self.target_name.to_string(),
            next_offset: u64::try_from(self.next).unwrap_or(0),
            lag_records: u64::try_from(lag).unwrap_or(0),
            paused: self.paused.as_ref().map(|paused| paused.error.clone()),
        }
    }
}
