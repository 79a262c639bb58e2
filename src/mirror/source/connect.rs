//! Connecting: which partitions there are, where each goes, and where it has come to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::super::checkpoint::Place;
use super::super::status::ErrorClass;
use super::batch::{Added, Batch};
use super::checkpoint::{self, Checkpoint};
use super::lane::{Lane, Paused, Target};
use super::record::ClusterOrigin;
use super::run::{Runner, Trouble};
use super::settings::{OnMissing, SourcePartitions, SourceStart};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{Admin, Class, KafkaContext, TopicInfo, class_of, from_kafka};
use crate::task::block;
use crate::text::quoted;
use crate::topic::Topic;

/// How long a question to the cluster may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How often the client library says how far Kafka's partitions reach.
const STATISTICS_MS: &str = "500";
/// How often the client library looks whether topics are still what they were.
const METADATA_MS: &str = "10000";

/// A connection: it lasts until the first error that is not about one partition.
pub(super) struct Session {
    pub(super) admin: Admin,
    pub(super) consumer: Arc<BaseConsumer<KafkaContext>>,
    pub(super) batch: Batch,
    pub(super) refreshed_at: Duration,
}

/// What the cluster has of what is wanted: topics, and names that are of no use, and why.
struct Found {
    topics: Vec<TopicInfo>,
    missing: Vec<(Arc<str>, Error)>,
}

impl Runner {
    /// Connects, and finds the place of each partition.
    pub(super) fn connect(&mut self) -> Result<Session, Trouble> {
        let log = self.settings.log.clone();
        let shared = Arc::clone(&self.shared);
        let admin = Admin::new(&self.kafka)?.within(ANSWER_MAX).unless(move || shared.is_stopping());
        let cluster = admin.cluster_id()?;
        let topic = checkpoint::open(&log)?;
        let known = checkpoint::read_all(&log, &self.settings.name)?;
        let mut batch = Batch::new(log, self.settings.name.clone(), cluster.clone(), topic);
        let mut lanes = Vec::new();
        let found = self.look_for(&admin)?;
        for (name, error) in found.missing {
            let place = (name.to_string(), 0);
            let mut lane = Lane::new(place, &Arc::from(self.settings.target(&name)));
            self.pause(&mut lane, error);
            lanes.push(lane);
        }
        for info in found.topics {
            let name: Arc<str> = self.settings.target(&info.name).into();
            // What the log cannot have under that name, or with so many partitions, is no reason to stop the others.
            let target = match self.target(&name, &info) {
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Invalid) => Err(error),
                found => Ok(found?),
            };
            for (number, partition) in info.partitions.iter().enumerate() {
                let place = (info.name.clone(), u32::try_from(number).unwrap_or(u32::MAX));
                let mut lane = Lane::new(place, &name);
                if partition.leader.is_none() {
                    let error = format!("topic {}, partition {number} of Kafka has no leader", quoted(&info.name));
                    self.pause(&mut lane, Error::new(ErrorKind::Unavailable, error));
                } else {
                    match &target {
                        Ok(target) => self.aim(&mut lane, target.as_ref(), &cluster),
                        Err(error) => self.pause(&mut lane, error.clone()),
                    }
                }
                if lane.paused.is_none() {
                    let checkpoint = known.get(&lane.place);
                    self.begin(&mut lane, checkpoint, &admin, &cluster, &mut batch, lanes.len())?;
                }
                lanes.push(lane);
            }
        }
        // What is not to be read any more is not held against it.
        self.paused.retain(|place, _| lanes.iter().any(|lane| lane.place == *place));
        let consumer = self.consume(&mut lanes)?;
        self.lanes = lanes;
        Ok(Session { admin, consumer, batch, refreshed_at: self.now() })
    }

    fn look_for(&self, admin: &Admin) -> Result<Found> {
        let mut found = Found { topics: Vec::new(), missing: Vec::new() };
        for name in &self.names.names {
            match admin.describe(name) {
                Ok(Some(info)) => found.topics.push(info),
                Ok(None) => {
                    let error = format!("there is no topic {} in Kafka", quoted(name));
                    found.missing.push((Arc::clone(name), Error::new(ErrorKind::NotFound, error)));
                }
                Err(error) if class_of(&error) == Class::Partition => {
                    found.missing.push((Arc::clone(name), error));
                }
                Err(error) => return Err(error),
            }
        }
        if self.names.has_patterns() {
            for info in admin.topics()? {
                let is_known = found.topics.iter().any(|known| known.name == info.name);
                if !is_known && self.names.matches(&info.name) {
                    found.topics.push(info);
                }
            }
        }
        Ok(found)
    }

    /// Whether there is something now that there was not when this session began: a topic, a partition, a leader.
    pub(super) fn has_grown(&self, admin: &Admin) -> Result<bool> {
        let found = self.look_for(admin)?;
        let lane = |place: &Place| self.lanes.iter().find(|lane| lane.place == *place);
        Ok(found.topics.iter().any(|info| {
            info.partitions.iter().zip(0_u32..).any(|(partition, number)| match lane(&(info.name.clone(), number)) {
                None => true,
                Some(lane) => {
                    let why = lane.paused.as_ref().map(|paused| paused.error.kind());
                    // No leader before, or no topic.
                    partition.leader.is_some() && matches!(why, Some(ErrorKind::Unavailable))
                        || lane.target.is_none() && matches!(why, Some(ErrorKind::NotFound)) && self.has_target(lane)
                }
            })
        }))
    }

    /// Whether there is a topic of the log for it, or one is made.
    fn has_target(&self, lane: &Lane) -> bool {
        self.settings.create.is_some() || self.settings.log.raw_topic(&lane.target_name).is_ok()
    }

    /// The topic of the log; `None` if there is none and none is to be made.
    fn target(&self, name: &str, info: &TopicInfo) -> Result<Option<(Topic, String)>> {
        let log = &self.settings.log;
        let in_kafka = u32::try_from(info.partitions.len()).unwrap_or(u32::MAX);
        let preserves = self.settings.partitions == SourcePartitions::Preserve;
        let topic = match (log.raw_topic(name), &self.settings.create) {
            (Err(error), Some(settings)) if error.kind() == ErrorKind::NotFound => {
                let mut settings = settings.clone();
                if preserves {
                    settings.partitions = settings.partitions.max(in_kafka);
                }
                log.blocking_create_topic(crate::codec::TopicDef::named(name), settings)?
            }
            (Err(error), None) if error.kind() == ErrorKind::NotFound => return Ok(None),
            (found, _) => found?,
        };
        if preserves && self.settings.create.is_some() && topic.partitions() < in_kafka {
            let mut added = std::pin::pin!(log.add_partitions(name, in_kafka));
            block(|cx| added.as_mut().poll(cx))?;
        }
        let id = log.describe_topic(name)?.id.to_string();
        Ok(Some((topic, id)))
    }

    /// Gives a lane the partition that its records go to, or pauses it.
    fn aim(&self, lane: &mut Lane, target: Option<&(Topic, String)>, cluster: &str) {
        let (place, name) = (lane.place.clone(), Arc::clone(&lane.target_name));
        let Some((topic, id)) = target else {
            let error = format!(
                "topic {} of Kafka goes to topic {}, which is not there; make it, or have the source make it",
                quoted(&place.0),
                quoted(&name)
            );
            return self.pause(lane, Error::new(ErrorKind::NotFound, error));
        };
        let preserves = self.settings.partitions == SourcePartitions::Preserve;
        let there = topic.partitions();
        if preserves && place.1 >= there {
            let error = format!(
                "topic {} has {there} partitions, and partition {} of topic {} of Kafka goes to the one of the same number; add \
                 partitions, or let the key pick them",
                quoted(&name),
                place.1,
                quoted(&place.0)
            );
            return self.pause(lane, Error::invalid(error));
        }
        lane.target = Some(Target {
            topic: topic.clone(),
            topic_id: id.clone(),
            partition: preserves.then_some(place.1),
            origin: ClusterOrigin::new(cluster, &place),
        });
        // It was paused before for what nobody has seen to since; what is there and what is not is known anew.
        let is_open = |paused: &&Paused| !matches!(paused.error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound);
        lane.paused = self.paused.get(&place).filter(is_open).cloned();
    }

    /// Has a lane go on where the log says that it has come to.
    fn begin(
        &mut self,
        lane: &mut Lane,
        known: Option<&Checkpoint>,
        admin: &Admin,
        cluster: &str,
        batch: &mut Batch,
        index: usize,
    ) -> Result<(), Trouble> {
        let (low, end) = match admin.watermarks(&lane.place.0, lane.place.1) {
            Ok(found) => found,
            Err(error) if class_of(&error) == Class::Partition => {
                self.pause(lane, error);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        lane.end = end;
        let Some(known) = known else {
            lane.next = match self.settings.start {
                SourceStart::Earliest => low,
                SourceStart::Latest => end,
            };
            lane.taken = lane.next;
            if self.settings.start == SourceStart::Latest {
                // Or what comes before the first record is read would be passed over if it began again.
                batch.add_beginning(index);
            }
            return Ok(());
        };
        (lane.next, lane.taken, lane.last) = (known.next_offset, known.next_offset, known.last);
        let (topic, partition) = &lane.place;
        let mismatch = |what: String| {
            let about = format!(
                "source {} has read topic {}, partition {partition} of Kafka",
                self.settings.name,
                quoted(topic)
            );
            let text = format!("{about} up to offset {}: {what}", known.next_offset);
            Trouble::Fatal(Error::new(ErrorKind::Mismatch, text))
        };
        if known.cluster != cluster {
            return Err(mismatch(format!(
                "that was in cluster {}, and this is cluster {}; give the source of another cluster another name",
                quoted(&known.cluster),
                quoted(cluster)
            )));
        }
        if lane.target.as_ref().is_some_and(|target| target.topic_id != known.topic_id) {
            return Err(mismatch(format!(
                "what it has read went to another topic of the log than the {} that is there now; a source of another name begins \
                 anew",
                quoted(&lane.target_name)
            )));
        }
        if end < known.next_offset {
            return Err(mismatch(format!(
                "the partition ends at {end} now, so it is another one, or has lost its end; a source of another name begins anew"
            )));
        }
        if low > known.next_offset {
            return self.overrun(lane, low, batch, index);
        }
        lane.verify = known.last.filter(|last| last.offset >= low);
        Ok(())
    }

    /// Kafka has let go what was not read yet.
    fn overrun(&self, lane: &mut Lane, low: i64, batch: &mut Batch, index: usize) -> Result<(), Trouble> {
        let (topic, partition) = &lane.place;
        let text = format!(
            "offsets {} to {} of topic {}, partition {partition} of Kafka are gone: retention was faster than source {}",
            lane.next,
            low - 1,
            quoted(topic),
            self.settings.name
        );
        let error = Error::new(ErrorKind::OffsetOutOfRange, text);
        match self.settings.on_gap {
            OnMissing::Stop => self.pause(lane, error),
            OnMissing::Skip => match batch.add_gap(index, lane, low)? {
                Added::Yes => self.shared.met(ErrorClass::Skipped, Some(lane.place.clone()), error),
                // A compacted topic takes no record without a key.
                Added::Full | Added::Refused(_) => self.pause(lane, error),
            },
        }
        Ok(())
    }

    /// Has the partitions fetched that are not paused, each into a queue of its own.
    fn consume(&self, lanes: &mut [Lane]) -> Result<Arc<BaseConsumer<KafkaContext>>> {
        let failed = |error| from_kafka("the Kafka client cannot be made", error);
        let reading = lanes.iter().filter(|lane| lane.paused.is_none()).count().max(1);
        let bytes = self.settings.in_flight_bytes_max;
        let share = (bytes / reading).max(64 * 1024);
        let mut config = self.kafka.consumer();
        config
            // Nobody joins this group: the client library wants a name to let partitions be picked.
            .set("group.id", format!("annals.{}.{}", self.settings.log.id(), self.settings.name))
            .set("enable.partition.eof", "true")
            .set("statistics.interval.ms", STATISTICS_MS)
            .set("topic.metadata.refresh.interval.ms", METADATA_MS)
            .set("queued.max.messages.kbytes", (share / 1024).to_string())
            .set("fetch.message.max.bytes", share.min(1024 * 1024).to_string())
            .set("fetch.max.bytes", bytes.clamp(1024 * 1024, 50 * 1024 * 1024).to_string());
        let consumer = config.create_with_context(KafkaContext::new(&self.kafka)).map_err(failed)?;
        let consumer: Arc<BaseConsumer<KafkaContext>> = Arc::new(consumer);
        let mut from = TopicPartitionList::new();
        for lane in lanes.iter_mut().filter(|lane| lane.paused.is_none()) {
            let (topic, partition) = (lane.place.0.as_str(), i32::try_from(lane.place.1).unwrap_or(i32::MAX));
            // Before anything is fetched, so that nothing goes to the queue that all have in common.
            let Some(mut queue) = consumer.split_partition_queue(topic, partition) else {
                return Err(Error::invalid(format!("the client library has no queue for topic {}", quoted(topic))));
            };
            let shared = Arc::clone(&self.shared);
            queue.set_nonempty_callback(move || shared.ring());
            lane.queue = Some(queue);
            from.add_partition_offset(topic, partition, Offset::Offset(lane.fetch_from())).map_err(failed)?;
        }
        consumer.assign(&from).map_err(failed)?;
        Ok(consumer)
    }

    /// Takes a lane out of the running, and says so, once.
    pub(super) fn pause(&self, lane: &mut Lane, error: Error) {
        let before = self.paused.get(&lane.place).map(|paused| paused.error.to_string());
        if before != Some(error.to_string()) {
            self.shared.met(ErrorClass::Partition, Some(lane.place.clone()), error.clone());
        }
        lane.paused = Some(Paused { error, since: self.now() });
    }

    /// What lanes are paused for, for the next session.
    pub(super) fn remember_paused(&mut self) {
        let paused = self.lanes.iter().filter_map(|lane| Some((lane.place.clone(), lane.paused.clone()?)));
        self.paused = paused.collect::<BTreeMap<_, _>>();
    }
}
