//! The newest message identities of a partition, and where their records are.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Awaited, Place};
use crate::log::settings::TopicSettings;

/// How far back a message identity is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) count_max: usize,
    /// In microseconds, between the time of the window when the record was sent and now; [`Limits::ANY_AGE`] is no limit.
    pub(crate) age_max: i64,
}

impl Limits {
    /// More than that can lie between two timestamps, so it is no age to be subtracted from one.
    pub(super) const ANY_AGE: i64 = i64::MAX;

    /// What the topic's settings ask for; `None` if that is nothing.
    #[inline]
    pub(crate) fn of(settings: &TopicSettings) -> Option<Self> {
        if settings.dedup_count_max == 0 {
            return None;
        }
        let age_max =
            settings.dedup_age_max.and_then(|age| i64::try_from(age.as_micros()).ok()).unwrap_or(Self::ANY_AGE);
        Some(Self { count_max: settings.dedup_count_max as usize, age_max })
    }
}

/// The window. Its time is the largest timestamp of any record of the partition, so it does not depend on a clock, and comes
/// out the same when the log is read again.
#[derive(Debug)]
pub(crate) struct Window {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// By the order of sending; an entry whose number is another by now was replaced or taken back.
    order: VecDeque<(Arc<[u8]>, u64)>,
    pub(crate) time: i64,
    next_number: u64,
}

/// A record with an identity.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    number: u64,
    /// The window's time when it was sent.
    pub(crate) time: i64,
    pub(crate) timestamp: i64,
    pub(crate) at: At,
}

/// Where a record is.
#[derive(Debug, Clone)]
pub(crate) enum At {
    Written(Place),
    Pending(Awaited),
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), time: i64::MIN, next_number: 0 }
    }

    /// The record that was sent first with this identity, if that is in the window at the time of one that is sent now.
    pub(super) fn find(&self, id: &[u8], timestamp: i64, limits: Limits) -> Option<&Entry> {
        let now = self.time.max(timestamp);
        self.entries.get(id).filter(|entry| now.saturating_sub(entry.time) <= limits.age_max)
    }

    /// A record without an identity moves the time only.
    pub(crate) fn pass(&mut self, timestamp: i64) {
        self.time = self.time.max(timestamp);
    }

    /// Adds a record. Answers its number in the window.
    pub(crate) fn add(&mut self, id: Arc<[u8]>, timestamp: i64, at: At, limits: Limits) -> u64 {
        self.pass(timestamp);
        let number = self.next_number;
        self.next_number += 1;
        self.entries.insert(Arc::clone(&id), Entry { number, time: self.time, timestamp, at });
        self.order.push_back((id, number));
        self.trim(limits);
        number
    }

    /// The commit of a record has answered: it is there, or it was never sent.
    pub(super) fn answered(&mut self, id: &Arc<[u8]>, number: u64, place: Option<Place>) {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.number == number) else { return };
        match place {
            Some(place) => entry.at = At::Written(place),
            None => {
                self.entries.remove(id);
                // Who tries again and again on a full disk leaves no trail.
                self.order.pop_back_if(|(_, last)| *last == number);
            }
        }
    }

    fn trim(&mut self, limits: Limits) {
        while let Some((id, number)) = self.order.front() {
            let entry = self.entries.get(id).filter(|entry| entry.number == *number);
            let keep = entry.is_some_and(|entry| {
                self.entries.len() <= limits.count_max && self.time.saturating_sub(entry.time) <= limits.age_max
            });
            if keep {
                return;
            }
            if entry.is_some() {
                self.entries.remove(&Arc::clone(id));
            }
            self.order.pop_front();
        }
    }

    /// How much the order remembers, forgotten entries included.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.order.len()
    }

    /// The entries, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<[u8]>, &Entry)> {
        self.order.iter().filter_map(|(id, number)| {
            self.entries.get(id).filter(|entry| entry.number == *number).map(|entry| (id, entry))
        })
    }
}
