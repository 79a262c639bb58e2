//! Reading everything with every check.

use std::path::Path;

use super::directory::{Directory, FoundTopic};
use super::journal::JournalContents;
use super::partition::{Survey, survey};
use super::report::{VerifyProgress, VerifyReport};
use crate::error::Result;
use crate::segment::Segment;
use crate::storage::{EntryKind, Env, OpenMode};

/// How many bytes are read between two calls of the caller's progress.
const PROGRESS_BYTES: u64 = 1 << 20;

pub(crate) fn verify(env: &Env, root: &Path, on_progress: impl FnMut(&VerifyProgress)) -> Result<VerifyReport> {
    let directory = Directory::read(env, root)?;
    let journal = JournalContents::read(env, &directory)?;
    let mut verifier = Verifier {
        env,
        root,
        on_progress,
        progress: VerifyProgress { bytes_total: bytes_total(env, &directory), ..VerifyProgress::default() },
        report: VerifyReport {
            notes: directory.notes.clone(),
            damage: directory
                .mended_by_opening
                .iter()
                .chain(&directory.damage)
                .chain(&journal.damage)
                .cloned()
                .collect(),
            journal_entries: journal.entries,
            topics: directory.topics.len(),
            ..VerifyReport::default()
        },
    };
    for topic in &directory.topics {
        for number in 0..topic.partitions {
            verifier.partition(&directory, &journal, topic, number)?;
        }
    }
    verifier.tell();
    Ok(verifier.report)
}

struct Verifier<'a, F> {
    env: &'a Env,
    root: &'a Path,
    on_progress: F,
    progress: VerifyProgress,
    report: VerifyReport,
}

impl<F: FnMut(&VerifyProgress)> Verifier<'_, F> {
    fn partition(
        &mut self,
        directory: &Directory,
        journal: &JournalContents,
        topic: &FoundTopic,
        number: u32,
    ) -> Result<()> {
        self.progress.topic.clear();
        self.progress.topic.push_str(&topic.name);
        self.progress.partition = number;
        self.tell();
        let before = (self.progress.bytes_done, self.progress.records);
        let Some(mut found) = self.survey(directory, journal, topic, number)? else { return Ok(()) };
        if !found.damage.is_empty() {
            // A program that removes old segments may have done so between two looks of ours: what is damaged stays so.
            (self.progress.bytes_done, self.progress.records) = before;
            let directory = Directory::read(self.env, self.root)?;
            let journal = JournalContents::read(self.env, &directory)?;
            let Some(again) = directory.topics.iter().find(|again| again.id == topic.id) else { return Ok(()) };
            match self.survey(&directory, &journal, again, number)? {
                Some(second) => found = second,
                None => return Ok(()),
            }
        }
        self.add(found);
        Ok(())
    }

    fn survey(
        &mut self,
        directory: &Directory,
        journal: &JournalContents,
        topic: &FoundTopic,
        number: u32,
    ) -> Result<Option<Survey>> {
        let (progress, on_progress) = (&mut self.progress, &mut self.on_progress);
        let mut told = progress.bytes_done;
        survey(self.env, directory, journal, topic, number, &mut |bytes, records| {
            progress.bytes_done += bytes;
            progress.records += records;
            if progress.bytes_done - told >= PROGRESS_BYTES {
                told = progress.bytes_done;
                progress.bytes_total = progress.bytes_total.max(told);
                on_progress(progress);
            }
        })
    }

    fn add(&mut self, survey: Survey) {
        let report = &mut self.report;
        report.partitions += 1;
        report.segments += survey.segments.iter().filter(|segment| segment.exists).count();
        for segment in &survey.segments {
            report.frames += segment.place.frame_count;
            report.records += segment.place.record_count;
        }
        report.bytes += survey.bytes;
        report.absent_offsets += survey.absent_offsets;
        report.notes.extend(survey.notes);
        report.damage.extend(survey.damage);
        self.progress.damage = self.report.damage.len();
    }

    fn tell(&mut self) {
        self.progress.bytes_total = self.progress.bytes_total.max(self.progress.bytes_done);
        (self.on_progress)(&self.progress);
    }
}

/// The size of all segments, for showing how far the work has come: what cannot be looked at does not count.
fn bytes_total(env: &Env, directory: &Directory) -> u64 {
    let mut total = 0;
    for topic in &directory.topics {
        for number in 0..topic.partitions {
            let dir = topic.partition_dir(number);
            for entry in env.storage.list(&dir).unwrap_or_default() {
                if entry.kind == EntryKind::File && Segment::parse_file_name(&entry.name).is_some() {
                    let file = env.storage.open(&dir.join(&entry.name), OpenMode::Read);
                    total += file.and_then(|file| file.len()).unwrap_or(0);
                }
            }
        }
    }
    total
}
