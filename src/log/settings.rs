//! What a topic and a log can be told: plain data, checked in one place.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
pub use crate::format::compression::Compression;
use crate::text::quoted;
pub(crate) use opening::LogSettings;

mod duration;
pub(crate) mod indexed;
mod opening;
pub(crate) mod ranges;

#[cfg(test)]
pub(crate) mod tests;

/// What a commit needs beside the largest record: headers of frames and of the journal entry, and the offsets and other
/// internal records that are committed along with it.
const COMMIT_OVERHEAD_BYTES: u64 = 64 << 10;

/// What an acknowledgement of a record means. Set per topic.
///
/// | level | the acknowledgement comes when | the record survives |
/// |---|---|---|
/// | [`Sync`](Durability::Sync) | the disk has it | a power loss |
/// | [`Interval`](Durability::Interval) | the system has it | a killed process; a power loss but for one interval |
/// | [`Os`](Durability::Os) | the system has it | a killed process |
///
/// As text it is `sync`, `interval 250ms` (or `s`, `us`, `ns`) or `os`:
///
/// ```
/// use std::time::Duration;
///
/// use annals::Durability;
///
/// let durability: Durability = "interval 250ms".parse()?;
/// assert_eq!(durability, Durability::Interval(Duration::from_millis(250)));
/// assert_eq!(durability.to_string(), "interval 250ms");
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// After an `fdatasync` that all appends that waited for it share.
    #[default]
    Sync,
    /// As [`Os`](Durability::Os), and synced at least this often: every 1 millisecond to 1 hour.
    Interval(Duration),
    /// Once the operating system has it. When it writes to the disk is its own business.
    Os,
}

impl Durability {
    /// Whether this level promises all that `other` does. A shorter interval promises more than a longer one.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use annals::Durability::{Interval, Os, Sync};
    ///
    /// assert!(Sync.is_at_least(Interval(Duration::from_secs(1))));
    /// assert!(Interval(Duration::from_secs(1)).is_at_least(Interval(Duration::from_secs(2))));
    /// assert!(!Os.is_at_least(Sync));
    /// ```
    pub fn is_at_least(self, other: Self) -> bool {
        self.loss() <= other.loss()
    }

    /// How much a power loss can take; `None`, the first in order, is nothing.
    fn loss(self) -> Option<Duration> {
        match self {
            Self::Sync => None,
            Self::Interval(interval) => Some(interval),
            Self::Os => Some(Duration::MAX),
        }
    }

    pub(crate) fn validate(self) -> Result<()> {
        match self {
            Self::Interval(interval) if !ranges::INTERVAL.contains(&interval) => Err(Error::invalid(format!(
                "`durability` is an interval of {interval:?}, which is outside {:?} to {:?}",
                ranges::INTERVAL.start(),
                ranges::INTERVAL.end()
            ))),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = match self {
            Self::Sync => return f.write_str("sync"),
            Self::Os => return f.write_str("os"),
            Self::Interval(interval) => interval,
        };
        write!(f, "interval {}", duration::Text(*interval))
    }
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "sync" => Ok(Self::Sync),
            "os" => Ok(Self::Os),
            _ => text.strip_prefix("interval ").and_then(duration::parse).map(Self::Interval).ok_or_else(|| {
                Error::invalid(format!("the durability {} is none of `sync`, `interval 250ms`, `os`", quoted(text)))
            }),
        }
    }
}

impl Compression {
    pub(crate) fn validate(self) -> Result<()> {
        match self {
            Self::Zstd { level } => check("zstd level", level, ranges::ZSTD_LEVEL),
            Self::None | Self::Lz4 => Ok(()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd { level } => write!(f, "zstd {level}"),
        }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_number = |digits: &&str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let level = || text.strip_prefix("zstd ").filter(is_number)?.parse().ok();
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            _ => level().map(|level| Self::Zstd { level }).ok_or_else(|| {
                Error::invalid(format!("the compression {} is none of `none`, `lz4`, `zstd 3`", quoted(text)))
            }),
        }
    }
}

/// Settings that stand in a file as they are shown.
macro_rules! as_text {
    ($($setting:ty),+) => {$(
        impl Serialize for $setting {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $setting {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

as_text!(Durability, Compression);

/// What a topic is told when it is created. Kept in its `topic.toml`.
///
/// Plain data with defaults: the fields can be read and changed, and the methods of the same names build one in a
/// single expression. The ranges are checked when the topic is created.
///
/// ```
/// use std::time::Duration;
///
/// use annals::{Durability, TopicSettings};
///
/// let settings = TopicSettings::default().partitions(4).durability(Durability::Interval(Duration::from_millis(50)));
/// assert_eq!(settings.partitions, 4);
/// assert_eq!(settings.segment_bytes_max, 64 << 20);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TopicSettings {
    /// Into how many partitions the topic is divided: 1 to 10,000; by default 1.
    pub partitions: u32,
    /// What an acknowledgement means; by default [`Durability::Sync`].
    pub durability: Durability,
    /// The size at which a partition begins a new file: 64 KiB to 1 GiB; by default 64 MiB.
    pub segment_bytes_max: u64,
    /// The largest record, key and headers included: 1 byte to 64 MiB; by default 1 MiB.
    pub record_bytes_max: u32,
    /// How many bytes each partition keeps, at least: at least `segment_bytes_max`; by default all. The oldest segment goes as
    /// soon as those after it have as many, so a partition takes up to one segment more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_bytes_max: Option<u64>,
    /// How long records are kept, by their own timestamps: 1 second to 1,000 years; by default for ever. A segment goes once
    /// its newest record is older, also where nobody writes any more.
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub retention_age_max: Option<Duration>,
    /// How many message identities each partition remembers, so that a record that repeats one is not written again: 0 (by
    /// default, none) to 10 million. See [`Record::id`](crate::Record::id).
    #[serde(skip_serializing_if = "is_zero")]
    pub dedup_count_max: u32,
    /// How long they are remembered at the most, by the records' own timestamps: 1 second to 1,000 years; by default as long as
    /// there are no more than `dedup_count_max`.
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub dedup_age_max: Option<Duration>,
    /// The names of up to 8 headers by whose values records are found with [`Log::find`](crate::Log::find), each 1 to 255 bytes;
    /// by default none. The index is made in the background and by whoever searches, never by whoever produces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub indexed_headers: Vec<String>,
    /// How much room each partition's file has behind its end, on the disk already, for what is still to be written when the disk
    /// is full: 0 (by default, none is kept) to 64 MiB; of [`Durability::Sync`] only. Where files are written over in place.
    #[serde(skip_serializing_if = "is_zero")]
    pub reserve_bytes: u64,
    /// Whether the records of a key are found without reading its partition; by default not. For
    /// [`Topic::stream`](crate::Topic::stream) and [`Topic::find_key`](crate::Topic::find_key); made as the index of headers is.
    #[serde(skip_serializing_if = "is_false")]
    pub index_keys: bool,
    /// How what is written from now on is compressed; by default [`Compression::None`].
    pub compression: Compression,
    /// Whether only the last record of each key is kept; by default all are. Every record must have a key then. What has
    /// been superseded is removed in the background, some time after it was: see [`Log::compact_topic`](crate::Log::compact_topic).
    pub compaction: bool,
    /// How long a tombstone (a record without a value) stays after the compaction that kept it first: 0 to 10 years; by
    /// default 24 hours. A reader that is further behind may miss that a key was deleted.
    #[serde(with = "duration")]
    pub tombstone_age_max: Duration,
    /// Which part of a partition's bytes must have come since the last compaction before the next one begins by itself:
    /// 0 to 1; by default 0.5.
    pub compaction_dirty_ratio_min: f64,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            partitions: 1,
            durability: Durability::Sync,
            segment_bytes_max: 64 << 20,
            record_bytes_max: 1 << 20,
            retention_bytes_max: None,
            retention_age_max: None,
            dedup_count_max: 0,
            dedup_age_max: None,
            indexed_headers: Vec::new(),
            reserve_bytes: 0,
            index_keys: false,
            compression: Compression::None,
            compaction: false,
            tombstone_age_max: Duration::from_secs(86_400),
            compaction_dirty_ratio_min: 0.5,
        }
    }
}

impl TopicSettings {
    /// Sets into how many [partitions](TopicSettings#structfield.partitions) the topic is divided.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets what an [acknowledgement](TopicSettings#structfield.durability) means.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the size at which a partition begins a [new file](TopicSettings#structfield.segment_bytes_max).
    #[must_use]
    pub fn segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self
    }

    /// Sets the size of the [largest record](TopicSettings#structfield.record_bytes_max).
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: u32) -> Self {
        self.record_bytes_max = bytes;
        self
    }

    /// Sets how many [bytes are kept](TopicSettings#structfield.retention_bytes_max); `None` keeps all.
    #[must_use]
    pub fn retention_bytes_max(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.retention_bytes_max = bytes.into();
        self
    }

    /// Sets how [long](TopicSettings#structfield.retention_age_max) records are kept; `None` keeps them for ever.
    #[must_use]
    pub fn retention_age_max(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.retention_age_max = age.into();
        self
    }

    /// Sets how many [message identities](TopicSettings#structfield.dedup_count_max) each partition remembers; 0 is none.
    #[must_use]
    pub fn dedup_count_max(mut self, count: u32) -> Self {
        self.dedup_count_max = count;
        self
    }

    /// Sets how [long](TopicSettings#structfield.dedup_age_max) message identities are remembered; `None` sets no limit.
    #[must_use]
    pub fn dedup_age_max(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.dedup_age_max = age.into();
        self
    }

    /// Sets by which [headers](TopicSettings#structfield.indexed_headers) records are found.
    #[must_use]
    pub fn indexed_headers(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.indexed_headers = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how much [room](TopicSettings#structfield.reserve_bytes) is kept for when the disk is full.
    #[must_use]
    pub fn reserve_bytes(mut self, bytes: u64) -> Self {
        self.reserve_bytes = bytes;
        self
    }

    /// Sets whether the records of a key are [found](TopicSettings#structfield.index_keys) by an index.
    #[must_use]
    pub fn index_keys(mut self, index: bool) -> Self {
        self.index_keys = index;
        self
    }

    /// Sets how what is written is [compressed](TopicSettings#structfield.compression).
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets whether only the last record of each key is kept: [compaction](TopicSettings#structfield.compaction).
    #[must_use]
    pub fn compaction(mut self, compaction: bool) -> Self {
        self.compaction = compaction;
        self
    }

    /// Sets how long a [tombstone](TopicSettings#structfield.tombstone_age_max) stays.
    #[must_use]
    pub fn tombstone_age_max(mut self, age: Duration) -> Self {
        self.tombstone_age_max = age;
        self
    }

    /// Sets when a compaction [begins by itself](TopicSettings#structfield.compaction_dirty_ratio_min).
    #[must_use]
    pub fn compaction_dirty_ratio_min(mut self, ratio: f64) -> Self {
        self.compaction_dirty_ratio_min = ratio;
        self
    }

    /// Checks each setting by itself.
    pub(crate) fn validate(&self) -> Result<()> {
        check("partitions", self.partitions, ranges::PARTITIONS)?;
        self.durability.validate()?;
        check("segment_bytes_max", self.segment_bytes_max, ranges::SEGMENT_BYTES_MAX)?;
        check("record_bytes_max", self.record_bytes_max, ranges::RECORD_BYTES_MAX)?;
        if let Some(bytes) = self.retention_bytes_max.filter(|bytes| *bytes < self.segment_bytes_max) {
            return Err(Error::invalid(format!(
                "`retention_bytes_max` is {bytes}, but nothing smaller than a segment can go, and `segment_bytes_max` is {}",
                self.segment_bytes_max
            )));
        }
        check_age("retention_age_max", self.retention_age_max)?;
        check("dedup_count_max", self.dedup_count_max, ranges::DEDUP_COUNT_MAX)?;
        check_age("dedup_age_max", self.dedup_age_max)?;
        if self.dedup_age_max.is_some() && self.dedup_count_max == 0 {
            return Err(Error::invalid(
                "`dedup_age_max` is set, but `dedup_count_max` is 0: no message identity is remembered",
            ));
        }
        indexed::validate(&self.indexed_headers)?;
        check("reserve_bytes", self.reserve_bytes, ranges::RESERVE_BYTES)?;
        if self.reserve_bytes > 0 && self.durability != Durability::Sync {
            let level = self.durability;
            return Err(Error::invalid(format!("`reserve_bytes` is set, but the durability is `{level}`, not `sync`")));
        }
        self.compression.validate()?;
        check_duration("tombstone_age_max", self.tombstone_age_max, ranges::TOMBSTONE_AGE_MAX)?;
        check("compaction_dirty_ratio_min", self.compaction_dirty_ratio_min, ranges::DIRTY_RATIO)
    }

    /// Checks each setting by itself, and that the log has room for the largest record in one commit.
    pub(crate) fn validate_in(&self, log: &LogSettings) -> Result<()> {
        self.validate()?;
        let room = log.commit_bytes_max.saturating_sub(COMMIT_OVERHEAD_BYTES);
        if u64::from(self.record_bytes_max) > room {
            return Err(Error::invalid(format!(
                "`record_bytes_max` is {}, but the log's `commit_bytes_max` of {} leaves room for {room}: it must be \
                 larger by {COMMIT_OVERHEAD_BYTES}",
                self.record_bytes_max, log.commit_bytes_max
            )));
        }
        Ok(())
    }
}

fn check_age(setting: &str, age: Option<Duration>) -> Result<()> {
    match age.filter(|age| !ranges::AGE_MAX.contains(age)) {
        None => Ok(()),
        Some(age) => Err(Error::invalid(format!(
            "`{setting}` is {age:?}, which is outside {:?} to {:?}",
            ranges::AGE_MAX.start(),
            ranges::AGE_MAX.end()
        ))),
    }
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn check<N: PartialOrd + fmt::Display>(setting: &str, value: N, allowed: RangeInclusive<N>) -> Result<()> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("`{setting}` is {value}, which is outside {} to {}", allowed.start(), allowed.end())))
}

fn check_duration(setting: &str, value: Duration, allowed: RangeInclusive<Duration>) -> Result<()> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`{setting}` is {value:?}, which is outside {:?} to {:?}",
        allowed.start(),
        allowed.end()
    )))
}
