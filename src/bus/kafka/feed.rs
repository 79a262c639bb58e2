//! A subscription's side of its member of a group.

use std::sync::{Arc, Mutex, Weak};
use std::task::{Context as Waking, Poll};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Cluster;
use super::committer::Committer;
use super::desk::Desk;
use super::ends::Ends;
use super::member::{Member, Reader};
use super::records::{Names, Outgoing};
use super::take_over::TakeOver;
use super::threads::{EndsWithIt, attend};
use super::wanted::Wanted;
use crate::bus::backend::Commit;
use crate::bus::dead_letters::Parked;
use crate::bus::driver::Gone;
use crate::bus::shared::Seek;
use crate::consumer::Item;
use crate::error::{Error, ErrorKind, Result};
use crate::group::progress::Tries;
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::record::Message;
use crate::replay::Start;
use crate::segment::lock;

/// Who wants to join a group.
pub(in crate::bus) struct Join<'a> {
    pub(in crate::bus) group: &'a str,
    pub(in crate::bus) topics: &'a [String],
    pub(in crate::bus) start: Start,
    pub(in crate::bus) member: Option<String>,
    /// Whether it reads what is replayed.
    pub(in crate::bus) replays: bool,
    pub(in crate::bus) parked: Option<(Arc<Parked>, Arc<str>)>,
    /// How long what is under way may take when partitions go.
    pub(in crate::bus) patience: Duration,
}

/// How long partitions wait for handlers, at the most: the brokers take a member for dead that keeps them waiting for five minutes.
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(120);

pub(in crate::bus) struct Feed {
    desk: Arc<Desk>,
    left: oneshot::Receiver<Result<()>>,
}

/// The feeds of a bus, to be told that it is closed.
#[derive(Debug, Default)]
struct Feeds(Mutex<Vec<Weak<Desk>>>);

impl Extension for Feeds {
    fn closing(&self, _: &Engine) {
        let desks: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        desks.iter().for_each(|desk| desk.close());
    }
}

impl Feeds {
    fn register(engine: &Engine, desk: &Arc<Desk>) -> Result<()> {
        let feeds = engine.extensions.get_or_init(Self::default).ok_or_else(Error::closed)?;
        let mut feeds = lock(&feeds.0);
        feeds.retain(|known| known.strong_count() > 0);
        feeds.push(Arc::downgrade(desk));
        Ok(())
    }
}

impl Feed {
    /// Joins a group; resolves once it has let this member in.
    pub(in crate::bus) async fn join(cluster: &Arc<Cluster>, join: Join<'_>) -> Result<Self> {
        match join.start {
            Start::Earliest | Start::Latest | Start::Timestamp(_) => {}
            Start::Commit(_) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "a bus on Kafka has no numbers of commits, and cannot begin at one; a bus on a log can",
                ));
            }
            Start::Offset(_) | Start::Last(_) => {
                return Err(Error::invalid(
                    "a group begins at the first event, behind the last, or at a time; elsewhere with `Subscription::seek`",
                ));
            }
        }
        let desk = Arc::new(Desk::new(join.group, Arc::clone(cluster.clock())));
        let member =
            Arc::new(Member::new(&cluster.config, &desk, join.member.as_deref(), join.patience.min(PATIENCE_MAX))?);
        let (joined, has_joined) = oneshot::channel();
        let (leave, left) = oneshot::channel();
        let random = &cluster.engine.env.random;
        let committer = Committer {
            cluster: Arc::clone(cluster),
            desk: Arc::clone(&desk),
            member: Arc::clone(&member),
            id: format!("annals-{}-{:016x}{:016x}", join.group, random.next_u64(), random.next_u64()),
            writer: None,
        };
        let mut reader = Reader {
            cluster: Arc::clone(cluster),
            desk: Arc::clone(&desk),
            member,
            wanted: Wanted::new(join.topics, join.replays)?,
            take_over: TakeOver { start: join.start, parked: join.parked },
            joined: Some(joined),
            names: Names::default(),
            given: None,
            taken_over: false,
            ends: Ends::default(),
            paused: Vec::new(),
            left_out: Vec::new(),
            look_at: Duration::ZERO,
        };
        // Before the threads begin: should it not come to the end of this, they end.
        let feed = Self { desk: Arc::clone(&desk), left };
        Feeds::register(&cluster.engine, &desk)?;
        let ends = EndsWithIt(Arc::clone(&desk));
        let committing = spawn("annals-kafka-commit", move || {
            let _ends = ends;
            committer.run()
        })?;
        spawn("annals-kafka-read", move || {
            let outcome = attend(&desk, committing, || reader.run());
            drop(reader);
            let _gone = leave.send(outcome).is_err();
        })?;
        match has_joined.await {
            Ok(joined) => joined.map(|()| feed),
            Err(_) => feed.close().await.and_then(|()| Err(Error::closed())),
        }
    }

    pub(in crate::bus) fn group(&self) -> &str {
        &self.desk.group
    }

    pub(in crate::bus) fn poll_next(&mut self, waking: &mut Waking<'_>) -> Poll<Option<Result<Item>>> {
        match self.desk.next(waking.waker(), true) {
            Some(item) => Poll::Ready(Some(item)),
            None if self.desk.is_closed() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    pub(in crate::bus) fn poll_rebalance(&mut self, waking: &mut Waking<'_>) {
        let _nothing = self.desk.next(waking.waker(), false);
    }

    pub(in crate::bus) fn is_asked(&self) -> bool {
        self.desk.is_asked()
    }

    pub(in crate::bus) fn is_closed(&self) -> bool {
        self.desk.is_closed()
    }

    pub(in crate::bus) fn is_at_end(&self, asked: u64) -> bool {
        self.desk.is_at_end(asked)
    }

    #[expect(clippy::unused_self, reason = "the same for all feeds")]
    pub(in crate::bus) fn is_fatal(&self, error: &Error) -> bool {
        matches!(error.kind(), ErrorKind::Mismatch | ErrorKind::Failed)
    }

    pub(in crate::bus) fn tries(&self, message: &Message) -> Result<Tries> {
        self.desk.tries(message)
    }

    pub(in crate::bus) fn note_failure(&self, message: &Message) -> Result<Tries> {
        self.desk.note_failure(message)
    }

    pub(in crate::bus) fn finish(&self, message: &Message) -> Result<()> {
        self.desk.finish(message)
    }

    pub(in crate::bus) fn commit(&self, records: Vec<Outgoing>, message: &Message) -> Result<Commit> {
        let answer = self.desk.wish(message, records)?;
        let lost = self.desk.not_ours(message);
        Ok(Box::pin(async move { answer.await.unwrap_or(Err(lost)) }))
    }

    pub(in crate::bus) fn seek(&self, seek: Seek) {
        self.desk.want_seek(seek);
    }

    pub(in crate::bus) fn take_gone(&self, gone: &Gone) {
        let more = self.desk.take_gone();
        if !more.is_empty() {
            lock(gone).extend(more);
        }
    }

    pub(in crate::bus) async fn close(mut self) -> Result<()> {
        self.desk.tell(|state| state.stop = true);
        (&mut self.left).await.unwrap_or(Ok(()))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.desk.tell(|state| state.stop = true);
    }
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|error| Error::io("cannot start a thread", error))
}
