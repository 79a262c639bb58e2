use proptest::prelude::*;

use super::super::FormatError;
use super::super::frame::{self, FRAME_HEADER_BYTES, FrameHeader};
use super::super::record::{FrameBuilder, RECORD_OVERHEAD_BYTES_MAX, RawRecord, RecordIter};
use super::super::sparse::SparseFrame;
use super::{Owned, frame_of, owned, place, read_all, timestamp};

/// A header for a body that was put together by hand.
fn header(record_count: u32, last_offset_delta: u32, body: &[u8]) -> FrameHeader {
    let (header, _) = frame_of(&[Owned::plain(1000, b"")], place(50));
    FrameHeader {
        record_count,
        last_offset_delta,
        body_len: body.len() as u32,
        body_crc: crc32fast::hash(body),
        ..header
    }
}

fn error_of(record_count: u32, last_offset_delta: u32, body: &[u8]) -> FormatError {
    read_all(&header(record_count, last_offset_delta, body), body).unwrap_err()
}

#[test]
fn a_frame_takes_the_records_of_others_in() {
    let all: Vec<Owned> = (0..5)
        .map(|number| Owned {
            timestamp: 1000 - 300 * number,
            key: (number > 0).then(|| vec![number as u8; number as usize]),
            value: (number != 3).then(|| vec![7; 100]),
            headers: if number == 2 { vec![("h".into(), None), ("i".into(), Some(vec![1]))] } else { Vec::new() },
        })
        .collect();
    let build = |records: &[Owned]| {
        let mut builder = FrameBuilder::new();
        records.iter().for_each(|record| record.push_to(&mut builder));
        builder
    };
    let mut together = FrameBuilder::new();
    for others in [&all[..1], &[], &all[1..4], &all[4..]] {
        together.absorb(&build(others));
    }
    assert_eq!(together.finish(place(50)), build(&all).finish(place(50)));
}

#[test]
fn the_layout_is_the_documented_one() {
    let record = Owned {
        timestamp: 998,
        key: Some(b"k".to_vec()),
        value: Some(b"v!".to_vec()),
        headers: vec![("h".into(), None), ("h".into(), Some(Vec::new())), ("i".into(), Some(b"x".to_vec()))],
    };
    let (_, bytes) = frame_of(&[Owned { value: None, ..Owned::plain(1000, b"") }, record], place(50));
    let expected = [
        &[0][..],
        &[1 | 2 | 4 | 8, 3],
        &[1, b'k'],
        &[11, 3, 1, b'h', 0, 1, b'h', 1, 1, b'i', 2, b'x'],
        &[2, b'v', b'!'],
    ]
    .concat();
    assert_eq!(bytes[FRAME_HEADER_BYTES..], expected);
}

#[test]
fn absent_and_empty_are_different() {
    let all: Vec<Owned> = [None, Some(Vec::new())]
        .into_iter()
        .flat_map(|key| {
            [None, Some(Vec::new())].map(|value| Owned { timestamp: 0, key: key.clone(), value, headers: Vec::new() })
        })
        .collect();
    let (header, bytes) = frame_of(&all, place(0));
    let read: Vec<Owned> =
        read_all(&header, &bytes[FRAME_HEADER_BYTES..]).unwrap().into_iter().map(|(_, record)| record).collect();
    assert_eq!(read, all);
}

#[test]
fn extreme_timestamps_come_back() {
    let stamps = [0, i64::MAX, i64::MIN, -1, 1, i64::MIN, i64::MAX];
    for rotation in 0..stamps.len() {
        let mut stamps = stamps;
        stamps.rotate_left(rotation);
        let records: Vec<Owned> = stamps.iter().map(|stamp| Owned::plain(*stamp, b"")).collect();
        let (header, bytes) = frame_of(&records, place(7));
        assert_eq!(header.base_timestamp, stamps[0]);
        assert_eq!(header.max_timestamp, i64::MAX);
        let read = read_all(&header, &bytes[FRAME_HEADER_BYTES..]).unwrap();
        assert_eq!(read.iter().map(|(_, record)| record.timestamp).collect::<Vec<_>>(), stamps);
    }
}

#[test]
fn offsets_may_have_gaps() {
    // Flag 16: three offsets left out before the first record, none before the second, two before the third.
    let body = [2 | 16, 3, 1, b'a', 2, 1, b'b', 2 | 16, 2, 1, b'c'];
    let read = read_all(&header(3, 7, &body), &body).unwrap();
    let read: Vec<_> = read.into_iter().map(|(offset, record)| (offset, record.value.unwrap())).collect();
    assert_eq!(read, [(53, b"a".to_vec()), (54, b"b".to_vec()), (57, b"c".to_vec())]);
    // A gap beyond what the header spans, and one that would wrap.
    assert_eq!(error_of(3, 6, &body), FormatError::Record);
    let wraps = [16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(error_of(1, 0, &wraps), FormatError::Record);
}

#[test]
fn a_tombstone_may_say_when_it_was_kept_first() {
    let body = [1 | 32, 3, 1, b'k', 1 | 8 | 32, 2, 4, 1, b'l'];
    let header = header(2, 1, &body);
    let mut records = RecordIter::new(&header, &body);
    let mut next = || records.next_record().unwrap().unwrap();
    let (first, second) = (next(), next());
    assert_eq!((first.timestamp, first.kept_at), (1000, Some(998)));
    assert_eq!((second.timestamp, second.kept_at), (1001, Some(1002)));
}

#[test]
fn a_header_that_disagrees_with_its_body_is_refused() {
    let body = [2, 1, b'a', 2, 1, b'b'];
    assert_eq!(read_all(&header(2, 1, &body), &body).unwrap().len(), 2);
    assert_eq!(error_of(1, 0, &body), FormatError::Record, "bytes are left");
    assert_eq!(error_of(3, 2, &body), FormatError::Short, "a record is missing");
    assert_eq!(error_of(2, 0, &body), FormatError::Record, "more records than offsets");
    assert_eq!(read_all(&header(2, 2, &body), &body).unwrap().len(), 2, "an offset is left out behind the last");
    assert_eq!(error_of(0, 0, &body), FormatError::Record, "a body without records");
    assert_eq!(read_all(&header(0, u32::MAX, &[]), &[]).unwrap(), [], "a frame that only spans offsets");
    assert_eq!(error_of(u32::MAX, u32::MAX, &body), FormatError::Short);
}

#[test]
fn malformed_records_are_refused() {
    for bit in [64, 128] {
        assert_eq!(error_of(1, 0, &[bit]), FormatError::Flags(u16::from(bit)));
    }
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    for (flags, what) in [(1, "key"), (2, "value"), (4, "headers")] {
        assert_eq!(error_of(1, 0, &[&[flags][..], &huge].concat()), FormatError::Short, "{what}");
        assert_eq!(error_of(1, 0, &[flags, 0x80, 0]), FormatError::Record, "{what}: a length that is too long");
    }
    assert_eq!(error_of(1, 0, &[2 | 32, 0, 1, b'v']), FormatError::Record, "only a tombstone is kept for a while");
    assert_eq!(error_of(1, 0, &[32]), FormatError::Short);
    // Headers: a huge count, a huge name, a huge value, bytes left over, a count that is too small, no UTF-8.
    let headers = |inner: &[u8]| error_of(1, 0, &[&[4, inner.len() as u8][..], inner].concat());
    assert_eq!(headers(&huge), FormatError::Short);
    assert_eq!(headers(&[&[1][..], &huge].concat()), FormatError::Short);
    assert_eq!(headers(&[&[1, 1, b'n'][..], &huge].concat()), FormatError::Short);
    assert_eq!(headers(&[1, 1, b'n', 0, 0]), FormatError::Record);
    assert_eq!(headers(&[2, 1, b'n', 0]), FormatError::Short);
    assert_eq!(headers(&[1, 1, 0xff, 0]), FormatError::Record);
    assert_eq!(headers(&[]), FormatError::Short);
}

#[test]
fn a_builder_can_be_used_again() {
    let mut builder = FrameBuilder::new();
    assert_eq!(builder.len(), 0);
    for round in 0..3_i64 {
        builder.clear();
        for index in 0..=round {
            Owned::plain(round * 10 - index, b"value").push_to(&mut builder);
        }
        assert_eq!(builder.record_count() as i64, round + 1);
        let (header, bytes) = builder.finish(place(round as u64));
        let (again, body) = frame::parse(bytes, place(0).incarnation).unwrap();
        assert_eq!(again, header);
        assert_eq!(read_all(&header, body).unwrap().len() as i64, round + 1);
        let bytes = builder.bytes().to_vec();
        assert_eq!(std::mem::take(&mut builder).into_bytes().0, bytes);
    }
}

proptest! {
    #[test]
    fn frames_come_back(records in prop::collection::vec(owned(), 1..12), base in 0..u64::MAX / 2) {
        let (header, bytes) = frame_of(&records, place(base));
        let (parsed, body) = frame::parse(&bytes, place(0).incarnation).unwrap();
        prop_assert_eq!(parsed, header);
        prop_assert_eq!(header.record_count as usize, records.len());
        prop_assert_eq!(header.next_offset(), base + records.len() as u64);
        prop_assert_eq!(header.max_timestamp, records.iter().map(|record| record.timestamp).max().unwrap());
        let expected: Vec<_> = records.into_iter().enumerate().map(|(at, record)| (base + at as u64, record)).collect();
        prop_assert_eq!(read_all(&header, body).unwrap(), expected);
    }

    #[test]
    fn a_record_costs_no_more_than_is_promised(record in owned()) {
        let (_, one) = frame_of(std::slice::from_ref(&record), place(0));
        let (_, two) = frame_of(&[Owned { timestamp: i64::MIN, ..record.clone() }, Owned { timestamp: 0, ..record.clone() }], place(0));
        let own = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        // A header costs a length before its name and one before its value.
        let headers: usize = record.headers.iter().map(|(name, value)| name.len() + own(value) + 20).sum();
        let most = own(&record.key) + own(&record.value) + headers + RECORD_OVERHEAD_BYTES_MAX;
        prop_assert!(two.len() - one.len() <= most, "{} of {most}", two.len() - one.len());
    }

    #[test]
    fn an_iterator_goes_on_where_it_stood(records in prop::collection::vec(owned(), 1..8), stop in 0..8_usize) {
        let (header, bytes) = frame_of(&records, place(3));
        let body = &bytes[FRAME_HEADER_BYTES..];
        let mut iter = RecordIter::new(&header, body);
        for _ in 0..stop.min(records.len()) {
            iter.next_record().unwrap().unwrap();
        }
        let mut resumed = RecordIter::resume(&header, body, iter.state(body));
        loop {
            let (a, b) = (iter.next_record().unwrap(), resumed.next_record().unwrap());
            prop_assert_eq!(a.map(|raw| (raw.offset, Owned::of(&raw))), b.map(|raw| (raw.offset, Owned::of(&raw))));
            prop_assert_eq!(iter.state(body), resumed.state(body));
            if a.is_none() {
                break;
            }
        }
        prop_assert_eq!(iter.state(body).at as usize, body.len());
        prop_assert!(iter.next_record().unwrap().is_none(), "the end stays the end");
    }

    #[test]
    fn every_cut_of_a_body_is_an_error(records in prop::collection::vec(owned(), 1..4)) {
        let (header, bytes) = frame_of(&records, place(3));
        let body = &bytes[FRAME_HEADER_BYTES..];
        for len in 0..body.len() {
            prop_assert!(read_all(&header, &body[..len]).is_err());
        }
    }

    /// What is kept of frames is at its offset, byte for byte, and the frames go on where the one before them ends.
    #[test]
    fn what_is_kept_of_a_frame_stays_where_it_was(
        records in prop::collection::vec((owned(), any::<bool>(), prop::option::of(timestamp())), 1..12),
        before in 0..1000_u64,
        behind in 0..1000_u64,
    ) {
        let base = 50 + before;
        let end = base + records.len() as u64 + behind;
        let all: Vec<Owned> = records.iter().map(|(record, ..)| record.clone()).collect();
        let (header, bytes) = frame_of(&all, place(base));
        let mut iter = RecordIter::new(&header, &bytes[FRAME_HEADER_BYTES..]);
        let mut sparse = SparseFrame::new();
        let mut expected = Vec::new();
        sparse.begin(50, header.base_timestamp);
        for (owned, stays, kept_at) in &records {
            let record = iter.next_record().unwrap().unwrap();
            let kept_at = kept_at.filter(|_| record.value.is_none());
            if *stays {
                sparse.push(&RawRecord { kept_at, ..record });
                expected.push((record.offset, kept_at, owned.clone()));
            }
        }
        prop_assert_eq!(sparse.is_empty(), expected.is_empty());
        let (kept, bytes) = sparse.finish(place(50), end);
        let (parsed, body) = frame::parse(bytes, kept.incarnation).unwrap();
        prop_assert_eq!(parsed, kept);
        prop_assert_eq!((kept.base_offset, kept.next_offset()), (50, end));
        prop_assert_eq!(kept.base_timestamp, header.base_timestamp);
        let newest = expected.iter().map(|(_, _, record)| record.timestamp).max();
        prop_assert_eq!(kept.max_timestamp, newest.unwrap_or(i64::MIN));
        let mut iter = RecordIter::new(&kept, body);
        let mut found = Vec::new();
        while let Some(record) = iter.next_record().unwrap() {
            found.push((record.offset, record.kept_at, Owned::of(&record)));
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_body_gives_records_inside_the_header_s_span_or_an_error(
        body in prop::collection::vec(any::<u8>(), 0..120),
        count in 0..20_u32,
        delta in 0..40_u32,
    ) {
        let header = header(count, delta, &body);
        let mut iter = RecordIter::new(&header, &body);
        let mut last = None;
        while let Ok(Some(raw)) = iter.next_record() {
            prop_assert!((header.base_offset..header.next_offset()).contains(&raw.offset));
            prop_assert!(last < Some(raw.offset));
            last = Some(raw.offset);
            prop_assert_eq!(raw.headers.iter().count(), raw.headers.len());
        }
    }
}

proptest! {
    #[test]
    fn builders_are_read_again_thinned_and_joined(
        first in prop::collection::vec(owned(), 0..8),
        second in prop::collection::vec(owned(), 1..8),
        left_out: u16,
    ) {
        let build = |records: &[Owned]| {
            let mut builder = FrameBuilder::new();
            records.iter().for_each(|record| record.push_to(&mut builder));
            builder
        };
        let read = |builder: &FrameBuilder| {
            let mut records = builder.records();
            let mut found = Vec::new();
            while let Some(record) = records.next_record().unwrap() {
                assert_eq!(record.offset, found.len() as u64);
                found.push(Owned::of(&record));
            }
            found
        };
        let mut joined = build(&first);
        joined.push_all(&build(&second)).unwrap();
        let all: Vec<Owned> = first.iter().chain(&second).cloned().collect();
        prop_assert_eq!(read(&joined), all.clone());
        let built = build(&all);
        prop_assert_eq!(joined.bytes(), built.bytes());
        let is_left_out = |at: u64| left_out >> (at % 16) & 1 == 1;
        let rest: Vec<Owned> =
            all.into_iter().enumerate().filter(|(at, _)| !is_left_out(*at as u64)).map(|(_, record)| record).collect();
        prop_assert_eq!(read(&joined.without(is_left_out).unwrap()), rest);
    }
}
