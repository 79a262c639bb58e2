//! What a group has finished in a partition.

use std::collections::BTreeMap;

use super::ranges::Ranges;
use super::record::Committed;
use crate::planted::{self, Bug};

/// Everything below `low` is finished; above it, what `done` has. The rest is to be delivered, again if it was before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) low: u64,
    pub(crate) done: Ranges,
    /// How often records that are not finished were tried.
    pub(crate) attempts: BTreeMap<u64, Tries>,
}

/// How often a record was tried in vain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tries {
    pub(crate) count: u32,
    /// When the first try failed, in microseconds since 1970.
    pub(crate) first_at: i64,
}

/// So many ranges and attempts a commit remembers at the most; what does not fit is delivered again after a restart.
pub(crate) const REMEMBERED_MAX: usize = 1000;

impl Progress {
    pub(crate) fn at(low: u64) -> Self {
        Self { low, ..Self::default() }
    }

    pub(crate) fn of(committed: &Committed) -> Self {
        Self {
            low: committed.next_offset,
            done: committed.done.iter().copied().collect(),
            attempts: committed
                .attempts
                .iter()
                .map(|(offset, count, first_at)| (*offset, Tries { count: *count, first_at: *first_at }))
                .collect(),
        }
    }

    /// Everything below `to` is finished. Answers whether that is news.
    pub(crate) fn finish_below(&mut self, to: u64) -> bool {
        let news = to > self.low;
        if news {
            self.rise(to);
        }
        news
    }

    /// Offsets from `from` up to and without `to` are finished. Answers whether that is news.
    pub(crate) fn finish(&mut self, from: u64, to: u64) -> bool {
        if to <= self.low || self.done.end_from(from) >= to {
            return false;
        }
        if from <= self.low || planted::is(Bug::UnfinishedPassed) {
            self.rise(to);
            return true;
        }
        self.done.add(from, to);
        while let Some(offset) = self.attempts.range(from..to).next().map(|(offset, _)| *offset) {
            self.attempts.remove(&offset);
        }
        true
    }

    fn rise(&mut self, to: u64) {
        self.low = self.done.end_from(to);
        self.done.forget_below(self.low);
        while let Some(first) = self.attempts.first_entry().filter(|first| *first.key() < self.low) {
            first.remove();
        }
    }

    pub(crate) fn is_finished(&self, offset: u64) -> bool {
        offset < self.low || self.done.contains(offset)
    }

    /// A record was tried once more, and failed. Answers how often by now; `None` if it is finished.
    pub(crate) fn note_attempt(&mut self, offset: u64, now: i64) -> Option<Tries> {
        if self.is_finished(offset) {
            return None;
        }
        let tries = self.attempts.entry(offset).or_insert(Tries { count: 0, first_at: now });
        tries.count = tries.count.saturating_add(1);
        Some(*tries)
    }

    pub(crate) fn tries(&self, offset: u64) -> Tries {
        self.attempts.get(&offset).copied().unwrap_or_default()
    }

    /// What there is from `offset` on is not what it was.
    pub(crate) fn rewind(&mut self, offset: u64) {
        self.low = self.low.min(offset);
        self.done.forget_from(offset);
        self.attempts.split_off(&offset);
    }

    /// What a commit says of it.
    pub(crate) fn committed(&self, commit: u64, generation: u64, time: i64) -> Committed {
        Committed {
            next_offset: self.low,
            commit,
            generation,
            time,
            done: self.done.iter().take(REMEMBERED_MAX).collect(),
            attempts: self
                .attempts
                .iter()
                .take(REMEMBERED_MAX)
                .map(|(offset, tries)| (*offset, tries.count, tries.first_at))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{Progress, Tries};

    proptest! {
        /// The low-water mark is the first offset that is not finished, whatever order work ends in.
        #[test]
        fn the_mark_never_passes_unfinished_work(order in Just((0..40_u64).collect::<Vec<_>>()).prop_shuffle(), jump in 0..40_u64) {
            let (mut progress, mut finished) = (Progress::at(0), BTreeSet::new());
            for (count, offset) in order.into_iter().enumerate() {
                if !progress.is_finished(offset) {
                    prop_assert_eq!(progress.note_attempt(offset, 5), Some(Tries { count: 1, first_at: 5 }));
                }
                prop_assert_eq!(progress.finish(offset, offset + 1), finished.insert(offset));
                if count == 20 {
                    progress.finish_below(jump);
                    finished.extend(0..jump);
                }
                let low = (0..).find(|offset| !finished.contains(offset)).unwrap_or(0);
                prop_assert_eq!(progress.low, low);
                for offset in 0..50 {
                    prop_assert_eq!(progress.is_finished(offset), finished.contains(&offset));
                }
                prop_assert!(progress.attempts.keys().all(|offset| !finished.contains(offset)));
                let committed = progress.committed(7, 1, 2);
                prop_assert_eq!(&Progress::of(&committed), &progress);
            }
        }
    }
}
