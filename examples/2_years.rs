//! Years: the same stream of events three times over, in a log that stays small. The whole story goes to a topic with retention
//! and compression, each event with an identity, so that repeating it writes nothing; the latest state of each case goes to a
//! compacted topic, each on the condition that nobody was faster. The process is killed at random moments on the way, goes on
//! where it was, and proves at the end what must hold.
//!
//! `cargo run --release --example 2_years -- [PATH] [--dir DIR] [--crash-after N]`; `--help` tells the rest.
//!
//! Read it from `run_in` on: that is the program which annals is for.
#![expect(clippy::disallowed_methods, reason = "an example measures with the real clock")]

#[path = "support/args.rs"]
mod args;
#[path = "support/console.rs"]
mod console;
#[path = "support/ndjson.rs"]
#[expect(dead_code, reason = "lines and records are those of other examples")]
mod ndjson;
#[path = "support/story.rs"]
mod story;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use annals::{
    Compression, Durability, ErrorKind, Expected, Log, Raw, Receipt, Record, Start, Topic, TopicDef, TopicSettings,
};
use args::Args;
use bytes::Bytes;
use console::{Progress, grouped, rate};
use ndjson::{Event, Input, LINE_BYTES_MAX};
use story::{Failure, broken};

const HELP: &str = "\
Puts the same events through a log three times over, with retention, compaction and compression on, is killed at random
moments on the way, and proves that each key's last value is there, that the disk use is bounded, that nothing that was
repeated was stored twice, and that every offset which remains reads back.

usage: cargo run --release --example 2_years -- [PATH] [--dir DIR] [--crash-after N]

  PATH             events, one JSON object a line (NDJSON), plain or gzip; without it, a small library's book loans.
                   Each has \"type\" and \"key\" (text) and \"time\" (RFC 3339 with an offset), and any other fields
  --dir DIR        the log's directory; made if it is not there. A run goes on where the log in DIR ends.
                   Without it: a temporary directory, and the whole story by itself, with four kills
  --crash-after N  kill the process (abort: nothing is closed or flushed) once N events of this run are acknowledged
  --help           print this

exit code: 0 if everything holds, 1 if a check fails, 2 if the arguments, the input or the log cannot be used
";

/// What happened: all of it, for as long as there is room.
const EVENTS: TopicDef<Bytes, Raw> = TopicDef::new("events");
/// Where each case stands: its latest event, for ever.
const CASES: TopicDef<Bytes, Raw> = TopicDef::new("cases");

const PASSES: u64 = 3;
const PARTITIONS: u32 = 4;
const SEGMENT_BYTES: u64 = 256 << 10;
/// What each partition of the events keeps.
const KEPT_BYTES: u64 = 2 * SEGMENT_BYTES;
/// So many events are under way at once. What a crash may leave half done lies within one such group.
const GROUP: usize = 256;
/// Every so manieth event is sent twice, and as often somebody tries to overwrite a case with what is stale.
const REPEATED_ONE_IN: usize = 7;
const STALE_ONE_IN: usize = 50;
const KILLS: u64 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    story::tell("2_years", HELP, run).await
}

/// With a directory, one run in it; without, the whole story.
async fn run(args: Args) -> Result<String, Failure> {
    let input = Input::read(args.path.as_deref()).map_err(Failure::Unusable)?;
    if let Some(dir) = &args.dir {
        return run_in(&input, dir, args.crash_after).await;
    }
    let dir = tempfile::tempdir().map_err(|error| Failure::Unusable(format!("no temporary directory: {error}")))?;
    let total = input.events.len() as u64 * PASSES;
    let mut kills = String::new();
    for number in 0..if total > KILLS { KILLS } else { 0 } {
        // Anywhere in what a fair share of the work is; the hasher is the standard library's source of chance.
        let chance = RandomState::new().hash_one(number);
        let after = args.crash_after.unwrap_or(1 + chance % (total / KILLS).max(1));
        if story::crash(&args, dir.path(), after)? {
            kills += &format!("killed         after {} more events\n", grouped(after));
        }
    }
    Ok(kills + &run_in(&input, dir.path(), None).await?)
}

/// One run: opens the log, finds where it is, does the rest, and proves what must hold.
async fn run_in(input: &Input, dir: &Path, crash_after: Option<u64>) -> Result<String, Failure> {
    let log = Log::open(dir).await?;
    let record_bytes = 3 * LINE_BYTES_MAX as u32 + 1024;
    let settings = || {
        TopicSettings::default().partitions(PARTITIONS).segment_bytes_max(SEGMENT_BYTES).record_bytes_max(record_bytes)
    };
    // An identity is remembered longer than anything is under way: whatever a crash has left open may be sent again.
    let events = settings().retention_bytes_max(KEPT_BYTES).compression(Compression::Zstd { level: 3 });
    let events = log.create_topic(EVENTS, events.dedup_count_max(64 * GROUP as u32)).await?;
    // A killed process loses nothing of it, and that is what happens here.
    let cases = settings().compaction(true).compression(Compression::Lz4);
    let cases = log.create_topic(CASES, cases.durability(Durability::Interval(Duration::from_millis(100)))).await?;

    let mut years =
        Years { input, events, cases, standing: HashMap::new(), done: 0, crash_after, tally: Tally::default() };
    let found = years.find_where_it_is()?;
    years.go_on(found).await?;
    log.compact_topic(CASES.name()).await?;
    let proof = years.prove(&log)?;
    let recovery = log.recovery().clone();
    log.close().await?;
    if let Some(damage) = recovery.damage.first() {
        return broken(damage.to_string());
    }
    Ok(years.table(found, &recovery, &proof))
}

/// How far a case is: the place of its latest event in the three passes, and where that is in the log.
#[derive(Clone, Copy)]
struct Standing {
    step: usize,
    offset: u64,
    partition: u32,
}

#[derive(Default)]
struct Tally {
    appended: u64,
    repeated: u64,
    conditional: u64,
    conflicts: u64,
    took: Duration,
}

struct Years<'a> {
    input: &'a Input,
    events: Topic<Bytes, Raw>,
    cases: Topic<Bytes, Raw>,
    standing: HashMap<String, Standing>,
    /// Events that are acknowledged in this run.
    done: u64,
    crash_after: Option<u64>,
    tally: Tally,
}

impl<'a> Years<'a> {
    /// Each event of each pass is a step; this is the event of one.
    fn event(&self, step: usize) -> &'a Event {
        &self.input.events[step % self.input.events.len()]
    }

    fn steps(&self) -> usize {
        self.input.events.len() * PASSES as usize
    }

    /// Reads where each case stands. Cases are written one after the other, so the latest of them says how far it all is.
    fn find_where_it_is(&mut self) -> Result<usize, Failure> {
        let mut history = self.cases.replay(Start::Earliest).blocking()?;
        let mut next = 0;
        while let Some(record) = history.next()? {
            let step = record.header("step").and_then(|step| std::str::from_utf8(step).ok()?.parse().ok());
            let key = record.key().and_then(|key| std::str::from_utf8(key).ok());
            let (Some(step), Some(key)) = (step, key) else {
                return broken(format!("offset {} of {} is not ours", record.offset(), CASES.name()));
            };
            let standing = Standing { step, offset: record.offset(), partition: record.partition() };
            match self.standing.insert(key.to_owned(), standing) {
                Some(before) if before.step >= step => return broken(format!("{key:?} went back to step {step}")),
                _ => next = next.max(step + 1),
            }
        }
        Ok(next)
    }

    /// Does all steps from `next` on, group by group. The events of the group in which the last process died may be there
    /// already: they are sent again, and written once.
    async fn go_on(&mut self, next: usize) -> Result<(), Failure> {
        let began = Instant::now();
        let mut progress = Progress::new("imported", self.steps() as u64);
        let mut first = next - next % GROUP;
        while first < self.steps() && next < self.steps() {
            let end = (first + GROUP).min(self.steps());
            self.send_events(first..end).await?;
            for step in first.max(next)..end {
                self.update_case(step).await?;
                self.done += 1;
                progress.at(step as u64);
                if self.crash_after == Some(self.done) {
                    drop(progress);
                    eprintln!("{} more events are acknowledged: killing the process", grouped(self.done));
                    std::process::abort();
                }
            }
            first = end;
        }
        self.tally.took = began.elapsed();
        Ok(())
    }

    /// Sends events, many under way at once, some of them twice.
    async fn send_events(&mut self, steps: std::ops::Range<usize>) -> Result<(), Failure> {
        let mut under_way = Vec::new();
        for step in steps {
            let event = self.event(step);
            // The identity says which pass it is: the same event three years running is three events.
            let record = || {
                Record::new(event.text.clone())
                    .key(&event.key)
                    .id(format!("{step}-{}", event.line))
                    .timestamp(event.time)
                    .header("type", &event.kind)
            };
            let first = self.events.send(record()).await.map_err(annals::Error::from)?;
            let again = match step % REPEATED_ONE_IN {
                0 => Some(self.events.send(record()).await.map_err(annals::Error::from)?),
                _ => None,
            };
            under_way.push((step, first, again));
        }
        for (step, first, again) in under_way {
            // On the disk when this returns.
            let first: Receipt = first.await?;
            self.tally.appended += 1;
            if let Some(again) = again {
                let again = again.await?;
                self.tally.repeated += 1;
                if (again.partition, again.offset) != (first.partition, first.offset) {
                    return broken(format!("step {step} was repeated and stored twice, at {first:?} and at {again:?}"));
                }
            }
        }
        Ok(())
    }

    /// Writes where a case stands now, if it still stands where it was found.
    async fn update_case(&mut self, step: usize) -> Result<(), Failure> {
        let event = self.event(step);
        let before = self.standing.get(&event.key).copied();
        let record =
            || Record::new(event.text.clone()).key(&event.key).timestamp(event.time).header("step", step.to_string());
        let expected = before.map_or(Expected::Empty, |before| Expected::Exact(before.offset));
        if step.is_multiple_of(STALE_ONE_IN) {
            // Somebody who read the case long ago, and has not seen what happened since.
            let stale = if before.is_some() { Expected::Empty } else { Expected::Exact(u64::MAX) };
            match self.cases.produce_if(record(), stale).await {
                Err(error) if error.kind() == ErrorKind::Conflict && error.current_version() == Some(expected) => {
                    self.tally.conflicts += 1;
                }
                other => return broken(format!("step {step}: a stale append of {:?} came to {other:?}", event.key)),
            }
        }
        let receipt = self.cases.produce_if(record(), expected).await?;
        self.tally.conditional += 1;
        let standing = Standing { step, offset: receipt.offset, partition: receipt.partition };
        self.standing.insert(event.key.clone(), standing);
        Ok(())
    }

    /// Reads all that is left, and checks it against the input.
    fn prove(&self, log: &Log) -> Result<Proof, Failure> {
        let began = Instant::now();
        let mut proof = Proof { events: self.remaining_events()?, cases: self.remaining_cases()?, ..Proof::default() };
        proof.took = began.elapsed();
        for partition in log.describe_topic(EVENTS.name())?.partitions {
            // What is kept, the segment that is being written, and one whose retention is due any moment.
            let bound = KEPT_BYTES + 2 * SEGMENT_BYTES;
            if partition.size_bytes > bound {
                return broken(format!(
                    "partition {} has {} bytes, above {bound}",
                    partition.partition, partition.size_bytes
                ));
            }
            proof.events_bytes += partition.size_bytes;
        }
        for partition in log.describe_topic(CASES.name())?.partitions {
            proof.cases_bytes += partition.size_bytes;
        }
        // Every case once, whatever it was before, and the head, which no compaction touches.
        let latest: u64 = self.last_of_each_key().values().map(|event| event.text.len() as u64 + 256).sum();
        let bound = latest + u64::from(PARTITIONS) * 2 * SEGMENT_BYTES;
        if proof.cases_bytes > bound {
            return broken(format!("the cases have {} bytes, above {bound}", proof.cases_bytes));
        }
        Ok(proof)
    }

    /// Each offset from the log start on is there, holds an event of the input, and none is there twice.
    fn remaining_events(&self) -> Result<u64, Failure> {
        let mut seen = HashSet::new();
        for partition in 0..PARTITIONS {
            let mut next = self.events.watermarks(partition)?.log_start;
            let mut history = self.events.replay_partition(partition, Start::Earliest).blocking()?;
            while let Some(record) = history.next()? {
                let at = format!("partition {partition}, offset {}", record.offset());
                if record.offset() != next {
                    return broken(format!("{at} comes where {next} was to come"));
                }
                next += 1;
                let id = record.header("message_id").and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default();
                let step = id.split('-').next().and_then(|step| step.parse::<usize>().ok());
                let Some(step) = step.filter(|step| *step < self.steps()) else {
                    return broken(format!("{at}: {id:?} is not the identity of any event"));
                };
                if record.value() != Some(&self.event(step).text[..]) {
                    return broken(format!("{at} is not the event of step {step}"));
                }
                if !seen.insert(step) {
                    return broken(format!("{at}: step {step} is there twice"));
                }
            }
            let end = self.events.watermarks(partition)?.high_watermark;
            if next != end {
                return broken(format!("partition {partition} reads up to {next} and has {end}"));
            }
        }
        Ok(seen.len() as u64)
    }

    fn last_of_each_key(&self) -> HashMap<&'a str, &'a Event> {
        self.input.events.iter().map(|event| (event.key.as_str(), event)).collect()
    }

    /// The last record of each case is its last event in the input; offsets ascend, with holes where a compaction was.
    fn remaining_cases(&self) -> Result<u64, Failure> {
        let mut latest = HashMap::new();
        let mut count = 0;
        for partition in 0..PARTITIONS {
            let mut before = None;
            let mut history = self.cases.replay_partition(partition, Start::Earliest).blocking()?;
            while let Some(record) = history.next()? {
                if before >= Some(record.offset()) {
                    return broken(format!("partition {partition}, offset {} comes after {before:?}", record.offset()));
                }
                before = Some(record.offset());
                count += 1;
                let key = record.key().unwrap_or_default().to_vec();
                latest.insert(key, (partition, record.offset(), record.value().map(<[u8]>::to_vec)));
            }
        }
        let expected = self.last_of_each_key();
        if latest.len() != expected.len() {
            return broken(format!("there are {} cases, of {}", latest.len(), expected.len()));
        }
        for (key, event) in expected {
            let Some((partition, offset, value)) = latest.get(key.as_bytes()) else {
                return broken(format!("case {key:?} is gone"));
            };
            let standing = self.standing.get(key).map(|standing| (standing.partition, standing.offset));
            if value.as_deref() != Some(&event.text[..]) || standing != Some((*partition, *offset)) {
                return broken(format!("the last value of case {key:?} is not that of line {}", event.line));
            }
        }
        Ok(count)
    }

    fn table(&self, found: usize, recovery: &annals::RecoveryReport, proof: &Proof) -> String {
        let Tally { appended, repeated, conditional, conflicts, took } = &self.tally;
        let raw: u64 = self.input.events.iter().map(|event| event.text.len() as u64).sum::<u64>() * PASSES;
        let how = match (recovery.created, recovery.clean) {
            (true, _) => "a new log",
            (_, true) => "closed cleanly before",
            _ => "killed before",
        };
        let rows = [
            ("input", format!("{}, {} times over", self.input.name, PASSES)),
            ("opening", format!("{how}, epoch {}, in {:.1} ms", recovery.epoch, recovery.took.as_secs_f64() * 1e3)),
            ("found", format!("{} of {} steps done", grouped(found as u64), grouped(self.steps() as u64))),
            (
                "events",
                format!(
                    "{} sent, {} of them twice: {}",
                    grouped(*appended),
                    grouped(*repeated),
                    rate(*appended, *took)
                ),
            ),
            (
                "cases",
                format!("{} updated if unchanged, {} stale tries refused", grouped(*conditional), grouped(*conflicts)),
            ),
            ("", format!("{} bytes of events have gone in", grouped(raw))),
            (
                "events kept",
                format!("{} in {} bytes: within the bound", grouped(proof.events), grouped(proof.events_bytes)),
            ),
            (
                "cases kept",
                format!(
                    "{} records of {} cases in {} bytes: within the bound",
                    grouped(proof.cases),
                    grouped(self.standing.len() as u64),
                    grouped(proof.cases_bytes)
                ),
            ),
            ("last values", "hold: each case's is its last event, byte for byte".to_owned()),
            ("repeated", "none is stored twice".to_owned()),
            ("reads back", format!("every offset that remains: {}", rate(proof.events + proof.cases, proof.took))),
        ];
        rows.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
    }
}

#[derive(Default)]
struct Proof {
    events: u64,
    events_bytes: u64,
    cases: u64,
    cases_bytes: u64,
    took: Duration,
}
