//! A power loss at each call, one after the other.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{DiskOptions, SimulatedDisk};
use crate::segment::lock;

/// What the closures of a [`CrashTest`] return: `?` turns [`annals::Error`](crate::Error), a [`Violation`](super::Violation) and any
/// other error into it.
pub type Checked = Result<(), Box<dyn Error + Send + Sync>>;

/// Runs `run` over and over, each time on a new disk that loses its power one call later, until it comes to its end; after each
/// power loss lets `check` judge what is left. [`CrashTest`] explains, and has options.
///
/// # Errors
///
/// The first failure: the one at the earliest call.
pub fn crash_at_every_step<S: Default>(
    seed: u64,
    run: impl FnMut(&SimulatedDisk, &mut S) -> Checked,
    check: impl FnMut(&SimulatedDisk, &S) -> Checked,
) -> Result<Survived, CrashFailure> {
    CrashTest::new(seed).run(run, check)
}

/// Runs a piece of an application with a power loss at each of its calls to the disk in turn.
///
/// A first run goes through undisturbed, and shows how many calls there are. Then the application runs on a new disk with the same
/// seed whose power goes at call 0, then on one whose power goes at call 1, and so on: once with that call not done, and once with
/// it done, yet never answered, so that what it acknowledges is lost. Each time the power comes back in [several ways](Self::ways),
/// and the check judges each of them, most often by opening the log again. Calls are those that change something; the opening and
/// the closing of the log are among them.
///
/// *The run* opens a log on the disk, works with it, and returns. Once the power is gone everything in the log answers with errors:
/// return them with `?`; what it returns then does not matter. Whoever follows the log then gets its end. It must do the same each
/// time: no threads or tasks side by side, no clock but the disk's. Into `S`, which begins as its default, it writes what the world
/// outside knows after a crash: what was acknowledged, what was sent by mail.
///
/// *The check* gets the disk with its power back, and what the run has written. It may go on with the application, too, as the
/// next process would.
///
/// Both may fail by returning an error or by panicking; after the power is gone a panic of the run does not count either.
///
/// # Example
///
/// An application takes payments. It tells the customer, and then writes it down: the wrong way round.
///
/// ```
/// use annals::testing::{SimulatedDisk, crash_at_every_step};
/// use annals::{Json, Log, Record, TopicDef, TopicSettings};
///
/// const PAYMENTS: TopicDef<u64, Json> = TopicDef::new("payments");
///
/// # fn main() -> annals::Result<()> {
/// let failure = crash_at_every_step(
///     17,
///     |disk, told: &mut u64| {
///         let log = disk.open(Log::builder())?;
///         let payments = log.blocking_create_topic(PAYMENTS, TopicSettings::default())?;
///         for cents in [100, 250] {
///             *told += 1;
///             payments.blocking_produce(Record::new(cents))?;
///         }
///         Ok(())
///     },
///     |disk, told| {
///         let log = disk.open(Log::builder())?;
///         let payments = log.blocking_create_topic(PAYMENTS, TopicSettings::default())?;
///         let there = payments.watermarks(0)?.high_watermark;
///         if there < *told {
///             return Err(format!("customers were told of {told} payments, and {there} are there").into());
///         }
///         Ok(())
///     },
/// )
/// .unwrap_err();
/// let message = failure.to_string();
/// assert!(message.contains("customers were told of 1 payments, and 0 are there"), "{message}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "a test that is not run tells nothing"]
pub struct CrashTest {
    seed: u64,
    disk: DiskOptions,
    ways: u32,
    stride: u64,
    only: Option<u64>,
}

impl CrashTest {
    /// With the seed of everything that a disk decides.
    pub fn new(seed: u64) -> Self {
        Self { seed, disk: DiskOptions::default(), ways: 3, stride: 1, only: None }
    }

    /// Sets what the disks are like.
    pub fn disk(mut self, options: DiskOptions) -> Self {
        self.disk = options;
        self
    }

    /// Sets in how many ways the power comes back after each run, each leaving something else of what was not synced; by default 3.
    /// 0 is taken for 1.
    pub fn ways(mut self, ways: u32) -> Self {
        self.ways = ways.max(1);
        self
    }

    /// Tries one call of so many only, for runs that take long; by default each. 0 is taken for 1.
    pub fn every(mut self, calls: u64) -> Self {
        self.stride = calls.max(1);
        self
    }

    /// Tries this call only: to look at a failure once more.
    pub fn only(mut self, call: u64) -> Self {
        self.only = Some(call);
        self
    }

    /// Runs the test.
    ///
    /// # Errors
    ///
    /// The failure at the earliest call. A run or a check that fails without any power loss is one, too.
    pub fn run<S: Default>(
        &self,
        mut run: impl FnMut(&SimulatedDisk, &mut S) -> Checked,
        mut check: impl FnMut(&SimulatedDisk, &S) -> Checked,
    ) -> Result<Survived, CrashFailure> {
        let mut survived = Survived { calls: 0, power_losses: 0 };
        let disk = SimulatedDisk::with_options(self.seed, self.disk);
        let mut state = S::default();
        guarded(|| run(&disk, &mut state)).map_err(|what| self.failure(None, "the run itself failed", what))?;
        survived.calls = disk.calls();
        disk.end_logs();
        guarded(|| check(&disk, &state)).map_err(|what| self.failure(None, "the check failed after the run", what))?;
        drop(state);

        if let Some(call) = self.only.filter(|call| *call >= survived.calls) {
            let what = format!("the run makes {} calls, numbered from 0", survived.calls);
            return Err(self.failure(Some(call), "there is no such call", what));
        }
        let calls = match self.only {
            Some(call) => call..call.saturating_add(1),
            None => 0..survived.calls,
        };
        for call in calls.step_by(usize::try_from(self.stride).unwrap_or(usize::MAX)) {
            for done in [false, true] {
                survived.power_losses += self.at(call, done, &mut run, &mut check)?;
            }
        }
        Ok(survived)
    }

    /// Runs up to one call, and answers in how many ways the check held.
    fn at<S: Default>(
        &self,
        call: u64,
        done: bool,
        run: &mut impl FnMut(&SimulatedDisk, &mut S) -> Checked,
        check: &mut impl FnMut(&SimulatedDisk, &S) -> Checked,
    ) -> Result<u64, CrashFailure> {
        let disk = SimulatedDisk::with_options(self.seed, self.disk);
        disk.lose_power_at_a_call(call, done);
        let mut state = S::default();
        let ran = watched(&disk, || guarded(|| run(&disk, &mut state)));
        if !disk.is_off() {
            let problem = "the run itself failed, though it had gone through before: it does not do the same each time";
            ran.map_err(|what| self.failure(Some(call), problem, what))?;
            return Ok(0);
        }
        disk.end_logs();
        for way in 0..self.ways {
            let left = disk.fork(self.seed ^ (u64::from(way) << 32) ^ call);
            left.power_loss();
            let answer = guarded(|| check(&left, &state));
            left.end_logs();
            answer.map_err(|what| {
                let (last, done) = (disk.last_call(), if done { "done, yet not answered" } else { "not done" });
                let problem =
                    format!("the power went at call {call}, {last}, {done} (way {way}), and the check failed");
                self.failure(Some(call), problem, what)
            })?;
        }
        Ok(u64::from(self.ways))
    }

    fn failure(&self, call: Option<u64>, problem: impl Into<String>, what: String) -> CrashFailure {
        CrashFailure { seed: self.seed, call, problem: problem.into(), what }
    }
}

/// What a [`CrashTest`] went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survived {
    /// The calls of one run.
    pub calls: u64,
    /// How often the power was lost, and the check held.
    pub power_losses: u64,
}

/// The earliest failure of a [`CrashTest`]. Its [`Display`](fmt::Display) says where, what, and how to try it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrashFailure {
    /// The seed.
    pub seed: u64,
    /// The call at which the power went; `None` if it failed without a power loss.
    pub call: Option<u64>,
    /// What was going on.
    pub problem: String,
    /// What the run or the check said.
    pub what: String,
}

impl fmt::Display for CrashFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem, self.what)?;
        match self.call {
            Some(call) => write!(f, " (again: CrashTest::new({}).only({call}))", self.seed),
            None => write!(f, " (seed {})", self.seed),
        }
    }
}

impl Error for CrashFailure {}

/// A panic is as good a failure as an error.
pub(super) fn guarded(work: impl FnOnce() -> Checked) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(panic) => Err(message_of(&*panic)),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

/// How often somebody looks whether the power is off.
const LOOK: Duration = Duration::from_millis(5);

/// Does the work, and ends the logs of the disk as soon as its power is off: somebody may be waiting for records that never come.
fn watched<T>(disk: &SimulatedDisk, work: impl FnOnce() -> T) -> T {
    let (done, wake) = (Mutex::new(false), Condvar::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut is_done = lock(&done);
            while !*is_done {
                if disk.is_off() {
                    disk.end_logs();
                }
                is_done = wake.wait_timeout(is_done, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            }
        });
        let answer = work();
        *lock(&done) = true;
        wake.notify_one();
        answer
    })
}
