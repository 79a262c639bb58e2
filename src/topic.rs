//! A topic as its user holds it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{Codec, Raw};
use crate::error::Result;
use crate::log::engine::Engine;
use crate::log::running::Running;
use crate::log::settings::TopicSettings;
use crate::log::topic::TopicState;
use crate::partitioner::Sticky;

pub(crate) mod describe;

pub use describe::{PartitionDescription, TopicDescription};

/// A topic: partitions of records, whose values are `T`, written and read through the codec `C`.
///
/// Handles are cheap to clone and may be used from any thread and task.
pub struct Topic<T = Bytes, C = Raw> {
    pub(crate) log: Arc<Running>,
    pub(crate) state: Arc<TopicState>,
    pub(crate) codec: Arc<C>,
    pub(crate) sticky: Arc<Sticky>,
    values: PhantomData<fn(T) -> T>,
}

impl<T, C> Clone for Topic<T, C> {
    fn clone(&self) -> Self {
        Self {
            log: Arc::clone(&self.log),
            state: Arc::clone(&self.state),
            codec: Arc::clone(&self.codec),
            sticky: Arc::clone(&self.sticky),
            values: PhantomData,
        }
    }
}

impl<T, C> fmt::Debug for Topic<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.state.name).finish_non_exhaustive()
    }
}

impl<T, C> Topic<T, C> {
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.log.engine
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The settings as they are now.
    pub fn settings(&self) -> TopicSettings {
        self.state.settings()
    }

    /// How many partitions there are now.
    pub fn partitions(&self) -> u32 {
        self.state.snapshot().settings.partitions
    }
}

impl<T, C: Codec<T>> Topic<T, C> {
    pub(crate) fn new(log: Arc<Running>, state: Arc<TopicState>, codec: C) -> Self {
        // Where keyless records go first depends on what is there, or a short-lived process would always fill partition 0.
        let first = state.partitions().iter().map(|partition| partition.visible_end()).fold(0, u64::wrapping_add);
        Self { log, state, codec: Arc::new(codec), sticky: Arc::new(Sticky::new(first as u32)), values: PhantomData }
    }

    /// The same topic, with another way of spreading records without a key.
    pub(crate) fn with_sticky(self, sticky: Arc<Sticky>) -> Self {
        Self { sticky, ..self }
    }

    /// The partition that Kafka's default partitioner, and so this topic, picks for a key.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let topic = log.create_raw_topic("orders", TopicSettings::default().partitions(4)).await?;
    /// assert_eq!(topic.partition_for(b"foobar"), 2);
    /// # Ok(()) }
    /// ```
    pub fn partition_for(&self, key: &[u8]) -> u32 {
        crate::partitioner::partition_of_key(key, self.partitions())
    }

    /// What can be read of a partition, and what is on the disk.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) for a partition that does not exist.
    pub fn watermarks(&self, partition: u32) -> Result<PartitionDescription> {
        Ok(describe::describe_partition(&*self.state.partition(partition)?))
    }
}
