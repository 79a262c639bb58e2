//! Events that are to be published later: durable, and published once.
//!
//! They wait as records of annals' own compacted topic `__delayed`, under an identity. When one's time has come, the event and the
//! record that takes it away are written as one transaction. So what waits is what the topic has, after any crash; in memory there
//! is only when each is due, and where it is.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::Bus;
use super::context::Context;
use super::timers::{Alarm, Timers};
use crate::codec::{Codec, Raw, TopicDef};
use crate::error::{Error, ErrorKind, Result};
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::log::settings::TopicSettings;
use crate::record::{Header, Message, Record, datetime_from_micros};
use crate::replay::Start;
use crate::segment::lock;
use crate::task::unblock;
use crate::topic::Topic;

/// annals' own topic of events that wait.
const DELAYED_TOPIC: &str = "__delayed";
const PREFIX: &str = "delayed_";
const TARGET: &str = "delayed_topic";
const UNTIL: &str = "delayed_until";
const KEY: &str = "delayed_key";
const PARTITION: &str = "delayed_partition";
const TIMESTAMP: &str = "delayed_timestamp";
/// The event has no value; a record without one would say that nothing waits.
const TOMBSTONE: &str = "delayed_tombstone";

/// The clock may be set: so often is looked whether it was.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// When something could not be published that is due.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// So many events are published at once, if so many are due.
const AT_ONCE: usize = 64;

/// An event that waits, from [`Bus::publish_at`]; with it the event can be [taken back](Bus::cancel).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delayed {
    id: Uuid,
    at_micros: i64,
    offset: u64,
}

impl Delayed {
    fn due(&self) -> Due {
        (self.at_micros, self.offset)
    }

    /// What it is called by.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// When it is to be published.
    pub fn at(&self) -> DateTime<Utc> {
        datetime_from_micros(self.at_micros)
    }
}

/// When it is due, and the offset of its record: of two that are due at once the one that was said first comes first.
type Due = (i64, u64);

/// The events of a log that wait.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// They were read from the log, and a task sees to them.
    started: OnceCell<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What they are called by.
    waiting: BTreeMap<Due, Uuid>,
    waker: Option<Waker>,
}

impl Extension for Schedule {
    fn closing(&self, _: &Engine) {
        self.wake();
    }
}

impl Schedule {
    fn of(engine: &Engine) -> Result<Arc<Self>> {
        engine.extensions.get_or_init(Self::default).ok_or_else(Error::closed)
    }

    fn wake(&self) {
        let waker = lock(&self.state).waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn add(&self, due: Due, id: Uuid) {
        lock(&self.state).waiting.insert(due, id);
        self.wake();
    }

    fn remove(&self, due: Due) -> Option<Uuid> {
        lock(&self.state).waiting.remove(&due)
    }

    /// The first that are due; or else when the next is.
    fn due(&self, now: i64) -> std::result::Result<Vec<(Due, Uuid)>, Option<i64>> {
        let state = lock(&self.state);
        let due: Vec<_> = state.waiting.range(..=(now, u64::MAX)).take(AT_ONCE).map(|(due, id)| (*due, *id)).collect();
        if due.is_empty() { Err(state.waiting.keys().next().map(|(at, _)| *at)) } else { Ok(due) }
    }
}

/// The settings of `__delayed`.
fn settings() -> TopicSettings {
    TopicSettings::default().compaction(true)
}

impl Bus {
    /// Publishes an event at a time, on the machine's clock: it is on the disk when this resolves, and is published once, also if
    /// the process ends meanwhile; then it is once somebody publishes or subscribes again. A time that is over is now. Correlation and cause are those
    /// of this moment.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish), and [`Invalid`](ErrorKind::Invalid) outside of a tokio runtime. That the topic does not exist
    /// is found out now as well.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the event may be published later or not.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use std::time::Duration;
    ///
    /// use annals::{Json, Log, Record, TopicDef};
    ///
    /// const REMINDERS: TopicDef<String, Json> = TopicDef::new("reminders");
    ///
    /// let bus = Log::in_memory()?.bus();
    /// let day = Duration::from_secs(86_400);
    /// let reminder = bus.publish_after(REMINDERS, Record::new("pay the invoice".into()).key("order-17"), day).await?;
    /// assert!(bus.cancel(reminder).await?);
    /// # Ok(()) }
    /// ```
    pub async fn publish_at<T, C>(
        &self,
        topic: TopicDef<T, C>,
        record: impl Into<Record<T>>,
        at: DateTime<Utc>,
    ) -> Result<Delayed>
    where
        C: Codec<T> + Default,
    {
        self.needs_log("delayed delivery")?;
        let record = self.filled::<T, C>(record.into(), Context::current().as_ref())?;
        let target = self.topic_or_create_with(&topic, TopicSettings::clone).await?;
        if let Some(partition) = record.partition {
            target.watermarks(partition)?;
        }
        let id = self.inner.ids.uuid(self.log().inner.engine.env.clock.now_micros());
        let at_micros = at.timestamp_micros();
        let record = to_wait(target.name(), record, &topic.codec(), id, at_micros)?;
        let (schedule, waiting) = self.schedule().await?;
        let receipt = waiting.produce(record).await?;
        let delayed = Delayed { id, at_micros, offset: receipt.offset };
        schedule.add(delayed.due(), id);
        Ok(delayed)
    }

    /// Publishes an event after a time has passed, as [`publish_at`](Self::publish_at).
    ///
    /// # Errors
    ///
    /// As [`publish_at`](Self::publish_at).
    ///
    /// # Cancel safety
    ///
    /// As [`publish_at`](Self::publish_at).
    pub async fn publish_after<T, C>(
        &self,
        topic: TopicDef<T, C>,
        record: impl Into<Record<T>>,
        delay: Duration,
    ) -> Result<Delayed>
    where
        C: Codec<T> + Default,
    {
        let now = datetime_from_micros(self.log().inner.engine.env.clock.now_micros());
        let at = TimeDelta::from_std(delay).ok().and_then(|delay| now.checked_add_signed(delay));
        self.publish_at(topic, record, at.unwrap_or(DateTime::<Utc>::MAX_UTC)).await
    }

    /// Takes back an event that waits. Answers whether it waited still.
    ///
    /// # Errors
    ///
    /// As [`Topic::produce`]: it waits then, or not.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the event may be taken back or not.
    pub async fn cancel(&self, delayed: Delayed) -> Result<bool> {
        self.needs_log("delayed delivery")?;
        let (schedule, waiting) = self.schedule().await?;
        // Of another log, or another opening, it may be another's place.
        let known = lock(&schedule.state).waiting.get(&delayed.due()) == Some(&delayed.id);
        let Some(id) = known.then(|| schedule.remove(delayed.due())).flatten() else { return Ok(false) };
        match waiting.produce(gone(id)).await {
            Ok(_) => Ok(true),
            Err(error) => {
                schedule.add(delayed.due(), id);
                Err(error)
            }
        }
    }

    /// How many events wait.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) and [`Corrupt`](ErrorKind::Corrupt) from reading them, [`Closed`](ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped nothing has changed.
    pub async fn delayed_count(&self) -> Result<u64> {
        self.needs_log("delayed delivery")?;
        let (schedule, _) = self.schedule().await?;
        let count = lock(&schedule.state).waiting.len();
        Ok(count as u64)
    }

    /// Starts publishing what waits, if anything does; once for a log.
    pub(super) async fn start_delayed(&self) -> Result<()> {
        let engine = &self.log().inner.engine;
        match engine.extensions.get::<Schedule>() {
            Some(schedule) if schedule.started.initialized() => Ok(()),
            _ if engine.is_read_only() || engine.topic(DELAYED_TOPIC).is_err() => Ok(()),
            _ => self.schedule().await.map(drop),
        }
    }

    /// What waits, and the topic in which it does.
    async fn schedule(&self) -> Result<(Arc<Schedule>, Topic)> {
        let engine = &self.log().inner.engine;
        let schedule = Schedule::of(engine)?;
        let topic = match engine.topic(DELAYED_TOPIC) {
            Ok(topic) => topic,
            Err(_) => {
                let engine = Arc::clone(engine);
                unblock(move || engine.create_topic(DELAYED_TOPIC, settings())).await?
            }
        };
        let topic = Topic::new(Arc::clone(&self.log().inner), topic, Raw);
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            Error::invalid("events that wait are published by a task, and there is no tokio runtime here")
        })?;
        // Nothing is added before all that there is was read, or it would be overlooked.
        let start = async || {
            let (source, known) = (topic.clone(), Arc::clone(&schedule));
            unblock(move || read(&source, &known)).await?;
            runtime.spawn(publish_when_due(self.clone(), Arc::clone(&schedule), topic.clone()));
            Ok::<_, Error>(())
        };
        schedule.started.get_or_try_init(start).await?;
        Ok((schedule, topic))
    }
}

/// The record under which an event waits.
fn to_wait<T, C: Codec<T>>(topic: &str, record: Record<T>, codec: &C, id: Uuid, at_micros: i64) -> Result<Record> {
    let mut value = Vec::new();
    let mut headers = record.headers;
    let mut put = |header| headers.push(header);
    match &record.value {
        Some(event) => codec.encode(event, &mut value)?,
        None => put(Header::absent(TOMBSTONE)),
    }
    put(Header::new(TARGET, topic));
    put(Header::new(UNTIL, at_micros.to_string()));
    if let Some(key) = record.key {
        put(Header::new(KEY, key));
    }
    if let Some(partition) = record.partition {
        put(Header::new(PARTITION, partition.to_string()));
    }
    if let Some(timestamp) = record.timestamp {
        put(Header::new(TIMESTAMP, timestamp.timestamp_micros().to_string()));
    }
    let key = Bytes::copy_from_slice(id.as_bytes());
    Ok(Record { value: Some(value.into()), key: Some(key), headers, timestamp: None, partition: Some(0) })
}

/// What says that nothing waits under an identity any more.
fn gone(id: Uuid) -> Record {
    Record::tombstone().key(&id.as_bytes()[..]).partition(0)
}

/// The name of the topic, and the event as it was.
fn to_publish(message: &Message) -> Option<(String, Record)> {
    let headers = message.headers();
    let topic = headers.get_str(TARGET)?.to_owned();
    let number = |name| headers.get_str(name)?.parse::<i64>().ok();
    let mut original = headers.clone();
    original.retain(|header| !header.name().starts_with(PREFIX));
    let record = Record {
        value: message.value().filter(|_| !headers.contains(TOMBSTONE)).cloned(),
        key: headers.get(KEY).cloned(),
        timestamp: number(TIMESTAMP).map(datetime_from_micros),
        partition: number(PARTITION).and_then(|partition| u32::try_from(partition).ok()),
        headers: original,
    };
    Some((topic, record))
}

/// When an event is due, if it waits.
fn until(message: &Message) -> Option<i64> {
    message.value().and(message.headers().get_str(UNTIL))?.parse().ok()
}

/// What an event is called by.
fn id_of(message: &Message) -> Option<Uuid> {
    Uuid::from_slice(message.key()?).ok()
}

/// Reads from the log what waits.
fn read(topic: &Topic, schedule: &Schedule) -> Result<()> {
    let mut waiting: HashMap<Uuid, Due> = HashMap::new();
    let mut messages = topic.replay(Start::Earliest).blocking()?;
    while let Some(message) = messages.next_message()? {
        let Some(id) = id_of(&message) else { continue };
        match until(&message) {
            Some(at) => waiting.insert(id, (at, message.offset())),
            None => waiting.remove(&id),
        };
    }
    lock(&schedule.state).waiting = waiting.into_iter().map(|(id, due)| (due, id)).collect();
    Ok(())
}

/// The task that publishes what is due, until the log is closed.
async fn publish_when_due(bus: Bus, schedule: Arc<Schedule>, topic: Topic) {
    let engine = Arc::clone(&bus.log().inner.engine);
    let Ok(timers) = Timers::of(&engine) else { return };
    let mut alarm = Alarm::new(&engine, &timers);
    let mut again = None;
    loop {
        poll_fn(|cx| {
            {
                let mut state = lock(&schedule.state);
                match &mut state.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
            }
            if engine.check_open().is_err() {
                return Poll::Ready(());
            }
            let now = engine.env.clock.now_micros();
            let wait = match (again, schedule.due(now)) {
                (Some(again), _) => return alarm.poll(again, cx),
                (None, Ok(_)) => return Poll::Ready(()),
                (None, Err(None)) => return Poll::Pending,
                (None, Err(Some(at))) => Duration::from_micros(u64::try_from(at.saturating_sub(now)).unwrap_or(0)),
            };
            let until = alarm.now().saturating_add(wait.min(LOOK_AGAIN));
            alarm.poll(until, cx)
        })
        .await;
        if engine.check_open().is_err() {
            return;
        }
        again = None;
        let Ok(due) = schedule.due(engine.env.clock.now_micros()) else { continue };
        let whole = publish(&bus, &schedule, &topic, &due).await;
        if whole.is_err() && due.len() > 1 {
            // One of them may be in the way of the others.
            for one in due.chunks(1) {
                if let Err(error) = publish(&bus, &schedule, &topic, one).await {
                    again = failed(&error, &alarm);
                }
            }
        } else if let Err(error) = whole {
            again = failed(&error, &alarm);
        }
    }
}

fn failed(error: &Error, alarm: &Alarm) -> Option<Duration> {
    if error.kind() != ErrorKind::Closed {
        tracing::error!(%error, "an event that is due could not be published; it is tried again");
    }
    Some(alarm.now().saturating_add(TRY_AGAIN))
}

/// Publishes events that are due, and takes them away, as one.
async fn publish(bus: &Bus, schedule: &Schedule, waiting: &Topic, due: &[(Due, Uuid)]) -> Result<()> {
    let (source, offsets) = (waiting.clone(), due.iter().map(|((_, offset), _)| *offset).collect::<Vec<_>>());
    let messages = unblock(move || {
        let at = |offset: u64| source.replay_partition(0, Start::Offset(offset)).blocking()?.next_message();
        offsets.into_iter().map(at).collect::<Result<Vec<_>>>()
    })
    .await?;
    let mut transaction = bus.log().transaction();
    let mut taken = Vec::with_capacity(due.len());
    for ((due, id), message) in due.iter().zip(messages) {
        let whole = message.filter(|message| message.offset() == due.1 && id_of(message) == Some(*id));
        // Cancelled meanwhile: whoever did has the entry.
        if schedule.remove(*due).is_none() {
            continue;
        }
        taken.push((*due, *id));
        if let Some((topic, record)) = whole.as_ref().and_then(to_publish) {
            let topic = target(bus, &topic).await;
            if let Err(error) = topic.and_then(|topic| transaction.produce(&topic, record)) {
                taken.into_iter().for_each(|(due, id)| schedule.add(due, id));
                return Err(error);
            }
        }
        if let Err(error) = transaction.produce(waiting, gone(*id)) {
            taken.into_iter().for_each(|(due, id)| schedule.add(due, id));
            return Err(error);
        }
    }
    match transaction.commit().await {
        Ok(_) => {
            bus.inner.stats.published.add(taken.len() as u64);
            Ok(())
        }
        Err(error) => {
            taken.into_iter().for_each(|(due, id)| schedule.add(due, id));
            Err(error)
        }
    }
}

/// The topic that an event is for, by its full name. It may have been deleted meanwhile.
async fn target(bus: &Bus, name: &str) -> Result<Topic> {
    match bus.log().raw_topic(name) {
        Err(error) if error.kind() == ErrorKind::NotFound && bus.settings().create_topics => {
            bus.log().create_raw_topic(name, bus.settings().topic_defaults.clone()).await
        }
        found => found,
    }
}
