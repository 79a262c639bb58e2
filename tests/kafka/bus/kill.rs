//! kill -9 of processes that share a group, at random moments. In the end there is for each event one output or one dead letter, and
//! the outputs of a key are in order.
//!
//! A third as many as `ANNALS_KAFKA_KILLS` says, `ANNALS_KILL_SEED` chooses when.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, UNIX_EPOCH};

use annals::mirror::KafkaConfig;
use annals::{Bus, BusSettings, Context, Event, HandlerError, Record, TopicSettings};

use super::{DLQ, NUMBERS, OTHERS, quick};
use crate::support::{Broker, Dumped, Options, PATIENCE};

const KILLS_DEFAULT: u64 = 6;
const SEED: &str = "ANNALS_KILL_SEED";
const BOOTSTRAP: &str = "ANNALS_BUS_CHILD";
const TEST: &str = "bus::kill::kills_leave_each_output_once";
const KEYS: u64 = 23;
/// For each kill.
const EVENTS: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, and should be a number")))
}

fn bus(bootstrap: &str) -> Bus {
    // A member that is killed, and what it leaves, is taken for dead early.
    let config = KafkaConfig::new(bootstrap)
        .transaction_timeout(Duration::from_secs(3))
        .property("session.timeout.ms", "3000")
        .property("heartbeat.interval.ms", "300");
    Bus::on_kafka(config, BusSettings::default()).unwrap()
}

/// What a child does until it is killed, or told to end.
async fn work(bootstrap: &str) {
    let handler = |event: Event<u64>, cx: Context| async move {
        let value = event.value().copied().unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_millis(value % 5)).await;
        if value % 31 == 4 {
            return Err(HandlerError::permanent("never"));
        }
        if value % 13 == 7 && cx.attempt() < 3 {
            return Err(HandlerError::from("not yet"));
        }
        let key = event.key().cloned().unwrap_or_default();
        cx.publish(OTHERS, Record::new(value).key(key)).await?;
        Ok(())
    };
    let subscription =
        bus(bootstrap).on(NUMBERS, "group", handler).concurrency(16).retry(quick(5)).dead_letter(DLQ).spawn();
    let subscription = subscription.await.unwrap();
    println!("joined");
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    told.await.unwrap().unwrap();
    subscription.idle().await.unwrap();
    println!("idle");
    subscription.unsubscribe().await.unwrap();
    println!("ended");
}

struct Running {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(bootstrap: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(BOOTSTRAP, bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    fn wait_for(&mut self, wanted: &str) {
        loop {
            match self.lines.recv_timeout(2 * PATIENCE) {
                Ok(line) if line.ends_with(wanted) => return,
                Ok(_) => {}
                Err(error) => panic!("{wanted:?} did not come ({error}); ended: {:?}", self.process.try_wait()),
            }
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or the test has failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn kills_leave_each_output_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Ok(bootstrap) = std::env::var(BOOTSTRAP) {
        return runtime.block_on(work(&bootstrap));
    }
    let options = Options::new()
        .property("group.min.session.timeout.ms", "1000")
        .property("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500");
    let Some(broker) = Broker::start(options) else { return };
    let seed = number(SEED).unwrap_or_else(|| UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let kills = number("ANNALS_KAFKA_KILLS").map_or(KILLS_DEFAULT, |kills| kills.div_ceil(3));
    eprintln!("{SEED}={seed}");
    let mut chance = Chance(seed);
    let bus = bus(broker.bootstrap());
    runtime.block_on(async {
        for topic in [NUMBERS, OTHERS] {
            bus.create_topic(topic, TopicSettings::default().partitions(4)).await.unwrap();
        }
    });
    let mut children = [Running::start(broker.bootstrap()), Running::start(broker.bootstrap())];
    children.iter_mut().for_each(|child| child.wait_for("joined"));
    let mut published = 0;
    for _ in 0..kills {
        runtime.block_on(async {
            for number in published..published + EVENTS {
                bus.publish(NUMBERS, Record::new(number).key(format!("key {}", number % KEYS))).await.unwrap();
            }
        });
        published += EVENTS;
        std::thread::sleep(Duration::from_millis(chance.below(400)));
        let victim = &mut children[usize::try_from(chance.below(2)).unwrap()];
        victim.kill();
        *victim = Running::start(broker.bootstrap());
        victim.wait_for("joined");
    }
    for child in &mut children {
        drop(child.process.stdin.take());
    }
    for child in &mut children {
        child.wait_for("idle");
    }
    for child in &mut children {
        child.wait_for("ended");
    }
    check(&broker.blocking_dump("others"), &broker.blocking_dump(DLQ), published);
    let lag = runtime.block_on(bus.lag("group")).unwrap();
    assert_eq!(lag.iter().map(|partition| partition.lag_records).sum::<u64>(), 0, "{lag:?}");
}

/// By what Kafka's own client has read, of committed transactions.
fn check(outputs: &[Dumped], letters: &[Dumped], published: u64) {
    let value = |record: &Dumped| -> u64 { String::from_utf8(record.value.clone().unwrap()).unwrap().parse().unwrap() };
    let mut by_key: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    for record in outputs {
        by_key.entry(record.key.clone().unwrap()).or_default().push(value(record));
    }
    let mut dead: Vec<u64> = letters.iter().map(value).collect();
    dead.sort_unstable();
    let is_dead = |number: &u64| number % 31 == 4;
    assert_eq!(dead, (0..published).filter(is_dead).collect::<Vec<_>>(), "dead letters");
    assert_eq!(by_key.len() as u64, KEYS);
    for (key, values) in by_key {
        let text = String::from_utf8_lossy(&key).into_owned();
        let expected: Vec<u64> =
            (0..published).filter(|number| format!("key {}", number % KEYS) == text && !is_dead(number)).collect();
        let twice = values.len() - values.iter().collect::<BTreeSet<_>>().len();
        assert_eq!(values, expected, "{text}: {twice} are there twice");
    }
}
