//! The one public error: a kind that tells the caller what to do, a sentence that tells a person what happened.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::expected::Expected;

/// The result of everything in annals that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: a [kind](ErrorKind) to act on, a context to read, and a source where there is one.
///
/// Cloning is cheap: one failed commit answers every append that shared it.
#[derive(Debug, Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    context: String,
    detail: Option<Detail>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Debug)]
enum Detail {
    Corruption(Corruption),
    Offsets(OffsetRange),
    Version(Expected),
    Gap(Gap),
    Rewound(Rewound),
    Failed(FailedRecord),
}

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument, a name, a size or a setting is outside what is allowed: correct the call.
    Invalid,
    /// The topic, partition or log does not exist.
    NotFound,
    /// The topic exists already, with other settings.
    AlreadyExists,
    /// Not now: the log has no room for more pending records, or a group whose offsets are to be changed has members. Try again.
    Busy,
    /// Another process, or another handle in this one, has the log open for writing.
    Locked,
    /// The offset lies before the log start or beyond the log end; see [`Error::offset_range`]. A reader whose next records
    /// were let go by retention gets one of these with a [gap](Error::gap), and goes on behind it.
    OffsetOutOfRange,
    /// An expected version did not hold; nothing was written. See [`Error::current_version`].
    Conflict,
    /// Somebody else owns it by now: a rebalance has given the partition to another member of the group. Nothing was written.
    Fenced,
    /// A value could not be encoded or decoded.
    Codec,
    /// Bytes on disk are damaged below what was known to be durable; see [`Error::corruption`].
    Corrupt,
    /// The disk is full. Nothing was written, nothing is lost; appends work again once there is room.
    StorageFull,
    /// The operating system reported another error.
    Io,
    /// An earlier sync failed, so this partition (or, after the journal's, every synced topic) takes no more appends until
    /// the log is opened again. What was acknowledged stays readable.
    Poisoned,
    /// The log has been closed.
    Closed,
    /// What was asked for cannot be done here: a bus on Kafka has no index, for example.
    Unsupported,
    /// Another system, such as a Kafka broker, cannot be reached or does not answer in time. Try again.
    Unavailable,
    /// Another system does not let this program in, or not do this.
    Denied,
    /// What another system knows of this log is about another one, or about another state of it; going on would lose or double records.
    Mismatch,
    /// A function of the application has failed or panicked, or could not be given its event; see [`Error::failed_record`].
    Failed,
}

/// Where damage was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The file, relative to the log's directory.
    pub file: String,
    /// The topic, where the file belongs to one.
    pub topic: Option<String>,
    /// The partition, where the file belongs to one.
    pub partition: Option<u32>,
    /// The position in the file, in bytes.
    pub position: u64,
    /// The first offset that cannot be read.
    pub first_offset: Option<u64>,
    /// The first offset after the damage that is known to be readable again.
    pub next_offset: Option<u64>,
}

/// The offsets that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetRange {
    /// The first offset that is there.
    pub log_start: u64,
    /// One past the last offset that can be read.
    pub high_watermark: u64,
}

/// Offsets that a reader came too late for: retention, or a deletion, has let them go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The first offset that is gone.
    pub from: u64,
    /// The first after it that is there: reading goes on here.
    pub to: u64,
}

/// A committed offset that lay beyond what is left: records of a relaxed topic were lost with the power, or somebody put an
/// older copy of the log in its place. What is written at those offsets now is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewound {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset that was committed.
    pub from: u64,
    /// The offset where delivery goes on: the first that is not what it was.
    pub to: u64,
}

/// The record that a function of the application could not deal with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedRecord {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// Whether the function panicked.
    pub panicked: bool,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, context: context.into(), detail: None, source: None }))
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, context: context.into(), detail: None, source: Some(source.into()) }))
    }

    pub(crate) fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the log has been closed")
    }

    /// An error of the storage below: a full disk gets a kind of its own, since waiting helps there.
    pub(crate) fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                ErrorKind::StorageFull
            }
            _ => ErrorKind::Io,
        };
        Self::with_source(kind, context, source)
    }

    pub(crate) fn corrupt(context: impl Into<String>, corruption: Corruption) -> Self {
        Self(Arc::new(Inner {
            kind: ErrorKind::Corrupt,
            context: context.into(),
            detail: Some(Detail::Corruption(corruption)),
            source: None,
        }))
    }

    pub(crate) fn out_of_range(context: impl Into<String>, range: OffsetRange) -> Self {
        Self(Arc::new(Inner {
            kind: ErrorKind::OffsetOutOfRange,
            context: context.into(),
            detail: Some(Detail::Offsets(range)),
            source: None,
        }))
    }

    /// Records that are gone. Met once, by a reader that goes on behind them.
    pub(crate) fn of_gap(gap: Gap) -> Self {
        Self(Arc::new(Inner {
            kind: ErrorKind::OffsetOutOfRange,
            context: format!(
                "offsets {} to {} of topic {}, partition {} are gone: retention, or a deletion, was faster than this reader",
                gap.from,
                gap.to.saturating_sub(1),
                gap.topic,
                gap.partition
            ),
            detail: Some(Detail::Gap(gap)),
            source: None,
        }))
    }

    /// Records that were lost after they were consumed. Met once, by a consumer that goes on before them.
    pub(crate) fn of_rewound(rewound: Rewound) -> Self {
        Self(Arc::new(Inner {
            kind: ErrorKind::OffsetOutOfRange,
            context: format!(
                "offset {} of topic {}, partition {} was committed, but the log has lost its records from offset {} on; delivery \
                 goes on there",
                rewound.from, rewound.topic, rewound.partition, rewound.to
            ),
            detail: Some(Detail::Rewound(rewound)),
            source: None,
        }))
    }

    pub(crate) fn conflict(context: impl Into<String>, current: Expected) -> Self {
        Self(Arc::new(Inner {
            kind: ErrorKind::Conflict,
            context: context.into(),
            detail: Some(Detail::Version(current)),
            source: None,
        }))
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where the damage is, for [`ErrorKind::Corrupt`].
    pub fn corruption(&self) -> Option<&Corruption> {
        match &self.0.detail {
            Some(Detail::Corruption(corruption)) => Some(corruption),
            _ => None,
        }
    }

    /// Which offsets are gone, if a reader came too late for them. It is not the end: the next read goes on behind them.
    pub fn gap(&self) -> Option<&Gap> {
        match &self.0.detail {
            Some(Detail::Gap(gap)) => Some(gap),
            _ => None,
        }
    }

    /// How far a consumer was set back, if records that it had consumed are lost. It is not the end: the next call goes on.
    pub fn rewound(&self) -> Option<&Rewound> {
        match &self.0.detail {
            Some(Detail::Rewound(rewound)) => Some(rewound),
            _ => None,
        }
    }

    /// The function of the application that was given `record` has failed.
    pub(crate) fn of_failed(
        context: impl Into<String>,
        record: FailedRecord,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let detail = Some(Detail::Failed(record));
        Self(Arc::new(Inner { kind: ErrorKind::Failed, context: context.into(), detail, source }))
    }

    /// Which record the application could not deal with, for [`ErrorKind::Failed`].
    pub fn failed_record(&self) -> Option<&FailedRecord> {
        match &self.0.detail {
            Some(Detail::Failed(record)) => Some(record),
            _ => None,
        }
    }

    /// Which offsets exist, for [`ErrorKind::OffsetOutOfRange`].
    pub fn offset_range(&self) -> Option<OffsetRange> {
        match &self.0.detail {
            Some(Detail::Offsets(range)) => Some(*range),
            _ => None,
        }
    }
}

impl Error {
    /// What there was instead of what a conditional append expected, for [`ErrorKind::Conflict`]: expect this, once what is
    /// new has been taken into account, and the append may succeed.
    pub fn current_version(&self) -> Option<Expected> {
        match self.0.detail {
            Some(Detail::Version(current)) => Some(current),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)?;
        if let Some(Detail::Corruption(corruption)) = &self.0.detail {
            write!(f, " ({corruption})")?;
        }
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(topic), Some(partition)) = (&self.topic, self.partition) {
            write!(f, "topic {topic}, partition {partition}, ")?;
        }
        write!(f, "file {}, position {}", self.file, self.position)?;
        match (self.first_offset, self.next_offset) {
            (Some(first), Some(next)) => write!(f, ", offsets {first} to {} affected", next.saturating_sub(1)),
            (Some(first), None) => write!(f, ", offsets from {first} on affected"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
