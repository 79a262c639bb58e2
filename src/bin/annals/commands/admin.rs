//! `topics` and `describe`.

use annals::{PartitionDescription, TopicDescription};
use serde_json::{Value, json};

use crate::args::Cli;
use crate::failure::{Class, Failure, Outcome};
use crate::open::open_for_reading;
use crate::output::Output;
use crate::render::{ListFormat, time};
use crate::table::Table;
use crate::units::{grouped, shown_size};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  annals -d data topics")]
pub(crate) struct TopicsArgs {
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  annals -d data describe orders --format json")]
pub(crate) struct DescribeArgs {
    /// The name of the topic
    topic: String,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

/// Sums over the partitions of a topic.
pub(crate) struct Sums {
    pub(crate) offsets: u64,
    pub(crate) bytes: u64,
}

pub(crate) fn sums(topic: &TopicDescription) -> Sums {
    Sums {
        offsets: topic.partitions.iter().map(offsets).sum(),
        bytes: topic.partitions.iter().map(|partition| partition.size_bytes).sum(),
    }
}

/// How many offsets there are; records, unless some were compacted away or lost.
pub(crate) fn offsets(partition: &PartitionDescription) -> u64 {
    partition.high_watermark.saturating_sub(partition.log_start)
}

pub(crate) fn topics(cli: &Cli, args: &TopicsArgs) -> Outcome {
    let log = open_for_reading(cli)?;
    let mut out = Output::new(cli.color);
    let mut table = Table::new(&["TOPIC", ">PARTITIONS", ">RECORDS", ">SIZE", "DURABILITY", "STATE"]);
    for topic in log.topics()? {
        if args.format == ListFormat::Json {
            out.line(as_json(&topic)?.to_string())?;
            continue;
        }
        let failed = topic.partitions.iter().filter(|partition| partition.failure.is_some()).count();
        let Sums { offsets, bytes } = sums(&topic);
        table.row([
            topic.name,
            topic.partitions.len().to_string(),
            grouped(offsets),
            shown_size(bytes),
            topic.settings.durability.to_string(),
            if failed == 0 { "ok".to_owned() } else { format!("{failed} partitions damaged") },
        ]);
    }
    if args.format == ListFormat::Text {
        table.write(&mut out)?;
    }
    out.flush()?;
    Ok(log.blocking_close()?)
}

pub(crate) fn describe(cli: &Cli, args: &DescribeArgs) -> Outcome {
    let log = open_for_reading(cli)?;
    let topic = log.describe_topic(&args.topic)?;
    let mut out = Output::new(cli.color);
    if args.format == ListFormat::Json {
        out.line(as_json(&topic)?.to_string())?;
    } else {
        text(&mut out, &topic)?;
    }
    out.flush()?;
    Ok(log.blocking_close()?)
}

fn text(out: &mut Output, topic: &TopicDescription) -> Outcome {
    let heading = out.palette.heading;
    let bad = out.palette.bad;
    let mut row = |name: &str, value: String| out.line(format!("{heading}{name:<20}{heading:#}{value}"));
    row("topic", topic.name.clone())?;
    row("id", topic.id.to_string())?;
    row("created_at", time(topic.created_at))?;
    for (name, value) in settings(topic)? {
        let shown = match (&value, name.contains("bytes")) {
            (Value::Number(bytes), true) => bytes.as_u64().map_or_else(|| value.to_string(), shown_size),
            (Value::String(text), _) => text.clone(),
            (Value::Array(names), _) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            _ => value.to_string(),
        };
        row(&name, shown)?;
    }
    out.line("")?;
    let mut table = Table::new(&[">PARTITION", ">LOG START", ">HIGH WATERMARK", ">DURABLE END", ">SIZE", ">SEGMENTS"]);
    for partition in &topic.partitions {
        table.row([
            partition.partition.to_string(),
            partition.log_start.to_string(),
            partition.high_watermark.to_string(),
            partition.durable_end.to_string(),
            shown_size(partition.size_bytes),
            partition.segments.to_string(),
        ]);
    }
    table.write(out)?;
    for partition in &topic.partitions {
        if let Some(failure) = &partition.failure {
            out.line(format!("{bad}partition {}:{bad:#} {failure}", partition.partition))?;
        }
    }
    Ok(())
}

/// The settings as they stand in the topic's file.
fn settings(topic: &TopicDescription) -> Outcome<serde_json::Map<String, Value>> {
    match serde_json::to_value(&topic.settings) {
        Ok(Value::Object(settings)) => Ok(settings),
        Ok(other) => Err(Failure::new(Class::Failed, format!("the topic's settings are no table: {other}"))),
        Err(error) => Err(Failure::new(Class::Failed, format!("the topic's settings cannot be shown: {error}"))),
    }
}

fn as_json(topic: &TopicDescription) -> Outcome<Value> {
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.partition,
                "log_start": partition.log_start,
                "high_watermark": partition.high_watermark,
                "durable_end": partition.durable_end,
                "size_bytes": partition.size_bytes,
                "segments": partition.segments,
                "failure": partition.failure.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    Ok(json!({
        "topic": topic.name,
        "id": topic.id.to_string(),
        "created_at": time(topic.created_at),
        "settings": settings(topic)?,
        "partitions": partitions,
    }))
}
