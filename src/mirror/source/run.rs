//! The thread of a source: connect, find the place, bring records into the log, and begin again when something has gone wrong.
//!
//! There is one way back from every error: what is in the making is dropped, the connection begun anew, and what was read is whatever
//! the log says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::super::checkpoint::Place;
use super::super::shared::{Counters, Shared};
use super::super::status::{ErrorClass, MirrorState};
use super::batch::Added;
use super::checkpoint::Print;
use super::connect::Session;
use super::lane::{Lane, Paused};
use super::settings::{OnMissing, SourceBuilder};
use super::status::SourcePartition;
use crate::error::{Error, ErrorKind, Result};
use crate::group::pattern::Subscription;
use crate::kafka::{Class, KafkaConfig, KafkaContext, class, code, from_kafka};
use crate::text::quoted;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How often it looks for topics and partitions that were added.
const REFRESH: Duration = Duration::from_secs(5);
/// How long it sleeps at most: the client library has to be asked now and then what it has to tell.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// So many records of a partition are taken before it is another one's turn.
const TURN: usize = 2000;

/// Why a session has ended.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It passes.
    Passing(Error),
    /// Nothing can go on.
    Fatal(Error),
    /// Everything was seen to: begin again.
    Again,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error.kind() {
            // A topic of the log that was deleted is found out about when it begins again.
            ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::StorageFull | ErrorKind::NotFound => {
                Self::Passing(error)
            }
            _ => Self::Fatal(error),
        }
    }
}

/// Who waits until the source has caught up: how often somebody has asked, and how many of them have their answer.
#[derive(Debug, Default)]
pub(super) struct CaughtUp {
    pub(super) asked: AtomicU64,
    pub(super) answered: AtomicU64,
}

pub(super) struct Runner {
    pub(super) settings: SourceBuilder,
    pub(super) kafka: KafkaConfig,
    pub(super) names: Subscription,
    pub(super) shared: Arc<Shared<SourcePartition>>,
    pub(super) lanes: Vec<Lane>,
    /// What partitions are paused for, from one session to the next.
    pub(super) paused: BTreeMap<Place, Paused>,
    pub(super) caught_up: Arc<CaughtUp>,
    /// The question for which the lanes have goals.
    pub(super) goal_of: u64,
    /// The question for which goals were last asked for, and when one was not to be had.
    pub(super) goals_of: u64,
    pub(super) no_goal_at: Option<Duration>,
    pub(super) looked_at: Duration,
    pub(super) told: Option<(String, Duration)>,
    first: usize,
    /// No broker can be reached just now.
    is_down: bool,
    #[cfg(feature = "metrics")]
    pub(super) exporter: super::metrics::Exporter,
}

impl Runner {
    pub(super) fn new(
        settings: SourceBuilder,
        kafka: KafkaConfig,
        names: Subscription,
        shared: Arc<Shared<SourcePartition>>,
        caught_up: Arc<CaughtUp>,
    ) -> Self {
        Self {
            settings,
            kafka,
            names,
            shared,
            lanes: Vec::new(),
            paused: BTreeMap::new(),
            caught_up,
            goal_of: 0,
            goals_of: 0,
            no_goal_at: None,
            looked_at: Duration::ZERO,
            told: None,
            first: 0,
            is_down: false,
            #[cfg(feature = "metrics")]
            exporter: super::metrics::Exporter::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.settings.log.monotonic()
    }

    pub(super) fn run(mut self) -> Result<()> {
        let mut backoff = BACKOFF_MIN;
        loop {
            let before = self.shared.counters.committed.load(Ordering::Relaxed);
            let ended = self.session();
            if self.shared.counters.committed.load(Ordering::Relaxed) > before {
                backoff = BACKOFF_MIN;
            }
            self.remember_paused();
            self.lanes.clear();
            (self.goal_of, self.goals_of) = (0, 0);
            match ended {
                Ok(()) => return Ok(()),
                Err(Trouble::Again) => {}
                Err(Trouble::Passing(error)) => {
                    self.shared.set_state(MirrorState::Connecting);
                    self.tell(error);
                    self.shared.rest(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Err(Trouble::Fatal(error)) => {
                    self.shared.met(ErrorClass::Fatal, None, error.clone());
                    return Err(error);
                }
            }
            if self.shared.is_stopping() {
                return Ok(());
            }
        }
    }

    /// Connects, and brings records into the log until it is told to stop.
    fn session(&mut self) -> Result<(), Trouble> {
        self.shared.set_state(MirrorState::Connecting);
        let mut session = self.connect()?;
        self.is_down = false;
        self.shared.set_state(MirrorState::Running);
        self.look();
        loop {
            self.shared.listen();
            if self.shared.is_stopping() {
                self.commit(&mut session)?;
                self.look();
                return Ok(());
            }
            self.listen_to_client(&session)?;
            if self.wants_retry() {
                self.commit(&mut session)?;
                self.lanes.iter_mut().for_each(|lane| lane.paused = None);
                return Err(Trouble::Again);
            }
            if self.shared.is_paused() {
                self.commit(&mut session)?;
                self.shared.set_state(MirrorState::Paused);
                if self.now().saturating_sub(session.refreshed_at) >= REFRESH {
                    self.look_ahead(&mut session)?;
                }
                self.look_if_due();
                self.shared.wait(SLEEP_MAX);
                continue;
            }
            self.shared.set_state(if self.is_down { MirrorState::Connecting } else { MirrorState::Running });
            if self.now().saturating_sub(session.refreshed_at) >= REFRESH {
                self.refresh(&mut session)?;
            }
            let moved = self.fill(&mut session)?;
            if !moved {
                // Whatever came together is written together, and nothing waits for more.
                self.commit(&mut session)?;
            }
            self.answer(&session);
            self.look_if_due();
            if !moved {
                self.shared.wait(SLEEP_MAX);
            }
        }
    }

    fn refresh(&mut self, session: &mut Session) -> Result<(), Trouble> {
        self.look_ahead(session)?;
        match self.has_grown(&session.admin) {
            Ok(true) => {
                self.commit(session)?;
                return Err(Trouble::Again);
            }
            Ok(false) => self.is_down = false,
            Err(error) => {
                // The client library says so only once, and what was fetched before may still have come after that.
                self.is_down |= error.kind() == ErrorKind::Unavailable;
                self.pass(error)?;
            }
        }
        Ok(())
    }

    /// Whether partitions that were paused are to be tried again.
    fn wants_retry(&self) -> bool {
        let asked = self.shared.take_retry();
        let paused = || self.lanes.iter().filter_map(|lane| lane.paused.as_ref());
        let due = |after| paused().any(|paused| self.now().saturating_sub(paused.since) >= after);
        (asked && paused().next().is_some()) || self.settings.retry_paused.is_some_and(due)
    }

    /// Serves what is about all partitions: errors, tokens, how far Kafka's partitions reach.
    fn listen_to_client(&mut self, session: &Session) -> Result<(), Trouble> {
        let consumer = Arc::clone(&session.consumer);
        while let Some(told) = consumer.poll(Duration::ZERO) {
            match told {
                // Each partition has a queue of its own: a record here would be out of order there.
                Ok(_) => return Err(Trouble::Again),
                // There is nobody in the group. It is no trouble by which a later error would be explained.
                Err(error) if code(&error) == Some(Code::GroupAuthorizationFailed) => {
                    drop(consumer.client().context().take_trouble("the group of the source"));
                }
                Err(error) => {
                    self.is_down |= code(&error) == Some(Code::AllBrokersDown);
                    match self.explained(&consumer, "the Kafka client has met an error", error) {
                        (Class::Fatal, error) => return Err(Trouble::Fatal(error)),
                        (_, error) => self.tell(error),
                    }
                }
            }
        }
        if let Some(statistics) = consumer.client().context().take_statistics() {
            for lane in &mut self.lanes {
                let topic = statistics.topics.get(&lane.place.0);
                let number = i32::try_from(lane.place.1).unwrap_or(i32::MAX);
                let Some(partition) = topic.and_then(|topic| topic.partitions.get(&number)) else { continue };
                lane.end = lane.end.max(partition.ls_offset);
                lane.ended_at = partition.eof_offset;
            }
        }
        Ok(())
    }

    /// The error in the words that the client library has found for it, and what it means.
    fn explained(&self, consumer: &BaseConsumer<KafkaContext>, context: &str, error: KafkaError) -> (Class, Error) {
        let class = code(&error).map_or(Class::Passing, class);
        let known = consumer.client().context().take_trouble(context);
        known.unwrap_or_else(|| (class, from_kafka(context, error)))
    }

    /// Takes what there is, partition by partition. Answers whether there was anything.
    fn fill(&mut self, session: &mut Session) -> Result<bool, Trouble> {
        let mut moved = false;
        let count = self.lanes.len();
        for turn in 0..count {
            let index = (self.first + turn) % count;
            let Some(lane) = self.lanes.get_mut(index).filter(|lane| lane.paused.is_none()) else { continue };
            let Some(queue) = lane.queue.take() else { continue };
            let drained = self.drain(session, index, &queue);
            if let Some(lane) = self.lanes.get_mut(index) {
                lane.queue = Some(queue);
            }
            moved |= drained?;
        }
        self.first = if count == 0 { 0 } else { (self.first + 1) % count };
        Ok(moved)
    }

    fn drain(
        &mut self,
        session: &mut Session,
        index: usize,
        queue: &PartitionQueue<KafkaContext>,
    ) -> Result<bool, Trouble> {
        let mut moved = false;
        for _ in 0..TURN {
            let Some(lane) = self.lanes.get_mut(index).filter(|lane| lane.paused.is_none()) else { break };
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    (moved, self.is_down) = (true, false);
                    self.take(session, index, &message)?;
                    if session.batch.is_full() {
                        self.commit(session)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    lane.at_end = true;
                    // What should have come first is not there any more.
                    lane.verify = None;
                }
                Some(Err(error)) => self.partition_error(session, index, error)?,
            }
        }
        Ok(moved)
    }

    /// Something is wrong with one partition.
    fn partition_error(&mut self, session: &Session, index: usize, error: KafkaError) -> Result<(), Trouble> {
        let Some(lane) = self.lanes.get(index) else { return Ok(()) };
        let context = format!("cannot read topic {}, partition {} of Kafka", quoted(&lane.place.0), lane.place.1);
        let code = code(&error);
        let (class, error) = self.explained(&session.consumer, &context, error);
        match (class, code) {
            (Class::Fatal, _) => Err(Trouble::Fatal(error)),
            // Retention was faster, or the partition is another one: that is found out when it begins again.
            (_, Some(Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::NoOffset | Code::LogTruncation)) => {
                Err(Trouble::Passing(error))
            }
            (Class::Partition, _) => {
                self.pause_at(index, error);
                Ok(())
            }
            (Class::Passing, _) => {
                self.tell(error);
                Ok(())
            }
        }
    }

    fn pause_at(&mut self, index: usize, error: Error) {
        if index >= self.lanes.len() {
            return;
        }
        let mut lane = self.lanes.swap_remove(index);
        self.pause(&mut lane, error);
        self.lanes.push(lane);
        let last = self.lanes.len() - 1;
        self.lanes.swap(index, last);
    }

    /// Takes one record.
    fn take(&mut self, session: &mut Session, index: usize, message: &BorrowedMessage<'_>) -> Result<(), Trouble> {
        let (id, with_origin) = (self.settings.log.id(), self.settings.origin_headers);
        loop {
            let Some(lane) = self.lanes.get_mut(index) else { return Ok(()) };
            lane.at_end = false;
            if let Some(known) = lane.verify.take()
                && known.offset == message.offset()
            {
                return if known == Print::of(message) { Ok(()) } else { Err(self.is_another(index)) };
            }
            if message.offset() < lane.taken {
                return Ok(());
            }
            match session.batch.add(id, index, lane, message, with_origin)? {
                Added::Yes => return Ok(()),
                Added::Full => self.commit(session)?,
                Added::Refused(error) => return self.refused(session, index, message, error),
            }
        }
    }

    /// The record that was read last is not what it was.
    fn is_another(&self, index: usize) -> Trouble {
        let (topic, partition) = self.lanes.get(index).map(|lane| lane.place.clone()).unwrap_or_default();
        Trouble::Fatal(Error::new(
            ErrorKind::Mismatch,
            format!(
                "source {} has read topic {}, partition {partition} of Kafka, and the last record that it has read is another one now: \
                 the topic was deleted and made again, or has lost its end; a source of another name begins anew",
                self.settings.name,
                quoted(&topic)
            ),
        ))
    }

    /// The log does not take a record.
    fn refused(
        &mut self,
        session: &mut Session,
        index: usize,
        message: &BorrowedMessage<'_>,
        error: Error,
    ) -> Result<(), Trouble> {
        let context = format!(
            "the log does not take offset {} of topic {}, partition {} of Kafka",
            message.offset(),
            quoted(message.topic()),
            message.partition()
        );
        let error = Error::with_source(error.kind(), context, error);
        if self.settings.on_refused == OnMissing::Skip {
            loop {
                let Some(lane) = self.lanes.get_mut(index) else { return Ok(()) };
                match session.batch.add_skipped(index, lane, message, &error)? {
                    Added::Yes => {
                        let place = lane.place.clone();
                        self.shared.met(ErrorClass::Skipped, Some(place), error);
                        return Ok(());
                    }
                    Added::Full => self.commit(session)?,
                    Added::Refused(_) => break,
                }
            }
        }
        self.pause_at(index, error);
        Ok(())
    }

    fn commit(&mut self, session: &mut Session) -> Result<(), Trouble> {
        if session.batch.is_empty() {
            return Ok(());
        }
        let done = session.batch.commit(&mut self.lanes)?;
        let counters = &self.shared.counters;
        Counters::add(&counters.forwarded, done.received);
        Counters::add(&counters.forwarded_bytes, done.received_bytes);
        Counters::add(&counters.passed_over, done.passed_over);
        Counters::add(&counters.refused, done.refused);
        Counters::add(&counters.committed, 1);
        let now = u64::try_from(self.settings.log.now_micros()).unwrap_or(0);
        counters.last_commit.store(now, Ordering::Relaxed);
        Ok(())
    }
}
