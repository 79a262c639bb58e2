//! The directories of the run: fresh ones, removed after use, measured and evicted in between.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::contender::Result;

/// Removed with everything in it when dropped.
pub(crate) struct Workspace {
    root: PathBuf,
    made: std::cell::Cell<u32>,
}

impl Workspace {
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        static OPENED: AtomicU32 = AtomicU32::new(0);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let root = parent.join(format!("annals-peers-{}-{number}", std::process::id()));
        fs::create_dir_all(&root)?;
        Ok(Self { root, made: 0.into() })
    }

    /// An empty directory that no contender has seen.
    pub(crate) fn fresh(&self) -> Result<PathBuf> {
        self.made.set(self.made.get() + 1);
        let dir = self.root.join(format!("{:04}", self.made.get()));
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Removes a directory, which also drops its dirty pages, and waits until the file system's journal and the
    /// device have digested that, so that the next workload does not pay for it.
    pub(crate) fn remove(&self, dir: &Path) -> Result<()> {
        fs::remove_dir_all(dir)?;
        File::open(&self.root)?.sync_all()?;
        Ok(())
    }

    /// Writes and removes a file of that size. A virtual machine returns memory that was freed seconds ago to its
    /// host; having it back costs ten times the copy into it. Without this, whoever comes first after a pause pays
    /// for it, and every other figure is a matter of luck.
    pub(crate) fn warm_memory(&self, bytes: u64) -> Result<()> {
        let path = self.root.join("memory");
        let mut file = File::create(&path)?;
        let chunk = vec![7; 256 << 10];
        for _ in 0..bytes.div_ceil(chunk.len() as u64) {
            file.write_all(&chunk)?;
        }
        // Gone before it is written out.
        fs::remove_file(path)?;
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Nothing is left to do about a directory that cannot be removed but to leave it.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Writes every dirty page of a log out, so that a read or an open that is timed next has the disk to itself.
pub(crate) fn sync(dir: &Path) -> Result<()> {
    for_each_file(dir, &mut |path, _| File::open(path)?.sync_all())
}

/// Drops a synced log's pages from the page cache. Needs no privilege, and leaves the rest of the cache alone.
/// Pages that someone maps stay.
pub(crate) fn evict(dir: &Path) -> Result<()> {
    for_each_file(dir, &mut |path, _| {
        let file = File::open(path)?;
        Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
    })
}

/// Bytes that a log's files occupy, preallocated ones included.
pub(crate) fn allocated_bytes(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for_each_file(dir, &mut |_, metadata| {
        total += metadata.blocks() * 512;
        Ok(())
    })?;
    Ok(total)
}

fn for_each_file(dir: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata();
        if metadata.as_ref().is_ok_and(fs::Metadata::is_dir) {
            for_each_file(&entry.path(), visit)?;
            continue;
        }
        match metadata.and_then(|metadata| visit(&entry.path(), &metadata)) {
            // A store's background work may remove a file meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}
