//! Following a log that another process writes: round by round, what has been added becomes visible.
//!
//! The order of a round makes merged reading as causal as in the writer's process:
//! - The partitions' files first, then the journal, then nothing that is newer than its entries. A frame of a journaled commit
//!   gets into its file after its entry is in the journal, so whoever has seen one such frame finds all the others of the commit
//!   in the journal.
//! - Readers of several partitions get what lies below the first commit number that was not seen yet: it may belong to a frame
//!   that is being written. A number that never comes (its append has failed, or its topic is gone) is given up after a while.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque, btree_map};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::catalogue::{self, FoundTopic, TOPICS_DIR};
use super::checkpoint;
use super::engine::Engine;
use super::topic::{TopicState, partition_dir};
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::FrameHeader;
use crate::format::journal::{FrameTarget, JournaledFrame};
use crate::format::manifest::Manifest;
use crate::journal::Live;
use crate::journal::follow::Follower as JournalFollower;
use crate::partition::Partition;
use crate::segment::{Segment, lock, scan};
use crate::storage::files::read_full_at;
use crate::storage::read_only::ReadOnly;
use crate::storage::{File, OpenMode, Storage};

/// How long a commit number that does not come holds up whoever reads several partitions.
const GAP_MAX: Duration = Duration::from_secs(1);
/// How often a round begins again because the writer has gone once around the journal meanwhile.
const TRIES_MAX: usize = 16;
/// One round in so many looks at everything.
const THOROUGH_ONE_IN: u64 = 8;

/// What is known of the writer, between two rounds.
#[derive(Debug)]
pub(crate) struct Follower {
    storage: Arc<ReadOnly>,
    journal: JournalFollower,
    pub(super) manifest: Manifest,
    commits: Commits,
    rounds: u64,
    /// The names below `topics/` that were there the last time.
    names: Vec<String>,
    /// Frames out of the journal that are not laid over their files yet.
    journaled: Vec<Journaled>,
    /// What was found and is not shown yet.
    news: News,
    /// All numbers below are those of a writer that has crashed: none of them comes any more.
    dead_below: Option<u64>,
}

/// A frame out of the journal.
#[derive(Debug)]
struct Journaled {
    target: FrameTarget,
    header: FrameHeader,
    bytes: Vec<u8>,
}

impl Follower {
    pub(super) fn new(storage: Arc<ReadOnly>, journal: JournalFollower, manifest: Manifest, commits: Commits) -> Self {
        let (names, journaled, news) = (Vec::new(), Vec::new(), News::default());
        Self { storage, journal, manifest, commits, rounds: 0, names, journaled, news, dead_below: None }
    }
}

/// Up to where every commit number was seen.
#[derive(Debug)]
pub(super) struct Commits {
    /// The lowest that was not.
    next: u64,
    beyond: BinaryHeap<Reverse<u64>>,
    highest: u64,
    /// What was the highest when, as long as a lower one is missing.
    marks: VecDeque<(Duration, u64)>,
}

impl Commits {
    pub(super) fn new(next: u64) -> Self {
        Self { next, beyond: BinaryHeap::new(), highest: 0, marks: VecDeque::new() }
    }

    /// Whether one was not seen though a higher one was.
    fn is_missing_one(&self) -> bool {
        !self.beyond.is_empty()
    }

    /// Notes numbers that were seen. Answers with the lowest that may still come.
    fn see(&mut self, seen: impl IntoIterator<Item = u64>, now: Duration) -> u64 {
        let before = self.highest;
        for commit in seen {
            self.highest = self.highest.max(commit);
            self.beyond.push(Reverse(commit));
        }
        self.join();
        if self.is_missing_one() && self.highest > before {
            self.marks.push_back((now, self.highest));
        }
        while let Some((since, highest)) = self.marks.front().copied() {
            if self.is_missing_one() && now.saturating_sub(since) < GAP_MAX {
                break;
            }
            self.marks.pop_front();
            // Whoever took a lower one that was not seen has failed, or is gone.
            self.skip_to(highest + 1);
            self.join();
        }
        self.next
    }

    /// Moves on over what was seen.
    fn join(&mut self) {
        while let Some(Reverse(lowest)) = self.beyond.peek().copied().filter(|Reverse(lowest)| *lowest <= self.next) {
            self.next = self.next.max(lowest + 1);
            self.beyond.pop();
        }
    }

    /// None of the numbers below `next` comes any more.
    fn skip_to(&mut self, next: u64) {
        self.next = self.next.max(next);
    }
}

/// The first error of a round; the rest of it goes on.
struct First(Option<Error>);

impl First {
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0 = self.0.take().or(Some(error))).ok()
    }
}

impl Engine {
    /// Finds what the log's writer has added since the last time; a `thorough` look finds all of it. A log that is not read-only
    /// has nothing to find.
    pub(crate) fn refresh(&self, thorough: bool) -> Result<()> {
        let Some(follower) = &self.follower else { return Ok(()) };
        let mut follower = lock(follower);
        self.check_open()?;
        let mut first = First(None);
        self.round(&mut follower, thorough, &mut first);
        first.0.map_or(Ok(()), Err)
    }

    fn round(&self, follower: &mut Follower, thorough: bool, first: &mut First) {
        let thorough = thorough || follower.rounds.is_multiple_of(THOROUGH_ONE_IN) || follower.commits.is_missing_one();
        follower.rounds += 1;
        first.note(self.refresh_topics(follower, thorough));
        let mut news = std::mem::take(&mut follower.news);
        if !(0..TRIES_MAX).any(|_| self.find(follower, thorough, &mut news, first)) {
            // What was found may be a part of a commit. The rest comes with the next round.
            follower.news = news;
            return;
        }
        for partition in news.partitions.values() {
            first.note(partition.show());
        }
        let horizon = follower.commits.see(news.commits, self.env.clock.monotonic());
        let moved = self.next_commit.swap(horizon, Ordering::SeqCst) != horizon;
        for partition in news.partitions.values() {
            partition.wake_all();
        }
        if moved {
            // Whoever reads several partitions may have waited for a number in another one.
            self.announce_catalogue();
        }
        if thorough {
            let settled = follower
                .storage
                .settle(|there, piece| FrameHeader::decode(piece).is_ok_and(|header| scan::is_newer(there, &header)));
            first.note(settled.map_err(|error| Error::io("cannot read what the journal's commits have become", error)));
        }
    }

    /// Finds what was added, in the files and then in the journal. Answers whether every commit was found whole.
    fn find(&self, follower: &mut Follower, thorough: bool, news: &mut News, first: &mut First) -> bool {
        self.look_at_all(thorough, news, first);
        // After a writer's crash its last frames were found by the look just now.
        if let Some(next) = follower.dead_below.take() {
            follower.commits.skip_to(next);
        }
        for partition in first.note(self.refresh_manifest(follower)).unwrap_or_default() {
            // It may start behind what was found of it.
            first.note(partition.look(thorough, u64::MAX, &mut news.commits));
            news.partitions.insert(partition.key(), partition);
        }
        let read = first.note(self.refresh_journal(follower, news));
        // Asked once more: a file that is not free by now was not written over while it was read. What was in one that is free
        // is in the partitions' files, for the next look.
        let live = first.note(self.live_journal(follower));
        live.is_some_and(|live| !follower.journal.let_go(live)) && read.is_some()
    }

    /// Looks for frames in all partitions' files.
    fn look_at_all(&self, thorough: bool, news: &mut News, first: &mut First) {
        for topic in self.topics() {
            for partition in topic.partitions().iter() {
                if first.note(partition.look(thorough, u64::MAX, &mut news.commits)) == Some(true) {
                    news.partitions.insert(partition.key(), Arc::clone(partition));
                }
            }
        }
    }

    /// Reads the manifest, and the checkpoint if there is a newer one. Answers with the partitions that start later now.
    fn refresh_manifest(&self, follower: &mut Follower) -> Result<Vec<Arc<Partition>>> {
        let now = {
            let mut manifest = lock(&self.manifest);
            manifest.reload(&self.root)?;
            *manifest.current()
        };
        let before = std::mem::replace(&mut follower.manifest, now);
        if now.epoch > before.epoch {
            follower.dead_below = Some(before.commit_limit);
        }
        let mut gone = Vec::new();
        if now.checkpoint == before.checkpoint {
            return Ok(gone);
        }
        let last = checkpoint::read(&*self.env.storage, &self.root, self.id);
        let entries = checkpoint::by_partition(last.as_ref());
        for topic in self.topics() {
            for partition in topic.partitions().iter() {
                if let Some(entry) =
                    entries.get(&partition.key()).filter(|entry| entry.log_start > partition.log_start())
                {
                    partition.gone_before(entry.log_start);
                    gone.push(Arc::clone(partition));
                }
            }
        }
        Ok(gone)
    }

    /// What the manifest counts of the journal right now.
    fn live_journal(&self, follower: &mut Follower) -> Result<Live> {
        let mut manifest = lock(&self.manifest);
        manifest.reload(&self.root)?;
        // The rest of it is the next round's.
        let Manifest { journal_first, journal_next, .. } = *manifest.current();
        (follower.manifest.journal_first, follower.manifest.journal_next) = (journal_first, journal_next);
        Ok(follower.live())
    }

    /// Shows the journal's new entries where the writer will write them.
    fn refresh_journal(&self, follower: &mut Follower, news: &mut News) -> Result<()> {
        let live = follower.live();
        let Follower { journal, journaled, .. } = &mut *follower;
        journal.read_on(&self.env, live, |frame| {
            journaled.push(Journaled { target: frame.target, header: frame.header, bytes: frame.bytes.to_vec() });
            Ok(())
        })?;
        if follower.journaled.iter().any(|frame| self.partition_of(&frame.target).is_none()) {
            self.refresh_topics(follower, true)?;
        }
        let mut touched: BTreeMap<_, (Arc<Partition>, u64)> = BTreeMap::new();
        let mut newest = 0;
        for Journaled { target, header, bytes } in &follower.journaled {
            // If there is none its topic has been deleted.
            let Some((topic, partition)) = self.partition_of(target) else { continue };
            let dir = self.root.join(TOPICS_DIR).join(&*topic.name);
            let frame = JournaledFrame { target: *target, header: *header, bytes };
            lay_over(&follower.storage, &partition_dir(&dir, target.partition), &frame)?;
            let (_, upto) = touched.entry(partition.key()).or_insert_with(|| (partition, 0));
            *upto = (*upto).max(header.next_offset());
            newest = newest.max(header.commit);
        }
        for (key, (partition, upto)) in touched {
            partition.journaled_upto(upto);
            // What was committed after the entries that were read may be in one file already, and the rest of it in the journal.
            if partition.look(false, newest, &mut news.commits)? {
                news.partitions.insert(key, partition);
            }
        }
        follower.journaled.clear();
        Ok(())
    }

    fn partition_of(&self, target: &FrameTarget) -> Option<(Arc<TopicState>, Arc<Partition>)> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.values().find(|topic| topic.id == target.topic_id)?;
        let partition = topic.partition(target.partition).ok()?;
        Some((Arc::clone(topic), partition))
    }

    /// Finds topics that were created, changed or deleted.
    fn refresh_topics(&self, follower: &mut Follower, thorough: bool) -> Result<()> {
        let dir = self.root.join(TOPICS_DIR);
        let entries = self.env.storage.list(&dir);
        let entries = entries.map_err(|error| Error::io(format!("cannot list {}", dir.display()), error))?;
        let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        if names == follower.names && !thorough {
            return Ok(());
        }
        let found = catalogue::load(&self.env, &self.root, false)?;
        let mut changed = self.forget_topics(&found);
        let mut complete = true;
        for FoundTopic { dir, file } in found {
            let known = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(&file.name).cloned();
            let of_known = known.as_ref().map_or_else(Vec::new, |topic| topic.partitions().to_vec());
            if known.as_ref().is_some_and(|topic| topic.settings() == file.settings) {
                continue;
            }
            let name: Arc<str> =
                known.as_ref().map_or_else(|| file.name.as_str().into(), |topic| Arc::clone(&topic.name));
            let id = file.id.as_u128();
            let mut partitions = of_known;
            for number in partitions.len() as u32..file.settings.partitions {
                let owner = catalogue::owner(&name, id, number);
                let config = catalogue::config(self.id, &self.settings, &file.settings);
                let begun = Partition::begin(&self.env, owner, config, partition_dir(&dir, number));
                partitions.extend(begun?.map(Arc::new));
            }
            if partitions.len() as u32 != file.settings.partitions {
                // Not all of it is there yet, or it is being deleted.
                complete = false;
                continue;
            }
            match known {
                Some(topic) => topic.change(file.settings, partitions),
                None => {
                    let created_at = file.created_at.timestamp_micros();
                    let topic = TopicState::new(Arc::clone(&name), id, created_at, file.settings, partitions);
                    let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
                    topics.insert(name.to_string(), Arc::new(topic));
                }
            }
            changed = true;
        }
        follower.names = if complete { names } else { Vec::new() };
        if changed {
            self.announce_catalogue();
        }
        Ok(())
    }

    /// Closes topics that are gone. Answers whether there were any.
    fn forget_topics(&self, found: &[FoundTopic]) -> bool {
        let is_there = |topic: &TopicState| {
            found.iter().any(|found| found.file.id.as_u128() == topic.id && found.file.name == *topic.name)
        };
        let gone: Vec<_> = self.topics().into_iter().filter(|topic| !is_there(topic)).collect();
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        for topic in &gone {
            if let btree_map::Entry::Occupied(entry) = topics.entry(topic.name.to_string()) {
                entry.remove();
            }
        }
        drop(topics);
        for topic in &gone {
            topic.close(&Error::new(ErrorKind::NotFound, format!("topic {} has been deleted", topic.name)));
        }
        !gone.is_empty()
    }

    /// Ends it all: readers are told that the log is closed.
    pub(super) fn stop_following(&self, closed: &Error) {
        if let Some(follower) = &self.follower {
            // A round that is under way is over then; none begins any more.
            drop(lock(follower));
        }
        for topic in self.topics() {
            topic.close(closed);
        }
        self.ended.store(true, Ordering::Release);
        self.announce_catalogue();
    }
}

/// What was found.
#[derive(Debug, Default)]
struct News {
    partitions: BTreeMap<(u128, u32), Arc<Partition>>,
    commits: Vec<u64>,
}

/// What became of a frame out of the journal.
pub(super) enum Overlay {
    Laid,
    /// The file has it, or something newer, or is another one by now.
    NotNeeded,
    NoFile,
}

/// Shows a frame in the partition in `dir` where the writer writes it, if it is not there.
pub(super) fn lay_over(storage: &ReadOnly, dir: &Path, frame: &JournaledFrame<'_>) -> Result<Overlay> {
    let path = dir.join(Segment::file_name(frame.target.segment_base));
    let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
    let file = match storage.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Overlay::NoFile),
        Err(error) => return Err(failed(error)),
    };
    if is_there(&*file, frame).map_err(failed)? {
        return Ok(Overlay::NotNeeded);
    }
    match storage.lay_over(&path, frame.target.position, frame.bytes) {
        Ok(()) => Ok(Overlay::Laid),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Overlay::NoFile),
        Err(error) => Err(failed(error)),
    }
}

fn is_there(file: &dyn File, frame: &JournaledFrame<'_>) -> io::Result<bool> {
    // What compaction has put in the place of the file holds the frame, or what was left of it.
    if scan::incarnation_of(file)?.is_some_and(|incarnation| incarnation != frame.header.incarnation) {
        return Ok(true);
    }
    let mut there = vec![0; frame.bytes.len()];
    let read = read_full_at(file, &mut there, frame.target.position)?;
    Ok(there[..read] == *frame.bytes || scan::is_newer(&there[..read], &frame.header))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_horizon_stops_at_the_first_number_that_was_not_seen() {
        let mut commits = Commits::new(5);
        assert_eq!(commits.see([], at(0)), 5);
        assert_eq!(commits.see([6, 5, 6, 5], at(1)), 7, "in any order, and several frames of one commit");
        assert_eq!(commits.see([3], at(2)), 7, "one that was seen before");
        assert_eq!(commits.see([9, 8], at(3)), 7);
        assert!(commits.is_missing_one());
        assert_eq!(commits.see([7], at(4)), 10);
        assert!(!commits.is_missing_one());
    }

    #[test]
    fn numbers_that_never_come_are_given_up_a_second_after_a_higher_one_came() {
        let mut commits = Commits::new(1);
        assert_eq!(commits.see([2, 4], at(10)), 1);
        assert_eq!(commits.see([6], at(500)), 1);
        assert_eq!(commits.see([], at(1009)), 1);
        assert_eq!(commits.see([], at(1010)), 5, "1 and 3 are given up, 5 has time left");
        assert_eq!(commits.see([], at(1499)), 5);
        assert_eq!(commits.see([5], at(1499)), 7);
        assert!(!commits.is_missing_one());
        assert_eq!(commits.see([], at(9000)), 7, "nobody misses what comes next");
        assert_eq!(commits.see([3], at(9001)), 7, "one that comes after all");
        commits.skip_to(100);
        assert_eq!(commits.see([101], at(9002)), 100);
        assert_eq!(commits.see([100], at(9003)), 102);
    }
}
