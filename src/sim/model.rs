//! What must be true of a log, as a list of what was sent and how it was answered.

use std::collections::{BTreeMap, HashMap};

use super::content::content;
use super::{Verdict, ensure};
use crate::log::settings::Durability;

/// A partition: the number of its topic (names are used again, numbers are not), and its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) topic: u32,
    pub(super) partition: u32,
}

/// How an append was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not yet, or by a failed sync, or by the end of the process: it may be there or not.
    Unknown,
    Acknowledged,
    /// "Nothing was written."
    Refused,
}

/// One append call: records that are there together or not at all.
#[derive(Debug, Clone)]
pub(super) struct Append {
    pub(super) place: Place,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) producer: u64,
    /// Which attempt to commit it belongs to: no two of them may share a commit number.
    pub(super) attempt: (u64, u32),
    /// The highest commit number acknowledged when it was sent: its own must be higher.
    pub(super) after_commit: u64,
    pub(super) fate: Fate,
}

/// A record at its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) id: u64,
    pub(super) commit: u64,
}

/// What compactions may have taken away, and must have.
#[derive(Debug, Clone, Default)]
pub(super) struct Cleaning {
    /// Each attempt: the offset below which it could take something away, and when it began and ended.
    pub(super) attempts: Vec<(u64, i64, i64)>,
}

impl Cleaning {
    /// Whether a record may be gone: a later one of its key was there below what could be touched, or it is a tombstone
    /// that was kept long enough.
    pub(super) fn may_be_gone(&self, known: &[Slot], offset: usize, tombstone_age: i64) -> bool {
        let limit = self.attempts.iter().map(|(limit, ..)| *limit).max().unwrap_or(0);
        let record = content(known[offset].id);
        if is_superseded(known, offset, limit) {
            return true;
        }
        let covering = || self.attempts.iter().filter(|(limit, ..)| *limit > offset as u64);
        let kept = covering().map(|(_, began, _)| *began).min();
        let last = covering().skip(1).map(|(.., ended)| *ended).max();
        record.is_tombstone() && kept.zip(last).is_some_and(|(kept, last)| last >= kept + tombstone_age)
    }
}

/// Whether a later record below `limit` has the same key.
pub(super) fn is_superseded(known: &[Slot], offset: usize, limit: u64) -> bool {
    let record = content(known[offset].id);
    let later = known.iter().enumerate().take(limit as usize).skip(offset + 1);
    record.key().is_some() && later.into_iter().any(|(_, slot)| content(slot.id).key() == record.key())
}

#[derive(Debug, Default, Clone)]
pub(super) struct PartitionModel {
    /// What is at each offset: found by the last recovery, or acknowledged since.
    pub(super) known: Vec<Slot>,
    /// How many of them a power loss must leave.
    pub(super) floor: u64,
    /// How many of them the end of the process must leave.
    pub(super) kill_floor: u64,
    /// Those below this offset have gone for good.
    pub(super) start: u64,
    /// Those below this one may have.
    pub(super) start_max: u64,
    pub(super) cleaning: Cleaning,
}

/// Whether a topic is there after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existence {
    Certain,
    /// Its creation or deletion was not acknowledged; nobody touches it in this life.
    Open,
}

#[derive(Debug, Clone)]
pub(super) struct TopicModel {
    pub(super) number: u32,
    pub(super) durability: Durability,
    /// How long tombstones stay, if the topic is compacted.
    pub(super) tombstone_age: Option<i64>,
    pub(super) existence: Existence,
    pub(super) partitions: Vec<PartitionModel>,
    /// The partitions there may be, if adding some was not acknowledged.
    pub(super) partitions_max: usize,
    /// The upkeep may let records go.
    pub(super) retains: bool,
    /// Its deletion has failed half-way: nobody keeps the journal for it any more.
    pub(super) may_lack: bool,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Model {
    pub(super) topics: BTreeMap<String, TopicModel>,
    pub(super) appends: Vec<Append>,
    /// The appends of each unit of this life.
    pub(super) units: Vec<Vec<usize>>,
    /// The attempt that each commit number was first seen with.
    commits: HashMap<u64, (u64, u32)>,
    /// Counts attempts to commit.
    pub(super) attempt: u64,
    pub(super) highest_acked: u64,
    /// The append that this life began with.
    pub(super) life_began: usize,
    next_id: u64,
    next_topic: u32,
}

impl Model {
    pub(super) fn topic(
        &mut self,
        name: &str,
        durability: Durability,
        tombstone_age: Option<i64>,
        existence: Existence,
        partitions: usize,
    ) {
        let number = self.next_topic;
        self.next_topic += 1;
        let partitions_max = partitions;
        let partitions = (0..partitions).map(|_| PartitionModel::default()).collect();
        let topic = TopicModel {
            number,
            durability,
            tombstone_age,
            existence,
            partitions,
            partitions_max,
            retains: false,
            may_lack: false,
        };
        self.topics.insert(name.to_owned(), topic);
    }

    pub(super) fn partition(&mut self, place: Place) -> Option<&mut PartitionModel> {
        let topic = self.topics.values_mut().find(|topic| topic.number == place.topic)?;
        topic.partitions.get_mut(place.partition as usize)
    }

    /// Notes that `count` records go to `place`.
    pub(super) fn send(&mut self, place: Place, count: u64, producer: u64, unit: Option<usize>) -> usize {
        let first = self.next_id;
        self.next_id += count;
        let part = unit.map_or(0, |unit| unit as u32 + 1);
        self.appends.push(Append {
            place,
            first,
            count,
            producer,
            attempt: (self.attempt, part),
            after_commit: self.highest_acked,
            fate: Fate::Unknown,
        });
        self.appends.len() - 1
    }

    /// Bytes of an append in a frame, at the most.
    pub(super) fn size_max(&self, append: usize) -> usize {
        let Append { first, count, .. } = self.appends[append];
        (first..first + count).map(|id| content(id).size_max()).sum::<usize>() + 128
    }

    /// Which append a record belongs to.
    pub(super) fn append_of(&self, id: u64) -> Verdict<usize> {
        let after = self.appends.partition_point(|append| append.first <= id);
        match after.checked_sub(1) {
            Some(index) if id < self.appends[index].first + self.appends[index].count => Ok(index),
            _ => Err(format!("record {id} was never sent")),
        }
    }

    /// Notes an acknowledgement.
    pub(super) fn acknowledge(&mut self, append: usize, offset: u64, commit: u64) -> Verdict {
        self.appends[append].fate = Fate::Acknowledged;
        let Append { place, first, count, .. } = self.appends[append];
        self.check_commit(append, commit)?;
        self.highest_acked = self.highest_acked.max(commit);
        let Some(partition) = self.partition(place) else { return Err(format!("{place:?} does not exist")) };
        let end = partition.known.len() as u64;
        ensure!(offset == end, "append {append} to {place:?} was acknowledged at {offset}, but {end} comes next");
        partition.known.extend((first..first + count).map(|id| Slot { id, commit }));
        Ok(())
    }

    /// A commit number belongs to one attempt only, and is higher than all that were acknowledged before it was sent.
    pub(super) fn check_commit(&mut self, append: usize, commit: u64) -> Verdict {
        let Append { attempt, after_commit, .. } = self.appends[append];
        let first = *self.commits.entry(commit).or_insert(attempt);
        ensure!(first == attempt, "commit {commit} of attempt {attempt:?} was used before, by attempt {first:?}");
        ensure!(
            commit > after_commit,
            "append {append} has commit {commit}, but commit {after_commit} was acknowledged before it was sent"
        );
        Ok(())
    }

    /// A model of records of one kind.
    pub(super) fn new(size: super::content::Size) -> Self {
        Self { next_id: size.first_id(), ..Self::default() }
    }

    /// A new life of the process: what was open in the last one is settled.
    pub(super) fn begin_life(&mut self) {
        self.units.clear();
        self.life_began = self.appends.len();
        self.attempt += 1;
    }
}
