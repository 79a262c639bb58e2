//! The check of a log beside a program that writes to it, and the dumps of its files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use annals::{Batch, Durability, ErrorKind, Log, Raw, Record, Topic, TopicDef, TopicSettings, inspect};
use bytes::Bytes;

fn topic(log: &Log, name: &'static str, durability: Durability) -> Topic<Bytes, Raw> {
    let settings = TopicSettings::default()
        .partitions(2)
        .durability(durability)
        .segment_bytes_max(64 << 10)
        .record_bytes_max(16 << 10);
    log.blocking_create_topic(TopicDef::new(name), settings).unwrap()
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_str().unwrap().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Commits of one partition and of several, batches over topics, relaxed appends, rotations and checkpoints, all the while.
#[test]
fn a_check_beside_a_writer_finds_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::builder().commit_bytes_max(128 << 10).journal_bytes(256 << 10).blocking_open(dir.path()).unwrap();
    let synced = topic(&log, "synced", Durability::Sync);
    let relaxed = topic(&log, "relaxed", Durability::Os);
    let stop = AtomicBool::new(false);
    let (mut checks, mut records, mut rotated) = (0, 0, 0);
    std::thread::scope(|scope| {
        for writer in 0..3_u32 {
            let (log, synced, relaxed, stop) = (&log, &synced, &relaxed, &stop);
            scope.spawn(move || {
                let mut count = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    count += 1;
                    let value = Bytes::from(vec![b'v'; (count as usize * 37) % 3000]);
                    match (writer + count) % 3 {
                        0 => drop(synced.blocking_produce(Record::new(value).partition(count % 2)).unwrap()),
                        1 => drop(relaxed.blocking_produce(Record::new(value).key(count.to_string())).unwrap()),
                        _ => {
                            let mut batch = Batch::new();
                            for partition in 0..2 {
                                batch.add(synced, Record::new(value.clone()).partition(partition)).unwrap();
                                batch.add(relaxed, Record::new(value.clone()).partition(partition)).unwrap();
                            }
                            log.blocking_produce_all(batch).unwrap();
                        }
                    }
                }
            });
        }
        // Long enough for checkpoints and for files that are used again.
        while checks < 60 || rotated < 30 {
            checks += 1;
            let report = inspect::verify(dir.path(), |_| ()).unwrap();
            assert!(report.is_intact(), "{report:?}");
            assert!(report.records >= records, "{} records, and {records} before", report.records);
            (records, rotated) = (report.records, report.segments);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(records > 100);
    assert_eq!(inspect::repair(dir.path(), inspect::RepairOptions::default()).unwrap_err().kind(), ErrorKind::Locked);
    log.blocking_close().unwrap();
    let report = inspect::verify(dir.path(), |_| ()).unwrap();
    assert!(report.is_intact() && report.notes.is_empty(), "{report:?}");
    let repair = inspect::repair(dir.path(), inspect::RepairOptions::default().apply(true)).unwrap();
    assert!(repair.partitions.is_empty() && repair.left.is_empty(), "{repair:?}");
}

#[test]
fn dumps_show_every_frame_and_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let topic = topic(&log, "t", Durability::Sync);
    for number in 0..3 {
        let records = [0, 1].map(|partition| {
            let record = Record::new(Bytes::from(format!("value {number}")));
            record.key("k\u{1}").header("event_type", "made").partition(partition)
        });
        topic.blocking_produce_batch(records).unwrap();
    }
    topic.blocking_produce(Record::tombstone().key("gone").partition(0)).unwrap();
    drop(topic);
    // Not closed: the journal still counts.
    let dump = |path: &Path| {
        let mut out = Vec::new();
        inspect::dump_segment(path, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let segment = &files(&dir.path().join("topics/t/0"), ".log")[0];
    let text = dump(segment);
    for expected in [
        "0: segment header, checksum ok",
        "80: frame of records, header checksum ok, body checksum ok",
        "offset 0, ",
        r#"key "k\x01", header "event_type"="made", value of 7 bytes "value 0""#,
        r#"key "gone", tombstone"#,
        "zeros up to the end of the file",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    let mut out = Vec::new();
    inspect::dump_journal(&files(&dir.path().join("journal"), ".journal")[0], &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    for expected in ["0: journal header, checksum ok", "entry 2, ", "2 frames", "00000000000000000000.log at 80"] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    log.blocking_close().unwrap();

    // Every flip of a bit, and every cut, gives a text.
    let bytes = fs::read(segment).unwrap();
    let copy = dir.path().join("copy");
    for at in 0..bytes.len().min(600) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&copy, &flipped).unwrap();
        let text = dump(&copy);
        let said = ["NO SEGMENT HEADER", "NO FRAME", "BODY DAMAGED"].iter().any(|word| text.contains(word));
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        assert!(said || at > used, "a flip at {at} is not shown:\n{text}");
        fs::write(&copy, &bytes[..at]).unwrap();
        dump(&copy);
        inspect::dump_journal(&copy, &mut Vec::new()).unwrap();
    }
    assert_eq!(inspect::dump_segment(dir.path(), &mut Vec::new()).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(inspect::verify(dir.path().join("none"), |_| ()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(inspect::verify(segment, |_| ()).unwrap_err().kind(), ErrorKind::Invalid);
}
