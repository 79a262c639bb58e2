//! A file system in this process's memory, behind `Log::in_memory()`.
//!
//! Nothing here survives the process, so the syncs have nothing to do; all else holds as on a disk: names, locks, and
//! files that stay readable through open handles after they are removed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::disk::read_only;
use super::{Entry, EntryKind, File, Lock, OpenMode, Storage};

/// Bytes of a file that are allocated together. An append copies no more than this, however long the file.
const PAGE_BYTES: usize = 64 * 1024;

/// Longer files are refused, so that a wrong position ends in an error rather than in an allocation that kills the process.
const FILE_BYTES_MAX: u64 = 1 << 36;

/// A file system in memory. Its root directory always exists; relative paths start there, too.
#[derive(Default)]
pub(crate) struct MemoryDisk {
    root: Mutex<Dir>,
}

type Dir = BTreeMap<String, Node>;

enum Node {
    File(Arc<Content>),
    Dir(Dir),
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").finish_non_exhaustive()
    }
}

impl MemoryDisk {
    fn root(&self) -> MutexGuard<'_, Dir> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names a path is made of. One that climbs with `..`, or that is not UTF-8, is refused.
pub(super) fn names(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::with_capacity(8);
    for component in path.components() {
        match component {
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                names.push(name.to_str().ok_or_else(|| failed(io::ErrorKind::InvalidInput, path))?)
            }
            Component::ParentDir => return Err(failed(io::ErrorKind::InvalidInput, path)),
        }
    }
    Ok(names)
}

/// An error of this kind that names the path.
pub(super) fn failed(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}

fn dir<'t>(root: &'t Dir, path: &Path) -> io::Result<&'t Dir> {
    let mut dir = root;
    for name in names(path)? {
        dir = match dir.get(name) {
            Some(Node::Dir(next)) => next,
            Some(Node::File(_)) => return Err(failed(io::ErrorKind::NotADirectory, path)),
            None => return Err(failed(io::ErrorKind::NotFound, path)),
        };
    }
    Ok(dir)
}

/// The directory that holds the name of `path`, and the name; `at_root` is the error if the path is the root.
fn parent_of<'t, 'p>(root: &'t mut Dir, path: &'p Path, at_root: io::ErrorKind) -> io::Result<(&'t mut Dir, &'p str)> {
    let names = names(path)?;
    let (name, above) = names.split_last().ok_or_else(|| failed(at_root, path))?;
    let mut dir = root;
    for name in above {
        dir = match dir.get_mut(*name) {
            Some(Node::Dir(next)) => next,
            Some(Node::File(_)) => return Err(failed(io::ErrorKind::NotADirectory, path)),
            None => return Err(failed(io::ErrorKind::NotFound, path)),
        };
    }
    Ok((dir, name))
}

impl Storage for MemoryDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut root = self.root();
        let (parent, name) = parent_of(&mut root, path, io::ErrorKind::AlreadyExists)?;
        if parent.contains_key(name) {
            return Err(failed(io::ErrorKind::AlreadyExists, path));
        }
        parent.insert(name.to_owned(), Node::Dir(Dir::new()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let entry = |(name, node): (&String, &Node)| Entry {
            name: name.clone(),
            kind: match node {
                Node::File(_) => EntryKind::File,
                Node::Dir(_) => EntryKind::Dir,
            },
        };
        Ok(dir(&self.root(), path)?.iter().map(entry).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut root = self.root();
        let (parent, name) = parent_of(&mut root, path, io::ErrorKind::IsADirectory)?;
        let content = match (parent.get(name), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(failed(io::ErrorKind::AlreadyExists, path)),
            (Some(Node::Dir(_)), _) => return Err(failed(io::ErrorKind::IsADirectory, path)),
            (Some(Node::File(content)), _) => Arc::clone(content),
            (None, OpenMode::CreateNew) => {
                let content = Arc::<Content>::default();
                parent.insert(name.to_owned(), Node::File(Arc::clone(&content)));
                content
            }
            (None, _) => return Err(failed(io::ErrorKind::NotFound, path)),
        };
        Ok(Arc::new(MemoryFile { content, writable: mode != OpenMode::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut root = self.root();
        let (source_names, target_names) = (names(from)?, names(to)?);
        let (parent, name) = parent_of(&mut root, from, io::ErrorKind::InvalidInput)?;
        let is_dir = match parent.get(name) {
            Some(Node::Dir(_)) => true,
            Some(Node::File(_)) => false,
            None => return Err(failed(io::ErrorKind::NotFound, from)),
        };
        if source_names == target_names {
            return Ok(());
        }
        if is_dir && target_names.starts_with(&source_names) {
            return Err(failed(io::ErrorKind::InvalidInput, to));
        }
        // All that can be wrong with the target is found before the source is touched.
        let (target_parent, target) = parent_of(&mut root, to, io::ErrorKind::InvalidInput)?;
        match (is_dir, target_parent.get(target)) {
            (true, Some(Node::File(_))) => return Err(failed(io::ErrorKind::NotADirectory, to)),
            (true, Some(Node::Dir(there))) if !there.is_empty() => {
                return Err(failed(io::ErrorKind::DirectoryNotEmpty, to));
            }
            (false, Some(Node::Dir(_))) => return Err(failed(io::ErrorKind::IsADirectory, to)),
            _ => {}
        }
        let (parent, name) = parent_of(&mut root, from, io::ErrorKind::InvalidInput)?;
        let node = parent.remove(name).ok_or_else(|| failed(io::ErrorKind::NotFound, from))?;
        let (parent, name) = parent_of(&mut root, to, io::ErrorKind::InvalidInput)?;
        parent.insert(name.to_owned(), node);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut root = self.root();
        let (parent, name) = parent_of(&mut root, path, io::ErrorKind::IsADirectory)?;
        match parent.get(name) {
            Some(Node::File(_)) => parent.remove(name),
            Some(Node::Dir(_)) => return Err(failed(io::ErrorKind::IsADirectory, path)),
            None => return Err(failed(io::ErrorKind::NotFound, path)),
        };
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut root = self.root();
        let (parent, name) = parent_of(&mut root, path, io::ErrorKind::InvalidInput)?;
        match parent.get(name) {
            Some(Node::Dir(dir)) if dir.is_empty() => parent.remove(name),
            Some(Node::Dir(_)) => return Err(failed(io::ErrorKind::DirectoryNotEmpty, path)),
            Some(Node::File(_)) => return Err(failed(io::ErrorKind::NotADirectory, path)),
            None => return Err(failed(io::ErrorKind::NotFound, path)),
        };
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        dir(&self.root(), path).map(drop)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut root = self.root();
        let (parent, name) = parent_of(&mut root, path, io::ErrorKind::IsADirectory)?;
        let node = parent.entry(name.to_owned()).or_insert_with(|| Node::File(Arc::default()));
        let Node::File(content) = node else {
            return Err(failed(io::ErrorKind::IsADirectory, path));
        };
        if content.locked.swap(true, Ordering::Acquire) {
            return Err(failed(io::ErrorKind::WouldBlock, path));
        }
        Ok(Box::new(MemoryLock(Arc::clone(content))))
    }
}

/// A file, apart from its name.
#[derive(Default)]
struct Content {
    bytes: RwLock<Pages>,
    locked: AtomicBool,
}

/// The bytes of a file. A page may be shorter than [`PAGE_BYTES`], or not be there: the rest of it is zeros, so that small
/// files stay small and holes cost nothing.
#[derive(Default)]
struct Pages {
    len: u64,
    pages: Vec<Vec<u8>>,
}

impl Pages {
    fn read(&self, buf: &mut [u8], position: u64) -> usize {
        let wanted = self.len.saturating_sub(position).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let (page, offset) = place(position + done as u64);
            let step = (PAGE_BYTES - offset).min(wanted - done);
            let stored = self.pages.get(page).and_then(|page| page.get(offset..)).unwrap_or_default();
            let stored = &stored[..stored.len().min(step)];
            let target = &mut buf[done..done + step];
            target[..stored.len()].copy_from_slice(stored);
            target[stored.len()..].fill(0);
            done += step;
        }
        wanted
    }

    fn write(&mut self, buf: &[u8], position: u64) {
        let mut done = 0;
        while done < buf.len() {
            let (page, offset) = place(position + done as u64);
            let step = (PAGE_BYTES - offset).min(buf.len() - done);
            if self.pages.len() <= page {
                self.pages.resize_with(page + 1, Vec::new);
            }
            write_page(&mut self.pages[page], &buf[done..done + step], offset, page == 0);
            done += step;
        }
        self.len = self.len.max(position + buf.len() as u64);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (page, offset) = place(len);
            self.pages.truncate(page + 1);
            if let Some(last) = self.pages.get_mut(page) {
                last.truncate(offset);
            }
        }
        self.len = len;
    }
}

/// The page that a position lies in, and where in it.
fn place(position: u64) -> (usize, usize) {
    ((position / PAGE_BYTES as u64) as usize, (position % PAGE_BYTES as u64) as usize)
}

fn write_page(page: &mut Vec<u8>, bytes: &[u8], offset: usize, is_first: bool) {
    let end = offset + bytes.len();
    if end > page.capacity() {
        // Most files are small; one that has filled a page already is going to fill the next.
        let capacity = if is_first { end.max((page.capacity() * 2).min(PAGE_BYTES)) } else { PAGE_BYTES };
        page.reserve_exact(capacity - page.len());
    }
    if page.len() < offset {
        page.resize(offset, 0);
    }
    let overwritten = (page.len() - offset).min(bytes.len());
    page[offset..offset + overwritten].copy_from_slice(&bytes[..overwritten]);
    page.extend_from_slice(&bytes[overwritten..]);
}

struct MemoryFile {
    content: Arc<Content>,
    writable: bool,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("writable", &self.writable).finish_non_exhaustive()
    }
}

impl MemoryFile {
    fn require_writable(&self, end: Option<u64>) -> io::Result<()> {
        if !self.writable {
            return Err(read_only());
        }
        match end {
            Some(end) if end <= FILE_BYTES_MAX => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "a file in memory cannot become this long")),
        }
    }
}

impl File for MemoryFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        Ok(self.content.bytes.read().unwrap_or_else(PoisonError::into_inner).read(buf, position))
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.require_writable(position.checked_add(buf.len() as u64))?;
        if !buf.is_empty() {
            self.content.bytes.write().unwrap_or_else(PoisonError::into_inner).write(buf, position);
        }
        Ok(buf.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.bytes.read().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.require_writable(Some(len))?;
        self.content.bytes.write().unwrap_or_else(PoisonError::into_inner).set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryLock(Arc<Content>);

impl fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryLock")
    }
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::Release);
    }
}
