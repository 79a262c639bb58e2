//! The journal as it lies there: which frames an opening would write to their files, and whether it could.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::directory::{Directory, read_manifest};
use crate::error::{Corruption, Error, ErrorKind, Result};
use crate::format::FormatError;
use crate::format::frame::{self, FrameHeader, FrameKind};
use crate::format::journal::{JOURNAL_HEADER_BYTES, JournalHeader, JournaledFrame, frames};
use crate::format::manifest::Manifest;
use crate::log::open::JOURNAL_DIR;
use crate::storage::files::read_full_at;
use crate::storage::{EntryKind, Env, File, OpenMode};

/// A program that writes may use a file again while it is read: then it is read again, so often at the most.
const ATTEMPTS: usize = 5;

/// A frame that the journal holds, and its header's checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Journaled {
    pub(super) header: FrameHeader,
    pub(super) crc: u32,
}

/// What recovery would take from the journal.
#[derive(Debug, Default)]
pub(super) struct JournalContents {
    pub(super) entries: u64,
    /// By topic, partition, segment and position; the newest of each place.
    frames: BTreeMap<(u128, u32, u64, u64), Journaled>,
    /// For each partition the offset after the last frame.
    upto: BTreeMap<(u128, u32), u64>,
    pub(super) damage: Vec<Error>,
}

impl JournalContents {
    /// The offset below which the journal says that the partition is on the disk.
    pub(super) fn upto(&self, topic: u128, partition: u32) -> u64 {
        self.upto.get(&(topic, partition)).copied().unwrap_or(0)
    }

    /// The frames that an opening would write to that segment at `from` and behind it, and where. If a compaction has put
    /// another file in its place they are of the old one's incarnation, and an opening passes over them.
    pub(super) fn frames(
        &self,
        (topic, partition): (u128, u32),
        base: u64,
        from: u64,
    ) -> impl Iterator<Item = (u64, Journaled)> + '_ {
        let range = (topic, partition, base, from)..=(topic, partition, base, u64::MAX);
        self.frames.range(range).map(|((_, _, _, position), frame)| (*position, *frame))
    }

    pub(super) fn read(env: &Env, directory: &Directory) -> Result<Self> {
        let mut manifest = directory.manifest;
        let mut attempt = 1;
        loop {
            let mut contents = Self::default();
            contents.read_ring(env, directory, &manifest)?;
            if contents.damage.is_empty() || attempt == ATTEMPTS {
                return Ok(contents);
            }
            attempt += 1;
            manifest = read_manifest(&*env.storage, &directory.root, &mut Vec::new())?;
        }
    }

    fn read_ring(&mut self, env: &Env, directory: &Directory, manifest: &Manifest) -> Result<()> {
        let mut ring = open_ring(env, directory)?;
        ring.sort_by_key(|file| file.header.sequence);
        let mut next = manifest.journal_next;
        // Files that hold an entry count, though the slot of the manifest that counted them is damaged.
        while let Some(file) = ring.iter().find(|file| file.header.sequence == next) {
            let bytes = file.read()?;
            let first = frame::parse(bytes.get(JOURNAL_HEADER_BYTES..).unwrap_or_default(), file.header.incarnation);
            if !first.is_ok_and(|(header, _)| is_entry(&header) && header.base_offset == file.header.first_entry) {
                break;
            }
            next += 1;
        }
        for sequence in manifest.journal_first..next {
            if !ring.iter().any(|file| file.header.sequence == sequence) {
                self.damage.push(damage(
                    format!("journal file {sequence}, which recovery needs, is missing or its header is damaged"),
                    JOURNAL_DIR.to_owned(),
                    0,
                ));
            }
        }
        ring.retain(|file| (manifest.journal_first..next).contains(&file.header.sequence));
        for index in 0..ring.len() {
            let next_entry = ring.get(index + 1).map(|next| next.header.first_entry);
            if let Some(file) = ring.get(index) {
                self.read_file(file, next_entry)?;
            }
        }
        Ok(())
    }

    fn read_file(&mut self, file: &RingFile, next_entry: Option<u64>) -> Result<()> {
        let name = format!("{JOURNAL_DIR}/{}", file.name);
        let bytes = file.read()?;
        if (bytes.len() as u64) < u64::from(file.header.file_bytes) {
            let what = format!("a journal file of {} bytes was cut; it had {}", bytes.len(), file.header.file_bytes);
            self.damage.push(damage(what, name.clone(), bytes.len() as u64));
        }
        let mut at = JOURNAL_HEADER_BYTES;
        let mut number = file.header.first_entry;
        let why = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            match frame::parse(rest, file.header.incarnation) {
                Ok((header, body)) if is_entry(&header) && header.base_offset == number => {
                    match frames(&header, body) {
                        Ok(inner) => inner.iter().for_each(|frame| self.add(frame)),
                        Err(why) => {
                            let what = format!("a journal entry is malformed: {why}");
                            self.damage.push(damage(what, name.clone(), at as u64));
                        }
                    }
                    self.entries += 1;
                    at += header.frame_len();
                    number += 1;
                }
                Ok(_) => break FormatError::Offset,
                Err(why) => break why,
            }
        };
        let proven = next_entry.unwrap_or(0).max(proven_by_later(&bytes, file.header.incarnation, at, number));
        if number < proven || why.is_from_the_future() {
            let last = proven.saturating_sub(1).max(number);
            self.damage.push(damage(
                format!("entries {number} to {last} of the journal are damaged: {why}"),
                name,
                at as u64,
            ));
        }
        Ok(())
    }

    fn add(&mut self, frame: &JournaledFrame<'_>) {
        let target = &frame.target;
        let upto = self.upto.entry((target.topic_id, target.partition)).or_default();
        *upto = (*upto).max(frame.header.next_offset());
        let Some(crc) = frame.bytes.first_chunk().map(frame::header_crc) else { return };
        let place = (target.topic_id, target.partition, target.segment_base, target.position);
        self.frames.insert(place, Journaled { header: frame.header, crc });
    }
}

/// A file of the ring whose header holds.
struct RingFile {
    name: String,
    header: JournalHeader,
    file: Arc<dyn File>,
}

impl RingFile {
    fn read(&self) -> Result<Vec<u8>> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(self.file.len()?).unwrap_or(usize::MAX)];
            let read = read_full_at(&*self.file, &mut bytes, 0)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        read().map_err(|error| Error::io(format!("cannot read {JOURNAL_DIR}/{}", self.name), error))
    }
}

fn open_ring(env: &Env, directory: &Directory) -> Result<Vec<RingFile>> {
    let dir = directory.root.join(JOURNAL_DIR);
    let failed = |error| Error::io(format!("cannot read {}", dir.display()), error);
    let entries = match env.storage.list(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut ring = Vec::new();
    for entry in entries {
        let number = entry.name.strip_suffix(".journal").unwrap_or_default();
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if entry.kind != EntryKind::File || !is_number {
            continue;
        }
        let file = env.storage.open(&dir.join(&entry.name), OpenMode::Read).map_err(failed)?;
        let mut bytes = [0; JOURNAL_HEADER_BYTES];
        let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
        match JournalHeader::decode(&bytes[..read]) {
            Ok(header) if header.log_id == directory.manifest.log_id => {
                ring.push(RingFile { name: entry.name, header, file });
            }
            Err(why) if why.is_from_the_future() => {
                return Err(Error::new(ErrorKind::Invalid, format!("{JOURNAL_DIR}/{}: {why}", entry.name)));
            }
            _ => {}
        }
    }
    Ok(ring)
}

fn proven_by_later(bytes: &[u8], incarnation: u64, from: usize, number: u64) -> u64 {
    let mut at = from;
    while let Some((found, header)) = frame::find_header(bytes, incarnation, at) {
        if is_entry(&header) && header.durable_upto > number {
            return header.durable_upto;
        }
        at = found + 1;
    }
    0
}

fn is_entry(header: &FrameHeader) -> bool {
    header.kind == FrameKind::Journal
}

fn damage(what: String, file: String, position: u64) -> Error {
    Error::corrupt(
        what,
        Corruption { file, topic: None, partition: None, position, first_offset: None, next_offset: None },
    )
}
