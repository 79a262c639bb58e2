//! One suite for every [`Storage`]: what holds on the disk holds in memory and in the simulator, or tests there prove
//! nothing.

use std::io::ErrorKind::{
    AlreadyExists, DirectoryNotEmpty, IsADirectory, NotADirectory, NotFound, PermissionDenied, WouldBlock,
};
use std::path::{Path, PathBuf};

use super::*;

/// A storage, and an empty directory in it.
struct Place {
    storage: Arc<dyn Storage>,
    root: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Arc<dyn File> {
        let file = self.storage.open(&self.path(name), OpenMode::CreateNew).unwrap();
        files::write_all_at(&*file, bytes, 0).unwrap();
        file
    }

    fn read(&self, name: &str) -> Vec<u8> {
        files::read_small(&*self.storage, &self.path(name), 1 << 30).unwrap()
    }

    fn open_error(&self, name: &str, mode: OpenMode) -> io::ErrorKind {
        self.storage.open(&self.path(name), mode).unwrap_err().kind()
    }

    fn names(&self, name: &str) -> Vec<String> {
        self.storage.list(&self.path(name)).unwrap().into_iter().map(|entry| entry.name).collect()
    }
}

fn on_disk() -> Place {
    let directory = tempfile::tempdir().unwrap();
    Place { storage: Arc::new(disk::Disk), root: directory.path().to_owned(), _directory: Some(directory) }
}

fn in_memory() -> Place {
    rooted(Arc::new(memory::MemoryDisk::default()))
}

fn in_simulation() -> Place {
    rooted(Arc::new(sim::SimDisk::new(7, sim::SimOptions::default())))
}

fn behind_faults() -> Place {
    rooted(Arc::new(fault::FaultDisk::new(Arc::new(memory::MemoryDisk::default()))))
}

fn rooted(storage: Arc<dyn Storage>) -> Place {
    let root = PathBuf::from("/some/where");
    files::create_dirs(&*storage, &root).unwrap();
    Place { storage, root, _directory: None }
}

/// Runs each function, given a fresh [`Place`], on every storage.
macro_rules! conformance {
    ($($name:ident)*) => {
        mod disk_conforms { $(#[test] fn $name() { super::$name(super::on_disk()); })* }
        mod memory_conforms { $(#[test] fn $name() { super::$name(super::in_memory()); })* }
        mod sim_conforms { $(#[test] fn $name() { super::$name(super::in_simulation()); })* }
        mod fault_conforms { $(#[test] fn $name() { super::$name(super::behind_faults()); })* }
    };
}

conformance! {
    directories_are_created_one_level_at_a_time
    directories_are_removed_when_empty
    listing_is_sorted_and_tells_files_from_directories
    a_file_where_a_directory_has_to_be
    opening_what_is_not_there_and_creating_what_is
    opening_a_directory
    bytes_come_back
    reading_at_and_past_the_end
    writing_past_the_end_leaves_zeros
    writing_nothing_changes_nothing
    cutting_and_growing_leaves_zeros
    overwriting_in_the_middle
    large_writes_at_odd_positions
    a_handle_for_reading_refuses_changes
    two_handles_see_one_file
    a_removed_file_stays_readable
    a_removed_file_and_its_successor_are_two
    renaming_replaces
    renaming_keeps_handles_on_their_file
    renaming_onto_itself_does_nothing
    renaming_into_another_directory
    renaming_a_tree
    renaming_what_cannot_be
    removing_what_cannot_be
    syncing_what_is_there
    locks_exclude
    locks_are_about_files
    small_files_are_replaced_as_one
    trees_are_created_and_removed
    threads_write_side_by_side
}

fn directories_are_created_one_level_at_a_time(place: Place) {
    let storage = &place.storage;
    assert_eq!(storage.create_dir(&place.path("a/b")).unwrap_err().kind(), NotFound);
    storage.create_dir(&place.path("a")).unwrap();
    storage.create_dir(&place.path("a/b")).unwrap();
    assert_eq!(storage.create_dir(&place.path("a/b")).unwrap_err().kind(), AlreadyExists);
    place.create("file", b"");
    assert_eq!(storage.create_dir(&place.path("file")).unwrap_err().kind(), AlreadyExists);
    assert_eq!(place.names("a"), ["b"]);
}

fn directories_are_removed_when_empty(place: Place) {
    let storage = &place.storage;
    storage.create_dir(&place.path("a")).unwrap();
    place.create("a/file", b"");
    assert_eq!(storage.remove_dir(&place.path("a")).unwrap_err().kind(), DirectoryNotEmpty);
    storage.remove_file(&place.path("a/file")).unwrap();
    storage.remove_dir(&place.path("a")).unwrap();
    assert_eq!(storage.list(&place.path("a")).unwrap_err().kind(), NotFound);
    assert_eq!(storage.remove_dir(&place.path("a")).unwrap_err().kind(), NotFound);
}

fn listing_is_sorted_and_tells_files_from_directories(place: Place) {
    assert_eq!(place.storage.list(&place.root).unwrap(), []);
    for name in ["b", "a10", "a9", "B", "00000000000000000002.log", "00000000000000000001.log", "ä"] {
        place.create(name, b"");
    }
    place.storage.create_dir(&place.path("a")).unwrap();
    place.create("a/below", b"");
    let expected = ["00000000000000000001.log", "00000000000000000002.log", "B", "a", "a10", "a9", "b", "ä"];
    let expected = expected
        .map(|name| Entry { name: name.to_owned(), kind: if name == "a" { EntryKind::Dir } else { EntryKind::File } });
    assert_eq!(place.storage.list(&place.root).unwrap(), expected);
}

fn a_file_where_a_directory_has_to_be(place: Place) {
    let storage = &place.storage;
    place.create("file", b"");
    place.create("other", b"");
    let file = place.path("file");
    let below = place.path("file/below");
    assert_eq!(storage.list(&file).unwrap_err().kind(), NotADirectory);
    assert_eq!(storage.sync_dir(&file).unwrap_err().kind(), NotADirectory);
    assert_eq!(storage.remove_dir(&file).unwrap_err().kind(), NotADirectory);
    assert_eq!(storage.create_dir(&below).unwrap_err().kind(), NotADirectory);
    assert_eq!(storage.remove_file(&below).unwrap_err().kind(), NotADirectory);
    assert_eq!(storage.rename(&below, &place.path("x")).unwrap_err().kind(), NotADirectory);
    assert_eq!(storage.rename(&place.path("other"), &below).unwrap_err().kind(), NotADirectory);
    assert_eq!(storage.lock(&below).unwrap_err().kind(), NotADirectory);
    for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::CreateNew] {
        assert_eq!(place.open_error("file/below", mode), NotADirectory);
    }
}

fn opening_what_is_not_there_and_creating_what_is(place: Place) {
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert_eq!(place.open_error("file", mode), NotFound);
    }
    for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::CreateNew] {
        assert_eq!(place.open_error("nowhere/file", mode), NotFound);
    }
    place.create("file", b"kept");
    assert_eq!(place.open_error("file", OpenMode::CreateNew), AlreadyExists);
    assert_eq!(place.read("file"), b"kept");
    place.storage.open(&place.path("file"), OpenMode::ReadWrite).unwrap();
    assert_eq!(place.read("file"), b"kept", "opening does not cut");
}

fn opening_a_directory(place: Place) {
    place.storage.create_dir(&place.path("a")).unwrap();
    assert_eq!(place.open_error("a", OpenMode::Read), IsADirectory);
    assert_eq!(place.open_error("a", OpenMode::ReadWrite), IsADirectory);
    assert_eq!(place.open_error("a", OpenMode::CreateNew), AlreadyExists);
    assert_eq!(place.storage.lock(&place.path("a")).unwrap_err().kind(), IsADirectory);
}

fn bytes_come_back(place: Place) {
    let file = place.create("file", b"hello, log");
    assert_eq!(file.len().unwrap(), 10);
    let mut buf = [0; 5];
    assert_eq!(files::read_full_at(&*file, &mut buf, 5).unwrap(), 5);
    assert_eq!(&buf, b", log");
    file.sync_data().unwrap();
    assert_eq!(place.read("file"), b"hello, log");
}

fn reading_at_and_past_the_end(place: Place) {
    let file = place.create("file", b"0123456789");
    let mut buf = [0xff; 8];
    assert_eq!(files::read_full_at(&*file, &mut buf, 7).unwrap(), 3);
    assert_eq!(&buf[..3], b"789");
    assert_eq!(buf[3..], [0xff; 5], "nothing beyond the answer is touched");
    assert_eq!(file.read_at(&mut buf, 10).unwrap(), 0);
    assert_eq!(file.read_at(&mut buf, 1 << 40).unwrap(), 0);
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
}

fn writing_past_the_end_leaves_zeros(place: Place) {
    let file = place.create("file", b"ab");
    files::write_all_at(&*file, b"z", 200_000).unwrap();
    let mut expected = vec![0; 200_001];
    expected[..2].copy_from_slice(b"ab");
    expected[200_000] = b'z';
    assert!(place.read("file") == expected);
}

fn writing_nothing_changes_nothing(place: Place) {
    let file = place.create("file", b"ab");
    assert_eq!(file.write_at(b"", 100).unwrap(), 0);
    assert_eq!(file.len().unwrap(), 2);
}

fn cutting_and_growing_leaves_zeros(place: Place) {
    let file = place.create("file", &[7; 150_000]);
    file.set_len(70_001).unwrap();
    assert_eq!(file.len().unwrap(), 70_001);
    file.set_len(140_000).unwrap();
    let mut expected = vec![7; 70_001];
    expected.resize(140_000, 0);
    assert!(place.read("file") == expected, "what was cut off does not come back");
    file.set_len(0).unwrap();
    assert_eq!(place.read("file"), b"");
    files::write_all_at(&*file, b"x", 3).unwrap();
    assert_eq!(place.read("file"), b"\0\0\0x");
}

fn overwriting_in_the_middle(place: Place) {
    let file = place.create("file", &[1; 100]);
    files::write_all_at(&*file, &[2; 10], 45).unwrap();
    files::write_all_at(&*file, &[3; 10], 95).unwrap();
    let mut expected = vec![1; 105];
    expected[45..55].fill(2);
    expected[95..].fill(3);
    assert_eq!(place.read("file"), expected);
}

/// Every shape of a write against page borders, checked against a plain vector.
fn large_writes_at_odd_positions(place: Place) {
    let file = place.create("file", b"");
    let mut expected = Vec::new();
    let dice = clock::SeededRandom::new(11);
    for round in 0..60u64 {
        let position = (dice.next_u64() % 200_000) as usize;
        let bytes = vec![round as u8 + 1; (dice.next_u64() % 150_000) as usize];
        files::write_all_at(&*file, &bytes, position as u64).unwrap();
        if expected.len() < position + bytes.len() && !bytes.is_empty() {
            expected.resize(position + bytes.len(), 0);
        }
        expected[position..position + bytes.len()].copy_from_slice(&bytes);
        if round % 7 == 0 {
            let len = (dice.next_u64() % 300_000) as usize;
            file.set_len(len as u64).unwrap();
            expected.resize(len, 0);
        }
        if round % 5 == 0 {
            file.sync_data().unwrap();
        }
        assert!(place.read("file") == expected, "round {round}");
        let from = (dice.next_u64() % 250_000) as usize;
        let mut part = vec![0xff; 10_000];
        let read = files::read_full_at(&*file, &mut part, from as u64).unwrap();
        let there = expected.get(from..).unwrap_or_default();
        assert!(part[..read] == there[..there.len().min(10_000)], "round {round}");
    }
}

fn a_handle_for_reading_refuses_changes(place: Place) {
    place.create("file", b"kept");
    let file = place.storage.open(&place.path("file"), OpenMode::Read).unwrap();
    assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), PermissionDenied);
    assert_eq!(file.set_len(0).unwrap_err().kind(), PermissionDenied);
    assert_eq!(place.read("file"), b"kept");
}

fn two_handles_see_one_file(place: Place) {
    let first = place.create("file", b"one");
    let second = place.storage.open(&place.path("file"), OpenMode::ReadWrite).unwrap();
    files::write_all_at(&*second, b"+two", 3).unwrap();
    let mut buf = [0; 7];
    assert_eq!(files::read_full_at(&*first, &mut buf, 0).unwrap(), 7);
    assert_eq!(&buf, b"one+two");
}

fn a_removed_file_stays_readable(place: Place) {
    let file = place.create("file", b"still here");
    place.storage.remove_file(&place.path("file")).unwrap();
    assert_eq!(place.open_error("file", OpenMode::Read), NotFound);
    assert_eq!(place.names(""), [""; 0]);
    let mut buf = [0; 10];
    assert_eq!(files::read_full_at(&*file, &mut buf, 0).unwrap(), 10);
    assert_eq!(&buf, b"still here");
    files::write_all_at(&*file, b"more", 10).unwrap();
    assert_eq!(file.len().unwrap(), 14);
    file.sync_data().unwrap();
}

fn a_removed_file_and_its_successor_are_two(place: Place) {
    let old = place.create("file", b"old");
    place.storage.remove_file(&place.path("file")).unwrap();
    place.create("file", b"new one");
    assert_eq!(old.len().unwrap(), 3);
    assert_eq!(place.read("file"), b"new one");
}

fn renaming_replaces(place: Place) {
    place.create("new", b"new");
    place.create("old", b"old");
    place.storage.rename(&place.path("new"), &place.path("old")).unwrap();
    assert_eq!(place.read("old"), b"new");
    assert_eq!(place.names(""), ["old"]);
}

fn renaming_keeps_handles_on_their_file(place: Place) {
    let new = place.create("new", b"new");
    let old = place.create("old", b"old");
    place.storage.rename(&place.path("new"), &place.path("old")).unwrap();
    files::write_all_at(&*new, b"er", 3).unwrap();
    files::write_all_at(&*old, b"er", 3).unwrap();
    assert_eq!(place.read("old"), b"newer");
    let mut buf = [0; 5];
    assert_eq!(files::read_full_at(&*old, &mut buf, 0).unwrap(), 5);
    assert_eq!(&buf, b"older");
}

fn renaming_onto_itself_does_nothing(place: Place) {
    place.create("file", b"kept");
    place.storage.rename(&place.path("file"), &place.path("file")).unwrap();
    assert_eq!(place.read("file"), b"kept");
}

fn renaming_into_another_directory(place: Place) {
    place.storage.create_dir(&place.path("a")).unwrap();
    place.create("file", b"kept");
    place.storage.rename(&place.path("file"), &place.path("a/renamed")).unwrap();
    assert_eq!(place.names(""), ["a"]);
    assert_eq!(place.read("a/renamed"), b"kept");
}

fn renaming_a_tree(place: Place) {
    files::create_dirs(&*place.storage, &place.path("a/b")).unwrap();
    let file = place.create("a/b/file", b"kept");
    place.storage.rename(&place.path("a"), &place.path("z")).unwrap();
    assert_eq!(place.names(""), ["z"]);
    assert_eq!(place.read("z/b/file"), b"kept");
    assert_eq!(place.open_error("a/b/file", OpenMode::Read), NotFound);
    files::write_all_at(&*file, b"!", 4).unwrap();
    assert_eq!(place.read("z/b/file"), b"kept!");
}

fn renaming_what_cannot_be(place: Place) {
    let rename = |from, to| place.storage.rename(&place.path(from), &place.path(to)).unwrap_err().kind();
    place.create("file", b"file");
    files::create_dirs(&*place.storage, &place.path("dir/sub")).unwrap();
    files::create_dirs(&*place.storage, &place.path("full/sub")).unwrap();
    assert_eq!(rename("missing", "x"), NotFound);
    assert_eq!(rename("missing", "missing"), NotFound);
    assert_eq!(rename("file", "nowhere/file"), NotFound);
    assert_eq!(rename("file", "dir"), IsADirectory);
    assert_eq!(rename("dir", "file"), NotADirectory);
    assert_eq!(rename("dir", "full"), DirectoryNotEmpty);
    assert_eq!(rename("dir", "dir/sub/x"), io::ErrorKind::InvalidInput);
    assert_eq!(place.names(""), ["dir", "file", "full"]);
    assert_eq!(place.names("dir"), ["sub"]);
    assert_eq!(place.read("file"), b"file");
}

fn removing_what_cannot_be(place: Place) {
    place.storage.create_dir(&place.path("dir")).unwrap();
    assert_eq!(place.storage.remove_file(&place.path("missing")).unwrap_err().kind(), NotFound);
    assert_eq!(place.storage.remove_file(&place.path("nowhere/missing")).unwrap_err().kind(), NotFound);
    assert!(place.storage.remove_file(&place.path("dir")).is_err());
    assert_eq!(place.names(""), ["dir"]);
}

fn syncing_what_is_there(place: Place) {
    let file = place.create("file", b"abc");
    file.sync_data().unwrap();
    place.storage.sync_dir(&place.root).unwrap();
    file.sync_data().unwrap();
    assert_eq!(place.storage.sync_dir(&place.path("missing")).unwrap_err().kind(), NotFound);
    assert_eq!(place.read("file"), b"abc");
}

fn locks_exclude(place: Place) {
    let path = place.path("LOCK");
    let held = place.storage.lock(&path).unwrap();
    assert_eq!(place.storage.lock(&path).unwrap_err().kind(), WouldBlock);
    assert_eq!(place.storage.lock(&path).unwrap_err().kind(), WouldBlock, "a refused lock frees nothing");
    drop(held);
    assert_eq!(place.names(""), ["LOCK"], "the file stays");
    let again = place.storage.lock(&path).unwrap();
    assert_eq!(place.storage.lock(&path).unwrap_err().kind(), WouldBlock);
    drop(again);
    assert_eq!(place.storage.lock(&place.path("nowhere/LOCK")).unwrap_err().kind(), NotFound);
}

/// A lock goes with its file, whatever name that has by now.
fn locks_are_about_files(place: Place) {
    place.create("LOCK", b"content");
    let held = place.storage.lock(&place.path("LOCK")).unwrap();
    place.storage.rename(&place.path("LOCK"), &place.path("MOVED")).unwrap();
    let other = place.storage.lock(&place.path("LOCK")).unwrap();
    assert_eq!(place.storage.lock(&place.path("MOVED")).unwrap_err().kind(), WouldBlock);
    drop(held);
    assert_eq!(place.read("MOVED"), b"content", "locking changes no byte");
    place.storage.lock(&place.path("MOVED")).unwrap();
    assert_eq!(place.storage.lock(&place.path("LOCK")).unwrap_err().kind(), WouldBlock);
    drop(other);
}

fn small_files_are_replaced_as_one(place: Place) {
    for content in [&b"first"[..], b"second, longer", b"3rd"] {
        files::replace_file(&*place.storage, &place.root, "MANIFEST", content).unwrap();
        assert_eq!(place.read("MANIFEST"), content);
        assert_eq!(place.names(""), ["MANIFEST"]);
    }
    place.create("MANIFEST.tmp", b"left by a crash");
    files::replace_file(&*place.storage, &place.root, "MANIFEST", b"fourth").unwrap();
    assert_eq!(place.read("MANIFEST"), b"fourth");
    let refused = files::read_small(&*place.storage, &place.path("MANIFEST"), 5).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
}

fn trees_are_created_and_removed(place: Place) {
    let deep = place.path("a/b/c");
    files::create_dirs(&*place.storage, &deep).unwrap();
    files::create_dirs(&*place.storage, &deep).unwrap();
    place.create("a/b/c/file", b"x");
    place.create("a/file", b"y");
    files::remove_tree(&*place.storage, &place.path("a")).unwrap();
    files::remove_tree(&*place.storage, &place.path("a")).unwrap();
    assert_eq!(place.names(""), [""; 0]);
}

fn threads_write_side_by_side(place: Place) {
    let file = place.create("file", b"");
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let file = &file;
            scope.spawn(move || {
                for block in 0..50u64 {
                    let position = (block * 4 + u64::from(thread)) * 1000;
                    files::write_all_at(&**file, &[thread + 1; 1000], position).unwrap();
                    let mut back = [0; 1000];
                    assert_eq!(files::read_full_at(&**file, &mut back, position).unwrap(), 1000);
                    assert_eq!(back, [thread + 1; 1000]);
                }
            });
        }
    });
    let all = place.read("file");
    assert_eq!(all.len(), 200_000);
    for (at, block) in all.chunks(1000).enumerate() {
        assert!(block.iter().all(|byte| usize::from(*byte) == at % 4 + 1));
    }
}

/// Not one of the suite: only the simulator can lose power between the steps.
#[test]
fn a_directory_that_a_dead_process_created_becomes_durable() {
    let options = sim::SimOptions { loss: sim::Loss::Oldest, ..sim::SimOptions::default() };
    let disk = sim::SimDisk::new(1, options);
    disk.create_dir(Path::new("/log")).unwrap();
    disk.kill();
    files::create_dirs(&disk, Path::new("/log")).unwrap();
    disk.power_loss();
    assert_eq!(disk.list(Path::new("/log")).unwrap(), []);
}
