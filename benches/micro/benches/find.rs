//! Finding ten records among millions by a header, beside reading all of them: with the index there, and with it still to be made.
//!
//! `cargo bench --manifest-path benches/micro/Cargo.toml --bench find -- [--records N] [--dir DIR]`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use annals::{Durability, Log, Raw, Record, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;

type Failure = Box<dyn std::error::Error>;

const VALUE_BYTES: usize = 100;
/// So many records share an identity.
const SHARE: u64 = 10;
const LOOKUPS: u64 = 1000;
const HEADER: &str = "correlation_id";

struct Args {
    records: u64,
    dir: PathBuf,
}

fn args() -> Result<Args, Failure> {
    let mut parsed = Args { records: 10_000_000, dir: std::env::temp_dir() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--records" => parsed.records = value()?.parse()?,
            "--dir" => parsed.dir = value()?.into(),
            // Passed by `cargo bench`.
            "--bench" => {}
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    Ok(parsed)
}

/// The identity of the record of this number. Those that share one lie far apart.
fn id(number: u64, records: u64) -> String {
    format!("{:032x}", u128::from(number % (records / SHARE)) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

fn fill(log: &Log, records: u64, indexed: bool) -> Result<Duration, Failure> {
    let mut settings = TopicSettings::default().durability(Durability::Os);
    if indexed {
        settings = settings.indexed_headers([HEADER]);
    }
    let topic: Topic<Bytes, Raw> = log.blocking_create_topic(TopicDef::new("t"), settings)?;
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let begun = Instant::now();
    for first in (0..records).step_by(100) {
        let batch = (first..(first + 100).min(records))
            .map(|number| Record::new(value.clone()).header(HEADER, id(number, records)));
        topic.blocking_produce_batch(batch)?;
    }
    log.blocking_sync()?;
    Ok(begun.elapsed())
}

/// Reads everything and compares, as one does who has no index.
fn scan(topic: &Topic, wanted: &str) -> Result<u64, Failure> {
    let mut history = topic.replay(Start::Earliest).blocking()?;
    let mut found = 0;
    while let Some(record) = history.next()? {
        found += u64::from(record.header(HEADER) == Some(wanted.as_bytes()));
    }
    Ok(found)
}

fn find(topic: &Topic, wanted: &str) -> Result<u64, Failure> {
    let mut found = 0;
    for message in topic.find(HEADER, wanted).blocking()? {
        message?;
        found += 1;
    }
    Ok(found)
}

fn timed(what: &str, expected: u64, work: impl FnOnce() -> Result<u64, Failure>) -> Result<(), Failure> {
    let begun = Instant::now();
    let found = work()?;
    let took = begun.elapsed();
    assert_eq!(found, expected, "{what}");
    println!("| {what} | {:.3} ms |", took.as_secs_f64() * 1e3);
    Ok(())
}

fn bytes_in(dir: &std::path::Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_in(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn main() -> Result<(), Failure> {
    let args = args()?;
    let dir = args.dir.join("annals-find-bench");
    drop(std::fs::remove_dir_all(&dir));
    println!("{} records of {VALUE_BYTES} B with a {HEADER} that {SHARE} of them share\n", args.records);
    println!("| | time |\n|---|---|");
    // The first time brings the memory in.
    for (indexed, what) in [(false, None), (false, Some("writing them")), (true, Some("writing them, to be indexed"))] {
        drop(std::fs::remove_dir_all(&dir));
        let log = Log::blocking_open(&dir)?;
        let took = fill(&log, args.records, indexed)?;
        if let Some(what) = what {
            println!("| {what} | {:.0} ms |", took.as_secs_f64() * 1e3);
        }
        log.blocking_close()?;
    }

    let log = Log::blocking_open(&dir)?;
    let topic = log.raw_topic("t")?;
    let wanted = |at: u64| id(at * (args.records / SHARE / LOOKUPS), args.records);
    timed("first find after opening, of what the background was not fast enough for", SHARE, || {
        find(&topic, &wanted(1))
    })?;
    timed("find", SHARE, || find(&topic, &wanted(2)))?;
    timed(&format!("{LOOKUPS} finds of other values"), SHARE * LOOKUPS, || {
        (0..LOOKUPS).map(|at| find(&topic, &wanted(at))).sum()
    })?;
    timed("find of a value that is not there", 0, || find(&topic, "none"))?;
    timed("reading everything", SHARE, || scan(&topic, &wanted(3)))?;
    log.blocking_close()?;
    drop((log, topic));
    let log = Log::blocking_open(&dir)?;
    let topic = log.raw_topic("t")?;
    timed("first find after opening, the index being complete", SHARE, || find(&topic, &wanted(5)))?;
    log.blocking_close()?;
    drop((log, topic));
    println!(
        "<!-- the log has {} bytes, the index {} -->",
        bytes_in(&dir.join("topics"))?,
        bytes_in(&dir.join("views"))?
    );

    std::fs::remove_dir_all(dir.join("views"))?;
    let log = Log::blocking_open(&dir)?;
    let topic = log.raw_topic("t")?;
    timed("find, the index being made for it", SHARE, || find(&topic, &wanted(4)))?;
    log.blocking_close()?;
    drop((log, topic));
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
