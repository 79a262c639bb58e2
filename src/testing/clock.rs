//! The clock that is moved by hand.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::record::datetime_from_micros;
use crate::segment::lock;
use crate::storage::Clock;
use crate::storage::clock::Watcher;

/// 2024-01-01T00:00:00Z: where a clock begins if nobody says otherwise.
const BEGIN_MICROS: i64 = 1_704_067_200_000_000;

/// A clock that moves only by hand: what the records of a log are stamped with, and what retention, intervals and deadlines
/// go by. Clones are the same clock, and several logs may share it.
///
/// Give it to a log with [`LogBuilder::clock`](crate::LogBuilder::clock); a log on a [`SimulatedDisk`](super::SimulatedDisk) has
/// one already.
///
/// ```
/// use std::time::Duration;
///
/// use annals::testing::ManualClock;
/// use annals::{Log, Raw, Record, TopicDef, TopicSettings};
///
/// const TICKS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("ticks");
///
/// # fn main() -> annals::Result<()> {
/// let clock = ManualClock::default();
/// let log = Log::builder().clock(&clock).in_memory()?;
/// let ticks = log.blocking_create_topic(TICKS, TopicSettings::default())?;
///
/// let one = ticks.blocking_produce(Record::new("tick".into()))?;
/// let two = ticks.blocking_produce(Record::new("tick".into()))?;
/// assert_eq!(one.timestamp(), two.timestamp());   // it stands still
///
/// clock.advance(Duration::from_secs(60));
/// let three = ticks.blocking_produce(Record::new("tick".into()))?;
/// assert_eq!(three.timestamp() - one.timestamp(), chrono::TimeDelta::minutes(1));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<Hands>);

#[derive(Default)]
struct Hands {
    /// The time of day.
    micros: AtomicI64,
    /// What deadlines go by.
    monotonic_micros: AtomicU64,
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}

impl Default for ManualClock {
    /// At 2024-01-01T00:00:00Z.
    fn default() -> Self {
        Self::new(datetime_from_micros(BEGIN_MICROS))
    }
}

impl ManualClock {
    /// A clock that stands at `now`; what is finer than a microsecond is cut off.
    pub fn new(now: DateTime<Utc>) -> Self {
        let clock = Self(Arc::default());
        clock.0.micros.store(now.timestamp_micros(), Ordering::Relaxed);
        clock
    }

    /// The time that it shows.
    pub fn now(&self) -> DateTime<Utc> {
        datetime_from_micros(self.0.micros.load(Ordering::Relaxed))
    }

    /// Lets time pass; what is finer than a microsecond is cut off.
    ///
    /// A log on a simulated disk does here, before this returns, what has become due: it writes and syncs what was deferred,
    /// lets go of what is too old, compacts. `advance(Duration::ZERO)` does what waits for no time. Any other log is told, and does
    /// the same on its own threads, some time after this has returned.
    pub fn advance(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.monotonic_micros.fetch_add(micros, Ordering::Relaxed);
        self.0.micros.fetch_add(i64::try_from(micros).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.tell_all();
    }

    /// Sets the time of day, also to an earlier one, as an administrator or a time server may. Deadlines do not move: they go by
    /// the time that has passed, which only [`advance`](Self::advance) changes.
    pub fn set(&self, now: DateTime<Utc>) {
        self.0.micros.store(now.timestamp_micros(), Ordering::Relaxed);
        self.tell_all();
    }

    fn tell_all(&self) {
        let watchers: Vec<_> = {
            let mut watchers = lock(&self.0.watchers);
            watchers.retain(|watcher| watcher.strong_count() > 0);
            watchers.iter().filter_map(Weak::upgrade).collect()
        };
        // Not under the lock: a log may be opened or dropped meanwhile.
        watchers.iter().for_each(|watcher| watcher.moved());
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        self.0.micros.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.monotonic_micros.load(Ordering::Relaxed))
    }

    fn tell(&self, watcher: Weak<dyn Watcher>) {
        lock(&self.0.watchers).push(watcher);
    }
}
