//! kill -9 of the process that mirrors, and of the broker, at random moments, while publishing goes on. In the end each durable
//! record is in the target once, or without transactions at least once.
//!
//! `ANNALS_KAFKA_KILLS` is how many kills of the process are wanted, `ANNALS_KILL_SEED` chooses the work. When a process is killed
//! follows from the seed, too, but no seed brings the same moment back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use annals::mirror::Guarantee;

use super::child::{self, Chance, TOPICS, Task};
use super::compare::{at_least_once, exactly_once, expected};
use crate::support::{Broker, Options, PATIENCE};

const KILLS_DEFAULT: u64 = 6;
const SEED: &str = "ANNALS_KILL_SEED";
/// One kill of this many comes with one of the broker.
const BROKER_EVERY: u64 = 5;

#[test]
fn kills_leave_each_record_in_the_target_exactly_once() {
    tell("kills_leave_each_record_in_the_target_exactly_once", Guarantee::ExactlyOnce);
}

#[test]
fn without_transactions_kills_lose_nothing_and_repeat_only_what_was_not_acknowledged() {
    tell("without_transactions_kills_lose_nothing_and_repeat_only_what_was_not_acknowledged", Guarantee::AtLeastOnce);
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, and should be a number")))
}

fn tell(test: &str, guarantee: Guarantee) {
    // The test runs itself as the child.
    if let Some(task) = Task::from_env() {
        child::work(&task);
    }
    let Some(broker) = Broker::start(Options::new()) else { return };
    let seed = number(SEED).unwrap_or_else(|| UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let kills = number("ANNALS_KAFKA_KILLS").unwrap_or(KILLS_DEFAULT);
    // On a disk; the system's temporary directory may be memory.
    let dir = tempfile::Builder::new().prefix("mirror-kill-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut story = Story {
        test,
        broker,
        task: Task { dir: dir.path().to_str().unwrap().to_owned(), bootstrap: String::new(), guarantee, run: 0, seed },
        chance: Chance::new(&[seed]),
        broker_kills: 0,
        places: BTreeSet::new(),
        forwarded: 0,
        began: Instant::now(),
    };
    story.task.bootstrap = story.broker.bootstrap().to_owned();
    for _ in 0..kills {
        story.kill_one();
    }
    story.check(dir.path(), kills);
}

struct Story<'t> {
    test: &'t str,
    broker: Broker,
    /// The next child.
    task: Task,
    chance: Chance,
    broker_kills: u64,
    /// Where a child has found the mirror's place in the log.
    places: BTreeSet<(String, u32, u64)>,
    /// By all children, as far as they have told.
    forwarded: u64,
    began: Instant,
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{SEED}={}, children up to {}", self.task.seed, self.task.run);
        }
    }
}

impl Story<'_> {
    /// Lets a child work, and kills it; sometimes the broker is killed, too, before it or after it.
    fn kill_one(&mut self) {
        let run = u64::from(self.task.run);
        let mut child = Running::start(self.test, &self.task);
        self.task.run += 1;
        child.wait_for("open");
        self.rest(2_000);
        match run % (2 * BROKER_EVERY) {
            2 => {
                // The broker comes back while the child is there.
                self.broker.kill();
                self.broker_kills += 1;
                let published = child.now("published");
                child.wait_for_more("published", published);
                self.broker.restart();
                let forwarded = child.now("forwarded");
                child.wait_for_more("forwarded", forwarded);
                self.rest(1_000);
                child.kill();
            }
            7 => {
                // The child is killed while there is no broker, and so is the next one.
                self.broker.kill();
                self.broker_kills += 1;
                self.rest(1_000);
                child.kill();
                let mut next = Running::start(self.test, &self.task);
                self.task.run += 1;
                next.wait_for("published");
                self.rest(1_000);
                let published = next.now("published");
                next.wait_for_more("published", published);
                next.kill();
                self.took(&next);
                self.broker.restart();
            }
            _ => child.kill(),
        }
        self.took(&child);
    }

    fn took(&mut self, child: &Running) {
        self.places.extend(child.places.iter().cloned());
        self.forwarded += child.latest("forwarded");
    }

    fn rest(&mut self, most_millis: u64) {
        std::thread::sleep(Duration::from_millis(self.chance.below(most_millis)));
    }

    /// Lets the mirror finish, and compares both sides.
    fn check(&self, dir: &Path, kills: u64) {
        let log = child::open(dir).unwrap();
        let places: BTreeSet<_> = self.places.iter().cloned().chain(child::places(&log)).collect();
        let mirror = child::mirror(&log, self.broker.bootstrap(), self.task.guarantee).spawn().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let caught_up = runtime.block_on(async { tokio::time::timeout(2 * PATIENCE, mirror.caught_up()).await });
        caught_up.unwrap_or_else(|_| panic!("not within {:?}: {:?}", 2 * PATIENCE, mirror.status())).unwrap();
        let paused: Vec<_> = mirror.status().partitions.into_iter().filter(|it| it.paused.is_some()).collect();
        assert!(paused.is_empty(), "{paused:?}");
        mirror.blocking_stop().unwrap();
        let mut records = 0;
        let mut repeated = 0;
        for (topic, ..) in TOPICS {
            let (expected, dumped) = (expected(&log, topic), self.broker.blocking_dump(topic));
            records += expected.len();
            match self.task.guarantee {
                Guarantee::ExactlyOnce => {
                    exactly_once(&expected, &dumped).unwrap_or_else(|why| panic!("topic {topic}: {why}"));
                }
                Guarantee::AtLeastOnce => {
                    let repeats =
                        at_least_once(&expected, &dumped).unwrap_or_else(|why| panic!("topic {topic}: {why}"));
                    let unexplained = repeats.iter().filter(|repeat| {
                        let place = (topic.to_owned(), repeat.partition, repeat.from);
                        repeat.from > 0 && !places.contains(&place)
                    });
                    // When the broker was killed the mirror began anew by itself, and nobody has told from where.
                    let unexplained: Vec<_> = unexplained.collect();
                    let mut by_partition = BTreeMap::<_, u64>::new();
                    unexplained.iter().for_each(|repeat| *by_partition.entry(repeat.partition).or_default() += 1);
                    let is_explained = by_partition.values().all(|count| *count <= 2 * self.broker_kills);
                    assert!(is_explained, "topic {topic}: what was acknowledged came again: {unexplained:?}");
                    repeated += dumped.len() - expected.len();
                }
            }
        }
        println!(
            "{kills} kills of the process and {} of the broker in {:.1} s (seed {}): {records} records, of which at least {} were \
             forwarded before a kill, {repeated} repeated",
            self.broker_kills,
            self.began.elapsed().as_secs_f64(),
            self.task.seed,
            self.forwarded
        );
        // Kills of processes that have forwarded nothing would prove nothing.
        assert!(self.forwarded > 20 * kills, "hardly anything was forwarded before the kills");
        assert!(kills <= 2 || self.broker_kills > 0, "no broker was killed");
    }
}

/// A child at work.
struct Running {
    process: Child,
    lines: mpsc::Receiver<String>,
    /// The latest of each line that ends in a number.
    latest: BTreeMap<String, u64>,
    places: BTreeSet<(String, u32, u64)>,
}

impl Running {
    fn start(test: &str, task: &Task) -> Self {
        let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([&*name, "--exact", "--nocapture"])
            .envs(task.to_env())
            .stdin(Stdio::null())
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
        Self { process, lines, latest: BTreeMap::new(), places: BTreeSet::new() }
    }

    /// Reads on until a line begins like this, and answers with the number in it, or 0.
    fn wait_for(&mut self, wanted: &str) -> u64 {
        loop {
            let line = match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(error) => {
                    panic!("{wanted:?} did not come ({error}); the child has ended: {:?}", self.process.try_wait())
                }
            };
            if self.read(&line) == Some(wanted) {
                return self.latest(wanted);
            }
        }
    }

    /// Reads on until a number has grown.
    fn wait_for_more(&mut self, name: &str, than: u64) {
        let until = Instant::now() + PATIENCE;
        while self.wait_for(name) <= than {
            assert!(Instant::now() < until, "{name} did not get beyond {than}");
        }
    }

    /// The number in the latest line that the child has said by now.
    fn now(&mut self, name: &str) -> u64 {
        while let Ok(line) = self.lines.try_recv() {
            self.read(&line);
        }
        self.latest(name)
    }

    fn latest(&self, name: &str) -> u64 {
        self.latest.get(name).copied().unwrap_or(0)
    }

    /// What the line begins with.
    fn read<'l>(&mut self, line: &'l str) -> Option<&'l str> {
        assert!(!line.starts_with("failed"), "the child {line}");
        let mut words = line.split(' ');
        let name = words.next()?;
        match (name, words.next(), words.next(), words.next()) {
            ("place", Some(topic), Some(partition), Some(offset)) => {
                self.places.insert((topic.to_owned(), partition.parse().ok()?, offset.parse().ok()?));
            }
            ("published" | "forwarded", Some(number), None, None) => {
                self.latest.insert(name.to_owned(), number.parse().ok()?);
            }
            _ => {}
        }
        Some(name)
    }

    /// kill -9.
    fn kill(&mut self) {
        // What it has said until now, it has said at work: it must not have ended by itself.
        assert_eq!(self.process.try_wait().unwrap(), None, "the child has ended by itself");
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.read(&line);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is left of it, also when the test fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
