//! Measures annals beside the machine's raw limits and its peers in one run, and prints a table per bar.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml -- --quick`; `--help` lists the rest. The bars and
//! the method are those of docs/PERFORMANCE.md: what an acknowledgement promises is never mixed, rounds are
//! interleaved, and ratios against a limit or a peer of the same run are what counts.
//!
//! `contender.rs` is the contract of a contender, `contenders/` has a file for each, `bars/` one for each kind of
//! workload, `curves.rs` shows how the costs of annals alone grow, `footprint.rs` what a process takes, `consumers.rs` what consuming costs, `bus.rs` what the event bus costs. `cargo test --release` checks that each contender delivers what it was given. That durable means durable is seen in the column of device flushes, and in a system-call trace:
//! `strace -f -c -e trace=fdatasync,fsync,sync_file_range` around `--only P3 --with NAME`.

mod args;
mod bars;
mod bus;
mod consumers;
mod contender;
mod contenders;
mod curves;
mod footprint;
mod load;
mod machine;
mod report;
mod table;
mod workspace;

use args::{Args, Command};
use bars::Context;
use contender::{Class, Entrant, Result};
use machine::Machine;
use workspace::Workspace;

fn main() -> Result<()> {
    match args::parse(std::env::args().skip(1))? {
        Command::Help => args::print_help(),
        Command::Fill { name, level, dir, bytes } => {
            let entrant = contenders::all().find(|entrant| entrant.name == name).ok_or("no such contender")?;
            bars::fill_until_killed(entrant, level, &dir, bytes)?;
        }
        Command::Footprint { dir } => footprint::run(&dir)?,
        Command::Consumers { dir, rounds, with } => consumers::run(&dir, rounds, &with)?,
        Command::Bus { dir, rounds } => bus::run(&dir, rounds)?,
        Command::Hold { dir, partitions } => footprint::hold(&dir, partitions)?,
        Command::Curves { dir, large } => curves::run(&dir, large)?,
        Command::Measure(args) => measure(&args)?,
    }
    Ok(())
}

fn measure(args: &Args) -> Result<()> {
    let workspace = Workspace::new(&args.dir)?;
    let machine = Machine::look(workspace.root())?;
    let scale = args.scale;
    print!("{}", report::header(&machine.facts, scale.rounds, scale.time.as_millis()));
    let wanted = |entrant: &&Entrant| {
        let named = args.with.iter().any(|part| entrant.name.contains(part.as_str()));
        args.with.is_empty() || named || matches!(entrant.class, Class::Raw | Class::Baseline)
    };
    let entrants = contenders::all().filter(wanted).collect();
    let context = Context { scale, workspace, machine, entrants };
    let mut tables = Vec::new();
    bars::run(&context, &args.only, &mut |table| {
        print!("{}", table.markdown());
        tables.push(table);
    })?;
    print!("{}", report::own_ratios(&tables));
    println!("\nLoad average at the end: {}", machine::load_average());
    if let Some(path) = &args.json {
        report::write_json(path, &context.machine.facts, &tables)?;
    }
    Ok(())
}
