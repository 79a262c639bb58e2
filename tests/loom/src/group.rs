//! The groups, without what sends their commits: what an owner says and has not sent, the next one finds unsent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::log::engine::Engine;
use lane::Lane;
use membership::Group;

#[path = "../../../src/group/assign.rs"]
pub(crate) mod assign;
#[path = "../../../src/group/lane.rs"]
pub(crate) mod lane;
#[path = "../../../src/group/mailbox.rs"]
pub(crate) mod mailbox;
#[path = "../../../src/group/membership.rs"]
pub(crate) mod membership;
#[path = "../../../src/group/pattern.rs"]
pub(crate) mod pattern;
#[path = "../../../src/group/progress.rs"]
pub(crate) mod progress;
#[path = "../../../src/group/ranges.rs"]
pub(crate) mod ranges;
#[path = "../../../src/group/record.rs"]
pub(crate) mod record;

pub(crate) struct Groups;

impl Groups {
    pub(crate) fn begin(name: &str) -> Group {
        Group::new(name.into(), HashMap::new())
    }

    /// All who were asked for a partition are late.
    pub(crate) fn all_due(engine: &Engine, group: &Group) {
        group.due(engine, Duration::MAX);
    }

    fn send_rest(&self, _engine: &Engine, _lane: &Arc<Lane>) {}

    fn bury(&self, _engine: &Engine, _lanes: &[Arc<Lane>]) {}
}
