//! The sending side.

pub(crate) mod partitioner;
