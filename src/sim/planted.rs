//! Every planted defect must be found: that is what says that the simulation would find the ones nobody planted.

use std::panic::catch_unwind;

use super::{power_loss, rows};
use crate::planted::{self, Bug};

/// Seeds until a defect counts as missed.
const SEEDS_MAX: u64 = 20_000;

/// The first seed that finds the defect, and what it says.
fn find(bug: Bug) -> Option<(u64, String)> {
    planted::with(Some(bug), || {
        for (number, scenario) in rows::SCENARIOS.iter().enumerate() {
            let verdict = catch_unwind(scenario).unwrap_or_else(|_| Err("panic".to_owned()));
            if let Err(why) = verdict {
                return Some((number as u64, format!("scenario: {why}")));
            }
        }
        (0..SEEDS_MAX).find_map(|seed| power_loss::run(seed, false).err().map(|why| (seed, why)))
    })
}

/// Panics inside are findings; their messages would only hide the table.
fn find_all(bugs: &[Bug]) -> Vec<(Bug, Option<(u64, String)>)> {
    bugs.iter().map(|bug| (*bug, find(*bug))).collect()
}

#[test]
fn every_planted_defect_is_found() {
    let (first, second) = Bug::ALL.split_at(Bug::ALL.len() / 2);
    let found: Vec<_> = std::thread::scope(|scope| {
        let other = scope.spawn(|| find_all(second));
        let mut found = find_all(first);
        found.extend(other.join().expect("a share does not panic"));
        found
    });
    for (bug, found) in &found {
        match found {
            Some((seed, why)) => eprintln!("{bug:?}: seed {seed}: {}", why.lines().next().unwrap_or_default()),
            None => eprintln!("{bug:?}: MISSED"),
        }
    }
    let missed: Vec<_> = found.iter().filter(|(_, found)| found.is_none()).map(|(bug, _)| bug).collect();
    assert!(missed.is_empty(), "the simulation has missed {missed:?}");
}
