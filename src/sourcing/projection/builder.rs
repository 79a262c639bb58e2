//! What a projection is to be.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::handle::Projection;
use super::opening;
use super::shared::Progress;
use super::state::ProjectionState;
use crate::codec::{Codec, Raw, TopicDef};
use crate::error::Result;
use crate::log::running::Running;
use crate::record::Message;
use crate::replay::{RecordView, decode};
use crate::task::unblock;

/// The header that says of what type an event is.
const EVENT_TYPE: &str = "event_type";

/// Why a function of a projection could not take an event in: any error, also one of annals.
pub type ApplyError = Box<dyn std::error::Error + Send + Sync>;

/// What makes a record's share of the state.
type Apply = Box<dyn FnMut(&mut ProjectionState, Message) -> Result<(), ApplyError> + Send>;
pub(super) type OnProgress = Box<dyn FnMut(Progress) + Send>;

/// A function, and which records it is given.
pub(super) struct Handler {
    pub(super) topic: String,
    event_type: Option<String>,
    pub(super) apply: Apply,
}

impl Handler {
    pub(super) fn wants(&self, record: &RecordView<'_>) -> bool {
        self.topic == record.topic()
            && self.event_type.as_ref().is_none_or(|wanted| {
                record.headers().any(|(name, value)| name == EVENT_TYPE && value == Some(wanted.as_bytes()))
            })
    }
}

/// What a projection is to be: which topics it follows, and what it does with their records.
///
/// Made by [`Log::projection`](crate::Log::projection). Each record is given to every function that wants it, in the order in which
/// the functions were added. The functions are called on the projection's own thread, one at a time, and may block. They must make the
/// same state of the same records: no clock, no chance, nothing from outside. One that waits for its own projection waits for ever.
///
/// # Example
///
/// See [`Projection`].
#[must_use = "a projection does nothing until it is spawned"]
pub struct ProjectionBuilder {
    pub(super) log: Arc<Running>,
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) handlers: Vec<Handler>,
    pub(super) on_progress: Option<OnProgress>,
}

impl fmt::Debug for ProjectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topics: Vec<_> = self.handlers.iter().map(|handler| &handler.topic).collect();
        f.debug_struct("ProjectionBuilder")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("topics", &topics)
            .finish_non_exhaustive()
    }
}

impl ProjectionBuilder {
    pub(crate) fn new(log: Arc<Running>, name: String, version: u32) -> Self {
        Self { log, name, version, handlers: Vec::new(), on_progress: None }
    }

    /// Follows a topic: `apply` is given each of its messages, decoded, tombstones included.
    ///
    /// A value that cannot be decoded stops the projection, as an error of `apply` does.
    pub fn on<T, C>(
        self,
        topic: TopicDef<T, C>,
        apply: impl FnMut(&mut ProjectionState, &Message<T>) -> Result<(), ApplyError> + Send + 'static,
    ) -> Self
    where
        C: Codec<T> + Default,
    {
        self.add(topic, None, apply)
    }

    /// The same for the records whose header `event_type` is `event_type`; others are neither decoded nor given to anybody.
    pub fn on_type<T, C>(
        self,
        topic: TopicDef<T, C>,
        event_type: impl Into<String>,
        apply: impl FnMut(&mut ProjectionState, &Message<T>) -> Result<(), ApplyError> + Send + 'static,
    ) -> Self
    where
        C: Codec<T> + Default,
    {
        self.add(topic, Some(event_type.into()), apply)
    }

    /// Follows a topic whose messages are given as bytes.
    pub fn on_raw(
        self,
        topic: &str,
        apply: impl FnMut(&mut ProjectionState, &Message<Bytes>) -> Result<(), ApplyError> + Send + 'static,
    ) -> Self {
        self.add(TopicDef::<Bytes, Raw>::named(topic), None, apply)
    }

    fn add<T, C>(
        mut self,
        topic: TopicDef<T, C>,
        event_type: Option<String>,
        mut apply: impl FnMut(&mut ProjectionState, &Message<T>) -> Result<(), ApplyError> + Send + 'static,
    ) -> Self
    where
        C: Codec<T> + Default,
    {
        let codec = topic.codec();
        let apply: Apply = Box::new(move |state, message| apply(state, &decode(&codec, message)?));
        self.handlers.push(Handler { topic: topic.name().to_owned(), event_type, apply });
        self
    }

    /// Has a function told how far it is, after each batch of records, until the projection has come to the end of the log for the
    /// first time. It is called on the projection's thread.
    pub fn on_progress(mut self, told: impl FnMut(Progress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(told));
        self
    }

    /// Opens what there is of the projection, holds it against the log, and starts its thread. Whether the state could be used says
    /// [`Projection::last_rebuild`].
    ///
    /// In a log that is open read-only, and in one in memory, the state is in memory, too.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a name that no topic could have, and for a projection of no topic;
    /// [`NotFound`](crate::ErrorKind::NotFound) for a topic that does not exist; [`Locked`](crate::ErrorKind::Locked) if a projection of
    /// this name runs already; [`Closed`](crate::ErrorKind::Closed), [`Io`](crate::ErrorKind::Io), and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) from reading the log.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the projection is opened all the same, and closed at once.
    pub async fn spawn(self) -> Result<Projection> {
        unblock(move || opening::open(self)).await
    }

    /// [`spawn`](Self::spawn) for threads.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn blocking_spawn(self) -> Result<Projection> {
        opening::open(self)
    }
}
