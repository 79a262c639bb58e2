//! When to try again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::handler::HandlerError;
use crate::error::{Error, Result};

/// How often a failed event is tried again, and when.
///
/// The waits grow by a factor from one to the next, up to a ceiling, and each is multiplied by a random number between 0.5 and 1.5,
/// so that many that have failed together do not come back together. While an event waits, later events of its key wait behind
/// it, and other keys flow. The count of attempts survives a restart; the wait begins anew.
///
/// ```
/// use std::time::Duration;
///
/// use annals::Retry;
///
/// let retry = Retry::exponential(5).base(Duration::from_millis(200)).ceiling(Duration::from_secs(10));
/// assert_eq!(retry.attempts(), 5);
/// assert_eq!(Retry::never().attempts(), 1);
/// ```
#[derive(Clone)]
pub struct Retry {
    attempts: u32,
    base: Duration,
    factor: f64,
    ceiling: Duration,
    jitter: (f64, f64),
    when: Option<Arc<When>>,
}

type When = dyn Fn(&HandlerError) -> bool + Send + Sync;

/// So many attempts are the most that can be asked for; [`Retry::forever`] has no end.
pub(super) const ATTEMPTS_MAX: u32 = 1_000_000;
pub(super) const WAIT_MAX: Duration = Duration::from_secs(7 * 86_400);

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("attempts", &self.attempts)
            .field("base", &self.base)
            .field("factor", &self.factor)
            .field("ceiling", &self.ceiling)
            .field("jitter", &self.jitter)
            .finish_non_exhaustive()
    }
}

impl Default for Retry {
    /// Five attempts, with waits of about 100, 200, 400 and 800 ms.
    fn default() -> Self {
        Self::exponential(5)
    }
}

impl Retry {
    /// `attempts` in all, the first included, with waits that double from 100 ms on, up to 30 s.
    pub fn exponential(attempts: u32) -> Self {
        Self {
            attempts,
            base: Duration::from_millis(100),
            factor: 2.0,
            ceiling: Duration::from_secs(30),
            jitter: (0.5, 1.5),
            when: None,
        }
    }

    /// `attempts` in all, the first included, with the same wait between them.
    pub fn fixed(attempts: u32, wait: Duration) -> Self {
        Self { base: wait, factor: 1.0, ceiling: wait, jitter: (1.0, 1.0), ..Self::exponential(attempts) }
    }

    /// One attempt.
    pub fn never() -> Self {
        Self::exponential(1)
    }

    /// As often as it takes. The key waits as long.
    pub fn forever() -> Self {
        Self::exponential(u32::MAX)
    }

    /// The wait before the second attempt.
    #[must_use]
    pub fn base(self, base: Duration) -> Self {
        Self { base, ..self }
    }

    /// What each wait is multiplied by to get the next.
    #[must_use]
    pub fn factor(self, factor: f64) -> Self {
        Self { factor, ..self }
    }

    /// The longest wait, before the random part.
    #[must_use]
    pub fn ceiling(self, ceiling: Duration) -> Self {
        Self { ceiling, ..self }
    }

    /// Between which numbers the random factor of a wait lies; 0.5 and 1.5 unless set, and 1 and 1 for none.
    #[must_use]
    pub fn jitter(self, least: f64, most: f64) -> Self {
        Self { jitter: (least, most), ..self }
    }

    /// Which errors are worth another attempt; the others are given up at once. An error made by
    /// [`HandlerError::permanent`] never is.
    #[must_use]
    pub fn when(self, worth_it: impl Fn(&HandlerError) -> bool + Send + Sync + 'static) -> Self {
        Self { when: Some(Arc::new(worth_it)), ..self }
    }

    /// The same waits for another number of attempts.
    pub(super) fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// How many attempts there are, the first included; [`u32::MAX`] is no limit.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn validate(&self) -> Result<()> {
        let refuse = |key: &str, value: String, allowed: &str| {
            Err(Error::invalid(format!("`retry.{key}` is {value}, which is not allowed; {allowed}")))
        };
        if self.attempts == 0 || (self.attempts > ATTEMPTS_MAX && self.attempts != u32::MAX) {
            let allowed = format!("1 to {ATTEMPTS_MAX} are, and `Retry::forever`");
            return refuse("attempts", self.attempts.to_string(), &allowed);
        }
        if self.base > WAIT_MAX {
            return refuse("base", format!("{:?}", self.base), "waits of up to 7 days are");
        }
        if self.ceiling > WAIT_MAX {
            return refuse("ceiling", format!("{:?}", self.ceiling), "waits of up to 7 days are");
        }
        if !(1.0..=100.0).contains(&self.factor) {
            return refuse("factor", self.factor.to_string(), "1 to 100 are");
        }
        let (least, most) = self.jitter;
        if !(least >= 0.0 && least <= most && most <= 10.0) {
            return refuse("jitter", format!("{least} to {most}"), "0 to 10 are, the lesser first");
        }
        Ok(())
    }

    /// Whether so many failed attempts are all that there are.
    pub(super) fn is_over(&self, failures: u32) -> bool {
        self.attempts != u32::MAX && failures >= self.attempts
    }

    /// Whether an error that was met in the attempt of this number is worth another.
    pub(super) fn again(&self, attempt: u32, error: &HandlerError) -> bool {
        !self.is_over(attempt) && !error.is_permanent() && self.when.as_ref().is_none_or(|worth_it| worth_it(error))
    }

    /// How long to wait after the attempt of this number has failed; `random` is any number.
    pub(super) fn wait(&self, attempt: u32, random: u64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.base.as_secs_f64() * self.factor.powi(exponent);
        let capped = grown.min(self.ceiling.as_secs_f64());
        let (least, most) = self.jitter;
        let unit = (random >> 11) as f64 / (1_u64 << 53) as f64;
        let wait = capped * (least + (most - least) * unit);
        Duration::try_from_secs_f64(wait).unwrap_or(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::Retry;
    use crate::bus::handler::HandlerError;
    use crate::error::ErrorKind;

    #[test]
    fn waits_double_up_to_the_ceiling() {
        let retry = Retry::exponential(9).jitter(1.0, 1.0).ceiling(Duration::from_secs(1));
        let waits: Vec<_> = (1..6).map(|attempt| retry.wait(attempt, 7).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000]);
        assert_eq!(retry.wait(u32::MAX, 7), Duration::from_secs(1));
        assert_eq!(Retry::fixed(3, Duration::from_secs(2)).wait(2, 9), Duration::from_secs(2));
    }

    #[test]
    fn what_is_not_worth_it_is_not_tried_again() {
        let retry = Retry::exponential(3).when(|error| error.to_string() != "broken");
        assert!(retry.again(1, &HandlerError::from("late")));
        assert!(retry.again(2, &HandlerError::from("late")));
        assert!(!retry.again(3, &HandlerError::from("late")));
        assert!(!retry.again(1, &HandlerError::from("broken")));
        assert!(!retry.again(1, &HandlerError::permanent("late")));
        assert!(Retry::forever().again(u32::MAX, &HandlerError::from("late")));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (retry, part) in [
            (Retry::exponential(0), "`retry.attempts` is 0"),
            (Retry::exponential(2_000_000), "`retry.attempts` is 2000000"),
            (Retry::default().base(Duration::from_secs(1 << 40)), "`retry.base`"),
            (Retry::default().ceiling(Duration::from_secs(1 << 40)), "`retry.ceiling`"),
            (Retry::default().factor(0.5), "`retry.factor` is 0.5"),
            (Retry::default().factor(f64::NAN), "`retry.factor` is NaN"),
            (Retry::default().jitter(2.0, 1.0), "`retry.jitter` is 2 to 1"),
            (Retry::default().jitter(f64::NAN, 1.0), "`retry.jitter`"),
        ] {
            let error = retry.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_lies_within_its_bounds(attempt in 1..u32::MAX, random: u64) {
            let retry = Retry::exponential(5);
            let wait = retry.wait(attempt, random);
            prop_assert!(wait >= Duration::from_millis(50) && wait <= Duration::from_secs(45), "{wait:?}");
        }
    }
}
