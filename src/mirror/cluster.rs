//! The target, for everything but sending.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use uuid::Uuid;

use super::checkpoint::{self, Checkpoint, Place, Seen};
use crate::error::Result;
use crate::kafka::{Admin, KafkaConfig, KafkaContext, from_kafka};

/// How long a broker may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

pub(super) struct Cluster {
    pub(super) admin: Admin,
    kafka: KafkaConfig,
}

impl Cluster {
    /// Nothing is asked again once `given_up` says so.
    pub(super) fn new(kafka: &KafkaConfig, given_up: impl Fn() -> bool + Send + Sync + 'static) -> Result<Self> {
        Ok(Self { admin: Admin::new(kafka)?.within(ANSWER_MAX).unless(given_up), kafka: kafka.clone() })
    }

    pub(super) fn checkpoints(
        &self,
        topic: &str,
        mirror: &str,
        claim: (Uuid, u64, u64),
        wait: impl Fn(Duration) -> Result<()>,
    ) -> Result<BTreeMap<Place, Checkpoint>> {
        let (committed, now) = (self.consumer("read_committed")?, self.consumer("read_uncommitted")?);
        checkpoint::read_all(&committed, &now, topic, mirror, claim, wait)
    }

    /// What is written about a mirror of a log now.
    pub(super) fn look(&self, topic: &str, mirror: &str, log: Uuid) -> Result<Seen> {
        checkpoint::look(&self.consumer("read_uncommitted")?, topic, mirror, log)
    }

    fn consumer(&self, isolation: &str) -> Result<BaseConsumer<KafkaContext>> {
        let mut config = self.kafka.consumer();
        config.set("group.id", "annals-mirror").set("enable.partition.eof", "true").set("isolation.level", isolation);
        // Another replica than the leader may be behind.
        config.set("client.rack", "");
        config
            .create_with_context(KafkaContext::new(&self.kafka))
            .map_err(|error| from_kafka("the Kafka client cannot be made", error))
    }
}
