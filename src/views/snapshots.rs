//! The view of the snapshots of aggregates: the state of one key, and the record that it was made up to.
//!
//! | key | value |
//! |---|---|
//! | `s`, topic id (16), partition (4), bytes of the aggregate's name (1), the name, the key | crc (4), version (8), offset (8), commit (8), crc of the record (8), events (8), the state |
//!
//! The crc is over the key and the rest of the value. Snapshots stand each for itself: one that is missing is no harm, so there are no
//! sums. Numbers in keys are big-endian, in values little-endian.

use std::path::Path;

use super::Store;
use super::pairs::{Memory, Pairs};
pub(crate) use super::values::Whose;
use super::values::{open as unseal, seal};
use crate::error::Result;
use crate::storage::Env;

const SNAPSHOTS: &[u8] = b"s";
const NAME_BYTES_MAX: usize = 255;

/// The view.
#[derive(Debug)]
pub(crate) struct SnapshotView {
    place: Kept,
}

#[derive(Debug)]
enum Kept {
    Store(Box<Store>),
    Memory(Memory),
}

/// What a snapshot is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) whose: Whose,
    pub(crate) aggregate: &'a str,
    pub(crate) key: &'a [u8],
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) version: u64,
    /// The last record that is in it, and what that is known by.
    pub(crate) offset: u64,
    pub(crate) commit: u64,
    pub(crate) crc: u32,
    /// How many events were applied.
    pub(crate) events: u64,
    pub(crate) state: Vec<u8>,
}

impl Of<'_> {
    fn key(&self) -> Vec<u8> {
        // A name that is too long is cut, and never found by another's: it ends in its checksum.
        let mut name = self.aggregate.as_bytes().to_vec();
        if name.len() > NAME_BYTES_MAX {
            let crc = crc32fast::hash(&name);
            name.truncate(NAME_BYTES_MAX - 4);
            name.extend_from_slice(&crc.to_be_bytes());
        }
        let (topic, partition) = (self.whose.0.to_be_bytes(), self.whose.1.to_be_bytes());
        [SNAPSHOTS, &topic, &partition, &[name.len() as u8], &name, self.key].concat()
    }
}

impl SnapshotView {
    /// Opens the view of the log in `root`.
    pub(crate) fn open(env: &Env, root: &Path, log_id: u128) -> Result<Self> {
        let store = Store::open(env, root, "snapshots", log_id)?;
        Ok(Self { place: Kept::Store(Box::new(store)) })
    }

    /// A view that is gone with the log's last handle.
    pub(crate) fn in_memory() -> Self {
        Self { place: Kept::Memory(Memory::default()) }
    }

    fn with<T>(&mut self, work: impl Fn(&dyn Pairs) -> sled::Result<T>) -> Result<T> {
        match &mut self.place {
            Kept::Store(store) => store.with(|db| work(db)),
            Kept::Memory(memory) => super::guarded(|| work(memory)),
        }
    }

    /// The snapshot, if there is one that is whole.
    pub(crate) fn load(&mut self, of: Of<'_>) -> Result<Option<Saved>> {
        let key = of.key();
        Ok(self.with(|pairs| pairs.get(&key))?.and_then(|value| decode(&key, &value)))
    }

    /// Puts a snapshot in place of the one that there was.
    pub(crate) fn save(&mut self, of: Of<'_>, saved: &Saved) -> Result<()> {
        let key = of.key();
        let Saved { version, offset, commit, crc, events, .. } = *saved;
        let value = seal(&key, &[version, offset, commit, u64::from(crc), events], &saved.state);
        self.with(|pairs| pairs.write(vec![(key.clone(), Some(value.clone()))]))
    }

    /// Forgets the partitions that are not there any more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(Whose) -> bool) -> Result<()> {
        self.with(|pairs| {
            let mut next = SNAPSHOTS.to_vec();
            while let Some((key, _)) = pairs.at_or_after(&next)? {
                let Some(whose) = whose_snapshot(&key) else { break };
                if is_there(whose) {
                    // The others of the partition are there, too.
                    let (topic, partition) = match whose.1.checked_add(1) {
                        Some(partition) => (whose.0, partition),
                        None => (whose.0.wrapping_add(1), 0),
                    };
                    next = [SNAPSHOTS, &topic.to_be_bytes(), &partition.to_be_bytes()].concat();
                } else {
                    pairs.write(vec![(key.clone(), None)])?;
                    next = key;
                }
            }
            Ok(())
        })
    }

    /// Writes everything out.
    pub(crate) fn flush(&mut self) -> Result<()> {
        match &mut self.place {
            Kept::Store(store) => store.with(|db| db.flush().map(drop)),
            Kept::Memory(_) => Ok(()),
        }
    }
}

fn whose_snapshot(key: &[u8]) -> Option<Whose> {
    let (topic, rest) = key.strip_prefix(SNAPSHOTS)?.split_first_chunk::<16>()?;
    let (partition, _) = rest.split_first_chunk::<4>()?;
    Some((u128::from_be_bytes(*topic), u32::from_be_bytes(*partition)))
}

fn decode(key: &[u8], value: &[u8]) -> Option<Saved> {
    let (_, [version, offset, commit, crc, events], state) = unseal(key, value)?;
    Some(Saved { version, offset, commit, crc: u32::try_from(crc).ok()?, events, state: state.to_vec() })
}
