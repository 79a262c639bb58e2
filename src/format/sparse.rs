//! Frames that leave offsets out: what a compaction keeps of a frame, and frames that only stand for offsets which are gone.
//!
//! A frame's end never moves, or a reader that stands there would see records twice; its beginning moves down to the end of
//! the frame before it, so that frames still follow each other without a hole.

use super::compression::Compression;
use super::cursor::{put_varint, zigzag};
use super::frame::{FRAME_HEADER_BYTES, FrameHeader};
use super::record::{
    FrameBuilder, FramePlace, HAS_GAP, HAS_HEADERS, HAS_KEPT, HAS_KEY, HAS_TIMESTAMP, HAS_VALUE, RawRecord,
};

/// Collects records that keep their offsets.
#[derive(Debug, Default)]
pub(crate) struct SparseFrame {
    builder: FrameBuilder,
    base_offset: u64,
    next_offset: u64,
}

impl SparseFrame {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Begins a frame, keeping the memory of the last. The records' times are stored relative to `base_timestamp`.
    pub(crate) fn begin(&mut self, base_offset: u64, base_timestamp: i64) {
        let builder = &mut self.builder;
        builder.clear();
        builder.bytes.resize(FRAME_HEADER_BYTES, 0);
        builder.base_timestamp = base_timestamp;
        // Of no record: no search by time ends at an empty frame.
        builder.max_timestamp = i64::MIN;
        self.base_offset = base_offset;
        self.next_offset = base_offset;
    }

    /// Whether no record was pushed.
    pub(crate) fn is_empty(&self) -> bool {
        self.builder.record_count() == 0
    }

    /// Appends a record, which has a higher offset than those before it.
    pub(crate) fn push(&mut self, record: &RawRecord<'_>) {
        let gap = record.offset.saturating_sub(self.next_offset);
        self.next_offset = record.offset + 1;
        let builder = &mut self.builder;
        builder.record_count += 1;
        builder.max_timestamp = builder.max_timestamp.max(record.timestamp);
        let delta = record.timestamp.wrapping_sub(builder.base_timestamp);
        let headers = record.headers.bytes;
        let has = |flag: u8, there: bool| if there { flag } else { 0 };
        let out = &mut builder.bytes;
        out.push(
            has(HAS_KEY, record.key.is_some())
                | has(HAS_VALUE, record.value.is_some())
                | has(HAS_HEADERS, !headers.is_empty())
                | has(HAS_TIMESTAMP, delta != 0)
                | has(HAS_GAP, gap != 0)
                | has(HAS_KEPT, record.kept_at.is_some()),
        );
        if gap != 0 {
            put_varint(out, gap);
        }
        if delta != 0 {
            put_varint(out, zigzag(delta));
        }
        if let Some(kept_at) = record.kept_at {
            put_varint(out, zigzag(kept_at.wrapping_sub(builder.base_timestamp)));
        }
        let parts = [record.key, Some(headers).filter(|headers| !headers.is_empty()), record.value];
        for bytes in parts.into_iter().flatten() {
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }

    /// Compresses the body if that makes it smaller.
    pub(crate) fn compress(&mut self, compression: Compression) {
        self.builder.compress(compression);
    }

    /// Fills the header in, for a frame that spans the offsets up to `end`, which is above that of the last record.
    /// `place` names the offset that the frame was begun at.
    pub(crate) fn finish(&mut self, place: FramePlace, end: u64) -> (FrameHeader, &[u8]) {
        debug_assert!(place.base_offset == self.base_offset && end > place.base_offset && end >= self.next_offset);
        let delta = u32::try_from(end - self.base_offset - 1).unwrap_or(u32::MAX);
        self.builder.finish_spanning(place, delta)
    }
}
