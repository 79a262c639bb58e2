//! One seed: a disk, a log on it, and several lives of the process that uses it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::content::Size;
use super::dice::Dice;
use super::judge::{self, End};
use super::model::Model;
use super::read_only::Seen;
use super::{Verdict, ensure};
use crate::error::{Error, ErrorKind};
use crate::log::engine::Engine;
use crate::log::open::open;
use crate::log::settings::{Compression, LogSettings};
use crate::storage::Env;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::sim::{SimDisk, SimFault, SimOptions};

/// The directory of the log on the simulated disk.
pub(super) const ROOT: &str = "/data/log";

const READERS: u64 = 0x7265_6164_6572_735f;
const WRITTEN: u64 = 0x0077_7269_7474_656e;

/// What was done and looked at, over one seed or many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) seeds: u64,
    pub(super) power_losses: u64,
    pub(super) kills: u64,
    pub(super) closes: u64,
    pub(super) recoveries: u64,
    /// Looks of those who only read.
    pub(super) looks: u64,
    pub(super) crashes_in_recovery: u64,
    pub(super) faults: u64,
    pub(super) records: u64,
    pub(super) acknowledged: u64,
    pub(super) compactions: u64,
    pub(super) compacted_away: u64,
    /// Frames that were stored through memory.
    pub(super) stores: u64,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.power_losses += other.power_losses;
        self.kills += other.kills;
        self.closes += other.closes;
        self.recoveries += other.recoveries;
        self.looks += other.looks;
        self.crashes_in_recovery += other.crashes_in_recovery;
        self.faults += other.faults;
        self.records += other.records;
        self.acknowledged += other.acknowledged;
        self.compactions += other.compactions;
        self.compacted_away += other.compacted_away;
        self.stores += other.stores;
    }
}

/// How often what happens.
#[derive(Debug)]
pub(super) struct Mix {
    /// Once in so many lives something fails.
    pub(super) faults_one_in: u64,
    pub(super) recovery_crash_one_in: u64,
    pub(super) recovery_fault_one_in: u64,
    pub(super) full_disk_one_in: u64,
    pub(super) units_one_in: u64,
    pub(super) topic_changes_one_in: u64,
    pub(super) steps_max: u64,
    pub(super) partitions_max: u64,
    pub(super) segment_bytes_max: u64,
    pub(super) compact_one_in: u64,
    pub(super) follow: bool,
    /// Of every other topic, and of those between.
    pub(super) compressions: [Compression; 2],
    /// Others read while the process writes.
    pub(super) readers: bool,
    pub(super) size: Size,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) dice: Dice,
    pub(super) disk: SimDisk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) log: LogSettings,
    pub(super) mix: Mix,
    pub(super) model: Model,
    pub(super) stats: Stats,
    /// Something may have failed in this life that was made to.
    pub(super) troubled: bool,
    /// How many faults had been hit when this life began.
    pub(super) hit_before: u64,
    /// The disk can be full.
    pub(super) limited: bool,
    /// A sync of the journal has failed in this life.
    pub(super) journal_failed: bool,
    pub(super) talk: bool,
    pub(super) next_topic: u32,
    /// What a reader has seen since the last life, if nothing has happened after that.
    pub(super) seen: Option<Seen>,
}

impl World {
    pub(super) fn new(seed: u64, talk: bool) -> Self {
        let dice = Dice::new(seed);
        // By dice of their own: the worlds without compression stay what they were before there was any.
        let packing = Dice::new(seed ^ 0x0070_ac4e);
        let zstd = Compression::Zstd { level: packing.within(1, 5) as u8 };
        let plain = [Compression::None; 2];
        let compressions = packing.pick(&[plain, plain, [Compression::None, zstd], [Compression::Lz4, zstd]]);
        let options = SimOptions { writeback_one_in: dice.pick(&[0, 1, 4, 16]), ..SimOptions::default() };
        let size = match dice.below(5) {
            0 => Size::Keyed,
            _ => dice.pick(&[Size::Mixed, Size::Mixed, Size::Small, Size::Same]),
        };
        let mix = Mix {
            faults_one_in: dice.pick(&[0, 1, 1, 2]),
            recovery_crash_one_in: dice.pick(&[0, 2, 4]),
            recovery_fault_one_in: dice.pick(&[0, 2, 6]),
            full_disk_one_in: dice.pick(&[0, 0, 0, 2]),
            units_one_in: if size == Size::Mixed { dice.pick(&[0, 3, 6]) } else { dice.pick(&[2, 3, 5]) },
            topic_changes_one_in: dice.pick(&[0, 8, 30]),
            steps_max: if size == Size::Mixed { dice.pick(&[4, 12, 30]) } else { dice.pick(&[12, 30, 90]) },
            partitions_max: if size == Size::Keyed { dice.within(1, 2) } else { dice.within(1, 4) },
            segment_bytes_max: if size == Size::Keyed { 4096 } else { dice.pick(&[4096, 4096, 8192, 65536]) },
            compact_one_in: if size == Size::Keyed { dice.pick(&[0, 6, 12, 12]) } else { 0 },
            follow: dice.one_in(3),
            compressions,
            // Of its own, so that worlds without readers stay what they were before there were any.
            readers: Dice::new(seed ^ READERS).one_in(2),
            size,
        };
        let log = LogSettings {
            commit_bytes_max: 72 << 10,
            journal_bytes: match mix.size {
                Size::Mixed => dice.pick(&[14 << 10, 20_000, 64 << 10]),
                Size::Keyed => dice.pick(&[8192, 16 << 10]),
                Size::Small | Size::Same => dice.pick(&[4096, 4096, 5000]),
            },
            tail_bytes_max: dice.pick(&[0, 2048, 64 << 10]),
            // Room for three keys, or for all there are.
            compaction_memory_bytes: dice.pick(&[96, 32 << 10]),
            mapped_appends: !Dice::new(seed ^ WRITTEN).one_in(4),
            ..LogSettings::default()
        };
        Self {
            seed,
            disk: SimDisk::new(dice.number(), options),
            dice,
            mix,
            clock: Arc::new(ManualClock::new(1_700_000_000_000_000)),
            log,
            model: Model::new(size),
            stats: Stats { seeds: 1, ..Stats::default() },
            troubled: false,
            hit_before: 0,
            limited: false,
            journal_failed: false,
            talk,
            next_topic: 0,
            seen: None,
        }
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.talk {
            eprintln!("[{} call {}] {}", self.seed, self.disk.calls(), what());
        }
    }

    /// All lives of this seed.
    pub(super) fn run(&mut self) -> Verdict {
        let mut end = End::PowerLoss;
        let lives = self.dice.within(1, 6);
        for life in 0..lives {
            self.say(|| format!("life {life} of {lives} after {end:?}"));
            let engine = self.reopen(&mut end)?;
            self.say(|| format!("recovered: {:?}", engine.report));
            self.compare_with_seen(&engine)?;
            self.stats.records += judge::recovered(&mut self.model, &engine, end)?;
            if self.dice.one_in(8) {
                end = self.again(engine)?;
                continue;
            }
            end = self.live(engine)?;
        }
        self.calm();
        let engine = self.reopen(&mut end)?;
        self.stats.records += judge::recovered(&mut self.model, &engine, end)?;
        self.stats.stores = self.disk.stores();
        Ok(())
    }

    /// Ends all trouble that was planned.
    pub(super) fn calm(&mut self) {
        self.disk.clear_faults();
        self.disk.set_capacity(None);
        self.limited = false;
        self.disk.crash_at(u64::MAX);
    }

    pub(super) fn open(&self) -> Result<Engine, Error> {
        let random = Arc::new(SeededRandom::new(self.dice.number()));
        // So few that they are closed and opened again all the time.
        let env = Env::new(self.disk.mount(), Arc::clone(&self.clock) as _, random, 3);
        open(env, PathBuf::from(ROOT), self.log.clone(), true)
    }

    /// Opens the log, through power losses and faults in the middle of it. `end` becomes a power loss if there was one.
    fn reopen(&mut self, end: &mut End) -> Verdict<Engine> {
        let mut crashes = 0;
        loop {
            self.calm();
            self.seen = None;
            if self.mix.readers && self.dice.one_in(2) {
                self.look_at_the_rest(end)?;
            }
            if crashes < 2 && self.dice.one_in(self.mix.recovery_crash_one_in) {
                self.disk.crash_at(self.disk.calls() + self.dice.below(50));
            }
            let hit = self.disk.faults_hit();
            if self.dice.one_in(self.mix.recovery_fault_one_in) {
                let (at, fault) = (self.disk.calls() + self.dice.below(40), self.fault());
                self.say(|| format!("opening, with {fault:?} at call {at}"));
                self.disk.fail_at(at, fault);
            }
            match self.open() {
                Ok(engine) => {
                    ensure!(!self.disk.is_off(), "the log opened on a disk without power");
                    self.disk.clear_faults();
                    self.stats.faults += self.disk.faults_hit() - hit;
                    self.stats.recoveries += 1;
                    return Ok(engine);
                }
                Err(error) if self.disk.is_off() => {
                    self.say(|| format!("power lost while opening: {error}"));
                    self.disk.power_loss();
                    self.stats.power_losses += 1;
                    self.stats.crashes_in_recovery += 1;
                    crashes += 1;
                    // A clean close stands all the same.
                    if *end == End::Kill {
                        *end = End::PowerLoss;
                    }
                }
                Err(error) => {
                    ensure!(self.disk.faults_hit() > hit, "the log does not open: {error:?}");
                    let kinds = [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Poisoned];
                    ensure!(kinds.contains(&error.kind()), "a failed call made opening fail with {error:?}");
                    self.stats.faults += self.disk.faults_hit() - hit;
                    self.say(|| format!("opening failed: {error}"));
                    // The cache may have forgotten what a failed sync did not write: as after a power loss.
                    if *end == End::Kill {
                        *end = End::PowerLoss;
                    }
                    if self.dice.one_in(3) {
                        self.disk.kill();
                    }
                }
            }
        }
    }

    /// Opens the log once more, without having done anything: it must be the same to the byte.
    fn again(&mut self, engine: Engine) -> Verdict<End> {
        self.calm();
        self.disk.kill();
        drop(engine);
        // After the kill: it may have changed what a failed creation has left, which is nobody's.
        let before = self.topic_files();
        self.stats.kills += 1;
        let engine = self.open().map_err(|error| format!("a recovered log does not open: {error:?}"))?;
        self.stats.recoveries += 1;
        let report = &engine.report;
        ensure!(report.cut_bytes == 0, "a recovered log was cut again: {report:?}");
        ensure!(self.topic_files() == before, "recovering again changed the files of a topic");
        judge::recovered(&mut self.model, &engine, End::Kill)?;
        judge::note_end(&mut self.model, &engine);
        self.disk.power_loss();
        self.stats.power_losses += 1;
        Ok(End::PowerLoss)
    }

    fn topic_files(&self) -> Vec<(String, Vec<u8>)> {
        let paths = self.disk.paths().into_iter().filter(|path| path.contains("/topics/"));
        paths.map(|path| (path.clone(), self.disk.read_file(&path))).collect()
    }

    pub(super) fn fault(&self) -> SimFault {
        self.dice.pick(&[
            SimFault::Eio,
            SimFault::Enospc,
            SimFault::ShortWrite,
            SimFault::FsyncDrop,
            SimFault::FsyncDrop,
        ])
    }

    /// Plans what goes wrong in this life.
    fn plan(&mut self) {
        self.calm();
        self.troubled = false;
        self.journal_failed = false;
        let span = self.mix.steps_max * self.dice.pick(&[2, 8]);
        if self.dice.one_in(self.mix.faults_one_in) {
            let (at, fault) = (self.disk.calls() + self.dice.below(span), self.fault());
            let once = !self.dice.one_in(4);
            self.say(|| format!("{fault:?} is to come at call {at}, once: {once}"));
            match once {
                true => self.disk.fail_at(at, fault),
                false => self.disk.fail_from(at, fault),
            }
            if self.dice.one_in(4) {
                // A write that fails half-way.
                self.disk.fail_at(at, SimFault::ShortWrite);
                self.disk.fail_at(at + 1, SimFault::Eio);
            }
            self.troubled = true;
        }
        if self.dice.one_in(self.mix.full_disk_one_in) {
            let room = self.disk.used() + self.dice.below(self.dice.pick(&[4, 60])) * 4096;
            self.say(|| format!("the disk has room for {room} bytes"));
            self.disk.set_capacity(Some(room));
            self.troubled = true;
            self.limited = true;
        }
        if self.dice.below(3) < 2 {
            let at = self.disk.calls() + self.dice.below(span);
            self.say(|| format!("the power goes at call {at}"));
            self.disk.crash_at(at);
        }
    }

    /// One life of the process, from the opened log to its end.
    fn live(&mut self, engine: Engine) -> Verdict<End> {
        self.plan();
        if self.mix.follow {
            for topic in engine.topics() {
                topic.partitions().iter().for_each(|partition| partition.tail.follow());
            }
        }
        let hit = self.disk.faults_hit();
        self.hit_before = hit;
        let mut pending = Vec::new();
        // (Where a sync fails the simulated system tells one handle only, so that a reader could take the news from the writer.)
        let mut reader = None;
        for _ in 0..self.dice.below(self.mix.steps_max + 1) {
            self.step(&engine, &mut pending)?;
            if self.mix.readers && !self.troubled && self.dice.one_in(3) && !self.disk.is_off() {
                reader = self.read_beside(reader)?;
            }
            if self.disk.is_off() {
                break;
            }
            if self.troubled && self.dice.one_in(10) {
                self.say(|| "the trouble is over".to_owned());
                self.disk.clear_faults();
                self.disk.set_capacity(None);
                self.limited = false;
            }
        }
        let end = match self.dice.below(4) {
            _ if self.disk.is_off() => End::PowerLoss,
            0 | 1 => End::PowerLoss,
            2 => End::Kill,
            _ => End::Closed,
        };
        self.end(engine, pending, end, hit)
    }

    fn end(&mut self, engine: Engine, mut pending: Vec<super::ops::Pending>, end: End, hit: u64) -> Verdict<End> {
        let mut end = end;
        if end == End::Closed {
            self.say(|| "closing".to_owned());
            let before = self.disk.faults_hit();
            let closed = engine.close();
            self.settle_since(&engine, &mut pending, before)?;
            self.stats.closes += 1;
            let off = self.disk.is_off();
            match &closed {
                // Whoever closed it was told that everything is on the disk.
                Ok(()) => self.close_model(),
                Err(error) => {
                    self.say(|| format!("not closed cleanly: {error}"));
                    self.allow(error)?;
                    end = End::Kill;
                }
            }
            if off || self.dice.one_in(2) {
                end = if closed.is_ok() { End::Closed } else { End::PowerLoss };
                judge::note_end(&mut self.model, &engine);
                self.disk.power_loss();
                self.stats.power_losses += 1;
                self.stats.faults += self.disk.faults_hit() - hit;
                return Ok(end);
            }
        }
        self.stats.faults += self.disk.faults_hit() - hit;
        judge::note_end(&mut self.model, &engine);
        match end {
            End::PowerLoss => {
                self.say(|| "power loss".to_owned());
                self.disk.power_loss();
                self.stats.power_losses += 1;
            }
            End::Kill => {
                self.say(|| "kill".to_owned());
                self.disk.kill();
                self.stats.kills += 1;
            }
            End::Closed => {}
        }
        drop(engine);
        Ok(end)
    }

    fn close_model(&mut self) {
        for topic in self.model.topics.values_mut() {
            for partition in &mut topic.partitions {
                partition.floor = partition.known.len() as u64;
                partition.kill_floor = partition.floor;
            }
        }
    }

    /// Lets some time pass, mostly forwards.
    pub(super) fn pass_time(&self) {
        let micros = self.dice.below(10_000_000) as i64;
        self.clock.advance(if self.dice.one_in(4) { -micros } else { micros });
    }

    /// A date by which everything is due.
    pub(super) const ALL: Duration = Duration::MAX;
}
