//! Every encoder against its decoder, and every decoder against damage.

use proptest::prelude::*;

use super::FormatResult;
use super::frame::FrameHeader;
use super::record::{FrameBuilder, FramePlace, RawRecord, RecordIter};

mod compression;
mod document;
mod files;
mod frames;
mod journals;
mod records;
mod varints;

/// A record that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Owned {
    fn of(raw: &RawRecord<'_>) -> Self {
        let headers: Vec<_> =
            raw.headers.iter().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
        assert_eq!(headers.len(), raw.headers.len());
        Self {
            timestamp: raw.timestamp,
            key: raw.key.map(<[u8]>::to_vec),
            value: raw.value.map(<[u8]>::to_vec),
            headers,
        }
    }

    fn plain(timestamp: i64, value: &[u8]) -> Self {
        Self { timestamp, key: None, value: Some(value.to_vec()), headers: Vec::new() }
    }

    fn push_to(&self, builder: &mut FrameBuilder) {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        builder.push(self.timestamp, self.key.as_deref(), self.value.as_deref(), headers.into_iter());
    }
}

/// Absent, empty, and anything else are all likely.
fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![Just(None), Just(Some(Vec::new())), prop::collection::vec(any::<u8>(), 0..200).prop_map(Some)]
}

/// Ordinary moments, moments before 1970, and the ends of what 64 bits hold.
fn timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(i64::MIN),
        Just(i64::MAX),
        Just(0),
        -1000..1000_i64,
        1_700_000_000_000_000..1_700_000_001_000_000_i64,
        any::<i64>()
    ]
}

fn owned() -> impl Strategy<Value = Owned> {
    // So few names that they repeat.
    let name = prop_oneof!["[abc]", "[a-zé]{1,20}", Just(String::new())];
    (timestamp(), bytes(), bytes(), prop::collection::vec((name, bytes()), 0..5))
        .prop_map(|(timestamp, key, value, headers)| Owned { timestamp, key, value, headers })
}

/// A frame of these records.
fn frame_of(records: &[Owned], place: FramePlace) -> (FrameHeader, Vec<u8>) {
    let mut builder = FrameBuilder::new();
    for record in records {
        record.push_to(&mut builder);
    }
    let (header, bytes) = builder.finish(place);
    (header, bytes.to_vec())
}

fn place(base_offset: u64) -> FramePlace {
    FramePlace { incarnation: 0x1122_3344_5566_7788, base_offset, durable_upto: base_offset / 2, commit: 9 }
}

/// All records of a body, or the first error.
fn read_all(header: &FrameHeader, body: &[u8]) -> FormatResult<Vec<(u64, Owned)>> {
    let mut iter = RecordIter::new(header, body);
    let mut records = Vec::new();
    while let Some(raw) = iter.next_record()? {
        records.push((raw.offset, Owned::of(&raw)));
    }
    Ok(records)
}

/// Decodes after each flip of a single bit: none may pass.
fn every_flip_is_detected<T: std::fmt::Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> FormatResult<T>) {
    decode(bytes).unwrap();
    let mut damaged = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = decode(&damaged) {
            panic!("bit {bit} of {} is not covered: {decoded:?}", bytes.len());
        }
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Decodes each proper prefix: none may pass, and none may panic.
fn every_cut_is_detected<T: std::fmt::Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> FormatResult<T>) {
    decode(bytes).unwrap();
    for len in 0..bytes.len() {
        if let Ok(decoded) = decode(&bytes[..len]) {
            panic!("a cut at {len} of {} passes: {decoded:?}", bytes.len());
        }
    }
}

/// Overwrites bytes and makes the checksum in the last four right again: what a later version might have written.
fn forge(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
    let covered = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..covered]);
    bytes[covered..].copy_from_slice(&crc.to_le_bytes());
}
