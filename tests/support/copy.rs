//! Copies of a log's directory.

use std::path::Path;
use std::{fs, io};

use tempfile::TempDir;

/// What would be left if the process that has the log open were killed now: its files as they are.
pub(crate) fn killed(log: &Path) -> TempDir {
    let manifest = || fs::read(log.join("MANIFEST")).unwrap();
    loop {
        let (copy, before) = (tempfile::tempdir().unwrap(), manifest());
        copy_dir(log, copy.path());
        // A crash leaves all files of one moment. So the checkpoint, and the journal's files, must not be from before what the
        // manifest says of them.
        if manifest() == before {
            return copy;
        }
    }
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_dir(&path, &target);
            continue;
        }
        match fs::copy(&path, &target) {
            // A temporary file of the background's that has got its name meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}
