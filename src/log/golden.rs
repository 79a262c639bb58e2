//! Golden files: whole logs under `tests/fixtures/v1`, whose bytes never change by themselves.
//!
//! `ANNALS_WRITE_GOLDEN=1 cargo test golden` writes them anew; see the README there for when that is right.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::engine::Engine;
use super::open::open;
use super::report::RecoveryReport;
use super::settings::{Compression, Durability, LogSettings, TopicSettings};
use crate::format::record::{FrameBuilder, RecordIter};
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::disk::Disk;
use crate::storage::sim::{Loss, SimDisk, SimOptions};
use crate::storage::{Env, Storage};

/// 2026-01-01T00:00:00Z.
const NOW: i64 = 1_767_225_600_000_000;
const YEAR_1: i64 = -62_135_596_800_000_000;

fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", "v1"].iter().collect()
}

fn open_log(storage: Arc<dyn Storage>, root: &Path, seed: u64) -> Engine {
    let clock = Arc::new(ManualClock::new(NOW + seed as i64 * 1_000_000));
    let env = Env::new(storage, clock, Arc::new(SeededRandom::new(seed)), 3);
    let settings = LogSettings { journal_bytes: 4096, tail_bytes_max: 0, ..LogSettings::default() };
    open(env, root.into(), settings, true).unwrap()
}

fn settings(partitions: u32, durability: Durability) -> TopicSettings {
    TopicSettings::default().partitions(partitions).durability(durability).segment_bytes_max(4096)
}

type TestRecord<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>, &'a [(&'a str, Option<&'a [u8]>)]);

fn push(builder: &mut FrameBuilder, (timestamp, key, value, headers): TestRecord<'_>) {
    builder.push(timestamp, key, value, headers.iter().copied());
}

/// A record that differs from its neighbours in what it has and has not.
fn push_varied(builder: &mut FrameBuilder, number: usize) {
    let value = format!("value {number} {}", "abcdefghij".repeat(number % 16));
    let key = format!("customer-{}", number % 5);
    let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
    let at = NOW + number as i64 * 1_000;
    let record: TestRecord<'_> = match number % 10 {
        0 => (at, None, value, &[]),
        1 => (at, key, None, &[]),
        2 => (at, key, value, &[("event-type", Some(b"OrderPaid")), ("trace", None)]),
        3 => (YEAR_1 + number as i64, key, value, &[("hop", Some(b"a")), ("hop", Some(b"b")), ("hop", None)]),
        4 => (at, Some(b""), Some(b""), &[("empty", Some(b""))]),
        5 => (i64::MIN, key, Some(b"the earliest"), &[]),
        6 => (i64::MAX, key, Some(b"the latest"), &[]),
        7 => (-1, key, Some(&[0xff, 0xfe, 0, 1]), &[("bytes", Some(&[0x80, 0x81]))]),
        8 => (at - 60_000_000, None, None, &[("why", Some("gelöscht".as_bytes()))]),
        _ => (at, key, value, &[]),
    };
    push(builder, record);
}

fn append(engine: &Engine, topic: &str, partition: u32, numbers: std::ops::Range<usize>) {
    let topic = engine.topic(topic).unwrap();
    let partition = topic.partition(partition).unwrap();
    let fill = |builder: &mut FrameBuilder| numbers.clone().for_each(|number| push_varied(builder, number));
    match topic.settings().durability {
        Durability::Sync => {
            let ticket = engine.enqueue(&partition, 4000, crate::log::committer::Leader::Thread, fill).unwrap();
            engine.lead();
            ticket.group.wait().clone().unwrap();
        }
        relaxed => drop(engine.append_relaxed(&partition, relaxed, fill).unwrap()),
    }
}

/// One commit over several partitions.
fn commit(engine: &Engine, targets: &[(&str, u32)], number: usize) {
    let frames = targets.iter().map(|(topic, partition)| {
        let mut builder = FrameBuilder::new();
        push_varied(&mut builder, number);
        (engine.topic(topic).unwrap().partition(*partition).unwrap(), builder)
    });
    let group = engine.committer.enqueue_unit(frames.collect(), crate::log::committer::Leader::Thread).unwrap();
    engine.lead();
    group.wait().clone().unwrap();
}

fn create_topics(engine: &Engine) {
    engine.create_topic("orders", settings(2, Durability::Sync)).unwrap();
    engine.create_topic("payments.eu", settings(1, Durability::Sync)).unwrap();
    engine.create_topic("clicks", settings(1, Durability::Interval(Duration::from_millis(250)))).unwrap();
    engine.create_topic("_metrics", settings(1, Durability::Os)).unwrap();
}

/// A log that was opened twice and closed cleanly both times.
fn make_closed(root: &Path) {
    for session in 0..2 {
        let engine = open_log(Arc::new(Disk), root, session as u64 + 1);
        create_topics(&engine);
        for step in 0..13 {
            let number = session * 100 + step * 3;
            append(&engine, "orders", 0, number..number + 3);
            append(&engine, "orders", (step % 3 == 0).into(), number..number + 1);
            append(&engine, "clicks", 0, number..number + 2);
            if step % 5 == 4 {
                append(&engine, "_metrics", 0, number..number + 1);
                commit(&engine, &[("orders", 1), ("payments.eu", 0), ("clicks", 0)], number);
            }
        }
        engine.do_upkeep(Duration::MAX);
        engine.close().unwrap();
    }
    assert!(open_log(Arc::new(Disk), root, 9).report.clean);
}

/// A log that lost power: commits that only the journal holds, and half a frame at the end of a partition.
fn make_crashed(root: &Path) {
    let disk = SimDisk::new(1, SimOptions { loss: Loss::Oldest, writeback_one_in: 0, capacity: None });
    let engine = open_log(disk.mount(), Path::new("/log"), 3);
    create_topics(&engine);
    for step in 0..8 {
        append(&engine, "orders", 0, step * 4..step * 4 + 4);
        append(&engine, "clicks", 0, step..step + 1);
    }
    commit(&engine, &[("orders", 0), ("orders", 1)], 12);
    engine.checkpoint().unwrap();
    append(&engine, "payments.eu", 0, 0..3);
    engine.do_upkeep(Duration::MAX);
    // From here on the files of the partitions get nothing to the disk but what a sync of their own puts there.
    for number in [13, 20, 22] {
        commit(&engine, &[("orders", 0), ("orders", 1), ("payments.eu", 0)], number);
    }
    append(&engine, "clicks", 0, 30..33);
    let clicks = engine.topic("clicks").unwrap().partition(0).unwrap();
    let unsynced = clicks.segments().last().unwrap().readable() as usize;
    let seen = disk.read_file("/log/topics/clicks/0/00000000000000000000.log");
    disk.power_loss();
    drop(engine);
    for path in disk.paths() {
        let target = root.join(path.strip_prefix("/log/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, disk.read_file(&path)).unwrap();
    }
    // The power went while the last frame was on its way: most of it arrived.
    let file = root.join("topics/clicks/0/00000000000000000000.log");
    assert!(fs::metadata(&file).unwrap().len() < unsynced as u64 - 40);
    fs::write(file, &seen[..unsynced - 40]).unwrap();
}

/// A log of compressed frames: grouped, of one commit over several partitions, and relaxed.
fn make_compressed(root: &Path) {
    let engine = open_log(Arc::new(Disk), root, 5);
    let zstd = Compression::Zstd { level: 3 };
    engine.create_topic("orders", settings(2, Durability::Sync).compression(Compression::Lz4)).unwrap();
    engine.create_topic("clicks", settings(1, Durability::Os).compression(zstd)).unwrap();
    for step in 0..2 {
        append(&engine, "orders", 0, step * 20..step * 20 + 10);
        append(&engine, "clicks", 0, step * 20..step * 20 + 12);
        // Too small to be worth it.
        append(&engine, "clicks", 0, step..step + 1);
        commit(&engine, &[("orders", 1), ("clicks", 0)], step * 10 + 9);
    }
    let topics = engine.topics();
    let frames = topics.iter().flat_map(|topic| topic.partitions().to_vec()).flat_map(|partition| {
        let mut cursor = PartitionCursor::new(partition, 0);
        std::iter::from_fn(move || cursor.next_frame(u64::MAX).unwrap()).map(|frame| frame.header.compression as u8)
    });
    let mut methods: Vec<u8> = frames.collect();
    methods.sort_unstable();
    methods.dedup();
    assert_eq!(methods, [0, 1, 2]);
    engine.close().unwrap();
}

fn shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// A record a line; what it has not is left out.
fn records(partition: &Arc<Partition>, lines: &mut String) {
    let mut cursor = PartitionCursor::new(Arc::clone(partition), partition.log_start());
    while let Some(frame) = cursor.next_frame(u64::MAX).unwrap() {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = records.next_record().unwrap() {
            let headers: Vec<Value> =
                record.headers.iter().map(|(name, value)| json!([name, value.map(shown)])).collect();
            let mut line = json!({ "offset": record.offset, "commit": frame.header.commit, "at": record.timestamp });
            let parts = [("key", record.key.map(shown)), ("value", record.value.map(shown))];
            for (name, part) in parts {
                if let Some(part) = part {
                    line[name] = part;
                }
            }
            if !headers.is_empty() {
                line["headers"] = Value::Array(headers);
            }
            *lines += &format!("{line}\n");
        }
    }
}

/// All that a reader of the log can see, one JSON object a line: for each partition a summary, then its records.
fn content(engine: &Engine) -> String {
    let mut lines = String::new();
    for topic in engine.topics() {
        for partition in topic.partitions().iter() {
            let settings = topic.settings();
            let summary = json!({
                "topic": &*topic.name,
                "partition": partition.owner.partition,
                "durability": settings.durability.to_string(),
                "log_start": partition.log_start(),
                "end": partition.visible_end(),
                "segments": partition.segments().len(),
            });
            lines += &format!("{summary}\n");
            records(partition, &mut lines);
        }
    }
    lines
}

fn report(report: &RecoveryReport, root: &Path) -> String {
    let saved: Vec<_> = report
        .cut_saved
        .iter()
        .map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"))
        .collect();
    let report = json!({
        "clean": report.clean,
        "epoch": report.epoch,
        "topics": report.topics,
        "partitions": report.partitions,
        "journal_entries": report.journal_entries,
        "journal_frames_restored": report.journal_frames_restored,
        "scanned_bytes": report.scanned_bytes,
        "adopted_records": report.adopted_records,
        "cut_bytes": report.cut_bytes,
        "cut_saved": saved,
        "damage": report.damage.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&report).unwrap() + "\n"
}

/// All files below `dir`, by their path from there.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let target = to.join(name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
}

/// Opens a copy of the log in `dir`: what recovery says, and what is there.
fn open_copy(dir: &Path, seed: u64) -> (String, String) {
    let copied = tempfile::tempdir().unwrap();
    copy(dir, copied.path());
    let engine = open_log(Arc::new(Disk), copied.path(), seed);
    let first = (report(&engine.report, copied.path()), content(&engine));
    // Nothing is different after another opening, and the log takes records.
    engine.close().unwrap();
    drop(engine);
    let engine = open_log(Arc::new(Disk), copied.path(), seed + 1);
    assert!(engine.report.clean);
    assert_eq!(content(&engine), first.1);
    append(&engine, "orders", 1, 0..1);
    assert_ne!(content(&engine), first.1);
    first
}

/// Checks that the files are read as before. Answers with the ones that are made now, and with the ones that are kept.
fn check_reading(name: &str, make: fn(&Path)) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<u8>>) {
    let (case, made) = (fixtures().join(name), tempfile::tempdir().unwrap());
    make(made.path());
    let log = case.join("log");
    if std::env::var_os("ANNALS_WRITE_GOLDEN").is_some_and(|value| value == "1") {
        drop(fs::remove_dir_all(&case));
        copy(made.path(), &log);
        let (report, content) = open_copy(&log, 1000);
        fs::write(case.join("expected.report.json"), report).unwrap();
        fs::write(case.join("expected.ndjson"), content).unwrap();
    }
    let expected = |file: &str| fs::read_to_string(case.join(file)).unwrap();
    let (report, content) = open_copy(&log, 2000);
    assert_eq!(content, expected("expected.ndjson"), "{name}: committed bytes are read differently");
    assert_eq!(report, expected("expected.report.json"), "{name}: recovery answers differently");

    (files(made.path()), files(&log))
}

fn check(name: &str, make: fn(&Path)) {
    let (made, golden) = check_reading(name, make);
    assert_eq!(made.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>(), "{name}: other files are written");
    for (file, bytes) in &golden {
        let at = bytes.iter().zip(&made[file]).position(|(a, b)| a != b);
        assert!(
            *bytes == made[file],
            "{name}: {file} is written differently from byte {at:?} on; see tests/fixtures/README.md for what that means"
        );
    }
}

#[test]
fn golden_closed() {
    check("closed", make_closed);
}

#[test]
fn golden_crashed() {
    check("crashed", make_crashed);
}

/// Only read: what a compressor makes of the same bytes may change with its version, what they decompress to may not.
#[test]
fn golden_compressed() {
    check_reading("compressed", make_compressed);
}

/// Every single bit of the manifest: the other slot is older, and still nothing is lost.
#[test]
fn golden_crashed_with_any_bit_of_its_manifest_flipped() {
    let log = fixtures().join("crashed/log");
    let disk = SimDisk::new(1, SimOptions::default());
    let made = open_log(Arc::new(disk.clone()), Path::new("/log"), 1);
    create_topics(&made);
    made.checkpoint().unwrap();
    drop(made);
    for (name, bytes) in files(&log) {
        if name.starts_with("journal/") && !disk.paths().contains(&String::from("/log/journal")) {
            drop(disk.create_dir(Path::new("/log/journal")));
        }
        disk.write_file(Path::new("/log").join(name), &bytes);
    }
    let expected = fs::read_to_string(fixtures().join("crashed/expected.ndjson")).unwrap();
    let slots = (0..100).chain(4096..4196).flat_map(|at| (0..8).map(move |bit| (at, bit)));
    // A version is believed without its checksum, and refused by name.
    for (at, bit) in slots.filter(|(at, _)| !matches!(at % 4096, 8 | 9)) {
        let damaged = disk.fork(at);
        damaged.flip_bit("/log/MANIFEST", at, bit);
        let engine = open_log(damaged.mount(), Path::new("/log"), 5);
        assert!(content(&engine) == expected, "byte {at}");
    }
}

#[test]
fn golden_files_are_small() {
    let bytes: usize = files(&fixtures()).values().map(Vec::len).sum();
    assert!(bytes < 128 * 1024, "{bytes} bytes");
}
