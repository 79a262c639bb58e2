//! The group commit of the single-file log: one thread writes and syncs whatever came in meanwhile.

use std::{
    fs::File,
    future::Future,
    io::Write,
    pin::{Pin, pin},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, JoinHandle, Thread},
};

use crate::contender::Result;

pub(super) struct GroupCommit {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    pending: Mutex<Pending>,
    arrived: Condvar,
    /// Appends up to and including this ticket are on the disk.
    durable: AtomicU64,
    /// Set for good when a write or a sync failed: nothing after it is acknowledged.
    failed: Mutex<Option<String>>,
    waiters: Mutex<Vec<(u64, Waker)>>,
}

#[derive(Default)]
struct Pending {
    frames: Vec<u8>,
    last: u64,
    closing: bool,
}

impl GroupCommit {
    pub(super) fn start(file: File) -> Self {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            arrived: Condvar::new(),
            durable: AtomicU64::new(0),
            failed: Mutex::default(),
            waiters: Mutex::default(),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.commit_all(file)
        });
        Self { shared, thread: Some(thread) }
    }

    /// Lets `encode` add frames to the group that commits next. Resolves when they are on the disk.
    pub(super) fn append(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Ack {
        let mut pending = lock(&self.shared.pending);
        let idle = pending.frames.is_empty();
        encode(&mut pending.frames);
        pending.last += 1;
        let ticket = pending.last;
        drop(pending);
        if idle {
            self.shared.arrived.notify_one();
        }
        Ack { shared: Arc::clone(&self.shared), ticket }
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        lock(&self.shared.pending).closing = true;
        self.shared.arrived.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn commit_all(&self, mut file: File) {
        let mut group = Vec::new();
        loop {
            let mut pending = lock(&self.pending);
            while pending.frames.is_empty() && !pending.closing {
                pending = self.arrived.wait(pending).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            if pending.frames.is_empty() {
                return;
            }
            std::mem::swap(&mut group, &mut pending.frames);
            let last = pending.last;
            drop(pending);
            if let Err(error) = file.write_all(&group).and_then(|()| file.sync_data()) {
                *lock(&self.failed) = Some(error.to_string());
            }
            group.clear();
            self.durable.store(last, Ordering::Release);
            let mut waiters = lock(&self.waiters);
            let woken: Vec<_> = waiters.extract_if(.., |waiter| waiter.0 <= last).collect();
            drop(waiters);
            for (_, waker) in woken {
                waker.wake();
            }
        }
    }
}

/// The acknowledgement of one append.
pub(super) struct Ack {
    shared: Arc<Shared>,
    ticket: u64,
}

impl Ack {
    fn is_durable(&self) -> bool {
        self.shared.durable.load(Ordering::Acquire) >= self.ticket
    }

    fn outcome(&self) -> Result<()> {
        lock(&self.shared.failed).clone().map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Future for Ack {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.is_durable() {
            let mut waiters = lock(&self.shared.waiters);
            // Looked at again under the lock: the committer raises the mark before it takes the waiters.
            if !self.is_durable() {
                waiters.push((self.ticket, context.waker().clone()));
                return Poll::Pending;
            }
        }
        Poll::Ready(self.outcome())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Parks the thread until the future is ready.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}
