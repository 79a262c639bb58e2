//! `delete`.

use std::io::{self, IsTerminal, Write};

use crate::args::Cli;
use crate::commands::admin::{Sums, sums};
use crate::commands::waiting::wait_for;
use crate::failure::{Failure, Outcome};
use crate::open::open_for_writing;
use crate::output::Output;
use crate::units::grouped;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  annals -d data delete clicks --yes")]
pub(crate) struct DeleteArgs {
    /// The name of the topic
    topic: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(cli: &Cli, args: &DeleteArgs) -> Outcome {
    let log = open_for_writing(cli)?;
    let topic = log.describe_topic(&args.topic)?;
    let Sums { offsets, .. } = sums(&topic);
    if !args.yes && !confirmed(&format!("delete topic {} with {} records?", args.topic, grouped(offsets)))? {
        log.blocking_close()?;
        return Err(Failure::usage("nothing was deleted"));
    }
    let deleted = wait_for(log.delete_topic(&args.topic))?;
    log.blocking_close()?;
    deleted?;
    let mut out = Output::new(cli.color);
    out.line(format!("topic {} is deleted, with {} records", args.topic, grouped(offsets)))?;
    out.flush()
}

/// Asks; only a person at a terminal can answer.
pub(crate) fn confirmed(question: &str) -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{question} Nobody can be asked here; add --yes")));
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stdin().read_line(&mut answer));
    asked.map_err(|error| Failure::usage(format!("{question} No answer: {error}; add --yes")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
