//! Reading parts of topics, without being in a group.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::committer::put;
use super::desk::{Place, place_of};
use super::records::{Names, record};
use super::topics::TopicInfo;
use super::{Cluster, clients, place_list, places_of};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::from_kafka;
use crate::record::Message;
use crate::replay::decode;
use crate::task::unblock;

const LOOK: Duration = Duration::from_millis(20);
/// How long nothing may come: a transaction that somebody has left open may hold it up.
const PATIENCE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Calls `each` with every record from an offset up to and without another, in each partition. Where it says no, the rest of the
    /// partition is left out.
    pub(super) fn read(
        &self,
        ranges: HashMap<Place, (u64, u64)>,
        mut each: impl FnMut(Message) -> Result<bool>,
    ) -> Result<()> {
        let mut open: HashMap<Place, (u64, u64)> = ranges.into_iter().filter(|(_, (from, to))| from < to).collect();
        if open.is_empty() {
            return Ok(());
        }
        let reading = |error| from_kafka("cannot read what there is", error);
        let reader = clients::reader(&self.config)?;
        let mut list = TopicPartitionList::new();
        for (place, (from, _)) in &open {
            put(&mut list, place, *from, "")?;
        }
        reader.assign(&list).map_err(reading)?;
        let mut names = Names::default();
        let mut until = self.now().saturating_add(PATIENCE);
        let mut look_at = Duration::ZERO;
        while !open.is_empty() {
            self.check_open()?;
            let next = match reader.poll(LOOK) {
                Some(Ok(native)) => Some(record(&native, &mut names)?),
                Some(Err(error)) => {
                    let error = reading(error);
                    if error.kind() != ErrorKind::Unavailable {
                        return Err(error);
                    }
                    None
                }
                None => None,
            };
            let now = self.now();
            let mut over = Vec::new();
            if let Some(message) = next {
                let place = place_of(&message);
                if let Some((_, to)) = open.get(&place) {
                    until = now.saturating_add(PATIENCE);
                    let last = message.offset + 1 >= *to;
                    let beyond = message.offset >= *to;
                    if beyond || !each(message)? || last {
                        over.push(place);
                    }
                }
            }
            if now >= look_at {
                look_at = now.saturating_add(LOOK);
                // Marks of transactions are at the end, and nobody is shown them.
                let read = positions(&reader.position().map_err(reading)?);
                let is_over = |(place, (_, to)): &(&Place, &(u64, u64))| read.get(*place).is_some_and(|at| at >= to);
                over.extend(open.iter().filter(is_over).map(|(place, _)| place.clone()));
            }
            if !over.is_empty() {
                until = now.saturating_add(PATIENCE);
                open.retain(|place, _| !over.contains(place));
                // Somebody may write to them faster than they are read: what there is of the others must not wait for that.
                reader.pause(&place_list(&over)).map_err(reading)?;
            } else if now >= until {
                return Err(Error::new(ErrorKind::Unavailable, "the brokers do not give what there is in time"));
            }
        }
        Ok(())
    }

    /// The last events of a topic, of none if there is no such topic.
    pub(in crate::bus) async fn history<T, C>(
        self: &Arc<Self>,
        name: &str,
        count: u64,
        codec: C,
    ) -> Result<Vec<Message<T>>>
    where
        T: Send + 'static,
        C: Codec<T>,
    {
        self.check_open()?;
        let (cluster, name) = (Arc::clone(self), name.to_owned());
        unblock(move || {
            let Some(topic) = cluster.find(&name)? else { return Ok(Vec::new()) };
            let last = cluster.last(&topic, count)?;
            last.into_iter().map(|message| decode(&codec, message)).collect()
        })
        .await
    }

    /// The last records of a topic, oldest first by their times; in each partition in its order.
    fn last(&self, topic: &TopicInfo, count: u64) -> Result<Vec<Message>> {
        let ranges = self.ranges(&places_of(topic))?;
        let mut found: HashMap<Place, VecDeque<Message>> = HashMap::new();
        // Not every offset has a record: if there are too few of them, more is read.
        let mut open: HashMap<Place, (u64, u64)> =
            ranges.iter().map(|(place, (_, to))| (place.clone(), (*to, *to))).collect();
        let mut back = count;
        while !open.is_empty() {
            for (place, (from, to)) in &mut open {
                let first = ranges.get(place).map_or(0, |(first, _)| *first);
                *from = to.saturating_sub(back).max(first);
                found.remove(place);
            }
            self.read(open.clone(), |message| {
                let last = found.entry(place_of(&message)).or_default();
                last.push_back(message);
                if last.len() as u64 > count {
                    last.pop_front();
                }
                Ok(true)
            })?;
            open.retain(|place, (from, _)| {
                let first = ranges.get(place).map_or(0, |(first, _)| *first);
                let got = found.get(place).map_or(0, VecDeque::len) as u64;
                *from > first && got < count
            });
            back = back.saturating_mul(2).max(1);
        }
        let mut all = in_time(found.into_values());
        let surplus = (all.len() as u64).saturating_sub(count);
        all.drain(..usize::try_from(surplus).unwrap_or(all.len()));
        Ok(all)
    }
}

/// Records of several partitions in the order of their times, those of each partition in its own order.
pub(super) fn in_time(partitions: impl Iterator<Item = impl IntoIterator<Item = Message>>) -> Vec<Message> {
    let mut all = Vec::new();
    for partition in partitions {
        let mut time = i64::MIN;
        for message in partition {
            time = time.max(message.timestamp_micros);
            all.push((time, message));
        }
    }
    all.sort_by_key(|(time, message)| (*time, message.partition, message.offset));
    all.into_iter().map(|(_, message)| message).collect()
}

/// How far each partition was read.
pub(super) fn positions(list: &TopicPartitionList) -> HashMap<Place, u64> {
    let read = |one: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match one.offset() {
        Offset::Offset(offset) => Some(((Arc::from(one.topic()), one.partition()), u64::try_from(offset).ok()?)),
        _ => None,
    };
    list.elements().iter().filter_map(read).collect()
}
