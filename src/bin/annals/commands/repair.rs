//! `repair`.

use annals::inspect::{self, PartitionRepair, RepairOptions};

use crate::args::Cli;
use crate::failure::{Class, Failure, Outcome};
use crate::output::Output;
use crate::units::grouped;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each damaged segment is copied aside (*.damaged) and written anew, with every whole record that is still there and a hole in the
place of what is lost. No program may have the log open. Exit code 3 says that damage is left.

Examples:
  annals -d data repair            # tells what would be done, and what would be lost
  annals -d data repair --apply")]
pub(crate) struct RepairArgs {
    /// Do it
    #[arg(long)]
    apply: bool,
}

pub(crate) fn run(cli: &Cli, args: &RepairArgs) -> Outcome {
    let report = inspect::repair(&cli.dir, RepairOptions::default().apply(args.apply))?;
    let mut out = Output::new(cli.color);
    for partition in &report.partitions {
        show(&mut out, partition, report.applied)?;
    }
    let bad = out.palette.bad;
    for damage in &report.by_opening {
        let when = if report.applied { "mended by opening the log" } else { "any opening of the log mends this" };
        out.line(format!("{when}: {damage}"))?;
    }
    for damage in &report.left {
        out.line(format!("{bad}cannot be repaired:{bad:#} {damage}"))?;
    }
    let left = match (report.partitions.len() + report.by_opening.len(), report.left.len()) {
        (0, 0) => {
            out.line("nothing is damaged")?;
            None
        }
        (_, 0) if report.applied => None,
        (_, 0) => Some("nothing was changed; --apply does it".to_owned()),
        (_, count) => Some(format!("{count} places cannot be repaired")),
    };
    out.flush()?;
    left.map_or(Ok(()), |left| Err(Failure::new(Class::Damage, left)))
}

fn show(out: &mut Output, partition: &PartitionRepair, applied: bool) -> Outcome {
    let (heading, bad, dim) = (out.palette.heading, out.palette.bad, out.palette.dim);
    out.line(format!("{heading}topic {}, partition {}{heading:#}", partition.topic, partition.partition))?;
    for damage in &partition.damage {
        out.line(format!("  {bad}damaged:{bad:#} {damage}"))?;
    }
    for step in &partition.steps {
        out.line(format!("  {}: {step}", if applied { "done" } else { "to do" }))?;
    }
    for evidence in &partition.evidence {
        out.line(format!("  {dim}kept: {}{dim:#}", evidence.display()))?;
    }
    let count: u64 = partition.lost.iter().map(|lost| lost.end - lost.start).sum();
    let word = if applied { "lost" } else { "would be lost" };
    if count == 0 {
        return out.line(format!("  no record {}", if applied { "is lost" } else { "would be lost" }));
    }
    let ranges: Vec<String> = partition
        .lost
        .iter()
        .map(|lost| match lost.end - lost.start {
            1 => lost.start.to_string(),
            _ => format!("{} to {}", lost.start, lost.end - 1),
        })
        .collect();
    let count = grouped(count);
    out.line(format!("  {bad}{word}:{bad:#} {count} offsets, {}", ranges.join(", ")))
}
