//! What is behind the mutex of a simulated disk: the tree, the schedule of faults, and the trace.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::super::Entry;
use super::super::memory::failed;
use super::content::{Content, Fate, PAGE_BYTES};
use super::dice::{Dice, Hash};
use super::tree::{Id, Tree};
use super::{SimFault, SimOptions};

/// What a call does, for the trace and for the faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    CreateDir,
    CreateFile,
    Rename,
    Remove,
    SyncDir,
    Lock,
    Write,
    SetLen,
    SyncData,
    Store,
    // What changes nothing is not counted.
    List,
    Open,
    Read,
    Len,
}

impl Step {
    /// How many there are that change something.
    const CHANGES: usize = Step::List as usize;
}

/// A fault that is to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scheduled {
    pub(super) call: u64,
    pub(super) fault: SimFault,
    pub(super) once: bool,
}

/// How a call that changes something goes.
enum Gate {
    Open,
    Fault(SimFault),
    /// The machine stops at this call.
    Crash(Extent),
}

/// How much of the call at which the machine stops is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Nothing,
    Part,
    All,
}

#[derive(Debug)]
pub(super) struct State {
    options: SimOptions,
    dice: Dice,
    tree: Tree,
    locks: BTreeSet<Id>,
    /// Counts the ends of processes: handles of earlier ones are dead.
    epoch: u64,
    off: bool,
    calls: u64,
    schedule: Vec<Scheduled>,
    /// The call at which the machine stops, and how much of it is done if that is not left to the dice.
    crash: Option<(u64, Option<Extent>)>,
    faults_hit: u64,
    /// Stores into windows.
    stores: u64,
    /// How often each [`Step`] that changes something was called.
    counts: [u64; Step::CHANGES],
    /// The last of them.
    last: Option<Step>,
    trace: Hash,
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl SimFault {
    fn concerns(self, step: Step) -> bool {
        match self {
            SimFault::Eio => step != Step::Store,
            SimFault::Enospc => !matches!(step, Step::Remove | Step::Store),
            SimFault::ShortWrite | SimFault::Misdirect => step == Step::Write,
            SimFault::FsyncDrop => step == Step::SyncData,
        }
    }

    fn error(self) -> io::Error {
        match self {
            SimFault::Enospc => no_space(),
            _ => io::Error::other("simulated: input/output error"),
        }
    }
}

fn no_space() -> io::Error {
    io::Error::new(ErrorKind::StorageFull, "simulated: no space left on device")
}

impl State {
    pub(super) fn new(seed: u64, options: SimOptions) -> Self {
        Self {
            options,
            dice: Dice::new(seed),
            tree: Tree::new(),
            locks: BTreeSet::new(),
            epoch: 0,
            off: false,
            calls: 0,
            schedule: Vec::new(),
            crash: None,
            faults_hit: 0,
            stores: 0,
            counts: [0; Step::CHANGES],
            last: None,
            trace: Hash::new(),
        }
    }

    pub(super) fn fork(&self, seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            tree: self.tree.fork(),
            locks: BTreeSet::new(),
            schedule: self.schedule.clone(),
            ..*self
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    pub(super) fn faults_hit(&self) -> u64 {
        self.faults_hit
    }

    pub(super) fn stores(&self) -> u64 {
        self.stores
    }

    #[cfg(feature = "testing")]
    /// How often a step that changes something was called.
    pub(super) fn count(&self, step: Step) -> u64 {
        self.counts.get(step as usize).copied().unwrap_or(0)
    }

    #[cfg(feature = "testing")]
    pub(super) fn last(&self) -> Option<Step> {
        self.last
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.value()
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(super) fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    pub(super) fn used(&self) -> u64 {
        (self.tree.allocated() * PAGE_BYTES) as u64
    }

    pub(super) fn set_capacity(&mut self, bytes: Option<u64>) {
        self.options.capacity = bytes;
    }

    pub(super) fn schedule(&mut self, scheduled: Scheduled) {
        self.schedule.push(scheduled);
    }

    pub(super) fn clear_faults(&mut self) {
        self.schedule.clear();
    }

    pub(super) fn crash_at(&mut self, call: u64, done: Option<bool>) {
        self.crash = Some((call, done.map(|done| if done { Extent::All } else { Extent::Nothing })));
    }

    pub(super) fn kill(&mut self) {
        self.end();
        self.tree.kill(&self.dice);
    }

    pub(super) fn power_loss(&mut self) {
        self.end();
        let fate = match Fate::from(self.options.loss) {
            // Independent choices alone would hardly ever agree over many files.
            Fate::Each => match self.dice.below(8) {
                0 => Fate::Oldest,
                1 => Fate::Newest,
                _ => Fate::Each,
            },
            fixed => fixed,
        };
        self.tree.power_loss(fate, &self.dice);
    }

    fn end(&mut self) {
        self.epoch += 1;
        self.off = false;
        self.crash = None;
        self.locks.clear();
        self.trace.number(self.epoch);
    }

    /// Refuses a handle of a process that has ended. Such calls leave no trace: when they come depends on threads.
    pub(super) fn alive(&self, epoch: u64) -> io::Result<()> {
        if self.off || self.epoch != epoch { Err(power_is_off()) } else { Ok(()) }
    }

    /// Counts a call that changes something, and says how it goes.
    fn gate(&mut self, step: Step) -> Gate {
        let call = self.calls;
        self.calls += 1;
        self.last = Some(step);
        if let Some(count) = self.counts.get_mut(step as usize) {
            *count += 1;
        }
        if let Some((_, extent)) = self.crash.take_if(|(at, _)| *at <= call) {
            self.off = true;
            return Gate::Crash(extent.unwrap_or_else(|| match self.dice.below(3) {
                0 => Extent::Nothing,
                1 => Extent::Part,
                _ => Extent::All,
            }));
        }
        let due = |scheduled: &Scheduled| scheduled.call <= call && scheduled.fault.concerns(step);
        let Some(found) = self.schedule.iter().position(due) else {
            return Gate::Open;
        };
        let Scheduled { fault, once, .. } = self.schedule[found];
        if once {
            self.schedule.remove(found);
        }
        self.faults_hit += 1;
        Gate::Fault(fault)
    }

    pub(super) fn change_names<T>(
        &mut self,
        step: Step,
        change: impl FnOnce(&mut Tree) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.gate(step) {
            Gate::Open => change(&mut self.tree),
            Gate::Fault(fault) => Err(fault.error()),
            Gate::Crash(Extent::Nothing) => Err(power_is_off()),
            Gate::Crash(Extent::Part | Extent::All) => change(&mut self.tree).and_then(|_| Err(power_is_off())),
        }
    }

    pub(super) fn find_file(&self, path: &Path) -> io::Result<Id> {
        let id = self.tree.lookup(path)?;
        if self.tree.is_dir(id) { Err(failed(ErrorKind::IsADirectory, path)) } else { Ok(id) }
    }

    pub(super) fn file(&self, id: Id) -> io::Result<&Content> {
        self.tree.content(id).ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the file is gone"))
    }

    pub(super) fn lock(&mut self, path: &Path) -> io::Result<Id> {
        let id = match self.find_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.change_names(Step::CreateFile, |tree| tree.create_file(path))?
            }
            found => found?,
        };
        if self.locks.insert(id) { Ok(id) } else { Err(failed(ErrorKind::WouldBlock, path)) }
    }

    pub(super) fn unlock(&mut self, epoch: u64, id: Id) {
        if self.epoch == epoch {
            self.locks.remove(&id);
        }
    }

    pub(super) fn write(&mut self, id: Id, buf: &[u8], position: u64) -> io::Result<usize> {
        match self.gate(Step::Write) {
            Gate::Open => self.write_what_fits(id, buf, position),
            Gate::Fault(SimFault::ShortWrite) => self.write_what_fits(id, &buf[..buf.len().div_ceil(2)], position),
            Gate::Fault(SimFault::Misdirect) => {
                let page = PAGE_BYTES as u64;
                let too_early = position >= page && self.dice.coin();
                self.write_what_fits(id, buf, if too_early { position - page } else { position + page })
            }
            Gate::Fault(fault) => Err(fault.error()),
            Gate::Crash(extent) => {
                let done = self.done(extent, buf.len());
                self.write_what_fits(id, &buf[..done], position)?;
                Err(power_is_off())
            }
        }
    }

    /// How many bytes of a write are done.
    fn done(&self, extent: Extent, len: usize) -> usize {
        match extent {
            Extent::Nothing => 0,
            Extent::Part => self.dice.below(len as u64 + 1) as usize,
            Extent::All => len,
        }
    }

    /// A store into memory that is a part of a file. It cannot fail; where it would end the process it panics.
    pub(super) fn store(&mut self, id: Id, buf: &[u8], position: u64) -> io::Result<()> {
        let content = self.file(id)?;
        let is_there =
            position + buf.len() as u64 <= content.len() && content.fitting(buf.len(), position, 0) == buf.len();
        assert!(is_there, "SIGBUS: a store to where the file has no bytes of its own");
        self.stores += 1;
        match self.gate(Step::Store) {
            Gate::Open | Gate::Fault(_) => self.write_what_fits(id, buf, position).map(drop),
            Gate::Crash(extent) => {
                let done = self.done(extent, buf.len());
                self.write_what_fits(id, &buf[..done], position)?;
                Err(power_is_off())
            }
        }
    }

    fn write_what_fits(&mut self, id: Id, buf: &[u8], position: u64) -> io::Result<usize> {
        let mut taken = buf.len();
        if let Some(capacity) = self.options.capacity {
            let free = (capacity as usize / PAGE_BYTES).saturating_sub(self.tree.allocated());
            taken = self.file(id)?.fitting(buf.len(), position, free);
            // Some systems write what fits and fail the next call, others fail at once.
            if taken < buf.len() && (taken == 0 || self.dice.one_in(4)) {
                return Err(no_space());
            }
        }
        self.tree.change(id, |content| content.write(&buf[..taken], position))?;
        if self.dice.one_in(self.options.writeback_one_in) {
            self.tree.change(id, |content| content.write_back_one(&self.dice))?;
        }
        Ok(taken)
    }

    pub(super) fn set_len(&mut self, id: Id, len: u64) -> io::Result<()> {
        match self.gate(Step::SetLen) {
            Gate::Open => self.tree.change(id, |content| content.set_len(len)),
            Gate::Fault(fault) => Err(fault.error()),
            Gate::Crash(extent) => {
                if extent == Extent::All {
                    self.tree.change(id, |content| content.set_len(len))?;
                }
                Err(power_is_off())
            }
        }
    }

    pub(super) fn sync_data(&mut self, id: Id) -> io::Result<()> {
        match self.gate(Step::SyncData) {
            Gate::Open => self.tree.change(id, Content::sync),
            Gate::Fault(fault @ (SimFault::FsyncDrop | SimFault::Enospc)) => {
                self.tree.change(id, |content| content.drop_dirty(&self.dice))?;
                Err(fault.error())
            }
            Gate::Fault(fault) => Err(fault.error()),
            Gate::Crash(extent) => {
                match extent {
                    Extent::Nothing => {}
                    Extent::Part => self.tree.change(id, |content| content.sync_partly(&self.dice))?,
                    Extent::All => self.tree.change(id, Content::sync)?,
                }
                Err(power_is_off())
            }
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        let gate = self.gate(Step::SyncDir);
        if let Gate::Fault(fault) = gate {
            return Err(fault.error());
        }
        let id = self.tree.lookup(dir)?;
        if !self.tree.is_dir(id) {
            return Err(failed(ErrorKind::NotADirectory, dir));
        }
        match gate {
            Gate::Crash(extent) => {
                let limit = match extent {
                    Extent::Nothing => 0,
                    Extent::Part => self.dice.below(self.tree.pending() as u64 + 1) as usize,
                    Extent::All => usize::MAX,
                };
                self.tree.sync_dir(id, limit);
                Err(power_is_off())
            }
            _ => {
                self.tree.sync_dir(id, usize::MAX);
                Ok(())
            }
        }
    }

    pub(super) fn note_path<T: Traced>(&mut self, step: Step, path: &Path, result: io::Result<T>) -> io::Result<T> {
        self.trace.bytes(path.as_os_str().as_encoded_bytes());
        self.note(step, result)
    }

    pub(super) fn note_file<T: Traced>(
        &mut self,
        step: Step,
        id: Id,
        numbers: [u64; 2],
        result: io::Result<T>,
    ) -> io::Result<T> {
        self.trace.number(id);
        self.trace.number(numbers[0]);
        self.trace.number(numbers[1]);
        self.note(step, result)
    }

    pub(super) fn note_bytes(&mut self, bytes: &[u8]) {
        self.trace.bytes(bytes);
    }

    fn note<T: Traced>(&mut self, step: Step, result: io::Result<T>) -> io::Result<T> {
        self.trace.number(step as u64);
        match &result {
            Ok(value) => self.trace.number(value.traced()),
            Err(error) => self.trace.number(u64::MAX - error.kind() as u64),
        }
        result
    }
}

/// An answer that the trace can tell from another.
pub(super) trait Traced {
    fn traced(&self) -> u64;
}

impl Traced for () {
    fn traced(&self) -> u64 {
        0
    }
}

impl Traced for u64 {
    fn traced(&self) -> u64 {
        *self
    }
}

impl Traced for usize {
    fn traced(&self) -> u64 {
        *self as u64
    }
}

impl Traced for Vec<Entry> {
    fn traced(&self) -> u64 {
        let mut hash = Hash::new();
        self.iter().for_each(|entry| hash.bytes(entry.name.as_bytes()));
        hash.value()
    }
}
