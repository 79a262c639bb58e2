//! Finding in a task: a stream of messages.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::task::JoinHandle;

use super::blocking::BlockingFind;
use super::matcher::Wanted;
use super::search::{Query, Scope, Search};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::log::running::Running;
use crate::record::Message;
use crate::replay::decode;

/// The most records, and bytes of values, that one visit to a thread for blocking work brings back.
const FETCH_RECORDS: usize = 256;
const FETCH_BYTES: usize = 1024 * 1024;

/// Finds records: a [`Stream`] of messages with a header of a name and a value, up to what was there when it was first polled.
///
/// Made by [`Log::find`](crate::Log::find) and [`Topic::find`](crate::Topic::find). A record is found if *any* of its headers of the
/// name has the value, byte by byte. Messages come in the order of their commit numbers over all partitions and topics, and
/// within a partition by offset: as in a [`Replay`](crate::Replay) from which the others are left out.
///
/// The index is no part of what is written, and costs those who write nothing. What was written since it was last completed (in
/// the background at each checkpoint, by each search, and in part when the log is closed) is read first. The first search in a log
/// whose index is not there, because the setting is new or the index was set aside, reads all of the topic.
/// A log that is open [read-only](crate::Log::open_read_only) has no index, since its writer has it: each search there reads the
/// topics from beginning to end.
///
/// # Errors
///
/// [`Invalid`](crate::ErrorKind::Invalid) as the only item for a header that is not indexed, and as the last if that is altered
/// meanwhile; [`Closed`](crate::ErrorKind::Closed); [`NotFound`](crate::ErrorKind::NotFound) for a topic that was deleted;
/// [`Corrupt`](crate::ErrorKind::Corrupt) where bytes that had to be read are damaged, [`Io`](crate::ErrorKind::Io). Each of these
/// is the last item. A value that cannot be decoded is an item of kind [`Codec`](crate::ErrorKind::Codec), and the stream goes on.
///
/// # Cancel safety
///
/// A message is lost only with the stream: `next` of it may be cancelled at any time.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// # use annals::{Log, Record, TopicSettings};
/// use futures_util::TryStreamExt;
///
/// # let log = Log::in_memory()?;
/// let settings = TopicSettings::default().indexed_headers(["correlation_id"]);
/// let orders = log.create_raw_topic("orders", settings.clone()).await?;
/// let invoices = log.create_raw_topic("invoices", settings).await?;
/// orders.produce(Record::new("paid".into()).header("correlation_id", "17")).await?;
/// orders.produce(Record::new("paid".into()).header("correlation_id", "18")).await?;
/// invoices.produce(Record::new("9 EUR".into()).header("correlation_id", "17")).await?;
///
/// let found: Vec<_> = log.find("correlation_id", "17").try_collect().await?;
/// assert_eq!(found.iter().map(|message| message.topic()).collect::<Vec<_>>(), ["orders", "invoices"]);
/// # Ok(()) }
/// ```
#[must_use = "a search looks for nothing until it is polled"]
pub struct Find<T, C> {
    query: Query,
    codec: Arc<C>,
    state: State,
    ahead: VecDeque<Message>,
    /// What comes behind them.
    error: Option<Error>,
    /// The first is wanted soon, many at once later.
    records: usize,
    values: std::marker::PhantomData<fn() -> T>,
}

enum State {
    /// Nothing was looked for yet.
    New,
    /// Before a fetch.
    Idle(Box<Search>),
    /// A thread for blocking work has the search.
    Fetching(JoinHandle<Fetched>),
    /// Nothing follows.
    Over,
}

/// What a fetch brings back.
struct Fetched {
    /// `None` if nothing follows.
    search: Option<Box<Search>>,
    found: VecDeque<Message>,
    error: Option<Error>,
}

impl<T, C> fmt::Debug for Find<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Find").field("wanted", &self.query.wanted).finish_non_exhaustive()
    }
}

impl<T, C> Drop for Find<T, C> {
    fn drop(&mut self) {
        self.query.given_up.store(true, Ordering::Relaxed);
    }
}

impl<T, C: Codec<T>> Find<T, C> {
    pub(crate) fn new(log: Arc<Running>, codec: Arc<C>, scope: Scope, header: &str, value: &[u8]) -> Self {
        Self::of(log, codec, scope, Wanted::header(header, value))
    }

    pub(crate) fn of_key(log: Arc<Running>, codec: Arc<C>, scope: Scope, key: &[u8]) -> Self {
        Self::of(log, codec, scope, Wanted::key(key))
    }

    fn of(log: Arc<Running>, codec: Arc<C>, scope: Scope, wanted: Wanted) -> Self {
        Self {
            query: Query { log, scope, wanted, given_up: Arc::new(AtomicBool::new(false)) },
            codec,
            state: State::New,
            ahead: VecDeque::new(),
            error: None,
            records: 1,
            values: std::marker::PhantomData,
        }
    }

    /// Looks on this thread instead.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a header that is not indexed, [`NotFound`](crate::ErrorKind::NotFound) for a topic
    /// that was deleted, [`Closed`](crate::ErrorKind::Closed). In a log that is open read-only also
    /// [`Corrupt`](crate::ErrorKind::Corrupt) and [`Io`](crate::ErrorKind::Io).
    pub fn blocking(self) -> Result<BlockingFind<T, C>> {
        // Dropping this gives up what it shares.
        let query = Query { given_up: Arc::default(), ..self.query.clone() };
        BlockingFind::begin(query, Arc::clone(&self.codec))
    }

    /// Takes a fetch in.
    fn take_in(&mut self, fetched: Fetched) {
        self.ahead = fetched.found;
        self.error = fetched.error;
        self.state = fetched.search.map_or(State::Over, State::Idle);
        self.records = (self.records * 4).min(FETCH_RECORDS);
    }

    /// Has `work` done by a thread for blocking work; where there is no runtime, right here.
    fn visit(&mut self, work: impl FnOnce() -> Fetched + Send + 'static) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => self.state = State::Fetching(runtime.spawn_blocking(work)),
            Err(_) => {
                let fetched = work();
                self.take_in(fetched);
            }
        }
    }
}

/// Brings back up to `records` messages.
fn fetch(mut search: Box<Search>, records: usize) -> Fetched {
    let (mut found, mut bytes) = (VecDeque::new(), 0);
    while found.len() < records && bytes < FETCH_BYTES {
        match search.next() {
            Ok(Some(message)) => {
                bytes += message.value().map_or(0, bytes::Bytes::len);
                found.push_back(message);
            }
            Ok(None) => return Fetched { search: None, found, error: None },
            Err(error) => return Fetched { search: None, found, error: Some(error) },
        }
    }
    Fetched { search: Some(search), found, error: None }
}

fn begin(query: Query, records: usize) -> Fetched {
    match query.begin() {
        Ok(search) => fetch(Box::new(search), records),
        Err(error) => Fetched { search: None, found: VecDeque::new(), error: Some(error) },
    }
}

impl<T, C: Codec<T>> Stream for Find<T, C> {
    type Item = Result<Message<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(message) = this.ahead.pop_front() {
                return Poll::Ready(Some(decode(&*this.codec, message)));
            }
            if let Some(error) = this.error.take() {
                return Poll::Ready(Some(Err(error)));
            }
            let records = this.records;
            match std::mem::replace(&mut this.state, State::Over) {
                State::Over => return Poll::Ready(None),
                State::New => {
                    let query = this.query.clone();
                    this.visit(move || begin(query, records));
                }
                State::Idle(search) => this.visit(move || fetch(search, records)),
                State::Fetching(mut handle) => match Pin::new(&mut handle).poll(cx) {
                    Poll::Pending => {
                        this.state = State::Fetching(handle);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(fetched)) => this.take_in(fetched),
                    Poll::Ready(Err(join)) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
                    Poll::Ready(Err(_)) => this.error = Some(Error::closed()),
                },
            }
        }
    }
}
