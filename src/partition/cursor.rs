//! Reading a partition from any offset on: out of memory where the newest frames are, else out of the segments.

use std::sync::Arc;

use super::Partition;
use crate::error::{Corruption, Error, Result};
use crate::segment::Segment;
use crate::segment::index::Target;
use crate::segment::reader::{Frame, FrameReader, READ_BYTES};

/// A place in a partition from which frames are read in order.
#[derive(Debug)]
pub(crate) struct PartitionCursor {
    partition: Arc<Partition>,
    next_offset: u64,
    reader: Option<FrameReader>,
    read_bytes: usize,
}

impl PartitionCursor {
    /// A cursor whose first frame is the one that holds `offset`.
    pub(crate) fn new(partition: Arc<Partition>, offset: u64) -> Self {
        Self { partition, next_offset: offset, reader: None, read_bytes: READ_BYTES }
    }

    /// Reads in smaller steps, for a merge of many partitions.
    pub(crate) fn with_read_bytes(mut self, bytes: usize) -> Self {
        self.read_bytes = bytes;
        self
    }

    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// The offset that is read next.
    pub(crate) fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// Whether the next frame needs no I/O.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.partition.tail.get(self.next_offset).is_some()
    }

    /// The next frame that begins below `end` and is visible; `None` if there is none yet. The first frame may begin before
    /// the offset that was asked for.
    #[inline]
    pub(crate) fn next_frame(&mut self, end: u64) -> Result<Option<Frame>> {
        let visible = self.partition.visible_end();
        if self.next_offset >= end.min(visible) {
            return match self.partition.damage() {
                Some(damage) if self.next_offset >= visible && end > visible => Err(damage.clone()),
                _ => Ok(None),
            };
        }
        loop {
            if let Some(frame) = self.partition.tail.get(self.next_offset) {
                self.next_offset = frame.header.next_offset();
                return Ok(Some(frame));
            }
            if let Some(frame) = self.next_from_segments()? {
                self.next_offset = frame.header.next_offset();
                return Ok(Some(frame));
            }
            // The frame left memory for the segment between the two looks; it is there now.
        }
    }

    #[inline]
    fn next_from_segments(&mut self) -> Result<Option<Frame>> {
        if let Some(reader) = &mut self.reader
            && reader.next_offset() == self.next_offset
            && let Some(frame) = reader.next_frame()?
        {
            return Ok(Some(frame));
        }
        self.locate()?;
        match &mut self.reader {
            Some(reader) => reader.next_frame(),
            None => Ok(None),
        }
    }

    /// Puts the reader before the frame that holds the next offset.
    #[cold]
    fn locate(&mut self) -> Result<()> {
        let segments = self.partition.segments();
        let after = segments.partition_point(|segment| segment.base_offset <= self.next_offset);
        let Some(index) = after.checked_sub(1) else {
            return Err(self.partition.damage().cloned().unwrap_or_else(|| self.out_of_range()));
        };
        let Some(segment) = segments.get(index) else { return Ok(()) };
        if let Some(reader) = &self.reader
            && Arc::ptr_eq(reader.segment(), segment)
            && reader.next_offset() == self.next_offset
        {
            // The reader is where it should be and has read all there is. If a next segment exists, this one is too short.
            return match segments.get(index + 1) {
                Some(next) => Err(self.missing(segment, next.base_offset)),
                None => Ok(()),
            };
        }
        let (position, offset) = segment.seek(Target::Offset(self.next_offset))?;
        let mut reader = match self.reader.take() {
            Some(mut reader) => {
                reader.enter(Arc::clone(segment), position, offset);
                reader
            }
            None => FrameReader::new(Arc::clone(segment), position, offset, self.read_bytes),
        };
        let wanted = self.next_offset;
        reader.skip_until(|header| header.next_offset() > wanted)?;
        if reader.next_offset() > wanted || reader.at_end() && segments.len() > index + 1 {
            return Err(self.missing(segment, segments.get(index + 1).map_or(wanted, |next| next.base_offset)));
        }
        self.reader = Some(reader);
        Ok(())
    }

    fn out_of_range(&self) -> Error {
        let range = self.partition.range();
        let owner = &self.partition.owner;
        Error::out_of_range(
            format!(
                "offset {} of topic {}, partition {} does not exist; there are {} to {}",
                self.next_offset, owner.topic, owner.partition, range.log_start, range.high_watermark
            ),
            range,
        )
    }

    fn missing(&self, segment: &Segment, next: u64) -> Error {
        let owner = &segment.owner;
        Error::corrupt(
            "records are missing between two segments",
            Corruption {
                file: format!("topics/{}/{}/{}", owner.topic, owner.partition, Segment::file_name(segment.base_offset)),
                topic: Some(owner.topic.to_string()),
                partition: Some(owner.partition),
                position: segment.readable(),
                first_offset: Some(self.next_offset),
                next_offset: Some(next),
            },
        )
    }
}

impl Partition {
    /// The offset of the first frame that holds, or follows, what is looked for; the visible end if there is none. Times need
    /// not ascend: the answer is the earliest frame with a record of that time or later.
    pub(crate) fn find(self: &Arc<Self>, target: Target) -> Result<u64> {
        let end = self.visible_end();
        let mut walked = self.log_start();
        for segment in self.segments().iter() {
            if segment.summary().is_some_and(|summary| !summary.may_hold(target)) {
                continue;
            }
            let (position, offset) = segment.seek(target)?;
            let mut reader = FrameReader::new(Arc::clone(segment), position, offset, READ_BYTES);
            reader.skip_until(|header| target.reached_by(header))?;
            walked = walked.max(reader.next_offset());
            if !reader.at_end() {
                return Ok(walked.min(end));
            }
        }
        // What is only in memory yet lies behind everything in the segments.
        let mut cursor = PartitionCursor::new(Arc::clone(self), walked);
        while let Some(frame) = cursor.next_frame(end)? {
            if target.reached_by(&frame.header) {
                return Ok(frame.header.base_offset);
            }
        }
        Ok(end)
    }
}
