//! A bound on open files. A log has as many files as it has segments, and a process may have a thousand or so open: each is
//! opened when it is needed, and closed again when others are needed more.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::File;

/// The files that are open at once, unless a setting says otherwise.
pub(crate) const OPEN_FILES_MAX: usize = 512;

/// The open files, in about the order of their last use: the clock algorithm, which asks of each only whether it was used since
/// the hand came by.
#[derive(Debug)]
pub(crate) struct Handles {
    max: usize,
    open: Mutex<VecDeque<Weak<Slot>>>,
}

/// The place of one file, open or not.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    file: Mutex<Option<Arc<dyn File>>>,
    used: AtomicBool,
}

impl Handles {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), open: Mutex::default() }
    }

    /// The file of `slot`, opened by `open` if it is not. Whoever holds the answer keeps it open.
    pub(crate) fn get<E>(
        &self,
        slot: &Arc<Slot>,
        open: impl FnOnce() -> Result<Arc<dyn File>, E>,
    ) -> Result<Arc<dyn File>, E> {
        slot.touch();
        let mut file = lock(&slot.file);
        if let Some(file) = &*file {
            return Ok(Arc::clone(file));
        }
        let opened = Arc::clone(file.insert(open()?));
        drop(file);
        self.admit(slot);
        Ok(opened)
    }

    /// Gives `slot` a file that is open already.
    pub(crate) fn put(&self, slot: &Arc<Slot>, file: Arc<dyn File>) {
        let was_open = lock(&slot.file).replace(file).is_some();
        if !was_open {
            self.admit(slot);
        }
    }

    /// How many files are open, of those whose slots are still there.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        lock(&self.open).iter().filter(|slot| slot.upgrade().is_some_and(|slot| lock(&slot.file).is_some())).count()
    }

    /// Counts a file that was just opened, and closes others if there are too many. One that somebody holds is closed once they
    /// let go of it.
    fn admit(&self, slot: &Arc<Slot>) {
        let mut open = lock(&self.open);
        open.push_back(Arc::downgrade(slot));
        // Twice around the clock nobody is left who was used.
        for _ in 0..2 * open.len() {
            if open.len() <= self.max {
                return;
            }
            let Some(oldest) = open.pop_front() else { return };
            let Some(slot) = oldest.upgrade() else { continue };
            if slot.used.swap(false, Ordering::Relaxed) {
                open.push_back(oldest);
            } else {
                *lock(&slot.file) = None;
            }
        }
    }
}

impl Slot {
    /// Does something while nobody opens the file.
    pub(crate) fn exclusively<T>(&self, act: impl FnOnce() -> T) -> T {
        let _file = lock(&self.file);
        act()
    }

    /// Notes that the file is in use.
    #[inline]
    pub(crate) fn touch(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// An error that opening gives when the process has no descriptor left: what is there must be closed first.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    // EMFILE and ENFILE, which have no kind of their own.
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

impl Handles {
    /// Closes what nobody holds, because the process may open no more.
    pub(crate) fn close_idle(&self, but: &Arc<Slot>) {
        for slot in lock(&self.open).drain(..).filter_map(|slot| slot.upgrade()) {
            if !Arc::ptr_eq(&slot, but) {
                *lock(&slot.file) = None;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::memory::MemoryDisk;
    use crate::storage::{OpenMode, Storage};

    fn open(disk: &MemoryDisk) -> io::Result<Arc<dyn File>> {
        let path = Path::new("/f");
        disk.open(path, OpenMode::ReadWrite).or_else(|_| disk.open(path, OpenMode::CreateNew))
    }

    #[test]
    fn no_more_are_open_than_may_be_and_the_used_ones_stay() {
        let disk = MemoryDisk::default();
        let handles = Handles::new(4);
        let slots: Vec<Arc<Slot>> = (0..20).map(|_| Arc::default()).collect();
        let (mut opened, mut first_opened) = (0, 0);
        for round in 0..5 {
            for slot in &slots {
                // The first is used all the time.
                let first = || {
                    first_opened += 1;
                    open(&disk)
                };
                handles.get(&slots[0], first).unwrap();
                handles
                    .get(slot, || {
                        opened += 1;
                        open(&disk)
                    })
                    .unwrap();
                assert!(handles.count() <= 4, "round {round}");
            }
        }
        // All the others must have been opened again and again; that one was never the least used.
        assert!(opened >= 90 && first_opened < 25, "{opened}, {first_opened}");
        drop(slots);
        assert_eq!(handles.count(), 0);
        handles.put(&Arc::default(), open(&disk).unwrap());
        handles.close_idle(&Arc::default());
        assert_eq!(handles.count(), 0);
    }

    #[test]
    fn who_holds_a_file_keeps_it() {
        let disk = MemoryDisk::default();
        let handles = Handles::new(1);
        let (one, other): (Arc<Slot>, Arc<Slot>) = Default::default();
        let held = handles.get(&one, || open(&disk)).unwrap();
        for _ in 0..3 {
            handles.get(&other, || open(&disk)).unwrap();
        }
        held.write_at(b"x", 0).unwrap();
        assert_eq!(handles.get(&one, || open(&disk)).unwrap().len().unwrap(), 1);
        assert!(handles.get(&Arc::default(), || Err(())).is_err());
    }
}
