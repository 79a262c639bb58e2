//! What the records of a simulation hold: all of it follows from one number, so a record that is read can be compared byte by
//! byte with nothing kept but that.

use super::dice::Dice;
use super::{Verdict, ensure};
use crate::format::record::{FrameBuilder, RawRecord};

/// More than any record below takes in a frame, its value aside.
const AROUND_VALUE_BYTES: usize = 160;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(&'static str, Option<Vec<u8>>)>,
    timestamp: i64,
}

/// What the records of a world are like; part of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Mixed,
    Small,
    /// All alike, so that what is stale lies where the new would be.
    Same,
    /// Of a few keys, for topics that are compacted.
    Keyed,
}

impl Size {
    /// The number of the first record.
    pub(super) fn first_id(self) -> u64 {
        (self as u64) << CLASS_SHIFT
    }

    /// More bytes than any append or unit of the simulation has in a commit.
    pub(super) fn commit_bytes_max(self) -> usize {
        match self {
            Self::Mixed => 13_000,
            Self::Keyed => 6_000,
            Self::Small | Self::Same => 3_800,
        }
    }
}

const CLASS_SHIFT: u32 = 56;
const ID_HEADER: &str = "id";

/// The record of this number.
pub(super) fn content(id: u64) -> Content {
    if id >> CLASS_SHIFT == Size::Same as u64 {
        return Content { key: None, value: Some(id.to_le_bytes().to_vec()), headers: Vec::new(), timestamp: 7 };
    }
    let dice = Dice::new(id ^ 0x5ca1_ab1e);
    if id >> CLASS_SHIFT == Size::Keyed as u64 {
        return keyed(id, &dice);
    }
    let shape = dice.below(64);
    let size = match shape {
        _ if id >> CLASS_SHIFT == Size::Small as u64 => dice.below(40),
        0..=1 => dice.within(600, 2500),
        2..=15 => dice.within(100, 400),
        _ => dice.below(40),
    };
    let mut value = id.to_le_bytes().to_vec();
    value.extend((0..size).map(|at| (id as u8).wrapping_add((at as u8).wrapping_mul(31))));
    let is_tombstone = shape == 63;
    let key = (is_tombstone || dice.one_in(3)).then(|| id.to_le_bytes().to_vec());
    let headers = match dice.below(8) {
        0 => vec![("trace", Some(id.to_be_bytes().to_vec())), ("seen", None)],
        1 => vec![("empty", Some(Vec::new()))],
        _ => Vec::new(),
    };
    Content { key, value: (!is_tombstone).then_some(value), headers, timestamp: dice.below(1 << 40) as i64 - (1 << 39) }
}

/// A value, or a tombstone, which has its number in a header then.
fn keyed(id: u64, dice: &Dice) -> Content {
    let key = Some(vec![dice.below(5) as u8]);
    let timestamp = dice.below(1 << 40) as i64;
    if dice.one_in(5) {
        let headers = vec![(ID_HEADER, Some(id.to_le_bytes().to_vec()))];
        return Content { key, value: None, headers, timestamp };
    }
    let mut value = id.to_le_bytes().to_vec();
    value.extend((0..dice.below(300)).map(|at| (id as u8).wrapping_add(at as u8)));
    Content { key, value: Some(value), headers: Vec::new(), timestamp }
}

impl Content {
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    pub(super) fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// Bytes in a frame, at the most.
    pub(super) fn size_max(&self) -> usize {
        AROUND_VALUE_BYTES + self.value.as_ref().map_or(0, Vec::len)
    }

    pub(super) fn push_to(&self, builder: &mut FrameBuilder) {
        let headers = self.headers.iter().map(|(name, value)| (*name, value.as_deref()));
        builder.push(self.timestamp, self.key.as_deref(), self.value.as_deref(), headers);
    }
}

/// Which record this is, if it is byte for byte the one that was sent.
pub(super) fn identify(record: &RawRecord<'_>) -> Verdict<u64> {
    let header = record.headers.iter().find(|(name, _)| *name == ID_HEADER).and_then(|(_, value)| value);
    let id = record.value.or(header).or(record.key).and_then(|bytes| bytes.first_chunk::<8>());
    let id = u64::from_le_bytes(*id.ok_or_else(|| format!("a record that nobody sent: {record:?}"))?);
    let expected = content(id);
    let same = record.key == expected.key.as_deref()
        && record.value == expected.value.as_deref()
        && record.timestamp == expected.timestamp
        && record.headers.len() == expected.headers.len()
        && record.headers.iter().eq(expected.headers.iter().map(|(name, value)| (*name, value.as_deref())));
    ensure!(same, "record {id} is not what was sent: {record:?}");
    Ok(id)
}
