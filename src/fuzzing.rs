//! The bodies of the fuzz targets in `fuzz/`: each takes arbitrary bytes and panics if a promise is broken.
//!
//! Behind the hidden feature `fuzzing`, which is no part of the public interface: it may change or go at any time. It also lets
//! segments be as small as the tests have them, and builds the simulated disk.
//!
//! Checksums would keep a fuzzer out of everything behind them, so each target reads its input twice: as it is, and with the
//! checksums made right.

#![allow(missing_docs, reason = "what each target checks is said once, at its body")]

use bytes::BytesMut;

use crate::format::FormatError;
use crate::format::checkpoint::Checkpoint;
use crate::format::compression::{self, Method};
use crate::format::frame::{self, FRAME_HEADER_BYTES, FrameHeader};
use crate::format::index::IndexFile;
use crate::format::journal::{self, JournalHeader};
use crate::format::manifest::{MANIFEST_SLOT_BYTES, Manifest};
use crate::format::record::{FrameBuilder, FramePlace, RawRecord, RecordIter};
use crate::format::segment::{Footer, SegmentHeader};
use crate::log::topic_file::TopicFile;

mod chunks;
mod decompress;
mod journal_replay;
mod log_operations;
mod segment_recovery;

pub use decompress::decompress;
pub use journal_replay::journal_replay;
pub use log_operations::log_operations;
pub use segment_recovery::segment_recovery;

/// What is run with arbitrary bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("frame_decode", frame_decode),
    ("record_iter", record_iter),
    ("segment_recovery", segment_recovery),
    ("manifest", manifest),
    ("checkpoint", checkpoint),
    ("index", index),
    ("journal_replay", journal_replay),
    ("topic_file", topic_file),
    ("log_operations", log_operations),
    ("decompress", decompress),
];

/// Frames, footers and journal entries: what decodes encodes to the same bytes, and nothing reads past the end.
pub fn frame_decode(data: &[u8]) {
    check_frame(data);
    let Some((_, body)) = data.split_first_chunk::<FRAME_HEADER_BYTES>() else { return };
    let mut forged = data.to_vec();
    forged[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    forged[12..16].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&forged[4..FRAME_HEADER_BYTES]);
    forged[..4].copy_from_slice(&crc.to_le_bytes());
    let packed = forged[5] > 2 || forged[5] > 0 && forged[4] != 1;
    let refused = forged[4] > 3 || forged[4] == 0 || packed || forged[6..8] != [0; 2];
    assert_eq!(FrameHeader::decode(&forged).is_err(), refused);
    check_frame(&forged);
}

fn check_frame(bytes: &[u8]) {
    let incarnation =
        bytes.get(16..24).and_then(|eight| eight.first_chunk()).map_or(0, |eight| u64::from_le_bytes(*eight));
    let found = frame::find_header(bytes, incarnation, 0);
    if let Some((at, header)) = found {
        assert_eq!(FrameHeader::decode(&bytes[at..]), Ok(header));
    }
    let Ok(header) = FrameHeader::decode(bytes) else { return };
    let mut again = [0; FRAME_HEADER_BYTES];
    header.encode_into(&mut again);
    assert_eq!(again, bytes[..FRAME_HEADER_BYTES]);
    assert!(found.is_some_and(|(at, _)| at == 0));
    let Ok((parsed, body)) = frame::parse(bytes, incarnation) else { return };
    assert_eq!(parsed, header);
    assert!(frame::parse(bytes, !incarnation).is_err());
    if header.compression == Method::Plain {
        walk(&header, body);
    } else {
        let mut raw = BytesMut::new();
        if compression::decompress(header.compression, body, &mut raw).is_ok() {
            walk(&header, &raw);
        }
    }
    if let Ok(footer) = Footer::decode(body) {
        assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
    }
    if let Ok(frames) = journal::frames(&header, body) {
        assert!(frames.iter().all(|frame| frame.header.frame_len() == frame.bytes.len()));
    }
}

/// A body of records under a header that spans as many offsets and records as the first bytes say.
pub fn record_iter(data: &[u8]) {
    let Some(([count, delta, base], body)) = data.split_first_chunk() else { return };
    let mut builder = FrameBuilder::new();
    builder.push(0, None, None, std::iter::empty());
    let place = FramePlace { incarnation: 1, base_offset: u64::from(*base), durable_upto: 0, commit: 0 };
    let (header, _) = builder.finish(place);
    let header = FrameHeader {
        record_count: u32::from(*count),
        last_offset_delta: u32::from(*delta),
        base_timestamp: i64::from(*base) << 55,
        body_len: body.len() as u32,
        body_crc: crc32fast::hash(body),
        ..header
    };
    walk(&header, body);
}

/// Walks the records of a body: offsets ascend inside the span, the iterator can be put down and taken up anywhere, and what
/// was read and is written again is read the same.
fn walk(header: &FrameHeader, body: &[u8]) {
    let mut iter = RecordIter::new(header, body);
    let mut read: Vec<RawRecord<'_>> = Vec::new();
    loop {
        let state = iter.state(body);
        let next = iter.next_record();
        let mut resumed = RecordIter::resume(header, body, state);
        assert_eq!(resumed.next_record().map(|record| record.map(same)), next.map(|record| record.map(same)));
        match next {
            Ok(Some(record)) => {
                assert!((header.base_offset..header.next_offset()).contains(&record.offset));
                assert!(read.last().is_none_or(|last| last.offset < record.offset));
                assert_eq!(record.headers.iter().count(), record.headers.len());
                read.push(record);
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    let mut builder = FrameBuilder::new();
    for record in &read {
        let headers: Vec<_> = record.headers.iter().collect();
        builder.push(record.timestamp, record.key, record.value, headers.into_iter());
    }
    let Some(first) = read.first() else { return };
    let place = FramePlace { incarnation: 1, base_offset: first.offset, durable_upto: 0, commit: 0 };
    let (header, bytes) = builder.finish(place);
    let mut again = RecordIter::new(&header, &bytes[FRAME_HEADER_BYTES..]);
    for record in &read {
        let written = again.next_record().expect("what was written can be read").expect("as many records");
        assert_eq!(same(written).1, same(*record).1);
    }
    assert_eq!(again.next_record().map(|record| record.map(same)), Ok(None));
}

type Same<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>, Vec<(&'a str, Option<&'a [u8]>)>);

/// A record as something to compare: its offset, and all else.
fn same(record: RawRecord<'_>) -> (u64, Same<'_>) {
    (record.offset, (record.timestamp, record.key, record.value, record.headers.iter().collect()))
}

/// Reads `data` as it is and with magic, version and final checksum made right.
fn decoded_twice<T>(
    data: &[u8],
    magic: &[u8; 8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    check: impl Fn(T, &[u8]),
) {
    if let Ok(value) = decode(data) {
        check(value, data);
    }
    if data.len() < 14 {
        return;
    }
    let mut forged = data.to_vec();
    forged[..8].copy_from_slice(magic);
    forged[8..10].copy_from_slice(&crate::format::FORMAT_VERSION.to_le_bytes());
    let covered = forged.len() - 4;
    let crc = crc32fast::hash(&forged[..covered]);
    forged[covered..].copy_from_slice(&crc.to_le_bytes());
    match decode(&forged) {
        Ok(value) => check(value, &forged),
        Err(why) => {
            assert!(!matches!(why, FormatError::Magic | FormatError::HeaderChecksum | FormatError::Newer(_)), "{why}")
        }
    }
}

/// Manifest slots, and the headers of segments and journal files: what decodes comes back.
pub fn manifest(data: &[u8]) {
    let slot = &data[..data.len().min(MANIFEST_SLOT_BYTES)];
    decoded_twice(slot, b"ANNALMAN", Manifest::decode, |manifest, _| {
        assert!(manifest.journal_first <= manifest.journal_next);
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    });
    let header = &data[..data.len().min(80)];
    decoded_twice(header, b"ANNALSEG", SegmentHeader::decode, |header, _| {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    });
    let header = &data[..data.len().min(64)];
    decoded_twice(header, b"ANNALJNL", JournalHeader::decode, |header, _| {
        assert_eq!(JournalHeader::decode(&header.encode()), Ok(header));
    });
}

/// Checkpoints: what decodes has as many bytes as it encodes to, and comes back.
pub fn checkpoint(data: &[u8]) {
    decoded_twice(data, b"ANNALCHK", Checkpoint::decode, |checkpoint, bytes| {
        let encoded = checkpoint.encode();
        assert_eq!(encoded.len(), bytes.len());
        assert_eq!(Checkpoint::decode(&encoded), Ok(checkpoint));
    });
}

/// Indexes: what decodes has as many bytes as it encodes to, comes back, and ascends.
pub fn index(data: &[u8]) {
    decoded_twice(data, b"ANNALIDX", IndexFile::decode, |index, bytes| {
        let encoded = index.encode();
        assert_eq!(encoded.len(), bytes.len());
        assert!(index.entries.is_sorted_by_key(|entry| entry.position));
        assert_eq!(IndexFile::decode(&encoded), Ok(index));
    });
}

/// `topic.toml`, as it is and under a checksum that holds: what decodes comes back.
pub fn topic_file(data: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok(file) = TopicFile::decode(bytes, "topic.toml") {
            let encoded = file.encode().expect("what could be read can be written");
            // A moment in nanoseconds is read and written as one in microseconds, so the files are compared, not what they say.
            let again = TopicFile::decode(&encoded, "topic.toml").expect("what was written can be read");
            assert_eq!(again.encode().ok(), Some(encoded));
        }
    };
    check(data);
    let line = format!("checksum = \"crc32:{:08x}\"\n", crc32fast::hash(data));
    check(&[data, line.as_bytes()].concat());
}
