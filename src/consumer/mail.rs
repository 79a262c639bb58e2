//! Doing what the group says: partitions come and go.

use super::core::Core;
use super::rebalance::Rebalance;
use super::source::Source;
use crate::error::{Error, ErrorKind};
use crate::group::mailbox::{Grant, Notice};
use crate::group::record::Whose;

impl Core {
    /// Reads what the group has to say.
    pub(super) fn read_mail(&mut self) {
        let (mut ready, mut notices) = std::mem::take(&mut self.mail);
        self.closed |= self.mailbox.take(&mut ready, &mut notices);
        for index in ready.drain(..) {
            self.wake(index);
        }
        let (mut granted, mut asked, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for notice in notices.drain(..) {
            match notice {
                Notice::Granted(grant) => granted.push(grant),
                Notice::Asked(whose) => asked.push(whose),
                Notice::Lost(whose) => {
                    granted.retain(|grant| grant.lane.whose != whose);
                    asked.retain(|known| *known != whose);
                    lost.push(whose);
                }
                Notice::Deleted(topic) => self.told.push_back(Err(Error::new(
                    ErrorKind::NotFound,
                    format!("topic {topic} has been deleted; what else there is in the subscription goes on"),
                ))),
            }
        }
        self.mail = (ready, notices);
        lost.retain(|whose| self.by_partition.contains_key(whose));
        if !lost.is_empty() {
            self.call(|names| Rebalance::Lost(names), &lost);
            lost.iter().for_each(|whose| self.remove(*whose));
        }
        if !asked.is_empty() {
            self.give_up(&asked);
        }
        if !granted.is_empty() {
            let whose: Vec<Whose> = granted.iter().map(|grant| grant.lane.whose).collect();
            for grant in granted {
                self.add(grant);
            }
            self.caught_up = false;
            self.call(|names| Rebalance::Assigned(names), &whose);
        }
    }

    pub(super) fn wake(&mut self, index: usize) {
        if let Some(source) = self.sources.get_mut(index).and_then(Option::as_mut)
            && !source.queued
        {
            source.queued = true;
            self.ready.push_back(index);
        }
    }

    fn add(&mut self, grant: Grant) {
        let whose = grant.lane.whose;
        self.remove(whose);
        let index = self.sources.iter().position(Option::is_none).unwrap_or(self.sources.len());
        if index == self.sources.len() {
            self.sources.push(None);
        }
        self.next_serial += 1;
        let source = Source::new(grant, &self.mailbox, index, self.next_serial);
        if let Some(place) = self.sources.get_mut(index) {
            *place = Some(source);
        }
        self.by_partition.insert(whose, index);
        self.wake(index);
    }

    fn remove(&mut self, whose: Whose) {
        let Some(index) = self.by_partition.remove(&whose) else { return };
        if let Some(place) = self.sources.get_mut(index) {
            *place = None;
        }
        self.ready.retain(|ready| *ready != index);
        self.drop_current(index);
        self.last.retain(|(last, _)| *last != index);
    }

    /// Gives partitions up that the group wants to give to others.
    fn give_up(&mut self, asked: &[Whose]) {
        let asked: Vec<Whose> = asked.iter().filter(|whose| self.by_partition.contains_key(whose)).copied().collect();
        self.call_revoked(&asked);
        let kept = self.group.release(&self.log.engine, &self.groups, self.member, &asked);
        for whose in asked.iter().filter(|whose| !kept.contains(whose)) {
            self.remove(*whose);
        }
    }

    /// Sends what was said and waits for nothing.
    pub(super) fn leave(&mut self) {
        self.sources.clear();
        self.by_partition.clear();
        self.group.leave(&self.log.engine, &self.groups, self.member);
        self.groups.forget_if_empty(&self.group);
    }
}
