//! `dump-segment` and `dump-journal`.

use std::path::PathBuf;

use annals::inspect;

use crate::args::Cli;
use crate::failure::Outcome;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each frame is shown with its position, the fields of its header, whether the checksums hold, and what is in it. Damage is named, and
passed over to the next header. docs/FORMAT.md explains the fields.

Examples:
  annals dump-segment data/topics/orders/0/00000000000000000000.log
  annals dump-journal data/journal/0000.journal")]
pub(crate) struct DumpArgs {
    /// The file
    file: PathBuf,
}

pub(crate) fn segment(cli: &Cli, args: &DumpArgs) -> Outcome {
    let mut out = Output::new(cli.color);
    inspect::dump_segment(&args.file, out.writer())?;
    out.flush()
}

pub(crate) fn journal(cli: &Cli, args: &DumpArgs) -> Outcome {
    let mut out = Output::new(cli.color);
    inspect::dump_journal(&args.file, out.writer())?;
    out.flush()
}
