//! Kafka: a history of events in a log is forwarded to a real Kafka, the forwarding process is killed in the middle of a transaction
//! and goes on by itself, and both sides are compared record by record.
//!
//! `cargo run --release --features kafka --example 8_kafka -- [PATH] [--dir DIR] [--crash-after N]`; `--help` tells the rest.
//!
//! Read it from `forward` on: that is all that a program needs.
#![expect(clippy::disallowed_methods, reason = "an example measures with the real clock")]

#[path = "support/args.rs"]
mod args;
#[path = "support/broker.rs"]
mod broker;
#[path = "support/console.rs"]
mod console;
#[path = "support/ndjson.rs"]
mod ndjson;
#[path = "support/story.rs"]
mod story;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals::mirror::{Mirror, ORIGIN_LOG, ORIGIN_OFFSET, TargetTopics};
use annals::{Header, Log, Message, Raw, Start, TopicDef, TopicSettings};
use args::Args;
use broker::Broker;
use bytes::Bytes;
use console::{Progress, grouped, rate};
use futures_util::StreamExt;
use ndjson::{Event, Input, LINE_BYTES_MAX};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use story::{Failure, broken};

const HELP: &str = "\
Forwards a history of events to a real Kafka through a kill, and compares both sides record by record.

usage: cargo run --release --features kafka --example 8_kafka -- [PATH] [--dir DIR] [--crash-after N]

  PATH             events, one JSON object a line (NDJSON), plain or gzip; without it, a small library's book loans.
                   Each has \"type\" and \"key\" (text) and \"time\" (RFC 3339 with an offset, be it long before 1970),
                   and any other fields
  --dir DIR        the log's directory; made if it is not there. A run imports what DIR lacks and goes on forwarding.
                   Without it: a temporary directory, and the whole story: half of the events are there, a child process
                   forwards them, imports the rest beside that, and is killed in the middle of a transaction; this
                   process then goes on, compares and prints the table.
  --crash-after N  kill the process (abort: nothing is closed or flushed) when it is about to forward one more than N
                   events
  --help           print this

Kafka is the cluster that KAFKA_BOOTSTRAP_SERVERS names (with the other KAFKA_* variables), or else one that the script
tests/kafka/broker starts for this run; that needs Java 17 and Maven.

exit code: 0 if everything holds, 1 if a check fails, 2 if the arguments, the input, the log or Kafka cannot be used
";

const HISTORY: TopicDef<Bytes, Raw> = TopicDef::new("history");
const PARTITIONS: u32 = 4;
/// So many events are imported with one sync.
const CHUNK: usize = 1000;
/// Kafka has so long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    story::tell("8_kafka", HELP, run).await
}

/// With a directory, one run in it; without, the whole story.
async fn run(args: Args) -> Result<String, Failure> {
    let input = Input::read(args.path.as_deref()).map_err(Failure::Unusable)?;
    let broker = Broker::find()?;
    if let Some(dir) = &args.dir {
        let log = Log::open(dir).await?;
        let began = Instant::now();
        let mirror = forward(&log, &broker, args.crash_after)?;
        // What was there before is forwarded; the rest is as it comes.
        mirror.caught_up().await?;
        let imported = import(&log, &input.events).await?;
        return compare(&log, &broker, &input, imported, None, &finish(mirror, began).await?).await;
    }
    let dir = tempfile::tempdir().map_err(|error| Failure::Unusable(format!("no temporary directory: {error}")))?;
    let log = Log::open(dir.path()).await?;
    let half = input.events.len() / 2;
    let mut imported = import(&log, &input.events[..half]).await?;
    log.close().await?;
    drop(log);
    let killed_at = args.crash_after.unwrap_or((half + half / 2) as u64);
    let killed = story::crash_with(&args, dir.path(), killed_at, &broker.variables())?;
    let log = Log::open(dir.path()).await?;
    let began = Instant::now();
    let mirror = forward(&log, &broker, None)?;
    let rest = import(&log, &input.events).await?;
    imported = Imported { count: imported.count + rest.count, took: imported.took + rest.took };
    let forwarded = finish(mirror, began).await?;
    if killed && forwarded.count == 0 {
        return broken("the child was killed in the middle of a transaction, but all of it is in Kafka");
    }
    compare(&log, &broker, &input, imported, killed.then_some(killed_at), &forwarded).await
}

/// Appends the events that are not there yet: those of each partition go in in their order, so what is there is a beginning of each.
async fn import(log: &Log, events: &[Event]) -> Result<Imported, Failure> {
    let settings = TopicSettings::default().partitions(PARTITIONS).record_bytes_max(3 * LINE_BYTES_MAX as u32 + 1024);
    let topic = log.create_topic(HISTORY, settings).await?;
    let mut there = vec![0; PARTITIONS as usize];
    for (partition, count) in there.iter_mut().enumerate() {
        *count = topic.watermarks(partition as u32)?.high_watermark;
    }
    let began = Instant::now();
    let mut progress = Progress::new("imported", events.len() as u64);
    let (mut records, mut count) = (Vec::new(), 0);
    for event in events {
        let left = &mut there[topic.partition_for(event.key.as_bytes()) as usize];
        if *left > 0 {
            *left -= 1;
            continue;
        }
        records.push(event.record());
        count += 1;
        if records.len() == CHUNK {
            topic.produce_batch(std::mem::take(&mut records)).await?;
            progress.at(count);
        }
    }
    topic.produce_batch(records).await?;
    Ok(Imported { count, took: began.elapsed() })
}

struct Imported {
    count: u64,
    took: Duration,
}

/// Begins to forward what Kafka does not have yet, and what comes. If the process is killed meanwhile nothing has to be cleaned up:
/// whoever calls this the next time goes on where Kafka says that it had come to.
fn forward(log: &Log, broker: &Broker, crash_after: Option<u64>) -> Result<Mirror, Failure> {
    let mirror = Mirror::builder(log)
        .topics([HISTORY.name()])
        .to(broker.config.clone())
        .prefix(prefix(log))
        // A cluster deletes what is a week old, and history is older than that.
        .create_topics(TargetTopics::default().config("retention.ms", "-1"))
        .commit_interval(Duration::from_millis(5));
    let Some(crash_after) = crash_after else { return Ok(mirror.spawn()?) };
    let seen = AtomicU64::new(0);
    // It is asked about each record that a transaction is to have next.
    let crash = move |_: &Message| {
        if seen.fetch_add(1, Ordering::Relaxed) == crash_after {
            std::process::abort();
        }
        true
    };
    // Small transactions: many are committed before.
    Ok(mirror.filter(crash).in_flight_bytes_max(64 << 10).spawn()?)
}

/// Waits until all is forwarded.
async fn finish(mirror: Mirror, began: Instant) -> Result<Forwarded, Failure> {
    mirror.caught_up().await?;
    let status = mirror.status();
    mirror.stop().await?;
    Ok(Forwarded { count: status.forwarded, transactions: status.committed, took: began.elapsed() })
}

struct Forwarded {
    count: u64,
    transactions: u64,
    took: Duration,
}

/// Topics of another log do not get mixed up with those of this one.
fn prefix(log: &Log) -> String {
    format!("{}.", log.id())
}

/// Reads each partition on both sides, and compares them record by record.
async fn compare(
    log: &Log,
    broker: &Broker,
    input: &Input,
    imported: Imported,
    killed_at: Option<u64>,
    forwarded: &Forwarded,
) -> Result<String, Failure> {
    let topic = log.topic(HISTORY)?;
    let name = format!("{}{}", prefix(log), HISTORY.name());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &broker.servers)
        .set("group.id", "compare")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .map_err(|error| Failure::Unusable(format!("no consumer: {error}")))?;
    let began = Instant::now();
    let mut progress = Progress::new("compared", input.events.len() as u64);
    let mut counts = Vec::new();
    let mut compared = 0;
    for partition in 0..PARTITIONS {
        let mut here = topic.replay_partition(partition, Start::Earliest);
        let mut from = TopicPartitionList::new();
        let assigned =
            from.add_partition_offset(&name, partition as i32, Offset::Beginning).and_then(|()| consumer.assign(&from));
        assigned.map_err(|error| Failure::Unusable(format!("cannot read {name}: {error}")))?;
        let mut count = 0;
        loop {
            let there = next(&consumer, &name)?;
            let here = here.next().await.transpose()?;
            match (&here, &there) {
                (None, None) => break,
                (Some(here), Some(there)) => is_the_same(log, input, here, there)
                    .or_else(|what| broken(format!("partition {partition}, offset {}: {what}", here.offset())))?,
                (Some(here), None) => {
                    return broken(format!("partition {partition}: offset {} is missing in Kafka", here.offset()));
                }
                (None, Some(there)) => {
                    return broken(format!(
                        "partition {partition}: Kafka has one too many, at its offset {}",
                        there.offset()
                    ));
                }
            }
            count += 1;
            compared += 1;
            progress.at(compared);
        }
        counts.push(count);
    }
    drop(progress);
    if counts.iter().sum::<u64>() != input.events.len() as u64 {
        return broken(format!("the input has {} events, and both sides have {counts:?}", input.events.len()));
    }
    let took = began.elapsed();
    let counts: Vec<String> = counts.into_iter().map(grouped).collect();
    let killed = match killed_at {
        Some(at) => format!("the forwarding process, in a transaction, {} events on its way", grouped(at)),
        None => "nobody".to_owned(),
    };
    let rows = [
        ("input", input.name.clone()),
        ("events", grouped(input.events.len() as u64)),
        ("imported", format!("{} events: {}", grouped(imported.count), rate(imported.count, imported.took))),
        ("Kafka", format!("{}, topic {name}", broker.servers)),
        ("killed", killed),
        (
            "forwarded",
            format!(
                "{} events in {} transactions since: {}",
                grouped(forwarded.count),
                grouped(forwarded.transactions),
                rate(forwarded.count, forwarded.took)
            ),
        ),
        ("compared", format!("{} events, record by record: {}", counts.join(" + "), rate(compared, took))),
        (
            "holds",
            "nothing lost, nothing doubled, each partition in order; keys, values, headers, times intact".to_owned(),
        ),
    ];
    Ok(rows.into_iter().map(|(what, says)| format!("{what:<10} {says}\n")).collect())
}

/// The next record of the partition that was assigned, or `None` at its end.
fn next<'c>(consumer: &'c BaseConsumer, topic: &str) -> Result<Option<BorrowedMessage<'c>>, Failure> {
    match consumer.poll(ANSWER_MAX) {
        Some(Ok(message)) => Ok(Some(message)),
        Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => Ok(None),
        Some(Err(error)) => Err(Failure::Unusable(format!("cannot read {topic}: {error}"))),
        None => Err(Failure::Unusable(format!("{topic}: Kafka has not answered for {ANSWER_MAX:?}"))),
    }
}

/// Whether the record in Kafka is the one in the log, with where it comes from added to it.
fn is_the_same(log: &Log, input: &Input, here: &Message, there: &BorrowedMessage<'_>) -> Result<(), String> {
    let same = |what: &str, is: bool| if is { Ok(()) } else { Err(format!("another {what}")) };
    same("key", there.key() == here.key().map(|key| &key[..]))?;
    same("value", there.payload() == here.value().map(|value| &value[..]))?;
    // Kafka has milliseconds, the log microseconds.
    same("time", there.timestamp().to_millis() == Some(here.timestamp().timestamp_millis()))?;
    let line = here.headers().get_str("line").and_then(|line| line.parse().ok());
    let event = line.and_then(|line| input.index_of(line)).map(|index| &input.events[index]);
    same("event than the input's", event.is_some_and(|event| there.payload() == Some(&event.text)))?;
    let Some(headers) = there.headers() else { return Err("no headers".to_owned()) };
    let mut own = here.headers().iter();
    let mut origin = (None, None);
    for header in headers.iter() {
        match header.key {
            ORIGIN_LOG => origin.0 = header.value,
            ORIGIN_OFFSET => origin.1 = header.value,
            name if name.starts_with("annals.origin.") => {}
            name => {
                let is_next = |own: &Header| own.name() == name && own.value().map(|value| &value[..]) == header.value;
                same("header", own.next().is_some_and(is_next))?;
            }
        }
    }
    same("number of headers", own.next().is_none())?;
    same("log as its origin", origin.0 == Some(log.id().to_string().as_bytes()))?;
    same("offset as its origin", origin.1 == Some(here.offset().to_string().as_bytes()))
}
