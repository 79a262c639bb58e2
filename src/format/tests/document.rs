//! docs/FORMAT.md against the code: its tables add up, and its worked example is what the encoders write.

use std::fmt::Write;
use std::fs;

use super::super::frame::{self, FRAME_HEADER_BYTES, FrameKind};
use super::super::segment::{Footer, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::{Owned, frame_of, read_all};
use crate::format::record::FramePlace;
use crate::segment::create::footer_bytes;
use crate::segment::{advance, first_place};

const FENCE: &str = "```text\n";

fn document() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FORMAT.md")).unwrap()
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        log_id: 0x019b_7700_0000_7000_8000_0000_0000_0001,
        topic_id: 0x019b_7700_0000_7000_8000_0000_0000_0002,
        partition: 3,
        base_offset: 40,
        incarnation: 0x0807_0605_0403_0201,
        created_at: 1_767_225_600_000_000,
        compacted: false,
    }
}

fn records() -> [Vec<Owned>; 2] {
    let time = 1_767_225_600_000_000;
    let first = Owned {
        timestamp: time,
        key: Some(b"k1".to_vec()),
        value: Some(b"paid".to_vec()),
        headers: vec![("trace".into(), Some(b"7".to_vec()))],
    };
    let second = Owned::plain(time + 2, b"late");
    let tombstone = Owned { key: Some(b"k1".to_vec()), value: None, ..Owned::plain(time - 999_998, b"") };
    [vec![first], vec![second, tombstone]]
}

/// The segment of the example.
fn segment() -> Vec<u8> {
    let header = segment_header();
    let mut bytes = header.encode().to_vec();
    let mut place = first_place(header.base_offset, header.incarnation);
    for (number, records) in records().iter().enumerate() {
        let at = FramePlace {
            incarnation: header.incarnation,
            base_offset: place.next_offset,
            durable_upto: place.next_offset,
            commit: 7 + number as u64 * 2,
        };
        let (header, frame) = frame_of(records, at);
        advance(&mut place, &header, frame::header_crc(frame.first_chunk().unwrap()));
        bytes.extend_from_slice(&frame);
    }
    bytes.extend_from_slice(&footer_bytes(&place, place.next_offset));
    bytes
}

/// Writes the bytes down, field by field.
struct Dump<'a> {
    bytes: &'a [u8],
    at: usize,
    text: String,
}

impl Dump<'_> {
    fn field(&mut self, len: usize, what: &str) -> u64 {
        let bytes = &self.bytes[self.at..self.at + len];
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.text, "{:04x} | {:47} | {what}", self.at, hex.join(" ")).unwrap();
        self.at += len;
        bytes.iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// An integer with its value.
    fn number(&mut self, len: usize, what: &str) {
        let mut eight = [0; 8];
        eight[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.field(len, &format!("{what} {}", i64::from_le_bytes(eight)));
    }

    fn frame(&mut self, title: &str) {
        writeln!(self.text, "-- {title}").unwrap();
        self.field(4, "header_crc");
        self.number(1, "kind");
        self.field(1, "compression: none");
        self.field(2, "flags: none");
        self.number(4, "body_len");
        self.field(4, "body_crc");
        self.field(8, "incarnation");
        self.number(8, "base_offset");
        self.number(4, "record_count");
        self.number(4, "last_offset_delta");
        self.number(8, "base_timestamp");
        self.number(8, "max_timestamp");
        self.number(8, "durable_upto");
        self.number(8, "commit");
    }
}

fn example() -> String {
    let bytes = segment();
    let mut dump = Dump { bytes: &bytes, at: 0, text: String::from("-- segment header\n") };
    dump.field(8, "magic \"ANNALSEG\"");
    dump.number(2, "version");
    dump.field(2, "flags: none");
    dump.number(4, "partition");
    dump.field(16, "log_id");
    dump.field(16, "topic_id");
    dump.number(8, "base_offset");
    dump.field(8, "incarnation");
    dump.number(8, "created_at: 2026-01-01T00:00:00Z,");
    dump.field(4, "reserved");
    dump.field(4, "crc");
    dump.frame("frame of records");
    dump.field(1, "flags: key 1, value 2, headers 4");
    dump.field(3, "key: 2 bytes, \"k1\"");
    dump.field(2, "headers: 9 bytes, 1 header");
    dump.field(6, "its name: 5 bytes, \"trace\"");
    dump.field(2, "its value: 2 less 1 byte, \"7\"");
    dump.field(5, "value: 4 bytes, \"paid\"");
    dump.frame("frame of records");
    dump.field(1, "flags: value 2");
    dump.field(5, "value: 4 bytes, \"late\"");
    dump.field(1, "flags: key 1, timestamp 8; no value: a tombstone");
    dump.field(3, "timestamp: zigzag 1,999,999, so 1,000,000 before base_timestamp");
    dump.field(3, "key: 2 bytes, \"k1\"");
    dump.frame("footer");
    dump.number(8, "frame_count");
    dump.number(8, "record_count");
    dump.field(4, "chain_crc: of the two header_crc above");
    dump.field(4, "reserved");
    dump.number(8, "first_commit");
    dump.number(8, "last_commit");
    assert_eq!(dump.at, bytes.len(), "every byte is accounted for");
    dump.text
}

/// The example stands in the document as the code writes it; `ANNALS_WRITE_GOLDEN=1` puts it there.
#[test]
fn the_example_is_what_the_encoders_write() {
    let document = document();
    let block = format!("{FENCE}{}```\n", example());
    if std::env::var_os("ANNALS_WRITE_GOLDEN").is_some_and(|value| value == "1") {
        let start = document.find(FENCE).or_else(|| document.find("<!-- example -->\n")).unwrap();
        let end = document[start..].find("\n\n").unwrap() + start + 1;
        fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FORMAT.md"),
            [&document[..start], &block, &document[end..]].concat(),
        )
        .unwrap();
        return;
    }
    assert!(document.contains(&block), "docs/FORMAT.md should contain:\n{block}");
}

/// From the document alone: its bytes are read by the decoders, and say what the text above them says.
#[test]
fn the_bytes_in_the_document_can_be_read() {
    let document = document();
    let (_, rest) = document.split_once(FENCE).unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let mut bytes: Vec<u8> = Vec::new();
    for line in block.lines().filter(|line| !line.starts_with("--")) {
        let mut columns = line.split('|');
        let at = usize::from_str_radix(columns.next().unwrap().trim(), 16).unwrap();
        assert_eq!(at, bytes.len(), "{line}");
        bytes.extend(columns.next().unwrap().split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    assert_eq!(SegmentHeader::decode(&bytes).unwrap(), segment_header());
    let mut at = SEGMENT_HEADER_BYTES;
    let mut offset = 40;
    for expected in records() {
        let (header, body) = frame::parse(&bytes[at..], segment_header().incarnation).unwrap();
        let read = read_all(&header, body).unwrap();
        for (record, expected) in read.iter().zip(&expected) {
            assert_eq!(record, &(offset, expected.clone()));
            offset += 1;
        }
        assert_eq!(read.len(), expected.len());
        at += header.frame_len();
    }
    let (header, body) = frame::parse(&bytes[at..], segment_header().incarnation).unwrap();
    assert_eq!((header.kind, header.next_offset(), header.commit), (FrameKind::Footer, 43, 9));
    let crcs = [&bytes[80..84], &bytes[80 + FRAME_HEADER_BYTES + 19..][..4]].concat();
    let footer = Footer::decode(body).unwrap();
    assert_eq!((footer.frame_count, footer.record_count, footer.chain_crc), (2, 3, crc32fast::hash(&crcs)));
    assert_eq!(at + header.frame_len(), bytes.len());
}

/// In each table every field begins where the one before it ends, and the last ends at the size in the heading.
#[test]
fn the_tables_add_up() {
    let (mut size, mut next, mut checked) = (None, 0, 0);
    for line in document().lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, at, bytes, _, ..] = cells[..]
            && let (Ok(at), Ok(bytes)) = (at.parse::<usize>(), bytes.parse::<usize>())
        {
            assert_eq!(at, next, "{line}");
            next = at + bytes;
            continue;
        }
        if line.is_empty() && next > 0 {
            assert_eq!(Some(next), size.take(), "the table before this has {next} bytes");
            (next, checked) = (0, checked + 1);
        }
        if let Some((_, heading)) = line.strip_prefix("### ").and_then(|heading| heading.split_once(", ")) {
            size = heading.split(' ').next().and_then(|size| size.parse().ok());
        }
    }
    assert_eq!(checked, 10, "tables");
}
