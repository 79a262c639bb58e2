//! Looking at topics and changing them.

use std::sync::Arc;

use super::log::{Log, unblock};
use crate::error::Result;
use crate::topic::TopicDescription;
use crate::topic::describe::describe;

impl Log {
    /// All topics, by name.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed).
    pub fn topics(&self) -> Result<Vec<TopicDescription>> {
        self.inner.engine.check_open()?;
        Ok(self.inner.engine.topics().iter().map(|topic| describe(topic)).collect())
    }

    /// One topic.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Closed`](crate::ErrorKind::Closed).
    pub fn describe_topic(&self, name: &str) -> Result<TopicDescription> {
        Ok(describe(&*self.inner.engine.topic(name)?))
    }

    /// Adds partitions to a topic, so that it has `partitions`. The partition of a key depends on their number: records of a key
    /// that were written before stay where they are, and later ones may go elsewhere.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Invalid`](crate::ErrorKind::Invalid) unless it has fewer now,
    /// [`Closed`](crate::ErrorKind::Closed), [`Io`](crate::ErrorKind::Io), [`StorageFull`](crate::ErrorKind::StorageFull).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped they are added all the same.
    pub async fn add_partitions(&self, topic: &str, partitions: u32) -> Result<()> {
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        unblock(move || inner.engine.add_partitions(&topic, partitions).map(drop)).await
    }

    /// Deletes a topic with all its records. Sends that wait fail with [`NotFound`](crate::ErrorKind::NotFound), and so does
    /// whoever follows it, once everything is read.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Closed`](crate::ErrorKind::Closed), [`Io`](crate::ErrorKind::Io). If files
    /// remain they are removed at the next opening.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the topic is deleted all the same.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        unblock(move || inner.engine.delete_topic(&topic)).await
    }
}
