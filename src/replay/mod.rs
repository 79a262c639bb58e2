//! Reading: any part of the history, then live, of a partition, a topic, several topics or the whole log, in causal order.

use chrono::{DateTime, Utc};

mod blocking;
mod position;
mod reader;
mod stream;
mod view;

#[cfg(test)]
mod tests;

pub use blocking::BlockingReplay;
pub use stream::Replay;
pub use view::RecordView;

pub(crate) use blocking::{Current, decode};
pub(crate) use position::{check_offset, first_after, first_at};
pub(crate) use reader::{Item, Scope};
pub(crate) use view::checksum;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// At the first record that is there.
    Earliest,
    /// Behind the last record: only what is written from now on, for following.
    Latest,
    /// At this offset, from the log start to the high watermark. For a single partition.
    Offset(u64),
    /// In each partition at the first record with this time or a later one. Times need not ascend: records with earlier times
    /// that were written after it follow.
    Timestamp(DateTime<Utc>),
    /// At the first record of this commit or a later one.
    Commit(u64),
    /// At the last so many records, counted over everything that is read.
    Last(u64),
}
