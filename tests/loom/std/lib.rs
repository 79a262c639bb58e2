//! The standard library, but that what threads share, and how they wait, is loom's: sources that are compiled with this crate as
//! their `std` have their schedules explored as they stand.

pub use std::*;

pub mod sync {
    // As it is, since loom's holds no `dyn Trait`; nothing here depends on how often something is shared.
    pub use std::sync::{Arc, OnceLock, PoisonError};

    pub use loom::sync::{Mutex, MutexGuard, RwLock};

    pub mod atomic {
        pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    }
}

pub mod hint {
    pub use loom::hint::spin_loop;
}

pub mod thread {
    use std::sync::atomic::{AtomicBool, Ordering};

    pub use loom::thread::{park, spawn};

    /// To loom, waking a thread is one step with what comes before it, and whoever is woken sees at once all that was done by
    /// then, awake or not. With this, others go on in between.
    pub static UNPARKS_LATE: AtomicBool = AtomicBool::new(false);

    pub struct Thread(loom::thread::Thread);

    pub fn current() -> Thread {
        Thread(loom::thread::current())
    }

    impl Thread {
        pub fn unpark(&self) {
            if UNPARKS_LATE.load(Ordering::Relaxed) {
                loom::thread::yield_now();
            }
            self.0.unpark();
        }
    }
}
