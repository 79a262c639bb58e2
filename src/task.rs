//! Between tasks and threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::error::{Error, Result};

/// Runs blocking work on tokio's threads for it; without a runtime, right here.
pub(crate) async fn unblock<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => match runtime.spawn_blocking(work).await {
            Ok(answer) => answer,
            Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            Err(_) => Err(Error::closed()),
        },
        Err(_) => work(),
    }
}

/// How often a thread looks whether it was woken before it sleeps: some microseconds, about what being woken from sleep takes.
/// Whoever wakes a thread that sleeps makes a system call, and one that is still looking costs it none.
const LOOKS: u32 = 2000;

/// Polls on this thread until there is an answer.
pub(crate) fn block<R>(poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> R {
    block_after(LOOKS, poll)
}

/// The same, with another number of looks.
pub(crate) fn block_after<R>(looks_max: u32, mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> R {
    let unpark = Arc::new(Unpark { thread: std::thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(answer) = poll(&mut cx) {
            return answer;
        }
        let mut looks = 0;
        while !unpark.woken.load(Ordering::Acquire) {
            looks += 1;
            if looks < looks_max {
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        }
        // Before the next poll: what comes from here on wakes again. Exchanged, so that the poll sees what it was woken for: a
        // store would take away the mark of whoever came after the look above, and the poll might still miss what that one did.
        unpark.woken.swap(false, Ordering::Acquire);
    }
}

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        // Exchanged: a store would hide from the thread what another who wakes it at the same time has done before.
        self.woken.swap(true, Ordering::Release);
        self.thread.unpark();
    }
}
