//! `produce`.

use annals::{Log, Raw, Record, Topic};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::args::Cli;
use crate::clock::now;
use crate::commands::batches::{BATCH_RECORDS, Batches};
use crate::failure::{Failure, Outcome};
use crate::filter::{EVENT_TYPE, HeaderFilter};
use crate::lines::{Line, Lines};
use crate::open::{open_for_writing, topic};
use crate::output::Output;
use crate::start::Moment;
use crate::units::grouped;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A record is acknowledged at the topic's durability: by default it is on the disk when its place is shown. Without a VALUE each line of
standard input is a record.

Examples:
  annals -d data produce orders '{\"paid\":17}' --key order-17 --type order.paid
  generate | annals -d data produce clicks --key-separator :")]
pub(crate) struct ProduceArgs {
    /// The name of the topic
    topic: String,
    /// The value; without one, each line of standard input
    #[arg(conflicts_with = "tombstone")]
    value: Option<String>,
    /// Write a record without a value: a deletion of its key
    #[arg(long, requires = "key")]
    tombstone: bool,
    /// The key, which chooses the partition
    #[arg(short, long, conflicts_with = "key_separator")]
    key: Option<String>,
    /// What stands in each line between the key and the value
    #[arg(long, value_name = "TEXT", conflicts_with = "value", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// A header; may be repeated. NAME alone is a header without a value
    #[arg(long = "header", value_name = "NAME[=VALUE]")]
    headers: Vec<HeaderFilter>,
    /// The value of the header `event_type`
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// The time of the record, such as 2026-01-31T12:00:00Z, or 2h for two hours ago; by default now
    #[arg(long)]
    time: Option<Moment>,
    /// The partition, whatever the key
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
}

pub(crate) fn run(cli: &Cli, args: &ProduceArgs) -> Outcome {
    let log = open_for_writing(cli)?;
    let topic = topic(&log, &args.topic)?;
    let mut out = Output::new(cli.color);
    let time = args.time.map(|time| time.resolve(now()));
    let written = if args.value.is_some() || args.tombstone {
        one(&mut out, &topic, args, time)
    } else {
        lines(&mut out, &log, &topic, args, time)
    };
    let closed = log.blocking_close();
    written?;
    closed?;
    out.flush()
}

fn one(out: &mut Output, topic: &Topic<Bytes, Raw>, args: &ProduceArgs, time: Option<DateTime<Utc>>) -> Outcome {
    let value = args.value.as_ref().map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let receipt = topic.blocking_produce(record(args, value, args.key.clone().map(Bytes::from), time))?;
    let (partition, offset, commit) = (receipt.partition, receipt.offset, receipt.commit);
    out.line(format!("{}/{partition}@{offset} commit {commit}, {}", args.topic, receipt.durability))
}

/// A record for each line.
fn lines(
    out: &mut Output,
    log: &Log,
    topic: &Topic<Bytes, Raw>,
    args: &ProduceArgs,
    time: Option<DateTime<Utc>>,
) -> Outcome {
    let lines = Lines::open(None)?;
    let mut batches = Batches::new(log, topic, BATCH_RECORDS);
    let mut take = || -> Outcome {
        while let Some(first) = lines.next()? {
            let mut next = Some(first);
            while let Some(line) = next {
                let number = line.number;
                let added = batches.add(from_line(args, line, time)?);
                added.map_err(|error| Failure::from(error).about(&format!("line {number} of standard input")))?;
                next = if batches.is_full() { None } else { lines.try_next()? };
            }
            batches.commit()?;
        }
        Ok(())
    };
    let taken = take();
    // What came before a line that cannot be taken is written.
    let committed = batches.commit();
    let written = grouped(batches.written);
    taken.map_err(|failure| failure.about(&format!("after {written} records that are written")))?;
    committed?;
    out.line(format!("{written} records are written to {}", args.topic))
}

fn from_line(args: &ProduceArgs, line: Line, time: Option<DateTime<Utc>>) -> Outcome<Record<Bytes>> {
    let Line { number, bytes } = line;
    let line = Bytes::from(bytes);
    let Some(separator) = &args.key_separator else {
        return Ok(record(args, Some(line), args.key.clone().map(Bytes::from), time));
    };
    let separator = separator.as_bytes();
    let at = line
        .windows(separator.len())
        .position(|window| window == separator)
        .ok_or_else(|| Failure::usage(format!("line {number} of standard input has no separator, and so no key")))?;
    Ok(record(args, Some(line.slice(at + separator.len()..)), Some(line.slice(..at)), time))
}

fn record(args: &ProduceArgs, value: Option<Bytes>, key: Option<Bytes>, time: Option<DateTime<Utc>>) -> Record<Bytes> {
    let mut record = value.map_or_else(Record::tombstone, Record::new);
    record.key = key;
    record.timestamp = time;
    record.partition = args.partition;
    if let Some(event_type) = &args.event_type {
        record = record.header(EVENT_TYPE, event_type);
    }
    for header in &args.headers {
        record = match &header.value {
            Some(value) => record.header(header.name.as_str(), value),
            None => record.header_absent(header.name.as_str()),
        };
    }
    record
}
