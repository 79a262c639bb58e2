//! Holding retention back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::log::Log;
use crate::error::{Error, Result};
use crate::partition::hold::Hold;

/// Keeps retention from letting records go that somebody still needs, such as a mirror or a backup, for as long as this is there. From
/// [`Log::hold_retention`].
///
/// Deleting records, or the topic, by [hand](Log::delete_records) is not kept from anybody.
pub struct RetentionHold {
    hold: Arc<Hold>,
    bytes_max: Option<u64>,
}

impl fmt::Debug for RetentionHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetentionHold").field("held_bytes", &self.held_bytes()).finish_non_exhaustive()
    }
}

impl Log {
    /// Keeps retention from letting records of a partition go from this offset on: `bytes_max` bytes at most, counted in whole segments,
    /// and none that is older than `age_max`. Beyond that the hold is broken, and retention goes on as if it were not there.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) for a topic or partition that does not exist, [`Invalid`](crate::ErrorKind::Invalid)
    /// for a log that is open read-only, [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Log, TopicSettings};
    ///
    /// # let log = Log::in_memory()?;
    /// log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// let hold = log.hold_retention("orders", 0, 0, Some(1 << 30), None)?;
    /// // ... whatever was exported is not needed any more:
    /// hold.advance(17);
    /// assert!(!hold.is_broken());
    /// # Ok(()) }
    /// ```
    pub fn hold_retention(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        bytes_max: Option<u64>,
        age_max: Option<Duration>,
    ) -> Result<RetentionHold> {
        let engine = &self.inner.engine;
        engine.check_open()?;
        if engine.is_read_only() {
            return Err(Error::invalid("the log is open read-only; its retention is held back by whoever writes it"));
        }
        let partition = engine.topic(topic)?.partition(partition)?;
        let age_max = age_max.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        Ok(RetentionHold { hold: Hold::new(partition, from, bytes_max, age_max), bytes_max })
    }
}

impl RetentionHold {
    /// Records before this offset are not needed any more. An offset before the last one given changes nothing.
    pub fn advance(&self, to: u64) {
        self.hold.advance(to);
    }

    /// How many bytes there are from the segment on that has the first record that is needed.
    pub fn held_bytes(&self) -> u64 {
        self.hold.held_bytes()
    }

    /// How many more bytes may be written before the hold is broken; `None` without a cap.
    pub fn headroom_bytes(&self) -> Option<u64> {
        self.bytes_max.map(|max| max.saturating_sub(self.held_bytes()))
    }

    /// Whether the hold was broken: the cap was reached, and retention has let records go that were needed.
    pub fn is_broken(&self) -> bool {
        self.hold.is_broken()
    }

    /// Has whoever appends to the partition get [`Busy`](crate::ErrorKind::Busy) from now on, or not any more: where losing records is
    /// worse than taking none. It ends with the hold.
    pub fn block_appends(&self, block: bool) {
        self.hold.block(block);
    }
}
