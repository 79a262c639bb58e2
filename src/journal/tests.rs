//! The ring by itself: append, rotate, replay, free, and every kind of damage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::recover::{Replayed, replay};
use super::{Batch, Journal, Live, RING_FILES, RING_FILES_MAX, file_name};
use crate::error::{ErrorKind, Result};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::journal::{FrameTarget, JOURNAL_HEADER_BYTES};
use crate::format::record::{FrameBuilder, FramePlace};
use crate::log::tests::env;
use crate::storage::sim::{SimDisk, SimFault, SimOptions};
use crate::storage::{Env, OpenMode, Storage};

const LOG_ID: u128 = 77;
const FILE_BYTES: u64 = 2048;

fn dir() -> &'static Path {
    Path::new("/journal")
}

fn path(slot: usize) -> PathBuf {
    dir().join(file_name(slot))
}

struct Ring {
    disk: SimDisk,
    env: Env,
    journal: Journal,
    next: u32,
}

impl Ring {
    fn new() -> Self {
        let disk = SimDisk::new(1, SimOptions::default());
        let env = env(Arc::new(disk.clone()), 5);
        let journal = Journal::new(env.clone(), dir().into(), LOG_ID, FILE_BYTES, 0, 0);
        let mut ring = Self { disk, env, journal, next: 0 };
        ring.journal.rotate(0).unwrap();
        ring
    }

    /// A batch of one entry of two frames, which carry the entry's number as their partition.
    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        self.add(&mut batch);
        batch
    }

    fn add(&mut self, batch: &mut Batch) {
        let number = self.next;
        self.next += 1;
        self.journal.add(batch, 100 + u64::from(number), |entry| {
            for topic_id in 0..2 {
                let mut builder = FrameBuilder::new();
                builder.push(0, None, Some(&[number as u8; 50]), std::iter::empty());
                let place =
                    FramePlace { incarnation: 3, base_offset: 0, durable_upto: 0, commit: 100 + u64::from(number) };
                let (_, bytes) = builder.finish(place);
                entry.push(&FrameTarget { topic_id, partition: number, segment_base: 0, position: 80 }, bytes);
            }
        });
    }

    fn append(&mut self) {
        let mut batch = self.batch();
        if !self.journal.has_room(batch.bytes.len()) {
            self.journal.rotate(0).unwrap();
            self.next -= 1;
            batch = self.batch();
        }
        self.journal.append(&mut batch).unwrap();
        assert_eq!(batch.entries, 0);
    }

    /// What a recovery with this range of files reads: the entries' numbers, and the sums.
    fn replay(&self, live: Live) -> Result<(Vec<u32>, Replayed)> {
        let mut frames = Vec::new();
        let replayed = replay(&self.env, dir(), LOG_ID, live, |frame| {
            frames.push((frame.target.partition, frame.target.topic_id));
            Ok(())
        })?;
        let numbers: Vec<u32> = frames.iter().map(|(number, _)| *number).step_by(2).collect();
        let expected: Vec<_> = numbers.iter().flat_map(|number| [(*number, 0), (*number, 1)]).collect();
        assert_eq!(frames, expected, "each entry with both of its frames");
        Ok((numbers, replayed))
    }

    fn numbers(&self) -> Vec<u32> {
        self.replay(self.journal.live()).unwrap().0
    }

    fn corruption(&self) -> String {
        let error = self.replay(self.journal.live()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        error.to_string()
    }

    fn entry_bytes() -> u64 {
        let mut ring = Ring::new();
        ring.batch().bytes.len() as u64
    }

    /// Where the entry number `index` of a file begins.
    fn entry_at(index: u64) -> u64 {
        JOURNAL_HEADER_BYTES as u64 + index * Self::entry_bytes()
    }

    fn per_file() -> u64 {
        (FILE_BYTES - JOURNAL_HEADER_BYTES as u64) / Self::entry_bytes()
    }
}

#[test]
fn entries_come_back_in_order_over_several_files() {
    let mut ring = Ring::new();
    assert!(ring.numbers().is_empty());
    for count in 1..20_u32 {
        ring.append();
        assert_eq!(ring.numbers(), (0..count).collect::<Vec<_>>());
    }
    let (_, replayed) = ring.replay(ring.journal.live()).unwrap();
    assert_eq!((replayed.entries, replayed.frames, replayed.last_commit), (19, 38, 118));
    assert_eq!(replayed.torn_bytes, 0);
    assert!(replayed.slots > 2, "the ring grows if nobody frees it");
}

#[test]
fn several_entries_of_a_batch_are_one_write() {
    let mut ring = Ring::new();
    let mut batch = Batch::default();
    for _ in 0..3 {
        ring.add(&mut batch);
    }
    let before = ring.disk.calls();
    ring.journal.append(&mut batch).unwrap();
    assert_eq!(ring.disk.calls() - before, 2, "one write, one sync");
    assert_eq!(ring.numbers(), [0, 1, 2]);
}

#[test]
fn what_is_freed_is_not_read_and_its_file_is_used_again() {
    let mut ring = Ring::new();
    let per_file = Ring::per_file() as u32;
    for round in 1..10_u32 {
        while ring.next < round * per_file + 1 {
            ring.append();
        }
        let closed = ring.journal.last_closed().unwrap();
        ring.journal.free_upto(closed);
        assert_eq!(ring.numbers(), [round * per_file], "only the file in use is left");
        assert!(ring.journal.can_rotate());
    }
    assert_eq!(ring.replay(ring.journal.live()).unwrap().1.slots, RING_FILES);
    let newest = ring.journal.live().next - 1;
    ring.journal.free_upto(newest);
    assert_eq!(ring.journal.live(), Live { first: newest + 1, next: newest + 1 });
    assert!(ring.numbers().is_empty());
    assert!(!ring.journal.has_room(1), "a file that was freed takes no more entries");
}

/// The same bytes, another incarnation: what an earlier use of the file left behind its new end is no entry.
#[test]
fn stale_entries_of_a_recycled_file_are_ignored() {
    let mut ring = Ring::new();
    for _ in 0..Ring::per_file() {
        ring.append();
    }
    for expected in 1..Ring::per_file() {
        ring.journal.free_upto(ring.journal.live().next - 1);
        ring.journal.rotate(0).unwrap();
        let first = ring.next;
        for _ in 0..expected {
            ring.append();
        }
        assert_eq!(ring.numbers(), (first..ring.next).collect::<Vec<_>>());
        assert_eq!(ring.replay(ring.journal.live()).unwrap().1.slots, 1);
        // Entries of other sizes end in the middle of stale ones, and nothing was torn there either.
        let whole = ring.disk.read_file(path(0));
        let end = Ring::entry_at(expected) as usize;
        ring.disk.write_file(path(0), &[&whole[..end], &whole[end + 7..], &[0; 7]].concat());
        let (numbers, replayed) = ring.replay(ring.journal.live()).unwrap();
        assert_eq!((numbers.len() as u64, replayed.torn_bytes), (u64::from(ring.next - first), 0));
        ring.disk.write_file(path(0), &whole);
    }
}

#[test]
fn a_torn_last_entry_is_dropped_wherever_it_is_torn() {
    let mut ring = Ring::new();
    ring.append();
    ring.append();
    let whole = ring.disk.read_file(path(0));
    let (start, end) = (Ring::entry_at(1) as usize, Ring::entry_at(2) as usize);
    for cut in start..end {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        ring.disk.write_file(path(0), &torn);
        let (numbers, replayed) = ring.replay(ring.journal.live()).unwrap();
        if torn == whole {
            assert_eq!(numbers, [0, 1]);
            continue;
        }
        assert_eq!(numbers, [0]);
        // What cannot say that it is an entry of this file is not told from what was there before.
        let header = start..start + FRAME_HEADER_BYTES;
        let left = torn[start..].iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
        let left = if torn[header.clone()] == whole[header] { left } else { 0 };
        assert_eq!(replayed.torn_bytes, left, "cut at {cut}");
    }
    // The file had its length before its first entry, so one that ends early was cut, wherever that is.
    for len in [JOURNAL_HEADER_BYTES, start, end - 1, whole.len() - 1] {
        ring.disk.write_file(path(0), &whole[..len]);
        assert!(ring.corruption().contains(&format!("a journal file of {len} bytes was cut")));
    }
}

/// An entry that is followed by one that was written later was on the disk: it is damaged, not torn. Nothing may be taken
/// from behind it.
#[test]
fn a_damaged_earlier_entry_is_corrupt_whichever_bit_it_is() {
    let mut ring = Ring::new();
    for _ in 0..3 {
        ring.append();
    }
    let range = Ring::entry_at(1)..Ring::entry_at(2);
    for byte in range.clone() {
        ring.disk.flip_bit(path(0), byte, (byte % 8) as u8);
        let said = ring.corruption();
        assert!(said.contains("entries 1 to 1 of the journal are damaged"), "{said}");
        assert!(said.contains(&format!("journal/0000.journal, position {}", range.start)), "{said}");
        ring.disk.flip_bit(path(0), byte, (byte % 8) as u8);
    }
    assert_eq!(ring.numbers(), [0, 1, 2]);
}

#[test]
fn damage_before_the_next_file_is_corrupt() {
    let mut ring = Ring::new();
    let per_file = Ring::per_file();
    for _ in 0..=per_file {
        ring.append();
    }
    ring.disk.flip_bit(path(0), Ring::entry_at(per_file - 1) + 30, 3);
    assert!(ring.corruption().contains(&format!("entries {} to {0} of the journal", per_file - 1)));
}

#[test]
fn a_missing_or_foreign_file_that_is_needed_is_corrupt() {
    let mut ring = Ring::new();
    for _ in 0..2 * Ring::per_file() + 1 {
        ring.append();
    }
    let backup = ring.disk.read_file(path(1));
    for bit in [0, 100, 300, JOURNAL_HEADER_BYTES as u64 * 8 - 1] {
        ring.disk.flip_bit(path(1), bit / 8, (bit % 8) as u8);
        assert!(ring.corruption().contains("journal file 1, which recovery needs, is missing"));
        ring.disk.write_file(path(1), &backup);
    }
    // A file of another log.
    assert!(replay(&ring.env, dir(), LOG_ID + 1, ring.journal.live(), |_| Ok(())).is_err());
    assert_eq!(replay(&ring.env, dir(), LOG_ID + 1, Live { first: 3, next: 3 }, |_| Ok(())).unwrap().entries, 0);
    ring.disk.remove_file(&path(1)).unwrap();
    assert!(ring.corruption().contains("journal file 1"));
    assert!(ring.replay(Live { first: 5, next: 5 }).unwrap().0.is_empty(), "what is not needed may be missing");
}

#[test]
fn no_journal_at_all_is_empty() {
    let disk: Arc<dyn Storage> = Arc::new(SimDisk::new(1, SimOptions::default()));
    let replayed = replay(&env(disk, 1), dir(), LOG_ID, Live { first: 0, next: 0 }, |_| Ok(())).unwrap();
    assert_eq!((replayed.entries, replayed.slots), (0, 0));
}

#[test]
fn an_entry_from_the_future_is_refused_and_not_dropped() {
    let mut ring = Ring::new();
    ring.append();
    let mut bytes = ring.disk.read_file(path(0));
    let at = JOURNAL_HEADER_BYTES;
    bytes[at + 5] = 2;
    let crc = crc32fast::hash(&bytes[at + 4..at + FRAME_HEADER_BYTES]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    ring.disk.write_file(path(0), &bytes);
    assert!(ring.corruption().contains("compression 2 is unknown; use a newer annals"));
    let mut bytes = ring.disk.read_file(path(0));
    bytes[8] = 2;
    ring.disk.write_file(path(0), &bytes);
    let error = ring.replay(ring.journal.live()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("format version 2 is newer"), "{error}");
}

#[test]
fn a_failed_write_leaves_nothing_to_be_found() {
    let mut ring = Ring::new();
    ring.append();
    let mut batch = ring.batch();
    ring.disk.fail_at(ring.disk.calls(), SimFault::ShortWrite);
    ring.disk.fail_at(ring.disk.calls() + 1, SimFault::Eio);
    assert_eq!(ring.journal.append(&mut batch).unwrap_err().kind(), ErrorKind::Io);
    assert!(ring.journal.failure().is_none());
    assert_eq!(ring.numbers(), [0]);
    ring.append();
    assert_eq!(ring.numbers(), [0, 2], "the number goes to the next entry");
}

#[test]
fn a_failed_sync_poisons() {
    let mut ring = Ring::new();
    let mut batch = ring.batch();
    ring.disk.fail_at(ring.disk.calls() + 1, SimFault::FsyncDrop);
    assert_eq!(ring.journal.append(&mut batch).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(ring.journal.failure().unwrap().kind(), ErrorKind::Poisoned);
}

#[test]
fn a_file_that_cannot_be_made_leaves_the_ring_as_it_was() {
    let mut ring = Ring::new();
    ring.append();
    for call in 0..12 {
        let (live, slots) = (ring.journal.live(), ring.journal.slots);
        ring.disk.fail_at(ring.disk.calls() + call, SimFault::Enospc);
        let hit = ring.disk.faults_hit();
        let rotated = ring.journal.rotate(0);
        assert_eq!(rotated.is_err(), ring.disk.faults_hit() > hit);
        ring.disk.clear_faults();
        if rotated.is_ok() {
            break;
        }
        assert_eq!(ring.journal.live(), live);
        assert!(ring.journal.slots <= slots + 1);
        assert_eq!(ring.numbers(), [0]);
    }
    ring.append();
    assert_eq!(ring.numbers(), [0, 1]);
}

#[test]
fn the_ring_has_a_limit() {
    let mut ring = Ring::new();
    for _ in 1..RING_FILES_MAX {
        ring.append();
        ring.journal.rotate(0).unwrap();
    }
    let error = ring.journal.rotate(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert_eq!(ring.numbers().len(), RING_FILES_MAX - 1);
    ring.journal.free_upto(0);
    ring.journal.rotate(0).unwrap();
}

/// A power loss at every call, many ways each: what was acknowledged is replayed, and nothing out of order.
#[test]
fn a_power_loss_at_any_call_keeps_what_was_acknowledged() {
    for seed in 0..300_u64 {
        let mut ring = Ring::new();
        ring.disk = ring.disk.fork(seed);
        ring.env = env(Arc::new(ring.disk.clone()), seed);
        ring.journal = Journal::new(ring.env.clone(), dir().into(), LOG_ID, FILE_BYTES, 1, 1);
        ring.journal.rotate(0).unwrap();
        ring.disk.crash_at(ring.disk.calls() + seed % 23);
        let (mut acknowledged, mut live) = (BTreeSet::new(), ring.journal.live());
        for _ in 0..8 {
            let mut batch = ring.batch();
            if !ring.journal.has_room(batch.bytes.len()) {
                ring.next -= 1;
                if ring.journal.rotate(0).is_err() {
                    break;
                }
                live = ring.journal.live();
                batch = ring.batch();
            }
            if ring.journal.append(&mut batch).is_err() {
                break;
            }
            acknowledged.insert(ring.next - 1);
        }
        ring.disk.power_loss();
        let (numbers, _) = ring.replay(live).unwrap();
        assert_eq!(numbers, (0..numbers.len() as u32).collect::<Vec<_>>());
        assert!(numbers.len() >= acknowledged.len(), "seed {seed}: {numbers:?} of {acknowledged:?}");
        assert!(numbers.len() <= acknowledged.len() + 1, "seed {seed}");
        drop(ring.disk.open(&path(0), OpenMode::Read).unwrap());
    }
}

/// A file was begun, but the power went before the manifest counted it. The next session must not give another file the same
/// sequence.
#[test]
fn a_file_that_was_never_counted_is_not_mistaken_for_a_later_one() {
    let mut ring = Ring::new();
    for _ in 0..Ring::per_file() {
        ring.append();
    }
    let counted = ring.journal.live();
    ring.journal.rotate(0).unwrap();
    let (numbers, replayed) = ring.replay(counted).unwrap();
    assert_eq!((numbers.len() as u64, replayed.next_sequence), (Ring::per_file(), counted.next + 1));

    let next = replayed.next_sequence;
    ring.journal = Journal::new(ring.env.clone(), dir().into(), LOG_ID, FILE_BYTES, replayed.slots, next);
    ring.next = 0;
    ring.journal.rotate(0).unwrap();
    ring.append();
    assert_eq!(ring.numbers(), [0]);
}

/// The manifest that counted the newest file is damaged, and the older one is believed.
#[test]
fn a_file_that_holds_entries_is_read_though_the_manifest_does_not_count_it() {
    let mut ring = Ring::new();
    for _ in 0..2 * Ring::per_file() + 1 {
        ring.append();
    }
    let all = ring.journal.live();
    for next in all.first..=all.next {
        assert_eq!(ring.replay(Live { next, ..all }).unwrap().0, ring.numbers());
    }
    ring.journal.rotate(0).unwrap();
    let (numbers, replayed) = ring.replay(all).unwrap();
    assert_eq!((numbers, replayed.next_sequence), (ring.numbers(), all.next + 1), "one without an entry is left alone");
}

#[test]
fn files_whose_numbers_overlap_are_refused() {
    let mut ring = Ring::new();
    for _ in 0..=Ring::per_file() {
        ring.append();
    }
    let mut bytes = ring.disk.read_file(path(1));
    bytes[48..56].copy_from_slice(&(Ring::per_file() - 1).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    ring.disk.write_file(path(1), &bytes);
    assert!(ring.corruption().contains("twice"));
}

#[test]
fn a_recycled_file_that_cannot_be_opened_is_not_lost() {
    let mut ring = Ring::new();
    ring.journal.free_upto(0);
    let free = ring.journal.free.len();
    ring.disk.truncate(path(0), 100);
    ring.disk.fail_at(ring.disk.calls(), SimFault::Enospc);
    ring.journal.rotate(100).unwrap_err();
    assert_eq!(ring.journal.free.len(), free);
    ring.journal.rotate(100).unwrap();
    assert_eq!(ring.journal.slots, 1);
}

#[test]
fn a_recycled_file_serves_as_it_is_where_the_disk_is_full() {
    let mut ring = Ring::new();
    ring.append();
    ring.journal.free_upto(0);
    let (needed, len) = (700, 800);
    ring.disk.truncate(path(0), len);
    // What fails is to write the zeros.
    ring.journal.names_synced = true;
    ring.disk.fail_at(ring.disk.calls(), SimFault::Enospc);
    ring.journal.rotate(needed).unwrap();
    assert!(ring.journal.has_room(needed) && !ring.journal.has_room(len as usize));
    ring.append();
    ring.disk.power_loss();
    assert_eq!(ring.numbers(), [1]);
}

/// The sync of an entry has failed and left its pages clean but unwritten. A process that reads them from the cache and begins to
/// redo them must not lose them in the middle.
#[test]
fn entries_are_on_the_disk_before_they_are_redone() {
    let mut ring = Ring::new();
    ring.disk =
        SimDisk::new(1, SimOptions { loss: crate::storage::sim::Loss::Oldest, writeback_one_in: 0, capacity: None });
    ring.env = env(Arc::new(ring.disk.clone()), 5);
    ring.journal = Journal::new(ring.env.clone(), dir().into(), LOG_ID, FILE_BYTES, 0, 0);
    ring.journal.rotate(0).unwrap();
    ring.append();
    let mut batch = ring.batch();
    ring.disk.fail_at(ring.disk.calls(), SimFault::FsyncDrop);
    ring.journal.append(&mut batch).unwrap_err();
    ring.disk.kill();
    let adopted = ring.numbers();
    ring.disk.power_loss();
    assert_eq!(ring.numbers(), adopted);
}
