//! Where a consumer is, and moving it.

use std::sync::Arc;

use super::Consumer;
use super::core::Core;
use super::items::{Lag, TopicPartition};
use super::source::Source;
use crate::error::{Error, Result};
use crate::group::record::Whose;
use crate::partition::Partition;
use crate::replay::{Start, check_offset, first_at};
use crate::segment::index::Target;
use crate::task::unblock;

impl Source {
    pub(super) fn name(&self) -> TopicPartition {
        TopicPartition { topic: self.topic.name.to_string(), partition: self.partition.owner.partition }
    }
}

impl Core {
    fn assigned(&self, topic: &str, partition: u32) -> Result<(usize, &Source)> {
        let mut sources = self.sources.iter().enumerate().filter_map(|(index, source)| Some((index, source.as_ref()?)));
        let found =
            sources.find(|(_, source)| *source.topic.name == *topic && source.partition.owner.partition == partition);
        found.ok_or_else(|| {
            Error::invalid(format!(
                "topic {topic}, partition {partition} is not assigned to this member of group {}",
                self.group.name
            ))
        })
    }

    /// Goes on elsewhere in a partition.
    fn seek(&mut self, index: usize, offset: u64) -> Result<()> {
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        let mut state = source.lane.lock();
        state.check(source.tenure, &source.lane)?;
        state.seek(offset);
        drop(state);
        self.next_serial += 1;
        source.go_to(offset, self.next_serial);
        (source.may_skip, source.begun) = (false, true);
        self.drop_current(index);
        self.last.retain(|(last, _)| *last != index);
        self.caught_up = false;
        self.wake(index);
        Ok(())
    }

    pub(super) fn drop_current(&mut self, index: usize) {
        if self.current.as_ref().is_some_and(|(current, _)| *current == index) {
            self.current = None;
        }
    }

    /// Delivers nothing of a partition.
    fn pause(&mut self, index: usize) {
        let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) else { return };
        source.paused = true;
        if self.current.as_ref().is_some_and(|(current, _)| *current == index) {
            // The rest of the frame is read again.
            self.next_serial += 1;
            let position = source.position;
            source.go_to(position, self.next_serial);
            self.current = None;
        }
    }

    /// Delivers a partition again that was paused.
    fn resume(&mut self, index: usize) {
        if let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut) {
            source.paused = false;
        }
        self.wake(index);
    }

    /// The names of all partitions, in order.
    fn sorted(&self) -> Vec<&Source> {
        let mut sources: Vec<&Source> = self.sources.iter().flatten().collect();
        let order = |source: &&Source| -> (Arc<str>, Whose) { (Arc::clone(&source.topic.name), source.lane.whose) };
        sources.sort_by_key(order);
        sources
    }
}

/// The offset of a place in one partition.
pub(crate) fn resolve(partition: &Arc<Partition>, to: Start) -> Result<u64> {
    match to {
        Start::Earliest => Ok(partition.log_start()),
        Start::Latest => Ok(partition.visible_end()),
        Start::Offset(offset) => check_offset(partition, offset),
        Start::Timestamp(time) => first_at(partition, time.timestamp_micros()),
        Start::Commit(commit) => partition.find(Target::Commit(commit)),
        Start::Last(count) => Ok(partition.last_records(partition.visible_end(), count)?.0),
    }
}

impl<T, C> Consumer<T, C> {
    /// The partitions that are this member's now, in the order of their names. What has changed since the last message is taken in
    /// by the next.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.core.sorted().into_iter().map(Source::name).collect()
    }

    /// The name of the group.
    pub fn group(&self) -> &str {
        &self.core.group.name
    }

    /// The generation of the group: how often its partitions were shared out.
    pub fn generation(&self) -> u64 {
        self.core.group.generation()
    }

    /// The offset that is delivered next in a partition.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a partition that is not assigned to this member.
    pub fn position(&self, topic: &str, partition: u32) -> Result<u64> {
        let (_, source) = self.core.assigned(topic, partition)?;
        Ok(source.position_or_begin())
    }

    /// How far this member is behind in each of its partitions, in the order of their names.
    pub fn lag(&self) -> Vec<Lag> {
        let lag = |source: &Source| Lag {
            partition: source.name(),
            position: source.position_or_begin(),
            high_watermark: source.partition.visible_end(),
        };
        self.core.sorted().into_iter().map(lag).collect()
    }

    /// Goes on elsewhere in a partition: at its first record, behind its last, at an offset, a time, a commit, or the last so many
    /// records. What is committed stays as it is until the next commit, which may then lie before it.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a partition that is not assigned to this member,
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange) for an offset that does not exist,
    /// [`Fenced`](crate::ErrorKind::Fenced) if the partition has just gone to another member, [`Io`](crate::ErrorKind::Io) and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) from looking the place up.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the consumer is where it was.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, Start, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// # let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// # orders.produce(Record::new("paid".into())).await?;
    /// let mut consumer = orders.subscribe("billing").build().await?;
    /// let first = consumer.recv().await?.unwrap();
    /// consumer.seek("orders", 0, Start::Offset(first.offset())).await?;
    /// assert_eq!(consumer.recv().await?.unwrap(), first);
    /// # Ok(()) }
    /// ```
    pub async fn seek(&mut self, topic: &str, partition: u32, to: Start) -> Result<()> {
        let (index, source) = self.core.assigned(topic, partition)?;
        let source = Arc::clone(&source.partition);
        let offset = unblock(move || resolve(&source, to)).await?;
        self.core.seek(index, offset)
    }

    /// [`seek`](Self::seek) for threads.
    ///
    /// # Errors
    ///
    /// As [`seek`](Self::seek).
    pub fn blocking_seek(&mut self, topic: &str, partition: u32, to: Start) -> Result<()> {
        let (index, source) = self.core.assigned(topic, partition)?;
        let offset = resolve(&source.partition, to)?;
        self.core.seek(index, offset)
    }

    /// Delivers nothing of a partition until it is [resumed](Self::resume), or goes to another member.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a partition that is not assigned to this member.
    pub fn pause(&mut self, topic: &str, partition: u32) -> Result<()> {
        let (index, _) = self.core.assigned(topic, partition)?;
        self.core.pause(index);
        Ok(())
    }

    /// Delivers a partition again that was [paused](Self::pause).
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a partition that is not assigned to this member.
    pub fn resume(&mut self, topic: &str, partition: u32) -> Result<()> {
        let (index, _) = self.core.assigned(topic, partition)?;
        self.core.resume(index);
        Ok(())
    }
}
