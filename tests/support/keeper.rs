//! One more thread of each child of the kill test: a topic of a few keys that is compacted, and one whose oldest records are
//! deleted, again and again. The process is killed in the middle of either.

use std::collections::BTreeMap;

use annals::{Compression, Log, Raw, Record, Result, Start, Topic, TopicDef, TopicSettings};

const KEYS: u64 = 7;
const COMPACT_EVERY: u64 = 6;
const TRIM_EVERY: u64 = 4;
const TRIMMED_TO: u64 = 20;

pub(crate) const KEPT: &str = "kept";
pub(crate) const TRIMMED: &str = "trimmed";

/// The child's part: returns with an error only.
pub(crate) fn keep(log: &Log, run: u32, say: impl Fn(&str)) -> Result<()> {
    let create = |name, compression, compaction| -> Result<Topic<String, Raw>> {
        let settings =
            TopicSettings::default().segment_bytes_max(64 << 10).record_bytes_max(16 << 10).compression(compression);
        log.blocking_create_topic(TopicDef::new(name), settings.compaction(compaction))
    };
    let kept = create(KEPT, Compression::Lz4, true)?;
    let trimmed = create(TRIMMED, Compression::Zstd { level: 1 }, false)?;
    for step in 0_u64.. {
        let value = value(run, step);
        let of_kept = kept.blocking_produce(Record::new(value.clone()).key(format!("{}", step % KEYS)))?;
        let of_trimmed = trimmed.blocking_produce(value)?;
        say(&format!("kept {step} {} {}", of_kept.offset, of_trimmed.offset));
        if step % COMPACT_EVERY == COMPACT_EVERY - 1 {
            log.blocking_compact_topic(KEPT)?;
            say("compacted");
        }
        if step % TRIM_EVERY == TRIM_EVERY - 1 {
            let before = of_trimmed.offset.saturating_sub(TRIMMED_TO);
            say(&format!("trimming {before}"));
            let start = log.blocking_delete_records(TRIMMED, 0, before)?;
            say(&format!("trimmed {start}"));
        }
    }
    Ok(())
}

/// Large enough that segments are sealed all the time, and small once they are compressed.
fn value(run: u32, step: u64) -> String {
    let letter = char::from(b'a' + (step % 26) as u8);
    format!("{run} {step} {}", letter.to_string().repeat(3_000 + (step % 5) as usize * 1_000))
}

fn of_value(value: &[u8]) -> (u32, u64) {
    let text = std::str::from_utf8(value).unwrap();
    let mut words = text.split(' ');
    let (run, step) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
    assert_eq!(text, self::value(run, step));
    (run, step)
}

/// What the children have said.
#[derive(Default)]
pub(crate) struct Kept {
    /// The last acknowledged record of each key, with its offset.
    last: BTreeMap<u64, (u32, u64, u64)>,
    /// The acknowledged records of the topic that is trimmed, by offset.
    trimmed: BTreeMap<u64, (u32, u64)>,
    /// Where that topic starts at the earliest, and at the latest.
    start: (u64, u64),
    pub(crate) compactions: u64,
    pub(crate) deletions: u64,
}

impl Kept {
    /// Takes a line of a child. Answers whether it was one of these.
    pub(crate) fn hear(&mut self, run: u32, line: &str) -> bool {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        match (name, &numbers[..]) {
            ("kept", &[step, kept, trimmed]) => {
                self.last.insert(step % KEYS, (run, step, kept));
                self.trimmed.insert(trimmed, (run, step));
            }
            ("compacted", []) => self.compactions += 1,
            ("trimming", &[before]) => self.start.1 = self.start.1.max(before),
            ("trimmed", &[start]) => {
                self.start.0 = self.start.0.max(start);
                self.deletions += 1;
            }
            _ => return false,
        }
        true
    }

    /// Everything acknowledged is there, but for what may have gone.
    pub(crate) fn check(&self, log: &Log) {
        let there: Vec<_> = log.topics().unwrap().into_iter().map(|topic| topic.name).collect();
        let mut last = BTreeMap::new();
        if there.iter().any(|name| name == KEPT) {
            for (offset, (run, step)) in records(log, KEPT) {
                let before = last.insert(step % KEYS, (run, step, offset));
                assert!(
                    before.is_none_or(|before| (before.0, before.1) < (run, step)),
                    "a key goes back to {run} {step}"
                );
            }
        }
        for (key, acknowledged) in &self.last {
            let found = last.get(key);
            assert!(
                found.is_some_and(|found| found >= acknowledged),
                "key {key}: {acknowledged:?} was acknowledged, {found:?} is there"
            );
        }
        let mut found = BTreeMap::new();
        let mut start = 0;
        if there.iter().any(|name| name == TRIMMED) {
            start = log.raw_topic(TRIMMED).unwrap().watermarks(0).unwrap().log_start;
            found = records(log, TRIMMED).into_iter().collect();
        }
        assert!((self.start.0..=self.start.1).contains(&start), "it starts at {start}, not in {:?}", self.start);
        assert!(found.keys().copied().eq(start..start + found.len() as u64), "a hole in {TRIMMED}");
        for (offset, acknowledged) in self.trimmed.range(start..) {
            assert_eq!(found.get(offset), Some(acknowledged), "offset {offset} of {TRIMMED}");
        }
    }
}

fn records(log: &Log, topic: &str) -> Vec<(u64, (u32, u64))> {
    let mut history = log.raw_topic(topic).unwrap().replay(Start::Earliest).blocking().unwrap();
    let mut found = Vec::new();
    while let Some(record) = history.next().unwrap() {
        found.push((record.offset(), of_value(record.value().unwrap())));
    }
    found
}
