//! What a consumer gives and is told.

use std::fmt;
use std::time::Duration;

use crate::error::{Gap, Rewound};
use crate::record::Message;

/// What a consumer's stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item<T = bytes::Bytes> {
    /// A record.
    Message(Message<T>),
    /// Everything that there was is delivered, in all partitions that are assigned; what follows is live. Comes again after
    /// partitions were added, and after a [`seek`](crate::Consumer::seek).
    CaughtUp,
    /// Records that are gone: retention or a deletion has let them go, or they were damaged and a repair has left them out.
    /// Delivery goes on behind them.
    Gap(Gap),
    /// Records that were consumed and then lost with the power, or with an older copy of the log that somebody has put in place.
    /// Delivery goes on where the log is not what it was.
    Rewound(Rewound),
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The name of the topic.
    pub topic: String,
    /// The number of the partition.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// How far a consumer is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset that is delivered next.
    pub position: u64,
    /// One past the last offset that can be read.
    pub high_watermark: u64,
}

impl Lag {
    /// How many offsets are still to be delivered.
    pub fn records(&self) -> u64 {
        self.high_watermark.saturating_sub(self.position)
    }
}

/// What to do where records are gone before they were consumed: retention was faster, or they were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnGap {
    /// Go on with the first record that is there, after an item that says what is missing.
    #[default]
    Earliest,
    /// Go on with what comes from now on, after an item that says what is missing.
    Latest,
    /// Stop delivering the partition, with an error that says what is missing.
    Error,
}

/// How long a member may take to give a partition up that another is to have, unless set otherwise.
pub(crate) const REVOKE_TIMEOUT: Duration = Duration::from_secs(10);
