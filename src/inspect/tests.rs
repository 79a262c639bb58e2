//! What only a disk that is in the middle of a write can show.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::verify_in;
use crate::log::engine::Engine;
use crate::log::open::open;
use crate::log::settings::{LogSettings, TopicSettings};
use crate::storage::clock::{ManualClock, SeededRandom};
use crate::storage::memory::MemoryDisk;
use crate::storage::{Entry, Env, File, Lock, OpenMode, Storage};

const ROOT: &str = "/log";

/// A disk on which the frame at a position is seen half-written by the first so many reads of each handle.
#[derive(Debug)]
struct HalfWritten {
    inner: Arc<MemoryDisk>,
    position: u64,
    reads: u32,
}

#[derive(Debug)]
struct HalfWrittenFile {
    inner: Arc<dyn File>,
    position: u64,
    reads: AtomicU32,
}

impl Storage for HalfWritten {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.inner.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        if path.extension().is_none_or(|extension| extension != "log") {
            return Ok(inner);
        }
        Ok(Arc::new(HalfWrittenFile { inner, position: self.position, reads: AtomicU32::new(self.reads) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }
}

impl File for HalfWrittenFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buf, position)?;
        // The last byte of the frame that is being written.
        if let Some(at) = self.position.checked_sub(position)
            && let Some(byte) = buf[..read].get_mut(at as usize)
            && self.reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        {
            *byte ^= 1;
        }
        Ok(read)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.inner.write_at(buf, position)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
}

fn put(engine: &Engine) {
    let partition = engine.topic("t").unwrap().partition(0).unwrap();
    let push = |builder: &mut crate::format::record::FrameBuilder| {
        builder.push(0, None, Some(b"value"), std::iter::empty());
    };
    let ticket = engine.enqueue(&partition, 200, crate::log::committer::Leader::Thread, push).unwrap();
    while engine.lead() {}
    ticket.group.wait().clone().unwrap();
}

/// The proof that a frame had been on the disk comes after the frame: what was half-written when it was read is looked at again.
#[test]
fn a_frame_that_was_half_written_a_moment_ago_is_no_damage() {
    let inner = Arc::new(MemoryDisk::default());
    let env =
        |storage: Arc<dyn Storage>| Env::new(storage, Arc::new(ManualClock::new(0)), Arc::new(SeededRandom::new(1)), 8);
    let engine = open(env(Arc::clone(&inner) as _), PathBuf::from(ROOT), LogSettings::default(), true).unwrap();
    engine.create_topic("t", TopicSettings::default()).unwrap();
    (0..5).for_each(|_| put(&engine));
    let frame = 72 + 7;
    let position = 80 + 2 * frame + frame - 1;
    for (reads, intact) in [(0, true), (1, true), (2, true), (u32::MAX, false)] {
        let disk = HalfWritten { inner: Arc::clone(&inner), position, reads };
        let report = verify_in(&env(Arc::new(disk)), Path::new(ROOT), |_| ()).unwrap();
        assert_eq!(report.is_intact(), intact, "{report:?}");
        // Nothing was taken for less than it is, and what is whole behind damage is counted.
        assert_eq!(report.records, if intact { 5 } else { 4 });
        if !intact {
            let damage = report.damage[0].corruption().unwrap();
            assert_eq!(
                (damage.first_offset, damage.next_offset, damage.position),
                (Some(2), Some(3), position + 1 - frame)
            );
        }
    }
}
