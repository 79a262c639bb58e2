//! The records of `__offsets`: which group has come how far in which partition. docs/FORMAT.md has them byte by byte.
//!
//! The key says whose progress it is: a version, the topic's identity (a topic that is deleted and created again is another), the
//! partition, the group. The value is a version and the rest in bincode's standard encoding; no value is no progress.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The topic.
pub(crate) const OFFSETS_TOPIC: &str = "__offsets";

const VERSION: u8 = 1;
/// Version, topic and partition.
const KEY_PREFIX_BYTES: usize = 1 + 16 + 4;

/// A partition of a topic, by the topic's identity.
pub(crate) type Whose = (u128, u32);

/// How far a group has come in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    /// The first offset that is not finished.
    pub(crate) next_offset: u64,
    /// A commit number that was taken by then: what has a higher one was appended later. Should that be at a lower offset than
    /// `next_offset`, then records were lost, and others stand in their place.
    pub(crate) commit: u64,
    /// The generation of the group.
    pub(crate) generation: u64,
    /// When it was committed, in microseconds since 1970.
    pub(crate) time: i64,
    /// What is finished above `next_offset`: the first offset of each range, and the one behind its last.
    pub(crate) done: Vec<(u64, u64)>,
    /// How often records that are not finished were tried, and when the first try failed, in microseconds since 1970.
    pub(crate) attempts: Vec<(u64, u32, i64)>,
}

pub(crate) fn encode_key(group: &str, whose: Whose) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_PREFIX_BYTES + group.len());
    key.push(VERSION);
    key.extend_from_slice(&whose.0.to_le_bytes());
    key.extend_from_slice(&whose.1.to_le_bytes());
    key.extend_from_slice(group.as_bytes());
    key
}

pub(crate) fn decode_key(key: &[u8]) -> Result<(&str, Whose)> {
    let parts = || {
        let (version, rest) = key.split_first()?;
        let (topic, rest) = rest.split_first_chunk()?;
        let (partition, group) = rest.split_first_chunk()?;
        let whose = (u128::from_le_bytes(*topic), u32::from_le_bytes(*partition));
        Some((*version, whose, std::str::from_utf8(group).ok()?))
    };
    match parts() {
        Some((VERSION, whose, group)) => Ok((group, whose)),
        Some((version, ..)) => Err(unreadable(&format!("its key has version {version}"))),
        None => Err(unreadable("its key is too short, or no text")),
    }
}

impl Committed {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        let Ok(_) = bincode::serde::encode_into_std_write(self, &mut value, bincode::config::standard()) else {
            unreachable!("numbers are written to memory");
        };
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self> {
        match value.split_first() {
            Some((&VERSION, rest)) => match bincode::serde::decode_from_slice(rest, decoding()) {
                Ok((committed, len)) if len == rest.len() => Ok(committed),
                Ok(_) => Err(unreadable("its value is too long")),
                Err(why) => Err(unreadable(&format!("its value is malformed: {why}"))),
            },
            Some((version, _)) => Err(unreadable(&format!("its value has version {version}"))),
            None => Err(unreadable("its value is empty")),
        }
    }
}

/// What a value may claim to hold: far more than a commit remembers.
const VALUE_BYTES_MAX: usize = 1 << 20;

fn decoding() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<VALUE_BYTES_MAX>()
}

fn unreadable(why: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("a record of {OFFSETS_TOPIC} cannot be read, {why}; version {VERSION} is known"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Committed, decode_key, encode_key};

    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        let key = encode_key("billing", (0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10, 3));
        assert_eq!(
            key,
            [
                1, 0x10, 0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 9, 8, 7, 6, 5, 4, 3, 2, 1, 3, 0, 0, 0, b'b', b'i', b'l',
                b'l', b'i', b'n', b'g'
            ]
        );
        let committed = Committed {
            next_offset: 17,
            commit: 300,
            generation: 2,
            time: -1,
            done: vec![(19, 21)],
            attempts: vec![(17, 3, 60)],
        };
        assert_eq!(committed.encode(), [1, 17, 251, 44, 1, 2, 1, 1, 19, 21, 1, 17, 3, 120]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(decode_key(&[]).is_err());
        assert!(decode_key(&[1; 20]).is_err());
        assert_eq!(decode_key(&[1; 21]).unwrap().0, "");
        assert!(decode_key(&[2; 30]).unwrap_err().to_string().contains("version 2"));
        assert!(Committed::decode(&[]).is_err());
        assert!(Committed::decode(&[2, 0]).unwrap_err().to_string().contains("version 2"));
        // A list of 2^60 ranges.
        let huge = [&[1, 0, 0, 0, 0, 253][..], &(1_u64 << 60).to_le_bytes()].concat();
        assert!(Committed::decode(&huge).is_err());
        assert!(Committed::decode(&[1, 0, 0, 0, 0, 0, 0, 0]).unwrap_err().to_string().contains("too long"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            group in "\\PC{1,40}", whose: (u128, u32), next_offset: u64, commit: u64, generation: u64, time: i64,
            done: Vec<(u64, u64)>, attempts: Vec<(u64, u32, i64)>,
        ) {
            let key = encode_key(&group, whose);
            prop_assert_eq!(decode_key(&key).unwrap(), (group.as_str(), whose));
            let committed = Committed { next_offset, commit, generation, time, done, attempts };
            prop_assert_eq!(Committed::decode(&committed.encode()).unwrap(), committed);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = decode_key(&bytes).map(drop);
            let _ = Committed::decode(&bytes).map(drop);
        }
    }
}
