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
    pub use loom::thread::{Thread, current, park, spawn};
}
