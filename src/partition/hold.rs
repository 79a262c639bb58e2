//! Holding retention back: whoever still needs records says from which offset on, and up to which cap.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::Partition;
use crate::error::{Error, ErrorKind, Result};
use crate::segment::{Segment, lock};

/// The holds on a partition.
#[derive(Debug, Default)]
pub(super) struct Holds {
    all: Mutex<Vec<Weak<Hold>>>,
    /// How many of them keep records from being appended.
    blocking: AtomicU32,
}

/// Records from an offset on are needed.
#[derive(Debug)]
pub(crate) struct Hold {
    partition: Arc<Partition>,
    from: AtomicU64,
    bytes_max: Option<u64>,
    /// In microseconds.
    age_max: Option<i64>,
    broken: AtomicBool,
    blocks: AtomicBool,
}

impl Hold {
    pub(crate) fn new(partition: Arc<Partition>, from: u64, bytes_max: Option<u64>, age_max: Option<i64>) -> Arc<Self> {
        let hold = Arc::new(Self {
            partition,
            from: AtomicU64::new(from),
            bytes_max,
            age_max,
            broken: AtomicBool::new(false),
            blocks: AtomicBool::new(false),
        });
        let mut all = lock(&hold.partition.holds.all);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&hold));
        drop(all);
        hold
    }

    /// Records before this offset are not needed any more.
    pub(crate) fn advance(&self, to: u64) {
        self.from.fetch_max(to, Ordering::AcqRel);
    }

    /// How many bytes there are from the segment on that has the first record that is needed.
    pub(crate) fn held_bytes(&self) -> u64 {
        held_bytes(&self.partition.segments(), self.from.load(Ordering::Acquire))
    }

    /// Whether the cap was reached: retention has let records go that were needed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Has appends refused from now on, or not any more.
    pub(crate) fn block(&self, block: bool) {
        let blocking = &self.partition.holds.blocking;
        match (self.blocks.swap(block, Ordering::AcqRel), block) {
            (false, true) => drop(blocking.fetch_add(1, Ordering::AcqRel)),
            (true, false) => drop(blocking.fetch_sub(1, Ordering::AcqRel)),
            _ => {}
        }
    }

    /// Whether it holds records back, given what there is and what time it is.
    fn holds(&self, segments: &[Arc<Segment>], now: i64) -> bool {
        let from = self.from.load(Ordering::Acquire);
        let too_much = self.bytes_max.is_some_and(|max| held_bytes(segments, from) > max);
        let too_old = self.age_max.is_some_and(|age| {
            let newest = needed(segments, from).next().and_then(|segment| Some(segment.summary()?.max_timestamp));
            newest.is_some_and(|newest| newest < now.saturating_sub(age))
        });
        !too_much && !too_old
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.block(false);
    }
}

/// The segments that have records from an offset on.
fn needed(segments: &[Arc<Segment>], from: u64) -> impl Iterator<Item = &Arc<Segment>> {
    let first = segments.partition_point(|segment| segment.base_offset <= from).saturating_sub(1);
    segments.iter().skip(first)
}

fn held_bytes(segments: &[Arc<Segment>], from: u64) -> u64 {
    needed(segments, from).map(|segment| segment.readable()).sum()
}

impl Partition {
    /// Where the log may start, given where it would: what is held stays, and a hold beyond its cap is broken.
    pub(super) fn held_from(&self, segments: &[Arc<Segment>], start: u64, now: i64) -> u64 {
        let all: Vec<_> = lock(&self.holds.all).iter().filter_map(Weak::upgrade).collect();
        all.iter().fold(start, |start, hold| {
            let from = hold.from.load(Ordering::Acquire);
            if from >= start {
                return start;
            }
            if hold.holds(segments, now) {
                return from;
            }
            hold.broken.store(true, Ordering::Release);
            start
        })
    }

    /// Whether appends are refused because somebody is too far behind.
    #[inline]
    pub(crate) fn check_blocked(&self) -> Result<()> {
        if self.holds.blocking.load(Ordering::Relaxed) == 0 { Ok(()) } else { Err(self.blocked()) }
    }

    #[cold]
    fn blocked(&self) -> Error {
        Error::new(
            ErrorKind::Busy,
            format!(
                "topic {}, partition {} takes no records just now: somebody who holds its records, such as a mirror, is too far behind",
                self.owner.topic, self.owner.partition
            ),
        )
    }
}
