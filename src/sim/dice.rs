//! Choices that follow from the seed.

use crate::storage::Random;
use crate::storage::clock::SeededRandom;

#[derive(Debug)]
pub(super) struct Dice(SeededRandom);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(SeededRandom::new(seed))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `limit`, which must not be 0.
    pub(super) fn below(&self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// A number from `from` to `to`, both possible.
    pub(super) fn within(&self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True once in `n`; never for 0.
    pub(super) fn one_in(&self, n: u64) -> bool {
        n != 0 && self.below(n) == 0
    }

    pub(super) fn index(&self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub(super) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}
