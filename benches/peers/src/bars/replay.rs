//! P6, P9 and P17: reading a log from its first record to its end, and what it takes on disk.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Context, attempt, fill};
use crate::{
    contender::{Bar, Contender, Entrant, Result, Shape},
    load::Tally,
    table::{Row, Sample, Table, Unit},
    workspace,
};

/// The logs are made once and kept for all rounds: reading leaves them as they are. The same logs answer P9.
pub(super) fn run(context: &Context) -> Result<Vec<Table>> {
    let (small, large) = context.scale.replay_bytes;
    let mut tables = measure(context, 100, small, ["P6 warm 100 B", "P9 100 B"], None)?;
    tables.extend(measure(context, 1024, large, ["P6 warm 1 KiB", "P9 1 KiB"], Some("P6 cold 1 KiB"))?);
    tables.sort_by_key(|table| table.bar);
    Ok(tables)
}

fn measure(
    context: &Context,
    record_bytes: usize,
    bytes: u64,
    [warm_variant, space_variant]: [&'static str; 2],
    cold_variant: Option<&'static str>,
) -> Result<Vec<Table>> {
    let mib = bytes >> 20;
    let table = |bar, title, variant, unit| Table::new(bar, title, variant, unit, &context.entrants);
    let title = format!("replay, warm, {record_bytes} B ({mib} MiB, written in batches of 100)");
    let mut warm = table(Bar::P6, title, warm_variant, Unit::RecordsPerSecond);
    let title = format!("bytes on disk a payload byte, batches of 100, {record_bytes} B ({mib} MiB)");
    let mut space = table(Bar::P9, title, space_variant, Unit::BytesPerByte);
    let title = format!("open and replay, cold, {record_bytes} B ({mib} MiB, written in batches of 100)");
    let mut cold = cold_variant.map(|variant| table(Bar::P6, title, variant, Unit::RecordsPerSecond));

    let mut logs: Vec<Option<(PathBuf, u64)>> = Vec::new();
    for row in &mut warm.rows {
        let dir = context.workspace.fresh()?;
        let mut records = 0;
        let mut filled = Row { entrant: row.entrant, samples: Vec::new(), failure: None };
        attempt(&mut filled, "filling", |entrant| {
            let sample;
            (records, sample) = fill_in_halves(entrant, &dir, record_bytes, bytes)?;
            Ok(sample)
        });
        row.failure.clone_from(&filled.failure);
        logs.push(filled.failure.is_none().then_some((dir, records)));
        if let Some(space) = space.rows.iter_mut().find(|space| space.entrant.name == row.entrant.name) {
            *space = filled;
        }
    }
    for _ in 0..context.scale.rounds {
        for (at, log) in logs.iter().enumerate() {
            let Some((dir, records)) = log else { continue };
            let replayed = Replay { dir, record_bytes, records: *records, shape: Shape::ONE };
            attempt(&mut warm.rows[at], warm_variant, |entrant| replayed.warm(entrant, context.scale.time));
            if let Some(cold) = &mut cold {
                attempt(&mut cold.rows[at], "P6 cold 1 KiB", |entrant| replayed.cold(context, entrant));
            }
        }
    }
    for (dir, _) in logs.into_iter().flatten() {
        context.workspace.remove(&dir)?;
    }
    Ok([Some(warm), cold, Some(space)].into_iter().flatten().collect())
}

/// Fills a log in two sittings. The second half's cost tells what a byte costs a log that has paid for its
/// preallocation.
fn fill_in_halves(entrant: &Entrant, dir: &Path, record_bytes: usize, bytes: u64) -> Result<(u64, Sample)> {
    let mut records = 0;
    let mut allocated = [0.0; 2];
    for half in &mut allocated {
        let log = (entrant.open)(dir, entrant.fill_level(), Shape::ONE)?;
        records += fill(log.as_ref(), 1, record_bytes, bytes / 2)?;
        log.close()?;
        // Blocks are allocated when they are written out.
        workspace::sync(dir)?;
        *half = workspace::allocated_bytes(dir)? as f64;
    }
    let payload = records as f64 * record_bytes as f64;
    let second_half = (allocated[1] - allocated[0]) / (payload / 2.0);
    Ok((
        records,
        Sample { value: allocated[1] / payload, extras: vec![("second half alone", second_half)], ..Sample::default() },
    ))
}

/// P17: one causal order over 64 partitions.
pub(super) fn run_merged(context: &Context) -> Result<Table> {
    let bytes = context.scale.replay_bytes.0;
    let title = format!(
        "causal replay of 64 partitions merged, warm, 100 B ({} MiB, a batch of 100 to each in turn)",
        bytes >> 20
    );
    let mut table = Table::new(Bar::P17, title, "P17", Unit::RecordsPerSecond, &context.entrants);
    for row in &mut table.rows {
        let dir = context.workspace.fresh()?;
        let mut filled = None;
        for _ in 0..context.scale.rounds {
            attempt(row, "P17", |entrant| {
                if filled.is_none() {
                    let log = (entrant.open)(&dir, entrant.fill_level(), Shape::SPREAD)?;
                    filled = Some(fill(log.as_ref(), Shape::SPREAD.total(), 100, bytes)?);
                    log.close()?;
                }
                let records = filled.unwrap_or_default();
                let replay = Replay { dir: &dir, record_bytes: 100, records, shape: Shape::SPREAD };
                replay.warm(entrant, context.scale.time)
            });
        }
        context.workspace.remove(&dir)?;
    }
    Ok(table)
}

/// A log on disk and what a complete reading of it must deliver.
struct Replay<'a> {
    dir: &'a Path,
    record_bytes: usize,
    records: u64,
    shape: Shape,
}

impl Replay<'_> {
    /// Replays over and over until time is up, after a first one that warms the cache and is not counted. One
    /// that takes longer than `time` is cut short; its rate stands all the same.
    fn warm(&self, entrant: &Entrant, time: Duration) -> Result<Sample> {
        let log = (entrant.open)(self.dir, entrant.fill_level(), self.shape)?;
        let mut cut = self.once(log.as_ref(), time)?.stopped;
        let started = Instant::now();
        let mut records = 0;
        while started.elapsed() < time {
            let tally = self.once(log.as_ref(), time)?;
            records += tally.records;
            cut |= tally.stopped;
        }
        let value = records as f64 / started.elapsed().as_secs_f64();
        log.close()?;
        Ok(self.sample(value, cut))
    }

    /// Opens and replays once, with nothing of the log in the page cache. Opening is part of it: some contenders
    /// read the log then.
    fn cold(&self, context: &Context, entrant: &Entrant) -> Result<Sample> {
        workspace::sync(self.dir)?;
        context.workspace.warm_memory(self.records * self.record_bytes as u64)?;
        workspace::evict(self.dir)?;
        let started = Instant::now();
        let log = (entrant.open)(self.dir, entrant.fill_level(), self.shape)?;
        let tally = self.once(log.as_ref(), Duration::from_secs(3))?;
        let value = tally.records as f64 / started.elapsed().as_secs_f64();
        log.close()?;
        Ok(self.sample(value, tally.stopped))
    }

    fn once(&self, log: &dyn Contender, time: Duration) -> Result<Tally> {
        let mut tally = Tally::new(self.record_bytes, Instant::now() + time);
        match self.shape.total() {
            1 => log.replay(&mut tally)?,
            _ => log.replay_merged(&mut tally)?,
        }
        tally.folded();
        let bytes = self.records * self.record_bytes as u64;
        if !tally.stopped && (tally.records, tally.bytes) != (self.records, bytes) {
            return Err(format!("delivered {} of {} records", tally.records, self.records).into());
        }
        Ok(tally)
    }

    fn sample(&self, value: f64, cut: bool) -> Sample {
        Sample { value, remark: cut.then_some("cut short by the time budget"), ..Sample::default() }
    }
}
