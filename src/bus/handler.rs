//! What is called with an event: functions, async ones and plain ones, and types.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use super::context::Context;
use crate::codec::Codec;
use crate::error::Error;
use crate::record::Message;

/// Why a handler could not do its work. Any error becomes one by `?`, and so does a sentence.
///
/// ```
/// use annals::HandlerError;
///
/// fn parse(text: &str) -> Result<u64, HandlerError> {
///     let number: u64 = text.parse()?;
///     if number == 0 {
///         return Err(HandlerError::permanent("0 will never do"));   // not tried again
///     }
///     Ok(number)
/// }
/// assert!(!parse("x").unwrap_err().is_permanent());
/// assert!(parse("0").unwrap_err().is_permanent());
/// ```
#[derive(Debug)]
pub struct HandlerError {
    source: Box<dyn std::error::Error + Send + Sync>,
    permanent: bool,
    reason: Reason,
}

/// What kind of failure it was, as dead letters say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handler has answered with an error.
    Failed,
    /// The handler has panicked.
    Panicked,
    /// The handler has taken longer than its deadline.
    TimedOut,
    /// The value could not be decoded.
    Undecodable,
    /// Nobody has a handler for events of this type.
    UnknownType,
    /// An event of the same key is a dead letter already.
    Parked,
}

impl Reason {
    /// The word in the header of a dead letter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed-out",
            Self::Undecodable => "undecodable",
            Self::UnknownType => "unknown-type",
            Self::Parked => "parked",
        }
    }

    pub(super) fn from_word(word: &str) -> Self {
        let all = [Self::Panicked, Self::TimedOut, Self::Undecodable, Self::UnknownType, Self::Parked];
        all.into_iter().find(|reason| reason.as_str() == word).unwrap_or(Self::Failed)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl HandlerError {
    pub(super) fn new(
        reason: Reason,
        permanent: bool,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { source: source.into(), permanent, reason }
    }

    /// An error that will be the same the next time: the event is given up at once.
    pub fn permanent(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Reason::Failed, true, source)
    }

    /// Whether another attempt is of no use.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// What kind of failure it was.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The error itself.
    pub fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.source
    }

    /// What it says, and what its sources say, each once.
    pub(super) fn chain(&self) -> Vec<String> {
        let mut chain = vec![self.source.to_string()];
        let mut next = self.source.source();
        while let Some(source) = next.filter(|_| chain.len() < CHAIN_MAX) {
            chain.push(source.to_string());
            next = source.source();
        }
        chain
    }
}

/// So many errors of a chain of sources are told.
const CHAIN_MAX: usize = 16;

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

// Not an error itself, or every error could not become one.
impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for HandlerError {
    fn from(source: E) -> Self {
        Self::new(Reason::Failed, false, source)
    }
}

/// What a handler is called with: the value, and the message that it came in.
#[derive(Debug, Clone)]
pub struct Event<T> {
    message: Arc<Message>,
    value: Option<T>,
}

impl<T> Event<T> {
    pub(super) fn new(message: Arc<Message>, value: Option<T>) -> Self {
        Self { message, value }
    }

    /// The value; `None` for a tombstone.
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The value by itself; `None` for a tombstone.
    pub fn into_value(self) -> Option<T> {
        self.value
    }

    /// The message as it is in the log: its place, key, headers and bytes.
    pub fn message(&self) -> &Arc<Message> {
        &self.message
    }
}

impl<T> Deref for Event<T> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// What is called with the events of a subscription.
///
/// Functions are handlers: async ones, `|event: Event<Order>, cx: Context| async move { .. }`, and plain ones,
/// `|event: Event<Order>, cx: Context| { .. }`; both answer with a `Result<(), E>` of any error. Types implement `handle`.
/// A handler that waits for something without being async goes into [`blocking`].
///
/// An event may come more than once: after a crash, a rebalance or a failure. What a handler [publishes](Context::publish) through its
/// context is written exactly once, together with the note that the event is done.
///
/// ```
/// use annals::{Context, Event, Handler, HandlerError};
///
/// struct Billing {
///     rate: u64,
/// }
///
/// impl Handler<u64> for Billing {
///     async fn handle(&self, order: Event<u64>, _: Context) -> Result<(), HandlerError> {
///         let amount = order.value().ok_or("a tombstone")? * self.rate;
///         println!("{amount}");
///         Ok(())
///     }
/// }
/// ```
///
/// `M` tells functions of the one kind from those of the other, and is nobody's business.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler of events of `{T}`",
    note = "a handler is a function of `(Event<{T}>, Context)` that answers with `Result<(), E>` or with a future of it (`Send`, and of \
            no borrowed things), or a type that implements `Handler<{T}>`"
)]
pub trait Handler<T, M = ()>: Send + Sync + 'static {
    /// Works on an event. `Ok` says that it is done; an error that it may be tried again.
    fn handle(&self, event: Event<T>, cx: Context) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Looks whether the handler is whole, before the first event.
    ///
    /// # Errors
    ///
    /// What is wrong with it; the subscription is not made then.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Of functions that answer with a future.
#[derive(Debug)]
pub struct Asynchronous;

/// Of functions that answer at once.
#[derive(Debug)]
pub struct Plain;

impl<T, F, A, E> Handler<T, Asynchronous> for F
where
    T: Send,
    F: Fn(Event<T>, Context) -> A + Send + Sync + 'static,
    A: Future<Output = Result<(), E>> + Send,
    E: Into<HandlerError>,
{
    fn handle(&self, event: Event<T>, cx: Context) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let answer = self(event, cx);
        async move { answer.await.map_err(Into::into) }
    }
}

impl<T, F, E> Handler<T, Plain> for F
where
    T: Send,
    F: Fn(Event<T>, Context) -> Result<(), E> + Send + Sync + 'static,
    E: Into<HandlerError>,
{
    fn handle(&self, event: Event<T>, cx: Context) -> impl Future<Output = Result<(), HandlerError>> + Send {
        std::future::ready(self(event, cx).map_err(Into::into))
    }
}

/// A plain function that waits for something, a file or a lock or a computation: it is called on tokio's threads for blocking work,
/// where it holds up nobody. If its deadline passes it cannot be stopped, and ends by itself.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Context, Event, Json, Log, TopicDef, blocking};
///
/// const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");
/// let bus = Log::in_memory()?.bus();
/// let subscription = bus
///     .on(ORDERS, "archive", blocking(|order: Event<u64>, _: Context| std::fs::metadata("/").map(drop)))
///     .spawn()
///     .await?;
/// # Ok(()) }
/// ```
pub fn blocking<T, F, E>(function: F) -> Blocking<F>
where
    F: Fn(Event<T>, Context) -> Result<(), E> + Send + Sync + 'static,
    E: Into<HandlerError>,
{
    Blocking(Arc::new(function))
}

/// A handler made by [`blocking`].
#[derive(Debug)]
pub struct Blocking<F>(Arc<F>);

impl<T, F, E> Handler<T, PhantomData<E>> for Blocking<F>
where
    T: Send + 'static,
    F: Fn(Event<T>, Context) -> Result<(), E> + Send + Sync + 'static,
    E: Into<HandlerError>,
{
    async fn handle(&self, event: Event<T>, cx: Context) -> Result<(), HandlerError> {
        let function = Arc::clone(&self.0);
        let current = cx.clone();
        let answer = tokio::task::spawn_blocking(move || current.enter(|| function(event, cx).map_err(Into::into)));
        match answer.await {
            Ok(answer) => answer,
            Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            Err(_) => Err(Error::closed().into()),
        }
    }
}

/// What becomes of an attempt.
pub(super) type Answer = Result<(), HandlerError>;

/// An attempt under way.
pub(super) type Attempt = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A handler, whatever its events are.
pub(super) trait Dispatch: Send + Sync {
    /// Begins to work on a message.
    fn dispatch(&self, message: &Arc<Message>, cx: Context) -> Attempt;
}

/// A handler with what decodes its events.
pub(super) struct Typed<T, C, H, M> {
    pub(super) codec: C,
    pub(super) handler: Arc<H>,
    types: PhantomData<fn() -> (T, M)>,
}

impl<T, C, H, M> Typed<T, C, H, M> {
    pub(super) fn new(codec: C, handler: H) -> Self {
        Self { codec, handler: Arc::new(handler), types: PhantomData }
    }
}

impl<T, C, H, M> Dispatch for Typed<T, C, H, M>
where
    T: Send + 'static,
    C: Codec<T>,
    H: Handler<T, M>,
    M: 'static,
{
    fn dispatch(&self, message: &Arc<Message>, cx: Context) -> Attempt {
        let value = match message.value().map(|value| self.codec.decode(value)).transpose() {
            Ok(value) => value,
            Err(error) => {
                let error = HandlerError::new(Reason::Undecodable, true, error);
                return Box::pin(std::future::ready(Err(error)));
            }
        };
        let (handler, event) = (Arc::clone(&self.handler), Event::new(Arc::clone(message), value));
        Box::pin(async move { handler.handle(event, cx).await })
    }
}
