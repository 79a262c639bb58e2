//! Appends that come through the guards of their partitions.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

use super::batch::{Batch, Part};
use super::delivery::{Delivery, Receipt};
use super::encode::Encoded;
use super::guard::window::Limits;
use super::guard::{Awaited, Fact, Known, Needs, PartitionGuard, Place, Scope, State, Wait, note};
use super::outgoing::Outgoing;
use super::send::Attempt;
use crate::error::{Error, ErrorKind, Result};
use crate::expected::Expected;
use crate::format::FormatError;
use crate::format::record::{FrameBuilder, RawRecord};
use crate::log::committer::{Group, Leader, Outcome, Refused, Ticket, UnitFrames};
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::partition::{Partition, Pass};

/// A single record on its way through a guard.
pub(super) struct Guarded<'a, O> {
    pub(super) encoded: &'a Encoded<'a, O>,
    pub(super) durability: Durability,
    pub(super) limits: Option<Limits>,
}

/// Sends one record, unless its identity is known.
pub(super) fn send_guarded<O: Outgoing>(
    engine: &Arc<Engine>,
    partition: &Arc<Partition>,
    what: &Guarded<'_, O>,
    send: impl FnOnce() -> Result<Attempt>,
) -> Result<Attempt> {
    let Guarded { encoded, durability, limits } = *what;
    let (record, timestamp) = (encoded.record(), encoded.timestamp);
    let guard = PartitionGuard::of(partition, engine);
    let id = limits.and_then(|_| record.message_id());
    let mut state = guard.lock();
    let needs = Needs { window: limits.filter(|_| id.is_some()), ..Needs::default() };
    if let Some(wait) = guard.is_unready(&mut state, needs, partition, engine) {
        return Ok(Attempt::Wait(wait));
    }
    if let (Some(id), Some(limits)) = (id, limits)
        && let Some(known) = state.known(id, timestamp, limits)
    {
        let number = partition.owner.partition;
        return Ok(Attempt::Sent(match known {
            Known::Written { place: Place { offset, commit }, timestamp } => {
                Delivery::written(number, timestamp, offset, commit, durability)
            }
            Known::Pending { awaited, timestamp } => {
                Delivery::waiting(number, timestamp, awaited.ticket, Arc::clone(engine))
            }
        }));
    }
    let attempt = send()?;
    if let Attempt::Sent(delivery) = &attempt {
        let fact = Fact {
            key: record.key().map(|key| guard.hash(key)),
            tombstone: encoded.is_tombstone(),
            id: id.map(Into::into),
            timestamp,
        };
        note(&mut state, fact, delivery, limits);
    }
    Ok(attempt)
}

/// What a batch, all of which goes to one partition, is held against.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    /// The newest record of the key that all its records have.
    Key(Expected),
    /// The newest record of the partition.
    Partition(Expected),
}

/// A batch on its way through the guards of its partitions.
pub(super) struct GuardedBatch<'a> {
    batch: Batch,
    engine: &'a Arc<Engine>,
    condition: Option<(Scope, Expected)>,
    /// Of each frame.
    guards: Vec<Arc<PartitionGuard>>,
    facts: Vec<Vec<Fact>>,
    /// The frames by their partitions, the order in which their guards are locked: nobody waits in a circle.
    order: Vec<usize>,
    /// What goes along with this attempt, to partitions without a guard.
    along: UnitFrames,
    /// Something did, so that it was a commit over several partitions.
    went_along: bool,
}

/// What came of an attempt.
pub(super) enum Step {
    Done(Vec<Receipt>),
    Sent(Sent),
    Full,
    Wait(Wait),
}

/// A batch that waits for its commit.
pub(super) struct Sent {
    pub(super) group: Arc<Group>,
    /// Which record of a shared frame is its first.
    first: u32,
    slots: Vec<Slot>,
}

/// Where the receipt of a record comes from.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Known(Place, i64),
    /// From the commit: the frame, among those that were sent, the record in it, and its timestamp.
    New(usize, u32, i64),
}

/// Which records of a batch are new.
struct Sorted {
    /// By frame and place in it.
    slots: Vec<Vec<Slot>>,
    /// How many of each frame are new.
    new: Vec<u32>,
}

impl<'a> GuardedBatch<'a> {
    pub(super) fn new(batch: Batch, condition: Option<Condition>, engine: &'a Arc<Engine>) -> Result<Self> {
        let guards: Vec<_> = batch.frames.iter().map(|part| PartitionGuard::of(&part.partition, engine)).collect();
        let mut facts = Vec::with_capacity(guards.len());
        for (part, guard) in batch.frames.iter().zip(&guards) {
            facts.push(facts_of(part, guard)?);
        }
        let mut order: Vec<usize> = (0..guards.len()).collect();
        order.sort_by_key(|frame| batch.frames[*frame].partition.key());
        let condition = match condition {
            None | Some(Condition::Key(Expected::Any) | Condition::Partition(Expected::Any)) => None,
            Some(Condition::Partition(expected)) => Some((Scope::Partition, expected)),
            Some(Condition::Key(expected)) => {
                let key = facts.first().and_then(|facts| facts.first()).and_then(|fact| fact.key);
                key.map(|key| (Scope::Key(key), expected))
            }
        };
        Ok(Self { batch, engine, condition, guards, facts, order, along: Vec::new(), went_along: false })
    }

    /// [`attempt`](Self::attempt) together with other frames, which are sent also if all of the batch is known.
    pub(super) fn attempt_along(&mut self, along: UnitFrames, leader: Leader) -> Result<Step> {
        self.batch.check_with(along.iter().map(|(_, builder)| builder.len()).sum(), self.engine)?;
        self.went_along = !along.is_empty();
        self.along = along;
        let step = self.attempt(leader);
        self.along.clear();
        step
    }

    /// Sends the batch, if what is expected holds, but for the records whose identities are known.
    pub(super) fn attempt(&mut self, leader: Leader) -> Result<Step> {
        let guards = self.guards.clone();
        let mut states: Vec<(usize, MutexGuard<'_, State>)> =
            self.order.iter().map(|frame| (*frame, guards[*frame].lock())).collect();
        states.sort_unstable_by_key(|(frame, _)| *frame);
        let mut states: Vec<_> = states.into_iter().map(|(_, state)| state).collect();
        for (frame, state) in states.iter_mut().enumerate() {
            let (part, facts) = (&self.batch.frames[frame], &self.facts[frame]);
            let needs = Needs {
                settled: self.condition.is_some(),
                versions: matches!(self.condition, Some((Scope::Key(_), _))),
                window: part.limits.filter(|_| facts.iter().any(|fact| fact.id.is_some())),
            };
            if let Some(wait) = guards[frame].is_unready(state, needs, &part.partition, self.engine) {
                return Ok(Step::Wait(wait));
            }
        }
        let sorted = match self.sort(&states) {
            Ok(sorted) => sorted,
            Err(group) => return Ok(Step::Wait(Wait::Group(group))),
        };
        if self.along.is_empty() && sorted.new.iter().all(|new| *new == 0) {
            return Ok(Step::Done(self.receipts(&self.slots(&sorted), None)));
        }
        if let (Some((scope, expected)), [state]) = (self.condition, states.as_slice()) {
            match state.check(scope, expected, &self.batch.frames[0].partition) {
                Ok(held) => held?,
                Err(group) => return Ok(Step::Wait(Wait::Group(group))),
            }
        }
        self.send(&sorted, &mut states, leader)
    }

    /// Tells the records that are new from those that are known, or repeat one before them. `Err` of a commit that must answer
    /// first.
    fn sort(&self, states: &[MutexGuard<'_, State>]) -> Result<Sorted, Arc<Group>> {
        let mut sorted = Sorted { slots: Vec::with_capacity(states.len()), new: Vec::with_capacity(states.len()) };
        let mut sent = 0;
        for ((state, facts), part) in states.iter().zip(&self.facts).zip(&self.batch.frames) {
            let (mut slots, mut new, mut seen) = (Vec::with_capacity(facts.len()), 0, HashMap::new());
            for fact in facts {
                let mut slot = None;
                if let (Some(id), Some(limits)) = (&fact.id, part.limits) {
                    slot = match state.known(id, fact.timestamp, limits) {
                        Some(Known::Written { place, timestamp }) => Some(Slot::Known(place, timestamp)),
                        Some(Known::Pending { awaited, .. }) => return Err(Arc::clone(awaited.group())),
                        None => seen.get(id).copied(),
                    };
                }
                let slot = slot.unwrap_or_else(|| {
                    let slot = Slot::New(sent, new, fact.timestamp);
                    seen.extend(fact.id.clone().map(|id| (id, slot)));
                    new += 1;
                    slot
                });
                slots.push(slot);
            }
            sent += usize::from(new > 0);
            sorted.slots.push(slots);
            sorted.new.push(new);
        }
        Ok(sorted)
    }

    /// The slots in the order in which the records were added.
    fn slots(&self, sorted: &Sorted) -> Vec<Slot> {
        self.batch.places().map(|(frame, record)| sorted.slots[frame][record]).collect()
    }

    fn send(&mut self, sorted: &Sorted, states: &mut [MutexGuard<'_, State>], leader: Leader) -> Result<Step> {
        let news: Vec<Vec<u64>> = sorted.slots.iter().map(|slots| new_places(slots)).collect();
        let mut frames = Vec::with_capacity(news.len());
        for (part, places) in self.batch.frames.iter_mut().zip(&news) {
            let all = places.len() == part.builder.record_count() as usize;
            let builder = match places.is_empty() {
                true => continue,
                false if all => std::mem::take(&mut part.builder),
                false => part.builder.without(|at| places.binary_search(&at).is_err()).map_err(malformed)?,
            };
            frames.push((Arc::clone(&part.partition), builder));
        }
        let engine = self.engine;
        let alone = self.along.is_empty();
        frames.append(&mut self.along);
        if let ([part], [(partition, builder)]) = (self.batch.frames.as_mut_slice(), frames.as_mut_slice())
            && part.durability != Durability::Sync
            && alone
        {
            let written = engine.append_relaxed_built(Pass::Guard, partition, part.durability, builder);
            let Some(written) = written? else { unreachable!("the guard has the pass") };
            let place = |at| Place { offset: written.base_offset + at, commit: written.commit };
            for (at, fact) in new_facts(&news[0], &self.facts[0]) {
                states[0].written(fact.clone(), place(at), part.limits);
            }
            let outcome = Outcome { commit: written.commit, base_offset: written.base_offset, others: Vec::new() };
            return Ok(Step::Done(self.receipts(&self.slots(sorted), Some(&outcome))));
        }
        if let [(partition, builder)] = frames.as_slice()
            && alone
        {
            // Into the shared frame of the partition, in which all appends keep their order: a commit of its own would come
            // behind single records that are sent after it, and that it has not been held against.
            let mut copied = Ok(());
            let fill = |shared: &mut FrameBuilder| copied = shared.push_all(builder);
            let ticket = match engine.enqueue_by(Pass::Guard, partition, builder.len(), leader, fill) {
                Ok(ticket) => ticket,
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::Full | Refused::Guarded) => {
                    self.take_back(&news, frames);
                    return Ok(Step::Full);
                }
            };
            // They were read before, for what the guard wants to know.
            debug_assert_eq!(copied, Ok(()), "what was encoded can be read");
            let first = ticket.first;
            self.note(&news, states, |_, at| Awaited {
                ticket: Ticket { first: first + at, ..ticket.clone() },
                is_unit: false,
            });
            return Ok(Step::Sent(Sent { group: ticket.group, first, slots: self.slots(sorted) }));
        }
        let group = match engine.committer.enqueue_unit_by(Pass::Guard, frames, leader) {
            Ok(group) => group,
            Err((Refused::Failed(error), _)) => return Err(error),
            Err((Refused::Full | Refused::Guarded, back)) => {
                self.take_back(&news, back);
                return Ok(Step::Full);
            }
        };
        self.note(&news, states, |frame, first| Awaited {
            ticket: Ticket { group: Arc::clone(&group), frame, first },
            is_unit: true,
        });
        Ok(Step::Sent(Sent { group, first: 0, slots: self.slots(sorted) }))
    }

    /// Takes note of the new records of all frames. `awaited` says who answers, for a frame among those that were sent, and a
    /// record in it.
    fn note(&self, news: &[Vec<u64>], states: &mut [MutexGuard<'_, State>], awaited: impl Fn(usize, u32) -> Awaited) {
        let sent = news.iter().enumerate().filter(|(_, places)| !places.is_empty());
        for (frame, (at, places)) in sent.enumerate() {
            for (record, fact) in new_facts(places, &self.facts[at]) {
                states[at].sent(fact.clone(), awaited(frame, record as u32), self.batch.frames[at].limits);
            }
        }
    }

    /// Puts the frames back that there was no room for.
    fn take_back(&mut self, news: &[Vec<u64>], back: Vec<(Arc<Partition>, FrameBuilder)>) {
        let parts = self.batch.frames.iter_mut().zip(news).filter(|(_, places)| !places.is_empty());
        for ((part, _), (_, builder)) in parts.zip(back) {
            if part.builder.record_count() == 0 {
                part.builder = builder;
            }
        }
    }

    /// The receipts of a batch whose commit has answered.
    pub(super) fn answer(&self, sent: &Sent) -> Result<Vec<Receipt>> {
        let mut outcome = sent.group.wait().clone()?;
        outcome.base_offset += u64::from(sent.first);
        Ok(self.receipts(&sent.slots, Some(&outcome)))
    }

    fn receipts(&self, slots: &[Slot], outcome: Option<&Outcome>) -> Vec<Receipt> {
        let spans = self.batch.frames.len() > 1 || self.went_along;
        let receipt = |(slot, part): (&Slot, &Part)| {
            let (place, timestamp_micros, is_synced) = match (slot, outcome) {
                (Slot::New(frame, record, timestamp), Some(outcome)) => {
                    let other = frame.checked_sub(1).and_then(|other| outcome.others.get(other));
                    let base = other.unwrap_or(&outcome.base_offset);
                    (Place { offset: base + u64::from(*record), commit: outcome.commit }, *timestamp, spans)
                }
                (Slot::Known(place, timestamp), _) => (*place, *timestamp, false),
                (Slot::New(..), None) => unreachable!("what is new has been sent"),
            };
            let durability = if is_synced { Durability::Sync } else { part.durability };
            let partition = part.partition.owner.partition;
            Receipt { partition, offset: place.offset, commit: place.commit, timestamp_micros, durability }
        };
        let parts = self.batch.places().map(|(frame, _)| &self.batch.frames[frame]);
        slots.iter().zip(parts).map(receipt).collect()
    }
}

/// The places of the new records of a frame.
fn new_places(slots: &[Slot]) -> Vec<u64> {
    let mut next = 0;
    let mut places = Vec::new();
    for (at, slot) in slots.iter().enumerate() {
        // One that repeats a new one has its number again.
        if let Slot::New(_, record, _) = slot
            && *record == next
        {
            next += 1;
            places.push(at as u64);
        }
    }
    places
}

/// The new records of a frame, numbered anew.
fn new_facts<'a>(places: &'a [u64], facts: &'a [Fact]) -> impl Iterator<Item = (u64, &'a Fact)> {
    places.iter().enumerate().filter_map(|(number, at)| Some((number as u64, facts.get(*at as usize)?)))
}

fn facts_of(part: &Part, guard: &PartitionGuard) -> Result<Vec<Fact>> {
    let mut facts = Vec::with_capacity(part.builder.record_count() as usize);
    let mut records = part.builder.records();
    while let Some(record) = records.next_record().map_err(malformed)? {
        let RawRecord { timestamp, key, value, .. } = record;
        let id = super::guard::build::message_id(&record).filter(|_| part.limits.is_some());
        facts.push(Fact {
            key: key.map(|key| guard.hash(key)),
            tombstone: value.is_none(),
            id: id.map(Into::into),
            timestamp,
        });
    }
    Ok(facts)
}

fn malformed(why: FormatError) -> Error {
    Error::with_source(ErrorKind::Codec, "a batch cannot be read again", why)
}
