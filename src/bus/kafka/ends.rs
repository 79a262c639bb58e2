//! Whether a member has read everything that there was when somebody asked.

use std::collections::HashMap;

use rdkafka::consumer::Consumer;

use super::Cluster;
use super::desk::{Desk, Place};
use super::member::Member;
use super::read::positions;
use crate::consumer::Item;
use crate::error::Result;
use crate::kafka::from_kafka;

/// The question that is looked at, and where each partition ended when it was asked.
#[derive(Debug, Default)]
pub(super) struct Ends {
    looking: Option<(u64, HashMap<Place, u64>)>,
    /// The last question that was answered; the member itself asks once.
    answered: Option<u64>,
}

impl Ends {
    /// Partitions have come or gone: what was delivered and not handled comes again.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_wanted(&self, asked: u64) -> bool {
        self.answered.is_none_or(|answered| answered < asked)
    }

    /// Whether nobody has looked yet.
    pub(super) fn begins(&self, asked: u64) -> bool {
        self.looking.as_ref().is_none_or(|(looking, _)| *looking < asked)
    }

    pub(super) fn look(&mut self, asked: u64, cluster: &Cluster, desk: &Desk, member: &Member) -> Result<()> {
        if self.begins(asked) {
            let places: Vec<Place> = desk.lock().parts.keys().cloned().collect();
            self.looking = Some((asked, cluster.ends(&places)?));
        }
        let Some((question, ends)) = &self.looking else { return Ok(()) };
        // Marks of transactions are read as well, though nobody is shown them.
        let position =
            member.consumer.position().map_err(|error| from_kafka("cannot find out how far was read", error))?;
        let read = positions(&position);
        let is_there = {
            let state = desk.lock();
            ends.iter().all(|(place, end)| {
                let delivered = state.parts.get(place).map_or(u64::MAX, |part| part.next);
                delivered.max(read.get(place).copied().unwrap_or(0)) >= *end
            })
        };
        if is_there {
            let question = *question;
            if self.answered.is_none() {
                desk.say(Ok(Item::CaughtUp));
            }
            (self.answered, self.looking) = (Some(question), None);
            desk.reached_end(question);
        }
        Ok(())
    }
}
