//! P1 and P2: one producer into the page cache, a record or a batch of 100 a call.

use std::{path::Path, time::Instant};

use super::{BATCH_RECORDS, Context, rounds};
use crate::{
    contender::{Bar, Entrant, Level, Result, Shape},
    load::Payloads,
    table::{Sample, Table, Unit},
};

pub(super) fn run(context: &Context, bar: Bar) -> Result<Vec<Table>> {
    let (what, records, variants) = match bar {
        Bar::P1 => ("one record a call", 1, ["P1 100 B", "P1 1 KiB"]),
        _ => ("batches of 100", BATCH_RECORDS, ["P2 100 B", "P2 1 KiB"]),
    };
    let mut tables = Vec::new();
    for (record_bytes, variant) in [100, 1024].into_iter().zip(variants) {
        let title = format!("page cache, one producer, {what}, {record_bytes} B");
        let mut table = Table::new(bar, title, variant, Unit::RecordsPerSecond, &context.entrants);
        rounds(context, &mut table, context.scale.bulk_bytes_max, |entrant, dir| {
            measure(context, entrant, dir, record_bytes, records)
        })?;
        tables.push(table);
    }
    Ok(tables)
}

fn measure(
    context: &Context,
    entrant: &Entrant,
    dir: &Path,
    record_bytes: usize,
    batch_records: usize,
) -> Result<Sample> {
    let log = (entrant.open)(dir, Level::PageCache, Shape::ONE)?;
    let mut producer = log.producer(0)?;
    let mut payloads = Payloads::new(record_bytes, 0);
    producer.append_one(payloads.one())?; // What is made upon the first append is not what is measured.
    let bytes_max = context.scale.bulk_bytes_max;
    let (mut records, mut bytes) = (0_u64, 0_u64);
    let started = Instant::now();
    loop {
        // The clock is read once in about 256 records.
        for _ in 0..256_usize.div_ceil(batch_records) {
            if batch_records == 1 {
                producer.append_one(payloads.one())?;
            } else {
                producer.append_batch(payloads.batch(batch_records))?;
            }
            records += batch_records as u64;
            bytes += (batch_records * record_bytes) as u64;
        }
        if started.elapsed() >= context.scale.time || bytes >= bytes_max {
            break;
        }
    }
    let value = records as f64 / started.elapsed().as_secs_f64();
    drop(producer);
    log.close()?;
    Ok(Sample { value, ..Sample::default() })
}
