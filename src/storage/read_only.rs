//! A storage that changes nothing: what a log that is opened read-only stands on, so that "never writes" needs no trust in the
//! layers above.
//!
//! Pieces of files can be laid over what the disk has, in memory: commits that are durable in the journal and not yet in the
//! files that they belong to. A reader of such a file sees it as it will be.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::read_full_at;
use super::{Entry, File, Lock, OpenMode, Storage};

/// Another storage, for reading.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    inner: Arc<dyn Storage>,
    laid_over: LaidOver,
    overlays: Mutex<BTreeMap<Key, Arc<Overlay>>>,
}

/// Which files something may be laid over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaidOver {
    /// What their names end with, behind the dot.
    pub(crate) extension: &'static str,
    /// By so many bytes at their front they are told from others that had, or will have, the same name.
    pub(crate) front_bytes: usize,
}

/// The name of a file, and the bytes at its front.
type Key = (PathBuf, Vec<u8>);

/// What is laid over one file.
#[derive(Debug, Default)]
struct Overlay {
    /// There are pieces. Lets reads of most files pass without the lock.
    any: AtomicBool,
    /// By position; they do not overlap.
    pieces: Mutex<BTreeMap<u64, Arc<[u8]>>>,
}

impl Overlay {
    fn pieces(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<[u8]>>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the last piece ends.
    fn end(&self) -> u64 {
        if !self.any.load(Ordering::Acquire) {
            return 0;
        }
        self.pieces().last_key_value().map_or(0, |(position, bytes)| position + bytes.len() as u64)
    }
}

impl ReadOnly {
    pub(crate) fn new(inner: Arc<dyn Storage>, laid_over: LaidOver) -> Self {
        Self { inner, laid_over, overlays: Mutex::default() }
    }

    fn overlay(&self, path: &Path, file: &dyn File) -> io::Result<Arc<Overlay>> {
        if path.extension().is_none_or(|extension| extension != self.laid_over.extension) {
            return Ok(Arc::default());
        }
        let mut front = vec![0; self.laid_over.front_bytes];
        let read = read_full_at(file, &mut front, 0)?;
        front.truncate(read);
        let mut overlays = self.overlays.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(overlays.entry((path.to_path_buf(), front)).or_default()))
    }

    /// Lays `bytes` over the file that is now at `path`, for everyone who has it open, or opens it, through this storage.
    pub(crate) fn lay_over(&self, path: &Path, position: u64, bytes: &[u8]) -> io::Result<()> {
        let overlay = self.overlay(path, &*self.inner.open(path, OpenMode::Read)?)?;
        overlay.pieces().insert(position, bytes.into());
        overlay.any.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes pieces away that are not needed any more: those that the file has by now, and those for which `is_obsolete` says
    /// so of what the file has in their place.
    pub(crate) fn settle(&self, is_obsolete: impl Fn(&[u8], &[u8]) -> bool) -> io::Result<()> {
        let overlays: Vec<_> = {
            let mut overlays = self.overlays.lock().unwrap_or_else(PoisonError::into_inner);
            // Files that nobody has open any more, with nothing laid over them.
            overlays.retain(|_, overlay| overlay.any.load(Ordering::Acquire) || Arc::strong_count(overlay) > 1);
            let laid_over = overlays.iter().filter(|(_, overlay)| overlay.any.load(Ordering::Acquire));
            laid_over.map(|(key, overlay)| (key.clone(), Arc::clone(overlay))).collect()
        };
        for (key, overlay) in overlays {
            let clear = || {
                overlay.pieces().clear();
                overlay.any.store(false, Ordering::Release);
            };
            let file = match self.inner.open(&key.0, OpenMode::Read) {
                Ok(file) => file,
                // Deleted with its topic, or by a retention that has no use for what it held.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    clear();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut front = vec![0; key.1.len()];
            if read_full_at(&*file, &mut front, 0)? < front.len() || front != key.1 {
                // Another file has the name.
                clear();
                continue;
            }
            let pieces: Vec<_> =
                overlay.pieces().iter().map(|(position, piece)| (*position, Arc::clone(piece))).collect();
            for (position, piece) in pieces {
                let mut there = vec![0; piece.len()];
                let read = read_full_at(&*file, &mut there, position)?;
                if there[..read] != piece[..] && !is_obsolete(&there[..read], &piece) {
                    // They get there in order.
                    break;
                }
                overlay.pieces().remove(&position);
            }
            let pieces = overlay.pieces();
            overlay.any.store(!pieces.is_empty(), Ordering::Release);
        }
        Ok(())
    }

    /// Bytes that are in memory only because the files do not have them yet.
    #[cfg(test)]
    pub(crate) fn laid_over_bytes(&self) -> usize {
        let overlays = self.overlays.lock().unwrap_or_else(PoisonError::into_inner);
        overlays.values().map(|overlay| overlay.pieces().values().map(|piece| piece.len()).sum::<usize>()).sum()
    }
}

/// The error for changing anything.
fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the log is open for reading only")
}

impl Storage for ReadOnly {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.inner.list(dir)
    }

    /// Opens for reading, whatever is asked for.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            return Err(refused());
        }
        let inner = self.inner.open(path, OpenMode::Read)?;
        let overlay = self.overlay(path, &*inner)?;
        Ok(Arc::new(OverlaidFile { inner, overlay }))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    /// Names are their writer's to make durable.
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Lock>> {
        Err(refused())
    }
}

#[derive(Debug)]
struct OverlaidFile {
    inner: Arc<dyn File>,
    overlay: Arc<Overlay>,
}

impl File for OverlaidFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        if !self.overlay.any.load(Ordering::Acquire) {
            return self.inner.read_at(buf, position);
        }
        // Held over the read: a piece goes only once the file has it, which this read might else have come before.
        let pieces = self.overlay.pieces();
        let end = pieces.last_key_value().map_or(0, |(at, piece)| at + piece.len() as u64);
        let mut read = self.inner.read_at(buf, position)?;
        let wanted = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX).min(buf.len());
        if wanted > read {
            // Read short, or the file ends before the last piece, in a hole that a write of the piece would fill with zeros.
            read += read_full_at(&*self.inner, &mut buf[read..wanted], position + read as u64)?;
            buf[read..wanted].fill(0);
            read = wanted;
        }
        let before = pieces.range(..position).next_back();
        for (at, piece) in before.into_iter().chain(pieces.range(position..position + read as u64)) {
            let skip = usize::try_from(position.saturating_sub(*at)).unwrap_or(usize::MAX).min(piece.len());
            let to = usize::try_from(at.saturating_sub(position)).unwrap_or(usize::MAX).min(read);
            let len = (piece.len() - skip).min(read - to);
            buf[to..to + len].copy_from_slice(&piece[skip..skip + len]);
        }
        Ok(read)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(refused())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inner.len()?.max(self.overlay.end()))
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(refused())
    }

    /// Makes durable what others have written. Where that cannot be (a file system that is mounted read-only), nobody writes.
    fn sync_data(&self) -> io::Result<()> {
        use io::ErrorKind::{InvalidInput, ReadOnlyFilesystem, Unsupported};
        match self.inner.sync_data() {
            Err(error) if matches!(error.kind(), ReadOnlyFilesystem | InvalidInput | Unsupported) => Ok(()),
            synced => synced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::write_all_at;
    use super::super::memory::MemoryDisk;
    use super::*;

    fn disk(content: &[u8]) -> (Arc<MemoryDisk>, ReadOnly, PathBuf) {
        let disk = Arc::new(MemoryDisk::default());
        let path = PathBuf::from("/file.log");
        write_all_at(&*disk.open(&path, OpenMode::CreateNew).unwrap(), content, 0).unwrap();
        let read_only = ReadOnly::new(Arc::clone(&disk) as _, LaidOver { extension: "log", front_bytes: 2 });
        (disk, read_only, path)
    }

    fn read(file: &dyn File, position: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        let read = file.read_at(&mut bytes, position).unwrap();
        bytes.truncate(read);
        bytes
    }

    #[test]
    fn nothing_can_be_changed() {
        let (disk, storage, path) = disk(b"abc");
        let other = Path::new("/other");
        disk.create_dir(Path::new("/dir")).unwrap();
        let refusals = [
            storage.create_dir(other),
            storage.rename(&path, other),
            storage.remove_file(&path),
            storage.remove_dir(Path::new("/dir")),
            storage.sync_dir(Path::new("/dir")),
            storage.lock(other).map(drop),
            storage.open(other, OpenMode::CreateNew).map(drop),
        ];
        let file = storage.open(&path, OpenMode::ReadWrite).unwrap();
        let of_file = [file.write_at(b"x", 0).map(drop), file.set_len(0)];
        for refusal in refusals.into_iter().chain(of_file) {
            assert_eq!(refusal.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        file.sync_data().unwrap();
        assert_eq!((read(&*file, 0, 9), file.len().unwrap()), (b"abc".to_vec(), 3));
        assert_eq!(disk.list(Path::new("/")).unwrap().len(), 2);
    }

    /// Every read of a file with pieces over it is that of a file into which they were written.
    #[test]
    fn pieces_are_read_wherever_a_read_begins_and_ends() {
        let (_, storage, path) = disk(b"0123456789");
        let early = storage.open(&path, OpenMode::Read).unwrap();
        storage.lay_over(&path, 2, b"ab").unwrap();
        storage.lay_over(&path, 4, b"cde").unwrap();
        storage.lay_over(&path, 9, b"XY").unwrap();
        storage.lay_over(&path, 13, b"Z").unwrap();
        let late = storage.open(&path, OpenMode::Read).unwrap();
        let expected = b"01abcde78XY\0\0Z";
        for file in [&early, &late] {
            assert_eq!(file.len().unwrap(), expected.len() as u64);
            for from in 0..expected.len() + 2 {
                for len in 0..expected.len() + 2 {
                    let to = (from + len).min(expected.len());
                    assert_eq!(
                        read(&**file, from as u64, len),
                        expected.get(from..to).unwrap_or_default(),
                        "{from} {len}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_piece_goes_once_the_file_has_it_or_something_newer() {
        let (disk, storage, path) = disk(b"0123456789");
        storage.lay_over(&path, 2, b"ab").unwrap();
        storage.lay_over(&path, 4, b"cd").unwrap();
        let never = |_: &[u8], _: &[u8]| false;
        storage.settle(never).unwrap();
        assert_eq!(storage.laid_over_bytes(), 4);
        let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
        write_all_at(&*file, b"ab", 2).unwrap();
        storage.settle(never).unwrap();
        assert_eq!(storage.laid_over_bytes(), 2);
        storage.settle(|there, piece| there == b"45" && piece == b"cd").unwrap();
        assert_eq!(storage.laid_over_bytes(), 0);
        assert_eq!(read(&*storage.open(&path, OpenMode::Read).unwrap(), 0, 10), b"01ab456789");

        storage.lay_over(&path, 3, b"gone with its file").unwrap();
        disk.remove_file(&path).unwrap();
        storage.settle(never).unwrap();
        assert_eq!(storage.laid_over_bytes(), 0);
    }

    #[test]
    fn another_file_of_the_same_name_has_nothing_laid_over_it() {
        let (disk, storage, path) = disk(b"0123456789");
        let before = storage.open(&path, OpenMode::Read).unwrap();
        storage.lay_over(&path, 2, b"ab").unwrap();
        disk.remove_file(&path).unwrap();
        write_all_at(&*disk.open(&path, OpenMode::CreateNew).unwrap(), b"9876543210", 0).unwrap();
        let after = storage.open(&path, OpenMode::Read).unwrap();
        assert_eq!(read(&*before, 0, 10), b"01ab456789", "who has the old one open reads on");
        assert_eq!(read(&*after, 0, 10), b"9876543210");
        storage.lay_over(&path, 4, b"cd").unwrap();
        assert_eq!(read(&*before, 0, 10), b"01ab456789");
        assert_eq!(read(&*after, 0, 10), b"9876cd3210");
        storage.settle(|_, _| false).unwrap();
        assert_eq!(storage.laid_over_bytes(), 2, "what was over the old one is gone");
        // Nor does anything else than what may be laid over have a place for it.
        let other = Path::new("/other");
        drop(disk.open(other, OpenMode::CreateNew).unwrap());
        storage.open(other, OpenMode::Read).unwrap();
        assert_eq!(storage.overlays.lock().unwrap().len(), 2);
    }
}
