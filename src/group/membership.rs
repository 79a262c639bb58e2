//! A group: its members, who owns which partition, and how partitions change hands.
//!
//! A rebalance happens at once, under the group's lock: the target of each partition is computed, and a partition whose owner is
//! not its target changes hands right away if the owner has nothing of it in its hands that it has not finished (and does not
//! want to be asked). Otherwise the owner is asked, and gives it up when it next looks, or loses it when its time is over. So
//! each partition has one owner at any time, and a member that hangs holds nobody up for longer than that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use super::Groups;
use super::assign::assign;
use super::lane::{Lane, NOBODY};
use super::mailbox::{Grant, Mailbox, Notice};
use super::pattern::Subscription;
use super::record::Whose;
use crate::error::{Error, ErrorKind, Result};
use crate::log::engine::Engine;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::segment::lock;

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    state: Mutex<State>,
    /// Somebody was asked for a partition.
    asks: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    next_member: u64,
    last_tenure: u64,
    members: BTreeMap<u64, Member>,
    /// The partitions that somebody subscribes to.
    slots: BTreeMap<Whose, Slot>,
    lanes: HashMap<Whose, Arc<Lane>>,
    closed: bool,
    /// Who is to be woken once the lock is released.
    wakers: Vec<Waker>,
}

/// What a member says of itself when it joins.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    pub(crate) subscription: Subscription,
    /// What it calls itself.
    pub(crate) name: Option<Arc<str>>,
    /// Wants to be asked before a partition goes, also where nothing is unfinished.
    pub(crate) wants_to_be_asked: bool,
    /// Where nothing is committed it begins with what comes from now on.
    pub(crate) from_now_on: bool,
    /// How long it may take to give a partition up.
    pub(crate) revoke_timeout: Duration,
}

#[derive(Debug)]
struct Member {
    joining: Joining,
    mailbox: Arc<Mailbox>,
}

/// A partition in the group.
#[derive(Debug)]
struct Slot {
    topic: Arc<TopicState>,
    partition: Arc<Partition>,
    lane: Arc<Lane>,
    owner: Option<u64>,
    target: Option<u64>,
    /// The owner was asked to give it up, until then.
    asked: Option<Duration>,
}

/// A member at one moment.
#[derive(Debug, Clone)]
pub(crate) struct MemberView {
    pub(crate) id: u64,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) assigned: Vec<(Arc<str>, u32)>,
}

impl Group {
    pub(super) fn new(name: Arc<str>, lanes: HashMap<Whose, Arc<Lane>>) -> Self {
        let generation = lanes.values().filter_map(|lane| lane.lock().committed().map(|said| said.generation)).max();
        let state = State { generation: generation.unwrap_or(0), lanes, ..State::default() };
        Self { name, state: Mutex::new(state), asks: AtomicBool::new(false) }
    }

    /// Whether nobody is in it and nothing is committed.
    pub(crate) fn is_empty(&self) -> bool {
        let state = lock(&self.state);
        state.members.is_empty() && state.lanes.values().all(|lane| lane.lock().is_blank())
    }

    /// Takes a member in. Answers its number.
    pub(crate) fn join(&self, engine: &Engine, joining: Joining, mailbox: Arc<Mailbox>) -> Result<u64> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::closed());
        }
        state.next_member += 1;
        let id = state.next_member;
        let from_now_on = joining.from_now_on;
        state.members.insert(id, Member { joining, mailbox });
        if from_now_on {
            state.renew_slots(engine, &self.name);
            for slot in state.slots.values() {
                slot.lane.lock().start_at(slot.partition.visible_end());
            }
        }
        self.rebalance(engine, &mut state);
        wake(state);
        Ok(id)
    }

    /// Lets a member go, with all that it owns.
    pub(crate) fn leave(&self, engine: &Engine, groups: &Groups, id: u64) {
        let mut state = lock(&self.state);
        if state.members.remove(&id).is_none() {
            return;
        }
        let owned: Vec<Whose> = state.owned_by(id).collect();
        for whose in owned {
            state.take_away(whose, |lane| groups.send_rest(engine, lane));
        }
        self.rebalance(engine, &mut state);
        wake(state);
    }

    /// A member gives up partitions that it was asked for. Answers which of them it keeps: it is to have them again by now.
    pub(crate) fn release(&self, engine: &Engine, groups: &Groups, id: u64, partitions: &[Whose]) -> Vec<Whose> {
        let mut state = lock(&self.state);
        let mut kept = Vec::new();
        for whose in partitions {
            match state.slots.get(whose) {
                Some(slot) if slot.owner == Some(id) && slot.target == Some(id) => kept.push(*whose),
                Some(slot) if slot.owner == Some(id) => {
                    state.take_away(*whose, |lane| groups.send_rest(engine, lane));
                }
                _ => {}
            }
        }
        self.settle(engine, &mut state);
        wake(state);
        kept
    }

    /// Topics or partitions have come or gone.
    pub(super) fn catalogue_changed(&self, engine: &Engine) {
        let mut state = lock(&self.state);
        if !state.members.is_empty() && !state.closed {
            self.rebalance(engine, &mut state);
        }
        wake(state);
    }

    /// Whether somebody was asked for a partition.
    pub(super) fn asks(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    /// Takes partitions from members that were asked for them and whose time is over.
    pub(super) fn due(&self, engine: &Engine, now: Duration) {
        let mut state = lock(&self.state);
        let late: Vec<Whose> = state
            .slots
            .iter()
            .filter(|(_, slot)| slot.asked.is_some_and(|until| until <= now))
            .map(|(whose, _)| *whose)
            .collect();
        for whose in &late {
            if let Some(slot) = state.slots.get(whose) {
                tracing::warn!(
                    group = &*self.name,
                    topic = &*slot.topic.name,
                    partition = whose.1,
                    "a member did not give a partition up in time, and loses it"
                );
            }
            // What it has said and not sent is what it has finished.
            state.lose(*whose);
        }
        self.settle(engine, &mut state);
        wake(state);
    }

    fn rebalance(&self, engine: &Engine, state: &mut State) {
        state.rebalance(engine, &self.name);
        self.settle(engine, state);
    }

    /// Lets partitions change hands, and asks to be called when the first of those who were asked for one is late.
    fn settle(&self, engine: &Engine, state: &mut State) {
        let until = state.settle(engine);
        self.asks.store(until.is_some(), Ordering::Relaxed);
        if let Some(until) = until {
            engine.upkeep.want_call(until);
        }
    }

    /// Forgets topics that are gone. Answers with what was committed about them.
    pub(super) fn forget_topics(&self, is_there: impl Fn(u128) -> bool) -> Vec<Arc<Lane>> {
        let mut state = lock(&self.state);
        state.lanes.extract_if(|whose, _| !is_there(whose.0)).map(|(_, lane)| lane).collect()
    }

    /// Tells all members that nothing follows.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let wakers: Vec<Waker> = state.members.values().filter_map(|member| member.mailbox.close()).collect();
        state.wakers.extend(wakers);
        wake(state);
    }

    pub(crate) fn generation(&self) -> u64 {
        lock(&self.state).generation
    }

    /// The members, and what each owns.
    pub(crate) fn members(&self) -> Vec<MemberView> {
        let state = lock(&self.state);
        let views = state.members.iter().map(|(id, member)| MemberView {
            id: *id,
            name: member.joining.name.clone(),
            assigned: state
                .slots
                .iter()
                .filter(|(_, slot)| slot.owner == Some(*id))
                .map(|(whose, slot)| (Arc::clone(&slot.topic.name), whose.1))
                .collect(),
        });
        views.collect()
    }

    /// What the group has of each partition, committed or subscribed to.
    pub(crate) fn lanes(&self) -> Vec<Arc<Lane>> {
        lock(&self.state).lanes.values().cloned().collect()
    }

    /// Sets where a group that nobody is in has come to; `None` forgets it. Answers with the lanes.
    ///
    /// # Errors
    ///
    /// `Busy` while there are members.
    pub(super) fn set(
        &self,
        engine: &Engine,
        groups: &Groups,
        offsets: &[(Whose, Option<u64>)],
    ) -> Result<Vec<Arc<Lane>>> {
        let mut state = lock(&self.state);
        if !state.members.is_empty() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "group {} has {} members; its offsets can be changed once all have left",
                    self.name,
                    state.members.len()
                ),
            ));
        }
        state.generation += 1;
        let generation = state.generation;
        let mut lanes = Vec::with_capacity(offsets.len());
        for (whose, offset) in offsets {
            let lane = state.lane(&self.name, *whose);
            match offset {
                Some(offset) => {
                    lane.lock().set(*offset, generation);
                    groups.send_rest(engine, &lane);
                }
                None => {
                    groups.bury(engine, std::slice::from_ref(&lane));
                    state.lanes.remove(whose);
                }
            }
            lanes.push(lane);
        }
        Ok(lanes)
    }
}

/// Releases the lock and wakes those who were told something: a waker is other people's code, and may come back here.
fn wake(mut state: MutexGuard<'_, State>) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

impl State {
    fn owned_by(&self, id: u64) -> impl Iterator<Item = Whose> {
        self.slots.iter().filter(move |(_, slot)| slot.owner == Some(id)).map(|(whose, _)| *whose)
    }

    fn lane(&mut self, group: &Arc<str>, whose: Whose) -> Arc<Lane> {
        let lane = self.lanes.entry(whose).or_insert_with(|| Arc::new(Lane::new(Arc::clone(group), whose, None)));
        Arc::clone(lane)
    }

    /// Makes a partition nobody's. `last` is done with its lane before others may have it.
    fn take_away(&mut self, whose: Whose, last: impl FnOnce(&Arc<Lane>)) {
        let generation = self.generation;
        if let Some(slot) = self.slots.get_mut(&whose) {
            last(&slot.lane);
            slot.lane.lock().give(NOBODY, generation);
            (slot.owner, slot.asked) = (None, None);
        }
    }

    /// The same against the owner's will.
    fn lose(&mut self, whose: Whose) {
        let owner = self.slots.get(&whose).and_then(|slot| slot.owner);
        self.take_away(whose, |_| {});
        if let Some(member) = owner.and_then(|owner| self.members.get(&owner)) {
            self.wakers.extend(member.mailbox.tell(Notice::Lost(whose)));
        }
    }

    /// Computes who is to own what, and does what can be done about it now.
    fn rebalance(&mut self, engine: &Engine, group: &Arc<str>) {
        self.renew_slots(engine, group);
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let number = |id: u64| ids.binary_search(&id).ok();
        let (mut topics, mut names): (Vec<usize>, Vec<Arc<TopicState>>) = (Vec::new(), Vec::new());
        for slot in self.slots.values() {
            // Those of a topic follow each other.
            if !names.last().is_some_and(|last| Arc::ptr_eq(last, &slot.topic)) {
                names.push(Arc::clone(&slot.topic));
            }
            topics.push(names.len() - 1);
        }
        let readers = |topic: &Arc<TopicState>| {
            let members = self.members.values().enumerate();
            members.filter(|(_, member)| member.joining.subscription.matches(&topic.name)).map(|(at, _)| at).collect()
        };
        let candidates: Vec<Vec<usize>> = names.iter().map(readers).collect();
        // Who is about to get a partition is as good as its owner.
        let current: Vec<_> = self.slots.values().map(|slot| slot.target.or(slot.owner).and_then(number)).collect();
        let targets = assign(ids.len(), &topics, &candidates, &current);
        let mut changed = false;
        for (slot, target) in self.slots.values_mut().zip(targets) {
            let target = target.and_then(|at| ids.get(at).copied());
            changed |= slot.target != target || slot.owner != target;
            slot.target = target;
        }
        if changed {
            self.generation += 1;
        }
    }

    /// Adds the partitions that somebody subscribes to by now, and takes out those that nobody does, or that are gone.
    fn renew_slots(&mut self, engine: &Engine, group: &Arc<str>) {
        let mut there = BTreeSet::new();
        for topic in engine.topics() {
            if !self.members.values().any(|member| member.joining.subscription.matches(&topic.name)) {
                continue;
            }
            for partition in topic.partitions().iter() {
                let whose = partition.key();
                there.insert(whose);
                if !self.slots.contains_key(&whose) {
                    let lane = self.lane(group, whose);
                    let (topic, partition) = (Arc::clone(&topic), Arc::clone(partition));
                    self.slots.insert(whose, Slot { topic, partition, lane, owner: None, target: None, asked: None });
                }
            }
        }
        let gone: Vec<Whose> = self.slots.keys().filter(|whose| !there.contains(whose)).copied().collect();
        let mut deleted: Vec<Arc<TopicState>> = Vec::new();
        for whose in gone {
            self.lose(whose);
            let Some(slot) = self.slots.remove(&whose) else { continue };
            let is_deleted = slot.partition.closed().is_some();
            if is_deleted && !deleted.iter().any(|known| Arc::ptr_eq(known, &slot.topic)) {
                deleted.push(slot.topic);
            }
        }
        for topic in deleted {
            for member in self.members.values() {
                if member.joining.subscription.names.contains(&topic.name) {
                    self.wakers.extend(member.mailbox.tell(Notice::Deleted(Arc::clone(&topic.name))));
                }
            }
        }
    }

    /// Lets partitions change hands where that can be done now, and asks for the others. Answers when the first is late.
    fn settle(&mut self, engine: &Engine) -> Option<Duration> {
        let generation = self.generation;
        for (whose, slot) in &mut self.slots {
            if slot.owner == slot.target {
                slot.asked = None;
                continue;
            }
            let mut lane = slot.lane.lock();
            if let Some(owner) = slot.owner.and_then(|owner| self.members.get(&owner)) {
                if owner.joining.wants_to_be_asked || !lane.is_clean() {
                    if slot.asked.is_none() {
                        let until = engine.env.clock.monotonic().saturating_add(owner.joining.revoke_timeout);
                        slot.asked = Some(until);
                        self.wakers.extend(owner.mailbox.tell(Notice::Asked(*whose)));
                    }
                    continue;
                }
                self.wakers.extend(owner.mailbox.tell(Notice::Lost(*whose)));
            }
            let target = slot.target.and_then(|target| self.members.get(&target));
            self.last_tenure += u64::from(target.is_some());
            let tenure = if target.is_some() { self.last_tenure } else { NOBODY };
            lane.give(tenure, generation);
            (slot.owner, slot.asked) = (slot.target, None);
            if let Some(member) = target {
                let grant = Grant {
                    topic: Arc::clone(&slot.topic),
                    partition: Arc::clone(&slot.partition),
                    lane: Arc::clone(&slot.lane),
                    tenure,
                };
                self.wakers.extend(member.mailbox.tell(Notice::Granted(grant)));
            }
        }
        self.slots.values().filter_map(|slot| slot.asked).min()
    }
}
