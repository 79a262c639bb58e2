//! Opening a partition whose last segment ends in anything.

use std::path::Path;
use std::sync::Arc;

use super::chunks::Chunks;
use crate::format::checkpoint::SegmentPlace;
use crate::format::compression::Compression;
use crate::format::frame::header_crc;
use crate::format::record::{FrameBuilder, FramePlace, RecordIter};
use crate::format::segment::SegmentHeader;
use crate::partition::cursor::PartitionCursor;
use crate::partition::live::LiveSettings;
use crate::partition::recover::{self, Known};
use crate::partition::{Partition, PartitionConfig};
use crate::segment::create::footer_bytes;
use crate::segment::{Owner, Segment, advance, first_place};
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::files::{read_small, write_all_at};
use crate::storage::memory::MemoryDisk;
use crate::storage::{Env, OpenMode, Storage};

const INCARNATION: u64 = 0x0102_0304_0506_0708;
const LOG_ID: u128 = 1;

/// What recovery may give back.
struct Built {
    file: Vec<u8>,
    /// Frames that follow each other from the first on, before anything else was put there: `(next offset, position)`.
    whole: Vec<(u64, u64)>,
    place: SegmentPlace,
    intact: bool,
    flipped: bool,
}

impl Built {
    fn new() -> Self {
        let header = SegmentHeader {
            log_id: LOG_ID,
            topic_id: 2,
            partition: 0,
            base_offset: 0,
            incarnation: INCARNATION,
            created_at: 0,
            compacted: false,
        };
        let place = first_place(0, INCARNATION);
        Self { file: header.encode().to_vec(), whole: Vec::new(), place, intact: true, flipped: false }
    }

    /// A frame as the writer would put it there, but for what the arguments say.
    fn frame(&mut self, value: &[u8], records: u8, skew: u64, incarnation: u64, durable_upto: u64) {
        let mut builder = FrameBuilder::new();
        for number in 0..=records % 4 {
            builder.push(i64::from(number), None, Some(value), std::iter::empty());
        }
        let place = FramePlace {
            incarnation,
            base_offset: self.place.next_offset.wrapping_add(skew),
            durable_upto,
            commit: self.place.last_commit + 1,
        };
        let (header, bytes) = builder.finish(place);
        self.file.extend_from_slice(bytes);
        if self.intact && skew == 0 && incarnation == INCARNATION {
            advance(&mut self.place, &header, bytes.first_chunk().map_or(0, header_crc));
            self.whole.push((self.place.next_offset, self.place.position));
        } else {
            self.intact = false;
        }
    }

    fn chunk(&mut self, chunks: &mut Chunks<'_>) {
        match chunks.byte() % 9 {
            0..=2 => {
                let (len, records) = (chunks.byte(), chunks.byte());
                self.frame(chunks.bytes(usize::from(len)), records, 0, INCARNATION, self.place.next_offset);
            }
            3 => {
                let len = chunks.byte();
                self.raw(chunks.bytes(usize::from(len)));
            }
            4 => self.raw(&vec![0; usize::from(chunks.number() % 5000)]),
            5 => {
                let (skew, upto) = (u64::from(chunks.byte()), u64::from(chunks.byte()));
                self.frame(b"skewed", 0, skew, INCARNATION, upto);
            }
            6 => self.frame(b"stale", 0, 0, INCARNATION + 1, 1000),
            7 => {
                self.file.extend_from_slice(&footer_bytes(&self.place, self.place.next_offset));
                self.intact = false;
            }
            _ => {
                let at = usize::from(chunks.number()) % self.file.len();
                self.file[at] ^= 1 << (chunks.byte() % 8);
                self.whole.retain(|(_, end)| *end <= at as u64);
                (self.intact, self.flipped) = (false, true);
            }
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.intact &= bytes.is_empty();
        self.file.extend_from_slice(bytes);
    }
}

fn env(disk: &Arc<MemoryDisk>, seed: u64) -> Env {
    let storage: Arc<dyn Storage> = Arc::clone(disk) as _;
    Env::new(storage, Arc::new(ManualClock::new(0)), Arc::new(SeededRandom::new(seed)), 3)
}

fn open(disk: &Arc<MemoryDisk>, seed: u64) -> Option<(Arc<Partition>, recover::Findings)> {
    let owner = Arc::new(Owner { topic: "t".into(), topic_id: 2, partition: 0 });
    let live = Arc::new(LiveSettings::new(Compression::None, 4096, 0));
    let config = PartitionConfig { log_id: LOG_ID, synced: true, tail_bytes_max: 0, mapped: true, live };
    let known = Known { log_start: Some(0), ..Known::default() };
    let (partition, findings) = recover::open(&env(disk, seed), owner, config, "/p".into(), known).ok()?;
    Some((Arc::new(partition), findings))
}

/// What a reader gets: the bytes of all records, and where they end.
fn read(partition: &Arc<Partition>) -> (Vec<Vec<u8>>, u64) {
    let mut cursor = PartitionCursor::new(Arc::clone(partition), partition.log_start()).with_read_bytes(4096);
    let mut values = Vec::new();
    while let Ok(Some(frame)) = cursor.next_frame(u64::MAX) {
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Ok(Some(record)) = records.next_record() {
            values.push(record.value.unwrap_or_default().to_vec());
        }
    }
    (values, cursor.next_offset())
}

fn files(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new("/p");
    let entries = disk.list(dir).expect("the directory is there");
    let read = |name: &str| read_small(disk, &dir.join(name), 1 << 20).expect("the file can be read");
    entries.iter().map(|entry| (entry.name.clone(), read(&entry.name))).collect()
}

/// Never panics; gives back at least the whole frames before the first thing that is none, and no frame that was not there;
/// keeps what it cuts; and a second recovery finds the same and changes nothing.
pub fn segment_recovery(data: &[u8]) {
    let mut chunks = Chunks::new(data);
    let mut built = Built::new();
    while !chunks.is_empty() && built.file.len() < 16 * 1024 {
        built.chunk(&mut chunks);
    }
    let disk = Arc::new(MemoryDisk::default());
    disk.create_dir(Path::new("/p")).expect("the directory is new");
    let path = Path::new("/p").join(Segment::file_name(0));
    let file = disk.open(&path, OpenMode::CreateNew).expect("the file is new");
    write_all_at(&*file, &built.file, 0).expect("memory takes it");

    let Some((partition, findings)) = open(&disk, 1) else { return };
    let (values, end) = read(&partition);
    let visible = partition.visible_end();
    assert_eq!(end, if partition.segments().is_empty() { partition.log_start() } else { visible });
    let promised = built.whole.last().map_or(0, |(next_offset, _)| *next_offset);
    let header_holds = SegmentHeader::decode(&built.file).is_ok();
    assert!(!header_holds || visible >= promised, "{visible} of {promised} records are left");
    assert!(
        built.flipped || visible == promised,
        "{visible} records are more than the {promised} that follow each other"
    );
    assert!(values.len() as u64 <= visible);
    if findings.damage.is_empty() && findings.cut_bytes > 0 {
        assert_eq!(findings.cut_saved.len(), 1);
    }
    // What was damaged is left as it was.
    if !findings.damage.is_empty() {
        assert!(read_small(&*disk, &path, 1 << 20).is_ok_and(|bytes| bytes == built.file));
    }
    drop(partition);

    let before = files(&disk);
    let (again, second) = open(&disk, 2).expect("what could be opened can be opened again");
    assert_eq!(read(&again), (values, end));
    assert_eq!(again.visible_end(), visible);
    assert_eq!(second.cut_bytes, 0);
    assert_eq!(second.damage.is_empty(), findings.damage.is_empty());
    assert_eq!(files(&disk), before, "the second recovery changed something");
}
