//! Metrics for Prometheus: a bus at work, an endpoint that serves what it exports, and a scrape of it that is checked.
//!
//! `cargo run --release --manifest-path examples/observability/Cargo.toml --bin 6_prometheus -- [--serve]`
//!
//! Read `exporting` first: that is all an application needs. The rest makes something to look at, and looks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use annals::{
    BusSettings, CircuitBreaker, Context, Event, HandlerError, Json, Log, Record, Retry, Subscription, TopicDef,
    TopicSettings,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HELP: &str = "\
Runs a small bus, serves its metrics to Prometheus on a free port of the loopback interface, scrapes them once as Prometheus would, and
checks that every documented name is there and that the figures are those of what has happened.

usage: cargo run --release --manifest-path examples/observability/Cargo.toml --bin 6_prometheus -- [--serve]

  --serve  keep on serving after that, until Ctrl-C
  --help   print this

exit code: 0 if everything holds, 1 if a check fails, 2 if the arguments are wrong
";

/// Every name that annals exports stands in its table.
const DOCUMENTATION: &str = include_str!("../../docs/OBSERVABILITY.md");

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    amount: u64,
}

const ORDERS: TopicDef<OrderPlaced, Json> = TopicDef::new("orders");
const EVENTS: u64 = 1000;
/// Each so many events have no amount, and cannot be billed.
const EMPTY_ONE_IN: u64 = 100;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let serve = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--serve" => true,
        [flag] if flag == "--help" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(serve).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Installs the recorder and its endpoint, and lets the bus export to it.
fn exporting(bus: &annals::Bus, address: SocketAddr) -> Result<(), Failure> {
    PrometheusBuilder::new()
        .with_http_listener(address)
        // Histograms rather than summaries: they can be summed over processes.
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &[1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])?
        .set_buckets_for_metric(Matcher::Suffix("_commit_records".into()), &[1.0, 10.0, 100.0, 1000.0])?
        .install()?;
    bus.export_metrics(Duration::from_secs(1))?;
    Ok(())
}

async fn run(serve: bool) -> Result<(), Failure> {
    let log = Log::temporary()?;
    let bus =
        log.bus_with(BusSettings::default().source("shop").topic_defaults(TopicSettings::default().partitions(4)))?;
    let address = free_address()?;
    exporting(&bus, address)?;

    let billing = bus
        .on(ORDERS, "billing", |order: Event<OrderPlaced>, _: Context| async move {
            match order.value().map_or(0, |order| order.amount) {
                0 => Err(HandlerError::permanent("there is nothing to bill")),
                _ => Ok(()),
            }
        })
        .concurrency(8)
        .retry(Retry::exponential(5))
        .dead_letter("orders.dlq")
        .circuit_breaker(CircuitBreaker::default().failures(100))
        .spawn()
        .await?;
    work(&bus, &billing).await?;
    // Not to wait for the next round.
    bus.sample_metrics().await?;

    let page = scrape(address).await?;
    let figures = figures(&page);
    check_names(&figures)?;
    let empty = EVENTS / EMPTY_ONE_IN;
    for (name, expected) in [
        ("annals_bus_published_total", EVENTS),
        ("annals_bus_delivered_total{group=\"billing\"}", EVENTS),
        ("annals_bus_succeeded_total{group=\"billing\"}", EVENTS - empty),
        ("annals_bus_dead_lettered_total{group=\"billing\"}", empty),
        ("annals_bus_handler_seconds_count{group=\"billing\"}", EVENTS),
        ("annals_bus_breaker_state{group=\"billing\"}", 0),
        ("annals_log_appended_records_total{topic=\"orders\"}", EVENTS),
        ("annals_log_appended_records_total{topic=\"orders.dlq\"}", empty),
        ("annals_group_lag_records{group=\"billing\",topic=\"orders\",partition=\"0\"}", 0),
    ] {
        let found = figures.get(name).copied();
        if found != Some(expected as f64) {
            return Err(format!("{name} is {found:?}, and should be {expected}").into());
        }
        println!("{name:<80} {expected:>6}");
    }
    println!(
        "{} figures under {} names, as documented, at http://{address}/metrics",
        figures.len(),
        documented().len()
    );
    if serve {
        println!("serving until Ctrl-C");
        tokio::signal::ctrl_c().await?;
    }
    bus.shutdown().await?;
    log.close().await?;
    Ok(())
}

/// Publishes events, and waits until they are handled.
async fn work(bus: &annals::Bus, billing: &Subscription) -> Result<(), Failure> {
    for number in 0..EVENTS {
        let amount = if number % EMPTY_ONE_IN == 0 { 0 } else { number };
        bus.publish(ORDERS, Record::new(OrderPlaced { amount }).key(format!("order-{number}"))).await?;
    }
    billing.idle().await?;
    // What is finished is committed a little later, and the lag is that of what is committed.
    while bus.lag("billing").await?.iter().any(|partition| partition.lag_records > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// An address of this machine alone that nobody listens at.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// What Prometheus does every few seconds.
async fn scrape(address: SocketAddr) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(format!("the endpoint has answered {:?}", answer.lines().next()).into()),
    }
}

/// The figures of a page, by name and labels.
fn figures(page: &str) -> BTreeMap<&str, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect()
}

/// All but those of Kafka, of which there is none here.
fn documented() -> BTreeSet<&'static str> {
    let rows = DOCUMENTATION.lines().filter_map(|line| line.strip_prefix("| `"));
    let is_here = |name: &&str| {
        name.starts_with("annals_") && !["annals_mirror_", "annals_source_"].iter().any(|of| name.starts_with(of))
    };
    rows.filter_map(|row| row.split('`').next()).filter(is_here).collect()
}

/// Each documented name is there, and no other.
fn check_names(figures: &BTreeMap<&str, f64>) -> Result<(), Failure> {
    let documented = documented();
    let of = |name: &'static str| {
        figures
            .keys()
            .any(|found| found.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['{', '_'])))
    };
    // Not every system tells how much room it has.
    if let Some(missing) = documented.iter().find(|name| **name != "annals_log_disk_free_bytes" && !of(name)) {
        return Err(format!("{missing} is documented, and not exported").into());
    }
    let plain = |found: &str| {
        let name = found.split('{').next().unwrap_or(found).to_owned();
        let ends = ["_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned).unwrap_or(name)
    };
    match figures.keys().find(|found| !documented.contains(&*plain(found))) {
        Some(unknown) => Err(format!("{unknown} is exported, and not documented").into()),
        None => Ok(()),
    }
}
