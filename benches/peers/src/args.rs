//! The command line.

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use crate::{
    contender::{Bar, Level, Result},
    load::TEXT,
};

const HELP: &str = "\
Measures annals beside the machine's raw limits and its peers, and prints a table per bar.

Usage: annals-peers [--quick] [--rounds N] [--only P1,P4] [--with NAME,NAME] [--text] [--dir DIR] [--json FILE]
       annals-peers --curves [--large] [--dir DIR]
       annals-peers --footprint [--dir DIR]
       annals-peers --consumers [--rounds N] [--with NAME,NAME] [--dir DIR]
       annals-peers --bus [--rounds N] [--dir DIR]

  --quick        0.15 s a workload, two rounds and small logs: for a first look, not for quoting
  --rounds N     rounds A B C A B C (default 3)
  --only LIST    these bars only: P1 P2 P3 P4 P5 P6 P8 P9 P15 P17
  --with LIST    raw limits, the baseline, and only those others whose name contains one of these
  --text         payloads are cut out of lines of JSON, which a compressor makes smaller; else they are random bytes
  --dir DIR      where the logs are made, in a directory that is removed at the end (default: the temporary one);
                 its file system is what is measured
  --json FILE    also writes every sample to FILE
  --curves       instead of the bars: how the costs of annals grow with size, segments, partitions, subscribers, in about
                 three minutes; --large adds a log of 10 GB
  --footprint    instead of the bars: memory and files of annals with up to 10,000 partitions, and opening them (P11)
  --consumers    instead of the bars: what consuming, committing and transactions cost (P7, P10, P12, P16); --with LIST:
                 only of deliver flood fan-out one many rebalance idle reopen groups
  --bus          instead of the bars: what the event bus costs (P13)
";

/// How much of everything is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    /// The time budget of one contender's workload in one round.
    pub(crate) time: Duration,
    /// Ends a bulk workload before its time: bounds disk use and dirty pages.
    pub(crate) bulk_bytes_max: u64,
    /// What P6 replays, of 100 B and of 1 KiB records.
    pub(crate) replay_bytes: (u64, u64),
    /// What P8 opens.
    pub(crate) open_bytes: u64,
}

pub(crate) struct Args {
    pub(crate) scale: Scale,
    pub(crate) only: Vec<Bar>,
    pub(crate) with: Vec<String>,
    pub(crate) dir: PathBuf,
    pub(crate) json: Option<PathBuf>,
}

pub(crate) enum Command {
    Measure(Args),
    /// P8's child: fill a log, say so, and go on appending until killed.
    Fill {
        name: String,
        level: Level,
        dir: PathBuf,
        bytes: u64,
    },
    Curves {
        dir: PathBuf,
        large: bool,
    },
    Footprint {
        dir: PathBuf,
    },
    Consumers {
        dir: PathBuf,
        rounds: usize,
        with: Vec<String>,
    },
    Bus {
        dir: PathBuf,
        rounds: usize,
    },
    /// P11's child: write to so many partitions, say what that takes, and go on until killed.
    Hold {
        dir: PathBuf,
        partitions: u32,
    },
    Help,
}

const MIB: u64 = 1 << 20;
const FULL: Scale = Scale {
    rounds: 3,
    time: Duration::from_millis(600),
    bulk_bytes_max: 512 * MIB,
    replay_bytes: (64 * MIB, 128 * MIB),
    open_bytes: 1_000_000_000,
};
const QUICK: Scale = Scale {
    rounds: 2,
    time: Duration::from_millis(150),
    bulk_bytes_max: 128 * MIB,
    replay_bytes: (8 * MIB, 24 * MIB),
    open_bytes: 32_000_000,
};

pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Command> {
    let mut parsed =
        Args { scale: FULL, only: Bar::ALL.to_vec(), with: Vec::new(), dir: std::env::temp_dir(), json: None };
    let mut rounds = None;
    let mut fill = None;
    let mut hold = None;
    let (mut curves, mut large, mut footprint, mut consumers, mut bus) = (false, false, false, false, false);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--quick" => parsed.scale = QUICK,
            "--rounds" => rounds = Some(value()?.parse::<usize>()?.max(1)),
            "--only" => parsed.only = value()?.split(',').map(bar).collect::<Result<_>>()?,
            "--with" => parsed.with = value()?.split(',').map(str::to_owned).collect(),
            "--dir" => parsed.dir = value()?.into(),
            "--json" => parsed.json = Some(value()?.into()),
            "--fill" => fill = Some((Level::PageCache, value()?, value()?.parse()?)),
            "--fill-durably" => fill = Some((Level::Durable, value()?, value()?.parse()?)),
            "--text" => TEXT.store(true, Ordering::Relaxed),
            "--curves" => curves = true,
            "--footprint" => footprint = true,
            "--consumers" => consumers = true,
            "--bus" => bus = true,
            "--hold" => hold = Some(value()?.parse()?),
            "--large" => large = true,
            // Passed by `cargo bench`.
            "--bench" => {}
            _ => return Err(format!("unknown argument {arg}; try --help").into()),
        }
    }
    if let Some((level, name, bytes)) = fill {
        return Ok(Command::Fill { name, level, dir: parsed.dir, bytes });
    }
    if let Some(partitions) = hold {
        return Ok(Command::Hold { dir: parsed.dir, partitions });
    }
    if footprint {
        return Ok(Command::Footprint { dir: parsed.dir });
    }
    if consumers {
        let rounds = rounds.unwrap_or(FULL.rounds);
        return Ok(Command::Consumers { dir: parsed.dir, rounds, with: parsed.with });
    }
    if bus {
        return Ok(Command::Bus { dir: parsed.dir, rounds: rounds.unwrap_or(FULL.rounds) });
    }
    if curves {
        return Ok(Command::Curves { dir: parsed.dir, large });
    }
    parsed.scale.rounds = rounds.unwrap_or(parsed.scale.rounds);
    Ok(Command::Measure(parsed))
}

fn bar(name: &str) -> Result<Bar> {
    let found = Bar::ALL.into_iter().find(|bar| bar.name().eq_ignore_ascii_case(name.trim()));
    found.ok_or_else(|| format!("no bar is called {name}; try --help").into())
}

pub(crate) fn print_help() {
    print!("{HELP}");
}
