//! A storage that fails the k-th call of another one.
//!
//! A test runs once without a [`Plan`] to learn how many calls there are ([`FaultDisk::calls_of`]), then once for each of
//! them with a plan that fails it, and looks at what the engine made of it.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Entry, File, Lock, OpenMode, Storage};

/// What a call does, for plans that are about some calls only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// `read_at`, `len`, `list`, and `open` of a file that exists.
    Read,
    /// `write_at` and `set_len`.
    Write,
    /// `sync_data` and `sync_dir`.
    Sync,
    /// What changes names: `create_dir`, `rename`, `remove_file`, `remove_dir`, `lock`, and `open` of a new file.
    Meta,
}

impl Class {
    pub(crate) const ALL: &'static [Class] = &[Class::Read, Class::Write, Class::Sync, Class::Meta];
    /// All but the reads.
    pub(crate) const CHANGES: &'static [Class] = &[Class::Write, Class::Sync, Class::Meta];
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `EIO`; nothing is done.
    Eio,
    /// `ENOSPC`; nothing is done.
    Enospc,
    /// A `read_at` or `write_at` of half the bytes, yet one at least, that succeeds. Other calls go through.
    Short,
    /// A `write_at` that succeeds with no byte written. Other calls go through.
    Zero,
    /// `EINTR`; nothing is done. Once only, as a caller may repeat the call for ever.
    Interrupted,
}

/// How long a fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Once,
    /// Every later call of the class of the call that failed first.
    SameClass,
    /// Every later call of every class.
    AllClasses,
}

/// Which call fails, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The calls that are counted, and so can be the first to fail.
    pub(crate) classes: &'static [Class],
    /// How many of those go through first, from the moment that the plan is armed.
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    pub(crate) repeat: Repeat,
}

/// A storage that hands every call on, but for those that a [`Plan`] fails.
#[derive(Debug)]
pub(crate) struct FaultDisk {
    inner: Arc<dyn Storage>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    log: Vec<Logged>,
    plan: Option<Plan>,
    /// Calls of the plan's classes since it was armed.
    counted: u64,
    /// The class of the call that failed first.
    struck: Option<Class>,
    fired: u64,
}

struct Logged {
    class: Class,
    name: &'static str,
    path: Arc<Path>,
    fault: Option<Fault>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Shared").field("calls", &state.log.len()).field("plan", &state.plan).finish_non_exhaustive()
    }
}

impl FaultDisk {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, shared: Arc::default() }
    }

    /// Counts anew and fails what `plan` says, in place of an earlier plan.
    pub(crate) fn arm(&self, plan: Plan) {
        assert!(
            plan.fault != Fault::Interrupted || plan.repeat == Repeat::Once,
            "a caller may repeat an interrupted call for ever"
        );
        let mut state = self.shared.state();
        state.plan = Some(plan);
        state.counted = 0;
        state.struck = None;
        state.fired = 0;
    }

    /// Lets every call through from here on.
    pub(crate) fn disarm(&self) {
        self.shared.state().plan = None;
    }

    /// How many calls there were, of every class.
    pub(crate) fn calls(&self) -> u64 {
        self.shared.state().log.len() as u64
    }

    /// How many calls of these classes there were.
    pub(crate) fn calls_of(&self, classes: &[Class]) -> u64 {
        self.shared.state().log.iter().filter(|call| classes.contains(&call.class)).count() as u64
    }

    /// How many calls the plan armed last has failed: 0 if the run was over before its turn, or if its fault does nothing
    /// to the call that it met.
    pub(crate) fn fired(&self) -> u64 {
        self.shared.state().fired
    }

    /// Every call, in order, for the message of a failing test.
    pub(crate) fn log(&self) -> Vec<String> {
        let line = |(number, call): (usize, &Logged)| {
            let fault = call.fault.map(|fault| format!(" -> {fault:?}")).unwrap_or_default();
            format!("{number} {:?} {} {}{fault}", call.class, call.name, call.path.display())
        };
        self.shared.state().log.iter().enumerate().map(line).collect()
    }

    fn pass(&self, class: Class, name: &'static str, path: &Path) -> io::Result<()> {
        self.shared.pass(class, name, Arc::from(path)).map(drop)
    }
}

/// How much of a call is to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Whole,
    Half,
    Nothing,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, class: Class, name: &'static str, path: Arc<Path>) -> io::Result<Pass> {
        let mut state = self.state();
        let fault = state.fault_for(class);
        let (applied, answer) = match (fault, name) {
            (Some(Fault::Eio), _) => (fault, Err(io::Error::other("injected: input/output error"))),
            (Some(Fault::Enospc), _) => {
                (fault, Err(io::Error::new(io::ErrorKind::StorageFull, "injected: no space left on device")))
            }
            (Some(Fault::Interrupted), _) => {
                (fault, Err(io::Error::new(io::ErrorKind::Interrupted, "injected: interrupted")))
            }
            (Some(Fault::Short), "read_at" | "write_at") => (fault, Ok(Pass::Half)),
            (Some(Fault::Zero), "write_at") => (fault, Ok(Pass::Nothing)),
            _ => (None, Ok(Pass::Whole)),
        };
        state.fired += u64::from(applied.is_some());
        state.log.push(Logged { class, name, path, fault: applied });
        answer
    }
}

impl State {
    fn fault_for(&mut self, class: Class) -> Option<Fault> {
        let plan = self.plan?;
        if let Some(struck) = self.struck {
            let again = match plan.repeat {
                Repeat::Once => false,
                Repeat::SameClass => class == struck,
                Repeat::AllClasses => true,
            };
            return again.then_some(plan.fault);
        }
        if !plan.classes.contains(&class) {
            return None;
        }
        self.counted += 1;
        if self.counted <= plan.at {
            return None;
        }
        self.struck = Some(class);
        Some(plan.fault)
    }
}

impl Storage for FaultDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Class::Meta, "create_dir", path)?;
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.pass(Class::Read, "list", dir)?;
        self.inner.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        match mode {
            OpenMode::CreateNew => self.pass(Class::Meta, "open(CreateNew)", path)?,
            OpenMode::Read => self.pass(Class::Read, "open(Read)", path)?,
            OpenMode::ReadWrite => self.pass(Class::Read, "open(ReadWrite)", path)?,
        }
        let inner = self.inner.open(path, mode)?;
        Ok(Arc::new(FaultFile { inner, path: Arc::from(path), shared: Arc::clone(&self.shared) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Class::Meta, "rename", from)?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.pass(Class::Meta, "remove_file", path)?;
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Class::Meta, "remove_dir", path)?;
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.pass(Class::Sync, "sync_dir", dir)?;
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.pass(Class::Meta, "lock", path)?;
        self.inner.lock(path)
    }
}

/// A file, the path it was opened under (for the log), and the plan.
#[derive(Debug)]
struct FaultFile {
    inner: Arc<dyn File>,
    path: Arc<Path>,
    shared: Arc<Shared>,
}

impl FaultFile {
    fn pass(&self, class: Class, name: &'static str) -> io::Result<Pass> {
        self.shared.pass(class, name, Arc::clone(&self.path))
    }
}

impl File for FaultFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let wanted = match self.pass(Class::Read, "read_at")? {
            Pass::Half => buf.len().div_ceil(2),
            Pass::Whole | Pass::Nothing => buf.len(),
        };
        self.inner.read_at(&mut buf[..wanted], position)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        match self.pass(Class::Write, "write_at")? {
            Pass::Whole => self.inner.write_at(buf, position),
            Pass::Half => self.inner.write_at(&buf[..buf.len().div_ceil(2)], position),
            Pass::Nothing => Ok(0),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.pass(Class::Read, "len")?;
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.pass(Class::Write, "set_len")?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.pass(Class::Sync, "sync_data")?;
        self.inner.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::super::files;
    use super::super::memory::MemoryDisk;
    use super::*;

    const PATH: &str = "file";

    fn disk() -> (FaultDisk, Arc<dyn File>) {
        let disk = FaultDisk::new(Arc::new(MemoryDisk::default()));
        let file = disk.open(Path::new(PATH), OpenMode::CreateNew).unwrap();
        (disk, file)
    }

    fn plan(classes: &'static [Class], at: u64, fault: Fault, repeat: Repeat) -> Plan {
        Plan { classes, at, fault, repeat }
    }

    #[test]
    fn the_kth_call_fails_once() {
        let (disk, file) = disk();
        disk.arm(plan(&[Class::Write], 2, Fault::Eio, Repeat::Once));
        let outcomes: Vec<bool> = (0..5)
            .map(|_| {
                file.sync_data().unwrap();
                file.write_at(b"x", 0).is_ok()
            })
            .collect();
        assert_eq!(outcomes, [true, true, false, true, true]);
        assert_eq!(disk.fired(), 1);
        assert_eq!(disk.calls(), 11);
        assert_eq!(disk.calls_of(&[Class::Write]), 5);
        assert_eq!(disk.log()[6], "6 Write write_at file -> Eio");
    }

    #[test]
    fn a_sticky_fault_stays_with_its_class_or_spreads() {
        let (disk, file) = disk();
        disk.arm(plan(Class::CHANGES, 1, Fault::Enospc, Repeat::SameClass));
        file.sync_data().unwrap();
        assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.set_len(0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.sync_data().unwrap();
        file.len().unwrap();

        disk.arm(plan(Class::ALL, 0, Fault::Eio, Repeat::AllClasses));
        file.len().unwrap_err();
        file.sync_data().unwrap_err();
        disk.list(Path::new("")).unwrap_err();
        assert_eq!(disk.fired(), 3);
        disk.disarm();
        file.sync_data().unwrap();
    }

    #[test]
    fn short_calls_move_half_and_one_byte_at_least() {
        let (disk, file) = disk();
        disk.arm(plan(&[Class::Write], 0, Fault::Short, Repeat::AllClasses));
        assert_eq!(file.write_at(b"0123456789", 0).unwrap(), 5);
        assert_eq!(file.write_at(b"5", 5).unwrap(), 1);
        let mut buf = [0; 5];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 3);
        files::write_all_at(&*file, b"0123456789", 0).unwrap();
        file.sync_data().unwrap();
        disk.disarm();
        assert_eq!(files::read_small(&disk, Path::new(PATH), 100).unwrap(), b"0123456789");
    }

    #[test]
    fn a_write_of_no_byte_is_an_error_and_an_interrupted_one_is_repeated() {
        let (disk, file) = disk();
        disk.arm(plan(&[Class::Write], 0, Fault::Zero, Repeat::SameClass));
        let error = files::write_all_at(&*file, b"x", 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        disk.arm(plan(Class::ALL, 0, Fault::Interrupted, Repeat::Once));
        files::write_all_at(&*file, b"x", 0).unwrap();
        assert_eq!(disk.fired(), 1);
    }

    #[test]
    fn a_fault_that_means_nothing_to_a_call_is_not_counted_as_fired() {
        let (disk, file) = disk();
        disk.arm(plan(Class::ALL, 0, Fault::Short, Repeat::Once));
        file.sync_data().unwrap();
        assert_eq!(file.write_at(b"xx", 0).unwrap(), 2);
        assert_eq!(disk.fired(), 0);
    }

    /// Whichever call of a replacement fails, the file has its old content or all of the new.
    #[test]
    fn replacing_a_file_survives_each_call_failing() {
        for fault in [Fault::Eio, Fault::Enospc, Fault::Short, Fault::Zero, Fault::Interrupted] {
            for at in 0..20 {
                let disk = FaultDisk::new(Arc::new(MemoryDisk::default()));
                files::replace_file(&disk, Path::new(""), "M", b"old").unwrap();
                disk.arm(plan(Class::ALL, at, fault, Repeat::Once));
                let result = files::replace_file(&disk, Path::new(""), "M", b"new one");
                let fired = disk.fired() > 0;
                disk.disarm();
                let content = files::read_small(&disk, Path::new("M"), 100).unwrap();
                match result {
                    Ok(()) => assert_eq!(content, b"new one", "{:#?}", disk.log()),
                    Err(_) => {
                        assert!(fired);
                        assert!(content == b"old" || content == b"new one", "{:#?}", disk.log());
                    }
                }
                files::replace_file(&disk, Path::new(""), "M", b"newest").unwrap();
            }
        }
    }
}
