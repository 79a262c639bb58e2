//! Writing the journal's frames where they belong, before anything else of an unclean log is read.
//!
//! The frames of a file are gathered and written together: in the journal they stand in the order of their commits, from one
//! partition to the next, and a file that was written to a thousand times need not be opened a thousand times.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::catalogue::FoundTopic;
use super::open::segment_missing;
use super::spans::Spans;
use super::topic::partition_dir;
use crate::error::{Error, Result};
use crate::format::checkpoint::CheckpointEntry;
use crate::format::frame::FrameHeader;
use crate::format::journal::{FrameTarget, JournaledFrame};
use crate::planted::{self, Bug};
use crate::segment::{Segment, scan};
use crate::storage::files::{read_full_at, replace_file, write_all_at};
use crate::storage::{Env, File, OpenMode, parallel};

/// How much is gathered. In tests so little that it is written in between.
const GATHERED_BYTES_MAX: usize = if cfg!(any(test, feature = "fuzzing")) { 4096 } else { 32 * 1024 * 1024 };

/// What the journal's frames are written with.
pub(super) struct Redo<'a> {
    env: &'a Env,
    topics: BTreeMap<u128, &'a FoundTopic>,
    entries: &'a BTreeMap<(u128, u32), CheckpointEntry>,
    /// The files that frames belong to.
    targets: BTreeMap<Key, Target>,
    gathered: usize,
    spans: Spans,
    /// For each partition the offset after the last frame that the journal holds of it.
    pub(super) upto: BTreeMap<(u128, u32), u64>,
    pub(super) restored: u64,
    pub(super) damage: Vec<Error>,
}

/// A segment by its topic, partition and base offset.
type Key = (u128, u32, u64);

/// A segment file that frames belong to.
struct Target {
    dir: PathBuf,
    path: PathBuf,
    /// What is to be written, in the order of the journal.
    runs: Vec<Run>,
}

/// What became of the frames of a file.
struct Written {
    /// How many were not there.
    restored: u64,
    /// All of them, if there is no file.
    homeless: Vec<Run>,
}

/// Frames that follow each other in a file.
struct Run {
    position: u64,
    bytes: Vec<u8>,
    frames: Vec<(Range<usize>, FrameHeader)>,
}

impl<'a> Redo<'a> {
    pub(super) fn new(
        env: &'a Env,
        topics: &'a [FoundTopic],
        entries: &'a BTreeMap<(u128, u32), CheckpointEntry>,
    ) -> Self {
        Self {
            env,
            topics: topics.iter().map(|topic| (topic.file.id.as_u128(), topic)).collect(),
            entries,
            targets: BTreeMap::new(),
            gathered: 0,
            spans: Spans::default(),
            upto: BTreeMap::new(),
            restored: 0,
            damage: Vec::new(),
        }
    }

    /// Takes one frame, to be written unless the file holds a later one in its place. What is there already is written again: it
    /// may be in the page cache only, and left there by a sync that failed.
    pub(super) fn apply(&mut self, frame: &JournaledFrame<'_>) -> Result<()> {
        let FrameTarget { topic_id, partition, segment_base, position } = frame.target;
        let Some(topic) = self.topics.get(&topic_id).copied() else {
            // The topic was deleted after the commit.
            return Ok(());
        };
        let upto = self.upto.entry((topic_id, partition)).or_default();
        *upto = (*upto).max(frame.header.next_offset());
        let target = self.targets.entry((topic_id, partition, segment_base)).or_insert_with(|| {
            let dir = partition_dir(&topic.dir, partition);
            Target { path: dir.join(Segment::file_name(segment_base)), dir, runs: Vec::new() }
        });
        target.gather(frame, position);
        self.gathered += frame.bytes.len();
        if self.gathered >= GATHERED_BYTES_MAX { self.write(false) } else { Ok(()) }
    }

    /// Writes what is gathered, and puts all that was written on the disk.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.write(!planted::is(Bug::RedoNotSynced))
    }

    fn write(&mut self, syncs: bool) -> Result<()> {
        self.gathered = 0;
        let env = self.env;
        let targets = self.targets.iter_mut().filter(|(_, target)| syncs || !target.runs.is_empty()).collect();
        let written = parallel::for_each(&*env.storage, targets, |(key, target): (&Key, &mut Target)| {
            target.write(env, syncs).map(|written| (*key, written))
        })?;
        for (key, Written { restored, homeless }) in written {
            self.restored += restored;
            for run in homeless {
                self.without_file(key, &run)?;
            }
        }
        Ok(())
    }

    /// The segment is gone: retention has let it go, or a compaction, or it is missing.
    fn without_file(&mut self, key: Key, run: &Run) -> Result<()> {
        let (topic_id, partition, segment_base) = key;
        let Some((topic, target)) = self.topics.get(&topic_id).copied().zip(self.targets.get(&key)) else {
            return Ok(());
        };
        let entry = self.entries.get(&(topic_id, partition));
        for (range, header) in &run.frames {
            let is_below = entry.is_some_and(|entry| header.next_offset() <= entry.log_start);
            if is_below || self.spans.hold(self.env, &target.dir, header)? {
                continue;
            }
            // The frame is kept beside where it was, since the journal will be written over.
            let position = run.position + range.start as u64;
            let name = format!("{segment_base:020}-{position}.journaled");
            let bytes = run.bytes.get(range.clone()).unwrap_or_default();
            replace_file(&*self.env.storage, &target.dir, &name, bytes)
                .map_err(|error| Error::io(format!("cannot keep a commit in {}", target.dir.display()), error))?;
            let what = format!("the segment of a committed frame is missing; the frame is kept as {name}");
            let at = FrameTarget { topic_id, partition, segment_base, position };
            self.damage.push(segment_missing(what, &topic.file.name, at, header));
        }
        Ok(())
    }
}

impl Target {
    fn gather(&mut self, frame: &JournaledFrame<'_>, position: u64) {
        let follows = |run: &&mut Run| run.position + run.bytes.len() as u64 == position;
        match self.runs.last_mut().filter(follows) {
            Some(run) => run.add(frame),
            None => {
                let mut run = Run { position, bytes: Vec::new(), frames: Vec::new() };
                run.add(frame);
                self.runs.push(run);
            }
        }
    }

    fn write(&mut self, env: &Env, syncs: bool) -> Result<Written> {
        let runs = std::mem::take(&mut self.runs);
        let written = || {
            let file = match env.storage.open(&self.path, OpenMode::ReadWrite) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Written { restored: 0, homeless: runs });
                }
                Err(error) => return Err(error),
            };
            // Where nothing tells, the file is taken for the right one.
            let incarnation = scan::incarnation_of(&*file)?.filter(|_| !planted::is(Bug::RedoIntoCompacted));
            let mut restored = 0;
            for run in runs {
                restored += run.write(&*file, incarnation)?;
            }
            if syncs {
                file.sync_data()?;
            }
            Ok(Written { restored, homeless: Vec::new() })
        };
        written().map_err(|error| Error::io(format!("cannot restore a commit to {}", self.path.display()), error))
    }
}

impl Run {
    fn add(&mut self, frame: &JournaledFrame<'_>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(frame.bytes);
        self.frames.push((at..self.bytes.len(), frame.header));
    }

    /// Writes the frames of a file, unless they are of another incarnation: a compaction has made the file out of the one that
    /// they were written to, and that was on the disk then. Answers how many were not there.
    fn write(&self, file: &dyn File, incarnation: Option<u64>) -> io::Result<u64> {
        let mut there = vec![0; self.bytes.len()];
        let read = read_full_at(file, &mut there, self.position)?;
        let mut restored = 0;
        // What is to be written and not written yet.
        let mut pending = 0..0;
        for (range, header) in &self.frames {
            let found = there.get(range.start..range.end.min(read)).unwrap_or_default();
            let is_of_another = incarnation.is_some_and(|incarnation| incarnation != header.incarnation);
            if is_of_another || scan::is_newer(found, header) {
                self.put(file, &pending)?;
                pending = range.end..range.end;
                continue;
            }
            restored += u64::from(there.get(range.clone()) != self.bytes.get(range.clone()));
            pending.end = range.end;
        }
        self.put(file, &pending)?;
        Ok(restored)
    }

    fn put(&self, file: &dyn File, range: &Range<usize>) -> io::Result<()> {
        let bytes = self.bytes.get(range.clone()).unwrap_or_default();
        write_all_at(file, bytes, self.position + range.start as u64)
    }
}
