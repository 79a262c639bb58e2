//! `dead-letters`: looking at the events that groups have given up, handing them to their group again, throwing them away.

use std::str::FromStr;

use annals::{DeadLetter, DeadLetters, Log};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::args::Cli;
use crate::commands::delete::confirmed;
use crate::commands::waiting::wait_for;
use crate::failure::{Failure, Outcome};
use crate::open::{open_alone, open_for_reading};
use crate::output::Output;
use crate::render::{ListFormat, bytes_as_json, headers_as_json, shown, time};
use crate::table::Table;
use crate::units::grouped;

#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
A dead letter is an event that a group has given up: its handler has failed as often as its retries allow. It stands in a topic of
its own, with the original and with why, when and how often it has failed, and stays open until it is replayed or purged. GROUP and
TOPIC are called as `annals groups list` and `annals topics` call them, with the environment in front if there is one.

Looking at dead letters is always allowed, also beside the program that writes the log. Replaying and purging need the log to
themselves: stop that program first.

Examples:
  annals -d data dead-letters list billing orders.dlq
  annals -d data dead-letters show billing orders.dlq 0 17
  annals -d data dead-letters replay billing orders.dlq --all    # once the handler is mended
  annals -d data dead-letters purge billing orders.dlq 0:17 --yes"
)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// List the open dead letters of a group, oldest first
    List(ListArgs),
    /// Show one dead letter: why, when and how often it has failed, and the original
    Show(ShowArgs),
    /// Hand dead letters to their group again
    Replay(ReplayArgs),
    /// Throw dead letters away
    Purge(PurgeArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
PARTITION and OFFSET are those in the dead-letter topic, by which the other commands name a dead letter; FROM is the place of the
original. WHEN is the time of the last failure, ERROR what the handler said. Those that are replayed or purged are not listed.

Examples:
  annals -d data dead-letters list billing orders.dlq
  annals -d data dead-letters list billing orders.dlq --max 1000 --format json")]
struct ListArgs {
    #[command(flatten)]
    of: Of,
    /// How many to list at the most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each error is what the handler said, with what its sources said below it. Control characters are escaped, and bytes that are no text
are shown in base64.

Example:
  annals -d data dead-letters show billing orders.dlq 0 17 --format json")]
struct ShowArgs {
    #[command(flatten)]
    of: Of,
    /// The partition of the dead-letter topic
    partition: u32,
    /// The offset in the dead-letter topic
    offset: u64,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The group gets them as soon as its program runs again, and no other group does: the originals, in their order, from the first attempt
on. What fails again is a dead letter again. If one of those that are named is not open, none is replayed.

Examples:
  annals -d data dead-letters replay billing orders.dlq --all
  annals -d data dead-letters replay billing orders.dlq 0:17 2:4")]
struct ReplayArgs {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
They are open no more, and the group will never handle them. Their records stay in the topic until its retention lets them go.

Examples:
  annals -d data dead-letters purge billing orders.dlq 0:17
  annals -d data dead-letters purge billing orders.dlq --all --yes")]
struct PurgeArgs {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Whose dead letters, and where.
#[derive(Debug, clap::Args)]
struct Of {
    /// The group that has given them up
    group: String,
    /// The dead-letter topic
    topic: String,
}

/// Which of them.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// All that are open
    #[arg(long)]
    all: bool,
    /// A dead letter, by its partition and offset in the dead-letter topic; several may be given
    #[arg(value_name = "PARTITION:OFFSET")]
    letters: Vec<Letter>,
}

/// A dead letter's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letter {
    partition: u32,
    offset: u64,
}

impl FromStr for Letter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(partition, offset)| {
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        });
        parsed.ok_or_else(|| format!("{text:?} is no dead letter; expected PARTITION:OFFSET, such as 0:17"))
    }
}

pub(crate) fn run(cli: &Cli, args: &DeadLettersArgs) -> Outcome {
    match &args.command {
        DeadLettersCommand::List(args) => list(cli, args),
        DeadLettersCommand::Show(args) => show(cli, args),
        DeadLettersCommand::Replay(args) => replay(cli, args),
        DeadLettersCommand::Purge(args) => purge(cli, args),
    }
}

/// The dead letters that the arguments are about. The names are those in the log: this bus has no environment.
fn letters(log: &Log, of: &Of) -> Outcome<DeadLetters> {
    Ok(log.bus().dead_letters(&of.group, &of.topic)?)
}

fn list(cli: &Cli, args: &ListArgs) -> Outcome {
    let log = open_for_reading(cli)?;
    let max = args.max as usize;
    // One more tells whether there are more.
    let mut found = letters(&log, &args.of)?.blocking_list(max.saturating_add(1))?;
    let more = found.len() > max;
    found.truncate(max);
    let mut out = Output::new(cli.color);
    if args.format == ListFormat::Json {
        found.iter().try_for_each(|letter| out.line(as_json(&args.of, letter).to_string()))?;
    } else {
        let mut table = Table::new(&[">PARTITION", ">OFFSET", "FROM", "WHEN", ">ATTEMPTS", "REASON", "ERROR"]);
        for letter in &found {
            table.row([
                letter.partition.to_string(),
                letter.offset.to_string(),
                source(letter),
                letter.last_failure.map_or_else(|| "-".to_owned(), time),
                letter.attempts.to_string(),
                letter.reason.to_string(),
                letter.errors.first().map_or_else(|| "-".to_owned(), |error| cut(&shown(error.as_bytes()))),
            ]);
        }
        table.write(&mut out)?;
        if more {
            out.line(format!("there are more than {}; --max shows more of them", grouped(max as u64)))?;
        }
    }
    out.flush()?;
    Ok(log.blocking_close()?)
}

/// The place of the original.
fn source(letter: &DeadLetter) -> String {
    format!("{}/{}@{}", shown(letter.source_topic.as_bytes()), letter.source_partition, letter.source_offset)
}

/// So much of an error that a table stays a table.
fn cut(error: &str) -> String {
    const CHARS_MAX: usize = 80;
    match error.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &error[..end]),
        None => error.to_owned(),
    }
}

fn show(cli: &Cli, args: &ShowArgs) -> Outcome {
    let log = open_for_reading(cli)?;
    let letter = wait_for(letters(&log, &args.of)?.get(args.partition, args.offset))??;
    let mut out = Output::new(cli.color);
    match args.format {
        ListFormat::Json => out.line(as_json(&args.of, &letter).to_string())?,
        ListFormat::Text => text(&mut out, &letter)?,
    }
    out.flush()?;
    Ok(log.blocking_close()?)
}

fn text(out: &mut Output, letter: &DeadLetter) -> Outcome {
    let heading = out.palette.heading;
    let mut row = |name: &str, value: &str| out.line(format!("{heading}{name:<20}{heading:#}{value}"));
    let moment = |moment: Option<_>| moment.map_or_else(|| "-".to_owned(), time);
    row("group", &shown(letter.group.as_bytes()))?;
    row("reason", letter.reason.as_str())?;
    let names = std::iter::once("error").chain(std::iter::repeat("  because of"));
    for (name, error) in names.zip(&letter.errors) {
        row(name, &shown(error.as_bytes()))?;
    }
    row("attempts", &letter.attempts.to_string())?;
    row("first failure", &moment(letter.first_failure))?;
    row("last failure", &moment(letter.last_failure))?;
    out.line("")?;
    let mut row = |name: &str, value: &str| out.line(format!("{heading}{name:<20}{heading:#}{value}"));
    row("original", &source(letter))?;
    row("time", &time(letter.timestamp))?;
    row("key", &letter.key.as_ref().map_or_else(|| "-".to_owned(), |key| shown(key)))?;
    for header in &letter.headers {
        let name = shown(header.name().as_bytes());
        let value = header.value().map_or_else(|| "(no value)".to_owned(), |value| format!("={}", shown(value)));
        row("header", &format!("{name}{value}"))?;
    }
    row("value", &letter.value.as_ref().map_or_else(|| "(tombstone)".to_owned(), |value| shown(value)))
}

fn as_json(of: &Of, letter: &DeadLetter) -> Value {
    json!({
        "group": letter.group,
        "topic": of.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason.as_str(),
        "errors": letter.errors,
        "attempts": letter.attempts,
        "first_failure": letter.first_failure.map(time),
        "last_failure": letter.last_failure.map(time),
        "original": {
            "topic": letter.source_topic,
            "partition": letter.source_partition,
            "offset": letter.source_offset,
            "time": time(letter.timestamp),
            "key": letter.key.as_ref().map(|key| bytes_as_json(key)),
            "headers": headers_as_json(&letter.headers),
            "value": letter.value.as_ref().map(|value| bytes_as_json(value)),
        },
    })
}

impl Which {
    fn places(&self) -> impl Iterator<Item = (u32, u64)> {
        self.letters.iter().map(|letter| (letter.partition, letter.offset))
    }
}

fn replay(cli: &Cli, args: &ReplayArgs) -> Outcome {
    let log = open_alone(cli, "nothing was replayed")?;
    let count = act(&log, &args.of, async |letters| match args.which.all {
        true => letters.replay_all().await,
        false => letters.replay(args.which.places()).await,
    });
    let closed = log.blocking_close();
    let count = count?;
    closed?;
    let group = shown(args.of.group.as_bytes());
    let when = if count == 0 { "" } else { ": it handles them when its program runs again" };
    let be = if count == 1 { "is" } else { "are" };
    said(cli, &format!("{} {be} handed to group {group} again{when}", dead_letters(count)))
}

fn purge(cli: &Cli, args: &PurgeArgs) -> Outcome {
    let log = open_alone(cli, "nothing was purged")?;
    let purged = purge_in(&log, args);
    let closed = log.blocking_close();
    let count = purged?;
    closed?;
    let be = if count == 1 { "is" } else { "are" };
    said(cli, &format!("{} of group {} {be} purged", dead_letters(count), shown(args.of.group.as_bytes())))
}

fn purge_in(log: &Log, args: &PurgeArgs) -> Outcome<u64> {
    if !args.yes {
        let count = match args.which.all {
            true => wait_for(letters(log, &args.of)?.count())??,
            false => args.which.letters.len() as u64,
        };
        let group = shown(args.of.group.as_bytes());
        if !confirmed(&format!("purge {} of group {group}?", dead_letters(count)))? {
            return Err(Failure::usage("nothing was purged"));
        }
    }
    act(log, &args.of, async |letters| match args.which.all {
        true => letters.purge_all().await,
        false => letters.purge(args.which.places()).await,
    })
}

fn act(log: &Log, of: &Of, act: impl AsyncFnOnce(&DeadLetters) -> annals::Result<u64>) -> Outcome<u64> {
    let letters = letters(log, of)?;
    Ok(wait_for(act(&letters))??)
}

fn dead_letters(count: u64) -> String {
    format!("{} dead letter{}", grouped(count), if count == 1 { "" } else { "s" })
}

fn said(cli: &Cli, line: &str) -> Outcome {
    let mut out = Output::new(cli.color);
    out.line(line)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_dead_letters() {
        assert_eq!("3:17".parse(), Ok(Letter { partition: 3, offset: 17 }));
        for text in ["", ":", "3", "3:", ":17", "3:-1", "3:17:1", "a:b", "4294967296:0"] {
            text.parse::<Letter>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn an_error_is_cut_between_characters(error: String) {
            prop_assert!(cut(&error).chars().count() <= 81);
        }
    }
}
