//! What is forwarded together: a transaction, or without transactions a batch after which the place is committed.

use std::time::Duration;

use super::settings::MirrorBuilder;

/// So many records at most: what is known of each costs memory beside its bytes.
const RECORDS_MAX: usize = 400_000;

#[derive(Debug, Default)]
pub(super) struct Unit {
    /// Since when it is open.
    opened: Option<Duration>,
    /// Whether the target knows of it: it does not before the first record.
    pub(super) begun: bool,
    /// The lane and the offset of each record, by its number.
    sent: Vec<(u32, u64)>,
    /// It was open for long enough when somebody last looked.
    late: bool,
    pub(super) records: u64,
    pub(super) bytes: usize,
    pub(super) passed_over: u64,
    pub(super) refused: u64,
}

impl Unit {
    pub(super) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    pub(super) fn open(&mut self, now: Duration) {
        self.opened.get_or_insert(now);
    }

    /// The number that is to be told if a record is not delivered.
    pub(super) fn number(&mut self, lane: usize, offset: u64) -> usize {
        // There are never 2^32 partitions.
        self.sent.push((lane as u32, offset));
        self.sent.len()
    }

    /// The lane and the offset of a record.
    pub(super) fn record(&self, number: usize) -> Option<(usize, u64)> {
        let (lane, offset) = *self.sent.get(number.checked_sub(1)?)?;
        Some((lane as usize, offset))
    }

    /// Whether it has all that it may have.
    pub(super) fn is_full(&self, settings: &MirrorBuilder) -> bool {
        self.late || self.bytes >= settings.in_flight_bytes_max || self.sent.len() >= RECORDS_MAX
    }

    /// Looks at the clock, which costs too much to be done for each record.
    pub(super) fn look(&mut self, settings: &MirrorBuilder, now: Duration) {
        self.late = self.due_at(settings).is_some_and(|due| now >= due);
    }

    pub(super) fn due_at(&self, settings: &MirrorBuilder) -> Option<Duration> {
        self.opened.map(|opened| opened + settings.commit_interval)
    }

    pub(super) fn is_due(&self, settings: &MirrorBuilder, now: Duration) -> bool {
        self.is_full(settings) || self.due_at(settings).is_some_and(|due| now >= due)
    }

    /// It is over, in one way or the other.
    pub(super) fn forget(&mut self) {
        let mut sent = std::mem::take(&mut self.sent);
        sent.clear();
        *self = Self { sent, ..Self::default() };
    }
}
