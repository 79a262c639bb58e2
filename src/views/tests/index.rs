//! The view of the header indexes, held against a list of all entries.

use std::path::Path;

use proptest::prelude::*;

use super::super::index::{Added, Anew, IndexView, Mark, Runs, Whose};
use super::{env, names};
use crate::views::VIEWS_DIR;

const WHOSE: Whose = (7, 3);

fn open(dir: &Path) -> IndexView {
    IndexView::open(&env(), dir, 1)
}

fn mark(upto: u64) -> Mark {
    Mark { commit: upto + 100, crc: upto as u32 }
}

fn added(from: u64, to: u64, entries: Vec<(u32, u64)>, names: &[String]) -> Added<'_> {
    Added { from, to, mark: mark(to), names, entries, log_start: 0 }
}

/// What all runs have of a hash, in steps of `limit`.
fn matches(view: &mut IndexView, runs: &Runs, hash: u32, range: (u64, u64), limit: usize) -> Result<Vec<u64>, Anew> {
    let mut all = Vec::new();
    for run in &runs.runs {
        let mut from = range.0;
        loop {
            let found = view.matches(WHOSE, run, hash, (from, range.1), limit)?;
            assert!(found.len() <= limit);
            all.extend(&found);
            match found.last() {
                Some(last) if found.len() == limit => from = last + 1,
                _ => break,
            }
        }
    }
    Ok(all)
}

/// Many entries of few hashes, in one run of several pages.
fn filled(view: &mut IndexView, whose: Whose, count: u64) -> (Runs, Vec<(u32, u64)>) {
    let entries: Vec<_> = (0..count).map(|offset| ((offset * offset % 97) as u32 * 40_000_000, offset)).collect();
    let runs = view.add(whose, &Runs::default(), added(0, count, entries.clone(), &[])).unwrap();
    (runs, entries)
}

fn of_hash(entries: &[(u32, u64)], hash: u32) -> Vec<u64> {
    entries.iter().filter(|entry| entry.0 == hash).map(|entry| entry.1).collect()
}

fn steps() -> impl Strategy<Value = Vec<(Vec<u32>, u64, bool)>> {
    let hashes = prop::collection::vec(prop_oneof![Just(0), Just(u32::MAX), Just(5), 0..20_u32], 0..1500);
    prop::collection::vec((hashes, 0..100_u64, any::<bool>()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_added_is_found(steps in steps(), limit in 1..700_usize, on_disk: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut view = if on_disk { open(dir.path()) } else { IndexView::in_memory() };
        let (mut runs, mut all, mut end, mut log_start) = (Runs::default(), Vec::new(), 0, 0);
        for (hashes, gone, reopen) in steps {
            let from = end;
            end += hashes.len() as u64 + 1;
            let entries: Vec<_> = hashes.iter().enumerate().map(|(at, hash)| (*hash, from + at as u64)).collect();
            // Some of a record's headers may have one hash.
            let twice = entries.iter().copied().filter(|entry| entry.1 % 3 == 0);
            let twice: Vec<_> = entries.iter().copied().chain(twice).collect();
            log_start += (end - log_start) * gone / 200;
            runs = view.add(WHOSE, &runs, Added { log_start, ..added(from, end, twice, &[]) }).unwrap();
            prop_assert_eq!(runs.position(), Some(end));
            all.extend(entries);
            if reopen && on_disk {
                view.flush().unwrap();
                drop(view);
                view = open(dir.path());
                prop_assert_eq!(view.load(WHOSE).unwrap(), Some(runs.clone()));
            }
            all.retain(|(_, offset)| *offset >= log_start);
            for hash in [0, 5, 7, 19, u32::MAX] {
                let found = matches(&mut view, &runs, hash, (log_start, end), limit).unwrap();
                prop_assert_eq!(found, of_hash(&all, hash));
                let (low, high) = (log_start + (end - log_start) / 3, end - (end - log_start) / 4);
                let between: Vec<_> = of_hash(&all, hash).into_iter().filter(|offset| (low..high).contains(offset)).collect();
                prop_assert_eq!(matches(&mut view, &runs, hash, (low, high), limit).unwrap(), between);
            }
        }
        prop_assert!(runs.count() <= end);
    }
}

#[test]
fn runs_are_few_and_those_whose_records_have_gone_are_not_kept() {
    let mut view = IndexView::in_memory();
    let mut runs = Runs::default();
    for offset in 0..1000 {
        runs = view.add(WHOSE, &runs, added(offset, offset + 1, vec![(9, offset)], &[])).unwrap();
        assert!(runs.runs.len() <= 11, "{}", runs.runs.len());
    }
    assert_eq!(runs.count(), 1000);
    assert_eq!(matches(&mut view, &runs, 9, (0, 1000), 300).unwrap(), (0..1000).collect::<Vec<_>>());
    // Merged, or as a whole: nothing below the log start is kept for long.
    let gone = Added { log_start: 995, ..added(1000, 1001, vec![(9, 1000)], &[]) };
    runs = view.add(WHOSE, &runs, gone).unwrap();
    assert!(runs.count() < 300, "{}", runs.count());
    assert_eq!(matches(&mut view, &runs, 9, (995, 1001), 300).unwrap(), (995..1001).collect::<Vec<_>>());
    let all_gone = Added { log_start: 2000, ..added(2000, 2001, vec![(9, 2000)], &[]) };
    runs = view.add(WHOSE, &runs, all_gone).unwrap();
    assert_eq!(runs.count(), 1);
}

/// Each page, and what is said of them, in every way: taken out, flipped, or that of another run in its place.
#[test]
fn whatever_is_wrong_in_the_view_is_noticed_before_it_is_believed() {
    let template = tempfile::tempdir().unwrap();
    let mut view = open(template.path());
    let (runs, entries) = filled(&mut view, WHOSE, 3000);
    // The same offsets in another run: pages of the same entries.
    filled(&mut view, (7, 4), 3000);
    drop(view);
    let keys: Vec<sled::IVec> = {
        let db = sled::open(template.path().join("views/index")).unwrap();
        db.iter().keys().map(Result::unwrap).filter(|key| key.len() > 3).collect()
    };
    let of_ours = |key: &&sled::IVec| key[17..21] == [0, 0, 0, 3];
    assert_eq!(keys.iter().filter(of_ours).count(), 6 + 1);
    for key in keys.iter().filter(of_ours) {
        for damage in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            super::copy(template.path(), dir.path());
            let db = sled::open(dir.path().join("views/index")).unwrap();
            let mut value = db.get(key).unwrap().unwrap().to_vec();
            let (last, middle) = (value.len() - 1, value.len() / 2);
            let mut other = key.to_vec();
            other[20] = 4;
            match damage {
                0 => drop(db.remove(key).unwrap()),
                1 => {
                    value[last] ^= 1;
                    db.insert(key, value).unwrap();
                }
                2 => {
                    value[middle] ^= 0x80;
                    db.insert(key, value).unwrap();
                }
                3 => {
                    value[0] ^= 1;
                    db.insert(key, value).unwrap();
                }
                4 => drop(db.insert(key, &value[..middle]).unwrap()),
                _ => drop(db.insert(key, db.get(&other).unwrap().unwrap()).unwrap()),
            }
            drop(db);
            let mut view = open(dir.path());
            let mut failed = 0;
            let is_meta = key[0] == b'm';
            let known = match view.load(WHOSE) {
                Ok(Some(known)) => known,
                // Without what is said of them pages are worth nothing, and are removed.
                Ok(None) => {
                    assert!(is_meta && damage == 0);
                    continue;
                }
                Err(Anew) => {
                    assert!(is_meta);
                    assert_eq!(names(&dir.path().join(VIEWS_DIR)), ["index", "index.aside-0"]);
                    continue;
                }
            };
            assert_eq!(known, runs);
            for hash in (0..97).map(|hash| hash * 40_000_000) {
                match matches(&mut view, &known, hash, (0, 3000), 200) {
                    Ok(found) => assert_eq!(found, of_hash(&entries, hash)),
                    Err(Anew) => {
                        failed += 1;
                        break;
                    }
                }
            }
            assert_eq!(failed, 1, "damage {damage} of {key:?}");
            assert_eq!(view.load(WHOSE).unwrap(), None, "it begins anew");
            assert_eq!(names(&dir.path().join(VIEWS_DIR)), ["index", "index.aside-0"]);
        }
    }
}

/// A merge reads all of the runs that it takes in, and notices what a lookup would.
#[test]
fn what_is_damaged_is_not_merged() {
    let dir = tempfile::tempdir().unwrap();
    let mut view = open(dir.path());
    let (runs, _) = filled(&mut view, WHOSE, 3000);
    drop(view);
    let db = sled::open(dir.path().join("views/index")).unwrap();
    let page = db.scan_prefix(b"p").keys().map(Result::unwrap).nth(3).unwrap();
    db.remove(page).unwrap();
    drop(db);
    let mut view = open(dir.path());
    assert_eq!(view.load(WHOSE).unwrap().as_ref(), Some(&runs));
    let more = (3000..6000).map(|offset| (1, offset)).collect();
    let Err(Anew) = view.add(WHOSE, &runs, added(3000, 6000, more, &[])) else { panic!("a page is missing") };
    assert_eq!(view.load(WHOSE).unwrap(), None);
}

/// Pages are there before what names them: what a crash leaves of them takes no room for ever, and is in nobody's way.
#[test]
fn what_a_crash_has_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut view = open(dir.path());
    let (runs, entries) = filled(&mut view, WHOSE, 2000);
    filled(&mut view, (9, 0), 600);
    drop(view);
    let db = sled::open(dir.path().join("views/index")).unwrap();
    let count = |db: &sled::Db, prefix: &[u8]| db.scan_prefix(prefix).count();
    assert_eq!((count(&db, b"p"), count(&db, b"m")), (4 + 2, 2));
    let (key, value) = db.scan_prefix(b"p").next().unwrap().unwrap();
    for serial in 1..4_u64 {
        let mut left = key.to_vec();
        left[21..29].copy_from_slice(&serial.to_be_bytes());
        db.insert(left, value.clone()).unwrap();
    }
    // And of a topic that is deleted by now, without and with what is said of it.
    let mut left = key.to_vec();
    left[1] = 0xee;
    db.insert(left, value).unwrap();
    drop(db);
    let mut view = open(dir.path());
    view.retain(|whose| whose == WHOSE).unwrap();
    assert_eq!(view.load(WHOSE).unwrap(), Some(runs.clone()));
    assert_eq!(view.load((9, 0)).unwrap(), None);
    let hash = entries[3].0;
    assert_eq!(matches(&mut view, &runs, hash, (0, 2000), 2000).unwrap(), of_hash(&entries, hash));
    drop(view);
    let db = sled::open(dir.path().join("views/index")).unwrap();
    assert_eq!((count(&db, b"p"), count(&db, b"m")), (4, 1));
    drop(db);
    let mut view = open(dir.path());
    view.forget(WHOSE).unwrap();
    drop(view);
    let db = sled::open(dir.path().join("views/index")).unwrap();
    assert_eq!((count(&db, b"p"), count(&db, b"m")), (0, 0));
}

#[test]
fn fewer_runs_can_be_kept() {
    let mut view = IndexView::in_memory();
    let (mut runs, _) = filled(&mut view, WHOSE, 1000);
    runs = view.add(WHOSE, &runs, added(1000, 1010, vec![(1, 1005)], &["a".into(), "b".into()])).unwrap();
    assert_eq!((runs.runs.len(), runs.names.len()), (2, 2));
    runs.runs.truncate(1);
    view.keep(WHOSE, &runs).unwrap();
    assert_eq!(view.load(WHOSE).unwrap(), Some(runs.clone()));
    let again = view.add(WHOSE, &runs, added(1000, 1020, vec![(1, 1015)], &[])).unwrap();
    assert_eq!(matches(&mut view, &again, 1, (0, 1020), 10).unwrap(), [1015]);
}

/// A disk that fails each time costs memory, and no answer.
#[test]
fn a_view_that_fails_again_and_again_is_kept_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut view = open(dir.path());
    let (mut runs, _) = filled(&mut view, WHOSE, 1000);
    for _ in 0..3 {
        runs.runs[0].mark.crc ^= 1;
        view.matches(WHOSE, &runs.runs[0], 0, (0, 1000), 1).unwrap_err();
        runs = filled(&mut view, WHOSE, 1000).0;
    }
    assert_eq!(names(&dir.path().join(VIEWS_DIR)).len(), 4);
    runs.runs[0].mark.crc ^= 1;
    view.matches(WHOSE, &runs.runs[0], 0, (0, 1000), 1).unwrap_err();
    assert_eq!(names(&dir.path().join(VIEWS_DIR)).len(), 4, "what is in memory leaves no file");
}

/// Somebody else has it open: nothing is renamed.
#[test]
fn a_view_in_use_is_left_alone_and_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let mut view = open(dir.path());
    let (runs, _) = filled(&mut view, WHOSE, 1000);
    let mut second = open(dir.path());
    assert_eq!(second.load(WHOSE).unwrap(), None);
    let (own, entries) = filled(&mut second, WHOSE, 500);
    assert_eq!(matches(&mut second, &own, 0, (0, 500), 500).unwrap(), of_hash(&entries, 0));
    assert_eq!(view.load(WHOSE).unwrap(), Some(runs));
    assert_eq!(names(&dir.path().join(VIEWS_DIR)), ["index"]);
}
