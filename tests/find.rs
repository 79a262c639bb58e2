//! Finding records by a header: whatever has happened to the log and to the index, what is found is what a filter over the whole
//! history finds, in the same order.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/copy.rs"]
mod copy;

use std::fs;
use std::path::{Path, PathBuf};

use annals::{Durability, ErrorKind, Json, Log, Message, Raw, Record, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;
use chrono::DateTime;
use copy::{copy_dir, killed};
use futures_util::{StreamExt, TryStreamExt};
use proptest::prelude::*;
use tempfile::TempDir;

const HEADERS: [&str; 3] = ["correlation_id", "kind", "hop"];
const VALUES: [&str; 5] = ["", "a", "b", "c", "none has this"];
const SEGMENT_BYTES: u64 = 64 << 10;

fn raw(log: &Log, name: &str, settings: TopicSettings) -> Topic {
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings).unwrap()
}

fn found(log: &Log, header: &str, value: &str) -> Vec<Message> {
    log.find(header, value).blocking().unwrap().map(Result::unwrap).collect()
}

/// What is to be found: the whole history of the topics that index the header, filtered.
fn filtered(log: &Log, header: &str, value: &str) -> Option<Vec<Message>> {
    let topics = log.topics().unwrap();
    let indexes = |names: &[String]| names.iter().any(|name| name == header);
    let topics: Vec<_> = topics
        .iter()
        .filter(|topic| indexes(&topic.settings.indexed_headers))
        .map(|topic| topic.name.as_str())
        .collect();
    if topics.is_empty() {
        return None;
    }
    let mut history = log.replay_topics(topics, Start::Earliest).unwrap().blocking().unwrap();
    let mut all = Vec::new();
    while let Some(record) = history.next().unwrap() {
        if record.headers().any(|(name, other)| name == header && other == Some(value.as_bytes())) {
            all.push(record.to_message());
        }
    }
    Some(all)
}

/// A search and the filter, of one moment: a compaction in the background may take records away between the two.
fn both(log: &Log, header: &str, value: &str) -> Option<(Vec<Message>, Vec<Message>)> {
    loop {
        let before = filtered(log, header, value)?;
        let found = found(log, header, value);
        if filtered(log, header, value)? == before {
            return Some((found, before));
        }
    }
}

/// Holds every search against the filter; answers with how many records were found.
fn check(log: &Log) -> usize {
    let mut count = 0;
    for header in HEADERS {
        for value in VALUES {
            let Some((found, expected)) = both(log, header, value) else {
                let refused = log.find(header, value).blocking().unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
                continue;
            };
            let places = |all: &[Message]| {
                all.iter().map(|one| (one.topic().to_owned(), one.partition(), one.offset())).collect::<Vec<_>>()
            };
            assert_eq!(places(&found), places(&expected), "{header}={value}");
            assert_eq!(found, expected);
            count += found.len();
        }
    }
    count
}

fn record(headers: &[(usize, usize)], key: u8, bytes: usize) -> Record<Bytes> {
    let record = Record::new(Bytes::from(vec![key; bytes])).key(vec![key]);
    headers.iter().fold(record, |record, (name, value)| match VALUES.get(*value) {
        Some(text) => record.header(HEADERS[*name], *text),
        None => record.header_absent(HEADERS[*name]),
    })
}

#[tokio::test]
async fn any_header_of_the_name_is_found_in_the_order_of_commits() {
    let log = Log::in_memory().unwrap();
    let settings = TopicSettings::default().indexed_headers(["hop"]).partitions(3);
    let one = log.create_raw_topic("one", settings.clone()).await.unwrap();
    let two = log.create_raw_topic("two", settings.indexed_headers(["kind", "hop"])).await.unwrap();
    let other = log.create_raw_topic("other", TopicSettings::default()).await.unwrap();
    for number in 0..200_u32 {
        let topic = [&one, &two, &other][number as usize % 3];
        let record = Record::new(Bytes::from(number.to_string())).key(number.to_le_bytes().to_vec());
        let record = match number % 4 {
            0 => record.header("hop", "x").header("hop", "y"),
            1 => record.header("hop", "y").header("hop", "x").header("hop", "x"),
            2 => record.header_absent("hop").header("kind", "x"),
            _ => record.header("hop", "xx").header("hopx", ""),
        };
        topic.produce(record).await.unwrap();
    }
    let values = |found: Vec<Message>| -> Vec<u32> {
        found.iter().map(|one| std::str::from_utf8(one.value().unwrap()).unwrap().parse().unwrap()).collect()
    };
    let expected: Vec<u32> = (0..200).filter(|number| number % 4 < 2 && number % 3 < 2).collect();
    for value in ["x", "y"] {
        assert_eq!(values(log.find("hop", value).try_collect().await.unwrap()), expected);
        assert_eq!(values(found(&log, "hop", value)), expected);
    }
    let in_two: Vec<u32> = expected.iter().copied().filter(|number| number % 3 == 1).collect();
    assert_eq!(values(two.find("hop", b"x").try_collect().await.unwrap()), in_two);
    assert_eq!(found(&log, "kind", "x").len(), 16);
    assert!(found(&log, "hop", "").is_empty());
}

#[tokio::test]
async fn what_was_there_when_the_search_began_is_found() {
    let log = Log::in_memory().unwrap();
    let topic = log.create_raw_topic("t", TopicSettings::default().indexed_headers(["kind"])).await.unwrap();
    let send = || topic.produce(record(&[(1, 1)], 0, 10));
    for _ in 0..1000 {
        send().await.unwrap();
    }
    let mut search = topic.find("kind", "a");
    assert_eq!(search.next().await.unwrap().unwrap().offset(), 0);
    for _ in 0..10 {
        send().await.unwrap();
    }
    assert_eq!(search.count().await, 999);
    assert_eq!(topic.find("kind", "a").count().await, 1010);
}

/// Whoever gives up waiting for the next one loses nothing, and whoever gives up the search keeps nobody from closing the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_can_be_cancelled() {
    let log = Log::temporary().unwrap();
    let settings = TopicSettings::default().indexed_headers(["kind"]).partitions(2);
    let topic = log.create_raw_topic("t", settings).await.unwrap();
    topic.produce_batch((0..2000_u32).map(|key| record(&[(1, 1)], key as u8, 10))).await.unwrap();
    let mut search = topic.find("kind", "a");
    let (mut found, mut given_up) = (Vec::new(), 0);
    loop {
        tokio::select! {
            biased;
            next = search.next() => match next {
                Some(message) => found.push(message.unwrap()),
                None => break,
            },
            () = tokio::task::yield_now() => given_up += 1,
        }
    }
    assert!(given_up > 0);
    assert_eq!(found, self::found(&log, "kind", "a"));
    for _ in 0..20 {
        let mut search = topic.find("kind", "a");
        tokio::select! {
            biased;
            _ = search.next() => {}
            () = tokio::task::yield_now() => {}
        }
    }
    log.close().await.unwrap();
}

#[tokio::test]
async fn values_are_decoded_and_those_that_cannot_be_are_told_of() {
    const NUMBERS: TopicDef<u32, Json> = TopicDef::new("numbers");
    let log = Log::in_memory().unwrap();
    let settings = TopicSettings::default().indexed_headers(["kind"]);
    let numbers = log.create_topic(NUMBERS, settings).await.unwrap();
    numbers.produce(Record::new(1).header("kind", "a")).await.unwrap();
    log.raw_topic("numbers").unwrap().produce(Record::new("x".into()).header("kind", "a")).await.unwrap();
    numbers.produce(Record::new(2).header("kind", "a")).await.unwrap();
    let found: Vec<_> = numbers.find("kind", "a").collect().await;
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].as_ref().unwrap().value(), Some(&1));
    let error = found[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("offset 1"), "{error}");
    assert_eq!(found[2].as_ref().unwrap().value(), Some(&2));
    let blocking: Vec<_> = numbers.find("kind", "a").blocking().unwrap().map(|found| found.is_ok()).collect();
    assert_eq!(blocking, [true, false, true]);
}

#[tokio::test]
async fn what_cannot_be_searched_is_said() {
    let log = Log::in_memory().unwrap();
    let said = |log: &Log, header: &str| {
        let error = log.find(header, "x").blocking().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    assert!(said(&log, "kind").ends_with(r#"the header "kind" is not indexed: no topic indexes any"#));
    let topic = log.create_raw_topic("t", TopicSettings::default().indexed_headers(["b", "a\n"])).await.unwrap();
    let plain = log.create_raw_topic("plain", TopicSettings::default()).await.unwrap();
    assert!(said(&log, "kind").ends_with(r#"the header "kind" is not indexed: the topics index "a\n", "b""#));
    let error = topic.find("", "x").next().await.unwrap().unwrap_err();
    assert!(error.to_string().ends_with(r#"the header "" is not indexed: topic t indexes "b", "a\n""#), "{error}");
    let mut refused = plain.find("b", "x");
    let error = refused.next().await.unwrap().unwrap_err();
    assert!(error.to_string().ends_with(r#"the header "b" is not indexed: topic plain indexes none"#), "{error}");
    assert!(refused.next().await.is_none(), "an error is the last item");
    let long = "x".repeat(1 << 20);
    assert!(said(&log, &long).len() < 300);
    assert!(topic.find("b", &long).blocking().unwrap().next().is_none());

    let bad = |names: &[&str]| {
        let refused = log.blocking_alter_topic("t", topic.settings().indexed_headers(names.iter().copied()));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    };
    bad(&["b", "b"]);
    bad(&[""]);
    bad(&[&long]);
    bad(&["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(topic.settings().indexed_headers, ["b", "a\n"]);

    topic.produce_batch((0..2000).map(|_| Record::new(Bytes::new()).header("b", "x"))).await.unwrap();
    let mut search = topic.find("b", "x").blocking().unwrap();
    let mut closing = topic.find("b", "x");
    assert!(search.next().unwrap().is_ok() && closing.next().await.unwrap().is_ok());
    log.alter_topic("t", topic.settings().indexed_headers(["other"])).await.unwrap();
    let last = search.by_ref().last().unwrap().unwrap_err();
    assert!(last.to_string().contains("is not indexed"), "{last}");
    assert!(search.next().is_none());
    log.alter_topic("t", topic.settings().indexed_headers(["b"])).await.unwrap();

    log.delete_topic("t").await.unwrap();
    assert_eq!(topic.find("b", "x").next().await.unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    log.close().await.unwrap();
    let items: Vec<_> = closing.collect().await;
    assert_eq!(items.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(log.find("b", "x").blocking().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(log.find("b", "x").next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

/// Its writer has the view, so it is searched from beginning to end.
#[test]
fn a_log_that_is_open_read_only_is_searched_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let topic = raw(&log, "t", TopicSettings::default().indexed_headers(["kind"]).partitions(2));
    let reader = Log::blocking_open_read_only(dir.path()).unwrap();
    for number in 0..100 {
        topic.blocking_produce(record(&[(1, number % 3)], number as u8, 10)).unwrap();
    }
    assert_eq!(found(&log, "kind", "a").len(), 33);
    reader.blocking_refresh().unwrap();
    assert_eq!(found(&reader, "kind", "a"), found(&log, "kind", "a"));
    assert_eq!(check(&reader), 100);
    assert_eq!(reader.find("hop", "a").blocking().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(reader.raw_topic("t").unwrap().find("kind", "b").blocking().unwrap().count(), 33);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(reader.find("kind", "a").count()), 33);
    reader.blocking_close().unwrap();
    assert_eq!(reader.find("kind", "a").blocking().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn threads_search_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let settings = TopicSettings::default().indexed_headers(["kind"]).partitions(3).durability(Durability::Os);
    let topic = raw(&log, "t", settings);
    std::thread::scope(|scope| {
        for writer in 0..2_u8 {
            let topic = &topic;
            scope.spawn(move || {
                for number in 0..3000_u32 {
                    topic.blocking_produce(record(&[(1, 1 + usize::from(writer))], number as u8, 10)).unwrap();
                }
            });
        }
        for value in ["a", "b"] {
            let log = &log;
            scope.spawn(move || {
                let mut before = 0;
                while before < 3000 {
                    let all = found(log, "kind", value);
                    assert!(all.is_sorted_by_key(|message| message.commit()));
                    assert!(all.len() >= before, "{} after {before}", all.len());
                    before = all.len();
                }
            });
        }
    });
    check(&log);
}

#[derive(Debug, Clone)]
enum Action {
    /// Records, in one batch or one by one: key, headers.
    Produce(usize, Vec<(u8, Vec<(usize, usize)>)>, bool),
    /// Many large records of few keys, so that segments roll.
    Fill(usize, u8),
    Check,
    Reopen,
    Crash,
    DeleteRecords(usize, u32, u8),
    Compact,
    Recreate(usize),
    Alter(usize, u8),
    Grow(usize),
}

const TOPICS: [&str; 3] = ["a", "b", "compacted"];

fn action() -> impl Strategy<Value = Action> {
    let topic = 0..TOPICS.len();
    let headers = prop::collection::vec((0..HEADERS.len(), 0..=4_usize), 0..4)
        .prop_map(|all| all.into_iter().map(|(name, value)| (name, if value == 4 { 9 } else { value })).collect());
    let records = prop::collection::vec((0..4_u8, headers), 1..20);
    prop_oneof![
        8 => (topic.clone(), records, any::<bool>()).prop_map(|(topic, all, batch)| Action::Produce(topic, all, batch)),
        3 => (topic.clone(), 0..4_u8).prop_map(|(topic, seed)| Action::Fill(topic, seed)),
        5 => Just(Action::Check),
        2 => Just(Action::Reopen),
        2 => Just(Action::Crash),
        2 => (topic.clone(), 0..2_u32, any::<u8>()).prop_map(|(topic, number, part)| Action::DeleteRecords(topic, number, part)),
        2 => Just(Action::Compact),
        1 => topic.clone().prop_map(Action::Recreate),
        2 => (topic.clone(), 0..8_u8).prop_map(|(topic, set)| Action::Alter(topic, set)),
        1 => topic.prop_map(Action::Grow),
    ]
}

fn names(set: u8) -> Vec<&'static str> {
    (0..HEADERS.len()).filter(|bit| set >> bit & 1 == 1).map(|bit| HEADERS[bit]).collect()
}

fn settings(topic: usize) -> TopicSettings {
    let settings = TopicSettings::default().segment_bytes_max(SEGMENT_BYTES).partitions(1 + topic as u32 % 2);
    match topic {
        0 => settings.indexed_headers(["kind", "hop"]),
        1 => settings.indexed_headers(["kind"]).durability(Durability::Os),
        _ => settings.indexed_headers(HEADERS).compaction(true),
    }
}

/// A log and where it is: a crash goes on in a copy.
struct World {
    dir: TempDir,
    log: Log,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::blocking_open(dir.path()).unwrap();
        (0..TOPICS.len()).for_each(|topic| drop(raw(&log, TOPICS[topic], settings(topic))));
        Self { dir, log }
    }

    fn topic(&self, topic: usize) -> Topic {
        self.log.raw_topic(TOPICS[topic]).unwrap()
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Produce(topic, records, batch) => {
                let records = records.iter().map(|(key, headers)| record(headers, *key, 20));
                let topic = self.topic(*topic);
                if *batch {
                    topic.blocking_produce_batch(records).unwrap();
                } else {
                    for record in records {
                        topic.blocking_produce(record).unwrap();
                    }
                }
            }
            Action::Fill(topic, seed) => {
                let records = (0..60_u8).map(|number| {
                    let value = usize::from(number + seed);
                    record(&[(value % 3, value % 4), (1, value % 2)], number % 5, 3000)
                });
                self.topic(*topic).blocking_produce_batch(records).unwrap();
            }
            Action::Check => drop(check(&self.log)),
            Action::Reopen => {
                self.log.blocking_close().unwrap();
                self.log = Log::blocking_open(self.dir.path()).unwrap();
            }
            Action::Crash => {
                let copy = killed(self.dir.path());
                self.log.blocking_close().unwrap();
                self.log = Log::blocking_open(copy.path()).unwrap();
                self.dir = copy;
            }
            Action::DeleteRecords(topic, partition, part) => {
                let topic = self.topic(*topic);
                let partition = partition % topic.partitions();
                let marks = topic.watermarks(partition).unwrap();
                let before = marks.log_start + (marks.high_watermark - marks.log_start) * u64::from(*part) / 255;
                self.log.blocking_delete_records(topic.name(), partition, before).unwrap();
            }
            Action::Compact => drop(self.log.blocking_compact_topic(TOPICS[2]).unwrap()),
            Action::Recreate(topic) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(self.log.delete_topic(TOPICS[*topic])).unwrap();
                raw(&self.log, TOPICS[*topic], settings(*topic));
            }
            Action::Alter(topic, set) => {
                let topic = self.topic(*topic);
                self.log.blocking_alter_topic(topic.name(), topic.settings().indexed_headers(names(*set))).unwrap();
            }
            Action::Grow(topic) => {
                let topic = self.topic(*topic);
                if topic.partitions() < 3 {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(self.log.add_partitions(topic.name(), topic.partitions() + 1)).unwrap();
                }
            }
        }
    }
}

/// How many sequences are tried, unless `PROPTEST_CASES` says so.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 200, cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn find_is_a_filter_whatever_happens(actions in prop::collection::vec(action(), 1..40)) {
        let mut world = World::new();
        for action in &actions {
            world.act(action);
        }
        check(&world.log);
        // The copy that stands for a crash may take the view in the middle of a write, file by file.
        if !actions.iter().any(|action| matches!(action, Action::Crash)) {
            let aside = set_aside(world.dir.path());
            prop_assert!(aside.is_empty(), "nothing was damaged, and yet there is {:?}", aside);
        }
    }
}

/// Views that were not what they should have been.
fn set_aside(log: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(log.join("views")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("aside")).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Some records with timestamps of their own, so that two histories may differ in nothing but a header.
fn write(log: &Log, numbers: std::ops::Range<u32>, shift: u32) {
    let topic = log.raw_topic("t").unwrap();
    for number in numbers {
        let value = (number.wrapping_mul(2_654_435_761) >> 16) + shift;
        let headers = [(0, value as usize % 4), (1, value as usize / 4 % 3)];
        let record =
            record(&headers, number as u8, 10).timestamp(DateTime::from_timestamp_micros(i64::from(number)).unwrap());
        topic.blocking_produce(record).unwrap();
    }
}

/// Goes on with a log until it has so many records, with a search and a close after each round.
fn indexed(dir: &Path, rounds: &[u32]) {
    for upto in rounds {
        let log = Log::blocking_open(dir).unwrap();
        let settings = TopicSettings::default().indexed_headers(["correlation_id", "kind"]).partitions(2);
        let topic = raw(&log, "t", settings);
        let written: u64 = (0..2).map(|number| topic.watermarks(number).unwrap().high_watermark).sum();
        write(&log, written as u32..*upto, 0);
        assert!(check(&log) > 0);
        log.blocking_close().unwrap();
    }
}

/// Opens a log and holds every search against the filter; then the same again, for what the first has left.
fn check_closed(dir: &Path, what: &str) {
    for again in ["", ", and again"] {
        let checked = std::panic::catch_unwind(|| {
            let log = Log::blocking_open(dir).unwrap();
            assert!(check(&log) > 0);
            log.blocking_close().unwrap();
        });
        checked.unwrap_or_else(|_| panic!("{what}{again}"));
    }
}

fn replace(views: &Path, by: &Path) {
    drop(fs::remove_dir_all(views));
    copy_dir(by, views);
}

/// Whatever happens to the files of the view, every record is found.
#[test]
fn nothing_that_happens_to_the_view_hides_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let (original, old) = (dir.path().join("original"), dir.path().join("old"));
    indexed(&original, &[20]);
    copy_dir(&original.join("views"), &old);
    indexed(&original, &[60, 90]);
    let views = original.join("views");
    let (copied, mut cases, mut asides) = (dir.path().join("copied"), 0, 0);
    let mut check = |what: &str, damage: &dyn Fn(&Path)| {
        copy_dir(&original, &copied);
        damage(&copied.join("views"));
        check_closed(&copied, what);
        cases += 1;
        asides += usize::from(!set_aside(&copied).is_empty());
        fs::remove_dir_all(&copied).unwrap();
    };
    check("nothing", &|_| {});
    check("gone", &|views| fs::remove_dir_all(views).unwrap());
    check("a file in its place", &|views| {
        fs::remove_dir_all(views.join("index")).unwrap();
        fs::write(views.join("index"), b"not a directory").unwrap();
    });
    check("an old copy", &|views| replace(views, &old));
    for path in files(&views) {
        let name = path.strip_prefix(&views).unwrap();
        let bytes = fs::read(&path).unwrap();
        check(&format!("{name:?} gone"), &|views| fs::remove_file(views.join(name)).unwrap());
        check(&format!("{name:?} of the old copy"), &|views| drop(fs::copy(old.join(name), views.join(name))));
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..used).step_by((used / 20).max(1)).chain([used, bytes.len().saturating_sub(1)]) {
            check(&format!("{name:?} cut at {at}"), &|views| fs::write(views.join(name), &bytes[..at]).unwrap());
        }
        for at in (0..used).step_by((used / 60).max(1)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            check(&format!("{name:?} flipped at {at}"), &|views| fs::write(views.join(name), &flipped).unwrap());
        }
    }
    eprintln!("{cases} cases, {asides} set aside");
    assert!(cases > 100 && asides > 20, "{asides} of {cases} were noticed by the view itself");
}

/// A view may be newer than its log, or come from another history of it that has gone on from the same copy: offsets and commit
/// numbers are the same there, and only the records differ.
#[test]
fn a_view_of_another_history_hides_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let (log, start, newer) = (dir.path().join("log"), dir.path().join("start"), dir.path().join("newer"));
    indexed(&log, &[30]);
    copy_dir(&log, &start);
    indexed(&log, &[60]);
    copy_dir(&log.join("views"), &newer);

    // The log as it was, with the view as it became.
    replace(&start.join("views"), &newer);
    let other = dir.path().join("other");
    copy_dir(&start, &other);
    check_closed(&start, "a view that is newer than its log");

    // The same, written on before anybody looks.
    for (name, upto) in [("shorter", 45), ("as long", 60), ("longer", 75)] {
        let history = dir.path().join(name);
        copy_dir(&other, &history);
        fs::remove_dir_all(history.join("views")).unwrap();
        let opened = Log::blocking_open(&history).unwrap();
        write(&opened, 30..upto, 1);
        opened.blocking_close().unwrap();
        replace(&history.join("views"), &newer);
        check_closed(&history, name);
    }

    // That of another log.
    let another = dir.path().join("another");
    indexed(&another, &[75]);
    replace(&another.join("views"), &newer);
    check_closed(&another, "the view of another log");
    assert_eq!(set_aside(&another).len(), 1);
}

/// What a power loss takes of a relaxed topic is in the view; the offsets are used again.
#[test]
fn a_log_that_has_lost_its_end_finds_what_came_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let settings = TopicSettings::default().indexed_headers(["correlation_id", "kind"]).durability(Durability::Os);
    let log = Log::blocking_open(dir.path()).unwrap();
    raw(&log, "t", settings);
    write(&log, 0..30, 0);
    check(&log);
    log.blocking_close().unwrap();
    let segment =
        files(&dir.path().join("topics")).into_iter().find(|path| path.extension().unwrap() == "log").unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    write(&log, 30..60, 0);
    check(&log);
    let crashed = killed(dir.path());
    log.blocking_close().unwrap();
    copy_dir(&dir.path().join("views"), &crashed.path().join("views"));
    let segment = crashed.path().join(segment.strip_prefix(dir.path()).unwrap());
    let bytes = fs::read(&segment).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(&segment, &bytes[..used * 4 / 5]).unwrap();
    let log = Log::blocking_open(crashed.path()).unwrap();
    let left = log.raw_topic("t").unwrap().watermarks(0).unwrap().high_watermark;
    assert!((30..60).contains(&left), "{left}");
    write(&log, left as u32..60, 1);
    log.blocking_close().unwrap();
    check_closed(crashed.path(), "after the loss");
}

/// Nobody has searched, and yet there is nothing left to be read: a checkpoint, and the setting itself, have it made.
#[test]
fn a_setting_that_is_made_later_is_about_what_is_there_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let topic = raw(&log, "t", TopicSettings::default().partitions(2));
    write(&log, 0..50, 0);
    assert!(!dir.path().join("views").exists());
    log.blocking_alter_topic("t", topic.settings().indexed_headers(["kind"])).unwrap();
    assert!(check(&log) > 0);
    let pages = || fs::read_dir(dir.path().join("views/index")).is_ok();
    assert!(pages());
    log.blocking_alter_topic("t", topic.settings().indexed_headers(["hop", "kind", "correlation_id"])).unwrap();
    let before = check(&log);
    log.blocking_alter_topic("t", topic.settings().indexed_headers(["correlation_id"])).unwrap();
    write(&log, 50..60, 0);
    let fewer = check(&log);
    assert!(0 < fewer && fewer < before + 10);
    log.blocking_alter_topic("t", topic.settings().indexed_headers(["kind", "correlation_id"])).unwrap();
    check(&log);
    log.blocking_close().unwrap();
    check_closed(dir.path(), "altered");
    let log = Log::blocking_open(dir.path()).unwrap();
    assert_eq!(log.describe_topic("t").unwrap().settings.indexed_headers, ["kind", "correlation_id"]);
}

/// Records whose deletion was lost with the checkpoint are there again, and were never looked at.
#[test]
fn records_that_come_back_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let topic = raw(&log, "t", TopicSettings::default());
    write(&log, 0..100, 0);
    log.blocking_delete_records("t", 0, 60).unwrap();
    log.blocking_alter_topic("t", topic.settings().indexed_headers(["kind"])).unwrap();
    let fewer = check(&log);
    log.blocking_close().unwrap();
    fs::remove_file(dir.path().join("CHECKPOINT")).unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    assert_eq!(log.raw_topic("t").unwrap().watermarks(0).unwrap().log_start, 0);
    assert!(check(&log) > fewer);
}

/// What cannot be read is not left out in silence, and what can be read is found.
#[test]
fn damage_is_an_error_and_no_missing_record() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::blocking_open(dir.path()).unwrap();
    let settings = TopicSettings::default().indexed_headers(["kind"]).segment_bytes_max(SEGMENT_BYTES);
    let topic = raw(&log, "t", settings);
    for number in 0..100_u8 {
        let value = if number == 5 { 2 } else { 1 };
        topic.blocking_produce(record(&[(1, value)], number, 3000)).unwrap();
    }
    assert_eq!(found(&log, "kind", "b").len(), 1);
    log.blocking_close().unwrap();
    let segment =
        files(&dir.path().join("topics")).into_iter().find(|path| path.extension().unwrap() == "log").unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[5 * 3060 + 1500] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for index in ["there", "gone"] {
        let log = Log::blocking_open(dir.path()).unwrap();
        let damaged: Vec<_> = log.find("kind", "b").blocking().unwrap().collect();
        assert_eq!(damaged.len(), 1, "{index}");
        assert_eq!(damaged[0].as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
        let streamed: Vec<_> = runtime.block_on(log.find("kind", "a").collect());
        assert_eq!(streamed.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
        if index == "there" {
            assert_eq!(streamed.len(), 5 + 1, "what comes before the damage");
            assert_eq!(log.find("kind", "c").blocking().unwrap().count(), 0, "nothing damaged was to be read");
        }
        log.blocking_close().unwrap();
        drop(fs::remove_dir_all(dir.path().join("views")));
    }
}
