//! Process managers: what is under way over many events and takes several steps, each of which may have to be taken back.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, OwnedMutexGuard};

use super::Bus;
use super::context::Context;
use super::handler::{Answer, Event, Handler, HandlerError};
use super::subscribe::On;
use crate::codec::{Bincode, Codec, Json, Raw, TopicDef};
use crate::error::{Error, ErrorKind, Result};
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::log::settings::TopicSettings;
use crate::record::{Header, Headers, Message, Record};
use crate::replay::Start;
use crate::segment::lock;
use crate::task::unblock;
use crate::text::quoted;

/// What becomes of a process, as the log has it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Stored {
    /// The user's state, as JSON.
    state: Vec<u8>,
    /// What takes the steps back, in the order of the steps.
    compensations: Vec<Compensation>,
}

/// An event that takes a step back.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Compensation {
    topic: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// One process, locked by whoever takes its next step.
type Instance = Arc<tokio::sync::Mutex<Option<Stored>>>;

/// The processes of one kind that are under way in a log.
#[derive(Debug, Default)]
struct Processes {
    read: OnceCell<()>,
    instances: Mutex<HashMap<String, Instance>>,
}

/// The processes of a log, by the topic that has their states.
#[derive(Debug, Default)]
struct Kinds(Mutex<HashMap<String, Arc<Processes>>>);

impl Extension for Kinds {}

impl Processes {
    fn of(engine: &Engine, topic: &str) -> Result<Arc<Self>> {
        let kinds = engine.extensions.get_or_init(Kinds::default).ok_or_else(Error::closed)?;
        let mut kinds = lock(&kinds.0);
        Ok(Arc::clone(kinds.entry(topic.to_owned()).or_default()))
    }

    /// Reads what is under way from the log, the first time.
    async fn read(&self, bus: &Bus, topic: &TopicDef<Bytes, Raw>) -> Result<()> {
        let read = async || {
            let full = TopicDef::<Bytes, Raw>::named(bus.full_name(topic.name()));
            let topic = match bus.log().topic(full.clone()) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    bus.log().create_topic(full, TopicSettings::default().compaction(true)).await?
                }
                found => found?,
            };
            if !topic.settings().compaction {
                return Err(Error::invalid(format!(
                    "topic {} is to have the states of processes, and is not compacted: it would grow for ever",
                    quoted(topic.name())
                )));
            }
            let found = unblock(move || {
                let mut found = HashMap::new();
                let mut messages = topic.replay(Start::Earliest).blocking()?;
                while let Some(message) = messages.next_message()? {
                    let Some(name) = message.key().and_then(|key| std::str::from_utf8(key).ok()) else { continue };
                    match message.value() {
                        Some(value) => found.insert(name.to_owned(), Codec::<Stored>::decode(&Bincode, value)?),
                        None => found.remove(name),
                    };
                }
                Ok(found)
            })
            .await?;
            let instance = |(name, stored)| (name, Instance::new(tokio::sync::Mutex::new(Some(stored))));
            *lock(&self.instances) = found.into_iter().map(instance).collect();
            Ok(())
        };
        self.read.get_or_try_init(read).await.copied()
    }

    fn instance(&self, name: &str) -> Instance {
        let mut instances = lock(&self.instances);
        if let Some(known) = instances.get(name) {
            return Arc::clone(known);
        }
        let instance = Instance::default();
        instances.insert(name.to_owned(), Arc::clone(&instance));
        instance
    }

    /// Lets go of a process that has ended, unless somebody waits for it.
    fn forget(&self, name: &str) {
        let mut instances = lock(&self.instances);
        // The map's, and that of whoever has just taken its last step.
        if instances.get(name).is_some_and(|known| Arc::strong_count(known) <= 2) {
            instances.remove(name);
        }
    }
}

/// A kind of process: its name, and which process an event belongs to.
///
/// What is under way lives in the log, in the compacted topic of the kind's name and `.saga`. Each step is one transaction: the new
/// state, what the step has published, and the note that its event is done.
#[derive(Clone)]
pub struct Saga {
    name: String,
    instance: Arc<InstanceOf>,
}

/// Names the process that a message belongs to.
type InstanceOf = dyn Fn(&Message) -> Option<String> + Send + Sync;

impl fmt::Debug for Saga {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saga").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Saga {
    /// Processes of a name, which is that of their consumer group as well. An event belongs to the process of its correlation id.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), instance: Arc::new(|message| message.correlation_id().map(str::to_owned)) }
    }

    /// An event belongs to the process that a function names; to none, if it names none.
    #[must_use]
    pub fn by(self, instance: impl Fn(&Message) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { instance: Arc::new(instance), ..self }
    }

    /// An event belongs to the process of its key.
    #[must_use]
    pub fn by_key(self) -> Self {
        self.by(|message| std::str::from_utf8(message.key()?).ok().map(str::to_owned))
    }

    fn topic(&self) -> TopicDef<Bytes, Raw> {
        TopicDef::named(format!("{}.saga", self.name))
    }
}

/// A step of a process: its state, and what the step does. The handler gets it and answers with it.
#[derive(Debug)]
pub struct Step<S> {
    cx: Context,
    name: String,
    state: S,
    compensations: Vec<Compensation>,
    is_new: bool,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    Complete,
    Failed,
}

impl<S> Step<S> {
    /// What the process is called by.
    pub fn instance(&self) -> &str {
        &self.name
    }

    /// Whether this is its first step, or the first after it has ended.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Its state; the default of its type in the first step.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Its state, to be changed.
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// What the handler can do beside.
    pub fn context(&self) -> &Context {
        &self.cx
    }

    /// Publishes an event as part of the step, as [`Context::publish`].
    ///
    /// # Errors
    ///
    /// As [`Context::publish`].
    ///
    /// # Cancel safety
    ///
    /// As [`Context::publish`].
    pub async fn publish<T, C>(&self, topic: TopicDef<T, C>, record: impl Into<Record<T>>) -> Result<()>
    where
        C: Codec<T> + Default,
    {
        self.cx.publish(topic, record).await
    }

    /// What is to be published to take this step back, should the process [fail](Self::fail).
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) for a value that cannot be encoded.
    pub fn compensate_with<T, C>(&mut self, topic: &TopicDef<T, C>, record: impl Into<Record<T>>) -> Result<()>
    where
        C: Codec<T> + Default,
    {
        let record = record.into();
        let mut bytes = Vec::new();
        let value = match &record.value {
            Some(value) => topic.codec().encode(value, &mut bytes).map(|()| Some(bytes))?,
            None => None,
        };
        let record = if record.headers.contains(crate::event::EVENT_TYPE) {
            record
        } else {
            record.event_type(crate::event::type_name_of::<T>())
        };
        let record = record.set_header(crate::event::CONTENT_TYPE, C::CONTENT_TYPE);
        let header = |header: &Header| (header.name().to_owned(), header.value().map(|value| value.to_vec()));
        self.compensations.push(Compensation {
            topic: topic.name().to_owned(),
            key: record.key.as_ref().map(|key| key.to_vec()),
            value,
            headers: record.headers.iter().map(header).collect(),
        });
        Ok(())
    }

    /// The process has come to its end, and is forgotten.
    pub fn complete(&mut self) {
        self.end = End::Complete;
    }

    /// The process cannot go on: what takes its steps back is published, the last step's first, and it is forgotten.
    pub fn fail(&mut self) {
        self.end = End::Failed;
    }
}

impl Compensation {
    fn into_record(self) -> (TopicDef<Bytes, Raw>, Record) {
        let header = |(name, value): (String, Option<Vec<u8>>)| match value {
            Some(value) => Header::new(name, value),
            None => Header::absent(name),
        };
        let record = Record {
            value: self.value.map(Bytes::from),
            key: self.key.map(Bytes::from),
            headers: self.headers.into_iter().map(header).collect::<Headers>(),
            timestamp: None,
            partition: None,
        };
        (TopicDef::named(self.topic), record)
    }
}

/// The handler of a kind of process.
struct Steps<S, F> {
    saga: Saga,
    handler: F,
    state: std::marker::PhantomData<fn() -> S>,
}

impl<T, S, F, A, E> Handler<T, (A, E)> for Steps<S, F>
where
    T: Send + 'static,
    S: Serialize + DeserializeOwned + Default + Send + 'static,
    F: Fn(Event<T>, Step<S>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Step<S>, E>> + Send,
    E: Into<HandlerError>,
{
    async fn handle(&self, event: Event<T>, cx: Context) -> Answer {
        let Some(name) = (self.saga.instance)(&event) else { return Ok(()) };
        let (bus, topic) = (cx.bus().clone(), self.saga.topic());
        let processes = Processes::of(&bus.log().inner.engine, &bus.full_name(topic.name()))?;
        processes.read(&bus, &topic).await?;
        // Its other events wait here, from whichever partition they come, until this step is on the disk or has failed.
        let held: OwnedMutexGuard<_> = processes.instance(&name).lock_owned().await;
        let (state, compensations) = match &*held {
            Some(stored) => (Json.decode(&Bytes::copy_from_slice(&stored.state))?, stored.compensations.clone()),
            None => (S::default(), Vec::new()),
        };
        let is_new = held.is_none();
        let step = Step { cx: cx.clone(), name: name.clone(), state, compensations, is_new, end: End::No };
        let step = (self.handler)(event, step).await.map_err(Into::into)?;
        if step.name != name {
            return Err(HandlerError::permanent("the handler has answered with another process's step"));
        }
        if step.end == End::Failed {
            for compensation in step.compensations.into_iter().rev() {
                let (topic, record) = compensation.into_record();
                cx.publish(topic, record).await?;
            }
            cx.publish(topic, Record::tombstone().key(&name)).await?;
            keep(&cx, processes, name, held, None);
        } else if step.end == End::Complete {
            cx.publish(topic, Record::tombstone().key(&name)).await?;
            keep(&cx, processes, name, held, None);
        } else {
            let mut stored = Stored { state: Vec::new(), compensations: step.compensations };
            Json.encode(&step.state, &mut stored.state)?;
            let mut value = Vec::new();
            Codec::<Stored>::encode(&Bincode, &stored, &mut value)?;
            cx.publish(topic, Record::new(Bytes::from(value)).key(&name)).await?;
            keep(&cx, processes, name, held, Some(stored));
        }
        Ok(())
    }
}

/// The process is so once the step is on the disk, and locked until then.
fn keep(
    cx: &Context,
    processes: Arc<Processes>,
    name: String,
    mut held: OwnedMutexGuard<Option<Stored>>,
    stored: Option<Stored>,
) {
    cx.when_committed(move || {
        let over = stored.is_none();
        *held = stored;
        drop(held);
        if over {
            processes.forget(&name);
        }
    });
}

impl Bus {
    /// A subscription that drives processes: `handler` is called with each event that belongs to one, and with the process's state,
    /// and answers with the step that it has taken. Everything that it does in a step happens once, together with the new state,
    /// or not at all. It can be refined like any other.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Event, HandlerError, Json, Log, Record, Saga, Step, TopicDef};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum Order { Placed, PaymentFailed, Shipped }
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Fulfilment { reserved: bool }
    ///
    /// const ORDERS: TopicDef<Order, Json> = TopicDef::new("orders");
    /// const STOCK: TopicDef<String, Json> = TopicDef::new("stock");
    ///
    /// let bus = Log::in_memory()?.bus();
    /// let saga = bus
    ///     .saga(ORDERS, Saga::new("fulfilment").by_key(), |order: Event<Order>, mut step: Step<Fulfilment>| async move {
    ///         match order.value() {
    ///             Some(Order::Placed) => {
    ///                 step.publish(STOCK, "reserve".to_owned()).await?;
    ///                 step.compensate_with(&STOCK, "release".to_owned())?;
    ///                 step.state_mut().reserved = true;
    ///             }
    ///             Some(Order::PaymentFailed) => step.fail(),       // publishes "release"
    ///             Some(Order::Shipped) | None => step.complete(),
    ///         }
    ///         Ok::<_, HandlerError>(step)
    ///     })
    ///     .dead_letter("fulfilment.dlq")
    ///     .spawn()
    ///     .await?;
    ///
    /// bus.publish(ORDERS, Record::new(Order::Placed).key("order-17")).await?;
    /// bus.publish(ORDERS, Record::new(Order::PaymentFailed).key("order-17")).await?;
    /// saga.idle().await?;
    /// let stock = bus.history(STOCK, 10).await?;
    /// assert_eq!(stock.iter().filter_map(|event| event.value()).collect::<Vec<_>>(), ["reserve", "release"]);
    /// # Ok(()) }
    /// ```
    pub fn saga<T, C, S, F, A, E>(&self, topic: TopicDef<T, C>, saga: Saga, handler: F) -> On
    where
        T: Send + 'static,
        C: Codec<T> + Default,
        S: Serialize + DeserializeOwned + Default + Send + 'static,
        F: Fn(Event<T>, Step<S>) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Step<S>, E>> + Send + 'static,
        E: Into<HandlerError> + 'static,
    {
        let group = saga.name.clone();
        let on = self.on(topic, group, Steps { saga, handler, state: std::marker::PhantomData });
        on.or_wrong(self.needs_log("sagas: their states would be another in each process"))
    }

    /// How many processes of a kind are under way.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) and [`Corrupt`](ErrorKind::Corrupt) from reading them, [`Closed`](ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn saga_count(&self, saga: &Saga) -> Result<usize> {
        self.needs_log("sagas")?;
        let topic = saga.topic();
        let processes = Processes::of(&self.log().inner.engine, &self.full_name(topic.name()))?;
        processes.read(self, &topic).await?;
        let instances: Vec<_> = lock(&processes.instances).values().cloned().collect();
        Ok(instances.iter().filter(|instance| instance.try_lock().map_or(true, |stored| stored.is_some())).count())
    }
}
