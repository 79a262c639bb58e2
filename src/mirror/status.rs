//! How a mirror is doing.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::error::Error;

/// What a mirror, or a [`Source`](super::Source), is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MirrorState {
    /// It is about to reach the cluster for the first time, or again after an error that passes.
    Connecting,
    /// It forwards what there is.
    Running,
    /// It was told to pause.
    Paused,
    /// It was stopped.
    Stopped,
    /// It has ended with an error.
    Failed,
}

/// A mirror at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MirrorStatus {
    /// What it is about.
    pub state: MirrorState,
    /// Its partitions, by topic and number. Empty until it has reached the cluster.
    pub partitions: Vec<MirrorPartition>,
    /// How many records it has forwarded since it was spawned.
    pub forwarded: u64,
    /// How many bytes of keys, values and headers these had.
    pub forwarded_bytes: u64,
    /// How many records it has passed over: by its filter, or because they came from another log.
    pub passed_over: u64,
    /// How many records the target has refused that became dead letters or marks.
    pub refused: u64,
    /// How many transactions, or batches, it has committed.
    pub committed: u64,
    /// How many it has aborted, to begin again where the target says it had come to.
    pub aborted: u64,
    /// When it last committed, by the log's clock.
    pub last_commit: Option<DateTime<Utc>>,
    /// The error that it has met last, also if it has passed.
    pub last_error: Option<Error>,
}

impl MirrorStatus {
    /// How many records it has not forwarded yet.
    pub fn lag_records(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.lag_records).sum()
    }

    /// About how many bytes it has not forwarded yet.
    pub fn lag_bytes(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.lag_bytes).sum()
    }

    /// How old the oldest record is that it has not forwarded yet; zero if there is none.
    pub fn lag(&self) -> Duration {
        self.partitions.iter().map(|partition| partition.lag).max().unwrap_or_default()
    }
}

/// A partition of a mirror at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MirrorPartition {
    /// The topic in the log.
    pub topic: String,
    /// The partition in the log.
    pub partition: u32,
    /// The topic in the target.
    pub target: String,
    /// The first offset that is not in the target yet.
    pub next_offset: u64,
    /// How many records that are durable are not in the target yet.
    pub lag_records: u64,
    /// About how many bytes these have on the disk, at the mean size of the partition's records.
    pub lag_bytes: u64,
    /// How old the first of them is.
    pub lag: Duration,
    /// How many more bytes retention may hold for it until the cap is reached; `None` without a cap.
    pub headroom_bytes: Option<u64>,
    /// Why it is paused, if it is.
    pub paused: Option<Error>,
}

/// What an error means for a mirror, or a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorClass {
    /// It passes: the mirror waits and tries again by itself.
    Passing,
    /// Records are left out, as the settings want it: refused ones, in whose place there is a mark or a dead letter, or ones that
    /// retention has let go. Told again if the transaction has to be begun anew.
    Skipped,
    /// The partition is paused, the others go on.
    Partition,
    /// The mirror has ended.
    Fatal,
}

/// An error that a mirror, or a source, has met.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MirrorError {
    /// What it means.
    pub class: ErrorClass,
    /// The topic and partition that it is about, if it is about one: in the log for a mirror, in Kafka for a source.
    pub partition: Option<(String, u32)>,
    /// The error.
    pub error: Error,
}
