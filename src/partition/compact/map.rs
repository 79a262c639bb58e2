//! The last offset of each key, in a fixed amount of memory whatever the keys are.
//!
//! A key stands for itself as 128 bits of SipHash under a secret that is chosen anew for each pass: that two of a million keys
//! share them has a probability of 1 in 10^26, and nobody can look for such keys.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

/// What a key costs.
pub(crate) const SLOT_BYTES: usize = size_of::<Slot>();
/// So many of 20 slots are used at the most: beyond it the searches grow long.
const USED_OF_20: usize = 17;

/// The two halves of the hash, and the offset plus one; all zeros if there is none.
type Slot = [u64; 3];

/// An open-addressing table that does not grow.
pub(super) struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
    used_max: usize,
    secret: SipHasher13,
}

impl OffsetMap {
    /// A table for `records` records with different keys, but of no more than `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize, records: u64, secret: (u64, u64)) -> Self {
        let wanted = usize::try_from(records).unwrap_or(usize::MAX).saturating_mul(20) / USED_OF_20 + 2;
        let count = (bytes_max / SLOT_BYTES).clamp(2, wanted.max(2));
        Self {
            // Zeros come from the system, which gives memory for what is touched only.
            slots: vec![[0; 3]; count],
            used: 0,
            used_max: (count * USED_OF_20 / 20).max(1),
            secret: SipHasher13::new_with_keys(secret.0, secret.1),
        }
    }

    /// Notes that `offset` is the last of `key` so far; `false` if there is no room for another key.
    pub(super) fn insert(&mut self, key: &[u8], offset: u64) -> bool {
        let (at, hash) = self.find(key);
        let is_new = self.slots[at][2] == 0;
        if is_new && self.used == self.used_max {
            return false;
        }
        self.used += usize::from(is_new);
        self.slots[at] = [hash[0], hash[1], offset + 1];
        true
    }

    /// The last offset of `key`.
    pub(super) fn last(&self, key: &[u8]) -> Option<u64> {
        let (at, _) = self.find(key);
        self.slots[at][2].checked_sub(1)
    }

    /// The slot that the key is in or goes to. There is always a free one.
    fn find(&self, key: &[u8]) -> (usize, [u64; 2]) {
        let mut hasher = self.secret;
        hasher.write(key);
        let hash = hasher.finish128();
        let hash = [hash.h1, hash.h2];
        // The high bits of a product spread the hash over any number of slots.
        let mut at = ((u128::from(hash[0]) * self.slots.len() as u128) >> 64) as usize;
        loop {
            let slot = &self.slots[at];
            if slot[2] == 0 || slot[..2] == hash {
                return (at, hash);
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::{OffsetMap, SLOT_BYTES};

    proptest! {
        /// The same as a map that grows, as long as there is room; then keys that are known can still be moved.
        #[test]
        fn it_answers_like_any_map(keys in prop::collection::vec(prop::collection::vec(0..4_u8, 0..4), 1..200), slots in 2..80_usize) {
            let mut map = OffsetMap::new(slots * SLOT_BYTES, u64::MAX, (1, 2));
            let mut expected = HashMap::new();
            for (offset, key) in keys.iter().enumerate() {
                let known = expected.contains_key(key);
                let taken = map.insert(key, offset as u64);
                prop_assert!(taken || !known);
                if taken {
                    expected.insert(key.clone(), offset as u64);
                }
            }
            prop_assert!(expected.len() < slots, "one is always free");
            for key in &keys {
                prop_assert_eq!(map.last(key), expected.get(key).copied());
            }
        }
    }

    #[test]
    fn it_takes_no_more_memory_than_it_may_and_no_more_than_it_needs() {
        assert_eq!(OffsetMap::new(32 << 20, u64::MAX, (0, 0)).slots.len(), (32 << 20) / SLOT_BYTES);
        let few = OffsetMap::new(32 << 20, 10, (0, 0));
        assert!(few.slots.len() < 20 && few.used_max >= 10);
        let mut million = OffsetMap::new(32 << 20, 1_000_000, (0, 0));
        assert!(
            (0..1_000_000_u64).all(|key| million.insert(&key.to_le_bytes(), key)),
            "a million keys fit the default"
        );
        assert!((0..1_000_000_u64).all(|key| million.last(&key.to_le_bytes()) == Some(key)));
    }
}
