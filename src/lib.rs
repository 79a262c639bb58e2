//! temp
mod error;
mod format;
mod partition;
mod planted;
mod segment;
mod storage;
pub use error::{Corruption, Error, ErrorKind, OffsetRange, Result};
