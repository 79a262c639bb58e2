//! Counting what a bus does.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a bus counts, over all subscriptions.
#[derive(Debug, Default)]
pub(super) struct BusCounters {
    pub(super) published: Counter,
}

/// What a subscription counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) delivered: Counter,
    pub(super) succeeded: Counter,
    pub(super) failed: Counter,
    pub(super) retried: Counter,
    pub(super) dead_lettered: Counter,
    pub(super) parked: Counter,
    pub(super) skipped: Counter,
    pub(super) filtered: Counter,
    pub(super) expired: Counter,
    pub(super) bytes: Counter,
    pub(super) gaps: Counter,
    pub(super) rewound: Counter,
    pub(super) waiting: AtomicU64,
    pub(super) running: AtomicU64,
}

/// What a subscription has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SubscriptionStats {
    /// Events that the handler was called with, each once however often it was tried.
    pub delivered: u64,
    /// Events that the handler has done.
    pub succeeded: u64,
    /// Attempts that have failed.
    pub failed: u64,
    /// Attempts that were not the first.
    pub retried: u64,
    /// Events that became dead letters, those included that were parked behind another.
    pub dead_lettered: u64,
    /// Events that became dead letters because one of their key is one.
    pub parked: u64,
    /// Events that were given up and, as the subscription was told to, skipped.
    pub skipped: u64,
    /// Events that did not pass the filter.
    pub filtered: u64,
    /// Events whose time was over.
    pub expired: u64,
    /// Bytes of keys and values of the delivered events.
    pub bytes: u64,
    /// Gaps: records that retention had let go before they were delivered.
    pub gaps: u64,
    /// How often the group was set back because records that it had consumed were lost.
    pub rewound: u64,
    /// Events that wait right now: for their next attempt, or behind another of their key.
    pub waiting: u64,
    /// Events that are being handled right now.
    pub running: u64,
}

impl Counters {
    pub(super) fn read(&self) -> SubscriptionStats {
        SubscriptionStats {
            delivered: self.delivered.get(),
            succeeded: self.succeeded.get(),
            failed: self.failed.get(),
            retried: self.retried.get(),
            dead_lettered: self.dead_lettered.get(),
            parked: self.parked.get(),
            skipped: self.skipped.get(),
            filtered: self.filtered.get(),
            expired: self.expired.get(),
            bytes: self.bytes.get(),
            gaps: self.gaps.get(),
            rewound: self.rewound.get(),
            waiting: self.waiting.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
        }
    }
}

/// What a bus has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BusStats {
    /// Events that were published through this bus, those of handlers' transactions included.
    pub published: u64,
    /// Subscriptions that are running.
    pub active_subscriptions: u64,
    /// The sums over all subscriptions of this bus, those that have ended included.
    pub subscriptions: SubscriptionStats,
}

impl SubscriptionStats {
    pub(super) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.retried += other.retried;
        self.dead_lettered += other.dead_lettered;
        self.parked += other.parked;
        self.skipped += other.skipped;
        self.filtered += other.filtered;
        self.expired += other.expired;
        self.bytes += other.bytes;
        self.gaps += other.gaps;
        self.rewound += other.rewound;
        self.waiting += other.waiting;
        self.running += other.running;
    }
}
