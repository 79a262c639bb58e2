//! The segment files of a partition, as recovery would list them: without what an unfinished step has left.

use std::io;

use super::partition::Surveyor;
use super::segment::{SegmentFile, corrupt, unreadable};
use crate::error::{Error, Result};
use crate::format::FormatError;
use crate::segment::{Segment, scan};
use crate::storage::EntryKind;

impl Surveyor<'_, '_> {
    /// Finds the files. `false` if there is no directory.
    pub(super) fn list(&mut self) -> Result<bool> {
        let entries = match self.env.storage.list(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let what = "the partition's directory is missing";
                let error = corrupt(&self.owner, self.survey.log_start, what, 0, (self.survey.log_start, None));
                self.survey.beyond_repair.push(error.clone());
                self.survey.damage.push(error);
                return Ok(false);
            }
            Err(error) => return Err(Error::io(format!("cannot list {}", self.dir.display()), error)),
        };
        let files = entries.iter().filter(|entry| entry.kind == EntryKind::File);
        let aside = [".torn", ".journaled", ".damaged"];
        let kept = files.clone().filter(|entry| aside.iter().any(|suffix| entry.name.contains(suffix))).count();
        if kept > 0 {
            self.note(&format!("{kept} files are kept aside (.torn, .journaled, .damaged)"));
        }
        let mut bases: Vec<u64> = files.filter_map(|entry| Segment::parse_file_name(&entry.name)).collect();
        bases.sort_unstable();
        self.pass_over_left_over(&mut bases);
        for (index, base) in bases.iter().enumerate() {
            let opened = SegmentFile::open(self.env, &self.dir, *base, self.log_id, &self.owner)?;
            let Some(mut file) = opened else { continue };
            if let Some((_, frame)) = self.journaled(&file, 0) {
                // An opening writes to it first.
                file.is_empty = false;
                if file.why.is_some_and(|why| why != FormatError::Incarnation) {
                    file.incarnation.get_or_insert(frame.header.incarnation);
                }
            }
            let is_last = index + 1 == bases.len();
            if file.why.is_some_and(|why| why != FormatError::Incarnation) && file.is_empty {
                self.note(&format!("{} was never begun; the next opening removes it", Segment::file_name(*base)));
            } else if file.is_empty && !is_last && !self.files.is_empty() {
                // What a rotation left that failed: see recovery.
            } else if file.why.is_some() && self.is_torn(&file, &bases[index + 1..])? {
                self.note(&format!(
                    "{} was never finished; the next opening sets it aside with all after it",
                    Segment::file_name(*base)
                ));
                break;
            } else if self.is_inside_the_last(*base)? {
                self.note(&format!("{} is left over; the next opening removes it", Segment::file_name(*base)));
            } else {
                self.files.push(file);
            }
        }
        Ok(true)
    }

    /// Files that lie below the log start were to go when it was raised. Without what says where it is, the first file does.
    fn pass_over_left_over(&mut self, bases: &mut Vec<u64>) {
        let first = bases.first().copied().unwrap_or(0);
        let log_start = *self.log_start.get_or_insert(first);
        self.survey.log_start = log_start;
        let below = bases.windows(2).take_while(|pair| matches!(pair, [_, next] if *next <= log_start)).count();
        if below > 0 {
            self.note(&format!("{below} files lie below the log start; the next opening removes them"));
            bases.drain(..below);
        }
    }

    /// Whether the file begins inside of the one before it, which a compaction has put into the place of several.
    fn is_inside_the_last(&self, base: u64) -> Result<bool> {
        let Some(last) = self.files.last().filter(|last| last.is_compacted) else { return Ok(false) };
        let Some(incarnation) = last.incarnation else { return Ok(false) };
        let footer = scan::footer(&last.handle(self.env)?, incarnation, last.len);
        let footer = footer.map_err(|error| unreadable(&last.path, error))?;
        Ok(footer.is_some_and(|(header, _, _)| base < header.next_offset()))
    }

    /// Whether nothing proves that the header of a relaxed partition's segment had ever been on the disk.
    fn is_torn(&self, first: &SegmentFile, later: &[u64]) -> Result<bool> {
        if self.synced || first.base < self.certain || first.why == Some(FormatError::Incarnation) {
            return Ok(false);
        }
        let mut later = later.iter();
        let mut file = Some(first.clone());
        loop {
            if let Some(file) = &file
                && let Some(incarnation) = file.incarnation
            {
                let proof = scan::proof_of_rot(&file.handle(self.env)?, incarnation, first.base, 0, file.len);
                if proof.map_err(|error| unreadable(&file.path, error))?.is_some() {
                    return Ok(false);
                }
            }
            let Some(base) = later.next() else { return Ok(true) };
            file = SegmentFile::open(self.env, &self.dir, *base, self.log_id, &self.owner)?;
        }
    }
}
