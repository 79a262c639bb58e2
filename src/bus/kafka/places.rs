//! Where partitions begin and end, and where in them a reader begins.

use std::collections::HashMap;
use std::sync::Arc;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

use super::desk::Place;
use super::{Cluster, place_list};
use crate::error::{Error, ErrorKind, Result};
use crate::replay::Start;

impl Cluster {
    /// An offset of each partition, by a time in milliseconds or one of the two times that stand for its begin and its end.
    fn offsets(&self, places: &[Place], time: Offset) -> Result<HashMap<Place, Option<u64>>> {
        let offsets = self.offsets_that(places, time, true)?;
        match places.iter().find(|place| !offsets.contains_key(*place)) {
            Some((topic, partition)) => {
                let sentence =
                    format!("the brokers do not say where topic {topic}, partition {partition} begins and ends");
                Err(Error::new(ErrorKind::Unavailable, sentence))
            }
            None => Ok(offsets),
        }
    }

    /// The same, of all or of those of which there is an answer at once.
    fn offsets_that(&self, places: &[Place], time: Offset, all: bool) -> Result<HashMap<Place, Option<u64>>> {
        if places.is_empty() {
            return Ok(HashMap::new());
        }
        const ASKING: &str = "cannot find out where partitions begin and end";
        let found: TopicPartitionList = self.asked(ASKING, |query, slice| {
            let mut list = place_list(places);
            list.set_all_offsets(time)?;
            let found = query.offsets_for_times(list, slice)?;
            if all {
                found.elements().iter().try_for_each(TopicPartitionListElem::error)?;
            }
            Ok(found)
        })?;
        let mut offsets = HashMap::new();
        for one in found.elements().into_iter().filter(|one| one.error().is_ok()) {
            let offset = match one.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            };
            offsets.insert((Arc::from(one.topic()), one.partition()), offset);
        }
        Ok(offsets)
    }

    /// Behind the last record of each partition, of transactions under way included.
    pub(super) fn ends(&self, places: &[Place]) -> Result<HashMap<Place, u64>> {
        let ends = self.offsets(places, Offset::End)?;
        Ok(ends.into_iter().map(|(place, end)| (place, end.unwrap_or(0))).collect())
    }

    /// The first offset of each partition, and the one behind its last.
    pub(super) fn ranges(&self, places: &[Place]) -> Result<HashMap<Place, (u64, u64)>> {
        Ok(zip(&self.offsets(places, Offset::Beginning)?, self.offsets(places, Offset::End)?))
    }

    /// The same, without partitions that have no leader, unless all have none.
    pub(super) fn known_ranges(&self, places: &[Place]) -> Result<HashMap<Place, (u64, u64)>> {
        let error = match self.ranges(places) {
            Err(error) if error.kind() == ErrorKind::Unavailable && places.len() > 1 => error,
            answer => return answer,
        };
        let firsts = self.offsets_that(places, Offset::Beginning, false)?;
        let known = zip(&firsts, self.offsets_that(places, Offset::End, false)?);
        if known.is_empty() { Err(error) } else { Ok(known) }
    }

    /// Whether one of these partitions has a leader.
    pub(super) fn has_leader(&self, places: &[Place]) -> Result<bool> {
        for (topic, partition) in places {
            let known = self.asked("cannot find out who leads a partition", |query, slice| {
                query.fetch_metadata(Some(topic), slice)
            })?;
            let mut partitions = known.topics().iter().flat_map(|topic| topic.partitions());
            if partitions.any(|known| known.id() == *partition && known.leader() >= 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where a reader begins in each partition.
    pub(super) fn resolve(&self, places: &[Place], start: Start) -> Result<Vec<(Place, u64)>> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        if let Start::Commit(_) = start {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a bus on Kafka has no numbers of commits, and cannot begin at one; a bus on a log can",
            ));
        }
        let ranges = self.ranges(places)?;
        let times = match start {
            Start::Timestamp(time) => self.offsets(places, Offset::Offset(time.timestamp_millis().max(0)))?,
            _ => HashMap::new(),
        };
        let mut found = Vec::with_capacity(places.len());
        for place in places {
            let (first, end) = ranges.get(place).copied().unwrap_or_default();
            let offset = match start {
                Start::Earliest | Start::Commit(_) => first,
                Start::Latest => end,
                Start::Last(count) => end.saturating_sub(count).max(first),
                Start::Timestamp(_) => times.get(place).copied().flatten().unwrap_or(end),
                Start::Offset(offset) if (first..=end).contains(&offset) => offset,
                Start::Offset(offset) => {
                    return Err(Error::new(
                        ErrorKind::OffsetOutOfRange,
                        format!(
                            "topic {}, partition {} has no offset {offset}; it has {first} to {end}",
                            place.0, place.1
                        ),
                    ));
                }
            };
            found.push((place.clone(), offset));
        }
        Ok(found)
    }
}

/// Of partitions of which both are known.
fn zip(firsts: &HashMap<Place, Option<u64>>, ends: HashMap<Place, Option<u64>>) -> HashMap<Place, (u64, u64)> {
    let range = |(place, end): (Place, Option<u64>)| {
        let first = *firsts.get(&place)?;
        Some((place, (first.unwrap_or(0), end.unwrap_or(0))))
    };
    ends.into_iter().filter_map(range).collect()
}
