//! temp
mod error;
mod storage;
pub use error::{Corruption, Error, ErrorKind, OffsetRange, Result};
