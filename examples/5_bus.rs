//! The bus: real events are published by type, and five handlers follow. One fails now and then, one is slow, one panics, one answers
//! each event with another, exactly once, and a saga drives each case and takes its steps back where it must. The process is killed
//! twice and started again, and at the end it is proved what must hold.
//!
//! `cargo run --release --example 5_bus -- [PATH] [--dir DIR] [--crash-after N]`; `--help` tells the rest.
//!
//! Read `subscribe` and `saga` first: that is the program which a bus is for. The rest is what makes it hard for it.
#![expect(clippy::disallowed_methods, reason = "an example measures with the real clock")]

#[path = "support/args.rs"]
mod args;
#[path = "support/console.rs"]
mod console;
#[path = "support/ndjson.rs"]
mod ndjson;
#[path = "support/notes.rs"]
mod notes;
#[path = "support/plan.rs"]
mod plan;
#[path = "support/proof.rs"]
mod proof;
#[path = "support/story.rs"]
mod story;
#[path = "support/trace.rs"]
mod trace;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals::{
    Bus, BusSettings, Context, Durability, ErrorKind, Event, Filter, HandlerError, Json, Log, Message, On, Projection,
    Raw, Receipt, Record, RecoveryReport, Retry, Router, Saga, Start, Step, Subscription, Topic, TopicDef,
    TopicSettings, UnknownType,
};
use args::Args;
use bytes::Bytes;
use console::{Progress, grouped, rate};
use futures_util::StreamExt;
use ndjson::{Input, LINE_BYTES_MAX};
use plan::{Plan, Role, Verdict};
use serde::{Deserialize, Serialize};
use story::{Failure, broken};
use tokio::time::{sleep, timeout};

const HELP: &str = "\
Publishes events by type on a bus, and lets handlers follow that fail, dawdle and panic, while the process is killed twice. What
becomes of each event is planned, by chance that is the same each time; and so it proves that nothing is lost: each event is done or
a dead letter, in the order of its key through all retries; that the dead letters are the planned ones; that each event was answered
exactly once; that the saga of each case took its steps back, the last one first, where it was to; and that a projection of the
open cases is what the input says.

usage: cargo run --release --example 5_bus -- [PATH] [--dir DIR] [--crash-after N]

  PATH             events, one JSON object a line (NDJSON), plain or gzip; without it, a small library's book loans.
                   Each has \"type\" and \"key\" (text) and \"time\" (RFC 3339 with an offset), and any other fields
  --dir DIR        the log's directory; made if it is not there. A run goes on where the log in DIR ends, with the same PATH.
                   Without it: a temporary directory, and the whole story by itself. Child processes work until they are
                   killed (SIGKILL) in the middle of a handler; this process then goes on, checks and prints the table
  --crash-after N  kill the process in the middle of the attempt of this number, of all handlers
  --help           print this

the groups, one row of the table each:

  shaky     fails once or twice at some events, and for good at others: retries, and dead letters in shaky.dlq
  slow      takes its time, at up to eight events at once, and never at two of one key
  panicky   panics at some events, at a few of them every time: dead letters in panicky.dlq
  stage     answers each event with another, by Context::publish; what a failed attempt has published is never seen
  saga      takes a step for each event of a case, and takes all of them back where a case cannot go on

exit code: 0 if everything holds, 1 if a check fails, 2 if the arguments, the input or the log cannot be used
";

/// What comes in; each value is an event's line, byte for byte.
const EVENTS: TopicDef<Bytes, Raw> = TopicDef::new("events");
/// What the stage answers.
const ANSWERS: TopicDef<String, Json> = TopicDef::new("answers");
/// What the sagas do, and take back.
const STEPS: TopicDef<String, Json> = TopicDef::new("steps");
/// What the clerk writes about steps that were taken back.
const APOLOGIES: TopicDef<String, Json> = TopicDef::new("apologies");
/// What the handlers do to the world outside, as far as this program has one: a note of each attempt. Nothing takes a note back: it
/// is there at least once for each attempt that had an effect, and not exactly once.
const NOTES: TopicDef<String, Json> = TopicDef::new("notes");

const GROUPS: [&str; 5] = ["shaky", "slow", "panicky", "stage", "saga"];
const SHAKY: usize = 0;
const SLOW: usize = 1;
const PANICKY: usize = 2;
const STAGE: usize = 3;
const SAGA: usize = 4;

const PARTITIONS: u32 = 4;
const ATTEMPTS: u32 = 4;
/// So many events are published as one, or fewer with so many bytes.
const BATCH: usize = 8;
const BATCH_BYTES: usize = LINE_BYTES_MAX;
/// Events may be so many ahead of the slowest group: the handlers are to follow the publisher, not to read an archive.
const AHEAD_MAX: u64 = 64;
/// A story in which nothing happens for so long has come to a halt.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a panic that is planned says first. Nobody needs to see where it was.
const PLANNED: &str = "as planned: ";

/// The state of a saga.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Taken {
    steps: u64,
}

/// All that the handlers share.
struct World {
    input: Input,
    plan: Plan,
    log: Log,
    bus: Bus,
    notes: Topic<String, Json>,
    /// Which run of the program in this log.
    run: u64,
    attempts: AtomicU64,
    crash_after: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload_as_str().is_some_and(|said| said.starts_with(PLANNED)) {
            usual(panic);
        }
    }));
    story::tell("5_bus", HELP, run).await
}

/// With a directory, one run in it; without, the whole story.
async fn run(args: Args) -> Result<String, Failure> {
    let input = Input::read(args.path.as_deref()).map_err(Failure::Unusable)?;
    let plan = Plan::of(&input);
    if let Some(dir) = &args.dir {
        return run_in(input, plan, dir, args.crash_after).await;
    }
    let dir = tempfile::tempdir().map_err(|error| Failure::Unusable(format!("no temporary directory: {error}")))?;
    let total = plan.attempts_in_all();
    if let Some(after) = args.crash_after.filter(|after| *after > total) {
        return Err(Failure::Unusable(format!("--crash-after {after}: {} makes for {total} attempts", input.name)));
    }
    let after = args.crash_after.unwrap_or((total / 3).max(1));
    // What a killed process has not done is left for the next: there is enough for both, or for one.
    let kills = (total / after).min(2);
    let mut told = String::new();
    for _ in 0..kills {
        if !story::crash(&args, dir.path(), after)? {
            return broken(format!("the child came to its end, and should have been killed in attempt {after}"));
        }
        told += &format!("killed         in attempt {} of the handlers\n", grouped(after));
    }
    Ok(told + &run_in(input, plan, dir.path(), None).await?)
}

/// One run: opens the log, lets the handlers follow while the rest is published, and proves what must hold.
async fn run_in(input: Input, plan: Plan, dir: &Path, crash_after: Option<u64>) -> Result<String, Failure> {
    let began = Instant::now();
    let world = Arc::new(World::open(input, plan, dir, crash_after).await?);
    let there = world.survey().await?;
    let open_cases = projection(&world).await?;
    let mut subscriptions = Vec::new();
    for group in 0..GROUPS.len() {
        subscriptions.push(subscribe(&world, group).spawn().await?);
    }
    // It follows what the sagas publish, and so it comes last.
    subscriptions.push(clerk(&world.bus).spawn().await?);
    let working = Instant::now();
    let last = world.publish(there, &subscriptions).await?;
    for subscription in &subscriptions {
        world.until_idle(subscription).await?;
    }
    match last {
        // What was published has been taken in.
        Some(last) => open_cases.wait_for(&last).await?,
        None => open_cases.ready().await?,
    }
    let worked = working.elapsed();
    // What is done is noted in the log by and by, and now at the latest.
    world.bus.shutdown().await?;
    let proof = world.prove(&open_cases).await?;
    let (traced, (tree, size)) = world.trace().await?;
    open_cases.close().await;
    let recovery = world.log.recovery().clone();
    world.log.close().await?;
    if let Some(damage) = recovery.damage.first() {
        return broken(damage.to_string());
    }
    let (total, cases) = (world.input.events.len(), &world.plan.cases);
    let published = (total - there) as u64;
    let head = [
        ("input", world.input.name.clone()),
        (
            "events",
            format!("{} of {} cases in {PARTITIONS} partitions", grouped(total as u64), grouped(cases.len() as u64)),
        ),
        ("opening", opening(&recovery)),
        ("found", format!("{} events", grouped(there as u64))),
        (
            "published",
            format!("{} events while the handlers followed: {}", grouped(published), rate(published, worked)),
        ),
    ];
    let took = [("took", format!("{:.2} s", began.elapsed().as_secs_f64()))];
    let rows = head.into_iter().chain(proof.rows).chain(took);
    let rows: String = rows.map(|(name, value)| format!("{name:<14} {value}\n")).collect();
    let story = if size == 0 {
        String::new()
    } else {
        format!("\nall {size} events of {traced}, each below its cause:\n{tree}")
    };
    Ok(format!("{rows}\n{}{story}", proof.table))
}

fn opening(recovery: &RecoveryReport) -> String {
    let how = match (recovery.created, recovery.clean) {
        (true, _) => "a new log",
        (_, true) => "closed cleanly before",
        _ => "killed before",
    };
    format!("{how}, epoch {}, recovered in {:.1} ms", recovery.epoch, recovery.took.as_secs_f64() * 1e3)
}

/// The subscription of a group, with what it needs: nothing else in the program knows about retries and dead letters.
fn subscribe(world: &Arc<World>, group: usize) -> On {
    let of = Arc::clone(world);
    let handler = move |event: Event<Bytes>, cx: Context| {
        let world = Arc::clone(&of);
        async move { world.handle(group, &event, &cx).await }
    };
    let on = match group {
        STAGE => {
            // A handler for each type; here all of them do the same.
            let mut kinds: Vec<&str> = world.input.events.iter().map(|event| event.kind.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let router = Router::new(UnknownType::DeadLetter);
            let router = kinds.into_iter().fold(router, |router, kind| router.on(kind, Raw, handler.clone()));
            world.bus.on(EVENTS, GROUPS[group], router)
        }
        SAGA => saga(world),
        _ => world.bus.on(EVENTS, GROUPS[group], handler),
    };
    on.concurrency(if group == PANICKY { 1 } else { 8 })
        .retry(Retry::exponential(ATTEMPTS).base(Duration::from_millis(3)))
        .dead_letter(format!("{}.dlq", GROUPS[group]))
}

/// The sagas: one for each case, which begins with its first event.
fn saga(world: &Arc<World>) -> On {
    let (of, by) = (Arc::clone(world), Arc::clone(world));
    let saga = Saga::new(GROUPS[SAGA]).by(move |message| {
        let index = by.index(message).ok().filter(|index| by.plan.concerns(SAGA, *index))?;
        Some(by.input.events[index].key.clone())
    });
    world.bus.saga(EVENTS, saga, move |event: Event<Bytes>, mut step: Step<Taken>| {
        let world = Arc::clone(&of);
        async move {
            let index = world.index(&event)?;
            let (case, nth) = world.plan.place(index);
            if step.state().steps != nth || step.is_new() != (nth == 0) {
                let why = format!("the saga has taken {} steps, and event {nth} has come", step.state().steps);
                return Err(HandlerError::permanent(why));
            }
            let (key, line) = (&world.plan.cases[case].key, world.input.events[index].line);
            let effect = |what: &str| {
                Record::new(format!("{what} {line}"))
                    .key(key.as_str())
                    .event_type(format!("step.{}", what.replace(' ', "-")))
            };
            match world.plan.role(index) {
                Role::Fail => step.fail(),
                Role::Last => {
                    step.publish(STEPS, effect("taken")).await?;
                    step.complete();
                }
                Role::Step | Role::None => {
                    step.publish(STEPS, effect("taken")).await?;
                    step.compensate_with(&STEPS, effect("taken back"))?;
                    step.state_mut().steps += 1;
                }
            }
            // It may fail with all of this done: nothing of it is there then.
            world.end(SAGA, index, step.context().attempt()).await?;
            Ok(step)
        }
    })
}

/// Whoever answers what was published in answer: it makes the trees a level deeper.
fn clerk(bus: &Bus) -> On {
    let apologise = |step: Event<String>, cx: Context| async move {
        let step = step.value().map_or("", String::as_str);
        cx.publish(APOLOGIES, Record::new(format!("sorry: {step}")).event_type("apology.written")).await
    };
    bus.on(STEPS, "clerk", apologise).filter(Filter::event_type("step.taken-back"))
}

/// Which cases are open, and how many events of each type there were.
async fn projection(world: &World) -> Result<Projection, Failure> {
    let closing = world.plan.closing.clone();
    let projection = world.log.projection("open-cases", 1).on_raw(EVENTS.name(), move |state, event| {
        let kind = event.event_type().unwrap_or("").to_owned();
        let case = [&b"case "[..], event.key().map_or(&[], |key| &key[..])].concat();
        if kind == closing {
            state.remove(&case);
        } else {
            state.put(&case, &kind)?;
        }
        state.update(format!("type {kind}"), |count: &mut u64| *count += 1)?;
        Ok(())
    });
    Ok(projection.spawn().await?)
}

impl World {
    async fn open(input: Input, plan: Plan, dir: &Path, crash_after: Option<u64>) -> Result<Self, Failure> {
        let log = Log::open(dir).await?;
        // All topics that the bus makes are found by correlation id: answers, steps and dead letters, too.
        let settings = TopicSettings::default()
            .partitions(PARTITIONS)
            .record_bytes_max(3 * LINE_BYTES_MAX as u32 + 8192)
            .indexed_headers(["correlation_id"]);
        let bus = log.bus_with(BusSettings::default().source("library").topic_defaults(settings.clone()))?;
        log.create_topic(EVENTS, settings).await?;
        let notes = TopicSettings::default().partitions(GROUPS.len() as u32).durability(Durability::Os);
        let notes = log.create_topic(NOTES, notes).await?;
        let run = log.recovery().epoch;
        Ok(Self { input, plan, log, bus, notes, run, attempts: AtomicU64::new(0), crash_after })
    }

    /// Which event a message is: it must be what the input says, byte for byte.
    fn index(&self, message: &Message) -> Result<usize, HandlerError> {
        let line = message.headers().get_str("line").and_then(|line| line.parse().ok());
        match line.and_then(|line| self.input.index_of(line)) {
            Some(index) if message.value() == Some(&self.input.events[index].text) => Ok(index),
            _ => Err(HandlerError::permanent(format!(
                "topic {}, partition {}, offset {} is no event of {} (does the log belong to another input?)",
                message.topic(),
                message.partition(),
                message.offset(),
                self.input.name
            ))),
        }
    }

    /// What each group is there for.
    async fn handle(&self, group: usize, event: &Event<Bytes>, cx: &Context) -> Result<(), HandlerError> {
        let index = self.index(event)?;
        if group == STAGE {
            // It is not there unless this attempt succeeds.
            let answer = Record::new(self.answer(index)).key(&self.input.events[index].key);
            cx.publish(ANSWERS, answer.event_type("answer.given")).await?;
        } else if group == SLOW && index.is_multiple_of(4) {
            sleep(Duration::from_millis(3)).await;
        }
        self.end(group, index, cx.attempt()).await
    }

    fn answer(&self, index: usize) -> String {
        let event = &self.input.events[index];
        format!("{} has {} bytes of {}", event.line, event.text.len(), event.time)
    }

    /// Ends an attempt in the way that is planned, and notes it outside.
    async fn end(&self, group: usize, index: usize, attempt: u32) -> Result<(), HandlerError> {
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        if self.crash_after.is_some_and(|last| number > last) {
            // The process is about to be killed, and does no more.
            std::future::pending::<()>().await;
        }
        let verdict = self.plan.verdict(group, index, attempt);
        let line = self.input.events[index].line;
        let note = format!("{} {line} {attempt} {}", self.run, verdict.word());
        self.notes.produce(Record::new(note).partition(group as u32)).await?;
        if self.crash_after == Some(number) {
            // The effect is out in the world, and that the event is done is not in the log yet.
            eprintln!("{} at line {line}, attempt {} of all: killing the process", GROUPS[group], grouped(number));
            let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", std::process::id())]).status();
            std::process::abort();
        }
        match verdict {
            Verdict::Done => Ok(()),
            Verdict::Failed => Err(format!("{PLANNED}attempt {attempt} at line {line} fails").into()),
            Verdict::Refused => Err(HandlerError::permanent(format!("{PLANNED}line {line} will never do"))),
            Verdict::Panicked => panic!("{PLANNED}attempt {attempt} at line {line} panics"),
        }
    }

    /// How many events of the input are there: they are published in its order, and so these are its first.
    async fn survey(&self) -> Result<usize, Failure> {
        let mut found = vec![false; self.input.events.len()];
        let mut history = self.log.topic(EVENTS)?.replay(Start::Earliest);
        while let Some(message) = history.next().await {
            let index = self.index(&message?).or_else(|why| broken(why.to_string()))?;
            if std::mem::replace(&mut found[index], true) {
                return broken(format!("the event in line {} is there twice", self.input.events[index].line));
            }
        }
        let there = found.iter().take_while(|found| **found).count();
        match found[there..].contains(&true) {
            true => {
                broken(format!("the event in line {} is not there, and a later one is", self.input.events[there].line))
            }
            false => Ok(there),
        }
    }

    /// Publishes the events that are not there yet, never far ahead of the slowest group.
    async fn publish(&self, there: usize, subscriptions: &[Subscription]) -> Result<Option<Receipt>, Failure> {
        let mut progress = Progress::new("published", self.input.events.len() as u64);
        let ahead = (self.input.events.len() as u64 / 16).min(AHEAD_MAX);
        let (mut last, mut next) = (None, there);
        while let Some(first) = self.input.events.get(next) {
            let (mut end, mut bytes) = (next + 1, first.text.len());
            while let Some(more) = self.input.events.get(end).filter(|_| end - next < BATCH) {
                bytes += more.text.len();
                if bytes > BATCH_BYTES {
                    break;
                }
                end += 1;
            }
            let records = self.input.events[next..end].iter().map(|event| {
                let record = event.record().event_type(&event.kind).correlation_id(&event.key);
                record.id(format!("line-{}", event.line))
            });
            let receipts = self.bus.publish_batch(EVENTS, records).await?;
            last = receipts.into_iter().max_by_key(|receipt| receipt.commit).or(last);
            next = end;
            progress.at(next as u64);
            while self.slowest_behind().await? > ahead {
                for ended in subscriptions.iter().filter(|subscription| subscription.is_stopped()) {
                    ended.stopped().await?;
                }
                sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(last)
    }

    async fn slowest_behind(&self) -> Result<u64, Failure> {
        let mut most = 0;
        for group in GROUPS {
            most = self.behind(group).await?.max(most);
        }
        Ok(most)
    }

    /// How many events a group has still to do.
    async fn behind(&self, group: &str) -> Result<u64, Failure> {
        let lag = match self.bus.lag(group).await {
            // Nobody is in it, and nobody has ever finished anything.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(self.input.events.len() as u64),
            lag => lag?,
        };
        Ok(lag.iter().filter(|lag| lag.partition.topic == EVENTS.name()).map(|lag| lag.lag_records).sum())
    }

    /// Waits until a subscription has nothing to do, as long as anybody does anything.
    async fn until_idle(&self, subscription: &Subscription) -> Result<(), Failure> {
        loop {
            let before = self.attempts.load(Ordering::Relaxed);
            match timeout(PATIENCE, subscription.idle()).await {
                Ok(idle) => return Ok(idle?),
                Err(_) if self.attempts.load(Ordering::Relaxed) == before => {
                    return broken(format!("group {} does nothing and has not done everything", subscription.group()));
                }
                Err(_) => {}
            }
        }
    }
}
