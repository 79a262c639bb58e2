//! What a power loss leaves of a relaxed topic over several segments, none of them synced: a prefix, and never damage.

use super::bench::{Bench, TOPIC, put_relaxed, read};
use super::{Verdict, ensure};
use crate::log::settings::Durability;

pub(super) fn unsynced_segments_end_at_the_first_hole() -> Verdict {
    let bench = Bench::new(21);
    let engine = bench.open();
    bench.create(&engine, 1, Durability::Os);
    let sent: Vec<String> = (0..24).map(|number| format!("{number} {}", "r".repeat(500))).collect();
    for text in &sent {
        put_relaxed(&engine, TOPIC, 0, text).map_err(|error| error.to_string())?;
    }
    for seed in 0..400 {
        let copy = bench.fork_with(seed);
        copy.disk.power_loss();
        let engine = copy.open();
        ensure!(engine.report.damage.is_empty(), "seed {seed}: {:?}", engine.report.damage);
        let (values, error) = read(&engine, TOPIC, 0, 0);
        ensure!(error.is_none(), "seed {seed}: reading ends at {} with {error:?}", values.len());
        ensure!(values[..] == sent[..values.len()], "seed {seed}: other data");
    }
    Ok(())
}

#[test]
fn a_power_loss_leaves_a_prefix_of_unsynced_segments() {
    unsynced_segments_end_at_the_first_hole().unwrap();
}
