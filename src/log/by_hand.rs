//! A log on a clock that is moved by hand: what its threads wait for, they look at again; what it has no threads for is done by
//! whoever moves the clock, so that a simulation makes the same calls each time.

use std::sync::{Arc, Weak};

use super::engine::Engine;
use crate::storage::clock::Watcher;

/// How much one move of the clock brings about, at the most: what is due may bring about more that is due.
const ROUNDS_MAX: usize = 64;

impl Engine {
    /// Has the log's clock tell when it is moved.
    pub(super) fn watch_clock(self: &Arc<Self>) {
        let watcher: Weak<Self> = Arc::downgrade(self);
        self.env.clock.tell(watcher);
    }
}

impl Watcher for Engine {
    fn moved(&self) {
        if !self.upkeep.is_by_hand() {
            self.upkeep.look_again();
            self.maintenance.look_again();
            return;
        }
        for _ in 0..ROUNDS_MAX {
            if self.is_closed() {
                return;
            }
            let now = self.env.clock.monotonic();
            let round = self.upkeep.take(now);
            let task = self.maintenance.take(now);
            if round.is_empty() && task.is_none() {
                return;
            }
            self.do_round(round);
            if let Some(task) = task {
                self.maintain(task);
            }
        }
    }
}
