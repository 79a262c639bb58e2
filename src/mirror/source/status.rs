//! How a source is doing.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};

use super::super::shared::{Moves, Shared};
use super::super::status::MirrorState;
use crate::error::Error;
use crate::handle::links::LinkKind;

/// A source at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourceStatus {
    /// What it is about.
    pub state: MirrorState,
    /// Its partitions, by topic and number. Empty until it has reached the cluster.
    pub partitions: Vec<SourcePartition>,
    /// How many records it has brought into the log since it was spawned.
    pub received: u64,
    /// How many bytes of keys, values and headers these had.
    pub received_bytes: u64,
    /// How many records it has passed over, because they came from this log.
    pub passed_over: u64,
    /// How many records the log has refused that became marks.
    pub refused: u64,
    /// How many transactions it has committed.
    pub committed: u64,
    /// When it last committed, by the log's clock.
    pub last_commit: Option<DateTime<Utc>>,
    /// The error that it has met last, also if it has passed.
    pub last_error: Option<Error>,
}

impl SourceStatus {
    /// About how many records it has not brought into the log yet: offsets are counted, also those of the marks that end a transaction.
    pub fn lag_records(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.lag_records).sum()
    }
}

/// A partition of a source at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourcePartition {
    /// The topic in Kafka.
    pub topic: String,
    /// The partition in Kafka.
    pub partition: u32,
    /// The topic in the log.
    pub target: String,
    /// The first offset in Kafka that is not in the log yet.
    pub next_offset: u64,
    /// About how many records that are committed in Kafka are not in the log yet; 0 if there are none.
    pub lag_records: u64,
    /// Why it is paused, if it is.
    pub paused: Option<Error>,
}

impl Moves for SourcePartition {
    const KIND: LinkKind = LinkKind::Source;

    fn health(&self) -> (Option<&Error>, u64) {
        (self.paused.as_ref(), self.lag_records)
    }
}

/// What a source shows of itself.
pub(in crate::mirror) fn of(shared: &Shared<SourcePartition>) -> SourceStatus {
    let counters = &shared.counters;
    let last_commit = counters.last_commit.load(Ordering::Relaxed);
    SourceStatus {
        state: shared.state(),
        partitions: shared.partitions(),
        received: counters.forwarded.load(Ordering::Relaxed),
        received_bytes: counters.forwarded_bytes.load(Ordering::Relaxed),
        passed_over: counters.passed_over.load(Ordering::Relaxed),
        refused: counters.refused.load(Ordering::Relaxed),
        committed: counters.committed.load(Ordering::Relaxed),
        last_commit: DateTime::from_timestamp_micros(last_commit as i64).filter(|_| last_commit > 0),
        last_error: shared.last_error(),
    }
}
