//! Messages that come again, from each place to each.

use std::error::Error;
use std::fmt;

use super::Checked;
use super::crash::guarded;

/// Feeds a handler messages that come again, as they do where a process ends after it has handled something and before it has
/// committed that: all of them up to each place in turn, and then again from each place at or before it.
///
/// `S` is what the handler has brought about and what outlives it: a database, what was sent by mail. It begins as its default in
/// each run. The check judges it after each: most often it compares it with what an undisturbed run brings about, or asks
/// [`check::no_duplicates`](super::check::no_duplicates) about the effects. Without any redelivery both are run first.
///
/// So many messages make about half as many runs as their square, each through all of them: give it some dozen. The answer is the
/// number of runs.
///
/// # Errors
///
/// The first failure, an error or a panic of the handler or the check: the one after the fewest messages, and with the fewest of
/// them coming again.
///
/// # Example
///
/// This handler passes over a message that it has handled last. That is not enough:
///
/// ```
/// use annals::testing::redeliver_at_every_step;
///
/// #[derive(Default)]
/// struct Account {
///     cents: i64,
///     last: Option<u64>,
/// }
///
/// let transfers = [(0, 500), (1, -200), (2, 50)];   // an offset, and cents
/// let failure = redeliver_at_every_step(
///     &transfers,
///     |account: &mut Account, (offset, cents)| {
///         if account.last != Some(*offset) {
///             account.cents += cents;
///             account.last = Some(*offset);
///         }
///         Ok(())
///     },
///     |account| match account.cents {
///         350 => Ok(()),
///         cents => Err(format!("{cents} cents").into()),
///     },
/// )
/// .unwrap_err();
/// assert_eq!(failure.to_string(), "message 1 was handled, and those from message 0 on came again: 650 cents");
/// ```
pub fn redeliver_at_every_step<M, S: Default>(
    messages: &[M],
    mut handle: impl FnMut(&mut S, &M) -> Checked,
    mut check: impl FnMut(&S) -> Checked,
) -> Result<u64, RedeliveryFailure> {
    let mut run = |first: &[M], then: &[M]| {
        let mut state = S::default();
        guarded(|| {
            first.iter().chain(then).try_for_each(|message| handle(&mut state, message))?;
            check(&state)
        })
    };
    run(messages, &[]).map_err(|what| RedeliveryFailure { handled: None, from: None, what })?;
    let mut runs = 1;
    for handled in 0..messages.len() {
        for from in (0..=handled).rev() {
            run(&messages[..=handled], &messages[from..]).map_err(|what| RedeliveryFailure {
                handled: Some(handled),
                from: Some(from),
                what,
            })?;
            runs += 1;
        }
    }
    Ok(runs)
}

/// What [`redeliver_at_every_step`] has found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedeliveryFailure {
    /// The number, from 0, of the last message that was handled before some came again; `None` if it failed without that.
    pub handled: Option<usize>,
    /// The number of the first message that came again.
    pub from: Option<usize>,
    /// What the handler or the check said.
    pub what: String,
}

impl fmt::Display for RedeliveryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.handled, self.from) {
            (Some(handled), Some(from)) => {
                write!(f, "message {handled} was handled, and those from message {from} on came again: {}", self.what)
            }
            _ => write!(f, "no message came again: {}", self.what),
        }
    }
}

impl Error for RedeliveryFailure {}
