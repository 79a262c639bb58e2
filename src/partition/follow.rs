//! A partition that another process writes: finding what it has added, without changing anything.
//!
//! Whatever stands at the end and is no whole frame may be half-written, so it is looked at again later. A file may go, or be
//! replaced by another of the same name, at any moment; its open handle reads on as if nothing had happened.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::writer::Writer;
use super::{Partition, PartitionConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::format::FormatError;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::planted::{self, Bug};
use crate::segment::scan::{self, Stop};
use crate::segment::{Owner, Segment, Summary, first_place, lock};
use crate::storage::files::read_full_at;
use crate::storage::{EntryKind, Env, OpenMode};

/// How often bytes that are no frame are looked at before they are suspected of being damaged, not unfinished.
const LOOKS_BEFORE_DOUBT: u32 = 4;

/// What is known beside the place up to which frames were found.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Below this offset everything is on the disk: the frames, the checkpoint or the journal say so.
    proven: u64,
    /// Where bytes stand that are no frame, and how often they were looked at.
    stalled: Option<(u64, u32)>,
}

/// The error of whoever wants to change what was opened read-only.
pub(crate) fn read_only() -> Error {
    Error::invalid("the log was opened read-only: it takes no records and no changes")
}

impl Partition {
    /// Opens a partition that has come since the log was opened, as if it were empty: what it holds is found by the first
    /// [look](Self::look). `None` if its first file is not ready yet.
    pub(crate) fn begin(env: &Env, owner: Arc<Owner>, config: PartitionConfig, dir: PathBuf) -> Result<Option<Self>> {
        let failed = |error| Error::io(format!("cannot list {}", dir.display()), error);
        let entries = env.storage.list(&dir).map_err(failed)?;
        let first = entries.iter().filter_map(|entry| Segment::parse_file_name(&entry.name)).min();
        let Some(base) = first else { return Ok(None) };
        let Some((segment, _)) = open_segment(env, &owner, config.log_id, &dir, base)? else { return Ok(None) };
        let segment = Arc::new(segment);
        let place = first_place(base, segment.incarnation);
        let partition = Self::new(env.clone(), owner, config, dir, vec![Arc::clone(&segment)], segment, place, base);
        partition.only_read(base);
        Ok(Some(partition))
    }

    /// Takes no records; another process writes them. Everything below `proven` is on the disk.
    pub(super) fn only_read(&self, proven: u64) {
        // Nobody has refused anything before.
        let _first = self.refused.set(read_only());
        lock(&self.writer).followed.proven = proven;
        if !self.config.synced {
            self.durable_end.store(proven.min(self.visible_end()), Ordering::Release);
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.refused.get().is_some()
    }

    /// Looks for frames that were added, of commits up to `newest`, and notes their commit numbers; they are not visible before
    /// [`show`](Self::show). A `thorough` look finds also what only a failed rotation leaves. Answers whether there is something
    /// to be shown.
    pub(crate) fn look(&self, thorough: bool, newest: u64, commits: &mut Vec<u64>) -> Result<bool> {
        if self.closed().is_some() || self.failure().is_some() {
            return Ok(false);
        }
        let mut writer = lock(&self.writer);
        let mut has_gone = writer.place.next_offset < self.log_start();
        loop {
            if has_gone && !self.enter_again(&mut writer)? {
                break;
            }
            let stop = match self.walk_on(&mut writer, newest, commits) {
                Err(error) if is_not_found(&error) && !has_gone => {
                    has_gone = true;
                    continue;
                }
                // With its topic; the catalogue tells soon.
                Err(error) if is_not_found(&error) => break,
                walked => walked?,
            };
            has_gone = false;
            if !(stop == Stop::Footer || thorough) || !self.enter_next(&mut writer, stop)? {
                break;
            }
        }
        Ok(writer.place.next_offset > self.visible_end())
    }

    /// Walks on in the file in use.
    fn walk_on(&self, writer: &mut Writer, newest: u64, commits: &mut Vec<u64>) -> Result<Stop> {
        let active = Arc::clone(&writer.active);
        if active.is_sealed() || self.segments().is_empty() {
            return Ok(Stop::Footer);
        }
        let failed = |error| active.io("read", error);
        let file = writer.file()?;
        let Writer { place, followed, .. } = writer;
        let mut front = [0; FRAME_HEADER_BYTES];
        let read = read_full_at(&*file, &mut front, place.position).map_err(failed)?;
        if front[..read].iter().all(|byte| *byte == 0) {
            followed.stalled = None;
            if read == 0 && file.len().map_err(failed)? < place.position {
                return Err(self.rewound());
            }
            return Ok(Stop::End);
        }
        let stop = {
            let mut index = active.index();
            scan::walk(&file, place, u64::MAX, |position, header| {
                let wanted = header.commit <= newest;
                if wanted {
                    index.note(position, header);
                    followed.proven = followed.proven.max(header.durable_upto);
                    commits.push(header.commit);
                }
                wanted
            })
        };
        let stop = stop.map_err(failed)?;
        active.set_readable(place.position);
        active.note_records(place.record_count, place.next_offset);
        match stop {
            Stop::At(why) => self.doubt(writer, why)?,
            Stop::Footer => active.set_sealed(Summary::of(place)),
            Stop::End => {}
        }
        Ok(stop)
    }

    /// Something stands at the end that is no frame. It is damaged if it stays and what comes after it proves that it was whole;
    /// or if it is whole, and from a later version of annals.
    fn doubt(&self, writer: &mut Writer, why: FormatError) -> Result<()> {
        let (file, active) = (writer.file()?, Arc::clone(&writer.active));
        let Writer { place, followed, .. } = writer;
        let looks = followed.stalled.filter(|(at, _)| *at == place.position).map_or(1, |(_, looks)| looks + 1);
        followed.stalled = Some((place.position, looks));
        let failed = |error| active.io("read", error);
        let mut next = None;
        if !why.is_from_the_future() {
            if why == FormatError::Zeros || looks < LOOKS_BEFORE_DOUBT || !looks.is_power_of_two() {
                return Ok(());
            }
            let len = file.len().map_err(failed)?;
            let proof = scan::proof_of_rot(&file, place.incarnation, place.next_offset, place.position, len);
            let Some((_, proof)) = proof.map_err(failed)? else { return Ok(()) };
            // It was written before its proof was: a look after that must find it whole.
            if scan::walk(&file, &mut { *place }, u64::MAX, |_, _| true).map_err(failed)? != Stop::At(why) {
                return Ok(());
            }
            next = Some(proof.base_offset);
        }
        self.fail(active.corrupt(why, place.position, Some(place.next_offset), next));
        Ok(())
    }

    /// Goes on in the file that follows, if the one in use is over.
    fn enter_next(&self, writer: &mut Writer, stop: Stop) -> Result<bool> {
        let base = writer.place.next_offset;
        let known = self.segments();
        let found = open_segment(&self.env, &self.owner, self.config.log_id, &self.dir, base)?;
        let Some((segment, has_frames)) = found else { return Ok(false) };
        let again = known.last().is_some_and(|last| last.base_offset == base);
        // A file whose creation has failed at its last step is made anew before it is used.
        if again && segment.incarnation == writer.active.incarnation {
            return Ok(false);
        }
        // Without the footer only the first frame says that the rotation has come to its end.
        if !again && stop != Stop::Footer && !has_frames {
            return Ok(false);
        }
        let segment = Arc::new(segment);
        if again {
            self.set_segments(known.iter().filter(|known| known.base_offset != base).chain([&segment]));
        } else {
            if !known.is_empty() {
                writer.active.set_sealed(Summary::of(&writer.place));
            }
            self.add_segment(Arc::clone(&segment));
        }
        if self.config.synced {
            // A synced partition begins a file only once all before it is on the disk.
            writer.followed.proven = writer.followed.proven.max(base);
        }
        writer.enter(segment);
        Ok(true)
    }

    /// Finds the file to go on in after the one in use has gone, or was replaced, before its end was found: the one in which the
    /// log starts, or in which the next offset is.
    fn enter_again(&self, writer: &mut Writer) -> Result<bool> {
        let failed = |error| Error::io(format!("cannot list {}", self.dir.display()), error);
        let entries = match self.env.storage.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            entries => entries.map_err(failed)?,
        };
        let goal = self.log_start().max(writer.place.next_offset);
        let bases = entries.iter().filter_map(|entry| Segment::parse_file_name(&entry.name));
        let Some(base) = bases.filter(|base| *base <= goal).max() else { return Ok(false) };
        let found = open_segment(&self.env, &self.owner, self.config.log_id, &self.dir, base)?;
        let Some((segment, _)) = found else { return Ok(false) };
        if segment.incarnation == writer.active.incarnation {
            return Ok(true);
        }
        let segment = Arc::new(segment);
        let known = self.segments();
        if writer.active.base_offset < base {
            writer.active.set_sealed(Summary::of(&writer.place));
        }
        self.set_segments(known.iter().filter(|known| known.base_offset < base).chain([&segment]));
        if self.config.synced || base > writer.place.next_offset {
            // Before the new one there was nothing that is not on the disk, or it is gone.
            writer.followed.proven = writer.followed.proven.max(base);
        }
        writer.enter(segment);
        Ok(true)
    }

    /// Notes that everything before `offset` is gone.
    pub(crate) fn gone_before(&self, offset: u64) {
        let writer = lock(&self.writer);
        // There is nothing to be seen before it, and readers go on there.
        self.durable_end.fetch_max(offset, Ordering::AcqRel);
        self.visible_end.fetch_max(offset, Ordering::AcqRel);
        drop(writer);
        drop(self.raise_log_start(offset));
    }

    /// Everything below `offset` is on the disk, in the journal.
    pub(crate) fn journaled_upto(&self, offset: u64) {
        let mut writer = lock(&self.writer);
        writer.followed.proven = writer.followed.proven.max(offset);
    }

    /// Makes visible what looks have found; of a synced partition, once it is on the disk. Whoever waits is told later.
    pub(crate) fn show(&self) -> Result<()> {
        let mut writer = lock(&self.writer);
        let end = writer.place.next_offset;
        // (Where the log starts behind what was found, the rest of that is of no use.)
        if end <= self.visible_end() || self.closed().is_some() {
            return Ok(());
        }
        if self.config.synced {
            if end > writer.followed.proven && !planted::is(Bug::ReadOnlyUnsynced) {
                let file = match writer.file() {
                    // The next look finds what has become of it.
                    Err(error) if is_not_found(&error) => return Ok(()),
                    file => file?,
                };
                let synced = file.sync_data();
                synced.map_err(|error| {
                    self.ended(format!("could not be synced, so its last records are not shown: {error}"))
                })?;
            }
            writer.followed.proven = writer.followed.proven.max(end);
        }
        self.durable_end.fetch_max(writer.followed.proven.min(end), Ordering::AcqRel);
        self.visible_end.store(end, Ordering::Release);
        Ok(())
    }

    /// The file has become shorter than what was found in it: after a failed sync the writer's recovery has cut it.
    fn rewound(&self) -> Error {
        self.ended("was cut back behind what was read of it; open the log again".to_owned())
    }

    /// Nothing more will come; followers are told why.
    fn ended(&self, why: String) -> Error {
        let Owner { topic, partition, .. } = &*self.owner;
        let error = Error::new(ErrorKind::Poisoned, format!("topic {topic}, partition {partition} {why}"));
        // Whoever closed it first said why. (The writer is locked already, so not through `close`.)
        let _first = self.closed.set(error.clone());
        self.wake_all();
        error
    }

    fn set_segments<'a>(&self, segments: impl Iterator<Item = &'a Arc<Segment>>) {
        let next = Arc::new(segments.cloned().collect());
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Looks at the directory again after a file could not be read: retention removes files, and compaction puts others in
    /// their places. Answers whether anything has changed since the last look, so that reading is worth another try.
    #[cold]
    pub(super) fn look_again(&self) -> bool {
        if !self.is_read_only() {
            return false;
        }
        let Ok(entries) = self.env.storage.list(&self.dir) else { return false };
        let writer = lock(&self.writer);
        let known = self.segments();
        if known.is_empty() {
            return false;
        }
        let files = entries.iter().filter(|entry| entry.kind == EntryKind::File);
        let mut bases: Vec<u64> = files.filter_map(|entry| Segment::parse_file_name(&entry.name)).collect();
        bases.retain(|base| *base < writer.active.base_offset);
        bases.sort_unstable();
        let mut now: Vec<Arc<Segment>> = Vec::with_capacity(known.len());
        for base in bases {
            if now.last().and_then(|last| last.summary()).is_some_and(|last| base < last.next_offset) {
                // It is left of what a compaction has put into the file before it.
                continue;
            }
            let segment = known.iter().find(|segment| segment.base_offset == base);
            now.extend(self.sealed_at(base, segment).or_else(|| segment.cloned()));
        }
        now.push(Arc::clone(&writer.active));
        let below = now.windows(2).take_while(|pair| matches!(pair, [_, next] if next.base_offset <= self.log_start()));
        now.drain(..below.count());
        let changed =
            now.len() != known.len() || now.iter().zip(known.iter()).any(|(now, known)| !Arc::ptr_eq(now, known));
        if changed {
            self.log_start.fetch_max(now.first().map_or(0, |first| first.base_offset), Ordering::AcqRel);
            self.set_segments(now.iter());
        }
        changed
    }

    /// The sealed file that begins at `base`, if it is another one than the segment that is known there.
    fn sealed_at(&self, base: u64, known: Option<&Arc<Segment>>) -> Option<Arc<Segment>> {
        let found = open_segment(&self.env, &self.owner, self.config.log_id, &self.dir, base);
        let is_known = |other: &Segment| known.is_some_and(|known| known.incarnation == other.incarnation);
        let (other, _) = found.ok()?.filter(|(other, _)| !is_known(other))?;
        let file = other.file().ok()?;
        let (frame, footer, position) = scan::footer(&file, other.incarnation, file.len().ok()?).ok()??;
        other.set_readable(position);
        other.reset_index(position);
        other.set_sealed(Summary {
            next_offset: frame.next_offset(),
            max_timestamp: frame.max_timestamp,
            last_commit: footer.last_commit,
            record_count: footer.record_count,
        });
        Some(Arc::new(other))
    }
}

/// Whether a file is not there that was expected.
pub(crate) fn is_not_found(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}

/// The segment file of this name, and whether a frame stands in it. `None` if it is not there, or its header is not ready.
fn open_segment(env: &Env, owner: &Arc<Owner>, log_id: u128, dir: &Path, base: u64) -> Result<Option<(Segment, bool)>> {
    let path = dir.join(Segment::file_name(base));
    let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
    let file = match env.storage.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = [0; SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES];
    let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
    let (header, frame) = bytes[..read].split_at(read.min(SEGMENT_HEADER_BYTES));
    let Ok(header) = SegmentHeader::decode(header) else { return Ok(None) };
    let is_ours = header.log_id == log_id
        && header.topic_id == owner.topic_id
        && header.partition == owner.partition
        && header.base_offset == base;
    if !is_ours {
        return Ok(None);
    }
    let has_frames = FrameHeader::decode(frame).is_ok_and(|frame| frame.incarnation == header.incarnation);
    let segment = Segment::existing(env, Arc::clone(owner), path.clone(), &header, SEGMENT_HEADER_BYTES as u64, None);
    segment.adopt_file(file);
    Ok(Some((segment, has_frames)))
}
