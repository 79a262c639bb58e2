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
        if places.is_empty() {
            return Ok(HashMap::new());
        }
        const ASKING: &str = "cannot find out where partitions begin and end";
        let found: TopicPartitionList = self.asked(ASKING, |query, slice| {
            let mut list = place_list(places);
            list.set_all_offsets(time)?;
            let found = query.offsets_for_times(list, slice)?;
            found.elements().iter().try_for_each(TopicPartitionListElem::error)?;
            Ok(found)
        })?;
        let mut offsets = HashMap::new();
        for one in found.elements() {
            let offset = match one.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            };
            offsets.insert((Arc::from(one.topic()), one.partition()), offset);
        }
        match places.iter().find(|place| !offsets.contains_key(*place)) {
            Some((topic, partition)) => {
                let sentence =
                    format!("the brokers do not say where topic {topic}, partition {partition} begins and ends");
                Err(Error::new(ErrorKind::Unavailable, sentence))
            }
            None => Ok(offsets),
        }
    }

    /// Behind the last record of each partition, of transactions under way included.
    pub(super) fn ends(&self, places: &[Place]) -> Result<HashMap<Place, u64>> {
        let ends = self.offsets(places, Offset::End)?;
        Ok(ends.into_iter().map(|(place, end)| (place, end.unwrap_or(0))).collect())
    }

    /// The first offset of each partition, and the one behind its last.
    pub(super) fn ranges(&self, places: &[Place]) -> Result<HashMap<Place, (u64, u64)>> {
        let (firsts, ends) = (self.offsets(places, Offset::Beginning)?, self.ends(places)?);
        let range = |(place, end): (Place, u64)| {
            let first = firsts.get(&place).copied().flatten().unwrap_or(0);
            (place, (first, end))
        };
        Ok(ends.into_iter().map(range).collect())
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
