//! Carrying a commit out: straight into the file of one partition, or through the journal into several.
//!
//! The order that everything rests on: on the disk, then visible, then acknowledged; and for a journaled commit, then in the
//! partition files. Only the leader runs this, so commits happen one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::committer::{Outcome, Promise, Single, Unit, Work};
use super::engine::Engine;
use super::meter::Way;
use super::names::is_reserved;
use crate::error::{Error, ErrorKind, Result};
use crate::format::compression::Compression;
use crate::format::frame::FrameHeader;
use crate::format::record::FrameBuilder;
use crate::journal::{Batch, Journal};
use crate::partition::Partition;
use crate::partition::writer::{Staged, WriterGuard};
use crate::planted::{self, Bug};
use crate::segment::lock;

/// From this many bytes for each partition on, syncing the files one by one costs less than writing the bytes twice.
const BULK_BYTES: usize = 256 * 1024;

/// A frame that waits to be committed, with whom it answers.
struct Pending {
    partition: Arc<Partition>,
    builder: FrameBuilder,
    promise: Promise,
}

/// A partition that is locked for a journaled commit.
struct Locked<'a> {
    partition: &'a Arc<Partition>,
    guard: WriterGuard<'a>,
    staged: Vec<Staged>,
}

/// A commit that panics must not leave the lead taken for ever.
struct AbandonOnPanic<'a>(&'a Engine);

impl Drop for AbandonOnPanic<'_> {
    fn drop(&mut self) {
        self.0.committer.abandon();
    }
}

impl Engine {
    /// Commits what is pending, if nobody else is at it. Answers whether more was pending at the end.
    pub(crate) fn lead(&self) -> bool {
        match self.committer.try_lead() {
            Some(work) => self.carry_out(work),
            None => false,
        }
    }

    /// Commits `work` and gives the lead up.
    pub(crate) fn carry_out(&self, work: Work) -> bool {
        let abandon = AbandonOnPanic(self);
        let spare = self.commit(work);
        std::mem::forget(abandon);
        self.committer.end_lead(spare)
    }

    fn commit(&self, mut work: Work) -> Vec<FrameBuilder> {
        if let Some(failure) = lock(&self.journal).failure().cloned() {
            // A failed journal may hold commits that nobody was told of; nothing may be acknowledged behind them.
            fail_all(work, &failure);
            return Vec::new();
        }
        work.drop_closed();
        // Before any partition is locked, and before anything is counted.
        work.compress();
        let units_span = work.units.iter().any(|unit| unit.spans_partitions());
        if self.meter.is_on() {
            self.meter.committed(work.record_count());
        }
        let partitions = work.bytes_by_partition();
        let bytes = work.journal_bytes();
        if partitions.len() <= 1 || !units_span && bytes / partitions.len() >= BULK_BYTES {
            return self.commit_each(work);
        }
        if let Err(error) = self.make_journal_room(bytes) {
            self.refused(&error);
            if error.kind() == ErrorKind::StorageFull {
                // What is about one partition needs no journal, and may have room in its file.
                work.fail_spanning(&error);
                return self.commit_each(work);
            }
            fail_all(work, &error);
            return Vec::new();
        }
        self.commit_journaled(work, &partitions);
        Vec::new()
    }

    fn take_commit(&self) -> u64 {
        self.next_commit.fetch_add(1, Ordering::AcqRel)
    }

    /// Writes and syncs the file of each partition by itself; nothing goes through the journal.
    fn commit_each(&self, work: Work) -> Vec<FrameBuilder> {
        let mut frames = work.into_frames();
        // Stable: the frames of one partition keep their order.
        frames.sort_by_key(|frame| frame.partition.key());
        let mut spare = Vec::with_capacity(frames.len());
        let mut frames = frames.into_iter().peekable();
        while let Some(first) = frames.next() {
            let partition = Arc::clone(&first.partition);
            let mut same = vec![first];
            while let Some(next) = frames.next_if(|next| Arc::ptr_eq(&next.partition, &partition)) {
                same.push(next);
            }
            self.commit_one(&partition, same, &mut spare);
        }
        spare
    }

    /// Writes frames of one partition, syncs them once, and answers their groups.
    fn commit_one(&self, partition: &Arc<Partition>, frames: Vec<Pending>, spare: &mut Vec<FrameBuilder>) {
        // Entered before the lock is taken, and left after it is given back: subscribers are other people's code.
        let span = tracing::debug_span!(
            "sync",
            way = Way::Partition.as_str(),
            topic = &*partition.owner.topic,
            partition = partition.owner.partition,
            frames = frames.len()
        );
        let entered = span.entered();
        let mut guard = partition.writer();
        let mut written = Vec::with_capacity(frames.len());
        partition.announce(&self.next_commit);
        for Pending { mut builder, promise, .. } in frames {
            let appended = partition
                .check_open()
                .and_then(|()| guard.prepare(builder.len()))
                .and_then(|()| guard.append(&mut builder, self.take_commit()));
            match appended {
                Ok(header) => written.push((header, builder, promise)),
                Err(error) => {
                    self.refused(&error);
                    promise.complete(Err(error));
                }
            }
        }
        let publish = |guard: &mut WriterGuard<'_>, written: &[(FrameHeader, FrameBuilder, Promise)]| {
            for (header, builder, _) in written {
                guard.publish_synced(header, builder);
            }
        };
        if planted::is(Bug::VisibleBeforeSync) {
            publish(&mut guard, &written);
        }
        let began = self.meter.begin(&self.env);
        let synced = if written.is_empty() { Ok(()) } else { guard.sync() };
        let took = self.meter.took(&self.env, began.filter(|_| !written.is_empty()));
        if synced.is_ok() {
            publish(&mut guard, &written);
        }
        partition.announce_end();
        drop(guard);
        drop(entered);
        self.meter.synced(took, Way::Partition);
        for (header, builder, promise) in written {
            let begun = promise.begun();
            promise.complete(synced.clone().map(|()| Outcome {
                commit: header.commit,
                base_offset: header.base_offset,
                others: Vec::new(),
            }));
            self.meter.appended(self.meter.took(&self.env, begun));
            spare.push(builder);
        }
        partition.wake_followers();
        self.after_append(partition);
    }

    /// Begins another journal file if this commit does not fit into the one in use.
    fn make_journal_room(&self, bytes: usize) -> Result<()> {
        let mut journal = lock(&self.journal);
        if bytes as u64 > journal.batch_bytes_max() {
            return Err(Error::invalid(format!(
                "a commit of {bytes} bytes is larger than a journal file of {}",
                journal.batch_bytes_max()
            )));
        }
        if journal.has_room(bytes) && journal.is_counted() {
            return Ok(());
        }
        if !journal.has_room(bytes) {
            if !journal.can_rotate() {
                drop(journal);
                // The one moment at which a commit waits for a checkpoint: the ring is full. If that fails the ring grows.
                if let Err(error) = self.checkpoint() {
                    tracing::warn!(%error, "the journal could not be freed");
                }
                journal = lock(&self.journal);
            }
            journal.rotate(bytes)?;
        }
        let live = journal.live();
        lock(&self.manifest).update(|manifest| {
            manifest.journal_first = live.first;
            manifest.journal_next = live.next;
        })?;
        journal.set_counted();
        drop(journal);
        self.upkeep.want_checkpoint();
        Ok(())
    }

    /// Commits frames of several partitions with one entry for each commit number, one write and one sync.
    fn commit_journaled(&self, mut work: Work, partitions: &[(Arc<Partition>, usize)]) {
        // As in `commit_one`.
        let span = tracing::debug_span!("sync", way = Way::Journal.as_str(), partitions = partitions.len());
        let entered = span.entered();
        let mut locked: Vec<Locked<'_>> = Vec::with_capacity(partitions.len());
        for (partition, bytes) in partitions {
            // Sorted, so that nobody who takes several can wait in a circle.
            let mut guard = partition.writer();
            let prepared = partition.check_open().and_then(|()| guard.prepare_journaled(*bytes));
            match prepared {
                Ok(()) => locked.push(Locked { partition, guard, staged: Vec::new() }),
                Err(error) => {
                    self.refused(&error);
                    work.fail_partition(partition, &error);
                }
            }
        }
        if work.is_empty() {
            return;
        }
        for locked in &locked {
            locked.partition.announce(&self.next_commit);
        }
        let (promises, took) = self.journal_and_publish(work, &mut locked);
        let begun: Vec<_> = promises.iter().filter_map(|(promise, _)| promise.begun()).collect();
        for locked in &locked {
            locked.partition.announce_end();
        }
        for (promise, outcome) in promises {
            promise.complete(outcome);
        }
        for Locked { partition, guard, staged } in &mut locked {
            // After a failure as well: readers of several partitions were held up by the number that was announced.
            partition.wake_followers();
            for staged in staged.iter() {
                if let Err(error) = guard.defer(staged) {
                    // Acknowledged, in the journal, readable from memory; the next open puts it into its file.
                    tracing::error!(%error, "a committed frame could not be written to its file");
                    break;
                }
            }
        }
        drop(locked);
        drop(entered);
        self.meter.synced(took, Way::Journal);
        begun.into_iter().for_each(|begun| self.meter.appended(self.meter.took(&self.env, Some(begun))));
        for (partition, _) in partitions {
            self.after_append(partition);
        }
    }

    /// Puts units into one entry, in which they share a frame for what they take along: of the frames of a stage that consumes,
    /// processes and produces that is every other one. Each has a commit number of its own, and the shared frame the last of
    /// them, which is that of the entry.
    fn add_joint(
        &self,
        journal: &mut Journal,
        batch: &mut Batch,
        units: Vec<Unit>,
        along: &Arc<Partition>,
        locked: &mut [Locked<'_>],
    ) -> Vec<(Promise, Result<Outcome>)> {
        let (mut shared, mut entry, mut last) = (FrameBuilder::new(), Vec::with_capacity(2 * units.len()), None);
        let mut staged = Vec::with_capacity(units.len());
        for Unit { mut frames, promise } in units {
            if let Some((_, builder)) = frames.pop() {
                shared.absorb(&builder);
            }
            // A number that nobody uses would hold up whoever follows from another process.
            let commit = (!frames.is_empty()).then(|| self.take_commit());
            let places =
                frames.into_iter().map(|(of, builder)| stage(locked, &of, builder, commit.unwrap_or_default()));
            let from = entry.len();
            entry.extend(places);
            staged.push((promise, commit, from..entry.len()));
            last = commit.or(last);
        }
        let last = last.unwrap_or_else(|| self.take_commit());
        entry.push(stage(locked, along, shared, last));
        add_entry(journal, batch, last, &entry, locked);
        let answer = |(promise, commit, places): (Promise, Option<u64>, std::ops::Range<usize>)| {
            (promise, Ok(outcome(commit.unwrap_or(last), entry.get(places).unwrap_or_default(), locked)))
        };
        staged.into_iter().map(answer).collect()
    }

    /// Answers with whom to tell what, and how long the journal has taken.
    fn journal_and_publish(&self, mut work: Work, locked: &mut [Locked<'_>]) -> (Promises, Option<Duration>) {
        let mut journal = lock(&self.journal);
        let mut batch = Batch::default();
        let mut promises = Vec::with_capacity(work.singles.len() + work.units.len());
        let mut entry = Vec::with_capacity(work.singles.len());
        // A number that nobody uses would hold up whoever follows from another process.
        if !work.singles.is_empty() {
            let commit = self.take_commit();
            for single in work.singles {
                let staged = stage(locked, &single.partition, single.builder, commit);
                promises.push((single.promise, Ok(outcome(commit, &[staged], locked))));
                entry.push(staged);
            }
            add_entry(&mut journal, &mut batch, commit, &entry, locked);
        }
        if let Some(along) = along(&work.units) {
            promises.extend(self.add_joint(&mut journal, &mut batch, std::mem::take(&mut work.units), &along, locked));
        }
        for unit in work.units {
            let commit = self.take_commit();
            let places: Vec<Place> = unit
                .frames
                .into_iter()
                .map(|(partition, builder)| stage(locked, &partition, builder, commit))
                .collect();
            promises.push((unit.promise, Ok(outcome(commit, &places, locked))));
            add_entry(&mut journal, &mut batch, commit, &places, locked);
        }
        let began = self.meter.begin(&self.env);
        let appended = journal.append(&mut batch);
        let took = self.meter.took(&self.env, began);
        if let Err(error) = appended {
            self.refused(&error);
            for locked in locked.iter_mut() {
                locked.staged.clear();
                let relaxed = !locked.partition.config.synced && !planted::is(Bug::RelaxedBehindJournal);
                if journal.failure().is_some() && relaxed {
                    // The journal may hold these frames. A relaxed append, which does not ask the journal, must not take
                    // their place: recovery would find one of them there and the rest of the commit elsewhere.
                    locked.partition.poison_by(&error);
                }
                if journal.failure().is_some() {
                    locked.partition.leave_end_open();
                }
            }
            for (_, outcome) in &mut promises {
                *outcome = Err(error.clone());
            }
            return (promises, took);
        }
        drop(journal);
        for Locked { guard, staged, .. } in locked.iter_mut() {
            for staged in staged.iter() {
                guard.publish_staged(staged);
            }
        }
        (promises, took)
    }
}

type Promises = Vec<(Promise, Result<Outcome>)>;

/// The partition of annals' own that every one of several units takes something along to: how far consumers have come.
fn along(units: &[Unit]) -> Option<Arc<Partition>> {
    let last = |unit: &Unit| unit.frames.last().map(|(partition, _)| Arc::clone(partition));
    let along = last(units.first()?).filter(|along| is_reserved(&along.owner.topic))?;
    let all = units.iter().all(|unit| unit.frames.last().is_some_and(|(of, _)| Arc::ptr_eq(of, &along)));
    (all && units.len() > 1 && along.config.live.compression() == Compression::None).then_some(along)
}

/// Which of the locked partitions, and which of its staged frames.
type Place = (usize, usize);

fn stage(locked: &mut [Locked<'_>], partition: &Arc<Partition>, builder: FrameBuilder, commit: u64) -> Place {
    let Ok(index) = locked.binary_search_by_key(&partition.key(), |locked| locked.partition.key()) else {
        unreachable!("every frame's partition was locked, or its frame was dropped");
    };
    let Locked { guard, staged, .. } = &mut locked[index];
    let next = guard.stage(builder, commit, staged.last());
    staged.push(next);
    (index, staged.len() - 1)
}

fn outcome(commit: u64, places: &[Place], locked: &[Locked<'_>]) -> Outcome {
    let mut bases = places.iter().map(|(index, at)| locked[*index].staged[*at].header.base_offset);
    Outcome { commit, base_offset: bases.next().unwrap_or(0), others: bases.collect() }
}

fn add_entry(journal: &mut Journal, batch: &mut Batch, commit: u64, places: &[Place], locked: &[Locked<'_>]) {
    let step = if planted::is(Bug::CommitSplit) { 1 } else { places.len().max(1) };
    for places in places.chunks(step) {
        journal.add(batch, commit, |entry| {
            for (index, at) in places {
                let staged = &locked[*index].staged[*at];
                entry.push(&staged.target, &staged.bytes);
            }
        });
    }
}

fn fail_all(work: Work, error: &Error) {
    for Single { promise, .. } in work.singles {
        promise.complete(Err(error.clone()));
    }
    for Unit { promise, .. } in work.units {
        promise.complete(Err(error.clone()));
    }
}

impl Work {
    fn record_count(&self) -> u64 {
        let singles = self.singles.iter().map(|single| &single.builder);
        let units = self.units.iter().flat_map(|unit| unit.frames.iter().map(|(_, builder)| builder));
        singles.chain(units).map(|builder| u64::from(builder.record_count())).sum()
    }

    fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        let singles = self.singles.iter().map(|single| &single.partition);
        singles.chain(self.units.iter().flat_map(|unit| unit.frames.iter().map(|(partition, _)| partition)))
    }

    /// The partitions, sorted by their keys, each with the bytes of its frames.
    fn bytes_by_partition(&self) -> Vec<(Arc<Partition>, usize)> {
        let singles = self.singles.iter().map(|single| (&single.partition, single.builder.len()));
        let frames = self.units.iter().flat_map(|unit| &unit.frames);
        let units = frames.map(|(partition, builder)| (partition, builder.len()));
        let mut all: Vec<_> = singles.chain(units).map(|(partition, bytes)| (Arc::clone(partition), bytes)).collect();
        all.sort_by_key(|(partition, _)| partition.key());
        all.dedup_by(|next, kept| {
            let same = Arc::ptr_eq(&next.0, &kept.0);
            kept.1 += if same { next.1 } else { 0 };
            same
        });
        all
    }

    /// Compresses the pending frames; those of units have been when they were handed over.
    fn compress(&mut self) {
        for Single { partition, builder, .. } in &mut self.singles {
            builder.compress(partition.config.live.compression());
        }
    }

    /// Answers whatever touches a partition that takes no records, so that it does not hold the rest up.
    fn drop_closed(&mut self) {
        let closed: Vec<_> = self
            .partitions()
            .filter_map(|partition| partition.check_open().err().map(|error| (Arc::clone(partition), error)))
            .collect();
        for (partition, error) in closed {
            self.fail_partition(&partition, &error);
        }
    }

    fn fail_partition(&mut self, partition: &Arc<Partition>, error: &Error) {
        for single in self.singles.extract_if(.., |single| Arc::ptr_eq(&single.partition, partition)) {
            single.promise.complete(Err(error.clone()));
        }
        let touches = |unit: &mut Unit| unit.frames.iter().any(|(of, _)| Arc::ptr_eq(of, partition));
        for unit in self.units.extract_if(.., touches) {
            unit.promise.complete(Err(error.clone()));
        }
    }

    fn fail_spanning(&mut self, error: &Error) {
        for unit in self.units.extract_if(.., |unit| unit.spans_partitions()) {
            unit.promise.complete(Err(error.clone()));
        }
    }

    /// All frames, those of each partition in the order in which they were sent.
    fn into_frames(self) -> Vec<Pending> {
        let mut frames = Vec::with_capacity(self.singles.len() + self.units.len());
        let singles = self.singles.into_iter();
        frames.extend(singles.map(|Single { partition, builder, promise }| Pending { partition, builder, promise }));
        for Unit { frames: inside, promise } in self.units {
            // A unit that comes here has one frame, or it would be journaled.
            let first = inside.into_iter().next();
            frames.extend(first.map(|(partition, builder)| Pending { partition, builder, promise }));
        }
        frames
    }
}

impl Unit {
    fn spans_partitions(&self) -> bool {
        self.frames.len() > 1
    }
}
