//! The process of a source is killed, again and again, while records come.
//!
//! A third as many times as `ANNALS_KAFKA_KILLS` says, and as often as it takes until all records are written; `ANNALS_KILL_SEED` chooses
//! what is written and, more or less, when it is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use annals::mirror::{KafkaConfig, Source};
use annals::{Log, TopicSettings};

use super::support::{Found, New, Writer, found};
use crate::support::Broker;

const PARTITIONS: u32 = 3;
/// For each kill, so that there is something to read at most of them.
const RECORDS: u32 = 2_500;
const TEST: &str = "source::kill::each_record_is_in_the_log_once_whenever_the_process_is_killed";
const CHILD: &str = "ANNALS_KAFKA_SOURCE_CHILD";
const SEED: &str = "ANNALS_KILL_SEED";
const KILLS_DEFAULT: u32 = 12;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, and should be a number")))
}

fn start(log: &Log, bootstrap: &str, topic: &str) -> Source {
    let settings = TopicSettings::default().segment_bytes_max(256 << 10);
    let builder = Source::builder(log).topics([topic]).from(KafkaConfig::new(bootstrap));
    builder.create_topics(settings).spawn().unwrap()
}

/// Reads until it is killed, and says how far it has come.
fn work(told: &str) -> ! {
    let [dir, bootstrap, topic] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let log = Log::blocking_open(dir).unwrap();
    let source = start(&log, bootstrap, topic);
    loop {
        let status = source.status();
        if let Some(error) = status.last_error {
            println!("failed {error}");
        }
        // Also if nothing new has come: whoever listens decides how long to wait.
        println!("received {}", status.received);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn spawn(dir: &Path, bootstrap: &str, topic: &str) -> Child {
    let told = format!("{} {bootstrap} {topic}", dir.display());
    Command::new(std::env::current_exe().unwrap())
        .args([TEST, "--exact", "--nocapture"])
        .env(CHILD, told)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Numbers that look random and follow from a seed (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_in_the_log_once_whenever_the_process_is_killed() {
    if let Ok(told) = std::env::var(CHILD) {
        work(&told);
    }
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.unique("kill");
    // The records are old.
    broker.create_topic_with(&topic, PARTITIONS, -1, &[("retention.ms", "-1")]).await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let wanted_kills = variable("ANNALS_KAFKA_KILLS").map_or(KILLS_DEFAULT, |kills: u32| kills.div_ceil(3));
    let wanted_records = RECORDS * wanted_kills;
    let seed: u64 = variable(SEED).unwrap_or_else(|| std::process::id().into());
    println!("{SEED}={seed}");
    let mut dice = seed;
    let done = AtomicBool::new(false);
    let (mut kills, mut killed_at_work, mut received) = (0, 0, 0);
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let (committing, plain) = (Writer::transactional(broker), Writer::new(broker));
            let mut dice = seed ^ 1;
            let mut number = 0;
            while number < wanted_records {
                let count = 1 + next(&mut dice) % 400;
                let keys: Vec<String> = (0..count).map(|_| format!("key {}", next(&mut dice) % 50)).collect();
                let values: Vec<String> = (0..count as u32).map(|at| (number + at).to_string()).collect();
                let headers = [("absent", None), ("x", Some(&b"y"[..]))];
                let records: Vec<New<'_>> = keys
                    .iter()
                    .zip(&values)
                    .map(|(key, value)| New {
                        partition: (value.parse::<u32>().unwrap() / 7 % PARTITIONS) as i32,
                        key: Some(key.as_bytes()),
                        value: (value.len() % 5 != 4 || !value.ends_with('3')).then_some(value.as_bytes()),
                        headers: if value.ends_with('1') { &headers } else { &[] },
                        timestamp: Some(1_700_000_000_000 + i64::from(number)),
                    })
                    .collect();
                match next(&mut dice) % 4 {
                    0 => committing.write_in_vain(&topic, &records),
                    1 | 2 => {
                        committing.write(&topic, &records);
                        number += count as u32;
                    }
                    _ => {
                        plain.write(&topic, &records);
                        number += count as u32;
                    }
                }
            }
            done.store(true, Ordering::Release);
            number
        });
        while kills < wanted_kills || !done.load(Ordering::Acquire) {
            let mut child = spawn(dir.path(), broker.bootstrap(), &topic);
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            // Sometimes before it has read anything, sometimes in the middle.
            let wanted = if next(&mut dice).is_multiple_of(4) { 0 } else { 1 + next(&mut dice) % 3000 };
            let mut last = 0;
            let begun = std::time::Instant::now();
            for line in lines.by_ref().map_while(Result::ok) {
                assert!(!line.starts_with("failed"), "{line}");
                if let Some(number) = line.strip_prefix("received ") {
                    last = number.parse().unwrap();
                    if last >= wanted || begun.elapsed() > Duration::from_secs(3) {
                        break;
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(next(&mut dice) % 30));
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            killed_at_work += u32::from(last > 0);
            received += last;
        }
        writing.join().unwrap()
    });
    let log = Log::open(dir.path()).await.unwrap();
    let source = start(&log, broker.bootstrap(), &topic);
    super::caught_up(&source).await;
    source.stop().await.unwrap();
    let in_kafka: Vec<Found> = broker.dump(&topic).await.into_iter().map(Found::from).collect();
    let in_log: Vec<Found> = found(&log, &topic).into_iter().map(Found::bare).collect();
    assert_eq!(in_kafka.len(), written as usize);
    assert_eq!(in_log.len(), in_kafka.len());
    for (at, (found, expected)) in in_log.iter().zip(&in_kafka).enumerate() {
        assert_eq!(found, expected, "record {at}");
    }
    println!("{kills} kills, {killed_at_work} of them at work, {received} records before them");
    assert!(killed_at_work >= wanted_kills / 3, "hardly anybody was killed at work");
}
