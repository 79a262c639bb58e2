//! The open directory.

pub(crate) mod names;
pub(crate) mod settings;
pub(crate) mod topic_file;
