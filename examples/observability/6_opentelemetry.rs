//! Traces across processes: one publishes, another handles, and the spans of the handlers are children of the publisher's.
//!
//! `cargo run --release --manifest-path examples/observability/Cargo.toml --bin 6_opentelemetry`
//!
//! Read `carried` and `continued` first: the one writes the current span into an event, the other goes on with it. That is all that an
//! application needs. The exporter here keeps the spans, so that they can be checked; a real one sends them to a collector.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use annals::event::{TRACEPARENT, TRACESTATE};
use annals::{Context, Event, Header, Headers, Json, Log, Record, TopicDef};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::{Instrument, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

const HELP: &str = "\
Publishes orders in one process, handles them in another, which publishes invoices that a third handler takes, and checks that the
spans of all of them make one trace for each order, each the child of the one that has led to it.

usage: cargo run --release --manifest-path examples/observability/Cargo.toml --bin 6_opentelemetry

exit code: 0 if everything holds, 1 if a check fails, 2 if the arguments are wrong
";

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct InvoiceSent {
    number: u64,
}

const ORDERS: TopicDef<OrderPlaced, Json> = TopicDef::new("orders");
const INVOICES: TopicDef<InvoiceSent, Json> = TopicDef::new("invoices");
const COUNT: u64 = 20;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An event that carries the span that is current: whoever handles it goes on with its trace.
fn carried<T>(event: impl Into<Record<T>>) -> Record<T> {
    struct Out<'a>(&'a mut Headers);
    impl Injector for Out<'_> {
        fn set(&mut self, name: &str, value: String) {
            // Without a state there is nothing to carry.
            if !value.is_empty() {
                self.0.push(Header::new(name, value));
            }
        }
    }
    let mut record = event.into();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Out(&mut record.headers));
    record
}

/// The span as a child of the one that the event carries, in whichever process that was.
fn continued<T>(span: Span, event: &Event<T>) -> Result<Span, Failure> {
    struct In<'a>(&'a Headers);
    impl Extractor for In<'_> {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.get_str(name)
        }

        fn keys(&self) -> Vec<&str> {
            vec![TRACEPARENT, TRACESTATE]
        }
    }
    span.set_parent(TraceContextPropagator::new().extract(&In(event.headers())))?;
    Ok(span)
}

/// Publishes orders, each in a span of its own.
async fn publish(dir: &Path) -> Result<(), Failure> {
    let log = Log::open(dir).await?;
    let bus = log.bus();
    for number in 0..COUNT {
        let publishing = async { bus.publish(ORDERS, carried(OrderPlaced { number })).await };
        publishing.instrument(info_span!("place", number)).await?;
    }
    log.close().await?;
    Ok(())
}

/// Bills the orders, and books the invoices that come of them.
async fn handle(dir: &Path) -> Result<(), Failure> {
    let log = Log::open(dir).await?;
    let bus = log.bus();
    let bill = |order: Event<OrderPlaced>, cx: Context| async move {
        let number = order.value().map_or(0, |order| order.number);
        let span = continued(info_span!("bill", number), &order)?;
        async { cx.publish(INVOICES, carried(InvoiceSent { number })).await }.instrument(span).await?;
        Ok::<_, Failure>(())
    };
    let book = |invoice: Event<InvoiceSent>, _: Context| async move {
        let number = invoice.value().map_or(0, |invoice| invoice.number);
        let span = continued(info_span!("book", number), &invoice)?;
        async { tokio::task::yield_now().await }.instrument(span).await;
        Ok::<_, Failure>(())
    };
    let billing = bus.on(ORDERS, "billing", bill).concurrency(4).spawn().await?;
    let books = bus.on(INVOICES, "books", book).spawn().await?;
    billing.idle().await?;
    books.idle().await?;
    bus.shutdown().await?;
    log.close().await?;
    Ok(())
}

/// What a process tells of a span, one JSON object a line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Told {
    name: String,
    number: String,
    trace: String,
    span: String,
    parent: String,
}

/// Does what it is told to, exports its spans, and tells of them.
async fn child(what: &str, dir: &Path) -> Result<(), Failure> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("shop"));
    // At level DEBUG the spans of annals itself would be there as well: publish, deliver, sync.
    tracing::subscriber::set_global_default(Registry::default().with(layer.with_filter(LevelFilter::INFO)))?;
    match what {
        "publish" => publish(dir).await?,
        _ => handle(dir).await?,
    }
    provider.force_flush()?;
    for span in exporter.get_finished_spans()? {
        let number = span.attributes.iter().find(|attribute| attribute.key.as_str() == "number");
        let told = Told {
            name: span.name.to_string(),
            number: number.map(|number| number.value.to_string()).unwrap_or_default(),
            trace: span.span_context.trace_id().to_string(),
            span: span.span_context.span_id().to_string(),
            parent: span.parent_span_id.to_string(),
        };
        println!("{}", serde_json::to_string(&told)?);
    }
    Ok(())
}

/// Runs this program as another process; answers with its spans, by name and number.
fn spans_of(what: &str, dir: &Path) -> Result<BTreeMap<(String, String), Told>, Failure> {
    let output = Command::new(std::env::current_exe()?).args([what.as_ref(), dir.as_os_str()]).output()?;
    if !output.status.success() {
        return Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let mut spans = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let told: Told = serde_json::from_str(line)?;
        if let Some(twice) = spans.insert((told.name.clone(), told.number.clone()), told) {
            return Err(format!("{twice:?} is there twice").into());
        }
    }
    Ok(spans)
}

fn story() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let mut spans = spans_of("publish", dir.path())?;
    spans.extend(spans_of("handle", dir.path())?);
    let mut traces = std::collections::BTreeSet::new();
    for number in 0..COUNT {
        let of = |name: &str| {
            let span = spans.get(&(name.to_owned(), number.to_string()));
            span.ok_or_else(|| format!("there is no span {name:?} of order {number}"))
        };
        let (place, bill, book) = (of("place")?, of("bill")?, of("book")?);
        let one_trace = place.trace == bill.trace && bill.trace == book.trace;
        let in_line = bill.parent == place.span && book.parent == bill.span;
        if !one_trace || !in_line || !traces.insert(&place.trace) {
            return Err(format!("the spans of order {number} are no line: {place:?}, {bill:?}, {book:?}").into());
        }
        if number == 0 {
            println!("trace {}", place.trace);
            println!("  place  {}  in the process that publishes", place.span);
            println!("  bill   {}  in the process that handles, child of {}", bill.span, bill.parent);
            println!("  book   {}  in the same, child of {}", book.span, book.parent);
        }
    }
    if spans.len() as u64 != 3 * COUNT {
        return Err(format!("{} spans were exported, and should be {}", spans.len(), 3 * COUNT).into());
    }
    println!("{COUNT} orders, {COUNT} traces of three spans each, over two processes");
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => tokio::task::spawn_blocking(story).await.map_err(Failure::from).and_then(|done| done),
        ["--help"] => {
            print!("{HELP}");
            Ok(())
        }
        // For itself only.
        [what @ ("publish" | "handle"), dir] => child(what, Path::new(dir)).await,
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
