//! Finding on a thread.

use std::sync::Arc;

use super::search::{Query, Search};
use crate::codec::Codec;
use crate::error::Result;
use crate::record::Message;
use crate::replay::decode;

/// Finds records on a thread: an iterator of messages.
///
/// Made by [`Find::blocking`](super::Find::blocking). A value that cannot be decoded is an item of kind
/// [`Codec`](crate::ErrorKind::Codec), and the iterator goes on behind it; any other error is the last item, and is one of those of
/// [`Find`](super::Find).
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
/// for message in orders.find("correlation_id", "17").blocking()? {
///     println!("{:?}", message?.value());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct BlockingFind<T, C> {
    /// `None` once it is over.
    search: Option<Search>,
    codec: Arc<C>,
    values: std::marker::PhantomData<fn() -> T>,
}

impl<T, C: Codec<T>> BlockingFind<T, C> {
    pub(super) fn begin(query: Query, codec: Arc<C>) -> Result<Self> {
        Ok(Self { search: Some(query.begin()?), codec, values: std::marker::PhantomData })
    }
}

impl<T, C: Codec<T>> Iterator for BlockingFind<T, C> {
    type Item = Result<Message<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.search.as_mut()?.next();
        if !matches!(found, Ok(Some(_))) {
            self.search = None;
        }
        found.transpose().map(|found| found.and_then(|message| decode(&*self.codec, message)))
    }
}

impl<T, C: Codec<T>> std::iter::FusedIterator for BlockingFind<T, C> {}
