//! The file system of the machine, through `std` alone.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Entry, EntryKind, File, Lock, OpenMode, Storage, Window};

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Disk;

impl Storage for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(or_current(dir))? {
            let entry = entry?;
            // The type of the entry itself: a link to a directory is a link.
            let found = entry.file_type()?;
            let kind = if found.is_dir() {
                EntryKind::Dir
            } else if found.is_file() {
                EntryKind::File
            } else {
                EntryKind::Other
            };
            entries.push(match entry.file_name().into_string() {
                Ok(name) => Entry { name, kind },
                Err(name) => Entry { name: name.to_string_lossy().into_owned(), kind: EntryKind::Other },
            });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        match mode {
            OpenMode::Read => options.read(true),
            OpenMode::ReadWrite => options.read(true).write(true),
            // Exclusive creation never follows a link at the last step, so it needs no look beforehand.
            OpenMode::CreateNew => options.read(true).write(true).create_new(true),
        };
        if mode != OpenMode::CreateNew {
            refuse_all_but_files(path, &fs::symlink_metadata(path)?)?;
        }
        let file = options.open(path)?;
        Ok(Arc::new(DiskFile { file, writable: mode != OpenMode::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_names(or_current(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => refuse_all_but_files(path, &metadata)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Locks belong to the open file, not to the process, so a second holder in this process is kept out as well.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(DiskLock { _file: file })),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is locked by another owner", path.display())))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn calls_at_once(&self) -> usize {
        16
    }

    fn is_file_system(&self) -> bool {
        true
    }

    #[cfg(target_os = "linux")]
    fn free_bytes(&self, path: &Path) -> Option<u64> {
        let found = rustix::fs::statvfs(or_current(path)).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }
}

/// The empty path is the parent of `data`, yet the system knows no such name.
fn or_current(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

/// A link could lead out of the log's directory, a pipe would block its opener, a device is not ours.
fn refuse_all_but_files(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(io::Error::new(io::ErrorKind::IsADirectory, format!("{} is a directory", path.display())))
    } else if kind.is_symlink() {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is a symbolic link, which annals does not follow", path.display()),
        ))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a plain file", path.display())))
    }
}

#[cfg(not(windows))]
fn sync_names(dir: &Path) -> io::Result<()> {
    let opened = fs::File::open(dir)?;
    if !opened.metadata()?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is not a directory", dir.display())));
    }
    opened.sync_all()
}

/// Windows has no call for this; NTFS journals its names by itself.
#[cfg(windows)]
fn sync_names(dir: &Path) -> io::Result<()> {
    if fs::metadata(dir)?.is_dir() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is not a directory", dir.display())))
    }
}

/// An open file, and whether it may be changed: systems disagree about the error for writing to a read-only handle.
#[derive(Debug)]
struct DiskFile {
    file: fs::File,
    writable: bool,
}

impl DiskFile {
    fn require_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(read_only()) }
    }
}

/// The error for changing a file through a handle from [`OpenMode::Read`].
pub(super) fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading only")
}

impl File for DiskFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(&self.file, buf, position);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(&self.file, buf, position);
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.require_writable()?;
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::write_at(&self.file, buf, position);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_write(&self.file, buf, position);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.require_writable()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn window(&self, from: u64, to: u64) -> io::Result<Option<Box<dyn Window>>> {
        self.require_writable()?;
        #[cfg(target_os = "linux")]
        return super::mapped::map(&self.file, from, to);
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (from, to);
            Ok(None)
        }
    }
}

/// The lock goes when the file is closed, however the process ends.
#[derive(Debug)]
struct DiskLock {
    _file: fs::File,
}

impl Lock for DiskLock {}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_reported_and_not_opened() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), b"secret").unwrap();
        symlink(outside.path().join("secret"), inside.path().join("to-file")).unwrap();
        symlink(outside.path(), inside.path().join("to-dir")).unwrap();
        symlink(inside.path().join("nowhere"), inside.path().join("dangling")).unwrap();

        let found = Disk.list(inside.path()).unwrap();
        assert_eq!(found.len(), 3);
        for entry in found {
            assert_eq!(entry.kind, EntryKind::Other, "{}", entry.name);
            let path = inside.path().join(&entry.name);
            for mode in [OpenMode::Read, OpenMode::ReadWrite] {
                let error = Disk.open(&path, mode).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                assert!(error.to_string().contains("symbolic link"), "{error}");
            }
            assert_eq!(Disk.open(&path, OpenMode::CreateNew).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(Disk.lock(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(Disk.list(outside.path()).unwrap().len(), 1, "nothing was created through a link");
    }

    #[test]
    fn removing_a_tree_removes_links_and_not_what_they_point_to() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("keep"), b"").unwrap();
        let tree = inside.path().join("tree");
        fs::create_dir(&tree).unwrap();
        symlink(outside.path(), tree.join("link")).unwrap();
        super::super::files::remove_tree(&Disk, &tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.path().join("keep").exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_are_not_utf8_are_none_of_ours() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"a\xffb")), b"").unwrap();
        let found = Disk.list(dir.path()).unwrap();
        assert_eq!(found, [Entry { name: "a\u{fffd}b".into(), kind: EntryKind::Other }]);
    }

    #[test]
    fn sockets_are_none_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(Disk.list(dir.path()).unwrap()[0].kind, EntryKind::Other);
        assert_eq!(Disk.open(&path, OpenMode::Read).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    /// The parent of the relative path `data` is the empty path.
    #[test]
    fn the_empty_path_is_the_current_directory() {
        Disk.sync_dir(Path::new("")).unwrap();
        assert_eq!(Disk.list(Path::new("")).unwrap(), Disk.list(Path::new(".")).unwrap());
    }

    #[test]
    fn a_lock_leaves_its_file_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        drop(Disk.lock(&path).unwrap());
        assert!(path.exists());
        drop(Disk.lock(&path).unwrap());
    }
}
