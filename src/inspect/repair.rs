//! Salvaging partitions that are damaged.

use std::io;
use std::path::Path;

use super::directory::{Directory, FoundTopic};
use super::journal::JournalContents;
use super::partition::{Survey, survey};
use super::relative;
use super::report::{PartitionRepair, RepairOptions, RepairReport};
use super::rewrite::{keep, rewrite};
use super::segment::Surveyed;
use super::verify::verify;
use crate::error::{Error, ErrorKind, Result};
use crate::format::checkpoint::CheckpointEntry;
use crate::log::checkpoint::{self, Checkpointed};
use crate::log::open::{LOCK_NAME, open};
use crate::log::settings::LogSettings;
use crate::segment::Segment;
use crate::storage::{Env, Lock};

pub(crate) fn repair(env: &Env, root: &Path, options: RepairOptions) -> Result<RepairReport> {
    // Says what is wrong with the directory before anything in it is touched.
    let mut before = vec![Directory::read(env, root)?.mended_by_opening];
    if options.apply {
        drop(lock(env, root)?);
        before = verify(env, root, |_| ())?.damage.into_iter().map(Some).collect();
        // Heals what the journal still holds, and empties it: it knows places in the files that are going to move.
        open(env.clone(), root.to_path_buf(), LogSettings::default(), false)?.close()?;
    }
    let _held = lock(env, root)?;
    let directory = Directory::read(env, root)?;
    let journal = JournalContents::read(env, &directory)?;
    let mut report = RepairReport { applied: options.apply, ..RepairReport::default() };
    report.left.extend(directory.damage.iter().chain(&journal.damage).cloned());
    let mut mended = Vec::new();
    for topic in &directory.topics {
        for number in 0..topic.partitions {
            let Some(found) = survey(env, &directory, &journal, topic, number, &mut |_, _| ())? else { continue };
            if found.damage.is_empty() {
                continue;
            }
            if !can_be_mended(&found) {
                report.left.extend(found.damage);
                continue;
            }
            let mut partition = plan(root, topic, number, &found);
            if options.apply {
                mended.push(apply(env, &directory, topic, number, &found, &mut partition)?);
            }
            report.partitions.push(partition);
        }
    }
    let still_there: Vec<_> = report.partitions.iter().flat_map(|it| &it.damage).chain(&report.left).collect();
    let is_gone = |error: &Error| still_there.iter().all(|other| other.corruption() != error.corruption());
    report.by_opening = before.into_iter().flatten().filter(is_gone).collect();
    if !mended.is_empty() {
        note_in_checkpoint(env, &directory, mended)?;
        check(env, root, &report)?;
    }
    Ok(report)
}

fn lock(env: &Env, root: &Path) -> Result<Box<dyn Lock>> {
    env.storage.lock(&root.join(LOCK_NAME)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::new(
            ErrorKind::Locked,
            format!(
                "{} is open in another process, or through another handle; close it before a repair",
                root.display()
            ),
        ),
        _ => Error::io(format!("cannot lock {}", root.display()), error),
    })
}

/// Whether writing segments anew mends all of it. A footer counts offsets in 32 bits, so no segment can have a larger hole.
fn can_be_mended(found: &Survey) -> bool {
    let fits = |segment: &Surveyed| segment.place.next_offset.saturating_sub(segment.base) <= u64::from(u32::MAX);
    let spans = |segment: &Surveyed| segment.lost().all(|lost| lost.end - segment.base <= u64::from(u32::MAX));
    found.beyond_repair.is_empty() && found.segments.iter().all(|segment| fits(segment) && spans(segment))
}

/// What is to be done, in words.
fn plan(root: &Path, topic: &FoundTopic, number: u32, found: &Survey) -> PartitionRepair {
    let mut partition = PartitionRepair {
        topic: topic.name.to_string(),
        partition: number,
        damage: found.damage.clone(),
        ..PartitionRepair::default()
    };
    for segment in found.segments.iter().filter(|segment| segment.is_damaged) {
        let shown = relative(root, &segment.path);
        let name = Segment::file_name(segment.base);
        if segment.exists {
            partition.steps.push(format!("copy {} to {name}.damaged beside it", shown.display()));
        }
        let verb = if segment.exists { "write anew" } else { "make" };
        let lost: Vec<String> = segment.lost().map(|lost| offsets(&lost)).collect();
        let kept = segment.place.record_count;
        let with = match lost.as_slice() {
            [] => String::new(),
            lost => format!(", and a hole for what is lost: {}", lost.join(", ")),
        };
        let frames = segment.place.frame_count;
        partition.steps.push(format!("{verb} {} with {kept} whole records in {frames} frames{with}", shown.display()));
        partition.kept_records += kept;
        partition.lost.extend(segment.lost());
    }
    partition.steps.push("note in the checkpoint where the partition ends".to_owned());
    partition
}

fn offsets(lost: &std::ops::Range<u64>) -> String {
    match lost.end - lost.start {
        1 => format!("offset {}", lost.start),
        count => format!("offsets {} to {} ({count})", lost.start, lost.end - 1),
    }
}

/// Writes the damaged segments of a partition anew. Answers with what the checkpoint shall say of it.
fn apply(
    env: &Env,
    directory: &Directory,
    topic: &FoundTopic,
    number: u32,
    found: &Survey,
    partition: &mut PartitionRepair,
) -> Result<CheckpointEntry> {
    let owner = topic.owner(number);
    let mut place = None;
    let mut last_commit = 0;
    for segment in &found.segments {
        let mut end = segment.place;
        if segment.is_damaged {
            if segment.exists {
                partition.evidence.push(keep(env, &segment.path)?);
            }
            end = rewrite(env, &owner, directory.manifest.log_id, segment, last_commit)?;
        }
        last_commit = end.last_commit.max(last_commit);
        end.last_commit = last_commit;
        place = Some(end);
    }
    let place = place.ok_or_else(|| Error::invalid("a partition without segments cannot be repaired"))?;
    // Compaction may begin anew: that is more work, and nothing else.
    Ok(CheckpointEntry { topic_id: topic.id, partition: number, log_start: found.log_start, clean_end: 0, place })
}

/// The places in the old files mean nothing any more. An opening would find its way without them, by reading more.
fn note_in_checkpoint(env: &Env, directory: &Directory, mended: Vec<CheckpointEntry>) -> Result<()> {
    let mut entries = directory.checkpoint.clone();
    entries.extend(mended.into_iter().map(|entry| ((entry.topic_id, entry.partition), entry)));
    let checkpointed = Checkpointed { serial: directory.checkpoint_serial + 1, entries };
    checkpoint::write(env, &directory.root, directory.manifest.log_id, &checkpointed)
}

/// Reads the mended partitions again.
fn check(env: &Env, root: &Path, report: &RepairReport) -> Result<()> {
    let directory = Directory::read(env, root)?;
    let journal = JournalContents::read(env, &directory)?;
    for partition in &report.partitions {
        let Some(topic) = directory.topics.iter().find(|topic| *topic.name == partition.topic) else { continue };
        let found = survey(env, &directory, &journal, topic, partition.partition, &mut |_, _| ())?;
        if let Some(damage) = found.and_then(|found| found.damage.into_iter().next()) {
            return Err(damage);
        }
    }
    Ok(())
}
