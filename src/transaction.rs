//! Transactions: records for any partitions of any topics, and how far consumers have come, as one commit of the log.

use std::fmt;
use std::sync::Arc;

use crate::codec::Codec;
use crate::consumer::Consumer;
use crate::error::{Error, Result};
use crate::format::record::FrameBuilder;
use crate::group::Groups;
use crate::group::commit::{Held, OffsetRecord, sort};
use crate::group::progress::Progress;
use crate::log::committer::{Group as Answer, Leader};
use crate::log::running::Running;
use crate::partition::Pass;
use crate::planted::{self, Bug};
use crate::producer::along::{Along, SendAlong};
use crate::producer::{Batch, Receipt};
use crate::record::{Message, Record, RecordRef};
use crate::topic::Topic;

/// Records to be written and messages to be committed as finished, all of it or nothing: consume, process, produce, exactly once.
/// Made by [`Log::transaction`](crate::Log::transaction).
///
/// It exists in memory only until it is [committed](Self::commit), as one commit of the log with one sync; dropping it leaves no
/// trace. Other producers of the same partitions go on meanwhile, and readers see all of it at once.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Log, Record, TopicSettings};
///
/// let log = Log::in_memory()?;
/// let orders = log.create_raw_topic("orders", TopicSettings::default().partitions(4)).await?;
/// let invoices = log.create_raw_topic("invoices", TopicSettings::default()).await?;
/// orders.produce(Record::new("17 EUR".into()).key("order-17")).await?;
///
/// let mut consumer = orders.subscribe("billing").build().await?;
/// while let Some(order) = consumer.recv().await? {
///     let mut tx = log.transaction();
///     tx.produce(&invoices, Record::new("invoice over 17 EUR".into()).key("order-17"))?;
///     tx.commit_offset(&consumer, &order)?;
///     tx.commit().await?;
///     # break;
/// }
/// # Ok(()) }
/// ```
#[must_use = "a transaction that is dropped leaves no trace"]
pub struct Transaction {
    log: Arc<Running>,
    batch: Batch,
    offsets: Offsets,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("records", &self.batch.len())
            .field("partitions_committed", &self.offsets.lanes.len())
            .finish_non_exhaustive()
    }
}

/// What a transaction says is finished.
#[derive(Debug, Clone, Copy)]
enum Finished {
    Below(u64),
    One(u64),
}

/// What it says, by lane.
struct Offsets {
    log: Arc<Running>,
    groups: Option<Arc<Groups>>,
    lanes: Vec<(Held, Vec<Finished>)>,
}

impl Transaction {
    pub(crate) fn new(log: Arc<Running>) -> Self {
        let offsets = Offsets { log: Arc::clone(&log), groups: None, lanes: Vec::new() };
        Self { log, batch: Batch::new(), offsets }
    }

    /// How many records there are to be written.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether there are no records to be written; there may be messages to be committed.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Adds a record. Nothing is written before [`commit`](Self::commit).
    ///
    /// # Errors
    ///
    /// As [`Batch::add`]: in particular [`Invalid`](crate::ErrorKind::Invalid) if the transaction would become larger than the
    /// log's `commit_bytes_max`, or the topic is of another log. The transaction is as it was before.
    pub fn produce<T, C: Codec<T>>(&mut self, topic: &Topic<T, C>, record: impl Into<Record<T>>) -> Result<()> {
        self.check_topic(topic)?;
        self.batch.add(topic, record)
    }

    /// Adds a record whose parts are borrowed and whose value is encoded. They are copied before this returns.
    ///
    /// # Errors
    ///
    /// As [`produce`](Self::produce).
    pub fn produce_ref<T, C>(&mut self, topic: &Topic<T, C>, record: RecordRef<'_>) -> Result<()> {
        self.check_topic(topic)?;
        self.batch.add_ref(topic, record)
    }

    fn check_topic<T, C>(&self, topic: &Topic<T, C>) -> Result<()> {
        if Arc::ptr_eq(&self.log, &topic.log) { Ok(()) } else { Err(of_another_log("topic")) }
    }

    /// Adds that everything in the message's partition up to the message, and the message itself, is finished by the consumer's
    /// group; as [`Consumer::commit`], but together with the rest of the transaction.
    ///
    /// # Errors
    ///
    /// As [`Consumer::commit`], but for those of the disk; [`Invalid`](crate::ErrorKind::Invalid) for a consumer of another log.
    pub fn commit_offset<T, C, V>(&mut self, consumer: &Consumer<T, C>, message: &Message<V>) -> Result<()> {
        self.add(consumer, message, Finished::Below(message.offset() + 1))
    }

    /// Adds that this one message is finished, whatever becomes of those before it; as [`Consumer::finish`].
    ///
    /// # Errors
    ///
    /// As [`commit_offset`](Self::commit_offset).
    pub fn finish<T, C, V>(&mut self, consumer: &Consumer<T, C>, message: &Message<V>) -> Result<()> {
        self.add(consumer, message, Finished::One(message.offset()))
    }

    fn add<T, C, V>(&mut self, consumer: &Consumer<T, C>, message: &Message<V>, finished: Finished) -> Result<()> {
        if !Arc::ptr_eq(&self.log, consumer.log()) {
            return Err(of_another_log("consumer"));
        }
        let (lane, tenure) = consumer.held(message)?;
        self.offsets.groups.get_or_insert_with(|| Arc::clone(consumer.groups()));
        let known =
            self.offsets.lanes.iter_mut().find(|((known, held), _)| Arc::ptr_eq(known, &lane) && *held == tenure);
        match known {
            Some((_, all)) => all.push(finished),
            None => self.offsets.lanes.push(((lane, tenure), vec![finished])),
        }
        Ok(())
    }

    /// Commits: all of it is on the disk when this resolves, and after a crash at any moment all of it is there or nothing.
    /// Returns the receipts of the records, in the order in which they were added. A transaction of records alone that all go to
    /// one partition of a relaxed topic reaches [`Durability::Sync`](crate::Durability::Sync) as well.
    ///
    /// # Errors
    ///
    /// [`Fenced`](crate::ErrorKind::Fenced) if a consumer has lost one of the partitions, [`NotFound`](crate::ErrorKind::NotFound)
    /// if a topic was deleted; else as [`Topic::produce`]. Nothing was written and nothing is committed, except that after
    /// [`Poisoned`](crate::ErrorKind::Poisoned) all of it may have been.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves the transaction may be committed or not, and is whole in either case. Whoever
    /// owns the partitions next waits to know.
    pub async fn commit(self) -> Result<Vec<Receipt>> {
        let Self { log, batch, offsets } = self.sorted();
        log.engine.check_open()?;
        batch.produce_along(&log.engine, &offsets).await
    }

    /// [`commit`](Self::commit) for threads.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn blocking_commit(self) -> Result<Vec<Receipt>> {
        let Self { log, batch, offsets } = self.sorted();
        log.engine.check_open()?;
        batch.blocking_produce_along(&log.engine, &offsets)
    }

    /// Forgets all of it. Dropping the transaction does the same.
    pub fn abort(self) {}

    fn sorted(mut self) -> Self {
        let mut held: Vec<Held> = self.offsets.lanes.iter().map(|(held, _)| held.clone()).collect();
        sort(&mut held);
        let place =
            |lane: &Held| held.iter().position(|(known, tenure)| Arc::ptr_eq(known, &lane.0) && *tenure == lane.1);
        self.offsets.lanes.sort_by_key(|(lane, _)| place(lane));
        self
    }
}

fn of_another_log(what: &str) -> Error {
    Error::invalid(format!(
        "the {what} belongs to another log, or to another opening of this one, than the transaction"
    ))
}

impl Along for Offsets {
    fn send(&self, send: &mut SendAlong<'_>) -> Result<Option<Arc<Answer>>> {
        let Some(groups) = &self.groups else { return send(Vec::new()).map(|_| None) };
        let engine = &self.log.engine;
        let mut states = Vec::with_capacity(self.lanes.len());
        for (at, ((lane, tenure), _)) in self.lanes.iter().enumerate() {
            if at > 0 && self.lanes.get(at - 1).is_some_and(|((before, _), _)| Arc::ptr_eq(before, lane)) {
                // One lane with two tenures: one of them is over.
                return Err(Error::new(
                    crate::error::ErrorKind::Fenced,
                    "the transaction has messages of a partition from before and after it was lost; nothing was written",
                ));
            }
            let state = lane.lock();
            state.check(*tenure, lane)?;
            states.push(state);
        }
        let (now, mut builder) = (engine.env.clock.now_micros(), FrameBuilder::new());
        let mut said = Vec::with_capacity(states.len());
        for (((lane, _), finished), state) in self.lanes.iter().zip(&mut states) {
            state.sweep();
            if let Some(first) = state.bars(true) {
                return Ok(Some(Arc::clone(first)));
            }
            let mut progress: Progress = state.progress.clone();
            for one in finished {
                match *one {
                    Finished::Below(offset) => progress.finish_below(offset),
                    Finished::One(offset) => progress.finish(offset, offset + 1),
                };
            }
            let committed = state.say(engine, &progress, now);
            OffsetRecord::new(lane, Some(&committed)).put(&mut builder, now);
            said.push(committed);
        }
        let mut along = vec![(Arc::clone(groups.partition(engine)?), builder)];
        if planted::is(Bug::TransactionSplit) {
            let alone = engine.committer.enqueue_unit_by(Pass::Open, std::mem::take(&mut along), Leader::Caller);
            engine.lead();
            debug_assert!(alone.is_ok());
        }
        if let Some(answer) = send(along)? {
            for (state, said) in states.iter_mut().zip(said) {
                state.sent(Arc::clone(&answer), Some(said), true);
            }
        }
        Ok(None)
    }
}
