//! Which topics a member reads: those it was told, and those that match its patterns.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;

use super::Cluster;
use super::desk::Desk;
use super::member::Member;
use super::topics::{TopicInfo, not_found};
use crate::error::Result;
use crate::group::pattern::Subscription as Names;
use crate::kafka::from_kafka;
use crate::log::settings::TopicSettings;

/// How often is looked for topics that match a pattern and were not there before.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// annals' own topics of dead letters that are to be handled again: one for each topic of events, with as many partitions. So the member
/// that has an event's partition is given what is replayed of it as well.
pub(in crate::bus) fn replays_of(topic: &str) -> String {
    format!("{REPLAYS}{topic}")
}

pub(super) const REPLAYS: &str = "__replays.";

pub(super) struct Wanted {
    names: Names,
    has_patterns: bool,
    /// Whether it reads replays.
    replays: bool,
    subscribed: Option<BTreeSet<String>>,
    look_at: Duration,
}

impl Wanted {
    pub(super) fn new(topics: &[String], replays: bool) -> Result<Self> {
        Ok(Self {
            names: Names::new(topics.iter().map(String::as_str))?,
            has_patterns: topics.iter().any(|topic| topic.contains('*')),
            replays,
            subscribed: None,
            look_at: Duration::ZERO,
        })
    }

    /// Whether there is no topic to read, by now.
    pub(super) fn has_none(&self) -> bool {
        self.subscribed.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Looks which topics there are, if it is time, and tells the group if they are others than before. Answers whether they are.
    pub(super) fn refresh(&mut self, cluster: &Arc<Cluster>, desk: &Desk, member: &Member, now: bool) -> Result<bool> {
        let time = desk.clock.monotonic();
        if self.subscribed.is_some() && (!self.has_patterns || (!now && time < self.look_at)) {
            return Ok(false);
        }
        self.look_at = time.saturating_add(LOOK_EVERY);
        let mut topics: BTreeSet<String> = self.names.names.iter().map(ToString::to_string).collect();
        if self.has_patterns {
            let there = cluster.all_topics()?.into_iter().map(|topic| topic.name.to_string());
            topics.extend(there.filter(|topic| self.names.matches(topic)));
        }
        if self.replays {
            for topic in topics.clone() {
                topics.insert(ensure_replays(cluster, &topic, 1)?.name.to_string());
            }
        }
        if self.subscribed.as_ref() == Some(&topics) {
            return Ok(false);
        }
        let list: Vec<&str> = topics.iter().map(String::as_str).collect();
        if list.is_empty() {
            member.consumer.unsubscribe();
        } else {
            member
                .consumer
                .subscribe(&list)
                .map_err(|error| from_kafka(format!("group {} cannot subscribe to its topics", desk.group), error))?;
        }
        self.subscribed = Some(topics);
        Ok(true)
    }
}

/// Makes the topic of a topic's replays, if there is none, with as many partitions. It is not looked again as long as what is known of it
/// has as many as are needed: partitions may have been added since. For threads.
pub(super) fn ensure_replays(cluster: &Arc<Cluster>, topic: &str, needed: u32) -> Result<Arc<TopicInfo>> {
    let name = replays_of(topic);
    if let Some(known) = cluster.known(&name).filter(|known| known.partitions >= needed) {
        return Ok(known);
    }
    let Some(source) = cluster.find(topic)? else { return Err(not_found(topic)) };
    let settings =
        TopicSettings { partitions: source.partitions, record_bytes_max: 64 << 20, ..TopicSettings::default() };
    cluster.ensure(&name, &settings)
}
