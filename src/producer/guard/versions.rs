//! Which record is the newest of each key.

use std::collections::HashMap;
use std::hash::Hasher;
#[expect(
    deprecated,
    reason = "the one hash with keys of one's own in the standard library; its successor takes random ones"
)]
use std::hash::SipHasher;

use crate::storage::Random;

/// Hashes keys to 128 bits, so that two keys of one log never meet by chance, and by random numbers, so that nobody makes them
/// meet.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyHasher([u64; 4]);

impl KeyHasher {
    pub(super) fn new(random: &dyn Random) -> Self {
        Self(std::array::from_fn(|_| random.next_u64()))
    }

    #[expect(deprecated, reason = "see above")]
    pub(super) fn hash(&self, key: &[u8]) -> u128 {
        let [a, b, c, d] = self.0;
        let (mut high, mut low) = (SipHasher::new_with_keys(a, b), SipHasher::new_with_keys(c, d));
        high.write(key);
        low.write(key);
        u128::from(high.finish()) << 64 | u128::from(low.finish())
    }
}

/// The newest record of each key, as far as commits have answered. A key takes 32 bytes, and what a hash table adds.
#[derive(Debug, Default)]
pub(super) struct Versions {
    newest: HashMap<u128, Newest>,
    /// How many records of a key wait for their commit.
    pending: HashMap<u128, u32>,
}

/// An offset, doubled, and one more for a tombstone.
#[derive(Debug, Clone, Copy)]
struct Newest(u64);

impl Newest {
    fn new(offset: u64, tombstone: bool) -> Self {
        Self(offset << 1 | u64::from(tombstone))
    }

    fn offset(self) -> u64 {
        self.0 >> 1
    }

    fn is_tombstone(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Versions {
    /// The offset of the newest record of a key, unless that is a tombstone.
    pub(super) fn current(&self, key: u128) -> Option<u64> {
        self.newest.get(&key).filter(|newest| !newest.is_tombstone()).map(|newest| newest.offset())
    }

    /// Whether records of the key wait for their commit.
    pub(super) fn is_pending(&self, key: u128) -> bool {
        self.pending.contains_key(&key)
    }

    /// A record of the key was sent.
    pub(super) fn sent(&mut self, key: u128) {
        *self.pending.entry(key).or_default() += 1;
    }

    /// A record that was sent is at `offset`, or nowhere.
    pub(super) fn answered(&mut self, key: u128, offset: Option<u64>, tombstone: bool) {
        let is_last = match self.pending.get_mut(&key) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                self.pending.remove(&key);
                true
            }
        };
        if let Some(offset) = offset {
            self.put(key, offset, tombstone);
        }
        // While others wait, one of them may turn out to be older than the tombstone: then it must still be known.
        if is_last && self.newest.get(&key).is_some_and(|newest| newest.is_tombstone()) {
            self.newest.remove(&key);
        }
    }

    /// A record is in the log.
    pub(super) fn found(&mut self, key: u128, offset: u64, tombstone: bool) {
        if tombstone {
            self.newest.remove(&key);
        } else {
            self.newest.insert(key, Newest::new(offset, false));
        }
    }

    /// Answers come in the order of sending, which need not be that of the offsets: see docs/GUARANTEES.md on batches.
    fn put(&mut self, key: u128, offset: u64, tombstone: bool) {
        let next = Newest::new(offset, tombstone);
        let newest = self.newest.entry(key).or_insert(next);
        if newest.offset() <= offset {
            *newest = next;
        }
    }
}
