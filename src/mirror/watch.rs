//! What a mirror shows of its partitions, and whether publishers are to be stopped for it. Seen to on a thread of its own as well:
//! that of the mirror may be waiting for a cluster that is not there, and that is when it matters.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::checkpoint::Place;
use super::shared::{Shared, lock};
use super::status::MirrorPartition;
use crate::codec::Raw;
use crate::error::Error;
use crate::handle::{Log, RetentionHold};
use crate::replay::Start;
use crate::topic::Topic;

/// It looks this often, if the mirror itself does not.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(1);

/// A partition, as far as the mirror has come.
pub(super) struct Watched {
    pub(super) place: Place,
    pub(super) topic: Topic<Bytes, Raw>,
    /// The topic of the target, once the cluster was reached; before that the partition is not shown.
    pub(super) target: Option<Arc<str>>,
    /// The first offset that is not in the target.
    pub(super) committed: u64,
    pub(super) paused: Option<Error>,
    pub(super) hold: Option<Arc<RetentionHold>>,
}

pub(super) struct Watch {
    log: Log,
    shared: Arc<Shared>,
    /// How many bytes may be held back for it.
    cap: Option<u64>,
    /// Whether publishers are stopped at the cap.
    blocks: bool,
    /// By the log's clock, in microseconds.
    #[cfg(feature = "metrics")]
    began: i64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    partitions: Vec<Watched>,
    /// Of each partition the offset and the time of the first record that is not in the target, once that was looked up.
    oldest: Vec<Option<(u64, i64)>>,
    looked_at: Duration,
    #[cfg(feature = "metrics")]
    exporter: super::metrics::Exporter,
}

impl Watch {
    pub(super) fn new(log: Log, shared: Arc<Shared>, cap: Option<u64>, blocks: bool) -> Arc<Self> {
        #[cfg(feature = "metrics")]
        let began = log.now().timestamp_micros();
        Arc::new(Self {
            log,
            shared,
            cap,
            blocks,
            #[cfg(feature = "metrics")]
            began,
            state: Mutex::default(),
        })
    }

    /// The thread: looks until the mirror has ended, whenever that has not looked for long.
    pub(super) fn run(&self, over: &Receiver<()>) {
        while over.recv_timeout(LOOK_MAX) == Err(RecvTimeoutError::Timeout) {
            let is_due = self.log.monotonic().saturating_sub(lock(&self.state).looked_at) >= LOOK_MAX;
            if is_due {
                self.look(None);
            }
        }
    }

    /// Looks at all partitions, and shows what it sees. `partitions` are how far the mirror has come now.
    pub(super) fn look(&self, partitions: Option<Vec<Watched>>) {
        let mut state = lock(&self.state);
        state.looked_at = self.log.monotonic();
        if let Some(partitions) = partitions {
            let same = |(old, new): (&Watched, &Watched)| old.place == new.place;
            if state.partitions.len() != partitions.len() || !state.partitions.iter().zip(&partitions).all(same) {
                state.oldest = vec![None; partitions.len()];
            }
            state.partitions = partitions;
        }
        let now = self.log.now().timestamp_micros();
        let State { partitions, oldest, .. } = &mut *state;
        let shown = partitions.iter().zip(oldest).filter_map(|(partition, oldest)| self.show(partition, oldest, now));
        self.shared.put_partitions(shown.collect());
        #[cfg(feature = "metrics")]
        if let Some(name) = self.shared.exports_as() {
            let status = self.shared.status();
            let last = status.last_commit.map_or(self.began, |last| last.timestamp_micros());
            let since = now.saturating_sub(last).max(0) as u64;
            let fenced = self.shared.counters.fenced.load(std::sync::atomic::Ordering::Relaxed);
            state.exporter.export(name, &status, Duration::from_micros(since), fenced);
        }
        drop(state);
        self.shared.tell();
    }

    fn show(&self, partition: &Watched, oldest: &mut Option<(u64, i64)>, now: i64) -> Option<MirrorPartition> {
        let (topic, number) = (&partition.topic, partition.place.1);
        let (mut lag_records, mut lag_bytes, mut lag, mut is_behind) = (0, 0, Duration::ZERO, false);
        if let Ok(there) = topic.watermarks(number) {
            let from = partition.committed.max(there.log_start);
            is_behind = there.high_watermark > partition.committed;
            lag_records = there.durable_end.saturating_sub(from);
            let all = there.high_watermark.saturating_sub(there.log_start).max(1);
            lag_bytes = (u128::from(there.size_bytes) * u128::from(lag_records) / u128::from(all)) as u64;
            if lag_records > 0 && partition.target.is_some() {
                let time = time_of_first(topic, number, from, oldest);
                lag = time.map_or(Duration::ZERO, |time| Duration::from_micros(now.saturating_sub(time).max(0) as u64));
            }
        }
        let mut headroom_bytes = None;
        if let Some((hold, cap)) = partition.hold.as_ref().zip(self.cap) {
            let held = hold.held_bytes();
            headroom_bytes = Some(cap.saturating_sub(held));
            if self.blocks {
                hold.block_appends(held >= cap && is_behind);
            }
        }
        Some(MirrorPartition {
            topic: partition.place.0.clone(),
            partition: number,
            target: partition.target.as_ref()?.to_string(),
            next_offset: partition.committed,
            lag_records,
            lag_bytes,
            lag,
            headroom_bytes,
            paused: partition.paused.clone(),
        })
    }
}

/// The time of the first record from an offset on.
fn time_of_first(topic: &Topic<Bytes, Raw>, partition: u32, from: u64, known: &mut Option<(u64, i64)>) -> Option<i64> {
    if let Some((_, time)) = known.filter(|(offset, _)| *offset == from) {
        return Some(time);
    }
    let mut replay = topic.replay_partition(partition, Start::Offset(from)).blocking().ok()?;
    let time = replay.next().ok()??.timestamp_micros();
    *known = Some((from, time));
    Some(time)
}
