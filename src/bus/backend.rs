//! What is under a bus: a log, or Kafka. All that tells them apart is behind the types here; whatever is above them is the same code.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
#[cfg(feature = "kafka")]
use std::sync::Arc;
use std::task::{Context as Waking, Poll};

use bytes::Bytes;
use futures_core::Stream;

use super::Bus;
use super::driver::Gone;
#[cfg(feature = "kafka")]
use super::kafka::{self, Cluster};
use super::shared::Shared;
use crate::codec::{Codec, Raw, TopicDef};
use crate::consumer::{Consumer, Item};
use crate::error::{Error, Result};
use crate::group::progress::Tries;
#[cfg(feature = "kafka")]
use crate::log::names::validate_user_topic_name;
use crate::log::settings::TopicSettings;
use crate::producer::{Batch, Receipt};
use crate::record::{Message, Record};
use crate::topic::Topic;
use crate::transaction::Transaction;

/// Where a bus has its events.
pub(super) enum Store {
    Log,
    #[cfg(feature = "kafka")]
    Kafka(Arc<Cluster>),
}

/// A topic that is there.
pub(super) enum Target<T, C> {
    Log(Topic<T, C>),
    #[cfg(feature = "kafka")]
    Kafka(Arc<kafka::TopicInfo>, C),
}

/// A topic of dead letters.
pub(super) type LetterTopic = Target<Bytes, Raw>;

impl<T, C> Target<T, C> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Log(topic) => topic.name(),
            #[cfg(feature = "kafka")]
            Self::Kafka(topic, _) => &topic.name,
        }
    }
}

impl<T, C> fmt::Debug for Target<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.name()).finish()
    }
}

impl Bus {
    /// Refuses what only a bus on a log can do.
    #[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "there is nothing but logs then"))]
    pub(super) fn needs_log(&self, what: &str) -> Result<()> {
        match &self.inner.store {
            Store::Log => Ok(()),
            #[cfg(feature = "kafka")]
            Store::Kafka(_) => Err(kafka::unsupported(what)),
        }
    }

    /// Puts everything that was published so far where it is safe.
    pub(super) async fn sync(&self) -> Result<()> {
        match &self.inner.store {
            Store::Log => self.log().sync().await,
            #[cfg(feature = "kafka")]
            Store::Kafka(cluster) => cluster.flush().await,
        }
    }

    /// Whether Kafka keeps only the last record of each key of a topic.
    #[cfg(feature = "kafka")]
    pub(super) async fn is_compacted(&self, topic: &str) -> Result<bool> {
        match &self.inner.store {
            Store::Log => Ok(false),
            Store::Kafka(cluster) => cluster.is_compacted(topic).await,
        }
    }

    /// The topic, made if there is none and the bus is allowed to.
    pub(super) async fn target<T, C: Codec<T> + Default>(&self, topic: &TopicDef<T, C>) -> Result<Target<T, C>> {
        self.target_with(topic, TopicSettings::clone).await
    }

    /// The same; what nobody has set for the topic is the defaults, changed.
    pub(super) async fn target_with<T, C: Codec<T> + Default>(
        &self,
        topic: &TopicDef<T, C>,
        change: impl FnOnce(&TopicSettings) -> TopicSettings,
    ) -> Result<Target<T, C>> {
        match &self.inner.store {
            Store::Log => self.topic_or_create_with(topic, change).await.map(Target::Log),
            #[cfg(feature = "kafka")]
            Store::Kafka(cluster) => {
                let full = self.full_name(topic.name());
                let info = match cluster.known(&full) {
                    Some(known) => known,
                    None => {
                        validate_user_topic_name(&full)?;
                        let may = self.inner.settings.create_topics;
                        let settings = may.then(|| self.settings_of(topic.name(), change));
                        cluster.topic_or_create(&full, settings).await?
                    }
                };
                Ok(Target::Kafka(info, topic.codec()))
            }
        }
    }
}

impl<T, C: Codec<T>> Target<T, C> {
    pub(super) async fn publish(&self, bus: &Bus, record: Record<T>) -> Result<Receipt> {
        match self {
            Self::Log(topic) => bus.produce(topic, record).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(topic, codec) => kafka::publish(bus, topic, kafka::encoded(record, codec)?).await,
        }
    }

    /// Publishes events as one.
    pub(super) async fn publish_all(&self, bus: &Bus, records: Vec<Record<T>>) -> Result<Vec<Receipt>> {
        match self {
            Self::Log(topic) => {
                let mut batch = Batch::new();
                for record in records {
                    batch.add(topic, record)?;
                }
                bus.log().produce_all(batch).await
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(topic, codec) => {
                let outgoing = |record| kafka::Outgoing::new(topic, kafka::encoded(record, codec)?);
                let records: Result<Vec<_>> = records.into_iter().map(outgoing).collect();
                match &bus.inner.store {
                    Store::Kafka(cluster) => cluster.publish_all(records?).await,
                    Store::Log => Err(of_another_bus()),
                }
            }
        }
    }
}

#[cfg(feature = "kafka")]
fn of_another_bus() -> Error {
    Error::invalid("the topic, or what was published, belongs to another bus")
}

/// What a handler has published, and is to be written together with the note that its event is done.
pub(super) enum Output {
    Log(Transaction),
    #[cfg(feature = "kafka")]
    Kafka(Vec<kafka::Outgoing>),
}

impl Output {
    pub(super) fn new(bus: &Bus) -> Self {
        match &bus.inner.store {
            Store::Log => Self::Log(bus.log().transaction()),
            #[cfg(feature = "kafka")]
            Store::Kafka(_) => Self::Kafka(Vec::new()),
        }
    }

    pub(super) fn add<T, C: Codec<T>>(&mut self, topic: &Target<T, C>, record: Record<T>) -> Result<()> {
        match (self, topic) {
            (Self::Log(transaction), Target::Log(topic)) => transaction.produce(topic, record),
            #[cfg(feature = "kafka")]
            (Self::Kafka(records), Target::Kafka(topic, codec)) => {
                records.push(kafka::Outgoing::new(topic, kafka::encoded(record, codec)?)?);
                Ok(())
            }
            #[cfg(feature = "kafka")]
            _ => Err(of_another_bus()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Log(transaction) => transaction.len(),
            #[cfg(feature = "kafka")]
            Self::Kafka(records) => records.len(),
        }
    }
}

/// A commit under way.
pub(super) type Commit = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Where a subscription has its events from, and says that they are done.
#[cfg_attr(
    feature = "kafka",
    expect(clippy::large_enum_variant, reason = "there is one for a subscription, and a log's is to be at hand")
)]
pub(super) enum Feed {
    Log(Consumer),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Feed),
}

impl Feed {
    pub(super) fn group(&self) -> &str {
        match self {
            Self::Log(consumer) => consumer.group(),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.group(),
        }
    }

    /// The next event. Nothing more comes after `None`.
    pub(super) fn poll_next(&mut self, waking: &mut Waking<'_>) -> Poll<Option<Result<Item>>> {
        match self {
            Self::Log(consumer) => Pin::new(consumer).poll_next(waking),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.poll_next(waking),
        }
    }

    /// Whether a partition is to go: time to finish what is under way.
    pub(super) fn is_asked(&self) -> bool {
        match self {
            Self::Log(consumer) => consumer.is_asked(),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.is_asked(),
        }
    }

    /// Lets partitions come and go, and takes nothing.
    pub(super) fn poll_rebalance(&mut self, waking: &mut Waking<'_>) {
        match self {
            Self::Log(consumer) => consumer.poll_rebalance(waking),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.poll_rebalance(waking),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Log(consumer) => consumer.is_closed(),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.is_closed(),
        }
    }

    /// Whether everything was delivered that there was when the question with this number was asked.
    #[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "a log knows at once"))]
    pub(super) fn is_at_end(&self, asked: u64, shared: &Shared) -> bool {
        match self {
            Self::Log(consumer) => consumer.is_at_end(),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => !shared.was_idle(asked) && feed.is_at_end(asked),
        }
    }

    /// Whether nothing can go on after this error.
    #[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "a log goes on"))]
    pub(super) fn is_fatal(&self, error: &Error) -> bool {
        match self {
            Self::Log(_) => false,
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.is_fatal(error),
        }
    }

    pub(super) fn tries(&self, message: &Message) -> Result<Tries> {
        match self {
            Self::Log(consumer) => consumer.tries(message),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.tries(message),
        }
    }

    pub(super) fn note_failure(&self, message: &Message) -> Result<Tries> {
        match self {
            Self::Log(consumer) => consumer.note_failure(message),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.note_failure(message),
        }
    }

    /// Says that an event is done; it is committed in the background.
    pub(super) fn finish_async(&self, message: &Message) -> Result<()> {
        match self {
            Self::Log(consumer) => consumer.finish_async(message),
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.finish(message),
        }
    }

    /// Commits records together with the note that an event is done.
    pub(super) fn commit(&self, records: Output, message: &Message) -> Result<Commit> {
        match (self, records) {
            (Self::Log(consumer), Output::Log(mut transaction)) => {
                transaction.finish(consumer, message)?;
                Ok(Box::pin(async { transaction.commit().await.map(drop) }))
            }
            #[cfg(feature = "kafka")]
            (Self::Kafka(feed), Output::Kafka(records)) => feed.commit(records, message),
            #[cfg(feature = "kafka")]
            _ => Err(of_another_bus()),
        }
    }

    /// The partitions that are gone; a consumer of a log says so by its listener.
    #[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "there is nothing but logs then"))]
    pub(super) fn take_gone(&self, gone: &Gone) {
        match self {
            Self::Log(_) => {}
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.take_gone(gone),
        }
    }

    pub(super) async fn close(self) -> Result<()> {
        match self {
            Self::Log(consumer) => consumer.close().await,
            #[cfg(feature = "kafka")]
            Self::Kafka(feed) => feed.close().await,
        }
    }
}
