//! Letting the oldest records go: which segments nobody wants to keep, and taking them away.
//!
//! The log start is on the disk before the first file goes (see `Engine::raise_log_starts`), so whatever a crash leaves of the
//! files below it is known to be of no use: recovery removes it.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::Partition;
use crate::error::Result;
use crate::segment::{Segment, lock};

/// What a partition keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// So many bytes, at the least.
    pub(crate) bytes_max: Option<u64>,
    /// What is of this time or later.
    pub(crate) oldest: Option<i64>,
    /// What time it is.
    pub(crate) now: i64,
}

impl Partition {
    /// Where the log would start if only what `retention` wants were there. The active segment stays, but it is closed if all
    /// of it is too old and `may_seal` allows it, so that also a partition that nobody writes to comes to its end.
    pub(crate) fn retained_from(&self, retention: &Retention, may_seal: impl FnOnce() -> bool) -> Result<u64> {
        if let Some(oldest) = retention.oldest {
            self.seal_if(|place| place.max_timestamp < oldest && may_seal())?;
        }
        let segments = self.segments();
        let mut bytes: u64 = segments.iter().map(|segment| segment.readable()).sum();
        let mut start = self.log_start();
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            let is_old = |oldest| segment.summary().is_some_and(|summary| summary.max_timestamp < oldest);
            let left = bytes - segment.readable();
            if !retention.oldest.is_some_and(is_old) && retention.bytes_max.is_none_or(|max| left < max) {
                break;
            }
            bytes = left;
            start = start.max(next.base_offset);
        }
        if start > self.log_start() {
            let held = self.held_from(&segments, start, retention.now);
            // Whole segments only: the rest of one takes no less room.
            let whole = segments.iter().map(|segment| segment.base_offset).filter(|base| *base <= held).max();
            start = start.min(whole.unwrap_or(0)).max(self.log_start());
        }
        Ok(start)
    }

    /// The largest time in the oldest segment: when that is too old, something may go.
    pub(crate) fn oldest_until(&self) -> Option<i64> {
        let segments = self.segments();
        match segments.as_slice() {
            [first, _, ..] => first.summary().map(|summary| summary.max_timestamp),
            _ => {
                let writer = lock(&self.writer);
                (writer.place.frame_count > 0).then_some(writer.place.max_timestamp)
            }
        }
    }

    /// Says that the journal, which has failed, may hold frames that the next open puts at the end of the active segment: there
    /// must not be another one behind it by then, nor none.
    pub(crate) fn leave_end_open(&self) {
        self.end_unknown.store(true, Ordering::Release);
    }

    /// Closes the active segment if it holds something and `wanted` says so of its end.
    pub(crate) fn seal_if(&self, wanted: impl FnOnce(&crate::format::checkpoint::SegmentPlace) -> bool) -> Result<()> {
        let mut guard = self.writer();
        self.check_open()?;
        let may_end = guard.writer.place.frame_count > 0 && !self.end_unknown.load(Ordering::Acquire);
        if may_end && wanted(&guard.writer.place) {
            guard.rotate()?;
        }
        Ok(())
    }

    /// Raises the log start, which the disk has already, and answers with the segments that lie below it altogether: nobody
    /// finds them any more.
    pub(crate) fn raise_log_start(&self, to: u64) -> Vec<Arc<Segment>> {
        self.log_start.fetch_max(to, Ordering::AcqRel);
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let below = segments.windows(2).take_while(|pair| matches!(pair, [_, next] if next.base_offset <= to)).count();
        let mut kept = segments.to_vec();
        let gone: Vec<_> = kept.drain(..below).collect();
        *segments = Arc::new(kept);
        drop(segments);
        // Whoever has one open may finish; nobody opens what may have the name later.
        gone.iter().for_each(|segment| segment.retire(true));
        // An index that came later would be nobody's.
        let is_gone = |segment: &Arc<Segment>| gone.iter().any(|gone| Arc::ptr_eq(gone, segment));
        lock(&self.writer).unindexed.retain(|(segment, _)| !is_gone(segment));
        gone
    }

    /// Removes files of segments that nobody finds any more, oldest first. What remains after an error is removed at the next
    /// open.
    pub(crate) fn remove_files(&self, gone: &[Arc<Segment>]) -> Result<()> {
        for segment in gone {
            let index = segment.index_name().map(|name| self.dir.join(name));
            for path in std::iter::once(segment.path()).chain(&index) {
                match self.env.storage.remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(segment.io("remove", error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
