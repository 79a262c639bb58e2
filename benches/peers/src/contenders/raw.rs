//! Bare system calls: what the machine allows. They keep no record boundaries and could not be read back.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Level, Producer, Result, Shape},
    load::Tally,
};

pub(crate) const ENTRANTS: &[Entrant] = &[
    raw("write(2)", &[Bar::P1, Bar::P2], "one call an append", |dir, _, shape| open(dir, shape, How::Append)),
    raw("write(2) in 256 KiB", &[Bar::P2], "buffered: keeps no promise a batch", |dir, _, shape| {
        open(dir, shape, How::Buffered)
    }),
    raw("pwrite + fdatasync, pre-written", &[Bar::P3], "overwrites in place", |dir, _, shape| {
        open(dir, shape, How::InPlace)
    }),
    raw("pwrite + fdatasync, growing", &[Bar::P3], "", |dir, _, shape| open(dir, shape, How::Grow)),
    raw("a pre-written file each", &[Bar::P15], "64 threads, pwrite + fdatasync", |dir, _, shape| {
        open(dir, shape, How::InPlace)
    }),
    raw("pread in 256 KiB + CRC32", &[Bar::P6], "one checksum a read", |dir, _, shape| open(dir, shape, How::Append)),
];

type Open = fn(&Path, Level, Shape) -> Result<Box<dyn Contender>>;

const fn raw(name: &'static str, bars: &'static [Bar], note: &'static str, open: Open) -> Entrant {
    Entrant { name, class: Class::Raw, bars, syncs: true, checks: true, recovers: true, note, open }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Append,
    Buffered,
    InPlace,
    Grow,
}

const IO_BYTES: usize = 256 << 10;
/// What is written ahead and then overwritten round and round.
const PREWRITTEN_BYTES: u64 = 16 << 20;

struct Raw {
    dir: PathBuf,
    files: Vec<Mutex<File>>,
    how: How,
}

fn open(dir: &Path, shape: Shape, how: How) -> Result<Box<dyn Contender>> {
    let mut files = Vec::new();
    // 64 files need not be as large: a producer writes a few thousand records.
    let prewritten = PREWRITTEN_BYTES / shape.total() as u64;
    for number in 0..shape.total() {
        let append = matches!(how, How::Append | How::Buffered);
        let path = dir.join(number.to_string());
        let file = OpenOptions::new().create(true).read(true).write(true).append(append).open(path)?;
        if how == How::InPlace {
            file.write_all_at(&vec![7; prewritten as usize], 0)?;
        }
        file.sync_all()?;
        files.push(Mutex::new(file));
    }
    Ok(Box::new(Raw { dir: dir.to_owned(), files, how }))
}

impl Contender for Raw {
    fn producer(&self, number: usize) -> Result<Box<dyn Producer + '_>> {
        let file = self.files[number % self.files.len()].lock().map_err(|_| "poisoned")?;
        let end = file.metadata()?.len();
        let at = if self.how == How::Grow { end } else { 0 };
        Ok(Box::new(RawProducer { file, how: self.how, at, end, buffer: Vec::with_capacity(2 * IO_BYTES) }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        let file = File::open(self.dir.join("0"))?;
        let mut buffer = vec![0; IO_BYTES];
        let mut at = 0;
        loop {
            let read = file.read_at(&mut buffer, at)?;
            if read == 0 {
                return Ok(());
            }
            std::hint::black_box(crc32fast::hash(&buffer[..read]));
            at += read as u64;
            if !tally.see_region(&buffer[..read]) {
                return Ok(());
            }
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct RawProducer<'a> {
    file: std::sync::MutexGuard<'a, File>,
    how: How,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
}

impl Producer for RawProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        use std::io::Write;
        match self.how {
            How::Append => self.file.write_all(payload)?,
            How::Buffered => {
                self.buffer.extend_from_slice(payload);
                if self.buffer.len() >= IO_BYTES {
                    self.file.write_all(&self.buffer[..IO_BYTES])?;
                    self.buffer.drain(..IO_BYTES);
                }
            }
            How::InPlace | How::Grow => {
                if self.how == How::InPlace && self.at + payload.len() as u64 > self.end {
                    self.at = 0;
                }
                self.file.write_all_at(payload, self.at)?;
                self.file.sync_data()?;
                self.at += payload.len() as u64;
            }
        }
        Ok(())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        self.append_one(batch.bytes)
    }
}
