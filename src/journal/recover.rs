//! Reading the journal after a crash: every whole entry, in order, to whoever writes its frames where they belong, or, where
//! nothing may be written, shows them as if they were there.

use std::path::Path;
use std::sync::Arc;

use super::{Live, file_name};
use crate::error::{Corruption, Error, Result};
use crate::format::FormatError;
use crate::format::frame::{self, FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::format::journal::{JOURNAL_HEADER_BYTES, JournalHeader, JournaledFrame, frames};
use crate::planted::{self, Bug};
use crate::segment::scan;
use crate::storage::files::{read_full_at, write_all_at};
use crate::storage::{EntryKind, Env, File, OpenMode};

/// What the journal held.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Replayed {
    /// Entries read.
    pub(crate) entries: u64,
    /// Frames in them.
    pub(crate) frames: u64,
    /// The highest commit number.
    pub(crate) last_commit: u64,
    /// Bytes of an entry that was never finished.
    pub(crate) torn_bytes: u64,
    /// Files of the ring on the disk.
    pub(crate) slots: usize,
    /// Above the sequence of any of them, needed or not: two files of one sequence could not be told apart.
    pub(crate) next_sequence: u64,
}

/// How entries are made durable that no later one proves to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durably {
    /// They are written again, as a failed sync may have left them in the cache only.
    Written,
    /// They are synced: another process may be writing.
    Synced,
}

/// A file of the ring whose header holds.
pub(super) struct Ring {
    pub(super) slot: usize,
    pub(super) header: JournalHeader,
    pub(super) file: Arc<dyn File>,
    pub(super) len: u64,
}

/// Where the reading of the newest file has ended: behind `number` entries of this and all earlier files.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: Arc<dyn File>,
    pub(super) sequence: u64,
    pub(super) incarnation: u64,
    pub(super) position: u64,
    pub(super) number: u64,
}

/// Reads the entries of the files in `live`, oldest first.
pub(crate) fn replay(
    env: &Env,
    dir: &Path,
    log_id: u128,
    live: Live,
    apply: impl FnMut(&JournaledFrame<'_>) -> Result<()>,
) -> Result<Replayed> {
    read(env, dir, log_id, live, Durably::Written, apply).map(|(replayed, _)| replayed)
}

/// [`replay`], and where it has ended if there was a file to read.
pub(super) fn read(
    env: &Env,
    dir: &Path,
    log_id: u128,
    live: Live,
    durably: Durably,
    mut apply: impl FnMut(&JournaledFrame<'_>) -> Result<()>,
) -> Result<(Replayed, Option<Place>)> {
    let (mut ring, slots) = open_ring(env, dir, log_id)?;
    let live = Live { next: uncounted(&ring, live.next)?, ..live };
    let newest = ring.iter().map(|file| file.header.sequence.saturating_add(1)).max();
    let next_sequence = live.next.max(newest.unwrap_or(0));
    let mut replayed = Replayed { slots, next_sequence, ..Replayed::default() };
    ring.retain(|file| (live.first..live.next).contains(&file.header.sequence));
    ring.sort_by_key(|file| file.header.sequence);
    for (index, sequence) in (live.first..live.next).enumerate() {
        if ring.get(index).is_none_or(|file| file.header.sequence != sequence) {
            return Err(Error::corrupt(
                format!("journal file {sequence}, which recovery needs, is missing or its header is damaged"),
                corruption(String::from("journal"), 0),
            ));
        }
    }
    let mut place = None;
    let skip = if planted::is(Bug::OldJournalIgnored) { ring.len().saturating_sub(1) } else { 0 };
    for index in skip..ring.len() {
        let next_entry = ring.get(index + 1).map(|next| next.header.first_entry);
        if let Some(file) = ring.get(index) {
            place = Some(replay_file(file, next_entry, durably, &mut replayed, &mut apply)?);
        }
    }
    Ok((replayed, place))
}

/// One past the files from `next` on that hold an entry. Each was counted by the manifest before its first entry was written:
/// the slot that did so is damaged, and the older one that recovery began from does not know of them.
fn uncounted(ring: &[Ring], mut next: u64) -> Result<u64> {
    if planted::is(Bug::JournalUncounted) {
        return Ok(next);
    }
    while let Some(file) = ring.iter().find(|file| file.header.sequence == next) {
        let bytes = read_whole(file)?;
        let first = frame::parse(bytes.get(JOURNAL_HEADER_BYTES..).unwrap_or_default(), file.header.incarnation);
        if !first.is_ok_and(|(header, _)| is_entry(&header) && header.base_offset == file.header.first_entry) {
            break;
        }
        tracing::warn!(sequence = next, "the manifest does not know of a journal file that was in use");
        next += 1;
    }
    Ok(next)
}

fn read_whole(ring: &Ring) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(ring.len).unwrap_or(usize::MAX)];
    let read = read_full_at(&*ring.file, &mut bytes, 0)
        .map_err(|error| Error::io(format!("cannot read journal/{}", file_name(ring.slot)), error))?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The files of the ring. One whose header is torn was being begun, and is free: nothing that is needed has a damaged
/// header, or it is found missing.
pub(super) fn open_ring(env: &Env, dir: &Path, log_id: u128) -> Result<(Vec<Ring>, usize)> {
    let failed = |error| Error::io(format!("cannot read {}", dir.display()), error);
    let entries = match env.storage.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(failed(error)),
    };
    let is_file = |name: &str| entries.iter().any(|entry| entry.kind == EntryKind::File && entry.name == name);
    let mut ring = Vec::new();
    let mut slots = 0;
    while is_file(&file_name(slots)) {
        let file = env.storage.open(&dir.join(file_name(slots)), OpenMode::ReadWrite).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let mut bytes = [0; JOURNAL_HEADER_BYTES];
        let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
        match JournalHeader::decode(&bytes[..read]) {
            Ok(header) if header.log_id == log_id => ring.push(Ring { slot: slots, header, file, len }),
            Err(why @ FormatError::Newer(_)) => return Err(Error::invalid(format!("{}: {why}", file_name(slots)))),
            _ => {}
        }
        slots += 1;
    }
    Ok((ring, slots))
}

fn replay_file(
    ring: &Ring,
    next_entry: Option<u64>,
    durably: Durably,
    replayed: &mut Replayed,
    apply: &mut impl FnMut(&JournaledFrame<'_>) -> Result<()>,
) -> Result<Place> {
    let name = format!("journal/{}", file_name(ring.slot));
    let failed = |error| Error::io(format!("cannot read {name}"), error);
    if ring.len < u64::from(ring.header.file_bytes) {
        // It had its length before its first entry: what is missing was not left unfinished.
        return Err(Error::corrupt(
            format!("a journal file of {} bytes was cut; it had {}", ring.len, ring.header.file_bytes),
            corruption(name, ring.len),
        ));
    }
    let bytes = read_whole(ring)?;
    let (entries, at, why) = whole_entries(ring, &bytes);
    let number = ring.header.first_entry.saturating_add(entries.len() as u64);
    if let Some(next) = next_entry.filter(|next| *next < number) {
        // No crash leaves that: the next file was begun after the last entry of this one.
        return Err(Error::corrupt(
            format!("the journal has entries {next} to {} twice", number - 1),
            corruption(name, at as u64),
        ));
    }
    // Later entries, or the next file, say up to where the entries of this one had been on the disk.
    let proven = next_entry.unwrap_or(0).max(proven_by_later(&bytes, ring, at, number));
    if why.is_from_the_future() {
        return Err(Error::corrupt(
            format!("entry {number} of the journal cannot be read: {why}"),
            corruption(name, at as u64),
        ));
    }
    if number < proven && !planted::is(Bug::RotTruncated) {
        return Err(Error::corrupt(
            format!("entries {number} to {} of the journal are damaged: {why}", proven - 1),
            corruption(name, at as u64),
        ));
    }
    // In a recycled file the last entry may end in the middle of a stale one: only what a header of this incarnation claims was
    // ever begun.
    let begun = frame::find_header(&bytes, ring.header.incarnation, at).filter(|(found, _)| *found == at);
    if let Some((_, header)) = begun.filter(|_| next_entry.is_none()) {
        let last = scan::last_nonzero(&ring.file, at as u64, ring.len).map_err(failed)?;
        replayed.torn_bytes += last.map_or(0, |last| (last - at as u64).min(header.frame_len() as u64));
    }
    if next_entry.is_none() {
        make_durable(ring, &bytes[..at], &entries, durably)?;
    }
    for (position, header) in entries {
        let body = bytes.get(position + FRAME_HEADER_BYTES..position + header.frame_len()).unwrap_or_default();
        let inner = frames(&header, body).map_err(|why| {
            Error::corrupt(format!("a journal entry is malformed: {why}"), corruption(name.clone(), position as u64))
        })?;
        for frame in inner.iter().take(if planted::is(Bug::PartialRedo) { 1 } else { usize::MAX }) {
            apply(frame)?;
        }
        replayed.entries += 1;
        replayed.frames += inner.len() as u64;
        replayed.last_commit = replayed.last_commit.max(header.commit);
    }
    let JournalHeader { sequence, incarnation, .. } = ring.header;
    Ok(Place { file: Arc::clone(&ring.file), sequence, incarnation, position: at as u64, number })
}

/// The entries that follow each other from the first on, with their positions; where they end, and why.
fn whole_entries(ring: &Ring, bytes: &[u8]) -> (Vec<(usize, FrameHeader)>, usize, FormatError) {
    let mut entries = Vec::new();
    let mut at = JOURNAL_HEADER_BYTES;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let mut incarnation = ring.header.incarnation;
        if planted::is(Bug::IncarnationIgnored) {
            incarnation = FrameHeader::decode(rest).map_or(incarnation, |header| header.incarnation);
        }
        let number = ring.header.first_entry.saturating_add(entries.len() as u64);
        match frame::parse(rest, incarnation) {
            Ok((header, _)) if is_entry(&header) && header.base_offset == number => {
                entries.push((at, header));
                at += header.frame_len();
            }
            Ok(_) => return (entries, at, FormatError::Offset),
            Err(why) => return (entries, at, why),
        }
    }
}

/// Puts the entries on the disk that no later one proves to be there, before the first of them is redone: they may be in the
/// page cache only, left there by a sync that failed, and after a power loss in the middle of the redo nobody could finish it.
/// A sync alone would not do, as the system may hold such pages for clean.
fn make_durable(ring: &Ring, bytes: &[u8], entries: &[(usize, FrameHeader)], durably: Durably) -> Result<()> {
    let proven = entries.iter().map(|(_, header)| header.durable_upto).max().unwrap_or(0);
    let Some((from, _)) = entries.iter().find(|(_, header)| header.base_offset >= proven) else { return Ok(()) };
    let written = match durably {
        Durably::Written => write_all_at(&*ring.file, &bytes[*from..], *from as u64),
        Durably::Synced => Ok(()),
    };
    written
        .and_then(|()| ring.file.sync_data())
        .map_err(|error| Error::io(format!("cannot make journal/{} durable", file_name(ring.slot)), error))
}

fn proven_by_later(bytes: &[u8], ring: &Ring, from: usize, number: u64) -> u64 {
    let mut at = from;
    while let Some((found, header)) = frame::find_header(bytes, ring.header.incarnation, at) {
        // The frames inside an entry have their segments' incarnations: what is found is an entry's header.
        if is_entry(&header) && header.durable_upto > number {
            return header.durable_upto;
        }
        at = found + 1;
    }
    0
}

pub(super) fn is_entry(header: &FrameHeader) -> bool {
    header.kind == FrameKind::Journal
}

fn corruption(file: String, position: u64) -> Corruption {
    Corruption { file, topic: None, partition: None, position, first_offset: None, next_offset: None }
}
