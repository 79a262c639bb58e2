//! The manifest on the disk: two slots, written in turn, so that a torn write always leaves one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Corruption, Error, Result};
use crate::format::FormatError;
use crate::format::manifest::{MANIFEST_SLOT_BYTES, MANIFEST_SLOT_STRIDE, Manifest};
use crate::planted::{self, Bug};
use crate::storage::files::{read_full_at, replace_file, write_all_at};
use crate::storage::{File, OpenMode, Storage};

/// The name of the file.
pub(crate) const MANIFEST_NAME: &str = "MANIFEST";

/// The open manifest.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    file: Arc<dyn File>,
    current: Manifest,
    /// The slot that holds is on the disk, as far as a sync can tell.
    settled: bool,
}

impl ManifestFile {
    /// Opens the manifest of the log in `root`; `None` if there is none. What is built on it must wait for
    /// [`settle`](Self::settle).
    pub(crate) fn open(storage: &dyn Storage, root: &Path) -> Result<Option<Self>> {
        let path = root.join(MANIFEST_NAME);
        let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
        let file = match storage.open(&path, OpenMode::ReadWrite) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let current = read(&*file, &path)?;
        Ok(Some(Self { file, current, settled: planted::is(Bug::ManifestSlotTrusted) }))
    }

    /// Reads it again, where another process writes it.
    pub(crate) fn reload(&mut self, root: &Path) -> Result<()> {
        self.current = read(&*self.file, &root.join(MANIFEST_NAME))?;
        Ok(())
    }

    /// Writes the manifest of a new log; after a crash it is there whole or not at all.
    pub(crate) fn create(storage: &dyn Storage, root: &Path, manifest: Manifest) -> Result<Self> {
        let failed = |error| Error::io(format!("cannot create {}", root.join(MANIFEST_NAME).display()), error);
        let mut bytes = vec![0; MANIFEST_SLOT_STRIDE as usize * 2];
        let at = (slot(manifest.serial) * MANIFEST_SLOT_STRIDE) as usize;
        bytes[at..at + MANIFEST_SLOT_BYTES].copy_from_slice(&manifest.encode());
        replace_file(storage, root, MANIFEST_NAME, &bytes).map_err(failed)?;
        let file = storage.open(&root.join(MANIFEST_NAME), OpenMode::ReadWrite).map_err(failed)?;
        Ok(Self { file, current: manifest, settled: true })
    }

    /// What the manifest says.
    pub(crate) fn current(&self) -> &Manifest {
        &self.current
    }

    /// Makes the slot that holds durable. It is written once more: a sync of it may have failed, and then the cache shows what
    /// the disk does not have.
    pub(crate) fn settle(&mut self) -> Result<()> {
        if !self.settled {
            let written = self.write(&self.current).and_then(|()| self.file.sync_data());
            written.map_err(|error| Error::io("cannot write the manifest", error))?;
            self.settled = true;
        }
        Ok(())
    }

    /// Changes the manifest and returns once that is durable. After an error the old one holds, and the next change is
    /// written over the failed one: the slot that holds is never touched.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut next = self.current;
        change(&mut next);
        next.serial = self.current.serial + 1;
        if next == (Manifest { serial: next.serial, ..self.current }) {
            return Ok(());
        }
        self.write_next(&next).map_err(|error| Error::io("cannot write the manifest", error))?;
        self.current = next;
        self.settled = true;
        Ok(())
    }

    /// Writes the other slot, and the one that holds along with it if nobody has [settled](Self::settle) it: one sync for both.
    /// Should neither get to the disk, what is there is a state of the log before this opening, in which nothing was done yet.
    fn write_next(&self, next: &Manifest) -> io::Result<()> {
        if !self.settled {
            self.write(&self.current)?;
        }
        let written = self.write(next);
        // After a failed write as well: half of the other slot must not be all that the disk has beside an old one.
        if written.is_ok() || !self.settled {
            self.file.sync_data()?;
        }
        written
    }

    fn write(&self, manifest: &Manifest) -> io::Result<()> {
        write_all_at(&*self.file, &manifest.encode(), slot(manifest.serial) * MANIFEST_SLOT_STRIDE)
    }
}

fn slot(serial: u64) -> u64 {
    if planted::is(Bug::ManifestOneSlot) { 0 } else { serial % 2 }
}

/// The newer of the slots that hold.
fn read(file: &dyn File, path: &Path) -> Result<Manifest> {
    let mut slots = Vec::new();
    let mut why = FormatError::Zeros;
    for slot in 0..2 {
        let mut bytes = [0; MANIFEST_SLOT_BYTES];
        let read = read_full_at(file, &mut bytes, slot * MANIFEST_SLOT_STRIDE)
            .map_err(|error| Error::io(format!("cannot read {}", path.display()), error))?;
        match Manifest::decode(&bytes[..read]) {
            Ok(manifest) => slots.push(manifest),
            // The other slot may be intact, but it is out of date.
            Err(error) if error.is_from_the_future() => {
                return Err(Error::invalid(format!("{}: {error}", path.display())));
            }
            Err(error) if why == FormatError::Zeros => why = error,
            Err(_) => {}
        }
    }
    slots.into_iter().max_by_key(|manifest| manifest.serial).ok_or_else(|| {
        Error::corrupt(
            format!("neither slot of the manifest holds: {why}"),
            Corruption {
                file: MANIFEST_NAME.into(),
                topic: None,
                partition: None,
                position: 0,
                first_offset: None,
                next_offset: None,
            },
        )
    })
}
