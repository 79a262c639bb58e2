//! What a subscription at work and those who hold it have in common.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use event_listener::Event as Signal;
use tokio::sync::oneshot;

use super::breaker::BreakerState;
use super::meter::Meter;
use super::stats::Counters;
use crate::error::{Error, Result};
use crate::replay::Start;
use crate::segment::lock;

/// Where a subscription is to go on.
#[derive(Debug)]
pub(super) struct Seek {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) to: Start,
    pub(super) answer: oneshot::Sender<Result<()>>,
}

/// What those who hold it want.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) stop: bool,
    pub(super) seeks: Vec<Seek>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) group: Arc<str>,
    pub(super) topics: Vec<String>,
    pub(super) counters: Counters,
    pub(super) meter: Meter,
    paused: AtomicBool,
    caught_up: AtomicBool,
    state: Mutex<State>,
    signal: Signal,
}

#[derive(Debug)]
struct State {
    wishes: Wishes,
    waker: Option<Waker>,
    breaker: BreakerState,
    last_error: Option<Error>,
    ended: Option<Option<Error>>,
    /// How often somebody has asked whether it is idle, and for which of them it was.
    asked_idle: u64,
    was_idle: u64,
}

impl Shared {
    pub(super) fn new(group: Arc<str>, topics: Vec<String>) -> Self {
        let state = State {
            wishes: Wishes::default(),
            waker: None,
            breaker: BreakerState::Closed,
            last_error: None,
            ended: None,
            asked_idle: 0,
            was_idle: 0,
        };
        Self {
            group,
            topics,
            counters: Counters::default(),
            meter: Meter::default(),
            paused: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            state: Mutex::new(state),
            signal: Signal::new(),
        }
    }

    pub(super) fn register(&self, waker: &Waker) {
        let mut state = lock(&self.state);
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    pub(super) fn take_wishes(&self) -> Wishes {
        let mut state = lock(&self.state);
        Wishes { stop: state.wishes.stop, seeks: std::mem::take(&mut state.wishes.seeks) }
    }

    /// Wants something. If it has ended already, nothing happens, and answers are dropped.
    fn want(&self, change: impl FnOnce(&mut Wishes)) {
        let waker = {
            let mut state = lock(&self.state);
            if state.ended.is_some() {
                return;
            }
            change(&mut state.wishes);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn want_stop(&self) {
        self.want(|wishes| wishes.stop = true);
    }

    pub(super) fn want_seek(&self, seek: Seek) {
        self.want(|wishes| wishes.seeks.push(seek));
    }

    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        self.want(|_| ());
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(super) fn caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
        self.signal.notify(usize::MAX);
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    /// Asks to be told when it is idle. Answers with the number of the question.
    pub(super) fn ask_idle(&self) -> u64 {
        let (number, waker) = {
            let mut state = lock(&self.state);
            state.asked_idle += 1;
            (state.asked_idle, state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        number
    }

    pub(super) fn asked_idle(&self) -> u64 {
        lock(&self.state).asked_idle
    }

    pub(super) fn was_idle(&self, number: u64) -> bool {
        lock(&self.state).was_idle >= number
    }

    /// It was idle after so many questions were asked.
    pub(super) fn is_idle(&self, number: u64) {
        let news = {
            let mut state = lock(&self.state);
            let news = number > state.was_idle;
            state.was_idle = number.max(state.was_idle);
            news
        };
        if news {
            self.signal.notify(usize::MAX);
        }
    }

    pub(super) fn set_breaker(&self, breaker: BreakerState) {
        lock(&self.state).breaker = breaker;
    }

    pub(super) fn breaker(&self) -> BreakerState {
        lock(&self.state).breaker
    }

    /// Takes note of an error that does not end the subscription.
    pub(super) fn met(&self, error: Error) {
        lock(&self.state).last_error = Some(error);
    }

    pub(super) fn last_error(&self) -> Option<Error> {
        lock(&self.state).last_error.clone()
    }

    /// It has ended, by itself, or for a reason.
    pub(super) fn end(&self, failure: Option<Error>) {
        if let Some(error) = &failure {
            tracing::error!(group = &*self.group, %error, "a subscription has ended");
        }
        let seeks = {
            let mut state = lock(&self.state);
            state.ended = Some(failure);
            state.waker = None;
            std::mem::take(&mut state.wishes.seeks)
        };
        drop(seeks);
        self.counters.waiting.store(0, Ordering::Relaxed);
        self.counters.running.store(0, Ordering::Relaxed);
        self.signal.notify(usize::MAX);
    }

    pub(super) fn has_ended(&self) -> bool {
        lock(&self.state).ended.is_some()
    }

    pub(super) fn failure(&self) -> Option<Error> {
        lock(&self.state).ended.clone().flatten()
    }

    /// Resolves once it has ended.
    pub(super) async fn ended(&self) -> Result<()> {
        self.until(Self::has_ended).await;
        self.failure().map_or(Ok(()), Err)
    }

    /// Resolves once something holds of which the signal tells.
    pub(super) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let listener = self.signal.listen();
            if !holds(self) {
                listener.await;
            }
        }
    }
}
