//! What the builder of a log takes in tests.

use std::sync::Arc;

use super::ManualClock;
use crate::handle::LogBuilder;
use crate::storage::clock::SeededRandom;

/// With the feature `testing`.
impl LogBuilder {
    /// Has the log go by a clock that is moved by hand, wherever it lives: in memory, in a directory, on a simulated disk.
    pub fn clock(mut self, clock: &ManualClock) -> Self {
        self.given.clock = Some(Arc::new(clock.clone()));
        self
    }

    /// Takes the randomness of the log, which goes into the identities of logs, topics and files and decides nothing else, from a
    /// seed: the same calls then make the same bytes.
    ///
    /// ```
    /// use annals::Log;
    /// use annals::testing::ManualClock;
    ///
    /// # fn main() -> annals::Result<()> {
    /// let open = || Log::builder().clock(&ManualClock::default()).seed(17).in_memory();
    /// assert_eq!(open()?.id(), open()?.id());
    /// # Ok(()) }
    /// ```
    pub fn seed(mut self, seed: u64) -> Self {
        self.given.random = Some(Arc::new(SeededRandom::new(seed)));
        self
    }
}
