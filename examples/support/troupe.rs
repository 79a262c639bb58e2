//! Who consumes when: members come and go while events are produced.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, interval};

use crate::console::{Progress, grouped};
use crate::story::{Failure, broken};
use crate::{AHEAD_MAX, AUDIT, GROUPS, STAGE, WORKERS, World, member};

/// How often it is looked whether anything is committed that is not processed.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A story in which nothing happens for so long has come to a halt.
const PATIENCE: Duration = Duration::from_secs(60);

enum Act {
    Join(usize),
    Leave(usize),
    Crash(usize),
}

use Act::{Crash, Join, Leave};

/// What happens at the beginning, when the workers are through one eighth of what is left, two eighths, and so on. Whoever crashes
/// comes back under another name.
const SCRIPT: [&[Act]; 7] = [
    &[Join(WORKERS), Join(AUDIT), Join(STAGE)],
    &[Join(WORKERS), Join(WORKERS)],
    &[Leave(WORKERS), Join(STAGE)],
    &[Join(WORKERS)],
    &[Crash(WORKERS)],
    &[Crash(STAGE)],
    &[Leave(AUDIT), Join(AUDIT)],
];

/// How a task has ended.
enum End {
    Produced,
    Left(usize),
    Crashed(usize),
}

#[derive(Default, Clone, Copy)]
struct Tally {
    joined: u64,
    left: u64,
    crashed: u64,
}

pub(crate) struct Troupe {
    world: Arc<World>,
    tasks: JoinSet<Result<End, Failure>>,
    /// How members are told to leave, the oldest first.
    leave: [Vec<Arc<Notify>>; GROUPS.len()],
    tally: [Tally; GROUPS.len()],
    look: Interval,
    pub(crate) looks: u64,
    produced: bool,
}

impl Troupe {
    pub(crate) fn new(world: Arc<World>) -> Self {
        let (tasks, leave, tally) = (JoinSet::new(), Default::default(), Default::default());
        Self { world, tasks, leave, tally, look: interval(LOOK_EVERY), looks: 0, produced: false }
    }

    /// Lets the members do their parts while the missing events are produced, until every group has finished all of them.
    pub(crate) async fn perform(&mut self, missing: Vec<usize>) -> Result<(), Failure> {
        let total = self.world.input.events.len() as u64;
        let first = self.world.groups[WORKERS].ledger().processed;
        let mut progress = Progress::new("processed", total);
        self.allow(first + (total - first) / 8);
        let producing = produce(Arc::clone(&self.world), missing);
        self.tasks.spawn(producing);
        for (eighth, acts) in (0..).zip(SCRIPT) {
            let from = first + (total - first) * eighth / 8;
            self.until(&mut progress, |world| world.groups[WORKERS].ledger().processed >= from).await?;
            acts.iter().for_each(|act| self.act(act));
            self.allow(first + (total - first) * (eighth + 2) / 8);
            self.look().await?;
        }
        self.allow(total);
        self.until(&mut progress, |world| world.slowest() >= total).await?;
        // What is finished may be committed a moment later.
        let patient = Instant::now();
        loop {
            let lag = self.lag().await?;
            if self.produced && lag.iter().all(|(_, lag)| *lag == 0) {
                return Ok(());
            }
            if patient.elapsed() > PATIENCE {
                return broken(format!("everything is processed, and still not committed: {lag:?}"));
            }
            self.step().await?;
        }
    }

    /// A process that is to be killed is given little to do beyond: killing takes its time.
    fn allow(&self, events: u64) {
        let total = self.world.input.events.len() as u64;
        let most = self.world.crash_after.map_or(u64::MAX, |after| after.saturating_add((total / 16).max(1)));
        self.world.allowed.store(events.min(most), Ordering::Relaxed);
        self.world.changed.notify_waiters();
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Join(group) => self.join(group),
            Leave(group) => {
                // The oldest; some other may have crashed meanwhile, and does not hear it.
                if !self.leave[group].is_empty() {
                    self.leave[group].remove(0).notify_one();
                }
            }
            Crash(group) => self.world.groups[group].crash_due.store(true, Ordering::Relaxed),
        }
    }

    fn join(&mut self, group: usize) {
        let leave = Arc::new(Notify::new());
        self.leave[group].push(Arc::clone(&leave));
        self.tally[group].joined += 1;
        let name = format!("{}-{}", GROUPS[group].0, self.tally[group].joined);
        let joining = member(Arc::clone(&self.world), group, name, leave);
        self.tasks.spawn(async move { Ok(if joining.await? { End::Left(group) } else { End::Crashed(group) }) });
    }

    async fn until(&mut self, progress: &mut Progress, reached: impl Fn(&World) -> bool) -> Result<(), Failure> {
        let mut last = (0, Instant::now());
        while !reached(&self.world) {
            let slowest = self.world.slowest();
            progress.at(slowest);
            if last.0 != slowest {
                last = (slowest, Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                return broken(format!("nothing was processed for {PATIENCE:?}"));
            }
            self.step().await?;
        }
        Ok(())
    }

    /// Waits until something has happened: a group has processed something, a task has ended, or it is time to look.
    async fn step(&mut self) -> Result<(), Failure> {
        let world = Arc::clone(&self.world);
        let ended = tokio::select! {
            () = world.changed.notified() => return Ok(()),
            _ = self.look.tick() => return self.look().await,
            Some(ended) = self.tasks.join_next() => ended,
        };
        match done(ended)? {
            End::Produced => self.produced = true,
            End::Left(group) => self.tally[group].left += 1,
            End::Crashed(group) => {
                self.tally[group].crashed += 1;
                self.join(group);
            }
        }
        Ok(())
    }

    /// What is committed must be processed. What is committed is asked for first, or it might be older than what it is held against.
    async fn look(&mut self) -> Result<(), Failure> {
        for group in &self.world.groups {
            let committed = self.world.committed(group).await?;
            group.ledger().check_committed(&committed).or_else(|why| group.broken(&why))?;
        }
        self.looks += 1;
        Ok(())
    }

    async fn lag(&self) -> Result<Vec<(&'static str, u64)>, Failure> {
        let mut lag = Vec::new();
        for group in &self.world.groups {
            let described = self.world.described(group).await?;
            lag.push((group.name, described.map_or(0, |described| described.lag_records())));
        }
        Ok(lag)
    }

    /// Everybody leaves.
    pub(crate) async fn disperse(&mut self) -> Result<(), Failure> {
        self.leave.iter().flatten().for_each(|leave| leave.notify_one());
        while let Some(ended) = self.tasks.join_next().await {
            done(ended)?;
        }
        Ok(())
    }

    /// What has happened in each group, beside what it had processed when this run began.
    pub(crate) async fn table(&self, already: &[u64]) -> Result<String, Failure> {
        let mut table = format!(
            "{:<8} {:>7} {:>6} {:>4} {:>7} {:>10} {:>10} {:>11} {:>10} {:>4}\n",
            "GROUP",
            "MEMBERS",
            "JOINED",
            "LEFT",
            "CRASHED",
            "REBALANCES",
            "PROCESSED",
            "REDELIVERED",
            "COMMITTED",
            "LAG"
        );
        for ((group, tally), already) in self.world.groups.iter().zip(&self.tally).zip(already) {
            let described = self.world.described(group).await?;
            let committed: u64 = self.world.committed(group).await?.iter().sum();
            let (processed, redelivered) = {
                let ledger = group.ledger();
                (ledger.processed - already, ledger.redelivered)
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                table,
                "{:<8} {:>7} {:>6} {:>4} {:>7} {:>10} {:>10} {:>11} {:>10} {:>4}",
                group.name,
                described.as_ref().map_or(0, |described| described.members.len()),
                tally.joined,
                tally.left,
                tally.crashed,
                grouped(group.rebalances.load(Ordering::Relaxed)),
                grouped(processed),
                grouped(redelivered),
                grouped(committed),
                grouped(described.map_or(0, |described| described.lag_records()))
            );
        }
        Ok(table)
    }
}

fn done(ended: Result<Result<End, Failure>, JoinError>) -> Result<End, Failure> {
    ended.unwrap_or_else(|error| broken(format!("a task has panicked: {error}")))
}

/// Produces the missing events in the order of the input, never far ahead of the slowest group.
async fn produce(world: Arc<World>, missing: Vec<usize>) -> Result<End, Failure> {
    let total = world.input.events.len() as u64;
    let ahead = (total / 16).clamp(1, AHEAD_MAX);
    let mut there = total - missing.len() as u64;
    let mut unsent = missing.iter();
    while there < total {
        let changed = world.changed.notified();
        let allowed = world.allowed.load(Ordering::Relaxed).min(world.slowest() + ahead);
        let room = allowed.saturating_sub(there);
        let mut under_way = Vec::new();
        for index in unsent.by_ref().take(room as usize) {
            let delivery = world.events.send(world.input.events[*index].record()).await;
            under_way.push(delivery.map_err(annals::Error::from)?);
        }
        if under_way.is_empty() {
            changed.await;
        }
        for delivery in under_way {
            // On the disk when this returns.
            delivery.await?;
            there += 1;
        }
    }
    Ok(End::Produced)
}

impl World {
    /// How many events the group has processed that is the furthest behind.
    fn slowest(&self) -> u64 {
        self.groups.iter().map(|group| group.ledger().processed).min().unwrap_or(0)
    }
}
