//! The last frames of a partition in memory, shared with whoever follows it: no read, no check, no copy.
//!
//! Two kinds of frames are here: those that a journaled commit has published but not yet written to the segment (they stay
//! until it has), and, while somebody follows the partition, the newest ones within a bound of bytes.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::segment::lock;
use crate::segment::reader::Frame;

/// Frames at the end of a partition.
#[derive(Debug)]
pub(crate) struct Tail {
    inner: Mutex<Inner>,
    /// The first offset in memory; `u64::MAX` if there is none. Lets a reader of history pass without the lock.
    first: AtomicU64,
    followers: AtomicUsize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Frames below this offset are in the segment and may go.
    written: u64,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize, next_offset: u64) -> Self {
        Self {
            inner: Mutex::new(Inner { written: next_offset, ..Inner::default() }),
            first: AtomicU64::new(u64::MAX),
            followers: AtomicUsize::new(0),
            bytes_max,
        }
    }

    /// Whether somebody follows, so that frames are worth keeping. For the ordering see `Partition::wake_followers`.
    #[inline]
    pub(crate) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn follow(&self) {
        self.followers.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn unfollow(&self) {
        if self.followers.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.trim(&mut lock(&self.inner));
        }
    }

    /// Adds the newest frame. A frame that skips offsets (those before it were not kept) starts the tail anew.
    pub(crate) fn push(&self, frame: Frame) {
        let mut inner = lock(&self.inner);
        if inner.frames.back().is_some_and(|last| last.header.next_offset() != frame.header.base_offset) {
            inner.frames.clear();
            inner.bytes = 0;
        }
        inner.bytes += frame.body.len();
        inner.frames.push_back(frame);
        self.trim(&mut inner);
    }

    /// Everything below `offset` is in the segment.
    pub(crate) fn written(&self, offset: u64) {
        let mut inner = lock(&self.inner);
        inner.written = inner.written.max(offset);
        self.trim(&mut inner);
    }

    /// The frame that holds `offset`, if it is in memory.
    #[inline]
    pub(crate) fn get(&self, offset: u64) -> Option<Frame> {
        if offset < self.first.load(Ordering::Acquire) {
            return None;
        }
        let inner = lock(&self.inner);
        let index = inner.frames.partition_point(|frame| frame.header.next_offset() <= offset);
        inner.frames.get(index).filter(|frame| frame.header.base_offset <= offset).cloned()
    }

    /// The frames from the one that holds `offset` on, up to `max` of them, under one lock.
    pub(crate) fn get_many(&self, offset: u64, max: usize, into: &mut VecDeque<Frame>) {
        if offset < self.first.load(Ordering::Acquire) {
            return;
        }
        let inner = lock(&self.inner);
        let index = inner.frames.partition_point(|frame| frame.header.next_offset() <= offset);
        if inner.frames.get(index).is_some_and(|frame| frame.header.base_offset <= offset) {
            into.extend(inner.frames.range(index..).take(max).cloned());
        }
    }

    fn trim(&self, inner: &mut Inner) {
        let keep = if self.is_followed() { self.bytes_max } else { 0 };
        while inner.bytes > keep {
            match inner.frames.front() {
                Some(front) if front.header.next_offset() <= inner.written => {
                    inner.bytes -= front.body.len();
                    inner.frames.pop_front();
                }
                _ => break,
            }
        }
        let first = inner.frames.front().map_or(u64::MAX, |frame| frame.header.base_offset);
        self.first.store(first, Ordering::Release);
    }
}
