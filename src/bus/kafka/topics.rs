//! The topics of a cluster: which there are, and making them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Cluster;
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::NewTopic;
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

    fn of(topic: &crate::kafka::TopicInfo) -> Self {
        let partitions = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        Self { name: topic.name.as_str().into(), partitions }
    }
}

impl Cluster {
    /// A topic that somebody here has asked for before.
    pub(in crate::bus) fn known(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Something has shown that what is known of a topic may not be so any more.
    pub(super) fn forget(&self, name: &str) {
        self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The topic, if there is one. Asks the cluster.
    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<TopicInfo>>> {
        let Some(found) = self.admin.describe(name)? else { return Ok(None) };
        let info = Arc::new(TopicInfo::of(&found));
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(Arc::clone(&info.name), Arc::clone(&info));
        Ok(Some(info))
    }

    /// All topics but annals' and Kafka's own.
    pub(super) fn all_topics(&self) -> Result<Vec<TopicInfo>> {
        Ok(self.admin.topics()?.iter().map(TopicInfo::of).collect())
    }

    /// The topic; made with these settings if there is none.
    pub(in crate::bus) async fn topic_or_create(
        self: &Arc<Self>,
        name: &str,
        settings: Option<TopicSettings>,
    ) -> Result<Arc<TopicInfo>> {
        self.check_open()?;
        match self.known(name) {
            Some(known) => Ok(known),
            None => {
                self.away(name, move |cluster, name| match (cluster.find(name)?, settings) {
                    (Some(found), _) => Ok(found),
                    (None, Some(settings)) => cluster.create(name, &settings),
                    (None, None) => Err(not_found(name)),
                })
                .await
            }
        }
    }

    /// Makes a topic. One that is there already is left as it is.
    pub(in crate::bus) async fn make(self: &Arc<Self>, name: &str, settings: TopicSettings) -> Result<()> {
        self.check_open()?;
        self.away(name, move |cluster, name| cluster.create(name, &settings).map(drop)).await
    }

    /// [`find`](Self::find), where it holds nobody up.
    pub(super) async fn find_away(self: &Arc<Self>, name: &str) -> Result<Option<Arc<TopicInfo>>> {
        self.away(name, |cluster, name| cluster.find(name)).await
    }

    /// Asks the cluster about a topic on a thread that may wait.
    async fn away<R: Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        ask: impl FnOnce(&Self, &str) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (cluster, name) = (Arc::clone(self), name.to_owned());
        unblock(move || ask(&cluster, &name)).await
    }

    /// Makes a topic. One that is there already is left as it is.
    pub(super) fn create(&self, name: &str, settings: &TopicSettings) -> Result<Arc<TopicInfo>> {
        validate_topic_name(name)?;
        settings.validate()?;
        let config = config_of(name, settings)?;
        let config: BTreeMap<String, String> = config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let topic = NewTopic { name: name.to_owned(), partitions: settings.partitions, replication: None, config };
        self.admin.create(&topic)?;
        self.find(name)?.ok_or_else(|| not_found(name))
    }

    /// Makes a topic, or gives it more partitions, so that it has at least as many as the settings say.
    pub(super) fn ensure(&self, name: &str, settings: &TopicSettings) -> Result<Arc<TopicInfo>> {
        let there = match self.find(name)? {
            Some(there) => there,
            None => self.create(name, settings)?,
        };
        if there.partitions >= settings.partitions {
            return Ok(there);
        }
        self.admin.add_partitions(name, settings.partitions)?;
        self.find(name)?.ok_or_else(|| not_found(name))
    }

    /// Checks that a topic keeps its records for as long as nothing newer supersedes them.
    pub(super) fn check_keeps(&self, name: &str) -> Result<()> {
        self.admin.check_keeps(name)
    }

    /// Whether only the last record of each key of a topic is kept.
    pub(in crate::bus) async fn is_compacted(self: &Arc<Self>, name: &str) -> Result<bool> {
        if self.config.has_tokens() {
            tracing::warn!(
                topic = name,
                "it is not looked whether the topic is compacted: there are no tokens for that"
            );
            return Ok(false);
        }
        let settings = self.away(name, |cluster, name| cluster.admin.settings(name)).await?;
        Ok(settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")))
    }
}

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
