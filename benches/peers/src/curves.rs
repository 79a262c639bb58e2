//! How the costs of annals grow with what it holds: the log's size, segments, partitions, tailing subscribers. Costs must
//! grow with the work only, so most columns should hardly change from row to row.

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use annals::{Durability, Log, Record, Start, Topic, TopicSettings};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::runtime::Runtime;

use crate::{
    bars::fill_and_kill,
    contender::{Entrant, Level, Result},
    contenders,
    load::Payloads,
    workspace::{self, Workspace},
};

const BATCH_RECORDS: usize = 100;
/// What is appended, and timed, at the end of a log that is there already.
const APPENDED_BYTES: u64 = 16 << 20;
/// What a row of a curve may cost before larger ones are left out.
const ROW_TIME_MAX: Duration = Duration::from_secs(20);
/// Deliveries of a row of the last curve, more or less.
const DELIVERIES: usize = 2_000_000;

/// A table that is printed row by row, since the last rows take long.
struct Curve;

impl Curve {
    fn begin(title: &str, columns: &[&str]) -> Self {
        println!("\n### {title}\n\n| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
        Self
    }

    fn row(&self, cells: &[String]) {
        println!("| {} |", cells.join(" | "));
    }

    /// Runs `measure` for each size until one takes too long: what comes after it is ten times that.
    fn rows(&self, sizes: &[u64], mut measure: impl FnMut(u64) -> Result<Vec<String>>) {
        let mut too_long = false;
        for size in sizes {
            if too_long {
                self.row(&[grouped(*size), "left out: it would take too long here".to_owned()]);
                continue;
            }
            let started = Instant::now();
            match measure(*size) {
                Ok(cells) => self.row(&cells),
                Err(error) => self.row(&[grouped(*size), format!("failed: {error}")]),
            }
            too_long = started.elapsed() > ROW_TIME_MAX;
        }
    }
}

/// Prints all curves; `large` adds a log of 10 GB.
pub(crate) fn run(dir: &Path, large: bool) -> Result<()> {
    let workspace = Workspace::new(dir)?;
    let annals = contenders::all().find(|entrant| entrant.name == "annals").ok_or("annals takes no part")?;
    println!(
        "## How the costs of annals grow\n\nRecords of 1 KiB and, where it says so, 100 B; random payloads with a key."
    );
    over_size(&workspace, annals, large)?;
    over_segments(&workspace)?;
    over_partitions(&workspace)?;
    over_subscribers(&workspace)
}

fn over_size(workspace: &Workspace, annals: &Entrant, large: bool) -> Result<()> {
    let curve = Curve::begin(
        "Over the size of the log: 1 KiB records, one partition, segments of 64 MiB",
        &[
            "MB",
            "open, closed, ms",
            "open, killed (durable), ms",
            "append, page cache, batches of 100",
            "replay",
            "first record from the middle, ms",
        ],
    );
    let sizes: &[u64] = if large { &[1, 10, 100, 1_000, 10_000] } else { &[1, 10, 100, 1_000] };
    curve.rows(sizes, |megabytes| {
        let bytes = megabytes * 1_000_000;
        let dir = workspace.fresh()?;
        fill_and_kill(annals, Level::Durable, &dir, bytes)?;
        let started = Instant::now();
        Log::blocking_open(&dir)?.blocking_close()?;
        let killed = started.elapsed();
        workspace.remove(&dir)?;

        let dir = workspace.fresh()?;
        let log = Log::blocking_open(&dir)?;
        let topic = topic(&log, "t", TopicSettings::default().durability(Durability::Os))?;
        append(&topic, 1024, bytes)?;
        log.blocking_close()?;
        let (open, append, replay, first) = measure(&dir)?;
        workspace.remove(&dir)?;
        Ok(vec![grouped(megabytes), millis(open), millis(killed), append, replay, millis(first)])
    });
    Ok(())
}

fn over_segments(workspace: &Workspace) -> Result<()> {
    let curve = Curve::begin(
        "Over the number of segments: 1 KiB records, one partition, segments of 64 KiB",
        &[
            "segments",
            "open, closed, ms",
            "append, page cache, batches of 100",
            "replay",
            "first record from the middle, ms",
        ],
    );
    curve.rows(&[1, 10, 100, 1_000], |segments| {
        let dir = workspace.fresh()?;
        let log = Log::blocking_open(&dir)?;
        let settings = TopicSettings::default().durability(Durability::Os).segment_bytes_max(64 << 10);
        let topic = topic(&log, "t", settings)?;
        let mut payloads = Payloads::new(1024, 0);
        while (topic.watermarks(0)?.segments as u64) < segments {
            topic.blocking_produce(record(payloads.one()))?;
        }
        // The last one is half full.
        topic.blocking_produce_batch((0..30).map(|_| record(payloads.one())))?;
        log.blocking_close()?;
        let (open, append, replay, first) = measure(&dir)?;
        workspace.remove(&dir)?;
        Ok(vec![grouped(segments), millis(open), append, replay, millis(first)])
    });
    Ok(())
}

/// Opens a log that was closed; times the opening, reading from the middle, reading all, and appending more. What is appended
/// is a fixed amount, so a small log grows by it.
fn measure(dir: &Path) -> Result<(Duration, String, String, Duration)> {
    workspace::sync(dir)?;
    let started = Instant::now();
    let log = Log::blocking_open(dir)?;
    let open = started.elapsed();
    let topic = log.raw_topic("t")?;
    let end = topic.watermarks(0)?.high_watermark;
    let started = Instant::now();
    let mut middle = topic.replay_partition(0, Start::Offset(end / 2)).blocking()?;
    middle.next()?.ok_or("nothing in the middle")?;
    let first = started.elapsed();

    let started = Instant::now();
    let mut history = topic.replay(Start::Earliest).blocking()?;
    let mut records = 0;
    while let Some(record) = history.next()? {
        std::hint::black_box(record.value());
        records += 1;
    }
    let replay = rate(records, started.elapsed());

    let started = Instant::now();
    let appended = append(&topic, 1024, APPENDED_BYTES)?;
    let append = rate(appended, started.elapsed());
    log.blocking_close()?;
    Ok((open, append, replay, first))
}

fn over_partitions(workspace: &Workspace) -> Result<()> {
    let curve = Curve::begin(
        "Over the number of partitions of a topic: 100 B records, round-robin",
        &[
            "partitions",
            "create, ms",
            "open, closed, ms",
            "append, page cache, one a call",
            "append, durable, pipelined",
            "replay, merged",
        ],
    );
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    curve.rows(&[1, 10, 100, 1_000, 10_000], |partitions| {
        let dir = workspace.fresh()?;
        let outcome = partitions_row(&dir, partitions);
        workspace.remove(&dir)?;
        // A log that is open may need a file for each.
        let near_limit = limit.is_some_and(|limit| partitions >= limit / 2);
        outcome.map_err(|error| if near_limit { format!("{error} (limit of files: {limit:?})").into() } else { error })
    });
    Ok(())
}

fn partitions_row(dir: &Path, partitions: u64) -> Result<Vec<String>> {
    let settings = TopicSettings::default().partitions(u32::try_from(partitions)?);
    let log = Log::blocking_open(dir)?;
    let started = Instant::now();
    topic(&log, "durable", settings.clone())?;
    let create = started.elapsed();
    topic(&log, "t", settings.durability(Durability::Os))?;
    log.blocking_close()?;

    workspace::sync(dir)?;
    let started = Instant::now();
    let log = Log::blocking_open(dir)?;
    let open = started.elapsed();
    let (cached, durable) = (log.raw_topic("t")?, log.raw_topic("durable")?);
    let mut payloads = Payloads::new(100, 0);
    let place = |number: u64| u32::try_from(number % partitions).unwrap_or_default();

    let (started, mut sent) = (Instant::now(), 0);
    let mut deliveries = Vec::new();
    while started.elapsed() < Duration::from_millis(700) {
        for _ in 0..1_000 {
            deliveries.push(durable.blocking_send(record(payloads.one()).partition(place(sent)))?);
            sent += 1;
        }
    }
    for delivery in deliveries.drain(..) {
        delivery.wait()?;
    }
    let pipelined = rate(sent, started.elapsed());

    let (started, mut written) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_millis(500) {
        for _ in 0..1_000 {
            cached.blocking_produce(record(payloads.one()).partition(place(written)))?;
            written += 1;
        }
    }
    let cached_rate = rate(written, started.elapsed());

    let (started, mut read) = (Instant::now(), 0);
    let mut history = cached.replay(Start::Earliest).blocking()?;
    while let Some(record) = history.next()? {
        std::hint::black_box(record.value());
        read += 1;
    }
    let replay = rate(read, started.elapsed());
    drop(history);
    log.blocking_close()?;
    Ok(vec![grouped(partitions), millis(create), millis(open), cached_rate, pipelined, replay])
}

fn over_subscribers(workspace: &Workspace) -> Result<()> {
    let curve = Curve::begin(
        "Over the number of tailing subscribers: one publisher, 100 B records, page cache, batches of 100, tasks on two threads",
        &["subscribers", "append", "deliveries"],
    );
    let runtime = Runtime::new()?;
    curve.rows(&[1, 10, 100, 1_000], |subscribers| {
        let dir = workspace.fresh()?;
        let log = Log::blocking_open(&dir)?;
        let topic = topic(&log, "t", TopicSettings::default().durability(Durability::Os))?;
        let count = usize::try_from(subscribers)?;
        let batches = (DELIVERIES / count / BATCH_RECORDS).clamp(20, 10_000);
        let records = batches * BATCH_RECORDS;
        let followers: Vec<_> = (0..count).map(|_| runtime.spawn(follow(topic.clone(), records))).collect();
        // Until all of them wait at the end of the log.
        std::thread::sleep(Duration::from_millis(200));
        let started = Instant::now();
        let mut payloads = Payloads::new(100, 0);
        for _ in 0..batches {
            topic.blocking_produce_batch(payloads.batch(BATCH_RECORDS).records().map(record))?;
        }
        let appended = started.elapsed();
        for follower in followers {
            runtime.block_on(follower)??;
        }
        let delivered = started.elapsed();
        log.blocking_close()?;
        workspace.remove(&dir)?;
        let deliveries = (records * count) as u64;
        Ok(vec![grouped(subscribers), rate(records as u64, appended), rate(deliveries, delivered)])
    });
    Ok(())
}

/// Reads the first `records` records as they come.
async fn follow(topic: Topic, records: usize) -> Result<()> {
    let mut tail = topic.replay(Start::Earliest).follow();
    for expected in 0..records as u64 {
        let message = tail.next().await.ok_or("the tail has ended")??;
        if message.offset() != expected {
            return Err(format!("offset {} where {expected} was to come", message.offset()).into());
        }
    }
    Ok(())
}

fn topic(log: &Log, name: &str, settings: TopicSettings) -> Result<Topic> {
    Ok(log.blocking_create_topic(annals::TopicDef::named(name), settings)?)
}

fn record(payload: &[u8]) -> Record {
    let (key, value) = payload.split_at(8);
    Record::new(Bytes::copy_from_slice(value)).key(key)
}

/// Appends at least `bytes` in batches and returns how many records that were.
fn append(topic: &Topic, record_bytes: usize, bytes: u64) -> Result<u64> {
    let mut payloads = Payloads::new(record_bytes, 0);
    let (mut written, mut records) = (0, 0);
    while written < bytes {
        let batch = payloads.batch(BATCH_RECORDS);
        topic.blocking_produce_batch(batch.records().map(record))?;
        written += batch.bytes.len() as u64;
        records += batch.len() as u64;
    }
    Ok(records)
}

fn rate(count: u64, time: Duration) -> String {
    match count as f64 / time.as_secs_f64() {
        rate if rate >= 1e6 => format!("{:.2} M/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k/s", rate / 1e3),
        rate => format!("{rate:.0} /s"),
    }
}

fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// 10000 as 10,000.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        let _infallible = out.write_char(digit);
    }
    out
}
