//! The thread of a projection: takes in one record after the other, and writes what a batch of them has changed as one.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;

use super::builder::{Handler, OnProgress, ProjectionBuilder};
use super::shared::{Phase, Progress, Rebuild, Shared, Wanted};
use super::state::ProjectionState;
use crate::codec::Raw;
use crate::error::{Error, ErrorKind, FailedRecord, Gap, Result};
use crate::log::running::Running;
use crate::replay::{BlockingReplay, RecordView};
use crate::segment::lock;
use crate::task::block;
use crate::views::state::{Place, Whose, Written};

/// So many records, or bytes of changes, are written as one at the most.
const BATCH_RECORDS: usize = 4096;
const BATCH_BYTES: usize = 4 << 20;
/// What a crash may cost: so many records are taken in again.
const UNFLUSHED_MAX: usize = 1 << 17;
/// Of the gaps of a partition so many are told apart.
const GAPS_MAX: usize = 64;
/// A view that fails more often than this, one time after the other, stops the projection.
const FAILURES_MAX: u32 = 3;
/// The building is told to the log of the process every so many records.
const TOLD_EVERY: u64 = 1 << 20;

pub(super) struct Worker {
    shared: Arc<Shared>,
    log: Arc<Running>,
    handlers: Vec<Handler>,
    on_progress: Option<OnProgress>,
    definition: Vec<u8>,
    state: ProjectionState,
    places: HashMap<Whose, Place>,
    /// The partitions of which records were taken in since the last batch, and how many.
    touched: HashSet<Whose>,
    records: usize,
    /// Every record with a lower commit number is in the state once the batch is written.
    read_below: u64,
    /// The view as it was when the projection was begun.
    generation: u64,
    complete: bool,
    unflushed: usize,
    failures: u32,
    done: u64,
}

/// Why the records are not gone on with.
enum End {
    Close,
    Rebuild(Rebuild),
    Failed(Error),
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        builder: ProjectionBuilder,
        definition: Vec<u8>,
        places: HashMap<Whose, Place>,
        generation: u64,
        complete: bool,
    ) -> Self {
        let ProjectionBuilder { log, handlers, on_progress, .. } = builder;
        Self {
            state: ProjectionState::new(Arc::clone(&shared)),
            shared,
            log,
            handlers,
            on_progress,
            definition,
            places,
            touched: HashSet::new(),
            records: 0,
            read_below: 0,
            generation,
            complete,
            unflushed: 0,
            failures: 0,
            done: 0,
        }
    }

    /// Does all of it. Nobody who waits for a thread that has panicked waits for ever.
    pub(super) fn main_guarded(self) {
        let shared = Arc::clone(&self.shared);
        if catch_unwind(AssertUnwindSafe(|| self.main())).is_err() {
            let failed = Error::new(ErrorKind::Io, format!("the thread of projection {} has panicked", shared.name));
            shared.change(|status| status.phase = Phase::Failed(failed));
        }
    }

    fn main(mut self) {
        self.shared.thread_id.get_or_init(|| std::thread::current().id());
        loop {
            let mut end = self.run();
            if let End::Rebuild(why) = end {
                match self.begin_anew(why) {
                    Ok(()) => continue,
                    Err(error) => end = End::Failed(error),
                }
            }
            if let End::Failed(error) = end
                && !self.wait_failed(error)
            {
                break;
            }
            if self.shared.status(|status| status.wanted.close) {
                break;
            }
        }
        self.flush();
        self.shared.change(|status| status.phase = Phase::Closed);
    }

    /// Says that it has stopped, and waits until it is to be built again; `false` if it is to be closed instead.
    fn wait_failed(&mut self, error: Error) -> bool {
        if error.kind() != ErrorKind::Closed {
            tracing::error!(%error, projection = self.shared.name, "a projection has stopped");
        }
        self.shared.change(|status| {
            if status.wanted.rebuild.is_none() {
                status.phase = Phase::Failed(error);
            }
        });
        loop {
            let listener = self.shared.wake.listen();
            let Wanted { close, rebuild, .. } = self.shared.take_wanted();
            if close {
                return false;
            }
            if let Some(why) = rebuild {
                match self.begin_anew(why) {
                    Ok(()) => return true,
                    Err(error) => self.shared.change(|status| status.phase = Phase::Failed(error)),
                }
            }
            if !self.shared.asked.load(Ordering::SeqCst) {
                event_listener::Listener::wait(listener);
            }
        }
    }

    /// Sets aside what there is.
    fn begin_anew(&mut self, why: Rebuild) -> Result<()> {
        if why == Rebuild::Damaged {
            self.failures += 1;
            if self.failures > FAILURES_MAX {
                let failed = format!("the state of projection {} fails whenever it is built", self.shared.name);
                return Err(Error::new(ErrorKind::Io, failed));
            }
        }
        tracing::warn!(projection = self.shared.name, why = %why, "a projection is built again from the log");
        drop(self.state.take());
        self.places.clear();
        self.touched.clear();
        (self.records, self.read_below, self.unflushed, self.done) = (0, 0, 0, 0);
        self.complete = false;
        self.shared.change(|status| {
            status.phase = Phase::Building;
            status.places.clear();
            (status.read_below, status.done) = (0, 0);
            status.rebuild = Some(why.clone());
            status.wanted.rebuild = None;
        });
        let mut view = lock(&self.shared.view);
        let Some(view) = view.as_mut() else { return Err(Error::closed()) };
        // Somebody may have met the damage and begun it anew already.
        if view.generation() == self.generation {
            view.set_aside(&why.to_string())?;
        }
        self.generation = view.generation();
        // Under the lock of the view, which is empty: what is there from now on is what is built.
        self.shared.set_generation(self.generation);
        Ok(())
    }

    fn run(&mut self) -> End {
        let offsets = self.places.iter().map(|(whose, place)| (*whose, place.next_offset)).collect();
        let log = Arc::clone(&self.log);
        let mut records = match BlockingReplay::resume(log, self.shared.topics.clone(), &offsets) {
            Ok(records) => records,
            Err(error) => return End::Failed(error),
        };
        loop {
            if let Err(end) = self.step(&mut records) {
                return match end {
                    // What came before is kept.
                    End::Rebuild(why) => End::Rebuild(why),
                    end => self.write().err().unwrap_or(end),
                };
            }
        }
    }

    fn step(&mut self, records: &mut BlockingReplay<Bytes, Raw>) -> Result<(), End> {
        if self.shared.asked.load(Ordering::Relaxed) {
            let Wanted { close, rebuild, flush } = self.shared.take_wanted();
            if close {
                return Err(End::Close);
            }
            // Whoever met the damage may say so only after it was mended.
            if let Some(why) = rebuild.filter(|why| *why != Rebuild::Damaged || self.is_lost()) {
                return Err(End::Rebuild(why));
            }
            if flush {
                self.write()?;
                self.flush();
            }
        }
        match records.next_now() {
            Ok(Some(record)) => self.take_in(record)?,
            Ok(None) => return self.rest(records),
            Err(error) => match error.gap() {
                Some(gap) => self.pass_over(&gap.clone()),
                None => return Err(End::Failed(error)),
            },
        }
        if self.records >= BATCH_RECORDS || self.state.bytes() >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    /// Gives the record to whoever wants it.
    fn take_in(&mut self, record: RecordView<'_>) -> Result<(), End> {
        let Some(topic) = self.shared.topics.iter().find(|topic| *topic.name == *record.topic()) else { return Ok(()) };
        let whose = (topic.id, record.partition());
        let next_offset = self.places.get(&whose).map_or(0, |place| place.next_offset);
        if record.offset() > next_offset && !topic.snapshot().settings.compaction {
            let topic = topic.name.to_string();
            self.pass_over(&Gap { topic, partition: whose.1, from: next_offset, to: record.offset() });
        }
        for handler in self.handlers.iter_mut().filter(|handler| handler.wants(&record)) {
            let applied = catch_unwind(AssertUnwindSafe(|| (handler.apply)(&mut self.state, record.to_message())));
            let (panicked, source) = match applied {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => (false, Some(error)),
                Err(_) => (true, None),
            };
            self.state.take_back();
            return Err(self.failed(record, panicked, source));
        }
        self.state.keep();
        let place = self.places.entry(whose).or_default();
        (place.next_offset, place.commit, place.crc) = (record.offset() + 1, record.commit(), record.checksum());
        self.touched.insert(whose);
        self.read_below = self.read_below.max(record.commit());
        self.records += 1;
        Ok(())
    }

    /// Whether somebody has met damage, and what there was is gone.
    fn is_lost(&self) -> bool {
        lock(&self.shared.view).as_ref().is_some_and(|view| view.generation() != self.generation)
    }

    fn failed(&self, record: RecordView<'_>, panicked: bool, source: Option<super::ApplyError>) -> End {
        // The function may have failed only since there was nothing more to be asked.
        if self.is_lost() {
            return End::Rebuild(Rebuild::Damaged);
        }
        let (topic, partition, offset) = (record.topic().to_owned(), record.partition(), record.offset());
        let what = if panicked { "has panicked" } else { "has failed" };
        let name = &self.shared.name;
        let context = format!("projection {name} {what} at topic {topic}, partition {partition}, offset {offset}");
        End::Failed(Error::of_failed(context, FailedRecord { topic, partition, offset, panicked }, source))
    }

    /// Records have gone before they were read.
    fn pass_over(&mut self, gap: &Gap) {
        let Some(topic) = self.shared.topics.iter().find(|topic| *topic.name == *gap.topic) else { return };
        let whose = (topic.id, gap.partition);
        let place = self.places.entry(whose).or_default();
        let from = gap.from.max(place.next_offset);
        if from >= gap.to {
            return;
        }
        tracing::warn!(
            projection = self.shared.name,
            topic = gap.topic,
            partition = gap.partition,
            from,
            to = gap.to,
            "records have gone before a projection has read them"
        );
        let full = place.gaps.len() >= GAPS_MAX;
        match place.gaps.last_mut() {
            Some(last) if full || last.1 == from => last.1 = gap.to,
            _ => place.gaps.push((from, gap.to)),
        }
        place.next_offset = gap.to;
        self.touched.insert(whose);
    }

    /// Writes what the batch has changed, and the places behind it, and says so.
    fn write(&mut self) -> Result<(), End> {
        if !self.touched.is_empty() {
            let place = |whose: Whose| Some((whose, self.places.get(&whose)?.clone()));
            let places: Vec<_> = self.touched.drain().filter_map(place).collect();
            self.write_all(&places)?;
            self.done += self.records as u64;
            self.unflushed += self.records;
            self.records = 0;
            self.failures = 0;
            let (done, read_below) = (self.done, self.read_below);
            self.shared.change(|status| {
                status.places.extend(places);
                (status.done, status.read_below) = (done, status.read_below.max(read_below));
            });
            self.tell();
        }
        if self.unflushed > UNFLUSHED_MAX {
            self.flush();
        }
        Ok(())
    }

    fn write_all(&mut self, places: &[(Whose, Place)]) -> Result<(), End> {
        let changes = self.state.take();
        let written = Written { definition: &self.definition, complete: self.complete, changes, places };
        let mut view = lock(&self.shared.view);
        let Some(view) = view.as_mut() else { return Err(End::Close) };
        // Somebody has met damage, and what there was is gone.
        if view.generation() != self.generation {
            return Err(End::Rebuild(Rebuild::Damaged));
        }
        view.write(&written).map_err(|error| {
            tracing::warn!(%error, "the state of a projection could not be written");
            End::Rebuild(Rebuild::Damaged)
        })
    }

    fn flush(&mut self) {
        self.unflushed = 0;
        if let Some(view) = lock(&self.shared.view).as_mut()
            && let Err(error) = view.flush()
        {
            tracing::warn!(%error, "the state of a projection could not be written out");
        }
    }

    /// Tells how far the building is.
    fn tell(&mut self) {
        if self.complete {
            return;
        }
        let progress = Progress { done: self.done, to_do: self.to_do() };
        if self.done / TOLD_EVERY != (self.done - self.done.min(BATCH_RECORDS as u64)) / TOLD_EVERY {
            let (done, to_do) = (progress.done, progress.to_do);
            tracing::info!(projection = self.shared.name, done, to_do, "a projection is being built");
        }
        if let Some(told) = &mut self.on_progress
            && catch_unwind(AssertUnwindSafe(|| told(progress))).is_err()
        {
            tracing::error!(projection = self.shared.name, "the function that is told the progress has panicked");
            self.on_progress = None;
        }
    }

    fn to_do(&self) -> u64 {
        let next_offset = |whose: Whose| self.places.get(&whose).map_or(0, |place| place.next_offset);
        let partitions = self.shared.topics.iter().flat_map(|topic| topic.partitions().to_vec());
        let left = |end: u64, whose| end.saturating_sub(next_offset(whose));
        partitions.map(|partition| left(partition.visible_end(), partition.key())).sum()
    }

    /// There is nothing more: writes what there is, and waits.
    fn rest(&mut self, records: &mut BlockingReplay<Bytes, Raw>) -> Result<(), End> {
        self.write()?;
        let Some(read_below) = records.read_below() else { return Ok(()) };
        if !self.complete {
            self.complete = true;
            self.write_all(&[])?;
            self.flush();
            tracing::info!(projection = self.shared.name, records = self.done, "a projection is complete");
        }
        self.read_below = self.read_below.max(read_below);
        let is_news =
            self.shared.status(|status| status.read_below < read_below || !matches!(status.phase, Phase::Following));
        if is_news {
            self.shared.change(|status| {
                if status.wanted.rebuild.is_none() {
                    status.phase = Phase::Following;
                    status.read_below = status.read_below.max(read_below);
                }
            });
        }
        let mut wake = self.shared.wake.listen();
        if self.shared.asked.load(Ordering::SeqCst) {
            return Ok(());
        }
        block(|cx| match records.poll_changed(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => Pin::new(&mut wake).poll(cx),
        });
        Ok(())
    }
}
