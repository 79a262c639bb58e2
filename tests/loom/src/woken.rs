//! A thread that waits for two others, which say what they have done by waking it and by nothing else: whatever is woken for must
//! be seen by a poll after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::{UNPARKS_LATE, spawn};

use crate::real;
use crate::task::block_after;

/// On a thread that waits for nothing else: a late wake is not to meet it elsewhere, where loom does not expect one.
fn wait(looks_max: u32) {
    spawn(move || wait_here(looks_max)).join().unwrap();
}

fn wait_here(looks_max: u32) {
    let done = [false, false].map(|done| Arc::new(AtomicBool::new(done)));
    let mut is_begun = false;
    block_after(looks_max, |cx| {
        if !std::mem::replace(&mut is_begun, true) {
            for done in done.clone() {
                let waker = cx.waker().clone();
                spawn(move || {
                    done.store(true, Ordering::Relaxed);
                    waker.wake();
                });
            }
        }
        if done.iter().all(|done| done.load(Ordering::Relaxed)) { Poll::Ready(()) } else { Poll::Pending }
    });
}

pub(crate) fn asleep() {
    wait(0);
}

/// It looks before it sleeps.
pub(crate) fn awake() {
    wait(2);
}

/// Between what wakes it and being woken, others go on.
pub(crate) fn late() {
    UNPARKS_LATE.store(true, real::sync::atomic::Ordering::Relaxed);
    wait(0);
    UNPARKS_LATE.store(false, real::sync::atomic::Ordering::Relaxed);
}
