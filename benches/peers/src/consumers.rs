//! What consuming costs (P7, P10, P12, P16), beside producing in the same run; and what groups cost that do nothing. No peer has
//! consumer groups, so the limits are annals' own figures for producing, measured in turn with those for consuming.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use annals::{Consumer, Durability, Log, Record, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::{contender::Result, workspace::Workspace};

const TIME: Duration = Duration::from_millis(700);
const PING_PONGS: usize = 60_000;
const FLOOD: usize = 2_000_000;
const SUBSCRIBERS: usize = 100;
const TASKS: u32 = 64;

struct Row {
    bar: &'static str,
    what: String,
    unit: &'static str,
    rounds: Vec<f64>,
}

/// All rows, with the samples of each round.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, bar: &'static str, what: &str, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|row| row.bar == bar && row.what == what) {
            Some(row) => row.rounds.push(value),
            None => self.0.push(Row { bar, what: what.to_owned(), unit, rounds: vec![value] }),
        }
    }

    fn print(&self) {
        println!("\n### Consuming\n\n| bar | what | median | least | most | |\n|---|---|---|---|---|---|");
        for Row { bar, what, unit, rounds } in &self.0 {
            let mut sorted = rounds.clone();
            sorted.sort_by(f64::total_cmp);
            let (first, last) = (sorted[0], sorted[sorted.len() - 1]);
            println!("| {bar} | {what} | {:.2} | {first:.2} | {last:.2} | {unit} |", sorted[sorted.len() / 2]);
        }
    }
}

/// Prints the table.
pub(crate) fn run(dir: &Path, rounds: usize, with: &[String]) -> Result<()> {
    let workspace = Workspace::new(dir)?;
    let mut rows = Rows::default();
    for _ in 0..rounds {
        for (_, part) in PARTS.iter().filter(|(name, _)| with.is_empty() || with.iter().any(|part| part == name)) {
            part(&workspace, &mut rows)?;
        }
    }
    rows.print();
    Ok(())
}

type Part = fn(&Workspace, &mut Rows) -> Result<()>;

const PARTS: [(&str, Part); 9] = [
    ("deliver", ping_pong),
    ("flood", flood),
    ("fan-out", fan_out),
    ("one", one_by_one),
    ("many", many),
    ("rebalance", rebalance),
    ("idle", idle),
    ("reopen", reopen),
    ("groups", groups),
];

fn create(log: &Log, name: &str, partitions: u32, durability: Durability) -> Result<Topic> {
    let settings = TopicSettings::default().partitions(partitions).durability(durability);
    Ok(log.blocking_create_topic(TopicDef::named(name), settings)?)
}

fn record() -> Record {
    Record::new(Bytes::from_static(&[7; 90])).key("key-000017")
}

fn single() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn threads() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn percentile(samples: &mut [u64], part: f64) -> f64 {
    samples.sort_unstable();
    samples[((samples.len() - 1) as f64 * part) as usize] as f64 / 1e3
}

/// P7: a record, its delivery, the next record.
fn ping_pong(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let dir = workspace.fresh()?;
    let log = Log::blocking_open(&dir)?;
    let topic = create(&log, "t", 1, Durability::Os)?;
    // In one task, the consumer awaits; then in two tasks of one thread; then on another thread, which spins.
    let mut samples = single()?.block_on(async {
        let mut consumer = topic.subscribe("awaits").start(Start::Latest).build().await?;
        let (mut samples, to_task) = (Vec::with_capacity(PING_PONGS), topic.clone());
        let (go, mut gone) = tokio::sync::mpsc::unbounded_channel::<()>();
        let sent = Arc::new(AtomicU64::new(0));
        let (origin, stamp) = (Instant::now(), Arc::clone(&sent));
        let producer = tokio::spawn(async move {
            while gone.recv().await.is_some() {
                stamp.store(origin.elapsed().as_nanos() as u64, Ordering::Relaxed);
                drop(to_task.try_send(record()));
            }
        });
        for _ in 0..PING_PONGS {
            go.send(())?;
            consumer.recv().await?;
            samples.push(origin.elapsed().as_nanos() as u64 - sent.load(Ordering::Relaxed));
        }
        drop(go);
        producer.await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(samples)
    })?;
    rows.add("P7", "awaited, publish to deliver, p50", "us", percentile(&mut samples, 0.5));
    rows.add("P7", "awaited, publish to deliver, p99", "us", percentile(&mut samples, 0.99));
    let mut consumer = topic.subscribe("spins").start(Start::Latest).blocking_build()?;
    let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let origin = Instant::now();
    let spinner = std::thread::spawn({
        let (sent, received, stop) = (Arc::clone(&sent), Arc::clone(&received), Arc::clone(&stop));
        move || {
            let mut samples = Vec::with_capacity(PING_PONGS);
            while !stop.load(Ordering::Relaxed) {
                if matches!(consumer.try_recv(), Ok(Some(_))) {
                    samples.push(origin.elapsed().as_nanos() as u64 - sent.load(Ordering::Acquire));
                    received.fetch_add(1, Ordering::Release);
                }
            }
            samples
        }
    });
    for number in 0..PING_PONGS as u64 {
        sent.store(origin.elapsed().as_nanos() as u64, Ordering::Release);
        drop(topic.try_send(record()));
        while received.load(Ordering::Acquire) <= number {
            std::hint::spin_loop();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut samples = spinner.join().map_err(|_| "the spinning thread has panicked")?;
    rows.add("P7", "spinning on another thread, publish to deliver, p50", "us", percentile(&mut samples, 0.5));
    rows.add("P7", "spinning on another thread, publish to deliver, p99", "us", percentile(&mut samples, 0.99));
    log.blocking_close()?;
    workspace.remove(&dir)
}

/// P7, flooded: one thread writes single records, another receives them.
fn flood(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let dir = workspace.fresh()?;
    let log = Log::blocking_open(&dir)?;
    let topic = create(&log, "t", 1, Durability::Os)?;
    let mut consumer = topic.subscribe("g").blocking_build()?;
    let started = Instant::now();
    let producer = std::thread::spawn(move || {
        for _ in 0..FLOOD {
            drop(topic.blocking_produce(record()));
        }
    });
    let mut count = 0;
    while count < FLOOD {
        count += consumer.blocking_recv_batch(1000)?.len();
    }
    rows.add("P7", "flooded by one record a call", "M/s", FLOOD as f64 / started.elapsed().as_secs_f64() / 1e6);
    producer.join().map_err(|_| "the producing thread has panicked")?;
    drop(consumer);
    log.blocking_close()?;
    workspace.remove(&dir)
}

/// P12: one publisher, a hundred groups.
fn fan_out(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let dir = workspace.fresh()?;
    let log = Log::blocking_open(&dir)?;
    let topic = create(&log, "t", 1, Durability::Os)?;
    let records = 60_000_usize;
    let runtime = threads()?;
    let elapsed = runtime.block_on(async {
        let mut tasks = Vec::new();
        for number in 0..SUBSCRIBERS {
            let mut consumer = topic.subscribe(format!("g{number}")).build().await?;
            tasks.push(tokio::spawn(async move {
                let mut count = 0;
                while count < records {
                    count += consumer.recv_batch(1000).await?.len();
                }
                Ok::<_, annals::Error>(count)
            }));
        }
        let started = Instant::now();
        for _ in 0..records / 100 {
            topic.produce_batch((0..100).map(|_| record())).await?;
            tokio::task::yield_now().await;
        }
        for task in tasks {
            task.await??;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(started.elapsed())
    })?;
    let deliveries = (records * SUBSCRIBERS) as f64 / elapsed.as_secs_f64() / 1e6;
    rows.add("P12", "one publisher (batches of 100), 100 groups", "M deliveries/s", deliveries);
    log.blocking_close()?;
    workspace.remove(&dir)
}

/// Runs `step` for a while; answers how often a second.
fn rate(mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < TIME {
        step()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

fn fill(topic: &Topic, partition: u32, records: usize) -> Result<()> {
    for _ in 0..records.div_ceil(1000) {
        topic.blocking_produce_batch((0..1000).map(|_| record().partition(partition)))?;
    }
    Ok(())
}

/// P3 beside P10 and P16, one at a time.
fn one_by_one(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let dir = workspace.fresh()?;
    let log = Log::blocking_open(&dir)?;
    let (input, output) = (create(&log, "in", 1, Durability::Sync)?, create(&log, "out", 1, Durability::Sync)?);
    fill(&input, 0, 100_000)?;
    rows.add(
        "P3",
        "produce, durable, one at a time",
        "/s",
        rate(|| output.blocking_produce(record()).map(|_| ()).map_err(Into::into))?,
    );
    let mut consumer = input.subscribe("commits").blocking_build()?;
    let commits = rate(|| {
        let message = consumer.blocking_recv()?.ok_or("the log is closed")?;
        Ok(consumer.blocking_commit(&message)?)
    })?;
    rows.add("P10", "receive and commit, durable, one at a time", "/s", commits);
    let mut consumer = input.subscribe("transacts").blocking_build()?;
    let transactions = rate(|| {
        let message = consumer.blocking_recv()?.ok_or("the log is closed")?;
        let mut tx = log.transaction();
        tx.produce(&output, record())?;
        tx.commit_offset(&consumer, &message)?;
        Ok(drop(tx.blocking_commit()?))
    })?;
    rows.add("P16", "consume, produce and commit in a transaction, one at a time", "/s", transactions);
    let mut consumer = input.subscribe("notes").blocking_build()?;
    let batch = consumer.blocking_recv_batch(1000)?;
    let mut at = 0;
    let noted = rate(|| {
        for _ in 0..1000 {
            consumer.commit_async(&batch[at % batch.len()])?;
            at += 1;
        }
        Ok(())
    })?;
    rows.add("P10", "commit, not awaited", "M/s", noted * 1000.0 / 1e6);
    consumer.blocking_flush()?;
    drop(consumer);
    log.blocking_close()?;
    workspace.remove(&dir)
}

/// P4 beside P10 and P16, 64 tasks at once.
fn many(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let dir = workspace.fresh()?;
    let log = Log::blocking_open(&dir)?;
    let input = create(&log, "in", TASKS, Durability::Os)?;
    let output = create(&log, "out", TASKS, Durability::Sync)?;
    let one = create(&log, "one", 1, Durability::Sync)?;
    for partition in 0..TASKS {
        fill(&input, partition, 8_000)?;
    }
    let runtime = threads()?;
    let produced = all_at_once(&runtime, (0..TASKS).map(|_| one.clone()), |topic| {
        Box::pin(async move {
            topic.produce(record()).await?;
            Ok(())
        })
    })?;
    rows.add("P4", "produce, durable, 64 tasks", "k/s", produced / 1e3);
    let produced = all_at_once(&runtime, (0..TASKS).map(|number| (output.clone(), number)), |(topic, number)| {
        let record = record().partition(*number);
        Box::pin(async move {
            topic.produce(record).await?;
            Ok(())
        })
    })?;
    rows.add("P15", "produce, durable, 64 tasks over 64 partitions", "k/s", produced / 1e3);
    let members = members(&runtime, &input, "commits")?;
    let commits = all_at_once(&runtime, members, |consumer| {
        Box::pin(async move {
            let Some(message) = consumer.recv().await? else { return Ok(()) };
            Ok(consumer.commit(&message).await?)
        })
    })?;
    rows.add("P10", "receive and commit, durable, 64 members", "k/s", commits / 1e3);
    let members = self::members(&runtime, &input, "transacts")?;
    let transactions = all_at_once(
        &runtime,
        members.into_iter().enumerate().map(|(number, member)| (log.clone(), output.clone(), member, number as u32)),
        |(log, output, consumer, number)| {
            Box::pin(async move {
                let Some(message) = consumer.recv().await? else { return Ok(()) };
                let mut tx = log.transaction();
                tx.produce(output, record().partition(*number))?;
                tx.commit_offset(consumer, &message)?;
                Ok(drop(tx.commit().await?))
            })
        },
    )?;
    rows.add(
        "P16",
        "consume, produce and commit in a transaction, 64 tasks over 64 partitions",
        "k/s",
        transactions / 1e3,
    );
    drop(runtime);
    log.blocking_close()?;
    workspace.remove(&dir)
}

fn members(runtime: &Runtime, topic: &Topic, group: &str) -> Result<Vec<Consumer>> {
    runtime.block_on(async {
        let mut members = Vec::new();
        for _ in 0..TASKS {
            members.push(topic.subscribe(group).build().await?);
        }
        Ok(members)
    })
}

type Step<'a> = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Runs a task for each of `those`, all of them for a while; answers how many steps a second they made together.
fn all_at_once<W: Send + 'static>(
    runtime: &Runtime,
    those: impl IntoIterator<Item = W>,
    step: impl for<'a> Fn(&'a mut W) -> Step<'a> + Copy + Send + Sync + 'static,
) -> Result<f64> {
    let (count, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let tasks: Vec<_> = those
        .into_iter()
        .map(|mut one| {
            let count = Arc::clone(&count);
            runtime.spawn(async move {
                while started.elapsed() < TIME {
                    step(&mut one).await.map_err(|error| error.to_string())?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task)??;
    }
    Ok(count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}

/// 1,000 partitions, 100 members: one more comes, and goes.
fn rebalance(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let dir = workspace.fresh()?;
    let log = Log::blocking_open(&dir)?;
    let topic = create(&log, "t", 1_000, Durability::Os)?;
    let mut members = Vec::new();
    for _ in 0..100 {
        members.push(topic.subscribe("g").blocking_build()?);
    }
    let started = Instant::now();
    let one_more = topic.subscribe("g").blocking_build()?;
    rows.add(
        "",
        "rebalance of 1,000 partitions over 100 members, one joins",
        "ms",
        started.elapsed().as_secs_f64() * 1e3,
    );
    assert!(one_more.assignment().len() >= 9, "it has its share at once");
    let started = Instant::now();
    drop(one_more);
    rows.add("", "the same, one leaves", "ms", started.elapsed().as_secs_f64() * 1e3);
    drop(members);
    log.blocking_close()?;
    workspace.remove(&dir)
}

fn resident_bytes() -> Result<f64> {
    let pages: f64 = fs::read_to_string("/proc/self/statm")?.split(' ').nth(1).ok_or("no resident size")?.parse()?;
    Ok(pages * 4096.0)
}

/// What the process has used of the processor, in ms.
fn processor_time() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().ok_or("no times")?.split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) * 10.0)
}

/// 10,000 groups that follow a topic in which nothing happens.
fn idle(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let dir = workspace.fresh()?;
    let log = Log::blocking_open(&dir)?;
    let topic = create(&log, "t", 1, Durability::Os)?;
    topic.blocking_produce(record())?;
    let runtime = threads()?;
    let before = resident_bytes()?;
    let (memory, used) = runtime.block_on(async {
        let mut tasks = Vec::new();
        for number in 0..10_000 {
            let mut consumer = topic.subscribe(format!("g{number}")).build().await?;
            tasks.push(tokio::spawn(async move {
                // Dropped at once: a message keeps the memory that it was read into.
                drop(consumer.recv().await);
                drop(consumer.recv().await);
            }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (memory, used) = (resident_bytes()? - before, processor_time()?);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let used = processor_time()? - used;
        tasks.iter().for_each(|task| task.abort());
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((memory, used))
    })?;
    rows.add("", "10,000 idle groups, memory", "MB", memory / 1e6);
    rows.add("", "10,000 idle groups, processor time in a second", "ms", used);
    drop(runtime);
    log.blocking_close()?;
    workspace.remove(&dir)
}

/// A log with 100,000 committed offsets, opened and joined.
fn reopen(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let dir = workspace.fresh()?;
    let log = Log::blocking_open(&dir)?;
    let topic = create(&log, "t", 1_000, Durability::Os)?;
    for group in 0..100 {
        log.blocking_reset_group(&format!("g{group}"), ["t"], annals::Reset::Latest)?;
    }
    drop(topic);
    log.blocking_close()?;
    let started = Instant::now();
    let log = Log::blocking_open(&dir)?;
    let opened = started.elapsed();
    let groups = log.blocking_groups()?.len();
    rows.add("", "open a log with 100,000 committed offsets of 1,000 partitions", "ms", opened.as_secs_f64() * 1e3);
    rows.add("", "and read them", "ms", (started.elapsed() - opened).as_secs_f64() * 1e3);
    assert_eq!(groups, 100, "all of them are there");
    log.blocking_close()?;
    workspace.remove(&dir)
}

/// What a commit costs by how many groups there are, which commit in turn.
fn groups(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    for count in [1_usize, 10, 100, 1_000, 10_000] {
        let dir = workspace.fresh()?;
        let log = Log::blocking_open(&dir)?;
        let topic = create(&log, "t", 1, Durability::Os)?;
        let each = (20_000 / count).max(4);
        for _ in 0..each.div_ceil(1_000) {
            topic.blocking_produce_batch((0..each.min(1_000)).map(|_| record()))?;
        }
        let mut members = Vec::with_capacity(count);
        for number in 0..count {
            let mut consumer = topic.subscribe(format!("g{number}")).blocking_build()?;
            let mut messages = Vec::with_capacity(each);
            while messages.len() < each {
                messages.extend(consumer.blocking_recv_batch(each - messages.len())?);
            }
            members.push((consumer, messages));
        }
        // The first half of the messages one by one, the second without waiting.
        let (mut at, started) = (0, Instant::now());
        while started.elapsed() < TIME && at < count * each / 2 {
            let (consumer, messages) = &members[at % count];
            consumer.blocking_commit(&messages[at / count])?;
            at += 1;
        }
        let what = format!("{count} groups commit in turn, durable, one at a time");
        rows.add("", &what, "us a commit", started.elapsed().as_secs_f64() * 1e6 / at as f64);
        let (mut at, started) = (count * each / 2, Instant::now());
        let first = at;
        while at < count * each {
            let (consumer, messages) = &members[at % count];
            consumer.commit_async(&messages[at / count])?;
            at += 1;
        }
        for (consumer, _) in &members {
            consumer.blocking_flush()?;
        }
        let what = format!("{count} groups commit in turn, not awaited, and flushed");
        rows.add("", &what, "us a commit", started.elapsed().as_secs_f64() * 1e6 / (at - first) as f64);
        drop(members);
        log.blocking_close()?;
        workspace.remove(&dir)?;
    }
    Ok(())
}
