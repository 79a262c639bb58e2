//! The view of snapshots.

use super::env;
use crate::views::snapshots::{Of, Saved, SnapshotView};

fn saved(offset: u64) -> Saved {
    Saved { version: 1, offset, commit: offset + 10, crc: 3, events: offset, state: vec![7; offset as usize] }
}

#[test]
fn a_snapshot_is_found_by_all_that_it_is_of() {
    let dir = tempfile::tempdir().unwrap();
    let long = "n".repeat(300);
    let names = ["", "a", "ab", &long, &long[..255], &long[..256]];
    let of = |at: usize| Of {
        whose: (at as u128 % 3, at as u32 % 2),
        aggregate: names[at / 4],
        key: [&b""[..], b"b"][at / 2 % 2],
    };
    let mut view = SnapshotView::open(&env(), dir.path(), 1).unwrap();
    for at in 0..24 {
        assert_eq!(view.load(of(at)).unwrap(), None);
        view.save(of(at), &saved(99)).unwrap();
        view.save(of(at), &saved(at as u64)).unwrap();
    }
    view.flush().unwrap();
    drop(view);
    let mut view = SnapshotView::open(&env(), dir.path(), 1).unwrap();
    for at in 0..24 {
        assert_eq!(view.load(of(at)).unwrap(), Some(saved(at as u64)));
    }
    view.retain(|whose| whose.0 == 1).unwrap();
    for at in 0..24 {
        assert_eq!(view.load(of(at)).unwrap().is_some(), at % 3 == 1, "{at}");
    }
}

#[test]
fn a_damaged_snapshot_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let of = Of { whose: (1, 2), aggregate: "a", key: b"k" };
    SnapshotView::open(&env(), dir.path(), 1).unwrap().save(of, &saved(5)).unwrap();
    let db = sled::open(dir.path().join("views/snapshots")).unwrap();
    let (key, value) = db.scan_prefix("s").next().unwrap().unwrap();
    let mut flipped = value.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    db.insert(key, flipped).unwrap();
    drop(db);
    assert_eq!(SnapshotView::open(&env(), dir.path(), 1).unwrap().load(of).unwrap(), None);
}
