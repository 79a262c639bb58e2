//! The workloads. Each measures the contenders that offer it, in rounds A B C A B C, in fresh directories.

mod append;
mod durable;
mod open;
mod replay;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::LazyLock,
    time::Instant,
};

pub(crate) use open::{fill_and_kill, fill_until_killed};

use crate::{
    args::Scale,
    contender::{Bar, Contender, Entrant, Result},
    load::Payloads,
    machine::Machine,
    table::{Row, Sample, Table},
    workspace::Workspace,
};

pub(crate) struct Context {
    pub(crate) scale: Scale,
    pub(crate) workspace: Workspace,
    pub(crate) machine: Machine,
    pub(crate) entrants: Vec<&'static Entrant>,
}

/// Measures the chosen bars; `show` is given each table as soon as it is there. Sync workloads come first: the
/// dirty pages of bulk ones would be written out under their feet.
pub(crate) fn run(context: &Context, only: &[Bar], show: &mut dyn FnMut(Table)) -> Result<()> {
    let wanted = |bar: &Bar| only.contains(bar);
    for bar in [Bar::P3, Bar::P4, Bar::P15, Bar::P5].iter().filter(|bar| wanted(bar)) {
        durable::run(context, *bar)?.into_iter().for_each(&mut *show);
    }
    for bar in [Bar::P1, Bar::P2].iter().filter(|bar| wanted(bar)) {
        append::run(context, *bar)?.into_iter().for_each(&mut *show);
    }
    if wanted(&Bar::P6) || wanted(&Bar::P9) {
        replay::run(context)?.into_iter().filter(|table| wanted(&table.bar)).for_each(&mut *show);
    }
    if wanted(&Bar::P17) {
        show(replay::run_merged(context)?);
    }
    if wanted(&Bar::P8) {
        open::run(context)?.into_iter().for_each(&mut *show);
    }
    Ok(())
}

/// Interleaved rounds of `measure`, which writes up to `bytes_max`, over the table's rows. A contender that fails is left out of later rounds; a
/// peer's defect must not cost the other figures.
fn rounds(
    context: &Context,
    table: &mut Table,
    bytes_max: u64,
    measure: impl Fn(&Entrant, &Path) -> Result<Sample>,
) -> Result<()> {
    for _ in 0..context.scale.rounds {
        for row in &mut table.rows {
            let dir = context.workspace.fresh()?;
            context.workspace.warm_memory(bytes_max)?;
            attempt(row, table.variant, |entrant| measure(entrant, &dir));
            context.workspace.remove(&dir)?;
        }
    }
    Ok(())
}

/// Takes one sample, unless the row failed before.
fn attempt(row: &mut Row, what: &str, measure: impl FnOnce(&Entrant) -> Result<Sample>) {
    if row.failure.is_some() {
        return;
    }
    eprintln!("{:6.1} s  {what}: {}", started().elapsed().as_secs_f64(), row.entrant.name);
    let outcome = catch_unwind(AssertUnwindSafe(|| measure(row.entrant)));
    match outcome {
        Ok(Ok(sample)) => row.samples.push(sample),
        Ok(Err(error)) => row.failure = Some(error.to_string()),
        Err(panic) => row.failure = Some(format!("panicked: {}", panic_text(panic.as_ref()))),
    }
    if let Some(failure) = &row.failure {
        eprintln!("  failed: {failure}");
    }
}

/// When the run began, for the progress lines.
fn started() -> Instant {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    *STARTED
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// Appends at least `bytes` of payload, a batch of 100 to each partition in turn, and returns how many records that
/// were.
fn fill(log: &dyn Contender, partitions: usize, record_bytes: usize, bytes: u64) -> Result<u64> {
    let mut producers = (0..partitions).map(|number| log.producer(number)).collect::<Result<Vec<_>>>()?;
    let mut payloads = Payloads::new(record_bytes, 0);
    let (mut records, mut written) = (0, 0);
    while written < bytes {
        for producer in &mut producers {
            let batch = payloads.batch(BATCH_RECORDS);
            producer.append_batch(batch)?;
            written += batch.bytes.len() as u64;
            records += batch.len() as u64;
        }
    }
    Ok(records)
}

const BATCH_RECORDS: usize = 100;
