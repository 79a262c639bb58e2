//! The whole engine under arbitrary operations, on a disk that fails and loses power.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::chunks::Chunks;
use crate::format::record::{FrameBuilder, RecordIter};
use crate::log::committer::{Group, Ticket};
use crate::log::engine::Engine;
use crate::log::open::open;
use crate::log::settings::{Durability, LogSettings, TopicSettings};
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::storage::Env;
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::sim::{SimDisk, SimFault, SimOptions};

/// Where records go: two partitions that sync, one that does not.
const TARGETS: [(&str, u32); 3] = [("sync", 0), ("sync", 1), ("os", 0)];
const RELAXED: usize = 2;
const OPERATIONS_MAX: usize = 48;

/// A record that was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    id: u64,
    /// It must survive whatever happens to the power.
    durable: bool,
    /// It was answered with success, so that it must survive the end of the process.
    written: bool,
    /// Which commit over several partitions it belongs to; 0 for none.
    unit: u64,
}

/// An append that waits for its answer.
enum Waiting {
    Single(usize, u64, Ticket),
    Unit(Vec<usize>, u64, Arc<Group>),
}

struct Run {
    disk: SimDisk,
    engine: Option<Engine>,
    openings: u64,
    next_id: u64,
    sent: [Vec<Sent>; 3],
    waiting: Vec<Waiting>,
    faults_before: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed, SimOptions::default());
        Self {
            disk,
            engine: None,
            openings: 0,
            next_id: 1,
            sent: [const { Vec::new() }; 3],
            waiting: Vec::new(),
            faults_before: 0,
        }
    }

    /// Opens the log; a fault or a crash that was asked for may stand in the way.
    fn open(&mut self) -> bool {
        self.openings += 1;
        let random = Arc::new(SeededRandom::new(self.openings));
        let env = Env::new(self.disk.mount(), Arc::new(ManualClock::new(0)), random, 3);
        let settings = LogSettings { journal_bytes: 4096, tail_bytes_max: 1024, ..LogSettings::default() };
        let Ok(engine) = open(env, PathBuf::from("/log"), settings, true) else { return false };
        assert!(engine.report.damage.is_empty(), "nothing was damaged: {:?}", engine.report.damage);
        for (name, partitions, durability) in [("sync", 2, Durability::Sync), ("os", 1, Durability::Os)] {
            let settings =
                TopicSettings::default().partitions(partitions).durability(durability).segment_bytes_max(4096);
            if engine.create_topic(name, settings).is_err() {
                return false;
            }
        }
        self.engine = Some(engine);
        true
    }

    /// The process ends, and another opens the log again, without any more faults.
    fn reopen(&mut self, lost_power: bool) {
        if lost_power {
            self.disk.power_loss();
        } else {
            self.disk.kill();
        }
        self.waiting.clear();
        self.engine = None;
        self.disk.clear_faults();
        // A sync that failed leaves pages that the system may throw away like any clean ones: then only what was synced before is
        // sure to be there, even if nothing but the process has ended.
        let lost_pages = self.disk.faults_hit() > self.faults_before;
        self.faults_before = self.disk.faults_hit();
        assert!(self.open(), "a log that only lost power can be opened");
        self.check(lost_power || lost_pages);
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the log is open")
    }

    fn partition(&self, target: usize) -> Option<Arc<Partition>> {
        let (topic, number) = TARGETS[target];
        self.engine().topic(topic).and_then(|topic| topic.partition(number)).ok()
    }

    fn new_record(&mut self, target: usize, unit: u64) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.sent[target].push(Sent { id, durable: false, written: false, unit });
        id
    }

    fn append(&mut self, target: usize, len: usize) {
        // Of what waits together, commits over several partitions come after plain appends.
        if self.waiting.iter().any(|waiting| matches!(waiting, Waiting::Unit(..))) {
            self.lead();
        }
        let Some(partition) = self.partition(target) else { return };
        let id = self.new_record(target, 0);
        let fill = |builder: &mut FrameBuilder| put(builder, id, len);
        if target == RELAXED {
            if self.engine().append_relaxed(&partition, Durability::Os, fill).is_ok() {
                self.answer(target, id, false);
            }
        } else if let Ok(ticket) =
            self.engine().enqueue(&partition, len + 100, crate::log::committer::Leader::Thread, fill)
        {
            self.waiting.push(Waiting::Single(target, id, ticket));
        }
    }

    fn append_unit(&mut self, targets: u8, len: usize) {
        let targets: Vec<usize> = (0..3).filter(|target| targets & 1 << target != 0).collect();
        // A commit of one partition that does not sync has no meaning.
        if targets.is_empty() || targets == [RELAXED] {
            return;
        }
        let unit = self.next_id;
        let mut frames = Vec::new();
        for target in &targets {
            let Some(partition) = self.partition(*target) else { return };
            let id = self.new_record(*target, unit);
            let mut builder = FrameBuilder::new();
            put(&mut builder, id, len);
            frames.push((partition, builder));
        }
        if let Ok(group) = self.engine().committer.enqueue_unit(frames, crate::log::committer::Leader::Thread) {
            self.waiting.push(Waiting::Unit(targets, unit, group));
        }
    }

    fn lead(&mut self) {
        self.engine().lead();
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Single(target, id, ticket) => {
                    if let Some(Ok(_)) = ticket.group.outcome() {
                        self.answer(target, id, true);
                    }
                }
                Waiting::Unit(targets, unit, group) => {
                    if let Some(Ok(_)) = group.outcome() {
                        for target in targets {
                            let of_unit = self.sent[target].iter().find(|sent| sent.unit == unit).map(|sent| sent.id);
                            self.answer(target, of_unit.unwrap_or(0), true);
                        }
                    }
                }
            }
        }
    }

    /// Notes a success. What a partition got before is at least as safe.
    fn answer(&mut self, target: usize, id: u64, durable: bool) {
        for sent in self.sent[target].iter_mut().filter(|sent| sent.id <= id) {
            sent.durable |= durable && (sent.written || sent.id == id);
            sent.written |= sent.id == id;
        }
    }

    /// What is there: all that had to survive, in the order in which it was sent, nothing twice, units whole.
    fn check(&mut self, lost_power: bool) {
        let found: Vec<Vec<u64>> =
            (0..3).map(|target| self.partition(target).map_or(Vec::new(), |of| ids(&of))).collect();
        for (target, found) in found.iter().enumerate() {
            let mut sent = self.sent[target].iter();
            for id in found {
                let skipped = sent.by_ref().take_while(|sent| sent.id != *id);
                for lost in skipped {
                    let needed = if lost_power { lost.durable } else { lost.written };
                    assert!(!needed, "record {lost:?} is gone before {id} in {:?}", TARGETS[target]);
                }
                assert!(self.sent[target].iter().any(|sent| sent.id == *id), "nobody sent {id}");
            }
            for lost in sent {
                let needed = if lost_power { lost.durable } else { lost.written };
                assert!(!needed, "record {lost:?} is gone from the end of {:?}", TARGETS[target]);
            }
            assert!(found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]), "{found:?}");
        }
        for (target, sent) in self.sent.iter().enumerate() {
            for unit in sent.iter().filter(|sent| sent.unit != 0 && found[target].contains(&sent.id)) {
                for (other, sent) in self.sent.iter().enumerate() {
                    let missing = sent.iter().any(|sent| sent.unit == unit.unit && !found[other].contains(&sent.id));
                    assert!(!missing, "of the commit {} only a part is there", unit.unit);
                }
            }
        }
        // What was found is on the disk by now, and what was not is gone for good.
        for (target, found) in found.iter().enumerate() {
            self.sent[target].retain(|sent| found.contains(&sent.id));
            for sent in &mut self.sent[target] {
                (sent.durable, sent.written, sent.unit) = (true, true, 0);
            }
        }
    }

    fn step(&mut self, chunks: &mut Chunks<'_>) {
        let operation = chunks.byte();
        match operation % 16 {
            0..=3 => {
                self.append(usize::from(operation / 16) % 3, usize::from(chunks.byte()) * 4);
                self.lead();
            }
            4 | 5 => self.append(usize::from(operation / 16) % 3, usize::from(chunks.byte()) * 8),
            6 | 7 => {
                self.append_unit(operation / 16, usize::from(chunks.byte()) * 4);
                self.lead();
            }
            8 => self.append_unit(operation / 16, usize::from(chunks.byte())),
            9 => self.lead(),
            10 => self.engine().do_upkeep(Duration::MAX),
            // Whether it fails is the disk's business.
            11 => drop(self.engine().checkpoint()),
            12 => {
                let faults = [SimFault::Eio, SimFault::Enospc, SimFault::ShortWrite, SimFault::FsyncDrop];
                self.disk.fail_at(
                    self.disk.calls() + u64::from(chunks.byte() % 32),
                    faults[usize::from(operation / 16) % 4],
                );
            }
            13 => self.crash_soon(u64::from(chunks.byte())),
            14 => self.reopen(operation < 128),
            _ => self.close(),
        }
    }

    /// The power goes at a call that is still to come, perhaps one of the recovery that follows.
    fn crash_soon(&mut self, calls: u64) {
        self.disk.crash_at(self.disk.calls() + calls % 64);
        if calls >= 128 {
            self.waiting.clear();
            self.disk.kill();
            self.engine = None;
            let lost_pages = self.disk.faults_hit() > self.faults_before;
            if self.open() && !self.disk.is_off() {
                self.check(lost_pages);
            } else {
                self.reopen(true);
            }
        }
    }

    fn close(&mut self) {
        self.lead();
        let closed = self.engine().close();
        if closed.is_err() {
            return self.reopen(true);
        }
        self.waiting.clear();
        self.engine = None;
        // A clean close leaves everything on the disk.
        self.disk.power_loss();
        self.disk.clear_faults();
        assert!(self.open(), "a log that was closed can be opened");
        assert!(self.engine().report.clean && self.engine().report.cut_bytes == 0);
        self.check(false);
    }
}

fn put(builder: &mut FrameBuilder, id: u64, len: usize) {
    let mut value = vec![id as u8; len + 8];
    value[..8].copy_from_slice(&id.to_le_bytes());
    builder.push(id as i64, None, Some(&value), std::iter::empty());
}

/// The records of a partition, each byte of them as it was sent.
fn ids(partition: &Arc<Partition>) -> Vec<u64> {
    let mut cursor = PartitionCursor::new(Arc::clone(partition), partition.log_start()).with_read_bytes(4096);
    let mut ids = Vec::new();
    while let Some(frame) = cursor.next_frame(u64::MAX).expect("what is visible can be read") {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = records.next_record().expect("a checksum holds over it") {
            assert_eq!(record.offset, ids.len() as u64);
            let (id, rest) = record.value.and_then(|value| value.split_first_chunk()).expect("a record of ours");
            let id = u64::from_le_bytes(*id);
            assert!(rest.iter().all(|byte| *byte == id as u8));
            ids.push(id);
        }
    }
    ids
}

/// Appends, commits over several partitions, upkeep, faults, crashes at any call and in the recovery after them: what was
/// acknowledged is there, in order, once, and commits are whole.
pub fn log_operations(data: &[u8]) {
    let mut chunks = Chunks::new(data);
    let mut run = Run::new(u64::from(chunks.number()));
    assert!(run.open(), "nothing stands in the way of a new log");
    for _ in 0..OPERATIONS_MAX {
        if chunks.is_empty() {
            break;
        }
        run.step(&mut chunks);
    }
    run.reopen(true);
    run.reopen(true);
}
