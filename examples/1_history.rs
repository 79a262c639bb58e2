//! History: real events go into a partitioned topic, the process is killed in the middle and started again, goes on where
//! the durable log ends, and proves from a replay that nothing is missing, doubled or out of order.
//!
//! `cargo run --release --example 1_history -- [PATH] [--dir DIR] [--crash-after N]`; `--help` tells the rest.
//!
//! Read it from `resume` on: that is the program which annals is for.
#![expect(clippy::disallowed_methods, reason = "an example measures with the real clock")]

#[path = "support/args.rs"]
mod args;
#[path = "support/console.rs"]
mod console;
#[path = "support/ndjson.rs"]
mod ndjson;
#[path = "support/story.rs"]
mod story;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use annals::{Log, Message, Raw, RecoveryReport, Start, Topic, TopicDef, TopicDescription, TopicSettings};
use args::Args;
use bytes::Bytes;
use console::{Progress, grouped, rate};
use futures_util::StreamExt;
use ndjson::{Event, Input, LINE_BYTES_MAX};
use story::{Failure, broken};

const HELP: &str = "\
Takes a history of events through a crash, and proves that nothing of it is lost, doubled or out of order.

usage: cargo run --release --example 1_history -- [PATH] [--dir DIR] [--crash-after N]

  PATH             events, one JSON object a line (NDJSON), plain or gzip; without it, a small library's book loans.
                   Each has \"type\" and \"key\" (text) and \"time\" (RFC 3339 with an offset, be it long before 1970),
                   and any other fields: {\"type\":\"borrowed\",\"key\":\"loan-1\",\"time\":\"1887-05-02T09:00:00Z\",\"copy\":2}
  --dir DIR        the log's directory; made if it is not there. A run goes on where the log in DIR ends.
                   Without it: a temporary directory, and the whole story by itself. A child process appends, and
                   is killed in the middle; this process then goes on, replays, checks and prints the table.
  --crash-after N  kill the process (abort: nothing is closed or flushed) once N events of this run are acknowledged
  --help           print this

Try a crash by hand, as often as you like, then let it finish:
  cargo run --release --example 1_history -- --dir /tmp/history --crash-after 50
  cargo run --release --example 1_history -- --dir /tmp/history

exit code: 0 if everything holds, 1 if a check fails, 2 if the arguments, the input or the log cannot be used
";

/// The topic holds each event's line byte for byte, so its values are bytes. `TopicDef<MyEvent, Json>` would hold a type.
const HISTORY: TopicDef<Bytes, Raw> = TopicDef::new("history");

/// Events of one key share a partition, and so keep their order.
const PARTITIONS: u32 = 4;

/// Sends under way at once: one `fdatasync` then serves hundreds of events, and each is on the disk when acknowledged.
const IN_FLIGHT_MAX: usize = 4096;

#[tokio::main]
async fn main() -> ExitCode {
    story::tell("1_history", HELP, run).await
}

/// With a directory, one run in it; without, the whole story.
async fn run(args: Args) -> Result<String, Failure> {
    let input = Input::read(args.path.as_deref()).map_err(Failure::Unusable)?;
    if let Some(dir) = &args.dir {
        return resume(&input, dir, args.crash_after, 0).await;
    }
    let dir = tempfile::tempdir().map_err(|error| Failure::Unusable(format!("no temporary directory: {error}")))?;
    let acknowledged = crash_in_the_middle(&args, &input, dir.path())?;
    resume(&input, dir.path(), None, acknowledged).await
}

/// Lets a child process append until it is killed; answers how many events were acknowledged to it.
fn crash_in_the_middle(args: &Args, input: &Input, dir: &Path) -> Result<u64, Failure> {
    let total = input.events.len() as u64;
    let count = args.crash_after.unwrap_or((total / 2).max(1));
    if count > total {
        return match args.crash_after {
            Some(_) => Err(Failure::Unusable(format!("--crash-after {count}: {} has {total} events", input.name))),
            // Nothing can be acknowledged of an empty history; that must come through all the same.
            None => Ok(0),
        };
    }
    if !story::crash(args, dir, count)? {
        return broken(format!("the child came to its end, and should have crashed at {count}"));
    }
    Ok(count)
}

/// One run: opens the log, finds what is there, appends what is missing, replays and checks everything.
async fn resume(input: &Input, dir: &Path, crash_after: Option<u64>, promised: u64) -> Result<String, Failure> {
    // If the last process was killed, this is where the log recovers; what it found is in `log.recovery()`.
    let log = Log::open(dir).await?;
    let settings = TopicSettings::default().partitions(PARTITIONS).record_bytes_max(3 * LINE_BYTES_MAX as u32 + 1024);
    // Creates the topic in the first run, and finds it in the others. Its durability is the default: `Sync`.
    let topic = log.create_topic(HISTORY, settings).await?;

    let found = replay_and_check(&topic, input).await?;
    keeps_promises(input, &found, promised)?;
    // Many sends were under way when the process died. Each partition kept a whole beginning of what was sent to it, but not
    // each the same: one may end at line 900 and another at 1,000. The highest line says nothing, then. Every record carries
    // its line in a header, and so what is missing is known exactly. Sent in the order of the input it also lies right: no
    // record behind the end of a partition's beginning was kept, so whatever is missing comes after what is there.
    let missing: Vec<&Event> =
        input.events.iter().zip(&found.seen).filter(|(_, seen)| !**seen).map(|(event, _)| event).collect();
    let append_took = append(&topic, &missing, found.last_line, crash_after).await?;

    let replayed = replay_and_check(&topic, input).await?;
    replayed.is_complete()?;
    let description = log.describe_topic(HISTORY.name())?;
    let recovery = log.recovery().clone();
    log.close().await?;
    if let Some(damage) = recovery.damage.first() {
        return broken(damage.to_string());
    }
    let run = Run { input, promised, found: &found, missing: missing.len() as u64, append_took, replayed: &replayed };
    Ok(table(&run, &recovery, &description, crash_after))
}

/// Acknowledgements come in the order of the sends, so the child's were for the first events: each must be there.
fn keeps_promises(input: &Input, found: &Replayed, promised: u64) -> Result<(), Failure> {
    match found.seen.iter().take(promised as usize).position(|seen| !seen) {
        Some(lost) => {
            let line = input.events[lost].line;
            broken(format!("the event in line {line} was acknowledged before the crash, and is lost"))
        }
        None => Ok(()),
    }
}

/// Appends events, many under way at once, and takes their acknowledgements in the order in which they were sent.
async fn append(
    topic: &Topic<Bytes, Raw>,
    events: &[&Event],
    mut last_line: u64,
    crash_after: Option<u64>,
) -> Result<Duration, Failure> {
    let began = Instant::now();
    let mut progress = Progress::new("appended", events.len() as u64);
    let mut acknowledged = 0;
    let mut in_flight = VecDeque::new();
    // A small history must not be under way as a whole, or there would be no middle to be killed in.
    let in_flight_max = (events.len() / 16).min(IN_FLIGHT_MAX);
    let mut unsent = events.iter();
    loop {
        let next = unsent.next();
        if let Some(event) = next {
            // Returns at once; the record is on its way. What was acknowledged by now is noted in it: see `causal_order`.
            let delivery =
                topic.send(event.record().header("after", last_line.to_string())).await.map_err(annals::Error::from)?;
            in_flight.push_back((event.line, delivery));
        }
        // Waits only where too many are under way, or all are sent.
        while let Some((line, delivery)) = in_flight.pop_front() {
            if next.is_some() && in_flight.len() < in_flight_max && delivery.try_receipt().is_none() {
                in_flight.push_front((line, delivery));
                break;
            }
            // The event is on the disk when this returns.
            delivery.await?;
            last_line = line;
            acknowledged += 1;
            progress.at(acknowledged);
            if crash_after == Some(acknowledged) {
                drop(progress);
                eprintln!("{} events are acknowledged: killing the process", grouped(acknowledged));
                std::process::abort();
            }
        }
        if next.is_none() {
            return Ok(began.elapsed());
        }
    }
}

/// What a replay has shown.
struct Replayed<'a> {
    input: &'a Input,
    /// For each event of the input, whether it was there.
    seen: Vec<bool>,
    count: u64,
    last_line: u64,
    last_commit: u64,
    last_line_of_key: HashMap<&'a str, u64>,
    took: Duration,
}

/// Reads the whole history back, over all partitions in causal order, and checks each record as it comes.
async fn replay_and_check<'a>(topic: &Topic<Bytes, Raw>, input: &'a Input) -> Result<Replayed<'a>, Failure> {
    let mut replayed = Replayed {
        input,
        seen: vec![false; input.events.len()],
        count: 0,
        last_line: 0,
        last_commit: 0,
        last_line_of_key: HashMap::new(),
        took: Duration::ZERO,
    };
    let began = Instant::now();
    let mut progress = Progress::new("replayed", input.events.len() as u64);
    let mut history = topic.replay(Start::Earliest);
    while let Some(message) = history.next().await {
        replayed.check(&message?, topic)?;
        progress.at(replayed.count);
    }
    replayed.took = began.elapsed();
    Ok(replayed)
}

impl<'a> Replayed<'a> {
    fn check(&mut self, message: &Message, topic: &Topic<Bytes, Raw>) -> Result<(), Failure> {
        let at = |what: String| {
            Failure::Broken(format!("partition {}, offset {}: {what}", message.partition(), message.offset()))
        };
        let line = number(message, "line").ok_or_else(|| at("no header says which line it is".to_owned()))?;
        let index = self.input.index_of(line).ok_or_else(|| at(format!("{} has no line {line}", self.input.name)))?;
        let event = &self.input.events[index];
        is_the_event(message, event, topic).map_err(|what| {
            at(format!("{what} of line {line} of {} (does the log belong to another input?)", self.input.name))
        })?;
        self.order_per_key(event).map_err(at)?;
        self.causal_order(message).map_err(at)?;
        if std::mem::replace(&mut self.seen[index], true) {
            return Err(at(format!("line {line} is there twice")));
        }
        self.count += 1;
        self.last_line = line;
        Ok(())
    }

    /// Within a key, events come in the order of the input, whatever their times.
    fn order_per_key(&mut self, event: &'a Event) -> Result<(), String> {
        match self.last_line_of_key.insert(&event.key, event.line) {
            Some(before) if before > event.line => {
                Err(format!("line {} comes after line {before} of the same key {:?}", event.line, event.key))
            }
            _ => Ok(()),
        }
    }

    /// Over all partitions, what was acknowledged before an event was sent comes before it. Each record says which line was
    /// the last acknowledged as it was sent; so that line must have come by now. Where the log remembers it is the commit
    /// number, which never goes down.
    fn causal_order(&mut self, message: &Message) -> Result<(), String> {
        let after = number(message, "after").ok_or("no header says after which line it was sent")?;
        if after > 0 && !self.input.index_of(after).is_some_and(|index| self.seen[index]) {
            return Err(format!("it was sent when line {after} was acknowledged, and comes before that"));
        }
        if message.commit() < self.last_commit {
            return Err(format!("commit {} comes after commit {}", message.commit(), self.last_commit));
        }
        self.last_commit = message.commit();
        Ok(())
    }

    fn is_complete(&self) -> Result<(), Failure> {
        match self.seen.iter().position(|seen| !seen) {
            Some(index) => broken(format!("line {} is missing", self.input.events[index].line)),
            None => Ok(()),
        }
    }
}

/// Whether a message is what the input says, byte for byte, and where its key belongs.
fn is_the_event(message: &Message, event: &Event, topic: &Topic<Bytes, Raw>) -> Result<(), &'static str> {
    let key = event.key.as_bytes();
    // annals keeps microseconds.
    let same_time = message.timestamp().timestamp_micros() == event.time.timestamp_micros();
    match () {
        () if message.value() != Some(&event.text) => Err("not the text"),
        () if message.key().map(|key| &key[..]) != Some(key) => Err("not the key"),
        () if message.headers().get_str("type") != Some(&event.kind) => Err("not the type"),
        () if !same_time => Err("not the time"),
        () if message.partition() != topic.partition_for(key) => Err("not the partition"),
        () => Ok(()),
    }
}

fn number(message: &Message, header: &str) -> Option<u64> {
    message.headers().get_str(header)?.parse().ok()
}

/// What there is to tell about a run.
struct Run<'a> {
    input: &'a Input,
    promised: u64,
    found: &'a Replayed<'a>,
    missing: u64,
    append_took: Duration,
    replayed: &'a Replayed<'a>,
}

fn table(run: &Run, recovery: &RecoveryReport, topic: &TopicDescription, crash_after: Option<u64>) -> String {
    let mut rows = Vec::new();
    let keys = run.replayed.last_line_of_key.len() as u64;
    rows.push(("input", run.input.name.clone()));
    rows.push(("events", format!("{} of {} keys{}", grouped(run.replayed.count), grouped(keys), span(run.input))));
    let counts: Vec<String> =
        topic.partitions.iter().map(|partition| grouped(partition.high_watermark - partition.log_start)).collect();
    rows.push(("partitions", format!("{} of {} events", counts.len(), counts.join(" + "))));
    let how = match (recovery.created, recovery.clean) {
        (true, _) => "a new log",
        (_, true) => "closed cleanly before",
        _ => "killed before",
    };
    let took = recovery.took.as_secs_f64() * 1e3;
    rows.push(("opening", format!("{how}, epoch {}, recovered in {took:.1} ms", recovery.epoch)));
    rows.push((
        "",
        format!(
            "{} bytes scanned, {} records adopted, {} commits of the journal, {} unfinished bytes cut off",
            grouped(recovery.scanned_bytes),
            grouped(recovery.adopted_records),
            grouped(recovery.journal_entries),
            grouped(recovery.cut_bytes)
        ),
    ));
    let before = if run.promised > 0 {
        format!(", {} of them acknowledged before the crash", grouped(run.promised))
    } else {
        String::new()
    };
    rows.push(("found", format!("{} events{before}", grouped(run.found.count))));
    rows.push((
        "appended",
        format!("{} events, each on the disk: {}", grouped(run.missing), rate(run.missing, run.append_took)),
    ));
    rows.push((
        "replayed",
        format!(
            "{} events, each checked: {}",
            grouped(run.replayed.count),
            rate(run.replayed.count, run.replayed.took)
        ),
    ));
    rows.push(("complete", "yes: each event of the input once, byte for byte".to_owned()));
    rows.push(("order per key", "holds".to_owned()));
    rows.push(("causal order", "holds over all partitions".to_owned()));
    if let Some(count) = crash_after {
        rows.push((
            "no crash",
            format!("only {} events were left, and --crash-after is {count}", grouped(run.missing)),
        ));
    }
    rows.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
}

/// From when to when, in words.
fn span(input: &Input) -> String {
    let times = || input.events.iter().map(|event| event.time);
    match (times().min(), times().max()) {
        (Some(first), Some(last)) => format!(", {} to {}", first.format("%Y-%m-%d"), last.format("%Y-%m-%d")),
        _ => String::new(),
    }
}
