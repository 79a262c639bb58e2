//! The view of a projection: the user's keys and values, and up to where in the log they were made of its records. One sled database
//! for each projection.
//!
//! | key | value |
//! |---|---|
//! | `s`, the user's key | crc (4), the user's value |
//! | `p`, topic id (16), partition (4) | crc (4), next offset (8), commit (8), crc of the record (8), first and next offset of each gap (16) |
//! | `m` | crc (4), count (8), sum (8), whether it was ever complete (8), what it is a projection of |
//!
//! A crc is over the key and the rest of the value. `count` is how many keys of the first two kinds there are and `sum` that of their
//! crcs: what is missing, too many or of another time is noticed when the view is opened. Whatever one batch changes, values, places
//! and sums, is written as one. Numbers in keys are big-endian, in values little-endian.

use std::path::Path;

use super::pairs::{Change, Memory, Pair, Pairs};
pub(crate) use super::values::Whose;
use super::values::{open as unseal, seal};
use super::{Store, damaged};
use crate::error::Result;
use crate::storage::Env;

const STATES: &[u8] = b"s";
const PLACES: &[u8] = b"p";
const META: &[u8] = b"m";
/// A state is asked all the time.
const CACHE_BYTES: u64 = 64 << 20;

/// The view.
#[derive(Debug)]
pub(crate) struct StateView {
    place: Kept,
    /// How often it was begun anew.
    generation: u64,
}

#[derive(Debug)]
enum Kept {
    Store(Box<Store>),
    Memory(Memory),
}

/// Up to where a partition was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) next_offset: u64,
    /// What the last record that was read is known by.
    pub(crate) commit: u64,
    pub(crate) crc: u32,
    /// Offsets that had gone before they were read: from, and up to.
    pub(crate) gaps: Vec<(u64, u64)>,
}

/// What the view says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// What it is a projection of.
    pub(crate) definition: Vec<u8>,
    /// It has been at the end of the log once.
    pub(crate) complete: bool,
    pub(crate) places: Vec<(Whose, Place)>,
}

/// What is written as one.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    pub(crate) definition: &'a [u8],
    pub(crate) complete: bool,
    /// The user's keys, and their values if they have one now.
    pub(crate) changes: Vec<Change>,
    pub(crate) places: &'a [(Whose, Place)],
}

impl StateView {
    /// Opens the view of a projection of the log in `root`.
    pub(crate) fn open(env: &Env, root: &Path, projection: &str, log_id: u128) -> Result<Self> {
        let name = format!("projection-{projection}");
        let store = Store::open_with_cache(env, root, &name, log_id, CACHE_BYTES)?;
        Ok(Self { place: Kept::Store(Box::new(store)), generation: 0 })
    }

    /// A view that is gone when it is dropped.
    pub(crate) fn in_memory() -> Self {
        Self { place: Kept::Memory(Memory::default()), generation: 0 }
    }

    /// How often it was begun anew: whoever sees another number than before has lost what there was.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    fn with<T>(&mut self, work: impl Fn(&dyn Pairs) -> sled::Result<T>) -> Result<T> {
        let answer = match &mut self.place {
            Kept::Store(store) => store.with(|db| work(db)),
            Kept::Memory(memory) => super::guarded(|| work(memory)),
        };
        if answer.is_err() {
            self.generation += 1;
            if let Kept::Memory(memory) = &mut self.place {
                *memory = Memory::default();
            }
        }
        answer
    }

    /// What the view says, once every value is checked; `None` if it is empty.
    ///
    /// # Errors
    ///
    /// It does not hold. What there was is set aside, and it is empty now; so it is after an error of any other call.
    pub(crate) fn load(&mut self) -> Result<Option<Said>> {
        self.with(load)
    }

    /// Makes all the changes, or none.
    pub(crate) fn write(&mut self, written: &Written<'_>) -> Result<()> {
        self.with(|pairs| write(pairs, written))
    }

    /// A value of the user's.
    pub(crate) fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let key = state_key(key);
        self.with(|pairs| match pairs.get(&key)? {
            None => Ok(None),
            Some(value) => value_of(&key, &value).map(|value| Some(value.to_vec())),
        })
    }

    /// The user's keys that begin with `prefix`, from `from` on, and their values.
    pub(crate) fn range(&mut self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Pair>> {
        let (prefix, from) = (state_key(prefix), state_key(from));
        self.with(|pairs| {
            let mut found = Vec::new();
            pairs.scan((&from).max(&prefix), &mut |key, value| {
                if found.len() == limit || !key.starts_with(&prefix) {
                    return Ok(false);
                }
                let value = value_of(key, value)?.to_vec();
                found.push((key.get(STATES.len()..).unwrap_or_default().to_vec(), value));
                Ok(true)
            })?;
            Ok(found)
        })
    }

    /// Renames what there is, and begins with nothing.
    pub(crate) fn set_aside(&mut self, why: &str) -> Result<()> {
        self.generation += 1;
        match &mut self.place {
            Kept::Store(store) => store.set_aside(&crate::error::Error::invalid(why)),
            Kept::Memory(memory) => {
                *memory = Memory::default();
                Ok(())
            }
        }
    }

    /// Puts a value that is damaged.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self, key: &[u8]) {
        let key = state_key(key);
        drop(self.with(|pairs| pairs.write(vec![(key.clone(), Some(vec![0; 5]))])));
    }

    /// Writes everything out.
    pub(crate) fn flush(&mut self) -> Result<()> {
        match &mut self.place {
            Kept::Store(store) => store.with(|db| db.flush().map(drop)),
            Kept::Memory(_) => Ok(()),
        }
    }
}

fn state_key(key: &[u8]) -> Vec<u8> {
    [STATES, key].concat()
}

fn place_key(whose: Whose) -> Vec<u8> {
    [PLACES, &whose.0.to_be_bytes(), &whose.1.to_be_bytes()].concat()
}

fn whose_place(key: &[u8]) -> Option<Whose> {
    let (topic, rest) = key.strip_prefix(PLACES)?.split_first_chunk::<16>()?;
    Some((u128::from_be_bytes(*topic), u32::from_be_bytes(rest.try_into().ok()?)))
}

fn value_of<'a>(key: &[u8], value: &'a [u8]) -> sled::Result<&'a [u8]> {
    unseal::<0>(key, value).map(|(_, _, value)| value).ok_or_else(|| damaged("a value is damaged"))
}

/// The share of a value in the sum, if it is whole.
fn share(key: &[u8], value: &[u8]) -> sled::Result<u64> {
    unseal::<0>(key, value).map(|(crc, ..)| u64::from(crc)).ok_or_else(|| damaged("a value is damaged"))
}

impl Place {
    fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut rest = Vec::with_capacity(16 * self.gaps.len());
        for (from, to) in &self.gaps {
            rest.extend_from_slice(&from.to_le_bytes());
            rest.extend_from_slice(&to.to_le_bytes());
        }
        seal(key, &[self.next_offset, self.commit, u64::from(self.crc)], &rest)
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (_, [next_offset, commit, crc], mut rest) = unseal(key, value)?;
        let mut gaps = Vec::new();
        while let Some((from, after)) = rest.split_first_chunk::<8>() {
            let (to, after) = after.split_first_chunk::<8>()?;
            gaps.push((u64::from_le_bytes(*from), u64::from_le_bytes(*to)));
            rest = after;
        }
        rest.is_empty().then_some(Self { next_offset, commit, crc: u32::try_from(crc).ok()?, gaps })
    }
}

/// The count and the sum, and what else the view says but for the places.
fn read_meta(pairs: &dyn Pairs) -> sled::Result<Option<((u64, u64), Said)>> {
    let Some(value) = pairs.get(META)? else { return Ok(None) };
    let (_, [count, sum, complete], definition) =
        unseal(META, &value).ok_or_else(|| damaged("what is said of all is damaged"))?;
    let said = Said { definition: definition.to_vec(), complete: complete != 0, places: Vec::new() };
    Ok(Some(((count, sum), said)))
}

fn load(pairs: &dyn Pairs) -> sled::Result<Option<Said>> {
    let meta = read_meta(pairs)?;
    let (mut count, mut sum, mut places) = (0_u64, 0_u64, Vec::new());
    let mut each = |key: &[u8], value: &[u8]| {
        if key.starts_with(PLACES) {
            let whose = whose_place(key).ok_or_else(|| damaged("a place is damaged"))?;
            places.push((whose, Place::decode(key, value).ok_or_else(|| damaged("a place is damaged"))?));
        } else if !key.starts_with(STATES) {
            return Ok(true);
        }
        sum = sum.wrapping_add(share(key, value)?);
        count += 1;
        Ok(true)
    };
    pairs.scan(&[], &mut each)?;
    match meta {
        None if count == 0 => Ok(None),
        Some((said, meta)) if said == (count, sum) => Ok(Some(Said { places, ..meta })),
        _ => Err(damaged("values are missing, too many, or of another time")),
    }
}

fn write(pairs: &dyn Pairs, written: &Written<'_>) -> sled::Result<()> {
    let ((mut count, mut sum), _) = read_meta(pairs)?.unwrap_or_default();
    let mut changes = Vec::with_capacity(written.changes.len() + written.places.len() + 1);
    let states = written.changes.iter().map(|(key, value)| {
        let key = state_key(key);
        let value = value.as_ref().map(|value| seal(&key, &[], value));
        (key, value)
    });
    let places = written.places.iter().map(|(whose, place)| {
        let key = place_key(*whose);
        let value = place.encode(&key);
        (key, Some(value))
    });
    for (key, value) in states.chain(places) {
        if let Some(old) = pairs.get(&key)? {
            (count, sum) = (count.wrapping_sub(1), sum.wrapping_sub(share(&key, &old)?));
        }
        if let Some(new) = &value {
            (count, sum) = (count.wrapping_add(1), sum.wrapping_add(share(&key, new)?));
        }
        changes.push((key, value));
    }
    let meta = seal(META, &[count, sum, u64::from(written.complete)], written.definition);
    changes.push((META.to_vec(), Some(meta)));
    pairs.write(changes)
}
