//! How a consumer is made.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::Consumer;
use super::core::Core;
use super::items::{OnGap, REVOKE_TIMEOUT};
use super::rebalance::{Listener, Rebalance};
use super::source::{Origin, Policy};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::group::mailbox::Mailbox;
use crate::group::membership::Joining;
use crate::group::pattern::Subscription;
use crate::group::{Groups, validate_group_name};
use crate::log::running::Running;
use crate::replay::Start;
use crate::task::unblock;
use crate::text::quoted;

/// Settings of a subscription, from [`Topic::subscribe`](crate::Topic::subscribe) and [`Log::subscribe`](crate::Log::subscribe).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
/// use std::time::Duration;
///
/// use annals::{Log, Start, TopicSettings};
///
/// let log = Log::in_memory()?;
/// log.create_raw_topic("orders.eu", TopicSettings::default()).await?;
/// let consumer = log
///     .subscribe("billing", ["orders.*"])
///     .start(Start::Latest)
///     .auto_commit(Duration::from_secs(1))
///     .build()
///     .await?;
/// assert_eq!(consumer.assignment().len(), 1);
/// # Ok(()) }
/// ```
#[must_use = "a subscription begins when it is built"]
pub struct Subscribe<T, C> {
    log: Arc<Running>,
    codec: Arc<C>,
    group: String,
    topics: Vec<String>,
    /// Topics of annals' own.
    internal: Vec<&'static str>,
    member: Option<String>,
    start: Option<Start>,
    on_gap: OnGap,
    auto_commit: Option<Duration>,
    revoke_timeout: Duration,
    listener: Option<Box<Listener>>,
    values: PhantomData<fn() -> T>,
}

impl<T, C> fmt::Debug for Subscribe<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe").field("group", &self.group).field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl<T, C: Codec<T>> Subscribe<T, C> {
    pub(crate) fn new(log: Arc<Running>, codec: Arc<C>, group: String, topics: Vec<String>) -> Self {
        Self {
            log,
            codec,
            group,
            topics,
            internal: Vec::new(),
            member: None,
            start: Some(Start::Earliest),
            on_gap: OnGap::default(),
            auto_commit: None,
            revoke_timeout: REVOKE_TIMEOUT,
            listener: None,
            values: PhantomData,
        }
    }

    /// Where the group begins in a partition of which it has committed nothing: [`Start::Earliest`] (the default),
    /// [`Start::Latest`] (what comes after [`build`](Self::build)), a [`Start::Timestamp`] or a [`Start::Commit`]. In partitions
    /// that are created later it always begins at the first record.
    pub fn start(mut self, start: Start) -> Self {
        self.start = Some(start);
        self
    }

    /// A partition of which the group has committed nothing is an error of kind [`NotFound`](crate::ErrorKind::NotFound) instead, for
    /// groups whose offsets are [set](crate::Log::reset_group) by somebody.
    pub fn require_committed(mut self) -> Self {
        self.start = None;
        self
    }

    /// What to do where records are gone before they were consumed; by default [`OnGap::Earliest`].
    pub fn on_gap(mut self, on_gap: OnGap) -> Self {
        self.on_gap = on_gap;
        self
    }

    /// Commits by itself, at most `interval` after a message was finished: whoever asks for the next message has finished the
    /// one before. What was finished within the last interval is delivered again after a crash. Without this, commit by hand.
    pub fn auto_commit(mut self, interval: Duration) -> Self {
        self.auto_commit = Some(interval);
        self
    }

    /// Reads one of annals' own topics as well.
    pub(crate) fn and_internal(mut self, topic: &'static str) -> Self {
        self.internal.push(topic);
        self
    }

    /// What the member calls itself, in [`Log::describe_group`](crate::Log::describe_group).
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.member = Some(name.into());
        self
    }

    /// How long the member may take to give up a partition that another is to have: it does so when it is next asked for a
    /// message. After that the partition is taken from it, and what it commits is [`Fenced`](crate::ErrorKind::Fenced). By default
    /// 10 seconds.
    pub fn revoke_timeout(mut self, timeout: Duration) -> Self {
        self.revoke_timeout = timeout;
        self
    }

    /// Calls `listener` whenever partitions are assigned to this member or taken from it, from within the call that asks for the
    /// next message. It must not block. With it, no partition goes before it was told, unless the
    /// [time](Self::revoke_timeout) is over.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Log, Rebalance, TopicSettings};
    ///
    /// # let log = Log::in_memory()?;
    /// let orders = log.create_raw_topic("orders", TopicSettings::default()).await?;
    /// let consumer = orders
    ///     .subscribe("billing")
    ///     .on_rebalance(|what| match what {
    ///         Rebalance::Assigned(partitions) => println!("got {partitions:?}"),
    ///         Rebalance::Revoked(going) => {
    ///             if let Err(error) = going.commit_all() {
    ///                 eprintln!("not committed: {error}");
    ///             }
    ///         }
    ///         _ => {}
    ///     })
    ///     .build()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn on_rebalance(mut self, listener: impl FnMut(Rebalance<'_>) + Send + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// Joins the group: its partitions are shared out anew at once.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for names, patterns or settings outside of what is allowed, and for a log that is open
    /// read-only; [`NotFound`](crate::ErrorKind::NotFound) for a topic, named in full, that does not exist;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) and [`Io`](crate::ErrorKind::Io) if the committed offsets cannot be read;
    /// [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the member leaves again.
    pub async fn build(self) -> Result<Consumer<T, C>> {
        let (joining, policy) = self.check()?;
        let (log, group) = (Arc::clone(&self.log), self.group.clone());
        let (auto_commit, listener) = (self.auto_commit, self.listener);
        let core = unblock(move || join(log, &group, joining, policy, auto_commit, listener)).await?;
        Ok(Consumer::new(core, self.codec))
    }

    /// [`build`](Self::build) for threads.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn blocking_build(self) -> Result<Consumer<T, C>> {
        let (joining, policy) = self.check()?;
        let core = join(self.log, &self.group, joining, policy, self.auto_commit, self.listener)?;
        Ok(Consumer::new(core, self.codec))
    }

    fn check(&self) -> Result<(Joining, Policy)> {
        self.log.engine.check_open()?;
        validate_group_name(&self.group)?;
        if self.log.engine.is_read_only() {
            return Err(Error::invalid(
                "the log is open read-only, where nothing can be committed; read it with `replay`, which follows as well",
            ));
        }
        let subscription = Subscription::new(self.topics.iter().map(String::as_str))?.and_internal(&self.internal);
        for name in &subscription.names {
            self.log.engine.topic(name)?;
        }
        let origin = match self.start {
            None => Origin::Error,
            Some(Start::Earliest) => Origin::Earliest,
            Some(Start::Latest) => Origin::Latest,
            Some(Start::Timestamp(time)) => Origin::Timestamp(time),
            Some(Start::Commit(commit)) => Origin::Commit(commit),
            Some(other @ (Start::Offset(_) | Start::Last(_))) => {
                return Err(Error::invalid(format!(
                    "a group cannot start at {other:?}; `Earliest`, `Latest`, `Timestamp` and `Commit` are allowed, and `seek` goes to \
                     an offset"
                )));
            }
        };
        if self.auto_commit.is_some_and(|interval| interval > Duration::from_secs(86_400)) {
            return Err(Error::invalid("`auto_commit` commits every 24 hours at the least"));
        }
        if let Some(member) = self.member.as_ref().filter(|member| member.len() > 249) {
            return Err(Error::invalid(format!(
                "the member name {} has {} bytes; up to 249 are allowed",
                quoted(member),
                member.len()
            )));
        }
        let joining = Joining {
            subscription,
            name: self.member.as_deref().map(Into::into),
            wants_to_be_asked: self.listener.is_some(),
            from_now_on: origin == Origin::Latest,
            revoke_timeout: self.revoke_timeout,
        };
        Ok((joining, Policy { origin, on_gap: self.on_gap }))
    }
}

fn join(
    log: Arc<Running>,
    group: &str,
    joining: Joining,
    policy: Policy,
    auto_commit: Option<Duration>,
    listener: Option<Box<Listener>>,
) -> Result<Core> {
    let groups = Groups::of(&log.engine)?;
    groups.partition(&log.engine)?;
    let group = groups.group(group);
    let mailbox = Arc::new(Mailbox::default());
    let joined = group.join(&log.engine, joining, Arc::clone(&mailbox));
    let member = joined.inspect_err(|_| groups.forget_if_empty(&group))?;
    let mut core = Core::new(log, groups, group, member, mailbox, policy, auto_commit, listener);
    core.read_mail();
    // A log that has closed meanwhile was told before this member was there.
    core.log.engine.check_open()?;
    Ok(core)
}
