//! The topics of a cluster: which there are, and making them.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rdkafka::admin::{NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::clients::admin_options;
use super::{ANSWER_MAX, Cluster};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::from_kafka;
use crate::log::names::validate_topic_name;
use crate::log::settings::{Compression, TopicSettings};
use crate::task::unblock;
use crate::text::quoted;

/// A topic of the cluster.
#[derive(Debug)]
pub(in crate::bus) struct TopicInfo {
    pub(in crate::bus) name: Arc<str>,
    pub(super) partitions: u32,
}

impl TopicInfo {
    pub(super) fn check_partition(&self, partition: Option<u32>) -> Result<()> {
        match partition {
            Some(wanted) if wanted >= self.partitions => Err(Error::invalid(format!(
                "topic {} has no partition {wanted}; it has {}, counted from 0",
                quoted(&self.name),
                self.partitions
            ))),
            _ => Ok(()),
        }
    }
}

/// How long it may take until a topic that was made is known to the brokers.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Cluster {
    /// A topic that somebody here has asked for before.
    pub(in crate::bus) fn known(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Something has shown that what is known of a topic may not be so any more.
    pub(super) fn forget(&self, name: &str) {
        self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn remember(&self, info: TopicInfo) -> Arc<TopicInfo> {
        let info = Arc::new(info);
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(Arc::clone(&info.name), Arc::clone(&info));
        info
    }

    /// The topic, if there is one. Asks the cluster.
    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<TopicInfo>>> {
        let asking = |error| from_kafka(format!("cannot find out whether there is a topic {}", quoted(name)), error);
        let metadata = self.query.fetch_metadata(Some(name), ANSWER_MAX).map_err(asking)?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else { return Ok(None) };
        match topic.error().map(Code::from) {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Ok(None),
            Some(code) if topic.partitions().is_empty() => return Err(asking(KafkaError::MetadataFetch(code))),
            _ if topic.partitions().is_empty() => return Ok(None),
            _ => {}
        }
        let partitions = u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX);
        Ok(Some(self.remember(TopicInfo { name: name.into(), partitions })))
    }

    /// The topic; made with these settings if there is none.
    pub(in crate::bus) async fn topic_or_create(
        self: &Arc<Self>,
        name: &str,
        settings: Option<TopicSettings>,
    ) -> Result<Arc<TopicInfo>> {
        self.check_open()?;
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        if let Some(found) = self.find_away(name).await? {
            return Ok(found);
        }
        match settings {
            Some(settings) => self.create(name, &settings).await,
            None => Err(not_found(name)),
        }
    }

    /// [`find`](Self::find), where it holds nobody up.
    pub(in crate::bus) async fn find_away(self: &Arc<Self>, name: &str) -> Result<Option<Arc<TopicInfo>>> {
        let (cluster, name) = (Arc::clone(self), name.to_owned());
        unblock(move || cluster.find(&name)).await
    }

    /// Makes a topic. One that is there already is left as it is.
    pub(in crate::bus) async fn create(
        self: &Arc<Self>,
        name: &str,
        settings: &TopicSettings,
    ) -> Result<Arc<TopicInfo>> {
        validate_topic_name(name)?;
        settings.validate()?;
        let config = config_of(name, settings)?;
        let partitions = i32::try_from(settings.partitions).unwrap_or(i32::MAX);
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(BROKERS_DEFAULT));
        for (key, value) in &config {
            topic = topic.set(key, value);
        }
        let failed = |error| from_kafka(format!("cannot make the topic {}", quoted(name)), error);
        let made = self.admin.create_topics([&topic], &admin_options()).await.map_err(failed)?;
        for one in made {
            match one {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
            }
        }
        let (cluster, name) = (Arc::clone(self), name.to_owned());
        unblock(move || cluster.wait_for(&name, 1)).await
    }

    /// Whether only the last record of each key of a topic is kept.
    pub(in crate::bus) async fn is_compacted(&self, name: &str) -> Result<bool> {
        let failed = |error| from_kafka(format!("cannot look at the settings of topic {}", quoted(name)), error);
        let asked = [ResourceSpecifier::Topic(name)];
        let answers = self.admin.describe_configs(&asked, &admin_options()).await.map_err(failed)?;
        for answer in answers {
            let config = answer.map_err(|code| failed(KafkaError::AdminOp(code)))?;
            if let Some(policy) = config.get("cleanup.policy").and_then(|entry| entry.value.as_deref()) {
                return Ok(policy.contains("compact"));
            }
        }
        Ok(false)
    }

    /// Gives a topic more partitions, if it has fewer.
    pub(super) async fn widen(self: &Arc<Self>, topic: &TopicInfo, partitions: u32) -> Result<Arc<TopicInfo>> {
        let count = usize::try_from(partitions).unwrap_or(usize::MAX);
        let failed =
            |error| from_kafka(format!("cannot give the topic {} more partitions", quoted(&topic.name)), error);
        let done = self.admin.create_partitions([&NewPartitions::new(&topic.name, count)], &admin_options()).await;
        for one in done.map_err(failed)? {
            match one {
                // Somebody else was faster.
                Ok(_) | Err((_, Code::InvalidPartitions)) => {}
                Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
            }
        }
        let (cluster, name) = (Arc::clone(self), topic.name.to_string());
        unblock(move || cluster.wait_for(&name, partitions)).await
    }

    /// Waits until the brokers know of a topic with so many partitions.
    fn wait_for(&self, name: &str, partitions: u32) -> Result<Arc<TopicInfo>> {
        let until = self.now().saturating_add(KNOWN_WITHIN);
        loop {
            match self.find(name)? {
                Some(found) if found.partitions >= partitions => return Ok(found),
                _ if self.now() >= until => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("the topic {} was made, and the brokers still do not know of it", quoted(name)),
                    ));
                }
                _ => std::thread::sleep(LOOK_EVERY),
            }
        }
    }
}

/// As many replicas as the brokers are set to make.
const BROKERS_DEFAULT: i32 = -1;

pub(in crate::bus) fn not_found(name: impl fmt::Display) -> Error {
    let name = name.to_string();
    Error::new(ErrorKind::NotFound, format!("there is no topic {}", quoted(&name)))
}

/// The settings of a topic in Kafka's words.
fn config_of(name: &str, settings: &TopicSettings) -> Result<Vec<(&'static str, String)>> {
    let unsupported = |setting: &str, does: &str| {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("topic {}: `{setting}` is set, and Kafka {does}; a log does", quoted(name)),
        ))
    };
    if settings.dedup_count_max > 0 || settings.dedup_age_max.is_some() {
        return unsupported("dedup_count_max", "does not remember identities");
    }
    if !settings.indexed_headers.is_empty() {
        return unsupported("indexed_headers", "has no index of headers");
    }
    if settings.index_keys {
        return unsupported("index_keys", "has no index of keys");
    }
    let millis = |time: Duration| time.as_millis().to_string();
    let or_ever = |limit: Option<String>| limit.unwrap_or_else(|| "-1".to_owned());
    let largest = u64::from(settings.record_bytes_max).saturating_add(BATCH_OVERHEAD).max(BATCH_BYTES);
    let mut config = vec![
        ("cleanup.policy", if settings.compaction { "compact" } else { "delete" }.to_owned()),
        // What is kept for ever by a log is kept for ever here: the brokers' own default is a week.
        ("retention.ms", or_ever(settings.retention_age_max.map(millis))),
        ("retention.bytes", or_ever(settings.retention_bytes_max.map(|bytes| bytes.to_string()))),
        ("max.message.bytes", largest.to_string()),
    ];
    match settings.compression {
        Compression::None => {}
        Compression::Lz4 => config.push(("compression.type", "lz4".to_owned())),
        Compression::Zstd { .. } => config.push(("compression.type", "zstd".to_owned())),
    }
    let usual = TopicSettings::default();
    if settings.segment_bytes_max != usual.segment_bytes_max {
        config.push(("segment.bytes", settings.segment_bytes_max.to_string()));
    }
    if settings.compaction {
        config.push(("delete.retention.ms", millis(settings.tombstone_age_max)));
        config.push(("min.cleanable.dirty.ratio", settings.compaction_dirty_ratio_min.to_string()));
    }
    Ok(config)
}

/// What Kafka adds to a record, at the most; and the size of the batches in which records travel.
const BATCH_OVERHEAD: u64 = 4096;
const BATCH_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::config_of;
    use crate::error::ErrorKind;
    use crate::log::settings::{Compression, TopicSettings};

    #[test]
    fn the_settings_of_a_topic_in_kafkas_words() {
        let config = config_of("t", &TopicSettings::default()).unwrap();
        let says = |config: &[(&str, String)], key: &str| {
            config.iter().find(|(known, _)| *known == key).map(|(_, value)| value.clone())
        };
        assert_eq!(says(&config, "retention.ms").as_deref(), Some("-1"));
        assert_eq!(says(&config, "retention.bytes").as_deref(), Some("-1"));
        assert_eq!(says(&config, "cleanup.policy").as_deref(), Some("delete"));
        assert_eq!(says(&config, "segment.bytes"), None);
        let settings = TopicSettings::default()
            .retention_age_max(Duration::from_secs(3))
            .compression(Compression::Lz4)
            .compaction(true);
        let config = config_of("t", &settings).unwrap();
        assert_eq!(says(&config, "retention.ms").as_deref(), Some("3000"));
        assert_eq!(says(&config, "cleanup.policy").as_deref(), Some("compact"));
        assert_eq!(says(&config, "compression.type").as_deref(), Some("lz4"));
    }

    #[test]
    fn what_kafka_cannot_do_is_said() {
        let all = [
            TopicSettings::default().dedup_count_max(10),
            TopicSettings::default().indexed_headers(["tenant_id"]),
            TopicSettings::default().index_keys(true),
        ];
        for settings in all {
            let error = config_of("t", &settings).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }
}
