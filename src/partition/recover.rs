//! Opening a partition: finding its end, telling an unfinished write from damage, and making what is adopted durable.
//!
//! Everything here may be cut off by a crash at any call and run again: each step leaves files that the next run reads to the
//! same answer. The journal has been redone before.
//!
//! The same walk serves whoever may only [look]: it finds what recovery would leave, and leaves it to recovery.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Partition, PartitionConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::FormatError;
use crate::format::checkpoint::{CheckpointEntry, SegmentPlace};
use crate::planted::{self, Bug};
use crate::segment::create::{self, footer_bytes};
use crate::segment::scan::{self, ScanEnd};
use crate::segment::{Owner, Segment, Summary, first_place};
use crate::storage::files::{read_full_at, write_all_at};
use crate::storage::{Env, File};

mod adopt;
mod found;
mod look;
mod nothing;

use adopt::{Unproven, rewrite, rewrite_unproven};
use found::{Found, Listing};
use nothing::{missing, no_segment, unreachable_place};

/// What opening a partition found and did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// Bytes read beyond the checkpoint.
    pub(crate) scanned_bytes: u64,
    /// Records found beyond the checkpoint and kept.
    pub(crate) adopted_records: u64,
    /// Bytes of an unfinished write that were cut off.
    pub(crate) cut_bytes: u64,
    /// Where the cut bytes were saved.
    pub(crate) cut_saved: Vec<PathBuf>,
    /// Damage.
    pub(crate) damage: Vec<Error>,
    /// The highest commit number found.
    pub(crate) last_commit: u64,
}

/// A partition that is being opened.
struct Recovery<'a> {
    env: &'a Env,
    owner: &'a Arc<Owner>,
    config: &'a PartitionConfig,
    dir: &'a Path,
    /// The checkpoint or the journal says that everything below this offset is on the disk.
    certain: u64,
    /// The incarnation of the segment that the checkpoint names: its header is on the disk.
    settled: Option<u64>,
    /// Where that segment begins: it is in use, and so is what follows it.
    named_base: u64,
    /// Where the partition starts; `None` if what said so is lost.
    log_start: Option<u64>,
    /// Where the first file begins whose header is damaged: it is left out of the walk, with all after it.
    damaged_base: Option<u64>,
    /// Whether what is unfinished is mended. If not, another process may be writing.
    mends: bool,
    names_in_doubt: bool,
    findings: Findings,
}

/// How the walk through the files ended.
enum End {
    /// At the last frame of the last file.
    Intact,
    /// At damage that had been durable: nothing may be appended.
    Damaged(Error),
}

/// What is known of a partition before its files are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known<'a> {
    pub(crate) checkpoint: Option<&'a CheckpointEntry>,
    /// Where it starts without a checkpoint; `None` if the newest checkpoint is lost: it starts where its first file does.
    pub(crate) log_start: Option<u64>,
    /// The offset after the last frame that the journal held of it.
    pub(crate) journaled_upto: u64,
    /// Whether names of files may be in the cache only.
    pub(crate) names_in_doubt: bool,
}

/// Opens the partition in `dir`.
pub(crate) fn open(
    env: &Env,
    owner: Arc<Owner>,
    config: PartitionConfig,
    dir: PathBuf,
    known: Known<'_>,
) -> Result<(Partition, Findings)> {
    run(env, owner, config, dir, known, true)
}

/// [`open`] without a change to any file. An error of kind `NotFound` or damage may be that of a moment: a file has gone, or was
/// looked at while it was written to. The caller looks again.
pub(crate) fn look(
    env: &Env,
    owner: Arc<Owner>,
    config: PartitionConfig,
    dir: PathBuf,
    known: Known<'_>,
) -> Result<(Partition, Findings)> {
    run(env, owner, config, dir, known, false)
}

fn run(
    env: &Env,
    owner: Arc<Owner>,
    config: PartitionConfig,
    dir: PathBuf,
    known: Known<'_>,
    mends: bool,
) -> Result<(Partition, Findings)> {
    let Known { checkpoint, log_start, journaled_upto, names_in_doubt } = known;
    let settled = checkpoint.map(|entry| entry.place.incarnation);
    let certain = checkpoint.map_or(0, |entry| entry.place.next_offset).max(journaled_upto);
    let findings = Findings::default();
    let log_start = log_start.map(|start| checkpoint.map_or(start, |entry| entry.log_start));
    let mut recovery = Recovery {
        env,
        owner: &owner,
        config: &config,
        dir: &dir,
        certain,
        settled,
        named_base: checkpoint.map_or(0, |entry| entry.place.segment_base),
        log_start,
        damaged_base: None,
        mends,
        names_in_doubt,
        findings,
    };
    let Listing { mut found, damaged } = recovery.list()?;
    recovery.damaged_base = damaged.as_ref().map(|(base, _)| *base);
    let log_start = log_start.unwrap_or_else(|| found.first().map_or(0, |first| first.header.base_offset));
    let walked = match (recovery.walk(&mut found, checkpoint, log_start), damaged) {
        // What comes before a file that cannot be read is served all the same.
        (Ok((place, End::Intact)), Some((_, error))) => Ok((place, End::Damaged(error))),
        (Err(error), Some((_, damage))) if error.kind() == ErrorKind::Corrupt => Err(damage),
        (walked, _) => walked,
    };
    let (mut place, end) = match walked {
        Err(error) if error.kind() == ErrorKind::Corrupt => (unreachable_place(checkpoint), End::Damaged(error)),
        other => other?,
    };
    let mut findings = std::mem::take(&mut recovery.findings);
    findings.last_commit = findings.last_commit.max(place.last_commit);

    let found_len = found.last().map_or(0, |last| last.len);
    let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(found.len() + 1);
    segments.extend(found.into_iter().map(|found| Arc::new(found.segment)));
    recovery.drop_left_over(&mut segments, log_start)?;
    let needs_new = segments.last().is_none_or(|last| last.is_sealed());
    if needs_new && matches!(end, End::Intact) && mends {
        let segment = create::create(env, &dir, &owner, config.log_id, place.next_offset, true)?;
        place = first_place(segment.base_offset, segment.incarnation);
        segments.push(Arc::new(segment));
    }
    let active = match segments.last() {
        Some(last) => Arc::clone(last),
        None => Arc::new(no_segment(env, &owner, &dir)),
    };
    let log_start = log_start.max(segments.first().map_or(0, |first| first.base_offset));
    let partition = Partition::new(env.clone(), owner, config, dir, segments, active, place, log_start);
    if !mends {
        partition.only_read(certain);
    } else if !needs_new {
        partition.has_room_behind(found_len);
    }
    partition.set_clean_end(checkpoint.map_or(0, |entry| entry.clean_end).min(partition.visible_end()));
    if let End::Damaged(error) = end {
        findings.damage.push(error.clone());
        partition.fail(error);
    }
    Ok((partition, findings))
}

impl Recovery<'_> {
    /// Walks the files from the checkpoint on to the end.
    fn walk(
        &mut self,
        found: &mut Vec<Found>,
        checkpoint: Option<&CheckpointEntry>,
        log_start: u64,
    ) -> Result<(SegmentPlace, End)> {
        let Some(first) = found.first() else {
            // Nothing was ever written, or everything has gone.
            if self.certain > log_start {
                return Err(missing(self.owner, log_start, "the partition's segments are missing"));
            }
            return Ok((first_place(log_start, 0), End::Intact));
        };
        if first.header.base_offset > log_start {
            return Err(missing(self.owner, log_start, "the partition's first segment is missing"));
        }
        // Without the file that the checkpoint names, the walk goes as far as the files before it do.
        let checkpoint = checkpoint.filter(|entry| found.iter().any(|found| found.is_named_by(entry)));
        let start = self.start(found, checkpoint)?;
        for index in 0..start {
            self.open_sealed(found, index)?;
        }
        let mut place = match checkpoint {
            Some(entry) => entry.place,
            None => found
                .get(start)
                .map_or(first_place(0, 0), |at| first_place(at.header.base_offset, at.header.incarnation)),
        };
        // The offset below which frames themselves say that they are on the disk.
        let mut proven = self.certain;
        let mut index = start;
        while index < found.len() {
            if index > start {
                let Some(at) = found.get(index) else { break };
                place = SegmentPlace {
                    last_commit: place.last_commit,
                    ..first_place(at.header.base_offset, at.header.incarnation)
                };
            }
            let end = self.walk_segment(found, index, &mut place, &mut proven)?;
            if let Some(damaged) = end {
                return Ok((place, End::Damaged(damaged)));
            }
            index += 1;
        }
        if place.next_offset < self.certain {
            let error =
                missing(self.owner, place.next_offset, "the partition ends before records that were on the disk");
            return Ok((place, End::Damaged(error)));
        }
        Ok((place, End::Intact))
    }

    /// Which file the walk begins in: the checkpoint's, else the first that a synced partition has not sealed.
    fn start(&mut self, found: &[Found], checkpoint: Option<&CheckpointEntry>) -> Result<usize> {
        if let Some(entry) = checkpoint {
            return Ok(found.iter().position(|found| found.is_named_by(entry)).unwrap_or_default());
        }
        if !self.config.synced && !planted::is(Bug::FooterBelieved) {
            // A footer may have reached the disk before the records that it closes.
            return Ok(0);
        }
        for (index, found) in found.iter().enumerate() {
            let sealed = scan::footer(&found.file()?, found.header.incarnation, found.len)
                .map_err(|error| Error::io("cannot read a segment's footer", error))?;
            if sealed.is_none() {
                return Ok(index);
            }
        }
        Ok(found.len().saturating_sub(1))
    }

    /// Where the file after this one begins, be it damaged.
    fn next_base(&self, found: &[Found], index: usize) -> Option<u64> {
        found.get(index + 1).map(|next| next.header.base_offset).or(self.damaged_base)
    }

    /// Takes a segment before the checkpoint as its footer describes it. Without one its frames' headers are walked; damage
    /// there is met, and reported, by whoever reads it.
    fn open_sealed(&mut self, found: &mut [Found], index: usize) -> Result<()> {
        let next_base = self.next_base(found, index);
        let Some(at) = found.get(index) else { return Ok(()) };
        let (Found { segment, len, header }, file) = (at, &at.file()?);
        let failed = |error| segment.io("read", error);
        if let Some((frame, footer, position)) = scan::footer(file, header.incarnation, *len).map_err(failed)? {
            segment.set_readable(position);
            segment.reset_index(position);
            segment.set_sealed(Summary {
                next_offset: frame.next_offset(),
                max_timestamp: frame.max_timestamp,
                last_commit: footer.last_commit,
                record_count: footer.record_count,
            });
            return Ok(());
        }
        let mut place = first_place(header.base_offset, header.incarnation);
        scan::headers(file, &mut place, *len, |_, _| {}).map_err(failed)?;
        if next_base.is_some_and(|base| base != place.next_offset) {
            let error =
                segment.corrupt(FormatError::HeaderChecksum, place.position, Some(place.next_offset), next_base);
            self.findings.damage.push(error);
        }
        segment.set_readable(place.position);
        segment.reset_index(place.position);
        // Where the walk came to the end, so did the largest time; else nobody may think that the segment is old.
        let whole = next_base.is_none_or(|base| base == place.next_offset);
        let max_timestamp = if whole { place.max_timestamp } else { i64::MAX };
        segment.set_sealed(Summary { max_timestamp, ..Summary::of(&place) });
        Ok(())
    }

    /// Walks one file from `place`. Answers with the damage if the partition must not be appended to.
    fn walk_segment(
        &mut self,
        found: &mut Vec<Found>,
        index: usize,
        place: &mut SegmentPlace,
        proven: &mut u64,
    ) -> Result<Option<Error>> {
        let Some(at) = found.get(index) else { return Ok(None) };
        let (Found { segment, len, .. }, file, from) = (at, at.file()?, place.position);
        let len = *len;
        segment.set_readable(from);
        segment.reset_index(from);
        segment.index().set_max_timestamp(place.max_timestamp);
        if len < from {
            let why = segment.corrupt(FormatError::Short, len, None, Some(place.next_offset));
            return Ok(Some(why));
        }
        let mut unproven = Unproven::default();
        let records_before = place.record_count;
        let scanned = {
            let mut index = segment.index();
            scan::frames(&file, place, len, |position, header| {
                index.note(position, header);
                *proven = (*proven).max(header.durable_upto);
                unproven.note(position, header, *proven);
            })
        };
        let end = scanned.map_err(|error| segment.io("read", error))?;
        self.findings.scanned_bytes += place.position - from;
        self.findings.adopted_records += place.record_count - records_before;
        segment.set_readable(place.position);
        segment.note_records(place.record_count, place.next_offset);
        self.remove_unused_after(found, index, place)?;
        if !self.mends {
            return self.take_as_it_is(found, index, place, end, unproven, proven);
        }
        let Some(Found { segment, .. }) = found.get(index) else { return Ok(None) };
        let next_base = self.next_base(found, index);
        let continues = next_base.is_none_or(|base| base == place.next_offset);
        if let Some(base) = next_base.filter(|_| continues && self.config.synced) {
            // A synced partition begins a file only once all before it is on the disk.
            *proven = (*proven).max(base);
        }
        if planted::is(Bug::AdoptedTailNotSynced) {
            unproven = Unproven::default();
        }
        if end == ScanEnd::Sealed && continues {
            if rewrite_unproven(&file, place, unproven, *proven).map_err(|error| segment.io("rewrite", error))? {
                file.sync_data().map_err(|error| segment.io("sync", error))?;
            }
            segment.set_sealed(Summary::of(place));
            return Ok(None);
        }
        // Where the next file goes on with the next offset, all that can be damaged here is the footer.
        let only_footer = next_base.is_some() && continues && !planted::is(Bug::TornFooterCuts);
        if !only_footer && (end != ScanEnd::Clean || !continues) {
            if let Some(rot) = self.rot(found, index, place, end)? {
                return Ok(Some(rot));
            }
            self.cut(found, index, place, len)?;
        }
        let Some(Found { segment, .. }) = found.get(index) else { return Ok(None) };
        // Zeros are room that was made ahead, if no file follows: nobody takes them for anything else.
        let is_room = end == ScanEnd::Clean && next_base.is_none();
        self.make_durable(segment, &file, place, unproven, if is_room { place.position } else { len }, *proven)?;
        if index + 1 < found.len() {
            self.reseal(segment, &file, place)?;
        }
        Ok(None)
    }

    /// Whether what lies behind the end of the walk had been on the disk: then it was damaged, not left unfinished.
    fn rot(&self, found: &[Found], index: usize, place: &SegmentPlace, end: ScanEnd) -> Result<Option<Error>> {
        if planted::is(Bug::RotTruncated) || planted::is(Bug::ResyncPastHole) {
            return Ok(None);
        }
        let Some(at) = found.get(index) else { return Ok(None) };
        let (Found { segment, len, header }, file) = (at, &at.file()?);
        let failed = |error| segment.io("read", error);
        let why = if let ScanEnd::Damaged(why) = end { why } else { FormatError::Offset };
        if header.compacted {
            // It was whole on the disk before it got its name.
            let next = self.next_base(found, index);
            return Ok(Some(segment.corrupt(why, place.position, Some(place.next_offset), next)));
        }
        if why.is_from_the_future() {
            // Intact, and of this file: whatever it is, it was not left unfinished.
            return Ok(Some(segment.corrupt(why, place.position, Some(place.next_offset), None)));
        }
        let mut proof =
            scan::proof_of_rot(file, place.incarnation, place.next_offset, place.position, *len).map_err(failed)?;
        for later in found.iter().skip(index + 1) {
            if proof.is_none() {
                proof = scan::proof_of_rot(&later.file()?, later.header.incarnation, place.next_offset, 0, later.len)
                    .map_err(failed)?;
            }
        }
        // A synced partition begins a file only once all before it is on the disk.
        let next_base = self.next_base(found, index);
        let begun = next_base.filter(|base| self.config.synced && *base > place.next_offset);
        let certain = Some(self.certain).filter(|certain| *certain > place.next_offset);
        let next = proof.map(|(_, header)| header.base_offset).or(begun).or(certain);
        Ok(next.map(|next| segment.corrupt(why, place.position, Some(place.next_offset), Some(next))))
    }

    /// Removes the files that a rotation left which failed after it had made them: the old file stayed in use, so they
    /// begin inside it, and hold nothing.
    fn remove_unused_after(&self, found: &mut Vec<Found>, index: usize, place: &SegmentPlace) -> Result<()> {
        while let Some(next) = found.get(index + 1) {
            if next.header.base_offset >= place.next_offset || !next.is_empty()? {
                break;
            }
            self.remove_unused(found.remove(index + 1))?;
        }
        Ok(())
    }

    fn remove_unused(&self, unused: Found) -> Result<()> {
        if !self.mends {
            return Ok(());
        }
        self.env.storage.remove_file(unused.segment.path()).map_err(|error| unused.segment.io("remove", error))
    }

    /// Takes an unfinished write away: saves what it left, then cuts the file, and sets later files aside.
    fn cut(&mut self, found: &mut Vec<Found>, index: usize, place: &SegmentPlace, len: u64) -> Result<()> {
        if found.len() > index + 1 {
            let later: Vec<u64> = found.iter().skip(index + 1).map(|later| later.header.base_offset).collect();
            self.findings.cut_bytes += found.drain(index + 1..).map(|later| later.len).sum::<u64>();
            self.set_aside(&later)?;
        }
        let Some(at) = found.get(index) else { return Ok(()) };
        let (Found { segment, .. }, file) = (at, &at.file()?);
        let failed = |error| segment.io("cut the unfinished end of", error);
        let Some(last) = scan::last_nonzero(file, place.position, len).map_err(failed)? else { return Ok(()) };
        let mut bytes = vec![0; usize::try_from(last - place.position).unwrap_or(usize::MAX)];
        let read = read_full_at(&**file, &mut bytes, place.position).map_err(failed)?;
        bytes.truncate(read);
        self.findings.cut_bytes += bytes.len() as u64;
        if planted::is(Bug::CutNotSaved) {
            return Ok(());
        }
        let name = format!("{:020}-{}.torn", place.segment_base, place.position);
        crate::storage::files::replace_file(&*self.env.storage, self.dir, &name, &bytes).map_err(failed)?;
        self.findings.cut_saved.push(self.dir.join(name));
        Ok(())
    }

    /// Cuts the file behind the last frame and puts what is adopted on the disk. A sync alone is not enough: the pages may be
    /// those of a failed sync, which the system holds for clean though the disk never got them. So they are written again.
    fn make_durable(
        &self,
        segment: &Segment,
        file: &Arc<dyn File>,
        place: &SegmentPlace,
        unproven: Unproven,
        len: u64,
        proven: u64,
    ) -> Result<()> {
        let failed = |error| segment.io("make durable what was found in", error);
        let mut rewritten = rewrite_unproven(file, place, unproven, proven).map_err(failed)?;
        if place.frame_count == 0 && !self.config.synced && self.settled != Some(segment.incarnation) {
            // A relaxed partition does not sync the header of a new segment, and the checkpoint will name this one.
            rewrite(&**file, 0, place.position).map_err(failed)?;
            rewritten = true;
        }
        if len != place.position {
            file.set_len(place.position).map_err(failed)?;
        }
        if rewritten || len != place.position {
            file.sync_data().map_err(failed)?;
        }
        Ok(())
    }

    /// Seals a segment that another one follows, as its rotation would have.
    fn reseal(&self, segment: &Segment, file: &Arc<dyn File>, place: &SegmentPlace) -> Result<()> {
        let sealed = footer_bytes(place, place.next_offset);
        let write = || -> io::Result<()> {
            write_all_at(&**file, &sealed, place.position)?;
            file.sync_data()
        };
        write().map_err(|error| segment.io("seal", error))?;
        segment.set_sealed(Summary::of(place));
        Ok(())
    }
}
