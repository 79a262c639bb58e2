//! A log on a clock that is moved by hand: what its threads wait for, they look at again; what it has no threads for is done by
//! whoever moves the clock, so that a simulation makes the same calls each time.

use std::sync::{Arc, Weak};

use super::running::Running;
use crate::storage::clock::Watcher;

/// How much one move of the clock brings about, at the most: what is due may bring about more that is due.
const ROUNDS_MAX: usize = 64;

impl Running {
    /// Has the log's clock tell when it is moved.
    pub(crate) fn watch_clock(self: &Arc<Self>) {
        let watcher: Weak<Self> = Arc::downgrade(self);
        self.engine.env.clock.tell(watcher);
    }
}

impl Watcher for Running {
    fn moved(&self) {
        let engine = &self.engine;
        if !self.by_hand {
            engine.upkeep.look_again();
            engine.maintenance.look_again();
            return;
        }
        for _ in 0..ROUNDS_MAX {
            if engine.is_closed() {
                return;
            }
            let now = engine.env.clock.monotonic();
            let round = engine.upkeep.take(now);
            let task = engine.maintenance.take(now);
            if round.is_empty() && task.is_none() {
                return;
            }
            engine.do_round(round);
            if let Some(task) = task {
                engine.maintain(task);
            }
        }
    }
}
