//! The seam between history and live, under producers that do not stop for it.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use annals::{Durability, ErrorKind, Header, Json, Log, Raw, Record, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use tokio::time::timeout;

/// Longer than anything here takes, however busy the machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

fn small(partitions: u32) -> TopicSettings {
    TopicSettings::default().partitions(partitions).segment_bytes_max(64 << 10)
}

// ---------------------------------------------------------------------------------------------------------------------
// What was sent before what: each record carries how many of each producer's records were acknowledged when it was sent.

const PRODUCERS: usize = 5;
const RECORDS: u64 = 400;

type Clocks = Arc<[AtomicU64; PRODUCERS]>;

fn value(producer: usize, sequence: u64, clocks: &Clocks) -> Bytes {
    let acknowledged = clocks.iter().map(|clock| clock.load(Ordering::SeqCst));
    let numbers = [producer as u64, sequence].into_iter().chain(acknowledged);
    // Some are long, so that segments roll while they are read.
    let padding = if sequence.is_multiple_of(10) { 4096 } else { 0 };
    numbers.flat_map(u64::to_le_bytes).chain(std::iter::repeat_n(0, padding)).collect::<Vec<_>>().into()
}

/// Watches what a reader is handed.
#[derive(Default)]
struct Witness {
    whole: bool,
    commit: u64,
    offsets: BTreeMap<(String, u32), u64>,
    /// The next record of each producer, once one was seen.
    next: [Option<u64>; PRODUCERS],
    /// What later records of a producer that was not seen yet cannot be before.
    floor: [u64; PRODUCERS],
}

impl Witness {
    /// Of a reader that began at the beginning.
    fn of_whole() -> Self {
        Self { whole: true, next: [Some(0); PRODUCERS], ..Self::default() }
    }

    fn see(&mut self, topic: &str, partition: u32, offset: u64, commit: u64, value: &[u8]) {
        assert!(commit >= self.commit, "commits ascend");
        self.commit = commit;
        let first = if self.whole { 0 } else { offset };
        let next = self.offsets.entry((topic.to_owned(), partition)).or_insert(first);
        assert_eq!(*next, offset, "{topic}/{partition} has neither gap nor duplicate");
        *next += 1;
        let numbers: Vec<u64> =
            value.as_chunks::<8>().0[..2 + PRODUCERS].iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        let (producer, sequence) = (numbers[0] as usize, numbers[1]);
        match self.next[producer] {
            Some(next) => assert_eq!(sequence, next, "each producer awaited one record before the next"),
            None => assert!(sequence >= self.floor[producer], "what was acknowledged earlier comes earlier"),
        }
        self.next[producer] = Some(sequence + 1);
        for (other, acknowledged) in numbers[2..].iter().enumerate() {
            match self.next[other] {
                Some(next) => assert!(*acknowledged <= next, "what was acknowledged before this was sent comes first"),
                None => self.floor[other] = self.floor[other].max(*acknowledged),
            }
        }
    }

    /// At the end nothing may be missing.
    fn end(&self) {
        for (producer, next) in self.next.iter().enumerate() {
            assert!(next.is_none_or(|next| next == RECORDS), "producer {producer} ends at {next:?}");
        }
    }
}

/// The topics that producers send to; more come while they do.
type Targets = Arc<RwLock<Vec<Topic>>>;

fn target(targets: &Targets, producer: usize, sequence: u64) -> (Topic, u32) {
    let targets = targets.read().unwrap();
    let topic = targets[(producer + sequence as usize * 7) % targets.len()].clone();
    let partition = (sequence as u32).wrapping_mul(5) % topic.partitions();
    (topic, partition)
}

/// Followers begin at moments that have nothing to do with what the producers do.
fn start_of(number: usize, log: &Log) -> Start {
    match number % 3 {
        0 => Start::Earliest,
        1 => Start::Latest,
        _ => {
            let mut last = 0;
            log.replay(Start::Last(50))
                .blocking()
                .unwrap()
                .try_for_each(|record| {
                    last = record.commit();
                    Ok(())
                })
                .unwrap();
            Start::Commit(last)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_join_at_any_moment_see_everything_once_and_in_causal_order() {
    let log = Log::temporary().unwrap();
    let clocks: Clocks = Arc::default();
    let relaxed = Durability::Interval(Duration::from_millis(1));
    let targets: Targets = Arc::new(RwLock::new(vec![
        log.create_raw_topic("sync", small(3)).await.unwrap(),
        log.create_raw_topic("os", small(2).durability(Durability::Os)).await.unwrap(),
        log.create_raw_topic("interval", small(1).durability(relaxed)).await.unwrap(),
    ]));
    let mut threads = Vec::new();
    let mut tasks = Vec::new();
    for producer in 0..PRODUCERS {
        let (clocks, targets) = (Arc::clone(&clocks), Arc::clone(&targets));
        if producer % 2 == 0 {
            threads.push(thread::spawn(move || {
                for sequence in 0..RECORDS {
                    let (topic, partition) = target(&targets, producer, sequence);
                    let value = value(producer, sequence, &clocks);
                    topic.blocking_produce(Record::new(value).partition(partition)).unwrap();
                    clocks[producer].store(sequence + 1, Ordering::SeqCst);
                }
            }));
        } else {
            tasks.push(tokio::spawn(async move {
                for sequence in 0..RECORDS {
                    let (topic, partition) = target(&targets, producer, sequence);
                    let value = value(producer, sequence, &clocks);
                    topic.produce(Record::new(value).partition(partition)).await.unwrap();
                    clocks[producer].store(sequence + 1, Ordering::SeqCst);
                }
            }));
        }
    }
    let mut streams = Vec::new();
    let mut followers = Vec::new();
    let sent = || clocks.iter().map(|clock| clock.load(Ordering::SeqCst)).sum::<u64>();
    for number in 0..12 {
        // So far along, whatever the time: the moments are spread over the run.
        while sent() < number as u64 * RECORDS * PRODUCERS as u64 / 14 {
            tokio::task::yield_now().await;
        }
        match number {
            3 => log.add_partitions("os", 4).await.unwrap(),
            5 => {
                let late = log.create_raw_topic("late", small(2)).await.unwrap();
                targets.write().unwrap().push(late);
            }
            8 => log.add_partitions("interval", 3).await.unwrap(),
            9 => {
                let later = log.create_raw_topic("later", small(1).durability(Durability::Os)).await.unwrap();
                targets.write().unwrap().push(later);
            }
            _ => {}
        }
        let start = tokio::task::block_in_place(|| start_of(number, &log));
        let mut witness = if start == Start::Earliest { Witness::of_whole() } else { Witness::default() };
        if number % 2 == 0 {
            let mut replay = log.replay(start).follow().blocking().unwrap();
            followers.push(thread::spawn(move || {
                loop {
                    match replay.next() {
                        Ok(Some(view)) => {
                            let value = view.value().unwrap();
                            witness.see(view.topic(), view.partition(), view.offset(), view.commit(), value);
                        }
                        Ok(None) => panic!("following does not end"),
                        Err(error) => return (error.kind(), witness.end()),
                    }
                }
            }));
        } else {
            let mut replay = log.replay(start).follow();
            streams.push(tokio::spawn(async move {
                loop {
                    match replay.next().await.expect("following does not end") {
                        Ok(message) => {
                            let (topic, value) = (message.topic(), message.value().unwrap());
                            witness.see(topic, message.partition(), message.offset(), message.commit(), value);
                        }
                        Err(error) => return (error.kind(), witness.end()),
                    }
                }
            }));
            // One that is given up in the middle is nobody's business.
            let mut given_up = log.replay(start).follow();
            tokio::spawn(async move {
                for _ in 0..number {
                    drop(given_up.next().await);
                }
            });
        }
        // History at this moment: a causal cut, with everything in it that was acknowledged before.
        let acknowledged: Vec<u64> = clocks.iter().map(|clock| clock.load(Ordering::SeqCst)).collect();
        let mut history = Witness::of_whole();
        let mut replay = log.replay(Start::Earliest);
        while let Some(message) = replay.next().await {
            let message = message.unwrap();
            let value = message.value().unwrap();
            history.see(message.topic(), message.partition(), message.offset(), message.commit(), value);
        }
        for (next, acknowledged) in history.next.iter().zip(acknowledged) {
            assert!(next.unwrap() >= acknowledged, "what was acknowledged is in the history");
        }
    }
    for task in tasks {
        timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    for thread in threads {
        thread.join().unwrap();
    }
    log.close().await.unwrap();
    for stream in streams {
        assert_eq!(timeout(PATIENCE, stream).await.expect("the end is heard of").unwrap(), (ErrorKind::Closed, ()));
    }
    for follower in followers {
        assert_eq!(follower.join().unwrap(), (ErrorKind::Closed, ()));
    }
}

/// A commit that takes its time in one partition must not hide what was acknowledged in another.
#[test]
fn history_has_what_was_acknowledged_though_another_commit_is_under_way() {
    let log = Log::temporary().unwrap();
    let slow = log.blocking_create_topic(TopicDef::<Bytes, Raw>::new("slow"), small(1)).unwrap();
    let quick = small(1).durability(Durability::Os);
    let quick = log.blocking_create_topic(TopicDef::<Bytes, Raw>::new("quick"), quick).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let noise = {
        let done = Arc::clone(&done);
        thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                slow.blocking_produce(Bytes::from_static(&[7; 2000])).unwrap();
            }
        })
    };
    for offset in 0..300 {
        let receipt = quick.blocking_produce(Bytes::from_static(b"x")).unwrap();
        assert_eq!(receipt.offset, offset);
        let mut found = false;
        let start = Start::Commit(receipt.commit);
        let mut replay = log.replay(start).blocking().unwrap();
        while let Some(view) = replay.next().unwrap() {
            assert!(view.commit() >= receipt.commit, "nothing of an earlier commit");
            found |= view.topic() == "quick" && view.offset() == offset;
        }
        assert!(found, "record {offset} was acknowledged before the reading began");
    }
    done.store(true, Ordering::Relaxed);
    noise.join().unwrap();
}

/// The last records are counted while they come.
#[test]
fn the_last_records_of_a_log_that_grows() {
    let log = Log::in_memory().unwrap();
    for round in 0..20 {
        let settings = small(2).durability(Durability::Os);
        let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(format!("t{round}")), settings).unwrap();
        let producer = {
            let topic = topic.clone();
            thread::spawn(move || {
                for index in 0..300u32 {
                    topic.blocking_produce(Record::new(Bytes::new()).partition(index % 2)).unwrap();
                }
            })
        };
        while !producer.is_finished() {
            let before: u64 = (0..2).map(|partition| topic.watermarks(partition).unwrap().high_watermark).sum();
            for count in [1, 10, 1000] {
                let mut seen = 0;
                let mut replay = topic.replay(Start::Last(count)).blocking().unwrap();
                while replay.next().unwrap().is_some() {
                    seen += 1;
                }
                assert!(seen >= before.min(count) && seen <= count, "{seen} of the last {count}, {before} there");
            }
        }
        producer.join().unwrap();
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What comes and goes while somebody follows.

#[tokio::test]
async fn a_topic_of_one_partition_may_grow_under_its_follower() {
    let log = Log::in_memory().unwrap();
    for (name, durability) in [("sync", Durability::Sync), ("os", Durability::Os)] {
        let topic = log.create_raw_topic(name, small(1).durability(durability)).await.unwrap();
        let mut stream = topic.replay(Start::Earliest).follow();
        let mut blocking = topic.replay(Start::Earliest).follow().blocking().unwrap();
        let mut expected = Vec::new();
        for round in 1..=3 {
            for index in 0..10 {
                let record = Record::new(Bytes::from(format!("{round} {index}"))).partition((index + 1) % round);
                let receipt = topic.produce(record).await.unwrap();
                expected.push((receipt.partition, receipt.offset));
            }
            if round < 3 {
                log.add_partitions(name, round + 1).await.unwrap();
            }
        }
        for (partition, offset) in expected {
            let message = timeout(PATIENCE, stream.next()).await.expect("new partitions join").unwrap().unwrap();
            assert_eq!((message.partition(), message.offset()), (partition, offset));
            let view = blocking.next().unwrap().unwrap();
            assert_eq!((view.partition(), view.offset()), (partition, offset));
        }
    }
}

#[tokio::test]
async fn deleting_a_topic_ends_who_follows_it_and_nobody_else() {
    let log = Log::in_memory().unwrap();
    let kept = log.create_raw_topic("kept", small(1)).await.unwrap();
    let mut all = log.replay(Start::Earliest).follow();
    for partitions in [1, 3] {
        let topic = log.create_raw_topic("gone", small(partitions)).await.unwrap();
        let mut read = Vec::new();
        for start in [Start::Earliest, Start::Latest] {
            read.push(topic.replay(start).follow());
            read.push(topic.replay_partition(0, start).follow());
            read.push(log.replay_topics(["gone", "gone"], start).unwrap().follow());
        }
        let mut waiting: Vec<_> = read
            .into_iter()
            .map(|mut replay| {
                tokio::spawn(async move {
                    let mut seen = 0;
                    loop {
                        match replay.next().await.expect("following ends in an error") {
                            Ok(_) => seen += 1,
                            Err(error) => return (seen, error),
                        }
                    }
                })
            })
            .collect();
        let mut both = log.replay_topics(["gone", "kept"], Start::Earliest).unwrap().follow();
        let mut blocking = topic.replay(Start::Earliest).follow().blocking().unwrap();
        for index in 0..6 {
            topic.produce(Record::new(Bytes::from_static(b"x")).partition(index % partitions)).await.unwrap();
        }
        for _ in 0..6 {
            assert_eq!(timeout(PATIENCE, all.next()).await.unwrap().unwrap().unwrap().topic(), "gone");
        }
        assert_eq!(timeout(PATIENCE, both.next()).await.unwrap().unwrap().unwrap().offset(), 0);
        log.delete_topic("gone").await.unwrap();
        // The first of them began at the beginning; the others joined when they were first polled.
        let (seen, error) = timeout(PATIENCE, waiting.remove(0)).await.expect("the end is heard of").unwrap();
        assert_eq!((seen, error.kind()), (6, ErrorKind::NotFound));
        assert!(error.to_string().contains("gone"), "{error}");
        for waiting in waiting {
            let (_, error) = timeout(PATIENCE, waiting).await.expect("the end is heard of").unwrap();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        for _ in 0..6 {
            assert!(blocking.next().unwrap().is_some());
        }
        assert_eq!(blocking.next().unwrap_err().kind(), ErrorKind::NotFound);
        let on = Bytes::from(format!("on {partitions}"));
        kept.produce(on.clone()).await.unwrap();
        assert_eq!(timeout(PATIENCE, all.next()).await.unwrap().unwrap().unwrap().topic(), "kept");
        loop {
            let next = timeout(PATIENCE, both.next()).await.expect("the other topic goes on").unwrap().unwrap();
            if next.value() == Some(&on) {
                break;
            }
        }
    }
}

/// Whatever was acknowledged is delivered before the end is, with however many partitions, streams and threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_delivers_everything_before_it_ends_a_follower() {
    for round in 0..40u32 {
        let log = Log::in_memory().unwrap();
        let durability = if round % 2 == 0 { Durability::Sync } else { Durability::Os };
        let topic = log.create_raw_topic("t", small(1 + round % 3).durability(durability)).await.unwrap();
        topic.produce(Bytes::new()).await.unwrap();
        let mut streams = Vec::new();
        for mut replay in [topic.replay(Start::Earliest).follow(), log.replay(Start::Earliest).follow()] {
            // It begins with its first poll, which must not be after the end.
            replay.next().await.unwrap().unwrap();
            streams.push(tokio::spawn(async move {
                let mut seen = 1u64;
                while let Some(Ok(_)) = replay.next().await {
                    seen += 1;
                }
                seen
            }));
        }
        let mut blocking = topic.replay(Start::Earliest).follow().blocking().unwrap();
        let blocking = thread::spawn(move || {
            let mut seen = 0u64;
            while let Ok(Some(_)) = blocking.next() {
                seen += 1;
            }
            seen
        });
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let topic = topic.clone();
                thread::spawn(move || {
                    let mut acknowledged = 0u64;
                    for index in 0u64.. {
                        match topic.blocking_produce(Record::new(Bytes::new()).key(index.to_le_bytes())) {
                            Ok(_) => acknowledged += 1,
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Closed);
                                break;
                            }
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        while topic.watermarks(0).unwrap().high_watermark < u64::from(round) {
            tokio::task::yield_now().await;
        }
        log.close().await.unwrap();
        let produced: u64 = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
        let acknowledged = produced + 1;
        for stream in streams {
            assert_eq!(timeout(PATIENCE, stream).await.expect("the end is heard of").unwrap(), acknowledged);
        }
        assert_eq!(blocking.join().unwrap(), acknowledged);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What records may look like.

#[tokio::test]
async fn a_value_that_cannot_be_decoded_is_an_item_and_the_stream_goes_on() {
    let log = Log::in_memory().unwrap();
    let raw = log.create_raw_topic("numbers", small(1)).await.unwrap();
    for value in ["1", "one", "2", "", "3"] {
        raw.produce(Bytes::from(value)).await.unwrap();
    }
    raw.produce(Record::tombstone()).await.unwrap();
    let numbers = log.topic(TopicDef::<u32, Json>::new("numbers")).unwrap();
    let mut items: Vec<Result<Option<u32>, annals::Error>> = Vec::new();
    let mut stream = numbers.replay(Start::Earliest);
    while let Some(item) = stream.next().await {
        items.push(item.map(|message| message.into_value()));
    }
    let mut blocking = numbers.replay(Start::Earliest).blocking().unwrap();
    for (offset, item) in items.iter().enumerate() {
        match (blocking.next_message(), item) {
            (Ok(Some(message)), Ok(value)) => assert_eq!(message.value(), value.as_ref()),
            (Err(same), Err(error)) => {
                assert_eq!(same.to_string(), error.to_string());
                assert_eq!(error.kind(), ErrorKind::Codec);
                let place = format!("topic numbers, partition 0, offset {offset}");
                assert!(error.to_string().contains(&place), "{error}");
            }
            (other, item) => panic!("{other:?} is not {item:?}"),
        }
    }
    assert!(blocking.next_message().unwrap().is_none());
    let values: Vec<_> = items.into_iter().map(|item| item.ok()).collect();
    assert_eq!(values, [Some(Some(1)), None, Some(Some(2)), None, Some(Some(3)), Some(None)]);
}

#[tokio::test]
async fn headers_tombstones_and_extreme_times_come_back_as_they_were() {
    let log = Log::in_memory().unwrap();
    let topic = log.create_raw_topic("t", small(1)).await.unwrap();
    let times = [
        DateTime::<Utc>::MAX_UTC,
        DateTime::<Utc>::MIN_UTC,
        DateTime::from_timestamp_micros(-1).unwrap(),
        DateTime::from_timestamp_micros(0).unwrap(),
        DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap(),
    ];
    let records: Vec<Record> = times
        .iter()
        .enumerate()
        .map(|(index, time)| {
            let record = if index % 2 == 0 { Record::new(Bytes::new()) } else { Record::tombstone() };
            let record = record.timestamp(*time).header("twice", "a").header("twice", "").header_absent("absent");
            if index < 3 { record.key("") } else { record }
        })
        .collect();
    // One by one and as a batch: times relative to the frame's first may be anything.
    for record in &records {
        topic.produce(record.clone()).await.unwrap();
    }
    topic.produce_batch(records.clone()).await.unwrap();
    let messages: Vec<_> = topic.replay(Start::Earliest).map(|message| message.unwrap()).collect().await;
    assert_eq!(messages.len(), 2 * records.len());
    for (message, record) in messages.iter().zip(records.iter().chain(&records)) {
        assert_eq!(message.timestamp().timestamp_micros(), record.timestamp.unwrap().timestamp_micros());
        assert_eq!((message.key(), message.value()), (record.key.as_ref(), record.value.as_ref()));
        assert_eq!(message.is_tombstone(), record.value.is_none());
        assert_eq!(message.headers(), &record.headers);
        let headers: Vec<&Header> = message.headers().iter().collect();
        assert_eq!((headers[1].value_str(), headers[2].value()), (Some(""), None));
    }
    for start in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        let found = topic.replay(Start::Timestamp(start)).count().await;
        assert_eq!(found, 10, "the first record has the largest time there is");
    }
}

#[tokio::test]
async fn a_timestamp_finds_the_earliest_record_of_that_time_or_later() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    // Ascending in the large, jumping in the small, over many segments.
    let times: Vec<i64> = (0..600i64).map(|index| index / 10 * 100 - 2_000 + (index * 7919 % 300)).collect();
    let topic = log.create_raw_topic("t", small(1)).await.unwrap();
    let of = |micros: i64| Record::new(Bytes::from(vec![1; 900])).timestamp(at(micros));
    for times in times.chunks(7) {
        topic.produce_batch(times.iter().map(|micros| of(*micros))).await.unwrap();
    }
    assert!(topic.watermarks(0).unwrap().segments > 3);
    let check = |topic: Topic| {
        for micros in (-2_100..6_500).step_by(53) {
            let expected = times.iter().position(|time| *time >= micros);
            let mut replay = topic.replay(Start::Timestamp(at(micros))).blocking().unwrap();
            let found = replay.next().unwrap().map(|record| record.offset() as usize);
            assert_eq!(found, expected, "at {micros}");
        }
    };
    check(topic);
    log.close().await.unwrap();
    check(Log::open(dir.path()).await.unwrap().raw_topic("t").unwrap());
}

#[tokio::test]
async fn the_last_records_are_counted_over_all_partitions() {
    let log = Log::in_memory().unwrap();
    let topic = log.create_raw_topic("t", small(3)).await.unwrap();
    // The batches are unlike: most of the last records are in one partition, in frames that the count cuts through.
    let mut all = Vec::new();
    for (partition, count) in [(0, 5), (1, 1), (2, 7), (1, 4), (1, 9), (0, 2)] {
        let record = || Record::new(Bytes::new()).partition(partition);
        let receipts = topic.produce_batch((0..count).map(|_| record())).await.unwrap();
        all.extend(receipts.iter().map(|receipt| (receipt.partition, receipt.offset)));
    }
    for count in 0..all.len() + 3 {
        let expected = &all[all.len().saturating_sub(count)..];
        let read: Vec<_> = topic
            .replay(Start::Last(count as u64))
            .map(|message| message.map(|message| (message.partition(), message.offset())).unwrap())
            .collect()
            .await;
        assert_eq!(read, expected, "the last {count}");
        let mut replay = topic.replay(Start::Last(count as u64)).follow().blocking().unwrap();
        for place in expected {
            let record = replay.next().unwrap().unwrap();
            assert_eq!((record.partition(), record.offset()), *place);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Without a runtime, and with damage.

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn everything_works_without_a_runtime() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).await.unwrap();
        let topic = log.create_raw_topic("t", small(2)).await.unwrap();
        let mut follower = topic.replay(Start::Earliest).follow();
        let producer = {
            let topic = topic.clone();
            thread::spawn(move || {
                for index in 0..200u32 {
                    block_on(topic.produce(Record::new(Bytes::new()).key(index.to_le_bytes()))).unwrap();
                }
            })
        };
        for _ in 0..200 {
            follower.next().await.unwrap().unwrap();
        }
        producer.join().unwrap();
        assert_eq!(topic.replay(Start::Earliest).count().await, 200);
        let delivery = topic.send(Bytes::new()).await.unwrap();
        assert_eq!(delivery.await.unwrap().durability, Durability::Sync);
        log.sync().await.unwrap();
        log.add_partitions("t", 3).await.unwrap();
        log.close().await.unwrap();
        follower.next().await.unwrap().unwrap();
        assert_eq!(follower.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    });
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    logs.sort();
    logs
}

/// One damaged partition among several: the reader must say so, and not pass over the rest of it.
#[tokio::test]
async fn damage_in_one_partition_is_an_error_of_the_whole_replay() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let topic = log.create_raw_topic("t", small(3)).await.unwrap();
    for index in 0..300 {
        topic.produce(Record::new(Bytes::from(vec![index as u8; 1000])).partition(index % 3)).await.unwrap();
    }
    log.close().await.unwrap();
    let sealed = segments(&dir.path().join("topics/t/1")).remove(0);
    let mut bytes = fs::read(&sealed).unwrap();
    bytes[30_000] ^= 1;
    fs::write(&sealed, bytes).unwrap();

    let log = Log::open(dir.path()).await.unwrap();
    let topic = log.raw_topic("t").unwrap();
    let mut readable = Vec::new();
    for follow in [false, true] {
        let replay = topic.replay(Start::Earliest);
        let mut replay = if follow { replay.follow() } else { replay };
        let mut seen = 0_u64;
        let error = loop {
            match timeout(PATIENCE, replay.next()).await.unwrap() {
                Some(Ok(message)) => {
                    assert_eq!(message.value().unwrap()[0], seen as u8, "nothing is passed over");
                    seen += 1;
                }
                Some(Err(error)) => break error,
                None => panic!("the damage was passed over in silence after {seen} records"),
            }
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let corruption = error.corruption().unwrap();
        assert_eq!((corruption.topic.as_deref(), corruption.partition), (Some("t"), Some(1)));
        assert_eq!(corruption.first_offset, Some(seen.div_ceil(3)));
        assert!(replay.next().await.is_none(), "the error is the last item");
        readable.push(seen);
    }
    // On a thread the error stays, however often one asks.
    let mut replay = topic.replay(Start::Earliest).blocking().unwrap();
    let mut seen = 0;
    let error = loop {
        match replay.next() {
            Ok(Some(_)) => seen += 1,
            Ok(None) => panic!("the damage was passed over in silence"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    for _ in 0..3 {
        assert_eq!(replay.next().unwrap_err().kind(), ErrorKind::Corrupt);
    }
    readable.push(seen);
    assert!(readable.iter().all(|seen| *seen == readable[0] && *seen > 30), "{readable:?}");
    // The other partitions serve on.
    assert_eq!(topic.replay_partition(0, Start::Earliest).count().await, 100);
}
