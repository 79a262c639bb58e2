//! The disk is full, and what keeps a reserve goes on: the records that fit into it, through restarts, and nobody else gets it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::bench::{Bench, TOPIC, put, read, settings, unit, values};
use super::{Verdict, ensure};
use crate::error::{Error, ErrorKind};
use crate::log::committer::Leader;
use crate::log::engine::Engine;
use crate::log::open::open;
use crate::log::settings::{Durability, LogSettings, TopicSettings};
use crate::storage::Env;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::sim::{SimDisk, SimOptions};
use crate::{Log, Raw, Record, TopicDef};

const KEPT: &str = "kept";
const RESERVE_BYTES: u64 = 32 << 10;
/// A record of this length takes less than so many bytes of the file.
const TEXT_BYTES: usize = 100;
const FRAME_BYTES: u64 = 200;

/// How the process ends in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
    PowerLoss,
}

struct Full {
    bench: Bench,
    engine: Engine,
    kept: Vec<String>,
    others: Vec<String>,
}

fn is_full(answer: Result<(), Error>, what: &str) -> Verdict {
    match answer {
        Err(error) if error.kind() == ErrorKind::StorageFull => Ok(()),
        answer => Err(format!("{what}: {answer:?} though the disk is full")),
    }
}

impl Full {
    /// A log of two topics, one of which keeps a reserve, on a disk that has no room left.
    fn new(seed: u64, segment_bytes: u64, before: usize) -> Verdict<Self> {
        let bench = Bench::new(seed);
        let engine = bench.open();
        bench.create(&engine, 2, Durability::Sync);
        let kept = settings(1, Durability::Sync).segment_bytes_max(segment_bytes).reserve_bytes(RESERVE_BYTES);
        engine.create_topic(KEPT, kept).map_err(told)?;
        let mut full = Self { bench, engine, kept: Vec::new(), others: Vec::new() };
        for _ in 0..before {
            full.keep()?;
        }
        full.engine.do_upkeep(std::time::Duration::MAX);
        full.fill()?;
        Ok(full)
    }

    fn keep(&mut self) -> Verdict {
        let text = format!("{:TEXT_BYTES$}", self.kept.len());
        put(&self.engine, KEPT, 0, &text).map_err(|error| format!("record {}: {error}", self.kept.len()))?;
        self.kept.push(text);
        Ok(())
    }

    /// Fills what room the other topic has.
    fn fill(&mut self) -> Verdict {
        self.bench.disk.set_capacity(Some(self.bench.disk.used()));
        for number in 0..1000 {
            let text = format!("{number:500}");
            match self.bench.put(&self.engine, 0, &text) {
                Ok(text) => self.others.push(text),
                Err(error) => return is_full(Err(error), "the last record"),
            }
        }
        Err("the disk never gets full".to_owned())
    }

    /// One commit of a record that has no room and one that has, by way of the journal or not.
    fn keep_beside_a_refused_one(&mut self) -> Verdict {
        let (refused, text) = ("r".repeat(6000), format!("beside {:TEXT_BYTES$}", self.kept.len()));
        let mut groups = Vec::new();
        for (topic, text) in [(TOPIC, &refused), (KEPT, &text)] {
            let partition = self.engine.topic(topic).and_then(|topic| topic.partition(0)).map_err(told)?;
            let fill = |builder: &mut crate::format::record::FrameBuilder| {
                builder.push(5, None, Some(text.as_bytes()), std::iter::empty());
            };
            let ticket = self.engine.enqueue(&partition, text.len() + 200, Leader::Thread, fill);
            groups.push(ticket.map_err(|refused| format!("{refused:?}"))?.group);
        }
        while self.engine.lead() {}
        let [refused, kept] = [&groups[0], &groups[1]].map(|group| group.outcome().cloned().map(|it| it.map(drop)));
        is_full(refused.unwrap_or(Ok(())), "the record beside")?;
        kept.ok_or("no answer")?.map_err(told)?;
        self.kept.push(text);
        Ok(())
    }

    fn refuse_all_others(&self) -> Verdict {
        // Larger than the reserve, which must not be given up for it.
        is_full(put(&self.engine, KEPT, 0, &"x".repeat(60 << 10)), "a large record")?;
        is_full(self.bench.put(&self.engine, 0, &"x".repeat(5000)).map(drop), "another topic")?;
        is_full(unit(&self.engine, &[(TOPIC, 0), (TOPIC, 1)], &"x".repeat(5000)), "a unit")
    }

    fn reopen(self, end: End) -> Verdict<Self> {
        let Self { bench, engine, kept, others } = self;
        match end {
            End::Closed => {
                // There is no room for the last checkpoint, so that it is as after a kill.
                let _unclean = engine.close().is_err();
            }
            End::Killed => bench.disk.kill(),
            End::PowerLoss => bench.disk.power_loss(),
        }
        drop(engine);
        bench.disk.kill();
        // A checkpoint must fit.
        bench.disk.set_capacity(Some(bench.disk.used() + (8 << 10)));
        let engine = bench.try_open().map_err(told)?;
        bench.disk.set_capacity(Some(bench.disk.used()));
        ensure!(engine.report.damage.is_empty(), "{end:?}: {:?}", engine.report.damage);
        engine.look_for_reserves();
        engine.do_upkeep(std::time::Duration::MAX);
        let full = Self { bench, engine, kept, others };
        full.check()?;
        Ok(full)
    }

    fn check(&self) -> Verdict {
        let (kept, error) = read(&self.engine, KEPT, 0, 0);
        ensure!(error.is_none(), "{error:?}");
        ensure!(kept == self.kept, "{} records instead of {}", kept.len(), self.kept.len());
        ensure!(values(&self.engine, 0) == self.others, "another topic has {} records", values(&self.engine, 0).len());
        Ok(())
    }
}

fn told(error: Error) -> String {
    error.to_string()
}

/// As many records as the reserve has room for are taken, whatever fails beside them and wherever the process ends.
pub(super) fn a_reserve_takes_what_fits() -> Verdict {
    for (number, end) in [End::Closed, End::Killed, End::PowerLoss].into_iter().enumerate() {
        // The file in use has much room of its own left, or little, or none.
        let small = [0, 1, 9, 17, 19, 20, 21, 22, 60].map(|before| (4096, before));
        for (segment_bytes, before) in small.into_iter().chain([(1 << 20, 0), (1 << 20, 60)]) {
            let at = |why: String| format!("{end:?}, segments of {segment_bytes}, {before} records before: {why}");
            let mut full = Full::new(number as u64, segment_bytes, before).map_err(at)?;
            let many = RESERVE_BYTES / FRAME_BYTES;
            for number in 0..many / 2 {
                full.keep().map_err(at)?;
                if number % 10 == 0 {
                    full.refuse_all_others().map_err(at)?;
                    full.keep_beside_a_refused_one().map_err(at)?;
                }
            }
            full.check().map_err(at)?;
            let mut full = full.reopen(end).map_err(at)?;
            for _ in full.kept.len() as u64..many + before as u64 {
                full.keep().map_err(at)?;
            }
            full.check().map_err(at)?;
            full.bench.disk.set_capacity(None);
            for _ in 0..60 {
                full.keep().map_err(at)?;
            }
            full.engine.do_upkeep(std::time::Duration::MAX);
            full.others.push(full.bench.put(&full.engine, 0, "again").map_err(told)?);
            let dir = format!("/{KEPT}/0/");
            let files =
                full.bench.disk.paths().into_iter().filter(|path| path.contains(&dir) && path.ends_with(".log"));
            ensure!(segment_bytes > 4096 || files.count() > 2, "{}", at("no other file was begun".to_owned()));
            let mut full = full.reopen(End::PowerLoss).map_err(at)?;
            // The reserve has been made again meanwhile.
            full.fill().map_err(at)?;
            for _ in 0..many {
                full.keep().map_err(at)?;
            }
            full.reopen(End::Killed).map_err(at)?;
        }
    }
    Ok(())
}

#[test]
fn a_reserve_takes_records_where_the_disk_is_full() {
    a_reserve_takes_what_fits().unwrap();
}

/// Consumers commit, alone and in transactions, where producers are refused; and go on there after a power loss.
#[test]
fn consumers_commit_where_the_disk_is_full() {
    const COMMITS: u64 = 1_200;
    let disk = SimDisk::new(1, SimOptions { writeback_one_in: 0, ..SimOptions::default() });
    let open_log = || {
        let random = Arc::new(SeededRandom::new(disk.calls()));
        let env = Env::new(disk.mount(), Arc::new(ManualClock::new(1_700_000_000_000_000)), random, 64);
        let settings = LogSettings { commit_bytes_max: 128 << 10, journal_bytes: 256 << 10, ..LogSettings::default() };
        Log::start(open(env, PathBuf::from("/log"), settings, true).unwrap(), None).unwrap()
    };
    let record = |number: u64| Record::new(Bytes::from(format!("{number:200}")));
    let log = open_log();
    let settings = TopicSettings::default().record_bytes_max(8 << 10);
    let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("t"), settings.clone()).unwrap();
    let other = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("other"), settings).unwrap();
    let mut sent = COMMITS + 2;
    for number in 0..sent {
        topic.blocking_produce(record(number)).unwrap();
    }
    let mut consumer = topic.subscribe("g").blocking_build().unwrap();
    let message = consumer.try_recv().unwrap().unwrap();
    consumer.blocking_commit(&message).unwrap();

    disk.set_capacity(Some(disk.used()));
    while topic.blocking_produce(record(sent)).is_ok() {
        sent += 1;
    }
    for number in 0..COMMITS {
        let message = consumer.try_recv().unwrap().unwrap();
        consumer.blocking_commit(&message).unwrap_or_else(|error| panic!("commit {number}: {error}"));
        if number % 100 == 0 {
            let error = topic.blocking_produce(record(sent)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }
    let message = consumer.try_recv().unwrap().unwrap();
    let mut refused = log.transaction();
    refused.produce(&topic, Record::new(Bytes::from(vec![1; 8000]))).unwrap();
    refused.produce(&other, Record::new(Bytes::from(vec![1; 8000]))).unwrap();
    refused.commit_offset(&consumer, &message).unwrap();
    assert_eq!(refused.blocking_commit().unwrap_err().kind(), ErrorKind::StorageFull);
    let mut alone = log.transaction();
    alone.commit_offset(&consumer, &message).unwrap();
    alone.blocking_commit().unwrap();

    // What an opening needs for its checkpoint.
    disk.set_capacity(Some(disk.used() + (8 << 10)));
    disk.power_loss();
    drop((consumer, topic, other, log));
    let log = open_log();
    let topic = log.raw_topic("t").unwrap();
    let mut consumer = topic.subscribe("g").blocking_build().unwrap();
    disk.set_capacity(Some(disk.used()));
    let mut next = COMMITS + 2;
    while let Some(message) = consumer.try_recv().unwrap() {
        assert_eq!(message.offset(), next, "what is committed is there");
        // How many records the full disk has taken depends on the threads; what is left of the reserve has room for these.
        if next < COMMITS + COMMITS / 2 {
            consumer.blocking_commit(&message).unwrap();
        }
        next += 1;
    }
    assert_eq!(next, sent, "and so is all that was sent");
    disk.set_capacity(None);
    topic.blocking_produce(record(sent)).unwrap();
    assert_eq!(consumer.try_recv().unwrap().unwrap().offset(), sent);
    log.blocking_close().unwrap();
}
