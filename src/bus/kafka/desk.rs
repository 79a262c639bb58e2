//! What a subscription's driver, the thread that reads for it and the thread that commits for it have in common.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::oneshot;

use super::note::has_room;
use super::records::Outgoing;
use crate::bus::shared::Seek;
use crate::consumer::{Item, TopicPartition};
use crate::error::{Error, ErrorKind, Result};
use crate::group::progress::{Progress, Tries};
use crate::record::Message;
use crate::segment::lock;
use crate::storage::Clock;

/// A partition, as the client names it.
pub(super) type Place = (Arc<str>, i32);

pub(super) fn place_of(message: &Message) -> Place {
    (Arc::clone(&message.topic), i32::try_from(message.partition).unwrap_or(i32::MAX))
}

/// A partition that this member has, and of which it knows what the group has finished.
#[derive(Debug)]
pub(super) struct Part {
    /// Which time it is that this member has it.
    pub(super) turn: u64,
    pub(super) progress: Progress,
    /// Behind what was read.
    pub(super) next: u64,
    /// Its events in the inbox.
    queued: Load,
    /// It is not read for now.
    stands: bool,
    /// How many the driver has that are not done.
    unfinished: usize,
    /// How often something has changed, and what of it is committed.
    pub(super) version: u64,
    pub(super) committed: u64,
}

impl Part {
    pub(super) fn new(turn: u64, progress: Progress) -> Self {
        let next = progress.low;
        Self { turn, progress, next, queued: Load::default(), stands: false, unfinished: 0, version: 0, committed: 0 }
    }

    pub(super) fn is_said(&self) -> bool {
        self.version == self.committed
    }

    /// An event is done. Answers whether that is news.
    pub(super) fn finish(&mut self, offset: u64) -> bool {
        let news = self.progress.finish(offset, offset + 1);
        if news {
            self.unfinished = self.unfinished.saturating_sub(1);
            self.version += 1;
        }
        news
    }

    /// Events from here up to and without there do not exist: they were marks of transactions, or were deleted, or compacted.
    pub(super) fn pass(&mut self, to: u64) {
        if to > self.next {
            self.progress.finish(self.next, to);
            self.next = to;
        }
    }

    /// Whether a commit could still say what is done, if the driver got this event as well.
    fn has_room(&self, offset: u64) -> bool {
        self.unfinished == 0 || has_room(self.unfinished + 1, offset.saturating_sub(self.progress.low) + 1)
    }
}

/// An event whose outputs are to be committed with it.
pub(super) struct Wish {
    pub(super) place: Place,
    pub(super) offset: u64,
    pub(super) records: Vec<Outgoing>,
    pub(super) answer: oneshot::Sender<Result<()>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) parts: HashMap<Place, Part>,
    pub(super) turns: u64,
    inbox: VecDeque<Result<Item>>,
    /// Events in the inbox: of partitions that are read, and of those that stand still.
    queued: Load,
    standing: Load,
    /// The driver.
    waker: Option<Waker>,
    /// Partitions are to go, and whether the driver has nothing under way any more.
    asked: bool,
    released: bool,
    /// For the driver to forget.
    gone: Vec<TopicPartition>,
    pub(super) wishes: VecDeque<Wish>,
    /// A transaction is under way, or a commit without one.
    pub(super) committing: bool,
    pub(super) saying: bool,
    /// Something is to be committed in the background.
    pub(super) soon: bool,
    pub(super) seeks: Vec<Seek>,
    /// What the group has finished is to be read anew. Nothing is committed before it is.
    pub(super) rewind: bool,
    /// The last question whether all is delivered, and the last for which it was so.
    pub(super) asked_end: u64,
    reached_end: u64,
    /// It is to end; what is done by then is said, and no more after that.
    pub(super) stop: bool,
    /// The thread that commits has ended.
    pub(super) ended: bool,
    /// The log of the bus was closed.
    closed: bool,
}

pub(in crate::bus) struct Desk {
    pub(super) group: Arc<str>,
    pub(super) clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Tells the threads.
    changed: Condvar,
}

impl Desk {
    pub(super) fn new(group: &str, clock: Arc<dyn Clock>) -> Self {
        Self { group: group.into(), clock, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until something holds, or as long as it may take. For the threads.
    pub(super) fn wait_until(&self, patience: Duration, holds: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout_while(self.lock(), patience, |state| !holds(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Changes something, and tells the threads and the driver.
    pub(super) fn tell<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (answer, waker) = {
            let mut state = self.lock();
            (change(&mut state), state.waker.take())
        };
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
        answer
    }

    /// The log of the bus is closed, and with it the bus.
    pub(super) fn close(&self) {
        self.tell(|state| (state.closed, state.stop) = (true, true));
    }

    // What the driver does.

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn is_asked(&self) -> bool {
        self.lock().asked
    }

    /// The driver looks for more: nothing of its is under way if a partition is to go.
    pub(super) fn next(&self, waker: &Waker, take: bool) -> Option<Result<Item>> {
        let mut state = self.lock();
        let released = state.asked && !std::mem::replace(&mut state.released, true);
        let was_full = state.is_full();
        let next = if take && !state.asked { state.pop() } else { None };
        let freed = was_full && !state.is_full();
        if next.is_none() {
            match &mut state.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        drop(state);
        if released || freed {
            self.changed.notify_all();
        }
        next
    }

    pub(super) fn take_gone(&self) -> Vec<TopicPartition> {
        std::mem::take(&mut self.lock().gone)
    }

    pub(super) fn is_at_end(&self, asked: u64) -> bool {
        let mut state = self.lock();
        if state.asked_end < asked {
            state.asked_end = asked;
            drop(state);
            self.changed.notify_all();
            return false;
        }
        state.reached_end >= asked && state.inbox.is_empty() && !state.rewind
    }

    fn with_part<R>(&self, message: &Message, work: impl FnOnce(&mut Part) -> R) -> Result<R> {
        let mut state = self.lock();
        let part = state.parts.get_mut(&place_of(message)).ok_or_else(|| self.not_ours(message))?;
        let done = work(part);
        let news = !part.is_said() && !std::mem::replace(&mut state.soon, true);
        drop(state);
        if news {
            self.changed.notify_all();
        }
        Ok(done)
    }

    pub(super) fn not_ours(&self, message: &Message) -> Error {
        Error::new(
            ErrorKind::Fenced,
            format!(
                "topic {}, partition {} is not this member's of group {} any more; the event is handled by whoever has it",
                message.topic(),
                message.partition(),
                self.group
            ),
        )
    }

    pub(super) fn tries(&self, message: &Message) -> Result<Tries> {
        self.with_part(message, |part| part.progress.tries(message.offset))
    }

    pub(super) fn note_failure(&self, message: &Message) -> Result<Tries> {
        let now = self.clock.now_micros();
        self.with_part(message, |part| {
            let tries = part.progress.note_attempt(message.offset, now);
            part.version += u64::from(tries.is_some());
            tries.unwrap_or_default()
        })
    }

    pub(super) fn finish(&self, message: &Message) -> Result<()> {
        self.with_part(message, |part| part.finish(message.offset)).map(drop)
    }

    /// Wants an event's outputs to be committed with it.
    pub(super) fn wish(&self, message: &Message, records: Vec<Outgoing>) -> Result<oneshot::Receiver<Result<()>>> {
        let place = place_of(message);
        let mut state = self.lock();
        let is_open = state.parts.get(&place).is_some_and(|part| !part.progress.is_finished(message.offset));
        if !is_open {
            return Err(self.not_ours(message));
        }
        let (answer, answered) = oneshot::channel();
        state.wishes.push_back(Wish { place, offset: message.offset, records, answer });
        drop(state);
        self.changed.notify_all();
        Ok(answered)
    }

    pub(super) fn want_seek(&self, seek: Seek) {
        self.tell(|state| state.seeks.push(seek));
    }

    // What the thread does that reads.

    /// Puts an event before the driver, if its partition is still this member's.
    pub(super) fn deliver(&self, message: Message) {
        let waker = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let Some(part) = state.parts.get_mut(&place_of(&message)) else { return };
            if message.offset < part.next {
                return;
            }
            part.pass(message.offset);
            part.next = message.offset + 1;
            if part.progress.is_finished(message.offset) {
                return;
            }
            let load = Load::of(&message);
            part.queued.add(load);
            let queued = if part.stands { &mut state.standing } else { &mut state.queued };
            queued.add(load);
            state.inbox.push_back(Ok(Item::Message(message)));
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tells the driver something that is no event.
    pub(super) fn say(&self, item: Result<Item>) {
        self.tell(|state| {
            // One error like the other, over and over: the driver is told once.
            let same = |known: &Result<Item>| matches!((known, &item), (Err(a), Err(b)) if a.kind() == b.kind());
            if !state.inbox.back().is_some_and(same) {
                state.inbox.push_back(item);
            }
        });
    }

    pub(super) fn reached_end(&self, question: u64) {
        self.tell(|state| state.reached_end = state.reached_end.max(question));
    }

    /// Has the driver finish what is under way, and what is done committed. Gives up after `patience`.
    pub(super) fn hand_back(&self, patience: Duration) {
        self.tell(|state| (state.asked, state.released) = (true, false));
        let over = |state: &State| {
            // What is not known is not said any more, and read by whoever comes next.
            let said = state.rewind || state.parts.values().all(Part::is_said);
            let released = state.released || state.stop;
            state.ended || (released && state.wishes.is_empty() && !state.committing && said)
        };
        drop(self.wait_until(patience, over));
    }

    /// Waits until no commit is under way but those that are refused if they come too late. Answers whether that is so.
    pub(super) fn has_said(&self) -> bool {
        !self.wait_until(SAID_WITHIN, |state| !state.saying).saying
    }

    /// No partition is this member's any more.
    pub(super) fn let_go(&self) {
        let wishes = self.tell(|state| {
            let parts = std::mem::take(&mut state.parts);
            let gone = |(topic, partition): Place| TopicPartition {
                topic: topic.to_string(),
                partition: u32::try_from(partition).unwrap_or(0),
            };
            state.gone.extend(parts.into_keys().map(gone));
            state.inbox.retain(|item| !matches!(item, Ok(Item::Message(_))));
            (state.queued, state.standing) = (Load::default(), Load::default());
            (state.asked, state.released, state.soon, state.rewind) = (false, false, false, false);
            // What was delivered and not handled comes again.
            state.reached_end = 0;
            std::mem::take(&mut state.wishes)
        });
        // Whoever waits for them learns it outside of the lock.
        drop(wishes);
    }

    /// One partition goes on elsewhere: what of it waits is forgotten.
    pub(super) fn move_to(&self, place: &Place, offset: u64) {
        self.tell(|state| {
            let State { parts, inbox, queued, standing, gone, turns, soon, .. } = state;
            let Some(part) = parts.get_mut(place) else { return };
            *turns += 1;
            let stands = part.stands;
            (if stands { standing } else { queued }).take(part.queued);
            *part = Part { version: 1, stands, ..Part::new(*turns, Progress::at(offset)) };
            *soon = true;
            gone.push(TopicPartition { topic: place.0.to_string(), partition: u32::try_from(place.1).unwrap_or(0) });
            inbox.retain(|item| !matches!(item, Ok(Item::Message(message)) if place_of(message) == *place));
        });
    }
}

/// The client library gives a commit up earlier.
const SAID_WITHIN: Duration = Duration::from_secs(150);
/// So many events, and bytes, wait for the driver before their partitions are not read for a while.
const QUEUED_MAX: usize = 1000;
const QUEUED_BYTES_MAX: usize = 16 << 20;
/// So many times as much before nothing is: the driver takes none of them, or the partitions are many.
const STANDING_TIMES_MAX: usize = 4;

/// Events that wait for the driver.
#[derive(Debug, Default, Clone, Copy)]
struct Load {
    events: usize,
    bytes: usize,
}

impl Load {
    fn of(message: &Message) -> Self {
        Self { events: 1, bytes: size(message) }
    }

    fn add(&mut self, more: Self) {
        self.events += more.events;
        self.bytes += more.bytes;
    }

    fn take(&mut self, less: Self) {
        self.events = self.events.saturating_sub(less.events);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }

    fn and(mut self, more: Self) -> Self {
        self.add(more);
        self
    }
}

impl State {
    /// Somebody waits for what is done to be committed.
    pub(super) fn is_urgent(&self) -> bool {
        self.stop || self.asked
    }

    /// Whether enough waits for the driver. What stands still does not count, or it would slow the others down.
    pub(super) fn is_full(&self) -> bool {
        let reaches =
            |load: Load, times: usize| load.events >= times * QUEUED_MAX || load.bytes >= times * QUEUED_BYTES_MAX;
        reaches(self.queued, 1) || reaches(self.queued.and(self.standing), STANDING_TIMES_MAX)
    }

    /// Partitions whose events wait are to be read no further. Answers which were until now.
    pub(super) fn stand_still(&mut self) -> Vec<Place> {
        let busy = self.parts.iter_mut().filter(|(_, part)| part.queued.events > 0 && !part.stands);
        let places = busy.map(|(place, part)| {
            part.stands = true;
            place.clone()
        });
        let places = places.collect();
        self.standing.add(std::mem::take(&mut self.queued));
        places
    }

    /// Which of these that stand still can be read on: they are not many events any more, or somebody else's.
    pub(super) fn go_on(&mut self, places: &[Place]) -> Vec<Place> {
        let Self { parts, queued, standing, .. } = self;
        let goes_on = |place: &&Place| {
            let Some(part) = parts.get_mut(*place) else { return true };
            let then = queued.and(part.queued);
            let goes_on = then.events <= QUEUED_MAX / 2 && then.bytes <= QUEUED_BYTES_MAX / 2;
            if goes_on && std::mem::take(&mut part.stands) {
                standing.take(part.queued);
                *queued = then;
            }
            goes_on
        };
        places.iter().filter(goes_on).cloned().collect()
    }

    /// The next for the driver: of partitions of which it has as many unfinished ones as a commit can tell of, it gets no more.
    fn pop(&mut self) -> Option<Result<Item>> {
        let mut at = 0;
        loop {
            let Ok(Item::Message(message)) = self.inbox.get(at)? else { return self.inbox.remove(at) };
            let place = place_of(message);
            match self.parts.get_mut(&place) {
                Some(part) if !part.has_room(message.offset) => at += 1,
                part => {
                    let (offset, load) = (message.offset, Load::of(message));
                    let item = self.inbox.remove(at);
                    let Some(part) = part else { continue };
                    part.queued.take(load);
                    (if part.stands { &mut self.standing } else { &mut self.queued }).take(load);
                    // Another attempt at it, from before, may have ended meanwhile.
                    if part.progress.is_finished(offset) {
                        continue;
                    }
                    part.unfinished += 1;
                    return item;
                }
            }
        }
    }
}

fn size(message: &Message) -> usize {
    let headers: usize = message
        .headers()
        .iter()
        .map(|header| header.name().len() + header.value().map_or(0, |value| value.len()))
        .sum();
    message.key().map_or(0, |key| key.len()) + message.value().map_or(0, |value| value.len()) + headers
}
