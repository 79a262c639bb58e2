//! How a consumer comes from one message to the next: the partitions that have something take turns, frame by frame.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::items::Item;
use super::rebalance::Listener;
use super::source::{Fetched, Policy, Source, State};
use crate::error::{Error, ErrorKind, Result};
use crate::group::Groups;
use crate::group::commit::GATHERED_FOR;
use crate::group::lane::LaneState;
use crate::group::mailbox::{Mailbox, Notice};
use crate::group::membership::Group;
use crate::group::record::Whose;
use crate::log::running::Running;
use crate::record::Message;
use crate::replay::Current;

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
    pub(super) ready: VecDeque<usize>,
    /// The frame that is being delivered, and whose it is.
    pub(super) current: Option<(usize, Current)>,
    /// What is to be told before anything else.
    pub(super) told: VecDeque<Result<Item>>,
    pub(super) fetching: Option<JoinHandle<Fetched>>,
    /// Up to where messages were handed out by the last call: whoever asks for more has finished them.
    pub(super) last: Vec<(usize, u64)>,
    pub(super) caught_up: bool,
    pub(super) closed: bool,
    pub(super) next_serial: u64,
    pub(super) mail: (Vec<usize>, Vec<Notice>),
}

/// Who reads files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Io {
    /// A thread for blocking work; without a runtime, this one.
    Away,
    /// This thread.
    Here,
    /// A thread for blocking work; nobody waits for what comes, but looks again.
    Look,
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

    /// How many messages are at hand, about.
    pub(super) fn at_hand(&self) -> usize {
        let Some((index, current)) = &self.current else { return 0 };
        let ahead = self.sources.get(*index).and_then(Option::as_ref).map(|source| &source.ahead);
        let records = ahead.into_iter().flatten().map(|frame| frame.header.record_count as usize);
        current.left() + records.sum::<usize>()
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

    /// Where a message came from, if it is from this log, of a partition that is this member's, and was delivered.
    pub(super) fn source_of<T>(&self, message: &Message<T>) -> Result<(usize, &Source)> {
        let mut here = self.sources.iter().enumerate().filter_map(|(index, source)| Some((index, source.as_ref()?)));
        // All that is read in one opening of a log shares the name of its topic.
        let found = here.find(|(_, source)| {
            source.partition.owner.partition == message.partition && Arc::ptr_eq(&source.topic.name, &message.topic)
        });
        let Some((index, source)) = found else {
            let mut others = self.sources.iter().flatten();
            let known = others.find(|source| source.topic.name == *message.topic);
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

/// How soon what is committed without waiting is sent.
pub(super) const SOON: Duration = GATHERED_FOR;

impl Drop for Core {
    fn drop(&mut self) {
        self.leave();
    }
}
