//! The segment files of a partition as recovery finds them: what belongs to it, what an unfinished step has left, and what
//! is damaged.

use std::io;
use std::sync::Arc;

use super::Recovery;
use crate::error::{Corruption, Error, ErrorKind, Result};
use crate::format::FormatError;
use crate::format::checkpoint::CheckpointEntry;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::segment::{FOOTER_BODY_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::planted::{self, Bug};
use crate::segment::scan::{self, ScanEnd};
use crate::segment::{Segment, first_place};
use crate::storage::files::read_full_at;
use crate::storage::{EntryKind, File, OpenMode};

/// One segment file as recovery found it.
pub(super) struct Found {
    pub(super) segment: Segment,
    pub(super) len: u64,
    pub(super) header: SegmentHeader,
}

impl Found {
    pub(super) fn is_named_by(&self, entry: &CheckpointEntry) -> bool {
        self.header.base_offset == entry.place.segment_base && self.header.incarnation == entry.place.incarnation
    }

    /// The file. It may have been closed and be opened again: a partition has more of them than a process may have open.
    pub(super) fn file(&self) -> Result<Arc<dyn File>> {
        self.segment.file()
    }

    /// The end of what a compacted file stands for: whatever begins below was left when its inputs were removed. A damaged
    /// one stands for nothing.
    fn stands_up_to(&self) -> Result<u64> {
        if !self.header.compacted {
            return Ok(0);
        }
        let footer = scan::footer(&self.file()?, self.header.incarnation, self.len)
            .map_err(|error| self.segment.io("read the footer of", error))?;
        Ok(footer.map_or(0, |(footer, ..)| footer.next_offset()))
    }

    /// Whether there is nothing but zeros behind the header.
    pub(super) fn is_empty(&self) -> Result<bool> {
        scan::only_zeros(&self.file()?, SEGMENT_HEADER_BYTES as u64, self.len)
            .map_err(|error| self.segment.io("read", error))
    }
}

/// The files that can be read, in order, and where the first begins that cannot, with what is wrong with it.
pub(super) struct Listing {
    pub(super) found: Vec<Found>,
    pub(super) damaged: Option<(u64, Error)>,
}

impl Recovery<'_> {
    /// The segment files in order. What an unfinished step left behind is removed.
    pub(super) fn list(&mut self) -> Result<Listing> {
        let storage = &*self.env.storage;
        let failed = |error| Error::io(format!("cannot list {}", self.dir.display()), error);
        let entries = storage.list(self.dir).map_err(failed)?;
        let mut bases = Vec::new();
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::File) {
            if let Some(base) = Segment::parse_file_name(&entry.name) {
                bases.push(base);
            } else if !self.mends {
                // The writer's.
            } else if entry.name.ends_with(".tmp") || self.is_orphan_index(&entry.name, &entries) {
                let path = self.dir.join(&entry.name);
                storage
                    .remove_file(&path)
                    .map_err(|error| Error::io(format!("cannot remove {}", path.display()), error))?;
            }
        }
        bases.sort_unstable();
        self.remove_left_over(&mut bases)?;
        let mut found = Vec::with_capacity(bases.len());
        // Where the last compacted file ends.
        let mut covered = 0;
        let mut names_are_durable = planted::is(Bug::SupersededRemovedEarly);
        for (index, base) in bases.iter().enumerate() {
            let is_last = index + 1 == bases.len();
            if *base < covered && !planted::is(Bug::SupersededNotRemoved) {
                if !self.mends {
                    continue;
                }
                if !names_are_durable {
                    self.sync_dir()?;
                    names_are_durable = true;
                }
                self.remove(*base)?;
                continue;
            }
            if self.is_torn(&bases[index..])? {
                self.set_aside(&bases[index..])?;
                break;
            }
            let opened = match self.open_segment(*base) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.adopt_names(&found)?;
                    return Ok(Listing { found, damaged: Some((*base, error)) });
                }
                opened => opened?,
            };
            if let Some(segment) = opened {
                covered = segment.stands_up_to()?;
                // Only the newest can be in use without a record: see `remove_unused_after`. Not so the first: if it is empty
                // the records between it and the next are lost, and the partition still begins where it does.
                if is_last || found.is_empty() || !segment.is_empty()? {
                    found.push(segment);
                } else {
                    self.remove_unused(segment)?;
                }
            }
        }
        self.adopt_names(&found)?;
        Ok(Listing { found, damaged: None })
    }

    /// Makes the names durable that are built upon from here on. That of a file which the checkpoint names is, and so is that of the
    /// first file, which comes before its topic; unless a compaction has put another file there.
    fn adopt_names(&self, found: &[Found]) -> Result<()> {
        let is_newer = found.last().is_some_and(|last| last.header.base_offset > self.named_base);
        let is_in_doubt = self.names_in_doubt && (is_newer || found.iter().any(|found| found.header.compacted));
        if is_in_doubt && self.mends && !planted::is(Bug::NamesNotAdopted) { self.sync_dir() } else { Ok(()) }
    }

    /// Removes, oldest first, what was to go when the log start was raised. Any of these files may be there or not.
    fn remove_left_over(&self, bases: &mut Vec<u64>) -> Result<()> {
        let log_start = self.log_start.filter(|_| !planted::is(Bug::LeftoversKept)).unwrap_or(0);
        let below = bases.windows(2).take_while(|pair| matches!(pair, [_, next] if *next <= log_start)).count();
        let mut gone = 0;
        for base in bases.iter().take(below) {
            // Where the next file begins does not tell where this one ends: that may be one that this one stands for, or one
            // that was never used, whose removal a power loss has undone.
            let is_below = *base < self.named_base && self.end_of(*base)? <= log_start;
            if !is_below && !planted::is(Bug::EndOfLeftoverGuessed) {
                break;
            }
            gone += 1;
        }
        let gone = bases.drain(..gone);
        if !self.mends {
            return Ok(());
        }
        gone.into_iter().try_for_each(|base| self.remove(base))
    }

    /// Removes what lies below the log start and was needed up to here: the file that the checkpoint names, from before the log
    /// start was raised to its end.
    pub(super) fn drop_left_over(&self, segments: &mut Vec<Arc<Segment>>, log_start: u64) -> Result<()> {
        let is_below = |segment: &Segment| segment.summary().is_some_and(|summary| summary.next_offset <= log_start);
        while let [first, second, ..] = &segments[..]
            && second.base_offset <= log_start
            && is_below(first)
        {
            let first = segments.remove(0);
            if self.mends {
                self.remove(first.base_offset)?;
            }
        }
        Ok(())
    }

    /// Where a sealed file ends, be its footer lost or torn; the highest offset if something else is wrong with it.
    fn end_of(&self, base: u64) -> Result<u64> {
        let path = self.dir.join(Segment::file_name(base));
        let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
        let file = self.env.storage.open(&path, OpenMode::Read).map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
        let Ok(header) = SegmentHeader::decode(&bytes[..read]) else { return Ok(u64::MAX) };
        let len = file.len().map_err(failed)?;
        if let Some((footer, ..)) = scan::footer(&file, header.incarnation, len).map_err(failed)? {
            return Ok(footer.next_offset());
        }
        let mut place = first_place(base, header.incarnation);
        let end = scan::frames(&file, &mut place, len, |_, _| {}).map_err(failed)?;
        let last = scan::last_nonzero(&file, place.position, len).map_err(failed)?.unwrap_or(0);
        let footer_end = place.position + (FRAME_HEADER_BYTES + FOOTER_BODY_BYTES) as u64;
        let is_whole = end == ScanEnd::Sealed || last <= footer_end && !header.compacted;
        Ok(if is_whole { place.next_offset } else { u64::MAX })
    }

    fn is_orphan_index(&self, name: &str, entries: &[crate::storage::Entry]) -> bool {
        name.strip_suffix(".index")
            .is_some_and(|stem| !entries.iter().any(|other| other.name.strip_suffix(".log") == Some(stem)))
    }

    /// Removes a file that is of no use any more, with its index.
    fn remove(&self, base: u64) -> Result<()> {
        let path = self.dir.join(Segment::file_name(base));
        for path in [path.with_extension("index"), path] {
            match self.env.storage.remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("cannot remove {}", path.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the header of the first of these files was never finished, though records follow it. A relaxed partition
    /// syncs neither; what proves them to have been on the disk makes it damage.
    fn is_torn(&self, bases: &[u64]) -> Result<bool> {
        let Some(base) = bases.first().filter(|base| !self.config.synced && **base >= self.certain) else {
            return Ok(false);
        };
        let mut files = Vec::with_capacity(bases.len());
        for (index, base) in bases.iter().enumerate() {
            let path = self.dir.join(Segment::file_name(*base));
            let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
            let file = self.env.storage.open(&path, OpenMode::Read).map_err(failed)?;
            let mut bytes = [0; SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES];
            let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
            let (header, frame) = bytes[..read].split_at(read.min(SEGMENT_HEADER_BYTES));
            if index == 0 && SegmentHeader::decode(header).err().is_none_or(FormatError::is_from_the_future) {
                return Ok(false);
            }
            let incarnation = FrameHeader::decode(frame).map(|frame| frame.incarnation);
            let len = file.len().map_err(failed)?;
            files.extend(incarnation.ok().map(|incarnation| (file, incarnation, len)));
        }
        for (file, incarnation, len) in files {
            let proof = scan::proof_of_rot(&file, incarnation, *base, 0, len);
            if proof.map_err(|error| Error::io(format!("cannot read {}", self.dir.display()), error))?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn set_aside(&mut self, bases: &[u64]) -> Result<()> {
        if !self.mends {
            return Ok(());
        }
        for base in bases {
            let path = self.dir.join(Segment::file_name(*base));
            let aside = path.with_extension("log.torn");
            self.env
                .storage
                .rename(&path, &aside)
                .map_err(|error| Error::io(format!("cannot set {} aside", path.display()), error))?;
            self.findings.cut_saved.push(aside);
        }
        self.sync_dir()
    }

    /// A file that comes back under its old name after a power loss would cut off what is written from here on.
    fn sync_dir(&self) -> Result<()> {
        let synced = self.env.storage.sync_dir(self.dir);
        synced.map_err(|error| Error::io(format!("cannot sync the directory {}", self.dir.display()), error))
    }

    /// Opens a segment file and checks that it is the one that its name says. It may be one whose creation was cut off: it
    /// was never used, and is removed.
    fn open_segment(&mut self, base: u64) -> Result<Option<Found>> {
        let path = self.dir.join(Segment::file_name(base));
        let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
        let file = self.env.storage.open(&path, OpenMode::ReadWrite).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
        let header = match SegmentHeader::decode(&bytes[..read]) {
            Ok(header) if self.is_ours(&header, base) => header,
            Err(why) if why.is_from_the_future() => return Err(Error::invalid(format!("{}: {why}", path.display()))),
            other => {
                let rest_is_zero = scan::only_zeros(&file, SEGMENT_HEADER_BYTES as u64, len).map_err(failed)?;
                if other.is_err() && rest_is_zero {
                    if self.mends {
                        self.env.storage.remove_file(&path).map_err(failed)?;
                    }
                    return Ok(None);
                }
                let why = other.err().unwrap_or(FormatError::Incarnation);
                return Err(self.corrupt(base, 0, why));
            }
        };
        let segment = Segment::existing(
            self.env,
            Arc::clone(self.owner),
            path.clone(),
            &header,
            SEGMENT_HEADER_BYTES as u64,
            None,
        );
        segment.adopt_file(file);
        Ok(Some(Found { segment, len, header }))
    }

    fn is_ours(&self, header: &SegmentHeader, base: u64) -> bool {
        header.log_id == self.config.log_id
            && header.topic_id == self.owner.topic_id
            && header.partition == self.owner.partition
            && header.base_offset == base
    }

    fn corrupt(&self, base: u64, position: u64, why: FormatError) -> Error {
        Error::corrupt(
            format!("a segment's header is damaged or is another file's: {why}"),
            Corruption {
                file: format!("topics/{}/{}/{}", self.owner.topic, self.owner.partition, Segment::file_name(base)),
                topic: Some(self.owner.topic.to_string()),
                partition: Some(self.owner.partition),
                position,
                first_offset: Some(base),
                next_offset: None,
            },
        )
    }
}
