//! A member of a consumer group: the thread that reads for a subscription, and has its partitions come and go.
//!
//! When partitions are shared out anew, all of them go and come again. Before they go the driver finishes what is under way, and that
//! is committed; it may take a while, and no longer. When they come, what the group has finished is read from the brokers, and reading
//! goes on from there. So it does when nobody knows what became of a commit: the brokers know.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::oneshot;

use super::clients;
use super::desk::{Desk, Place, State};
use super::ends::Ends;
use super::feed::PATIENCE_MAX;
use super::records::{Names, message};
use super::take_over::TakeOver;
use super::wanted::Wanted;
use super::{Cluster, place_list};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{Class, KafkaConfig, KafkaContext, class, from_kafka};

/// How long one look for events takes if there are none, and if something else is waited for.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_BRIEFLY: Duration = Duration::from_millis(5);
/// How long reading stands still for the driver before it pauses.
const STALL: Duration = Duration::from_millis(100);
/// After a failure that passes.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long to wait for a partition's leader before looking again.
const LEADER_AFTER: Duration = Duration::from_secs(2);
/// How long a group may take to let somebody in: as long as another member may keep it waiting, and then some.
const JOIN_MAX: Duration = PATIENCE_MAX.saturating_add(Duration::from_secs(60));

/// The consumer, for the threads of one subscription.
pub(super) struct Member {
    pub(super) consumer: BaseConsumer<Rebalancing>,
}

/// What happens when partitions come and go.
pub(super) struct Rebalancing {
    background: KafkaContext,
    desk: Arc<Desk>,
    /// How long the driver may take to finish what is under way.
    patience: Duration,
    news: std::sync::Mutex<Option<News>>,
}

/// What was given, or taken away, and not taken note of yet.
enum News {
    Given(Vec<Place>),
    Taken,
}

impl ClientContext for Rebalancing {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = KafkaContext::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.background.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.background.error(error, reason);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> std::result::Result<OAuthToken, Box<dyn std::error::Error>> {
        self.background.generate_oauth_token(config)
    }
}

impl ConsumerContext for Rebalancing {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let news = if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // They are taken over by the thread, which can wait for the brokers.
            News::Given(list.elements().iter().map(|one| (one.topic().into(), one.partition())).collect())
        } else {
            if !consumer.assignment_lost() {
                self.desk.hand_back(self.patience);
            }
            if !self.desk.has_said() {
                let sentence = "a commit has not come to an end before its partitions went to another member";
                self.desk.say(Err(Error::new(ErrorKind::Mismatch, sentence)));
                self.desk.tell(|state| state.stop = true);
            }
            self.desk.let_go();
            if let Err(error) = consumer.unassign() {
                self.desk.say(Err(from_kafka("cannot give partitions back", error)));
            }
            News::Taken
        };
        *crate::segment::lock(&self.news) = Some(news);
    }
}

impl Member {
    pub(super) fn new(config: &KafkaConfig, desk: &Arc<Desk>, name: Option<&str>, patience: Duration) -> Result<Self> {
        let context = Rebalancing {
            background: KafkaContext::new(config),
            desk: Arc::clone(desk),
            patience,
            news: std::sync::Mutex::default(),
        };
        let consumer = BaseConsumer::from_config_and_context(&clients::member(config, &desk.group, name), context)
            .map_err(|error| from_kafka(format!("cannot make a member of group {}", desk.group), error))?;
        Ok(Self { consumer })
    }
}

/// The thread that reads.
pub(super) struct Reader {
    pub(super) cluster: Arc<Cluster>,
    pub(super) desk: Arc<Desk>,
    pub(super) member: Arc<Member>,
    pub(super) wanted: Wanted,
    pub(super) take_over: TakeOver,
    /// Told once the group has let this member in, or why not.
    pub(super) joined: Option<oneshot::Sender<Result<()>>>,
    pub(super) names: Names,
    /// What this member has by the group's last word, whether it is taken over or not.
    pub(super) given: Option<Vec<Place>>,
    pub(super) taken_over: bool,
    pub(super) ends: Ends,
    pub(super) paused: Vec<Place>,
    /// What it has and cannot read yet, and when to look again.
    pub(super) left_out: Vec<Place>,
    pub(super) look_at: Duration,
}

impl Reader {
    /// Works until the subscription ends.
    pub(super) fn run(&mut self) {
        let clock = Arc::clone(&self.desk.clock);
        let join_until = clock.monotonic().saturating_add(JOIN_MAX);
        let mut not_before = Duration::ZERO;
        while !self.desk.lock().stop {
            let now = clock.monotonic();
            if now >= not_before
                && let Err(error) = self.step()
            {
                not_before = now.saturating_add(AGAIN_AFTER);
                if self.failed(error) {
                    break;
                }
            }
            if self.joined.is_some() && now >= join_until {
                let sentence =
                    format!("the brokers have not let this member into group {} within {JOIN_MAX:?}", self.desk.group);
                self.failed_to_join(Error::new(ErrorKind::Unavailable, sentence));
                break;
            }
            self.look();
        }
    }

    /// Takes note of an error. Answers whether it is the end.
    fn failed(&mut self, error: Error) -> bool {
        let passes = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Busy);
        if !passes && self.joined.is_some() {
            self.failed_to_join(error);
            return true;
        }
        self.desk.say(Err(error));
        false
    }

    fn failed_to_join(&mut self, error: Error) {
        if let Some(joined) = self.joined.take() {
            // Whoever waited may have gone.
            let _gone = joined.send(Err(error)).is_err();
        }
    }

    /// Does what is to be done beside reading.
    fn step(&mut self) -> Result<()> {
        if self.wanted.refresh(&self.cluster, &self.desk, &self.member, false)? {
            (self.given, self.taken_over) = (self.wanted.has_none().then(Vec::new), false);
        }
        let news = crate::segment::lock(&self.member.consumer.context().news).take();
        match news {
            Some(News::Given(places)) => (self.given, self.taken_over) = (Some(places), false),
            Some(News::Taken) => (self.given, self.taken_over) = (None, false),
            None => {}
        }
        // What is being committed is not read before it is.
        let rewind = {
            let state = self.desk.lock();
            state.rewind && !state.committing && !state.saying
        };
        if rewind {
            self.desk.let_go();
            self.taken_over = false;
        }
        if !self.taken_over {
            // What is paused stays so in the client library, whatever is assigned to it.
            self.go_on_with_all();
        }
        if let Some(given) = self.given.as_ref().filter(|_| !self.taken_over) {
            self.ends.forget();
            self.left_out = self.take_over.run(&self.cluster, &self.desk, &self.member, given)?;
            self.taken_over = true;
            self.look_at = self.desk.clock.monotonic().saturating_add(LEADER_AFTER);
            if let Some(joined) = self.joined.take() {
                let _gone = joined.send(Ok(())).is_err();
            }
        }
        self.seek()?;
        self.look_for_leaders()?;
        self.look_for_the_end()
    }

    /// What was left out is taken over with the others, anew, once it has a leader.
    fn look_for_leaders(&mut self) -> Result<()> {
        let now = self.desk.clock.monotonic();
        if !self.taken_over || self.left_out.is_empty() || now < self.look_at {
            return Ok(());
        }
        self.look_at = now.saturating_add(LEADER_AFTER);
        if self.cluster.has_leader(&self.left_out)? {
            self.desk.tell(|state| state.rewind = true);
        }
        Ok(())
    }

    fn seek(&mut self) -> Result<()> {
        if !self.taken_over {
            return Ok(());
        }
        let seeks = std::mem::take(&mut self.desk.lock().seeks);
        for seek in seeks {
            let place = (Arc::from(&*seek.topic), i32::try_from(seek.partition).unwrap_or(i32::MAX));
            let answer = self.take_over.seek(&self.cluster, &self.desk, &self.member, &place, seek.to);
            // Nobody has to wait for it.
            let _gone = seek.answer.send(answer).is_err();
        }
        Ok(())
    }

    fn look_for_the_end(&mut self) -> Result<()> {
        let asked = self.desk.lock().asked_end;
        if !self.taken_over || !self.left_out.is_empty() || !self.ends.is_wanted(asked) {
            return Ok(());
        }
        if self.ends.begins(asked) && self.wanted.refresh(&self.cluster, &self.desk, &self.member, true)? {
            // Topics have come: the group shares them out first.
            (self.given, self.taken_over) = (self.wanted.has_none().then(Vec::new), false);
            return Ok(());
        }
        self.ends.look(asked, &self.cluster, &self.desk, &self.member)
    }

    /// Looks for events, and lets partitions come and go.
    fn look(&mut self) {
        self.stand_still();
        let hurry = self.ends.is_wanted(self.desk.lock().asked_end) || !self.paused.is_empty();
        match self.member.consumer.poll(if hurry { LOOK_BRIEFLY } else { LOOK }) {
            None => {}
            Some(Ok(native)) => match message(&native, &mut self.names) {
                Ok(message) => self.desk.deliver(message),
                Err(error) => self.desk.say(Err(error)),
            },
            Some(Err(error)) => self.met(error),
        }
    }

    fn go_on_with_all(&mut self) {
        if !self.paused.is_empty() {
            let paused = std::mem::take(&mut self.paused);
            self.told(self.member.consumer.resume(&place_list(&paused)));
        }
    }

    /// What the driver has enough of is read no further.
    fn stand_still(&mut self) {
        if !self.paused.is_empty() {
            let more = self.desk.lock().go_on(&self.paused);
            if !more.is_empty() {
                self.paused.retain(|place| !more.contains(place));
                self.told(self.member.consumer.resume(&place_list(&more)));
            }
        }
        if !self.desk.lock().is_full() {
            return;
        }
        let mut state = self.desk.wait_until(STALL, |state| state.stop || !state.is_full());
        if !state.is_full() {
            return;
        }
        // It takes longer: the group must hear of this member all the same.
        let more = state.stand_still();
        drop(state);
        if !more.is_empty() {
            self.told(self.member.consumer.pause(&place_list(&more)));
            self.paused.extend(more);
        }
    }

    fn told(&self, done: Result<(), KafkaError>) {
        if let Err(error) = done {
            self.desk.say(Err(from_kafka("cannot pause or go on reading", error)));
        }
    }

    fn met(&mut self, error: KafkaError) {
        let code = error.rdkafka_error_code();
        if code == Some(Code::AutoOffsetReset) {
            // Events are gone that were not read yet: which, is found out by taking over again.
            self.desk.tell(|state: &mut State| state.rewind = true);
            return;
        }
        let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let refused = code.is_some_and(|code| class(code) == Class::Fatal);
        let error = from_kafka(format!("group {} cannot read", self.desk.group), error);
        if self.joined.is_some() && (is_fatal || refused) {
            self.failed_to_join(error);
            self.desk.tell(|state| state.stop = true);
            return;
        }
        let error = match is_fatal {
            true => Error::with_source(ErrorKind::Mismatch, "reading has come to an end", error),
            false => error,
        };
        self.desk.say(Err(error));
    }
}
