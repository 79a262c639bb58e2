//! A log, its mirror and the target: what the tests of single faults have in common.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use annals::mirror::{ErrorClass, KafkaConfig, Mirror, MirrorBuilder, MirrorError, MirrorState, TargetTopics};
use annals::{Error, Log, Record, TopicSettings};
use bytes::Bytes;
use tokio::sync::broadcast::Receiver;

use super::compare::{exactly_once, expected};
use super::events::Events;
use crate::support::{Broker, Dumped, PATIENCE};

/// How many records a publisher has under way at once.
const BATCH: u64 = 100;

pub(crate) struct World<'b> {
    pub(crate) broker: &'b Broker,
    pub(crate) log: Log,
    /// Of the mirror; the topics of the target begin with it.
    pub(crate) name: String,
    written: AtomicU64,
}

impl<'b> World<'b> {
    pub(crate) fn new(broker: &'b Broker) -> Self {
        Self::of(broker, Log::temporary().unwrap())
    }

    pub(crate) fn of(broker: &'b Broker, log: Log) -> Self {
        Self { broker, log, name: broker.unique("mirror"), written: AtomicU64::new(0) }
    }

    /// The same mirror on another log, or on another opening of this one.
    pub(crate) fn with_log(&self, log: Log) -> Self {
        Self { broker: self.broker, log, name: self.name.clone(), written: AtomicU64::new(0) }
    }

    /// A topic of the log.
    pub(crate) async fn topic(&self, name: &str, partitions: u32) {
        self.log.create_raw_topic(name, TopicSettings::default().partitions(partitions)).await.unwrap();
    }

    /// A topic's name in the target.
    pub(crate) fn target(&self, topic: &str) -> String {
        format!("{}.{topic}", self.name)
    }

    /// A mirror of all topics that makes none.
    pub(crate) fn bare_mirror(&self) -> MirrorBuilder {
        Mirror::builder(&self.log)
            .name(&self.name)
            .topics(["*"])
            .to(KafkaConfig::new(self.broker.bootstrap()))
            .prefix(self.target(""))
            .commit_interval(Duration::from_millis(20))
    }

    /// A mirror of all topics that makes what is missing in the target.
    pub(crate) fn mirror(&self) -> MirrorBuilder {
        // Some of the events are old.
        self.bare_mirror().create_topics(TargetTopics::default().config("retention.ms", "-1"))
    }

    /// Writes so many records that are all different.
    pub(crate) async fn publish(&self, topic: &str, count: u64) {
        let topic = self.log.raw_topic(topic).unwrap();
        let first = self.written.fetch_add(count, Ordering::Relaxed);
        for begin in (first..first + count).step_by(BATCH as usize) {
            let end = (begin + BATCH).min(first + count);
            topic.produce_batch((begin..end).map(|number| Events::get().record(0, number))).await.unwrap();
        }
    }

    /// Writes so many records every so often until the answer is there. The write under way then is waited for: given up, it may still be
    /// made, after whatever looks at what there is.
    pub(crate) async fn publish_until<T>(
        &self,
        topic: &str,
        count: u64,
        every: Duration,
        answer: impl Future<Output = T>,
    ) -> T {
        let answered = AtomicBool::new(false);
        let answer = async {
            let answer = answer.await;
            answered.store(true, Ordering::Relaxed);
            answer
        };
        let publish = async {
            while !answered.load(Ordering::Relaxed) {
                self.publish(topic, count).await;
                tokio::time::sleep(every).await;
            }
        };
        tokio::join!(answer, publish).0
    }

    pub(crate) async fn publish_one(&self, topic: &str, record: Record<Bytes>) {
        self.log.raw_topic(topic).unwrap().produce(record).await.unwrap();
    }

    pub(crate) async fn dump(&self, topic: &str) -> Vec<Dumped> {
        self.broker.dump(&self.target(topic)).await
    }

    /// Fails unless the target has each record of a topic once, in its partition and in order, and nothing else.
    pub(crate) async fn assert_exactly_once(&self, topic: &str) {
        let dumped = self.dump(topic).await;
        exactly_once(&expected(&self.log, topic), &dumped).unwrap_or_else(|why| panic!("topic {topic}: {why}"));
    }
}

/// The values of the records of each partition, as text.
pub(crate) fn values(dumped: &[Dumped]) -> BTreeMap<u32, Vec<String>> {
    let mut values: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for record in dumped {
        let value = record.value.as_ref().map_or("-".into(), |value| String::from_utf8_lossy(value).into_owned());
        values.entry(record.partition).or_default().push(value);
    }
    values
}

/// Waits until the mirror has forwarded all that there is.
pub(crate) async fn caught_up(mirror: &Mirror) {
    match tokio::time::timeout(PATIENCE, mirror.caught_up()).await {
        Ok(caught_up) => caught_up.unwrap(),
        Err(_) => panic!("the mirror has not caught up within {PATIENCE:?}: {:?}", mirror.status()),
    }
}

/// Waits until the mirror has ended with an error.
pub(crate) async fn failed(mirror: &Mirror) -> Error {
    match tokio::time::timeout(PATIENCE, mirror.ended()).await {
        Ok(ended) => ended.unwrap_err(),
        Err(_) => panic!("the mirror has not ended within {PATIENCE:?}: {:?}", mirror.status()),
    }
}

/// Waits until a partition is paused, and answers why.
pub(crate) async fn paused(mirror: &Mirror, topic: &str, partition: u32) -> Error {
    let find = async {
        loop {
            let status = mirror.status();
            assert_ne!(status.state, MirrorState::Failed, "{status:?}");
            let mut found = status.partitions.into_iter().filter(|it| it.topic == topic && it.partition == partition);
            if let Some(error) = found.next().and_then(|found| found.paused) {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, find).await;
    found.unwrap_or_else(|_| panic!("partition {partition} is not paused within {PATIENCE:?}: {:?}", mirror.status()))
}

/// Tells the mirror to try again until nothing is paused: what was changed in the cluster comes into force some time later.
pub(crate) async fn resume(mirror: &Mirror) {
    let resume = async {
        loop {
            mirror.resume();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let status = mirror.status();
            if status.state == MirrorState::Running && status.partitions.iter().all(|it| it.paused.is_none()) {
                return;
            }
        }
    };
    let resumed = tokio::time::timeout(PATIENCE, resume).await;
    resumed.unwrap_or_else(|_| panic!("it does not go on within {PATIENCE:?}: {:?}", mirror.status()));
}

/// That no partition is paused.
pub(crate) fn assert_whole(mirror: &Mirror) {
    let status = mirror.status();
    assert!(status.partitions.iter().all(|partition| partition.paused.is_none()), "{status:?}");
}

/// Waits until the mirror has met an error of this class.
pub(crate) async fn met(errors: &mut Receiver<MirrorError>, class: ErrorClass) -> MirrorError {
    let find = async {
        loop {
            let met = errors.recv().await.unwrap();
            if met.class == class {
                return met;
            }
        }
    };
    tokio::time::timeout(PATIENCE, find)
        .await
        .unwrap_or_else(|_| panic!("no error of class {class:?} within {PATIENCE:?}"))
}

pub(crate) async fn stop(mirror: Mirror) {
    tokio::time::timeout(PATIENCE, mirror.stop()).await.expect("the mirror does not stop").unwrap();
}
