//! `groups`: looking at consumer groups, and changing where they have come to.

use std::time::Duration;

use annals::{GroupDescription, OffsetChange, Reset};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use serde_json::json;

use crate::args::Cli;
use crate::clock;
use crate::commands::waiting::wait_for;
use crate::failure::Outcome;
use crate::open::{open_alone, open_for_reading};
use crate::output::Output;
use crate::render::{ListFormat, shown, time};
use crate::start::Moment;
use crate::table::Table;
use crate::units::{grouped, parse_duration, shown_duration};

/// What is said of members, who live in the process that has the log open for writing.
const MEMBERS_UNKNOWN: &str = "not known: only the program that has the log open for writing knows them";

#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
A group is a name under which programs read topics together, and the offsets that they have committed. Looking at groups is always
allowed, also beside the program that writes the log. Resetting and deleting need the log to themselves: stop that program first.

Examples:
  annals -d data groups list
  annals -d data groups describe billing
  annals -d data groups reset billing --to-earliest             # tells what would change
  annals -d data groups reset billing --to-earliest --execute"
)]
pub(crate) struct GroupsArgs {
    #[command(subcommand)]
    command: GroupsCommand,
}

#[derive(Debug, Subcommand)]
enum GroupsCommand {
    /// List the groups that have committed something
    List(ListArgs),
    /// Show one group: what it has committed, and how far it is behind
    Describe(DescribeArgs),
    /// Set where a group goes on: tell what would change, and do it with --execute
    Reset(ResetArgs),
    /// Forget what a group has committed
    Delete(DeleteArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  annals -d data groups list")]
struct ListArgs {
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
LAG is how many records are still to be finished, and LAG TIME how old the oldest of them is. FINISHED AHEAD are records above what
is committed that are finished already, and will not come again.

Example:
  annals -d data groups describe billing --format json")]
struct DescribeArgs {
    /// The name of the group
    group: String,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --execute nothing is changed, and the plan is printed: that works beside the program that writes the log, too. Without --topic
it is about all partitions of which the group has committed something. With it, a group may be set before it is first used.

Examples:
  annals -d data groups reset billing --to-earliest                    # everything again: the plan
  annals -d data groups reset billing --to-earliest --execute
  annals -d data groups reset billing --topic orders --to-time 2026-01-31T12:00:00Z --execute
  annals -d data groups reset billing --by-duration 1h30m --execute    # what came in the last 90 minutes again
  annals -d data groups reset billing --shift-by -100 --execute        # the last 100 of each partition again")]
struct ResetArgs {
    /// The name of the group
    group: String,
    /// A topic that it is about; may be given several times
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    #[command(flatten)]
    to: ToArgs,
    /// Do it
    #[arg(long)]
    execute: bool,
    /// How to show what changes
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

/// Where a group is to go on: one of them.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ToArgs {
    /// At the first record that is there
    #[arg(long)]
    to_earliest: bool,
    /// Behind the last record
    #[arg(long)]
    to_latest: bool,
    /// At this offset, which has to exist in each of the partitions
    #[arg(long, value_name = "N")]
    to_offset: Option<u64>,
    /// At the first record with this time or a later one, such as 2026-01-31T12:00:00Z or 2026-01-31
    #[arg(long, value_name = "T")]
    to_time: Option<Moment>,
    /// At the first record that is so old or younger, such as 2h
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    by_duration: Option<Duration>,
    /// So many offsets further, or back if it is negative, but not beyond what is there
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A group that is used again after that begins as a new one does. No record is deleted.

Example:
  annals -d data groups delete billing")]
struct DeleteArgs {
    /// The name of the group
    group: String,
}

pub(crate) fn run(cli: &Cli, args: &GroupsArgs) -> Outcome {
    match &args.command {
        GroupsCommand::List(args) => list(cli, args),
        GroupsCommand::Describe(args) => describe(cli, args),
        GroupsCommand::Reset(args) => reset(cli, args),
        GroupsCommand::Delete(args) => delete(cli, args),
    }
}

fn list(cli: &Cli, args: &ListArgs) -> Outcome {
    let log = open_for_reading(cli)?;
    let mut out = Output::new(cli.color);
    let mut table = Table::new(&["GROUP", ">PARTITIONS", ">LAG", ">LAG TIME"]);
    for name in log.blocking_groups()? {
        let group = log.blocking_describe_group(&name)?;
        if args.format == ListFormat::Json {
            let line = json!({
                "group": group.name,
                "partitions": group.partitions.len(),
                "lag_records": group.lag_records(),
                "lag_seconds": oldest(&group).as_secs_f64(),
            });
            out.line(line.to_string())?;
            continue;
        }
        let (lag, oldest) = (grouped(group.lag_records()), shown_duration(oldest(&group)));
        table.row([shown(group.name.as_bytes()), group.partitions.len().to_string(), lag, oldest]);
    }
    if args.format == ListFormat::Text {
        table.write(&mut out)?;
    }
    out.flush()?;
    Ok(log.blocking_close()?)
}

/// How old the oldest record is that is still to be finished.
fn oldest(group: &GroupDescription) -> Duration {
    group.partitions.iter().map(|partition| partition.lag).max().unwrap_or_default()
}

fn describe(cli: &Cli, args: &DescribeArgs) -> Outcome {
    let log = open_for_reading(cli)?;
    let group = log.blocking_describe_group(&args.group)?;
    let mut out = Output::new(cli.color);
    match args.format {
        ListFormat::Json => out.line(as_json(&group).to_string())?,
        ListFormat::Text => text(&mut out, &group)?,
    }
    out.flush()?;
    Ok(log.blocking_close()?)
}

fn text(out: &mut Output, group: &GroupDescription) -> Outcome {
    let heading = out.palette.heading;
    let finished_ahead: u64 = group.partitions.iter().map(|partition| partition.finished_ahead).sum();
    let mut row = |name: &str, value: &str| out.line(format!("{heading}{name:<20}{heading:#}{value}"));
    row("group", &shown(group.name.as_bytes()))?;
    row("members", MEMBERS_UNKNOWN)?;
    out.line("")?;
    let headings = [
        "TOPIC",
        ">PARTITION",
        "MEMBER",
        ">COMMITTED",
        ">LOG START",
        ">LOG END",
        ">LAG",
        ">LAG TIME",
        ">FINISHED AHEAD",
        "COMMITTED AT",
    ];
    let mut table = Table::new(&headings);
    for partition in &group.partitions {
        table.row([
            partition.partition.topic.clone(),
            partition.partition.partition.to_string(),
            partition.member.as_ref().map_or_else(|| "?".to_owned(), |member| shown(member.as_bytes())),
            offset(partition.committed),
            partition.log_start.to_string(),
            partition.high_watermark.to_string(),
            grouped(partition.lag_records),
            shown_duration(partition.lag),
            grouped(partition.finished_ahead),
            partition.committed_at.map_or_else(|| "-".to_owned(), time),
        ]);
    }
    let [none, lag] = [String::new(), grouped(group.lag_records())];
    table.row([
        "total".to_owned(),
        group.partitions.len().to_string(),
        none.clone(),
        none.clone(),
        none.clone(),
        none.clone(),
        lag,
        shown_duration(oldest(group)),
        grouped(finished_ahead),
        none,
    ]);
    table.write(out)
}

fn offset(committed: Option<u64>) -> String {
    committed.map_or_else(|| "-".to_owned(), |offset| offset.to_string())
}

fn as_json(group: &GroupDescription) -> serde_json::Value {
    let partitions: Vec<_> = group
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "topic": partition.partition.topic,
                "partition": partition.partition.partition,
                "member": partition.member,
                "committed": partition.committed,
                "committed_at": partition.committed_at.map(time),
                "log_start": partition.log_start,
                "log_end": partition.high_watermark,
                "lag_records": partition.lag_records,
                "lag_seconds": partition.lag.as_secs_f64(),
                "finished_ahead": partition.finished_ahead,
            })
        })
        .collect();
    json!({
        "group": group.name,
        // Not an empty list: there may be some.
        "members": null,
        "lag_records": group.lag_records(),
        "lag_seconds": oldest(group).as_secs_f64(),
        "partitions": partitions,
    })
}

impl ToArgs {
    fn reset(&self, now: DateTime<Utc>) -> Reset {
        let ago = |duration| Moment::Ago(TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX));
        let moment = self.to_time.or(self.by_duration.map(ago)).map(|moment| Reset::Timestamp(moment.resolve(now)));
        let number = self.to_offset.map(Reset::Offset).or(self.shift_by.map(Reset::Shift));
        moment.or(number).unwrap_or(if self.to_latest { Reset::Latest } else { Reset::Earliest })
    }
}

fn reset(cli: &Cli, args: &ResetArgs) -> Outcome {
    let to = args.to.reset(clock::now());
    let topics = args.topics.iter().map(String::as_str);
    let log = if args.execute { open_alone(cli, "nothing was reset")? } else { open_for_reading(cli)? };
    let changes = match args.execute {
        true => log.blocking_reset_group(&args.group, topics, to),
        false => wait_for(log.plan_group_reset(&args.group, topics, to))?,
    };
    let closed = log.blocking_close();
    let changes = changes?;
    closed?;
    let mut out = Output::new(cli.color);
    match args.format {
        ListFormat::Json => changes.iter().try_for_each(|change| out.line(change_as_json(args, change).to_string()))?,
        ListFormat::Text => {
            let mut table =
                Table::new(&["TOPIC", ">PARTITION", ">COMMITTED", if args.execute { ">NOW" } else { ">WOULD BE" }]);
            for OffsetChange { partition, before, after, .. } in &changes {
                let cells =
                    [partition.topic.clone(), partition.partition.to_string(), offset(*before), after.to_string()];
                table.row(cells);
            }
            table.write(&mut out)?;
            out.line(match args.execute {
                true => format!("group {} is reset", shown(args.group.as_bytes())),
                false => "nothing was changed; --execute does it".to_owned(),
            })?;
        }
    }
    out.flush()
}

fn change_as_json(args: &ResetArgs, change: &OffsetChange) -> serde_json::Value {
    json!({
        "group": args.group,
        "topic": change.partition.topic,
        "partition": change.partition.partition,
        "before": change.before,
        "after": change.after,
        "executed": args.execute,
    })
}

fn delete(cli: &Cli, args: &DeleteArgs) -> Outcome {
    let log = open_alone(cli, "nothing was deleted")?;
    let deleted = log.blocking_delete_group(&args.group);
    let closed = log.blocking_close();
    deleted?;
    closed?;
    let mut out = Output::new(cli.color);
    out.line(format!("group {} is deleted", shown(args.group.as_bytes())))?;
    out.flush()
}
