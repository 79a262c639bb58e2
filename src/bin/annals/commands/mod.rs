//! What the subcommands do, a file for each.

use crate::args::{Cli, Command};
use crate::failure::Outcome;

pub(crate) mod admin;
pub(crate) mod alter;
pub(crate) mod batches;
pub(crate) mod create;
pub(crate) mod dead_letters;
pub(crate) mod delete;
pub(crate) mod dump;
pub(crate) mod find;
pub(crate) mod generate;
pub(crate) mod groups;
pub(crate) mod import;
pub(crate) mod mirror;
pub(crate) mod origin;
pub(crate) mod produce;
pub(crate) mod progress;
pub(crate) mod read;
pub(crate) mod repair;
pub(crate) mod stats;
pub(crate) mod verify;
pub(crate) mod waiting;

/// Does what the command line asks for.
pub(crate) fn run(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Topics(args) => admin::topics(cli, args),
        Command::Describe(args) => admin::describe(cli, args),
        Command::Create(args) => create::run(cli, args),
        Command::Alter(args) => alter::run(cli, args),
        Command::Delete(args) => delete::run(cli, args),
        Command::Produce(args) => produce::run(cli, args),
        Command::Import(args) => import::run(cli, args),
        Command::Tail(args) => read::tail(cli, args),
        Command::Cat(args) => read::cat(cli, args),
        Command::Find(args) => find::run(cli, args),
        Command::Groups(args) => groups::run(cli, args),
        Command::DeadLetters(args) => dead_letters::run(cli, args),
        Command::Mirror(args) => mirror::run(cli, args),
        Command::Stats(args) => stats::run(cli, args),
        Command::Verify(args) => verify::run(cli, args),
        Command::Repair(args) => repair::run(cli, args),
        Command::DumpSegment(args) => dump::segment(cli, args),
        Command::DumpJournal(args) => dump::journal(cli, args),
        Command::Completions(args) => generate::completions(cli, args),
        Command::Man(args) => generate::man(cli, args),
    }
}
