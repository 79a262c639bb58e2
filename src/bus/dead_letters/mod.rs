//! Dead letters: events that a group has given up. Looking at them, handing them to the group again, and throwing them away.
//!
//! A dead letter is a record of a topic like any other. Which of them are still open for a group is what a consumer group of its
//! own has not finished: `dead-letters:` and the group's name. Replaying one is a transaction: a copy goes into annals' own topic
//! `__replays`, which every subscription with a dead-letter topic reads, and the letter is finished.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::Bus;
use super::backend::Store;
use super::handler::Reason;
use crate::codec::Raw;
use crate::consumer::{Consumer, Item};
use crate::error::{Error, ErrorKind, Result};
use crate::event::TraceParent;
use crate::group::Groups;
use crate::group::progress::Progress;
use crate::log::engine::Engine;
use crate::log::settings::TopicSettings;
use crate::record::{Headers, Message};
use crate::replay::Start;
use crate::task::unblock;
use crate::text::quoted;
use crate::topic::Topic;

mod parked;
pub(super) mod record;

pub(super) use parked::Parked;
use parked::Registry;
use record::{Place, REPLAYS_TOPIC, original_headers, to_replay};

/// An event that a group has given up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The partition of the dead-letter topic.
    pub partition: u32,
    /// The offset in the dead-letter topic; with the partition, what it is called by.
    pub offset: u64,
    /// The topic of the original.
    pub source_topic: String,
    /// The partition of the original.
    pub source_partition: u32,
    /// The offset of the original.
    pub source_offset: u64,
    /// When the original happened.
    pub timestamp: DateTime<Utc>,
    /// The group that has given it up.
    pub group: String,
    /// What kind of failure the last one was.
    pub reason: Reason,
    /// What the last error said, and what its sources said.
    pub errors: Vec<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// When the first attempt failed.
    pub first_failure: Option<DateTime<Utc>>,
    /// When the last attempt failed.
    pub last_failure: Option<DateTime<Utc>>,
    /// The key of the original.
    pub key: Option<Bytes>,
    /// The value of the original, as bytes; `None` for a tombstone.
    pub value: Option<Bytes>,
    /// The headers of the original.
    pub headers: Headers,
}

impl DeadLetter {
    fn read(message: &Message) -> Option<Self> {
        let headers = message.headers();
        let place = Place::of_dead_letter(headers)?;
        let time = |name| {
            let time = DateTime::parse_from_rfc3339(headers.get_str(name)?).ok()?;
            Some(time.with_timezone(&Utc))
        };
        Some(Self {
            partition: message.partition(),
            offset: message.offset(),
            source_topic: place.topic.to_string(),
            source_partition: place.partition,
            source_offset: place.offset,
            timestamp: place.timestamp,
            group: headers.get_str(record::GROUP)?.to_owned(),
            reason: Reason::from_word(headers.get_str(record::REASON).unwrap_or("")),
            errors: headers.get_all(record::ERROR).filter_map(|header| header.value_str().map(str::to_owned)).collect(),
            attempts: headers.get_str(record::ATTEMPTS).and_then(|count| count.parse().ok()).unwrap_or(0),
            first_failure: time(record::FIRST_FAILURE),
            last_failure: time(record::LAST_FAILURE),
            key: message.key().cloned(),
            value: message.value().cloned(),
            headers: original_headers(headers),
        })
    }

    /// The trace that the original belongs to.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.headers.get_str(crate::event::TRACEPARENT)?.parse().ok()
    }
}

/// The dead letters of one group in one topic. Made by [`Bus::dead_letters`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use annals::{Context, Event, Json, Log, Retry, TopicDef};
///
/// const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");
/// let bus = Log::in_memory()?.bus();
/// let billing = bus
///     .on(ORDERS, "billing", |order: Event<u64>, _: Context| match order.value() {
///         Some(0) => Err("nothing to bill"),
///         _ => Ok(()),
///     })
///     .retry(Retry::never())
///     .dead_letter("orders.dlq")
///     .spawn()
///     .await?;
/// bus.publish(ORDERS, 0).await?;
/// billing.idle().await?;
///
/// let letters = bus.dead_letters("billing", "orders.dlq")?;
/// let letter = &letters.list(10).await?[0];
/// assert_eq!(letter.errors, ["nothing to bill"]);
/// assert_eq!(letter.value.as_deref(), Some(&b"0"[..]));
/// letters.replay_all().await?;          // or `purge_all`
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetters {
    bus: Bus,
    /// As the log knows it.
    group: String,
    topic: Letters,
}

/// Where they are.
#[derive(Debug, Clone)]
enum Letters {
    Log(Topic),
    #[cfg(feature = "kafka")]
    Kafka(Arc<super::kafka::Cluster>, Arc<str>),
}

impl Letters {
    fn name(&self) -> &str {
        match self {
            Self::Log(topic) => topic.name(),
            #[cfg(feature = "kafka")]
            Self::Kafka(_, name) => name,
        }
    }
}

impl Bus {
    /// The dead letters of a group in a topic.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such topic, which on Kafka is found out by the first look;
    /// [`Invalid`](ErrorKind::Invalid) for names that are none, [`Closed`](ErrorKind::Closed).
    pub fn dead_letters(&self, group: &str, topic: &str) -> Result<DeadLetters> {
        crate::group::validate_group_name(group)?;
        let name = self.full_name(topic);
        let topic = match &self.inner.store {
            Store::Log => Letters::Log(self.log().raw_topic(&name)?),
            #[cfg(feature = "kafka")]
            Store::Kafka(cluster) => {
                crate::log::names::validate_user_topic_name(&name)?;
                Letters::Kafka(Arc::clone(cluster), (&*name).into())
            }
        };
        Ok(DeadLetters { bus: self.clone(), group: self.full_name(group).into_owned(), topic })
    }
}

/// The name of the consumer group that finishes the dead letters of a group.
fn shadow(group: &str) -> String {
    format!("dead-letters:{group}")
}

/// The settings of `__replays`.
fn replays_settings() -> TopicSettings {
    TopicSettings::default()
}

/// Makes the topic of replays, if there is none.
pub(super) fn ensure_replays(engine: &Engine) -> Result<()> {
    match engine.topic(REPLAYS_TOPIC) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            engine.create_topic(REPLAYS_TOPIC, replays_settings()).map(drop)
        }
        found => found.map(drop),
    }
}

/// What a group has finished in each partition of a topic.
fn progress(engine: &Engine, group: &str, topic: &str) -> Result<Vec<Progress>> {
    let topic = engine.topic(topic)?;
    let groups = Groups::now(engine)?;
    let lanes = groups.existing(group).map(|group| group.lanes()).unwrap_or_default();
    let of = |partition: u32| {
        let lane = lanes.iter().find(|lane| lane.whose == (topic.id, partition));
        lane.and_then(|lane| lane.lock().committed().map(Progress::of)).unwrap_or_default()
    };
    Ok((0..topic.snapshot().settings.partitions).map(of).collect())
}

/// Calls `each` with every message of a topic that a group has not finished, in the order of the log.
fn unfinished(bus: &Bus, group: &str, topic: &str, mut each: impl FnMut(Message) -> Result<bool>) -> Result<()> {
    let progress = progress(&bus.log().inner.engine, group, topic)?;
    let mut messages = bus.log().replay_topics([topic], Start::Earliest)?.blocking()?;
    while let Some(message) = messages.next_message()? {
        let done = progress.get(message.partition() as usize).is_some_and(|done| done.is_finished(message.offset()));
        if !done && !each(message)? {
            break;
        }
    }
    Ok(())
}

/// What is parked of a group, read from the log unless somebody in this process knows it.
pub(super) async fn parked(bus: &Bus, group: &str, topic: &str) -> Result<Arc<Parked>> {
    let registry = Registry::of(&bus.log().inner.engine)?;
    let _working = registry.working.lock().await;
    if let Some(known) = registry.get(group, topic) {
        return Ok(known);
    }
    let parked = Arc::new(Parked::default());
    let (bus, found, name, of) = (bus.clone(), Arc::clone(&parked), topic.to_owned(), group.to_owned());
    unblock(move || {
        unfinished(&bus, &shadow(&of), &name, |letter| {
            if letter.headers().get_str(record::GROUP) == Some(&of)
                && let Some(place) = Place::of_dead_letter(letter.headers())
            {
                found.found(&place, letter.key(), false);
            }
            Ok(true)
        })?;
        unfinished(&bus, &of, REPLAYS_TOPIC, |replay| {
            if let Some(Some(original)) = record::replayed(&replay, &of) {
                let (topic, timestamp) = (Arc::clone(&*original.topic), original.timestamp());
                let place = Place { topic, partition: original.partition, offset: original.offset, timestamp };
                found.found(&place, original.key(), true);
            }
            Ok(true)
        })
    })
    .await?;
    registry.put(group, topic, &parked);
    Ok(parked)
}

/// So many dead letters are replayed in one transaction.
const AT_ONCE: usize = 16;

/// What is to be done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Replay,
    Purge,
}

impl DeadLetters {
    /// The open dead letters, oldest first, up to `max` of them.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) and [`Corrupt`](ErrorKind::Corrupt) from reading them, [`Closed`](ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn list(&self, max: usize) -> Result<Vec<DeadLetter>> {
        let letters = self.clone();
        unblock(move || letters.blocking_list(max)).await
    }

    /// [`list`](Self::list) for threads.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    pub fn blocking_list(&self, max: usize) -> Result<Vec<DeadLetter>> {
        let mut found = Vec::new();
        self.each(|letter| {
            if found.len() < max {
                found.extend(letter);
            }
            found.len() < max
        })?;
        Ok(found)
    }

    /// How many dead letters are open.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn count(&self) -> Result<u64> {
        let letters = self.clone();
        unblock(move || {
            let mut count = 0;
            letters.each(|letter| {
                count += u64::from(letter.is_some());
                true
            })?;
            Ok(count)
        })
        .await
    }

    fn each(&self, mut each: impl FnMut(Option<DeadLetter>) -> bool) -> Result<()> {
        #[cfg(feature = "kafka")]
        if let Letters::Kafka(cluster, name) = &self.topic {
            let _all = cluster.letters(&self.group, name)?.iter().all(|letter| each(DeadLetter::read(letter)));
            return Ok(());
        }
        unfinished(&self.bus, &shadow(&self.group), self.topic.name(), |message| {
            let letter = DeadLetter::read(&message).filter(|letter| letter.group == self.group);
            Ok(letter.is_none() || each(letter))
        })
    }

    /// One open dead letter.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is none of this group at this place, or it was replayed or purged; else as
    /// [`list`](Self::list).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn get(&self, partition: u32, offset: u64) -> Result<DeadLetter> {
        let letters = self.clone();
        unblock(move || {
            let mut found = None;
            letters.each(|letter| {
                found = letter.filter(|letter| (letter.partition, letter.offset) == (partition, offset));
                found.is_none()
            })?;
            found.ok_or_else(|| letters.not_found(partition, offset))
        })
        .await
    }

    fn not_found(&self, partition: u32, offset: u64) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!(
                "group {} has no open dead letter at topic {}, partition {partition}, offset {offset}",
                quoted(&self.group),
                self.topic.name()
            ),
        )
    }

    /// Hands all open dead letters to the group again, to no other, in the order of the originals. It handles them as soon as a
    /// subscription with this dead-letter topic runs. What fails again is a dead letter again. Answers how many there were.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list), and as [`Transaction::commit`](crate::Transaction::commit): those before are replayed then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped some may be replayed; each is replayed once.
    pub async fn replay_all(&self) -> Result<u64> {
        self.act(Action::Replay, None).await
    }

    /// Hands dead letters to the group again, by partition and offset in the dead-letter topic; else as
    /// [`replay_all`](Self::replay_all). With a subscription that keeps the [order](super::On::sequenced), what is behind them stays.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if one of them is not open, and then none is replayed; else as
    /// [`replay_all`](Self::replay_all).
    ///
    /// # Cancel safety
    ///
    /// As [`replay_all`](Self::replay_all).
    pub async fn replay(&self, which: impl IntoIterator<Item = (u32, u64)>) -> Result<u64> {
        self.act(Action::Replay, Some(which.into_iter().collect())).await
    }

    /// Throws all open dead letters away. They stay in the topic until its retention lets them go, but are open no more.
    ///
    /// # Errors
    ///
    /// As [`replay_all`](Self::replay_all).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped some may be purged.
    pub async fn purge_all(&self) -> Result<u64> {
        self.act(Action::Purge, None).await
    }

    /// Throws dead letters away, by partition and offset in the dead-letter topic.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped some may be purged.
    pub async fn purge(&self, which: impl IntoIterator<Item = (u32, u64)>) -> Result<u64> {
        self.act(Action::Purge, Some(which.into_iter().collect())).await
    }

    async fn act(&self, action: Action, which: Option<BTreeSet<(u32, u64)>>) -> Result<u64> {
        #[cfg_attr(
            not(feature = "kafka"),
            expect(clippy::infallible_destructuring_match, reason = "there is more with Kafka")
        )]
        let topic = match &self.topic {
            Letters::Log(topic) => topic,
            #[cfg(feature = "kafka")]
            Letters::Kafka(cluster, name) => {
                let (letters, cluster, name) = (self.clone(), Arc::clone(cluster), Arc::clone(name));
                let replay = action == Action::Replay;
                return unblock(move || {
                    let done = cluster.act(&letters.group, &name, replay, which.as_ref())?;
                    done.map_err(|(partition, offset)| letters.not_found(partition, offset))
                })
                .await;
            }
        };
        let log = self.bus.log();
        let engine = Arc::clone(&log.inner.engine);
        unblock(move || ensure_replays(&engine)).await?;
        let registry = Registry::of(&log.inner.engine)?;
        // One at a time: the partitions of the topic belong to one member of the shadow group only.
        let _working = registry.working.lock().await;
        let parked = registry.get(&self.group, topic.name());
        let mut consumer = topic.subscribe(shadow(&self.group)).build().await?;
        let mut open = self.collect(&mut consumer).await?;
        if let Some(which) = &which {
            let there: BTreeSet<_> = open.iter().map(|(_, letter)| (letter.partition(), letter.offset())).collect();
            if let Some((partition, offset)) = which.difference(&there).next() {
                return Err(self.not_found(*partition, *offset));
            }
            open.retain(|(_, letter)| which.contains(&(letter.partition(), letter.offset())));
        }
        open.sort_by(|(a, _), (b, _)| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
        let replays = Topic::<Bytes, Raw>::new(Arc::clone(&log.inner), log.inner.engine.topic(REPLAYS_TOPIC)?, Raw);
        for some in open.chunks(AT_ONCE) {
            let mut transaction = log.transaction();
            for (place, letter) in some {
                if action == Action::Replay {
                    transaction.produce(&replays, to_replay(letter, place, &self.group))?;
                }
                transaction.finish(&consumer, letter)?;
            }
            let each = |tell: &dyn Fn(&Parked, &Place, Option<&Bytes>)| {
                for (place, letter) in some {
                    parked.iter().for_each(|parked| tell(parked, place, letter.key()));
                }
            };
            // Said before it is so: the subscription may see the replay at once.
            each(&|parked, place, key| parked.released(place, key, action == Action::Replay));
            if let Err(error) = transaction.commit().await {
                each(&|parked, place, key| parked.kept(place, key));
                return Err(error);
            }
        }
        consumer.close().await?;
        Ok(open.len() as u64)
    }

    /// The open dead letters of the group. Those of others are finished in passing.
    async fn collect(&self, consumer: &mut Consumer) -> Result<Vec<(Place, Message)>> {
        let mut open = Vec::new();
        while let Some(item) = futures_util::StreamExt::next(consumer).await {
            match item? {
                Item::Message(message) => {
                    let ours = message.headers().get_str(record::GROUP) == Some(&self.group);
                    match Place::of_dead_letter(message.headers()).filter(|_| ours) {
                        Some(place) => open.push((place, message.detached())),
                        None => consumer.finish_async(&message)?,
                    }
                }
                Item::CaughtUp => break,
                Item::Gap(_) | Item::Rewound(_) => {}
            }
        }
        Ok(open)
    }
}
