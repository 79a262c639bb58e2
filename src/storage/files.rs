//! What every layer does with [`File`]s and [`Storage`]: whole reads, whole writes, and files replaced as one.

use std::io;
use std::path::Path;

use super::{Entry, EntryKind, File, OpenMode, Storage};

/// Writes all of `buf`, however short the single writes are. A write that takes no byte is an error, not a reason to spin.
pub(crate) fn write_all_at(file: &dyn File, mut buf: &[u8], mut position: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, position) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "the device took no byte of a write")),
            Ok(written) => {
                buf = buf.get(written..).unwrap_or_default();
                position += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `buf` is full or the file ends; returns how much there was.
pub(crate) fn read_full_at(file: &dyn File, buf: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a small file whole; refuses one that is larger than `limit` before allocating for it.
pub(crate) fn read_small(storage: &dyn Storage, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} has {len} bytes, more than the {limit} it can have", path.display()),
        ));
    }
    let mut bytes = vec![0; len as usize];
    let read = read_full_at(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes zeros over `[from, to)`, in steps that keep other writers of the file from waiting long.
pub(crate) fn write_zeros(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];
    let mut position = from;
    while position < to {
        let step = (to - position).min(ZEROS.len() as u64);
        write_all_at(file, &ZEROS[..step as usize], position)?;
        position += step;
    }
    Ok(())
}

/// Whether there is no room for a write that else might have succeeded.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Replaces the file at `dir/name` as one: at any crash it has its old content or all of the new.
pub(crate) fn replace_file(storage: &dyn Storage, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    match storage.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.open(&temporary, OpenMode::CreateNew)?;
    write_all_at(&*file, bytes, 0)?;
    file.sync_data()?;
    storage.rename(&temporary, &dir.join(name))?;
    storage.sync_dir(dir)
}

/// Creates a directory and whatever is missing above it, and makes all names on the way to it durable.
///
/// A directory that is there already has the directories above it synced all the same: an earlier process may have died
/// between creating any of them and syncing that, and everything later put into it would vanish with its name.
pub(crate) fn create_dirs(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match (storage.create_dir(path), path.parent()) {
        (Ok(()), _) => sync_above(storage, path),
        (Err(error), _) if error.kind() == io::ErrorKind::AlreadyExists => sync_above(storage, path),
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound && !parent.as_os_str().is_empty() => {
            create_dirs(storage, parent)?;
            create_dirs(storage, path)
        }
        (result, _) => result,
    }
}

fn sync_above(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    for dir in path.ancestors().skip(1) {
        match storage.sync_dir(dir) {
            // Somebody else's directory, given to us by an administrator: its name is not ours to make durable.
            Err(error)
                if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | Unsupported | InvalidInput) => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Removes a directory with all that is in it; one that is gone already is no error. Symbolic links are removed,
/// not followed.
pub(crate) fn remove_tree(storage: &dyn Storage, dir: &Path) -> io::Result<()> {
    let entries = match storage.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for Entry { name, kind } in entries {
        let path = dir.join(name);
        match kind {
            EntryKind::Dir => remove_tree(storage, &path)?,
            EntryKind::File | EntryKind::Other => storage.remove_file(&path)?,
        }
    }
    storage.remove_dir(dir)
}
