//! Ending a transaction, and finding out what is wrong if it cannot be committed.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedHeaders;

use super::checkpoint::{Checkpoint, Place};
use super::forward::cannot_mark;
use super::producer::{Outgoing, Trouble};
use super::run::{BACKOFF_MAX, BACKOFF_MIN, Runner, STOP_MAX, Sent, Session};
use super::settings::Guarantee;
use super::shared::Counters;
use super::status::ErrorClass;
use crate::consumer::TopicPartition;
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{Class, class, code, from_kafka};

/// How often the place is committed in the log where it is only a copy of what the target has.
const CACHE_EVERY: Duration = Duration::from_secs(1);
/// How long what was sent is waited for before it is looked whether its topics are still there.
const LOOK_TARGETS: Duration = Duration::from_secs(3);

impl Runner {
    /// The group under which the log shows how far the mirror has come.
    fn group(&self) -> String {
        format!("mirror.{}", self.settings.name)
    }

    /// Commits what was sent, with the place that the mirror has come to.
    pub(super) fn finish(&mut self, session: &mut Session) -> Result<(), Trouble> {
        if !self.unit.is_open() {
            return Ok(());
        }
        if !session.producer.has_failed() {
            if self.settings.guarantee == Guarantee::ExactlyOnce {
                self.send_checkpoints(session)?;
            }
            self.flush(session)?;
        }
        let failed = session.producer.take_failed();
        if !failed.is_empty() {
            if let Some(broken) = session.producer.broken("the target has not taken what it was sent") {
                return Err(broken);
            }
            return Err(self.failed(&failed, session.producer.refusal()));
        }
        match self.settings.guarantee {
            Guarantee::ExactlyOnce => {
                let is_late = self.is_late();
                session.producer.commit(is_late)?;
            }
            Guarantee::AtLeastOnce => self.commit_here_patiently()?,
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.has_changed()) {
            lane.is_committed();
            if self.settings.guarantee == Guarantee::AtLeastOnce {
                lane.cached = Some(lane.committed);
            }
            if let Some(held) = self.holds.get(&(lane.topic_id, lane.place.1)) {
                held.hold.advance(lane.committed);
            }
        }
        let counters = &self.shared.counters;
        Counters::add(&counters.forwarded, self.unit.records);
        Counters::add(&counters.forwarded_bytes, self.unit.bytes as u64);
        Counters::add(&counters.passed_over, self.unit.passed_over);
        Counters::add(&counters.refused, self.unit.refused);
        Counters::add(&counters.committed, 1);
        let time = self.settings.log.now().timestamp_micros();
        counters.last_commit.store(time.max(1) as u64, Ordering::Relaxed);
        self.unit.forget();
        self.suspects.pop();
        self.stale = true;
        Ok(())
    }

    /// Waits until everything is delivered. A transaction waits for a topic that is not there any more as long as it may, and everything
    /// waits with it: so that is looked for meanwhile.
    fn flush(&self, session: &Session) -> Result<(), Trouble> {
        let is_late = self.is_late();
        let (looked_at, gone) = (Cell::new(self.now()), Cell::new(false));
        let give_up = || {
            if self.now().saturating_sub(looked_at.get()) >= LOOK_TARGETS {
                let mut targets = self.targets().into_iter();
                // Who cannot be asked does not say that it is gone.
                gone.set(targets.any(|target| matches!(session.cluster.admin.describe(&target), Ok(None))));
                looked_at.set(self.now());
            }
            gone.get() || is_late()
        };
        match session.producer.flush(give_up) {
            Err(Trouble::Stopped) if gone.get() => Err(Trouble::Again),
            flushed => flushed,
        }
    }

    /// The topics of the target that the transaction is about.
    fn targets(&self) -> BTreeSet<Arc<str>> {
        self.lanes.iter().filter(|lane| lane.has_changed()).map(|lane| Arc::clone(&lane.target)).collect()
    }

    /// Whether it was told to stop so long ago that it does not wait any longer.
    fn is_late(&self) -> impl Fn() -> bool + use<> {
        let (shared, log) = (Arc::clone(&self.shared), self.settings.log.clone());
        let since = Cell::new(None);
        move || {
            if !shared.is_stopping() {
                return false;
            }
            let now = log.monotonic();
            let from: Duration = since.get().unwrap_or(now);
            since.set(Some(from));
            now.saturating_sub(from) >= STOP_MAX
        }
    }

    fn send_checkpoints(&mut self, session: &Session) -> Result<(), Trouble> {
        let (log, epoch) = (self.settings.log.id(), self.epoch);
        let topic = self.settings.checkpoint_topic.clone();
        for index in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(index).filter(|lane| lane.has_changed()) else { continue };
            let value = lane.checkpoint(log, epoch).value();
            let key = Checkpoint::key(&self.settings.name, &lane.place);
            let outgoing = Outgoing {
                topic: &topic,
                partition: 0,
                key: Some(key.as_bytes()),
                value: Some(&value),
                headers: OwnedHeaders::new_with_capacity(0),
                timestamp: None,
            };
            // No record of the log has this offset.
            match self.send(session, index, u64::MAX, outgoing)? {
                Sent::Yes => {}
                Sent::Refused(code) => return Err(cannot_mark(code)),
            }
        }
        Ok(())
    }

    /// Without transactions the place is kept in the log, as that of a group.
    fn commit_here(&self) -> Result<()> {
        let changed = self.lanes.iter().filter(|lane| lane.has_changed() && lane.is_there());
        let places: Vec<_> = changed.map(|lane| (at(&lane.place), lane.next)).collect();
        self.settings.log.blocking_set_group_offsets(&self.group(), &places)
    }

    /// As long as the disk of the log is full the place cannot be kept. To begin again would send the same records over and over.
    fn commit_here_patiently(&self) -> Result<()> {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.commit_here() {
                Err(error)
                    if matches!(error.kind(), ErrorKind::Busy | ErrorKind::StorageFull)
                        && !self.shared.is_stopping() =>
                {
                    self.shared.met(ErrorClass::Passing, None, error);
                    self.shared.rest(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                committed => return committed,
            }
        }
    }

    /// Keeps a copy of the place in the log, where it is seen, and from where retention is held back before the target is reached; also
    /// that of a partition of which nothing was forwarded yet, so that it is known if retention lets something of it go.
    pub(super) fn keep_cache(&mut self, now: bool) {
        let due = now || self.now().saturating_sub(self.cached_at) >= CACHE_EVERY;
        if self.settings.log.is_read_only()
            || !due
            || !self.lanes.iter().any(|lane| lane.cached != Some(lane.committed))
        {
            return;
        }
        self.cached_at = self.now();
        let places: Vec<_> = self
            .lanes
            .iter()
            .filter(|lane| lane.cached != Some(lane.committed) && lane.is_there())
            .map(|lane| (at(&lane.place), lane.committed))
            .collect();
        match self.settings.log.blocking_set_group_offsets(&self.group(), &places) {
            Ok(()) => self.lanes.iter_mut().for_each(|lane| lane.cached = Some(lane.committed)),
            // The target knows better anyway.
            Err(error) => tracing::debug!(%error, "the place of a mirror was not noted in the log"),
        }
    }

    /// Where the log says that the mirror had come to.
    pub(super) fn places_here(&self) -> Result<BTreeMap<Place, u64>> {
        let committed = match self.settings.log.group_offsets(&self.group()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            committed => committed?,
        };
        Ok(committed.into_iter().map(|(place, offset)| ((place.topic, place.partition), offset)).collect())
    }

    /// Why records were not delivered, and what follows. Whatever it is, the transaction is aborted.
    fn failed(&mut self, failed: &[(usize, Code)], refusal: Option<KafkaError>) -> Trouble {
        let mut by_lane: BTreeMap<usize, Vec<(u64, Code)>> = BTreeMap::new();
        let mut passing = None;
        for (number, code) in failed {
            // What was not delivered because something else was not.
            if matches!(code, Code::PurgeQueue | Code::PurgeInflight) {
                continue;
            }
            let error = || {
                let context = "the target has not taken a record";
                from_kafka(context, KafkaError::MessageProduction(*code))
            };
            match (class(*code), self.unit.record(*number)) {
                (Class::Fatal, _) => return Trouble::Fatal(error()),
                (Class::Partition, Some((_, u64::MAX))) => {
                    return Trouble::Fatal(from_kafka(
                        format!("the target does not take the checkpoints in topic {}", self.settings.checkpoint_topic),
                        KafkaError::MessageProduction(*code),
                    ));
                }
                (Class::Partition, Some((lane, offset))) => by_lane.entry(lane).or_default().push((offset, *code)),
                _ => passing = Some(error()),
            }
        }
        let found = !by_lane.is_empty();
        for (index, failed) in by_lane {
            self.lane_failed(index, &failed);
        }
        match (found, passing, refusal) {
            (true, ..) => Trouble::Again,
            (false, Some(error), _) => Trouble::Passing(error),
            (false, None, Some(refusal)) => self.transaction_failed(refusal),
            (false, None, None) => {
                Trouble::Passing(Error::new(ErrorKind::Unavailable, "the target has not taken what it was sent"))
            }
        }
    }

    /// No record is to blame, but the transaction as a whole. If it is for one of its topics, that is found by sending to each of them by
    /// itself.
    fn transaction_failed(&mut self, refusal: KafkaError) -> Trouble {
        let is_about_topic = code(&refusal).is_some_and(|code| class(code) == Class::Partition);
        if !is_about_topic {
            return Trouble::of("the target has not taken a transaction", refusal);
        }
        let mut targets = self.targets().into_iter();
        let (Some(target), None) = (targets.next(), targets.next()) else {
            self.suspects = self.targets().into_iter().collect();
            return Trouble::Again;
        };
        let sentence =
            format!("the target does not take transactions with topic {target}, or with that of the checkpoints");
        let error = from_kafka(sentence, refusal);
        let now = self.now();
        for lane in self.lanes.iter_mut().filter(|lane| lane.target == target) {
            lane.pause(&self.shared, now, error.clone());
        }
        self.suspects.pop();
        Trouble::Again
    }

    /// Records of one partition are refused: the partition is paused, or, if it is single records, those are found and replaced.
    fn lane_failed(&mut self, index: usize, failed: &[(u64, Code)]) {
        let now = self.now();
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let careful = lane.memory.careful_until > failed.iter().map(|(offset, _)| *offset).max().unwrap_or(0);
        let offsets: BTreeSet<u64> = failed.iter().map(|(offset, _)| *offset).collect();
        let (Some((first, code)), Some(last)) = (failed.iter().min_by_key(|(offset, _)| *offset), offsets.last())
        else {
            return;
        };
        let sentence = match offsets.len() {
            1 => format!("the target refuses the record at offset {first} for topic {}", lane.target),
            _ => format!("the target refuses records from offset {first} on for topic {}", lane.target),
        };
        let error = from_kafka(sentence, KafkaError::MessageProduction(*code));
        let is_about_record = matches!(
            code,
            Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::MessageBatchTooLarge
                | Code::InvalidTimestamp
                | Code::InvalidRecord
        );
        if !is_about_record {
            return lane.pause(&self.shared, now, error);
        }
        if offsets.len() > 1 && !careful {
            // A batch is refused as one: which of its records is to blame shows when each is sent by itself.
            lane.memory.careful_until = last + 1;
            return;
        }
        if lane.memory.refused.contains_key(first) {
            // It is the mark in its place that is refused.
            return lane.pause(&self.shared, now, error);
        }
        // What lies before it is forwarded first; what becomes of it is decided when it is met again.
        lane.memory.refused.insert(*first, error);
    }
}

pub(super) fn at(place: &Place) -> TopicPartition {
    TopicPartition { topic: place.0.clone(), partition: place.1 }
}
