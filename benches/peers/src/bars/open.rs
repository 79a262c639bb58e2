//! P8: how long it takes to open a log that was closed in an orderly way, and one whose process was killed.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use super::{BATCH_RECORDS, Context, attempt};
use crate::{
    contender::{Bar, Entrant, Result, Shape},
    load::Payloads,
    table::{Sample, Table, Unit},
    workspace,
};

const RECORD_BYTES: usize = 1024;
const FILLED: &str = "filled";

/// One fill a contender, since filling 1 GB is long against what it yields: the child that filled the log is killed
/// while it appends, and what it left is opened once as it is, and after an orderly close once a round.
pub(super) fn run(context: &Context) -> Result<Vec<Table>> {
    let megabytes = context.scale.open_bytes / 1_000_000;
    let title = |how| format!("open {megabytes} MB of {RECORD_BYTES} B records, {how}, warm, one fill");
    let table = |title, variant| Table::new(Bar::P8, title, variant, Unit::Milliseconds, &context.entrants);
    let mut clean = table(title("closed cleanly"), "P8 clean");
    let mut killed = table(title("after kill -9 in mid-append"), "P8 killed");
    for at in 0..killed.rows.len() {
        let dir = context.workspace.fresh()?;
        let bytes = context.scale.open_bytes;
        attempt(&mut killed.rows[at], "P8 killed", |entrant| {
            fill_and_kill(entrant, &dir, bytes)?;
            context.workspace.warm_memory(context.scale.bulk_bytes_max)?;
            open_timed(entrant, &dir)
        });
        clean.rows[at].failure.clone_from(&killed.rows[at].failure);
        for _ in 0..context.scale.rounds {
            attempt(&mut clean.rows[at], "P8 clean", |entrant| open_timed(entrant, &dir));
        }
        context.workspace.remove(&dir)?;
    }
    Ok(vec![clean, killed])
}

/// Opens for appending and reading, closes, and writes out what either left dirty.
fn open_timed(entrant: &Entrant, dir: &Path) -> Result<Sample> {
    let started = Instant::now();
    let log = (entrant.open)(dir, entrant.fill_level(), Shape::ONE)?;
    drop(log.producer(0)?);
    let value = started.elapsed().as_secs_f64() * 1e3;
    log.close()?;
    workspace::sync(dir)?;
    Ok(Sample { value, ..Sample::default() })
}

/// Has a process of its own fill the log, and kills it while it goes on appending.
fn fill_and_kill(entrant: &Entrant, dir: &Path, bytes: u64) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--fill", entrant.name, &bytes.to_string(), "--dir"])
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
pub(crate) fn fill_until_killed(entrant: &Entrant, dir: &Path, bytes: u64) -> Result<()> {
    let log = (entrant.open)(dir, entrant.fill_level(), Shape::ONE)?;
    let mut producer = log.producer(0)?;
    let mut payloads = Payloads::new(RECORD_BYTES, 0);
    let mut written = 0;
    let mut told = false;
    loop {
        let batch = payloads.batch(BATCH_RECORDS);
        producer.append_batch(batch)?;
        written += batch.bytes.len() as u64;
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
