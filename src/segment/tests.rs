//! One segment file: scans, seeks against a linear scan, and indexes that nobody may trust.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::index::Target;
use super::reader::{FrameReader, READ_BYTES};
use super::scan::{self, ScanEnd};
use super::{Owner, Segment, Summary, advance, first_place};
use crate::error::ErrorKind;
use crate::format::FormatError;
use crate::format::checkpoint::SegmentPlace;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, header_crc};
use crate::format::index::IndexFile;
use crate::format::record::{FrameBuilder, FramePlace};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::create::footer_bytes;
use crate::storage::files::write_all_at;
use crate::storage::memory::MemoryDisk;
use crate::storage::{File, OpenMode, Storage};

const INCARNATION: u64 = 0xfeed_f00d_0bad_cafe;
const BASE: u64 = 100;

/// What a frame of a test is made from.
#[derive(Debug, Clone)]
struct Shape {
    /// Timestamps of its records.
    timestamps: Vec<i64>,
    value_len: usize,
    /// How far its commit number is from the one before.
    commit_step: u64,
}

/// A segment file in memory, and what is in it.
struct Made {
    storage: Arc<dyn Storage>,
    file: Arc<dyn File>,
    frames: Vec<(u64, FrameHeader)>,
    place: SegmentPlace,
    header: SegmentHeader,
}

fn path() -> PathBuf {
    PathBuf::from(Segment::file_name(BASE))
}

impl Made {
    fn empty() -> Self {
        let header = SegmentHeader {
            log_id: 1,
            topic_id: 2,
            partition: 3,
            base_offset: BASE,
            incarnation: INCARNATION,
            created_at: 0,
            compacted: false,
        };
        let storage: Arc<dyn Storage> = Arc::new(MemoryDisk::default());
        let file = storage.open(&path(), OpenMode::CreateNew).unwrap();
        write_all_at(&*file, &header.encode(), 0).unwrap();
        Self { storage, file, frames: Vec::new(), place: first_place(BASE, INCARNATION), header }
    }

    fn of(shapes: &[Shape]) -> Self {
        let mut made = Self::empty();
        for shape in shapes {
            made.push(shape);
        }
        made
    }

    /// `count` frames of one record of about 1,000 bytes.
    fn plain(count: usize) -> Self {
        Self::of(&vec![Shape { timestamps: vec![5], value_len: 1000, commit_step: 1 }; count])
    }

    fn encode(&self, shape: &Shape, place: FramePlace) -> (FrameHeader, Vec<u8>) {
        let mut builder = FrameBuilder::new();
        for timestamp in &shape.timestamps {
            builder.push(*timestamp, None, Some(&vec![7; shape.value_len]), std::iter::empty());
        }
        let (header, bytes) = builder.finish(place);
        (header, bytes.to_vec())
    }

    fn next_place(&self, shape: &Shape) -> FramePlace {
        FramePlace {
            incarnation: INCARNATION,
            base_offset: self.place.next_offset,
            durable_upto: self.place.next_offset,
            commit: self.place.last_commit + shape.commit_step,
        }
    }

    fn push(&mut self, shape: &Shape) {
        let (header, bytes) = self.encode(shape, self.next_place(shape));
        write_all_at(&*self.file, &bytes, self.place.position).unwrap();
        self.frames.push((self.place.position, header));
        advance(&mut self.place, &header, header_crc(bytes.first_chunk().unwrap()));
    }

    /// Writes bytes where the next frame would go.
    fn put(&self, bytes: &[u8]) {
        write_all_at(&*self.file, bytes, self.place.position).unwrap();
    }

    /// The segment as a writer has it that has just written it: the index in memory from the first frame on.
    fn written(&self) -> Segment {
        let segment = self.bare(SEGMENT_HEADER_BYTES as u64, None);
        for (position, header) in &self.frames {
            segment.index().note(*position, header);
        }
        segment.set_readable(self.place.position);
        segment
    }

    /// The segment as an opened log has it: nothing known but where it ends.
    fn opened(&self) -> Segment {
        let segment = self.bare(self.place.position, Some(Summary::of(&self.place)));
        segment.reset_index(self.place.position);
        segment
    }

    fn bare(&self, readable: u64, sealed: Option<Summary>) -> Segment {
        let owner = Arc::new(Owner { topic: "t".into(), topic_id: 2, partition: 3 });
        let env = crate::log::tests::env(Arc::clone(&self.storage), 1);
        Segment::existing(&env, owner, path(), &self.header, readable, sealed)
    }

    /// The offset of the first frame that is what is looked for, by looking at them all.
    fn linear(&self, target: Target) -> Option<u64> {
        self.frames
            .iter()
            .map(|(_, header)| header)
            .find(|header| target.reached_by(header))
            .map(|header| header.base_offset)
    }

    /// Every target that could make a difference.
    fn targets(&self) -> Vec<Target> {
        let mut targets = vec![Target::Offset(0), Target::Commit(0), Target::Timestamp(i64::MIN)];
        targets.extend([Target::Offset(u64::MAX), Target::Commit(u64::MAX), Target::Timestamp(i64::MAX)]);
        for (_, header) in &self.frames {
            targets.extend([header.base_offset, header.next_offset()].map(Target::Offset));
            targets.extend([header.commit, header.commit + 1].map(Target::Commit));
            targets.extend([header.max_timestamp, header.max_timestamp.saturating_add(1)].map(Target::Timestamp));
        }
        targets
    }

    fn scan(&self, limit: u64) -> (SegmentPlace, ScanEnd, Vec<u64>) {
        let (mut place, mut seen) = (first_place(BASE, INCARNATION), Vec::new());
        let end = scan::frames(&self.file, &mut place, limit, |position, _| seen.push(position)).unwrap();
        (place, end, seen)
    }

    fn len(&self) -> u64 {
        self.file.len().unwrap()
    }
}

/// Where a seek and the walk after it lead.
fn found(segment: &Arc<Segment>, target: Target) -> Option<u64> {
    let (position, offset) = segment.seek(target).unwrap();
    let mut reader = FrameReader::new(Arc::clone(segment), position, offset, READ_BYTES);
    reader.skip_until(|header| target.reached_by(header)).unwrap();
    (!reader.at_end()).then(|| reader.next_offset())
}

fn assert_seeks(made: &Made, segment: Segment) {
    let segment = Arc::new(segment);
    for target in made.targets() {
        assert_eq!(found(&segment, target), made.linear(target), "{target:?}");
    }
}

fn index_path() -> PathBuf {
    path().with_extension("index")
}

fn stored_index(made: &Made) -> Vec<u8> {
    made.written().store_index(&made.place).unwrap();
    crate::storage::files::read_small(&*made.storage, &index_path(), 1 << 20).unwrap()
}

fn replace_index(made: &Made, bytes: Option<&[u8]>) {
    drop(made.storage.remove_file(&index_path()));
    if let Some(bytes) = bytes {
        let file = made.storage.open(&index_path(), OpenMode::CreateNew).unwrap();
        write_all_at(&*file, bytes, 0).unwrap();
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    // Times go back and forth; a commit may have several frames.
    (prop::collection::vec(-50..50_i64, 1..4), 0..12_000_usize, 0..3_u64)
        .prop_map(|(timestamps, value_len, commit_step)| Shape { timestamps, value_len, commit_step })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// About 400 KiB, so that the index has several entries.
    #[test]
    fn seeking_leads_where_a_linear_scan_leads(shapes in prop::collection::vec(shape(), 1..50), flip: prop::sample::Index) {
        let made = Made::of(&shapes);
        assert_seeks(&made, made.written());
        assert_seeks(&made, made.opened());
        let mut bytes = stored_index(&made);
        assert_seeks(&made, made.opened());
        // Half in the file, half in memory: a log that was opened again and written to.
        let half = made.frames.len() / 2;
        let reopened = made.bare(SEGMENT_HEADER_BYTES as u64, None);
        reopened.reset_index(made.frames[half].0);
        let before = made.frames[..half].iter().map(|(_, header)| header.max_timestamp).max();
        reopened.index().set_max_timestamp(before.unwrap_or(i64::MIN));
        for (position, header) in &made.frames[half..] {
            reopened.index().note(*position, header);
        }
        reopened.set_readable(made.place.position);
        assert_seeks(&made, reopened);
        let bit = flip.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        replace_index(&made, Some(&bytes));
        assert_seeks(&made, made.opened());
        replace_index(&made, Some(&bytes[..bit / 8]));
        assert_seeks(&made, made.opened());
    }

    /// A crash took frames away after the index was stored, and others were written in their place.
    #[test]
    fn a_stale_index_does_not_mislead(
        kept in prop::collection::vec(shape(), 1..25),
        lost in prop::collection::vec(shape(), 1..25),
        new in prop::collection::vec(shape(), 1..25),
    ) {
        let before = Made::of(&[&kept[..], &lost].concat());
        let stale = stored_index(&before);
        let mut made = Made::of(&kept);
        // Commit numbers are not used again after a crash.
        made.push(&Shape { timestamps: vec![0], value_len: 10, commit_step: 1000 });
        for shape in &new {
            made.push(shape);
        }
        replace_index(&made, Some(&stale));
        assert_seeks(&made, made.opened());
    }

    #[test]
    fn frames_are_read_whatever_the_step(shapes in prop::collection::vec(shape(), 0..12), read_bytes in 1..40_000_usize) {
        let made = Made::of(&shapes);
        let mut reader = FrameReader::new(Arc::new(made.opened()), SEGMENT_HEADER_BYTES as u64, BASE, read_bytes);
        for (_, header) in &made.frames {
            let frame = reader.next_frame().unwrap().unwrap();
            prop_assert_eq!(&frame.header, header);
            prop_assert!(header.check_body(&frame.body).is_ok());
        }
        prop_assert!(reader.next_frame().unwrap().is_none() && reader.at_end());
    }

    #[test]
    fn headers_alone_give_the_same_sums(shapes in prop::collection::vec(shape(), 0..12)) {
        let made = Made::of(&shapes);
        let mut place = first_place(BASE, INCARNATION);
        let end = scan::headers(&made.file, &mut place, made.len(), |_, _| {}).unwrap();
        prop_assert_eq!((place, end), (made.place, ScanEnd::Clean));
        prop_assert_eq!(made.scan(made.len()).0, made.place);
    }
}

#[test]
fn an_index_of_another_file_or_with_false_entries_is_rebuilt() {
    let made = Made::plain(200);
    let index = IndexFile::decode(&stored_index(&made)).unwrap();
    assert!(index.entries.len() > 2);
    let with = |change: &dyn Fn(&mut IndexFile)| {
        let mut changed = index.clone();
        change(&mut changed);
        replace_index(&made, Some(&changed.encode()));
        assert_seeks(&made, made.opened());
    };
    with(&|index| index.incarnation += 1);
    with(&|index| index.covered = 100);
    with(&|index| index.entries.clear());
    with(&|index| index.entries.iter_mut().for_each(|entry| entry.position += 1));
    with(&|index| index.entries.iter_mut().for_each(|entry| entry.offset += 1));
    with(&|index| index.entries.iter_mut().for_each(|entry| entry.commit += 1));
    with(&|index| index.entries.iter_mut().for_each(|entry| entry.position += 1 << 40));
    replace_index(&made, Some(&[]));
    assert_seeks(&made, made.opened());
    replace_index(&made, None);
    assert_seeks(&made, made.opened());
}

#[test]
fn a_scan_ends_cleanly_at_the_limit_and_before_zeros() {
    let made = Made::plain(5);
    assert_eq!(made.scan(made.len()), (made.place, ScanEnd::Clean, made.frames.iter().map(|(at, _)| *at).collect()));
    let (two, three) = (made.frames[2].0, made.frames[3].0);
    assert_eq!(made.scan(three).0.position, three);
    assert_eq!(made.scan(three).1, ScanEnd::Clean);
    // A limit inside a frame is a cut.
    let (place, end, _) = made.scan(three - 1);
    assert_eq!((place.position, end), (two, ScanEnd::Damaged(FormatError::Short)));
    made.file.set_len(made.place.position + 3_000_000).unwrap();
    assert_eq!(made.scan(made.len()), (made.place, ScanEnd::Clean, made.frames.iter().map(|(at, _)| *at).collect()));
    write_all_at(&*made.file, &[1], made.place.position + 2_500_000).unwrap();
    assert_eq!(made.scan(made.len()).1, ScanEnd::Damaged(FormatError::Zeros), "a hole is no end");
}

#[test]
fn a_scan_names_what_stopped_it() {
    let made = Made::plain(3);
    let shape = Shape { timestamps: vec![1, 2], value_len: 10, commit_step: 1 };
    let ended = |bytes: &[u8]| {
        made.file.set_len(made.place.position).unwrap();
        made.put(bytes);
        let (place, end, _) = made.scan(made.len());
        assert_eq!(place, made.place);
        end
    };
    let (header, good) = made.encode(&shape, made.next_place(&shape));
    let rebuilt = |change: fn(&mut FrameHeader)| {
        let (mut header, mut bytes) = (header, good.clone());
        change(&mut header);
        header.encode_into(bytes.first_chunk_mut().unwrap());
        bytes
    };
    for len in 1..good.len() {
        assert!(matches!(ended(&good[..len]), ScanEnd::Damaged(FormatError::Short)), "{len}");
    }
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        ended(&bytes)
    };
    assert_eq!(flipped(20), ScanEnd::Damaged(FormatError::HeaderChecksum));
    assert_eq!(flipped(80), ScanEnd::Damaged(FormatError::BodyChecksum));
    assert_eq!(ended(&rebuilt(|header| header.incarnation ^= 1)), ScanEnd::Damaged(FormatError::Incarnation));
    assert_eq!(ended(&rebuilt(|header| header.base_offset += 1)), ScanEnd::Damaged(FormatError::Offset));
    assert_eq!(ended(&rebuilt(|header| header.base_offset -= 1)), ScanEnd::Damaged(FormatError::Offset));
    assert_eq!(ended(&rebuilt(|header| header.kind = FrameKind::Journal)), ScanEnd::Damaged(FormatError::Kind(3)));
}

#[test]
fn a_footer_must_agree_with_the_frames_before_it() {
    let made = Made::plain(3);
    let put = |place: &SegmentPlace| {
        made.put(&footer_bytes(place, place.next_offset));
        made.scan(made.len())
    };
    let (place, end, seen) = put(&made.place);
    assert_eq!((place, end, seen.len()), (made.place, ScanEnd::Sealed, 3));
    let (header, footer, position) = scan::footer(&made.file, INCARNATION, made.len()).unwrap().unwrap();
    assert_eq!((position, header.next_offset()), (made.place.position, made.place.next_offset));
    assert_eq!((footer.frame_count, footer.record_count, footer.chain_crc), (3, 3, made.place.chain_crc));
    assert_eq!((footer.first_commit, footer.last_commit), (1, 3));
    assert_eq!((header.max_timestamp, header.commit), (5, 3));

    for wrong in [
        SegmentPlace { frame_count: 2, ..made.place },
        SegmentPlace { record_count: 4, ..made.place },
        SegmentPlace { chain_crc: 0, ..made.place },
    ] {
        assert_eq!(put(&wrong).1, ScanEnd::Damaged(FormatError::BodyChecksum));
    }
    assert_eq!(put(&SegmentPlace { segment_base: 99, ..made.place }).1, ScanEnd::Damaged(FormatError::Offset));

    put(&made.place);
    assert!(scan::footer(&made.file, INCARNATION + 1, made.len()).unwrap().is_none(), "of another file");
    assert!(scan::footer(&made.file, INCARNATION, made.len() - 1).unwrap().is_none());
    assert!(scan::footer(&made.file, INCARNATION, 5).unwrap().is_none());
    assert!(scan::footer(&made.file, INCARNATION, made.len() + 1).unwrap().is_none());
}

/// Frames lie across the edges of what is read at once, and one is larger than that.
#[test]
fn scans_and_proofs_cross_the_edges_of_their_windows() {
    let big = Shape { timestamps: vec![0], value_len: 1_500_000, commit_step: 1 };
    let small = Shape { timestamps: vec![0], value_len: 900, commit_step: 1 };
    let mut made = Made::of(&[big]);
    for _ in 0..2500 {
        made.push(&small);
    }
    let (place, end, seen) = made.scan(made.len());
    assert_eq!((place, end, seen.len()), (made.place, ScanEnd::Clean, 2501));
    assert_eq!(scan::last_nonzero(&made.file, 0, made.len()).unwrap(), Some(made.len()));
    // Each frame proves that the one before it was on the disk: the first proof of the last record is none, that of the one
    // before it is the last frame.
    let last = *made.frames.last().unwrap();
    let proof = |offset: u64, from: u64| scan::proof_of_rot(&made.file, INCARNATION, offset, from, made.len()).unwrap();
    assert_eq!(proof(last.1.base_offset, SEGMENT_HEADER_BYTES as u64), None);
    assert_eq!(proof(last.1.base_offset - 1, SEGMENT_HEADER_BYTES as u64), Some(last));
    for start in 0..200 {
        let from = made.len() - 1024 * 1024 - 950 + start;
        let expected = made.frames.iter().find(|(position, header)| *position >= from && header.durable_upto > BASE);
        assert_eq!(proof(BASE, from), expected.copied());
    }
    // Only the very last header is left to be found, with the edge of a window moving over it.
    let (position, header) = last;
    for back in 0..200 {
        let from = position + 100 - 1024 * 1024 - back;
        assert_eq!(proof(header.durable_upto - 1, from), Some(last), "{back}");
    }
}

#[test]
fn a_reader_stops_at_what_is_published_and_says_where_damage_is() {
    let made = Made::plain(4);
    let segment = Arc::new(made.written());
    segment.set_readable(made.frames[2].0);
    let mut reader = FrameReader::new(Arc::clone(&segment), SEGMENT_HEADER_BYTES as u64, BASE, 64);
    assert!(reader.next_frame().unwrap().is_some() && reader.next_frame().unwrap().is_some());
    assert!(reader.next_frame().unwrap().is_none() && reader.at_end());
    segment.set_readable(made.place.position);
    assert_eq!(reader.next_frame().unwrap().unwrap().header.base_offset, BASE + 2);

    let (position, header) = made.frames[3];
    for (at, next) in [(position + 30, None), (position + FRAME_HEADER_BYTES as u64 + 30, Some(header.next_offset()))] {
        let mut byte = [0];
        made.file.read_at(&mut byte, at).unwrap();
        made.file.write_at(&[byte[0] ^ 1], at).unwrap();
        let mut reader = FrameReader::new(Arc::clone(&segment), position, BASE + 3, READ_BYTES);
        let error = reader.next_frame().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let corruption = error.corruption().unwrap();
        assert_eq!((corruption.position, corruption.first_offset), (position, Some(BASE + 3)));
        assert_eq!(corruption.next_offset, next);
        assert_eq!(corruption.file, "topics/t/3/00000000000000000100.log");
        made.file.write_at(&byte, at).unwrap();
    }
}

#[test]
fn a_summary_passes_over_what_cannot_be_there() {
    let summary = Summary { next_offset: 10, max_timestamp: 5, last_commit: 7, record_count: 4 };
    assert!(summary.may_hold(Target::Offset(9)) && !summary.may_hold(Target::Offset(10)));
    assert!(summary.may_hold(Target::Timestamp(5)) && !summary.may_hold(Target::Timestamp(6)));
    assert!(summary.may_hold(Target::Commit(7)) && !summary.may_hold(Target::Commit(8)));
}

#[test]
fn file_names_sort_as_offsets_do_and_read_back() {
    for offset in [0, 1, 99, u64::MAX] {
        assert_eq!(Segment::parse_file_name(&Segment::file_name(offset)), Some(offset));
    }
    assert!(Segment::file_name(9) < Segment::file_name(10));
    for name in
        ["", ".log", "1.log", "0000000000000000000x.log", "00000000000000000001.index", "99999999999999999999.log"]
    {
        assert_eq!(Segment::parse_file_name(name), None, "{name}");
    }
    assert_eq!(Segment::parse_file_name("+0000000000000000001.log"), None);
}
