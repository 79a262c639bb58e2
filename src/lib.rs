//! temp
mod codec;
mod error;
mod format;
mod journal;
mod log;
mod partition;
mod planted;
mod producer;
mod record;
mod segment;
#[cfg(test)]
mod sim;
mod storage;
mod text;
pub use codec::{Bincode, Codec, CodecError, Json, Raw, TopicDef};
pub use error::{Corruption, Error, ErrorKind, OffsetRange, Result};
pub use log::settings::{Durability, TopicSettings};
pub use record::{Header, Headers, IntoBytes, Message, Record};
