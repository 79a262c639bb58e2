//! Looking at a bus, and steering it.

use std::sync::Arc;

use super::Bus;
use super::backend::Store;
use super::breaker::BreakerState;
use super::shared::Shared;
use super::stats::{BusStats, SubscriptionStats};
use crate::codec::{Codec, TopicDef};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::GroupPartition;
#[cfg(feature = "kafka")]
use crate::handle::links::LinkHealth;
use crate::record::Message;
use crate::replay::Start;
use crate::segment::lock;
use crate::task::unblock;

/// How a bus is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Health {
    /// Whether the process can go on: the log is open, and takes records. If not, it has to be started anew.
    pub live: bool,
    /// Whether it does its work: it is live, no subscription has ended for a reason, no breaker is open, nothing is damaged; on Kafka,
    /// the last event that was published has got there; no mirror or source of the log has ended with an error, has paused a partition
    /// for one, or has lost its cluster.
    pub ready: bool,
    /// What is wrong, one sentence each; empty if nothing is.
    pub reasons: Vec<String>,
    /// The mirrors and sources of the log in this process.
    #[cfg(feature = "kafka")]
    pub links: Vec<LinkHealth>,
    /// The subscriptions of this bus.
    pub subscriptions: Vec<SubscriptionHealth>,
    /// Partitions that take no more records, or cannot be read to their end: topic and partition.
    pub partitions: Vec<(String, u32)>,
    /// How many bytes are free on the disk, where the system tells.
    pub disk_free_bytes: Option<u64>,
}

/// How a subscription is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubscriptionHealth {
    /// The group.
    pub group: String,
    /// What it is subscribed to: names and patterns.
    pub topics: Vec<String>,
    /// Whether it is at work; if not it has ended.
    pub running: bool,
    /// Whether somebody has paused it.
    pub paused: bool,
    /// What its circuit breaker is at.
    pub breaker: BreakerState,
    /// Why it has ended, or the last error that did not end it.
    pub error: Option<Error>,
    /// What it has done.
    pub stats: SubscriptionStats,
}

impl Bus {
    pub(super) fn there(&self) -> Vec<Arc<Shared>> {
        lock(&self.inner.subscriptions).there.clone()
    }

    /// What has been done so far.
    pub fn stats(&self) -> BusStats {
        let subscriptions = lock(&self.inner.subscriptions);
        let mut sum = subscriptions.ended;
        subscriptions.there.iter().for_each(|shared| sum.add(&shared.counters.read()));
        let active = subscriptions.there.iter().filter(|shared| !shared.has_ended()).count();
        BusStats {
            published: self.inner.stats.published.get(),
            active_subscriptions: active as u64,
            subscriptions: sum,
        }
    }

    /// How many subscriptions of this bus read a topic.
    pub fn subscriber_count(&self, topic: &str) -> usize {
        let name = self.full_name(topic);
        let reads = |shared: &Arc<Shared>| {
            let names = crate::group::pattern::Subscription::new(shared.topics.iter().map(String::as_str));
            !shared.has_ended() && names.is_ok_and(|names| names.matches(&name))
        };
        self.there().iter().filter(|shared| reads(shared)).count()
    }

    /// How the bus is doing, and the log that it is on.
    pub fn health(&self) -> Health {
        let engine = &self.log().inner.engine;
        let mut reasons = Vec::new();
        let mut live = true;
        if let Err(error) = engine.check_open() {
            live = false;
            reasons.push(error.to_string());
        }
        let mut partitions = Vec::new();
        for topic in engine.topics() {
            for partition in topic.partitions().iter() {
                let number = partition.owner.partition;
                if let Some(error) = partition.check_open().err().filter(|error| error.kind() == ErrorKind::Poisoned) {
                    live = false;
                    reasons.push(format!("topic {}, partition {number}: {error}", topic.name));
                } else if partition.damage().is_some() {
                    reasons.push(format!("topic {}, partition {number} is damaged", topic.name));
                } else {
                    continue;
                }
                partitions.push((topic.name.to_string(), number));
            }
        }
        #[cfg(feature = "kafka")]
        if let Store::Kafka(cluster) = &self.inner.store {
            reasons.extend(cluster.trouble().map(|error| error.to_string()));
        }
        let of = |shared: &Arc<Shared>| SubscriptionHealth {
            group: shared.group.to_string(),
            topics: shared.topics.clone(),
            running: !shared.has_ended(),
            paused: shared.is_paused(),
            breaker: shared.breaker(),
            error: shared.failure().or_else(|| shared.last_error()),
            stats: shared.counters.read(),
        };
        let subscriptions: Vec<_> = self.there().iter().map(of).collect();
        for one in &subscriptions {
            match &one.error {
                Some(error) if !one.running => reasons.push(format!("group {} has ended: {error}", one.group)),
                _ if one.breaker == BreakerState::Open => {
                    reasons.push(format!("the breaker of group {} is open", one.group))
                }
                _ => {}
            }
        }
        #[cfg(feature = "kafka")]
        let links = self.log().links();
        #[cfg(feature = "kafka")]
        reasons.extend(links.iter().filter_map(LinkHealth::trouble));
        let disk_free_bytes = engine.env.storage.free_bytes(&engine.root);
        Health {
            live,
            ready: reasons.is_empty(),
            reasons,
            #[cfg(feature = "kafka")]
            links,
            subscriptions,
            partitions,
            disk_free_bytes,
        }
    }

    /// How far a group is behind, in each partition: records, and the age of the oldest that is not done.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) for a group that nobody is in and that has finished nothing; else as
    /// [`Log::describe_group`](crate::Log::describe_group).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn lag(&self, group: &str) -> Result<Vec<GroupPartition>> {
        let group = self.full_name(group).into_owned();
        match &self.inner.store {
            Store::Log => Ok(self.log().describe_group(&group).await?.partitions),
            #[cfg(feature = "kafka")]
            Store::Kafka(cluster) => {
                let here: Vec<_> = self.there().into_iter().filter(|shared| *shared.group == *group).collect();
                let topics: Vec<String> = here.iter().flat_map(|shared| shared.topics.clone()).collect();
                let names =
                    crate::group::pattern::Subscription::new(topics.iter().map(String::as_str)).unwrap_or_default();
                cluster.lag(&group, move |topic| names.matches(topic)).await
            }
        }
    }

    /// The last `count` events of a topic, oldest first. A topic that does not exist has none.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) for an event that cannot be decoded; [`Io`](ErrorKind::Io), [`Corrupt`](ErrorKind::Corrupt),
    /// [`Closed`](ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn history<T, C>(&self, topic: TopicDef<T, C>, count: u64) -> Result<Vec<Message<T>>>
    where
        T: Send + 'static,
        C: Codec<T> + Default,
    {
        #[cfg(feature = "kafka")]
        if let Store::Kafka(cluster) = &self.inner.store {
            return cluster.history(&self.full_name(topic.name()), count, topic.codec()).await;
        }
        let topic = match self.topic(&topic) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            found => found?,
        };
        unblock(move || {
            let mut messages = topic.replay(Start::Last(count)).blocking()?;
            let mut found = Vec::new();
            while let Some(message) = messages.next_message()? {
                found.push(message);
            }
            Ok(found)
        })
        .await
    }

    /// Deletes all events that a topic has now. Groups go on behind them. A topic that does not exist has none.
    ///
    /// # Errors
    ///
    /// As [`Log::delete_records`](crate::Log::delete_records).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped they may be deleted or not, in some partitions or in all.
    pub async fn clear_history(&self, topic: &str) -> Result<()> {
        let name = self.full_name(topic).into_owned();
        #[cfg(feature = "kafka")]
        if let Store::Kafka(cluster) = &self.inner.store {
            return cluster.clear(&name).await;
        }
        let topic = match self.log().inner.engine.topic(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        for partition in topic.partitions().iter() {
            self.log().delete_records(&name, partition.owner.partition, partition.visible_end()).await?;
        }
        Ok(())
    }

    /// Ends all subscriptions, as [`Subscription::unsubscribe`](super::Subscription::unsubscribe) does, all at once; no more can be
    /// made. The log stays open.
    ///
    /// # Errors
    ///
    /// The first error that one of them has ended with; all have ended all the same.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the subscriptions end all the same.
    pub async fn shutdown(&self) -> Result<()> {
        let there = {
            let mut subscriptions = lock(&self.inner.subscriptions);
            subscriptions.closed = true;
            subscriptions.there.clone()
        };
        there.iter().for_each(|shared| shared.want_stop());
        let mut first = Ok(());
        for shared in there {
            let ended = shared.ended().await;
            first = first.and(ended);
        }
        first
    }
}
