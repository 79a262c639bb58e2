//! What every event bus must do, whatever it keeps its events in.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), annals::testing::conformance::CaseFailure> {
//! use annals::Log;
//! use annals::testing::conformance;
//!
//! conformance::all(async || Ok(Log::in_memory()?.bus())).await?;
//! # Ok(()) }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::bus::Bus;
use crate::error::Result;

mod cases;
mod failing;

/// Why a bus does not conform.
#[derive(Debug)]
#[non_exhaustive]
pub struct CaseFailure {
    /// The name of the case.
    pub case: &'static str,
    /// What was not as it must be.
    pub why: String,
}

impl fmt::Display for CaseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.why)
    }
}

impl std::error::Error for CaseFailure {}

/// What a case finds: nothing, or a sentence.
type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// One thing that every bus must do.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    run: fn(Bus) -> Running,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl Case {
    /// What it is about.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs it on a bus of its own, which has no topics yet and a clock that moves by itself. The bus is closed afterwards.
    ///
    /// # Errors
    ///
    /// What was not as it must be; also if nothing more comes of it for a minute.
    pub async fn run(&self, bus: Bus) -> Result<(), CaseFailure> {
        let fail = |why: String| CaseFailure { case: self.name, why };
        match tokio::time::timeout(PATIENCE, (self.run)(bus)).await {
            Ok(outcome) => outcome.map_err(|error| fail(error.to_string())),
            Err(_) => Err(fail(format!("nothing has come of it for {PATIENCE:?}"))),
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Checks that something is so, or else answers with a sentence.
macro_rules! ensure {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err(format!($($sentence)+).into());
        }
    };
}
use ensure;

macro_rules! cases {
    ($($module:ident::$name:ident),+ $(,)?) => {
        &[$(Case { name: stringify!($name), run: |bus| Box::pin($module::$name(bus)) }),+]
    };
}

/// All cases, for those who want to run them one by one.
pub fn cases() -> &'static [Case] {
    cases![
        cases::an_event_reaches_every_group,
        cases::members_of_a_group_share_the_events,
        cases::topics_are_isolated,
        cases::events_of_a_key_come_in_order,
        cases::events_of_a_key_come_in_order_with_many_at_once,
        cases::a_batch_is_whole,
        cases::headers_are_kept_and_filled_in,
        cases::what_a_handler_publishes_names_its_cause,
        cases::history_is_kept_and_can_be_cleared,
        cases::subscribers_are_counted,
        cases::unsubscribing_ends_the_calls_and_keeps_the_place,
        cases::pausing_holds_events_back,
        cases::patterns_match_topics_that_come_later,
        cases::filtered_events_are_done,
        cases::publishing_after_close_is_an_error,
        failing::one_subscription_does_not_harm_another,
        failing::failures_are_tried_again,
        failing::outputs_are_there_once,
        failing::what_fails_for_good_is_a_dead_letter,
        failing::dead_letters_are_replayed_to_their_group,
        failing::expired_events_are_skipped,
    ]
}

/// Runs all cases, each on a new bus that `make` makes.
///
/// # Errors
///
/// The first case that does not hold, or for which no bus could be made.
pub async fn all<F>(make: impl Fn() -> F) -> Result<(), CaseFailure>
where
    F: Future<Output = Result<Bus>>,
{
    for case in cases() {
        let bus = make().await.map_err(|error| CaseFailure { case: case.name, why: format!("no bus: {error}") })?;
        case.run(bus).await?;
    }
    Ok(())
}
