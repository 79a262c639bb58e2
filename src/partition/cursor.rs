//! Reading a partition from any offset on: out of memory where the newest frames are, else out of the segments.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Partition;
use crate::error::{Corruption, Error, ErrorKind, Gap, Result};
use crate::format::record::RecordIter;
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

    /// Takes frames that are in memory and visible, up to `max` of them. Answers whether there were any.
    pub(crate) fn take_in_memory(&mut self, max: usize, into: &mut VecDeque<Frame>) -> bool {
        // What is in memory is visible, or about to be: not before the writer says so.
        let visible = self.partition.visible_end();
        self.partition.tail.get_many(self.next_offset, max, into);
        while into.back().is_some_and(|last| last.header.base_offset >= visible) {
            into.pop_back();
        }
        match into.back() {
            Some(last) => {
                self.next_offset = last.header.next_offset();
                true
            }
            None => false,
        }
    }

    /// Gives the memory back that reading files takes: there is nothing more to read for now.
    pub(crate) fn rest(&mut self) {
        self.reader = None;
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
            match self.next_from_segments() {
                Ok(Some(frame)) => {
                    self.next_offset = frame.header.next_offset();
                    return Ok(Some(frame));
                }
                Ok(None) => {}
                // Another process may have removed the file, or put another in its place.
                Err(_) if self.partition.look_again() => self.reader = None,
                Err(error) => return Err(self.gap().or_else(|| self.deleted()).unwrap_or(error)),
            }
            // The frame left memory for the segment between the two looks; it is there now.
        }
    }

    #[inline]
    fn next_from_segments(&mut self) -> Result<Option<Frame>> {
        if let Some(reader) = &mut self.reader
            && reader.next_offset() == self.next_offset
        {
            match reader.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Err(error) if !reader.segment().is_retired() => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
        self.next_located()
    }

    /// The next frame, looked up. A segment may be replaced in the middle of it: then the place is looked up again, among
    /// segments that are there.
    #[cold]
    fn next_located(&mut self) -> Result<Option<Frame>> {
        loop {
            let segments = self.partition.segments();
            let found = match self.locate(&segments) {
                Ok(()) => self.reader.as_mut().map_or(Ok(None), FrameReader::next_frame),
                Err(error) => Err(error),
            };
            match found {
                // Looking waits for an exchange that is under way.
                Err(_) if !Arc::ptr_eq(&segments, &self.partition.segments()) => self.reader = None,
                found => return found,
            }
        }
    }

    /// The offsets that are gone before this cursor came to them, once: it goes on behind them. Whoever is in the middle of a
    /// segment that goes reads on in its file as long as that is open.
    fn gap(&mut self) -> Option<Error> {
        let (from, to) = (self.next_offset, self.partition.log_start());
        // A partition that begins later because its first file is damaged has lost what was before.
        if from >= to || self.partition.damage().is_some() {
            return None;
        }
        self.next_offset = to;
        let owner = &self.partition.owner;
        Some(Error::of_gap(Gap { topic: owner.topic.to_string(), partition: owner.partition, from, to }))
    }

    /// That the topic was deleted: what is not open any more cannot be read.
    fn deleted(&self) -> Option<Error> {
        self.partition.closed().filter(|closed| closed.kind() == ErrorKind::NotFound).cloned()
    }

    /// Puts the reader before the frame that holds the next offset.
    fn locate(&mut self, segments: &[Arc<Segment>]) -> Result<()> {
        if self.next_offset < self.partition.log_start() {
            // Without damage the caller makes a gap of it.
            return Err(self.partition.damage().cloned().unwrap_or_else(|| self.out_of_range()));
        }
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

/// How many records of the frame have this offset or a higher one.
fn records_from(frame: &Frame, offset: u64) -> u64 {
    let all = u64::from(frame.header.record_count);
    if frame.header.base_offset >= offset {
        return all;
    }
    let mut records = RecordIter::new(&frame.header, &frame.body);
    let mut before = 0;
    while let Ok(Some(record)) = records.next_record() {
        before += u64::from(record.offset < offset);
    }
    all - before
}

impl Partition {
    /// Where the last `wanted` records below `end` begin, and how many there are from there on: some more than wanted, since
    /// it is the beginning of a frame where offsets were left out. `end` is a visible end.
    pub(crate) fn last_records(self: &Arc<Self>, end: u64, wanted: u64) -> Result<(u64, u64)> {
        let (mut upper, mut counted) = (end, 0);
        for segment in self.segments().iter().rev() {
            let lower = segment.base_offset.max(self.log_start());
            if counted >= wanted || lower >= upper {
                continue;
            }
            let missing = wanted - counted;
            let there = if segment.is_sparse() { self.count(lower, upper)? } else { upper - lower };
            if there >= missing && segment.is_sparse() {
                let (from, skipped) = self.skip(lower, upper, there - missing)?;
                return Ok((from, counted + there - skipped));
            }
            counted += there.min(missing);
            upper = if there > missing { upper - missing } else { lower };
        }
        Ok((upper, counted))
    }

    /// How many records there are from `from` up to `to`, which is the end of a frame.
    fn count(self: &Arc<Self>, from: u64, to: u64) -> Result<u64> {
        let mut cursor = PartitionCursor::new(Arc::clone(self), from);
        let mut count = 0;
        while let Some(frame) = cursor.next_frame(to)? {
            count += records_from(&frame, from);
        }
        Ok(count)
    }

    /// The beginning of the last frame before which there are `count` records at the most, and how many there are.
    fn skip(self: &Arc<Self>, from: u64, to: u64, count: u64) -> Result<(u64, u64)> {
        let mut cursor = PartitionCursor::new(Arc::clone(self), from);
        let (mut at, mut skipped) = (from, 0);
        while let Some(frame) = cursor.next_frame(to)? {
            let records = records_from(&frame, from);
            if skipped + records > count {
                break;
            }
            skipped += records;
            at = frame.header.next_offset();
        }
        Ok((at, skipped))
    }

    /// The offset of the first frame that holds, or follows, what is looked for; the visible end if there is none. Times need
    /// not ascend: the answer is the earliest frame with a record of that time or later.
    pub(crate) fn find(self: &Arc<Self>, target: Target) -> Result<u64> {
        let end = self.visible_end();
        let walked = loop {
            let segments = self.segments();
            match self.find_in(&segments, target) {
                Ok((found, true)) => return Ok(found.min(end)),
                Ok((walked, false)) => break walked,
                // Replaced in the middle of it.
                Err(_) if !Arc::ptr_eq(&segments, &self.segments()) => {}
                // In a log that another process writes.
                Err(_) if self.look_again() => {}
                Err(error) => return Err(error),
            }
        };
        // What is only in memory yet lies behind everything in the segments.
        let mut cursor = PartitionCursor::new(Arc::clone(self), walked);
        while let Some(frame) = cursor.next_frame(end)? {
            if target.reached_by(&frame.header) {
                // The first frame may begin before the log start.
                return Ok(frame.header.base_offset.max(walked));
            }
        }
        Ok(end)
    }

    /// The same in the files: where it is, or how far they were walked.
    fn find_in(&self, segments: &[Arc<Segment>], target: Target) -> Result<(u64, bool)> {
        let mut walked = self.log_start();
        for segment in segments {
            if segment.summary().is_some_and(|summary| !summary.may_hold(target)) {
                continue;
            }
            let looked = segment.seek(target).and_then(|(position, offset)| {
                let mut reader = FrameReader::new(Arc::clone(segment), position, offset, READ_BYTES);
                reader.skip_until(|header| target.reached_by(header)).map(|()| reader)
            });
            let reader = match looked {
                // Retention has taken it away meanwhile.
                Err(_) if segment.summary().is_some_and(|summary| summary.next_offset <= self.log_start()) => continue,
                looked => looked?,
            };
            walked = walked.max(reader.next_offset());
            if !reader.at_end() {
                return Ok((walked, true));
            }
        }
        Ok((walked, false))
    }
}
