//! Reading in a task: a stream of messages.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::task::JoinHandle;

use super::Start;
use super::blocking::{BlockingReplay, Current, decode};
use super::reader::{Item, Reader, Scope};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::log::running::Running;
use crate::record::Message;

/// How much one visit to a thread for blocking work brings back.
const FETCH_BYTES: usize = 1024 * 1024;

/// Reads records: a [`Stream`] of messages, up to what was there when it was first polled, or [on from there](Self::follow).
///
/// Over several partitions messages come in causal order: whatever was acknowledged before something else was sent comes first.
/// Within a partition they come in the order of their offsets, each once, with no gap.
///
/// A value that cannot be decoded is an item of kind [`Codec`](crate::ErrorKind::Codec), and the stream goes on; so it does behind
/// records that retention let go before they were read, which are an item with a [gap](crate::Error::gap). Any other error is the
/// last item.
///
/// # Cancel safety
///
/// A message is lost only with the stream: `next` of it may be cancelled at any time.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// # use annals::{Log, Record, Start, TopicSettings};
/// use futures_util::StreamExt;
///
/// # let log = Log::in_memory()?;
/// let topic = log.create_raw_topic("lines", TopicSettings::default().partitions(4)).await?;
/// topic.produce(Record::new("one".into()).key("a")).await?;
/// topic.produce(Record::new("two".into()).key("b")).await?;
///
/// let mut history = topic.replay(Start::Earliest);
/// while let Some(message) = history.next().await {
///     let message = message?;
///     println!("{}/{}: {:?}", message.partition(), message.offset(), message.value());
/// }
/// # Ok(()) }
/// ```
#[must_use = "a replay reads nothing until it is polled"]
pub struct Replay<T, C> {
    log: Arc<Running>,
    codec: Arc<C>,
    scope: Scope,
    start: Start,
    follow: bool,
    state: State,
    current: Option<Current>,
    ahead: VecDeque<Fetch>,
    pass_over: u64,
    values: std::marker::PhantomData<fn() -> T>,
}

enum State {
    /// Nothing was read yet.
    New,
    /// Before a fetch.
    Idle(Box<Reader>),
    /// At the end, until something changes.
    Waiting(Box<Reader>),
    /// A thread for blocking work has the reader.
    Fetching(JoinHandle<Fetched>),
    /// Nothing follows.
    Over,
}

/// A frame, or the gap before the next one.
type Fetch = Result<Item>;

/// What a fetch brings back.
struct Fetched {
    reader: Option<Box<Reader>>,
    items: VecDeque<Fetch>,
    error: Option<Error>,
}

impl<T, C> fmt::Debug for Replay<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("start", &self.start).field("follow", &self.follow).finish_non_exhaustive()
    }
}

impl<T, C: Codec<T>> Replay<T, C> {
    pub(crate) fn new(log: Arc<Running>, codec: Arc<C>, scope: Scope, start: Start) -> Self {
        Self {
            log,
            codec,
            scope,
            start,
            follow: false,
            state: State::New,
            current: None,
            ahead: VecDeque::new(),
            pass_over: 0,
            values: std::marker::PhantomData,
        }
    }

    /// Goes on with what is written from now on, seamlessly: no gap, no duplicate, no polling. Ends with an error of kind
    /// [`Closed`](crate::ErrorKind::Closed) when the log is closed. Following all of the log, topics that are created later join.
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Reads on this thread instead, without copies.
    ///
    /// # Errors
    ///
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange) and [`Invalid`](crate::ErrorKind::Invalid) for a start that does
    /// not exist, [`Corrupt`](crate::ErrorKind::Corrupt) and [`Io`](crate::ErrorKind::Io) from looking it up,
    /// [`Closed`](crate::ErrorKind::Closed).
    pub fn blocking(self) -> Result<BlockingReplay<T, C>> {
        let reader = Reader::new(Arc::clone(&self.log.engine), self.scope, self.start, self.follow)?;
        Ok(BlockingReplay::new(reader, self.log, self.codec))
    }

    /// The next message out of what is in memory.
    fn next_at_hand(&mut self) -> Option<Result<Message>> {
        loop {
            if let Some(current) = self.current.as_mut().filter(|current| !current.is_over()) {
                return current.next().map(|view| view.map(|view| view.to_message())).transpose();
            }
            let item = match self.ahead.pop_front()? {
                Ok(item) => item,
                Err(gap) => {
                    // Records that are gone cannot be passed over any more.
                    self.pass_over = self.pass_over.saturating_sub(gap.gap().map_or(0, |gap| gap.to - gap.from));
                    return Some(Err(gap));
                }
            };
            match Current::begin(item, &mut self.pass_over) {
                Ok(current) => self.current = Some(current),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn end(&mut self, error: Error) -> Poll<Option<Result<Message<T>>>> {
        self.state = State::Over;
        self.current = None;
        self.ahead.clear();
        Poll::Ready(Some(Err(error)))
    }

    /// Takes a fetch in. `false` if nothing follows.
    fn take_in(&mut self, fetched: Fetched) -> Result<bool> {
        self.ahead = fetched.items;
        if let Some(error) = fetched.error.filter(|_| self.ahead.is_empty()) {
            return Err(error);
        }
        let Some(mut reader) = fetched.reader else { return Ok(!self.ahead.is_empty()) };
        self.pass_over += std::mem::take(&mut reader.pass_over);
        self.state = match (self.ahead.is_empty(), self.follow) {
            (true, false) => return Ok(false),
            // Who was listening during a fetch that found nothing may wait; who was not looks once more.
            (true, true) if reader.is_listening() => State::Waiting(reader),
            (true, true) => {
                reader.listen();
                State::Idle(reader)
            }
            (false, _) => State::Idle(reader),
        };
        Ok(true)
    }

    /// Does one step towards the next fetch. `Pending` if it must be waited for.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Fetched>>> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Over => Poll::Ready(Ok(Some(Fetched { reader: None, items: VecDeque::new(), error: None }))),
            State::New => {
                let (log, scope, start, follow) = (Arc::clone(&self.log), self.scope.clone(), self.start, self.follow);
                Poll::Ready(Ok(self.visit(move || open(&log, scope, start, follow))))
            }
            State::Idle(reader) if reader.is_in_memory() => Poll::Ready(Ok(Some(fetch(reader)))),
            State::Idle(reader) => Poll::Ready(Ok(self.visit(move || fetch(reader)))),
            State::Waiting(mut reader) => {
                let changed = reader.poll_changed(cx);
                self.state = if changed.is_ready() { State::Idle(reader) } else { State::Waiting(reader) };
                changed.map(|()| Ok(None))
            }
            State::Fetching(mut handle) => match Pin::new(&mut handle).poll(cx) {
                Poll::Pending => {
                    self.state = State::Fetching(handle);
                    Poll::Pending
                }
                Poll::Ready(Ok(fetched)) => Poll::Ready(Ok(Some(fetched))),
                Poll::Ready(Err(join)) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
                Poll::Ready(Err(_)) => Poll::Ready(Err(Error::closed())),
            },
        }
    }

    /// Has `work` done by a thread for blocking work; where there is no runtime, right here.
    fn visit(&mut self, work: impl FnOnce() -> Fetched + Send + 'static) -> Option<Fetched> {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                self.state = State::Fetching(runtime.spawn_blocking(work));
                None
            }
            Err(_) => Some(work()),
        }
    }
}

/// Reads up to [`FETCH_BYTES`]. An error after some frames is met again by the next fetch.
fn fetch(mut reader: Box<Reader>) -> Fetched {
    let mut items = VecDeque::new();
    let mut bytes = 0;
    while bytes < FETCH_BYTES {
        match reader.next() {
            Ok(Some(item)) => {
                bytes += item.frame.body.len();
                items.push_back(Ok(item));
            }
            Ok(None) => break,
            // Met once only, and not the end: it keeps its place among the frames.
            Err(error) if error.gap().is_some() => items.push_back(Err(error)),
            Err(error) => return Fetched { reader: Some(reader), items, error: Some(error) },
        }
    }
    Fetched { reader: Some(reader), items, error: None }
}

impl<T, C: Codec<T>> Stream for Replay<T, C> {
    type Item = Result<Message<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match this.next_at_hand() {
                Some(Ok(message)) => return Poll::Ready(Some(decode(&*this.codec, message))),
                Some(Err(error)) if error.gap().is_some() => return Poll::Ready(Some(Err(error))),
                Some(Err(error)) => return this.end(error),
                None => {}
            }
            let fetched = match this.poll_fetch(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => continue,
                Poll::Ready(Ok(Some(fetched))) => fetched,
                Poll::Ready(Err(error)) => return this.end(error),
            };
            match this.take_in(fetched) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(None),
                Err(error) => return this.end(error),
            }
        }
    }
}

fn open(log: &Running, scope: Scope, start: Start, follow: bool) -> Fetched {
    match Reader::new(Arc::clone(&log.engine), scope, start, follow) {
        Ok(reader) => fetch(Box::new(reader)),
        Err(error) => Fetched { reader: None, items: VecDeque::new(), error: Some(error) },
    }
}
