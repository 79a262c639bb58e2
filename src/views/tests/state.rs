//! The view of a projection.

use super::env;
use crate::views::state::{Place, Said, StateView, Written};

const WHOSE: (u128, u32) = (7, 3);

fn place(next_offset: u64) -> Place {
    Place { next_offset, commit: next_offset + 100, crc: next_offset as u32, gaps: vec![(0, 2), (5, next_offset)] }
}

fn change(key: &str, value: Option<&str>) -> (Vec<u8>, Option<Vec<u8>>) {
    (key.into(), value.map(Into::into))
}

fn write(view: &mut StateView, changes: &[(&str, Option<&str>)], next_offset: u64) {
    let changes = changes.iter().map(|(key, value)| change(key, *value)).collect();
    let places = [(WHOSE, place(next_offset))];
    let written = Written { definition: b"one", complete: next_offset > 10, changes, places: &places };
    view.write(&written).unwrap();
}

fn said(next_offset: u64) -> Option<Said> {
    let places = vec![(WHOSE, place(next_offset))];
    Some(Said { definition: b"one".to_vec(), complete: next_offset > 10, places })
}

fn pairs(view: &mut StateView, prefix: &str, from: &str, limit: usize) -> String {
    let found = view.range(prefix.as_bytes(), from.as_bytes(), limit).unwrap();
    found.iter().map(|(key, value)| format!("{}{} ", key.escape_ascii(), value.escape_ascii())).collect()
}

#[test]
fn what_is_written_is_there_with_its_places() {
    let dir = tempfile::tempdir().unwrap();
    let open = || StateView::open(&env(), dir.path(), "p", 1).unwrap();
    for (mut view, kept) in [(open(), true), (StateView::in_memory(), false)] {
        assert_eq!(view.load().unwrap(), None);
        write(&mut view, &[("a", Some("1")), ("ab", Some("2")), ("b", Some("3")), ("c", None)], 8);
        assert_eq!(view.load().unwrap(), said(8));
        write(&mut view, &[("a", None), ("ab", Some("4")), ("ac", Some("")), ("", Some("5"))], 20);
        if kept {
            view.flush().unwrap();
            drop(view);
            view = open();
        }
        assert_eq!(view.load().unwrap(), said(20));
        assert_eq!(view.get(b"a").unwrap(), None);
        assert_eq!(view.get(b"ac").unwrap(), Some(Vec::new()));
        assert_eq!(pairs(&mut view, "", "", 9), "5 ab4 ac b3 ");
        assert_eq!(pairs(&mut view, "a", "a", 9), "ab4 ac ");
        assert_eq!(pairs(&mut view, "a", "ac", 9), "ac ");
        assert_eq!(pairs(&mut view, "a", "", 1), "ab4 ");
        assert_eq!(view.generation(), 0);
        view.set_aside("a test").unwrap();
        assert_eq!((view.load().unwrap(), view.generation()), (None, 1));
    }
    assert_eq!(super::names(&dir.path().join("views")), ["projection-p", "projection-p.aside-0"]);
}

/// A value that is damaged, missing, too many, or of another time sets the view aside, and is never answered with.
#[test]
fn a_state_whose_sums_do_not_hold_is_set_aside() {
    for damage in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let open = || StateView::open(&env(), dir.path(), "p", 1).unwrap();
        let mut view = open();
        write(&mut view, &[("a", Some("1")), ("b", Some("2"))], 8);
        drop(view);
        let db = sled::open(dir.path().join("views/projection-p")).unwrap();
        let (a, b) = (db.get("sa").unwrap().unwrap(), db.get("sb").unwrap().unwrap());
        let mut flipped = a.to_vec();
        flipped[4] ^= 1;
        match damage {
            0 => drop(db.insert("sa", flipped).unwrap()),
            1 => drop(db.remove("sa").unwrap()),
            2 => drop(db.insert("sa", b).unwrap()),
            3 => drop(db.insert("sc", crate::views::values::seal(b"sc", &[], b"3")).unwrap()),
            4 => drop(db.insert("sa", crate::views::values::seal(b"sa", &[], b"0")).unwrap()),
            _ => drop(db.remove(b"m").unwrap()),
        }
        drop(db);
        if matches!(damage, 0 | 2) {
            let mut view = open();
            view.get(b"a").unwrap_err();
            assert_eq!((view.get(b"a").unwrap(), view.generation()), (None, 1), "it begins anew");
        } else {
            let mut view = open();
            view.load().unwrap_err();
            assert_eq!((view.load().unwrap(), view.generation()), (None, 1), "it begins anew");
        }
        assert_eq!(super::names(&dir.path().join("views")), ["projection-p", "projection-p.aside-0"]);
    }
}
