//! Seeded choices, and the hash that traces and fingerprints are made of.

use super::super::clock::{Random, SeededRandom};

/// Choices that depend on the seed and on the choices before, and on nothing else.
#[derive(Debug)]
pub(super) struct Dice(SeededRandom);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(SeededRandom::new(seed))
    }

    /// A number below `limit`, which must not be 0.
    pub(super) fn below(&self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    pub(super) fn coin(&self) -> bool {
        self.below(2) == 0
    }

    /// True once in `n`; never for 0.
    pub(super) fn one_in(&self, n: u64) -> bool {
        n != 0 && self.below(n) == 0
    }
}

/// A running 64-bit hash. No CRC: the files under test carry CRCs of themselves, and the CRC over data and its own CRC is
/// the same for all data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn new() -> Self {
        Self(0x243f_6a88_85a3_08d3)
    }

    pub(super) fn number(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.number(u64::from_le_bytes(last));
        self.number(bytes.len() as u64);
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }
}
