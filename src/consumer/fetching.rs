//! Where the next frame comes from: the partitions that may have something take turns.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::core::{Core, Io};
use super::items::Item;
use super::source::{Fetched, Opening, State, fetch};
use crate::error::{Error, ErrorKind, Result};
use crate::partition::cursor::PartitionCursor;
use crate::replay::{Current, Item as FrameOf};
use crate::segment::reader::Frame;

/// So many frames are taken out of memory at once: the writer needs the same lock.
const FRAMES_AT_ONCE: usize = 64;

/// A frame of so many records gets a count of its own of who holds its memory: consumers that share one hinder each other at
/// each message.
const RECORDS_COUNTED_APART: u32 = 4;

/// What a look at a source brings.
enum Visit {
    /// A frame is there, or something to be told.
    Frame,
    Work(Box<Fetched>),
    /// Another source has the thread.
    Later,
    Nothing,
}

impl Core {
    /// Gets the next frame, from whichever source has one.
    pub(super) fn next_frame(&mut self, cx: &mut Context<'_>, io: Io) -> Poll<Result<()>> {
        if let Some(mut fetching) = self.fetching.take() {
            match Pin::new(&mut fetching).poll(cx) {
                Poll::Ready(Ok(fetched)) => return Poll::Ready(self.take_in(fetched)),
                Poll::Ready(Err(join)) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
                // The runtime ends.
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Error::closed())),
                Poll::Pending => self.fetching = Some(fetching),
            }
        }
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { break };
            match self.visit(index, io) {
                Visit::Frame => return Poll::Ready(Ok(())),
                Visit::Work(fetched) => return Poll::Ready(self.take_in(*fetched)),
                Visit::Later => self.ready.push_back(index),
                Visit::Nothing => {}
            }
        }
        if self.fetching.is_some() {
            // Whoever started it waits for that, and for what comes meanwhile.
            if self.poll_fetching(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
        } else if !self.caught_up && !self.by_partition.is_empty() && self.is_at_end() {
            self.caught_up = true;
            self.told.push_back(Ok(Item::CaughtUp));
            return Poll::Ready(Ok(()));
        }
        if io == Io::Look {
            return Poll::Pending;
        }
        self.mailbox.poll_news(cx).map(Ok)
    }

    /// Listens to a fetch that was started in this call.
    fn poll_fetching(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut fetching) = self.fetching.take() else { return Poll::Ready(()) };
        match Pin::new(&mut fetching).poll(cx) {
            Poll::Ready(Ok(fetched)) => {
                if let Err(error) = self.take_in(fetched) {
                    self.told.push_back(Err(error));
                }
                Poll::Ready(())
            }
            Poll::Ready(Err(join)) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            Poll::Ready(Err(_)) => {
                self.told.push_back(Err(Error::closed()));
                Poll::Ready(())
            }
            Poll::Pending => {
                self.fetching = Some(fetching);
                Poll::Pending
            }
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.sources.iter().flatten().all(|source| source.paused || source.is_at_end())
    }

    /// Looks what a source has.
    fn visit(&mut self, index: usize, io: Io) -> Visit {
        let busy = self.fetching.is_some();
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else { return Visit::Nothing };
        source.queued = false;
        if source.paused {
            return Visit::Nothing;
        }
        if let Some(frame) = source.ahead.pop_front() {
            return self.deliver(index, frame);
        }
        let away = io != Io::Here && tokio::runtime::Handle::try_current().is_ok();
        match std::mem::replace(&mut source.state, State::Away) {
            State::Away => Visit::Nothing,
            State::Failed => {
                source.state = State::Failed;
                Visit::Nothing
            }
            State::New => {
                let opening = Opening {
                    index,
                    serial: source.serial,
                    tenure: source.tenure,
                    lane: Arc::clone(&source.lane),
                    topic: Arc::clone(&source.topic),
                    partition: Arc::clone(&source.partition),
                    policy: self.policy,
                };
                let here = !away || opening.is_instant();
                if !here && busy {
                    source.state = State::New;
                    return self.later(index);
                }
                let (log, groups) = (Arc::clone(&self.log), Arc::clone(&self.groups));
                self.work(here, move || opening.open(&log.engine, &groups))
            }
            State::Open(mut cursor) => {
                let at_end = source.watcher.is_at_end(&source.partition, cursor.next_offset());
                if at_end && source.partition.damage().is_none() && source.partition.closed().is_none() {
                    cursor.rest();
                    source.state = State::Open(cursor);
                    return Visit::Nothing;
                }
                if at_end {
                    return self.next_in_memory(index, cursor);
                }
                if cursor.take_in_memory(FRAMES_AT_ONCE, &mut source.ahead) {
                    source.state = State::Open(cursor);
                    return match source.ahead.pop_front() {
                        Some(frame) => self.deliver(index, frame),
                        None => Visit::Nothing,
                    };
                }
                if away && busy {
                    source.state = State::Open(cursor);
                    return self.later(index);
                }
                let serial = source.serial;
                self.work(!away, move || fetch(index, serial, cursor))
            }
        }
    }

    fn later(&mut self, index: usize) -> Visit {
        if let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) {
            source.queued = true;
        }
        Visit::Later
    }

    fn work(&mut self, here: bool, work: impl FnOnce() -> Fetched + Send + 'static) -> Visit {
        if here {
            return Visit::Work(Box::new(work()));
        }
        self.fetching = Some(tokio::task::spawn_blocking(work));
        Visit::Nothing
    }

    /// Takes the next frame of a source where that needs no I/O.
    fn next_in_memory(&mut self, index: usize, mut cursor: PartitionCursor) -> Visit {
        let next = cursor.next_frame(u64::MAX);
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else { return Visit::Nothing };
        match next {
            Ok(Some(frame)) => {
                source.state = State::Open(cursor);
                self.deliver(index, frame)
            }
            Ok(None) => {
                source.state = State::Open(cursor);
                // Nothing comes any more, and the notice of why is on its way.
                Visit::Nothing
            }
            Err(error) => {
                source.state = State::Failed;
                self.told.push_back(Err(error));
                Visit::Frame
            }
        }
    }

    /// Begins a frame, if the partition is still this member's.
    fn deliver(&mut self, index: usize, mut frame: Frame) -> Visit {
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else { return Visit::Nothing };
        if !source.lane.claim(source.tenure, frame.header.next_offset()) {
            return Visit::Nothing;
        }
        if frame.header.record_count >= RECORDS_COUNTED_APART {
            frame.body = Bytes::from_owner(frame.body);
        }
        let item = FrameOf {
            topic: Arc::clone(&source.name),
            partition: source.partition.owner.partition,
            from: source.position,
            frame,
        };
        source.queued = true;
        self.ready.push_back(index);
        match Current::begin(item, &mut 0) {
            Ok(current) => self.current = Some((index, current)),
            Err(error) => {
                source.state = State::Failed;
                self.told.push_back(Err(error));
            }
        }
        Visit::Frame
    }

    /// Takes in what a thread has brought. Of a partition that was lost meanwhile nothing is wanted.
    fn take_in(&mut self, fetched: Fetched) -> Result<()> {
        let Fetched { index, serial, cursor, opened, frames, error } = fetched;
        let source = self.sources.get_mut(index).and_then(Option::as_mut);
        let Some(source) = source.filter(|source| source.serial == serial) else { return Ok(()) };
        if let Some(opened) = opened {
            (source.position, source.may_skip, source.begun) = (opened.position, opened.may_skip, true);
            self.told.extend(opened.told.into_iter().map(Ok));
        }
        source.ahead = frames;
        source.state = match (cursor, &error) {
            (Some(cursor), None) => State::Open(cursor),
            (Some(cursor), Some(error)) if error.corruption().is_none() => State::Open(cursor),
            // The disk may do better the next time.
            (None, Some(error)) if error.kind() == ErrorKind::Io => State::New,
            _ => State::Failed,
        };
        if !matches!(source.state, State::Failed) && !source.queued {
            source.queued = true;
            self.ready.push_back(index);
        }
        // Of a partition that was lost meanwhile the notice tells.
        match error {
            Some(error) if error.kind() != ErrorKind::Fenced => Err(error),
            _ => Ok(()),
        }
    }
}
