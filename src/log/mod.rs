//! The open directory: its topics, its commits, its recovery.

#[cfg(feature = "testing")]
mod by_hand;
pub(crate) mod catalogue;
pub(crate) mod checkpoint;
pub(crate) mod commit;
pub(crate) mod committer;
pub(crate) mod engine;
pub(crate) mod extension;
pub(crate) mod follow;
pub(crate) mod maintenance;
pub(crate) mod manifest_file;
pub(crate) mod meter;
pub(crate) mod names;
pub(crate) mod open;
pub(crate) mod read_only;
mod redo;
pub(crate) mod report;
mod retention;
pub(crate) mod running;
pub(crate) mod settings;
mod spans;
pub(crate) mod topic;
pub(crate) mod topic_file;
pub(crate) mod upkeep;

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(crate) mod tests;
