//! What a mirror shows of its partitions.

use std::time::Duration;

use super::lane::Lane;
use super::run::Runner;
use super::settings::OnBreach;
use super::status::MirrorPartition;
use crate::replay::Start;

/// It looks at its partitions no more often than this, and so often if nothing happens.
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// What a look at a partition may cost of all of its time, times fifty or so.
const LOOK_PARTITION: Duration = Duration::from_micros(50);

impl Runner {
    pub(super) fn look_interval(&self) -> Duration {
        LOOK_MIN.max(LOOK_PARTITION.saturating_mul(self.lanes.len() as u32)).min(LOOK_MAX)
    }

    pub(super) fn is_look_due(&self, now: Duration) -> bool {
        let past = now.saturating_sub(self.looked_at);
        past >= LOOK_MAX || (self.stale && past >= self.look_interval())
    }

    /// Looks at all partitions, and shows what it sees.
    pub(super) fn look(&mut self) {
        self.looked_at = self.now();
        self.stale = false;
        let now = self.settings.log.now().timestamp_micros();
        let cap = self.settings.hold.and_then(|hold| hold.bytes_max);
        let mut partitions = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            let mut shown = show(lane, now);
            if let Some((hold, cap)) = self.holds.get(&(lane.topic_id, lane.place.1)).zip(cap) {
                let held = hold.held_bytes();
                shown.headroom_bytes = Some(cap.saturating_sub(held));
                if self.settings.on_breach == OnBreach::Block {
                    hold.block_appends(held >= cap && lane.is_behind());
                }
            }
            partitions.push(shown);
        }
        self.shared.set_partitions(partitions);
        #[cfg(feature = "metrics")]
        if let Some(name) = &self.shared.exports_as {
            let status = self.shared.status();
            let since = status.last_commit.map_or(0, |last| now.saturating_sub(last.timestamp_micros()).max(0) as u64);
            let fenced = self.shared.counters.fenced.load(std::sync::atomic::Ordering::Relaxed);
            self.exporter.export(name, &status, Duration::from_micros(since), fenced);
        }
    }
}

fn show(lane: &mut Lane, now: i64) -> MirrorPartition {
    let (mut lag_records, mut lag_bytes, mut lag) = (0, 0, Duration::ZERO);
    if let Ok(there) = lane.topic.watermarks(lane.place.1) {
        lag_records = there.durable_end.saturating_sub(lane.committed.max(there.log_start));
        let all = there.high_watermark.saturating_sub(there.log_start).max(1);
        lag_bytes = (u128::from(there.size_bytes) * u128::from(lag_records) / u128::from(all)) as u64;
        if lag_records > 0 {
            let oldest = oldest(lane, lane.committed.max(there.log_start));
            lag =
                oldest.map_or(Duration::ZERO, |oldest| Duration::from_micros(now.saturating_sub(oldest).max(0) as u64));
        }
    }
    MirrorPartition {
        topic: lane.place.0.clone(),
        partition: lane.place.1,
        target: lane.target.to_string(),
        next_offset: lane.committed,
        lag_records,
        lag_bytes,
        lag,
        headroom_bytes: None,
        paused: lane.memory.paused.as_ref().map(|paused| paused.error.clone()),
    }
}

/// The time of the first record from an offset on.
fn oldest(lane: &mut Lane, from: u64) -> Option<i64> {
    if let Some((_, time)) = lane.oldest.filter(|(offset, _)| *offset == from) {
        return Some(time);
    }
    let mut replay = lane.topic.replay_partition(lane.place.1, Start::Offset(from)).blocking().ok()?;
    let time = replay.next().ok()??.timestamp_micros();
    lane.oldest = Some((from, time));
    Some(time)
}
