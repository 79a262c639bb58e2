//! Retention: what a topic does not want to keep goes, by size, by age, or because it was told to.

use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use super::settings::TopicSettings;
use crate::error::{Error, Result};
use crate::partition::Partition;
use crate::partition::retain::Retention;
use crate::planted::{self, Bug};
use crate::segment::lock;

/// How soon, and how late, the next look for what has become too old is.
const LOOK_AGAIN_MIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(3600);

/// A partition, and where it is to start.
type Goal = (Arc<Partition>, u64);

impl Engine {
    /// Lets go what the topics do not want to keep. Answers when something more may be too old. A partition that cannot let go
    /// does not keep the others from it.
    pub(crate) fn retain(&self) -> Result<Option<Duration>> {
        self.check_journal()?;
        let now = self.env.clock.now_micros();
        let (mut goals, mut next, mut failed) = (Vec::new(), None, None);
        for topic in self.topics() {
            let settings = topic.settings();
            let Some(retention) = retention(&settings, now) else { continue };
            for partition in topic.partitions().iter().filter(|partition| partition.check_open().is_ok()) {
                match partition.retained_from(&retention, || self.check_journal().is_ok()) {
                    Ok(start) if start > partition.log_start() => goals.push((Arc::clone(partition), start)),
                    Ok(_) => {}
                    Err(error) => failed = Some(error),
                }
            }
        }
        let raised = self.raise_log_starts(&goals);
        for topic in self.topics() {
            let Some(age) = topic.settings().retention_age_max else { continue };
            let ends = topic.partitions().iter().filter_map(|partition| partition.oldest_until()).min();
            let due = ends.map(|end| end.saturating_add(micros(age)).saturating_sub(now).max(0) as u64);
            next = next.into_iter().chain(due.map(Duration::from_micros)).min();
        }
        raised?;
        match failed {
            Some(error) => Err(error),
            None => Ok(next.map(|wait| wait.clamp(LOOK_AGAIN_MIN, LOOK_AGAIN_MAX))),
        }
    }

    /// Has the upkeep look for what may go, if any topic does not keep everything.
    pub(crate) fn look_for_retention(&self) {
        let now = self.env.clock.now_micros();
        if self.topics().iter().any(|topic| retention(&topic.settings(), now).is_some()) {
            self.upkeep.want_retention(self.env.clock.monotonic());
        }
    }

    /// Lets all records of a partition go that lie before an offset. Answers with the new log start.
    pub(crate) fn delete_records(&self, topic: &str, number: u32, before: u64) -> Result<u64> {
        let partition = self.topic(topic)?.partition(number)?;
        partition.check_open()?;
        self.check_journal()?;
        let range = partition.range();
        if before > range.high_watermark {
            return Err(Error::out_of_range(
                format!(
                    "records of topic {topic}, partition {number} cannot be deleted up to offset {before}: there are {} to {}",
                    range.log_start, range.high_watermark
                ),
                range,
            ));
        }
        if before > range.log_start {
            // All of the active segment may go once there is another.
            partition.seal_if(|place| place.next_offset == before && self.check_journal().is_ok())?;
            self.raise_log_starts(&[(Arc::clone(&partition), before)])?;
        }
        Ok(partition.log_start())
    }

    /// A journal whose sync has failed may hold commits that nobody was told of. The next open puts them where they belong, and
    /// for that the files must be there. (Asked once more before a segment is closed, holding its writer: the sync may fail in
    /// between.)
    fn check_journal(&self) -> Result<()> {
        lock(&self.journal).failure().cloned().map_or(Ok(()), Err)
    }

    /// Says durably where partitions start from now on, then takes away what lies before, oldest first.
    fn raise_log_starts(&self, goals: &[Goal]) -> Result<()> {
        if goals.is_empty() {
            return Ok(());
        }
        // A topic that is deleted and created again meanwhile would have its files under the names that are to go.
        let _no_changes = lock(&self.catalogue);
        let mut checkpointed = lock(&self.checkpointed);
        let (mut raised, mut failed) = (Vec::new(), None);
        for (partition, start) in goals {
            // The checkpoint must not name a place in a file that goes.
            let synced = partition.check_open().and_then(|()| partition.sync_written());
            match synced.map(|_| partition.checkpoint_entry()) {
                Ok(Some(mut entry)) => {
                    if !planted::is(Bug::LogStartNotPersisted) {
                        entry.log_start = entry.log_start.max(*start);
                    }
                    checkpointed.entries.insert(partition.key(), entry);
                    raised.push((partition, *start));
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        if planted::is(Bug::FilesRemovedFirst) {
            for (partition, start) in &raised {
                partition.remove_files(&partition.raise_log_start(*start))?;
            }
        }
        self.write_checkpoint(&mut checkpointed)?;
        for (partition, start) in raised {
            let gone = partition.raise_log_start(start);
            if let Err(error) = partition.remove_files(&gone) {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn retention(settings: &TopicSettings, now: i64) -> Option<Retention> {
    let oldest = settings.retention_age_max.map(|age| now.saturating_sub(micros(age)));
    let bytes_max = settings.retention_bytes_max;
    (bytes_max.is_some() || oldest.is_some()).then_some(Retention { bytes_max, oldest, now })
}

fn micros(age: Duration) -> i64 {
    i64::try_from(age.as_micros()).unwrap_or(i64::MAX)
}
