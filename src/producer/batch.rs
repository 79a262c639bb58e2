//! Records that are committed together or not at all.

use std::cell::Cell;
use std::sync::Arc;

use event_listener::Listener;

use super::delivery::Receipt;
use super::encode::{choose, with_encoded};
use super::guard::window::Limits;
use super::guarded::{Condition, GuardedBatch, Step};
use super::outgoing::{Outgoing, Owned, SCRATCH_BYTES_MAX};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::format::record::FrameBuilder;
use crate::log::committer::{Group, Leader, Outcome, Refused, UnitFrames};
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::log::topic::Snapshot;
use crate::partition::{Partition, Pass};
use crate::record::{Record, RecordRef};
use crate::topic::Topic;

thread_local! {
    /// The frame that this thread has written last, for the memory that it holds.
    static SPARE: Cell<Option<FrameBuilder>> = const { Cell::new(None) };
}

/// Records for any number of partitions and topics of one log, to be written as one by
/// [`Log::produce_all`](crate::Log::produce_all). Dropping a batch leaves no trace.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Batch, Log, Record, TopicSettings};
///
/// let log = Log::in_memory()?;
/// let orders = log.create_raw_topic("orders", TopicSettings::default().partitions(4)).await?;
/// let invoices = log.create_raw_topic("invoices", TopicSettings::default()).await?;
///
/// let mut batch = Batch::new();
/// batch.add(&orders, Record::new("paid".into()).key("order-17"))?;
/// batch.add(&invoices, Record::new("17 EUR".into()).key("order-17"))?;
/// let receipts = log.produce_all(batch).await?;
/// assert_eq!(receipts[0].commit, receipts[1].commit);
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct Batch {
    engine: Option<Arc<Engine>>,
    pub(super) frames: Vec<Part>,
    runs: Vec<Run>,
    len: usize,
    bytes: usize,
    /// The topic that was added to last, and the time that records without one get: looked up once a batch, not once a record.
    last: Option<Arc<Snapshot>>,
    now: Option<i64>,
    /// The frame that was added to last.
    last_frame: usize,
}

/// The frame of one partition.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) partition: Arc<Partition>,
    pub(super) durability: Durability,
    /// How far back message identities are known, if they are.
    pub(super) limits: Option<Limits>,
    pub(super) builder: FrameBuilder,
}

/// Where records of the batch are that were added one after the other: which frame, and which records of it. They have one time,
/// too, so that a batch is mostly one run.
#[derive(Debug, Clone, Copy)]
struct Run {
    frame: u32,
    first: u32,
    count: u32,
    timestamp: i64,
}

/// Where a record goes: to a frame of the batch, or to a partition that has none yet.
enum Chosen<'a> {
    Frame(usize),
    Partition(&'a Arc<Partition>),
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many records were added.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a record for `topic`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a record that is too large or asks for a partition that does not exist, for a
    /// batch that grows beyond the log's `commit_bytes_max`, and for topics of two different logs;
    /// [`Codec`](crate::ErrorKind::Codec) for a value that cannot be encoded. The batch is as it was before.
    pub fn add<T, C: Codec<T>>(&mut self, topic: &Topic<T, C>, record: impl Into<Record<T>>) -> Result<()> {
        self.put(topic, &Owned { record: &record.into(), codec: &*topic.codec })
    }

    /// Adds a record whose parts are borrowed and whose value is encoded. They are copied before this returns.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Batch, Log, RecordRef, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// # let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// let mut batch = Batch::new();
    /// batch.add_ref(&orders, RecordRef::new("paid").key("order-17"))?;
    /// assert_eq!(log.produce_all(batch).await?.len(), 1);
    /// # Ok(()) }
    /// ```
    pub fn add_ref<T, C>(&mut self, topic: &Topic<T, C>, record: RecordRef<'_>) -> Result<()> {
        self.put(topic, &record)
    }

    #[inline]
    fn put<T, C>(&mut self, topic: &Topic<T, C>, record: &impl Outgoing) -> Result<()> {
        match &self.engine {
            Some(ours) if !Arc::ptr_eq(ours, topic.engine()) => {
                return Err(Error::invalid("the topics of one batch must belong to one opened log"));
            }
            _ => {}
        }
        let state = match self.last.take() {
            Some(last) if last.topic_id == topic.state.id => last,
            _ => topic.state.snapshot(),
        };
        let added = self.put_into(topic, &state, record);
        self.last = Some(state);
        added
    }

    fn put_into<T, C>(&mut self, topic: &Topic<T, C>, state: &Snapshot, record: &impl Outgoing) -> Result<()> {
        let engine = topic.engine();
        let limits = Limits::of(&state.settings);
        // Keyless records of one batch stay together, but for those that may have to be found again by their identities.
        let together = match (record.partition(), record.key()) {
            (None, None) if limits.is_none() || record.message_id().is_none() => {
                self.frames.iter().position(|part| part.partition.owner.topic_id == topic.state.id)
            }
            _ => None,
        };
        let chosen = match together {
            Some(frame) => Chosen::Frame(frame),
            None => self.find(choose(record, &state.partitions, &topic.sticky, topic.name(), limits.is_some())?),
        };
        let durability = state.settings.durability;
        let bytes_max = engine.committer.bytes_max();
        let now = *self.now.get_or_insert_with(|| engine.env.clock.now_micros());
        with_encoded(
            record,
            &state.settings,
            || now,
            |encoded| {
                let grown =
                    self.bytes + encoded.len() + if matches!(chosen, Chosen::Partition(_)) { FRAME_BYTES } else { 0 };
                if grown + BATCH_OVERHEAD_BYTES > bytes_max {
                    return Err(too_large(grown, bytes_max));
                }
                let (frame, builder) = self.frame(chosen, durability, limits);
                let record = builder.record_count();
                encoded.put(builder);
                self.bytes = grown;
                self.engine.get_or_insert_with(|| Arc::clone(engine));
                self.note(frame, record, encoded.timestamp);
                Ok(())
            },
        )
    }

    /// Remembers where a record is.
    #[inline]
    fn note(&mut self, frame: u32, record: u32, timestamp: i64) {
        self.len += 1;
        match self.runs.last_mut() {
            Some(run) if run.frame == frame && run.timestamp == timestamp => run.count += 1,
            _ => self.runs.push(Run { frame, first: record, count: 1, timestamp }),
        }
    }

    /// The frame of a partition, looked for first where the last record went.
    #[inline]
    fn find<'a>(&self, partition: &'a Arc<Partition>) -> Chosen<'a> {
        let is_of = |part: &Part| Arc::ptr_eq(&part.partition, partition);
        if self.frames.get(self.last_frame).is_some_and(is_of) {
            return Chosen::Frame(self.last_frame);
        }
        self.frames.iter().position(is_of).map_or(Chosen::Partition(partition), Chosen::Frame)
    }

    #[inline]
    fn frame(
        &mut self,
        chosen: Chosen<'_>,
        durability: Durability,
        limits: Option<Limits>,
    ) -> (u32, &mut FrameBuilder) {
        let index = match chosen {
            Chosen::Frame(index) => index,
            Chosen::Partition(partition) => self.new_frame(partition, durability, limits),
        };
        self.last_frame = index;
        (index as u32, &mut self.frames[index].builder)
    }

    #[cold]
    fn new_frame(&mut self, partition: &Arc<Partition>, durability: Durability, limits: Option<Limits>) -> usize {
        let builder = SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default();
        self.frames.push(Part { partition: Arc::clone(partition), durability, limits, builder });
        self.frames.len() - 1
    }

    /// Writes the batch, if what is expected holds.
    pub(crate) async fn produce(mut self, engine: &Arc<Engine>, condition: Option<Condition>) -> Result<Vec<Receipt>> {
        if condition.is_none() && !self.is_guarded() {
            if let Some(receipts) = self.try_relaxed(engine) {
                return receipts;
            }
            if let Some(receipts) = self.commit(engine).await {
                return receipts;
            }
        }
        let mut guarded = GuardedBatch::new(self, condition, engine)?;
        loop {
            let listener = engine.committer.space.listen();
            match guarded.attempt(Leader::Thread)? {
                Step::Done(receipts) => return Ok(receipts),
                Step::Full => listener.await,
                Step::Wait(why) => why.wait().await?,
                Step::Sent(sent) => {
                    let _failed = sent.group.answered().await.is_err();
                    return guarded.answer(&sent);
                }
            }
        }
    }

    /// [`produce`](Self::produce) on this thread.
    pub(crate) fn blocking_produce(
        mut self,
        engine: &Arc<Engine>,
        condition: Option<Condition>,
    ) -> Result<Vec<Receipt>> {
        if condition.is_none()
            && !self.is_guarded()
            && let Some(receipts) = self.try_relaxed(engine).or_else(|| self.blocking_commit(engine))
        {
            return receipts;
        }
        let mut guarded = GuardedBatch::new(self, condition, engine)?;
        loop {
            let listener = engine.committer.space.listen();
            match guarded.attempt(Leader::Caller)? {
                Step::Done(receipts) => return Ok(receipts),
                Step::Full => listener.wait(),
                Step::Wait(why) => why.block(engine)?,
                Step::Sent(sent) => {
                    engine.lead();
                    sent.group.wait();
                    return guarded.answer(&sent);
                }
            }
        }
    }

    /// Whether any of it has to come through a guard.
    pub(super) fn is_guarded(&self) -> bool {
        self.frames.iter().any(|part| part.limits.is_some() || part.partition.guard().is_some())
    }

    /// For each record, in the order in which they were added, the frame that it is in and its place there.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        self.runs.iter().flat_map(|run| (run.first..run.first + run.count).map(|at| (run.frame as usize, at as usize)))
    }

    /// Appends a batch that lies in one partition of a relaxed topic right away; `None` if it must be committed, or guarded.
    fn try_relaxed(&mut self, engine: &Engine) -> Option<Result<Vec<Receipt>>> {
        let part = match self.frames.as_mut_slice() {
            [] => return Some(Ok(Vec::new())),
            [part] if part.durability != Durability::Sync => part,
            _ => return None,
        };
        let (number, durability) = (part.partition.owner.partition, part.durability);
        let written = engine.append_relaxed_built(Pass::Open, &part.partition, durability, &mut part.builder);
        let written = written.transpose()?;
        let mut builder = std::mem::take(&mut part.builder);
        if builder.capacity() <= SCRATCH_BYTES_MAX {
            builder.clear();
            // A thread at its end keeps nothing.
            let _kept = SPARE.try_with(|spare| spare.set(Some(builder)));
        }
        Some(written.map(|written| self.receipts(|_| written.base_offset, &[number], written.commit, durability)))
    }

    /// Commits the batch, waiting for room first; `None` if it must come through a guard.
    async fn commit(&mut self, engine: &Engine) -> Option<Result<Vec<Receipt>>> {
        let numbers = self.numbers();
        let mut frames = self.take_frames();
        let group = loop {
            let listener = engine.committer.space.listen();
            match engine.committer.enqueue_unit_by(Pass::Open, frames, Leader::Thread) {
                Ok(group) => break group,
                Err((Refused::Full, back)) => frames = back,
                Err((Refused::Guarded, back)) => return self.give_back(back),
                Err((Refused::Failed(error), _)) => return Some(Err(error)),
            }
            listener.await;
        };
        let _failed = group.answered().await.is_err();
        Some(self.answer(&group, &numbers))
    }

    /// Commits the batch on this thread; `None` if it must come through a guard.
    fn blocking_commit(&mut self, engine: &Engine) -> Option<Result<Vec<Receipt>>> {
        let numbers = self.numbers();
        let mut frames = self.take_frames();
        let group = loop {
            let listener = engine.committer.space.listen();
            match engine.committer.enqueue_unit_by(Pass::Open, frames, Leader::Caller) {
                Ok(group) => break group,
                Err((Refused::Full, back)) => frames = back,
                Err((Refused::Guarded, back)) => return self.give_back(back),
                Err((Refused::Failed(error), _)) => return Some(Err(error)),
            }
            listener.wait();
        };
        engine.lead();
        group.wait();
        Some(self.answer(&group, &numbers))
    }

    /// Whether it still fits with so many bytes that go along.
    pub(super) fn check_with(&self, along: usize, engine: &Engine) -> Result<()> {
        let (grown, bytes_max) = (self.bytes + along + FRAME_BYTES, engine.committer.bytes_max());
        if along > 0 && grown + BATCH_OVERHEAD_BYTES > bytes_max { Err(too_large(grown, bytes_max)) } else { Ok(()) }
    }

    /// The log that the batch is for.
    pub(crate) fn is_for(&self, engine: &Arc<Engine>) -> bool {
        self.engine.as_ref().is_none_or(|ours| Arc::ptr_eq(ours, engine))
    }

    pub(super) fn take_frames(&mut self) -> UnitFrames {
        self.frames.iter_mut().map(|part| (Arc::clone(&part.partition), std::mem::take(&mut part.builder))).collect()
    }

    pub(super) fn give_back<N>(&mut self, frames: UnitFrames) -> Option<N> {
        for (part, (_, builder)) in self.frames.iter_mut().zip(frames) {
            part.builder = builder;
        }
        None
    }

    /// The partition of each frame.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.frames.iter().map(|part| part.partition.owner.partition).collect()
    }

    pub(super) fn answer(&self, group: &Group, numbers: &[u32]) -> Result<Vec<Receipt>> {
        let Outcome { commit, base_offset, others } = group.wait().clone()?;
        let base = |frame: u32| match frame.checked_sub(1) {
            None => base_offset,
            Some(other) => others[other as usize],
        };
        Ok(self.receipts(base, numbers, commit, Durability::Sync))
    }

    fn receipts(
        &self,
        base: impl Fn(u32) -> u64,
        numbers: &[u32],
        commit: u64,
        durability: Durability,
    ) -> Vec<Receipt> {
        let mut receipts = Vec::with_capacity(self.len);
        for run in &self.runs {
            let (partition, first) = (numbers[run.frame as usize], base(run.frame) + u64::from(run.first));
            receipts.extend((0..u64::from(run.count)).map(|record| Receipt {
                partition,
                offset: first + record,
                commit,
                timestamp_micros: run.timestamp,
                durability,
            }));
        }
        receipts
    }
}

#[cold]
fn too_large(grown: usize, bytes_max: usize) -> Error {
    Error::invalid(format!(
        "the batch would have {grown} bytes; the log's `commit_bytes_max` is {bytes_max}, of which {BATCH_OVERHEAD_BYTES} are \
         kept for the commit itself"
    ))
}

/// What a frame costs in a commit, beside its records.
const FRAME_BYTES: usize = 256;
/// What a commit costs, beside its frames.
const BATCH_OVERHEAD_BYTES: usize = 1024;
