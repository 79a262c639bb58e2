//! Records that are committed together or not at all.

use std::sync::Arc;

use event_listener::Listener;

use super::delivery::Receipt;
use super::encode::{choose, with_encoded};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::format::record::FrameBuilder;
use crate::log::committer::{Group, Leader, Outcome, Refused};
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::log::topic::Snapshot;
use crate::partition::Partition;
use crate::record::Record;
use crate::topic::Topic;

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
    frames: Vec<Part>,
    places: Vec<Place>,
    bytes: usize,
    /// The topic that was added to last, and the time that records without one get: looked up once a batch, not once a record.
    last: Option<Arc<Snapshot>>,
    now: Option<i64>,
    /// The frame that was added to last.
    last_frame: usize,
}

/// The frame of one partition.
#[derive(Debug)]
struct Part {
    partition: Arc<Partition>,
    durability: Durability,
    builder: FrameBuilder,
}

/// Where a record of the batch is: which frame, and which record of it.
#[derive(Debug, Clone, Copy)]
struct Place {
    frame: u32,
    record: u32,
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
        self.places.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a record for `topic`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a record that is too large or asks for a partition that does not exist, for a
    /// batch that grows beyond the log's `commit_bytes_max`, and for topics of two different logs;
    /// [`Codec`](crate::ErrorKind::Codec) for a value that cannot be encoded. The batch is as it was before.
    pub fn add<T, C: Codec<T>>(&mut self, topic: &Topic<T, C>, record: impl Into<Record<T>>) -> Result<()> {
        let record = record.into();
        let engine = topic.engine();
        match &self.engine {
            Some(ours) if !Arc::ptr_eq(ours, engine) => {
                return Err(Error::invalid("the topics of one batch must belong to one opened log"));
            }
            _ => {}
        }
        let state = match self.last.take() {
            Some(last) if last.topic_id == topic.state.id => last,
            _ => topic.state.snapshot(),
        };
        let added = self.add_to(topic, &state, &record);
        self.last = Some(state);
        added
    }

    fn add_to<T, C: Codec<T>>(&mut self, topic: &Topic<T, C>, state: &Snapshot, record: &Record<T>) -> Result<()> {
        let engine = topic.engine();
        // Keyless records of one batch stay together.
        let together = match (&record.partition, &record.key) {
            (None, None) => self.frames.iter().position(|part| part.partition.owner.topic_id == topic.state.id),
            _ => None,
        };
        let chosen = match together {
            Some(frame) => Chosen::Frame(frame),
            None => self.find(choose(record, &state.partitions, &topic.sticky, topic.name())?),
        };
        let durability = state.settings.durability;
        let bytes_max = engine.committer.bytes_max();
        let now = *self.now.get_or_insert_with(|| engine.env.clock.now_micros());
        with_encoded(
            &*topic.codec,
            record,
            state.settings.record_bytes_max,
            || now,
            |encoded| {
                let grown =
                    self.bytes + encoded.len() + if matches!(chosen, Chosen::Partition(_)) { FRAME_BYTES } else { 0 };
                if grown + BATCH_OVERHEAD_BYTES > bytes_max {
                    return Err(Error::invalid(format!(
                        "the batch would have {grown} bytes; the log's `commit_bytes_max` is {bytes_max}, of which \
                     {BATCH_OVERHEAD_BYTES} are kept for the commit itself"
                    )));
                }
                let (frame, builder) = self.frame(chosen, durability);
                let record = builder.record_count();
                encoded.put(builder);
                self.bytes = grown;
                self.engine.get_or_insert_with(|| Arc::clone(engine));
                self.places.push(Place { frame, record, timestamp: encoded.timestamp });
                Ok(())
            },
        )
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
    fn frame(&mut self, chosen: Chosen<'_>, durability: Durability) -> (u32, &mut FrameBuilder) {
        let index = match chosen {
            Chosen::Frame(index) => index,
            Chosen::Partition(partition) => {
                let part = Part { partition: Arc::clone(partition), durability, builder: FrameBuilder::new() };
                self.frames.push(part);
                self.frames.len() - 1
            }
        };
        self.last_frame = index;
        (index as u32, &mut self.frames[index].builder)
    }

    /// Appends a batch that lies in one partition of a relaxed topic right away; `None` if it must be committed.
    pub(crate) fn try_relaxed(&mut self, engine: &Engine) -> Option<Result<Vec<Receipt>>> {
        match self.frames.as_mut_slice() {
            [] => Some(Ok(Vec::new())),
            [part] if part.durability != Durability::Sync => {
                let written = engine.append_relaxed_built(&part.partition, part.durability, &mut part.builder);
                let durability = part.durability;
                Some(
                    written.map(|written| {
                        self.receipts(|_| written.base_offset, &self.numbers(), written.commit, durability)
                    }),
                )
            }
            _ => None,
        }
    }

    /// Commits the batch, waiting for room first.
    pub(crate) async fn commit(mut self, engine: &Engine) -> Result<Vec<Receipt>> {
        let numbers = self.numbers();
        let mut frames = self.take_frames();
        let group = loop {
            let listener = engine.committer.space.listen();
            match engine.committer.enqueue_unit(frames, Leader::Thread) {
                Ok(group) => break group,
                Err((Refused::Full, back)) => frames = back,
                Err((Refused::Failed(error), _)) => return Err(error),
            }
            listener.await;
        };
        wait(&group).await;
        self.answer(&group, &numbers)
    }

    /// Commits the batch on this thread.
    pub(crate) fn blocking_commit(mut self, engine: &Engine) -> Result<Vec<Receipt>> {
        let numbers = self.numbers();
        let mut frames = self.take_frames();
        let group = loop {
            let listener = engine.committer.space.listen();
            match engine.committer.enqueue_unit(frames, Leader::Caller) {
                Ok(group) => break group,
                Err((Refused::Full, back)) => frames = back,
                Err((Refused::Failed(error), _)) => return Err(error),
            }
            listener.wait();
        };
        engine.lead();
        group.wait();
        self.answer(&group, &numbers)
    }

    /// The log that the batch is for.
    pub(crate) fn is_for(&self, engine: &Arc<Engine>) -> bool {
        self.engine.as_ref().is_none_or(|ours| Arc::ptr_eq(ours, engine))
    }

    fn take_frames(&mut self) -> Vec<(Arc<Partition>, FrameBuilder)> {
        std::mem::take(&mut self.frames).into_iter().map(|part| (part.partition, part.builder)).collect()
    }

    /// The partition of each frame.
    fn numbers(&self) -> Vec<u32> {
        self.frames.iter().map(|part| part.partition.owner.partition).collect()
    }

    fn answer(&self, group: &Group, numbers: &[u32]) -> Result<Vec<Receipt>> {
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
        let receipt = |place: &Place| Receipt {
            partition: numbers[place.frame as usize],
            offset: base(place.frame) + u64::from(place.record),
            commit,
            timestamp_micros: place.timestamp,
            durability,
        };
        self.places.iter().map(receipt).collect()
    }
}

/// What a frame costs in a commit, beside its records.
const FRAME_BYTES: usize = 256;
/// What a commit costs, beside its frames.
const BATCH_OVERHEAD_BYTES: usize = 1024;

/// Waits until the group has its answer.
async fn wait(group: &Group) {
    while group.outcome().is_none() {
        let listener = group.done().listen();
        if group.outcome().is_none() {
            listener.await;
        }
    }
}
