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
}
