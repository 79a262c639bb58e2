//! Groups: while real events go into a partitioned topic, three workers share them, an auditor reads them all as well, and a
//! stage turns each into an outcome, exactly once. Members join, leave and crash on the way, the whole process is killed and
//! started again, and at the end it is proved what must hold.
//!
//! `cargo run --release --example 3_groups -- [PATH] [--dir DIR] [--crash-after N]`; `--help` tells the rest.
//!
//! Read `work` and `member` first: that is the program which consumer groups are for. The rest is what makes it hard for them.
#![expect(clippy::disallowed_methods, reason = "an example measures with the real clock")]

#[path = "support/args.rs"]
mod args;
#[path = "support/console.rs"]
mod console;
#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/ndjson.rs"]
mod ndjson;
#[path = "support/story.rs"]
mod story;
#[path = "support/troupe.rs"]
mod troupe;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use annals::{
    Durability, ErrorKind, GroupDescription, Log, Message, Raw, Rebalance, Record, RecoveryReport, Start, Topic,
};
use annals::{TopicDef, TopicSettings};
use args::Args;
use bytes::Bytes;
use console::{grouped, rate};
use futures_util::StreamExt;
use ledger::{Cases, Ledger, Place};
use ndjson::{Event, Input, LINE_BYTES_MAX};
use story::{Failure, broken};
use tokio::sync::Notify;
use troupe::Troupe;

const HELP: &str = "\
Lets groups of consumers follow a topic while it is written. Members join, leave and crash, the process is killed in between, and
it proves that each group has processed every event, in order, again only where a crash was the cause, that no commit was past
unfinished work, and that the outcomes, written in transactions, are there exactly once.

usage: cargo run --release --example 3_groups -- [PATH] [--dir DIR] [--crash-after N]

  PATH             events, one JSON object a line (NDJSON), plain or gzip; without it, a small library's book loans.
                   Each has \"type\" and \"key\" (text) and \"time\" (RFC 3339 with an offset), and any other fields
  --dir DIR        the log's directory; made if it is not there. A run goes on where the log in DIR ends.
                   Without it: a temporary directory, and the whole story by itself. A child process works until it is
                   killed (SIGKILL) in the middle of a batch; this process then goes on, checks and prints the table
  --crash-after N  kill the process once its workers have processed N events
  --help           print this

exit code: 0 if everything holds, 1 if a check fails, 2 if the arguments, the input or the log cannot be used
";

/// What comes in; each value is an event's line, byte for byte.
const EVENTS: TopicDef<Bytes, Raw> = TopicDef::new("events");
/// What the stage makes of it.
const OUTCOMES: TopicDef<Bytes, Raw> = TopicDef::new("outcomes");
/// What workers and auditor do to the world outside, as far as this program has one: a note of each event that they process. A
/// killed process loses none of it, and so the next one knows what was processed, whatever is committed.
const NOTES: TopicDef<Bytes, Raw> = TopicDef::new("notes");

const PARTITIONS: u32 = 6;
/// A member asks for so many messages at once.
const BATCH: usize = 32;
/// Events may be so many ahead of the slowest group: the groups are to follow the producer, not to read an archive.
const AHEAD_MAX: u64 = 4096;
/// So often a group that commits by itself does.
const AUTO_COMMIT: Duration = Duration::from_millis(20);

/// How a group says what is finished.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ByHand,
    Automatic,
    Transaction,
}

struct Group {
    name: &'static str,
    way: Way,
    ledger: Mutex<Ledger>,
    /// The next member that gets a batch is to crash in the middle of it.
    crash_due: AtomicBool,
    rebalances: AtomicU64,
}

const WORKERS: usize = 0;
const AUDIT: usize = 1;
const STAGE: usize = 2;
const GROUPS: [(&str, Way); 3] = [("workers", Way::ByHand), ("audit", Way::Automatic), ("stage", Way::Transaction)];

impl Group {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken<T>(&self, why: &str) -> Result<T, Failure> {
        broken(format!("group {}: {why}", self.name))
    }
}

/// All that the tasks share.
struct World {
    input: Input,
    cases: Cases,
    log: Log,
    events: Topic<Bytes, Raw>,
    outcomes: Topic<Bytes, Raw>,
    notes: Topic<Bytes, Raw>,
    groups: [Group; 3],
    /// Some group has processed something.
    changed: Notify,
    /// So many events may be there by now: each act is to have some behind it.
    allowed: AtomicU64,
    crash_after: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    story::tell("3_groups", HELP, run).await
}

/// With a directory, one run in it; without, the whole story.
async fn run(args: Args) -> Result<String, Failure> {
    let input = Input::read(args.path.as_deref()).map_err(Failure::Unusable)?;
    if let Some(dir) = &args.dir {
        return run_in(input, dir, args.crash_after).await;
    }
    let dir = tempfile::tempdir().map_err(|error| Failure::Unusable(format!("no temporary directory: {error}")))?;
    let total = input.events.len() as u64;
    let after = args.crash_after.unwrap_or((total * 3 / 4).max(1));
    let mut told = String::new();
    if after <= total {
        if !story::crash(&args, dir.path(), after)? {
            return broken(format!("the child came to its end, and should have been killed at {after}"));
        }
        told = format!("killed         after {} events of the workers\n", grouped(after));
    } else if args.crash_after.is_some() {
        return Err(Failure::Unusable(format!("--crash-after {after}: {} has {total} events", input.name)));
    }
    Ok(told + &run_in(input, dir.path(), None).await?)
}

/// One run: opens the log, finds where everybody is, lets the groups work while the rest is produced, and proves what must hold.
async fn run_in(input: Input, dir: &Path, crash_after: Option<u64>) -> Result<String, Failure> {
    let began = Instant::now();
    let world = Arc::new(World::open(input, dir, crash_after).await?);
    let found = world.survey().await?;
    let missing: Vec<usize> = (0..found.len()).filter(|index| found[*index].is_none()).collect();
    let mut opened = Vec::new();
    for (number, group) in world.groups.iter().enumerate() {
        let mut ledger = world.recall(number, &found).await?;
        // What comes again in this run is counted by itself.
        ledger.redelivered = 0;
        opened.push(format!("{} {} ({} open)", group.name, grouped(ledger.processed), grouped(ledger.at_risk())));
        *group.ledger() = ledger;
    }
    let already: Vec<u64> = world.groups.iter().map(|group| group.ledger().processed).collect();
    let mut troupe = Troupe::new(Arc::clone(&world));
    let (produced, working) = (missing.len() as u64, Instant::now());
    troupe.perform(missing).await?;
    let worked = working.elapsed();
    let table = troupe.table(&already).await?;
    troupe.disperse().await?;
    let again = world.prove().await?;
    let recovery = world.log.recovery().clone();
    world.log.close().await?;
    if let Some(damage) = recovery.damage.first() {
        return broken(damage.to_string());
    }
    let total = world.input.events.len() as u64;
    let rows = [
        ("input", world.input.name.clone()),
        ("events", format!("{} of {} keys in {PARTITIONS} partitions", grouped(total), grouped(world.cases.keys()))),
        ("opening", opening(&recovery)),
        ("found", format!("{} events; processed by {}", grouped(total - produced), opened.join(", "))),
        ("produced", format!("{} events while the groups followed: {}", grouped(produced), rate(produced, worked))),
        ("every event", "processed by workers and audit".to_owned()),
        ("redelivered", format!("{} over all runs, each after a crash", grouped(again))),
        ("order per key", "holds in each group, and among the outcomes".to_owned()),
        ("commits", format!("none past unfinished work, looked at {} times", grouped(troupe.looks))),
        ("exactly once", format!("{} outcomes of {} events", grouped(total), grouped(total))),
        ("took", format!("{:.2} s", began.elapsed().as_secs_f64())),
    ];
    let rows: String = rows.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect();
    Ok(format!("{rows}\n{table}"))
}

fn opening(recovery: &RecoveryReport) -> String {
    let how = match (recovery.created, recovery.clean) {
        (true, _) => "a new log",
        (_, true) => "closed cleanly before",
        _ => "killed before",
    };
    format!("{how}, epoch {}, recovered in {:.1} ms", recovery.epoch, recovery.took.as_secs_f64() * 1e3)
}

/// A member of a group, until it is told to leave: asks for messages, works on them, and says that they are finished.
/// Answers whether it has left; or it has crashed.
async fn member(world: Arc<World>, group: usize, name: String, leave: Arc<Notify>) -> Result<bool, Failure> {
    let of = Arc::clone(&world);
    let subscription = world.events.subscribe(GROUPS[group].0).member(name).on_rebalance(move |what| match what {
        Rebalance::Assigned(_) | Rebalance::Revoked(_) | Rebalance::Lost(_) => {
            of.groups[group].rebalances.fetch_add(1, Ordering::Relaxed);
        }
        _ => {}
    });
    // Nothing that is asked for here takes so long; what is late on a busy machine need not be taken away.
    let subscription = subscription.revoke_timeout(Duration::from_secs(120));
    let group = &world.groups[group];
    let mut consumer = match group.way {
        Way::Automatic => subscription.auto_commit(AUTO_COMMIT).build().await?,
        Way::ByHand | Way::Transaction => subscription.build().await?,
    };
    loop {
        let mut batch = tokio::select! {
            () = leave.notified() => break,
            batch = consumer.recv_batch(BATCH) => batch?,
        };
        let crashes = group.crash_due.swap(false, Ordering::Relaxed);
        if crashes {
            batch.truncate(batch.len().div_ceil(2));
        }
        if group.way == Way::Transaction {
            let mut tx = world.log.transaction();
            for message in &batch {
                let place = world.place(message)?;
                tx.produce(&world.outcomes, outcome(&world.input.events[place.index], place))?;
                tx.commit_offset(&consumer, message)?;
            }
            // A crash with the transaction open: it leaves no trace.
            if !crashes {
                world.note(group, &batch)?;
                tx.commit().await?;
            }
        } else {
            world.work(group, &batch).await?;
            if group.way == Way::ByHand && !crashes {
                consumer.commit_many(&batch).await?;
            }
        }
        world.changed.notify_waiters();
        if crashes {
            if group.way != Way::Transaction {
                group.ledger().left_open(batch.iter().map(|message| (message.partition(), message.offset())));
            }
            // As if its thread had died: nothing is finished, nothing is said.
            drop(consumer);
            return Ok(false);
        }
    }
    consumer.close().await?;
    Ok(true)
}

/// What the stage makes of an event, in words. It begins with where the event is.
fn outcome(event: &Event, place: Place) -> Record<Bytes> {
    let text = format!("{} {} bytes of {}", words(event, place), event.text.len(), event.time);
    Record::new(text.into()).key(&event.key)
}

fn words(event: &Event, place: Place) -> String {
    format!("{} {} {}", event.line, place.partition, place.offset)
}

impl World {
    async fn open(input: Input, dir: &Path, crash_after: Option<u64>) -> Result<Self, Failure> {
        let log = Log::open(dir).await?;
        let settings = || TopicSettings::default().record_bytes_max(3 * LINE_BYTES_MAX as u32 + 1024);
        let events = log.create_topic(EVENTS, settings().partitions(PARTITIONS)).await?;
        let outcomes = log.create_topic(OUTCOMES, settings().partitions(2)).await?;
        let notes = log.create_topic(NOTES, settings().partitions(2).durability(Durability::Os)).await?;
        let cases = Cases::of(&input);
        let groups = GROUPS.map(|(name, way)| Group {
            name,
            way,
            ledger: Mutex::new(Ledger::new(&cases, PARTITIONS)),
            crash_due: AtomicBool::new(false),
            rebalances: AtomicU64::new(0),
        });
        Ok(Self {
            input,
            cases,
            log,
            events,
            outcomes,
            notes,
            groups,
            changed: Notify::new(),
            allowed: AtomicU64::new(0),
            crash_after,
        })
    }

    /// Which event a message is: it must be what the input says, byte for byte.
    fn place(&self, message: &Message) -> Result<Place, Failure> {
        let (partition, offset) = (message.partition(), message.offset());
        let line = message.headers().get_str("line").and_then(|line| line.parse().ok());
        match line.and_then(|line| self.input.index_of(line)) {
            Some(index) if message.value() == Some(&self.input.events[index].text) => {
                Ok(Place { index, partition, offset })
            }
            _ => broken(format!(
                "partition {partition}, offset {offset} is no event of {} (does the log belong to another input?)",
                self.input.name
            )),
        }
    }

    fn note(&self, group: &Group, messages: &[Message]) -> Result<(), Failure> {
        for message in messages {
            let place = self.place(message)?;
            group.ledger().note(&self.cases, place).or_else(|why| group.broken(&why))?;
        }
        Ok(())
    }

    /// What workers and auditor are there for. Here: a note of each event, which is out in the world when this returns.
    async fn work(&self, group: &Group, messages: &[Message]) -> Result<(), Failure> {
        let mut under_way = Vec::with_capacity(messages.len());
        let book = if group.way == Way::ByHand { WORKERS } else { AUDIT };
        for message in messages {
            self.note(group, std::slice::from_ref(message))?;
            let place = self.place(message)?;
            let note = Record::new(words(&self.input.events[place.index], place).into()).partition(book as u32);
            under_way.push(self.notes.send(note).await.map_err(annals::Error::from)?);
            if book == WORKERS {
                self.maybe_die();
            }
        }
        for note in under_way {
            note.await?;
        }
        Ok(())
    }

    /// The whole process dies if it is time to: for good, in the middle of a batch, with everything else under way.
    fn maybe_die(&self) {
        static PROCESSED: AtomicU64 = AtomicU64::new(0);
        let processed = PROCESSED.fetch_add(1, Ordering::Relaxed) + 1;
        if self.crash_after == Some(processed) {
            eprintln!("the workers have processed {} events: killing the process", grouped(processed));
            // This member waits for it, so that nothing comes to its end before.
            let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", std::process::id())]).status();
            std::process::abort();
        }
    }

    /// Where each event of the input is, which must be nowhere or in one place.
    async fn survey(&self) -> Result<Vec<Option<Place>>, Failure> {
        let mut places = vec![None; self.input.events.len()];
        let mut history = self.events.replay(Start::Earliest);
        while let Some(message) = history.next().await {
            let place = self.place(&message?)?;
            if let Some(before) = places[place.index].replace(place) {
                return broken(format!("one event is there twice, at {before:?} and at {place:?}"));
            }
        }
        Ok(places)
    }

    /// What a group has processed so far, from what it has left in the log, and that this goes with what it has committed.
    async fn recall(&self, group: usize, places: &[Option<Place>]) -> Result<Ledger, Failure> {
        let mut ledger = Ledger::new(&self.cases, PARTITIONS);
        let of = &self.groups[group];
        let mut history = match of.way {
            Way::Transaction => self.outcomes.replay(Start::Earliest),
            _ => self.notes.replay_partition(group as u32, Start::Earliest),
        };
        while let Some(message) = history.next().await {
            let message = message?;
            let value = message.value().map(|value| String::from_utf8_lossy(value)).unwrap_or_default();
            let line = value.split(' ').next().and_then(|line| line.parse().ok());
            let index = line.and_then(|line| self.input.index_of(line));
            let Some(place) = index.and_then(|index| places[index]) else {
                return of.broken(&format!("{value:?} is about no event that is there"));
            };
            let event = &self.input.events[place.index];
            let expected = match of.way {
                Way::Transaction => outcome(event, place),
                _ => Record::new(words(event, place).into()),
            };
            let wrong_key = of.way == Way::Transaction && message.key().is_none_or(|key| *key != *event.key.as_bytes());
            if wrong_key || expected.value.as_ref() != message.value() {
                return of.broken(&format!("{value:?} is not what becomes of line {}", event.line));
            }
            let again = ledger.recall(&self.cases, place).or_else(|why| of.broken(&why))?;
            if again && of.way == Way::Transaction {
                return of.broken(&format!("line {} has two outcomes", event.line));
            }
        }
        let committed = self.committed(of).await?;
        ledger.reopened(&committed).or_else(|why| of.broken(&why))?;
        if of.way == Way::Transaction && ledger.at_risk() > 0 {
            return of.broken("there are outcomes of events that are not committed");
        }
        Ok(ledger)
    }

    /// A group as the log has it, or nothing where nobody was ever in it.
    async fn described(&self, group: &Group) -> Result<Option<GroupDescription>, Failure> {
        match self.log.describe_group(group.name).await {
            Ok(described) => Ok(Some(described)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// For each partition of the events, up to where a group has committed.
    async fn committed(&self, group: &Group) -> Result<Vec<u64>, Failure> {
        let mut committed = vec![0; PARTITIONS as usize];
        let described = self.described(group).await?;
        described.iter().flat_map(|described| &described.partitions).for_each(|partition| {
            committed[partition.partition.partition as usize] = partition.committed.unwrap_or(0);
        });
        Ok(committed)
    }

    /// Reads all of it again, with the groups gone, and checks it against the input. Answers how often events came again.
    async fn prove(&self) -> Result<u64, Failure> {
        let places = self.survey().await?;
        if let Some(index) = places.iter().position(Option::is_none) {
            return broken(format!("the event in line {} is not there", self.input.events[index].line));
        }
        let mut again = 0;
        for (number, group) in self.groups.iter().enumerate() {
            let ledger = self.recall(number, &places).await?;
            if ledger.processed != places.len() as u64 || ledger.next() != group.ledger().next() {
                return group.broken(&format!("it has processed {} of {} events", ledger.processed, places.len()));
            }
            if ledger.at_risk() + group.ledger().at_risk() > 0 {
                return group.broken("what a crash has left open did not come again");
            }
            again += ledger.redelivered;
        }
        Ok(again)
    }
}
