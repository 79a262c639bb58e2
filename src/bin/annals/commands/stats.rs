//! `stats`.

use std::collections::BTreeMap;
use std::time::Duration;

use annals::{Log, Start, TopicDescription};
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::args::Cli;
use crate::clock::Stopwatch;
use crate::commands::admin::{Sums, sums};
use crate::commands::waiting::Ticker;
use crate::failure::Outcome;
use crate::open::{open_for_reading, topic};
use crate::output::Output;
use crate::render::{ListFormat, time};
use crate::table::Table;
use crate::units::{grouped, parse_duration, rate, shown_rate, shown_size};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The rate is that between the times of the first and the last record; with --watch that of what was written since the last look.

Examples:
  annals -d data stats
  annals -d data stats orders --watch 5s")]
pub(crate) struct StatsArgs {
    /// The topics; none for all
    topics: Vec<String>,
    /// Look again after each of these times, until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = parse_duration, num_args = 0..=1, default_missing_value = "1s")]
    watch: Option<Duration>,
    /// With --watch, end after so many looks
    #[arg(long, value_name = "N", requires = "watch")]
    count: Option<u64>,
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

/// What one look at a topic shows.
struct Row {
    topic: TopicDescription,
    sums: Sums,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
    rate: f64,
}

pub(crate) fn run(cli: &Cli, args: &StatsArgs) -> Outcome {
    let mut ticker = Ticker::new()?;
    let log = open_for_reading(cli)?;
    let mut out = Output::new(cli.color);
    let mut before: BTreeMap<String, u64> = BTreeMap::new();
    let mut stopwatch = Stopwatch::start();
    let mut looks = 0;
    loop {
        let took = stopwatch.elapsed();
        stopwatch = Stopwatch::start();
        let mut rows = Vec::new();
        for topic in chosen(&log, &args.topics)? {
            let mut row = look(&log, topic)?;
            if args.watch.is_some() {
                let ends = row.topic.partitions.iter().map(|partition| partition.high_watermark).sum();
                let old = before.insert(row.topic.name.clone(), ends).unwrap_or(ends);
                row.rate = rate(ends.saturating_sub(old), took);
            }
            rows.push(row);
        }
        if args.watch.is_some() && out.is_terminal && args.format == ListFormat::Text {
            // Home, and clear what is below.
            out.bytes(b"\x1b[H\x1b[J")?;
        }
        show(&mut out, &rows, args.format)?;
        out.flush()?;
        looks += 1;
        match args.watch {
            Some(_) if args.count.is_some_and(|count| looks >= count) => break,
            Some(watch) if ticker.sleep(watch) => {}
            _ => break,
        }
    }
    Ok(log.blocking_close()?)
}

fn chosen(log: &Log, names: &[String]) -> Outcome<Vec<TopicDescription>> {
    if names.is_empty() {
        return Ok(log.topics()?);
    }
    names.iter().map(|name| Ok(log.describe_topic(name)?)).collect()
}

fn look(log: &Log, description: TopicDescription) -> Outcome<Row> {
    let sums = sums(&description);
    let (mut first, mut last) = (None, None);
    // A damaged topic has sizes all the same.
    if sums.offsets > 0 && description.partitions.iter().all(|partition| partition.failure.is_none()) {
        let topic = topic(log, &description.name)?;
        first = topic.replay(Start::Earliest).blocking()?.next()?.map(|record| record.timestamp());
        last = topic.replay(Start::Last(1)).blocking()?.next()?.map(|record| record.timestamp());
    }
    let span = first.zip(last).and_then(|(first, last)| (last - first).to_std().ok()).unwrap_or_default();
    Ok(Row { topic: description, rate: rate(sums.offsets, span), sums, first, last })
}

fn show(out: &mut Output, rows: &[Row], format: ListFormat) -> Outcome {
    if format == ListFormat::Json {
        return rows.iter().try_for_each(|row| {
            out.line(
                json!({
                    "topic": row.topic.name,
                    "partitions": row.topic.partitions.len(),
                    "segments": row.topic.partitions.iter().map(|partition| partition.segments).sum::<usize>(),
                    "records": row.sums.offsets,
                    "size_bytes": row.sums.bytes,
                    "first": row.first.map(time),
                    "last": row.last.map(time),
                    "records_per_second": row.rate,
                })
                .to_string(),
            )
        });
    }
    let mut table =
        Table::new(&["TOPIC", ">PARTITIONS", ">SEGMENTS", ">RECORDS", ">SIZE", ">AVERAGE", ">RATE", "FIRST", "LAST"]);
    let short = |time: Option<DateTime<Utc>>| {
        time.map_or_else(|| "-".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
    };
    for row in rows {
        table.row([
            row.topic.name.clone(),
            row.topic.partitions.len().to_string(),
            row.topic.partitions.iter().map(|partition| partition.segments).sum::<usize>().to_string(),
            grouped(row.sums.offsets),
            shown_size(row.sums.bytes),
            shown_size(row.sums.bytes.checked_div(row.sums.offsets).unwrap_or(0)),
            shown_rate(row.rate),
            short(row.first),
            short(row.last),
        ]);
    }
    table.write(out)?;
    let records: u64 = rows.iter().map(|row| row.sums.offsets).sum();
    let bytes: u64 = rows.iter().map(|row| row.sums.bytes).sum();
    out.line(format!("{} records, {}", grouped(records), shown_size(bytes)))
}
