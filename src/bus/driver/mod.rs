//! What a subscription does: takes events from its consumer, hands them to its handler, and sees to what becomes of them.
//!
//! One task has it all. Everything happens in [`Driver::poll`], which goes round until nothing more can be done and then waits: for
//! news from the consumer, for a handler or a commit to answer, for a time, or for whoever holds the subscription.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context as Waking, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::FuturesUnordered;

use super::Bus;
use super::backend::Feed;
use super::breaker::{Breaker, Permit};
use super::context::Context;
use super::dead_letters::Parked;
#[cfg(feature = "kafka")]
use super::dead_letters::record::is_release;
use super::dead_letters::record::replayed;
use super::handler::{Dispatch, HandlerError, Reason};
use super::policy::Policy;
use super::shared::Shared;
use super::timers::{Alarm, Sleep, Timers};
use crate::consumer::{Item, TopicPartition};
use crate::error::{Error, ErrorKind, Result};
use crate::record::Message;
use crate::segment::lock;

mod outcome;
mod waiting;
mod work;

use waiting::Waiting;
use work::{Key, Runner, Turn, Work, said};

/// So many rounds are made before others on the same thread get their turn.
const ROUNDS_MAX: u32 = 32;
/// So many events are taken in between two looks at those that are under way.
const TAKEN_MAX: u32 = 64;

/// Partitions that the consumer has lost, for the driver to take note of.
pub(super) type Gone = Arc<Mutex<Vec<TopicPartition>>>;

/// A subscription at work.
pub(super) struct Driver {
    bus: Bus,
    shared: Arc<Shared>,
    feed: Feed,
    gone: Gone,
    handler: Arc<dyn Dispatch>,
    policy: Policy,
    breaker: Breaker,
    parked: Option<Arc<Parked>>,
    timers: Arc<Timers>,
    alarm: Alarm,
    waiting: Waiting,
    running: FuturesUnordered<Turn>,
    /// It takes nothing new, and ends when nothing is under way.
    stopping: bool,
    stop_at: Option<Duration>,
    /// Why it has to end.
    failure: Option<Error>,
}

impl Driver {
    pub(super) fn new(
        bus: Bus,
        shared: Arc<Shared>,
        feed: Feed,
        gone: Gone,
        handler: Arc<dyn Dispatch>,
        policy: Policy,
        parked: Option<Arc<Parked>>,
    ) -> Result<Self> {
        let engine = &bus.log().inner.engine;
        let timers = Timers::of(engine)?;
        let alarm = Alarm::new(engine, &timers);
        Ok(Self {
            shared,
            feed,
            gone,
            handler,
            breaker: Breaker::new(policy.breaker),
            policy,
            parked,
            timers,
            alarm,
            waiting: Waiting::default(),
            running: FuturesUnordered::new(),
            stopping: false,
            stop_at: None,
            failure: None,
            bus,
        })
    }

    /// Works until it is told to stop, the log is closed, or it cannot go on.
    pub(super) async fn run(mut self) {
        std::future::poll_fn(|waking| self.poll(waking)).await;
        self.waiting = Waiting::default();
        // Whatever has not come to an end is given back: it is delivered again.
        self.running = FuturesUnordered::new();
        let closed = self.feed.is_closed();
        let left = self.feed.close().await;
        let failure = self.failure.take().or_else(|| left.err().filter(|_| !closed));
        self.shared.end(failure);
    }

    fn poll(&mut self, waking: &mut Waking<'_>) -> Poll<()> {
        self.shared.register(waking.waker());
        for _ in 0..ROUNDS_MAX {
            // Before anything is looked at: what was published before the question is seen.
            let asked = self.shared.asked_idle();
            self.obey();
            let mut moved = self.poll_running(waking);
            moved |= self.start_waiting(waking);
            moved |= self.take_in(waking);
            self.shared.counters.waiting.store(self.waiting.count() as u64, Ordering::Relaxed);
            self.shared.counters.running.store(self.running.len() as u64, Ordering::Relaxed);
            if self.is_over() {
                return Poll::Ready(());
            }
            if !moved {
                if self.running.is_empty() && self.waiting.count() == 0 && self.feed.is_at_end(asked, &self.shared) {
                    self.shared.is_idle(asked);
                }
                if self.rest(waking).is_pending() {
                    return Poll::Pending;
                }
            }
        }
        waking.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        let late = self.stop_at.is_some_and(|at| self.alarm.now() >= at);
        self.feed.is_closed() || self.failure.is_some() || (self.stopping && (self.running.is_empty() || late))
    }

    /// Waits for the next time at which there is something to do.
    fn rest(&mut self, waking: &Waking<'_>) -> Poll<()> {
        let now = self.alarm.now();
        let retry = self.waiting.wake(now);
        let breaker = match self.breaker.permit(now) {
            Permit::NotBefore(until) => Some(until),
            _ => None,
        };
        self.shared.set_breaker(self.breaker.state(now));
        let next = [retry.filter(|_| !self.stopping), breaker, self.stop_at].into_iter().flatten().min();
        match next {
            Some(next) => self.alarm.poll(next, waking),
            None => {
                self.alarm.clear();
                Poll::Pending
            }
        }
    }

    /// Does what whoever holds the subscription wants.
    fn obey(&mut self) {
        let wishes = self.shared.take_wishes();
        for seek in wishes.seeks {
            match &mut self.feed {
                Feed::Log(consumer) => {
                    let answer = consumer.blocking_seek(&seek.topic, seek.partition, seek.to);
                    if answer.is_ok() {
                        let is_of_it =
                            |message: &Message| message.topic() == seek.topic && message.partition() == seek.partition;
                        self.waiting.forget(is_of_it);
                    }
                    // Nobody has to wait for it.
                    let _gone = seek.answer.send(answer).is_err();
                }
                #[cfg(feature = "kafka")]
                Feed::Kafka(feed) => feed.seek(seek),
            }
        }
        if wishes.stop && !self.stopping {
            self.stopping = true;
            self.stop_at = Some(self.alarm.now().saturating_add(self.policy.shutdown_timeout));
        }
    }

    fn poll_running(&mut self, waking: &mut Waking<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(over)) = Pin::new(&mut self.running).poll_next(waking) {
            moved = true;
            if let Some(over) = over {
                self.over(over, waking);
            }
        }
        moved
    }

    /// Whether another turn may begin now.
    fn is_free(&self) -> bool {
        let room = self.running.len() < self.policy.concurrency;
        let permitted = match self.breaker.permit(self.alarm.now()) {
            Permit::All => true,
            Permit::One => self.running.is_empty(),
            Permit::NotBefore(_) | Permit::Wait => false,
        };
        // A partition that is to go does so once nothing of this member's is under way: if always another began, it never would.
        let stays = !self.feed.is_asked();
        room && permitted && stays && !self.stopping && self.failure.is_none() && !self.shared.is_paused()
    }

    fn start_waiting(&mut self, waking: &mut Waking<'_>) -> bool {
        self.waiting.wake(self.alarm.now());
        if !self.waiting.has_ready() || !self.is_free() {
            return false;
        }
        // What has gone while nothing could begin does not begin here any more.
        self.forget_gone();
        let mut moved = false;
        while self.waiting.has_ready() && self.is_free() {
            let Some(work) = self.waiting.next_ready() else { break };
            moved = true;
            self.start(work, waking);
        }
        moved
    }

    /// Takes the next events from the consumer.
    fn take_in(&mut self, waking: &mut Waking<'_>) -> bool {
        let mut moved = false;
        for _ in 0..TAKEN_MAX {
            let asked = self.feed.is_asked();
            if asked && !self.running.is_empty() {
                break;
            }
            let room =
                self.waiting.count() < self.policy.waiting_max && self.waiting.bytes() < self.policy.waiting_bytes_max;
            if !(room && self.is_free()) || self.waiting.has_ready() {
                self.feed.poll_rebalance(waking);
                self.forget_gone();
                // What waits for it to be over can begin.
                moved |= asked && !self.feed.is_asked();
                break;
            }
            let next = self.feed.poll_next(waking);
            self.forget_gone();
            match next {
                Poll::Ready(Some(item)) => self.take(item, waking),
                Poll::Ready(None) | Poll::Pending => break,
            }
            moved = true;
        }
        moved
    }

    fn forget_gone(&mut self) {
        self.feed.take_gone(&self.gone);
        let gone = std::mem::take(&mut *lock(&self.gone));
        if !gone.is_empty() {
            let is_gone = |message: &Message| {
                gone.iter().any(|gone| gone.partition == message.partition() && *gone.topic == *message.topic())
            };
            self.waiting.forget(is_gone);
        }
    }

    fn take(&mut self, item: Result<Item>, waking: &mut Waking<'_>) {
        match item {
            Ok(Item::Message(message)) => self.accept(message, waking),
            Ok(Item::CaughtUp) => self.shared.caught_up(),
            Ok(Item::Gap(gap)) => {
                tracing::warn!(group = self.feed.group(), ?gap, "records were gone before they could be handled");
                self.shared.counters.gaps.add(1);
            }
            Ok(Item::Rewound(rewound)) => {
                tracing::warn!(group = self.feed.group(), ?rewound, "records that were handled are lost");
                self.shared.counters.rewound.add(1);
            }
            Err(error) if self.feed.is_fatal(&error) => self.fail(error),
            Err(error) => {
                tracing::error!(group = self.feed.group(), %error, "a partition cannot be read");
                self.shared.met(error);
            }
        }
    }

    /// Decides what is to be done with an event.
    fn accept(&mut self, message: Message, waking: &mut Waking<'_>) {
        let delivered = Arc::new(message);
        let shown = match replayed(&delivered, self.feed.group()) {
            None => Arc::clone(&delivered),
            Some(Some(shown)) => Arc::new(shown),
            // Another group's.
            Some(None) => return self.finish(&delivered),
        };
        #[cfg(feature = "kafka")]
        if !Arc::ptr_eq(&delivered, &shown)
            && let Feed::Kafka(_) = &self.feed
        {
            // Whoever has sent it may be another process.
            let purged = is_release(&delivered);
            self.parked.iter().for_each(|parked| parked.let_go(&shown, !purged));
            if purged {
                return self.finish(&delivered);
            }
        }
        let tries = match self.feed.tries(&delivered) {
            Ok(tries) => tries,
            // The partition has gone in this very moment.
            Err(_) => return,
        };
        let key = Key::of(&shown);
        let mut work = Box::new(Work {
            shown,
            key,
            failures: tries.count,
            first_failure: tries.first_at,
            given_up: None,
            delivered,
        });
        if self.policy.retry.is_over(work.failures) {
            let sentence = "its attempts had all failed before the process ended, and what the last of them said is not known any more";
            work.given_up = Some(HandlerError::new(Reason::Failed, true, sentence));
        } else if !work.is_replay() {
            match catch_unwind(AssertUnwindSafe(|| self.policy.passes(&work.shown))) {
                Ok(true) => {}
                Ok(false) => {
                    self.shared.counters.filtered.add(1);
                    return self.finish(&work.delivered);
                }
                Err(panic) => {
                    let sentence = format!("the filter has panicked: {}", said(&*panic));
                    work.given_up = Some(HandlerError::new(Reason::Panicked, true, sentence));
                }
            }
        }
        if self.waiting.is_busy(&work.key) {
            self.waiting.push(work);
        } else {
            self.start(work, waking);
        }
    }

    /// Begins an event's turn. Its key is free.
    fn start(&mut self, mut work: Box<Work>, waking: &mut Waking<'_>) {
        if let Some(error) = work.given_up.take() {
            return self.give_up(work, error, waking);
        }
        if self.is_expired(&work) {
            self.shared.counters.expired.add(1);
            self.finish(&work.delivered);
            return self.waiting.done(&work.key);
        }
        if self.parked.as_ref().is_some_and(|parked| parked.must_park(&work.shown, work.is_replay())) {
            let sentence = "an earlier event of this key is a dead letter";
            return self.give_up(work, HandlerError::new(Reason::Parked, true, sentence), waking);
        }
        let attempt = work.failures.saturating_add(1);
        if attempt == 1 {
            self.shared.counters.delivered.add(1);
            self.shared.counters.bytes.add(work.payload() as u64);
        } else {
            self.shared.counters.retried.add(1);
        }
        self.breaker.started();
        let cx = Context::new(self.bus.clone(), Arc::clone(&self.shared), Arc::clone(&work.shown), attempt);
        let message = &work.shown;
        let span = tracing::debug_span!(
            "deliver",
            group = &*self.shared.group,
            topic = message.topic(),
            partition = message.partition(),
            offset = message.offset(),
            attempt,
            traceparent = message.headers().get_str(crate::event::TRACEPARENT),
        );
        let deadline = self.policy.deadline.map(|time| Sleep::new(&self.bus.log().inner.engine, &self.timers, time));
        let runner = Runner::new(&self.handler, message, &cx, self.policy.manual, deadline, span);
        let turn =
            if self.policy.concurrency == 1 { Turn::here(work, cx, runner) } else { Turn::away(work, cx, runner) };
        self.turn(turn, waking);
    }

    /// Lets a turn come to its end now, if it can.
    fn turn(&mut self, mut turn: Turn, waking: &mut Waking<'_>) {
        match Pin::new(&mut turn).poll(waking) {
            Poll::Ready(Some(over)) => self.over(over, waking),
            Poll::Ready(None) => {}
            Poll::Pending => {
                if let Some(work) = turn.work() {
                    self.waiting.running(&work.key);
                }
                // Looked at once more in the next round, so that it knows whom to wake.
                self.running.push(turn);
            }
        }
    }

    fn is_expired(&self, work: &Work) -> bool {
        let Some(ttl) = work.shown.ttl().or(self.policy.ttl).filter(|_| !work.is_replay()) else { return false };
        let now = self.bus.log().inner.engine.env.clock.now_micros();
        let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
        work.shown.timestamp_micros.saturating_add(ttl) <= now
    }

    /// Says that an event is done. Of a partition that is somebody else's by now, nobody wants to know.
    fn finish(&mut self, message: &Message) {
        for _ in 0..2 {
            match self.feed.finish_async(message) {
                Ok(()) => return,
                Err(error) if error.kind() == ErrorKind::Poisoned => return self.fail(error),
                Err(error) if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Invalid | ErrorKind::Closed) => {
                    return;
                }
                // What was said before could not be written. It is said again together with this.
                Err(error) => self.shared.met(error),
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }
}
