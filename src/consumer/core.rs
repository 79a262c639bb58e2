//! How a consumer comes from one message to the next: the partitions that have something take turns, frame by frame.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::items::Item;
use super::rebalance::{Listener, Rebalance};
use super::source::{Fetched, Opening, Policy, Source, State, fetch};
use crate::error::{Error, ErrorKind, Result};
use crate::group::Groups;
use crate::group::commit::GATHERED_FOR;
use crate::group::lane::LaneState;
use crate::group::mailbox::{Grant, Mailbox, Notice};
use crate::group::membership::Group;
use crate::group::record::Whose;
use crate::log::running::Running;
use crate::partition::cursor::PartitionCursor;
use crate::record::Message;
use crate::replay::{Current, Item as FrameOf};
use crate::segment::reader::Frame;

/// A consumer, whatever its messages are decoded to.
pub(super) struct Core {
    pub(super) log: Arc<Running>,
    pub(super) groups: Arc<Groups>,
    pub(super) group: Arc<Group>,
    pub(super) member: u64,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) policy: Policy,
    pub(super) auto_commit: Option<Duration>,
    /// Locked by nobody: it makes a consumer that is shared between threads what it is without one.
    pub(super) listener: Mutex<Option<Box<Listener>>>,
    pub(super) sources: Vec<Option<Source>>,
    pub(super) by_partition: HashMap<Whose, usize>,
    /// Sources that may have something.
    ready: VecDeque<usize>,
    /// The frame that is being delivered, and whose it is.
    current: Option<(usize, Current)>,
    /// What is to be told before anything else.
    told: VecDeque<Result<Item>>,
    fetching: Option<JoinHandle<Fetched>>,
    /// Up to where messages were handed out by the last call: whoever asks for more has finished them.
    pub(super) last: Vec<(usize, u64)>,
    caught_up: bool,
    closed: bool,
    next_serial: u64,
    mail: (Vec<usize>, Vec<Notice>),
}

/// Who reads files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Io {
    /// A thread for blocking work; without a runtime, this one.
    Away,
    /// This thread.
    Here,
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "one caller, and each argument is a field")]
    pub(super) fn new(
        log: Arc<Running>,
        groups: Arc<Groups>,
        group: Arc<Group>,
        member: u64,
        mailbox: Arc<Mailbox>,
        policy: Policy,
        auto_commit: Option<Duration>,
        listener: Option<Box<Listener>>,
    ) -> Self {
        Self {
            log,
            groups,
            group,
            member,
            mailbox,
            policy,
            auto_commit,
            listener: Mutex::new(listener),
            sources: Vec::new(),
            by_partition: HashMap::new(),
            ready: VecDeque::new(),
            current: None,
            told: VecDeque::new(),
            fetching: None,
            last: Vec::new(),
            next_serial: 0,
            caught_up: false,
            closed: false,
            mail: (Vec::new(), Vec::new()),
        }
    }

    /// The next item; `None` once the log is closed. Nothing is lost if the caller does not come back.
    pub(super) fn poll_item(&mut self, cx: &mut Context<'_>, io: Io) -> Poll<Option<Result<Item>>> {
        self.finish_last();
        loop {
            if self.mailbox.has_news() {
                self.read_mail();
            }
            if let Some(told) = self.told.pop_front() {
                return Poll::Ready(Some(told));
            }
            if self.closed {
                return Poll::Ready(None);
            }
            match self.next_of_frame() {
                Ok(Some(item)) => return Poll::Ready(Some(Ok(item))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            if self.current.is_some() {
                continue;
            }
            match self.next_frame(cx, io) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// In automatic mode, whoever asks for more has finished what there was.
    fn finish_last(&mut self) {
        let mut last = std::mem::take(&mut self.last);
        let Some(interval) = self.auto_commit else { return };
        for (index, next) in last.drain(..) {
            let Some(source) = self.sources.get(index).and_then(Option::as_ref) else { continue };
            let held = (Arc::clone(&source.lane), source.tenure);
            let say = |state: &mut LaneState| {
                state.finish_below(next);
                Ok(())
            };
            if let Err(error) = self.groups.commit_soon(&self.log.engine, &held, interval, say)
                // Of a partition that was lost the notice tells.
                && error.kind() != ErrorKind::Fenced
            {
                self.told.push_back(Err(error));
            }
        }
        self.last = last;
    }

    fn handed_out(&mut self, index: usize, next: u64) {
        if self.auto_commit.is_none() {
            return;
        }
        match self.last.last_mut() {
            Some(last) if last.0 == index => last.1 = next,
            _ => self.last.push((index, next)),
        }
    }

    /// The next message, if there is one that needs no waiting, without taking those before for finished.
    pub(super) fn next_at_hand(&mut self, io: Io) -> Option<Message> {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if self.mailbox.has_news() || !self.told.is_empty() || self.closed {
                return None;
            }
            match self.next_of_frame() {
                Ok(Some(Item::Message(message))) => return Some(message),
                Ok(Some(item)) => self.told.push_back(Ok(item)),
                Err(error) => self.told.push_back(Err(error)),
                Ok(None) if self.current.is_some() => {}
                Ok(None) => match self.next_frame(&mut cx, io) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => self.told.push_back(Err(error)),
                    Poll::Pending => return None,
                },
            }
        }
    }

    /// Takes the user's function, to be put back after it was called.
    pub(super) fn listener(&mut self) -> &mut Option<Box<Listener>> {
        self.listener.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells an error before anything else.
    pub(super) fn tell(&mut self, error: Error) {
        self.told.push_front(Err(error));
    }

    /// The next item out of the frame that is being delivered.
    fn next_of_frame(&mut self) -> Result<Option<Item>> {
        let Some((index, current)) = &mut self.current else { return Ok(None) };
        let index = *index;
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else {
            self.current = None;
            return Ok(None);
        };
        loop {
            if current.is_over() {
                self.current = None;
                return Ok(None);
            }
            let mark = current.mark();
            let view = match current.next() {
                Ok(Some(view)) => view,
                Ok(None) => continue,
                Err(error) => {
                    source.state = State::Failed;
                    self.current = None;
                    return Err(error);
                }
            };
            let offset = view.offset();
            if offset < source.position {
                continue;
            }
            if offset > source.position {
                // Nobody will ever finish what is not there.
                source.lane.lock().progress.finish(source.position, offset);
                let missing = source.missing_before(offset);
                source.position = offset;
                if let Some(gap) = missing {
                    current.reset(mark);
                    return Ok(Some(Item::Gap(gap)));
                }
            }
            source.position = offset + 1;
            if source.may_skip && source.lane.lock().progress.is_finished(offset) {
                continue;
            }
            let message = view.to_message();
            self.handed_out(index, offset + 1);
            return Ok(Some(Item::Message(message)));
        }
    }

    /// Gets the next frame, from whichever source has one.
    fn next_frame(&mut self, cx: &mut Context<'_>, io: Io) -> Poll<Result<()>> {
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

    fn is_at_end(&self) -> bool {
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
        let away = io == Io::Away && tokio::runtime::Handle::try_current().is_ok();
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
                if cursor.next_offset() >= source.partition.visible_end() {
                    // In this order: what comes from here on is told, what came before is seen by the look.
                    source.watcher.rearm();
                }
                let at_end = cursor.next_offset() >= source.partition.visible_end();
                if at_end && source.partition.damage().is_none() && source.partition.closed().is_none() {
                    cursor.rest();
                    source.state = State::Open(cursor);
                    return Visit::Nothing;
                }
                if at_end || cursor.is_in_memory() {
                    return self.next_in_memory(index, cursor);
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
    fn deliver(&mut self, index: usize, frame: Frame) -> Visit {
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else { return Visit::Nothing };
        let mut state = source.lane.lock();
        if !state.is_owned_by(source.tenure) {
            return Visit::Nothing;
        }
        state.claimed = state.claimed.max(frame.header.next_offset());
        drop(state);
        let item = FrameOf {
            topic: Arc::clone(&source.topic.name),
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
            _ => State::Failed,
        };
        if matches!(source.state, State::Open(_)) && !source.queued {
            source.queued = true;
            self.ready.push_back(index);
        }
        // Of a partition that was lost meanwhile the notice tells.
        match error {
            Some(error) if error.kind() != ErrorKind::Fenced => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads what the group has to say.
    pub(super) fn read_mail(&mut self) {
        let (mut ready, mut notices) = std::mem::take(&mut self.mail);
        self.closed |= self.mailbox.take(&mut ready, &mut notices);
        for index in ready.drain(..) {
            self.wake(index);
        }
        let (mut granted, mut asked, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for notice in notices.drain(..) {
            match notice {
                Notice::Granted(grant) => granted.push(grant),
                Notice::Asked(whose) => asked.push(whose),
                Notice::Lost(whose) => {
                    granted.retain(|grant| grant.lane.whose != whose);
                    asked.retain(|known| *known != whose);
                    lost.push(whose);
                }
                Notice::Deleted(topic) => self.told.push_back(Err(Error::new(
                    ErrorKind::NotFound,
                    format!("topic {topic} has been deleted; what else there is in the subscription goes on"),
                ))),
            }
        }
        self.mail = (ready, notices);
        lost.retain(|whose| self.by_partition.contains_key(whose));
        if !lost.is_empty() {
            self.call(|names| Rebalance::Lost(names), &lost);
            lost.iter().for_each(|whose| self.remove(*whose));
        }
        if !asked.is_empty() {
            self.give_up(&asked);
        }
        if !granted.is_empty() {
            let whose: Vec<Whose> = granted.iter().map(|grant| grant.lane.whose).collect();
            for grant in granted {
                self.add(grant);
            }
            self.caught_up = false;
            self.call(|names| Rebalance::Assigned(names), &whose);
        }
    }

    fn wake(&mut self, index: usize) {
        if let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut)
            && !source.queued
        {
            source.queued = true;
            self.ready.push_back(index);
        }
    }

    fn add(&mut self, grant: Grant) {
        let whose = grant.lane.whose;
        self.remove(whose);
        let index = self.sources.iter().position(Option::is_none).unwrap_or(self.sources.len());
        if index == self.sources.len() {
            self.sources.push(None);
        }
        self.next_serial += 1;
        let source = Source::new(grant, &self.mailbox, index, self.next_serial);
        if let Some(place) = self.sources.get_mut(index) {
            *place = Some(source);
        }
        self.by_partition.insert(whose, index);
        self.wake(index);
    }

    fn remove(&mut self, whose: Whose) {
        let Some(index) = self.by_partition.remove(&whose) else { return };
        if let Some(place) = self.sources.get_mut(index) {
            *place = None;
        }
        self.ready.retain(|ready| *ready != index);
        self.drop_current(index);
        self.last.retain(|(last, _)| *last != index);
    }

    /// Gives partitions up that the group wants to give to others.
    fn give_up(&mut self, asked: &[Whose]) {
        let asked: Vec<Whose> = asked.iter().filter(|whose| self.by_partition.contains_key(whose)).copied().collect();
        self.call_revoked(&asked);
        let kept = self.group.release(&self.log.engine, &self.groups, self.member, &asked);
        for whose in asked.iter().filter(|whose| !kept.contains(whose)) {
            self.remove(*whose);
        }
    }

    /// Sends what was said and waits for nothing.
    pub(super) fn leave(&mut self) {
        self.sources.clear();
        self.by_partition.clear();
        self.group.leave(&self.log.engine, &self.groups, self.member);
        self.groups.forget_if_empty(&self.group);
    }

    /// Goes on elsewhere in a partition.
    pub(super) fn seek(&mut self, index: usize, offset: u64) -> Result<()> {
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        let mut state = source.lane.lock();
        state.check(source.tenure, &source.lane)?;
        state.seek(offset);
        drop(state);
        self.next_serial += 1;
        source.go_to(offset, self.next_serial);
        (source.may_skip, source.begun) = (false, true);
        self.drop_current(index);
        self.last.retain(|(last, _)| *last != index);
        self.caught_up = false;
        self.wake(index);
        Ok(())
    }

    fn drop_current(&mut self, index: usize) {
        if self.current.as_ref().is_some_and(|(current, _)| *current == index) {
            self.current = None;
        }
    }

    /// Delivers nothing of a partition.
    pub(super) fn pause(&mut self, index: usize) {
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else { return };
        source.paused = true;
        if self.current.as_ref().is_some_and(|(current, _)| *current == index) {
            // The rest of the frame is read again.
            self.next_serial += 1;
            let position = source.position;
            source.go_to(position, self.next_serial);
            self.current = None;
        }
    }

    /// Delivers a partition again that was paused.
    pub(super) fn resume(&mut self, index: usize) {
        if let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) {
            source.paused = false;
        }
        self.wake(index);
    }

    /// Where a message came from, if it is from this log, of a partition that is this member's, and was delivered.
    pub(super) fn source_of<T>(&self, message: &Message<T>) -> Result<(usize, &Source)> {
        let mut here = self.sources.iter().enumerate().filter_map(|(index, source)| Some((index, source.as_ref()?)));
        // All that is read in one opening of a log shares the name of its topic.
        let found = here.find(|(_, source)| {
            source.partition.owner.partition == message.partition && Arc::ptr_eq(&source.topic.name, &message.topic)
        });
        let Some((index, source)) = found else {
            let mut others = self.sources.iter().flatten();
            let known = others.find(|source| *source.topic.name == *message.topic);
            if known.is_some_and(|source| !Arc::ptr_eq(&source.topic.name, &message.topic)) {
                return Err(Error::invalid(format!(
                    "the message at topic {}, partition {}, offset {} is from another log, or from another opening of this one",
                    message.topic, message.partition, message.offset
                )));
            }
            return Err(not_assigned(message, &self.group.name));
        };
        if message.offset >= source.position {
            return Err(Error::invalid(format!(
                "offset {} of topic {}, partition {} was not delivered to this consumer; the next is {}",
                message.offset, message.topic, message.partition, source.position
            )));
        }
        Ok((index, source))
    }
}

fn not_assigned<T>(message: &Message<T>, group: &str) -> Error {
    Error::new(
        ErrorKind::Fenced,
        format!(
            "topic {}, partition {} is not assigned to this member of group {group}: it never was, or was given to another in a \
             rebalance; nothing was committed",
            message.topic, message.partition
        ),
    )
}

/// What a look at a source brings.
enum Visit {
    /// A frame is there, or something to be told.
    Frame,
    Work(Box<Fetched>),
    /// Another source has the thread.
    Later,
    Nothing,
}

/// How soon what is committed without waiting is sent.
pub(super) const SOON: Duration = GATHERED_FOR;

impl Drop for Core {
    fn drop(&mut self) {
        self.leave();
    }
}
