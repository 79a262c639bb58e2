//! Which keys there are, and what may stand behind them.

use std::time::Duration;

use super::super::policy::{CONCURRENCY_MAX, TIME_MAX, WAITING_BYTES_MIN, WAITING_MAX};
use super::super::retry::{ATTEMPTS_MAX, WAIT_MAX};
use super::backend::Backend;
use crate::log::settings::ranges;

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Word(&'static [&'static str]),
    Flag,
    Count {
        min: u64,
        max: u64,
        /// What may stand there instead of a number.
        or: Option<&'static str>,
    },
    Number {
        min: f64,
        max: f64,
    },
    /// Two numbers, the lesser first.
    Pair {
        min: f64,
        max: f64,
    },
    Size {
        min: u64,
        max: u64,
    },
    Time {
        min: Duration,
        max: Duration,
    },
    Names,
    Durability,
    Compression,
    Start,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    Leaf(Kind),
    Table(Keys),
    /// A table for each name.
    Named(Keys),
}

pub(super) type Keys = &'static [(&'static str, Node)];

const fn leaf(kind: Kind) -> Node {
    Node::Leaf(kind)
}

const fn count(min: u64, max: u64) -> Node {
    leaf(Kind::Count { min, max, or: None })
}

const fn size(min: u64, max: u64) -> Node {
    leaf(Kind::Size { min, max })
}

const fn time(min: Duration, max: Duration) -> Node {
    leaf(Kind::Time { min, max })
}

const NANOSECOND: Duration = Duration::from_nanos(1);

pub(super) const ROOT: Keys = &[
    ("log", Node::Table(LOG)),
    ("bus", Node::Table(BUS)),
    ("topics", Node::Named(TOPIC)),
    ("subscriptions", Node::Named(SUBSCRIPTION)),
];

const LOG: Keys = &[
    ("commit_bytes_max", size(*ranges::COMMIT_BYTES_MAX.start(), *ranges::COMMIT_BYTES_MAX.end())),
    ("journal_bytes", size(2 * *ranges::COMMIT_BYTES_MAX.start(), ranges::JOURNAL_BYTES_MAX)),
    ("tail_bytes_max", size(*ranges::TAIL_BYTES_MAX.start(), *ranges::TAIL_BYTES_MAX.end())),
    ("mapped_appends", leaf(Kind::Flag)),
    ("open_files_max", count(*ranges::OPEN_FILES_MAX.start() as u64, *ranges::OPEN_FILES_MAX.end() as u64)),
    (
        "maintenance_bytes_per_second_max",
        size(*ranges::MAINTENANCE_BYTES_PER_SECOND.start(), *ranges::MAINTENANCE_BYTES_PER_SECOND.end()),
    ),
    ("create", leaf(Kind::Flag)),
    ("refresh_interval", time(Duration::from_millis(1), Duration::from_secs(3600))),
];

const BUS: Keys = &[
    ("backend", leaf(Kind::Word(Backend::WORDS))),
    ("source", leaf(Kind::Text)),
    ("environment", leaf(Kind::Text)),
    ("create_topics", leaf(Kind::Flag)),
    ("causation_depth_max", count(1, u32::MAX as u64)),
    ("trace_context", leaf(Kind::Flag)),
    ("topic_defaults", Node::Table(TOPIC)),
];

/// The keys of a topic's own file.
const TOPIC: Keys = &[
    ("partitions", count(*ranges::PARTITIONS.start() as u64, *ranges::PARTITIONS.end() as u64)),
    ("durability", leaf(Kind::Durability)),
    ("segment_bytes_max", size(*ranges::SEGMENT_BYTES_MAX.start(), *ranges::SEGMENT_BYTES_MAX.end())),
    ("record_bytes_max", size(*ranges::RECORD_BYTES_MAX.start() as u64, *ranges::RECORD_BYTES_MAX.end() as u64)),
    ("retention_bytes_max", size(*ranges::SEGMENT_BYTES_MAX.start(), i64::MAX as u64)),
    ("retention_age_max", time(*ranges::AGE_MAX.start(), *ranges::AGE_MAX.end())),
    ("dedup_count_max", count(*ranges::DEDUP_COUNT_MAX.start() as u64, *ranges::DEDUP_COUNT_MAX.end() as u64)),
    ("dedup_age_max", time(*ranges::AGE_MAX.start(), *ranges::AGE_MAX.end())),
    ("indexed_headers", leaf(Kind::Names)),
    ("index_keys", leaf(Kind::Flag)),
    ("reserve_bytes", size(*ranges::RESERVE_BYTES.start(), *ranges::RESERVE_BYTES.end())),
    ("compression", leaf(Kind::Compression)),
    ("compaction", leaf(Kind::Flag)),
    ("tombstone_age_max", time(*ranges::TOMBSTONE_AGE_MAX.start(), *ranges::TOMBSTONE_AGE_MAX.end())),
    (
        "compaction_dirty_ratio_min",
        leaf(Kind::Number { min: *ranges::DIRTY_RATIO.start(), max: *ranges::DIRTY_RATIO.end() }),
    ),
];

const SUBSCRIPTION: Keys = &[
    ("concurrency", count(1, CONCURRENCY_MAX as u64)),
    ("deadline", time(NANOSECOND, TIME_MAX)),
    ("ttl", time(NANOSECOND, TIME_MAX)),
    ("waiting_max", count(1, WAITING_MAX as u64)),
    ("waiting_bytes_max", size(WAITING_BYTES_MIN as u64, i64::MAX as u64)),
    ("shutdown_timeout", time(Duration::ZERO, TIME_MAX)),
    ("dead_letter", leaf(Kind::Text)),
    ("sequenced", leaf(Kind::Flag)),
    ("on_failure", leaf(Kind::Word(&["stop", "skip"]))),
    ("start", leaf(Kind::Start)),
    ("retry", Node::Table(RETRY)),
    ("circuit_breaker", Node::Table(BREAKER)),
];

const RETRY: Keys = &[
    ("attempts", leaf(Kind::Count { min: 1, max: ATTEMPTS_MAX as u64, or: Some("forever") })),
    ("base", time(Duration::ZERO, WAIT_MAX)),
    ("factor", leaf(Kind::Number { min: 1.0, max: 100.0 })),
    ("ceiling", time(Duration::ZERO, WAIT_MAX)),
    ("jitter", leaf(Kind::Pair { min: 0.0, max: 10.0 })),
];

const BREAKER: Keys = &[
    ("failures", count(1, u32::MAX as u64)),
    ("open_for", time(Duration::from_millis(1), Duration::from_secs(86_400))),
];
