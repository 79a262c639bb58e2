//! Several types of events on one topic, each with a handler of its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::context::Context;
use super::handler::{Answer, Dispatch, Event, Handler, HandlerError, Reason, Typed};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::text::quoted;

/// A handler that looks at the type of an event and hands it to the handler of that type.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Context, Event, Json, Log, Raw, Router, TopicDef, UnknownType};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderPlaced { amount: u64 }
/// #[derive(Serialize, Deserialize)]
/// struct OrderCancelled { reason: String }
///
/// const ORDERS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("orders");
/// let router = Router::new(UnknownType::DeadLetter)
///     .on("order.placed", Json, |order: Event<OrderPlaced>, _: Context| async move { Ok::<_, annals::Error>(()) })
///     .on("order.cancelled", Json, |order: Event<OrderCancelled>, _: Context| Ok::<_, annals::Error>(()));
///
/// let bus = Log::in_memory()?.bus();
/// bus.on(ORDERS, "billing", router).dead_letter("orders.dlq").spawn().await?;
/// bus.publish(TopicDef::<_, Json>::new("orders"), OrderPlaced { amount: 17 }).await?;   // its type is `order.placed`
/// # Ok(()) }
/// ```
pub struct Router {
    routes: HashMap<Box<str>, Arc<dyn Dispatch>>,
    unknown: UnknownType,
    twice: Option<Box<str>>,
}

/// What a [`Router`] does with an event of a type that it has no handler for, or of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnknownType {
    /// It is somebody else's, and done.
    Skip,
    /// It should not be there: it is given up, which makes it a dead letter.
    DeadLetter,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut types: Vec<_> = self.routes.keys().collect();
        types.sort();
        f.debug_struct("Router").field("types", &types).field("unknown", &self.unknown).finish()
    }
}

impl Router {
    /// A router without handlers.
    pub fn new(unknown: UnknownType) -> Self {
        Self { routes: HashMap::new(), unknown, twice: None }
    }

    /// Hands events of a type to `handler`, with values that `codec` decodes. A type that has two handlers is an error of
    /// kind [`AlreadyExists`](ErrorKind::AlreadyExists) once the subscription is made.
    #[must_use]
    pub fn on<T, C, M>(mut self, event_type: impl Into<Box<str>>, codec: C, handler: impl Handler<T, M>) -> Self
    where
        T: Send + 'static,
        C: Codec<T>,
        M: 'static,
    {
        let event_type = event_type.into();
        let typed: Arc<dyn Dispatch> = Arc::new(Typed::<T, C, _, M>::new(codec, handler));
        if self.routes.insert(event_type.clone(), typed).is_some() {
            self.twice.get_or_insert(event_type);
        }
        self
    }

    fn find(&self, event: &Event<Bytes>) -> Result<Option<&Arc<dyn Dispatch>>, HandlerError> {
        let name = event.event_type();
        match name.and_then(|name| self.routes.get(name)) {
            Some(found) => Ok(Some(found)),
            None if self.unknown == UnknownType::Skip => Ok(None),
            None => {
                let sentence = match name {
                    Some(name) => format!("there is no handler for events of type {}", quoted(name)),
                    None => "the event has no type".to_owned(),
                };
                Err(HandlerError::new(Reason::UnknownType, true, sentence))
            }
        }
    }
}

impl Handler<Bytes> for Router {
    async fn handle(&self, event: Event<Bytes>, cx: Context) -> Answer {
        let Some(found) = self.find(&event)? else { return Ok(()) };
        let answer = found.dispatch(event.message(), cx);
        answer.await
    }

    fn validate(&self) -> Result<(), Error> {
        match &self.twice {
            Some(twice) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("the event type {} has two handlers in one router; one is allowed", quoted(twice)),
            )),
            None => Ok(()),
        }
    }
}
