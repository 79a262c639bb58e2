//! Looking at what is in Kafka, and deleting it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::Offset;

use super::clients::{self, admin_options};
use super::desk::{Place, place_of};
use super::{Cluster, note, place_list, places_of};
use crate::consumer::TopicPartition;
use crate::error::{Error, ErrorKind, Result};
use crate::group::progress::Progress;
use crate::handle::GroupPartition;
use crate::kafka::{code, from_kafka};
use crate::task::unblock;
use crate::text::quoted;

impl Cluster {
    /// Deletes all records that a topic has now.
    pub(in crate::bus) async fn clear(self: &Arc<Self>, name: &str) -> Result<()> {
        self.check_open()?;
        let context = format!("cannot delete the events of topic {}", quoted(name));
        let failed = |error| match code(&error) {
            // What the brokers say of a topic that is compacted, and of nothing else.
            Some(Code::PolicyViolation) => Error::new(
                ErrorKind::Unsupported,
                format!("{context}: it is compacted, and Kafka deletes no records of such a topic; a log does"),
            ),
            _ => from_kafka(context.as_str(), error),
        };
        let client = self.admin.native(&context)?;
        let Some(topic) = self.find_away(name).await? else { return Ok(()) };
        let mut list = place_list(&places_of(&topic));
        list.set_all_offsets(Offset::End).map_err(failed)?;
        let done = client.delete_records(&list, &admin_options()).await.map_err(failed)?;
        let wrong = done.elements().iter().find_map(|one| one.error().err());
        wrong.map_or(Ok(()), |error| Err(failed(error)))
    }

    /// What a group has committed, of all these partitions.
    pub(super) fn committed(&self, group: &str, places: &[Place]) -> Result<HashMap<Place, Progress>> {
        if places.is_empty() {
            return Ok(HashMap::new());
        }
        let client = clients::outsider(&self.config, group)?;
        let context = format!("cannot find out what group {} has finished", quoted(group));
        let list = clients::asked(&**self.clock(), &client, &context, |client, slice| {
            client.committed_offsets(place_list(places), slice)
        })?;
        let mut found = HashMap::new();
        for one in list.elements() {
            match one.error() {
                Err(KafkaError::OffsetFetch(Code::UnknownTopicOrPartition)) => continue,
                other => other.map_err(|error| from_kafka(context.as_str(), error))?,
            }
            if let Offset::Offset(offset) = one.offset() {
                let offset = u64::try_from(offset).unwrap_or(0);
                found.insert((Arc::from(one.topic()), one.partition()), note::read(offset, one.metadata())?);
            }
        }
        Ok(found)
    }

    /// How far a group is behind, in all that it has committed, and all that `reads` says.
    pub(in crate::bus) async fn lag(
        self: &Arc<Self>,
        group: &str,
        reads: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<Vec<GroupPartition>> {
        let (cluster, group) = (Arc::clone(self), group.to_owned());
        unblock(move || cluster.lag_now(&group, reads)).await
    }

    fn lag_now(&self, group: &str, reads: impl Fn(&str) -> bool) -> Result<Vec<GroupPartition>> {
        self.check_open()?;
        let mut places = Vec::new();
        for topic in self.all_topics()? {
            places.extend(places_of(&topic));
        }
        let committed = self.committed(group, &places)?;
        places.retain(|place| committed.contains_key(place) || reads(&place.0));
        if places.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no group {}: nobody here is in it, and it has finished nothing", quoted(group)),
            ));
        }
        let ranges = self.ranges(&places)?;
        let oldest = self.oldest_open(&committed, &ranges)?;
        let now = self.clock().now_micros();
        places.sort();
        let describe = |place: &Place| {
            let (log_start, high_watermark) = ranges.get(place).copied().unwrap_or_default();
            let progress = committed.get(place);
            let low = progress.map_or(log_start, |progress| progress.low.max(log_start));
            let ahead: u64 = progress.map_or(0, |progress| progress.done.iter().map(|(from, to)| to - from).sum());
            // Behind the last event there may be marks of transactions, which nobody takes.
            let (behind, age) = match oldest.get(place) {
                Some(time) => (high_watermark.saturating_sub(low).saturating_sub(ahead), now.saturating_sub(*time)),
                None => (0, 0),
            };
            GroupPartition {
                partition: TopicPartition {
                    topic: place.0.to_string(),
                    partition: u32::try_from(place.1).unwrap_or(0),
                },
                member: None,
                committed: progress.map(|progress| progress.low),
                committed_at: None,
                finished_ahead: ahead,
                log_start,
                high_watermark,
                lag_records: behind,
                lag: Duration::from_micros(u64::try_from(age).unwrap_or(0)),
            }
        };
        Ok(places.iter().map(describe).collect())
    }

    /// The time of the first event of each partition that is not done, where there is one.
    fn oldest_open(
        &self,
        committed: &HashMap<Place, Progress>,
        ranges: &HashMap<Place, (u64, u64)>,
    ) -> Result<HashMap<Place, i64>> {
        let open = ranges.iter().map(|(place, (first, end))| {
            let low = committed.get(place).map_or(*first, |progress| progress.low.max(*first));
            (place.clone(), (low, *end))
        });
        let mut oldest = HashMap::new();
        self.read(open.collect(), |message| {
            let place = place_of(&message);
            let done = committed.get(&place).is_some_and(|progress| progress.is_finished(message.offset));
            if !done {
                oldest.insert(place, message.timestamp_micros);
            }
            Ok(done)
        })?;
        Ok(oldest)
    }
}
