//! What is looked for, and how it is told.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::format::record::RawRecord;

/// A header that a record must have: one of this name, any of them, with this value.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) value: Vec<u8>,
}

impl Wanted {
    pub(super) fn is_met_by<'a>(&self, mut headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> bool {
        headers.any(|(name, value)| name == self.name && value == Some(&self.value))
    }
}

/// Hashes headers as the view of one log has them. Its identity is the secret: nobody can send values of one hash to it without
/// having read it.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeaderHasher(SipHasher13);

impl HeaderHasher {
    pub(super) fn new(log_id: u128) -> Self {
        Self(SipHasher13::new_with_keys((log_id >> 64) as u64, log_id as u64))
    }

    pub(super) fn hash(&self, name: &str, value: &[u8]) -> u32 {
        let mut hasher = self.0;
        hasher.write_u8(name.len() as u8);
        hasher.write(name.as_bytes());
        hasher.write(value);
        (hasher.finish() >> 32) as u32
    }
}

/// What stands for all of a record: key, value, headers, time and place.
pub(super) fn checksum(record: &RawRecord<'_>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut part = |bytes: Option<&[u8]>| {
        // So that no byte can pass from one part to the next.
        hasher.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        hasher.update(bytes.unwrap_or_default());
    };
    part(Some(&record.offset.to_le_bytes()));
    part(Some(&record.timestamp.to_le_bytes()));
    part(record.key);
    part(record.value);
    for (name, value) in record.headers.iter() {
        part(Some(name.as_bytes()));
        part(value);
    }
    hasher.finalize()
}
