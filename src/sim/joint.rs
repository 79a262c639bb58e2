//! Transactions that share an entry of the journal, and a frame for what they say of consumers: cut off at every call, each is
//! there whole or not at all, before and after a recovery.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::bench::{Bench, TOPIC, builder, read, settings};
use super::world::ROOT;
use super::{Verdict, ensure};
use crate::error::Result;
use crate::log::committer::{Group, Leader};
use crate::log::engine::Engine;
use crate::log::read_only::open_read_only;
use crate::log::settings::Durability;

const OFFSETS: &str = "__offsets";
const UNITS: u32 = 5;

/// Units that are committed together: each but the third writes a record, and each says that it has.
fn send(engine: &Engine, round: u32) -> Result<Vec<Arc<Group>>> {
    let mut groups = Vec::new();
    for unit in 0..UNITS {
        let (text, mut frames) = (format!("{round} {unit}"), Vec::new());
        if unit != 2 {
            frames.push((engine.topic(TOPIC)?.partition(unit % 3)?, builder(&text)));
        }
        frames.push((engine.topic(OFFSETS)?.partition(0)?, builder(&text)));
        let sent = engine.committer.enqueue_unit(frames, Leader::Thread);
        groups.push(sent.unwrap_or_else(|_| panic!("nothing else waits")));
    }
    while engine.lead() {}
    Ok(groups)
}

fn check(engine: &Engine, answered: &BTreeSet<String>, what: &str) -> Verdict {
    ensure!(engine.report.damage.is_empty(), "{what}: {:?}", engine.report.damage);
    let said: BTreeSet<String> = read(engine, OFFSETS, 0, 0).0.into_iter().collect();
    let written: BTreeSet<String> = (0..3).flat_map(|partition| read(engine, TOPIC, partition, 0).0).collect();
    ensure!(answered.is_subset(&said), "{what}: {answered:?} was acknowledged, and {said:?} is there");
    let with_records: BTreeSet<String> = said.iter().filter(|text| !text.ends_with('2')).cloned().collect();
    ensure!(written == with_records, "{what}: {written:?} was written, {said:?} was said");
    Ok(())
}

/// At every call to the disk.
pub(super) fn transactions_of_one_entry_are_whole() -> Verdict {
    for cut in 1.. {
        let bench = Bench::new(cut);
        let engine = bench.open();
        bench.create(&engine, 3, Durability::Sync);
        engine.create_topic(OFFSETS, settings(1, Durability::Sync)).map_err(|error| error.to_string())?;
        bench.disk.crash_at(bench.disk.calls() + cut);
        let (mut answered, mut commits) = (BTreeSet::new(), Vec::new());
        for round in 0..4 {
            for (unit, group) in send(&engine, round).map_err(|error| error.to_string())?.iter().enumerate() {
                if let Some(Ok(outcome)) = group.outcome() {
                    answered.insert(format!("{round} {unit}"));
                    commits.extend((unit != 2).then_some(outcome.commit));
                }
            }
            engine.do_upkeep(std::time::Duration::MAX);
        }
        ensure!(commits.is_sorted_by(|a, b| a < b), "the commit numbers are {commits:?}");
        let is_over = !bench.disk.is_off();
        if cut % 2 == 0 {
            bench.disk.power_loss()
        } else {
            bench.disk.kill()
        }
        drop(engine);
        bench.disk.kill();
        let env = bench.env(bench.disk.mount());
        let looked = open_read_only(env, PathBuf::from(ROOT), Bench::settings()).map_err(|error| error.to_string())?;
        check(&looked, &answered, &format!("call {cut}, read only"))?;
        drop(looked);
        check(&bench.open(), &answered, &format!("call {cut}"))?;
        if is_over {
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn transactions_that_share_an_entry_are_there_whole_or_not_at_all() {
    transactions_of_one_entry_are_whole().unwrap();
}

#[test]
fn transactions_of_one_commit_share_a_frame_for_the_offsets() {
    let bench = Bench::new(1);
    let engine = bench.open();
    bench.create(&engine, 3, Durability::Sync);
    engine.create_topic(OFFSETS, settings(1, Durability::Sync)).unwrap();
    send(&engine, 0).unwrap();
    let partition = engine.topic(OFFSETS).unwrap().partition(0).unwrap();
    let mut cursor = crate::partition::cursor::PartitionCursor::new(partition, 0);
    let frame = cursor.next_frame(u64::MAX).unwrap().unwrap();
    assert_eq!(frame.header.record_count, UNITS);
}
