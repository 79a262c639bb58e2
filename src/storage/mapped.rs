//! Parts of files as memory, on Linux: the one place of annals that is not checked by the compiler.
//!
//! A store to memory that the system cannot bring in, or for which there is no place on the disk, ends the process with a signal
//! (`SIGBUS`), where a write would have returned an error. So a window is given only where that cannot come from a full disk:
//! on file systems that write every byte again where it was written first, and over bytes that were written. That is ext4 (with
//! ext2 and ext3, which share its number) and tmpfs. Not XFS, where a copy that shares its blocks with the file (`cp
//! --reflink`) moves the next write of each of them to a new place. What is left is a disk that cannot be read any more: a page
//! that the system has let go of and cannot read again. The process ends then as it would by `kill -9`, and the next opening
//! names the damage.

use std::fs;
use std::io;
use std::ops::Range;

use memmap2::{MmapOptions, MmapRaw};

use super::{Window, is_inside};

/// Of ext2, ext3 and ext4: `EXT4_SUPER_MAGIC` in Linux's `magic.h`.
const EXT4: i128 = 0xef53;
/// `TMPFS_MAGIC` there.
const TMPFS: i128 = 0x0102_1994;

/// Maps a part of a file. `None` if a store could fail for want of space.
pub(super) fn map(file: &fs::File, from: u64, to: u64) -> io::Result<Option<Box<dyn Window>>> {
    // Its type is another one on each architecture.
    let kind = i128::from(rustix::fs::fstatfs(file)?.f_type);
    let len = to.checked_sub(from).and_then(|len| usize::try_from(len).ok()).filter(|len| *len > 0);
    let Some(len) = len.filter(|_| [EXT4, TMPFS].contains(&kind)) else {
        return Ok(None);
    };
    // Not populated: the first store to a page has to note that it is changed in any case, and takes its neighbours along where
    // they were written as one.
    let map = MmapOptions::new().offset(from).len(len).map_raw(file)?;
    Ok(Some(Box::new(MappedWindow { map, range: from..to })))
}

#[derive(Debug)]
struct MappedWindow {
    map: MmapRaw,
    range: Range<u64>,
}

impl Window for MappedWindow {
    #[inline]
    fn store(&mut self, bytes: &[u8], position: u64) -> io::Result<bool> {
        if !is_inside(&self.range, position, bytes.len()) {
            return Ok(false);
        }
        let at = (position - self.range.start) as usize;
        #[expect(unsafe_code, reason = "the memory of a file is not Rust's own")]
        // SAFETY: `at + bytes.len()` is at most the length of the range, as was just checked, which is the mapping's, and the mapping is writable and lives
        // as long as `self`. No reference to its memory exists anywhere: it is stored to here and nowhere else, one store at a
        // time as `self` is borrowed exclusively, and read by calls of the system only. `bytes` is not in it, as nothing
        // hands out a reference to it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(at), bytes.len());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A file of 10,000 bytes, and a window into it where this machine's file system has any.
    fn mapped(from: u64, to: u64) -> (fs::File, Option<Box<dyn Window>>) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[b'.'; 10_000], 0).unwrap();
        let window = map(&file, from, to).unwrap();
        (file, window)
    }

    fn read(file: &fs::File, position: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, position).unwrap();
        bytes
    }

    #[test]
    fn what_is_stored_is_in_the_file_at_once() {
        let (file, window) = mapped(4990, 9000);
        let Some(mut window) = window else { return };
        assert!(window.store(b"first", 4990).unwrap());
        assert!(window.store(b"last", 8996).unwrap());
        assert_eq!(read(&file, 4989, 7), b".first.");
        assert_eq!(read(&file, 8995, 6), b".last.");
        file.write_all_at(b"F", 4990).unwrap();
        assert!(window.store(b"I", 4991).unwrap());
        assert_eq!(read(&file, 4990, 5), b"FIrst");
        file.sync_data().unwrap();
        drop(window);
        assert_eq!(read(&file, 4990, 5), b"FIrst");
    }

    #[test]
    fn nothing_is_stored_outside_of_the_window() {
        let (file, window) = mapped(100, 200);
        let Some(mut window) = window else { return };
        for (bytes, position) in [(&b"ab"[..], 99), (b"ab", 199), (b"a", 200), (b"a", 0), (b"a", u64::MAX)] {
            assert!(!window.store(bytes, position).unwrap(), "{position}");
        }
        assert!(window.store(b"", 200).unwrap());
        assert!(read(&file, 0, 10_000).iter().all(|byte| *byte == b'.'));
    }

    #[test]
    fn there_is_no_window_of_nothing() {
        assert!(mapped(100, 100).1.is_none());
        assert!(mapped(100, 99).1.is_none());
    }
}
