//! One event on its way through a subscription.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Waking, Poll, ready};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::backend::Commit;
use super::super::context::Context;
use super::super::handler::{Answer, Attempt, Dispatch, HandlerError, Reason};
use super::super::timers::Sleep;
use crate::error::{Error, Result};
use crate::record::{Message, TopicName};

/// What keeps events in order: the key in its partition. Events without a key have no order among themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) topic: TopicName,
    pub(super) partition: u32,
    key: Option<Bytes>,
    /// Of an event without a key, what tells it from the others.
    offset: u64,
}

impl Key {
    pub(super) fn of(message: &Message) -> Self {
        let key = message.key().cloned();
        let offset = if key.is_some() { 0 } else { message.offset };
        Self { topic: Arc::clone(&message.topic), partition: message.partition, key, offset }
    }

    /// With memory of its own.
    pub(super) fn detached(&self) -> Self {
        Self { key: self.key.as_ref().map(|key| Bytes::copy_from_slice(key)), ..self.clone() }
    }
}

/// An event that is not done.
#[derive(Debug)]
pub(super) struct Work {
    /// What the consumer has delivered, and what is finished in the end.
    pub(super) delivered: Arc<Message>,
    /// What the handler sees: of a dead letter that is replayed, the message that it was.
    pub(super) shown: Arc<Message>,
    pub(super) key: Key,
    /// Attempts that have failed.
    pub(super) failures: u32,
    pub(super) first_failure: i64,
    /// It was given up for this reason, and has not got there yet.
    pub(super) given_up: Option<HandlerError>,
}

impl Work {
    pub(super) fn is_replay(&self) -> bool {
        !Arc::ptr_eq(&self.delivered, &self.shown)
    }

    /// How many bytes its key and value have.
    pub(super) fn payload(&self) -> usize {
        self.shown.key().map_or(0, Bytes::len) + self.shown.value().map_or(0, Bytes::len)
    }

    /// How much memory it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        self.payload() + WORK_BYTES
    }

    /// Lets go of the memory that the message shares with all that was read along with it.
    pub(super) fn detach(&mut self) {
        let replayed = self.is_replay();
        self.shown = Arc::new(self.shown.detached());
        self.delivered = if replayed { Arc::new(self.delivered.detached()) } else { Arc::clone(&self.shown) };
        self.key = self.key.detached();
    }
}

/// About what an event takes beside its key and value.
const WORK_BYTES: usize = 512;

/// What a commit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The handler's outputs.
    Success {
        records: u64,
    },
    DeadLetter,
}

/// How an event's turn ends.
pub(super) enum Ended {
    Attempt(Answer),
    Commit(Purpose, Result<()>),
}

enum Stage {
    Here(Runner),
    /// A task of its own.
    Away(Abort<Answer>),
    Commit(Purpose, Commit),
    Over,
}

/// An event's turn: an attempt of the handler, or a commit.
pub(super) struct Turn {
    work: Option<Box<Work>>,
    cx: Option<Context>,
    stage: Stage,
}

impl Turn {
    pub(super) fn here(work: Box<Work>, cx: Context, runner: Runner) -> Self {
        Self { work: Some(work), cx: Some(cx), stage: Stage::Here(runner) }
    }

    pub(super) fn away(work: Box<Work>, cx: Context, runner: Runner) -> Self {
        Self { work: Some(work), cx: Some(cx), stage: Stage::Away(Abort(tokio::spawn(runner))) }
    }

    pub(super) fn commit(work: Box<Work>, cx: Option<Context>, purpose: Purpose, commit: Commit) -> Self {
        Self { work: Some(work), cx, stage: Stage::Commit(purpose, commit) }
    }

    pub(super) fn work(&self) -> Option<&Work> {
        self.work.as_deref()
    }
}

/// What is left of a turn.
pub(super) struct Over {
    pub(super) work: Box<Work>,
    pub(super) cx: Option<Context>,
    pub(super) ended: Ended,
}

impl Future for Turn {
    /// `None` if the runtime has ended in the middle.
    type Output = Option<Over>;

    fn poll(mut self: Pin<&mut Self>, waking: &mut Waking<'_>) -> Poll<Self::Output> {
        let ended = match &mut self.stage {
            Stage::Here(runner) => Ended::Attempt(ready!(Pin::new(runner).poll(waking))),
            Stage::Away(task) => match ready!(Pin::new(&mut task.0).poll(waking)) {
                Ok(answer) => Ended::Attempt(answer),
                Err(_) => {
                    self.stage = Stage::Over;
                    return Poll::Ready(None);
                }
            },
            Stage::Commit(purpose, commit) => Ended::Commit(*purpose, ready!(commit.as_mut().poll(waking))),
            Stage::Over => return Poll::Ready(None),
        };
        self.stage = Stage::Over;
        let cx = self.cx.take();
        Poll::Ready(self.work.take().map(|work| Over { work, cx, ended }))
    }
}

/// A task that ends with whoever waits for it.
struct Abort<T>(JoinHandle<T>);

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An attempt of a handler: with its deadline, its panics caught, and its acknowledgement waited for.
pub(super) struct Runner {
    handler: Arc<dyn Dispatch>,
    message: Arc<Message>,
    cx: Option<Context>,
    attempt: Option<Attempt>,
    acknowledgement: Option<oneshot::Receiver<()>>,
    deadline: Option<Sleep>,
    span: tracing::Span,
}

impl Runner {
    pub(super) fn new(
        handler: &Arc<dyn Dispatch>,
        message: &Arc<Message>,
        cx: &Context,
        manual: bool,
        deadline: Option<Sleep>,
        span: tracing::Span,
    ) -> Self {
        let (cx, acknowledgement) = match manual {
            true => {
                let (cx, answer) = cx.to_be_acknowledged();
                (cx, Some(answer))
            }
            false => (cx.clone(), None),
        };
        let (handler, message) = (Arc::clone(handler), Arc::clone(message));
        Self { handler, message, cx: Some(cx), attempt: None, acknowledgement, deadline, span }
    }

    /// The handler, then the acknowledgement.
    fn poll_answer(&mut self, waking: &mut Waking<'_>) -> Poll<Answer> {
        if let Some(cx) = self.cx.clone() {
            let attempt = &mut self.attempt;
            let (handler, message) = (&self.handler, &self.message);
            let polled = {
                let _entered = self.span.enter();
                let given = cx.clone();
                let poll = || attempt.get_or_insert_with(|| handler.dispatch(message, given)).as_mut().poll(waking);
                catch_unwind(AssertUnwindSafe(|| cx.enter(poll)))
            };
            let answer = match polled {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(answer)) => answer,
                Err(panic) => Err(HandlerError::new(Reason::Panicked, false, said(&*panic))),
            };
            // Nobody here acknowledges any more.
            (self.attempt, self.cx) = (None, None);
            if answer.is_err() || self.acknowledgement.is_none() {
                return Poll::Ready(answer);
            }
        }
        let Some(acknowledgement) = &mut self.acknowledgement else { return Poll::Ready(Ok(())) };
        let answer = ready!(Pin::new(acknowledgement).poll(waking));
        Poll::Ready(answer.map_err(|_| {
            HandlerError::from("the handler has not acknowledged the event, and nobody is left who could")
        }))
    }
}

impl Future for Runner {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, waking: &mut Waking<'_>) -> Poll<Answer> {
        if let Poll::Ready(answer) = self.poll_answer(waking) {
            return Poll::Ready(answer);
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(Pin::new(deadline).poll(waking));
        // Dropped here: it may need its task to be dropped in.
        (self.attempt, self.cx) = (None, None);
        Poll::Ready(Err(HandlerError::new(Reason::TimedOut, false, "the handler has not answered within its deadline")))
    }
}

/// What somebody said who panicked.
pub(super) fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}

/// What has failed that is nobody's fault here.
pub(super) fn is_passing(error: &Error) -> bool {
    use crate::error::ErrorKind::{Busy, Io, StorageFull, Unavailable};
    matches!(error.kind(), StorageFull | Io | Busy | Unavailable)
}
