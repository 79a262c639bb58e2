//! Reading frames one after the other, in large steps, each checked, handed out without a copy.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Segment;
use crate::error::{Error, Result};
use crate::format::FormatError;
use crate::format::compression::{Method, decompress};
use crate::format::frame::{self, FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::storage::files::read_full_at;

/// How much is read at once: large enough that the system call vanishes, small enough to stay in the cache.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// A frame of records in memory.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// As it is stored: its length and checksum are those of the stored body.
    pub(crate) header: FrameHeader,
    /// The records, decompressed.
    pub(crate) body: Bytes,
}

/// Reads one segment from a position on.
#[derive(Debug)]
pub(crate) struct FrameReader {
    segment: Arc<Segment>,
    position: u64,
    next_offset: u64,
    buffer: Bytes,
    /// Where `buffer` begins in the file, and how much of it was read.
    start: u64,
    filled: usize,
    read_bytes: usize,
    /// Where bodies are decompressed; its memory is used again once nobody holds a slice of it.
    unpacked: BytesMut,
}

impl FrameReader {
    /// A reader at a frame boundary.
    pub(crate) fn new(segment: Arc<Segment>, position: u64, next_offset: u64, read_bytes: usize) -> Self {
        let read_bytes = read_bytes.max(FRAME_HEADER_BYTES);
        Self {
            segment,
            position,
            next_offset,
            buffer: Bytes::new(),
            start: position,
            filled: 0,
            read_bytes,
            unpacked: BytesMut::new(),
        }
    }

    /// Goes on in another segment, keeping the buffer's memory.
    pub(crate) fn enter(&mut self, segment: Arc<Segment>, position: u64, next_offset: u64) {
        self.segment = segment;
        self.position = position;
        self.next_offset = next_offset;
        self.start = position;
        self.filled = 0;
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Whether everything that is published was read.
    pub(crate) fn at_end(&self) -> bool {
        self.position >= self.segment.readable()
    }

    /// The offset of the next frame.
    pub(crate) fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The next frame below what is published; `None` where that ends, or at the footer.
    #[inline]
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>> {
        let readable = self.segment.readable();
        if self.position >= readable {
            return Ok(None);
        }
        let (header, at) = self.header(readable)?;
        let end = self.position + header.frame_len() as u64;
        if end > readable {
            return Err(self.damage(FormatError::Length));
        }
        let mut body = self.buffer.slice(at + FRAME_HEADER_BYTES..at + header.frame_len());
        if let Err(why) = header.check_body(&body) {
            return Err(self.damage_after(why, &header));
        }
        if header.compression != Method::Plain {
            body = self.decompress(&header, &body)?;
        }
        self.position = end;
        self.next_offset = header.next_offset();
        Ok(Some(Frame { header, body }))
    }

    fn decompress(&mut self, header: &FrameHeader, stored: &[u8]) -> Result<Bytes> {
        match decompress(header.compression, stored, &mut self.unpacked) {
            Ok(()) => Ok(self.unpacked.split().freeze()),
            Err(why) => Err(self.damage_after(why, header)),
        }
    }

    /// Skips frames, looking at their headers only, until one is what `stop` wants; it comes next.
    pub(crate) fn skip_until(&mut self, stop: impl Fn(&FrameHeader) -> bool) -> Result<()> {
        loop {
            let readable = self.segment.readable();
            if self.position >= readable {
                return Ok(());
            }
            let (header, _) = self.header(readable)?;
            if stop(&header) {
                return Ok(());
            }
            self.position += header.frame_len() as u64;
            self.next_offset = header.next_offset();
        }
    }

    /// The checked header at the position, with the whole frame in the buffer behind it.
    #[inline]
    fn header(&mut self, readable: u64) -> Result<(FrameHeader, usize)> {
        let mut at = (self.position - self.start) as usize;
        if at + FRAME_HEADER_BYTES > self.filled {
            self.fill(self.read_bytes, readable)?;
            at = 0;
        }
        let header = self.decode(at)?;
        if at + header.frame_len() > self.filled {
            if self.position + header.frame_len() as u64 > readable {
                return Err(self.damage(FormatError::Length));
            }
            self.fill(header.frame_len().max(self.read_bytes), readable)?;
            at = 0;
            if header.frame_len() > self.filled {
                return Err(self.damage(FormatError::Short));
            }
        }
        Ok((header, at))
    }

    #[inline]
    fn decode(&self, at: usize) -> Result<FrameHeader> {
        let bytes = self.buffer.get(at..self.filled).unwrap_or_default();
        let header = FrameHeader::decode(bytes).map_err(|why| self.damage(why))?;
        if header.incarnation != self.segment.incarnation {
            return Err(self.damage(FormatError::Incarnation));
        }
        if header.kind != FrameKind::Records {
            return Err(self.damage(FormatError::Kind(header.kind as u8)));
        }
        if header.base_offset != self.next_offset {
            return Err(self.damage(FormatError::Offset));
        }
        Ok(header)
    }

    /// Reads from the position on. The old buffer's memory is used again unless somebody still holds a slice of it.
    fn fill(&mut self, want: usize, readable: u64) -> Result<()> {
        let want = want.min(usize::try_from(readable - self.position).unwrap_or(usize::MAX));
        // Nothing is in the buffer until the read has succeeded: one that fails may be tried again.
        self.filled = 0;
        self.start = self.position;
        let old = std::mem::take(&mut self.buffer);
        let mut buffer = match old.try_into_mut() {
            Ok(buffer) if buffer.len() >= want => buffer,
            _ => BytesMut::zeroed(want.max(self.read_bytes.min(READ_BYTES)).max(FRAME_HEADER_BYTES)),
        };
        let file = self.segment.file()?;
        self.filled =
            read_full_at(&*file, &mut buffer[..want], self.position).map_err(|error| self.segment.io("read", error))?;
        self.buffer = buffer.freeze();
        Ok(())
    }

    fn damage(&self, why: FormatError) -> Error {
        self.segment.corrupt(why, self.position, Some(self.next_offset), None)
    }

    fn damage_after(&self, why: FormatError, header: &FrameHeader) -> Error {
        self.segment.corrupt(why, self.position, Some(self.next_offset), Some(header.next_offset()))
    }
}

/// A frame that this process has written itself, with the body that it has made it of.
pub(crate) fn own_frame(header: FrameHeader, stored: &[u8], body: Bytes) -> Frame {
    debug_assert!(frame::parse(stored, header.incarnation).is_ok(), "a frame that we made must hold");
    Frame { header, body }
}
