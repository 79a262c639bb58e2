//! What a source knows of the cluster, and tells: how far it has come, who has caught up, which errors it has met.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::status::ErrorClass;
use super::connect::Session;
use super::lane::Lane;
use super::run::{Runner, Trouble};
use super::status::SourcePartition;
use crate::error::Error;
use crate::kafka::{Class, class_of};

/// How often it tells how far it has come.
const LOOK: Duration = Duration::from_millis(250);
/// An error that passes is told again after so long, if it is still the same.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// How far a partition reaches is asked again after so long, if there was no answer. A question may take some seconds.
const ASK_AGAIN: Duration = Duration::from_secs(10);

impl Runner {
    /// Asks how far partitions reach of which the client library has learnt nothing new: it does not while it has fetched as much ahead
    /// as it may.
    pub(super) fn look_ahead(&mut self, session: &mut Session) -> Result<(), Trouble> {
        session.refreshed_at = self.now();
        // A source that is paused does not hear of what comes behind an end.
        let is_paused = self.shared.is_paused();
        let is_behind = |lane: &&mut Lane| lane.paused.is_none() && (is_paused || !lane.at_end);
        for lane in self.lanes.iter_mut().filter(is_behind) {
            let known = lane.end;
            if std::mem::replace(&mut lane.asked_at_end, known) != known {
                continue;
            }
            match session.admin.watermarks(&lane.place.0, lane.place.1) {
                Ok((_, end)) => lane.end = lane.end.max(end),
                // It may not be read any more, or is gone. What was fetched of it is told first.
                Err(error) if class_of(&error) == Class::Partition => {}
                Err(error) => return self.pass(error),
            }
        }
        Ok(())
    }

    /// Answers whoever waits until all is in the log that was in Kafka when they asked.
    pub(super) fn answer(&mut self, session: &Session) {
        let asked = self.caught_up.asked.load(Ordering::Acquire);
        if asked == self.caught_up.answered.load(Ordering::Acquire) {
            return;
        }
        if self.goal_of != asked && !self.find_goals(session, asked) {
            return;
        }
        let has_come = |lane: &Lane| {
            lane.paused.is_some() || lane.verify.is_none() && lane.goal.is_none_or(|goal| lane.has_come_to(goal))
        };
        if session.batch.is_empty() && self.lanes.iter().all(has_come) {
            self.caught_up.answered.store(asked, Ordering::Release);
            self.look();
        }
    }

    /// Asks how far the partitions reach for whoever waits for them. `false` if there was no answer for one of them: what can be read
    /// goes on meanwhile.
    fn find_goals(&mut self, session: &Session, question: u64) -> bool {
        if self.no_goal_at.is_some_and(|at| self.now().saturating_sub(at) < ASK_AGAIN) {
            return false;
        }
        if std::mem::replace(&mut self.goals_of, question) != question {
            self.lanes.iter_mut().for_each(|lane| lane.goal = None);
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.paused.is_none() && lane.goal.is_none()) {
            match session.admin.watermarks(&lane.place.0, lane.place.1) {
                Ok((_, end)) => lane.goal = Some(end),
                Err(_) => {
                    self.no_goal_at = Some(self.now());
                    return false;
                }
            }
        }
        self.goal_of = question;
        true
    }

    pub(super) fn look_if_due(&mut self) {
        if self.now().saturating_sub(self.looked_at) >= LOOK {
            self.look();
        }
    }

    pub(super) fn look(&mut self) {
        self.looked_at = self.now();
        let mut partitions: Vec<SourcePartition> = self.lanes.iter().map(Lane::status).collect();
        partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        self.shared.set_partitions(partitions);
        #[cfg(feature = "metrics")]
        if let Some(name) = self.shared.exports_as() {
            self.exporter.export(name, self.looked_at, || super::status::of(&self.shared));
        }
    }

    /// Tells of an error that passes, but not of the same one over and over.
    pub(super) fn tell(&mut self, error: Error) {
        let (text, now) = (error.to_string(), self.now());
        let same = self.told.as_ref().is_some_and(|(told, at)| *told == text && now.saturating_sub(*at) < TELL_AGAIN);
        if !same {
            self.told = Some((text, now));
            self.shared.met(ErrorClass::Passing, None, error);
        }
    }

    /// Tells of an error if it passes.
    pub(super) fn pass(&mut self, error: Error) -> Result<(), Trouble> {
        match Trouble::from(error) {
            Trouble::Passing(error) => {
                self.tell(error);
                Ok(())
            }
            fatal => Err(fatal),
        }
    }
}
