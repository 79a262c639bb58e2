//! The simulator is what the engine's promises are measured with: these tests measure the simulator.

use std::collections::BTreeSet;
use std::io::ErrorKind::{NotFound, StorageFull, WouldBlock};
use std::path::PathBuf;

use super::super::{File, files};
use super::dice::Dice;
use super::*;

/// No writing back behind the test's back.
fn options(loss: Loss) -> SimOptions {
    SimOptions { loss, writeback_one_in: 0, capacity: None }
}

fn disk(seed: u64, loss: Loss) -> SimDisk {
    SimDisk::new(seed, options(loss))
}

fn create(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(Path::new(path), OpenMode::CreateNew).unwrap();
    files::write_all_at(&*file, bytes, 0).unwrap();
    file
}

/// A file that a power loss cannot touch.
fn create_durable(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = create(disk, path, bytes);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(path).parent().unwrap()).unwrap();
    assert!(disk.is_settled(path));
    file
}

fn is_off<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::Other && error.to_string() == "the power is off")
}

/// The state that a fresh disk is in for a seed after `run` and a power loss, for many seeds.
fn outcomes<T: Ord>(run: impl Fn(&SimDisk), look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..400)
        .map(|seed| {
            let disk = disk(seed, Loss::Seeded);
            run(&disk);
            disk.power_loss();
            look(&disk)
        })
        .collect()
}

#[test]
fn what_was_synced_survives_and_what_was_not_may_not() {
    for (loss, expected) in [(Loss::Oldest, &b"durable"[..]), (Loss::Newest, b"Durable, and more")] {
        let disk = disk(1, loss);
        let file = create_durable(&disk, "/f", b"durable");
        files::write_all_at(&*file, b"D", 0).unwrap();
        files::write_all_at(&*file, b", and more", 7).unwrap();
        assert!(!disk.is_settled("/f"));
        assert_eq!(disk.read_file("/f"), b"Durable, and more");
        disk.power_loss();
        assert_eq!(disk.read_file("/f"), expected);
        assert!(disk.is_settled("/f"));
    }
    let all = outcomes(|disk| drop(create_durable(disk, "/f", &[7; 20_000])), |disk| disk.read_file("/f"));
    assert_eq!(all, [vec![7; 20_000]].into());
}

#[test]
fn a_name_is_durable_only_after_its_directory_is_synced() {
    let disk = disk(1, Loss::Oldest);
    create(&disk, "/f", b"content").sync_data().unwrap();
    disk.power_loss();
    assert_eq!(disk.paths(), [""; 0]);

    create(&disk, "/f", b"content");
    disk.sync_dir(Path::new("/")).unwrap();
    disk.power_loss();
    assert_eq!(disk.read_file("/f"), b"", "the name is not the content");

    // A synced directory in a parent that was not synced goes with all that is in it.
    disk.create_dir(Path::new("/d")).unwrap();
    create(&disk, "/d/f", b"content").sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.power_loss();
    assert_eq!(disk.paths(), ["/f"]);
}

#[test]
fn removals_come_back() {
    let disk = disk(1, Loss::Oldest);
    create_durable(&disk, "/f", b"content");
    disk.create_dir(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.remove_file(Path::new("/f")).unwrap();
    disk.remove_dir(Path::new("/d")).unwrap();
    assert_eq!(disk.list(Path::new("/")).unwrap(), []);
    disk.power_loss();
    assert_eq!(disk.read_file("/f"), b"content");
    assert_eq!(disk.list(Path::new("/d")).unwrap(), []);
    disk.remove_file(Path::new("/f")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.power_loss();
    assert_eq!(disk.paths(), [""; 0]);
}

/// Every sector of an overwritten page is old or new, and over the seeds every mixture of three sectors comes up.
#[test]
fn pages_tear_at_sectors() {
    let all = outcomes(
        |disk| {
            let file = create_durable(disk, "/f", &[1; 8192]);
            files::write_all_at(&*file, &[2; 8192], 0).unwrap();
        },
        |disk| {
            let bytes = disk.read_file("/f");
            assert_eq!(bytes.len(), 8192);
            bytes
                .chunks(512)
                .map(|sector| {
                    assert!(sector.iter().all(|byte| *byte == sector[0] && [1, 2].contains(byte)));
                    sector[0]
                })
                .collect::<Vec<_>>()
        },
    );
    assert!(all.contains(&vec![1; 16]) && all.contains(&vec![2; 16]));
    let first_three: BTreeSet<_> = all.iter().map(|sectors| sectors[..3].to_vec()).collect();
    assert_eq!(first_three.len(), 8);
    assert!(all.iter().any(|sectors| sectors[..8] == [1; 8] && sectors[8..] == [2; 8]), "out of order");
}

#[test]
fn the_length_is_old_new_or_between() {
    let lengths = outcomes(
        |disk| {
            let file = create_durable(disk, "/f", &[1; 100]);
            files::write_all_at(&*file, &[2; 9900], 100).unwrap();
        },
        |disk| {
            let bytes = disk.read_file("/f");
            assert_eq!(bytes[..100], [1; 100]);
            assert!(bytes[100..].iter().all(|byte| [0, 2].contains(byte)));
            bytes.len()
        },
    );
    assert!(lengths.iter().all(|len| (100..=10_000).contains(len)));
    assert!(lengths.contains(&100) && lengths.contains(&10_000) && lengths.len() > 50);

    let cut = outcomes(
        |disk| create_durable(disk, "/f", &[1; 10_000]).set_len(100).unwrap(),
        |disk| disk.read_file("/f").len(),
    );
    assert_eq!(cut, [100, 10_000].into());
}

#[test]
fn nothing_comes_back_from_beyond_a_synced_cut() {
    let all = outcomes(
        |disk| {
            let file = create_durable(disk, "/f", &[1; 10_000]);
            file.set_len(100).unwrap();
            file.sync_data().unwrap();
            file.set_len(10_000).unwrap();
        },
        |disk| disk.read_file("/f")[100..].iter().all(|byte| *byte == 0),
    );
    assert_eq!(all, [true].into());
}

#[test]
fn the_kernel_may_have_written_what_was_overwritten_since() {
    let written = |writeback_one_in| {
        let all = (0..400).map(|seed| {
            let disk = SimDisk::new(seed, SimOptions { writeback_one_in, ..options(Loss::Oldest) });
            let file = create_durable(&disk, "/f", &[0; 512]);
            for version in 1..5 {
                files::write_all_at(&*file, &[version; 512], 0).unwrap();
            }
            disk.power_loss();
            disk.read_file("/f")[0]
        });
        all.collect::<BTreeSet<_>>()
    };
    assert_eq!(written(0), [0].into());
    assert_eq!(written(3), [0, 1, 2, 3, 4].into());
}

#[test]
fn a_rename_is_kept_or_lost_as_one() {
    let names = outcomes(
        |disk| {
            create_durable(disk, "/old", b"one");
            disk.rename(Path::new("/old"), Path::new("/new")).unwrap();
        },
        |disk| disk.paths(),
    );
    assert_eq!(names, [vec!["/new".to_owned()], vec!["/old".to_owned()]].into());

    let contents = outcomes(
        |disk| {
            create_durable(disk, "/m", b"old");
            create(disk, "/m.tmp", b"new").sync_data().unwrap();
            disk.rename(Path::new("/m.tmp"), Path::new("/m")).unwrap();
        },
        |disk| disk.read_file("/m"),
    );
    assert_eq!(contents, [b"old".to_vec(), b"new".to_vec()].into());

    let unsynced = outcomes(
        |disk| {
            create_durable(disk, "/m", b"old");
            create(disk, "/m.tmp", b"new");
            disk.rename(Path::new("/m.tmp"), Path::new("/m")).unwrap();
        },
        |disk| disk.read_file("/m"),
    );
    assert!(unsynced.contains(&b""[..]) && unsynced.contains(&b"\0\0\0"[..]), "a rename makes no bytes durable");
}

/// Between directories, too, and without a lost or a doubled file whichever directory is synced.
#[test]
fn a_rename_between_directories_is_one() {
    for synced in [None, Some("/a"), Some("/b")] {
        let names = outcomes(
            |disk| {
                files::create_dirs(disk, Path::new("/a")).unwrap();
                files::create_dirs(disk, Path::new("/b")).unwrap();
                create_durable(disk, "/a/f", b"one");
                create(disk, "/b/other", b"");
                disk.rename(Path::new("/a/f"), Path::new("/b/f")).unwrap();
                if let Some(dir) = synced {
                    disk.sync_dir(Path::new(dir)).unwrap();
                }
            },
            |disk| {
                let mut paths = disk.paths();
                paths.retain(|path| path != "/b/other");
                assert_eq!(paths.len(), 1);
                assert_eq!(disk.read_file(&paths[0]), b"one");
                paths.remove(0)
            },
        );
        let expected: &[&str] = if synced.is_some() { &["/b/f"] } else { &["/a/f", "/b/f"] };
        assert!(names.iter().eq(expected), "{names:?} after {synced:?}");
    }
}

/// A sync of one directory takes along what its names depend on in another.
#[test]
fn a_synced_rename_takes_the_creation_along() {
    for synced in ["/a", "/b"] {
        let names = outcomes(
            |disk| {
                files::create_dirs(disk, Path::new("/a")).unwrap();
                files::create_dirs(disk, Path::new("/b")).unwrap();
                create(disk, "/a/f", b"");
                disk.rename(Path::new("/a/f"), Path::new("/b/f")).unwrap();
                disk.sync_dir(Path::new(synced)).unwrap();
            },
            |disk| disk.paths().concat(),
        );
        assert_eq!(names, ["/b/f".to_owned()].into());
    }
}

#[test]
fn directory_changes_are_lost_kept_in_order_or_each_by_itself() {
    let names = outcomes(
        |disk| ["/a", "/b", "/c", "/d"].iter().for_each(|path| drop(create(disk, path, b""))),
        |disk| disk.paths().concat(),
    );
    for expected in ["", "/a", "/a/b", "/a/b/c", "/a/b/c/d", "/d", "/b/d"] {
        assert!(names.contains(expected), "{expected} of {names:?}");
    }
}

/// What builds on a lost change is lost with it, so that a file that was durable has a name in every outcome.
#[test]
fn a_durable_file_is_not_lost_between_names() {
    outcomes(
        |disk| {
            create_durable(disk, "/1", b"precious");
            disk.rename(Path::new("/1"), Path::new("/2")).unwrap();
            create(disk, "/1", b"another");
            disk.rename(Path::new("/2"), Path::new("/3")).unwrap();
            disk.rename(Path::new("/1"), Path::new("/2")).unwrap();
        },
        |disk| {
            let found = disk.paths().iter().filter(|path| disk.read_file(path) == b"precious").count();
            assert_eq!(found, 1);
        },
    );
}

#[test]
fn the_dead_stay_dead() {
    for kill in [true, false] {
        let disk = disk(1, Loss::Newest);
        let mount = disk.mount();
        let file = create(&disk, "/f", b"x");
        let lock = mount.lock(Path::new("/LOCK")).unwrap();
        assert_eq!(disk.lock(Path::new("/LOCK")).unwrap_err().kind(), WouldBlock);
        if kill {
            disk.kill()
        } else {
            disk.power_loss()
        }

        let calls = disk.calls();
        assert!(is_off(file.read_at(&mut [0], 0)) && is_off(file.write_at(b"y", 0)) && is_off(file.len()));
        assert!(is_off(file.set_len(0)) && is_off(file.sync_data()));
        assert!(is_off(mount.list(Path::new("/"))) && is_off(mount.open(Path::new("/f"), OpenMode::Read)));
        assert!(is_off(mount.remove_file(Path::new("/f"))) && is_off(mount.lock(Path::new("/LOCK"))));
        assert_eq!(disk.calls(), calls);
        assert_eq!(disk.read_file("/f"), b"x");

        let next = disk.mount().lock(Path::new("/LOCK")).unwrap();
        drop(lock);
        assert_eq!(disk.lock(Path::new("/LOCK")).unwrap_err().kind(), WouldBlock, "the dead release nothing");
        drop(next);
        disk.lock(Path::new("/LOCK")).unwrap();
    }
}

#[test]
fn a_killed_process_leaves_everything_and_makes_nothing_durable() {
    let disk = disk(1, Loss::Oldest);
    let file = create_durable(&disk, "/f", b"old");
    files::write_all_at(&*file, b"new", 0).unwrap();
    create(&disk, "/g", b"");
    disk.kill();
    assert_eq!(disk.paths(), ["/f", "/g"]);
    assert_eq!(disk.read_file("/f"), b"new");
    disk.power_loss();
    assert_eq!(disk.paths(), ["/f"]);
    assert_eq!(disk.read_file("/f"), b"old");
}

#[test]
fn a_sync_after_a_failed_one_succeeds_and_lies() {
    let disk = disk(1, Loss::Newest);
    let file = create_durable(&disk, "/f", b"old");
    files::write_all_at(&*file, b"new", 0).unwrap();
    disk.fail_at(0, SimFault::FsyncDrop);
    file.sync_data().unwrap_err();
    assert_eq!(disk.read_file("/f"), b"new");
    file.sync_data().unwrap();
    assert!(!disk.is_settled("/f"));
    let forked = disk.fork(2);
    disk.power_loss();
    assert_eq!(disk.read_file("/f"), b"old");

    // Rewriting makes the page dirty again, and then a sync is worth what it says.
    let file = forked.open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
    files::write_all_at(&*file, b"N", 0).unwrap();
    file.sync_data().unwrap();
    forked.power_loss();
    assert_eq!(forked.read_file("/f"), b"New");
}

#[test]
fn a_failed_sync_may_have_written_some_pages_and_never_all() {
    let written = outcomes(
        |disk| {
            let file = create_durable(disk, "/f", &[0; 3 * 4096]);
            files::write_all_at(&*file, &[1; 3 * 4096], 0).unwrap();
            disk.fail_at(0, SimFault::FsyncDrop);
            file.sync_data().unwrap_err();
            file.sync_data().unwrap();
        },
        |disk| disk.read_file("/f").chunks(4096).map(|page| page[0]).collect::<Vec<_>>(),
    );
    assert_eq!(written.len(), 7, "{written:?}");
    assert!(!written.contains(&vec![1; 3]));
}

#[test]
fn a_page_that_was_not_written_may_leave_the_cache_with_its_process() {
    let seen: BTreeSet<_> = (0..50)
        .map(|seed| {
            let disk = disk(seed, Loss::Seeded);
            let file = create_durable(&disk, "/f", b"old");
            files::write_all_at(&*file, b"new and longer", 0).unwrap();
            disk.fail_at(0, SimFault::FsyncDrop);
            file.sync_data().unwrap_err();
            disk.kill();
            disk.read_file("/f")
        })
        .collect();
    assert_eq!(seen, [b"new and longer".to_vec(), b"old\0\0\0\0\0\0\0\0\0\0\0".to_vec()].into());
}

/// The disk has bytes past a length that was cut; a page that went back to them must not show them when the file grows,
/// and must not be taken for one that is the same in both images.
#[test]
fn a_page_that_left_the_cache_hides_what_was_cut_off() {
    for seed in 0..50 {
        let disk = disk(seed, Loss::Oldest);
        let file = create_durable(&disk, "/f", &[1; 4000]);
        file.set_len(10).unwrap();
        disk.fail_at(0, SimFault::FsyncDrop);
        file.sync_data().unwrap_err();
        disk.kill();
        let file = disk.open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
        files::write_all_at(&*file, b"x", 5000).unwrap();
        let mut expected = vec![1; 10];
        expected.resize(5000, 0);
        assert_eq!(disk.read_file("/f")[..5000], expected);
        assert!(!disk.is_settled("/f"));
        disk.power_loss();
        assert!(disk.is_settled("/f"));
    }
}

/// Other failed syncs leave the pages dirty: the next one is worth what it says.
#[test]
fn a_sync_that_failed_early_can_be_repeated() {
    let disk = disk(1, Loss::Oldest);
    let file = create_durable(&disk, "/f", b"old");
    files::write_all_at(&*file, b"new", 0).unwrap();
    disk.fail_at(0, SimFault::Eio);
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    disk.power_loss();
    assert_eq!(disk.read_file("/f"), b"new");
}

#[test]
fn faults_come_on_schedule() {
    let disk = disk(1, Loss::Seeded);
    let file = create(&disk, "/f", b"0123456789");
    assert_eq!(disk.calls(), 2);
    disk.fail_at(3, SimFault::Eio);
    disk.fail_at(3, SimFault::ShortWrite);
    file.sync_data().unwrap();
    file.len().unwrap();
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(file.write_at(b"abcde", 0).unwrap(), 3, "the fault waited for a write");
    assert_eq!(file.write_at(b"abcde", 0).unwrap(), 5);
    assert_eq!(disk.faults_hit(), 2);

    disk.fail_from(disk.calls(), SimFault::Enospc);
    assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), StorageFull);
    assert_eq!(disk.create_dir(Path::new("/d")).unwrap_err().kind(), StorageFull);
    assert_eq!(disk.open(Path::new("/g"), OpenMode::CreateNew).unwrap_err().kind(), StorageFull);
    file.read_at(&mut [0], 0).unwrap();
    disk.remove_file(Path::new("/f")).unwrap();
    disk.clear_faults();
    disk.create_dir(Path::new("/d")).unwrap();

    disk.fail_from(0, SimFault::ShortWrite);
    files::write_all_at(&*file, b"in steps", 0).unwrap();
    let mut buf = [0; 8];
    files::read_full_at(&*file, &mut buf, 0).unwrap();
    assert_eq!(&buf, b"in steps");
}

#[test]
fn a_misdirected_write_lands_a_page_off() {
    let seen: BTreeSet<_> = (0..20)
        .map(|seed| {
            let disk = disk(seed, Loss::Seeded);
            let file = create(&disk, "/f", &[0; 3 * 4096]);
            disk.fail_at(0, SimFault::Misdirect);
            assert_eq!(file.write_at(b"x", 5000).unwrap(), 1);
            disk.read_file("/f").iter().position(|byte| *byte == b'x')
        })
        .collect();
    assert_eq!(seen, [Some(5000 - 4096), Some(5000 + 4096)].into());
}

#[test]
fn a_full_disk_takes_what_fits_and_everything_once_there_is_room() {
    for seed in 0..20 {
        let disk = disk(seed, Loss::Seeded);
        let kept = create(&disk, "/kept", &[1; 4096]);
        disk.set_capacity(Some(4 * 4096));
        let file = create(&disk, "/f", b"start");
        assert_eq!(disk.used(), 2 * 4096);
        let error = files::write_all_at(&*file, &[2; 20_000], 5).unwrap_err();
        assert_eq!(error.kind(), StorageFull);
        assert!(file.len().unwrap() == 5 || file.len().unwrap() == 3 * 4096);
        files::write_all_at(&*kept, &[3; 4096], 0).unwrap();
        file.sync_data().unwrap();

        file.set_len(5).unwrap();
        assert_eq!(disk.used(), 2 * 4096);
        files::write_all_at(&*file, &[2; 4091], 5).unwrap();
        disk.remove_file(Path::new("/kept")).unwrap();
        files::write_all_at(&*file, &[2; 8192], 4096).unwrap();
        assert_eq!(disk.used(), 3 * 4096);
        file.set_len(100_000).unwrap();
        assert_eq!(disk.used(), 3 * 4096, "a hole takes no room");
        disk.kill();
        assert_eq!(disk.used(), 3 * 4096);
    }
}

#[test]
fn the_machine_stops_at_a_call() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let disk = disk(seed, Loss::Newest);
        let file = create_durable(&disk, "/f", b"");
        disk.crash_at(disk.calls() + 1);
        files::write_all_at(&*file, b"whole", 0).unwrap();
        assert!(!disk.is_off());
        assert!(is_off(file.write_at(b"0123456789", 5)));
        assert!(disk.is_off());
        assert!(is_off(file.len()) && is_off(file.sync_data()) && is_off(disk.list(Path::new("/"))));
        disk.kill();
        assert!(!disk.is_off());
        let bytes = disk.read_file("/f");
        assert!(b"whole0123456789".starts_with(&bytes[..]) && bytes.starts_with(b"whole"));
        lengths.insert(bytes.len());
    }
    assert!(lengths.contains(&5) && lengths.contains(&15) && lengths.len() > 4);

    let mut created = BTreeSet::new();
    let mut synced = BTreeSet::new();
    for seed in 0..50 {
        let disk = disk(seed, Loss::Oldest);
        disk.crash_at(0);
        assert!(is_off(disk.create_dir(Path::new("/d"))));
        disk.kill();
        created.insert(disk.list(Path::new("/d")).is_ok());
        files::create_dirs(&disk, Path::new("/d")).unwrap();
        let file = create_durable(&disk, "/f", b"");
        files::write_all_at(&*file, &[1; 8192], 0).unwrap();
        disk.crash_at(disk.calls());
        assert!(is_off(file.sync_data()));
        disk.power_loss();
        synced.insert(disk.read_file("/f").iter().map(|byte| usize::from(*byte)).sum::<usize>());
    }
    assert_eq!(created, [true, false].into());
    assert_eq!(synced, [0, 4096, 8192].into());
}

#[test]
fn a_fork_goes_its_own_way() {
    let disk = disk(1, Loss::Seeded);
    let file = create_durable(&disk, "/f", &[1; 8192]);
    files::write_all_at(&*file, &[2; 8192], 0).unwrap();
    let before = disk.fingerprint();
    let ends: BTreeSet<_> = (0..50)
        .map(|seed| {
            let fork = disk.fork(seed);
            assert_eq!(fork.fingerprint(), before);
            fork.power_loss();
            let end = fork.fingerprint();
            let again = disk.fork(seed);
            again.power_loss();
            assert_eq!(again.fingerprint(), end);
            end
        })
        .collect();
    assert!(ends.len() > 10);
    assert_eq!(disk.fingerprint(), before);
    file.sync_data().unwrap();
    assert_ne!(disk.fingerprint(), before);
}

#[test]
fn damage_at_rest_is_in_both_images() {
    let disk = disk(1, Loss::Oldest);
    let file = create_durable(&disk, "/f", &[0; 5000]);
    disk.flip_bit("/f", 4999, 3);
    files::write_all_at(&*file, &[1], 0).unwrap();
    disk.flip_bit("/f", 1, 0);
    assert_eq!(disk.read_file("/f")[..2], [1, 1]);
    disk.power_loss();
    let bytes = disk.read_file("/f");
    assert_eq!((bytes[0], bytes[1], bytes[4999]), (0, 1, 8));

    disk.truncate("/f", 10);
    disk.write_file("/g", b"planted");
    disk.power_loss();
    assert_eq!(disk.read_file("/f"), [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(disk.read_file("/g"), b"planted");
    assert_eq!(disk.paths(), ["/f", "/g"]);
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed, extra: bool| {
        let disk = SimDisk::new(seed, SimOptions::default());
        random_run(&disk, &Dice::new(seed), 60, &mut |_, _| {});
        if extra {
            disk.list(Path::new("/")).unwrap();
        }
        disk.power_loss();
        (disk.trace_hash(), disk.fingerprint(), disk.calls())
    };
    let mut traces = BTreeSet::new();
    for seed in 0..50 {
        let (trace, fingerprint, calls) = run(seed, false);
        assert_eq!((trace, fingerprint, calls), run(seed, false));
        assert_ne!(trace, run(seed, true).0);
        traces.insert(trace);
    }
    assert_eq!(traces.len(), 50);
}

/// What a test knows of a file: for each byte the values below 64 that it may have after a power loss, a bit for each.
#[derive(Default)]
struct Known {
    live: Vec<u8>,
    possible: Vec<u64>,
    shortest: usize,
    longest: usize,
}

impl Known {
    fn note(&mut self) {
        self.longest = self.longest.max(self.live.len());
        self.shortest = self.shortest.min(self.live.len());
        if self.possible.len() < self.live.len() {
            self.possible.resize(self.live.len(), 1);
        }
        for (at, possible) in self.possible.iter_mut().enumerate() {
            *possible |= 1 << self.live.get(at).copied().unwrap_or(0);
        }
    }

    fn settle(&mut self) {
        self.possible = self.live.iter().map(|byte| 1 << byte).collect();
        (self.shortest, self.longest) = (self.live.len(), self.live.len());
    }

    fn check(&self, found: &[u8]) {
        assert!((self.shortest..=self.longest).contains(&found.len()));
        for (at, byte) in found.iter().enumerate() {
            assert!(self.possible[at] >> byte & 1 == 1, "byte {at} is {byte}");
        }
    }
}

/// Writes, cuts and syncs one file at random; `check` is told of its path and of what may be in it at every step.
fn random_run(disk: &SimDisk, dice: &Dice, steps: u64, check: &mut impl FnMut(&str, &Known)) {
    let file = create_durable(disk, "/f", b"");
    let mut known = Known::default();
    for step in 0..steps {
        match dice.below(8) {
            0..5 => {
                let at = dice.below(known.live.len() as u64 + 3000) as usize;
                let bytes = vec![step as u8 + 1; dice.below(6000) as usize + 1];
                files::write_all_at(&*file, &bytes, at as u64).unwrap();
                known.live.resize(known.live.len().max(at + bytes.len()), 0);
                known.live[at..at + bytes.len()].copy_from_slice(&bytes);
                known.note();
            }
            5 => {
                let len = dice.below(known.live.len() as u64 + 5000) as usize;
                file.set_len(len as u64).unwrap();
                known.live.resize(len, 0);
                known.note();
            }
            6 => {
                file.sync_data().unwrap();
                known.settle();
            }
            _ => check("/f", &known),
        }
    }
}

/// Nothing of what lay past the length shows when the file grows.
fn check_growth(disk: &SimDisk, path: &str) {
    let before = disk.read_file(path).len();
    disk.open(Path::new(path), OpenMode::ReadWrite).unwrap().set_len(before as u64 + 5000).unwrap();
    assert!(disk.read_file(path)[before..].iter().all(|byte| *byte == 0));
}

/// The model above in one property: whatever a power loss leaves, each byte was there since the last sync, and looking
/// again changes nothing.
#[test]
fn a_power_loss_invents_nothing() {
    for seed in 0..150 {
        let disk = SimDisk::new(seed, SimOptions { writeback_one_in: seed % 5, ..SimOptions::default() });
        random_run(&disk, &Dice::new(!seed), 60, &mut |path, known| {
            assert!(disk.read_file(path) == known.live);
            for crash in 0..4 {
                let fork = disk.fork(seed * 4 + crash);
                if crash == 0 {
                    fork.kill();
                    assert!(fork.read_file(path) == known.live);
                }
                fork.power_loss();
                known.check(&fork.read_file(path));
                let settled = fork.fingerprint();
                assert!(fork.is_settled(path));
                fork.power_loss();
                assert_eq!(fork.fingerprint(), settled);
                check_growth(&fork, path);
            }
        });
    }
}

/// The same with failing syncs: each byte is one that was there since the beginning, and the images stay consistent.
#[test]
fn failing_syncs_keep_the_images_consistent() {
    for seed in 0..300 {
        let disk = SimDisk::new(seed, SimOptions::default());
        let dice = Dice::new(!seed);
        let file = create_durable(&disk, "/f", b"");
        for step in 0..40 {
            match dice.below(6) {
                0..2 => drop(file.write_at(&vec![step + 1; dice.below(9000) as usize], dice.below(20_000))),
                2 => file.set_len(dice.below(25_000)).unwrap(),
                3 => file.sync_data().unwrap(),
                4 => {
                    disk.fail_at(disk.calls(), SimFault::FsyncDrop);
                    file.sync_data().unwrap_err();
                }
                _ => {
                    let fork = disk.fork(seed);
                    fork.kill();
                    fork.kill();
                    let reopened = fork.open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
                    reopened.write_at(&vec![99; dice.below(9000) as usize], dice.below(20_000)).unwrap();
                    fork.power_loss();
                    assert!(fork.is_settled("/f"));
                    let (settled, used) = (fork.fingerprint(), fork.used());
                    fork.power_loss();
                    assert_eq!((fork.fingerprint(), fork.used()), (settled, used));
                }
            }
        }
    }
}

/// Files without a name go once nobody has them open, or a long run would keep every segment it ever had.
#[test]
fn removed_files_are_forgotten() {
    let disk = disk(1, Loss::Seeded);
    let kept = create_durable(&disk, "/kept", b"open");
    disk.remove_file(Path::new("/kept")).unwrap();
    for number in 0..1000 {
        let path = PathBuf::from(format!("/{number}"));
        create(&disk, path.to_str().unwrap(), &[1; 5000]).sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.remove_file(&path).unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    assert!(disk.state().tree().size() < 200);
    assert_eq!(disk.used(), 0);
    let mut buf = [0; 4];
    assert_eq!(kept.read_at(&mut buf, 0).unwrap(), 4);
    assert_eq!(&buf, b"open");
    assert_eq!(disk.open(Path::new("/kept"), OpenMode::Read).unwrap_err().kind(), NotFound);
}
