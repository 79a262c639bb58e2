//! Finding records: in a topic, and in the log.

use std::sync::Arc;

use bytes::Bytes;

use super::log::Log;
use crate::codec::{Codec, Raw};
use crate::find::{Find, Scope};
use crate::topic::Topic;

impl<T, C: Codec<T>> Topic<T, C> {
    /// Finds the records of this topic that have a header of this name with this value. The topic must
    /// [index](crate::TopicSettings#structfield.indexed_headers) the header. [`Find`] says more: what is found, in which order, at
    /// what cost, the errors, and the twin for threads.
    ///
    /// # Errors
    ///
    /// All of them are items, [`Invalid`](crate::ErrorKind::Invalid) for a header that is not indexed among them: see [`Find`].
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, TopicSettings};
    /// use futures_util::StreamExt;
    ///
    /// # let log = Log::in_memory()?;
    /// let settings = TopicSettings::default().indexed_headers(["event_type"]);
    /// let orders = log.create_raw_topic("orders", settings).await?;
    /// orders.produce(Record::new("17".into()).header("event_type", "paid")).await?;
    /// orders.produce(Record::new("18".into()).header("event_type", "cancelled")).await?;
    ///
    /// let mut cancelled = orders.find("event_type", "cancelled");
    /// while let Some(message) = cancelled.next().await {
    ///     println!("{:?}", message?.value());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn find(&self, header: &str, value: impl AsRef<[u8]>) -> Find<T, C> {
        let scope = Scope::Topic(Arc::clone(&self.state));
        Find::new(Arc::clone(&self.log), Arc::clone(&self.codec), scope, header, value.as_ref())
    }

    /// Finds the records of this topic that have this key, in whichever partition. The topic must
    /// [index its keys](crate::TopicSettings#structfield.index_keys); [`stream`](Self::stream) reads one key's partition also without.
    /// [`Find`] says more.
    ///
    /// # Errors
    ///
    /// All of them are items, [`Invalid`](crate::ErrorKind::Invalid) for a topic that does not index its keys among them: see
    /// [`Find`].
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let orders = log.create_raw_topic("orders", TopicSettings::default().index_keys(true)).await?;
    /// orders.produce(Record::new("paid".into()).key("order-17")).await?;
    /// orders.produce(Record::new("paid".into()).key("order-18")).await?;
    ///
    /// let mut found = orders.find_key("order-18").blocking()?;
    /// assert_eq!(found.next().unwrap()?.offset(), 1);
    /// assert!(found.next().is_none());
    /// # Ok(()) }
    /// ```
    pub fn find_key(&self, key: impl AsRef<[u8]>) -> Find<T, C> {
        let scope = Scope::Topic(Arc::clone(&self.state));
        Find::of_key(Arc::clone(&self.log), Arc::clone(&self.codec), scope, key.as_ref())
    }
}

impl Log {
    /// Finds the records that have a header of this name with this value, in all topics that
    /// [index](crate::TopicSettings#structfield.indexed_headers) the header. [`Find`] says more.
    ///
    /// # Errors
    ///
    /// All of them are items, [`Invalid`](crate::ErrorKind::Invalid) for a header that no topic indexes among them: see [`Find`].
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// let settings = TopicSettings::default().indexed_headers(["correlation_id"]);
    /// let orders = log.create_raw_topic("orders", settings).await?;
    /// orders.produce(Record::new("paid".into()).header("correlation_id", "17")).await?;
    ///
    /// let mut found = log.find("correlation_id", "17").blocking()?;
    /// assert_eq!(found.next().unwrap()?.topic(), "orders");
    /// assert!(found.next().is_none());
    /// # Ok(()) }
    /// ```
    pub fn find(&self, header: &str, value: impl AsRef<[u8]>) -> Find<Bytes, Raw> {
        Find::new(Arc::clone(&self.inner), Arc::new(Raw), Scope::Log, header, value.as_ref())
    }

    /// Finds the records that have this key, in all topics that [index their keys](crate::TopicSettings#structfield.index_keys):
    /// everything about one customer, say. [`Find`] says more.
    ///
    /// # Errors
    ///
    /// All of them are items, [`Invalid`](crate::ErrorKind::Invalid) if no topic indexes its keys among them: see [`Find`].
    ///
    /// # Example
    ///
    /// See [`Topic::find_key`].
    pub fn find_key(&self, key: impl AsRef<[u8]>) -> Find<Bytes, Raw> {
        Find::of_key(Arc::clone(&self.inner), Arc::new(Raw), Scope::Log, key.as_ref())
    }
}
