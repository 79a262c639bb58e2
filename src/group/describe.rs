//! Groups as they are at one moment, and setting where they have come to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Groups;
use super::membership::{Group, MemberView};
use super::record::{Committed, Whose};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::RecordIter;
use crate::log::engine::Engine;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::text::quoted;

/// A partition in a group at one moment.
#[derive(Debug)]
pub(crate) struct PartitionView {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: Arc<Partition>,
    pub(crate) member: Option<u64>,
    pub(crate) committed: Option<Committed>,
    /// How old the oldest record is that is not finished, in microseconds; 0 if there is none.
    pub(crate) age: i64,
    /// Records that are not finished.
    pub(crate) lag: u64,
}

/// A group at one moment.
#[derive(Debug)]
pub(crate) struct GroupView {
    pub(crate) generation: u64,
    pub(crate) members: Vec<MemberView>,
    pub(crate) partitions: Vec<PartitionView>,
}

/// A partition, and up to where a group has committed it.
pub(crate) type CommittedIn = (Arc<TopicState>, Arc<Partition>, Option<u64>);

impl Groups {
    /// The groups as the log has them now: where another process writes it, read anew.
    pub(crate) fn now(engine: &Engine) -> Result<Arc<Self>> {
        if !engine.is_read_only() {
            return Self::of(engine);
        }
        let groups = Arc::new(Self::default());
        groups.load(engine)?;
        Ok(groups)
    }

    pub(crate) fn named(&self, name: &str) -> Result<Arc<Group>> {
        self.existing(name).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no group {}: nobody is in it, and it has committed nothing", quoted(name)),
            )
        })
    }

    /// Looks at a group.
    pub(crate) fn describe(&self, engine: &Engine, name: &str) -> Result<GroupView> {
        let group = self.named(name)?;
        let topics = by_id(engine);
        let (members, now) = (group.members(), engine.env.clock.now_micros());
        let mut partitions = Vec::new();
        for lane in group.lanes() {
            let Some((topic, partition)) = partition(&topics, lane.whose) else { continue };
            let owns = |member: &&MemberView| {
                member.assigned.iter().any(|(name, number)| *name == topic.name && *number == lane.whose.1)
            };
            let member = members.iter().find(owns).map(|member| member.id);
            let committed = lane.lock().committed().cloned();
            if member.is_none() && committed.is_none() {
                continue;
            }
            let (next, end) = (committed.as_ref().map(|committed| committed.next_offset), partition.visible_end());
            let from = next.unwrap_or(0).max(partition.log_start());
            let ahead: u64 = committed.iter().flat_map(|committed| &committed.done).map(|(from, to)| to - from).sum();
            let lag = end.saturating_sub(from).saturating_sub(ahead);
            let age = if lag == 0 { 0 } else { oldest(&partition, from)?.map_or(0, |time| (now - time).max(0)) };
            let topic = Arc::clone(&topic.name);
            partitions.push(PartitionView { topic, partition, member, committed, age, lag });
        }
        partitions
            .sort_by(|a, b| (&a.topic, a.partition.owner.partition).cmp(&(&b.topic, b.partition.owner.partition)));
        Ok(GroupView { generation: group.generation(), members, partitions })
    }

    /// The partitions of some topics, or, if none are named, those of which the group has committed something; with what is
    /// committed.
    pub(crate) fn committed_in(&self, engine: &Engine, name: &str, topics: &[String]) -> Result<Vec<CommittedIn>> {
        let group = if topics.is_empty() { self.named(name)? } else { self.group(name) };
        let lanes: BTreeMap<Whose, u64> =
            group.lanes().iter().filter_map(|lane| Some((lane.whose, lane.lock().committed()?.next_offset))).collect();
        let mut found = Vec::new();
        if topics.is_empty() {
            let there = by_id(engine);
            for (whose, offset) in &lanes {
                if let Some((topic, partition)) = partition(&there, *whose) {
                    found.push((Arc::clone(topic), partition, Some(*offset)));
                }
            }
        }
        for name in topics.iter().collect::<BTreeSet<_>>() {
            let topic = engine.topic(name)?;
            for partition in topic.partitions().iter() {
                found.push((Arc::clone(&topic), Arc::clone(partition), lanes.get(&partition.key()).copied()));
            }
        }
        found.sort_by(|(a, first, _), (b, second, _)| {
            (&a.name, first.owner.partition).cmp(&(&b.name, second.owner.partition))
        });
        Ok(found)
    }

    /// Sets where a group that nobody is in has come to, or forgets it, durably.
    pub(crate) fn set(&self, engine: &Engine, name: &str, offsets: &[(Whose, Option<u64>)]) -> Result<()> {
        self.partition(engine)?;
        let lanes = self.group(name).set(engine, self, offsets)?;
        self.send_all(engine);
        engine.committer.flush(|work| engine.carry_out(work));
        for lane in lanes {
            let mut state = lane.lock();
            state.sweep();
            if let Some(error) = state.take_failure() {
                return Err(error);
            }
        }
        self.partition(engine)?.check_open()
    }

    /// Forgets a group that nobody is in.
    pub(crate) fn delete(&self, engine: &Engine, name: &str) -> Result<()> {
        let group = self.named(name)?;
        let all: Vec<_> = group.lanes().iter().map(|lane| (lane.whose, None)).collect();
        self.set(engine, name, &all)
    }
}

fn by_id(engine: &Engine) -> BTreeMap<u128, Arc<TopicState>> {
    engine.topics().into_iter().map(|topic| (topic.id, topic)).collect()
}

fn partition(topics: &BTreeMap<u128, Arc<TopicState>>, whose: Whose) -> Option<(&Arc<TopicState>, Arc<Partition>)> {
    let topic = topics.get(&whose.0)?;
    Some((topic, topic.partition(whose.1).ok()?))
}

/// The time of the first record from an offset on.
fn oldest(partition: &Arc<Partition>, from: u64) -> Result<Option<i64>> {
    let mut cursor = PartitionCursor::new(Arc::clone(partition), from);
    let end = partition.visible_end();
    loop {
        let frame = match cursor.next_frame(end) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            Err(error) if error.gap().is_some() => continue,
            Err(error) => return Err(error),
        };
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Ok(Some(record)) = records.next_record() {
            if record.offset >= from {
                return Ok(Some(record.timestamp));
            }
        }
    }
}
