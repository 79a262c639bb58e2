//! Looking at consumer groups and changing where they have come to.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::log::Log;
use crate::consumer::{TopicPartition, resolve};
use crate::error::{Error, OffsetRange, Result};
use crate::group::describe::GroupView;
use crate::group::{Groups, validate_group_name};
use crate::log::engine::Engine;
use crate::log::names::refuse_reserved;
use crate::record::datetime_from_micros;
use crate::replay::Start;
use crate::task::unblock;

/// A consumer group at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupDescription {
    /// The name.
    pub name: String,
    /// How often its partitions were shared out.
    pub generation: u64,
    /// Who is in it. Members live in the process that has the log open for writing: where the log is open read-only there are none.
    pub members: Vec<MemberDescription>,
    /// What it has committed or is subscribed to, in the order of topics and partitions.
    pub partitions: Vec<GroupPartition>,
}

impl GroupDescription {
    /// How many records are still to be finished.
    pub fn lag_records(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.lag_records).sum()
    }
}

/// A member of a group at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberDescription {
    /// Its number in the group, and what it [calls itself](crate::Subscribe::member).
    pub id: String,
    /// The partitions that it owns.
    pub assignment: Vec<TopicPartition>,
}

/// A partition in a group at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// The [member](MemberDescription::id) that owns it.
    pub member: Option<String>,
    /// The first offset that is not finished, as far as that is committed.
    pub committed: Option<u64>,
    /// When it was committed.
    pub committed_at: Option<DateTime<Utc>>,
    /// How many records above `committed` are finished already.
    pub finished_ahead: u64,
    /// The first offset that is there.
    pub log_start: u64,
    /// One past the last offset that can be read.
    pub high_watermark: u64,
    /// How many offsets are still to be finished.
    pub lag_records: u64,
    /// How old the oldest record is that is still to be finished.
    pub lag: Duration,
}

/// Where a group is to go on, for [`Log::reset_group`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// At the first record that is there.
    Earliest,
    /// Behind the last record.
    Latest,
    /// At this offset.
    Offset(u64),
    /// At the first record with this time or a later one.
    Timestamp(DateTime<Utc>),
    /// So many offsets further, or back if it is negative, but not beyond what is there. A partition of which nothing is committed
    /// counts from its first record.
    Shift(i64),
}

/// What a reset changes in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetChange {
    /// The partition.
    pub partition: TopicPartition,
    /// What was committed before.
    pub before: Option<u64>,
    /// What is committed then.
    pub after: u64,
}

impl Log {
    /// The names of all consumer groups that have members or have committed something, in order.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed); [`Corrupt`](crate::ErrorKind::Corrupt) and [`Io`](crate::ErrorKind::Io) if the
    /// committed offsets cannot be read.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn groups(&self) -> Result<Vec<String>> {
        let inner = Arc::clone(&self.inner);
        unblock(move || groups(&inner.engine)).await
    }

    /// [`groups`](Self::groups) for threads.
    ///
    /// # Errors
    ///
    /// As [`groups`](Self::groups).
    pub fn blocking_groups(&self) -> Result<Vec<String>> {
        groups(&self.inner.engine)
    }

    /// A consumer group: its members, what it has committed, and how far it is behind.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) for a group that nobody is in and that has committed nothing; else as
    /// [`groups`](Self::groups).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// # use annals::{Log, Record, TopicSettings};
    /// # let log = Log::in_memory()?;
    /// # let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// orders.produce_batch(["a", "b", "c"].map(|order| Record::new(order.into()))).await?;
    /// let mut consumer = orders.subscribe("billing").build().await?;
    /// let first = consumer.recv().await?.unwrap();
    /// consumer.commit(&first).await?;
    ///
    /// let billing = log.describe_group("billing").await?;
    /// assert_eq!(billing.partitions[0].committed, Some(1));
    /// assert_eq!(billing.lag_records(), 2);
    /// # Ok(()) }
    /// ```
    pub async fn describe_group(&self, name: &str) -> Result<GroupDescription> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        unblock(move || describe(&inner.engine, &name)).await
    }

    /// [`describe_group`](Self::describe_group) for threads.
    ///
    /// # Errors
    ///
    /// As [`describe_group`](Self::describe_group).
    pub fn blocking_describe_group(&self, name: &str) -> Result<GroupDescription> {
        describe(&self.inner.engine, name)
    }

    /// Where a group has come to, in each partition of which it has committed something. Unlike a description of it this reads no
    /// records, which may be damaged. `NotFound` if there is no such group.
    #[cfg(feature = "kafka")]
    pub(crate) fn group_offsets(&self, name: &str) -> Result<Vec<(TopicPartition, u64)>> {
        let engine = &self.inner.engine;
        engine.check_open()?;
        let committed = Groups::now(engine)?.committed_in(engine, name, &[])?.into_iter();
        let place = |topic: &str, partition| TopicPartition { topic: topic.to_owned(), partition };
        Ok(committed
            .filter_map(|(topic, partition, offset)| Some((place(&topic.name, partition.owner.partition), offset?)))
            .collect())
    }

    /// What [`reset_group`](Self::reset_group) would change: a dry run.
    ///
    /// # Errors
    ///
    /// As [`reset_group`](Self::reset_group), but for `Busy` and those of writing.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn plan_group_reset<'a>(
        &self,
        name: &str,
        topics: impl IntoIterator<Item = &'a str>,
        to: Reset,
    ) -> Result<Vec<OffsetChange>> {
        let (inner, name, topics) = (Arc::clone(&self.inner), name.to_owned(), owned(topics));
        unblock(move || Ok(plan(&inner.engine, &name, &topics, to)?.into_iter().map(|(_, change)| change).collect()))
            .await
    }

    /// Sets where a group goes on, in all partitions of the topics, or, if none are named, wherever it has committed something. A
    /// group that does not exist yet is made. Nobody must be in the group.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) while the group has members; [`NotFound`](crate::ErrorKind::NotFound) for a topic that does
    /// not exist, and for a group that does not exist where no topic is named;
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange) for an offset that does not exist in one of the partitions;
    /// [`Invalid`](crate::ErrorKind::Invalid) for a log that is open read-only; [`Closed`](crate::ErrorKind::Closed),
    /// [`Io`](crate::ErrorKind::Io), [`StorageFull`](crate::ErrorKind::StorageFull), [`Poisoned`](crate::ErrorKind::Poisoned).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the reset goes on.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Log, Record, Reset, TopicSettings};
    ///
    /// # let log = Log::in_memory()?;
    /// # let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// # orders.produce(Record::new("a".into())).await?;
    /// let changes = log.reset_group("billing", ["orders"], Reset::Latest).await?;
    /// assert_eq!(changes[0].after, 1);
    /// # Ok(()) }
    /// ```
    pub async fn reset_group<'a>(
        &self,
        name: &str,
        topics: impl IntoIterator<Item = &'a str>,
        to: Reset,
    ) -> Result<Vec<OffsetChange>> {
        let (inner, name, topics) = (Arc::clone(&self.inner), name.to_owned(), owned(topics));
        unblock(move || reset(&inner.engine, &name, &topics, to)).await
    }

    /// [`reset_group`](Self::reset_group) for threads.
    ///
    /// # Errors
    ///
    /// As [`reset_group`](Self::reset_group).
    pub fn blocking_reset_group<'a>(
        &self,
        name: &str,
        topics: impl IntoIterator<Item = &'a str>,
        to: Reset,
    ) -> Result<Vec<OffsetChange>> {
        reset(&self.inner.engine, name, &owned(topics), to)
    }

    /// Sets where a group goes on in single partitions: for programs that read in a way of their own and keep their place here, where
    /// it is seen. A group that does not exist yet is made. Nobody must be in the group.
    ///
    /// # Errors
    ///
    /// As [`reset_group`](Self::reset_group).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the offsets are set all the same.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Log, Record, TopicPartition, TopicSettings};
    ///
    /// # let log = Log::in_memory()?;
    /// # let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// # orders.produce(Record::new("a".into())).await?;
    /// let place = TopicPartition { topic: "orders".to_owned(), partition: 0 };
    /// log.set_group_offsets("export", [(place, 1)]).await?;
    /// assert_eq!(log.describe_group("export").await?.lag_records(), 0);
    /// # Ok(()) }
    /// ```
    pub async fn set_group_offsets(
        &self,
        name: &str,
        offsets: impl IntoIterator<Item = (TopicPartition, u64)>,
    ) -> Result<()> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        let offsets: Vec<_> = offsets.into_iter().collect();
        unblock(move || set(&inner.engine, &name, &offsets)).await
    }

    /// [`set_group_offsets`](Self::set_group_offsets) for threads.
    ///
    /// # Errors
    ///
    /// As [`reset_group`](Self::reset_group).
    pub fn blocking_set_group_offsets(&self, name: &str, offsets: &[(TopicPartition, u64)]) -> Result<()> {
        set(&self.inner.engine, name, offsets)
    }

    /// Forgets what a group has committed, and so the group. Nobody must be in it.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) while the group has members, [`NotFound`](crate::ErrorKind::NotFound) for a group that does
    /// not exist; else as [`reset_group`](Self::reset_group).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the group is deleted all the same.
    pub async fn delete_group(&self, name: &str) -> Result<()> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        unblock(move || delete(&inner.engine, &name)).await
    }

    /// [`delete_group`](Self::delete_group) for threads.
    ///
    /// # Errors
    ///
    /// As [`delete_group`](Self::delete_group).
    pub fn blocking_delete_group(&self, name: &str) -> Result<()> {
        delete(&self.inner.engine, name)
    }
}

fn owned<'a>(topics: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    topics.into_iter().map(str::to_owned).collect()
}

fn groups(engine: &Engine) -> Result<Vec<String>> {
    engine.check_open()?;
    Ok(Groups::now(engine)?.all().iter().map(|group| group.name.to_string()).collect())
}

fn describe(engine: &Engine, name: &str) -> Result<GroupDescription> {
    engine.check_open()?;
    let GroupView { generation, members, partitions } = Groups::now(engine)?.describe(engine, name)?;
    let id = |id: u64| {
        let member = members.iter().find(|member| member.id == id);
        match member.and_then(|member| member.name.as_deref()) {
            Some(name) => format!("{name}-{id}"),
            None => format!("member-{id}"),
        }
    };
    let described = members.iter().map(|member| MemberDescription {
        id: id(member.id),
        assignment: member
            .assigned
            .iter()
            .map(|(topic, partition)| TopicPartition { topic: topic.to_string(), partition: *partition })
            .collect(),
    });
    let partitions = partitions.iter().map(|view| GroupPartition {
        partition: TopicPartition { topic: view.topic.to_string(), partition: view.partition.owner.partition },
        member: view.member.map(id),
        committed: view.committed.as_ref().map(|committed| committed.next_offset),
        committed_at: view.committed.as_ref().map(|committed| datetime_from_micros(committed.time)),
        finished_ahead: view.committed.iter().flat_map(|committed| &committed.done).map(|(from, to)| to - from).sum(),
        log_start: view.partition.log_start(),
        high_watermark: view.partition.visible_end(),
        lag_records: view.lag,
        lag: Duration::from_micros(view.age.unsigned_abs()),
    });
    Ok(GroupDescription {
        name: name.to_owned(),
        generation,
        members: described.collect(),
        partitions: partitions.collect(),
    })
}

type Planned = ((u128, u32), OffsetChange);

fn plan(engine: &Engine, name: &str, topics: &[String], to: Reset) -> Result<Vec<Planned>> {
    engine.check_open()?;
    validate_group_name(name)?;
    topics.iter().try_for_each(|topic| refuse_reserved(topic))?;
    let mut planned = Vec::new();
    for (topic, partition, before) in Groups::now(engine)?.committed_in(engine, name, topics)? {
        let place = TopicPartition { topic: topic.name.to_string(), partition: partition.owner.partition };
        let after = resolve(&partition, start(to, before, partition.range()))?;
        planned.push((partition.key(), OffsetChange { partition: place, before, after }));
    }
    Ok(planned)
}

/// The place as reading has it; a shift goes no further than what is there.
fn start(to: Reset, before: Option<u64>, range: OffsetRange) -> Start {
    match to {
        Reset::Earliest => Start::Earliest,
        Reset::Latest => Start::Latest,
        Reset::Offset(offset) => Start::Offset(offset),
        Reset::Timestamp(time) => Start::Timestamp(time),
        Reset::Shift(by) => {
            let from = before.unwrap_or(range.log_start).saturating_add_signed(by);
            Start::Offset(from.clamp(range.log_start, range.high_watermark))
        }
    }
}

fn reset(engine: &Engine, name: &str, topics: &[String], to: Reset) -> Result<Vec<OffsetChange>> {
    check_writable(engine)?;
    let planned = plan(engine, name, topics, to)?;
    let offsets: Vec<_> = planned.iter().map(|(whose, change)| (*whose, Some(change.after))).collect();
    Groups::of(engine)?.set(engine, name, &offsets)?;
    Ok(planned.into_iter().map(|(_, change)| change).collect())
}

fn set(engine: &Engine, name: &str, offsets: &[(TopicPartition, u64)]) -> Result<()> {
    check_writable(engine)?;
    validate_group_name(name)?;
    let mut found = Vec::with_capacity(offsets.len());
    for (place, offset) in offsets {
        refuse_reserved(&place.topic)?;
        let partition = engine.topic(&place.topic)?.partition(place.partition)?;
        resolve(&partition, Start::Offset(*offset))?;
        found.push((partition.key(), Some(*offset)));
    }
    Groups::of(engine)?.set(engine, name, &found)
}

fn delete(engine: &Engine, name: &str) -> Result<()> {
    check_writable(engine)?;
    Groups::of(engine)?.delete(engine, name)
}

fn check_writable(engine: &Engine) -> Result<()> {
    engine.check_open()?;
    if engine.is_read_only() {
        return Err(Error::invalid(
            "the log is open read-only; where groups have come to is changed by whoever writes it",
        ));
    }
    Ok(())
}
