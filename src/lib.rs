#![doc = include_str!("../README.md")]

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod codec;
mod error;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod journal;
mod log;
mod partition;
mod partitioner;
mod planted;
mod producer;
mod record;
mod replay;
mod segment;
#[cfg(test)]
mod sim;
mod storage;
mod text;
mod topic;

pub use codec::{Bincode, Codec, CodecError, Json, Raw, TopicDef};
pub use error::{Corruption, Error, ErrorKind, OffsetRange, Result};
pub use handle::{Log, LogBuilder};
pub use log::report::RecoveryReport;
pub use log::settings::{Durability, TopicSettings};
pub use producer::{Batch, Delivery, Receipt, SendError};
pub use record::{Header, Headers, IntoBytes, Message, Record};
pub use replay::{BlockingReplay, RecordView, Replay, Start};
pub use topic::{PartitionDescription, Topic, TopicDescription};
