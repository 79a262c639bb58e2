//! Compaction: of the records with one key the last stays, and those before it go.
//!
//! A pass reads what has come since the last one and notes the last offset of each key, as far as its memory goes. Then it
//! goes through all segments up to there, oldest first, and writes those anew that hold something superseded, small neighbours
//! together. What stays keeps its offset, its frame and its commit number. The active segment is never looked at.
//!
//! - A record goes only if a later one with its key is on the disk, below the end of the segments that the pass may touch.
//! - A tombstone that is the last of its key stays for a while, counted from the pass that kept it first, since readers may
//!   not have seen it. When that pass came to it, everything older with its key had gone for good; so nothing can come back
//!   when it goes itself.
//! - A segment is replaced as one: see [`rewrite`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::Partition;
use crate::error::Result;
use crate::format::record::{RawRecord, RecordIter};
use crate::planted::{self, Bug};
use crate::segment::index::Target;
use crate::segment::lock;
use crate::segment::reader::{Frame, FrameReader, READ_BYTES};
use crate::segment::{Segment, first_place};

mod map;
mod rewrite;

#[cfg(test)]
mod tests;

use map::OffsetMap;

/// The offsets of a segment need 32 bits in its footer.
const SPAN_MAX: u64 = u32::MAX as u64 / 2;

/// Sets the speed of a pass.
pub(crate) trait Pace {
    /// So many bytes were read or written. Answers whether to go on.
    fn spend(&self, bytes: u64) -> bool;
}

/// What a pass has to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompactionPlan {
    /// Segments that begin below it may be touched: they are sealed, on the disk, and no checkpoint names one of them.
    pub(crate) limit: u64,
    pub(crate) now_micros: i64,
    pub(crate) tombstone_age_micros: i64,
    pub(crate) memory_bytes: usize,
}

/// What a compaction has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// How many records were removed.
    pub removed: u64,
    /// The bytes of the segments that were written anew, as they were before.
    pub bytes_before: u64,
    /// The bytes of what was written instead.
    pub bytes_after: u64,
    /// Whether nothing is left to do. Otherwise there were more keys than there is memory for at once: another compaction goes
    /// on where this one has ended.
    pub complete: bool,
}

impl Compacted {
    pub(crate) fn add(&mut self, other: &Self) {
        self.removed += other.removed;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
        self.complete &= other.complete;
    }
}

/// What becomes of a record.
enum Fate {
    Stays,
    /// A tombstone that is kept for the first time.
    Marked,
    Goes,
}

/// A pass over one partition.
struct Pass<'a> {
    partition: &'a Partition,
    plan: &'a CompactionPlan,
    pace: &'a dyn Pace,
    map: OffsetMap,
    /// What the map covers.
    from: u64,
    to: u64,
    /// The first moment at which a tombstone that was seen may go.
    tombstones_due: i64,
    done: Compacted,
}

/// The right to replace or remove segments of a partition: one at a time.
pub(crate) struct Maintaining<'a>(#[expect(dead_code, reason = "held for its drop")] MutexGuard<'a, ()>);

impl Partition {
    /// Waits for the right to replace or remove segments.
    pub(crate) fn maintaining(&self) -> Result<Maintaining<'_>> {
        let alone = lock(&self.maintaining);
        self.check_open()?;
        Ok(Maintaining(alone))
    }

    /// Stops whoever replaces or removes segments, and keeps them away as long as the answer is held.
    pub(crate) fn stop_maintenance(&self) -> Maintaining<'_> {
        self.maintenance_stops.fetch_add(1, Ordering::AcqRel);
        let alone = lock(&self.maintaining);
        self.maintenance_stops.fetch_sub(1, Ordering::AcqRel);
        Maintaining(alone)
    }

    /// Bytes of sealed segments, and those of them that came since the last pass.
    fn dirty_bytes(&self) -> (u64, u64) {
        let segments = self.segments();
        let clean_end = self.clean_end();
        let (mut all, mut dirty) = (0, 0);
        for pair in segments.windows(2) {
            let [segment, next] = pair else { continue };
            all += segment.readable();
            dirty += if next.base_offset > clean_end { segment.readable() } else { 0 };
        }
        (all, dirty)
    }

    /// Whether a pass is worth while: so much has come since the last one, or a tombstone may go.
    pub(crate) fn wants_compaction(&self, dirty_ratio_min: f64, now_micros: i64) -> bool {
        let (all, dirty) = self.dirty_bytes();
        let is_dirty = dirty > 0 && dirty as f64 >= dirty_ratio_min * all as f64;
        self.failure().is_none() && (is_dirty || self.tombstones_due() <= now_micros)
    }

    /// The moment at which the first tombstone that the last pass has kept may go.
    pub(crate) fn tombstones_due(&self) -> i64 {
        self.tombstones_due.load(Ordering::Acquire)
    }

    /// Goes through the partition once.
    pub(crate) fn compact(
        &self,
        _alone: &Maintaining<'_>,
        plan: &CompactionPlan,
        pace: &dyn Pace,
    ) -> Result<Compacted> {
        self.check_open()?;
        let segments = self.segments();
        let limit = if planted::is(Bug::CompactionDropsHead) { self.visible_end() } else { plan.limit };
        let count = segments.partition_point(|segment| segment.base_offset < plan.limit);
        let sealed: Vec<Arc<Segment>> = segments.iter().take(count).cloned().collect();
        let from = self.clean_end();
        let mut pass = Pass {
            partition: self,
            plan,
            pace,
            map: OffsetMap::new(plan.memory_bytes, dirty_records(&segments, from), self.secret()),
            from,
            to: from,
            tombstones_due: i64::MAX,
            done: Compacted { complete: true, ..Compacted::default() },
        };
        let seen: Vec<Arc<Segment>> = if limit > plan.limit { segments.to_vec() } else { sealed.clone() };
        let start = self.log_start();
        let through = match pass.read_keys(&seen, limit) {
            Ok(true) => pass.rewrite_all(&sealed),
            other => other,
        };
        match through {
            Ok(true) => {}
            Ok(false) => return Ok(Compacted { complete: false, ..pass.done }),
            // Retention has taken away what was being read.
            Err(_) if self.log_start() > start => return Ok(Compacted { complete: false, ..pass.done }),
            Err(error) => return Err(error),
        }
        self.tombstones_due.store(pass.tombstones_due, Ordering::Release);
        self.set_clean_end(pass.to.min(plan.limit));
        Ok(pass.done)
    }

    fn secret(&self) -> (u64, u64) {
        (self.env.random.next_u64(), self.env.random.next_u64())
    }
}

/// How many records the sealed segments hold that end above `from`, at the most.
fn dirty_records(segments: &[Arc<Segment>], from: u64) -> u64 {
    let summaries = segments.iter().filter_map(|segment| segment.summary());
    summaries.filter(|summary| summary.next_offset > from).map(|summary| summary.record_count).sum()
}

impl Pass<'_> {
    /// Whether the pass was told to end.
    fn is_stopped(&self, bytes: u64) -> bool {
        self.partition.maintenance_stops.load(Ordering::Acquire) > 0
            || self.partition.check_open().is_err()
            || !self.pace.spend(bytes)
    }

    /// Fills the map with what has come since the last pass. `false` if the pass was told to end.
    fn read_keys(&mut self, segments: &[Arc<Segment>], limit: u64) -> Result<bool> {
        for segment in segments {
            if segment.summary().is_some_and(|summary| summary.next_offset <= self.from) {
                continue;
            }
            let (position, offset) = segment.seek(Target::Offset(self.from.max(segment.base_offset)))?;
            let mut reader = FrameReader::new(Arc::clone(segment), position, offset, READ_BYTES);
            while let Some(frame) = reader.next_frame()? {
                if !self.note_keys(segment, &frame)? {
                    // The memory is used up: the rest is for the next pass.
                    self.done.complete = false;
                    return Ok(true);
                }
                if self.is_stopped(frame.header.frame_len() as u64) {
                    return Ok(false);
                }
            }
        }
        self.to = limit;
        Ok(true)
    }

    /// Notes the keys of a frame; `false` if there is no room for one of them.
    fn note_keys(&mut self, segment: &Segment, frame: &Frame) -> Result<bool> {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = next(segment, frame, &mut records)? {
            if record.offset < self.from {
                continue;
            }
            if let Some(key) = record.key
                && !self.map.insert(key, record.offset)
            {
                return Ok(false);
            }
            self.to = record.offset + 1;
        }
        Ok(true)
    }

    /// What becomes of a record.
    fn fate(&mut self, record: &RawRecord<'_>) -> Fate {
        let Some(key) = record.key.filter(|_| record.offset < self.to) else { return Fate::Stays };
        if self.map.last(key).is_some_and(|last| last > record.offset) {
            return Fate::Goes;
        }
        if record.value.is_some() {
            return Fate::Stays;
        }
        let (now, age) = (self.plan.now_micros, self.plan.tombstone_age_micros);
        let (fate, kept_at) = match record.kept_at {
            None if planted::is(Bug::TombstoneDroppedEarly) => return Fate::Goes,
            Some(kept_at) if now >= kept_at.saturating_add(age) => return Fate::Goes,
            Some(kept_at) => (Fate::Stays, kept_at),
            // What the map covers has nothing older left when this pass is through.
            None if record.offset >= self.from => (Fate::Marked, now),
            None => return Fate::Stays,
        };
        self.tombstones_due = self.tombstones_due.min(kept_at.saturating_add(age));
        fate
    }

    /// Goes through the segments below the end of the map. `false` if the pass was told to end.
    fn rewrite_all(&mut self, segments: &[Arc<Segment>]) -> Result<bool> {
        let below = segments.iter().take_while(|segment| segment.base_offset < self.to).count();
        let mut rest = segments.get(..below).unwrap_or_default();
        while let Some(first) = rest.first() {
            let fits = |next| self.fits(first.base_offset, first.readable(), next);
            let worth_while = match rest.get(1).is_some_and(fits) {
                true => Some(true),
                false => self.is_worth_while(first)?,
            };
            let count = match worth_while {
                Some(true) => self.rewrite(rest)?,
                Some(false) => Some(1),
                None => None,
            };
            let Some(count) = count else { return Ok(false) };
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(true)
    }

    /// Whether another segment fits into one that begins at `base_offset` and has so many bytes.
    fn fits(&self, base_offset: u64, bytes: u64, next: &Arc<Segment>) -> bool {
        let end = next.summary().map_or(u64::MAX, |summary| summary.next_offset);
        bytes + next.readable() <= self.partition.config.live.segment_bytes_max() && end - base_offset <= SPAN_MAX
    }

    /// Whether something in the segment must go. `None` if the pass was told to end.
    fn is_worth_while(&mut self, segment: &Arc<Segment>) -> Result<Option<bool>> {
        let start = first_place(segment.base_offset, segment.incarnation);
        let mut reader = FrameReader::new(Arc::clone(segment), start.position, start.next_offset, READ_BYTES);
        while let Some(frame) = reader.next_frame()? {
            let mut records = RecordIter::new(&frame.header, &frame.body);
            while let Some(record) = next(segment, &frame, &mut records)? {
                if !matches!(self.fate(&record), Fate::Stays) {
                    return Ok(Some(true));
                }
            }
            if self.is_stopped(frame.header.frame_len() as u64) {
                return Ok(None);
            }
        }
        Ok(Some(false))
    }
}

/// The next record of a frame whose checksum holds.
fn next<'a>(segment: &Segment, frame: &Frame, records: &mut RecordIter<'a>) -> Result<Option<RawRecord<'a>>> {
    records.next_record().map_err(|why| {
        let header = &frame.header;
        segment.corrupt(why, 0, Some(header.base_offset), Some(header.next_offset()))
    })
}
