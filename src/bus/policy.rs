//! What a subscription does with its events, in one value.

use std::time::Duration;

use super::backend::LetterTopic;
use super::breaker::CircuitBreaker;
use super::filter::Filter;
use super::retry::Retry;
use crate::error::{Error, Result};
use crate::record::Message;

/// What becomes of an event that has no further attempt.
#[derive(Debug)]
pub(super) enum GiveUp {
    DeadLetter(LetterTopic),
    Skip,
    Stop,
}

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) filter: Option<Filter>,
    pub(super) concurrency: usize,
    pub(super) deadline: Option<Duration>,
    pub(super) retry: Retry,
    pub(super) give_up: GiveUp,
    pub(super) breaker: Option<CircuitBreaker>,
    pub(super) ttl: Option<Duration>,
    pub(super) manual: bool,
    pub(super) waiting_max: usize,
    pub(super) waiting_bytes_max: usize,
    pub(super) shutdown_timeout: Duration,
}

pub(super) const CONCURRENCY_MAX: usize = 10_000;
/// With more than that, some of what is finished is delivered again after a restart: a commit remembers so many ranges.
const WAITING_DEFAULT: usize = 900;
pub(super) const WAITING_MAX: usize = 1_000_000;
pub(super) const WAITING_BYTES_MIN: usize = 64 << 10;
const WAITING_BYTES_DEFAULT: usize = 64 << 20;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const TIME_MAX: Duration = Duration::from_secs(365 * 86_400);

impl Default for Policy {
    fn default() -> Self {
        Self {
            filter: None,
            concurrency: 1,
            deadline: None,
            retry: Retry::default(),
            give_up: GiveUp::Stop,
            breaker: None,
            ttl: None,
            manual: false,
            waiting_max: WAITING_DEFAULT,
            waiting_bytes_max: WAITING_BYTES_DEFAULT,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
        }
    }
}

impl Policy {
    pub(super) fn validate(&self) -> Result<()> {
        let refuse = |key: &str, value: &dyn std::fmt::Debug, allowed: &str| {
            Err(Error::invalid(format!("`{key}` is {value:?}; {allowed} are allowed")))
        };
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return refuse("concurrency", &self.concurrency, "1 to 10000");
        }
        if !(1..=WAITING_MAX).contains(&self.waiting_max) {
            return refuse("waiting_max", &self.waiting_max, "1 to 1000000");
        }
        if self.waiting_bytes_max < WAITING_BYTES_MIN {
            return refuse("waiting_bytes_max", &self.waiting_bytes_max, "64 KiB and more");
        }
        for (key, time) in [("deadline", self.deadline), ("ttl", self.ttl)] {
            if time.is_some_and(|time| time.is_zero() || time > TIME_MAX) {
                return refuse(key, &time, "1 ns to 365 days");
            }
        }
        self.retry.validate()?;
        self.breaker.iter().try_for_each(CircuitBreaker::validate)?;
        self.filter.iter().try_for_each(Filter::validate)
    }

    pub(super) fn passes(&self, message: &Message) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.passes(message))
    }
}
