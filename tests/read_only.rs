//! Logs that are opened read-only: beside a writer in another process, after its kill, where nothing may be written, and what
//! is refused.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails where it must, on the real clock")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use annals::{Batch, Durability, ErrorKind, Log, Raw, Record, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;

const CHILD: &str = "ANNALS_READ_ONLY_CHILD";
const CHILD_DIR: &str = "ANNALS_READ_ONLY_CHILD_DIR";
const CHILD_FROM: &str = "ANNALS_READ_ONLY_CHILD_FROM";

fn directory() -> tempfile::TempDir {
    // The target directory is on a disk; the system's temporary one may live in memory.
    tempfile::Builder::new().prefix("read-only-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

fn topic(log: &Log, name: &str, partitions: u32, durability: Durability) -> Topic {
    let settings = TopicSettings::default()
        .partitions(partitions)
        .durability(durability)
        .segment_bytes_max(64 << 10)
        .record_bytes_max(4096);
    log.blocking_create_topic(TopicDef::named(name), settings).unwrap()
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    output.write_all(format!("{line}\n").as_bytes()).and_then(|()| output.flush()).unwrap();
}

/// A record that says its number, and fills segments.
fn numbered(number: u64) -> Record<Bytes> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + (number * 37 % 700) as usize, 7);
    Record::new(Bytes::from(value))
}

/// Appends numbers, each to wherever the number says, and waits for each before the next.
fn write_numbers(dir: &Path, from: u64, to: u64) {
    let log = Log::builder().commit_bytes_max(128 << 10).journal_bytes(256 << 10).blocking_open(dir).unwrap();
    let synced = topic(&log, "synced", 3, Durability::Sync);
    let os = topic(&log, "os", 2, Durability::Os);
    say("\nopen");
    for number in from..to {
        let record = || numbered(number);
        match number % 7 {
            0 | 1 => {
                synced.blocking_produce(record().partition((number % 3) as u32)).unwrap();
            }
            2 => {
                os.blocking_produce(record().partition((number % 2) as u32)).unwrap();
            }
            3 => {
                // A topic that comes and goes.
                let late = topic(&log, &format!("late-{}", number / 700), 1, Durability::Sync);
                late.blocking_produce(record()).unwrap();
            }
            _ => {
                // Through the journal.
                let mut batch = Batch::new();
                batch.add(&synced, record().partition(0)).unwrap();
                batch.add(&synced, record().partition(2)).unwrap();
                batch.add(&os, record().partition(1)).unwrap();
                drop(log.blocking_produce_all(batch).unwrap());
            }
        }
        say(&format!("ack {number}"));
    }
    log.blocking_close().unwrap();
    say("closed");
}

/// The child of a test: this test binary, run again.
fn start(test: &str, role: &str, dir: &Path, from: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, role)
        .env(CHILD_DIR, dir)
        .env(CHILD_FROM, from.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The role that this process was started for, if it is a child.
fn role() -> Option<(String, PathBuf, u64)> {
    let role = std::env::var(CHILD).ok()?;
    let number = std::env::var(CHILD_FROM).unwrap().parse().unwrap();
    Some((role, std::env::var(CHILD_DIR).unwrap().into(), number))
}

/// How many copies of a number there are.
fn copies(number: u64) -> usize {
    if number % 7 >= 4 { 3 } else { 1 }
}

fn number_of(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().unwrap())
}

/// What a follower has seen: it sends each number once all its copies have come.
fn follow(reader: &Log, seen: &mpsc::Sender<u64>) {
    let mut tail = reader.replay(Start::Earliest).follow().blocking().unwrap();
    let mut ends: BTreeMap<(String, u32), u64> = BTreeMap::new();
    let (mut commit, mut last, mut count) = (0, None, 0);
    loop {
        let record = match tail.next() {
            Ok(record) => record.unwrap(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                return;
            }
        };
        let place = (record.topic().to_owned(), record.partition());
        let end = ends.entry(place.clone()).or_insert(0);
        assert_eq!(record.offset(), *end, "{place:?}: offsets go on without a gap");
        *end += 1;
        assert!(record.commit() >= commit, "{place:?}: commit {} comes after {commit}", record.commit());
        commit = record.commit();
        let number = number_of(record.value().unwrap());
        if last != Some(number) {
            // Each was acknowledged before the next was sent.
            assert_eq!(number, last.map_or(0, |last| last + 1), "in causal order, with nothing left out");
            assert_eq!(count, last.map_or(0, copies), "all copies of {last:?} come before {number}");
            (last, count) = (Some(number), 0);
        }
        count += 1;
        if count == copies(number) {
            seen.send(number).unwrap();
        }
    }
}

/// Waits until a follower has seen `number`.
fn wait_for(seen: &mpsc::Receiver<u64>, number: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match seen.recv_timeout(left) {
            Ok(now) if now >= number => return,
            Ok(_) => {}
            Err(error) => panic!("number {number} is not seen: {error}"),
        }
    }
}

/// All numbers that can be read, each with how often it is there.
fn numbers(log: &Log) -> BTreeMap<u64, usize> {
    let mut found = BTreeMap::new();
    let mut history = log.replay(Start::Earliest).blocking().unwrap();
    while let Some(record) = history.next().unwrap() {
        *found.entry(number_of(record.value().unwrap())).or_insert(0) += 1;
    }
    found
}

/// Reads what the child says up to the acknowledgement of `number`.
fn acknowledged(lines: &mut impl Iterator<Item = String>, number: u64) -> u64 {
    for line in lines.by_ref() {
        assert!(!line.contains("panicked"), "{line}");
        if line == format!("ack {number}") {
            return number;
        }
    }
    panic!("the child ended before it acknowledged {number}");
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

/// One writer after the other, killed or not; readers see all of it, as it comes.
#[test]
fn another_process_is_followed_through_kills_and_closes() {
    if let Some((_, dir, from)) = role() {
        return write_numbers(&dir, from, if from == 0 { u64::MAX } else { from + 300 });
    }
    let test = "another_process_is_followed_through_kills_and_closes";
    let dir = directory();
    let mut child = start(test, "writer", dir.path(), 0);
    let mut output = lines(&mut child);
    acknowledged(&mut output, 20);
    let readers = [1, 20].map(|millis| {
        Log::builder().refresh_interval(Duration::from_millis(millis)).blocking_open_read_only(dir.path()).unwrap()
    });
    assert!(readers[0].is_read_only() && readers[0].recovery().damage.is_empty(), "{:?}", readers[0].recovery());
    let (tell, seen): (Vec<_>, Vec<_>) = readers.iter().map(|_| mpsc::channel()).unzip();
    std::thread::scope(|scope| {
        let followers: Vec<_> =
            readers.iter().zip(&tell).map(|(reader, tell)| scope.spawn(move || follow(reader, tell))).collect();
        let last = acknowledged(&mut output, 600);
        seen.iter().for_each(|seen| wait_for(seen, last));
        // Whoever asks sees what was acknowledged before.
        let last = acknowledged(&mut output, 700);
        readers[1].blocking_refresh().unwrap();
        let found = numbers(&readers[1]);
        assert_eq!(found.get(&last), Some(&copies(last)), "{last} was acknowledged before the refresh");
        acknowledged(&mut output, 800);
        child.kill().unwrap();
        child.wait().unwrap();
        let last =
            output.filter_map(|line| line.strip_prefix("ack ").map(|number| number.parse::<u64>().unwrap())).last();
        let last = last.unwrap_or(800);

        // Nobody has recovered it yet.
        let before = files(dir.path());
        let reader = Log::blocking_open_read_only(dir.path()).unwrap();
        assert!(!reader.recovery().clean && reader.recovery().damage.is_empty(), "{:?}", reader.recovery());
        let found = numbers(&reader);
        let end = found.len() as u64;
        assert!(end > last, "{last} was acknowledged, {end} numbers are there");
        assert!(
            found.iter().enumerate().all(|(at, (number, count))| at as u64 == *number && *count == copies(*number))
        );
        seen.iter().for_each(|seen| wait_for(seen, end - 1));
        reader.blocking_close().unwrap();
        assert!(files(dir.path()) == before, "reading has changed files");

        // The next writer goes on, and the same readers with it.
        let mut child = start(test, "writer", dir.path(), end);
        let mut output = lines(&mut child);
        acknowledged(&mut output, end + 299);
        seen.iter().for_each(|seen| wait_for(seen, end + 299));
        assert!(output.any(|line| line == "closed"));
        assert!(child.wait().unwrap().success());
        let reader = Log::blocking_open_read_only(dir.path()).unwrap();
        assert!(reader.recovery().clean, "{:?}", reader.recovery());
        assert_eq!(numbers(&reader), numbers(&readers[0]));
        readers.iter().for_each(|reader| reader.blocking_close().unwrap());
        for follower in followers {
            follower.join().unwrap();
        }
    });
}

#[test]
fn topics_and_partitions_come_and_go() {
    let dir = directory();
    let log = Log::blocking_open(dir.path()).unwrap();
    let reader = Log::builder().refresh_interval(Duration::from_millis(1)).blocking_open_read_only(dir.path()).unwrap();
    assert_eq!((reader.topics().unwrap().len(), reader.id()), (0, log.id()));
    let first = topic(&log, "first", 1, Durability::Sync);
    first.blocking_produce(numbered(1)).unwrap();
    reader.blocking_refresh().unwrap();
    let seen: Topic<Bytes, Raw> = reader.raw_topic("first").unwrap();
    let mut tail = seen.replay(Start::Earliest).follow().blocking().unwrap();
    assert_eq!(number_of(tail.next().unwrap().unwrap().value().unwrap()), 1);

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(log.add_partitions("first", 3)).unwrap();
    first.blocking_produce(numbered(2).partition(2)).unwrap();
    assert_eq!(number_of(tail.next().unwrap().unwrap().value().unwrap()), 2, "out of a partition that has come");
    assert_eq!(seen.partitions(), 3);

    // Deleted, and made anew under the same name.
    runtime.block_on(log.delete_topic("first")).unwrap();
    let again = topic(&log, "first", 1, Durability::Os);
    again.blocking_produce(numbered(3)).unwrap();
    let ended = tail.next().unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::NotFound, "{ended}");
    reader.blocking_refresh().unwrap();
    let described = reader.describe_topic("first").unwrap();
    assert_eq!((described.partitions.len(), described.partitions[0].high_watermark), (1, 1));
    assert_eq!(described.settings.durability, Durability::Os);

    // Records that are let go leave a gap.
    for number in 4..400 {
        again.blocking_produce(numbered(number)).unwrap();
    }
    let mut late = reader.raw_topic("first").unwrap().replay(Start::Earliest).blocking().unwrap();
    assert_eq!(late.next().unwrap().unwrap().offset(), 0);
    runtime.block_on(log.delete_records("first", 0, 300)).unwrap();
    reader.blocking_refresh().unwrap();
    let watermarks = reader.raw_topic("first").unwrap().watermarks(0).unwrap();
    assert_eq!((watermarks.log_start, watermarks.high_watermark), (300, 397));
    let mut history = reader.raw_topic("first").unwrap().replay(Start::Earliest).blocking().unwrap();
    assert_eq!(history.next().unwrap().unwrap().offset(), 300);
    log.blocking_close().unwrap();
    reader.blocking_close().unwrap();
    assert_eq!(reader.topics().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn records_and_changes_are_refused() {
    let dir = directory();
    let log = Log::blocking_open(dir.path()).unwrap();
    for (name, durability) in [("sync", Durability::Sync), ("os", Durability::Os)] {
        topic(&log, name, 2, durability).blocking_produce(numbered(1)).unwrap();
    }
    log.blocking_close().unwrap();
    let before = files(dir.path());

    let reader = Log::blocking_open_read_only(dir.path()).unwrap();
    let refused = |error: annals::Error| {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("read-only"), "{error}");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for name in ["sync", "os"] {
        let topic = reader.raw_topic(name).unwrap();
        refused(topic.blocking_produce(numbered(2)).unwrap_err());
        refused(topic.try_send(numbered(2)).unwrap_err().into());
        refused(runtime.block_on(topic.produce(numbered(2))).unwrap_err());
        refused(topic.blocking_produce_batch([numbered(2), numbered(3)]).unwrap_err());
        let mut batch = Batch::new();
        batch.add(&topic, numbered(2).partition(0)).unwrap();
        batch.add(&topic, numbered(2).partition(1)).unwrap();
        refused(reader.blocking_produce_all(batch).unwrap_err());
        let settings = topic.settings();
        // One that is there is no change.
        assert_eq!(
            reader.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings.clone()).unwrap().name(),
            name
        );
        refused(runtime.block_on(reader.alter_topic(name, settings.retention_bytes_max(1 << 20))).unwrap_err());
        refused(runtime.block_on(reader.add_partitions(name, 5)).unwrap_err());
        refused(runtime.block_on(reader.delete_records(name, 0, 1)).unwrap_err());
        refused(runtime.block_on(reader.delete_topic(name)).unwrap_err());
    }
    refused(runtime.block_on(reader.create_raw_topic("new", TopicSettings::default())).unwrap_err());
    reader.blocking_sync().unwrap();
    // It keeps nobody from writing.
    Log::blocking_open(dir.path()).unwrap().blocking_close().unwrap();
    drop(reader);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&files(dir.path())), names(&before));
    assert!(Log::builder().refresh_interval(Duration::ZERO).blocking_open_read_only(dir.path()).is_err());
}

#[test]
fn what_is_no_log_is_told_apart() {
    let dir = directory();
    let kind = |path: &Path| Log::blocking_open_read_only(path).unwrap_err().kind();
    assert_eq!(kind(&dir.path().join("nowhere")), ErrorKind::NotFound);
    assert_eq!(kind(dir.path()), ErrorKind::NotFound, "an empty directory");
    assert_eq!(files(dir.path()).len(), 0, "nothing was created");
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert_eq!(kind(&file), ErrorKind::Invalid);
    assert_eq!(kind(dir.path()), ErrorKind::NotFound, "a directory with something else");

    // A newer format: both slots of the manifest say so.
    let newer = dir.path().join("newer");
    Log::blocking_open(&newer).unwrap().blocking_close().unwrap();
    let mut manifest = std::fs::read(newer.join("MANIFEST")).unwrap();
    for slot in [0, 4096] {
        manifest[slot + 8] = 200;
    }
    std::fs::write(newer.join("MANIFEST"), manifest).unwrap();
    let error = Log::blocking_open_read_only(&newer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("newer"), "{error}");
}

#[cfg(target_os = "linux")]
mod without_rights {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn is_root() -> bool {
        std::fs::metadata("/proc/self").unwrap().uid() == 0
    }

    fn set_modes(dir: &Path, dirs: u32, files: u32) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                set_modes(&path, dirs, files);
            } else {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(files)).unwrap();
            }
        }
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(dirs)).unwrap();
    }

    /// A log that was killed, so that there is something that recovery would mend.
    fn killed(test: &str) -> (tempfile::TempDir, u64) {
        let dir = directory();
        let mut child = start(test, "writer", dir.path(), 0);
        let mut output = lines(&mut child);
        acknowledged(&mut output, 100);
        child.kill().unwrap();
        child.wait().unwrap();
        let last =
            output.filter_map(|line| line.strip_prefix("ack ").map(|number| number.parse::<u64>().unwrap())).last();
        (dir, last.unwrap_or(100))
    }

    fn check(dir: &Path, last: u64) {
        let reader = Log::blocking_open_read_only(dir).unwrap();
        assert!(reader.recovery().damage.is_empty(), "{:?}", reader.recovery());
        let found = numbers(&reader);
        for number in 0..=last {
            assert_eq!(found.get(&number), Some(&copies(number)), "{number} was acknowledged");
        }
    }

    #[test]
    fn directories_and_files_without_the_right_to_write() {
        if let Some((_, dir, from)) = role() {
            return write_numbers(&dir, from, u64::MAX);
        }
        if is_root() {
            eprintln!("SKIPPED: permissions mean nothing to root");
            return;
        }
        let (dir, last) = killed("without_rights::directories_and_files_without_the_right_to_write");
        set_modes(dir.path(), 0o555, 0o444);
        check(dir.path(), last);
        assert_eq!(Log::blocking_open(dir.path()).unwrap_err().kind(), ErrorKind::Io);
        set_modes(dir.path(), 0o755, 0o644);
        std::fs::set_permissions(dir.path().join("MANIFEST"), std::fs::Permissions::from_mode(0o000)).unwrap();
        let error = Log::blocking_open_read_only(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(error.to_string().contains("MANIFEST"), "{error}");
    }

    /// The same directory, mounted read-only in a mount namespace of a child's own.
    #[test]
    fn a_read_only_mount() {
        match role() {
            Some((role, dir, from)) if role == "writer" => return write_numbers(&dir, from, u64::MAX),
            Some((_, dir, last)) => {
                let refused = Log::blocking_open(&dir).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
                check(&dir, last);
                return say("read it all");
            }
            None => {}
        }
        let test = "without_rights::a_read_only_mount";
        let (dir, last) = killed(test);
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(dir.path())
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(CHILD, "reader")
            .env(CHILD_DIR, dir.path())
            .env(CHILD_FROM, last.to_string())
            .output();
        let output = match output {
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => output,
            other => {
                eprintln!("SKIPPED: no read-only mount can be made here: {other:?}");
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("read it all"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
