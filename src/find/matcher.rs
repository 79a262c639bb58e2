//! What is looked for, and how it is told.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::log::settings::TopicSettings;
use crate::log::settings::indexed::KEY;
use crate::replay::RecordView;
use crate::text::quoted;

/// What a record must have: a header of this name, any of them, with this value, or this key.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// That of the header; [`KEY`] for the key, which is no name that a header can have.
    pub(super) name: String,
    pub(super) value: Vec<u8>,
    is_key: bool,
}

impl Wanted {
    pub(super) fn header(name: &str, value: &[u8]) -> Self {
        Self { name: name.to_owned(), value: value.to_vec(), is_key: false }
    }

    pub(super) fn key(key: &[u8]) -> Self {
        Self { name: KEY.to_owned(), value: key.to_vec(), is_key: true }
    }

    pub(super) fn is_indexed_by(&self, settings: &TopicSettings) -> bool {
        if self.is_key { settings.index_keys } else { settings.indexed_headers.contains(&self.name) }
    }

    /// What it is, said to a person.
    pub(super) fn said(&self) -> String {
        if self.is_key { "the key".to_owned() } else { format!("the header {}", quoted(&self.name)) }
    }

    pub(super) fn is_met_by(&self, record: &RecordView<'_>) -> bool {
        if self.is_key {
            return record.key() == Some(&self.value);
        }
        record.headers().any(|(name, value)| name == self.name && value == Some(&self.value))
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
