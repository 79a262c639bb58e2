//! Every bad input has an error of its own: its kind says what to do, its message what was wrong and what is allowed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use annals::{
    Batch, Durability, Error, ErrorKind, Json, Log, LogBuilder, Raw, Record, Start, Topic, TopicDef, TopicSettings,
};
use bytes::Bytes;
use futures_util::StreamExt;

/// The smallest segments; the fuzz targets have smaller ones.
const SEGMENT_MIN: u64 = if cfg!(feature = "fuzzing") { 4 << 10 } else { 64 << 10 };

#[track_caller]
fn refused<T>(answer: Result<T, impl Into<Error>>, kind: ErrorKind, says: &[&str]) -> Error {
    let Err(error) = answer else { panic!("this should have been refused with {kind:?}") };
    let error = error.into();
    assert_eq!(error.kind(), kind, "{error}");
    for part in says {
        assert!(error.to_string().contains(part), "`{error}` does not say `{part}`");
    }
    error
}

fn create(log: &Log, name: &str, settings: TopicSettings) -> annals::Result<Topic> {
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings)
}

fn bytes(len: usize) -> Bytes {
    vec![7; len].into()
}

#[test]
fn names_of_topics() {
    let log = Log::temporary().unwrap();
    let plain = TopicSettings::default;
    for (name, says) in [
        ("", "0 bytes; 1 to 249"),
        (".", "dots are allowed in between"),
        ("..", "dots are allowed in between"),
        (".hidden", "dots are allowed in between"),
        ("a/b", "contains '/'"),
        ("../x", "contains '/'"),
        ("a\0b", "contains '\\0'"),
        ("ordérs", "contains 'é'"),
        ("a b", "ASCII letters, digits, '.', '_' and '-'"),
        ("__offsets", "reserved"),
        (&"x".repeat(250), "250 bytes; 1 to 249"),
        (&"x".repeat(300), "300 bytes; 1 to 249"),
    ] {
        refused(create(&log, name, plain()), ErrorKind::Invalid, &["topic name", says]);
        match name {
            "__offsets" => refused(log.raw_topic(name), ErrorKind::Invalid, &["annals' own", "replay_topics"]),
            _ => refused(log.raw_topic(name), ErrorKind::NotFound, &["there is no topic"]),
        };
    }
    create(&log, &"x".repeat(249), plain()).unwrap();
    create(&log, "Orders", plain()).unwrap();
    refused(create(&log, "orders", plain()), ErrorKind::AlreadyExists, &["orders", "Orders", "case"]);
    create(&log, "Orders", plain()).unwrap();
    let other = create(&log, "Orders", plain().partitions(2));
    refused(other, ErrorKind::AlreadyExists, &["Orders", "partitions: 1", "partitions: 2"]);
    assert_eq!(log.topics().unwrap().len(), 2);
}

#[test]
fn settings_of_topics() {
    let log = Log::in_memory().unwrap();
    let plain = TopicSettings::default;
    let interval = |duration| plain().durability(Durability::Interval(duration));
    let segments = format!("{SEGMENT_MIN} to 1073741824");
    for (settings, says) in [
        (plain().partitions(0), ["`partitions` is 0", "1 to 10000"]),
        (plain().partitions(10_001), ["`partitions` is 10001", "1 to 10000"]),
        (
            plain().segment_bytes_max(SEGMENT_MIN - 1),
            [&*format!("`segment_bytes_max` is {}", SEGMENT_MIN - 1), &segments],
        ),
        (plain().segment_bytes_max((1 << 30) + 1), ["`segment_bytes_max` is 1073741825", &segments]),
        (plain().record_bytes_max(0), ["`record_bytes_max` is 0", "1 to 67108864"]),
        (plain().record_bytes_max((64 << 20) + 1), ["`record_bytes_max` is 67108865", "1 to 67108864"]),
        (plain().record_bytes_max(8 << 20), ["`record_bytes_max` is 8388608", "`commit_bytes_max` of 8388608"]),
        (interval(Duration::from_micros(999)), ["999", "1ms to 3600s"]),
        (interval(Duration::from_secs(3601)), ["3601s", "1ms to 3600s"]),
    ] {
        refused(create(&log, "t", settings), ErrorKind::Invalid, &says);
    }
    let edges = plain().segment_bytes_max(SEGMENT_MIN).record_bytes_max(1);
    create(&log, "least", edges.durability(Durability::Interval(Duration::from_millis(1)))).unwrap();
    create(&log, "most", plain().segment_bytes_max(1 << 30).record_bytes_max((8 << 20) - (64 << 10))).unwrap();
}

#[test]
fn settings_of_logs() {
    let with = |change: fn(LogBuilder) -> LogBuilder| change(Log::builder()).in_memory();
    let says = ["`commit_bytes_max` is 131071", "131072 to 268435456"];
    refused(with(|log| log.commit_bytes_max((128 << 10) - 1)), ErrorKind::Invalid, &says);
    let says = ["`commit_bytes_max` is 268435457", "131072 to 268435456"];
    refused(with(|log| log.commit_bytes_max((256 << 20) + 1).journal_bytes(1 << 30)), ErrorKind::Invalid, &says);
    let says = ["`journal_bytes` is 16777215", "16777216 to 1073741824"];
    refused(with(|log| log.journal_bytes((16 << 20) - 1)), ErrorKind::Invalid, &says);
    refused(with(|log| log.journal_bytes((1 << 30) + 1)), ErrorKind::Invalid, &["`journal_bytes` is 1073741825"]);
    let says = ["`tail_bytes_max` is 67108865", "0 to 67108864"];
    refused(with(|log| log.tail_bytes_max((64 << 20) + 1)), ErrorKind::Invalid, &says);
    with(|log| log.commit_bytes_max(128 << 10).journal_bytes(256 << 10).tail_bytes_max(0)).unwrap();
}

/// The names below a directory.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn directories() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "text").unwrap();
    refused(Log::blocking_open(&file), ErrorKind::Invalid, &["file", "not a directory"]);

    let foreign = temp.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.doc"), "years of work").unwrap();
    refused(Log::blocking_open(&foreign), ErrorKind::Invalid, &["thesis.doc", "directory of its own"]);
    assert_eq!(names(&foreign), ["thesis.doc"], "nothing is created in it");

    let missing = temp.path().join("missing");
    let answer = Log::builder().create(false).blocking_open(&missing);
    refused(answer, ErrorKind::NotFound, &["missing", "there is no log"]);
    assert!(!missing.exists());
    fs::create_dir(&missing).unwrap();
    refused(Log::builder().create(false).blocking_open(&missing), ErrorKind::NotFound, &["there is no log"]);
    assert!(names(&missing).is_empty());

    // What a file system puts into its top directory is in nobody's way.
    let top = temp.path().join("top");
    fs::create_dir_all(top.join("lost+found")).unwrap();
    let log = Log::blocking_open(&top).unwrap();
    log.blocking_close().unwrap();
    for stray in ["lost+found", "notes", ".Trash"] {
        fs::create_dir_all(top.join("topics").join(stray)).unwrap();
    }
    let log = Log::builder().create(false).blocking_open(&top).unwrap();
    assert!(log.topics().unwrap().is_empty() && log.recovery().damage.is_empty());
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let (outside, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = Log::blocking_open(outside.path()).unwrap();
    create(&log, "theirs", TopicSettings::default()).unwrap();
    log.blocking_close().unwrap();
    Log::blocking_open(dir.path()).unwrap().blocking_close().unwrap();
    let link = dir.path().join("topics/theirs");
    std::os::unix::fs::symlink(outside.path().join("topics/theirs"), &link).unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    refused(log.raw_topic("theirs"), ErrorKind::NotFound, &["theirs"]);
}

#[cfg(unix)]
#[test]
fn a_directory_that_is_for_reading_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // Permissions do not bind everybody.
    if fs::write(dir.path().join("probe"), "").is_ok() {
        return;
    }
    refused(Log::blocking_open(dir.path()), ErrorKind::Io, &["cannot", "ermission denied"]);
}

const CHILD: &str = "ANNALS_TEST_OPEN";

/// Opens the directory that a parent names; by itself it does nothing.
#[test]
fn opens_what_the_parent_names() {
    if let Some(dir) = std::env::var_os(CHILD) {
        refused(Log::blocking_open(dir), ErrorKind::Locked, &["open for writing already"]);
    }
}

#[test]
fn locks() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let shown = dir.path().display().to_string();
    refused(Log::blocking_open(dir.path()), ErrorKind::Locked, &[&shown, "open for writing already"]);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "opens_what_the_parent_names"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    log.blocking_close().unwrap();
    Log::blocking_open(dir.path()).unwrap();
}

/// CRC-32 of IEEE 802.3.
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn newer_formats() {
    let newer = |file: &str, damage: &dyn Fn(&mut Vec<u8>), says: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::blocking_open(dir.path()).unwrap();
        create(&log, "t", TopicSettings::default()).unwrap().blocking_produce(bytes(10)).unwrap();
        log.blocking_close().unwrap();
        let path = dir.path().join(file);
        let mut content = fs::read(&path).unwrap();
        damage(&mut content);
        fs::write(&path, &content).unwrap();
        refused(Log::blocking_open(dir.path()), ErrorKind::Invalid, says);
        assert_eq!(fs::read(&path).unwrap(), content, "who cannot read it leaves it alone");
    };
    let patch = |content: &mut [u8], len: usize| {
        content[8..10].copy_from_slice(&2u16.to_le_bytes());
        let sum = crc(&content[..len - 4]);
        content[len - 4..len].copy_from_slice(&sum.to_le_bytes());
    };
    let both_slots = |content: &mut Vec<u8>| {
        patch(&mut content[..100], 100);
        patch(&mut content[4096..4196], 100);
    };
    newer("MANIFEST", &both_slots, &["MANIFEST", "version 2 is newer than the 1"]);
    let segment = "topics/t/0/00000000000000000000.log";
    newer(segment, &|content| patch(content, 80), &["00000000000000000000.log", "version 2 is newer than the 1"]);
    let topic = |content: &mut Vec<u8>| {
        let text = String::from_utf8(content.clone()).unwrap().replace("format_version = 1", "format_version = 2");
        let body = &text[..text.rfind("checksum = ").unwrap()];
        *content = format!("{body}checksum = \"crc32:{:08x}\"\n", crc(body.as_bytes())).into_bytes();
    };
    newer("topics/t/topic.toml", &topic, &["topics/t/topic.toml", "version 2", "reads up to 1"]);
}

#[tokio::test]
async fn records_and_partitions() {
    let log = Log::builder().commit_bytes_max(128 << 10).journal_bytes(256 << 10).in_memory().unwrap();
    let settings = TopicSettings::default().partitions(2).record_bytes_max(1000);
    let topic = create(&log, "t", settings).unwrap();
    let says = ["partition 2", "topic t has 0 to 1"];
    refused(topic.produce(Record::new(bytes(1)).partition(2)).await, ErrorKind::Invalid, &says);
    refused(topic.watermarks(2), ErrorKind::NotFound, &["topic t has no partition 2", "0 to 1"]);
    let mut replay = topic.replay_partition(2, Start::Earliest);
    refused(replay.next().await.unwrap(), ErrorKind::NotFound, &["no partition 2"]);
    assert!(replay.next().await.is_none());

    // Key, value and headers count.
    let says = ["1001 bytes", "`record_bytes_max` allows 1000"];
    refused(topic.produce(Record::new(bytes(900)).key(bytes(101))).await, ErrorKind::Invalid, &says);
    topic.produce(Record::new(bytes(900)).key(bytes(100))).await.unwrap();
    let refused_send = topic.try_send(Record::new(bytes(1001))).unwrap_err();
    assert_eq!(refused_send.record.value.as_ref().map(Bytes::len), Some(1001), "the record comes back");
    for (name, says) in [("", "0 bytes; 1 to 255"), (&"n".repeat(256), "256 bytes; 1 to 255")] {
        let answer = topic.produce(Record::new(bytes(1)).header(name, "v")).await;
        refused(answer, ErrorKind::Invalid, &["header name", says]);
    }
    let many = topic.produce_batch((0..200).map(|_| Record::new(bytes(900)))).await;
    refused(many, ErrorKind::Invalid, &["batch", "`commit_bytes_max` is 131072"]);
    assert_eq!(topic.replay(Start::Earliest).count().await, 1, "nothing of all that was written");

    let codec =
        log.create_topic(TopicDef::<f64, Json>::new("json"), TopicSettings::default().record_bytes_max(99)).await;
    let json = codec.unwrap();
    json.produce(f64::NAN).await.unwrap();
    let item = json.replay(Start::Earliest).next().await.unwrap();
    refused(item, ErrorKind::Codec, &["topic json, partition 0, offset 0", "could not be decoded"]);

    for count in [0, 1, 2] {
        let says = ["topic t has 2 partitions", "can only grow"];
        refused(log.add_partitions("t", count).await, ErrorKind::Invalid, &says);
    }
    refused(log.add_partitions("t", 10_001).await, ErrorKind::Invalid, &["10001", "1 to 10000"]);
    refused(log.add_partitions("none", 2).await, ErrorKind::NotFound, &["none"]);
}

#[test]
fn a_batch_that_is_refused_is_as_it_was() {
    let (one, other) = (Log::in_memory().unwrap(), Log::in_memory().unwrap());
    let topics = [&one, &other].map(|log| create(log, "t", TopicSettings::default().record_bytes_max(10)).unwrap());
    let mut batch = Batch::new();
    refused(batch.add(&topics[0], Record::new(bytes(11))), ErrorKind::Invalid, &["11 bytes"]);
    batch.add(&topics[1], Record::new(bytes(1))).unwrap();
    refused(batch.add(&topics[0], Record::new(bytes(1))), ErrorKind::Invalid, &["one opened log"]);
    assert_eq!(batch.len(), 1);
    refused(one.blocking_produce_all(batch), ErrorKind::Invalid, &["another log"]);
}

/// A batch over very many partitions costs more than its records: that is counted when they are added.
#[test]
fn a_batch_over_many_partitions_is_refused_before_it_is_too_large_for_the_journal() {
    let log = Log::builder().commit_bytes_max(128 << 10).journal_bytes(256 << 10).in_memory().unwrap();
    let topic = create(&log, "t", TopicSettings::default().partitions(3000).record_bytes_max(10)).unwrap();
    let mut batch = Batch::new();
    let refusal = (0..3000).find_map(|partition| batch.add(&topic, Record::new(bytes(1)).partition(partition)).err());
    refused(Err::<(), _>(refusal.unwrap()), ErrorKind::Invalid, &["`commit_bytes_max` is 131072"]);
    let count = batch.len();
    assert_eq!(log.blocking_produce_all(batch).unwrap().len(), count, "what was taken can be committed");
}

#[test]
fn offsets() {
    let log = Log::in_memory().unwrap();
    let topic = create(&log, "t", TopicSettings::default().partitions(2)).unwrap();
    for _ in 0..3 {
        topic.blocking_produce(Record::new(bytes(1)).partition(1)).unwrap();
    }
    for follow in [false, true] {
        let replay = topic.replay_partition(1, Start::Offset(4));
        let replay = if follow { replay.follow() } else { replay };
        let says = ["offset 4", "topic t, partition 1", "0 to 3"];
        let error = refused(replay.blocking(), ErrorKind::OffsetOutOfRange, &says);
        let range = error.offset_range().unwrap();
        assert_eq!((range.log_start, range.high_watermark), (0, 3));
    }
    assert!(topic.replay_partition(1, Start::Offset(3)).blocking().unwrap().next().unwrap().is_none());
    let says = ["single partition", "2 are read"];
    refused(topic.replay(Start::Offset(0)).blocking(), ErrorKind::Invalid, &says);
    refused(log.replay(Start::Offset(0)).blocking(), ErrorKind::Invalid, &says);
    refused(log.replay_topics(["t", "none"], Start::Earliest), ErrorKind::NotFound, &["none"]);
}

#[tokio::test]
async fn a_closed_log_and_a_deleted_topic() {
    for (kind, says) in [(ErrorKind::Closed, "closed"), (ErrorKind::NotFound, "deleted")] {
        for durability in [Durability::Sync, Durability::Os] {
            let log = Log::temporary().unwrap();
            let topic = create(&log, "t", TopicSettings::default().partitions(2).durability(durability)).unwrap();
            let mut batch = Batch::new();
            batch.add(&topic, Record::new(bytes(1)).partition(0)).unwrap();
            batch.add(&topic, Record::new(bytes(1)).partition(1)).unwrap();
            if kind == ErrorKind::Closed {
                log.close().await.unwrap();
                log.close().await.unwrap();
                refused(log.topics(), kind, &[says]);
                refused(log.describe_topic("t"), kind, &[says]);
                refused(log.raw_topic("t"), kind, &[says]);
                refused(log.create_raw_topic("u", TopicSettings::default()).await, kind, &[says]);
                refused(log.add_partitions("t", 3).await, kind, &[says]);
                refused(log.delete_topic("t").await, kind, &[says]);
                refused(log.sync().await, kind, &[says]);
                refused(log.replay(Start::Earliest).next().await.unwrap(), kind, &[says]);
                refused(topic.replay(Start::Earliest).blocking(), kind, &[says]);
            } else {
                log.delete_topic("t").await.unwrap();
                refused(log.delete_topic("t").await, kind, &["no topic \"t\""]);
                refused(log.describe_topic("t"), kind, &["no topic \"t\""]);
            }
            let record = || Record::new(bytes(1)).partition(0);
            refused(topic.produce(record()).await, kind, &[says]);
            refused(topic.blocking_produce(record()), kind, &[says]);
            refused(topic.produce_batch([record()]).await, kind, &[says]);
            refused(log.produce_all(batch).await, kind, &[says]);
            refused(topic.try_send(record()), kind, &[says]);
            assert_eq!((topic.name(), topic.partitions()), ("t", 2), "what it was can still be asked");
        }
    }
}
