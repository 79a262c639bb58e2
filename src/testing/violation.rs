//! What a check has found wrong.

use std::fmt;

use bytes::Bytes;

use crate::text::quoted;

/// Where a record is in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// The offset in the partition.
    pub offset: u64,
    /// The commit that wrote it. A power loss may take an offset back that was not durable, and another record gets it then; its
    /// commit is another.
    pub commit: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}, offset {} (commit {})", self.partition, self.offset, self.commit)
    }
}

/// What a [check](super::check) has found wrong: the first thing of its kind, in the order of what was recorded. Its
/// [`Display`](fmt::Display) is a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A record that was acknowledged is not there.
    Lost {
        /// The topic.
        topic: String,
        /// Where it was acknowledged to be.
        place: Place,
        /// Its key.
        key: Option<Bytes>,
    },
    /// A record that was acknowledged is there with another key, value, header or timestamp.
    Altered {
        /// The topic.
        topic: String,
        /// Where it is.
        place: Place,
        /// The key that it was sent with.
        key: Option<Bytes>,
    },
    /// Two records of a key came in another order than they were written in.
    OutOfOrder {
        /// The topic.
        topic: String,
        /// The key.
        key: Bytes,
        /// What came first, and was written later.
        first: Place,
        /// What came after it, and was written earlier.
        then: Place,
    },
    /// A record came twice.
    Duplicate {
        /// The topic.
        topic: String,
        /// Its key.
        key: Option<Bytes>,
        /// Where it is.
        first: Place,
        /// The same, or where another record with its identity is.
        then: Place,
    },
    /// Offsets of a partition are missing between others that came.
    Gap {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The first offset that is missing.
        from: u64,
        /// The first one after it that came.
        to: u64,
    },
    /// An offset was committed behind a record that was delivered and not finished: after a crash nobody would come back to it.
    CommittedPastUnfinished {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// What was committed: the next offset to read.
        committed: u64,
        /// The first record before it that is not finished.
        unfinished: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { topic, place, key } => {
                write!(f, "topic {topic}, {place}: the record{} was acknowledged and is lost", of_key(key.as_ref()))
            }
            Self::Altered { topic, place, key } => {
                write!(f, "topic {topic}, {place}: the record{} is not what was acknowledged", of_key(key.as_ref()))
            }
            Self::OutOfOrder { topic, key, first, then } => {
                write!(f, "topic {topic}: of key {} {then} was written first and came after {first}", text_of(key))
            }
            Self::Duplicate { topic, key, first, then } if first == then => {
                write!(f, "topic {topic}, {first}: the record{} came twice", of_key(key.as_ref()))
            }
            Self::Duplicate { topic, key, first, then } => write!(
                f,
                "topic {topic}: the record{} has one identity and came twice: {first}; {then}",
                of_key(key.as_ref())
            ),
            Self::Gap { topic, partition, from, to } => {
                write!(
                    f,
                    "topic {topic}, partition {partition}: offsets {from} to {} are missing",
                    to.saturating_sub(1)
                )
            }
            Self::CommittedPastUnfinished { topic, partition, committed, unfinished } => write!(
                f,
                "topic {topic}, partition {partition}: {committed} was committed though offset {unfinished} was delivered and is \
                 not finished"
            ),
        }
    }
}

impl std::error::Error for Violation {}

fn of_key(key: Option<&Bytes>) -> String {
    key.map(|key| format!(" of key {}", text_of(key))).unwrap_or_default()
}

/// A key as a person reads it.
fn text_of(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => quoted(text),
        Err(_) => format!("b\"{}\"", key.escape_ascii()),
    }
}
