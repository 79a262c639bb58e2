//! What is allowed. Whoever reads settings from elsewhere says the same.

use std::ops::RangeInclusive;
use std::time::Duration;

pub(crate) const PARTITIONS: RangeInclusive<u32> = 1..=10_000;
pub(crate) const DEDUP_COUNT_MAX: RangeInclusive<u32> = 0..=10_000_000;
pub(crate) const ZSTD_LEVEL: RangeInclusive<u8> = 1..=22;
pub(crate) const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
pub(crate) const AGE_MAX: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(1000 * 366 * 86_400);
pub(crate) const RECORD_BYTES_MAX: RangeInclusive<u32> = 1..=64 << 20;
pub(crate) const COMMIT_BYTES_MAX: RangeInclusive<u64> = 128 << 10..=256 << 20;
pub(crate) const JOURNAL_BYTES_MAX: u64 = 1 << 30;
pub(crate) const OPEN_FILES_MAX: RangeInclusive<u32> = 16..=1_000_000;
pub(crate) const TAIL_BYTES_MAX: RangeInclusive<u64> = 0..=64 << 20;
pub(crate) const RESERVE_BYTES: RangeInclusive<u64> = 0..=64 << 20;
pub(crate) const TOMBSTONE_AGE_MAX: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10 * 366 * 86_400);
pub(crate) const DIRTY_RATIO: RangeInclusive<f64> = 0.0..=1.0;
pub(crate) const MAINTENANCE_BYTES_PER_SECOND: RangeInclusive<u64> = 64 << 10..=64 << 30;

/// The simulation wants segments to roll after a handful of records; nobody else is served by files that small.
const SEGMENT_BYTES_MIN: u64 = if cfg!(any(test, feature = "fuzzing")) { 4 << 10 } else { 64 << 10 };
pub(crate) const SEGMENT_BYTES_MAX: RangeInclusive<u64> = SEGMENT_BYTES_MIN..=1 << 30;
