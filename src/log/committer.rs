//! Where appends of synced topics wait for each other: the queue of the group commit.
//!
//! An append encodes its records straight into the pending frame of its partition, under a short lock, and holds a ticket.
//! Whoever leads takes everything that is pending and commits it with one sync, while the next group forms. A lone blocking
//! producer leads its own commit, without a hop to another thread; otherwise the commit thread does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use event_listener::{Event, Listener};

use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::journal::JOURNAL_FRAME_OVERHEAD_BYTES;
use crate::format::record::FrameBuilder;
use crate::partition::{Partition, Pass};
use crate::planted::{self, Bug};
use crate::segment::lock;

/// Frame buffers kept for the next groups.
const SPARE_BUILDERS_MAX: usize = 64;

/// The queue.
#[derive(Debug)]
pub(crate) struct Committer {
    queue: Mutex<Queue>,
    /// Wakes the commit thread.
    work: Condvar,
    /// Wakes who waits for the leader to be done.
    idle: Condvar,
    /// Notified when pending bytes were taken.
    pub(crate) space: Event,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    work: Work,
    bytes: usize,
    leading: bool,
    thread_sleeps: bool,
    drains: bool,
    /// How many times the pending work was taken, and how many of those commits are over.
    taken: u64,
    ended: u64,
    stopping: bool,
    closed: Option<Error>,
    spare: Vec<FrameBuilder>,
}

/// What one commit takes on.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// One frame for each partition that has pending appends.
    pub(crate) singles: Vec<Single>,
    /// Commits that must be whole over several partitions.
    pub(crate) units: Vec<Unit>,
}

/// The pending frame of a partition.
#[derive(Debug)]
pub(crate) struct Single {
    pub(crate) partition: Arc<Partition>,
    pub(crate) builder: FrameBuilder,
    pub(crate) promise: Promise,
}

/// A frame for each partition that a commit is about.
pub(crate) type UnitFrames = Vec<(Arc<Partition>, FrameBuilder)>;

/// Frames that are committed together or not at all.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) frames: UnitFrames,
    pub(crate) promise: Promise,
}

/// Appends that share a commit, and its outcome.
#[derive(Debug, Default)]
pub(crate) struct Group {
    outcome: OnceLock<Result<Outcome>>,
    done: Event,
    /// When its first append came, if somebody measures.
    begun: OnceLock<Duration>,
}

/// Where a group's frames went.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) commit: u64,
    /// The base offset of the first frame, and of the others of a unit.
    pub(crate) base_offset: u64,
    pub(crate) others: Vec<u64>,
}

/// The duty to answer a group. Dropped without an answer (the committer has panicked) it answers with an error, so that nobody
/// waits for ever.
#[derive(Debug, Default)]
pub(crate) struct Promise(Arc<Group>);

impl Promise {
    pub(crate) fn begun(&self) -> Option<Duration> {
        self.0.begun.get().copied()
    }

    pub(crate) fn complete(self, outcome: Result<Outcome>) {
        // Only the holder of the promise ever sets it.
        let _set = self.0.outcome.set(outcome);
        self.0.done.notify(usize::MAX);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.0.outcome.set(Err(abandoned())).is_ok() {
            self.0.done.notify(usize::MAX);
        }
    }
}

fn abandoned() -> Error {
    Error::new(
        ErrorKind::Poisoned,
        "the commit was abandoned, so whether the records are on the disk is unknown; open the log again",
    )
}

impl Group {
    pub(crate) fn begins(&self, now: Duration) {
        // It may have been answered meanwhile; then nobody asks any more.
        let _set = self.begun.set(now);
    }

    pub(crate) fn outcome(&self) -> Option<&Result<Outcome>> {
        self.outcome.get()
    }

    pub(crate) fn done(&self) -> &Event {
        &self.done
    }

    /// Waits in a task.
    pub(crate) async fn answered(&self) -> &Result<Outcome> {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            let listener = self.done.listen();
            if self.outcome.get().is_none() {
                listener.await;
            }
        }
    }

    /// Waits on this thread.
    pub(crate) fn wait(&self) -> &Result<Outcome> {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            event_listener::listener!(self.done => listener);
            if self.outcome.get().is_none() {
                listener.wait();
            }
        }
    }
}

/// A place in a group.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) group: Arc<Group>,
    /// Which frame of a unit.
    pub(crate) frame: usize,
    /// Which record of the frame is the first of the append.
    pub(crate) first: u32,
}

impl Ticket {
    /// The offset of the append's first record.
    pub(crate) fn offset(&self, outcome: &Outcome) -> u64 {
        let other = self.frame.checked_sub(1).and_then(|other| outcome.others.get(other));
        other.unwrap_or(&outcome.base_offset) + u64::from(self.first) + u64::from(planted::is(Bug::ReceiptOffByOne))
    }
}

/// Who carries an append's commit out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leader {
    /// The commit thread: it is woken if it sleeps.
    Thread,
    /// The caller, who leads right after this and would only race with the thread.
    Caller,
}

/// Why an append was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is no room for it now.
    Full,
    /// The partition has a guard, and it must come through that.
    Guarded,
    Failed(Error),
}

impl Committer {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { queue: Mutex::default(), work: Condvar::new(), idle: Condvar::new(), space: Event::new(), bytes_max }
    }

    /// The most bytes that wait at once, and so the largest append.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Adds an append of `len` bytes at the most to the pending frame of `partition`.
    #[inline]
    pub(crate) fn enqueue(
        &self,
        pass: Pass,
        partition: &Arc<Partition>,
        len: usize,
        leader: Leader,
        fill: impl FnOnce(&mut FrameBuilder),
    ) -> Result<Ticket, Refused> {
        partition.check_blocked().map_err(Refused::Failed)?;
        let mut queue = self.admit(len)?;
        if partition.bars(pass) {
            return Err(Refused::Guarded);
        }
        let slot = partition.queue_slot.load(Ordering::Relaxed);
        let slot = match queue.work.singles.get(slot) {
            Some(single) if Arc::ptr_eq(&single.partition, partition) => slot,
            _ => {
                let slot = queue.new_single(partition).map_err(Refused::Failed)?;
                // What each frame costs in the journal counts, or a group over very many partitions would not fit into it.
                queue.bytes += FRAME_OVERHEAD_BYTES;
                slot
            }
        };
        let Queue { work, bytes, .. } = &mut *queue;
        let Some(single) = work.singles.get_mut(slot) else { return Err(Refused::Full) };
        let (first, before) = (single.builder.record_count(), single.builder.len());
        fill(&mut single.builder);
        *bytes += single.builder.len() - before;
        let ticket = Ticket { group: Arc::clone(&single.promise.0), frame: 0, first };
        self.wake(queue, leader);
        Ok(ticket)
    }

    /// Adds frames that are committed together or not at all.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn enqueue_unit(&self, frames: UnitFrames, leader: Leader) -> Result<Arc<Group>, (Refused, UnitFrames)> {
        self.enqueue_unit_by(Pass::Open, frames, leader)
    }

    /// Adds frames that are committed together or not at all, be it of their partitions' guards.
    pub(crate) fn enqueue_unit_by(
        &self,
        pass: Pass,
        mut frames: UnitFrames,
        leader: Leader,
    ) -> Result<Arc<Group>, (Refused, UnitFrames)> {
        for (partition, builder) in &mut frames {
            // On the caller's thread, and before the queue is locked.
            builder.compress(partition.config.live.compression());
        }
        if let Some(error) = frames.iter().find_map(|(partition, _)| partition.check_blocked().err()) {
            return Err((Refused::Failed(error), frames));
        }
        let len = frames.iter().map(|(_, builder)| framed(builder)).sum();
        let mut queue = match self.admit(len) {
            Ok(queue) => queue,
            Err(refused) => return Err((refused, frames)),
        };
        if frames.iter().any(|(partition, _)| partition.bars(pass)) {
            return Err((Refused::Guarded, frames));
        }
        let promise = Promise::default();
        let group = Arc::clone(&promise.0);
        queue.bytes += len;
        queue.work.units.push(Unit { frames, promise });
        self.wake(queue, leader);
        Ok(group)
    }

    fn admit(&self, len: usize) -> Result<MutexGuard<'_, Queue>, Refused> {
        let queue = lock(&self.queue);
        if let Some(closed) = &queue.closed {
            return Err(Refused::Failed(closed.clone()));
        }
        // Whatever is admitted alone fits into a commit; what waits together must fit as well.
        if queue.bytes > 0 && queue.bytes + len > self.bytes_max {
            return Err(Refused::Full);
        }
        Ok(queue)
    }

    #[inline]
    fn wake(&self, queue: MutexGuard<'_, Queue>, leader: Leader) {
        let wake = leader == Leader::Thread && queue.thread_sleeps && !queue.leading;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
    }

    /// Takes everything that is pending, unless somebody else is committing.
    pub(crate) fn try_lead(&self) -> Option<Work> {
        let queue = lock(&self.queue);
        (!queue.leading && !queue.work.is_empty()).then(|| self.take(queue))
    }

    /// Waits until there is something to commit; `None` once the committer is stopped and empty.
    pub(crate) fn wait_to_lead(&self) -> Option<Work> {
        let mut queue = lock(&self.queue);
        loop {
            if !queue.leading && !queue.work.is_empty() {
                return Some(self.take(queue));
            }
            if queue.stopping && !queue.leading {
                return None;
            }
            queue.thread_sleeps = true;
            queue = self.work.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
            queue.thread_sleeps = false;
        }
    }

    fn take(&self, mut queue: MutexGuard<'_, Queue>) -> Work {
        queue.leading = true;
        queue.taken += 1;
        queue.bytes = 0;
        let work = std::mem::take(&mut queue.work);
        for single in &work.singles {
            single.partition.queue_slot.store(usize::MAX, Ordering::Relaxed);
        }
        // Wakers are other people's code: none runs under the lock.
        drop(queue);
        self.space.notify(usize::MAX);
        work
    }

    /// Ends the lead and gives the buffers back. Answers whether more is pending.
    pub(crate) fn end_lead(&self, spare: Vec<FrameBuilder>) -> bool {
        let mut queue = lock(&self.queue);
        queue.leading = false;
        queue.ended += 1;
        for mut builder in spare {
            // A buffer that one large group has grown is not worth its memory.
            if queue.spare.len() < SPARE_BUILDERS_MAX && builder.capacity() <= self.bytes_max / 8 {
                builder.clear();
                queue.spare.push(builder);
            }
        }
        let more = !queue.work.is_empty();
        let wake = queue.thread_sleeps && (more || queue.stopping);
        let drains = std::mem::take(&mut queue.drains);
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        if drains {
            self.idle.notify_all();
        }
        more
    }

    /// Ends a lead that has panicked: nothing is known of what it was writing, so nothing is accepted any more.
    pub(crate) fn abandon(&self) {
        let mut queue = lock(&self.queue);
        queue.leading = false;
        queue.ended += 1;
        queue.closed.get_or_insert_with(abandoned);
        let dropped = std::mem::take(&mut queue.work);
        queue.bytes = 0;
        drop(queue);
        drop(dropped);
        self.work.notify_all();
        self.idle.notify_all();
        self.space.notify(usize::MAX);
    }

    /// Accepts nothing more; what is pending is still committed.
    pub(crate) fn close(&self, error: Error) {
        lock(&self.queue).closed.get_or_insert(error);
        self.space.notify(usize::MAX);
    }

    /// Commits, or waits until somebody else has committed, what is pending now; what comes later may wait.
    pub(crate) fn flush(&self, mut carry_out: impl FnMut(Work) -> bool) {
        let mut queue = lock(&self.queue);
        let target = queue.taken + u64::from(!queue.work.is_empty());
        while queue.ended < target {
            if queue.leading {
                queue.drains = true;
                queue = self.idle.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            }
            carry_out(self.take(queue));
            queue = lock(&self.queue);
        }
    }

    /// Commits, or waits until somebody else has committed, all that is pending. Nothing new must be accepted any more.
    pub(crate) fn drain(&self, mut carry_out: impl FnMut(Work) -> bool) {
        let mut queue = lock(&self.queue);
        loop {
            if !queue.leading && queue.work.is_empty() {
                return;
            }
            if queue.leading {
                queue.drains = true;
                queue = self.idle.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            }
            carry_out(self.take(queue));
            queue = lock(&self.queue);
        }
    }

    /// How many commits there were.
    #[cfg(feature = "metrics")]
    pub(crate) fn rounds(&self) -> u64 {
        lock(&self.queue).ended
    }

    /// Lets the commit thread end once nothing is pending.
    pub(crate) fn stop(&self) {
        lock(&self.queue).stopping = true;
        self.work.notify_all();
    }
}

impl Queue {
    #[cold]
    fn new_single(&mut self, partition: &Arc<Partition>) -> Result<usize> {
        partition.check_open()?;
        let slot = self.work.singles.len();
        partition.queue_slot.store(slot, Ordering::Relaxed);
        let builder = self.spare.pop().unwrap_or_default();
        self.work.singles.push(Single { partition: Arc::clone(partition), builder, promise: Promise::default() });
        Ok(slot)
    }
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.singles.is_empty() && self.units.is_empty()
    }

    /// Bytes of the journal entries that this work becomes, at the most.
    pub(crate) fn journal_bytes(&self) -> usize {
        let singles: usize = self.singles.iter().map(|single| framed(&single.builder)).sum();
        let units = self.units.iter().flat_map(|unit| &unit.frames).map(|(_, builder)| framed(builder)).sum::<usize>();
        singles + units + FRAME_HEADER_BYTES * (1 + self.units.len())
    }
}

/// Bytes of a frame in a journal entry, with a share of the entry's header.
fn framed(builder: &FrameBuilder) -> usize {
    builder.len() + FRAME_OVERHEAD_BYTES
}

/// What a frame costs in a journal entry, beside its own bytes.
const FRAME_OVERHEAD_BYTES: usize = JOURNAL_FRAME_OVERHEAD_BYTES + FRAME_HEADER_BYTES;
