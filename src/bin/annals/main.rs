//! The command `annals`: looking into a log, writing to it, checking and repairing it. It knows the public interface only.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod base64;
mod clock;
mod commands;
mod failure;
mod filter;
mod json;
mod lines;
mod open;
mod output;
mod render;
mod start;
mod table;
mod units;

use args::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(cli.color),
    }
}
