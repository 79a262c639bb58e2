//! Records inside a frame's body, one after the other.
//!
//! | field | encoding | present if |
//! |---|---|---|
//! | `flags` | 1 byte: 1 key, 2 value, 4 headers, 8 timestamp, 16 offset gap, 32 kept; the rest zero | always |
//! | offset gap | varint: offsets left out before this record (compaction) | flag 16 |
//! | timestamp | varint, zigzag: microseconds after the frame's `base_timestamp` | flag 8; else equal to it |
//! | kept at | varint, zigzag: microseconds after the frame's `base_timestamp` at which a compaction first kept this tombstone | flag 32; never with flag 2 |
//! | key | varint length, bytes | flag 1 |
//! | headers | varint length in bytes, then varint count, then each: varint name length, name (UTF-8), varint value length plus one (0: absent), value | flag 4 |
//! | value | varint length, bytes | flag 2; else the record is a tombstone |
//!
//! Offsets may be left out behind the last record, too: the frame's header says how far it spans. A frame may have no record
//! at all; it only stands for the offsets that it spans.

use bytes::Bytes;

use super::compression::{self, Compression, Method};
use super::cursor::{Cursor, put_varint, unzigzag, zigzag};
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use super::{FormatError, FormatResult};

pub(super) const HAS_KEY: u8 = 1;
pub(super) const HAS_VALUE: u8 = 2;
pub(super) const HAS_HEADERS: u8 = 4;
pub(super) const HAS_TIMESTAMP: u8 = 8;
pub(super) const HAS_GAP: u8 = 16;
pub(super) const HAS_KEPT: u8 = 32;
const KNOWN: u8 = HAS_KEY | HAS_VALUE | HAS_HEADERS | HAS_TIMESTAMP | HAS_GAP | HAS_KEPT;

/// What a record costs beside its key, value and headers, at the most.
pub(crate) const RECORD_OVERHEAD_BYTES_MAX: usize = 1 + 10 * 5;

/// A record as the encoder takes it and the decoder lends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRecord<'a> {
    pub(crate) offset: u64,
    pub(crate) timestamp: i64,
    /// When a compaction first kept this tombstone.
    pub(crate) kept_at: Option<i64>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: RawHeaders<'a>,
}

/// The headers of a record, in their order, as they stand on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RawHeaders<'a> {
    /// Empty for none, else the count and the headers; walked once before it is handed out.
    pub(super) bytes: &'a [u8],
}

impl<'a> RawHeaders<'a> {
    /// How many headers there are.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn len(&self) -> usize {
        Cursor::new(self.bytes).varint().unwrap_or(0) as usize
    }

    /// The headers in the order in which they were written; a value may be absent.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let mut left = cursor.varint().unwrap_or(0);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            read_header(&mut cursor).ok()
        })
    }

    fn checked(bytes: &'a [u8]) -> FormatResult<Self> {
        let mut cursor = Cursor::new(bytes);
        for _ in 0..cursor.varint()? {
            read_header(&mut cursor)?;
        }
        if cursor.is_empty() { Ok(Self { bytes }) } else { Err(FormatError::Record) }
    }
}

fn read_header<'a>(cursor: &mut Cursor<'a>) -> FormatResult<(&'a str, Option<&'a [u8]>)> {
    let name = std::str::from_utf8(cursor.slice()?).map_err(|_| FormatError::Record)?;
    let value = match cursor.varint()? {
        0 => None,
        len => {
            let len = usize::try_from(len - 1).map_err(|_| FormatError::Short)?;
            Some(cursor.take(len)?)
        }
    };
    Ok((name, value))
}

/// Collects records into the bytes of one frame: the header's place stays free at the front until the writer knows the
/// offset, so nothing is moved or copied again.
#[derive(Debug, Default)]
pub(crate) struct FrameBuilder {
    pub(super) bytes: Vec<u8>,
    /// The frame with its body compressed, the header's place free as well; counts only where `method` says so.
    packed: Vec<u8>,
    /// How the body is stored; `None` before anything was tried.
    method: Option<Method>,
    scratch: Vec<u8>,
    pub(super) record_count: u32,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
}

/// The fields of a frame header that only the writer of the partition knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FramePlace {
    pub(crate) incarnation: u64,
    pub(crate) base_offset: u64,
    pub(crate) durable_upto: u64,
    pub(crate) commit: u64,
}

impl FrameBuilder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// How many records were pushed.
    pub(crate) fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Bytes of the frame so far as they would be stored, header included; 0 while empty.
    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }

    fn is_packed(&self) -> bool {
        self.method.is_some_and(|method| method != Method::Plain)
    }

    /// Compresses the body if that makes it smaller. Costs nothing the second time.
    pub(crate) fn compress(&mut self, compression: Compression) {
        if compression == Compression::None || self.method.is_some() || self.record_count == 0 {
            return;
        }
        self.packed.clear();
        self.packed.resize(FRAME_HEADER_BYTES, 0);
        let body = self.bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        self.method = Some(compression::compress(compression, body, &mut self.packed));
    }

    /// Bytes of memory held.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.packed.capacity()
    }

    /// Forgets the records and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.method = None;
        self.record_count = 0;
    }

    /// Appends a record.
    #[inline]
    pub(crate) fn push<'h>(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) {
        if self.record_count == 0 {
            self.bytes.clear();
            self.bytes.resize(FRAME_HEADER_BYTES, 0);
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.record_count += 1;
        // What was compressed before lacks this record.
        self.method = None;
        let delta = timestamp.wrapping_sub(self.base_timestamp);
        let mut flags = 0;
        flags |= if key.is_some() { HAS_KEY } else { 0 };
        flags |= if value.is_some() { HAS_VALUE } else { 0 };
        flags |= if headers.len() > 0 { HAS_HEADERS } else { 0 };
        flags |= if delta != 0 { HAS_TIMESTAMP } else { 0 };
        let out = &mut self.bytes;
        out.reserve(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + RECORD_OVERHEAD_BYTES_MAX);
        out.push(flags);
        if delta != 0 {
            put_varint(out, zigzag(delta));
        }
        if let Some(key) = key {
            put_varint(out, key.len() as u64);
            out.extend_from_slice(key);
        }
        if headers.len() > 0 {
            put_headers(out, &mut self.scratch, headers);
        }
        if let Some(value) = value {
            put_varint(out, value.len() as u64);
            out.extend_from_slice(value);
        }
    }

    /// Appends the records of another frame, of which nothing is compressed, with their times.
    pub(crate) fn absorb(&mut self, other: &Self) {
        let mut records = RecordIter {
            cursor: Cursor::new(other.bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default()),
            next_offset: 0,
            end_offset: u64::from(other.record_count),
            base_timestamp: other.base_timestamp,
            left: other.record_count,
        };
        // It was made in this process: there is nothing in it that cannot be read.
        while let Ok(Some(record)) = records.next_record() {
            let headers: Vec<_> = record.headers.iter().collect();
            self.push(record.timestamp, record.key, record.value, headers.into_iter());
        }
    }

    /// Fills the header in and returns it with the bytes of the whole frame.
    pub(crate) fn finish(&mut self, place: FramePlace) -> (FrameHeader, &[u8]) {
        self.finish_spanning(place, self.record_count.saturating_sub(1))
    }

    /// The same for a frame that spans more offsets than it has records.
    pub(super) fn finish_spanning(&mut self, place: FramePlace, last_offset_delta: u32) -> (FrameHeader, &[u8]) {
        let bytes = if self.is_packed() { &mut self.packed } else { &mut self.bytes };
        let (front, body) = bytes.split_at_mut(FRAME_HEADER_BYTES);
        let header = FrameHeader {
            kind: FrameKind::Records,
            compression: self.method.unwrap_or(Method::Plain),
            body_len: body.len() as u32,
            body_crc: crc32fast::hash(body),
            incarnation: place.incarnation,
            base_offset: place.base_offset,
            record_count: self.record_count,
            last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            durable_upto: place.durable_upto,
            commit: place.commit,
        };
        if let Some(front) = front.first_chunk_mut() {
            header.encode_into(front);
        }
        (header, bytes)
    }

    /// The bytes of the frame that [`finish`](Self::finish) completed.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.is_packed() { &self.packed } else { &self.bytes }
    }

    /// The body as records are read from it.
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default()
    }

    /// The records that were pushed, by their places: the first has offset 0.
    pub(crate) fn records(&self) -> RecordIter<'_> {
        RecordIter {
            cursor: Cursor::new(self.body()),
            next_offset: 0,
            end_offset: u64::from(self.record_count),
            base_timestamp: self.base_timestamp,
            left: self.record_count,
        }
    }

    /// Appends the records of another builder.
    pub(crate) fn push_all(&mut self, other: &Self) -> FormatResult<()> {
        let mut records = other.records();
        while let Some(record) = records.next_record()? {
            let headers: Vec<_> = record.headers.iter().collect();
            self.push(record.timestamp, record.key, record.value, headers.into_iter());
        }
        Ok(())
    }

    /// The same records but for those at the places that `left_out` names.
    pub(crate) fn without(&self, left_out: impl Fn(u64) -> bool) -> FormatResult<Self> {
        let (mut rest, mut records) = (Self::new(), self.records());
        while let Some(record) = records.next_record()? {
            if !left_out(record.offset) {
                let headers: Vec<_> = record.headers.iter().collect();
                rest.push(record.timestamp, record.key, record.value, headers.into_iter());
            }
        }
        Ok(rest)
    }

    /// [`bytes`](Self::bytes) and [`body`](Self::body), given away.
    pub(crate) fn into_bytes(self) -> (Bytes, Bytes) {
        let is_packed = self.is_packed();
        let bytes = Bytes::from(self.bytes);
        let body = bytes.slice(FRAME_HEADER_BYTES.min(bytes.len())..);
        (if is_packed { self.packed.into() } else { bytes }, body)
    }
}

fn put_headers<'h>(
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    headers: impl ExactSizeIterator<Item = (&'h str, Option<&'h [u8]>)>,
) {
    scratch.clear();
    put_varint(scratch, headers.len() as u64);
    for (name, value) in headers {
        put_varint(scratch, name.len() as u64);
        scratch.extend_from_slice(name.as_bytes());
        put_varint(scratch, value.map_or(0, |value| value.len() as u64 + 1));
        scratch.extend_from_slice(value.unwrap_or_default());
    }
    put_varint(out, scratch.len() as u64);
    out.extend_from_slice(scratch);
}

/// Walks the records of a body whose checksum has been verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordIter<'a> {
    cursor: Cursor<'a>,
    next_offset: u64,
    end_offset: u64,
    base_timestamp: i64,
    left: u32,
}

impl<'a> RecordIter<'a> {
    pub(crate) fn new(header: &FrameHeader, body: &'a [u8]) -> Self {
        Self {
            cursor: Cursor::new(body),
            next_offset: header.base_offset,
            end_offset: header.next_offset(),
            base_timestamp: header.base_timestamp,
            left: header.record_count,
        }
    }

    /// Goes on where [`state`](Self::state) stood, over the same body.
    pub(crate) fn resume(header: &FrameHeader, body: &'a [u8], state: RecordPosition) -> Self {
        Self {
            cursor: Cursor::new(body.get(state.at as usize..).unwrap_or_default()),
            next_offset: state.next_offset,
            end_offset: header.next_offset(),
            base_timestamp: header.base_timestamp,
            left: state.left,
        }
    }

    /// Where the iterator stands in `body`, without borrowing it.
    pub(crate) fn state(&self, body: &[u8]) -> RecordPosition {
        RecordPosition {
            at: (body.len() - self.cursor.rest().len()) as u32,
            next_offset: self.next_offset,
            left: self.left,
        }
    }

    /// The next record; `None` after the last.
    #[inline]
    pub(crate) fn next_record(&mut self) -> FormatResult<Option<RawRecord<'a>>> {
        if self.left == 0 {
            // The count and the bytes are two statements of the same thing. Offsets may be left out behind the last record.
            let complete = self.cursor.is_empty() && self.next_offset <= self.end_offset;
            return if complete { Ok(None) } else { Err(FormatError::Record) };
        }
        self.left -= 1;
        let cursor = &mut self.cursor;
        let flags = cursor.u8()?;
        if flags & !KNOWN != 0 {
            return Err(FormatError::Flags(u16::from(flags & !KNOWN)));
        }
        if flags & HAS_GAP != 0 {
            let gap = cursor.varint()?;
            self.next_offset = self.next_offset.checked_add(gap).ok_or(FormatError::Record)?;
        }
        let delta = if flags & HAS_TIMESTAMP != 0 { unzigzag(cursor.varint()?) } else { 0 };
        let kept = if flags & HAS_KEPT != 0 { Some(unzigzag(cursor.varint()?)) } else { None };
        let key = if flags & HAS_KEY != 0 { Some(cursor.slice()?) } else { None };
        let headers =
            if flags & HAS_HEADERS != 0 { RawHeaders::checked(cursor.slice()?)? } else { RawHeaders::default() };
        let value = if flags & HAS_VALUE != 0 { Some(cursor.slice()?) } else { None };
        let offset = self.next_offset;
        if offset >= self.end_offset || kept.is_some() && value.is_some() {
            return Err(FormatError::Record);
        }
        self.next_offset = offset + 1;
        let timestamp = self.base_timestamp.wrapping_add(delta);
        let kept_at = kept.map(|kept| self.base_timestamp.wrapping_add(kept));
        Ok(Some(RawRecord { offset, timestamp, kept_at, key, value, headers }))
    }
}

/// A place between two records of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordPosition {
    pub(crate) at: u32,
    pub(crate) next_offset: u64,
    pub(crate) left: u32,
}
