//! Identities of events, traces and steps of traces.

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::{Builder, Uuid};

use crate::storage::Env;

/// Numbers that are not met again: SplitMix64 from a random start. They tell things apart, and keep no secrets.
#[derive(Debug)]
pub(super) struct Ids(AtomicU64);

impl Ids {
    pub(super) fn new(env: &Env) -> Self {
        Self(AtomicU64::new(env.random.next_u64()))
    }

    pub(super) fn number(&self) -> u64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A UUID of version 7: those made later sort later.
    pub(super) fn uuid(&self, now_micros: i64) -> Uuid {
        let millis = u64::try_from(now_micros / 1000).unwrap_or(0);
        let mut random = [0; 10];
        let (high, low) = random.split_at_mut(8);
        high.copy_from_slice(&self.number().to_le_bytes());
        low.copy_from_slice(&self.number().to_le_bytes()[..2]);
        Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}
