//! What a handler knows beside its event, and what it can do.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Bus;
use super::backend::Output;
use super::shared::Shared;
use crate::codec::{Codec, TopicDef};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Message, Record};
use crate::segment::lock;

tokio::task_local! {
    /// What is being handled.
    static CURRENT: Context;
}

/// What goes with one attempt of a handler. Clones are of the same attempt.
#[derive(Clone)]
pub struct Context {
    handling: Arc<Handling>,
    acknowledgement: Option<Arc<Acknowledgement>>,
}

/// Dropped without having been sent, it says that nobody can send it any more.
type Acknowledgement = Mutex<Option<oneshot::Sender<()>>>;

struct Handling {
    bus: Bus,
    shared: Arc<Shared>,
    message: Arc<Message>,
    attempt: u32,
    /// When it began, if somebody measures.
    began: Option<Duration>,
    outputs: Mutex<Outputs>,
    /// What is to be done once the attempt's outcome is on the disk.
    after: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

/// What the handler has published.
enum Outputs {
    None,
    Some(Box<Output>),
    /// The attempt has ended.
    Over,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("group", &self.group())
            .field("attempt", &self.handling.attempt)
            .field("topic", &self.handling.message.topic())
            .field("offset", &self.handling.message.offset())
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn new(bus: Bus, shared: Arc<Shared>, message: Arc<Message>, attempt: u32) -> Self {
        let began = shared.meter.attempt_begins(&bus.log().inner.engine.env, &message, attempt);
        let (outputs, after) = (Mutex::new(Outputs::None), Mutex::default());
        let handling = Handling { bus, shared, message, attempt, began, outputs, after };
        Self { handling: Arc::new(handling), acknowledgement: None }
    }

    /// The same, for a handler that is to acknowledge by hand: the answer comes once it has, or once nobody is left who could.
    pub(super) fn to_be_acknowledged(&self) -> (Self, oneshot::Receiver<()>) {
        let (sender, answer) = oneshot::channel();
        let acknowledgement = Some(Arc::new(Mutex::new(Some(sender))));
        (Self { handling: Arc::clone(&self.handling), acknowledgement }, answer)
    }

    /// The message that this task is handling, if it is.
    pub(super) fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Runs a future as part of this attempt.
    pub(super) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Runs a function as part of this attempt: what it [publishes](Bus::publish) inherits correlation and trace. For threads and
    /// tasks that a handler starts.
    pub fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), work)
    }

    /// Runs a future as part of this attempt, as [`enter`](Self::enter) does with a function.
    pub async fn within<F: Future>(&self, future: F) -> F::Output {
        self.clone().scope(future).await
    }

    /// Publishes an event together with the note that the one being handled is done: both are written, or neither. So what
    /// a handler publishes here is there exactly once, however often the handler is called. Nothing is written before the handler
    /// has answered with `Ok`; if it fails, the event is forgotten.
    ///
    /// # Errors
    ///
    /// As [`Bus::publish`], but for those of the disk; and [`Closed`](ErrorKind::Closed) once the attempt has ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the event is part of the attempt or not.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Context, Event, Json, Log, TopicDef};
    ///
    /// const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");
    /// const INVOICES: TopicDef<u64, Json> = TopicDef::new("invoices");
    ///
    /// let bus = Log::in_memory()?.bus();
    /// bus.on(ORDERS, "billing", |order: Event<u64>, cx: Context| async move {
    ///     cx.publish(INVOICES, order.value().copied().unwrap_or(0) * 2).await
    /// })
    /// .spawn()
    /// .await?;
    /// # Ok(()) }
    /// ```
    pub async fn publish<T, C>(&self, topic: TopicDef<T, C>, record: impl Into<Record<T>>) -> Result<()>
    where
        C: Codec<T> + Default,
    {
        let record = self.handling.bus.filled::<T, C>(record.into(), Some(self))?;
        let topic = self.handling.bus.target(&topic).await?;
        let mut outputs = lock(&self.handling.outputs);
        match &mut *outputs {
            Outputs::Over => {
                Err(Error::new(ErrorKind::Closed, "the handler has answered: nothing more can be part of its attempt"))
            }
            Outputs::Some(output) => output.add(&topic, record),
            Outputs::None => {
                let mut output = Output::new(&self.handling.bus);
                output.add(&topic, record)?;
                *outputs = Outputs::Some(Box::new(output));
                Ok(())
            }
        }
    }

    /// In a subscription that [acknowledges by hand](super::On::manual_acknowledgement), says that the event is done. It may be called
    /// after the handler has answered, from wherever a clone of the context has gone to. If all clones are dropped without it,
    /// the attempt has failed.
    pub fn acknowledge(&self) {
        let sender = self.acknowledgement.as_ref().and_then(|sender| lock(sender).take());
        if let Some(sender) = sender {
            // Nobody listens once the deadline has passed.
            let _late = sender.send(()).is_err();
        }
    }

    /// The number of the attempt, from 1 on. It counts on after a restart.
    pub fn attempt(&self) -> u32 {
        self.handling.attempt
    }

    /// The group of the subscription.
    pub fn group(&self) -> &str {
        &self.handling.shared.group
    }

    /// The bus, for what is not part of the attempt.
    pub fn bus(&self) -> &Bus {
        &self.handling.bus
    }

    /// Has something done once the attempt has succeeded and all of it is on the disk; dropped if that does not come about.
    pub(super) fn when_committed(&self, then: impl FnOnce() + Send + 'static) {
        lock(&self.handling.after).push(Box::new(then));
    }

    pub(super) fn committed(&self) {
        let after = std::mem::take(&mut *lock(&self.handling.after));
        after.into_iter().for_each(|then| then());
    }

    /// It comes to nothing.
    pub(super) fn failed(&self) {
        let after = std::mem::take(&mut *lock(&self.handling.after));
        drop(after);
    }

    pub(super) fn message(&self) -> &Message {
        &self.handling.message
    }

    /// The attempt has ended: what was published, to be committed.
    pub(super) fn take_outputs(&self) -> Option<Output> {
        let Handling { bus, shared, began, .. } = &*self.handling;
        shared.meter.attempt_ended(&bus.log().inner.engine.env, *began);
        match std::mem::replace(&mut *lock(&self.handling.outputs), Outputs::Over) {
            Outputs::Some(output) => Some(*output),
            Outputs::None | Outputs::Over => None,
        }
    }
}
