//! The segment files of a partition as recovery finds them: what belongs to it, what an unfinished step has left, and what
//! is damaged.

use std::sync::Arc;

use super::Recovery;
use crate::error::{Corruption, Error, ErrorKind, Result};
use crate::format::FormatError;
use crate::format::checkpoint::CheckpointEntry;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::{Segment, scan};
use crate::storage::files::read_full_at;
use crate::storage::{EntryKind, File, OpenMode};

/// One segment file as recovery found it.
pub(super) struct Found {
    pub(super) segment: Segment,
    pub(super) file: Arc<dyn File>,
    pub(super) len: u64,
    pub(super) header: SegmentHeader,
}

impl Found {
    pub(super) fn is_named_by(&self, entry: &CheckpointEntry) -> bool {
        self.header.base_offset == entry.place.segment_base && self.header.incarnation == entry.place.incarnation
    }

    /// Whether there is nothing but zeros behind the header.
    pub(super) fn is_empty(&self) -> Result<bool> {
        scan::only_zeros(&self.file, SEGMENT_HEADER_BYTES as u64, self.len)
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
            } else if entry.name.ends_with(".tmp") || self.is_orphan_index(&entry.name, &entries) {
                let path = self.dir.join(&entry.name);
                storage
                    .remove_file(&path)
                    .map_err(|error| Error::io(format!("cannot remove {}", path.display()), error))?;
            }
        }
        bases.sort_unstable();
        let mut found = Vec::with_capacity(bases.len());
        for (index, base) in bases.iter().enumerate() {
            let is_last = index + 1 == bases.len();
            if self.is_torn(&bases[index..])? {
                self.set_aside(&bases[index..])?;
                break;
            }
            let opened = match self.open_segment(*base) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    return Ok(Listing { found, damaged: Some((*base, error)) });
                }
                opened => opened?,
            };
            if let Some(segment) = opened {
                // Only the newest can be in use without a record: see `remove_unused_after`. Not so the first: if it is empty
                // the records between it and the next are lost, and the partition still begins where it does.
                if is_last || found.is_empty() || !segment.is_empty()? {
                    found.push(segment);
                } else {
                    self.remove_unused(segment)?;
                }
            }
        }
        Ok(Listing { found, damaged: None })
    }

    fn is_orphan_index(&self, name: &str, entries: &[crate::storage::Entry]) -> bool {
        name.strip_suffix(".index")
            .is_some_and(|stem| !entries.iter().any(|other| other.name.strip_suffix(".log") == Some(stem)))
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
            if index == 0 && SegmentHeader::decode(header).is_ok() {
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
            Err(why @ FormatError::Newer(_)) => return Err(Error::invalid(format!("{}: {why}", path.display()))),
            other => {
                let rest_is_zero = scan::only_zeros(&file, SEGMENT_HEADER_BYTES as u64, len).map_err(failed)?;
                if other.is_err() && rest_is_zero {
                    self.env.storage.remove_file(&path).map_err(failed)?;
                    return Ok(None);
                }
                let why = other.err().unwrap_or(FormatError::Incarnation);
                return Err(self.corrupt(base, 0, why));
            }
        };
        let segment = Segment::existing(
            Arc::clone(&self.env.storage),
            Arc::clone(self.owner),
            path.clone(),
            &header,
            SEGMENT_HEADER_BYTES as u64,
            None,
        );
        Ok(Some(Found { segment, file, len, header }))
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
