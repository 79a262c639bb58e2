//! The windows of all partitions in their view: loaded at the first use, written in the background and at the close.

use std::sync::{Arc, Mutex};

use super::window::{At, Limits};
use super::{PartitionGuard, State};
use crate::error::Result;
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::planted::{self, Bug};
use crate::segment::lock;
use crate::views::dedup::{DedupView, Meta, Saved, SavedEntry};

/// The view, once it was needed. A log in memory has none, nor has one whose view cannot be opened.
#[derive(Debug)]
pub(crate) struct Dedup {
    view: Mutex<Option<DedupView>>,
}

impl Dedup {
    /// The one of this log, unless that is closed; the view is opened by the first call.
    pub(super) fn of(engine: &Engine) -> Option<Arc<Self>> {
        engine.extensions.get_or_init(|| Self { view: Mutex::new(open(engine)) })
    }

    /// What the view has of a partition, if it is of this log and reaches far enough back.
    pub(super) fn load(&self, partition: &Arc<Partition>, limits: Limits) -> Option<Saved> {
        let mut view = lock(&self.view);
        let saved = match view.as_mut()?.load(partition.key()) {
            Ok(saved) => saved?,
            Err(error) => {
                tracing::warn!(%error, "a window of message identities is read from the log");
                return None;
            }
        };
        let reaches = saved.meta.count_max >= limits.count_max as u64 && saved.meta.age_max >= limits.age_max;
        // Offsets are used again after a power loss, commit numbers never.
        let is_of_this_log =
            commit_at(partition, saved.meta.position) == Some(saved.meta.commit) || planted::is(Bug::ViewBelieved);
        if !is_of_this_log {
            tracing::warn!(
                position = saved.meta.position,
                "a window of message identities is not that of its partition"
            );
        }
        (reaches && is_of_this_log).then_some(saved)
    }

    fn save(&self, engine: &Engine) {
        let mut view = lock(&self.view);
        let Some(view) = view.as_mut() else { return };
        for topic in engine.topics() {
            let Some(limits) = Limits::of(&topic.settings()) else { continue };
            for partition in topic.partitions().iter() {
                if let Some(guard) = PartitionGuard::attached(partition)
                    && let Err(error) = save_partition(view, partition, &guard, limits)
                {
                    tracing::warn!(%error, "a window of message identities was not saved");
                    return;
                }
            }
        }
        if let Err(error) = view.flush() {
            tracing::warn!(%error, "the message identities were not saved");
        }
    }
}

impl Extension for Dedup {
    fn checkpointed(&self, engine: &Engine) {
        self.save(engine);
    }

    fn closing(&self, engine: &Engine) {
        self.save(engine);
        // Whoever opens the log next opens the view, too.
        drop(lock(&self.view).take());
    }
}

/// Opens the view of a log on the disk, and takes out what deleted topics have left there.
fn open(engine: &Engine) -> Option<DedupView> {
    if !engine.env.storage.is_file_system() {
        return None;
    }
    let topics = engine.topics();
    let is_there = |(topic, partition)| {
        topics.iter().any(|there| there.id == topic && (partition as usize) < there.partitions().len())
    };
    let opened = DedupView::open(&engine.env, &engine.root, engine.id).and_then(|mut view| {
        view.retain(is_there)?;
        Ok(view)
    });
    opened.inspect_err(|error| tracing::warn!(%error, "the message identities are kept in memory only")).ok()
}

/// The commit number of the record before a position.
fn commit_at(partition: &Arc<Partition>, position: u64) -> Option<u64> {
    let offset = position.checked_sub(1).filter(|offset| *offset < partition.visible_end())?;
    let frame = PartitionCursor::new(Arc::clone(partition), offset).next_frame(position).ok()??;
    Some(frame.header.commit)
}

fn save_partition(view: &mut DedupView, partition: &Partition, guard: &PartitionGuard, limits: Limits) -> Result<()> {
    let Some(unsaved) = guard.lock().unsaved(limits, partition.durable_end()) else { return Ok(()) };
    let Unsaved { meta, entries, oldest, anew } = unsaved;
    view.save(partition.key(), meta, &entries, oldest, anew)?;
    guard.lock().saved = Some(meta.position);
    Ok(())
}

/// What the view lacks.
struct Unsaved {
    meta: Meta,
    entries: Vec<SavedEntry>,
    oldest: u64,
    anew: bool,
}

impl State {
    /// What is on the disk and not in the view. Of batches and single records that wait for one commit the answers come in
    /// another order than their offsets: then the next time will do.
    fn unsaved(&mut self, limits: Limits, durable_end: u64) -> Option<Unsaved> {
        self.sweep();
        if self.building || self.inflight.iter().any(|inflight| inflight.awaited.is_unit) {
            return None;
        }
        let window = self.window.as_ref()?;
        let from = self.saved.unwrap_or(0);
        let (mut entries, mut oldest, mut newest) = (Vec::new(), u64::MAX, None);
        for (id, entry) in window.iter() {
            let At::Written(place) = &entry.at else { break };
            if place.offset >= durable_end {
                break;
            }
            oldest = oldest.min(place.offset);
            let saved = SavedEntry {
                offset: place.offset,
                commit: place.commit,
                time: entry.time,
                timestamp: entry.timestamp,
                id: (**id).into(),
            };
            newest = Some((place.offset + 1, place.commit, entry.time));
            if place.offset >= from {
                entries.push(saved);
            }
        }
        let (position, commit, time) = newest?;
        if self.saved.is_some() && entries.is_empty() {
            return None;
        }
        entries.sort_by_key(|entry| entry.offset);
        let (count_max, age_max) = (limits.count_max as u64, limits.age_max);
        let meta = Meta { position, commit, time, count_max, age_max, ..Meta::default() };
        Some(Unsaved { meta, entries, oldest, anew: self.saved.is_none() })
    }
}
