//! What a view goes through: everything that can happen to its files, and what the log makes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dedup::{DedupView, Meta, SavedEntry};
use crate::error::ErrorKind;
use crate::storage::Env;
use crate::storage::clock::{SystemClock, SystemRandom};
use crate::storage::disk::Disk;
use crate::{Log, Raw, Record, Topic, TopicDef, TopicSettings};

mod index;
mod snapshots;
mod state;

const WHOSE: (u128, u32) = (7, 3);

fn env() -> Env {
    Env::new(Arc::new(Disk), Arc::new(SystemClock), Arc::new(SystemRandom), 64)
}

fn entry(offset: u64) -> SavedEntry {
    let at = offset as i64;
    SavedEntry {
        offset,
        commit: offset + 100,
        time: at,
        timestamp: -at,
        id: format!("id {offset}").into_bytes().into(),
    }
}

fn meta(position: u64) -> Meta {
    Meta { position, commit: position + 99, time: 5, count_max: 10, age_max: 20, ..Meta::default() }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_saved_is_loaded_and_what_is_too_old_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
    assert_eq!(view.load(WHOSE).unwrap(), None);
    let entries: Vec<_> = (0..2500).map(entry).collect();
    view.save(WHOSE, meta(2500), &entries, 0, true).unwrap();
    view.save((7, 4), meta(1), &entries[..1], 0, true).unwrap();
    view.flush().unwrap();
    drop(view);
    let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
    let saved = view.load(WHOSE).unwrap().unwrap();
    assert_eq!(saved.entries, entries);
    assert_eq!(Meta { count: 0, sum: 0, ..saved.meta }, meta(2500));
    let more: Vec<_> = (2600..2700).map(entry).collect();
    view.save(WHOSE, meta(2700), &more, 2400, false).unwrap();
    let saved = view.load(WHOSE).unwrap().unwrap();
    assert_eq!(saved.entries, [&entries[2400..], &more[..]].concat());
    assert_eq!(Meta { count: 0, sum: 0, ..saved.meta }, meta(2700));
    view.save(WHOSE, meta(3), &entries[1..3], 1, true).unwrap();
    assert_eq!(view.load(WHOSE).unwrap().unwrap().entries, entries[1..3]);
    assert_eq!(view.load((7, 4)).unwrap().unwrap().entries, entries[..1], "of another partition");
    assert_eq!(view.load((8, 3)).unwrap(), None);
    assert_eq!(names(&dir.path().join("views")), ["dedup"]);
}

#[test]
fn what_deleted_topics_have_left_is_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
    let entries: Vec<_> = (0..5).map(entry).collect();
    for whose in [(1, 0), (1, 1), (2, 0)] {
        view.save(whose, meta(5), &entries, 0, true).unwrap();
    }
    view.retain(|whose| whose == (1, 1)).unwrap();
    assert_eq!(view.load((1, 0)).unwrap(), None);
    assert_eq!(view.load((2, 0)).unwrap(), None);
    assert_eq!(view.load((1, 1)).unwrap().unwrap().entries, entries);
}

#[test]
fn a_view_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
    view.save(WHOSE, meta(1), &[entry(0)], 0, true).unwrap();
    assert_eq!(DedupView::open(&env(), dir.path(), 1).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(names(&dir.path().join("views")), ["dedup"]);
    assert!(view.load(WHOSE).unwrap().is_some());
}

#[test]
fn the_view_of_another_log_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    for log_id in [1, 2, 1] {
        let mut view = DedupView::open(&env(), dir.path(), log_id).unwrap();
        assert_eq!(view.load(WHOSE).unwrap(), None);
        view.save(WHOSE, meta(1), &[entry(0)], 0, true).unwrap();
    }
    assert_eq!(names(&dir.path().join("views")), ["dedup", "dedup.aside-0", "dedup.aside-1"]);
    let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
    assert!(view.load(WHOSE).unwrap().is_some());
}

/// An entry that is missing, changed, or too many is noticed, and costs the view, not the log.
#[test]
fn a_view_whose_sums_do_not_hold_is_set_aside() {
    let entries: Vec<_> = (0..5).map(entry).collect();
    for damage in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
        view.save(WHOSE, meta(5), &entries, 0, true).unwrap();
        drop(view);
        let db = sled::open(dir.path().join("views/dedup")).unwrap();
        let key = super::values::entry_key(WHOSE, 2);
        let mut value = db.get(&key).unwrap().unwrap().to_vec();
        value[20] ^= 1;
        match damage {
            0 => drop(db.remove(&key).unwrap()),
            1 => drop(db.insert(&key, value).unwrap()),
            2 => drop(db.insert(super::values::entry_key(WHOSE, 9), entry(9).encode(&key).0).unwrap()),
            _ => drop(db.remove(super::values::meta_key(WHOSE)).unwrap()),
        }
        drop(db);
        let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
        view.load(WHOSE).unwrap_err();
        assert_eq!(view.load(WHOSE).unwrap(), None, "it begins anew");
        view.save(WHOSE, meta(5), &entries, 0, true).unwrap();
        assert_eq!(view.load(WHOSE).unwrap().unwrap().entries, entries);
        drop(view);
        assert_eq!(names(&dir.path().join("views")), ["dedup", "dedup.aside-0"]);
    }
}

#[test]
fn a_snapshot_that_was_not_finished_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
    view.save(WHOSE, meta(1), &[entry(0)], 0, true).unwrap();
    drop(view);
    fs::write(dir.path().join("views/dedup/snap.0000000000000042.generating"), b"half").unwrap();
    let mut view = DedupView::open(&env(), dir.path(), 1).unwrap();
    assert!(view.load(WHOSE).unwrap().is_some());
    drop(view);
    assert_eq!(names(&dir.path().join("views")), ["dedup"]);
    assert!(!names(&dir.path().join("views/dedup")).iter().any(|name| name.ends_with(".generating")));
}

const RECORDS: usize = 60;

fn topic(log: &Log) -> Topic {
    let settings = TopicSettings::default().partitions(2).dedup_count_max(1000);
    log.blocking_create_topic(TopicDef::<bytes::Bytes, Raw>::named("t"), settings).unwrap()
}

/// Sends everything again. Answers where it is.
fn send_all(dir: &Path, upto: usize) -> Vec<(u32, u64, u64)> {
    let log = Log::blocking_open(dir).unwrap();
    let topic = topic(&log);
    let places = (0..upto)
        .map(|id| {
            let record = Record::new(bytes::Bytes::from(format!("{id}"))).id(format!("id {id}"));
            let receipt = topic.blocking_produce(record).unwrap();
            (receipt.partition, receipt.offset, receipt.commit)
        })
        .collect();
    let written: u64 = (0..2).map(|number| topic.watermarks(number).unwrap().high_watermark).sum();
    assert_eq!(written, upto as u64);
    log.blocking_close().unwrap();
    places
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whatever happens to the files of a view: no record is written twice, none is lost, and every answer is the first.
#[test]
fn nothing_that_happens_to_a_view_is_an_error_to_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    send_all(&log, RECORDS / 2);
    copy(&log.join("views"), &dir.path().join("old"));
    let places = send_all(&log, RECORDS);
    let (original, copied) = (dir.path().join("original"), dir.path().join("copied"));
    fs::rename(&log, &original).unwrap();
    let views = original.join("views");
    let mut cases = 0;
    let mut check = |what: &str, damage: &dyn Fn(&Path)| {
        copy(&original, &copied);
        damage(&copied.join("views"));
        let again = std::panic::catch_unwind(|| send_all(&copied, RECORDS));
        assert_eq!(again.unwrap_or_else(|_| panic!("{what}: a panic")), places, "{what}");
        // What was damaged and not usable is kept.
        fs::remove_dir_all(&copied).unwrap();
        cases += 1;
    };
    check("nothing", &|_| {});
    check("gone", &|views| fs::remove_dir_all(views).unwrap());
    check("a file in its place", &|views| {
        fs::remove_dir_all(views.join("dedup")).unwrap();
        fs::write(views.join("dedup"), b"not a directory").unwrap();
    });
    check("an old copy", &|views| {
        fs::remove_dir_all(views).unwrap();
        copy(&dir.path().join("old"), views);
    });
    for path in files(&views) {
        let name = path.strip_prefix(&views).unwrap();
        let bytes = fs::read(&path).unwrap();
        check(&format!("{name:?} gone"), &|views| fs::remove_file(views.join(name)).unwrap());
        check(&format!("{name:?} of the old copy"), &|views| {
            drop(fs::copy(dir.path().join("old").join(name), views.join(name)));
        });
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let step = (used / 20).max(1);
        for at in (0..used).step_by(step).chain([used, bytes.len().saturating_sub(1)]) {
            check(&format!("{name:?} cut at {at}"), &|views| fs::write(views.join(name), &bytes[..at]).unwrap());
        }
        for at in (0..used).step_by((used / 60).max(1)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            check(&format!("{name:?} flipped at {at}"), &|views| fs::write(views.join(name), &flipped).unwrap());
        }
    }
    eprintln!("{cases} cases");
}
