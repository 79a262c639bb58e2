//! The command's arguments: a word a line. They are taken or refused with an answer, and never cause a panic.

#![no_main]
#![allow(dead_code, unused_imports, reason = "only what parses is used here; the rest of the command comes with it")]

use clap::Parser;

#[path = "../../src/bin/annals/args.rs"]
mod args;
#[path = "../../src/bin/annals/base64.rs"]
mod base64;
#[path = "../../src/bin/annals/clock.rs"]
mod clock;
#[path = "../../src/bin/annals/commands/mod.rs"]
mod commands;
#[path = "../../src/bin/annals/failure.rs"]
mod failure;
#[path = "../../src/bin/annals/filter.rs"]
mod filter;
#[path = "../../src/bin/annals/json.rs"]
mod json;
#[path = "../../src/bin/annals/lines.rs"]
mod lines;
#[path = "../../src/bin/annals/open.rs"]
mod open;
#[path = "../../src/bin/annals/output.rs"]
mod output;
#[path = "../../src/bin/annals/render.rs"]
mod render;
#[path = "../../src/bin/annals/start.rs"]
mod start;
#[path = "../../src/bin/annals/table.rs"]
mod table;
#[path = "../../src/bin/annals/units.rs"]
mod units;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Err(refused) = args::Cli::try_parse_from(std::iter::once("annals").chain(text.split('\n'))) {
        // What is said of it must come out as well.
        let _ = refused.to_string();
    }
});
