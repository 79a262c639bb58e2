//! What a process does with its log, one step after the other.

use std::sync::Arc;

use super::content::{Size, content};
use super::judge;
use super::model::{Existence, Fate, Place};
use super::world::World;
use super::{Verdict, ensure};
use crate::error::{Error, ErrorKind};
use crate::format::record::FrameBuilder;
use crate::log::committer::{Group, Refused, Ticket};
use crate::log::engine::Engine;
use crate::log::settings::{Durability, TopicSettings};
use crate::partition::Partition;
use crate::storage::Clock;

/// Appends that wait for their commit.
pub(super) struct Pending {
    appends: Vec<usize>,
    partitions: Vec<Arc<Partition>>,
    producer: u64,
    bytes: usize,
    answer: Answer,
}

enum Answer {
    Single(Ticket),
    Unit(Arc<Group>),
}

impl Answer {
    fn group(&self) -> &Arc<Group> {
        match self {
            Self::Single(ticket) => &ticket.group,
            Self::Unit(group) => group,
        }
    }
}

/// A partition that an append goes to.
struct Goal {
    place: Place,
    partition: Arc<Partition>,
    durability: Durability,
}

impl World {
    pub(super) fn step(&mut self, engine: &Engine, pending: &mut Vec<Pending>) -> Verdict {
        self.pass_time();
        if self.model.topics.is_empty() {
            return self.create_topic(engine);
        }
        if self.dice.one_in(self.mix.topic_changes_one_in) {
            return self.change_topics(engine);
        }
        if self.dice.one_in(self.mix.units_one_in) {
            return self.unit(engine, pending);
        }
        if self.dice.one_in(self.mix.compact_one_in) {
            return self.compact(engine);
        }
        match self.dice.below(20) {
            0..=10 => self.append(engine, pending),
            11..=15 => self.settle(engine, pending),
            16..=17 => self.upkeep(engine),
            18 if self.dice.one_in(2) => self.checkpoint(engine),
            18 => self.delete_records(engine),
            _ => self.look(engine),
        }
    }

    /// Judges an error that the process was answered with.
    pub(super) fn allow(&self, error: &Error) -> Verdict {
        let kinds = [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Poisoned];
        ensure!(self.troubled || self.disk.is_off(), "nothing has failed, yet: {error:?}");
        ensure!(kinds.contains(&error.kind()), "a failed call became {error:?}");
        Ok(())
    }

    /// What an append that was answered with an error may have left.
    fn fate(&self, error: &Error) -> Fate {
        let is_settled = matches!(error.kind(), ErrorKind::Io | ErrorKind::StorageFull | ErrorKind::NotFound);
        if is_settled && !self.disk.is_off() { Fate::Refused } else { Fate::Unknown }
    }

    fn goal(&self, engine: &Engine) -> Verdict<Option<Goal>> {
        let topics: Vec<_> =
            self.model.topics.iter().filter(|(_, topic)| topic.existence == Existence::Certain).collect();
        if topics.is_empty() {
            return Ok(None);
        }
        let (name, topic) = topics[self.dice.index(topics.len())];
        let number = self.dice.index(topic.partitions.len()) as u32;
        let partition = engine
            .topic(name)
            .and_then(|topic| topic.partition(number))
            .map_err(|error| format!("topic {name} has no partition {number}: {error}"))?;
        let place = Place { topic: topic.number, partition: number };
        Ok(Some(Goal { place, partition, durability: topic.durability }))
    }

    fn builder(&self, append: usize) -> FrameBuilder {
        let mut builder = FrameBuilder::new();
        self.fill(append, &mut builder);
        builder
    }

    fn fill(&self, append: usize, builder: &mut FrameBuilder) {
        let append = &self.model.appends[append];
        (append.first..append.first + append.count).for_each(|id| content(id).push_to(builder));
    }

    /// Commits what waits if the producer needs the answer, or if more would not fit into a commit.
    fn make_way(&mut self, engine: &Engine, pending: &mut Vec<Pending>, producer: u64) -> Verdict {
        let waiting: usize = pending.iter().map(|pending| pending.bytes).sum();
        let bytes = self.mix.size.commit_bytes_max();
        // A producer waits for the answer to its unit before it sends on.
        let has_unit = |pending: &Pending| pending.producer == producer && matches!(pending.answer, Answer::Unit(_));
        let limit = (self.log.journal_bytes as usize - 64).min(self.log.commit_bytes_max as usize);
        if pending.iter().any(has_unit) || waiting + bytes > limit {
            self.settle(engine, pending)?;
        }
        Ok(())
    }

    fn append(&mut self, engine: &Engine, pending: &mut Vec<Pending>) -> Verdict {
        let Some(Goal { place, partition, durability }) = self.goal(engine)? else { return Ok(()) };
        let producer = self.dice.below(3);
        let count = if self.dice.one_in(4) { self.dice.within(2, 4) } else { 1 };
        let relaxed = durability != Durability::Sync && !self.dice.one_in(5);
        let here = |pending: &Pending| pending.partitions.iter().any(|other| Arc::ptr_eq(other, &partition));
        if relaxed && pending.iter().any(here) {
            // Who mixes levels waits in between.
            self.settle(engine, pending)?;
        }
        if relaxed {
            return self.append_relaxed(engine, &Goal { place, partition, durability }, count, producer);
        }
        self.make_way(engine, pending, producer)?;
        let append = self.model.send(place, count, producer, None);
        let len = self.model.size_max(append);
        self.say(|| format!("append {append}: {count} to {place:?}"));
        match engine
            .enqueue(&partition, len, crate::log::committer::Leader::Thread, |builder| self.fill(append, builder))
        {
            Ok(ticket) => pending.push(Pending {
                appends: vec![append],
                partitions: vec![partition],
                producer,
                bytes: len + 256,
                answer: Answer::Single(ticket),
            }),
            Err(refused @ (Refused::Full | Refused::Guarded)) => {
                return Err(format!("a commit that fits was refused: {refused:?}"));
            }
            Err(Refused::Failed(error)) => {
                self.model.appends[append].fate = Fate::Refused;
                self.allow(&error)?;
                ensure!(error.kind() == ErrorKind::Poisoned, "an append was refused with {error:?}");
                ensure!(partition.failure().is_some(), "{place:?} is not poisoned, yet {error}");
            }
        }
        Ok(())
    }

    fn append_relaxed(&mut self, engine: &Engine, goal: &Goal, count: u64, producer: u64) -> Verdict {
        let Goal { place, partition, durability } = goal;
        let append = self.model.send(*place, count, producer, None);
        self.say(|| format!("append {append}, relaxed: {count} to {place:?}"));
        let was_failed = partition.failure().is_some();
        let hit = self.disk.faults_hit();
        let written = engine.append_relaxed(partition, *durability, |builder| self.fill(append, builder));
        self.model.attempt += 1;
        self.model.appends[append].attempt.0 = self.model.attempt;
        match written {
            Ok(written) => self.model.acknowledge(append, written.base_offset, written.commit),
            Err(error) => {
                self.say(|| format!("refused: {error}"));
                self.allow(&error)?;
                let explained = was_failed || self.disk.is_off() || self.limited || self.disk.faults_hit() > hit;
                ensure!(explained, "nothing failed in this append, yet {error:?}");
                self.model.appends[append].fate = self.fate(&error);
                Ok(())
            }
        }
    }

    fn unit(&mut self, engine: &Engine, pending: &mut Vec<Pending>) -> Verdict {
        let producer = self.dice.below(3);
        self.make_way(engine, pending, producer)?;
        let number = self.model.units.len();
        let (mut appends, mut frames, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        let same = self.mix.size == Size::Same;
        for _ in 0..if same { 3 } else { self.dice.within(1, 4) } {
            let Some(Goal { place, partition, .. }) = self.goal(engine)? else { return Ok(()) };
            if places.contains(&place) || bytes > 8000 {
                continue;
            }
            let count = if same { 1 } else { self.dice.within(1, 2) };
            let append = self.model.send(place, count, producer, Some(number));
            bytes += self.model.size_max(append) + 256;
            frames.push((partition, self.builder(append)));
            places.push(place);
            appends.push(append);
        }
        self.say(|| format!("unit {number} of appends {appends:?} to {places:?}"));
        self.model.units.push(appends.clone());
        let partitions = frames.iter().map(|(partition, _)| Arc::clone(partition)).collect();
        match engine.committer.enqueue_unit(frames, crate::log::committer::Leader::Thread) {
            Ok(group) => {
                let answer = Answer::Unit(group);
                pending.push(Pending { appends, partitions, producer, bytes, answer });
                Ok(())
            }
            Err((refused, _)) => Err(format!("a unit was not taken: {refused:?}")),
        }
    }

    /// Leads commits until nothing waits, and looks at the answers.
    fn settle(&mut self, engine: &Engine, pending: &mut Vec<Pending>) -> Verdict {
        self.settle_since(engine, pending, self.disk.faults_hit())
    }

    /// The same, where the commits may have begun when `hit` faults had been hit.
    pub(super) fn settle_since(&mut self, engine: &Engine, pending: &mut Vec<Pending>, hit: u64) -> Verdict {
        while engine.lead() {}
        let quiet = self.disk.faults_hit() == hit && !self.limited && !self.disk.is_off();
        self.model.attempt += 1;
        for append in pending.iter().flat_map(|pending| &pending.appends) {
            self.model.appends[*append].attempt.0 = self.model.attempt;
        }
        let mut acknowledged = Vec::new();
        for Pending { appends, partitions, answer, .. } in pending.drain(..) {
            let group = answer.group();
            let Some(outcome) = group.outcome() else { return Err(format!("appends {appends:?} were never answered")) };
            match outcome {
                Ok(outcome) => {
                    let first = match &answer {
                        Answer::Single(ticket) => ticket.offset(outcome),
                        Answer::Unit(_) => outcome.base_offset,
                    };
                    let offsets = std::iter::once(first).chain(outcome.others.iter().copied());
                    acknowledged.extend(
                        appends.into_iter().zip(offsets).map(|(append, offset)| (offset, append, outcome.commit)),
                    );
                }
                Err(error) => {
                    self.say(|| format!("appends {appends:?} failed: {error}"));
                    let deleted =
                        error.kind() == ErrorKind::NotFound && partitions.iter().any(|p| p.closed().is_some());
                    if !deleted {
                        self.allow(error)?;
                        self.explain(error, quiet, &partitions)?;
                    }
                    let fate = self.fate(error);
                    appends.into_iter().for_each(|append| self.model.appends[append].fate = fate);
                }
            }
        }
        self.check_healthy(engine)?;
        // In the order of the offsets, which need not be that of the answers.
        acknowledged.sort_unstable();
        for (offset, append, commit) in acknowledged {
            self.say(|| format!("append {append} is at {offset}, commit {commit}"));
            self.model.acknowledge(append, offset, commit)?;
            self.stats.acknowledged += 1;
        }
        Ok(())
    }

    /// A disk that is full fails appends, and poisons nothing.
    fn check_healthy(&self, engine: &Engine) -> Verdict {
        if self.disk.is_off() || self.disk.faults_hit() > self.hit_before {
            return Ok(());
        }
        for partition in engine.topics().iter().flat_map(|topic| topic.partitions().to_vec()) {
            ensure!(partition.failure().is_none(), "no call failed, yet {:?}", partition.failure());
        }
        Ok(())
    }

    /// An append fails because a call failed just now, or because of what failed before: its partition or the journal.
    fn explain(&mut self, error: &Error, quiet: bool, partitions: &[Arc<Partition>]) -> Verdict {
        let poisoned = partitions.iter().any(|partition| partition.failure().is_some());
        if !quiet {
            self.journal_failed |= error.to_string().contains("a sync of the journal failed");
            return Ok(());
        }
        ensure!(poisoned || self.journal_failed, "nothing failed in this commit, yet {error:?}");
        Ok(())
    }

    fn upkeep(&mut self, engine: &Engine) -> Verdict {
        self.say(|| "upkeep".to_owned());
        let hit = self.disk.faults_hit();
        engine.do_upkeep(Self::ALL);
        if self.disk.faults_hit() > hit || self.disk.is_off() || self.limited {
            return Ok(());
        }
        for topic in engine.topics() {
            let Some(known) = self.model.topics.get(&*topic.name) else { continue };
            if !judge::is_interval(known.durability) || known.existence != Existence::Certain {
                continue;
            }
            for (partition, known) in topic.partitions().iter().zip(&known.partitions) {
                let (durable, acked) = (partition.durable_end(), known.known.len() as u64);
                ensure!(
                    durable == acked || partition.failure().is_some(),
                    "after its interval {:?} is durable up to {durable} of {acked}",
                    partition.owner
                );
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, engine: &Engine) -> Verdict {
        self.say(|| "checkpoint".to_owned());
        match engine.checkpoint() {
            Ok(()) => Ok(()),
            Err(error) => self.allow(&error),
        }
    }

    fn delete_records(&mut self, engine: &Engine) -> Verdict {
        let Some(Goal { place, partition, .. }) = self.goal(engine)? else { return Ok(()) };
        let Some(known) = self.model.partition(place) else { return Ok(()) };
        let (end, topic) = (known.known.len() as u64, partition.owner.topic.to_string());
        let before = if self.dice.one_in(4) { end } else { self.dice.below(end + 1) };
        self.say(|| format!("delete the records of {place:?} before {before} of {end}"));
        if let Some(known) = self.model.partition(place) {
            known.start_max = known.start_max.max(before);
        }
        match engine.delete_records(&topic, place.partition, before) {
            Ok(start) => {
                ensure!(start >= before, "{place:?} starts at {start} though all before {before} was to go");
                Ok(())
            }
            Err(error) => self.allow(&error),
        }
    }

    fn compact(&mut self, engine: &Engine) -> Verdict {
        let topics = self.model.topics.iter();
        let compacted =
            topics.filter(|(_, known)| known.existence == Existence::Certain && known.tombstone_age.is_some());
        let names: Vec<String> = compacted.map(|(name, _)| name.clone()).collect();
        let Some(name) = names.get(self.dice.index(names.len().max(1))) else { return Ok(()) };
        let partitions = engine.topic(name).map_err(|error| format!("topic {name}: {error}"))?.partitions();
        let limits: Vec<u64> =
            partitions.iter().map(|one| one.segments().last().map_or(0, |last| last.base_offset)).collect();
        let began = self.clock.now_micros();
        let done = engine.compact_topic(name);
        let ended = self.clock.now_micros();
        self.say(|| format!("compact {name} up to {limits:?}: {done:?}"));
        let known = self.model.topics.get_mut(name).expect("it is there");
        for (known, limit) in known.partitions.iter_mut().zip(&limits) {
            known.cleaning.attempts.push((*limit, began, ended));
        }
        self.stats.compactions += 1;
        match done {
            // What followers have in memory is as it was written.
            Ok(done) if done.complete && !self.mix.follow && !self.disk.is_off() => {
                let known = &self.model.topics[name];
                for ((known, partition), limit) in known.partitions.iter().zip(partitions.iter()).zip(limits) {
                    self.stats.compacted_away += judge::compacted(known, partition, limit)?;
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => self.allow(&error),
        }
    }

    fn look(&mut self, engine: &Engine) -> Verdict {
        for topic in engine.topics() {
            let Some(known) = self.model.topics.get(&*topic.name) else { continue };
            if known.existence == Existence::Certain {
                for (number, partition) in topic.partitions().iter().enumerate() {
                    self.stats.records += judge::visible(known, number, partition)?;
                }
            }
        }
        let topics = engine.topics();
        let partitions: Vec<_> = topics.iter().flat_map(|topic| topic.partitions().to_vec()).collect();
        let horizon = engine.horizon_below(engine.next_commit(), partitions.iter());
        let highest = self.model.highest_acked;
        ensure!(horizon > highest, "the horizon is {horizon} though commit {highest} was acknowledged");
        Ok(())
    }

    fn create_topic(&mut self, engine: &Engine) -> Verdict {
        // A name of a topic that was deleted is taken again now and then.
        let free = (0..self.next_topic).map(|n| format!("t{n}")).find(|name| !self.model.topics.contains_key(name));
        let name = free.filter(|_| self.dice.one_in(2)).unwrap_or_else(|| format!("t{}", self.next_topic));
        self.next_topic += 1;
        let interval = Durability::Interval(std::time::Duration::from_millis(50));
        let durability = self.dice.pick(&[Durability::Sync, Durability::Sync, Durability::Os, interval]);
        let partitions = self.dice.within(1, self.mix.partitions_max) as u32;
        let compression = self.mix.compressions[self.next_topic as usize % 2];
        let segment_bytes = self.mix.segment_bytes_max;
        let keeps = self.dice.one_in(6).then(|| segment_bytes * self.dice.within(1, 3));
        let ages = self.dice.one_in(8).then(|| std::time::Duration::from_secs(self.dice.within(1, 60)));
        // Without dice: the worlds without a reserve stay what they were before there was any.
        let reserves = durability == Durability::Sync && (self.seed + u64::from(self.next_topic)).is_multiple_of(4);
        let settings = TopicSettings::default()
            .partitions(partitions)
            .durability(durability)
            .reserve_bytes(if reserves { 2 * segment_bytes } else { 0 })
            .segment_bytes_max(segment_bytes)
            .record_bytes_max(4096)
            .retention_bytes_max(keeps)
            .retention_age_max(ages)
            .compression(compression);
        let tombstone_ages = [0, 5_000_000, 3_600_000_000_i64];
        let tombstone_age =
            (self.mix.size == Size::Keyed && !self.dice.one_in(4)).then(|| self.dice.pick(&tombstone_ages));
        let settings = match tombstone_age {
            Some(age) => settings.compaction(true).tombstone_age_max(std::time::Duration::from_micros(age as u64)),
            None => settings,
        };
        self.say(|| format!("create {name}: {settings:?}"));
        let existence = match engine.create_topic(&name, settings) {
            Ok(_) => Existence::Certain,
            Err(error) => {
                self.allow(&error)?;
                Existence::Open
            }
        };
        self.model.topic(&name, durability, tombstone_age, existence, partitions as usize);
        self.model.topics.get_mut(&name).expect("it was just put there").retains = keeps.is_some() || ages.is_some();
        Ok(())
    }

    fn change_topics(&mut self, engine: &Engine) -> Verdict {
        let certain = self.model.topics.iter().filter(|(_, topic)| topic.existence == Existence::Certain);
        let names: Vec<String> = certain.map(|(name, _)| name.clone()).collect();
        if names.is_empty() || self.model.topics.len() < 3 && self.dice.one_in(2) {
            return self.create_topic(engine);
        }
        let name = &names[self.dice.index(names.len())];
        let count = self.model.topics[name].partitions.len();
        if self.dice.one_in(2) || count >= 5 {
            self.say(|| format!("delete {name}"));
            match engine.delete_topic(name) {
                Ok(()) => drop(self.model.topics.remove(name)),
                Err(error) => {
                    self.say(|| format!("not deleted: {error}"));
                    self.allow(&error)?;
                    let known = self.model.topics.get_mut(name).expect("it is there");
                    known.existence = Existence::Open;
                    known.may_lack = true;
                }
            }
            return Ok(());
        }
        let more = count + self.dice.within(1, 2) as usize;
        self.say(|| format!("add partitions to {name}: {more}"));
        let added = engine.add_partitions(name, more as u32);
        let known = self.model.topics.get_mut(name).expect("it is there");
        known.partitions_max = known.partitions_max.max(more);
        match added {
            Ok(_) => known.partitions.resize_with(more, Default::default),
            Err(error) => self.allow(&error)?,
        }
        Ok(())
    }
}
