//! P3, P4, P5 and P15: what waits for the disk. 100 B records.

use std::time::Instant;

use super::{Context, rounds};
use crate::{
    contender::{Bar, Contender, Level, Result, Shape},
    load::{Load, Pace, Payloads},
    table::{Sample, Table, Unit},
};

const RECORD_BYTES: usize = 100;
const PRODUCERS: usize = 64;
/// What P5 sends before it awaits everything: bounds what a contender has to hold.
const WINDOW_RECORDS: usize = 100_000;

pub(super) fn run(context: &Context, bar: Bar) -> Result<Vec<Table>> {
    let (title, variant) = match bar {
        Bar::P3 => ("durable, one producer, one record at a time", "P3"),
        Bar::P4 => ("durable, 64 producers, each awaits its own", "P4"),
        Bar::P5 => ("durable, one producer, pipelined, all awaited at the end", "P5"),
        _ => ("durable, 64 producers over 64 partitions of 16 topics, each awaits its own", "P15"),
    };
    let title = format!("{title}, {RECORD_BYTES} B");
    let mut table = Table::new(bar, title, variant, Unit::RecordsPerSecond, &context.entrants);
    // The sync workloads write some MB.
    let bytes_max = if bar == Bar::P5 { context.scale.bulk_bytes_max } else { 16 << 20 };
    rounds(context, &mut table, bytes_max, |entrant, dir| {
        let shape = if bar == Bar::P15 { Shape::SPREAD } else { Shape::ONE };
        let log = (entrant.open)(dir, Level::Durable, shape)?;
        let sample = match bar {
            Bar::P5 => pipelined(context, log.as_ref())?,
            Bar::P3 => raced(context, log.as_ref(), 1)?,
            _ => raced(context, log.as_ref(), PRODUCERS)?,
        };
        log.close()?;
        Ok(sample)
    })?;
    Ok(vec![table])
}

/// Appends once from each producer before the clock starts: files are created and preallocated by then.
fn warm(log: &dyn Contender, producers: usize) -> Result<()> {
    for number in 0..producers {
        log.producer(number)?.append_one(Payloads::new(RECORD_BYTES, number).one())?;
    }
    Ok(())
}

fn raced(context: &Context, log: &dyn Contender, producers: usize) -> Result<Sample> {
    warm(log, producers)?;
    let flushes_before = context.machine.flushes();
    let paces = if producers == 1 {
        vec![alone(context, log)?]
    } else {
        log.race(&Load::new(producers, RECORD_BYTES, context.scale.time))?
    };
    let flushes = context.machine.flushes().zip(flushes_before).map(|(after, before)| after - before);
    let mut latencies: Vec<u32> = paces.iter().flat_map(|pace| pace.latencies_ns.iter().copied()).collect();
    latencies.sort_unstable();
    let started = paces.iter().map(|pace| pace.started).min();
    let ended = paces.iter().map(|pace| pace.ended).max();
    let (Some(started), Some(ended), Some(_)) = (started, ended, latencies.first()) else {
        return Err("nothing was acknowledged".into());
    };
    let records = latencies.len() as f64;
    let percentile = |p: f64| f64::from(latencies[(p * (records - 1.0)) as usize]) / 1e6;
    let mut extras = vec![("p50 ms", percentile(0.5)), ("p99 ms", percentile(0.99))];
    extras.extend(flushes.map(|flushes| ("device flushes a record", flushes as f64 / records)));
    Ok(Sample { value: records / (ended - started).as_secs_f64(), extras, ..Sample::default() })
}

/// P3 runs on the calling thread even where a race would run tasks: a lone producer pays for no hop.
fn alone(context: &Context, log: &dyn Contender) -> Result<Pace> {
    let mut producer = log.producer(0)?;
    let mut pace = Load::new(1, RECORD_BYTES, context.scale.time).pace(0);
    while let Some(payload) = pace.next() {
        producer.append_one(payload)?;
        pace.acknowledged();
    }
    Ok(pace)
}

fn pipelined(context: &Context, log: &dyn Contender) -> Result<Sample> {
    warm(log, 1)?;
    let mut producer = log.producer(0)?;
    let mut payloads = Payloads::new(RECORD_BYTES, 0);
    let time = context.scale.time;
    let mut records = 0_u64;
    let started = Instant::now();
    while started.elapsed() < time {
        let mut sent = 0;
        while sent < WINDOW_RECORDS {
            producer.send(payloads.one())?;
            sent += 1;
            if sent.is_multiple_of(64) && started.elapsed() >= time {
                break;
            }
        }
        producer.settle()?;
        records += sent as u64;
    }
    let value = records as f64 / started.elapsed().as_secs_f64();
    drop(producer);
    Ok(Sample { value, ..Sample::default() })
}
