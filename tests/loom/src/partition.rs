//! A partition, as far as those who wait for it see it.

use std::sync::atomic::{AtomicU64, Ordering};

use watch::Watchers;

use crate::error::Error;
use crate::group::record::Whose;

#[path = "../../../src/partition/watch.rs"]
pub(crate) mod watch;

#[derive(Debug)]
pub(crate) struct Partition {
    key: Whose,
    /// What stands for the records: whoever sees an end must see what lies before it.
    written: AtomicU64,
    visible_end: AtomicU64,
    watchers: Watchers,
    tail: Tail,
}

/// Frames are not kept in memory here.
#[derive(Debug)]
struct Tail;

impl Tail {
    fn unfollow(&self) {}
}

impl Partition {
    pub(crate) fn new(key: Whose) -> Self {
        let (written, visible_end) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { key, written, visible_end, watchers: Watchers::default(), tail: Tail }
    }

    /// What an append does once its frame is written: `publish`, then `wake_all`.
    pub(crate) fn append(&self, end: u64) {
        self.written.store(end, Ordering::Relaxed);
        self.visible_end.store(end, Ordering::Release);
        self.watchers.tell();
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn visible_end(&self) -> u64 {
        self.visible_end.load(Ordering::Acquire)
    }

    pub(crate) fn key(&self) -> Whose {
        self.key
    }

    pub(crate) fn closed(&self) -> Option<&Error> {
        None
    }

    fn follow(&self) {}
}
