//! The structures that are a file, or the beginning of one, by themselves.

use proptest::prelude::*;

use super::super::checkpoint::{Checkpoint, CheckpointEntry, SegmentPlace};
use super::super::index::{IndexEntry, IndexFile};
use super::super::manifest::{MANIFEST_SLOT_BYTES, Manifest};
use super::super::segment::{FOOTER_BODY_BYTES, Footer, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::super::{FORMAT_VERSION, FormatError};
use super::{every_cut_is_detected, every_flip_is_detected, forge};

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        log_id: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        topic_id: 0x2122_2324_2526_2728_292a_2b2c_2d2e_2f30,
        partition: 3,
        base_offset: 77,
        incarnation: 0x4142_4344_4546_4748,
        created_at: -1,
        compacted: false,
    }
}

fn manifest() -> Manifest {
    Manifest {
        serial: 5,
        log_id: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        epoch: 2,
        clean: true,
        commit_limit: 1 << 32,
        journal_first: 3,
        journal_next: 5,
        checkpoint: 9,
        created_at: i64::MIN,
    }
}

fn index() -> IndexFile {
    let entry =
        |at: u64| IndexEntry { offset: at, position: 80 + at * 100, commit: at / 2, max_timestamp_before: i64::MIN };
    IndexFile { incarnation: 4, covered: 4000, entries: (0..3).map(entry).collect() }
}

fn checkpoint() -> Checkpoint {
    let place = SegmentPlace {
        segment_base: 100,
        incarnation: 11,
        position: 4096,
        next_offset: 130,
        first_commit: 1,
        last_commit: 7,
        max_timestamp: i64::MIN,
        frame_count: 6,
        record_count: 30,
        chain_crc: 0xdead_beef,
    };
    let entry = |partition| CheckpointEntry { topic_id: u128::MAX, partition, log_start: 50, clean_end: 60, place };
    Checkpoint { serial: 8, log_id: 1, entries: (0..2).map(entry).collect() }
}

#[test]
fn every_flip_and_every_cut_is_detected() {
    every_flip_is_detected(&segment_header().encode(), SegmentHeader::decode);
    every_cut_is_detected(&segment_header().encode(), SegmentHeader::decode);
    every_flip_is_detected(&manifest().encode(), Manifest::decode);
    every_cut_is_detected(&manifest().encode(), Manifest::decode);
    every_flip_is_detected(&index().encode(), IndexFile::decode);
    every_cut_is_detected(&index().encode(), IndexFile::decode);
    every_flip_is_detected(&checkpoint().encode(), Checkpoint::decode);
    every_cut_is_detected(&checkpoint().encode(), Checkpoint::decode);
}

#[test]
fn the_layouts_are_the_documented_ones() {
    let bytes = segment_header().encode();
    assert_eq!(&bytes[..12], b"ANNALSEG\x01\0\0\0");
    assert_eq!(bytes[12..16], [3, 0, 0, 0]);
    // UUIDs stand as RFC 9562 has them: the first byte first.
    assert_eq!(bytes[16..32], (1..=16).collect::<Vec<u8>>());
    assert_eq!(bytes[32..48], (0x21..=0x30).collect::<Vec<u8>>());
    assert_eq!(bytes[48..56], 77_u64.to_le_bytes());
    assert_eq!(bytes[56..64], 0x4142_4344_4546_4748_u64.to_le_bytes());
    assert_eq!(bytes[64..76], [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0]);

    let bytes = manifest().encode();
    assert_eq!(&bytes[..16], b"ANNALMAN\x01\0\x01\0\0\0\0\0");
    assert_eq!(bytes[16..24], 5_u64.to_le_bytes());
    assert_eq!(bytes[24..40], (1..=16).collect::<Vec<u8>>());
    let numbers: Vec<u64> =
        bytes[40..96].chunks(8).map(|eight| u64::from_le_bytes(eight.try_into().unwrap())).collect();
    assert_eq!(numbers, [2, 1 << 32, 3, 5, 9, i64::MIN as u64, 0]);

    let bytes = index().encode();
    assert_eq!(&bytes[..16], b"ANNALIDX\x01\0\0\0\x03\0\0\0");
    assert_eq!(bytes.len(), 32 + 3 * 32 + 4);
    let bytes = checkpoint().encode();
    assert_eq!(&bytes[..16], b"ANNALCHK\x01\0\0\0\x02\0\0\0");
    assert_eq!(bytes.len(), 40 + 2 * 112 + 4);
    assert_eq!(Checkpoint { entries: Vec::new(), ..checkpoint() }.encode().len(), 44);
}

/// A newer version is told from damage, even where it keeps its checksum elsewhere; an older one does not exist.
#[test]
fn versions_are_checked_first() {
    fn check(bytes: &[u8], decode: impl Fn(&[u8]) -> FormatError) {
        let mut newer = bytes.to_vec();
        newer[8..10].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        assert_eq!(decode(&newer), FormatError::Newer(FORMAT_VERSION + 1));
        forge(&mut newer, 8, &u16::MAX.to_le_bytes());
        assert_eq!(decode(&newer), FormatError::Newer(u16::MAX));
        let mut older = bytes.to_vec();
        forge(&mut older, 8, &0_u16.to_le_bytes());
        assert_eq!(decode(&older), FormatError::HeaderChecksum);
        let mut foreign = bytes.to_vec();
        forge(&mut foreign, 0, b"a");
        assert_eq!(decode(&foreign), FormatError::Magic);
        assert_eq!(decode(&vec![0; bytes.len()]), FormatError::Zeros);
    }
    check(&segment_header().encode(), |bytes| SegmentHeader::decode(bytes).unwrap_err());
    check(&manifest().encode(), |bytes| Manifest::decode(bytes).unwrap_err());
    check(&index().encode(), |bytes| IndexFile::decode(bytes).unwrap_err());
    check(&checkpoint().encode(), |bytes| Checkpoint::decode(bytes).unwrap_err());
}

#[test]
fn files_of_each_other_are_not_mistaken() {
    let files: [&[u8]; 4] =
        [&segment_header().encode(), &manifest().encode(), &index().encode(), &checkpoint().encode()];
    for (at, bytes) in files.iter().enumerate() {
        assert_eq!(SegmentHeader::decode(bytes).is_ok(), at == 0);
        assert_eq!(Manifest::decode(bytes).is_ok(), at == 1);
        assert_eq!(IndexFile::decode(bytes).is_ok(), at == 2);
        assert_eq!(Checkpoint::decode(bytes).is_ok(), at == 3);
    }
}

/// Reserved bytes are covered by the checksum and otherwise ignored: a later version may put hints there.
#[test]
fn reserved_bytes_are_ignored() {
    let mut bytes = segment_header().encode();
    forge(&mut bytes, 72, &[3, 4, 5, 6]);
    assert_eq!(SegmentHeader::decode(&bytes), Ok(segment_header()));
    let mut bytes = manifest().encode();
    forge(&mut bytes, 12, &[1]);
    forge(&mut bytes, 88, &[2; 8]);
    assert_eq!(Manifest::decode(&bytes), Ok(manifest()));
    for at in [10, 11] {
        let mut bytes = index().encode();
        forge(&mut bytes, at, &[1]);
        assert_eq!(IndexFile::decode(&bytes), Ok(index()));
        let mut bytes = checkpoint().encode();
        forge(&mut bytes, at, &[1]);
        assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint()));
    }
}

#[test]
fn segments_of_unknown_kinds_are_refused() {
    let compacted = SegmentHeader { compacted: true, ..segment_header() };
    let mut bytes = compacted.encode();
    assert_eq!(bytes[10..12], [1, 0]);
    every_flip_is_detected(&bytes, SegmentHeader::decode);
    forge(&mut bytes, 10, &[3, 1]);
    let why = SegmentHeader::decode(&bytes).unwrap_err();
    assert!(why == FormatError::Flags(0x102) && why.is_from_the_future());
}

#[test]
fn manifests_that_make_no_sense_are_refused() {
    let mut bytes = manifest().encode();
    forge(&mut bytes, 10, &[3, 1]);
    assert_eq!(Manifest::decode(&bytes), Err(FormatError::Flags(0x102)));
    let backwards = Manifest { journal_first: 6, ..manifest() };
    assert_eq!(Manifest::decode(&backwards.encode()), Err(FormatError::Length));
}

/// A count is compared with the bytes that are there before anything is allocated for it.
#[test]
fn counts_are_bounded_by_the_input() {
    for count in [0, 1, 2, 4, 1 << 20, u32::MAX] {
        let mut bytes = index().encode();
        forge(&mut bytes, 12, &count.to_le_bytes());
        assert_eq!(IndexFile::decode(&bytes), Err(FormatError::Length), "{count}");
        if count != 2 {
            let mut bytes = checkpoint().encode();
            forge(&mut bytes, 12, &count.to_le_bytes());
            assert_eq!(Checkpoint::decode(&bytes), Err(FormatError::Length), "{count}");
        }
    }
    let mut longer = index().encode();
    longer.extend_from_slice(&[0; 32]);
    forge(&mut longer, 0, b"A");
    assert_eq!(IndexFile::decode(&longer), Err(FormatError::Length));
}

#[test]
fn index_entries_must_ascend() {
    let shuffled = |change: fn(&mut Vec<IndexEntry>)| {
        let mut index = index();
        change(&mut index.entries);
        IndexFile::decode(&index.encode())
    };
    assert_eq!(shuffled(|entries| entries.swap(0, 1)), Err(FormatError::Offset));
    assert_eq!(shuffled(|entries| entries[2].offset = 1), Err(FormatError::Offset));
    assert_eq!(shuffled(|entries| entries[2].position = entries[1].position), Err(FormatError::Offset));
    assert_eq!(shuffled(|entries| entries[0].commit = 1), Err(FormatError::Offset));
    assert!(shuffled(|entries| entries[2].commit = 0).is_ok(), "one commit may have several frames");
}

proptest! {
    #[test]
    fn segment_headers_come_back(ids: (u128, u128), partition: u32, numbers: (u64, u64), created_at: i64, compacted: bool) {
        let header = SegmentHeader {
            log_id: ids.0,
            topic_id: ids.1,
            partition,
            base_offset: numbers.0,
            incarnation: numbers.1,
            created_at,
            compacted,
        };
        let bytes = header.encode();
        prop_assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
        prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn footers_come_back(numbers: (u64, u64, u64, u64), chain_crc: u32) {
        let footer = Footer {
            frame_count: numbers.0,
            record_count: numbers.1,
            chain_crc,
            first_commit: numbers.2,
            last_commit: numbers.3,
        };
        let body = footer.encode();
        prop_assert_eq!(Footer::decode(&body), Ok(footer));
        prop_assert_eq!(Footer::decode(&body[1..]), Err(FormatError::Length));
        prop_assert_eq!(Footer::decode(&[0; FOOTER_BODY_BYTES + 1]), Err(FormatError::Length));
    }

    #[test]
    fn manifests_come_back(numbers: (u64, u64, u64, u64), log_id: u128, journal: (u64, u64), clean: bool, created_at: i64) {
        let manifest = Manifest {
            serial: numbers.0,
            log_id,
            epoch: numbers.1,
            clean,
            commit_limit: numbers.2,
            journal_first: journal.0.min(journal.1),
            journal_next: journal.0.max(journal.1),
            checkpoint: numbers.3,
            created_at,
        };
        let bytes = manifest.encode();
        prop_assert_eq!(bytes.len(), MANIFEST_SLOT_BYTES);
        prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }

    #[test]
    fn indexes_come_back(incarnation: u64, covered: u64, steps in prop::collection::vec((1..1000_u64, 1..1000_u64, 0..3_u64, any::<i64>()), 0..20)) {
        let mut entries = vec![];
        let mut at = (0, 80, 1);
        for (offset, position, commit, max_timestamp_before) in steps {
            entries.push(IndexEntry { offset: at.0, position: at.1, commit: at.2, max_timestamp_before });
            at = (at.0 + offset, at.1 + position, at.2 + commit);
        }
        let file = IndexFile { incarnation, covered, entries };
        prop_assert_eq!(IndexFile::decode(&file.encode()), Ok(file));
    }

    #[test]
    fn checkpoints_come_back(serial: u64, log_id: u128, entries in prop::collection::vec(
        (any::<(u128, u32, u32)>(), any::<[u64; 8]>(), any::<(i64, u64, u64)>()).prop_map(|(ids, eight, two)| CheckpointEntry {
            topic_id: ids.0,
            partition: ids.1,
            log_start: eight[0],
            clean_end: two.2,
            place: SegmentPlace {
                segment_base: eight[1],
                incarnation: eight[2],
                position: eight[3],
                next_offset: eight[4],
                first_commit: eight[5],
                last_commit: eight[6],
                max_timestamp: two.0,
                frame_count: eight[7],
                record_count: two.1,
                chain_crc: ids.2,
            },
        }), 0..5)) {
        let file = Checkpoint { serial, log_id, entries };
        prop_assert_eq!(Checkpoint::decode(&file.encode()), Ok(file));
    }

    #[test]
    fn arbitrary_bytes_are_refused(magic in prop_oneof!["ANNALSEG", "ANNALMAN", "ANNALIDX", "ANNALCHK"], rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [magic.as_bytes(), &1_u16.to_le_bytes(), &rest].concat();
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        prop_assert!(Manifest::decode(&bytes).is_err());
        prop_assert!(IndexFile::decode(&bytes).is_err());
        prop_assert!(Checkpoint::decode(&bytes).is_err());
    }
}
