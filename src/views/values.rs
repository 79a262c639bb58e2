//! The keys and values of the view of the de-duplication window: small, each with a checksum over both.
//!
//! | key | value |
//! |---|---|
//! | `e`, topic id (16), partition (4), offset (8) | crc (4), commit (8), time (8), timestamp (8), identity |
//! | `m`, topic id (16), partition (4) | crc (4), position (8), commit (8), time (8), count_max (8), age_max (8), count (8), sum (8) |
//!
//! Numbers in keys are big-endian, so that keys sort as numbers do; in values they are little-endian. The crc is over the key and
//! the rest of the value; `sum` is that of the entries' crcs, so that an entry that is missing or another is noticed.

/// Whose window it is.
pub(crate) type Whose = (u128, u32);

/// One record with an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedEntry {
    pub(crate) offset: u64,
    pub(crate) commit: u64,
    pub(crate) time: i64,
    pub(crate) timestamp: i64,
    pub(crate) id: Box<[u8]>,
}

/// What is said of all entries of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The offset after the last record that the view has taken in, and that record's commit number.
    pub(crate) position: u64,
    pub(crate) commit: u64,
    pub(crate) time: i64,
    pub(crate) count_max: u64,
    pub(crate) age_max: i64,
    /// How many entries there are, and the sum of their checksums: the view's own business.
    pub(crate) count: u64,
    pub(crate) sum: u64,
}

/// What the keys of all sums begin with.
pub(super) const METAS: &[u8] = b"m";

/// Whose sums are under this key.
pub(super) fn whose_meta(key: &[u8]) -> Option<Whose> {
    let (topic, rest) = key.strip_prefix(METAS)?.split_first_chunk::<16>()?;
    let partition: [u8; 4] = rest.try_into().ok()?;
    Some((u128::from_be_bytes(*topic), u32::from_be_bytes(partition)))
}

pub(super) fn meta_key(whose: Whose) -> Vec<u8> {
    [METAS, &whose.0.to_be_bytes(), &whose.1.to_be_bytes()].concat()
}

pub(super) fn entries_prefix(whose: Whose) -> Vec<u8> {
    [&b"e"[..], &whose.0.to_be_bytes(), &whose.1.to_be_bytes()].concat()
}

pub(super) fn entry_key(whose: Whose, offset: u64) -> Vec<u8> {
    [&entries_prefix(whose)[..], &offset.to_be_bytes()].concat()
}

pub(super) fn seal(key: &[u8], fields: &[u64], rest: &[u8]) -> Vec<u8> {
    let mut value = vec![0; 4];
    fields.iter().for_each(|field| value.extend_from_slice(&field.to_le_bytes()));
    value.extend_from_slice(rest);
    let crc = crc_of(&[key, &value[4..]]);
    value[..4].copy_from_slice(&crc.to_le_bytes());
    value
}

/// The checksum of these bytes, one after the other.
pub(super) fn crc_of(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The fields and what follows them, if the checksum holds.
pub(super) fn open<'a, const N: usize>(key: &[u8], value: &'a [u8]) -> Option<(u32, [u64; N], &'a [u8])> {
    let (crc, rest) = value.split_first_chunk::<4>()?;
    let crc = u32::from_le_bytes(*crc);
    if crc_of(&[key, rest]) != crc {
        return None;
    }
    let (mut fields, mut left) = ([0; N], rest);
    for field in &mut fields {
        let (eight, after) = left.split_first_chunk::<8>()?;
        *field = u64::from_le_bytes(*eight);
        left = after;
    }
    Some((crc, fields, left))
}

impl SavedEntry {
    /// The value, and its share in the sum.
    pub(super) fn encode(&self, key: &[u8]) -> (Vec<u8>, u64) {
        let value = seal(key, &[self.commit, self.time as u64, self.timestamp as u64], &self.id);
        let crc = value.first_chunk::<4>().map_or(0, |four| u32::from_le_bytes(*four));
        (value, u64::from(crc))
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<(Self, u64)> {
        let offset = u64::from_be_bytes(*key.last_chunk::<8>()?);
        let (crc, [commit, time, timestamp], id) = open(key, value)?;
        let entry = Self { offset, commit, time: time as i64, timestamp: timestamp as i64, id: id.into() };
        Some((entry, u64::from(crc)))
    }
}

impl Meta {
    pub(super) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let Self { position, commit, time, count_max, age_max, count, sum } = *self;
        seal(key, &[position, commit, time as u64, count_max, age_max as u64, count, sum], &[])
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (_, [position, commit, time, count_max, age_max, count, sum], rest) = open(key, value)?;
        let (time, age_max) = (time as i64, age_max as i64);
        rest.is_empty().then_some(Self { position, commit, time, count_max, age_max, count, sum })
    }
}
