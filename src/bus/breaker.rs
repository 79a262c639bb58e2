//! The circuit breaker of a subscription: whoever fails time after time is left alone for a while.

use std::time::Duration;

use crate::error::{Error, Result};

/// When a subscription stops calling its handler for a while: after so many failures in a row, for so long. Then one event is tried:
/// if that succeeds all goes on, if it fails the time begins anew. Meanwhile nothing is consumed, and nothing is lost.
///
/// ```
/// use std::time::Duration;
///
/// use annals::CircuitBreaker;
///
/// let breaker = CircuitBreaker::default().failures(10).open_for(Duration::from_secs(60));
/// assert_eq!(breaker.failures, 10);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitBreaker {
    /// After so many failed attempts in a row it opens.
    pub failures: u32,
    /// For so long it stays open.
    pub open_for: Duration,
}

impl Default for CircuitBreaker {
    /// After 5 failures, for 30 s.
    fn default() -> Self {
        Self { failures: 5, open_for: Duration::from_secs(30) }
    }
}

impl CircuitBreaker {
    /// After so many failed attempts in a row it opens.
    #[must_use]
    pub fn failures(self, failures: u32) -> Self {
        Self { failures, ..self }
    }

    /// For so long it stays open.
    #[must_use]
    pub fn open_for(self, open_for: Duration) -> Self {
        Self { open_for, ..self }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.failures == 0 {
            return Err(Error::invalid("`circuit_breaker.failures` is 0; 1 or more are allowed"));
        }
        let allowed = Duration::from_millis(1)..=Duration::from_secs(86_400);
        if !allowed.contains(&self.open_for) {
            return Err(Error::invalid(format!(
                "`circuit_breaker.open_for` is {:?}; {:?} to {:?} are allowed",
                self.open_for,
                allowed.start(),
                allowed.end()
            )));
        }
        Ok(())
    }
}

/// What a breaker is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Events flow.
    Closed,
    /// Nothing is consumed for a while.
    Open,
    /// One event is being tried.
    HalfOpen,
}

/// A breaker at work.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: Option<CircuitBreaker>,
    failures: u32,
    open_until: Option<Duration>,
    trying: bool,
}

/// What may be started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    All,
    /// Nothing before this time.
    NotBefore(Duration),
    /// One, if nothing else is under way.
    One,
    /// Nothing before the one that is tried has answered.
    Wait,
}

impl Breaker {
    pub(super) fn new(settings: Option<CircuitBreaker>) -> Self {
        Self { settings, failures: 0, open_until: None, trying: false }
    }

    pub(super) fn permit(&self, now: Duration) -> Permit {
        match self.open_until {
            None => Permit::All,
            Some(until) if now < until => Permit::NotBefore(until),
            Some(_) if self.trying => Permit::Wait,
            Some(_) => Permit::One,
        }
    }

    /// An attempt begins.
    pub(super) fn started(&mut self) {
        self.trying = self.open_until.is_some();
    }

    /// An attempt has ended.
    pub(super) fn ended(&mut self, now: Duration, succeeded: bool) {
        let trial = std::mem::take(&mut self.trying);
        if succeeded {
            self.failures = 0;
            // What was begun before it opened does not close it.
            if trial {
                self.open_until = None;
            }
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if let Some(settings) = self.settings
            && (trial || (self.open_until.is_none() && self.failures >= settings.failures))
        {
            self.open_until = Some(now.saturating_add(settings.open_for));
        }
    }

    pub(super) fn state(&self, now: Duration) -> BreakerState {
        match self.permit(now) {
            Permit::All => BreakerState::Closed,
            Permit::NotBefore(_) => BreakerState::Open,
            Permit::One | Permit::Wait => BreakerState::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Breaker, BreakerState, CircuitBreaker, Permit};
    use crate::error::ErrorKind;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_one_success() {
        let mut breaker = Breaker::new(Some(CircuitBreaker::default().failures(2).open_for(S(10))));
        let mut attempt = |at, succeeded| {
            breaker.started();
            breaker.ended(S(at), succeeded);
            breaker.permit(S(at))
        };
        assert_eq!(attempt(1, false), Permit::All);
        assert_eq!(attempt(2, true), Permit::All);
        assert_eq!(attempt(3, false), Permit::All);
        assert_eq!(attempt(4, false), Permit::NotBefore(S(14)));
        // The trial fails, and the time begins anew.
        assert_eq!(attempt(14, false), Permit::NotBefore(S(24)));
        assert_eq!(attempt(24, true), Permit::All);
        assert_eq!(attempt(25, false), Permit::All);
    }

    #[test]
    fn half_open_lets_one_through() {
        let mut breaker = Breaker::new(Some(CircuitBreaker::default().failures(1).open_for(S(10))));
        breaker.started();
        breaker.started();
        breaker.ended(S(0), false);
        assert_eq!(breaker.state(S(9)), BreakerState::Open);
        // The other of the two that were under way.
        breaker.ended(S(1), true);
        assert_eq!(breaker.state(S(9)), BreakerState::Open);
        assert_eq!(breaker.permit(S(10)), Permit::One);
        breaker.started();
        assert_eq!(breaker.permit(S(11)), Permit::Wait);
        breaker.ended(S(12), true);
        assert_eq!(breaker.state(S(12)), BreakerState::Closed);
    }

    #[test]
    fn without_settings_it_never_opens() {
        let mut breaker = Breaker::new(None);
        for _ in 0..100 {
            breaker.started();
            breaker.ended(S(1), false);
        }
        assert_eq!(breaker.state(S(1)), BreakerState::Closed);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (breaker, part) in [
            (CircuitBreaker::default().failures(0), "`circuit_breaker.failures`"),
            (CircuitBreaker::default().open_for(Duration::ZERO), "`circuit_breaker.open_for`"),
        ] {
            let error = breaker.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
