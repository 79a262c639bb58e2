//! A topic of the open log: its name, its settings and its partitions.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use super::settings::TopicSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::partition::Partition;

/// A topic that is open.
#[derive(Debug)]
pub(crate) struct TopicState {
    pub(crate) name: Arc<str>,
    pub(crate) id: u128,
    pub(crate) created_at: i64,
    snapshot: RwLock<Arc<Snapshot>>,
}

/// What a topic consists of at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) topic_id: u128,
    pub(crate) settings: TopicSettings,
    /// By number.
    pub(crate) partitions: Arc<Vec<Arc<Partition>>>,
}

impl TopicState {
    pub(crate) fn new(
        name: Arc<str>,
        id: u128,
        created_at: i64,
        settings: TopicSettings,
        partitions: Vec<Arc<Partition>>,
    ) -> Self {
        let snapshot = Snapshot { topic_id: id, settings, partitions: Arc::new(partitions) };
        Self { name, id, created_at, snapshot: RwLock::new(Arc::new(snapshot)) }
    }

    /// Settings and partitions as they are now; the number of partitions may grow.
    #[inline]
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The settings.
    pub(crate) fn settings(&self) -> TopicSettings {
        self.snapshot().settings.clone()
    }

    /// The partitions, by number.
    pub(crate) fn partitions(&self) -> Arc<Vec<Arc<Partition>>> {
        Arc::clone(&self.snapshot().partitions)
    }

    /// One partition.
    pub(crate) fn partition(&self, number: u32) -> Result<Arc<Partition>> {
        let partitions = self.partitions();
        partitions.get(number as usize).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("topic {} has no partition {number}; it has 0 to {}", self.name, partitions.len() - 1),
            )
        })
    }

    pub(super) fn change(&self, settings: TopicSettings, partitions: Vec<Arc<Partition>>) {
        let grown = Snapshot { topic_id: self.id, settings, partitions: Arc::new(partitions) };
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grown);
    }

    /// Refuses appends to any partition from now on.
    pub(super) fn close(&self, error: &Error) {
        for partition in self.partitions().iter() {
            partition.close(error.clone());
        }
    }
}

/// The directory of a partition.
pub(crate) fn partition_dir(topic_dir: &Path, number: u32) -> std::path::PathBuf {
    topic_dir.join(number.to_string())
}
