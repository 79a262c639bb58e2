//! Letting records go, and other settings while a topic is in use, through the public interface.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "records that are to age need the real clock")]

#[path = "support/copy.rs"]
mod copy;

use std::time::{Duration, Instant};

use annals::{Durability, ErrorKind, Log, Record, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use copy::killed;
use futures_util::StreamExt;
use tempfile::TempDir;

const SEGMENT: u64 = 64 << 10;

fn small() -> TopicSettings {
    TopicSettings::default().segment_bytes_max(SEGMENT).durability(Durability::Os)
}

fn open(dir: &TempDir) -> Log {
    Log::blocking_open(dir.path()).unwrap()
}

fn create(log: &Log, settings: TopicSettings) -> Topic {
    log.blocking_create_topic(annals::TopicDef::new("t"), settings).unwrap()
}

/// A record of 4 KiB that says its number.
fn record(number: u64, at: DateTime<Utc>) -> Record {
    Record::new(Bytes::from(format!("{number:>4096}"))).timestamp(at)
}

fn fill(topic: &Topic, numbers: std::ops::Range<u64>, at: DateTime<Utc>) {
    for number in numbers {
        assert_eq!(topic.blocking_produce(record(number, at)).unwrap().offset, number);
    }
}

fn log_start(topic: &Topic) -> u64 {
    topic.watermarks(0).unwrap().log_start
}

/// What the upkeep does, it does in the background.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads to the end: each record says its number, and each gap is named. Answers with the offsets and the gaps.
fn read(topic: &Topic, start: Start) -> (Vec<u64>, Vec<(u64, u64)>) {
    let mut replay = topic.replay(start).blocking().unwrap();
    let (mut offsets, mut gaps) = (Vec::new(), Vec::new());
    loop {
        match replay.next() {
            Ok(Some(view)) => {
                let number: u64 = std::str::from_utf8(view.value().unwrap()).unwrap().trim().parse().unwrap();
                assert_eq!(number, view.offset());
                offsets.push(number);
            }
            Ok(None) => return (offsets, gaps),
            Err(error) => {
                let gap = error.gap().unwrap_or_else(|| panic!("{error}"));
                assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange);
                assert_eq!((gap.topic.as_str(), gap.partition), ("t", 0));
                gaps.push((gap.from, gap.to));
            }
        }
    }
}

fn files(dir: &TempDir) -> usize {
    std::fs::read_dir(dir.path().join("topics/t/0")).unwrap().count()
}

#[test]
fn a_partition_keeps_the_bytes_that_it_is_to_keep_and_not_many_more() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let topic = create(&log, small().retention_bytes_max(3 * SEGMENT));
    fill(&topic, 0..400, Utc::now());
    eventually("the oldest go", || topic.watermarks(0).unwrap().size_bytes <= 4 * SEGMENT + 5000);
    let watermarks = topic.watermarks(0).unwrap();
    assert!(watermarks.size_bytes >= 3 * SEGMENT, "{watermarks:?}");
    assert_eq!(watermarks.high_watermark, 400);
    let start = watermarks.log_start;
    assert_eq!(read(&topic, Start::Earliest), ((start..400).collect(), vec![]));
    let error = topic.replay_partition(0, Start::Offset(start - 1)).blocking().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange);
    assert_eq!(error.offset_range().unwrap().log_start, start);
    log.blocking_close().unwrap();
    drop((topic, log));
    assert!(files(&dir) <= 10, "{} files are left", files(&dir));

    let log = open(&dir);
    assert!(log.recovery().damage.is_empty() && log.recovery().clean);
    let topic = log.raw_topic("t").unwrap();
    assert_eq!(log_start(&topic), start, "the start outlives the process");
    fill(&topic, 400..420, Utc::now());
    assert_eq!(*read(&topic, Start::Last(30)).0.first().unwrap(), 390);
}

#[test]
fn age_is_that_of_the_records_and_a_quiet_log_ages_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let topic = create(&log, small());
    let long_ago = DateTime::from_timestamp(-5_000_000_000, 0).unwrap();
    fill(&topic, 0..40, long_ago);
    fill(&topic, 40..60, Utc::now());
    fill(&topic, 60..80, long_ago);
    log.blocking_alter_topic("t", topic.settings().retention_age_max(Duration::from_secs(3600))).unwrap();
    // The segments that hold something of today stay, with all that came later.
    eventually("what is old goes", || log_start(&topic) >= 30);
    let start = log_start(&topic);
    assert!(start <= 40, "{start}");
    assert_eq!(read(&topic, Start::Earliest).0, (start..80).collect::<Vec<_>>());

    // Nobody writes any more, and in a second all of it is too old.
    log.blocking_alter_topic("t", topic.settings().retention_age_max(Duration::from_secs(1))).unwrap();
    eventually("all goes", || log_start(&topic) == 80);
    assert_eq!(read(&topic, Start::Earliest), (vec![], vec![]));
    fill(&topic, 80..81, Utc::now());
    assert_eq!(read(&topic, Start::Earliest).0, [80]);
    log.blocking_close().unwrap();
}

#[test]
fn records_go_when_they_are_told_to_and_stay_away() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let topic = create(&log, small().durability(Durability::Sync));
    let batch = (0..100).map(|number| record(number, Utc::now()));
    topic.blocking_produce_batch(batch).unwrap();
    assert_eq!(log.blocking_delete_records("t", 0, 33).unwrap(), 33, "also in the middle of a batch");
    assert_eq!(log.blocking_delete_records("t", 0, 5).unwrap(), 33, "what has gone stays away");
    assert_eq!(read(&topic, Start::Earliest), ((33..100).collect(), vec![]));
    for (partition, before, kind) in [(0, 101, ErrorKind::OffsetOutOfRange), (1, 0, ErrorKind::NotFound)] {
        assert_eq!(log.blocking_delete_records("t", partition, before).unwrap_err().kind(), kind);
    }
    let beyond = log.blocking_delete_records("t", 0, 101).unwrap_err();
    assert_eq!(beyond.offset_range().unwrap().high_watermark, 100);
    assert_eq!(log.blocking_delete_records("nobody", 0, 0).unwrap_err().kind(), ErrorKind::NotFound);
    // Killed: nothing is closed, and the lock is all that goes.
    std::mem::forget((log, topic));
    let copy = killed(dir.path());
    let log = open(&copy);
    let topic = log.raw_topic("t").unwrap();
    assert!(!log.recovery().clean && log.recovery().damage.is_empty(), "{:?}", log.recovery());
    assert_eq!(read(&topic, Start::Earliest), ((33..100).collect(), vec![]));
    assert_eq!(log.blocking_delete_records("t", 0, 100).unwrap(), 100);
    assert_eq!(topic.watermarks(0).unwrap().segments, 1, "all files but the new one go");
    assert!(topic.watermarks(0).unwrap().size_bytes < 100);
    fill(&topic, 100..103, Utc::now());
    assert_eq!(read(&topic, Start::Earliest).0, [100, 101, 102]);
    log.blocking_close().unwrap();
    assert_eq!(log.blocking_delete_records("t", 0, 101).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_reader_that_falls_behind_gets_one_gap_and_goes_on() {
    let log = Log::in_memory().unwrap();
    let topic = create(&log, small());
    fill(&topic, 0..200, Utc::now());
    let mut replay = topic.replay(Start::Earliest).blocking().unwrap();
    assert_eq!(replay.next().unwrap().unwrap().offset(), 0);
    log.blocking_delete_records("t", 0, 150).unwrap();
    // What it has at hand it may read on; then there is one gap, and then the rest, each once.
    let (mut expected, mut gaps) = (1, 0);
    loop {
        match replay.next() {
            Ok(Some(record)) => {
                assert_eq!(record.offset(), expected);
                expected += 1;
            }
            Ok(None) => break,
            Err(error) => {
                let gap = error.gap().unwrap_or_else(|| panic!("{error}"));
                assert_eq!((gap.from, gap.to), (expected, 150));
                assert!(
                    error.to_string().contains(&format!("offsets {expected} to 149 of topic t, partition 0 are gone"))
                );
                (expected, gaps) = (150, gaps + 1);
            }
        }
    }
    assert_eq!((expected, gaps), (200, 1));
}

#[tokio::test]
async fn a_stream_names_the_gap_and_does_not_end() {
    let log = Log::in_memory().unwrap();
    let topic = create(&log, small().partitions(2));
    for number in 0..100 {
        for partition in [0, 1] {
            topic.produce(record(number, Utc::now()).partition(partition)).await.unwrap();
        }
    }
    let mut stream = topic.replay(Start::Earliest).follow();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.offset(), 0);
    // More than one fetch, so that something is left to go.
    for number in 100..700 {
        for partition in [0, 1] {
            topic.produce(record(number, Utc::now()).partition(partition)).await.unwrap();
        }
    }
    log.delete_records("t", 1, 650).await.unwrap();
    let mut next = [0, 0];
    next[first.partition() as usize] = 1;
    let mut gaps = Vec::new();
    while next != [700, 700] {
        match stream.next().await.unwrap() {
            Ok(message) => {
                let partition = message.partition() as usize;
                assert_eq!(message.offset(), next[partition], "partition {partition}");
                next[partition] += 1;
            }
            Err(error) => {
                let gap = error.gap().unwrap_or_else(|| panic!("{error}"));
                assert_eq!((gap.partition, gap.from, gap.to), (1, next[1], 650));
                next[1] = 650;
                gaps.push((gap.from, gap.to));
            }
        }
    }
    assert_eq!(gaps.len(), 1);
    topic.produce(record(700, Utc::now()).partition(1)).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().offset(), 700, "it follows on");
}

#[test]
fn settings_change_while_the_topic_is_in_use_and_stay_changed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let topic = create(&log, small().partitions(2));
    let asked = topic
        .settings()
        .segment_bytes_max(2 * SEGMENT)
        .record_bytes_max(1000)
        .durability(Durability::Interval(Duration::from_millis(20)));
    log.blocking_alter_topic("t", asked.clone()).unwrap();
    assert_eq!(topic.settings(), asked, "handles that exist see it");
    let error = topic.blocking_produce(record(0, Utc::now())).unwrap_err();
    assert!(error.to_string().contains("`record_bytes_max` allows 1000"), "{error}");

    let refused = |settings: TopicSettings| {
        let error = log.blocking_alter_topic("t", settings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(topic.settings(), asked, "nothing has changed");
        error.to_string()
    };
    assert!(refused(asked.clone().partitions(3)).contains("add partitions instead"));
    assert!(refused(asked.clone().durability(Durability::Sync)).contains("create another topic"));
    assert!(refused(asked.clone().retention_bytes_max(1)).contains("nothing smaller than a segment can go"));
    assert!(refused(asked.clone().segment_bytes_max(1)).contains("`segment_bytes_max` is 1"));
    let error = log.blocking_alter_topic("nobody", asked.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    log.blocking_close().unwrap();
    assert_eq!(log.blocking_alter_topic("t", asked.clone()).unwrap_err().kind(), ErrorKind::Closed);
    drop((topic, log));
    assert_eq!(open(&dir).raw_topic("t").unwrap().settings(), asked, "also after an opening");
}

#[test]
fn times_beyond_the_calendar_do_not_upset_it() {
    let log = Log::in_memory().unwrap();
    let topic = create(&log, small().retention_age_max(Duration::from_secs(1)));
    let far = Utc::now() + TimeDelta::days(365 * 1000);
    fill(&topic, 0..40, far);
    fill(&topic, 40..80, DateTime::<Utc>::MIN_UTC);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(log_start(&topic), 0, "what comes from the future is not old, and nothing goes before it");
}

/// A frame of which the first records are deleted is found for what is left of it.
#[test]
fn a_time_finds_no_record_that_was_deleted() {
    let log = Log::in_memory().unwrap();
    let topic = log.blocking_create_topic(TopicDef::<String, annals::Raw>::new("t"), TopicSettings::default()).unwrap();
    let at = |seconds| DateTime::<Utc>::from_timestamp(seconds, 0).unwrap();
    let batch = [30, 10, 20].map(|seconds| Record::new(seconds.to_string()).timestamp(at(seconds)));
    topic.blocking_produce_batch(batch).unwrap();
    topic.blocking_produce(Record::new("5".to_owned()).timestamp(at(5))).unwrap();
    topic.blocking_produce(Record::new("40".to_owned()).timestamp(at(40))).unwrap();
    assert_eq!(log.blocking_delete_records("t", 0, 1).unwrap(), 1);
    for (seconds, first) in [(5, 1), (10, 1), (15, 2), (25, 4), (30, 4), (45, 5)] {
        let mut replay = topic.replay(Start::Timestamp(at(seconds))).blocking().unwrap();
        let mut offsets = Vec::new();
        while let Some(record) = replay.next().unwrap() {
            offsets.push(record.offset());
        }
        assert_eq!(offsets, (first..5).collect::<Vec<_>>(), "from {seconds} s on");
    }
}

#[cfg(target_os = "linux")]
const FEW_FILES_DIR: &str = "ANNALS_TEST_FEW_FILES_DIR";

/// A log of years has more segments than a process may have files open: an opening after a crash must do with a few.
#[cfg(target_os = "linux")]
#[test]
fn a_partition_of_many_segments_is_recovered_with_few_files() {
    if let Ok(dir) = std::env::var(FEW_FILES_DIR) {
        let log = Log::builder().open_files_max(16).blocking_open(dir).unwrap();
        let marks = log.raw_topic("t").unwrap().watermarks(0).unwrap();
        assert!(!log.recovery().clean && log.recovery().damage.is_empty(), "{:?}", log.recovery());
        assert!(marks.segments > 300, "{marks:?}");
        let mut history = log.raw_topic("t").unwrap().replay(Start::Earliest).blocking().unwrap();
        let mut count = 0;
        while history.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, marks.high_watermark);
        return;
    }
    let dir = TempDir::new().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let settings = TopicSettings::default().durability(Durability::Os).segment_bytes_max(64 << 10);
    let topic = log.blocking_create_topic(TopicDef::<String, annals::Raw>::new("t"), settings).unwrap();
    let value = "x".repeat(60_000);
    for _ in 0..310 {
        topic.blocking_produce(value.clone()).unwrap();
    }
    let crashed = killed(dir.path());
    let this = std::env::current_exe().unwrap();
    let child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(this)
        .args(["--exact", "a_partition_of_many_segments_is_recovered_with_few_files", "--nocapture"])
        .env(FEW_FILES_DIR, crashed.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

#[test]
fn a_hold_keeps_what_somebody_needs_until_its_cap_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let topic = create(&log, small().retention_bytes_max(2 * SEGMENT));
    let hold = log.hold_retention("t", 0, 20, Some(10 * SEGMENT), None).unwrap();
    fill(&topic, 0..100, Utc::now());
    // Of what nobody needs whole segments go, and nothing else.
    eventually("what is not needed goes", || log_start(&topic) > 0);
    fill(&topic, 100..110, Utc::now());
    std::thread::sleep(Duration::from_millis(50));
    assert!(log_start(&topic) <= 20, "{}", log_start(&topic));
    assert!(!hold.is_broken() && hold.headroom_bytes().unwrap() < 10 * SEGMENT);
    hold.advance(60);
    fill(&topic, 110..130, Utc::now());
    eventually("what is not needed any more goes", || log_start(&topic) > 20);
    assert!(log_start(&topic) <= 60);
    // Beyond the cap it is broken, and said to be.
    fill(&topic, 130..400, Utc::now());
    eventually("the cap holds", || log_start(&topic) > 60);
    assert!(hold.is_broken());
    drop(hold);
    assert_eq!(read(&topic, Start::Earliest).1, []);
}

#[test]
fn a_hold_may_have_appends_refused_and_nothing_of_them_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let topic = create(&log, small());
    let synced: Topic = log.blocking_create_topic(TopicDef::new("synced"), TopicSettings::default()).unwrap();
    let holds = [log.hold_retention("t", 0, 0, None, None), log.hold_retention("synced", 0, 0, None, None)];
    let [relaxed_hold, synced_hold] = holds.map(Result::unwrap);
    relaxed_hold.block_appends(true);
    synced_hold.block_appends(true);
    synced_hold.block_appends(true);
    for topic in [&topic, &synced] {
        let error = topic.blocking_produce(record(0, Utc::now())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        let error = topic.blocking_produce_batch([record(0, Utc::now())]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert_eq!(topic.watermarks(0).unwrap().high_watermark, 0);
    }
    relaxed_hold.block_appends(false);
    drop(synced_hold);
    fill(&topic, 0..3, Utc::now());
    fill(&synced, 0..3, Utc::now());
    let nobody = log.hold_retention("t", 1, 0, None, None).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
}
