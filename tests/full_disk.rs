//! A disk that is really full: a small file system is filled through the log, which must say so, keep what it has acknowledged,
//! read on, and go on by itself once there is room.
//!
//! Needs Linux and the right to mount. Without it the test says so and passes; in CI (`CI=true`) that is a failure. An ext4 in a
//! file is filled as well where that can be mounted: it finds its places on the disk later than it takes the bytes.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails where it must")]

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};

use annals::{Batch, Durability, ErrorKind, Log, Raw, Record, Result, Start, Topic, TopicDef, TopicSettings};

const DISK_BYTES: usize = 4 << 20;
const EXT4_BYTES: usize = 12 << 20;
const BALLAST_BYTES: usize = 1 << 20;
/// Whatever the disk holds is reached long before.
const RECORDS_MAX: u32 = 100_000;
/// A record is known by its number, and the rest makes the disk full sooner.
const FILLER: &str = "; and so on, with enough words that the disk is full before the reader is tired of them";

/// A mounted file system, unmounted whatever happens.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// In memory. `None` if this process may not mount.
    fn tmpfs() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_BYTES},mode=0777");
        run_as_root(&["mount", "-t", "tmpfs", "-o", &size, "annals-full-disk"], dir.path()).then(|| Self(dir))
    }

    /// In a file. `None` if this process may not mount, or there is no mke2fs or no loop device.
    fn ext4(image: &tempfile::NamedTempFile) -> Option<Self> {
        let (dir, image) = (tempfile::tempdir().unwrap(), image.path());
        std::fs::write(image, vec![0; EXT4_BYTES]).unwrap();
        let is_mounted = succeeds(&["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0"], image)
            && run_as_root(&["mount", "-o", "loop", image.to_str().unwrap()], dir.path())
            && run_as_root(&["chmod", "0777"], dir.path());
        is_mounted.then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily if it must be: a log that a failed test still has open must not leave the mount behind.
        if !run_as_root(&["umount"], self.path()) {
            run_as_root(&["umount", "-l"], self.path());
        }
    }
}

fn succeeds(command: &[&str], path: &Path) -> bool {
    let mut run = Command::new(command[0]);
    run.args(&command[1..]).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run.status().is_ok_and(|status| status.success())
}

/// As this user, or else through a sudo that asks nothing.
fn run_as_root(command: &[&str], path: &Path) -> bool {
    succeeds(command, path) || succeeds(&[&["sudo", "-n"], command].concat(), path)
}

/// One way to append: takes the first of some numbers, sends a record of each, and says how many they are.
struct Way {
    name: &'static str,
    records: u32,
    append: Append,
}

type Append = fn(&Log, &Topics, u32) -> Result<()>;

struct Topics {
    synced: Topic<String, Raw>,
    os: Topic<String, Raw>,
    interval: Topic<String, Raw>,
    several: Topic<String, Raw>,
}

const WAYS: [Way; 4] = [
    Way {
        name: "synced",
        records: 1,
        append: |_, topics, number| topics.synced.blocking_produce(record(number)).map(drop),
    },
    Way { name: "os", records: 1, append: |_, topics, number| topics.os.blocking_produce(record(number)).map(drop) },
    Way {
        name: "interval",
        records: 1,
        append: |_, topics, number| topics.interval.blocking_produce(record(number)).map(drop),
    },
    Way {
        name: "several",
        records: 6,
        append: |log, topics, number| {
            let mut batch = Batch::new();
            for index in 0..6 {
                batch.add(&topics.several, record(number + index).partition(index % 3))?;
            }
            log.blocking_produce_all(batch).map(drop)
        },
    },
];

fn record(number: u32) -> Record<String> {
    Record::new(format!("{number}{FILLER}"))
}

fn open(dir: &Path) -> (Log, Topics) {
    let log = Log::builder().commit_bytes_max(128 << 10).journal_bytes(256 << 10).blocking_open(dir).unwrap();
    let create = |name: &'static str, partitions, durability| {
        let settings = TopicSettings::default()
            .partitions(partitions)
            .durability(durability)
            .segment_bytes_max(64 << 10)
            .record_bytes_max(16 << 10);
        log.blocking_create_topic(TopicDef::new(name), settings).unwrap()
    };
    let topics = Topics {
        synced: create("synced", 1, Durability::Sync),
        os: create("os", 1, Durability::Os),
        interval: create("interval", 1, Durability::Interval(std::time::Duration::from_millis(2))),
        several: create("several", 3, Durability::Sync),
    };
    (log, topics)
}

/// What was sent, by whether it was acknowledged.
#[derive(Default)]
struct Sent {
    next: u32,
    acknowledged: HashSet<u32>,
    refused: HashSet<u32>,
}

impl Sent {
    /// Appends once. A full disk is the only reason for which that may fail.
    fn append(&mut self, way: &Way, log: &Log, topics: &Topics) -> bool {
        let numbers = self.next..self.next + way.records;
        self.next = numbers.end;
        assert!(self.next < RECORDS_MAX, "{}: the disk never gets full", way.name);
        match (way.append)(log, topics, numbers.start) {
            Ok(()) => {
                self.acknowledged.extend(numbers);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{}: {error}", way.name);
                self.refused.extend(numbers);
                false
            }
        }
    }

    /// Everything acknowledged is there, once; and nothing that was refused.
    fn check(&self, log: &Log) {
        let mut found = HashSet::new();
        let mut history = log.replay(Start::Earliest).blocking().unwrap();
        while let Some(record) = history.next().unwrap() {
            let value = std::str::from_utf8(record.value().unwrap()).unwrap();
            let number: u32 = value.strip_suffix(FILLER).unwrap().parse().unwrap();
            assert!(found.insert(number), "record {number} is there twice");
            assert!(!self.refused.contains(&number), "record {number} was refused, and is there");
        }
        assert_eq!(found, self.acknowledged);
    }
}

fn skip(why: &str) {
    println!("SKIPPED: {why}");
    eprintln!("SKIPPED: {why}");
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room() {
    for first in &WAYS {
        let Some(disk) = SmallDisk::tmpfs() else {
            let why = "a small tmpfs cannot be mounted (needs root, or sudo without a password)";
            assert!(std::env::var("CI").is_err(), "{why}");
            return skip(why);
        };
        fill_and_make_room(first, disk.path());
    }
}

#[test]
fn a_full_ext4_does_the_same() {
    // The others fill it with a sync for each commit: a minute, for what the test above shows.
    for first in WAYS.iter().filter(|way| ["os", "interval"].contains(&way.name)) {
        let image = tempfile::NamedTempFile::new().unwrap();
        let Some(disk) = SmallDisk::ext4(&image) else {
            return skip("a small ext4 cannot be mounted (needs root, mke2fs and a loop device)");
        };
        fill_and_make_room(first, disk.path());
    }
}

/// Commits as many messages one by one, with the disk full, as a consumer gets.
#[test]
fn consumers_commit_where_the_disk_is_full() {
    const COMMITS: u32 = 1_200;
    let Some(disk) = SmallDisk::tmpfs() else {
        let why = "a small tmpfs cannot be mounted (needs root, or sudo without a password)";
        assert!(std::env::var("CI").is_err(), "{why}");
        return skip(why);
    };
    let (dir, ballast) = (disk.path().join("log"), disk.path().join("ballast"));
    std::fs::write(&ballast, vec![7; BALLAST_BYTES]).unwrap();
    let (log, topics) = open(&dir);
    let mut sent = Sent::default();
    for _ in 0..COMMITS + 2 {
        assert!(sent.append(&WAYS[0], &log, &topics));
    }
    let mut consumer = topics.synced.subscribe("g").blocking_build().unwrap();
    let first = consumer.try_recv().unwrap().unwrap();
    consumer.blocking_commit(&first).unwrap();
    // Whatever else there is room for, down to the last page.
    for way in &WAYS {
        while sent.append(way, &log, &topics) {}
    }
    let filler = std::fs::File::create(disk.path().join("filler")).unwrap();
    let mut position = 0;
    while let Ok(written) = std::os::unix::fs::FileExt::write_at(&filler, &[7; 4096], position) {
        position += written as u64;
    }
    for _ in 0..COMMITS {
        let message = consumer.try_recv().unwrap().unwrap();
        consumer.blocking_commit(&message).unwrap();
        if message.offset() % 100 == 0 {
            assert!(WAYS.iter().all(|way| !sent.append(way, &log, &topics)), "the disk is full");
        }
    }
    let message = consumer.try_recv().unwrap().unwrap();
    let mut transaction = log.transaction();
    transaction.commit_offset(&consumer, &message).unwrap();
    transaction.blocking_commit().unwrap();
    sent.check(&log);

    // Room again: everybody goes on.
    std::fs::remove_file(&ballast).unwrap();
    for way in &WAYS {
        assert!(sent.append(way, &log, &topics), "{} goes on once there is room", way.name);
    }
    consumer.blocking_commit(&message).unwrap();
    drop(consumer);
    log.blocking_close().unwrap();
    drop((topics, log));
    let (log, topics) = open(&dir);
    assert!(log.recovery().clean && log.recovery().damage.is_empty(), "{:?}", log.recovery());
    sent.check(&log);
    let mut consumer = topics.synced.subscribe("g").blocking_build().unwrap();
    assert_eq!(consumer.try_recv().unwrap().unwrap().offset(), message.offset() + 1);
    log.blocking_close().unwrap();
}

/// Whether a file of a topic is a part of this process's memory.
fn is_mapped(topic: &str) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let part = format!("/log/topics/{topic}/0/");
    maps.lines().any(|line| line.contains(&part))
}

/// Fills the disk in one way first, then in all others.
fn fill_and_make_room(first: &Way, disk: &Path) {
    let dir = disk.join("log");
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![7; BALLAST_BYTES]).unwrap();
    let (log, topics) = open(&dir);
    let mut sent = Sent::default();
    // Each way once while there is room.
    for way in &WAYS {
        assert!(sent.append(way, &log, &topics), "{}", way.name);
    }
    let mut was_mapped = false;
    while sent.append(first, &log, &topics) {
        was_mapped |= sent.next % 50 == 0 && is_mapped(first.name);
    }
    assert_eq!(was_mapped, ["os", "interval"].contains(&first.name), "{}", first.name);
    sent.check(&log);
    // The others may still have room in files that were made large enough before.
    for way in &WAYS {
        while sent.append(way, &log, &topics) {}
        sent.check(&log);
    }
    // Refused again and again, and no harm done by it.
    for _ in 0..3 {
        for way in &WAYS {
            sent.append(way, &log, &topics);
        }
    }
    sent.check(&log);
    let acknowledged = sent.acknowledged.len();

    std::fs::remove_file(&ballast).unwrap();
    for _ in 0..50 {
        for way in &WAYS {
            assert!(sent.append(way, &log, &topics), "{} first: {} goes on once there is room", first.name, way.name);
        }
    }
    sent.check(&log);
    log.blocking_close().unwrap();
    drop(topics);
    drop(log);

    let (log, topics) = open(&dir);
    assert!(log.recovery().clean && log.recovery().damage.is_empty(), "{:?}", log.recovery());
    sent.check(&log);
    for way in &WAYS {
        assert!(sent.append(way, &log, &topics), "{}", way.name);
    }
    sent.check(&log);
    log.blocking_close().unwrap();
    println!("{} first: {acknowledged} records acknowledged until the disk was full", first.name);
}
