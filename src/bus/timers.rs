//! Waiting for a time, on the log's own clock: so what a test does to the clock, it does to retries, deadlines and breakers too.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::segment::lock;

/// Who is to be woken when, on the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Timers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: BTreeMap<(Duration, u64), Waker>,
}

impl Extension for Timers {
    fn due(&self, engine: &Engine, now: Duration) {
        let (due, next) = {
            let mut state = lock(&self.0);
            let later = state.waiting.split_off(&(now, u64::MAX));
            let due = std::mem::replace(&mut state.waiting, later);
            (due, state.waiting.first_key_value().map(|((at, _), _)| *at))
        };
        if let Some(next) = next {
            engine.upkeep.want_call(next);
        }
        due.into_values().for_each(Waker::wake);
    }

    fn closing(&self, _: &Engine) {
        // Whoever waits finds the log closed.
        let waiting = std::mem::take(&mut lock(&self.0).waiting);
        waiting.into_values().for_each(Waker::wake);
    }
}

impl Timers {
    /// The timers of a log.
    ///
    /// # Errors
    ///
    /// `Closed`.
    pub(super) fn of(engine: &Engine) -> Result<Arc<Self>> {
        engine.extensions.get_or_init(Self::default).ok_or_else(Error::closed)
    }

    fn add(&self, engine: &Engine, at: Duration, waker: &Waker) -> (Duration, u64) {
        let mut state = lock(&self.0);
        state.next += 1;
        let key = (at, state.next);
        state.waiting.insert(key, waker.clone());
        let first = state.waiting.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(state);
        if first {
            engine.upkeep.want_call(at);
        }
        key
    }

    fn remove(&self, key: (Duration, u64)) {
        // Dropped outside of the lock: it is other people's code.
        let waker = lock(&self.0).waiting.remove(&key);
        drop(waker);
    }
}

/// One who waits for one time after the other.
pub(super) struct Alarm {
    engine: Arc<Engine>,
    timers: Arc<Timers>,
    set: Option<((Duration, u64), Waker)>,
}

impl Alarm {
    pub(super) fn new(engine: &Arc<Engine>, timers: &Arc<Timers>) -> Self {
        Self { engine: Arc::clone(engine), timers: Arc::clone(timers), set: None }
    }

    pub(super) fn now(&self) -> Duration {
        self.engine.env.clock.monotonic()
    }

    /// Whether it is `at` by now; if not, whoever polls is woken then.
    pub(super) fn poll(&mut self, at: Duration, cx: &Context<'_>) -> Poll<()> {
        if self.now() >= at {
            self.clear();
            return Poll::Ready(());
        }
        if !self.set.as_ref().is_some_and(|((set, _), waker)| *set == at && waker.will_wake(cx.waker())) {
            self.clear();
            self.set = Some((self.timers.add(&self.engine, at, cx.waker()), cx.waker().clone()));
            // The clock may have been moved between the look and the entry.
            if self.now() >= at {
                self.clear();
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    pub(super) fn clear(&mut self) {
        if let Some((key, _)) = self.set.take() {
            self.timers.remove(key);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Resolves when it is time.
pub(super) struct Sleep {
    alarm: Alarm,
    until: Duration,
}

impl Sleep {
    pub(super) fn new(engine: &Arc<Engine>, timers: &Arc<Timers>, time: Duration) -> Self {
        let alarm = Alarm::new(engine, timers);
        let until = alarm.now().saturating_add(time);
        Self { alarm, until }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        self.alarm.poll(until, cx)
    }
}
