//! The command line as a whole; each subcommand has its own arguments beside what it does.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{
    admin, alter, create, dead_letters, delete, dump, find, generate, groups, import, mirror, produce, read, repair,
    stats, verify,
};
use crate::output::ColorWhen;

/// What `--help` and the man page end with.
const AFTER: &str = "\
Exit codes:
  0  ok
  1  failure: the system reported an error, or a record was not taken
  2  usage: an argument, a name or a setting is outside what is allowed
  3  damage was found
  4  the log is open elsewhere
  5  the log, the topic, the partition or the group does not exist
  6  the topic exists with other settings
  7  the offset does not exist
  8  the disk is full

Sizes are numbers with B, KiB, MiB, GiB, TiB, or KB, MB, GB, TB; lengths of time with ns, us, ms, s, m, h, d, w, such as 1h30m.

Example:
  annals -d data create orders --partitions 4
  annals -d data import orders events.ndjson.gz --key id --time at
  annals -d data tail orders --follow";

/// Look into an annals log, write to it, check and repair it.
#[derive(Debug, Parser)]
#[command(name = "annals", version, about, after_help = AFTER, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// The directory of the log
    #[arg(short, long, global = true, env = "ANNALS_DIR", default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// When to colour: `auto` is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColorWhen,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the topics
    Topics(admin::TopicsArgs),
    /// Show one topic: its settings and partitions
    Describe(admin::DescribeArgs),
    /// Create a topic, and the log if there is none
    Create(create::CreateArgs),
    /// Give a topic other settings, or more partitions
    Alter(alter::AlterArgs),
    /// Delete a topic with all its records
    Delete(delete::DeleteArgs),
    /// Write a record, or a record for each line of standard input
    Produce(produce::ProduceArgs),
    /// Write the lines of a file, and go on where the last import of it ended
    Import(import::ImportArgs),
    /// Show the last records, and follow
    Tail(read::TailArgs),
    /// Show records from any place in the history
    Cat(read::CatArgs),
    /// Show the records that have a header with a value
    Find(find::FindArgs),
    /// Look at consumer groups, and set where they go on
    Groups(groups::GroupsArgs),
    /// Look at the events that a group has given up, hand them to it again, or throw them away
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Forward topics to Apache Kafka, beside the program that writes them
    Mirror(mirror::MirrorArgs),
    /// Show sizes, records and rates
    Stats(stats::StatsArgs),
    /// Read everything with all checks
    Verify(verify::VerifyArgs),
    /// Salvage damaged partitions: tell what would be done, and do it with --apply
    Repair(repair::RepairArgs),
    /// Show the bytes of a segment file
    DumpSegment(dump::DumpArgs),
    /// Show the bytes of a journal file
    DumpJournal(dump::DumpArgs),
    /// Write the completions for a shell
    Completions(generate::CompletionsArgs),
    /// Write a manual page
    Man(generate::ManArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_command_line_holds_together_and_every_help_has_an_example() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        let is_own = |subcommand: &&clap::Command| subcommand.get_name() != "help";
        let own = || command.get_subcommands().filter(is_own);
        for subcommand in own().chain(own().flat_map(|subcommand| subcommand.get_subcommands().filter(is_own))) {
            let help = subcommand.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
            assert!(
                help.contains(&format!("annals {}", subcommand.get_name())) || help.contains("annals -d data "),
                "{help}"
            );
        }
    }

    /// A word that may stand somewhere on the command line, or any text.
    fn word() -> impl Strategy<Value = String> {
        let words = [
            "topics",
            "describe",
            "create",
            "delete",
            "produce",
            "import",
            "tail",
            "cat",
            "find",
            "stats",
            "verify",
            "repair",
            "groups",
            "dead-letters",
            "mirror",
            "--config",
            "--check",
            "--until-caught-up",
            "show",
            "replay",
            "purge",
            "0:17",
            "--all",
            "list",
            "reset",
            "--to-earliest",
            "--shift-by",
            "-5",
            "--execute",
            "dump-segment",
            "completions",
            "man",
            "help",
            "t",
            "-d",
            "--dir",
            "-n",
            "--from",
            "--partition",
            "--follow",
            "--format",
            "--key",
            "--header",
            "--type",
            "--time",
            "--watch",
            "--durability",
            "--compression",
            "--retention-age",
            "--segment-size",
            "--max",
            "--index",
            "--no-index",
            "--topic",
            "--batch",
            "--",
            "-",
            "json",
            "10",
            "last:10",
            "time:2h",
            "a=b",
            "interval 5ms",
            "64MiB",
            "7d",
        ];
        prop_oneof![4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
    }

    proptest! {
        #[test]
        fn any_arguments_are_taken_or_refused(words in prop::collection::vec(word(), 0..10)) {
            let _ = Cli::try_parse_from(std::iter::once("annals".to_owned()).chain(words));
        }
    }
}
