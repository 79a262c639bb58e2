//! What annals takes of the machine (P11): memory and descriptors of a process that does one thing, and how long it takes to
//! open what the process leaves when it is killed in the middle of it. Linux only.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use annals::{Durability, Log, Record, Topic, TopicDef, TopicSettings};
use bytes::Bytes;

use crate::{
    contender::Result,
    load::Payloads,
    workspace::{self, Workspace},
};

const BATCH_RECORDS: usize = 100;
const TIME: Duration = Duration::from_secs(1);
/// A child whose parent is gone ends by itself.
const CHILD_TIME_MAX: Duration = Duration::from_secs(120);

/// Prints the table.
pub(crate) fn run(dir: &Path) -> Result<()> {
    let workspace = Workspace::new(dir)?;
    println!(
        "\n### P11: what a process takes, and how long its log takes to open once it is killed\n\n\
         Of so many partitions each gets records of 100 B, durably in groups of 1,000, for a second and at least twice; then the \
         process is killed while it goes on. One partition: batches of 100 in the page cache, as in P2.\n\n\
         | partitions | resident, peak, MB | open files | open, killed, ms | open again, closed, ms |\n|---|---|---|---|---|"
    );
    for partitions in [1_u32, 100, 1_000, 10_000] {
        let dir = workspace.fresh()?;
        let (memory, files) = hold_and_kill(&dir, partitions)?;
        workspace::sync(&dir)?;
        let mut opened = [0.0; 2];
        for millis in &mut opened {
            let started = Instant::now();
            let log = Log::blocking_open(&dir)?;
            *millis = started.elapsed().as_secs_f64() * 1e3;
            log.blocking_close()?;
        }
        println!(
            "| {partitions} | {:.1} | {files} | {:.1} | {:.1} |",
            memory as f64 * 1024.0 / 1e6,
            opened[0],
            opened[1]
        );
        workspace.remove(&dir)?;
    }
    Ok(())
}

fn hold_and_kill(dir: &Path, partitions: u32) -> Result<(u64, u64)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--hold", &partitions.to_string(), "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
    child.kill()?;
    child.wait()?;
    read.transpose()?;
    let mut numbers = line.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(memory), Some(files)) => Ok((memory?, files?)),
        _ => Err("the child said nothing".into()),
    }
}

/// The child's part; never returns but with an error.
pub(crate) fn hold(dir: &Path, partitions: u32) -> Result<()> {
    let log = Log::blocking_open(dir)?;
    let durability = if partitions == 1 { Durability::Os } else { Durability::Sync };
    let settings = TopicSettings::default().partitions(partitions).durability(durability);
    let topic: Topic = log.blocking_create_topic(TopicDef::named("t"), settings)?;
    let mut payloads = Payloads::new(100, 0);
    let (started, mut next, mut told) = (Instant::now(), 0_u64, false);
    while started.elapsed() < CHILD_TIME_MAX {
        if partitions == 1 {
            topic.blocking_produce_batch(payloads.batch(BATCH_RECORDS).records().map(record))?;
        } else {
            let mut sent = Vec::new();
            for _ in 0..1_000 {
                sent.push(
                    topic.blocking_send(record(payloads.one()).partition((next % u64::from(partitions)) as u32))?,
                );
                next += 1;
            }
            for delivery in sent {
                delivery.wait()?;
            }
        }
        if !told && started.elapsed() > TIME && (partitions == 1 || next >= 2 * u64::from(partitions)) {
            told = true;
            println!("{} {}", peak_memory_kib(), fs::read_dir("/proc/self/fd")?.count());
            std::io::stdout().flush()?;
        }
    }
    Err("nobody killed this process".into())
}

fn record(payload: &[u8]) -> Record {
    let (key, value) = payload.split_at(8);
    Record::new(Bytes::copy_from_slice(value)).key(key)
}

fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}
