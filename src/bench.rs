//! What the micro-benchmarks in `benches/micro` need of the inner layers.
//!
//! Behind the hidden feature `bench`, which is no part of the public interface: it may change or go at any time.

#![allow(missing_docs, reason = "each function does what its name says, once")]

use bytes::BytesMut;

use crate::format::compression::{Compression, decompress};
use crate::format::frame::parse;
use crate::format::journal::{EntryBuilder, FrameTarget};
use crate::format::record::{FrameBuilder, FramePlace, RecordIter};

const INCARNATION: u64 = 7;

/// Builds a frame of `records` records with 8-byte keys.
pub fn encode_frame(records: usize, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    for record in 0..records {
        builder.push(record as i64, Some(key), Some(value), std::iter::empty());
    }
    let place = FramePlace { incarnation: INCARNATION, base_offset: 0, durable_upto: 0, commit: 1 };
    builder.finish(place);
    builder.into_bytes().0.to_vec()
}

/// The body of a frame of `records` records, compressed; as it is where that does not make it smaller.
pub fn compress_frame(compression: Compression, records: usize, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    for record in 0..records {
        builder.push(record as i64, Some(key), Some(value), std::iter::empty());
    }
    builder.compress(compression);
    let place = FramePlace { incarnation: INCARNATION, base_offset: 0, durable_upto: 0, commit: 1 };
    builder.finish(place);
    builder.into_bytes().0.to_vec()
}

/// Checks and decompresses a frame; answers how many bytes its body has.
pub fn decompress_frame(bytes: &[u8], into: &mut BytesMut) -> usize {
    match parse(bytes, INCARNATION) {
        Ok((header, body)) if decompress(header.compression, body, into).is_ok() => into.len(),
        _ => 0,
    }
}

/// Checks a frame and walks its records; answers how many bytes their values have.
pub fn decode_frame(bytes: &[u8]) -> usize {
    let Ok((header, body)) = parse(bytes, INCARNATION) else { return 0 };
    let mut records = RecordIter::new(&header, body);
    let mut total = 0;
    while let Ok(Some(record)) = records.next_record() {
        total += record.value.map_or(0, <[u8]>::len);
    }
    total
}

/// Puts `frames` copies of a frame into one journal entry; answers its length.
pub fn journal_entry(frames: u32, frame: &[u8]) -> usize {
    let mut entry = EntryBuilder::default();
    entry.clear();
    for partition in 0..frames {
        entry.push(&FrameTarget { topic_id: 1, partition, segment_base: 0, position: 80 }, frame);
    }
    entry.finish(INCARNATION, 0, 0, 1).len()
}

/// The hash that picks a partition.
pub fn murmur2(key: &[u8]) -> u32 {
    crate::partitioner::murmur2(key)
}
