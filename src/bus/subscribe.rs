//! Making a subscription.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::Bus;
use super::backend::{Feed, LetterTopic, Store, Target};
use super::breaker::CircuitBreaker;
use super::dead_letters::{Parked, ensure_replays, parked, record::REPLAYS_TOPIC};
use super::driver::{Driver, Gone};
use super::filter::Filter;
use super::handler::{Dispatch, Handler, Typed};
use super::policy::{GiveUp, Policy};
use super::retry::Retry;
use super::shared::Shared;
use super::subscription::Subscription;
use crate::codec::{Codec, Raw, TopicDef};
use crate::consumer::Rebalance;
use crate::error::{Error, ErrorKind, Result};
use crate::group::pattern::Subscription as Names;
use crate::log::settings::{Durability, TopicSettings, ranges};
use crate::replay::Start;
use crate::segment::lock;
use crate::task::unblock;
use crate::text::quoted;

/// A subscription to be, from [`Bus::on`].
///
/// Unless told otherwise it begins at the first event, handles one event at a time, tries five times, and ends with an error rather
/// than lose an event that has failed for good: give it a [dead-letter topic](Self::dead_letter), or [leave to skip](Self::skip_failed).
#[must_use = "a subscription begins when it is spawned"]
pub struct On {
    bus: Bus,
    pub(super) group: String,
    topics: Vec<String>,
    handler: Arc<dyn Dispatch>,
    /// What is wrong with the handler.
    wrong: Option<Error>,
    pub(super) start: Start,
    member: Option<String>,
    pub(super) dead_letter: Option<String>,
    pub(super) sequenced: bool,
    pub(super) policy: Policy,
}

impl fmt::Debug for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("On")
            .field("group", &self.group)
            .field("topics", &self.topics)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// A subscription of `group` to a topic, or to all topics that match a pattern in which `*` stands for any text: topics that are
    /// made later join by themselves. `handler` is called with each event. The members of a group, in this process, share the events
    /// by partition; each group gets all of them.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use std::time::Duration;
    ///
    /// use annals::{CircuitBreaker, Context, Event, Filter, Json, Log, Retry, TopicDef};
    ///
    /// const ORDERS: TopicDef<u64, Json> = TopicDef::new("orders");
    ///
    /// let bus = Log::in_memory()?.bus();
    /// let billing = bus
    ///     .on(ORDERS, "billing", |order: Event<u64>, cx: Context| async move {
    ///         println!("{:?}, attempt {}", order.value(), cx.attempt());
    ///         Ok::<_, std::io::Error>(())
    ///     })
    ///     .filter(Filter::header("tenant_id", "acme").not())
    ///     .concurrency(8)                                  // the events of a key one after the other all the same
    ///     .deadline(Duration::from_secs(10))
    ///     .retry(Retry::exponential(5))
    ///     .dead_letter("orders.dlq")
    ///     .circuit_breaker(CircuitBreaker::default())
    ///     .spawn()
    ///     .await?;
    ///
    /// bus.publish(ORDERS, 17).await?;
    /// billing.idle().await?;
    /// assert_eq!(billing.stats().succeeded, 1);
    /// billing.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub fn on<T, C, M>(&self, topic: TopicDef<T, C>, group: impl Into<String>, handler: impl Handler<T, M>) -> On
    where
        T: Send + 'static,
        C: Codec<T> + Default,
        M: 'static,
    {
        let wrong = handler.validate().err();
        On {
            bus: self.clone(),
            group: group.into(),
            topics: vec![topic.name().to_owned()],
            handler: Arc::new(Typed::<T, C, _, M>::new(topic.codec(), handler)),
            wrong,
            start: Start::Earliest,
            member: None,
            dead_letter: None,
            sequenced: false,
            policy: Policy::default(),
        }
    }
}

impl On {
    /// The same, wrong for this reason if there is one.
    pub(super) fn or_wrong(mut self, checked: Result<()>) -> Self {
        self.wrong = self.wrong.or(checked.err());
        self
    }

    /// One more topic, or pattern, of events that the handler understands.
    pub fn and(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// Calls the handler only with events that pass; the others count as done. Given twice, events have to pass both.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.policy.filter = Some(match self.policy.filter.take() {
            Some(before) => before.and(filter),
            None => filter,
        });
        self
    }

    /// So many events are handled at once, 1 to 10,000; by default 1. The events of a key are handled one after the other all the
    /// same. With 1 the handler runs in the subscription's own task; with more, each runs in a task of its own. However they
    /// overtake each other, what is done is remembered, and nothing that is not.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.policy.concurrency = handlers;
        self
    }

    /// How long an attempt may take; then it is cancelled and has failed. A handler that neither waits nor returns cannot be cancelled.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.policy.deadline = Some(deadline);
        self
    }

    /// When to try again; by default [`Retry::default`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.policy.retry = retry;
        self
    }

    /// Where events go that have failed for good: with the original key, value and headers, and with headers that say why. The
    /// dead letter and the note that the event is done are one commit, so none is lost and none is there twice. Later events of the
    /// key go on. The topic is made if there is none, with [room](crate::TopicSettings::reserve_bytes) for when the disk is full; it must not be one that is subscribed to, and must not
    /// [remember identities](crate::TopicSettings::dedup_count_max).
    pub fn dead_letter(mut self, topic: impl Into<String>) -> Self {
        self.dead_letter = Some(topic.into());
        self
    }

    /// Keeps the order of a key through its dead letters: as long as one is open, later events of the key become dead letters
    /// behind it, and are handled in order when they are [replayed](super::DeadLetters::replay_all). Needs a
    /// [dead-letter topic](Self::dead_letter).
    pub fn sequenced(mut self) -> Self {
        self.sequenced = true;
        self
    }

    /// Events that have failed for good are skipped, and counted.
    pub fn skip_failed(mut self) -> Self {
        self.policy.give_up = GiveUp::Skip;
        self
    }

    /// Leaves a handler that fails time after time alone for a while.
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.policy.breaker = Some(breaker);
        self
    }

    /// Events that are older are skipped, and counted, unless their header `ttl` says otherwise. Their age is the time since their
    /// timestamp, on the machine's clock: if that is set back, less expires, and more if it is set forward.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.policy.ttl = Some(ttl);
        self
    }

    /// An event is done when [`Context::acknowledge`](super::Context::acknowledge) was called, and not when the handler answers. Until
    /// then it counts as being handled.
    pub fn manual_acknowledgement(mut self) -> Self {
        self.policy.manual = true;
        self
    }

    /// Where the group begins in a partition of which it has finished nothing, as
    /// [`Subscribe::start`](crate::Subscribe::start).
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// What the member calls itself, in [`Log::describe_group`](crate::Log::describe_group).
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.member = Some(name.into());
        self
    }

    /// How many events may wait in memory, for another attempt or behind one of their key, and how many bytes they may have; by default
    /// 900 and 64 MiB. When it is full nothing new is taken until one of them is done. With more than 1,000 of them in a partition,
    /// some events that were handled are handled again after a restart: a commit remembers so much.
    pub fn waiting_max(mut self, events: usize, bytes: usize) -> Self {
        (self.policy.waiting_max, self.policy.waiting_bytes_max) = (events, bytes);
        self
    }

    /// How long the handlers that are running may take when the subscription is to end; by default 30 s. What is not done by then
    /// is cancelled, and delivered again.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.policy.shutdown_timeout = timeout;
        self
    }

    /// Begins: a task on tokio's runtime works until the subscription is [ended](Subscription::unsubscribe), the bus is
    /// [shut down](Bus::shutdown), or the log is closed. Dropping the handle ends nothing.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for settings, names and patterns outside of what is allowed, for a dead-letter topic that is
    /// subscribed to, and outside of a runtime; [`AlreadyExists`](ErrorKind::AlreadyExists) for a router that has two handlers for a
    /// type; [`NotFound`](ErrorKind::NotFound) for a topic that does not exist, if the bus makes none; else as
    /// [`Subscribe::build`](crate::Subscribe::build).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped topics may have been made, and nothing else.
    pub async fn spawn(mut self) -> Result<Subscription> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::invalid("a subscription is a task, and there is no tokio runtime here"))?;
        self.policy.validate()?;
        let bus = self.bus.clone();
        let group = bus.full_name(&self.group).into_owned();
        let topics: Vec<String> = self.topics.iter().map(|topic| bus.full_name(topic).into_owned()).collect();
        let names = Names::new(topics.iter().map(String::as_str))?;
        let letters = self.dead_letter_topic(&names).await?;
        for topic in self.topics.iter().filter(|topic| !topic.contains('*')) {
            bus.target(&TopicDef::<Bytes, Raw>::named(topic)).await?;
        }
        let gone: Gone = Arc::new(Mutex::new(Vec::new()));
        let (feed, letters_parked) = match &bus.inner.store {
            Store::Log => self.join_log(&group, &topics, letters.as_ref(), &gone).await?,
            #[cfg(feature = "kafka")]
            Store::Kafka(cluster) => self.join_kafka(cluster, &group, &topics, letters.as_ref()).await?,
        };
        if let Some(topic) = letters {
            self.policy.give_up = GiveUp::DeadLetter(topic);
        }
        let shared = Arc::new(Shared::new(feed.group().into(), topics));
        let driver =
            Driver::new(bus.clone(), Arc::clone(&shared), feed, gone, self.handler, self.policy, letters_parked)?;
        bus.register(&shared)?;
        runtime.spawn(driver.run());
        Ok(Subscription::new(bus, shared))
    }

    async fn join_log(
        &self,
        group: &str,
        topics: &[String],
        letters: Option<&LetterTopic>,
        gone: &Gone,
    ) -> Result<(Feed, Option<Arc<Parked>>)> {
        let bus = &self.bus;
        let mut subscribe = bus.log().subscribe(group, topics.iter().map(String::as_str)).start(self.start);
        if let Some(member) = &self.member {
            subscribe = subscribe.member(member);
        }
        let mut letters_parked = None;
        if let Some(topic) = letters {
            let engine = Arc::clone(&bus.log().inner.engine);
            unblock(move || ensure_replays(&engine)).await?;
            subscribe = subscribe.and_internal(REPLAYS_TOPIC);
            if self.sequenced {
                letters_parked = Some(parked(bus, group, topic.name()).await?);
            }
        }
        let tell = Arc::clone(gone);
        let listener = move |what: Rebalance<'_>| match what {
            Rebalance::Revoked(going) => lock(&tell).extend_from_slice(going.partitions()),
            Rebalance::Lost(partitions) => lock(&tell).extend_from_slice(partitions),
            Rebalance::Assigned(_) => {}
        };
        Ok((Feed::Log(subscribe.on_rebalance(listener).build().await?), letters_parked))
    }

    #[cfg(feature = "kafka")]
    async fn join_kafka(
        &self,
        cluster: &Arc<super::kafka::Cluster>,
        group: &str,
        topics: &[String],
        letters: Option<&LetterTopic>,
    ) -> Result<(Feed, Option<Arc<Parked>>)> {
        crate::group::validate_group_name(group)?;
        let parked: Option<Arc<Parked>> = self.sequenced.then(Arc::default);
        let join = super::kafka::Join {
            group,
            topics,
            start: self.start,
            member: self.member.clone(),
            replays: letters.is_some(),
            parked: parked.clone().zip(letters.map(|topic| topic.name().into())),
            patience: self.policy.shutdown_timeout,
        };
        Ok((Feed::Kafka(super::kafka::Feed::join(cluster, join).await?), parked))
    }

    async fn dead_letter_topic(&self, sources: &Names) -> Result<Option<LetterTopic>> {
        let Some(name) = &self.dead_letter else {
            return match self.sequenced {
                true => Err(Error::invalid("`sequenced` needs a dead-letter topic: call `dead_letter` as well")),
                false => Ok(None),
            };
        };
        let full = self.bus.full_name(name);
        if sources.matches(&full) {
            return Err(Error::invalid(format!(
                "the dead-letter topic {} is one that group {} subscribes to: its dead letters would come back to it for ever",
                quoted(&full),
                quoted(&self.group)
            )));
        }
        let topic = self.bus.target_with(&TopicDef::<Bytes, Raw>::named(name), of_dead_letters).await?;
        let loses = match &topic {
            Target::Log(topic) => topic.settings().dedup_count_max > 0 || topic.settings().compaction,
            #[cfg(feature = "kafka")]
            Target::Kafka(topic, _) => self.bus.is_compacted(&topic.name).await?,
        };
        if loses {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the dead-letter topic {} is compacted or remembers identities, and would lose dead letters: `compaction` and \
                     `dedup_count_max` must be off",
                    quoted(topic.name())
                ),
            ));
        }
        Ok(Some(topic))
    }
}

/// The settings of a dead-letter topic that is made: it has room when the disk is full, and for the largest event with what is said of
/// its failure.
fn of_dead_letters(defaults: &TopicSettings) -> TopicSettings {
    let record_bytes_max = defaults.record_bytes_max.saturating_add(FAILURE_BYTES_MAX).min(RECORD_BYTES_MOST);
    let reserve_bytes = if defaults.durability == Durability::Sync { RESERVE_BYTES } else { 0 };
    TopicSettings {
        record_bytes_max,
        reserve_bytes: reserve_bytes.max(defaults.reserve_bytes),
        dedup_count_max: 0,
        dedup_age_max: None,
        compaction: false,
        ..defaults.clone()
    }
}

/// What a dead letter says of its failure: up to 16 errors of some 1 KiB, names and times.
const FAILURE_BYTES_MAX: u32 = 32 << 10;
const RECORD_BYTES_MOST: u32 = *ranges::RECORD_BYTES_MAX.end();
/// As much as committed offsets have.
const RESERVE_BYTES: u64 = 256 << 10;
