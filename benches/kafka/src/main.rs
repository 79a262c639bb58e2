//! Measures the mirror beside a bare `rdkafka` producer with the same settings, on the same broker and in the same run (P14), how far
//! it lags at a steady rate and what memory it takes, and what a dead cluster costs whoever publishes locally.
//!
//! `cargo run --release --manifest-path benches/kafka/Cargo.toml -- [--quick] [--rounds N]`. The broker is the one that
//! `KAFKA_BOOTSTRAP_SERVERS` names, or one that tests/kafka/broker starts for the run. docs/PERFORMANCE.md says how to read it.

mod bare;
mod broker;
mod local;
mod memory;
mod mirror;
mod steady;

use std::error::Error;
use std::time::Duration;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Scale {
    rounds: usize,
    /// Bytes of values for each measurement of throughput.
    bytes: u64,
    steady: Duration,
    local: Duration,
}

const FULL: Scale =
    Scale { rounds: 5, bytes: 300 << 20, steady: Duration::from_secs(15), local: Duration::from_secs(3) };
const QUICK: Scale =
    Scale { rounds: 2, bytes: 60 << 20, steady: Duration::from_secs(4), local: Duration::from_secs(1) };

const HELP: &str = "\
usage: cargo run --release --manifest-path benches/kafka/Cargo.toml -- [--quick] [--rounds N]

Measures the mirror beside a bare Kafka producer, on the cluster that KAFKA_BOOTSTRAP_SERVERS names or on a broker that
tests/kafka/broker starts (Java 17 and Maven).
";

fn main() -> Result<()> {
    let mut scale = FULL;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => scale = QUICK,
            "--rounds" => scale.rounds = args.next().ok_or("--rounds: expected a number")?.parse()?,
            "--help" => {
                print!("{HELP}");
                return Ok(());
            }
            unknown => return Err(format!("{unknown}: unknown; --help explains").into()),
        }
    }
    let broker = broker::Broker::find()?;
    println!("### The mirror to Kafka\n\n| what | median | least | most | |\n|---|---|---|---|---|");
    memory::run(&broker, scale)?;
    for (name, size) in [("1 KiB", 1024), ("100 B", 100)] {
        let (mut with, mut without, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..scale.rounds {
            let workload = mirror::Workload::new(scale.bytes / size.max(300) as u64, size)?;
            let mirrored = mirror::run(&broker, &workload)?;
            let same = apart(|| bare::run(&broker, &workload, true))?;
            let bare = apart(|| bare::run(&broker, &workload, false))?;
            with.push(mirrored / same);
            without.push(mirrored / bare);
            rates.push(mirrored / 1000.0);
        }
        row(&format!("mirrored, {name}"), rates, "k records/s");
        row(&format!("P14: of a bare producer that sends the same records, {name}"), with, "");
        row(&format!("of a bare producer that sends no origin headers, {name}"), without, "");
    }
    steady::run(&broker, scale)?;
    local::run(scale)
}

/// On a thread of its own, as the mirror has one: memory of the first thread of a process is handed out in another way.
fn apart(work: impl FnOnce() -> Result<f64> + Send) -> Result<f64> {
    let work = || work().map_err(|error| error.to_string());
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    Ok(done.map_err(|_| "a measurement has panicked")??)
}

/// Prints the median of some rounds.
fn row(what: &str, mut rounds: Vec<f64>, unit: &str) {
    rounds.sort_by(f64::total_cmp);
    let (least, most) = (rounds[0], rounds[rounds.len() - 1]);
    println!("| {what} | {:.2} | {least:.2} | {most:.2} | {unit} |", rounds[rounds.len() / 2]);
}
