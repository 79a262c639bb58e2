//! Waiting for many partitions at once: whoever does is told which of them have changed, so that it looks at those only.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Waker;

use super::Partition;

/// Whoever is told. Called by the thread that changed the partition, which must not be held up.
pub(crate) trait Watch: Debug + Send + Sync {
    /// The partition that was registered under this number has changed. Answers with who is to be woken because of it: that is
    /// other people's code, and runs under no lock.
    fn changed(&self, number: usize) -> Option<Waker>;
}

/// One who watches one partition.
#[derive(Debug)]
pub(crate) struct Watcher {
    target: Arc<dyn Watch>,
    number: usize,
    /// It was told, and has not looked since.
    told: AtomicBool,
}

impl Watcher {
    pub(crate) fn new(target: Arc<dyn Watch>, number: usize) -> Arc<Self> {
        Arc::new(Self { target, number, told: AtomicBool::new(false) })
    }

    /// Whether `partition` ends at `next`, or before. If it does, the next change is told.
    pub(crate) fn is_at_end(&self, partition: &Partition, next: u64) -> bool {
        if next < partition.visible_end() {
            return false;
        }
        // In this order: what comes from here on is told, what came before is seen by the look.
        self.rearm();
        next >= partition.visible_end()
    }

    /// Wants to be told of the next change. To be called before a look: a change is seen by the look, or told after it.
    ///
    /// Both sides exchange the mark, so one comes first. If that is the change, this reads what it has stored, and with it
    /// everything that was made visible before; if it is this, the change finds the mark gone, and tells.
    fn rearm(&self) {
        self.told.swap(false, Ordering::AcqRel);
    }

    fn tell(&self) -> Option<Waker> {
        if self.told.swap(true, Ordering::AcqRel) { None } else { self.target.changed(self.number) }
    }
}

/// All who watch a partition.
#[derive(Debug, Default)]
pub(super) struct Watchers(RwLock<Vec<Arc<Watcher>>>);

impl Watchers {
    pub(super) fn tell(&self) {
        // Of one who watches, without an allocation.
        let (mut first, mut others) = (None, Vec::new());
        for watcher in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            match watcher.tell() {
                Some(waker) if first.is_none() => first = Some(waker),
                waker => others.extend(waker),
            }
        }
        first.into_iter().chain(others).for_each(Waker::wake);
    }
}

impl Partition {
    /// Tells `watcher` of every change from now on, and keeps the newest frames in memory for it.
    pub(crate) fn watch(&self, watcher: Arc<Watcher>) {
        self.watchers.0.write().unwrap_or_else(PoisonError::into_inner).push(watcher);
        self.follow();
    }

    /// The end of [`watch`](Self::watch).
    pub(crate) fn unwatch(&self, watcher: &Arc<Watcher>) {
        self.watchers.0.write().unwrap_or_else(PoisonError::into_inner).retain(|known| !Arc::ptr_eq(known, watcher));
        self.tail.unfollow();
    }
}
