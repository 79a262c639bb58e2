use proptest::prelude::*;

use super::super::FormatError;
use super::super::compression::Method;
use super::super::frame::{self, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameKind, find_header};
use super::{Owned, every_cut_is_detected, every_flip_is_detected, frame_of, place};

const INCARNATION: u64 = 0x1122_3344_5566_7788;

fn header() -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Records,
        compression: Method::Plain,
        body_len: 17,
        body_crc: 0xaabb_ccdd,
        incarnation: INCARNATION,
        base_offset: 1000,
        record_count: 3,
        last_offset_delta: 5,
        base_timestamp: -7,
        max_timestamp: 44,
        durable_upto: 990,
        commit: 1 << 33,
    }
}

fn encode(header: &FrameHeader) -> [u8; FRAME_HEADER_BYTES] {
    let mut out = [0xee; FRAME_HEADER_BYTES];
    let crc = header.encode_into(&mut out);
    assert_eq!(crc, frame::header_crc(&out));
    out
}

/// A header with one field changed and the checksum made right again.
fn forged(at: usize, with: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
    let mut bytes = encode(&header());
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn small_frame() -> Vec<u8> {
    let records = [Owned::plain(5, b"one"), Owned { key: Some(b"k".to_vec()), ..Owned::plain(4, b"") }];
    frame_of(&records, place(1000)).1
}

prop_compose! {
    fn any_header()(
        kind in prop_oneof![Just(FrameKind::Records), Just(FrameKind::Footer), Just(FrameKind::Journal)],
        packed in prop_oneof![Just(Method::Plain), Just(Method::Lz4), Just(Method::Zstd)],
        body_len in 0..=FRAME_BODY_BYTES_MAX,
        small: (u32, u32, u32),
        large: (u64, u64, u64, u64),
        base_timestamp: i64,
        max_timestamp: i64,
    ) -> FrameHeader {
        let compression = if kind == FrameKind::Records { packed } else { Method::Plain };
        FrameHeader {
            kind,
            compression,
            body_len,
            body_crc: small.0,
            record_count: small.1,
            last_offset_delta: small.2,
            incarnation: large.0,
            base_offset: large.1,
            durable_upto: large.2,
            commit: large.3,
            base_timestamp,
            max_timestamp,
        }
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let bytes = encode(&header());
    assert_eq!(bytes[4..8], [1, 0, 0, 0]);
    assert_eq!(bytes[8..12], 17_u32.to_le_bytes());
    assert_eq!(bytes[12..16], 0xaabb_ccdd_u32.to_le_bytes());
    assert_eq!(bytes[16..24], INCARNATION.to_le_bytes());
    assert_eq!(bytes[24..32], 1000_u64.to_le_bytes());
    assert_eq!(bytes[32..40], [3, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(bytes[40..48], (-7_i64).to_le_bytes());
    assert_eq!(bytes[48..56], 44_i64.to_le_bytes());
    assert_eq!(bytes[56..64], 990_u64.to_le_bytes());
    assert_eq!(bytes[64..72], (1_u64 << 33).to_le_bytes());
    assert_eq!(header().next_offset(), 1006);
    assert_eq!(header().frame_len(), 72 + 17);
}

#[test]
fn every_flip_and_every_cut_of_a_header_is_detected() {
    every_flip_is_detected(&encode(&header()), FrameHeader::decode);
    every_cut_is_detected(&encode(&header()), FrameHeader::decode);
}

#[test]
fn every_flip_and_every_cut_of_a_frame_is_detected() {
    let parse = |bytes: &[u8]| frame::parse(bytes, INCARNATION).map(|(header, body)| (header, body.to_vec()));
    every_flip_is_detected(&small_frame(), parse);
    every_cut_is_detected(&small_frame(), parse);
}

#[test]
fn a_cut_says_that_the_bytes_end_too_early() {
    let bytes = small_frame();
    for len in 0..bytes.len() {
        assert_eq!(frame::parse(&bytes[..len], INCARNATION).unwrap_err(), FormatError::Short, "{len}");
    }
}

#[test]
fn every_burst_of_up_to_four_bytes_is_detected() {
    let bytes = small_frame();
    for at in 0..bytes.len() {
        for len in 1..=4.min(bytes.len() - at) {
            for fill in [0, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at..at + len].fill(fill);
                assert!(damaged == bytes || frame::parse(&damaged, INCARNATION).is_err(), "{len} bytes at {at}");
            }
        }
    }
}

#[test]
fn zeros_are_no_frame() {
    assert_eq!(FrameHeader::decode(&[0; FRAME_HEADER_BYTES]), Err(FormatError::Zeros));
    assert_eq!(frame::parse(&[0; 4096], 0), Err(FormatError::Zeros));
    assert_eq!(FrameHeader::decode(&forged(4, &[0])), Err(FormatError::Zeros), "kind 0, though the checksum holds");
}

#[test]
fn what_a_later_version_may_write_is_refused_by_name() {
    assert_eq!(FrameHeader::decode(&forged(4, &[4])), Err(FormatError::Kind(4)));
    assert_eq!(FrameHeader::decode(&forged(4, &[255])), Err(FormatError::Kind(255)));
    assert_eq!(FrameHeader::decode(&forged(5, &[3])), Err(FormatError::Compression(3)));
    assert_eq!(FrameHeader::decode(&forged(4, &[2, 1])), Err(FormatError::Compression(1)), "of records only");
    assert_eq!(FrameHeader::decode(&forged(4, &[3, 2])), Err(FormatError::Compression(2)));
    assert_eq!(FrameHeader::decode(&forged(6, &[0, 0x80])), Err(FormatError::Flags(0x8000)));
    for (at, with) in [(4, 4), (5, 3), (6, 1)] {
        let bytes = forged(at, &[with]);
        assert!(frame::parse(&bytes, INCARNATION).unwrap_err().is_from_the_future());
        assert_eq!(frame::parse(&bytes, 1), Err(FormatError::Incarnation), "of a recycled file it is only stale");
    }
}

#[test]
fn lengths_are_bounded() {
    for len in [FRAME_BODY_BYTES_MAX + 1, u32::MAX] {
        assert_eq!(FrameHeader::decode(&forged(8, &len.to_le_bytes())), Err(FormatError::Length));
    }
    let largest = forged(8, &FRAME_BODY_BYTES_MAX.to_le_bytes());
    assert_eq!(frame::parse(&largest, INCARNATION), Err(FormatError::Short), "nothing is allocated for it");
    assert_eq!(header().check_body(&[0; 16]), Err(FormatError::Short));
    assert_eq!(header().check_body(&[0; 17]), Err(FormatError::BodyChecksum));
}

#[test]
fn offsets_do_not_wrap() {
    let header = FrameHeader { base_offset: u64::MAX, last_offset_delta: u32::MAX, ..header() };
    assert_eq!(header.next_offset(), u64::MAX);
}

#[test]
fn another_incarnation_is_told_apart() {
    assert_eq!(frame::parse(&small_frame(), INCARNATION + 1), Err(FormatError::Incarnation));
}

#[test]
fn headers_are_found_behind_damage_and_nowhere_else() {
    let frame = small_frame();
    let mut bytes = vec![0xa5; 300];
    // The mark alone is no header, however often it stands there, at the very edges included.
    bytes[..8].copy_from_slice(&INCARNATION.to_le_bytes());
    bytes[40..48].copy_from_slice(&INCARNATION.to_le_bytes());
    bytes[292..].copy_from_slice(&INCARNATION.to_le_bytes());
    assert_eq!(find_header(&bytes, INCARNATION, 0), None);

    let (first, second) = (bytes.len(), bytes.len() + frame.len() + 3);
    bytes.extend_from_slice(&frame);
    bytes.extend_from_slice(&[9; 3]);
    bytes.extend_from_slice(&frame);
    let found = |from| find_header(&bytes, INCARNATION, from).map(|(at, _)| at);
    assert_eq!(found(0), Some(first));
    assert_eq!(found(first), Some(first));
    assert_eq!(found(first + 1), Some(second));
    assert_eq!(found(second + 1), None);
    assert_eq!(found(bytes.len()), None);
    assert_eq!(found(usize::MAX / 2), None);
    assert_eq!(find_header(&bytes, 7, 0), None, "of another file");
    // A header whose body is cut off still tells what it was written with; a header that is cut does not.
    assert_eq!(find_header(&bytes[..second + 72], INCARNATION, first + 1).map(|(at, _)| at), Some(second));
    assert_eq!(find_header(&bytes[..second + 71], INCARNATION, first + 1), None);
    bytes[first + 30] ^= 1;
    assert_eq!(find_header(&bytes, INCARNATION, 0).map(|(at, _)| at), Some(second), "a damaged header is passed over");
}

proptest! {
    #[test]
    fn headers_come_back(header in any_header()) {
        let bytes = encode(&header);
        prop_assert_eq!(FrameHeader::decode(&bytes), Ok(header));
        let mut longer = bytes.to_vec();
        longer.extend_from_slice(b"whatever follows");
        prop_assert_eq!(FrameHeader::decode(&longer), Ok(header));
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(header in any_header(), at in 4..FRAME_HEADER_BYTES, with: u8) {
        let mut bytes = encode(&header);
        bytes[at] = with;
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        if let Ok(decoded) = FrameHeader::decode(&bytes) {
            prop_assert_eq!(encode(&decoded), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_frame(bytes in prop::collection::vec(any::<u8>(), 0..400), incarnation: u64) {
        prop_assert!(frame::parse(&bytes, incarnation).is_err());
        prop_assert_eq!(find_header(&bytes, incarnation, 0), None);
    }

    #[test]
    fn a_planted_header_is_found_wherever_it_is(
        before in prop::collection::vec(any::<u8>(), 0..200),
        after in prop::collection::vec(any::<u8>(), 0..100),
        header in any_header(),
    ) {
        let bytes = [&before[..], &encode(&header), &after].concat();
        prop_assert_eq!(find_header(&bytes, header.incarnation, 0), Some((before.len(), header)));
        prop_assert_eq!(find_header(&bytes, header.incarnation, before.len() + 1), None);
    }
}
