//! Compaction of 1 GB with a million keys: how long it takes, how much memory, and what a producer beside it keeps of its speed.
//!
//! `cargo bench --manifest-path benches/micro/Cargo.toml --bench compaction -- [--megabytes N] [--keys N] [--dir DIR]`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use annals::{Durability, Log, LogBuilder, Raw, Record, Topic, TopicDef, TopicSettings};
use bytes::Bytes;

type Failure = Box<dyn std::error::Error>;

const VALUE_BYTES: usize = 480;
/// How long the producer is measured without a compaction.
const ALONE: Duration = Duration::from_secs(8);

struct Args {
    bytes: u64,
    keys: u64,
    dir: PathBuf,
}

fn args() -> Result<Args, Failure> {
    let mut parsed = Args { bytes: 1_000_000_000, keys: 1_000_000, dir: std::env::temp_dir() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--megabytes" => parsed.bytes = value()?.parse::<u64>()? * 1_000_000,
            "--keys" => parsed.keys = value()?.parse()?,
            "--dir" => parsed.dir = value()?.into(),
            // Passed by `cargo bench`.
            "--bench" => {}
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    Ok(parsed)
}

fn keyed(log: &Log) -> annals::Result<Topic<Bytes, Raw>> {
    // Nothing begins by itself before all is there.
    let settings = TopicSettings::default().durability(Durability::Os).compaction(true).compaction_dirty_ratio_min(0.9);
    log.blocking_create_topic(TopicDef::new("keyed"), settings)
}

/// Each key once in each round, in another order than the one in which they are numbered.
fn fill(log: &Log, args: &Args) -> Result<u64, Failure> {
    let topic = keyed(log)?;
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let records = args.bytes / (VALUE_BYTES as u64 + 16);
    let mut number = 0;
    while number < records {
        let batch = (number..(number + 500).min(records)).map(|number| {
            let key = (number % args.keys).wrapping_mul(2_654_435_761) % args.keys;
            Record::new(value.clone()).key(Bytes::copy_from_slice(&key.to_le_bytes()))
        });
        number += topic.blocking_produce_batch(batch)?.len() as u64;
    }
    log.blocking_sync()?;
    Ok(records)
}

/// What the producer beside it does.
#[derive(Clone, Copy)]
enum Kind {
    /// Waits for the disk after each record.
    Durable,
    /// Batches of 100 into the page cache.
    Bulk,
}

/// Produces until `done` says so, at least for a second; answers with records a second.
fn produce(log: &Log, kind: Kind, mut done: impl FnMut(Duration) -> bool) -> Result<f64, Failure> {
    let (name, durability) = match kind {
        Kind::Durable => ("durable", Durability::Sync),
        Kind::Bulk => ("bulk", Durability::Os),
    };
    let topic =
        log.blocking_create_topic(TopicDef::<Bytes, Raw>::new(name), TopicSettings::default().durability(durability))?;
    let value = Bytes::from(vec![7; 100]);
    let begun = Instant::now();
    let mut count = 0_u64;
    let mut looked = Instant::now();
    loop {
        match kind {
            Kind::Durable => drop(topic.blocking_produce(Record::new(value.clone()))?),
            Kind::Bulk => {
                let batch = topic.blocking_produce_batch((0..100).map(|_| Record::new(value.clone())))?;
                count += batch.len() as u64 - 1;
                // Not as fast as memory goes, or the disk would be full of it.
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        count += 1;
        if looked.elapsed() > Duration::from_millis(50) {
            looked = Instant::now();
            if begun.elapsed() > Duration::from_secs(1) && done(begun.elapsed()) {
                return Ok(count as f64 / begun.elapsed().as_secs_f64());
            }
        }
    }
}

/// A line of `/proc/self/status`, in KiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_default()
}

fn open(builder: LogBuilder, dir: &Path) -> annals::Result<Log> {
    builder.blocking_open(dir)
}

fn bytes_of(log: &Log) -> annals::Result<u64> {
    Ok(log.describe_topic("keyed")?.partitions.iter().map(|partition| partition.size_bytes).sum())
}

/// Makes the log anew, measures the producer alone, then beside a compaction.
fn beside(args: &Args, kind: Kind, rate: Option<u64>) -> Result<(Duration, u64, f64, f64), Failure> {
    let dir = args.dir.join("annals-compaction-bench");
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir)?;
    let idle = Log::builder().maintenance_bytes_per_second_max(64 << 10);
    let log = open(idle.clone(), &dir)?;
    fill(&log, args)?;
    log.blocking_close()?;
    drop(log);
    let log = open(idle, &dir)?;
    let before = bytes_of(&log)?;
    let alone = produce(&log, kind, |time| time > ALONE)?;
    log.blocking_close()?;
    drop(log);
    // The peak counts from here on.
    drop(std::fs::write("/proc/self/clear_refs", "5"));
    let resident = memory("VmRSS:");
    let builder = Log::builder();
    let log = open(rate.map_or(builder.clone(), |rate| builder.maintenance_bytes_per_second_max(rate)), &dir)?;
    let begun = Instant::now();
    let mut last = (before, Instant::now());
    let speed = produce(&log, kind, |_| {
        let now = bytes_of(&log).unwrap_or(before);
        if now != last.0 {
            last = (now, Instant::now());
        }
        // It is over when everything has become smaller and nothing has for a while.
        now < before && last.1.elapsed() > Duration::from_secs(4)
    })?;
    let took = last.1 - begun;
    let peak = memory("VmHWM:") - resident;
    let again = log.blocking_compact_topic("keyed")?;
    assert!(again.complete && again.removed == 0, "{again:?}");
    println!("<!-- {before} bytes became {} -->", bytes_of(&log)?);
    log.blocking_close()?;
    drop(log);
    std::fs::remove_dir_all(&dir)?;
    Ok((took, peak, alone, speed))
}

fn main() -> Result<(), Failure> {
    let args = args()?;
    println!("{} MB of {VALUE_BYTES} B values, {} keys\n", args.bytes / 1_000_000, args.keys);
    println!("| speed of the compaction | time | peak memory | producer beside it | alone | beside | keeps |");
    println!("|---|---|---|---|---|---|---|");
    for (speed, rate) in [("64 MiB/s (default)", None), ("unlimited", Some(64 << 30))] {
        for (what, kind) in
            [("one durable record at a time", Kind::Durable), ("batches into the page cache", Kind::Bulk)]
        {
            let (took, peak, alone, with) = beside(&args, kind, rate)?;
            println!(
                "| {speed} | {:.1} s | {:.1} MiB | {what} | {alone:.0}/s | {with:.0}/s | {:.2} |",
                took.as_secs_f64(),
                peak as f64 / 1024.0,
                with / alone
            );
        }
    }
    Ok(())
}
