//! Sending records: choosing the partition, encoding, waiting for the commit.

pub(crate) mod along;
pub(crate) mod batch;
mod borrowed;
pub(crate) mod conditional;
pub(crate) mod delivery;
pub(crate) mod encode;
pub(crate) mod guard;
mod guarded;
pub(crate) mod outgoing;
pub(crate) mod send;

pub use batch::Batch;
pub use delivery::{Delivery, Receipt};
pub use send::SendError;
