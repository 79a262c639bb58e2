//! The process that is killed: it publishes real events, and mirrors them.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use annals::mirror::{Guarantee, KafkaConfig, Mirror, MirrorBuilder, MirrorState, TargetTopics};
use annals::{Batch, Durability, Log, Result, TopicSettings};

use super::events::Events;

pub(crate) const TOPICS: [(&str, u32, Durability); 3] = [
    ("synced", 2, Durability::Sync),
    ("interval", 3, Durability::Interval(Duration::from_millis(3))),
    ("os", 1, Durability::Os),
];

const NAME: &str = "killed";
/// Small, so that processes are killed while segments roll.
const SEGMENT_BYTES_MAX: u64 = 256 << 10;
/// Between the steps of a publisher: so that there is something to do all the time, and not too much to compare in the end.
const PACE: Duration = Duration::from_millis(4);
const STEP_RECORDS_MAX: u64 = 9;

/// Everything that a child is told, by variables of its environment.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) dir: String,
    pub(crate) bootstrap: String,
    pub(crate) guarantee: Guarantee,
    pub(crate) run: u32,
    pub(crate) seed: u64,
}

const PREFIX: &str = "ANNALS_KAFKA_CHILD_";

impl Task {
    pub(crate) fn to_env(&self) -> Vec<(String, String)> {
        let guarantee = match self.guarantee {
            Guarantee::ExactlyOnce => "exactly",
            Guarantee::AtLeastOnce => "at-least",
        };
        let (run, seed) = (self.run.to_string(), self.seed.to_string());
        let told = [
            ("DIR", &*self.dir),
            ("BOOTSTRAP", &self.bootstrap),
            ("GUARANTEE", guarantee),
            ("RUN", &run),
            ("SEED", &seed),
        ];
        told.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect()
    }

    /// What this process is told, if it is a child.
    pub(crate) fn from_env() -> Option<Self> {
        let told = |name: &str| std::env::var(format!("{PREFIX}{name}"));
        let dir = told("DIR").ok()?;
        let guarantee = match &*told("GUARANTEE").unwrap() {
            "exactly" => Guarantee::ExactlyOnce,
            _ => Guarantee::AtLeastOnce,
        };
        let number = |name| told(name).unwrap().parse().unwrap();
        Some(Self {
            dir,
            bootstrap: told("BOOTSTRAP").unwrap(),
            guarantee,
            run: number("RUN") as u32,
            seed: number("SEED"),
        })
    }
}

/// Numbers that look random and follow from a seed (splitmix64).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seeds: &[u64]) -> Self {
        let mut chance = Self(0);
        for seed in seeds {
            chance.0 = chance.next() ^ seed;
        }
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end`, exclusive.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub(crate) fn open(dir: &Path) -> Result<Log> {
    let log = Log::builder().blocking_open(dir)?;
    for (name, partitions, durability) in TOPICS {
        let settings = TopicSettings::default().partitions(partitions).durability(durability);
        log.blocking_create_topic(annals::TopicDef::named(name), settings.segment_bytes_max(SEGMENT_BYTES_MAX))
            .map(drop::<annals::Topic<bytes::Bytes, annals::Raw>>)?;
    }
    Ok(log)
}

/// The mirror of the log, in whichever process.
pub(crate) fn mirror(log: &Log, bootstrap: &str, guarantee: Guarantee) -> MirrorBuilder {
    Mirror::builder(log)
        .name(NAME)
        .topics(["*"])
        .to(KafkaConfig::new(bootstrap))
        .guarantee(guarantee)
        // Some of the events are old.
        .create_topics(TargetTopics::default().config("retention.ms", "-1"))
}

/// Where the log says that the mirror has come to: topic, partition, offset.
pub(crate) fn places(log: &Log) -> Vec<(String, u32, u64)> {
    // There is none before it has first come somewhere.
    let Ok(group) = log.blocking_describe_group(&format!("mirror.{NAME}")) else { return Vec::new() };
    let places = group.partitions.into_iter();
    let places = places.filter_map(|it| Some((it.partition.topic, it.partition.partition, it.committed?)));
    places.collect()
}

/// Publishes and mirrors until it is killed, and says on stdout how far it has come.
pub(crate) fn work(task: &Task) -> ! {
    if let Err(error) = publish(task) {
        say(&format!("failed: {error}"));
    }
    std::process::exit(9)
}

fn publish(task: &Task) -> Result<()> {
    let mut chance = Chance::new(&[task.seed, u64::from(task.run)]);
    let log = open(Path::new(&task.dir))?;
    // The test harness has begun a line.
    say("\nopen");
    for (topic, partition, offset) in places(&log) {
        say(&format!("place {topic} {partition} {offset}"));
    }
    let topics: Vec<_> = TOPICS.iter().map(|(name, ..)| log.raw_topic(name)).collect::<Result<_>>()?;
    let interval = Duration::from_millis(2 + chance.below(100));
    let mirror = mirror(&log, &task.bootstrap, task.guarantee).commit_interval(interval).spawn()?;
    let mut number = 0;
    loop {
        let mut batch = Batch::new();
        for _ in 0..1 + chance.below(STEP_RECORDS_MAX) {
            let topic = &topics[chance.below(topics.len() as u64) as usize];
            batch.add(topic, Events::get().record(task.run, number))?;
            number += 1;
        }
        log.blocking_produce_all(batch)?;
        say(&format!("published {number}"));
        let status = mirror.status();
        say(&format!("forwarded {}", status.forwarded));
        if status.state == MirrorState::Failed {
            return Err(status.last_error.unwrap());
        }
        std::thread::sleep(PACE);
    }
}

/// One write, so that a kill cuts one line at most.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    output.write_all(format!("{line}\n").as_bytes()).and_then(|()| output.flush()).unwrap();
}
