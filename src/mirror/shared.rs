//! What the handle of a mirror and its thread have in common.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::DateTime;
use event_listener::Event;
use tokio::sync::broadcast;

use super::status::{ErrorClass, MirrorError, MirrorPartition, MirrorState, MirrorStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::links::{Link, LinkHealth, LinkKind};

/// So many errors are kept for whoever listens.
const ERRORS_KEPT: usize = 256;

/// Locks, also behind a panic: what is in there is replaced as a whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(super) struct Shared<P = MirrorPartition> {
    /// What it is the thread of, for the log of the program.
    what: &'static str,
    name: String,
    wishes: Mutex<Wishes>,
    /// Something was wished for, or there is something to forward.
    bell: Condvar,
    pub(super) counters: Counters,
    seen: Mutex<Seen<P>>,
    /// Told of each change of what is seen.
    changed: Event,
    errors: broadcast::Sender<MirrorError>,
    /// Whether its metrics are exported.
    #[cfg(feature = "metrics")]
    exports: bool,
}

#[derive(Debug, Default)]
struct Wishes {
    stop: bool,
    pause: bool,
    /// Partitions that were paused for an error are to be tried again.
    retry: bool,
    /// What is waited for after an error is to be tried at once.
    hurry: bool,
    /// Somebody has rung.
    rung: bool,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) forwarded: AtomicU64,
    pub(super) forwarded_bytes: AtomicU64,
    pub(super) passed_over: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) committed: AtomicU64,
    pub(super) aborted: AtomicU64,
    /// In microseconds; 0 for never.
    pub(super) last_commit: AtomicU64,
    pub(super) fenced: AtomicBool,
}

#[derive(Debug)]
struct Seen<P> {
    state: MirrorState,
    partitions: Vec<P>,
    last_error: Option<Error>,
    failure: Option<Error>,
    over: bool,
}

impl<P: Clone> Shared<P> {
    pub(super) fn new(what: &'static str, name: &str) -> Self {
        let seen = Seen {
            state: MirrorState::Connecting,
            partitions: Vec::new(),
            last_error: None,
            failure: None,
            over: false,
        };
        Self {
            what,
            name: name.to_owned(),
            wishes: Mutex::default(),
            bell: Condvar::new(),
            counters: Counters::default(),
            seen: Mutex::new(seen),
            changed: Event::new(),
            errors: broadcast::channel(ERRORS_KEPT).0,
            #[cfg(feature = "metrics")]
            exports: false,
        }
    }

    /// Has its metrics exported.
    #[cfg(feature = "metrics")]
    pub(super) fn exporting(mut self, exports: bool) -> Self {
        self.exports = exports;
        self
    }

    /// The name under which metrics are exported, if they are.
    #[cfg(feature = "metrics")]
    pub(super) fn exports_as(&self) -> Option<&str> {
        self.exports.then_some(&*self.name)
    }

    pub(super) fn stop(&self) {
        lock(&self.wishes).stop = true;
        self.ring();
    }

    /// Stops, and waits for the thread that works for a handle.
    pub(super) fn blocking_stop(&self, thread: &Mutex<Option<JoinHandle<()>>>) -> Result<()> {
        self.stop();
        let thread = lock(thread).take();
        // It catches its panics itself.
        thread.map(JoinHandle::join);
        self.blocking_until(Self::ended)
    }

    pub(super) fn pause(&self, pause: bool) {
        let mut wishes = lock(&self.wishes);
        wishes.pause = pause;
        wishes.retry |= !pause;
        wishes.hurry |= !pause;
        drop(wishes);
        self.ring();
    }

    pub(super) fn is_stopping(&self) -> bool {
        lock(&self.wishes).stop
    }

    pub(super) fn is_paused(&self) -> bool {
        lock(&self.wishes).pause
    }

    /// Whether partitions that were paused are to be tried again; asked once for each time.
    pub(super) fn take_retry(&self) -> bool {
        std::mem::take(&mut lock(&self.wishes).retry)
    }

    pub(super) fn ring(&self) {
        lock(&self.wishes).rung = true;
        self.bell.notify_all();
    }

    /// Forgets who has rung so far: whatever is looked at from here on is seen.
    pub(super) fn listen(&self) {
        lock(&self.wishes).rung = false;
    }

    /// Waits until somebody rings who has not been listened to, or until the time is over.
    pub(super) fn wait(&self, most: Duration) {
        let wishes = lock(&self.wishes);
        let rung = self.bell.wait_timeout_while(wishes, most, |wishes| !wishes.rung);
        drop(rung.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for a time, or until it is told to stop or to go on; the latter once for each time that it is told.
    pub(super) fn rest(&self, time: Duration) {
        let wishes = lock(&self.wishes);
        let rested = self.bell.wait_timeout_while(wishes, time, |wishes| !wishes.stop && !wishes.hurry);
        rested.unwrap_or_else(PoisonError::into_inner).0.hurry = false;
    }

    pub(super) fn state(&self) -> MirrorState {
        lock(&self.seen).state
    }

    pub(super) fn partitions(&self) -> Vec<P> {
        lock(&self.seen).partitions.clone()
    }

    pub(super) fn last_error(&self) -> Option<Error> {
        lock(&self.seen).last_error.clone()
    }

    /// Whether it has ended, and why if with an error.
    pub(super) fn ended(&self) -> Option<Result<()>> {
        let seen = lock(&self.seen);
        seen.over.then(|| seen.failure.clone().map_or(Ok(()), Err))
    }

    pub(super) fn set_state(&self, state: MirrorState) {
        let mut seen = lock(&self.seen);
        let same = seen.state == state;
        seen.state = state;
        drop(seen);
        if !same {
            self.changed.notify(usize::MAX);
        }
    }

    pub(super) fn set_partitions(&self, partitions: Vec<P>) {
        self.put_partitions(partitions);
        self.tell();
    }

    /// [`set_partitions`](Self::set_partitions), of which nobody is told yet.
    pub(super) fn put_partitions(&self, partitions: Vec<P>) {
        lock(&self.seen).partitions = partitions;
    }

    /// Wakes who waits for something that was put.
    pub(super) fn tell(&self) {
        self.changed.notify(usize::MAX);
    }

    /// Tells whoever listens of an error.
    pub(super) fn met(&self, class: ErrorClass, partition: Option<(String, u32)>, error: Error) {
        match class {
            ErrorClass::Passing => tracing::warn!(?partition, %error, "a {} has met an error that passes", self.what),
            ErrorClass::Skipped => tracing::error!(?partition, %error, "a {} has left records out", self.what),
            ErrorClass::Partition => tracing::error!(?partition, %error, "a {} has paused a partition", self.what),
            ErrorClass::Fatal => tracing::error!(%error, "a {} has ended", self.what),
        }
        #[cfg(feature = "metrics")]
        if let Some(name) = self.exports_as() {
            super::metrics::count_error(self.what, name, class);
        }
        lock(&self.seen).last_error = Some(error.clone());
        // Nobody has to listen.
        let _nobody = self.errors.send(MirrorError { class, partition, error }).is_err();
    }

    /// The error that the thread's work has ended with, if with one; a panic in it is one.
    pub(super) fn failure_of(&self, work: impl FnOnce() -> Result<()>) -> Option<Error> {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(ended) => ended.err(),
            Err(_) => {
                let what = self.what;
                Some(Error::new(ErrorKind::Failed, format!("a function of the application has panicked in a {what}")))
            }
        }
    }

    pub(super) fn end(&self, failure: Option<Error>) {
        let mut seen = lock(&self.seen);
        seen.state = if failure.is_some() { MirrorState::Failed } else { MirrorState::Stopped };
        (seen.failure, seen.over) = (failure, true);
        drop(seen);
        self.changed.notify(usize::MAX);
    }

    pub(super) fn errors(&self) -> broadcast::Receiver<MirrorError> {
        self.errors.subscribe()
    }

    /// Waits until `found` finds something.
    pub(super) async fn until<T>(&self, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let listener = self.changed.listen();
            if let Some(found) = found(self) {
                return found;
            }
            listener.await;
        }
    }

    /// [`until`](Self::until) for threads.
    pub(super) fn blocking_until<T>(&self, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        use event_listener::Listener;
        loop {
            let listener = self.changed.listen();
            if let Some(found) = found(self) {
                return found;
            }
            listener.wait();
        }
    }
}

impl Shared {
    pub(super) fn status(&self) -> MirrorStatus {
        let counters = &self.counters;
        let last_commit = counters.last_commit.load(Ordering::Relaxed);
        let seen = lock(&self.seen);
        MirrorStatus {
            state: seen.state,
            partitions: seen.partitions.clone(),
            forwarded: counters.forwarded.load(Ordering::Relaxed),
            forwarded_bytes: counters.forwarded_bytes.load(Ordering::Relaxed),
            passed_over: counters.passed_over.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            committed: counters.committed.load(Ordering::Relaxed),
            aborted: counters.aborted.load(Ordering::Relaxed),
            last_commit: DateTime::from_timestamp_micros(last_commit as i64).filter(|_| last_commit > 0),
            last_error: seen.last_error.clone(),
        }
    }
}

/// What a partition says of its health: why it is paused, and how many records it has not moved.
pub(super) trait Moves {
    const KIND: LinkKind;

    fn health(&self) -> (Option<&Error>, u64);
}

impl Moves for MirrorPartition {
    const KIND: LinkKind = LinkKind::Mirror;

    fn health(&self) -> (Option<&Error>, u64) {
        (self.paused.as_ref(), self.lag_records)
    }
}

impl<P: Moves + Clone + fmt::Debug + Send> Link for Shared<P> {
    fn health(&self) -> LinkHealth {
        let seen = lock(&self.seen);
        let all = || seen.partitions.iter().map(P::health);
        LinkHealth {
            kind: P::KIND,
            name: self.name.clone(),
            running: !seen.over,
            paused: self.is_paused(),
            connected: matches!(seen.state, MirrorState::Running | MirrorState::Paused),
            paused_partitions: all().filter(|(paused, _)| paused.is_some()).count() as u64,
            lag_records: all().map(|(_, lag)| lag).sum(),
            error: if seen.over { seen.failure.clone() } else { seen.last_error.clone() },
        }
    }
}

/// Wakes the thread when a partition has something new.
pub(super) struct Bell(pub(super) Arc<Shared>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.ring();
    }
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MirrorPartition, Shared};

    #[test]
    fn a_rest_is_cut_short_once_for_each_time_that_it_is_to_go_on() {
        let shared: Shared<MirrorPartition> = Shared::new("mirror", "m");
        let long = Duration::from_secs(3600);
        shared.pause(false);
        shared.rest(long);
        // It is still to be tried again what was paused, and a rest is one all the same.
        let hurries = || super::lock(&shared.wishes).hurry;
        assert!(!hurries());
        assert!(shared.take_retry());
        shared.rest(Duration::from_millis(1));
        shared.stop();
        shared.rest(long);
    }
}
