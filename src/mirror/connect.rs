//! Reaching the target, and finding out where to go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::message::OwnedHeaders;

use super::checkpoint::{Checkpoint, Claim, Place};
use super::cluster::Cluster;
use super::forward::cannot_mark;
use super::lane::Lane;
use super::producer::{Outgoing, Producer, Trouble};
use super::run::{Held, Runner, Session};
use super::settings::{Guarantee, OnBreach};
use super::status::MirrorState;
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{Class, NewTopic, class, class_of, code as code_of, from_kafka};
use crate::topic::{PartitionDescription, TopicDescription};

/// It is read as a whole at each beginning. Brokers compact all but the segment that is written to, which has 1 GiB unless they are told
/// otherwise.
const CHECKPOINT_TOPIC: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("segment.bytes", "16777216"), ("min.cleanable.dirty.ratio", "0.1")];

/// How often a log that another process writes is looked at before what the target has is found not to be in it, and how long it is waited
/// in between.
const READ_ONLY_LOOKS: u32 = 10;
const READ_ONLY_PAUSE: Duration = Duration::from_millis(50);

impl Runner {
    pub(super) fn connect(&mut self) -> Result<Session, Trouble> {
        self.shared.set_state(MirrorState::Connecting);
        let shared = Arc::clone(&self.shared);
        let stopping = Arc::clone(&self.shared);
        let cluster = Cluster::new(&self.kafka, move || stopping.is_stopping())?;
        let (producer, checkpoints) = match self.settings.guarantee {
            Guarantee::AtLeastOnce => {
                (Producer::begin(&self.settings, &self.kafka, || shared.is_stopping())?, BTreeMap::new())
            }
            Guarantee::ExactlyOnce => {
                self.ensure_checkpoint_topic(&cluster)?;
                self.look_for_another(&cluster)?;
                let producer = Producer::begin(&self.settings, &self.kafka, || shared.is_stopping())?;
                // Whoever has begun in between is shut out now; it goes on by itself once this one has ended.
                let newest = self.look_for_another(&cluster)?;
                self.claim(&producer, newest + 1)?;
                let wait = |time| {
                    shared.rest(time);
                    if shared.is_stopping() { Err(Error::closed()) } else { Ok(()) }
                };
                let claim = (self.settings.log.id(), self.epoch, self.instance);
                match cluster.checkpoints(&self.settings.checkpoint_topic, &self.settings.name, claim, wait) {
                    Err(_) if shared.is_stopping() => return Err(Trouble::Stopped),
                    read => (producer, read?),
                }
            }
        };
        let places = self.places_here()?;
        let mut session = Session { producer, cluster, checkpoints, places, refreshed_at: self.now() };
        self.find_lanes(&mut session, true)?;
        self.has_begun = true;
        Ok(session)
    }

    /// The number of the newest beginning, if this instance may begin: no other one has begun since it did, and the log is the right one.
    /// To begin anew would shut the other one out, and the two would take turns.
    fn look_for_another(&self, cluster: &Cluster) -> Result<u64, Trouble> {
        let (topic, name) = (&self.settings.checkpoint_topic, &self.settings.name);
        let seen = cluster.look(topic, name, self.settings.log.id())?;
        // Of its own claim it may not know whether it was committed.
        if self.epoch > 0 && seen.epoch > self.epoch && seen.instance != self.instance {
            return Err(Trouble::Superseded(Error::new(
                ErrorKind::Fenced,
                format!("another instance of mirror {name} has begun since, and goes on in place of this one"),
            )));
        }
        self.check_places(&seen.checkpoints)?;
        Ok(seen.epoch)
    }

    /// Whether this log goes with what is in the target. A mirror of another one, such as a copy of a backup, has no business there, and must
    /// not shut out one that has: so it is looked before it begins, and again once nobody else goes on.
    fn check_places(&self, checkpoints: &BTreeMap<Place, Checkpoint>) -> Result<(), Trouble> {
        // What another process writes may be in the target before it is seen here.
        let mut looks = if self.settings.log.is_read_only() { READ_ONLY_LOOKS } else { 1 };
        loop {
            match self.settings.log.blocking_refresh() {
                // Not all could be read: nothing can be said of what is not there.
                Err(error) if error.kind() == ErrorKind::Io => return Err(Trouble::Passing(error)),
                refreshed => refreshed?,
            }
            looks -= 1;
            match self.check_places_now(checkpoints) {
                Err(error) if error.kind() == ErrorKind::Mismatch && looks > 0 && !self.shared.is_stopping() => {
                    self.shared.rest(READ_ONLY_PAUSE);
                }
                checked => return Ok(checked?),
            }
        }
    }

    fn check_places_now(&self, checkpoints: &BTreeMap<Place, Checkpoint>) -> Result<()> {
        let log = &self.settings.log;
        for topic in log.topics()?.into_iter().filter(|topic| self.names.matches(&topic.name)) {
            for there in &topic.partitions {
                let place = (topic.name.clone(), there.partition);
                let Some(checkpoint) = checkpoints.get(&place) else { continue };
                match checkpoint.check(&log.raw_topic(&topic.name)?, topic.id, &place, log.id()) {
                    Err(error) if is_damage(&error) => {}
                    checked => checked?,
                }
            }
        }
        Ok(())
    }

    /// Says that this instance has begun, at once: until then an earlier one does not know. Who could not say so has not begun.
    fn claim(&mut self, producer: &Producer, epoch: u64) -> Result<(), Trouble> {
        let (topic, log) = (&self.settings.checkpoint_topic, self.settings.log.id());
        let (key, value) = (Claim::key(&self.settings.name, log), Claim::new(log, epoch, self.instance).value());
        let outgoing = Outgoing {
            topic,
            partition: 0,
            key: Some(key.as_bytes()),
            value: Some(&value),
            headers: OwnedHeaders::new_with_capacity(0),
            timestamp: None,
        };
        let is_stopping = || self.shared.is_stopping();
        producer.begin_transaction()?;
        if let Some(code) = producer.send(0, outgoing, is_stopping)? {
            return Err(cannot_mark(code));
        }
        producer.flush(is_stopping)?;
        if let Some((_, code)) = producer.take_failed().first() {
            let sentence = format!("the target does not take the checkpoints in topic {topic}");
            // Why the transaction is refused says more than that its record was not delivered.
            let error = producer.refusal().filter(|error| code_of(error).is_some());
            let error = error.unwrap_or(KafkaError::MessageProduction(*code));
            return Err(producer.broken(&sentence).unwrap_or_else(|| match code_of(&error).map(class) {
                Some(Class::Partition | Class::Fatal) => Trouble::Fatal(from_kafka(sentence, error)),
                Some(Class::Passing) | None => Trouble::Passing(from_kafka(sentence, error)),
            }));
        }
        producer.commit(is_stopping)?;
        self.epoch = epoch;
        Ok(())
    }

    /// Sees to it that there is a topic for checkpoints, and that it keeps them: one that lets them go after a time would have a mirror that
    /// has stood still for so long forward everything again.
    fn ensure_checkpoint_topic(&mut self, cluster: &Cluster) -> Result<()> {
        let name = &self.settings.checkpoint_topic;
        if cluster.admin.describe(name)?.is_some() {
            if !self.is_kept {
                cluster.admin.check_keeps(name)?;
                self.is_kept = true;
            }
            return Ok(());
        }
        cluster.admin.create(&NewTopic {
            name: name.clone(),
            partitions: 1,
            replication: self.settings.create.as_ref().and_then(|create| create.replication),
            config: CHECKPOINT_TOPIC.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        })?;
        Ok(())
    }

    /// Whether topics or partitions have come or gone.
    pub(super) fn has_news(&self) -> Result<bool> {
        let (mut partitions, mut known) = (0, 0);
        for topic in self.settings.log.topics()?.iter().filter(|topic| self.names.matches(&topic.name)) {
            partitions += topic.partitions.len();
            known += self.lanes.iter().filter(|lane| lane.topic_id == topic.id).count();
        }
        Ok(partitions != known || known != self.lanes.len())
    }

    /// Takes in topics and partitions that it does not forward yet, and lets go of those that are no more. Nothing of a transaction may
    /// be open.
    pub(super) fn find_lanes(&mut self, session: &mut Session, beginning: bool) -> Result<(), Trouble> {
        let log = self.settings.log.clone();
        if beginning {
            for lane in std::mem::take(&mut self.lanes) {
                self.memories.insert((lane.topic_id, lane.place.1), lane.memory);
            }
        }
        self.hold_all()?;
        let topics: Vec<_> = log.topics()?.into_iter().filter(|topic| self.names.matches(&topic.name)).collect();
        let is_there = |lane: &Lane| topics.iter().any(|topic| topic.id == lane.topic_id);
        for gone in self.lanes.iter_mut().filter(|lane| !is_there(lane)) {
            // A topic of the same name is another one, as after a new beginning.
            let checkpoint = gone.checkpoint(log.id(), self.epoch);
            session.checkpoints.insert(gone.place.clone(), checkpoint);
            session.places.remove(&gone.place);
        }
        self.lanes.retain(is_there);
        for description in topics {
            let known = self.lanes.iter().filter(|lane| lane.topic_id == description.id).count();
            if known == description.partitions.len() {
                continue;
            }
            let target: Arc<str> = self.settings.target(&description.name).into();
            let (partitions, error) = match self.target_partitions(session, &description, &target) {
                Ok(partitions) => (partitions, None),
                // The others can go on; there is nobody yet who relies on it if it has never begun.
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error.into()),
                // Not this topic is refused, but whoever asks.
                Err(error) if error.kind() == ErrorKind::Denied && class_of(&error) == Class::Fatal => {
                    return Err(Trouble::Fatal(error));
                }
                Err(error) if error.kind() == ErrorKind::Invalid && !self.has_begun => {
                    return Err(Trouble::Fatal(error));
                }
                Err(error) => (0, Some(error)),
            };
            let topic = log.raw_topic(&description.name)?;
            for partition in description.partitions.iter().map(|partition| partition.partition) {
                let place = (description.name.clone(), partition);
                if self.lanes.iter().any(|lane| lane.topic_id == description.id && lane.place == place) {
                    continue;
                }
                let memory = self.memories.remove(&(description.id, partition)).unwrap_or_default();
                let target = (Arc::clone(&target), partitions);
                let mut lane = Lane::new(log.id(), place, topic.clone(), description.id, target, memory);
                self.begin_lane(session, &mut lane)?;
                if let Some(held) = self.holds.get(&(lane.topic_id, partition)) {
                    held.hold.advance(lane.committed);
                }
                match &error {
                    Some(error) => lane.pause(&self.shared, self.now(), error.clone()),
                    None if self.preserves() && partition >= partitions => {
                        lane.pause(
                            &self.shared,
                            self.now(),
                            too_few(&description.name, &lane.target, partition + 1, partitions),
                        );
                    }
                    None => {}
                }
                self.lanes.push(lane);
            }
        }
        self.lanes.sort_by(|a, b| a.place.cmp(&b.place));
        // The rest is about what is no more.
        self.memories.clear();
        Ok(())
    }

    /// Keeps retention from overtaking it, from where the log says that it has come to: the target need not be there for that.
    pub(super) fn hold_all(&mut self) -> Result<()> {
        let Some(hold) = self.settings.hold.filter(|_| !self.settings.log.is_read_only()) else { return Ok(()) };
        // Where publishers are to be stopped at the cap, nothing is let go beyond it.
        let (bytes, age) = match self.settings.on_breach {
            OnBreach::Block => (None, None),
            OnBreach::Stop | OnBreach::Skip => (hold.bytes_max, hold.age_max),
        };
        let topics: Vec<_> =
            self.settings.log.topics()?.into_iter().filter(|topic| self.names.matches(&topic.name)).collect();
        let places = self.places_here()?;
        let mut holds = std::mem::take(&mut self.holds);
        for topic in &topics {
            for there in &topic.partitions {
                let held = match holds.remove(&(topic.id, there.partition)) {
                    Some(held) => held,
                    None => match self.hold(&topic.name, there, &places, (bytes, age)) {
                        // It was deleted a moment ago.
                        Err(error) if error.kind() == ErrorKind::NotFound => break,
                        held => held?,
                    },
                };
                self.holds.insert((topic.id, there.partition), held);
            }
        }
        Ok(())
    }

    fn hold(
        &self,
        topic: &str,
        there: &PartitionDescription,
        places: &BTreeMap<Place, u64>,
        (bytes, age): (Option<u64>, Option<Duration>),
    ) -> Result<Held> {
        let (log, place) = (&self.settings.log, (topic.to_owned(), there.partition));
        let from = places.get(&place).copied().unwrap_or(there.log_start);
        let hold = log.hold_retention(topic, there.partition, from, bytes, age)?;
        Ok(Held { hold: Arc::new(hold), topic: log.raw_topic(topic)?, place, from })
    }

    fn begin_lane(&self, session: &Session, lane: &mut Lane) -> Result<(), Trouble> {
        let noted = session.places.get(&lane.place).copied();
        lane.cached = noted;
        // What retention has let go since it was to be held is told as missing, though nothing was ever forwarded.
        let held = self.holds.get(&(lane.topic_id, lane.place.1)).map(|held| held.from);
        if self.settings.guarantee == Guarantee::AtLeastOnce {
            return Ok(lane.begin_first(noted.or(held))?);
        }
        let checkpoint = session.checkpoints.get(&lane.place);
        if let (None, Some(noted)) = (checkpoint, noted)
            && noted > lane.topic.watermarks(lane.place.1)?.log_start
        {
            return Err(Trouble::Fatal(Error::new(
                ErrorKind::Mismatch,
                format!(
                    "the log says that mirror {} has forwarded topic {}, partition {} up to offset {noted}, and the target has no \
                     checkpoint of that in topic {}. If it is another cluster, or one that was set up anew, delete group mirror.{} of \
                     the log to forward everything to it; else records would be doubled",
                    self.settings.name, lane.place.0, lane.place.1, self.settings.checkpoint_topic, self.settings.name
                ),
            )));
        }
        let Some(checkpoint) = checkpoint else { return Ok(lane.begin_first(noted.or(held))?) };
        match checkpoint.check(&lane.topic, lane.topic_id, &lane.place, self.settings.log.id()) {
            // What was forwarded last cannot be read, so nobody knows whether the log is the same.
            Err(error) if is_damage(&error) => lane.pause(&self.shared, self.now(), error),
            checked => checked?,
        }
        lane.begin_at(checkpoint);
        Ok(())
    }

    /// How many partitions the topic has in the target, where it is made, or given more of them, if that is wanted.
    fn target_partitions(&self, session: &Session, description: &TopicDescription, target: &str) -> Result<u32> {
        let admin = &session.cluster.admin;
        let own = description.partitions.len() as u32;
        let wanted = |create: &super::settings::TargetTopics| create.partitions.unwrap_or(own);
        let found = admin.describe(target)?.map(|topic| topic.partitions.len() as u32);
        let there = match (found, &self.settings.create) {
            (Some(there), Some(create)) if self.preserves() && there < own && wanted(create) >= own => {
                admin.add_partitions(target, own)?;
                own
            }
            (Some(there), _) => there,
            (None, Some(create)) => {
                admin.create(&NewTopic {
                    name: target.to_owned(),
                    partitions: wanted(create),
                    replication: create.replication,
                    config: create.config.clone(),
                })?;
                admin.describe(target)?.map_or(0, |topic| topic.partitions.len() as u32)
            }
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!(
                        "the target has no topic {target} for topic {} of the log, and the mirror was not told to make topics",
                        description.name
                    ),
                ));
            }
        };
        // With topics and partitions that were added on the way there is no need to stop the others.
        if self.preserves() && there < own && !self.has_begun {
            return Err(too_few(&description.name, target, own, there));
        }
        Ok(there)
    }
}

/// Whether something of the log cannot be read, which concerns one partition.
fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io)
}

fn too_few(topic: &str, target: &str, own: u32, there: u32) -> Error {
    Error::invalid(format!(
        "topic {topic} of the log has {own} partitions, topic {target} of the target {there}, and each is to go to the one with its \
         number; add partitions there, or let the mirror place records by key"
    ))
}
