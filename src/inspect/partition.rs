//! One partition as a check of everything finds it: its segments as one space of offsets, and what is damaged there, told from
//! what was never finished by the same proofs as in recovery (`partition/recover.rs`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::directory::{Directory, FoundTopic};
use super::journal::{JournalContents, Journaled};
use super::segment::{Piece, SegmentFile, Surveyed, check_records, corrupt, unreadable};
use crate::error::{Error, Result};
use crate::format::FormatError;
use crate::format::checkpoint::SegmentPlace;
use crate::format::frame::FrameKind;
use crate::segment::scan::{self, ScanEnd};
use crate::segment::{Owner, Segment, advance, first_place};
use crate::storage::{Env, File};

/// What a partition's files hold.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) segments: Vec<Surveyed>,
    pub(super) damage: Vec<Error>,
    /// Those of the damage that writing segments anew does not mend.
    pub(super) beyond_repair: Vec<Error>,
    pub(super) notes: Vec<String>,
    pub(super) bytes: u64,
    pub(super) absent_offsets: u64,
    /// The first offset that is there.
    pub(super) log_start: u64,
}

/// Told of bytes and records as they are read.
pub(super) type OnRead<'a> = &'a mut dyn FnMut(u64, u64);

/// Reads all of a partition. `None` if its topic is gone by now.
pub(super) fn survey(
    env: &Env,
    directory: &Directory,
    journal: &JournalContents,
    topic: &FoundTopic,
    number: u32,
    on_read: OnRead<'_>,
) -> Result<Option<Survey>> {
    let checkpoint = directory.checkpoint.get(&(topic.id, number));
    let certain = checkpoint.map_or(0, |entry| entry.place.next_offset).max(journal.upto(topic.id, number));
    let mut surveyor = Surveyor {
        env,
        journal,
        owner: topic.owner(number),
        log_id: directory.manifest.log_id,
        synced: topic.synced,
        dir: topic.partition_dir(number),
        certain,
        files: Vec::new(),
        on_read,
        survey: Survey {
            segments: Vec::new(),
            damage: Vec::new(),
            beyond_repair: Vec::new(),
            notes: Vec::new(),
            bytes: 0,
            absent_offsets: 0,
            log_start: 0,
        },
        // A checkpoint that is there names each partition that does not start at its beginning.
        log_start: match directory.mended_by_opening {
            Some(_) => None,
            None => Some(checkpoint.map_or(0, |entry| entry.log_start)),
        },
    };
    if surveyor.list()? {
        surveyor.run()?;
    } else if env.storage.list(&topic.dir).is_err() {
        return Ok(None);
    }
    Ok(Some(surveyor.survey))
}

pub(super) struct Surveyor<'a, 'b> {
    pub(super) env: &'a Env,
    journal: &'a JournalContents,
    pub(super) owner: Arc<Owner>,
    pub(super) log_id: u128,
    pub(super) synced: bool,
    pub(super) dir: PathBuf,
    /// The checkpoint or the journal says that everything below this offset is on the disk.
    pub(super) certain: u64,
    /// Where the partition starts, as far as anything says so.
    pub(super) log_start: Option<u64>,
    pub(super) files: Vec<SegmentFile>,
    on_read: OnRead<'b>,
    pub(super) survey: Survey,
}

/// What comes behind a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next one, if there is one.
    Next,
    /// Nothing that counts.
    Nothing,
}

/// How the walk through a file ended.
enum End {
    Sealed,
    /// At the last frame: only zeros follow.
    Open,
    /// At bytes that were never finished.
    Torn,
    /// At damage behind which nothing whole is left; the highest offset that a header there tells of.
    Damaged {
        position: u64,
        why: FormatError,
        upto: u64,
    },
    /// At something that only a newer annals can read.
    Newer,
}

impl Surveyor<'_, '_> {
    fn run(&mut self) -> Result<()> {
        let mut place = first_place(self.survey.log_start, 0);
        let first = self.files.first().map(|first| first.base);
        if let Some(first) = first.filter(|first| *first > place.next_offset) {
            self.missing_segment(&mut place, first, "the partition's first segment is missing");
        } else if let Some(first) = first {
            // Whole segments below the log start are there until they are removed.
            place.next_offset = first;
        }
        for index in 0..self.files.len() {
            let Some(file) = self.files.get(index).cloned() else { break };
            if file.base < place.next_offset {
                if file.is_empty && file.why.is_none() {
                    self.note(&format!("{} is left over; the next opening removes it", Segment::file_name(file.base)));
                    continue;
                }
                let what = "a segment begins inside the one before it";
                self.beyond_repair(corrupt(&self.owner, file.base, what, 0, (file.base, Some(place.next_offset))));
                return Ok(());
            }
            let last_commit = place.last_commit;
            place = SegmentPlace { last_commit, ..first_place(file.base, file.incarnation.unwrap_or(0)) };
            if self.file(index, &file, &mut place)? == Then::Nothing {
                return Ok(());
            }
        }
        if place.next_offset < self.certain {
            let what = "the partition ends before records that were on the disk";
            let certain = self.certain;
            match self.survey.segments.last().map(|last| (last.base, last.place.position)) {
                Some((base, position)) => {
                    self.damage(corrupt(&self.owner, base, what, position, (place.next_offset, Some(certain))));
                    if let Some(last) = self.survey.segments.last_mut() {
                        last.pieces.push(Piece::Lost(place.next_offset..certain));
                        last.is_damaged = true;
                    }
                }
                None => self.missing_segment(&mut place, certain, what),
            }
        }
        Ok(())
    }

    /// A segment that should be there and is not, from the offset reached up to `next`.
    fn missing_segment(&mut self, place: &mut SegmentPlace, next: u64, what: &str) {
        let base = place.next_offset;
        self.damage(corrupt(&self.owner, base, what, 0, (base, Some(next))));
        self.survey.segments.push(Surveyed {
            base,
            path: self.dir.join(Segment::file_name(base)),
            incarnation: None,
            created_at: None,
            is_compacted: false,
            exists: false,
            pieces: vec![Piece::Lost(base..next)],
            is_sealed: true,
            is_damaged: true,
            place: first_place(base, 0),
        });
        place.next_offset = next;
    }

    /// Checks one file; moves `place` to its end.
    fn file(&mut self, index: usize, file: &SegmentFile, place: &mut SegmentPlace) -> Result<Then> {
        let next_base = self.files.get(index + 1).map(|next| next.base);
        let mut surveyed = Surveyed {
            base: file.base,
            path: file.path.clone(),
            incarnation: file.incarnation,
            created_at: file.created_at,
            is_compacted: file.is_compacted,
            exists: true,
            pieces: Vec::new(),
            is_sealed: next_base.is_some() || file.is_compacted,
            is_damaged: file.why.is_some(),
            place: *place,
        };
        if let Some(why) = file.why {
            let what = format!("a segment's header is damaged or is another file's: {why}");
            self.damage(corrupt(&self.owner, file.base, &what, 0, (file.base, None)));
        }
        let end = match file.incarnation {
            Some(_) => self.walk(index, file, place, &mut surveyed)?,
            // Nothing in the file can be told to be ours.
            None => End::Damaged { position: 0, why: FormatError::HeaderChecksum, upto: file.base },
        };
        let mut then = Then::Next;
        match end {
            End::Sealed => surveyed.is_sealed = true,
            End::Open => {}
            End::Torn => {
                let later = self.files.len() - index - 1;
                let with = if later > 0 { format!(", with {later} files after it") } else { String::new() };
                let name = Segment::file_name(file.base);
                let at = place.position;
                self.note(&format!("{name} ends at {at} in a write that is under way or was never finished{with}"));
                surveyed.is_sealed = false;
                then = Then::Nothing;
            }
            End::Newer => then = Then::Nothing,
            End::Damaged { position, why, upto } => {
                let first = place.next_offset;
                let next = next_base.unwrap_or(self.certain.max(upto)).max(first);
                if file.why.is_none() || next > first {
                    let what = format!("a segment is damaged: {why}");
                    let known = (next > first).then_some(next);
                    self.damage(corrupt(&self.owner, file.base, &what, position, (first, known)));
                }
                surveyed.is_damaged = true;
                surveyed.pieces.push(Piece::Lost(first..next));
                place.next_offset = next;
            }
        }
        if let Some(next) = next_base.filter(|next| then == Then::Next && *next > place.next_offset) {
            if !self.is_proven(index, place, file.len)? {
                let name = Segment::file_name(file.base);
                self.note(&format!("what follows {name} does not go on where it ends; the next opening sets it aside"));
                surveyed.is_sealed = false;
                then = Then::Nothing;
            } else {
                let what = "records are missing between two segments";
                let offsets = (place.next_offset, Some(next));
                self.damage(corrupt(&self.owner, file.base, what, place.position, offsets));
                surveyed.is_damaged = true;
                surveyed.pieces.push(Piece::Lost(place.next_offset..next));
                place.next_offset = next;
            }
        }
        surveyed.place = *place;
        self.survey.segments.push(surveyed);
        Ok(then)
    }

    /// Walks the frames of a file, going on behind what is damaged.
    fn walk(&mut self, index: usize, file: &SegmentFile, place: &mut SegmentPlace, into: &mut Surveyed) -> Result<End> {
        let handle = file.handle(self.env)?;
        let failed = |error| unreadable(&file.path, error);
        let next_base = self.files.get(index + 1).map(|next| next.base);
        let mut looked_again = None;
        loop {
            let (from, first_offset) = (place.position, place.next_offset);
            let end = self.frames(&handle, place, file.len).map_err(failed)?;
            self.redo(file, place, end);
            if place.position > from {
                match into.pieces.last_mut() {
                    Some(Piece::Frames { to, .. }) if *to == from => *to = place.position,
                    _ => into.pieces.push(Piece::Frames { from, to: place.position, first_offset }),
                }
                if end != ScanEnd::Sealed {
                    // What the journal holds may be in the middle; and a writer may be at work.
                    continue;
                }
            }
            let why = match end {
                ScanEnd::Sealed => return Ok(End::Sealed),
                ScanEnd::Clean if self.journaled(file, place.position).is_none() => return Ok(End::Open),
                // What the journal holds lies behind a hole.
                ScanEnd::Clean => FormatError::Short,
                ScanEnd::Damaged(why) => why,
            };
            if next_base == Some(place.next_offset) {
                // All that can be damaged here is the footer.
                let name = Segment::file_name(file.base);
                if self.certain >= place.next_offset {
                    let what = format!("a segment's footer is damaged: {why}");
                    let offsets = (place.next_offset, Some(place.next_offset));
                    self.damage(corrupt(&self.owner, file.base, &what, place.position, offsets));
                    into.is_damaged = true;
                } else {
                    self.note(&format!("the footer of {name} does not hold ({why}); the next opening writes it anew"));
                }
                return Ok(End::Sealed);
            }
            if !why.is_from_the_future() && !self.is_proven(index, place, file.len)? {
                return Ok(End::Torn);
            }
            if looked_again != Some(place.position) {
                // The proof was written after what it proves. So if a writer is at work, it is whole by now.
                looked_again = Some(place.position);
                continue;
            }
            if why.is_from_the_future() {
                let what = format!("a segment cannot be read: {why}");
                let offsets = (place.next_offset, None);
                self.beyond_repair(corrupt(&self.owner, file.base, &what, place.position, offsets));
                return Ok(End::Newer);
            }
            into.is_damaged = true;
            if let Some(end) = self.resync(&handle, file, place, next_base, why, into)? {
                return Ok(end);
            }
        }
    }

    /// Goes on at the next whole frame. Answers with the end if there is none.
    fn resync(
        &mut self,
        handle: &Arc<dyn File>,
        file: &SegmentFile,
        place: &mut SegmentPlace,
        next_base: Option<u64>,
        why: FormatError,
        into: &mut Surveyed,
    ) -> Result<Option<End>> {
        let (first, position, before) = (place.next_offset, place.position, *place);
        let mut upto = first;
        let found = scan::find_frame(handle, place.incarnation, position, file.len, |header, body| {
            // A record may hold the bytes of an earlier part of this very file: those have lower offsets.
            let fits = header.next_offset() >= first
                && next_base.is_none_or(|base| header.next_offset() <= base)
                && header.commit >= before.last_commit;
            let fits = fits
                && match header.kind {
                    FrameKind::Records => header.base_offset >= first && header.durable_upto <= header.base_offset,
                    FrameKind::Footer => header.base_offset == file.base,
                    FrameKind::Journal => false,
                };
            if fits && header.kind == FrameKind::Records {
                upto = upto.max(header.next_offset());
            }
            let whole = |body| header.kind == FrameKind::Footer || check_records(header, body).is_ok();
            fits && body.is_some_and(whole)
        });
        let found = found.map_err(|error| unreadable(&file.path, error))?;
        let journaled = self.journaled(file, position).map(|(at, frame)| (at, frame.header));
        let journaled = journaled.filter(|(_, header)| header.base_offset >= first);
        let Some((at, header)) = [found, journaled].into_iter().flatten().min_by_key(|(at, _)| *at) else {
            return Ok(Some(End::Damaged { position, why, upto }));
        };
        let next = if header.kind == FrameKind::Footer { header.next_offset() } else { header.base_offset };
        let what = format!("a segment is damaged: {why}");
        self.damage(corrupt(&self.owner, file.base, &what, position, (first, Some(next))));
        into.pieces.push(Piece::Lost(first..next));
        place.position = at;
        place.next_offset = next;
        Ok((header.kind == FrameKind::Footer).then_some(End::Sealed))
    }

    /// Walks whole frames, and reads their records.
    fn frames(&mut self, handle: &Arc<dyn File>, place: &mut SegmentPlace, len: u64) -> io::Result<ScanEnd> {
        let (on_read, survey) = (&mut *self.on_read, &mut self.survey);
        scan::whole_frames(handle, place, len, |_, header, body| {
            survey.absent_offsets += check_records(header, body)?;
            survey.bytes += header.frame_len() as u64;
            on_read(header.frame_len() as u64, u64::from(header.record_count));
            Ok(())
        })
    }

    /// Moves over the frames that an opening would write here out of the journal.
    fn redo(&self, file: &SegmentFile, place: &mut SegmentPlace, end: ScanEnd) {
        while end != ScanEnd::Sealed
            && let Some((at, frame)) = self.journaled(file, place.position)
            && at == place.position
            && frame.header.base_offset == place.next_offset
        {
            advance(place, &frame.header, frame.crc);
        }
    }

    /// The first frame that an opening would write to that file at `from` or behind it, and where.
    pub(super) fn journaled(&self, file: &SegmentFile, from: u64) -> Option<(u64, Journaled)> {
        let mut frames = self.journal.frames((self.owner.topic_id, self.owner.partition), file.base, from);
        frames.find(|(_, frame)| file.incarnation.is_none_or(|incarnation| incarnation == frame.header.incarnation))
    }

    /// Whether what should lie behind `place` had been on the disk: then it was damaged, not left unfinished.
    fn is_proven(&self, index: usize, place: &SegmentPlace, len: u64) -> Result<bool> {
        let next_base = self.files.get(index + 1).map(|next| next.base);
        if self.certain > place.next_offset || self.synced && next_base.is_some_and(|base| base > place.next_offset) {
            return Ok(true);
        }
        for (later, file) in self.files.iter().enumerate().skip(index) {
            let Some(incarnation) = file.incarnation else { continue };
            let (from, len) = if later == index { (place.position, len) } else { (0, file.len) };
            let proof = scan::proof_of_rot(&file.handle(self.env)?, incarnation, place.next_offset, from, len);
            if proof.map_err(|error| unreadable(&file.path, error))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn damage(&mut self, error: Error) {
        self.survey.damage.push(error);
    }

    pub(super) fn beyond_repair(&mut self, error: Error) {
        self.survey.beyond_repair.push(error.clone());
        self.survey.damage.push(error);
    }

    pub(super) fn note(&mut self, what: &str) {
        self.survey.notes.push(format!("topic {}, partition {}: {what}", self.owner.topic, self.owner.partition));
    }
}
