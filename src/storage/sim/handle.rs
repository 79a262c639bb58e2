//! The simulated disk as one process sees it: mounts, open files and locks, each dead once that process is.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::super::disk::read_only;
use super::super::{Entry, File, Lock, OpenMode, Storage, Window, is_inside};
use super::Shared;
use super::state::Step;
use super::tree::Id;

/// A wrong position ends in an error rather than in a page table of terabytes.
const FILE_BYTES_MAX: u64 = 1 << 32;

/// The disk until the process ends.
pub(super) struct Mount {
    shared: Arc<Shared>,
    epoch: u64,
}

impl Mount {
    pub(super) fn new(shared: Arc<Shared>, epoch: u64) -> Self {
        Self { shared, epoch }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Storage for Mount {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.change_names(Step::CreateDir, |tree| tree.create_dir(path));
        state.note_path(Step::CreateDir, path, result)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.tree().list(dir);
        state.note_path(Step::List, dir, result)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = if mode == OpenMode::CreateNew {
            let created = state.change_names(Step::CreateFile, |tree| tree.create_file(path));
            state.note_path(Step::CreateFile, path, created)
        } else {
            let found = state.find_file(path);
            state.note_path(Step::Open, path, found)
        };
        let id = result?;
        let token = state.tree().handle(id);
        drop(state);
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { shared: Arc::clone(&self.shared), epoch: self.epoch, id, writable, _token: token }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.change_names(Step::Rename, |tree| tree.rename(from, to));
        let result = state.note_path(Step::Rename, from, result);
        state.note_path(Step::Rename, to, result)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.change_names(Step::Remove, |tree| tree.remove(path, false));
        state.note_path(Step::Remove, path, result)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.change_names(Step::Remove, |tree| tree.remove(path, true));
        state.note_path(Step::Remove, path, result)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.sync_dir(dir);
        state.note_path(Step::SyncDir, dir, result)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.lock(path);
        let id = state.note_path(Step::Lock, path, result)?;
        let token = state.tree().handle(id);
        drop(state);
        Ok(Box::new(SimLock { shared: Arc::clone(&self.shared), epoch: self.epoch, id, _token: token }))
    }
}

struct SimFile {
    shared: Arc<Shared>,
    epoch: u64,
    id: Id,
    writable: bool,
    /// Keeps the file once its name is gone.
    _token: Arc<()>,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("id", &self.id).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl SimFile {
    fn require_writable(&self, end: Option<u64>) -> io::Result<()> {
        if !self.writable {
            return Err(read_only());
        }
        match end {
            Some(end) if end <= FILE_BYTES_MAX => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "a simulated file cannot become this long")),
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.file(self.id).map(|content| content.read(buf, position));
        state.note_file(Step::Read, self.id, [position, buf.len() as u64], result)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        self.require_writable(position.checked_add(buf.len() as u64))?;
        let result = state.write(self.id, buf, position);
        state.note_bytes(buf);
        state.note_file(Step::Write, self.id, [position, buf.len() as u64], result)
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.file(self.id).map(|content| content.len());
        state.note_file(Step::Len, self.id, [0, 0], result)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        self.require_writable(Some(len))?;
        let result = state.set_len(self.id, len);
        state.note_file(Step::SetLen, self.id, [len, 0], result)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        state.alive(self.epoch)?;
        let result = state.sync_data(self.id);
        state.note_file(Step::SyncData, self.id, [0, 0], result)
    }

    fn window(&self, from: u64, to: u64) -> io::Result<Option<Box<dyn Window>>> {
        let state = self.shared.state();
        state.alive(self.epoch)?;
        self.require_writable(Some(to))?;
        drop(state);
        let file = Self { shared: Arc::clone(&self.shared), _token: Arc::clone(&self._token), ..*self };
        Ok(Some(Box::new(SimWindow { file, range: from..to })))
    }
}

/// Where a real store would end the process, this one panics.
#[derive(Debug)]
struct SimWindow {
    file: SimFile,
    range: Range<u64>,
}

impl Window for SimWindow {
    fn store(&mut self, bytes: &[u8], position: u64) -> io::Result<bool> {
        let SimFile { shared, epoch, id, .. } = &self.file;
        let mut state = shared.state();
        state.alive(*epoch)?;
        if !is_inside(&self.range, position, bytes.len()) {
            return Ok(false);
        }
        let result = state.store(*id, bytes, position);
        state.note_bytes(bytes);
        state.note_file(Step::Store, *id, [position, bytes.len() as u64], result).map(|()| true)
    }
}

struct SimLock {
    shared: Arc<Shared>,
    epoch: u64,
    id: Id,
    _token: Arc<()>,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLock").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.shared.state().unlock(self.epoch, self.id);
    }
}
