//! What a topic and a log can be told: plain data, checked in one place.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::text::quoted;

#[cfg(test)]
pub(crate) mod tests;

const PARTITIONS: RangeInclusive<u32> = 1..=10_000;
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
const RECORD_BYTES_MAX: RangeInclusive<u32> = 1..=64 << 20;
const COMMIT_BYTES_MAX: RangeInclusive<u64> = 128 << 10..=256 << 20;
const JOURNAL_BYTES_MAX: u64 = 1 << 30;
const TAIL_BYTES_MAX: RangeInclusive<u64> = 0..=64 << 20;

/// The simulation wants segments to roll after a handful of records; nobody else is served by files that small.
const SEGMENT_BYTES_MIN: u64 = if cfg!(any(test, feature = "fuzzing")) { 4 << 10 } else { 64 << 10 };
const SEGMENT_BYTES_MAX: RangeInclusive<u64> = SEGMENT_BYTES_MIN..=1 << 30;

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
            Self::Interval(interval) if !INTERVAL.contains(&interval) => Err(Error::invalid(format!(
                "`durability` is an interval of {interval:?}, which is outside {:?} to {:?}",
                INTERVAL.start(),
                INTERVAL.end()
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
        // The coarsest unit that says it exactly: what is read back is what was written.
        match interval.as_nanos() {
            nanos if nanos % 1_000_000_000 == 0 => write!(f, "interval {}s", nanos / 1_000_000_000),
            nanos if nanos % 1_000_000 == 0 => write!(f, "interval {}ms", nanos / 1_000_000),
            nanos if nanos % 1_000 == 0 => write!(f, "interval {}us", nanos / 1_000),
            nanos => write!(f, "interval {nanos}ns"),
        }
    }
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "sync" => Ok(Self::Sync),
            "os" => Ok(Self::Os),
            _ => text.strip_prefix("interval ").and_then(parse_interval).map(Self::Interval).ok_or_else(|| {
                Error::invalid(format!("the durability {} is none of `sync`, `interval 250ms`, `os`", quoted(text)))
            }),
        }
    }
}

fn parse_interval(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number = number.parse().ok()?;
    match unit {
        "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        "us" => Some(Duration::from_micros(number)),
        "ns" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

impl Serialize for Durability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Durability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { partitions: 1, durability: Durability::Sync, segment_bytes_max: 64 << 20, record_bytes_max: 1 << 20 }
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

    /// Checks each setting by itself.
    pub(crate) fn validate(&self) -> Result<()> {
        check("partitions", self.partitions, PARTITIONS)?;
        self.durability.validate()?;
        check("segment_bytes_max", self.segment_bytes_max, SEGMENT_BYTES_MAX)?;
        check("record_bytes_max", self.record_bytes_max, RECORD_BYTES_MAX)
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

/// What a log is told when it is opened. Nothing of it is kept on the disk: another opening may choose other sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    /// The largest atomic commit, and the bound of the memory for records that wait for one.
    pub(crate) commit_bytes_max: u64,
    /// The size of each journal file. Two of the largest commits fit, so that one never waits for the other's
    /// checkpoint.
    pub(crate) journal_bytes: u64,
    /// How much of each partition's end is kept in memory for those who follow it; 0 keeps nothing.
    pub(crate) tail_bytes_max: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { commit_bytes_max: 8 << 20, journal_bytes: 16 << 20, tail_bytes_max: 256 << 10 }
    }
}

impl LogSettings {
    pub(crate) fn validate(&self) -> Result<()> {
        check("commit_bytes_max", self.commit_bytes_max, COMMIT_BYTES_MAX)?;
        check("journal_bytes", self.journal_bytes, 2 * self.commit_bytes_max..=JOURNAL_BYTES_MAX)?;
        check("tail_bytes_max", self.tail_bytes_max, TAIL_BYTES_MAX)
    }
}

fn check<N: PartialOrd + fmt::Display>(setting: &str, value: N, allowed: RangeInclusive<N>) -> Result<()> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("`{setting}` is {value}, which is outside {} to {}", allowed.start(), allowed.end())))
}
