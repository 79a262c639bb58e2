//! When a mirror looks at its partitions to show how it is doing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::run::Runner;
use super::watch::{LOOK_MAX, Watched};

/// It looks at its partitions no more often than this.
const LOOK_MIN: Duration = Duration::from_millis(20);
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
        let known: BTreeSet<_> = self.lanes.iter().map(|lane| (lane.topic_id, lane.place.1)).collect();
        let lanes = self.lanes.iter().map(|lane| Watched {
            place: lane.place.clone(),
            topic: lane.topic.clone(),
            target: Some(Arc::clone(&lane.target)),
            committed: lane.committed,
            paused: lane.memory.paused.as_ref().map(|paused| paused.error.clone()),
            hold: self.holds.get(&(lane.topic_id, lane.place.1)).map(|held| Arc::clone(&held.hold)),
        });
        // For these the cluster was not asked yet, and yet their publishers may have to wait.
        let others = self.holds.iter().filter(|(key, _)| !known.contains(key)).map(|(_, held)| Watched {
            place: held.place.clone(),
            topic: held.topic.clone(),
            target: None,
            committed: held.from,
            paused: None,
            hold: Some(Arc::clone(&held.hold)),
        });
        self.watch.look(Some(lanes.chain(others).collect()));
    }
}
