use proptest::prelude::*;

use super::super::compression::Method;
use super::super::frame::{self, FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use super::super::journal::{
    EntryBuilder, FrameTarget, JOURNAL_FRAME_OVERHEAD_BYTES, JOURNAL_HEADER_BYTES, JournalHeader, frames,
};
use super::super::{FORMAT_VERSION, FormatError, FormatResult};
use super::{Owned, every_cut_is_detected, every_flip_is_detected, forge, frame_of, owned, place};

const INCARNATION: u64 = 99;

fn header() -> JournalHeader {
    JournalHeader {
        log_id: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        sequence: 4,
        incarnation: INCARNATION,
        first_entry: 20,
        file_bytes: 21,
    }
}

fn target(partition: u32) -> FrameTarget {
    FrameTarget { topic_id: 0x2122_2324_2526_2728_292a_2b2c_2d2e_2f30, partition, segment_base: 40, position: 80 }
}

fn entry_of(frames: &[(FrameTarget, Vec<u8>)]) -> Vec<u8> {
    let mut builder = EntryBuilder::default();
    builder.clear();
    for (target, frame) in frames {
        builder.push(target, frame);
    }
    builder.finish(INCARNATION, 20, 19, 7).to_vec()
}

/// An entry, checked from the outside in.
fn decode(bytes: &[u8]) -> FormatResult<Vec<(FrameTarget, Vec<u8>)>> {
    let (header, body) = frame::parse(bytes, INCARNATION)?;
    Ok(frames(&header, body)?.into_iter().map(|frame| (frame.target, frame.bytes.to_vec())).collect())
}

/// The body of an entry under a header that agrees with it.
fn rewrapped(record_count: u32, body: &[u8]) -> FormatResult<Vec<(FrameTarget, Vec<u8>)>> {
    let header = FrameHeader {
        kind: FrameKind::Journal,
        compression: Method::Plain,
        body_len: body.len() as u32,
        body_crc: crc32fast::hash(body),
        incarnation: INCARNATION,
        base_offset: 20,
        record_count,
        last_offset_delta: 0,
        base_timestamp: 0,
        max_timestamp: 0,
        durable_upto: 0,
        commit: 7,
    };
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    header.encode_into(bytes.first_chunk_mut().unwrap());
    bytes.extend_from_slice(body);
    decode(&bytes)
}

fn small() -> Vec<(FrameTarget, Vec<u8>)> {
    (0..2).map(|number| (target(number), frame_of(&[Owned::plain(1, b"v")], place(40)).1)).collect()
}

#[test]
fn every_flip_and_every_cut_is_detected() {
    every_flip_is_detected(&header().encode(), JournalHeader::decode);
    every_cut_is_detected(&header().encode(), JournalHeader::decode);
    every_flip_is_detected(&entry_of(&small()), decode);
    every_cut_is_detected(&entry_of(&small()), decode);
}

#[test]
fn the_layout_is_the_documented_one() {
    let bytes = header().encode();
    assert_eq!(bytes.len(), JOURNAL_HEADER_BYTES);
    assert_eq!(&bytes[..16], b"ANNALJNL\x01\0\0\0\0\0\0\0");
    assert_eq!(bytes[16..32], (1..=16).collect::<Vec<u8>>());
    let numbers: Vec<u64> =
        bytes[32..56].chunks(8).map(|eight| u64::from_le_bytes(eight.try_into().unwrap())).collect();
    assert_eq!(numbers, [4, INCARNATION, 20]);
    assert_eq!(bytes[56..60], [21, 0, 0, 0]);

    let (entry, inner) = (entry_of(&small()), &small()[0].1);
    let (front, body) = entry.split_at(FRAME_HEADER_BYTES);
    let front = FrameHeader::decode(front).unwrap();
    assert_eq!((front.kind, front.base_offset, front.record_count), (FrameKind::Journal, 20, 2));
    assert_eq!((front.durable_upto, front.commit), (19, 7));
    assert_eq!(body.len(), 2 * (JOURNAL_FRAME_OVERHEAD_BYTES + inner.len()));
    assert_eq!(body[..16], (0x21..=0x30).collect::<Vec<u8>>());
    assert_eq!(body[16..20], [0; 4]);
    assert_eq!(body[20..24], (inner.len() as u32).to_le_bytes());
    assert_eq!(body[24..32], 40_u64.to_le_bytes());
    assert_eq!(body[32..40], 80_u64.to_le_bytes());
    assert_eq!(body[40..40 + inner.len()], inner[..]);
}

#[test]
fn versions_are_checked_first() {
    let mut bytes = header().encode();
    bytes[8..10].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    assert_eq!(JournalHeader::decode(&bytes), Err(FormatError::Newer(FORMAT_VERSION + 1)));
    assert_eq!(JournalHeader::decode(&[0; JOURNAL_HEADER_BYTES]), Err(FormatError::Zeros));
    let mut bytes = header().encode();
    forge(&mut bytes, 10, &[1; 6]);
    assert_eq!(JournalHeader::decode(&bytes), Ok(header()), "reserved bytes are ignored");
}

/// Entries whose checksum holds and whose content does not: nothing annals writes, and still no reason to trust it.
#[test]
fn malformed_entries_are_refused() {
    let body = entry_of(&small())[FRAME_HEADER_BYTES..].to_vec();
    assert_eq!(rewrapped(2, &body).unwrap(), small());
    assert_eq!(rewrapped(1, &body), Err(FormatError::Length), "bytes are left");
    assert_eq!(rewrapped(3, &body), Err(FormatError::Short), "a frame is missing");
    assert_eq!(rewrapped(u32::MAX, &body), Err(FormatError::Short));
    assert_eq!(rewrapped(1, &[]), Err(FormatError::Short));
    for len in [0, 71, 1000, u32::MAX] {
        let mut body = body.clone();
        body[20..24].copy_from_slice(&len.to_le_bytes());
        assert_eq!(rewrapped(2, &body), Err(FormatError::Short), "{len}");
    }
    let mut longer = body.clone();
    longer[20..24].copy_from_slice(&(small()[0].1.len() as u32 + 1).to_le_bytes());
    assert_eq!(rewrapped(2, &longer), Err(FormatError::Length), "longer than the frame in it");
    let mut damaged = body.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(rewrapped(2, &damaged), Err(FormatError::BodyChecksum), "the frame inside is damaged");
    // An entry inside an entry.
    let nested = entry_of(&[(target(0), entry_of(&small()))]);
    assert_eq!(decode(&nested), Err(FormatError::Length));
}

#[test]
fn an_empty_entry_is_whole() {
    assert_eq!(decode(&entry_of(&[])), Ok(Vec::new()));
}

proptest! {
    #[test]
    fn headers_come_back(log_id: u128, sequence: u64, incarnation: u64, first_entry: u64, file_bytes: u32) {
        let header = JournalHeader { log_id, sequence, incarnation, first_entry, file_bytes };
        prop_assert_eq!(JournalHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn entries_come_back(all in prop::collection::vec(
        (any::<(u128, u32, u64, u64)>(), prop::collection::vec(owned(), 1..4)), 0..5)) {
        let all: Vec<(FrameTarget, Vec<u8>)> = all
            .into_iter()
            .map(|((topic_id, partition, segment_base, position), records)| {
                (FrameTarget { topic_id, partition, segment_base, position }, frame_of(&records, place(segment_base / 2)).1)
            })
            .collect();
        prop_assert_eq!(decode(&entry_of(&all)).unwrap(), all);
    }

    #[test]
    fn any_body_is_refused_or_bounded(body in prop::collection::vec(any::<u8>(), 0..300), count: u32) {
        if let Ok(found) = rewrapped(count, &body) {
            prop_assert!(found.is_empty() && count == 0);
        }
    }
}
