//! P8: how long it takes to open a log that was closed in an orderly way, and one whose process was killed.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use super::{BATCH_RECORDS, Context, attempt};
use crate::{
    contender::{Bar, Entrant, Level, Result, Shape},
    load::Payloads,
    table::{Sample, Table, Unit},
    workspace,
};

const RECORD_BYTES: usize = 1024;
/// What is sent before the acknowledgements are awaited, in a durable fill.
const PIPELINED_RECORDS: usize = 100 * BATCH_RECORDS;
const FILLED: &str = "filled";

/// One fill a contender and level, since filling 1 GB is long against what it yields: the child that filled the log is
/// killed while it appends, and what it left is opened once as it is, and after an orderly close once a round. Who fills
/// durably is what the bar is about; what lies in the page cache only has to be made durable first by whoever promises
/// that what was served stays.
pub(super) fn run(context: &Context) -> Result<Vec<Table>> {
    let megabytes = context.scale.open_bytes / 1_000_000;
    let title = |how| format!("open {megabytes} MB of {RECORD_BYTES} B records, {how}, warm, one fill");
    let table = |title, variant| Table::new(Bar::P8, title, variant, Unit::Milliseconds, &context.entrants);
    let mut clean = table(title("closed cleanly"), "P8 clean");
    let mut durable = table(title("filled durably, killed (kill -9) in mid-append"), "P8 killed");
    let mut cached = table(title("filled in the page cache, killed (kill -9) in mid-append"), "P8 killed, page cache");
    durable.rows.retain(|row| row.entrant.offers(Bar::P3));
    cached.rows.retain(|row| row.entrant.offers(Bar::P2));
    for row in &mut clean.rows {
        for (level, killed) in [(Level::PageCache, &mut cached), (Level::Durable, &mut durable)] {
            let variant = killed.variant;
            let Some(killed) = killed.rows.iter_mut().find(|other| other.entrant.name == row.entrant.name) else {
                continue;
            };
            let dir = context.workspace.fresh()?;
            attempt(killed, variant, |entrant| {
                fill_and_kill(entrant, level, &dir, context.scale.open_bytes)?;
                context.workspace.warm_memory(context.scale.bulk_bytes_max)?;
                open_timed(entrant, level, &dir)
            });
            // Once a contender: by its default, which comes last.
            if level == Level::Durable || !row.entrant.offers(Bar::P3) {
                row.failure.clone_from(&killed.failure);
                for _ in 0..context.scale.rounds {
                    attempt(row, clean.variant, |entrant| open_timed(entrant, level, &dir));
                }
            }
            context.workspace.remove(&dir)?;
        }
    }
    Ok(vec![clean, durable, cached])
}

/// Opens for appending and reading, closes, and writes out what either left dirty.
fn open_timed(entrant: &Entrant, level: Level, dir: &Path) -> Result<Sample> {
    let started = Instant::now();
    let log = (entrant.open)(dir, level, Shape::ONE)?;
    drop(log.producer(0)?);
    let value = started.elapsed().as_secs_f64() * 1e3;
    log.close()?;
    workspace::sync(dir)?;
    Ok(Sample { value, ..Sample::default() })
}

/// Has a process of its own fill the log, and kills it while it goes on appending.
pub(crate) fn fill_and_kill(entrant: &Entrant, level: Level, dir: &Path, bytes: u64) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            if level == Level::Durable { "--fill-durably" } else { "--fill" },
            entrant.name,
            &bytes.to_string(),
            "--dir",
        ])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
    child.kill()?;
    child.wait()?;
    read.transpose()?;
    if line.trim() != FILLED {
        return Err("the child could not fill the log".into());
    }
    // The machine did not crash: the pages are intact. Writing them out now keeps that off the timed open.
    workspace::sync(dir)
}

/// The child's part; never returns but with an error.
pub(crate) fn fill_until_killed(entrant: &Entrant, level: Level, dir: &Path, bytes: u64) -> Result<()> {
    let log = (entrant.open)(dir, level, Shape::ONE)?;
    let mut producer = log.producer(0)?;
    let mut payloads = Payloads::new(RECORD_BYTES, 0);
    let mut written = 0;
    let mut told = false;
    loop {
        if level == Level::Durable {
            for _ in 0..PIPELINED_RECORDS {
                producer.send(payloads.one())?;
            }
            producer.settle()?;
            written += (PIPELINED_RECORDS * RECORD_BYTES) as u64;
        } else {
            let batch = payloads.batch(BATCH_RECORDS);
            producer.append_batch(batch)?;
            written += batch.bytes.len() as u64;
        }
        if written >= bytes && !told {
            told = true;
            println!("{FILLED}");
            std::io::stdout().flush()?;
        }
        if written > bytes * 2 {
            // The parent is gone: do not fill the disk.
            return Err("nobody killed this process".into());
        }
    }
}
