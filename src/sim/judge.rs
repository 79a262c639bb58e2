//! Compares a log that was opened with what the model says that it must hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::content::{content, identify};
use super::model::{Existence, Fate, Model, PartitionModel, Place, Slot, TopicModel, is_superseded};
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
pub(super) fn read(partition: &Arc<Partition>) -> Verdict<Vec<(u64, Slot)>> {
    let mut cursor = PartitionCursor::new(Arc::clone(partition), partition.log_start()).with_read_bytes(8192);
    let mut slots = Vec::new();
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
        // A reader that finds a compacted file in the place of the one that it has read so far: what was left of frames before
        // the next one is that one's now.
        let may_begin_before = next == partition.log_start() || partition.is_read_only();
        ensure!(
            frame.header.base_offset == next || may_begin_before && frame.header.base_offset < next,
            "a frame begins at {} where {next} was to come",
            frame.header.base_offset
        );
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = records.next_record().map_err(|why| format!("a malformed record: {why}"))? {
            if record.offset < partition.log_start() {
                // It shares a frame with the first that has not gone.
                continue;
            }
            ensure!(record.offset >= next, "offset {} where {next} was to come", record.offset);
            next = record.offset + 1;
            slots.push((record.offset, Slot { id: identify(&record)?, commit }));
        }
        next = frame.header.next_offset();
    }
    for pair in partition.segments().windows(2) {
        let end = pair[0].summary().map(|summary| summary.next_offset);
        // A reader may know less of what has gone meanwhile.
        let has_gone = pair[1].base_offset <= partition.log_start();
        ensure!(has_gone || end == Some(pair[1].base_offset), "{:?} ends at {end:?}, {:?} begins", pair[0], pair[1]);
    }
    let visible = partition.visible_end();
    ensure!(next == visible, "{:?} reads up to {next}, but is visible up to {visible}", partition.owner);
    Ok(slots)
}

/// What was read, with what compactions have rightly taken away in its place.
fn fill(
    known: &PartitionModel,
    tombstone_age: Option<i64>,
    found: &[(u64, Slot)],
    start: u64,
    end: u64,
) -> Verdict<Vec<Slot>> {
    let mut slots = known.known.get(..start as usize).ok_or("it starts beyond its end")?.to_vec();
    let mut rest = found.iter().copied().peekable();
    let mut gone = Vec::new();
    for offset in start..end {
        if let Some((_, slot)) = rest.next_if(|(at, _)| *at == offset) {
            slots.push(slot);
            continue;
        }
        let slot = known.known.get(offset as usize).copied();
        let Some((age, slot)) = tombstone_age.zip(slot) else { return Err(format!("there is no record at {offset}")) };
        let rightly = known.cleaning.may_be_gone(&known.known, offset as usize, age);
        ensure!(rightly, "{slot:?} at {offset} is gone, after the compactions {:?}", known.cleaning.attempts);
        gone.push(content(slot.id));
        slots.push(slot);
    }
    // The last state of each key is what it was: nothing comes back behind a tombstone that is gone.
    for key in gone.iter().filter_map(|record| record.key()) {
        let is_of_key = |slot: &Slot| content(slot.id).key() == Some(key);
        let last = slots.iter().rposition(is_of_key).unwrap_or_default() as u64;
        let shown = found.iter().rev().find(|(_, slot)| is_of_key(slot));
        ensure!(
            shown.is_none_or(|(at, _)| *at == last),
            "{shown:?} is the last of its key, and was superseded at {last}"
        );
    }
    Ok(slots)
}

/// After a compaction that says that nothing is left to do.
pub(super) fn compacted(known: &PartitionModel, partition: &Arc<Partition>, limit: u64) -> Verdict<u64> {
    let found = read(partition)?;
    for (offset, slot) in &found {
        let superseded = is_superseded(&known.known, *offset as usize, limit);
        ensure!(!superseded, "{slot:?} at {offset} is there after a compaction up to {limit}");
    }
    Ok(known.known.len() as u64 - partition.log_start() - found.len() as u64)
}

/// Before the process ends: what the engine has shown or called durable must be there afterwards.
pub(super) fn note_end(model: &mut Model, engine: &Engine) {
    for topic in engine.topics() {
        let Some(known) = model.topics.get_mut(&*topic.name) else { continue };
        for (partition, known) in topic.partitions().iter().zip(&mut known.partitions) {
            known.start = known.start.max(partition.log_start());
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
            let slots = from_the_beginning(known, number, partition)?;
            ensure!(partition.failure().is_none(), "{:?} has failed: {:?}", partition.owner, partition.failure());
            let segments = partition.segments();
            let left_over = segments.get(1).filter(|second| second.base_offset <= partition.log_start());
            ensure!(left_over.is_none(), "{:?} keeps a file that lies before its start", partition.owner);
            // Who may not write cannot make a relaxed partition durable.
            let durable =
                partition.durable_end() == slots.len() as u64 || engine.is_read_only() && !partition.config.synced;
            ensure!(durable, "the durable end is not that of the records");
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
            let start_max = partition.start_max.min(floor);
            let cleaning = std::mem::take(&mut partition.cleaning);
            let start = partition.start;
            *partition = PartitionModel { known: slots, floor, kill_floor: floor, start, start_max, cleaning };
        }
    }
    model.begin_life();
    Ok(records)
}

/// What is in a partition, behind what is known to have gone from it. It starts where it may.
fn from_the_beginning(topic: &TopicModel, number: usize, partition: &Arc<Partition>) -> Verdict<Vec<Slot>> {
    let start = partition.log_start();
    let Some(known) = topic.partitions.get(number) else { return Err("nobody knows it".to_owned()) };
    let highest = if topic.retains { known.known.len() as u64 } else { known.start_max };
    let allowed = known.start..=highest.max(known.start);
    ensure!(allowed.contains(&start), "{:?} starts at {start}, not in {allowed:?}", partition.owner);
    fill(known, topic.tombstone_age, &read(partition)?, start, partition.visible_end())
        .map_err(|why| format!("{:?}: {why}", partition.owner))
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
            let lacks = model.topics.values().any(|topic| topic.number == append.place.topic && topic.may_lack);
            if let Some(slots) = found.get(&append.place).filter(|_| !lacks) {
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
    let slots = from_the_beginning(known, number, partition)?;
    let known = &known.partitions[number].known;
    ensure!(slots == *known, "{:?} shows {slots:?}, acknowledged was {known:?}", partition.owner);
    Ok(slots.len() as u64)
}

pub(super) fn is_interval(durability: Durability) -> bool {
    matches!(durability, Durability::Interval(_))
}
