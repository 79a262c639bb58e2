//! Which partition a record goes to.
//!
//! Records with a key go where Kafka's default partitioner would send them, hash for hash: a topic that is mirrored to
//! or from Kafka keeps its keys in the partitions of the same numbers. Records without a key stick to one partition for
//! a while, so that they share frames and syncs, and then move on.

use std::sync::atomic::{AtomicU64, Ordering};

/// The partition of a key: Kafka's `toPositive(murmur2(key)) % partitions`.
pub(crate) fn partition_of_key(key: &[u8], partitions: u32) -> u32 {
    debug_assert!(partitions > 0, "a topic has at least one partition");
    let positive = murmur2(key) & 0x7fff_ffff;
    positive.checked_rem(partitions).unwrap_or(0)
}

/// MurmurHash2, 32 bits, with the seed that Kafka gives it (`org.apache.kafka.common.utils.Utils.murmur2`).
///
/// Java's `int` arithmetic wraps and its shifts are unsigned here (`>>>`): `u32` is the same hash, without the sign.
pub(crate) fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Kafka takes the length as an `int`, so the cast wraps as there; keys are far shorter.
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of the records without a key: the same one until [16 KiB](Sticky::BYTES) went there, then the next.
///
/// The same calls give the same partitions; there is no randomness and no lock.
#[derive(Debug, Default)]
pub(crate) struct Sticky {
    /// The partition in the upper half, the bytes that went there in the lower: one word, so that they change together.
    state: AtomicU64,
}

impl Sticky {
    /// How many bytes stay together: Kafka's default batch size.
    pub(crate) const BYTES: u32 = 16 << 10;

    /// Begins with the partition `first`. A log that is often opened for a few records only should not send all of them
    /// to partition 0.
    pub(crate) fn new(first: u32) -> Self {
        Self { state: AtomicU64::new(u64::from(first) << 32) }
    }

    /// The partition for `bytes` more bytes. A record moves the next one on, never itself: the choice is made before.
    pub(crate) fn partition(&self, bytes: usize, partitions: u32) -> u32 {
        debug_assert!(partitions > 0, "a topic has at least one partition");
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // No other memory is published through this word, so nothing stronger than `Relaxed` is needed.
        let before = match self
            .state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| Some(Self::after(state, bytes, partitions)))
        {
            Ok(before) | Err(before) => before,
        };
        Self::current(before, partitions)
    }

    fn current(state: u64, partitions: u32) -> u32 {
        ((state >> 32) as u32).checked_rem(partitions).unwrap_or(0)
    }

    fn after(state: u64, bytes: u32, partitions: u32) -> u64 {
        let partition = Self::current(state, partitions);
        // The lower half of the word, which the cast keeps.
        let filled = (state as u32).saturating_add(bytes);
        if filled < Self::BYTES {
            return u64::from(partition) << 32 | u64::from(filled);
        }
        let next = partition + 1;
        u64::from(if next < partitions { next } else { 0 }) << 32
    }
}

#[cfg(test)]
mod tests;
