//! `tail` and `cat`.

use annals::{Log, Message, Raw, Replay, Start};
use bytes::Bytes;

use crate::args::Cli;
use crate::clock::now;
use crate::commands::waiting::{Step, follow};
use crate::failure::{Failure, Outcome, warn};
use crate::filter::Filter;
use crate::open::{open_for_reading, topic};
use crate::output::{ColorWhen, Output};
use crate::render::{RecordFormat, record};
use crate::start::From;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Over several partitions and topics records come in causal order. Filters choose among the last records: with -n 10 and a filter at
the most ten are shown. Ctrl-C ends a --follow.

Example:
  annals -d data tail orders -n 20 --follow")]
pub(crate) struct TailArgs {
    /// The topics; none for the whole log
    topics: Vec<String>,
    /// How many records
    #[arg(short = 'n', long, default_value_t = 10, value_name = "N")]
    lines: u64,
    #[command(flatten)]
    reading: ReadingArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Over several partitions and topics records come in causal order. Ctrl-C ends a --follow.

Examples:
  annals -d data cat orders --from time:2h --key order-17
  annals -d data cat orders --partition 0 --from offset:1000 --max 10 --format json")]
pub(crate) struct CatArgs {
    /// The topics; none for the whole log
    topics: Vec<String>,
    /// Where to begin: earliest, latest, offset:N, last:N, commit:N, or time:T with T such as 2026-01-31T12:00:00Z, or 2h for two
    /// hours ago. An offset belongs to a single partition
    #[arg(long, default_value = "earliest", value_name = "PLACE")]
    from: From,
    /// Show no more records than this
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// What both have.
#[derive(Debug, clap::Args)]
struct ReadingArgs {
    /// Read this partition only
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// How to show records
    #[arg(long, value_enum, default_value_t)]
    format: RecordFormat,
    #[command(flatten)]
    filter: Filter,
}

pub(crate) fn tail(cli: &Cli, args: &TailArgs) -> Outcome {
    read(cli, &args.topics, Start::Last(args.lines), None, &args.reading)
}

pub(crate) fn cat(cli: &Cli, args: &CatArgs) -> Outcome {
    read(cli, &args.topics, args.from.start(now()), args.max, &args.reading)
}

fn read(cli: &Cli, topics: &[String], start: Start, max: Option<u64>, args: &ReadingArgs) -> Outcome {
    let log = open_for_reading(cli)?;
    let mut shown = Shown { out: Output::new(cli.color), args, left: max.unwrap_or(u64::MAX), color: cli.color };
    let replay = replay(&log, topics, start, args.partition)?;
    if args.follow {
        shown.follow(replay)?;
    } else {
        shown.up_to_now(replay)?;
    }
    shown.out.flush()?;
    Ok(log.blocking_close()?)
}

fn replay(log: &Log, topics: &[String], start: Start, partition: Option<u32>) -> Outcome<Replay<Bytes, Raw>> {
    match (topics, partition) {
        ([name], Some(partition)) => Ok(topic(log, name)?.replay_partition(partition, start)),
        (_, Some(_)) => Err(Failure::usage("--partition belongs to a single topic; name one")),
        ([name], None) => Ok(topic(log, name)?.replay(start)),
        ([], None) => Ok(log.replay(start)),
        (names, None) => Ok(log.replay_topics(names.iter().map(String::as_str), start)?),
    }
}

/// What is being shown.
struct Shown<'a> {
    out: Output,
    args: &'a ReadingArgs,
    left: u64,
    color: ColorWhen,
}

impl Shown<'_> {
    fn up_to_now(&mut self, replay: Replay<Bytes, Raw>) -> Outcome {
        let mut history = replay.blocking()?;
        while self.left > 0 {
            match history.next_message() {
                Ok(None) => return Ok(()),
                Ok(Some(message)) => self.show(&message)?,
                Err(error) => self.go_on_after(error)?,
            }
        }
        Ok(())
    }

    fn follow(&mut self, replay: Replay<Bytes, Raw>) -> Outcome {
        if self.left == 0 {
            return Ok(());
        }
        follow(replay.follow(), |step| {
            match step {
                Step::Item(Ok(message)) => self.show(&message)?,
                Step::Item(Err(error)) => self.go_on_after(error)?,
                Step::Idle => self.out.flush()?,
            }
            Ok(self.left > 0)
        })
    }

    fn show(&mut self, message: &Message) -> Outcome {
        if self.args.filter.accepts(message) {
            record(&mut self.out, self.args.format, message)?;
            self.left -= 1;
        }
        Ok(())
    }

    /// Records that retention took away meanwhile are told of, and passed over; any other error is the end, behind all that came
    /// before it.
    fn go_on_after(&mut self, error: annals::Error) -> Outcome {
        self.out.flush()?;
        if error.gap().is_none() {
            return Err(error.into());
        }
        warn(&error.to_string(), self.color);
        Ok(())
    }
}
