//! `import`.

use std::path::PathBuf;

use annals::{ErrorKind, Log, Record, TopicDef};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde_json::Value;

use crate::args::Cli;
use crate::clock::Stopwatch;
use crate::commands::batches::{BATCH_RECORDS, Batches};
use crate::commands::create::SettingsArgs;
use crate::commands::origin::{Origin, Reached};
use crate::commands::progress::Progress;
use crate::failure::{Class, Failure, Outcome, warn};
use crate::filter::EVENT_TYPE;
use crate::json::{find, kind, scalar};
use crate::lines::{Line, Lines};
use crate::open::{open_for_writing, open_or_create, topic};
use crate::output::{ColorWhen, Output};
use crate::start::parse_time;
use crate::units::{grouped, rate, shown_rate};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run again on the same input it goes on where the durable log ends: each record has the name of its source and its line in the headers
import_source and import_line, and batches are atomic and written one after the other. The source is the file's name unless --source
says otherwise; standard input has one only if --source gives it.

Fields are dotted paths into each line's JSON object: customer.id, items.0.sku. With any of them, or with --format ndjson, each line
must be a JSON object. Blank lines are passed over.

Examples:
  annals -d data import orders events.ndjson.gz --key customer.id --time at --create --partitions 4
  zcat lines.gz | annals -d data import lines - --source lines")]
pub(crate) struct ImportArgs {
    /// The name of the topic
    topic: String,
    /// The file, plain or gzip; `-` or none for standard input
    file: Option<PathBuf>,
    /// What lines are
    #[arg(long, value_enum, default_value_t)]
    format: InputFormat,
    /// The field that is the key
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    /// The field that is the time: RFC 3339, or a number (see --time-unit)
    #[arg(long, value_name = "FIELD")]
    time: Option<String>,
    /// What a number in the time's field counts, since 1970
    #[arg(long, value_enum, default_value_t, requires = "time", value_name = "UNIT")]
    time_unit: TimeUnit,
    /// The field that is the header `event_type`
    #[arg(long = "type", value_name = "FIELD")]
    event_type: Option<String>,
    /// The field that is the value: text as it is, anything else as JSON, null as a tombstone; by default the whole line
    #[arg(long, value_name = "FIELD")]
    value: Option<String>,
    /// The name under which the source is known when it is imported again
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Do not note where records come from, and begin with the first line
    #[arg(long, conflicts_with = "source")]
    no_resume: bool,
    /// Say which lines cannot be imported, and go on
    #[arg(long)]
    skip_bad: bool,
    /// How many lines are written as one, at the most. A reader of several partitions gets those of one batch partition by
    /// partition; with 1 it gets the lines in their order, and each waits for the disk
    #[arg(long, value_name = "N", default_value_t = BATCH_RECORDS, value_parser = at_least_one)]
    batch: usize,
    /// Create the topic, and the log, if there is none
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What lines are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// Anything
    #[default]
    Lines,
    /// JSON objects
    Ndjson,
}

/// What a number that stands for a time counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum TimeUnit {
    S,
    #[default]
    Ms,
    Us,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("{text:?} is no whole number from 1 on"))
}

pub(crate) fn run(cli: &Cli, args: &ImportArgs) -> Outcome {
    let lines = Lines::open(args.file.as_deref())?;
    let log = if args.create { open_or_create(cli)? } else { open_for_writing(cli)? };
    let imported = import(cli, args, &log, &lines);
    let closed = log.blocking_close();
    let tally = imported?;
    closed?;
    let mut out = Output::new(cli.color);
    out.line(tally.summary(&lines.name, &args.topic))?;
    out.flush()
}

fn import(cli: &Cli, args: &ImportArgs, log: &Log, lines: &Lines) -> Outcome<Tally> {
    let topic = match topic(log, &args.topic) {
        Err(failure) if failure.class == Class::NotFound && args.create => {
            log.blocking_create_topic(TopicDef::named(args.topic.clone()), args.settings.settings())?
        }
        found => found?,
    };
    let origin = args.origin();
    let reached = match &origin {
        Some(origin) => origin.reached(log, &topic)?,
        None => None,
    };
    let mut import = Import {
        args,
        batches: Batches::new(log, &topic, args.batch),
        origin,
        reached,
        lines,
        tally: Tally { stopwatch: Stopwatch::start(), ..Tally::default() },
        color: cli.color,
    };
    import.all()?;
    Ok(import.tally)
}

impl ImportArgs {
    fn origin(&self) -> Option<Origin> {
        let from_file = || {
            let file = self.file.as_ref().filter(|file| file.as_os_str() != "-")?;
            Some(file.file_name()?.to_string_lossy().into_owned())
        };
        let source = self.source.clone().or_else(from_file)?;
        (!self.no_resume).then_some(Origin { source })
    }

    fn is_json(&self) -> bool {
        let fields = [&self.key, &self.time, &self.event_type, &self.value];
        self.format == InputFormat::Ndjson || fields.iter().any(|field| field.is_some())
    }

    /// The record of a line; `None` for a blank one.
    fn record(&self, line: &[u8]) -> Result<Option<Record<Bytes>>, String> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let whole = || Bytes::copy_from_slice(line);
        if !self.is_json() {
            return Ok(Some(Record::new(whole())));
        }
        let json: Value = serde_json::from_slice(line).map_err(|error| format!("is no JSON: {error}"))?;
        if !json.is_object() {
            return Err(format!("is {}; expected an object", kind(&json)));
        }
        let field = |path: &str| find(&json, path).ok_or_else(|| format!("has no field {path:?}"));
        let text = |path: &str| {
            let value = field(path)?;
            scalar(value).ok_or_else(|| format!("the field {path:?} is {}; expected text or a number", kind(value)))
        };
        let mut record = match &self.value {
            None => Record::new(whole()),
            Some(path) => match field(path)? {
                Value::Null => Record::tombstone(),
                Value::String(text) => Record::new(Bytes::copy_from_slice(text.as_bytes())),
                other => Record::new(Bytes::from(other.to_string())),
            },
        };
        if let Some(path) = &self.key {
            record = record.key(text(path)?);
        }
        if let Some(path) = &self.event_type {
            record = record.header(EVENT_TYPE, text(path)?);
        }
        if let Some(path) = &self.time {
            record = record.timestamp(self.time_of(path, field(path)?)?);
        }
        Ok(Some(record))
    }

    fn time_of(&self, path: &str, value: &Value) -> Result<DateTime<Utc>, String> {
        let time = match value {
            Value::String(text) => parse_time(text),
            Value::Number(number) => number.as_i64().and_then(|number| {
                let factor = match self.time_unit {
                    TimeUnit::S => 1_000_000,
                    TimeUnit::Ms => 1_000,
                    TimeUnit::Us => 1,
                };
                DateTime::from_timestamp_micros(number.checked_mul(factor)?)
            }),
            _ => None,
        };
        time.ok_or_else(|| {
            let shown: String = value.to_string().chars().take(40).collect();
            format!("the field {path:?} is {shown}, which is no time; expected one such as 2026-01-31T12:00:00Z")
        })
    }
}

/// What has become of the lines.
#[derive(Debug, Default)]
struct Tally {
    stopwatch: Stopwatch,
    /// Records written.
    written: u64,
    /// Lines that were there already.
    there: u64,
    /// Lines that could not be imported.
    bad: u64,
}

impl Tally {
    fn rate(&self) -> String {
        shown_rate(rate(self.written, self.stopwatch.elapsed()))
    }

    fn summary(&self, source: &str, topic: &str) -> String {
        let mut summary =
            format!("{} records of {source} are written to {topic}, {}", grouped(self.written), self.rate());
        if self.there > 0 {
            summary += &format!("; lines up to {} were there", grouped(self.there));
        }
        if self.bad > 0 {
            summary += &format!("; {} lines were passed over", grouped(self.bad));
        }
        summary
    }
}

/// An import under way.
struct Import<'a> {
    args: &'a ImportArgs,
    batches: Batches<'a>,
    origin: Option<Origin>,
    reached: Option<Reached>,
    lines: &'a Lines,
    tally: Tally,
    color: ColorWhen,
}

impl Import<'_> {
    fn all(&mut self) -> Outcome {
        let progress = Progress::of_bytes(self.lines.bytes_total);
        loop {
            let taken = self.take_what_is_there();
            // What came before a bad line is written, and so the next run begins at that line.
            self.batches.commit()?;
            self.tally.written = self.batches.written;
            if !taken? {
                break;
            }
            progress.at(self.lines.bytes_read(), || {
                format!("{} records, {}", grouped(self.tally.written + self.tally.there), self.tally.rate())
            });
        }
        match &self.reached {
            Some(reached) if reached.line > self.tally.there => Err(Failure::usage(format!(
                "{} has {} lines, and line {} was imported before; import it under another name with --source",
                self.lines.name, self.tally.there, reached.line
            ))),
            _ => Ok(()),
        }
    }

    /// Waits for a line, and takes it with all that have come by now. `false` at the end.
    fn take_what_is_there(&mut self) -> Outcome<bool> {
        let Some(mut line) = self.lines.next()? else { return Ok(false) };
        loop {
            self.take(line)?;
            if self.batches.is_full() {
                return Ok(true);
            }
            match self.lines.try_next()? {
                Some(next) => line = next,
                None => return Ok(true),
            }
        }
    }

    fn take(&mut self, line: Line) -> Outcome {
        let number = line.number;
        if let Some(reached) = self.reached.as_ref().filter(|reached| number <= reached.line) {
            self.tally.there = number;
            if number == reached.line {
                let record = self.args.record(&line.bytes).ok().flatten().unwrap_or_else(Record::tombstone);
                reached.check(&record, &self.lines.name)?;
            }
            return Ok(());
        }
        let record = match self.args.record(&line.bytes) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(()),
            Err(why) => return self.bad(number, &why),
        };
        let record = match &self.origin {
            Some(origin) => origin.mark(record, number),
            None => record,
        };
        match self.batches.add(record) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Invalid => self.bad(number, &error.to_string()),
            Err(error) => Err(error.into()),
        }
    }

    fn bad(&mut self, number: u64, why: &str) -> Outcome {
        let message = format!("{}: line {number}: {why}", self.lines.name);
        if !self.args.skip_bad {
            return Err(Failure::new(Class::Failed, message));
        }
        self.tally.bad += 1;
        warn(&message, self.color);
        Ok(())
    }
}

/// Not a moment, but its beginning: for a tally of nothing.
impl Default for Stopwatch {
    fn default() -> Self {
        Self::start()
    }
}
