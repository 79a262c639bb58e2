//! Logs that are opened read-only: beside a writer, and where a process or the power has ended, before anybody recovers it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::bench::{Bench, TOPIC, put_relaxed, settings, values};
use super::judge::{self, End};
use super::model::{Existence, Slot};
use super::world::{ROOT, World};
use super::{Verdict, ensure};
use crate::error::{Error, ErrorKind};
use crate::log::engine::Engine;
use crate::log::read_only::open_read_only;
use crate::log::settings::Durability;
use crate::storage::Env;
use crate::storage::clock::SeededRandom;
use crate::storage::sim::SimDisk;

/// What a reader has seen: of each topic, the records of each partition from its start on.
pub(super) type Seen = BTreeMap<String, Vec<(u64, Vec<(u64, Slot)>)>>;

/// Every name, and every byte that can be read.
pub(super) fn all_files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    disk.paths().into_iter().map(|path| (path.clone(), disk.read_file(&path))).collect()
}

fn seen(engine: &Engine) -> Verdict<Seen> {
    let mut seen = Seen::new();
    for topic in engine.topics() {
        let partitions = topic.partitions();
        let slots = partitions.iter().map(|partition| Ok((partition.log_start(), judge::read(partition)?)));
        seen.insert(topic.name.to_string(), slots.collect::<Verdict<_>>()?);
    }
    Ok(seen)
}

impl World {
    pub(super) fn open_read_only(&self) -> Result<Engine, Error> {
        let random = Arc::new(SeededRandom::new(1));
        let env = Env::new(self.disk.mount(), Arc::clone(&self.clock) as _, random, 3);
        open_read_only(env, PathBuf::from(ROOT), self.log.clone())
    }

    /// Looks at what the last life has left, before anybody recovers it. Nothing may change by that, and what is seen is what
    /// recovery must leave.
    pub(super) fn look_at_the_rest(&mut self, end: &mut End) -> Verdict {
        let before = all_files(&self.disk);
        let engine = match self.open_read_only() {
            Ok(engine) => engine,
            Err(error) => {
                let is_new = self.model.topics.values().all(|topic| topic.existence == Existence::Open);
                ensure!(error.kind() == ErrorKind::NotFound && is_new, "it cannot be read: {error:?}");
                return Ok(());
            }
        };
        self.say(|| format!("looked at: {:?}", engine.report));
        self.stats.looks += 1;
        let mut model = self.model.clone();
        self.stats.records += judge::recovered(&mut model, &engine, *end).map_err(|why| format!("read-only: {why}"))?;
        let found = seen(&engine)?;
        drop(engine);
        ensure!(all_files(&self.disk) == before, "reading has changed files");
        if self.disk.faults_hit() == self.hit_before {
            // Or a sync that failed may be all that was ever asked for some of it.
            self.must_stay(&found);
        }
        self.seen = Some(found);
        if self.dice.one_in(3) {
            self.say(|| "power loss after the look".to_owned());
            self.seen = None;
            self.disk.power_loss();
            self.stats.power_losses += 1;
            if *end == End::Kill {
                *end = End::PowerLoss;
            }
        }
        Ok(())
    }

    /// What a reader has seen of synced topics survives even a power loss.
    fn must_stay(&mut self, found: &Seen) {
        for (name, partitions) in found {
            let Some(topic) = self.model.topics.get_mut(name) else { continue };
            let is_synced = topic.durability == Durability::Sync;
            for (known, (start, slots)) in topic.partitions.iter_mut().zip(partitions) {
                let count = slots.last().map_or(*start, |(last, _)| last + 1);
                known.kill_floor = known.kill_floor.max(count);
                if is_synced {
                    known.floor = known.floor.max(count);
                }
            }
        }
    }

    /// Recovery has left what was seen before it, neither less nor more.
    pub(super) fn compare_with_seen(&mut self, engine: &Engine) -> Verdict {
        let Some(before) = self.seen.take() else { return Ok(()) };
        let now = seen(engine)?;
        ensure!(now == before, "recovery has left {now:?}, but before it {before:?} was seen");
        Ok(())
    }

    /// Lets a reader look for news, or open the log if there is none; it must see what the writer shows.
    pub(super) fn read_beside(&mut self, reader: Option<Engine>) -> Verdict<Option<Engine>> {
        self.say(|| format!("a reader looks for news; it is new: {}", reader.is_none()));
        let looked = match reader.filter(|_| !self.dice.one_in(10)) {
            Some(reader) => {
                let tries = self.dice.below(3);
                (0..tries).try_for_each(|_| reader.refresh(false)).and_then(|()| reader.refresh(true)).map(|()| reader)
            }
            None => self.open_read_only(),
        };
        if self.disk.is_off() {
            return Ok(None);
        }
        let reader = looked.map_err(|error| format!("a reader cannot look: {error:?}"))?;
        ensure!(reader.report.damage.is_empty(), "a reader sees damage: {:?}", reader.report.damage);
        self.stats.looks += 1;
        self.check_reader(&reader)?;
        Ok(Some(reader))
    }

    fn check_reader(&mut self, reader: &Engine) -> Verdict {
        let certain = self.model.topics.iter().filter(|(_, known)| known.existence == Existence::Certain);
        for (name, known) in certain {
            let topic = reader.topic(name).map_err(|error| format!("a reader does not find topic {name}: {error}"))?;
            let count = topic.partitions().len();
            ensure!(count == known.partitions.len(), "a reader sees {count} partitions of topic {name}");
            for (number, partition) in topic.partitions().iter().enumerate() {
                self.stats.records +=
                    judge::visible(known, number, partition).map_err(|why| format!("a reader: {why}"))?;
            }
        }
        let gone = reader.topics().into_iter().find(|topic| !self.model.topics.contains_key(&*topic.name));
        ensure!(gone.is_none(), "a reader still sees {gone:?}");
        Ok(())
    }
}

impl Bench {
    pub(super) fn open_read_only(&self) -> Result<Engine, Error> {
        let clock = Arc::new(crate::storage::clock::ManualClock::new(1_700_000_000_000_000));
        let env = Env::new(self.disk.mount(), clock, Arc::new(SeededRandom::new(1)), 3);
        open_read_only(env, PathBuf::from(ROOT), Self::settings())
    }
}

/// A process dies between the write of a frame and its sync; whoever reads it before recovery does has made it durable.
pub(super) fn what_is_seen_stays() -> Verdict {
    let mut shown = 0;
    for seed in 0..20 {
        let bench = Bench::new(seed);
        let engine = bench.open();
        bench.create(&engine, 2, Durability::Sync);
        bench.put(&engine, 0, "first").map_err(|error| error.to_string())?;
        bench.unit(&engine, &[0, 1], "unit").map_err(|error| error.to_string())?;
        // The write is done, its sync is not.
        bench.disk.crash_at(bench.disk.calls() + 1);
        let answer =
            if seed % 2 == 0 { bench.put(&engine, 0, "last").map(drop) } else { bench.unit(&engine, &[0, 1], "last") };
        ensure!(answer.is_err(), "seed {seed}: a record without a sync was acknowledged");
        bench.disk.kill();
        drop(engine);
        let reader = bench.open_read_only().map_err(|error| error.to_string())?;
        let seen = [values(&reader, 0), values(&reader, 1)];
        ensure!(
            seen[0].len() >= 2 && !seen[1].is_empty(),
            "seed {seed}: a reader misses what was acknowledged: {seen:?}"
        );
        drop(reader);
        shown += u64::from(seen[0].len() == 3);
        bench.disk.power_loss();
        let engine = bench.open();
        let left = [values(&engine, 0), values(&engine, 1)];
        ensure!(left == seen, "seed {seed}: {seen:?} was seen, {left:?} is left of it");
    }
    ensure!(shown >= 5, "only {shown} frames were seen before their sync: this shows nothing");
    Ok(())
}

/// What a failed rotation has left in the middle of a file is nobody's, wherever the log starts.
pub(super) fn strays_take_nothing_along() -> Verdict {
    for stray_at in [3, 5] {
        for stray in [&b""[..], &[0; 200]] {
            let bench = Bench::new(1);
            let engine = bench.open();
            engine.create_topic(TOPIC, settings(1, Durability::Os)).map_err(|error| error.to_string())?;
            for n in 0..10 {
                put_relaxed(&engine, TOPIC, 0, &format!("record {n}")).map_err(|error| error.to_string())?;
            }
            engine.delete_records(TOPIC, 0, 5).map_err(|error| error.to_string())?;
            bench.disk.kill();
            drop(engine);
            bench.disk.write_file(format!("{ROOT}/topics/{TOPIC}/0/{stray_at:020}.log"), stray);
            let reader = bench.open_read_only().map_err(|error| error.to_string())?;
            let seen = bench.read_from(&reader, 0, 5);
            drop(reader);
            let engine = bench.open();
            let left = bench.read_from(&engine, 0, 5);
            let damage = &engine.report.damage;
            ensure!(left.len() == 5 && damage.is_empty(), "a stray at {stray_at}: {left:?} is left, {damage:?}");
            ensure!(seen == left, "a stray at {stray_at}: a reader sees {seen:?}, and {left:?} is left");
        }
    }
    Ok(())
}

#[test]
fn what_a_reader_has_seen_survives_a_power_loss() {
    what_is_seen_stays().unwrap();
}

#[test]
fn an_empty_file_in_the_middle_of_another_takes_nothing_along() {
    strays_take_nothing_along().unwrap();
}
