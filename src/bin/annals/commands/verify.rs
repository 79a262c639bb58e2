//! `verify`.

use annals::inspect::{self, VerifyReport};
use serde_json::json;

use crate::args::Cli;
use crate::clock::Stopwatch;
use crate::commands::progress::Progress;
use crate::failure::{Class, Failure, Outcome};
use crate::output::Output;
use crate::render::ListFormat;
use crate::units::{grouped, shown_duration, shown_size};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Changes nothing, and may run while a program writes to the log. Exit code 3 says that something is damaged; `annals repair` tells
what can be done about it.

Example:
  annals -d data verify")]
pub(crate) struct VerifyArgs {
    /// How to show what was found
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

pub(crate) fn run(cli: &Cli, args: &VerifyArgs) -> Outcome {
    let stopwatch = Stopwatch::start();
    let progress = Progress::of_bytes(Some(0));
    let report = inspect::verify(&cli.dir, |done| {
        progress.set_total(done.bytes_total);
        progress.at(done.bytes_done, || {
            let damage = if done.damage > 0 { format!(", {} DAMAGED", done.damage) } else { String::new() };
            format!("{}/{}, {} records{damage}", done.topic, done.partition, grouped(done.records))
        });
    })?;
    drop(progress);
    let mut out = Output::new(cli.color);
    match args.format {
        ListFormat::Text => text(&mut out, &report, stopwatch)?,
        ListFormat::Json => out.line(as_json(&report).to_string())?,
    }
    out.flush()?;
    match report.damage.len() {
        0 => Ok(()),
        1 => Err(Failure::new(Class::Damage, "damage was found in one place")),
        count => Err(Failure::new(Class::Damage, format!("damage was found in {count} places"))),
    }
}

fn text(out: &mut Output, report: &VerifyReport, stopwatch: Stopwatch) -> Outcome {
    let (bad, good, dim) = (out.palette.bad, out.palette.good, out.palette.dim);
    for damage in &report.damage {
        out.line(format!("{bad}damaged:{bad:#} {damage}"))?;
    }
    for note in &report.notes {
        out.line(format!("{dim}note: {note}{dim:#}"))?;
    }
    if report.absent_offsets > 0 {
        let count = grouped(report.absent_offsets);
        out.line(format!("{dim}note: {count} offsets are not there: compacted away, or given up by a repair{dim:#}"))?;
    }
    out.line(format!(
        "{} records in {} frames, {} in {} files of {} partitions and {} topics, read in {}",
        grouped(report.records),
        grouped(report.frames),
        shown_size(report.bytes),
        grouped(report.segments as u64),
        grouped(report.partitions as u64),
        grouped(report.topics as u64),
        shown_duration(stopwatch.elapsed())
    ))?;
    if report.is_intact() { out.line(format!("{good}ok{good:#}")) } else { Ok(()) }
}

fn as_json(report: &VerifyReport) -> serde_json::Value {
    let damage: Vec<_> = report
        .damage
        .iter()
        .map(|error| {
            let place = error.corruption();
            json!({
                "message": error.to_string(),
                "topic": place.and_then(|place| place.topic.clone()),
                "partition": place.and_then(|place| place.partition),
                "file": place.map(|place| place.file.clone()),
                "position": place.map(|place| place.position),
                "first_offset": place.and_then(|place| place.first_offset),
                "next_offset": place.and_then(|place| place.next_offset),
            })
        })
        .collect();
    json!({
        "ok": report.is_intact(),
        "topics": report.topics,
        "partitions": report.partitions,
        "segments": report.segments,
        "frames": report.frames,
        "records": report.records,
        "bytes": report.bytes,
        "absent_offsets": report.absent_offsets,
        "journal_entries": report.journal_entries,
        "notes": report.notes,
        "damage": damage,
    })
}
