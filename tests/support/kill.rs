//! What the children of the kill test append. Child and parent compute it from the same seed, so a record is known by its
//! name, and nothing else must be told.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use annals::{Batch, Delivery, Durability, Log, Raw, Record, Result, Topic, TopicSettings};
use bytes::Bytes;

const THREADS: u32 = 3;

/// Small files, so that children are killed while segments roll and the journal comes round.
const SEGMENT_BYTES_MAX: u64 = 64 << 10;
const COMMIT_BYTES_MAX: u64 = 128 << 10;
const JOURNAL_BYTES: u64 = 256 << 10;
const RECORD_BYTES_MAX: u32 = 16 << 10;

pub(crate) struct TopicPlan {
    pub(crate) name: &'static str,
    partitions: u32,
    durability: Durability,
}

pub(crate) const TOPICS: [TopicPlan; 4] = [
    TopicPlan { name: "synced", partitions: 3, durability: Durability::Sync },
    TopicPlan { name: "synced-too", partitions: 1, durability: Durability::Sync },
    TopicPlan { name: "interval", partitions: 2, durability: Durability::Interval(Duration::from_millis(3)) },
    TopicPlan { name: "os", partitions: 2, durability: Durability::Os },
];

/// Numbers that look random and follow from a seed (splitmix64): the same on every machine and in every version.
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

/// The name of a record: which child and thread sent it, in which step, at which place. Ordered as one thread sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) run: u32,
    pub(crate) thread: u32,
    pub(crate) step: u32,
    pub(crate) index: u32,
}

const ID_BYTES: usize = 16;

impl Id {
    fn to_bytes(self) -> Vec<u8> {
        [self.run, self.thread, self.step, self.index].iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    pub(crate) fn of_value(value: &[u8]) -> Self {
        let (words, _) = value[..ID_BYTES].as_chunks::<4>();
        let [run, thread, step, index] = [0, 1, 2, 3].map(|word| u32::from_le_bytes(words[word]));
        Self { run, thread, step, index }
    }
}

/// How a step sends its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One, and waits for it.
    Produce,
    /// Several under way at once, each acknowledged by itself.
    Send,
    /// As one, into a partition or several of one topic.
    ProduceBatch,
    /// As one, over partitions and topics.
    ProduceAll,
}

/// What a thread does next.
pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) records: Vec<Planned>,
}

/// A record before it is sent.
pub(crate) struct Planned {
    pub(crate) id: Id,
    pub(crate) topic: usize,
    pub(crate) partition: u32,
    filler: u64,
    len: usize,
}

impl Step {
    pub(crate) fn is_atomic(&self) -> bool {
        self.kind != Kind::Send
    }
}

impl Planned {
    pub(crate) fn value(&self) -> Vec<u8> {
        let mut value = self.id.to_bytes();
        let mut chance = Chance::new(&[self.filler]);
        while value.len() < ID_BYTES + self.len {
            value.extend(chance.next().to_le_bytes());
        }
        value.truncate(ID_BYTES + self.len);
        value
    }

    pub(crate) fn key(&self) -> [u8; 8] {
        self.filler.to_be_bytes()
    }

    fn record(&self) -> Record<Bytes> {
        Record::new(Bytes::from(self.value())).key(self.key()).partition(self.partition)
    }
}

/// The step of a thread of a child.
pub(crate) fn plan(seed: u64, run: u32, thread: u32, step: u32) -> Step {
    let mut chance = Chance::new(&[seed, u64::from(run), u64::from(thread), u64::from(step)]);
    let kind = match chance.below(8) {
        0..=2 => Kind::Produce,
        3..=4 => Kind::Send,
        5 => Kind::ProduceBatch,
        _ => Kind::ProduceAll,
    };
    let count = if kind == Kind::Produce { 1 } else { 1 + chance.below(12) as u32 };
    let (one_topic, one_partition) = (chance.below(TOPICS.len() as u64) as usize, chance.below(2) == 0);
    let first = chance.next();
    let records = (0..count).map(|index| {
        let topic = if kind == Kind::ProduceAll { chance.below(TOPICS.len() as u64) as usize } else { one_topic };
        let partitions = u64::from(TOPICS[topic].partitions);
        let partition = if one_partition { first % partitions } else { chance.below(partitions) } as u32;
        // Mostly small; some of them larger than a page, or than a read.
        let len = match chance.below(32) {
            0 => chance.below(12 << 10),
            1..=4 => chance.below(2 << 10),
            _ => chance.below(100),
        } as usize;
        Planned { id: Id { run, thread, step, index }, topic, partition, filler: chance.next(), len }
    });
    Step { kind, records: records.collect() }
}

pub(crate) fn open(dir: &Path) -> Result<Log> {
    Log::builder().commit_bytes_max(COMMIT_BYTES_MAX).journal_bytes(JOURNAL_BYTES).blocking_open(dir)
}

/// The child: appends on several threads until it is killed, and says on stdout what was acknowledged.
pub(crate) fn append_until_killed(dir: &Path, seed: u64, run: u32) -> ! {
    if let Err(error) = append(dir, seed, run) {
        say(&format!("failed: {error}"));
    }
    std::process::exit(9)
}

fn append(dir: &Path, seed: u64, run: u32) -> Result<()> {
    let log = open(dir)?;
    let topics: Vec<Topic<Bytes, Raw>> = TOPICS
        .iter()
        .map(|topic| {
            let settings = TopicSettings::default()
                .partitions(topic.partitions)
                .durability(topic.durability)
                .segment_bytes_max(SEGMENT_BYTES_MAX)
                .record_bytes_max(RECORD_BYTES_MAX);
            log.blocking_create_topic(annals::TopicDef::named(topic.name), settings)
        })
        .collect::<Result<_>>()?;
    // The harness has begun a line.
    say("\nopen");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (log, topics) = (&log, &topics);
                scope.spawn(move || {
                    (0..).try_for_each(|step| {
                        take_step(log, topics, &plan(seed, run, thread, step))?;
                        say(&format!("ack {thread} {step}"));
                        Ok(())
                    })
                })
            })
            .collect();
        scope.spawn(|| {
            if let Err(error) = super::keeper::keep(&log, run, say) {
                say(&format!("failed: {error}"));
            }
        });
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread of the child has panicked"))
    })
}

/// Returns once the whole step is acknowledged.
fn take_step(log: &Log, topics: &[Topic<Bytes, Raw>], step: &Step) -> Result<()> {
    let mut records = step.records.iter().map(|planned| (planned, &topics[planned.topic], planned.record()));
    match step.kind {
        Kind::Produce => records.try_for_each(|(_, topic, record)| topic.blocking_produce(record).map(drop)),
        Kind::Send => {
            let deliveries: Vec<(Id, Delivery)> = records
                .map(|(planned, topic, record)| Ok((planned.id, topic.blocking_send(record)?)))
                .collect::<Result<_>>()?;
            deliveries.into_iter().try_for_each(|(id, delivery)| {
                delivery.wait()?;
                say(&format!("ack {} {} {}", id.thread, id.step, id.index));
                Ok(())
            })
        }
        Kind::ProduceBatch => {
            topics[step.records[0].topic].blocking_produce_batch(records.map(|(_, _, record)| record)).map(drop)
        }
        Kind::ProduceAll => {
            let mut batch = Batch::new();
            records.try_for_each(|(_, topic, record)| batch.add(topic, record))?;
            log.blocking_produce_all(batch).map(drop)
        }
    }
}

/// One write, so that lines of several threads do not mix and a kill cuts the last one at most.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    output.write_all(format!("{line}\n").as_bytes()).and_then(|()| output.flush()).expect("the parent listens");
}
