//! The thread of a mirror: connect, find the place, forward, and begin again when something has gone wrong.
//!
//! There is one way back from every error: the transaction is aborted, the connection begun anew, and what was forwarded is whatever
//! the target's checkpoints say. What was possibly written is never simply sent again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::checkpoint::{Checkpoint, Place};
use super::cluster::Cluster;
use super::lane::{Lane, Memory, Next};
use super::producer::{Outgoing, Producer, Trouble};
use super::settings::{MirrorBuilder, OnBreach};
use super::shared::{Bell, Counters, Shared};
use super::status::{ErrorClass, MirrorState};
use super::unit::Unit;
use super::watch::Watch;
use crate::codec::Raw;
use crate::error::{Error, ErrorKind, Result};
use crate::group::pattern::Subscription;
use crate::handle::RetentionHold;
use crate::kafka::KafkaConfig;
use crate::topic::Topic;

pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long it leaves to another instance, which may have shut it out, for saying that it has begun.
const SHUT_OUT_REST: Duration = Duration::from_secs(1);
/// How often it looks for topics and partitions that were added, and whether paused ones are to be tried again.
const REFRESH: Duration = Duration::from_secs(1);
/// How often it looks whether what it holds has become durable.
const LOOK_DURABLE: Duration = Duration::from_millis(10);
/// After so long it has the log synced, if nobody else does.
const SYNC_AFTER: Duration = Duration::from_millis(200);
/// With more partitions than this a partition that had its turn lets go of what it has read ahead.
const READERS_MAX: usize = 16;
/// So many bytes of a partition are forwarded before it is another one's turn.
const TURN_BYTES: usize = 4 * 1024 * 1024;
/// After so many records it looks at the clock, which costs too much for each of them, and whether it is told to stop.
const LOOK_EVERY: u64 = 256;
/// A stop waits for the target so long.
pub(super) const STOP_MAX: Duration = Duration::from_secs(20);

pub(super) struct Runner {
    pub(super) settings: MirrorBuilder,
    pub(super) kafka: KafkaConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) names: Subscription,
    pub(super) lanes: Vec<Lane>,
    /// What keeps retention from overtaking it, by the topic's identity and the partition.
    pub(super) holds: BTreeMap<(Uuid, u32), Held>,
    pub(super) watch: Arc<Watch>,
    /// What is kept of partitions from one connection to the next, by the topic's identity and the number.
    pub(super) memories: BTreeMap<(Uuid, u32), Memory>,
    /// Where the turns begin.
    first: usize,
    /// How many records it has taken.
    taken: u64,
    /// The number of its newest beginning, and what tells it from other instances.
    pub(super) epoch: u64,
    pub(super) instance: u64,
    /// It has found its partitions once. What the target lacks from then on stops only the partitions that need it.
    pub(super) has_begun: bool,
    /// The topic of the checkpoints was looked at: it keeps them.
    pub(super) is_kept: bool,
    pub(super) unit: Unit,
    waker: Waker,
    /// Since when something waits to become durable.
    pub(super) undurable_since: Option<Duration>,
    pub(super) looked_at: Duration,
    pub(super) cached_at: Duration,
    /// What is shown is not what is.
    pub(super) stale: bool,
    /// Topics of the target of which one is refused. While there are some only the last one is sent to.
    pub(super) suspects: Vec<Arc<str>>,
}

/// What is held back for a partition.
pub(super) struct Held {
    pub(super) hold: Arc<RetentionHold>,
    pub(super) topic: Topic<Bytes, Raw>,
    pub(super) place: Place,
    /// Where the hold began.
    pub(super) from: u64,
}

/// A connection: it lasts until the first error.
pub(super) struct Session {
    pub(super) producer: Producer,
    pub(super) cluster: Cluster,
    pub(super) checkpoints: BTreeMap<Place, Checkpoint>,
    /// Where the log says that the mirror had come to.
    pub(super) places: BTreeMap<Place, u64>,
    pub(super) refreshed_at: Duration,
}

impl Runner {
    pub(super) fn new(settings: MirrorBuilder, shared: Arc<Shared>) -> Result<Self> {
        let names = Subscription::new(settings.topics.iter().map(String::as_str))?;
        let Some(kafka) = settings.kafka.clone() else { return Err(Error::invalid("the mirror has no cluster")) };
        let waker = Waker::from(Arc::new(Bell(Arc::clone(&shared))));
        let cap = settings.hold.and_then(|hold| hold.bytes_max);
        let blocks = settings.on_breach == OnBreach::Block;
        let watch = Watch::new(settings.log.clone(), Arc::clone(&shared), cap, blocks);
        Ok(Self {
            instance: settings.log.random(),
            settings,
            kafka,
            shared,
            names,
            lanes: Vec::new(),
            holds: BTreeMap::new(),
            watch,
            memories: BTreeMap::new(),
            first: 0,
            taken: 0,
            epoch: 0,
            has_begun: false,
            is_kept: false,
            unit: Unit::default(),
            waker,
            undurable_since: None,
            looked_at: Duration::ZERO,
            cached_at: Duration::ZERO,
            stale: true,
            suspects: Vec::new(),
        })
    }

    pub(super) fn now(&self) -> Duration {
        self.settings.log.monotonic()
    }

    pub(super) fn run(mut self) -> Result<()> {
        let mut backoff = BACKOFF_MIN;
        self.hold_all()?;
        self.look();
        loop {
            let committed = self.shared.counters.committed.load(Ordering::Relaxed);
            let ended = self.session();
            if self.shared.counters.committed.load(Ordering::Relaxed) > committed {
                backoff = BACKOFF_MIN;
            }
            self.lanes.iter_mut().for_each(Lane::close_reader);
            match ended {
                Ok(()) | Err(Trouble::Stopped) => return Ok(()),
                Err(Trouble::Again) => {}
                Err(Trouble::Passing(error)) => self.pass(error, &mut backoff)?,
                // For what it was shut out it learns by beginning anew; another instance has said by then that it has begun.
                Err(Trouble::Fatal(error)) if error.kind() == ErrorKind::Fenced => {
                    backoff = backoff.max(SHUT_OUT_REST);
                    self.pass(error, &mut backoff)?;
                }
                Err(Trouble::Superseded(error)) => {
                    self.shared.counters.fenced.store(true, Ordering::Relaxed);
                    return self.end(error);
                }
                Err(Trouble::Fatal(error)) => return self.end(error),
            }
            if self.shared.is_stopping() {
                return Ok(());
            }
        }
    }

    /// Waits after an error that passes, longer each time.
    fn pass(&mut self, error: Error, backoff: &mut Duration) -> Result<()> {
        // There may be new topics, and they are held back without a cluster, too.
        self.hold_all()?;
        self.look();
        self.shared.set_state(MirrorState::Connecting);
        self.shared.met(ErrorClass::Passing, None, error);
        self.shared.rest(*backoff);
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }

    /// Ends with an error.
    fn end(&mut self, error: Error) -> Result<()> {
        self.shared.met(ErrorClass::Fatal, None, error.clone());
        self.look();
        Err(error)
    }

    /// Connects, and forwards until it is told to stop.
    fn session(&mut self) -> Result<(), Trouble> {
        let mut session = self.connect()?;
        let ended = self.forward(&mut session);
        if self.unit.begun {
            Counters::add(&self.shared.counters.aborted, 1);
            session.producer.abort();
        }
        self.unit.forget();
        ended
    }

    fn forward(&mut self, session: &mut Session) -> Result<(), Trouble> {
        self.shared.set_state(MirrorState::Running);
        self.look();
        loop {
            self.shared.listen();
            let now = self.now();
            let stopping = self.shared.is_stopping();
            if stopping {
                self.finish(session)?;
                self.keep_cache(true);
                self.look();
                return Ok(());
            }
            if self.wants_retry(now) {
                self.finish(session)?;
                // Until it is tried again it is shown as paused.
                self.look();
                for lane in &mut self.lanes {
                    lane.unpause();
                }
                return Err(Trouble::Again);
            }
            if self.shared.is_paused() {
                self.finish(session)?;
                self.shared.set_state(MirrorState::Paused);
                self.hold_all()?;
                // Tokens may have to be renewed.
                session.producer.poll();
                self.look();
                self.shared.wait(REFRESH);
                continue;
            }
            self.shared.set_state(MirrorState::Running);
            if now.saturating_sub(session.refreshed_at) >= REFRESH {
                session.refreshed_at = now;
                if self.has_news()? {
                    // The records of a transaction are known by the numbers of their partitions.
                    self.finish(session)?;
                    self.find_lanes(session, false)?;
                    self.look();
                }
            }
            let moved = self.fill(session)?;
            session.producer.poll();
            if session.producer.has_failed() || self.unit.is_due(&self.settings, self.now()) {
                self.finish(session)?;
            }
            self.keep_cache(false);
            if self.is_look_due(now) {
                self.look();
            }
            if !moved && !self.unit.is_open() && self.suspects.pop().is_some() {
                // There was nothing for it.
                continue;
            }
            self.see_to_durability()?;
            if !moved {
                self.shared.wait(self.rest_time());
            }
        }
    }

    /// How long there is nothing to do unless somebody rings.
    fn rest_time(&self) -> Duration {
        let mut most = REFRESH;
        if let Some(due) = self.unit.due_at(&self.settings) {
            most = most.min(due.saturating_sub(self.now()));
        }
        if self.undurable_since.is_some() {
            most = most.min(LOOK_DURABLE);
        }
        if self.stale {
            most = most.min(self.look_interval());
        }
        most
    }

    /// Whether partitions that were paused are to be tried again.
    fn wants_retry(&self, now: Duration) -> bool {
        let asked = self.shared.take_retry();
        let paused = || self.lanes.iter().filter_map(|lane| lane.memory.paused.as_ref());
        let due = |after| paused().any(|paused| now.saturating_sub(paused.since) >= after);
        (asked && paused().next().is_some()) || self.settings.retry_paused.is_some_and(due)
    }

    /// Sends what there is, partition by partition. Answers whether there was anything.
    fn fill(&mut self, session: &Session) -> Result<bool, Trouble> {
        let count = self.lanes.len();
        let (mut moved, mut waits) = (false, false);
        for turn in 0..count {
            let index = (self.first + turn) % count;
            let (has_sent, ended) = self.turn(session, index)?;
            moved |= has_sent;
            match ended {
                Turn::Next => {}
                Turn::Waits => waits = true,
                Turn::Over => {
                    if waits {
                        self.undurable_since.get_or_insert(self.settings.log.monotonic());
                    }
                    // With a small window the same partition would be first for ever.
                    self.first = (index + usize::from(has_sent)) % count;
                    return Ok(true);
                }
            }
        }
        self.undurable_since = waits.then(|| self.undurable_since.unwrap_or_else(|| self.now()));
        self.first = (self.first + 1) % count.max(1);
        Ok(moved)
    }

    /// Sends what a partition has, as much of it as may be. Answers whether there was anything.
    fn turn(&mut self, session: &Session, index: usize) -> Result<(bool, Turn), Trouble> {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        let lets_go = self.lanes.len() > READERS_MAX;
        let only = self.suspects.last().cloned();
        let is_meant =
            |lane: &&mut Lane| lane.memory.paused.is_none() && only.as_ref().is_none_or(|only| *only == lane.target);
        let (mut moved, mut sent) = (false, 0);
        while let Some(lane) = self.lanes.get_mut(index).filter(is_meant) {
            let is_over = self.unit.is_full(&self.settings) || session.producer.has_failed();
            if is_over || sent >= TURN_BYTES {
                if moved && lets_go {
                    lane.close_reader();
                }
                return Ok((moved, if is_over { Turn::Over } else { Turn::Next }));
            }
            match lane.poll_next(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(None)) => return Ok((moved, Turn::Waits)),
                Poll::Ready(Ok(Some(next))) => {
                    moved = true;
                    sent += self.take(session, index, next)?;
                    // What is passed over has no bytes, but takes its time.
                    self.taken = self.taken.wrapping_add(1);
                    if self.taken.is_multiple_of(LOOK_EVERY) {
                        session.producer.poll();
                        self.look_at_clock();
                        if self.shared.is_stopping() || self.shared.is_paused() {
                            return Ok((moved, Turn::Over));
                        }
                    }
                }
                Poll::Ready(Err(error)) => self.cannot_read(index, error)?,
            }
        }
        Ok((moved, Turn::Next))
    }

    /// Looks whether the transaction has been open for long enough.
    pub(super) fn look_at_clock(&mut self) {
        self.unit.look(&self.settings, self.settings.log.monotonic());
    }

    /// A partition cannot be read: it is damaged, or gone. The others go on.
    fn cannot_read(&mut self, index: usize, error: Error) -> Result<(), Trouble> {
        if error.kind() == ErrorKind::Closed {
            return Err(Trouble::Fatal(error));
        }
        let now = self.now();
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.pause(&self.shared, now, error);
        }
        Ok(())
    }

    /// Whether what waits for the disk has waited long enough to have it synced.
    fn see_to_durability(&mut self) -> Result<(), Trouble> {
        let Some(since) = self.undurable_since else { return Ok(()) };
        if self.now().saturating_sub(since) < SYNC_AFTER || self.settings.log.is_read_only() {
            return Ok(());
        }
        self.undurable_since = None;
        match self.settings.log.blocking_sync() {
            Err(error) if error.kind() == ErrorKind::Closed => Err(error.into()),
            // It may be about a partition that is none of this one's.
            Err(error) => {
                tracing::warn!(%error, "what a mirror waits for cannot be synced");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Sends one record, or what stands for it. Answers how many bytes it has.
    fn take(&mut self, session: &Session, index: usize, next: Next) -> Result<usize, Trouble> {
        match next {
            Next::Record(message) => self.take_record(session, index, message),
            Next::Gap { from, to } => self.take_gap(session, index, from, to),
        }
    }

    pub(super) fn send(
        &mut self,
        session: &Session,
        index: usize,
        offset: u64,
        outgoing: Outgoing<'_>,
    ) -> Result<Sent, Trouble> {
        if !self.unit.begun {
            session.producer.begin_transaction()?;
            self.unit.begun = true;
            self.unit.open(self.now());
        }
        let number = self.unit.number(index, offset);
        let shared = Arc::clone(&self.shared);
        match session.producer.send(number, outgoing, || shared.is_stopping())? {
            None => Ok(Sent::Yes),
            Some(code) => Ok(Sent::Refused(code)),
        }
    }

    pub(super) fn preserves(&self) -> bool {
        matches!(self.settings.partitions, super::settings::Partitions::Preserve)
    }
}

/// How the turn of a partition has ended.
enum Turn {
    /// It is another one's.
    Next,
    /// The same, and there is something that is not on the disk yet.
    Waits,
    /// Nothing more is sent for now: there is enough, something has failed, or it is told to stop.
    Over,
}

/// Whether the client library has taken a record.
pub(super) enum Sent {
    Yes,
    Refused(rdkafka::error::RDKafkaErrorCode),
}
