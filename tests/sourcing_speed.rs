//! Measures event sourcing, and prints what it has seen:
//! `cargo test --release --test sourcing_speed -- --ignored --nocapture`.

#![expect(clippy::disallowed_methods, reason = "what is measured is the real time")]

use std::time::Instant;

use annals::{
    Aggregate, ApplyError, Bincode, Durability, Expected, Log, Message, ProjectionState, Raw, Record, Snapshot,
    TopicDef, TopicSettings,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const RECORDS: u64 = 1_000_000;
const EVENTS: u64 = 10_000;
const ROUNDS: usize = 5;

/// The smallest, the middle and the largest of some rounds.
fn rounds(mut measure: impl FnMut() -> f64) -> String {
    let mut all: Vec<f64> = (0..ROUNDS).map(|_| measure()).collect();
    all.sort_by(f64::total_cmp);
    format!("{:.1} ({:.1} to {:.1})", all[ROUNDS / 2], all[0], all[ROUNDS - 1])
}

fn count(state: &mut ProjectionState, message: &Message) -> Result<(), ApplyError> {
    let key = message.key().cloned().unwrap_or_default();
    Ok(state.update(key, |count: &mut u64| *count += 1)?)
}

#[test]
#[ignore = "it measures, which takes a while"]
fn projections() {
    for keys in [1_u64, 1000, 100_000] {
        let log = Log::temporary().unwrap();
        let settings = TopicSettings::default().partitions(4).durability(Durability::Os);
        let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("t"), settings).unwrap();
        for from in (0..RECORDS).step_by(1000) {
            let record = |number: u64| Record::new(vec![7_u8; 100].into()).key((number % keys).to_string());
            topic.blocking_produce_batch((from..from + 1000).map(record)).unwrap();
        }
        let projection = log.projection("counts", 1).on_raw("t", count).blocking_spawn().unwrap();
        projection.blocking_ready().unwrap();
        let thousands = rounds(|| {
            let begun = Instant::now();
            projection.rebuild();
            projection.blocking_ready().unwrap();
            RECORDS as f64 / begun.elapsed().as_secs_f64() / 1000.0
        });
        println!("a counting projection of {keys} keys: {thousands} thousand records a second");
        projection.blocking_close();
        let millis = rounds(|| {
            let begun = Instant::now();
            log.projection("counts", 1).on_raw("t", count).blocking_spawn().unwrap().blocking_close();
            begun.elapsed().as_secs_f64() * 1000.0
        });
        println!("opening and closing it again: {millis} ms");
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Sum(u64);

impl Aggregate for Sum {
    type Event = u64;

    fn apply(&mut self, event: &u64, _: &Message<u64>) {
        self.0 += event;
    }
}

impl Snapshot for Sum {
    const NAME: &'static str = "sum";
    const VERSION: u32 = 1;
}

#[test]
#[ignore = "it measures, which takes a while"]
fn streams() {
    let log = Log::temporary().unwrap();
    let numbers = TopicDef::<u64, Bincode>::named("numbers");
    let settings = TopicSettings::default().durability(Durability::Os);
    let topic = log.blocking_create_topic(numbers, settings.clone()).unwrap();
    // Every hundredth record is one of the stream.
    let keys = RECORDS / EVENTS;
    for from in (0..RECORDS).step_by(1000) {
        let record = |number: u64| Record::new(number).key((number % keys).to_string());
        topic.blocking_produce_batch((from..from + 1000).map(record)).unwrap();
    }
    let stream = topic.stream("7");
    let load = || {
        rounds(|| {
            let begun = Instant::now();
            assert_eq!(stream.blocking_load::<Sum>().unwrap().events, EVENTS);
            begun.elapsed().as_secs_f64() * 1000.0
        })
    };
    println!("loading {EVENTS} of {RECORDS} events without an index: {} ms", load());
    let begun = Instant::now();
    log.blocking_alter_topic("numbers", settings.index_keys(true)).unwrap();
    assert!(matches!(stream.blocking_version().unwrap(), Expected::Exact(_)));
    println!("making the index: {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
    println!("loading them by the index: {} ms", load());
    stream.blocking_load_snapshot::<Sum>().unwrap();
    let micros = rounds(|| {
        let begun = Instant::now();
        assert_eq!(stream.blocking_load_snapshot::<Sum>().unwrap().read, 0);
        begun.elapsed().as_secs_f64() * 1e6
    });
    println!("loading them from a snapshot: {micros} µs");
    let micros = rounds(|| {
        let begun = Instant::now();
        stream.blocking_version().unwrap();
        begun.elapsed().as_secs_f64() * 1e6
    });
    println!("asking for the version by the index: {micros} µs");
}
