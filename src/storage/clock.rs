//! The clock and the source of randomness, behind traits so that a test can hold both still.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time of day.
pub(crate) trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Microseconds since 1970-01-01T00:00:00Z; negative before. May go backwards: nothing in annals orders by it.
    fn now_micros(&self) -> i64;
    /// Time since some moment in the past; never goes backwards. For deadlines.
    fn monotonic(&self) -> Duration;
    /// Asks for `watcher` to be told whenever somebody moves the clock by hand; the others move by themselves.
    #[cfg(feature = "testing")]
    fn tell(&self, _watcher: std::sync::Weak<dyn Watcher>) {}
}

/// Who waits for deadlines on a clock that is moved by hand.
#[cfg(feature = "testing")]
pub(crate) trait Watcher: Send + Sync {
    fn moved(&self);
}

/// Numbers nobody can predict, for identities; never for decisions.
pub(crate) trait Random: fmt::Debug + Send + Sync + 'static {
    fn next_u64(&self) -> u64;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now_micros(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn monotonic(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

/// The randomness of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemRandom;

impl Random for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine for randomness")]
    fn next_u64(&self) -> u64 {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        // The version and variant bits of a v4 uuid are constant; folding the halves leaves no constant bit.
        high.rotate_left(32) ^ low
    }
}

/// A clock that moves by one microsecond a reading, and by hand.
#[derive(Debug)]
#[cfg_attr(not(test), allow(dead_code, reason = "for tests and fuzz targets"))]
pub(crate) struct ManualClock(AtomicI64);

#[cfg_attr(not(test), allow(dead_code, reason = "for tests and fuzz targets"))]
impl ManualClock {
    pub(crate) fn new(micros: i64) -> Self {
        Self(AtomicI64::new(micros))
    }

    pub(crate) fn advance(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed).unsigned_abs())
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the same numbers from the
/// same seed.
#[derive(Debug)]
#[cfg(any(test, feature = "fuzzing", feature = "testing"))]
pub(crate) struct SeededRandom(std::sync::atomic::AtomicU64);

#[cfg(any(test, feature = "fuzzing", feature = "testing"))]
impl SeededRandom {
    pub(crate) fn new(seed: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(seed))
    }
}

#[cfg(any(test, feature = "fuzzing", feature = "testing"))]
impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
