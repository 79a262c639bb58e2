//! Replaying a ring of two journal files that hold anything.

use std::path::Path;
use std::sync::Arc;

use super::chunks::Chunks;
use crate::error::ErrorKind;
use crate::format::journal::{EntryBuilder, FrameTarget, JournalHeader};
use crate::format::record::{FrameBuilder, FramePlace};
use crate::journal::recover::replay;
use crate::journal::{Live, file_name};
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::files::write_all_at;
use crate::storage::memory::MemoryDisk;
use crate::storage::{Env, OpenMode, Storage};

const LOG_ID: u128 = 7;

struct Built {
    file: Vec<u8>,
    incarnation: u64,
    next: u64,
    /// Entries before anything that is none.
    whole: u64,
    intact: bool,
}

impl Built {
    fn new(sequence: u64, first_entry: u64) -> Self {
        let incarnation = 100 + sequence;
        let header = JournalHeader { log_id: LOG_ID, sequence, incarnation, first_entry, file_bytes: 0 };
        Self { file: header.encode().to_vec(), incarnation, next: first_entry, whole: 0, intact: true }
    }

    fn entry(&mut self, chunks: &mut Chunks<'_>, number: u64, incarnation: u64, durable_upto: u64) {
        let mut entry = EntryBuilder::default();
        entry.clear();
        for partition in 0..u32::from(chunks.byte() % 3) {
            let mut builder = FrameBuilder::new();
            let len = usize::from(chunks.byte());
            builder.push(0, None, Some(chunks.bytes(len)), std::iter::empty());
            let place = FramePlace { incarnation: 1, base_offset: number, durable_upto: 0, commit: number };
            let (_, bytes) = builder.finish(place);
            entry.push(&FrameTarget { topic_id: number.into(), partition, segment_base: 0, position: 80 }, bytes);
        }
        let bytes = entry.finish(incarnation, number, durable_upto, number);
        self.file.extend_from_slice(bytes);
    }

    fn chunk(&mut self, chunks: &mut Chunks<'_>) {
        match chunks.byte() % 7 {
            0..=2 => {
                self.entry(chunks, self.next, self.incarnation, self.next);
                self.next += 1;
                self.whole += u64::from(self.intact);
            }
            3 => {
                let (number, upto) = (u64::from(chunks.byte()), u64::from(chunks.byte()));
                self.entry(chunks, number, self.incarnation, upto);
                self.intact = false;
            }
            4 => {
                self.entry(chunks, self.next, self.incarnation ^ 1, self.next);
                self.intact = false;
            }
            5 => {
                let len = usize::from(chunks.byte());
                self.file.extend_from_slice(chunks.bytes(len));
                self.intact = false;
            }
            _ => {
                let at = usize::from(chunks.number()) % self.file.len();
                self.file[at] ^= 1 << (chunks.byte() % 8);
                self.intact = false;
                self.whole = 0;
            }
        }
    }
}

/// Never panics; entries come in order of their numbers, without one left out, and at least those before the first thing that
/// is none; a second replay answers the same.
pub fn journal_replay(data: &[u8]) {
    let mut chunks = Chunks::new(data);
    let disk = Arc::new(MemoryDisk::default());
    disk.create_dir(Path::new("/j")).expect("the directory is new");
    let mut promised = 0;
    let mut first_entry = u64::from(chunks.byte());
    let start = first_entry;
    let mut chained = true;
    for slot in 0..2 {
        let mut built = Built::new(slot, first_entry);
        for _ in 0..chunks.byte() % 8 {
            built.chunk(&mut chunks);
        }
        promised += if chained { built.whole } else { 0 };
        chained &= built.intact;
        first_entry = built.next;
        let file =
            disk.open(&Path::new("/j").join(file_name(slot as usize)), OpenMode::CreateNew).expect("the file is new");
        write_all_at(&*file, &built.file, 0).expect("memory takes it");
    }
    let storage: Arc<dyn Storage> = disk;
    let env = Env::new(storage, Arc::new(ManualClock::new(0)), Arc::new(SeededRandom::new(0)), 3);
    let run = || {
        let mut applied = Vec::new();
        let answer = replay(&env, Path::new("/j"), LOG_ID, Live { first: 0, next: 2 }, |frame| {
            applied.push((frame.target.topic_id, frame.target.partition, frame.bytes.to_vec()));
            Ok(())
        });
        (
            answer
                .map(|replayed| (replayed.entries, replayed.frames, replayed.torn_bytes))
                .map_err(|error| error.kind()),
            applied,
        )
    };
    let (answer, applied) = run();
    assert!(applied.is_sorted_by_key(|(number, partition, _)| (*number, *partition)));
    match answer {
        Ok((entries, frames, _)) => {
            assert_eq!(frames, applied.len() as u64);
            assert!(entries >= promised, "{entries} of {promised} entries from {start} on");
        }
        Err(kind) => assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Invalid), "{kind:?}"),
    }
    assert_eq!(run(), (answer, applied));
}
