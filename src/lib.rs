#![doc = include_str!("../README.md")]

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod codec;
mod error;
mod expected;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
pub mod inspect;
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
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod topic;
mod views;

pub use codec::{Bincode, Codec, CodecError, Json, Raw, TopicDef};
pub use error::{Corruption, Error, ErrorKind, Gap, OffsetRange, Result};
pub use expected::Expected;
pub use handle::{Log, LogBuilder};
pub use log::maintenance::Compacted;
pub use log::report::RecoveryReport;
pub use log::settings::{Compression, Durability, TopicSettings};
pub use producer::{Batch, Delivery, Receipt, SendError};
pub use record::{Header, Headers, IntoBytes, Message, Record, RecordRef};
pub use replay::{BlockingReplay, RecordView, Replay, Start};
pub use topic::{PartitionDescription, Topic, TopicDescription};
