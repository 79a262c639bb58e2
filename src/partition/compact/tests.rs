//! Compaction of one partition, against a list of what was written.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::Pace;
use crate::error::ErrorKind;
use crate::format::record::RecordIter;
use crate::log::engine::Engine;
use crate::log::open::open;
use crate::log::settings::{Durability, LogSettings, TopicSettings};
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::segment::index::Target;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::handles::Handles;
use crate::storage::memory::MemoryDisk;
use crate::storage::{Env, Storage};

const HOUR: i64 = 3_600_000_000;

/// A record as it was written and as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    offset: u64,
    commit: u64,
    timestamp: i64,
    key: Option<u8>,
    value: Option<Vec<u8>>,
}

struct Fixture {
    disk: Arc<MemoryDisk>,
    clock: Arc<ManualClock>,
    memory: u64,
    engine: Option<Engine>,
    written: Vec<Row>,
}

impl Fixture {
    fn new(memory: u64) -> Self {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let mut new = Self { disk: Arc::new(MemoryDisk::default()), clock, memory, engine: None, written: Vec::new() };
        new.reopen();
        let settings = TopicSettings::default()
            .durability(Durability::Os)
            .segment_bytes_max(4096)
            .compaction(true)
            .tombstone_age_max(Duration::from_secs(3600));
        new.engine().create_topic("t", settings).unwrap();
        new
    }

    fn reopen(&mut self) {
        self.engine = None;
        let env = Env {
            storage: Arc::clone(&self.disk) as Arc<dyn Storage>,
            clock: Arc::clone(&self.clock) as _,
            random: Arc::new(SeededRandom::new(self.written.len() as u64)),
            // So few that readers lose theirs all the time.
            handles: Arc::new(Handles::new(2)),
        };
        let settings = LogSettings { compaction_memory_bytes: self.memory, ..LogSettings::default() };
        self.engine = Some(open(env, PathBuf::from("/log"), settings, true).unwrap());
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn partition(&self) -> Arc<Partition> {
        self.engine().topic("t").unwrap().partition(0).unwrap()
    }

    /// Writes records in one frame: a key, whether it has a value, a time.
    fn append(&mut self, records: &[(Option<u8>, bool, i64)]) {
        let before = self.written.len() as u64;
        let rows: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(at, (key, has_value, timestamp))| {
                let value = has_value.then(|| format!("{}{}", before + at as u64, "v".repeat(150)).into_bytes());
                Row { offset: before + at as u64, commit: 0, timestamp: *timestamp, key: *key, value }
            })
            .collect();
        let written = self
            .engine()
            .append_relaxed(&self.partition(), Durability::Os, |builder| {
                for row in &rows {
                    let key = row.key.map(|key| [key]);
                    let key = key.as_ref().map(|key| &key[..]);
                    builder.push(row.timestamp, key, row.value.as_deref(), std::iter::empty());
                }
            })
            .unwrap();
        assert_eq!(written.base_offset, before);
        self.written.extend(rows.into_iter().map(|row| Row { commit: written.commit, ..row }));
    }

    /// Seals the segment that is being written.
    fn seal(&mut self) {
        let segments = self.partition().segments().len();
        while self.partition().segments().len() == segments {
            self.append(&[(None, true, 0)]);
        }
    }

    fn compact(&self) -> super::Compacted {
        self.engine().compact_topic("t").unwrap()
    }

    fn active_base(&self) -> u64 {
        self.partition().segments().last().unwrap().base_offset
    }

    fn read_from(&self, offset: u64) -> Vec<Row> {
        let mut cursor = PartitionCursor::new(self.partition(), offset);
        let mut rows = Vec::new();
        while let Some(frame) = cursor.next_frame(u64::MAX).unwrap() {
            let mut records = RecordIter::new(&frame.header, &frame.body);
            while let Some(record) = records.next_record().unwrap() {
                if record.offset >= offset {
                    rows.push(Row {
                        offset: record.offset,
                        commit: frame.header.commit,
                        timestamp: record.timestamp,
                        key: record.key.map(|key| key[0]),
                        value: record.value.map(<[u8]>::to_vec),
                    });
                }
            }
        }
        rows
    }

    /// What must be there after compactions of everything below `limit`, the tombstones aside.
    fn expected(&self, limit: u64) -> Vec<Row> {
        let mut last = BTreeMap::new();
        for row in self.written.iter().filter(|row| row.offset < limit) {
            last.insert(row.key, row.offset);
        }
        let stays = |row: &&Row| row.key.is_none() || row.offset >= limit || last[&row.key] == row.offset;
        self.written.iter().filter(stays).cloned().collect()
    }

    /// Every way to a place leads where a linear search leads.
    fn check_lookups(&self) {
        let (all, end) = (self.read_from(0), self.partition().visible_end());
        let partition = self.partition();
        for offset in 0..=end {
            let expected: Vec<_> = all.iter().filter(|row| row.offset >= offset).cloned().collect();
            assert_eq!(self.read_from(offset), expected, "from {offset}");
        }
        let first = |found: u64| self.read_from(found).into_iter().next();
        for row in &self.written {
            let expected = all.iter().find(|other| other.commit >= row.commit);
            assert_eq!(first(partition.find(Target::Commit(row.commit)).unwrap()).as_ref(), expected);
            let found = partition.find(Target::Timestamp(row.timestamp)).unwrap();
            let expected = all.iter().find(|other| other.timestamp >= row.timestamp);
            let rows = self.read_from(found);
            let before = rows.iter().take_while(|other| other.timestamp < row.timestamp).count();
            assert_eq!(rows.get(before), expected, "time {}", row.timestamp);
            assert!(rows[..before].iter().all(|other| Some(other.commit) == expected.map(|row| row.commit)));
        }
        for wanted in 0..=all.len() as u64 + 1 {
            let (from, count) = partition.last_records(end, wanted).unwrap();
            let rows = self.read_from(from);
            assert_eq!(rows.len() as u64, count, "the last {wanted}");
            assert!(count >= wanted.min(all.len() as u64), "the last {wanted}: {count}");
            // What is too much is in the frame of the first that is wanted.
            let spare = (count - wanted.min(count)) as usize;
            assert!(rows[..spare].iter().all(|row| row.commit == rows[spare].commit), "the last {wanted}");
        }
    }
}

fn records() -> impl Strategy<Value = Vec<(Option<u8>, bool, i64)>> {
    let key = prop_oneof![1 => Just(None), 9 => (0..8_u8).prop_map(Some)];
    prop::collection::vec((key, prop::bool::weighted(0.9), 0..1000_i64), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However little memory there is: passes until nothing is left to do leave the last record of each key, at its offset,
    /// with its commit, and all lookups are right, before and after reopening.
    #[test]
    fn the_last_record_of_each_key_stays(rounds in prop::collection::vec(prop::collection::vec(records(), 1..30), 1..4), slots in 2..12_u64) {
        let mut fixture = Fixture::new(slots * 24);
        for (number, round) in rounds.iter().enumerate() {
            for records in round {
                fixture.append(records);
            }
            fixture.seal();
            let mut passes = 0;
            while !fixture.compact().complete {
                passes += 1;
                prop_assert!(passes < 500, "each pass gets on");
            }
            let limit = fixture.active_base();
            prop_assert_eq!(fixture.read_from(0), fixture.expected(limit));
            prop_assert_eq!(fixture.partition().clean_end(), limit);
            if number == 0 {
                fixture.reopen();
                prop_assert_eq!(fixture.partition().clean_end(), limit, "kept by the checkpoint");
            }
            fixture.check_lookups();
            let again = fixture.compact();
            prop_assert_eq!((again.removed, again.complete), (0, true));
        }
    }

    /// A reader that is anywhere when segments are replaced sees what is left of the rest, once and in order.
    #[test]
    fn readers_go_on_over_a_compaction(round in prop::collection::vec(records(), 40..80), stop in 0..40_usize, again in any::<bool>()) {
        let mut fixture = Fixture::new(1 << 20);
        for records in &round {
            fixture.append(records);
        }
        fixture.seal();
        let mut cursor = PartitionCursor::new(fixture.partition(), 0);
        let mut seen = Vec::new();
        let mut read = |cursor: &mut PartitionCursor| {
            let frame = cursor.next_frame(u64::MAX).unwrap()?;
            let mut records = RecordIter::new(&frame.header, &frame.body);
            while let Some(record) = records.next_record().unwrap() {
                seen.push(record.offset);
            }
            Some(())
        };
        for _ in 0..stop {
            read(&mut cursor).unwrap();
        }
        let at = cursor.next_offset();
        fixture.compact();
        if again {
            fixture.seal();
            fixture.compact();
        }
        while read(&mut cursor).is_some() {}
        prop_assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        let before: Vec<_> = seen.iter().copied().filter(|offset| *offset < at).collect();
        prop_assert_eq!(before, (0..at).collect::<Vec<_>>());
        for row in fixture.read_from(at) {
            prop_assert!(seen.contains(&row.offset), "{}", row.offset);
        }
    }
}

#[test]
fn a_tombstone_stays_for_its_time_and_then_goes() {
    let mut fixture = Fixture::new(1 << 20);
    fixture.append(&[(Some(1), true, 5), (Some(2), true, 5)]);
    fixture.append(&[(Some(1), false, 5)]);
    fixture.seal();
    // However old the tombstone is, its time begins with the first compaction.
    fixture.clock.advance(100 * HOUR);
    let there = |fixture: &Fixture| fixture.read_from(0).iter().any(|row| row.offset == 2);
    assert_eq!(fixture.compact().removed, 1);
    assert!(there(&fixture));
    let partition = fixture.partition();
    let ratio = |partition: &Partition, fixture: &Fixture| {
        partition.wants_compaction(1.0, fixture.engine().env.clock.now_micros())
    };
    fixture.clock.advance(HOUR - 1_000_000);
    assert_eq!(fixture.compact().removed, 0);
    assert!(there(&fixture) && !ratio(&partition, &fixture));
    fixture.reopen();
    fixture.clock.advance(-50 * HOUR);
    assert_eq!(fixture.compact().removed, 0, "a clock that goes backwards only makes it longer");
    let partition = fixture.partition();
    assert!(!ratio(&partition, &fixture));
    fixture.clock.advance(50 * HOUR + 1_000_000);
    assert!(ratio(&partition, &fixture), "an old tombstone is a reason for a pass");
    assert_eq!(fixture.compact().removed, 1);
    assert!(!there(&fixture));
    assert!(fixture.read_from(0).iter().all(|row| row.key != Some(1)), "nothing comes back");
    fixture.check_lookups();
}

#[test]
fn what_is_gone_to_the_end_of_a_segment_leaves_an_empty_frame() {
    let mut fixture = Fixture::new(1 << 20);
    for _ in 0..60 {
        fixture.append(&[(Some(1), true, 1)]);
    }
    let limit = fixture.active_base();
    fixture.append(&[(Some(1), true, 1)]);
    assert!(fixture.partition().segments().len() > 3);
    assert_eq!(fixture.compact().removed, limit - 1);
    let segments = fixture.partition().segments();
    assert_eq!(segments.len(), 2, "small neighbours become one");
    assert!(segments[0].is_sparse() && !segments[1].is_sparse());
    assert_eq!(fixture.read_from(0).len() as u64, 61 - (limit - 1));
    fixture.check_lookups();
    // The next pass takes the last of them, too, and the segment is one frame that holds nothing.
    let before = fixture.active_base();
    while fixture.active_base() == before {
        fixture.append(&[(Some(1), true, 1)]);
    }
    fixture.compact();
    let rows = fixture.read_from(0);
    assert_eq!(rows.iter().filter(|row| row.offset < fixture.active_base()).count(), 1);
    fixture.check_lookups();
    fixture.reopen();
    assert_eq!(fixture.read_from(0), rows);
    fixture.check_lookups();
}

#[test]
fn a_retired_segment_that_is_not_open_is_looked_up_again() {
    let mut fixture = Fixture::new(1 << 20);
    for _ in 0..60 {
        fixture.append(&[(Some(1), true, 1), (None, true, 1)]);
    }
    fixture.reopen();
    let partition = fixture.partition();
    let mut cursor = PartitionCursor::new(Arc::clone(&partition), 0).with_read_bytes(1);
    cursor.next_frame(u64::MAX).unwrap().unwrap();
    let old = partition.segments();
    fixture.compact();
    assert!(old.iter().rev().skip(1).all(|segment| segment.is_retired()));
    assert_eq!(old[1].own_handle().unwrap_err().kind(), ErrorKind::Io);
    fixture.engine().env.handles.close_idle(&Arc::default());
    let mut rows = 0;
    while let Some(frame) = cursor.next_frame(u64::MAX).unwrap() {
        rows += frame.header.record_count;
    }
    assert!((60..120).contains(&rows), "{rows}");
}

/// Ends a pass after so many steps.
struct Steps(Cell<u32>);

impl Pace for Steps {
    fn spend(&self, _bytes: u64) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }
}

#[test]
fn a_pass_can_be_stopped_anywhere() {
    for steps in 0..200 {
        let mut fixture = Fixture::new(1 << 20);
        for number in 0..60 {
            fixture.append(&[(Some(number % 5), number % 7 > 0, 1)]);
        }
        fixture.seal();
        let partition = fixture.partition();
        let plan = super::CompactionPlan {
            limit: fixture.engine().checkpoint_of(&partition).unwrap(),
            now_micros: 0,
            tombstone_age_micros: HOUR,
            memory_bytes: 1 << 20,
        };
        let done = partition.compact(&partition.maintaining().unwrap(), &plan, &Steps(Cell::new(steps))).unwrap();
        let temporaries = fixture.disk.list(&PathBuf::from("/log/topics/t/0")).unwrap();
        assert!(temporaries.iter().all(|entry| !entry.name.ends_with(".tmp")), "nothing is left over");
        fixture.check_lookups();
        fixture.reopen();
        fixture.compact();
        assert_eq!(fixture.read_from(0), fixture.expected(fixture.active_base()));
        if done.complete {
            assert!(steps > 50, "{steps}");
            return;
        }
    }
    panic!("it never ends by itself");
}

#[test]
fn closing_and_deleting_end_a_pass() {
    struct Closing<'a>(&'a Partition);
    impl Pace for Closing<'_> {
        fn spend(&self, _bytes: u64) -> bool {
            // As somebody who waits for the pass to end.
            self.0.maintenance_stops.store(1, Ordering::Release);
            true
        }
    }
    let mut fixture = Fixture::new(1 << 20);
    for _ in 0..60 {
        fixture.append(&[(Some(1), true, 1)]);
    }
    let partition = fixture.partition();
    let plan = super::CompactionPlan {
        limit: fixture.active_base(),
        now_micros: 0,
        tombstone_age_micros: 0,
        memory_bytes: 1 << 20,
    };
    let done = partition.compact(&partition.maintaining().unwrap(), &plan, &Closing(&partition)).unwrap();
    assert_eq!((done.removed, done.complete), (0, false));
    fixture.engine().delete_topic("t").unwrap();
    assert_eq!(partition.maintaining().err().unwrap().kind(), ErrorKind::NotFound);
    fixture.engine().close().unwrap();
    assert_eq!(fixture.engine().compact_topic("t").unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn only_compacted_topics_are_compacted() {
    let fixture = Fixture::new(1 << 20);
    fixture.engine().create_topic("plain", TopicSettings::default()).unwrap();
    assert_eq!(fixture.engine().compact_topic("plain").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(fixture.engine().compact_topic("none").unwrap_err().kind(), ErrorKind::NotFound);
}

/// Runs something in the middle of a pass.
struct Between<F>(Cell<u32>, F);

impl<F: Fn()> Pace for Between<F> {
    fn spend(&self, _bytes: u64) -> bool {
        let left = self.0.get();
        self.0.set(left.wrapping_sub(1));
        if left == 0 {
            (self.1)();
        }
        true
    }
}

#[test]
fn retention_may_take_segments_away_in_the_middle_of_a_pass() {
    let mut interrupted = 0;
    for step in 0..120 {
        let mut fixture = Fixture::new(1 << 20);
        for number in 0..60 {
            fixture.append(&[(Some(number % 5), true, 1)]);
        }
        fixture.seal();
        let (partition, engine) = (fixture.partition(), fixture.engine());
        // Sometimes all of the first segments, sometimes a part of one.
        let before = 5 + u64::from(step) / 3;
        let plan = super::CompactionPlan {
            limit: engine.checkpoint_of(&partition).unwrap(),
            now_micros: 0,
            tombstone_age_micros: HOUR,
            memory_bytes: 1 << 20,
        };
        let delete = || assert_eq!(engine.delete_records("t", 0, before).unwrap(), before);
        let pace = Between(Cell::new(step), delete);
        let done = partition.compact(&partition.maintaining().unwrap(), &plan, &pace).unwrap();
        interrupted += u32::from(!done.complete);
        for reopened in [false, true] {
            if reopened {
                fixture.reopen();
            }
            let limit = fixture.active_base();
            while !fixture.compact().complete {}
            let start = fixture.partition().log_start();
            let expected: Vec<_> = fixture.expected(limit).into_iter().filter(|row| row.offset >= start).collect();
            assert_eq!(fixture.read_from(start), expected, "step {step}");
        }
    }
    assert!(interrupted > 10, "{interrupted}");
}
