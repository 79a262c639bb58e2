//! The event bus: events are published, handlers are called with them, and a policy says what becomes of those that fail.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::sync::{Mutex, PoisonError};

use crate::codec::{Codec, TopicDef};
use crate::error::{ErrorKind, Result};
use crate::handle::Log;
use crate::log::settings::TopicSettings;
use crate::partitioner::Sticky;
use crate::segment::lock;
use crate::topic::Topic;

mod backend;
mod breaker;
mod config;
mod context;
mod dead_letters;
mod delayed;
mod driver;
mod filter;
mod handler;
mod ids;
#[cfg(feature = "kafka")]
mod kafka;
mod meter;
#[cfg(feature = "metrics")]
mod metrics;
mod policy;
mod publish;
mod retry;
mod router;
mod saga;
mod settings;
mod shared;
mod stats;
mod steer;
mod subscribe;
mod subscription;
mod timers;

pub use breaker::{BreakerState, CircuitBreaker};
pub use config::{Backend, Config};
pub use context::Context;
pub use dead_letters::{DeadLetter, DeadLetters};
pub use delayed::Delayed;
pub use filter::Filter;
pub use handler::{Blocking, Event, Handler, HandlerError, Reason, blocking};
pub use retry::Retry;
pub use router::{Router, UnknownType};
pub use saga::{Saga, Step};
pub use settings::BusSettings;
pub use stats::{BusStats, SubscriptionStats};
pub use steer::{Health, SubscriptionHealth};
pub use subscribe::On;
pub use subscription::Subscription;

use backend::Store;
use ids::Ids;
use shared::Shared;
use stats::BusCounters;

/// An event bus on a log: typed events with [standard headers](crate::event), and handlers with filters, concurrency in the order of
/// the keys, retries, dead letters and circuit breakers. On a log in memory it is an in-process bus, on a directory a durable one; the
/// code is the same.
///
/// Clones are the same bus. [`Bus::publish`] and [`Bus::on`] have examples.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    store: Store,
    settings: BusSettings,
    ids: Ids,
    stats: BusCounters,
    /// Where the events without a key go, by the identity of the topic.
    sticky: RwLock<HashMap<u128, Arc<Sticky>>>,
    subscriptions: Mutex<Subscriptions>,
    #[cfg(feature = "metrics")]
    exporter: metrics::Exporter,
}

#[derive(Default)]
struct Subscriptions {
    there: Vec<Arc<Shared>>,
    /// The sums of those that have ended.
    ended: SubscriptionStats,
    closed: bool,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("log", &self.inner.log)
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// An event bus on this log, with default settings.
    pub fn bus(&self) -> Bus {
        Bus::new(self.clone(), BusSettings::default())
    }

    /// An event bus on this log.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for settings outside of what is allowed.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{BusSettings, Json, Log, TopicDef};
    ///
    /// let bus = Log::in_memory()?.bus_with(BusSettings::default().source("billing").environment("dev"))?;
    /// let receipt = bus.publish(TopicDef::<_, Json>::new("orders"), 17).await?;
    /// assert_eq!(bus.log().topics()?[0].name, "dev.orders");
    /// # Ok(()) }
    /// ```
    pub fn bus_with(&self, settings: BusSettings) -> Result<Bus> {
        settings.validate()?;
        Ok(Bus::new(self.clone(), settings))
    }
}

impl Bus {
    fn new(log: Log, settings: BusSettings) -> Self {
        Self::with_store(log, settings, Store::Log)
    }

    fn with_store(log: Log, settings: BusSettings, store: Store) -> Self {
        let ids = Ids::new(&log.inner.engine.env);
        let inner = Inner {
            log,
            store,
            settings,
            ids,
            stats: BusCounters::default(),
            sticky: RwLock::default(),
            subscriptions: Mutex::default(),
            #[cfg(feature = "metrics")]
            exporter: metrics::Exporter::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The log that it is on. Under a bus on Kafka it is an empty one in memory, which takes no topics.
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// Its settings.
    pub fn settings(&self) -> &BusSettings {
        &self.inner.settings
    }

    /// The name of a topic or group in the log.
    fn full_name<'a>(&self, name: &'a str) -> Cow<'a, str> {
        match &self.inner.settings.environment {
            Some(environment) => format!("{environment}.{name}").into(),
            None => name.into(),
        }
    }

    /// The topic, with this bus's way of spreading events without a key.
    fn topic<T, C: Codec<T> + Default>(&self, topic: &TopicDef<T, C>) -> Result<Topic<T, C>> {
        let full = TopicDef::<T, C>::named(self.full_name(topic.name()));
        let topic = self.log().topic(full)?;
        let id = topic.state.id;
        let known = self.inner.sticky.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        let sticky = match known {
            Some(sticky) => sticky,
            None => {
                let mut all = self.inner.sticky.write().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(all.entry(id).or_insert_with(|| Arc::clone(&topic.sticky)))
            }
        };
        Ok(topic.with_sticky(sticky))
    }

    /// The topic, made if there is none and the bus is allowed to; what nobody has set for the topic is the defaults, changed.
    async fn topic_or_create_with<T, C: Codec<T> + Default>(
        &self,
        topic: &TopicDef<T, C>,
        change: impl FnOnce(&TopicSettings) -> TopicSettings,
    ) -> Result<Topic<T, C>> {
        self.start_delayed().await?;
        match self.topic(topic) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.inner.settings.create_topics => {
                let full = TopicDef::<T, C>::named(self.full_name(topic.name()));
                let settings = self.settings_of(topic.name(), change);
                match self.log().create_topic(full, settings).await {
                    // Somebody else was faster, with other settings.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => self.topic(topic),
                    Err(error) => Err(error),
                    Ok(_) => self.topic(topic),
                }
            }
            found => found,
        }
    }

    /// What a topic is made with.
    fn settings_of(&self, topic: &str, change: impl FnOnce(&TopicSettings) -> TopicSettings) -> TopicSettings {
        let settings = &self.inner.settings;
        settings.topics.get(topic).cloned().unwrap_or_else(|| change(&settings.topic_defaults))
    }

    /// Makes a topic, in the bus's environment. One that exists with the same settings is left as it is; on Kafka, whatever its settings.
    ///
    /// # Errors
    ///
    /// As [`Log::create_topic`]; on Kafka [`Unsupported`](ErrorKind::Unsupported) for settings that it does not have, and
    /// [`Unavailable`](ErrorKind::Unavailable) and [`Denied`](ErrorKind::Denied) from its brokers.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the topic may be made or not.
    pub async fn create_topic<T, C: Codec<T> + Default>(
        &self,
        topic: TopicDef<T, C>,
        settings: TopicSettings,
    ) -> Result<()> {
        let full = self.full_name(topic.name()).into_owned();
        match &self.inner.store {
            Store::Log => self.log().create_topic(TopicDef::<T, C>::named(full), settings).await.map(drop),
            #[cfg(feature = "kafka")]
            Store::Kafka(cluster) => {
                crate::log::names::validate_user_topic_name(&full)?;
                cluster.make(&full, settings).await
            }
        }
    }

    fn register(&self, shared: &Arc<Shared>) -> Result<()> {
        let mut subscriptions = lock(&self.inner.subscriptions);
        if subscriptions.closed {
            return Err(crate::error::Error::new(ErrorKind::Closed, "the bus has been shut down"));
        }
        let Subscriptions { there, ended, .. } = &mut *subscriptions;
        there.retain(|known| {
            let over = known.has_ended();
            if over {
                ended.add(&known.counters.read());
            }
            !over
        });
        there.push(Arc::clone(shared));
        #[cfg(feature = "metrics")]
        {
            drop(subscriptions);
            self.inner.exporter.registered(shared);
        }
        Ok(())
    }
}
