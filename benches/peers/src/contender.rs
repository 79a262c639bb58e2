//! What a contender offers and, above all, what it promises when a call returns.
//!
//! To add one: write `src/contenders/<name>.rs` with a `pub(crate) const ENTRANTS: &[Entrant]` and an
//! implementation of [`Contender`] and [`Producer`], then name it in `src/contenders/mod.rs`. Nothing else
//! knows the contenders: a bar measures whoever lists it in [`Entrant::bars`].

use std::path::Path;

use crate::load::{Load, Pace, Tally, race_threads};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The workloads, by their number in the table of bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bar {
    P1,
    P2,
    P3,
    P4,
    P5,
    P6,
    P8,
    P9,
    P15,
    P17,
}

impl Bar {
    pub(crate) const ALL: [Bar; 10] =
        [Bar::P1, Bar::P2, Bar::P3, Bar::P4, Bar::P5, Bar::P6, Bar::P8, Bar::P9, Bar::P15, Bar::P17];

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }
}

/// What has happened to a record when the call that appended it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// It is in the kernel's page cache: it survives SIGKILL of this process, not a power loss. A buffer in
    /// user space is not enough.
    PageCache,
    /// `fdatasync`, or what is at least as strong, returned after it was written: it survives a power loss.
    Durable,
}

/// How many partitions a log is opened with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) topics: usize,
    /// Of each topic.
    pub(crate) partitions: usize,
}

impl Shape {
    pub(crate) const ONE: Shape = Shape { topics: 1, partitions: 1 };
    /// 64 partitions of 16 topics (P15, P17).
    pub(crate) const SPREAD: Shape = Shape { topics: 16, partitions: 4 };

    pub(crate) fn total(self) -> usize {
        self.topics * self.partitions
    }
}

/// Which column a contender's figures are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Bare system calls. The first raw entrant of a bar is the limit its ratios are quoted against.
    Raw,
    /// The simplest log that keeps the same promise.
    Baseline,
    Peer,
    Annals,
}

/// A contender's card: who it is, where it takes part and how it is opened.
pub(crate) struct Entrant {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    /// The bars whose promise it can keep. What it does not list it is not measured in, and the note says why.
    pub(crate) bars: &'static [Bar],
    /// Whether its `Level::Durable` waits for `fdatasync` or `fsync`. Who does not is shown, and is no
    /// contender for best peer of a durable bar.
    pub(crate) syncs: bool,
    /// Whether reading checks a checksum of every record. The same holds for the replay bars.
    pub(crate) checks: bool,
    /// Whether opening after a kill finds the torn tail that the kill may have left. The same holds for P8.
    pub(crate) recovers: bool,
    pub(crate) note: &'static str,
    /// Creates the log in an existing, empty directory, or opens what an earlier process left there, cleanly or
    /// killed. It is ready to append and to read when this returns (P8 times this call). A directory is always
    /// opened with the level and the shape of the first time.
    pub(crate) open: fn(&Path, Level, Shape) -> Result<Box<dyn Contender>>,
}

impl Entrant {
    pub(crate) fn offers(&self, bar: Bar) -> bool {
        self.bars.contains(&bar)
    }

    /// The cheapest level it keeps: what bulk fills use.
    pub(crate) fn fill_level(&self) -> Level {
        if self.offers(Bar::P2) { Level::PageCache } else { Level::Durable }
    }
}

/// An open log.
pub(crate) trait Contender: Send + Sync {
    /// A handle for one producer. Producer `number` writes to partition `number % shape.total()`, partitions
    /// counted through the topics. One thread uses it; 64 exist at a time in P4, P15 and P17 only, so a log for
    /// one writer may hold its lock for as long as the producer lives.
    fn producer(&self, number: usize) -> Result<Box<dyn Producer + '_>>;

    /// Reads partition 0 from its first record to its end and shows every payload to the tally, in order,
    /// verified as far as the contender verifies. Stops early when [`Tally::see`] says so.
    fn replay(&self, tally: &mut Tally) -> Result<()>;

    /// As `replay`, over all partitions merged into one causal order (P17).
    fn replay_merged(&self, _tally: &mut Tally) -> Result<()> {
        Err("no causal order over partitions".into())
    }

    /// Runs `load.producers` producers at once; each appends one record, awaits its own acknowledgement at the
    /// level of the open, and goes on until its pace ends. A thread a producer unless overridden: an
    /// asynchronous contender runs tasks (`load::race_tasks`).
    fn race(&self, load: &Load) -> Result<Vec<Pace>> {
        race_threads(self, load)
    }

    /// Closes in an orderly way: everything appended is found by the next open, which is then a clean one.
    fn close(self: Box<Self>) -> Result<()>;
}

/// One producer's end of a log. A payload's first [`KEY_BYTES`] bytes are its key where a contender has keys, so
/// that all store the same number of the caller's bytes. The payload has to be copied or written before the call
/// returns.
pub(crate) trait Producer {
    /// Appends one record; returns once it is at the level of the open, and not before.
    fn append_one(&mut self, payload: &[u8]) -> Result<()>;

    /// Appends the batch in order; returns once all of it is at the level of the open.
    fn append_batch(&mut self, batch: Batch<'_>) -> Result<()>;

    /// Sends without waiting where the contender can pipeline (P5). Promises nothing until `settle`.
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.append_one(payload)
    }

    /// Returns once everything sent is at the level of the open.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The bytes at the start of a payload that serve as its key.
pub(crate) const KEY_BYTES: usize = 8;

/// Records of one size that lie side by side, so that a raw limit may write them in one call without a copy.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) record_bytes: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn records(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.bytes.chunks_exact(self.record_bytes)
    }

    pub(crate) fn len(self) -> usize {
        self.bytes.len() / self.record_bytes
    }
}
