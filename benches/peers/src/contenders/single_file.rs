//! The baseline: the simplest log that keeps both promises. One file, a frame an append, a checksum a frame, one
//! write(2) a call into the page cache, one group-commit thread for the disk. No topics, keys, indexes or recovery
//! to speak of: what annals has beside these is what its distance from this log pays for.
//!
//! A frame is `crc32 | length | (payload length | payload)*`, the checksum over all after it.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::runtime::Runtime;

use super::group_commit::{GroupCommit, block_on};
use crate::{
    contender::{Bar, Batch, Class, Contender, Entrant, Level, Producer, Result},
    load::{Load, Pace, Tally, race_tasks, race_threads},
};

pub(crate) const ENTRANTS: &[Entrant] = &[
    Entrant {
        name: "single-file log",
        class: Class::Baseline,
        bars: &[Bar::P1, Bar::P2, Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9],
        syncs: true,
        checks: true,
        recovers: true,
        note: "opening reads all of it",
        open: |dir, level, _| Ok(Box::new(SingleFile::open(dir, level, None)?)),
    },
    Entrant {
        name: "single-file log, tasks",
        class: Class::Baseline,
        bars: &[Bar::P4],
        syncs: true,
        checks: true,
        recovers: true,
        note: "64 tasks on tokio's threads",
        open: |dir, level, _| Ok(Box::new(SingleFile::open(dir, level, Some(Runtime::new()?))?)),
    },
];

const HEADER_BYTES: usize = 8;
const READ_BYTES: usize = 256 << 10;

struct SingleFile {
    path: PathBuf,
    file: File,
    commit: Option<Arc<GroupCommit>>,
    runtime: Option<Runtime>,
}

impl SingleFile {
    fn open(dir: &Path, level: Level, runtime: Option<Runtime>) -> Result<Self> {
        let path = dir.join("log");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        // Whatever follows the last whole frame was never acknowledged.
        let end = scan(&path, &mut |_| true)?;
        file.set_len(end)?;
        let commit = match level {
            Level::PageCache => None,
            Level::Durable => Some(Arc::new(GroupCommit::start(file.try_clone()?))),
        };
        Ok(Self { path, file, commit, runtime })
    }
}

fn encode<'a>(payloads: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    for payload in payloads {
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
    }
    let length = (out.len() - start - HEADER_BYTES) as u32;
    out[start + 4..start + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    let crc = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(four) as usize)
}

/// Shows every payload of every whole, intact frame, and returns where the last one ends.
fn scan(path: &Path, see: &mut dyn FnMut(&[u8]) -> bool) -> Result<u64> {
    let file = File::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    let (mut filled, mut position) = (0, 0);
    loop {
        let read = file.read_at(&mut buffer[filled..], position + filled as u64)?;
        filled += read;
        let mut at = 0;
        while let Some(body) = frame(&buffer[at..filled]) {
            let mut rest = body;
            while let Some(length) = u32_at(rest, 0) {
                if !see(&rest[4..4 + length]) {
                    return Ok(position + at as u64);
                }
                rest = &rest[4 + length..];
            }
            at += HEADER_BYTES + body.len();
        }
        if read == 0 {
            return Ok(position + at as u64);
        }
        buffer.copy_within(at..filled, 0);
        (filled, position) = (filled - at, position + at as u64);
        if filled == buffer.len() {
            // A frame larger than the buffer.
            buffer.resize(2 * filled, 0);
        }
    }
}

/// The body of the frame that `bytes` begin with, if all of it is there and intact.
fn frame(bytes: &[u8]) -> Option<&[u8]> {
    let end = HEADER_BYTES + u32_at(bytes, 4)?;
    let whole = bytes.get(..end)?;
    (crc32fast::hash(&whole[4..]) as usize == u32_at(whole, 0)?).then(|| &whole[HEADER_BYTES..])
}

impl Contender for SingleFile {
    fn producer(&self, _number: usize) -> Result<Box<dyn Producer + '_>> {
        Ok(Box::new(SingleFileProducer { log: self, frame: Vec::new(), last: None }))
    }

    fn replay(&self, tally: &mut Tally) -> Result<()> {
        scan(&self.path, &mut |payload| tally.see(payload)).map(drop)
    }

    fn race(&self, load: &Load) -> Result<Vec<Pace>> {
        match (&self.runtime, &self.commit) {
            (Some(runtime), Some(commit)) => race_tasks(runtime, load, |_, mut pace| {
                let commit = Arc::clone(commit);
                async move {
                    while let Some(payload) = pace.next() {
                        commit.append(|out| encode([payload].into_iter(), out)).await?;
                        pace.acknowledged();
                    }
                    Ok(pace)
                }
            }),
            _ => race_threads(self, load),
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct SingleFileProducer<'a> {
    log: &'a SingleFile,
    frame: Vec<u8>,
    last: Option<super::group_commit::Ack>,
}

impl SingleFileProducer<'_> {
    fn append<'p>(&mut self, payloads: impl Iterator<Item = &'p [u8]>) -> Result<()> {
        if let Some(commit) = &self.log.commit {
            return block_on(commit.append(|out| encode(payloads, out)));
        }
        self.frame.clear();
        encode(payloads, &mut self.frame);
        // One call, and the file is in append mode: frames of several producers do not mix.
        Ok((&self.log.file).write_all(&self.frame)?)
    }
}

impl Producer for SingleFileProducer<'_> {
    fn append_one(&mut self, payload: &[u8]) -> Result<()> {
        self.append([payload].into_iter())
    }

    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()> {
        self.append(batch.records())
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        match &self.log.commit {
            Some(commit) => self.last = Some(commit.append(|out| encode([payload].into_iter(), out))),
            None => self.append_one(payload)?,
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        // Tickets are in order: the last one's is everyone's.
        self.last.take().map_or(Ok(()), block_on)
    }
}
