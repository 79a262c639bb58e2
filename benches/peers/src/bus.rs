//! What the event bus costs (P13): dispatching to a handler, alone and beside the consumer that it is built on; what keys that fail cost
//! the others; and what a process takes in which very many events wait for another attempt.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use annals::{
    Bus, Context, Durability, Event, Filter, HandlerError, Log, On, Raw, Record, Retry, TopicDef, TopicSettings,
};
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::{contender::Result, workspace::Workspace};

const EVENTS: u64 = 1_000_000;
const TOPIC: TopicDef<Bytes, Raw> = TopicDef::new("events");

/// A row of the table.
struct Row {
    what: String,
    rounds: Vec<f64>,
    unit: &'static str,
}

#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, what: &str, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|row| row.what == what) {
            Some(row) => row.rounds.push(value),
            None => self.0.push(Row { what: what.to_owned(), unit, rounds: vec![value] }),
        }
    }
}

/// Prints the table.
pub(crate) fn run(dir: &Path, rounds: usize) -> Result<()> {
    let workspace = Workspace::new(dir)?;
    let mut rows = Rows::default();
    for _ in 0..rounds {
        dispatch(&workspace, &mut rows)?;
        failing_keys(&workspace, &mut rows)?;
        waiting(&workspace, &mut rows)?;
    }
    println!("\n### The bus\n\n| what | median | least | most | |\n|---|---|---|---|---|");
    for Row { what, rounds, unit } in &mut rows.0 {
        rounds.sort_by(f64::total_cmp);
        let (first, last) = (rounds[0], rounds[rounds.len() - 1]);
        println!("| {what} | {:.2} | {first:.2} | {last:.2} | {unit} |", rounds[rounds.len() / 2]);
    }
    Ok(())
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

fn open(dir: &Path, headers: bool) -> Result<(Log, Bus)> {
    let log = Log::blocking_open(dir)?;
    let settings = TopicSettings::default().durability(Durability::Os);
    let topic = log.blocking_create_topic(TOPIC, settings)?;
    for batch in 0..EVENTS / 1000 {
        let record = |number: u64| {
            let record = Record::new(Bytes::from(vec![7; 90])).key(format!("key-{:06}", number % 10_000));
            if !headers {
                return record;
            }
            let id = format!("0198c0de-0000-7000-8000-{number:012}");
            record
                .correlation_id(&id)
                .id(id)
                .event_type("order.placed")
                .source("shop")
                .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        };
        topic.blocking_produce_batch((batch * 1000..(batch + 1) * 1000).map(record))?;
    }
    Ok((log.clone(), log.bus()))
}

/// Events a second, from the first to the last.
fn time(runtime: &Runtime, on: On) -> Result<f64> {
    let begun = Instant::now();
    runtime.block_on(async {
        let subscription = on.spawn().await?;
        subscription.idle().await?;
        let stats = subscription.stats();
        assert_eq!(stats.succeeded + stats.dead_lettered, EVENTS, "{stats:?}");
        subscription.unsubscribe().await
    })?;
    Ok(EVENTS as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

fn dispatch(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let runtime = runtime()?;
    for (headers, with) in [(false, ", no headers"), (true, ", 5 headers")] {
        let dir = workspace.fresh()?;
        let (log, bus) = open(&dir, headers)?;
        let begun = Instant::now();
        runtime.block_on(async {
            let mut consumer = log.subscribe("bare", ["events"]).build().await?;
            for _ in 0..EVENTS {
                let message = consumer.recv().await?;
                message.iter().try_for_each(|message| consumer.commit_async(message))?;
            }
            consumer.close().await
        })?;
        rows.add(&format!("a consumer's loop{with}"), "M/s", EVENTS as f64 / begun.elapsed().as_secs_f64() / 1e6);
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let plain = bus.on(TOPIC, "plain", move |_: Event<Bytes>, _: Context| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, HandlerError>(())
        });
        let filter = Filter::header("nobody", "nothing").not();
        rows.add(&format!("P13: a plain handler{with}"), "M/s", time(&runtime, plain.filter(filter.clone()))?);
        let counted = Arc::clone(&count);
        let asynchronous = bus.on(TOPIC, "async", move |_: Event<Bytes>, _: Context| {
            let counted = Arc::clone(&counted);
            async move {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok::<_, HandlerError>(())
            }
        });
        rows.add(&format!("P13: an async handler{with}"), "M/s", time(&runtime, asynchronous.filter(filter.clone()))?);
        let concurrent =
            bus.on(TOPIC, "16 at once", move |_: Event<Bytes>, _: Context| async { Ok::<_, HandlerError>(()) });
        rows.add(&format!("16 tasks at once{with}"), "M/s", time(&runtime, concurrent.concurrency(16))?);
        assert_eq!(count.load(Ordering::Relaxed), 2 * EVENTS);
        log.blocking_close()?;
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// One key in a hundred fails three times, and then becomes a dead letter.
fn failing_keys(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let runtime = runtime()?;
    let dir = workspace.fresh()?;
    let (log, bus) = open(&dir, false)?;
    let on = |group: &str, one_in: u64| {
        let fails = move |event: &Event<Bytes>| {
            let number = event.key().and_then(|key| std::str::from_utf8(&key[4..]).ok()?.parse::<u64>().ok());
            one_in > 0 && number.is_some_and(|number| number % one_in == 0)
        };
        bus.on(TOPIC, group, move |event: Event<Bytes>, cx: Context| async move {
            // Work that takes its time: the handler, and not the bus, is what is waited for.
            tokio::task::yield_now().await;
            if fails(&event) && cx.attempt() < 3 { Err("no") } else { Ok(()) }
        })
        .concurrency(16)
        .retry(Retry::exponential(5).base(Duration::from_millis(1)))
        .dead_letter("dlq")
    };
    let none = time(&runtime, on("none fails", 0))?;
    let some = time(&runtime, on("one in 100 fails", 100))?;
    rows.add("16 at once, no key fails", "M/s", none);
    rows.add("16 at once, 1 % of the keys fail twice", "M/s", some);
    rows.add("1 % failing, of none", "", some / none);
    log.blocking_close()?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// A million events that all fail, and wait for an hour.
fn waiting(workspace: &Workspace, rows: &mut Rows) -> Result<()> {
    let runtime = runtime()?;
    let dir = workspace.fresh()?;
    let (log, bus) = open(&dir, false)?;
    let before = resident()?;
    runtime.block_on(async {
        let on = bus.on(TOPIC, "waiting", |_: Event<Bytes>, _: Context| Err::<(), _>("not now"));
        let subscription = on.retry(Retry::fixed(2, Duration::from_secs(3600))).spawn().await?;
        while subscription.stats().waiting < 900 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Whatever it would still take, it has the time to.
        tokio::time::sleep(Duration::from_millis(300)).await;
        subscription.unsubscribe().await
    })?;
    rows.add("memory with a million events that are to wait", "MB more", (resident()? - before) / 1e6);
    log.blocking_close()?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Bytes of memory that the process has right now.
fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib * 1024.0)
}
