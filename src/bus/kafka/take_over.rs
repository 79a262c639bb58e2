//! Taking partitions over: reading goes on where the group has come to, by what is committed.

use std::collections::HashMap;
use std::sync::Arc;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::committer::put;
use super::desk::{Desk, Part, Place};
use super::member::Member;
use super::wanted::REPLAYS;
use super::{ANSWER_MAX, Cluster, note, place_list};
use crate::bus::dead_letters::Parked;
use crate::consumer::Item;
use crate::error::{Error, ErrorKind, Gap, Result};
use crate::group::progress::Progress;
use crate::kafka::from_kafka;
use crate::replay::Start;

pub(super) struct TakeOver {
    /// Where the group begins in a partition of which it has finished nothing.
    pub(super) start: Start,
    /// What the keys wait for, and the topic of the dead letters.
    pub(super) parked: Option<(Arc<Parked>, Arc<str>)>,
}

impl TakeOver {
    /// Reads how far the group has come in these partitions, and begins to read there. Answers which are left out: those of which it is
    /// not known where the group begins in them, as they have no leader.
    pub(super) fn run(
        &self,
        cluster: &Arc<Cluster>,
        desk: &Desk,
        member: &Member,
        given: &[Place],
    ) -> Result<Vec<Place>> {
        let mut parts = self.committed(desk, member, given)?;
        // What waits behind dead letters is known of all partitions or of none.
        let ranges = if self.parked.is_some() { cluster.ranges(given)? } else { cluster.known_ranges(given)? };
        let new = given.iter().filter(|place| !parts.contains_key(*place)).cloned();
        let (new, left_out): (Vec<Place>, Vec<Place>) = new.partition(|place| ranges.contains_key(place));
        let begins = self.begin(cluster, &new)?;
        if !begins.is_empty() {
            // A group begins once, wherever the end of the partition is by the time that something is done.
            let list = offsets(begins.iter().map(|(place, offset)| (place, *offset)))?;
            member
                .consumer
                .commit(&list, CommitMode::Sync)
                .map_err(|error| from_kafka(format!("cannot commit where group {} begins", desk.group), error))?;
            parts.extend(begins.into_iter().map(|(place, offset)| (place, Progress::at(offset))));
        }
        let mut gaps = Vec::new();
        for (place, progress) in &mut parts {
            // Without a leader it is found out by reading there.
            let (first, end) = ranges.get(place).copied().unwrap_or((0, u64::MAX));
            if progress.low > end {
                return Err(Error::new(
                    ErrorKind::Mismatch,
                    format!(
                        "group {} has finished topic {}, partition {} up to offset {}, and it ends at {end}: it was made anew, or \
                         its brokers have lost events. Set the group's offsets with Kafka's own tools, or take another group",
                        desk.group, place.0, place.1, progress.low
                    ),
                ));
            }
            if progress.low < first {
                gaps.push(Gap {
                    topic: place.0.to_string(),
                    partition: u32::try_from(place.1).unwrap_or(0),
                    from: progress.low,
                    to: first,
                });
                progress.finish_below(first);
            }
        }
        if let Some((parked, letters)) = &self.parked {
            let sources: Vec<Place> = given.iter().filter(|(topic, _)| !topic.starts_with(REPLAYS)).cloned().collect();
            let replays = parts.iter().filter(|((topic, _), _)| topic.starts_with(REPLAYS));
            let replays: HashMap<Place, Progress> =
                replays.map(|(place, progress)| (place.clone(), progress.clone())).collect();
            cluster.park(&desk.group, letters, parked, &sources, &replays)?;
        }
        let list = offsets(parts.iter().map(|(place, progress)| (place, progress.low)))?;
        member.consumer.assign(&list).map_err(|error| from_kafka("cannot begin to read", error))?;
        gaps.into_iter().for_each(|gap| desk.say(Ok(Item::Gap(gap))));
        desk.tell(|state| {
            for (place, progress) in parts {
                state.turns += 1;
                state.parts.insert(place, Part::new(state.turns, progress));
            }
        });
        Ok(left_out)
    }

    /// What is committed. Waits for what is under way of whoever had the partitions before.
    fn committed(&self, desk: &Desk, member: &Member, given: &[Place]) -> Result<HashMap<Place, Progress>> {
        if given.is_empty() {
            return Ok(HashMap::new());
        }
        let asking = |error| from_kafka(format!("cannot find out what group {} has finished", desk.group), error);
        let list = member.consumer.committed_offsets(place_list(given), ANSWER_MAX).map_err(asking)?;
        let mut parts = HashMap::new();
        for one in list.elements() {
            one.error().map_err(asking)?;
            if let Offset::Offset(offset) = one.offset() {
                let offset = u64::try_from(offset).unwrap_or(0);
                parts.insert((Arc::from(one.topic()), one.partition()), note::read(offset, one.metadata())?);
            }
        }
        Ok(parts)
    }

    /// Where the group begins in partitions that are new to it.
    fn begin(&self, cluster: &Cluster, new: &[Place]) -> Result<Vec<(Place, u64)>> {
        let of_replays = |place: &&Place| place.0.starts_with(REPLAYS);
        let replays: Vec<Place> = new.iter().filter(of_replays).cloned().collect();
        let sources: Vec<Place> = new.iter().filter(|place| !of_replays(place)).cloned().collect();
        let mut begins = cluster.resolve(&replays, Start::Earliest)?;
        begins.extend(cluster.resolve(&sources, self.start)?);
        Ok(begins)
    }

    /// Goes on elsewhere in one partition.
    pub(super) fn seek(&self, cluster: &Cluster, desk: &Desk, member: &Member, place: &Place, to: Start) -> Result<()> {
        if !desk.lock().parts.contains_key(place) {
            return Err(Error::invalid(format!(
                "topic {}, partition {} is not assigned to this member of group {}",
                place.0, place.1, desk.group
            )));
        }
        let found = cluster.resolve(std::slice::from_ref(place), to)?;
        let Some((_, offset)) = found.into_iter().next() else { return Ok(()) };
        let at = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        member
            .consumer
            .seek(&place.0, place.1, at, ANSWER_MAX)
            .map_err(|error| from_kafka(format!("cannot go on elsewhere in topic {}", place.0), error))?;
        desk.move_to(place, offset);
        Ok(())
    }
}

fn offsets<'a>(places: impl Iterator<Item = (&'a Place, u64)>) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (place, offset) in places {
        put(&mut list, place, offset, "")?;
    }
    Ok(list)
}
