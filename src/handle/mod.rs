//! What a user holds: the log and its topics.

pub(crate) mod admin;
pub(crate) mod builder;
mod finding;
pub(crate) mod groups;
pub(crate) mod hold;
#[cfg(feature = "kafka")]
pub(crate) mod links;
pub(crate) mod log;
mod reading;
mod sourcing;

#[cfg(test)]
mod tests;

pub use builder::LogBuilder;
pub use groups::{GroupDescription, GroupPartition, MemberDescription, OffsetChange, Reset};
pub use hold::RetentionHold;
pub use log::Log;
