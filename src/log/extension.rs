//! What a layer above keeps with an open log, without the log knowing what it is.

use std::any::Any;
use std::fmt::Debug;

use super::engine::Engine;

/// Takes the place at the close, so that nothing is attached to a log that is closed.
#[derive(Debug)]
pub(super) struct Nothing;

impl Extension for Nothing {
    fn checkpointed(&self, _: &Engine) {}
    fn closing(&self, _: &Engine) {}
}

/// Something to be told what happens to the log.
pub(crate) trait Extension: Any + Debug + Send + Sync {
    /// A checkpoint was written. Called in the background; nothing waits for it.
    fn checkpointed(&self, engine: &Engine);
    /// All is on the disk, and nothing is written any more. Called once, before the lock of the directory is released.
    fn closing(&self, engine: &Engine);
}
