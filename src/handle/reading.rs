//! Where reading begins: on a topic, and on the log.

use std::sync::Arc;

use bytes::Bytes;

use super::log::Log;
use crate::codec::{Codec, Raw};
use crate::consumer::Subscribe;
use crate::error::Result;
use crate::replay::{Replay, Scope, Start};
use crate::topic::Topic;

impl<T, C: Codec<T>> Topic<T, C> {
    /// Reads all partitions, in causal order.
    pub fn replay(&self, start: Start) -> Replay<T, C> {
        let scope = Scope::Topics(vec![Arc::clone(&self.state)]);
        Replay::new(Arc::clone(&self.log), Arc::clone(&self.codec), scope, start)
    }

    /// Reads one partition.
    ///
    /// # Errors
    ///
    /// A partition that does not exist is an error of kind [`NotFound`](crate::ErrorKind::NotFound), and the first item.
    pub fn replay_partition(&self, partition: u32, start: Start) -> Replay<T, C> {
        let scope = Scope::Partition(Arc::clone(&self.state), partition);
        Replay::new(Arc::clone(&self.log), Arc::clone(&self.codec), scope, start)
    }
}

impl<T, C: Codec<T>> Topic<T, C> {
    /// A new member of the consumer group `group`, which reads this topic.
    ///
    /// # Example
    ///
    /// See [`Consumer`](crate::Consumer).
    pub fn subscribe(&self, group: impl Into<String>) -> Subscribe<T, C> {
        Subscribe::new(Arc::clone(&self.log), Arc::clone(&self.codec), group.into(), vec![self.state.name.to_string()])
    }
}

impl Log {
    /// A new member of the consumer group `group`, which reads several topics: names, and patterns in which `*` stands for any
    /// text. Topics that are created later and match a pattern join by themselves.
    ///
    /// # Example
    ///
    /// See [`Subscribe`].
    pub fn subscribe<'a>(
        &self,
        group: impl Into<String>,
        topics: impl IntoIterator<Item = &'a str>,
    ) -> Subscribe<Bytes, Raw> {
        let topics = topics.into_iter().map(str::to_owned).collect();
        Subscribe::new(Arc::clone(&self.inner), Arc::new(Raw), group.into(), topics)
    }

    /// Reads everything, in causal order; following, also topics that are created later.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, Start, TopicSettings};
    /// let log = Log::in_memory()?;
    /// let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// let invoices = log.create_raw_topic("invoices", TopicSettings::default()).await?;
    /// orders.produce(Record::new("paid".into())).await?;
    /// invoices.produce(Record::new("17 EUR".into())).await?;
    ///
    /// let mut history = log.replay(Start::Earliest).blocking()?;
    /// assert_eq!(history.next()?.unwrap().topic(), "orders");
    /// assert_eq!(history.next()?.unwrap().topic(), "invoices");
    /// # Ok(()) }
    /// ```
    pub fn replay(&self, start: Start) -> Replay<Bytes, Raw> {
        Replay::new(Arc::clone(&self.inner), Arc::new(Raw), Scope::Log, start)
    }

    /// Reads several topics, in causal order.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Closed`](crate::ErrorKind::Closed).
    pub fn replay_topics<'a>(
        &self,
        topics: impl IntoIterator<Item = &'a str>,
        start: Start,
    ) -> Result<Replay<Bytes, Raw>> {
        let mut found = Vec::new();
        for name in topics {
            let topic = self.inner.engine.topic(name)?;
            // One that is named twice is read once.
            if !found.iter().any(|known| Arc::ptr_eq(known, &topic)) {
                found.push(topic);
            }
        }
        Ok(Replay::new(Arc::clone(&self.inner), Arc::new(Raw), Scope::Topics(found), start))
    }
}
