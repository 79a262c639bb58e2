//! Compares a log that was opened with what the model says that it must hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::content::identify;
use super::model::{Existence, Fate, Model, PartitionModel, Place, Slot, TopicModel};
use super::{Verdict, ensure};
use crate::format::record::RecordIter;
use crate::log::engine::Engine;
use crate::log::settings::Durability;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;

/// How the last life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    PowerLoss,
    Kill,
    /// Closed, without an error.
    Closed,
}

/// Reads all that is visible in a partition.
pub(super) fn read(partition: &Arc<Partition>) -> Verdict<Vec<Slot>> {
    let mut cursor = PartitionCursor::new(Arc::clone(partition), partition.log_start()).with_read_bytes(8192);
    let mut slots: Vec<Slot> = Vec::new();
    let (mut commit_before, mut next) = (0, partition.log_start());
    loop {
        let frame = match cursor.next_frame(u64::MAX) {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => return Err(format!("reading {:?} at {next}: {error}", partition.owner)),
        };
        let commit = frame.header.commit;
        ensure!(commit > commit_before, "commit {commit} follows {commit_before} in {:?}", partition.owner);
        commit_before = commit;
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = records.next_record().map_err(|why| format!("a malformed record: {why}"))? {
            ensure!(record.offset == next, "offset {} where {next} was to come", record.offset);
            next += 1;
            slots.push(Slot { id: identify(&record)?, commit });
        }
    }
    let visible = partition.visible_end();
    ensure!(next == visible, "{:?} reads up to {next}, but is visible up to {visible}", partition.owner);
    Ok(slots)
}

/// Before the process ends: what the engine has shown or called durable must be there afterwards.
pub(super) fn note_end(model: &mut Model, engine: &Engine) {
    for topic in engine.topics() {
        let Some(known) = model.topics.get_mut(&*topic.name) else { continue };
        for (partition, known) in topic.partitions().iter().zip(&mut known.partitions) {
            let shown = if partition.config.synced { partition.visible_end() } else { 0 };
            let acked = known.known.len() as u64;
            let promised = if partition.config.synced { acked } else { 0 };
            known.floor = known.floor.max(shown).max(promised).max(partition.durable_end());
            // After a failed sync the cache may have forgotten what the disk never got.
            known.kill_floor = if partition.failure().is_some() { known.floor } else { known.floor.max(acked) };
        }
    }
}

/// Judges a log that was just opened, and makes what it holds the truth from here on. Answers how many records there were.
pub(super) fn recovered(model: &mut Model, engine: &Engine, end: End) -> Verdict<u64> {
    let damage = &engine.report.damage;
    ensure!(damage.is_empty(), "damage is reported that nobody did: {damage:?}");
    check_topics(model, engine)?;
    let mut found = BTreeMap::new();
    let mut records = 0;
    for topic in engine.topics() {
        let known = &model.topics[&*topic.name];
        for (number, partition) in topic.partitions().iter().enumerate() {
            let slots = read(partition)?;
            ensure!(partition.failure().is_none(), "{:?} has failed: {:?}", partition.owner, partition.failure());
            ensure!(partition.durable_end() == slots.len() as u64, "the durable end is not that of the records");
            records += slots.len() as u64;
            found.insert(Place { topic: known.number, partition: number as u32 }, slots);
        }
    }
    for (place, slots) in &found {
        check_partition(model, *place, slots, end).map_err(|why| format!("{place:?} after {end:?}: {why}"))?;
    }
    check_units(model, &found)?;
    for (place, slots) in found {
        if let Some(partition) = model.partition(place) {
            let floor = slots.len() as u64;
            *partition = PartitionModel { known: slots, floor, kill_floor: floor };
        }
    }
    model.begin_life();
    Ok(records)
}

/// Which topics there are, and with how many partitions.
fn check_topics(model: &mut Model, engine: &Engine) -> Verdict {
    let topics: BTreeMap<String, usize> =
        engine.topics().iter().map(|topic| (topic.name.to_string(), topic.partitions().len())).collect();
    for name in topics.keys() {
        ensure!(model.topics.contains_key(name), "topic {name} exists, though it was never created, or deleted");
    }
    let mut gone = Vec::new();
    for (name, known) in &mut model.topics {
        let Some(count) = topics.get(name) else {
            ensure!(known.existence == Existence::Open, "topic {name} is gone");
            gone.push(name.clone());
            continue;
        };
        let allowed = known.partitions.len()..=known.partitions_max.max(known.partitions.len());
        ensure!(allowed.contains(count), "topic {name} has {count} partitions, not {allowed:?}");
        known.partitions.resize_with(*count, PartitionModel::default);
        known.partitions_max = *count;
        known.existence = Existence::Certain;
    }
    for name in gone {
        model.topics.remove(&name);
    }
    Ok(())
}

fn check_partition(model: &mut Model, place: Place, slots: &[Slot], end: End) -> Verdict {
    let Some(partition) = model.partition(place) else { return Err("nobody knows it".to_owned()) };
    let required = match end {
        End::PowerLoss => partition.floor,
        End::Kill => partition.kill_floor,
        End::Closed => partition.known.len() as u64,
    };
    let known = std::mem::take(&mut partition.known);
    ensure!(slots.len() as u64 >= required, "{} records are left of {required} that must be", slots.len());
    for (offset, (slot, known)) in slots.iter().zip(&known).enumerate() {
        ensure!(slot == known, "offset {offset} holds {slot:?}, acknowledged was {known:?}");
    }
    let mut last_of_producer = BTreeMap::new();
    let mut at = 0;
    while let Some(slot) = slots.get(at) {
        let index = model.append_of(slot.id)?;
        let append = &model.appends[index];
        ensure!(append.place == place, "record {} was sent to {:?}", slot.id, append.place);
        ensure!(append.first == slot.id, "the batch of record {} begins with record {}", slot.id, append.first);
        for id in append.first..append.first + append.count {
            let next = slots.get(at).copied();
            let whole = next == Some(Slot { id, commit: slot.commit });
            ensure!(whole, "record {id} of the batch at {} is missing: {next:?} stands there", append.first);
            at += 1;
        }
        let before = last_of_producer.insert(append.producer, index);
        ensure!(before < Some(index), "producer {} sent append {index} before {before:?}", append.producer);
        if at > known.len() {
            ensure!(index >= model.life_began, "append {index} of an earlier life has come back");
            ensure!(append.fate == Fate::Unknown, "append {index} was refused, yet is there");
        }
        model.check_commit(index, slot.commit)?;
    }
    Ok(())
}

/// A unit is there in all of its partitions or in none.
fn check_units(model: &Model, found: &BTreeMap<Place, Vec<Slot>>) -> Verdict {
    for (number, unit) in model.units.iter().enumerate() {
        let mut there = Vec::new();
        for index in unit {
            let append = &model.appends[*index];
            if let Some(slots) = found.get(&append.place) {
                there.push(slots.iter().rev().any(|slot| slot.id == append.first));
            }
        }
        let whole = there.iter().all(|there| *there);
        let acked = unit.iter().any(|index| model.appends[*index].fate == Fate::Acknowledged);
        ensure!(whole || !acked, "unit {number} was acknowledged, yet only {there:?} of it is there");
        ensure!(whole || there.iter().all(|there| !*there), "unit {number} is there in part: {there:?}");
    }
    Ok(())
}

/// What a reader sees now is what was acknowledged, neither less nor more.
pub(super) fn visible(known: &TopicModel, number: usize, partition: &Arc<Partition>) -> Verdict<u64> {
    let slots = read(partition)?;
    let known = &known.partitions[number].known;
    ensure!(slots == *known, "{:?} shows {slots:?}, acknowledged was {known:?}", partition.owner);
    Ok(slots.len() as u64)
}

pub(super) fn is_interval(durability: Durability) -> bool {
    matches!(durability, Durability::Interval(_))
}
