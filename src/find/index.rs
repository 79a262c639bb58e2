//! The index of an open log: the view, brought up to the end of the log before it is asked, and in the background.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::matcher::{HeaderHasher, Wanted};
use super::read::{self, Slice};
use super::worker::Worker;
use crate::error::{Error, ErrorKind, Result};
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::log::settings::indexed::KEY;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::segment::lock;
use crate::text::quoted;
use crate::views::index::{Added, Anew, IndexView, Runs, Whose};

/// So much of a partition is read at once, while others who search wait. What somebody waits for is better done in few steps, as
/// each is merged with those before it.
const SLICE_BYTES: u64 = 256 << 20;
const BACKGROUND_SLICE_BYTES: u64 = 64 << 20;
/// So much of the log, at the most, is taken in before the log closes.
const CLOSING_BYTES: u64 = 16 << 20;
/// What a crash may cost: so many entries are made again.
const UNFLUSHED_MAX: usize = 1 << 20;
/// A partition that was compacted is read again once it has this many entries more than twice those that it began with.
const GROWN_BY: u64 = 1024;
/// A view that fails is begun anew, and in memory in the end, where nothing fails.
const TRIES_MAX: usize = 8;

/// The header indexes of one log.
#[derive(Debug)]
pub(super) struct HeaderIndex {
    pub(super) worker: Worker,
    pub(super) hasher: HeaderHasher,
    state: Mutex<State>,
}

#[derive(Debug)]
enum View {
    /// Not needed yet.
    Unopened,
    Open(IndexView),
    Closed,
}

#[derive(Debug)]
struct State {
    view: View,
    hasher: HeaderHasher,
    /// What the view has, of partitions that were held against the log.
    known: HashMap<Whose, Known>,
    /// Entries that a crash would take away.
    unflushed: usize,
}

#[derive(Debug, Clone, Default)]
struct Known {
    runs: Runs,
    /// All of it is being made now.
    building: bool,
}

/// Why a step was not taken.
#[derive(Debug)]
enum Failed {
    /// The view is empty now.
    Anew,
    Log(Error),
}

impl From<Anew> for Failed {
    fn from(Anew: Anew) -> Self {
        Self::Anew
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Log(error)
    }
}

/// Has the index of a log kept complete from now on.
pub(crate) fn register(engine: &Arc<Engine>) {
    if engine.is_read_only() {
        return;
    }
    let hasher = HeaderHasher::new(engine.id);
    let state = Mutex::new(State { view: View::Unopened, hasher, known: HashMap::new(), unflushed: 0 });
    let index = HeaderIndex { worker: Worker::new(Arc::downgrade(engine)), hasher, state };
    engine.extensions.get_or_init(|| index);
}

/// That a topic, or all of them, do not index a header.
pub(super) fn not_indexed(wanted: &Wanted, said: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{} is not indexed: {said}", wanted.said()))
}

/// The names of headers as they are told.
pub(super) fn listed(names: &[String]) -> String {
    let told = |name: &String| if name == KEY { "the key".to_owned() } else { quoted(name) };
    names.iter().map(told).collect::<Vec<_>>().join(", ")
}

/// What a topic indexes, said to somebody who looks for something else.
pub(super) fn says(topic: &TopicState, names: &[String]) -> String {
    match names {
        [] => format!("topic {} indexes none", topic.name),
        names => format!("topic {} indexes {}", topic.name, listed(names)),
    }
}

impl HeaderIndex {
    /// The one of this log; `None` once that is closed.
    pub(super) fn of(engine: &Engine) -> Option<Arc<Self>> {
        engine.extensions.get()
    }

    /// The first `limit` offsets from `from` up to `upto` at which a record may have what is wanted: all that do are among them.
    pub(super) fn matches(
        &self,
        engine: &Engine,
        topic: &TopicState,
        partition: &Arc<Partition>,
        wanted: &Wanted,
        (from, upto): (u64, u64),
        limit: usize,
    ) -> Result<Vec<u64>> {
        let hash = self.hasher.hash(&wanted.name, &wanted.value);
        let mut tries = 0;
        loop {
            // Looked at each time: what is not declared any more is not kept complete.
            let settings = topic.settings();
            let names = settings.indexed();
            if !wanted.is_indexed_by(&settings) {
                return Err(not_indexed(wanted, says(topic, &names)));
            }
            // Locked for a slice at a time, so that others come to their turn.
            let mut state = lock(&self.state);
            let done = match state.step(engine, partition, &names, upto, SLICE_BYTES) {
                Ok((true, _)) => state.matches(partition.key(), hash, (from, upto), limit).map(Some),
                Ok((false, _)) => Ok(None),
                Err(failed) => Err(failed),
            };
            match done {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => engine.check_open()?,
                Err(Failed::Log(error)) => return Err(error),
                Err(Failed::Anew) => {
                    state.known.clear();
                    tries += 1;
                    if tries > TRIES_MAX {
                        return Err(Error::new(ErrorKind::Io, "the header index can be neither read nor made again"));
                    }
                }
            }
        }
    }

    /// Completes the index of every partition, slowly enough to leave the machine to others.
    pub(super) fn complete_all(&self, engine: &Engine) {
        let mut tries = 0;
        for topic in engine.topics() {
            for partition in topic.partitions().iter() {
                loop {
                    let names = topic.settings().indexed();
                    if engine.is_closed() {
                        return;
                    }
                    let begun = engine.env.clock.monotonic();
                    match lock(&self.state).background_step(engine, partition, &names, BACKGROUND_SLICE_BYTES) {
                        Ok((true, 0)) => break,
                        Ok((done, _)) => {
                            let took = engine.env.clock.monotonic().saturating_sub(begun);
                            if !self.worker.pause(took) {
                                return;
                            }
                            if done {
                                break;
                            }
                        }
                        Err(Failed::Anew) if tries < TRIES_MAX => tries += 1,
                        Err(Failed::Anew) => return,
                        // Whoever searches is told.
                        Err(Failed::Log(error)) => {
                            tracing::debug!(%error, "a header index was not completed");
                            break;
                        }
                    }
                }
            }
        }
        let mut state = lock(&self.state);
        state.forget_unindexed(engine);
        state.flush();
    }
}

#[cfg(test)]
impl HeaderIndex {
    /// Up to where the index goes, and how many entries it has.
    pub(super) fn extent(&self, whose: Whose) -> Option<(u64, u64)> {
        let state = lock(&self.state);
        let runs = &state.known.get(&whose)?.runs;
        Some((runs.position()?, runs.count()))
    }
}

impl Extension for HeaderIndex {
    fn checkpointed(&self, engine: &Engine) {
        if self.worker.is_there() || is_any_indexed(engine) {
            self.worker.want();
        }
    }

    fn catalogue_changed(&self, engine: &Engine) {
        self.checkpointed(engine);
    }

    fn closing(&self, engine: &Engine) {
        self.worker.stop();
        let mut state = lock(&self.state);
        if matches!(state.view, View::Open(_)) {
            state.complete_before_closing(engine);
            state.flush();
        }
        // Whoever opens the log next opens the view, too.
        state.view = View::Closed;
        state.known.clear();
    }
}

impl State {
    /// The view, opened by the first call.
    fn view(&mut self, engine: &Engine) -> Result<&mut IndexView> {
        if let View::Unopened = self.view {
            self.view = View::Open(match engine.env.storage.is_file_system() {
                true => IndexView::open(&engine.env, &engine.root, engine.id),
                false => IndexView::in_memory(),
            });
            self.forget_unindexed(engine);
        }
        match &mut self.view {
            View::Open(view) => Ok(view),
            View::Unopened | View::Closed => Err(Error::closed()),
        }
    }

    /// Takes in what the view lacks of a partition, up to `end`, but not much more than `bytes_max`. Answers whether that is all,
    /// and how many bytes were read.
    fn step(
        &mut self,
        engine: &Engine,
        partition: &Arc<Partition>,
        names: &[String],
        end: u64,
        bytes_max: u64,
    ) -> Result<(bool, u64), Failed> {
        let whose = partition.key();
        let mut known = self.known(engine, partition, names)?;
        let log_start = partition.log_start();
        let from = known.runs.position().unwrap_or(0).max(log_start);
        if from >= end {
            return Ok((true, 0));
        }
        let Slice { upto, entries, bytes, done } = read::slice(partition, (from, end), names, &self.hasher, bytes_max)?;
        if let Some((to, mark)) = upto {
            self.unflushed += entries.len();
            if known.building {
                known.runs.built_count = known.runs.count() + entries.len() as u64;
            }
            let added = Added { from, to, mark, names, entries, log_start: partition.log_start() };
            let runs = self.view(engine)?.add(whose, &known.runs, added)?;
            self.known.insert(whose, Known { runs, building: known.building && !done });
        }
        if self.unflushed > UNFLUSHED_MAX {
            self.flush();
        }
        Ok((done, bytes))
    }

    /// What the view has of a partition, as far as it can be believed and is of use.
    fn known(&mut self, engine: &Engine, partition: &Arc<Partition>, names: &[String]) -> Result<Known, Failed> {
        let whose = partition.key();
        let mut known = match self.known.get(&whose) {
            Some(known) => known.clone(),
            None => {
                let mut runs = self.view(engine)?.load(whose)?.unwrap_or_default();
                if let Some(believed) = believed(partition, &runs) {
                    tracing::warn!(
                        topic = %partition.owner.topic,
                        partition = partition.owner.partition,
                        "a header index is not that of its partition; what is not is made again"
                    );
                    runs.runs.truncate(believed);
                    self.view(engine)?.keep(whose, &runs)?;
                }
                Known { building: runs.runs.is_empty(), runs }
            }
        };
        let runs = &mut known.runs;
        let covers = names.iter().all(|name| runs.names.contains(name));
        // Compacted records are left in the index until it has grown by as many.
        let compacted = partition.clean_end() > runs.clean_end.max(partition.log_start());
        let outgrown = compacted && runs.count() > 2 * runs.built_count + GROWN_BY;
        if !runs.runs.is_empty() && (!covers || outgrown) {
            *runs = Runs::default();
            self.known.remove(&whose);
            self.view(engine)?.forget(whose)?;
            known.building = true;
        }
        let runs = &mut known.runs;
        if runs.runs.is_empty() {
            runs.clean_end = partition.clean_end();
        } else if runs.names.len() != names.len() {
            // What is not indexed any more is not looked for in what comes.
            runs.names = names.to_vec();
            self.view(engine)?.keep(whose, runs)?;
        }
        self.known.insert(whose, known.clone());
        Ok(known)
    }

    fn matches(&mut self, whose: Whose, hash: u32, (from, upto): (u64, u64), limit: usize) -> Result<Vec<u64>, Failed> {
        let View::Open(view) = &mut self.view else { return Err(Failed::Log(Error::closed())) };
        let mut found = Vec::new();
        let runs = self.known.get(&whose).map(|known| &known.runs.runs[..]).unwrap_or_default();
        for run in runs.iter().filter(|run| run.from < upto && run.to > from) {
            found.extend(view.matches(whose, run, hash, (from, upto), limit - found.len())?);
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    /// Of topics that are deleted, or index nothing any more, nothing is kept.
    fn forget_unindexed(&mut self, engine: &Engine) {
        let View::Open(view) = &mut self.view else { return };
        let indexed = indexed_partitions(engine);
        let is_indexed = |(topic, partition): Whose| indexed.get(&topic).is_some_and(|count| partition < *count);
        self.known.retain(|whose, _| is_indexed(*whose));
        if view.retain(is_indexed).is_err() {
            self.known.clear();
        }
    }

    /// A step for nobody in particular.
    fn background_step(
        &mut self,
        engine: &Engine,
        partition: &Arc<Partition>,
        names: &[String],
        bytes_max: u64,
    ) -> Result<(bool, u64), Failed> {
        if names.is_empty() {
            return Ok((true, 0));
        }
        let stepped = self.step(engine, partition, names, partition.visible_end(), bytes_max);
        if let Err(Failed::Anew) = stepped {
            self.known.clear();
        }
        stepped
    }

    fn complete_before_closing(&mut self, engine: &Engine) {
        let mut left = CLOSING_BYTES;
        for topic in engine.topics() {
            let names = topic.settings().indexed();
            for partition in topic.partitions().iter() {
                match self.background_step(engine, partition, &names, left) {
                    Ok((_, bytes)) => left = left.saturating_sub(bytes),
                    Err(Failed::Anew) => return,
                    Err(Failed::Log(error)) => tracing::debug!(%error, "a header index was not completed"),
                }
                if left == 0 {
                    return;
                }
            }
        }
    }

    fn flush(&mut self) {
        self.unflushed = 0;
        if let View::Open(view) = &mut self.view
            && view.flush().is_err()
        {
            self.known.clear();
        }
    }
}

fn is_any_indexed(engine: &Engine) -> bool {
    engine.topics().iter().any(|topic| topic.snapshot().settings.indexes_any())
}

/// The topics that index something, and how many partitions they have.
fn indexed_partitions(engine: &Engine) -> HashMap<u128, u32> {
    let snapshots = engine.topics().into_iter().map(|topic| topic.snapshot());
    let indexed = snapshots.filter(|snapshot| snapshot.settings.indexes_any());
    indexed.map(|snapshot| (snapshot.topic_id, snapshot.partitions.len() as u32)).collect()
}

/// How many of the runs are those of the partition, if not all of them are. What is the same up to the end of a run is the same
/// before it.
fn believed(partition: &Arc<Partition>, runs: &Runs) -> Option<usize> {
    let first = runs.runs.first()?;
    let log_start = partition.log_start();
    if first.from > log_start {
        // It was higher once, and what has come back was not looked at.
        return Some(0);
    }
    let holds = |to, mark| to <= log_start || read::mark_at(partition, to) == Some(mark);
    let believed = runs.runs.iter().rposition(|run| holds(run.to, run.mark)).map_or(0, |last| last + 1);
    (believed < runs.runs.len()).then_some(believed)
}
