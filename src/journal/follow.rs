//! Reading the journal of a log that another process writes: what is there, then what is added.

use std::path::{Path, PathBuf};

use super::Live;
use super::recover::{Durably, Place, Replayed, Ring, is_entry, open_ring, read};
use crate::error::{Error, Result};
use crate::format::frame::{self, FRAME_HEADER_BYTES, FrameHeader};
use crate::format::journal::{JOURNAL_HEADER_BYTES, JournaledFrame, frames};
use crate::planted::{self, Bug};
use crate::storage::Env;
use crate::storage::files::read_full_at;

/// How far the journal was read.
#[derive(Debug)]
pub(crate) struct Follower {
    dir: PathBuf,
    log_id: u128,
    place: Option<Place>,
    /// The sequence number of the file that is read after this one.
    next: u64,
    /// The oldest file that the last reading has read in.
    needed: u64,
    /// A sync has failed: what the journal holds is not known to be on the disk, and trying again would not tell.
    failed: bool,
}

impl Follower {
    /// Reads all that recovery would, and changes nothing.
    pub(crate) fn begin(
        env: &Env,
        dir: &Path,
        log_id: u128,
        live: Live,
        apply: impl FnMut(&JournaledFrame<'_>) -> Result<()>,
    ) -> Result<(Self, Replayed)> {
        let (replayed, place) = read(env, dir, log_id, live, Durably::Synced, apply)?;
        let next = place.as_ref().map_or(live.next, |place| place.sequence + 1);
        let needed = place.as_ref().map_or(next, |place| place.sequence);
        Ok((Self { dir: dir.to_path_buf(), log_id, place, next, needed, failed: false }, replayed))
    }

    /// Stops waiting for entries of files that are free, as the manifest says. Answers whether there are any: some of their
    /// entries may have been written over before they were read. What they held is in the partitions' files.
    pub(crate) fn let_go(&mut self, live: Live) -> bool {
        let is_free = self.needed < live.first;
        if is_free {
            self.place = self.place.take().filter(|place| place.sequence >= live.first);
            self.next = self.next.max(live.first);
        }
        self.needed = self.place.as_ref().map_or(self.next, |place| place.sequence);
        is_free
    }

    /// Reads the entries that were added since, each once it is on the disk. `live` is what the manifest says now.
    pub(crate) fn read_on(
        &mut self,
        env: &Env,
        live: Live,
        mut apply: impl FnMut(&JournaledFrame<'_>) -> Result<()>,
    ) -> Result<()> {
        if self.failed {
            return Ok(());
        }
        self.read_rest(&mut apply)?;
        if self.next >= live.next {
            return Ok(());
        }
        let (mut ring, _) = open_ring(env, &self.dir, self.log_id)?;
        ring.retain(|file| (self.next.max(live.first)..live.next).contains(&file.header.sequence));
        ring.sort_by_key(|file| file.header.sequence);
        for Ring { header, file, .. } in ring {
            // Nothing was added to the file before it once this one was begun, so that one is read to its end now.
            self.read_rest(&mut apply)?;
            self.next = header.sequence + 1;
            self.place = Some(Place {
                file,
                sequence: header.sequence,
                incarnation: header.incarnation,
                position: JOURNAL_HEADER_BYTES as u64,
                number: header.first_entry,
            });
        }
        self.read_rest(&mut apply)
    }

    /// Reads on in the file that was read last.
    fn read_rest(&mut self, apply: &mut impl FnMut(&JournaledFrame<'_>) -> Result<()>) -> Result<()> {
        let failed = |error| Error::io("cannot read the journal", error);
        let Some(place) = &mut self.place else { return Ok(()) };
        let mut entries = Vec::new();
        let mut at = Place { ..place.clone() };
        while let Some(entry) = next_entry(&at).map_err(failed)? {
            at.position += entry.0.frame_len() as u64;
            at.number += 1;
            entries.push(entry);
        }
        if entries.is_empty() {
            return Ok(());
        }
        if !planted::is(Bug::ReadOnlyUnsynced)
            && let Err(error) = at.file.sync_data()
        {
            self.failed = true;
            return Err(Error::io(
                "a sync of the journal failed; commits are read from the partitions' files only",
                error,
            ));
        }
        *place = at;
        for (header, body) in entries {
            // An entry whose checksum holds is what was written.
            for frame in frames(&header, &body).unwrap_or_default() {
                apply(&frame)?;
            }
        }
        Ok(())
    }
}

/// The entry at `place`, if it is whole. It may be half-written, or a stale one of a file that was begun anew.
fn next_entry(place: &Place) -> std::io::Result<Option<(FrameHeader, Vec<u8>)>> {
    let mut front = [0; FRAME_HEADER_BYTES];
    let read = read_full_at(&*place.file, &mut front, place.position)?;
    let Ok(header) = frame::parse_header(&front[..read], place.incarnation) else { return Ok(None) };
    let is_next = is_entry(&header) && header.base_offset == place.number;
    if !is_next || place.position + header.frame_len() as u64 > place.file.len()? {
        return Ok(None);
    }
    let mut body = vec![0; header.body_len as usize];
    let read = read_full_at(&*place.file, &mut body, place.position + FRAME_HEADER_BYTES as u64)?;
    body.truncate(read);
    Ok(header.check_body(&body).is_ok().then_some((header, body)))
}
