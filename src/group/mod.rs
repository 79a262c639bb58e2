//! Consumer groups: who reads which partition, and how far they have come.
//!
//! All of it is in memory while the log is open; what outlives it are the committed offsets, records of the internal, compacted
//! topic `__offsets`. Below the consumers, which deliver; above the log, which knows nothing of groups.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::log::settings::TopicSettings;
use crate::partition::Partition;
use crate::segment::lock;
use crate::text::quoted;

pub(crate) mod assign;
pub(crate) mod commit;
pub(crate) mod describe;
pub(crate) mod lane;
mod load;
pub(crate) mod mailbox;
pub(crate) mod membership;
pub(crate) mod pattern;
pub(crate) mod progress;
pub(crate) mod ranges;
pub(crate) mod record;

#[cfg(test)]
mod tests;

use lane::Lane;
use membership::Group;
use record::{OFFSETS_TOPIC, Whose};

/// The longest name of a group, in bytes.
pub(crate) const GROUP_NAME_BYTES_MAX: usize = 249;

/// Room for some 1,700 commits of a record each, at the least.
const RESERVE_BYTES: u64 = 256 << 10;

/// The groups of a log.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// `None` until they were read from the log.
    groups: Mutex<Option<BTreeMap<Arc<str>, Arc<Group>>>>,
    offsets: OnceLock<Arc<Partition>>,
    /// Lanes with something to send in the background, and when.
    queued: Mutex<Vec<(Duration, Arc<Lane>)>>,
}

/// Checks the name of a group.
pub(crate) fn validate_group_name(name: &str) -> Result<()> {
    let refuse = |problem: &str| Err(Error::invalid(format!("the group name {} {problem}", quoted(name))));
    if name.is_empty() || name.len() > GROUP_NAME_BYTES_MAX {
        return refuse(&format!("has {} bytes; 1 to {GROUP_NAME_BYTES_MAX} are allowed", name.len()));
    }
    match name.chars().find(|c| c.is_control()) {
        Some(c) => refuse(&format!("contains {c:?}; control characters are not allowed")),
        None => Ok(()),
    }
}

/// The settings of `__offsets`: what is superseded goes soon, so that reading it at an opening stays short. No record is larger,
/// since a commit [remembers](progress::REMEMBERED_MAX) so much at the most; any log has room for one. Groups go on where the disk
/// is full: what they have finished would else be delivered again.
fn offsets_settings() -> TopicSettings {
    let settings = TopicSettings::default().compaction(true).segment_bytes_max(4 << 20).record_bytes_max(48 << 10);
    settings.reserve_bytes(RESERVE_BYTES)
}

impl Groups {
    /// The groups of this log, read from it at the first call.
    ///
    /// # Errors
    ///
    /// `Corrupt` and `Io` from reading them, `Closed`.
    pub(crate) fn of(engine: &Engine) -> Result<Arc<Self>> {
        let groups = engine.extensions.get_or_init(Self::default).ok_or_else(Error::closed)?;
        groups.load(engine)?;
        Ok(groups)
    }

    /// Reads what is committed, unless that was done.
    fn load(&self, engine: &Engine) -> Result<()> {
        let mut known = lock(&self.groups);
        if known.is_some() {
            return Ok(());
        }
        let topics: HashSet<u128> = engine.topics().iter().map(|topic| topic.id).collect();
        let mut offsets: BTreeMap<Arc<str>, HashMap<Whose, Arc<Lane>>> = BTreeMap::new();
        let mut gone = Vec::new();
        load::load(engine, |group, whose, committed| {
            let lane = Arc::new(Lane::new(Arc::clone(group), whose, Some(committed)));
            if topics.contains(&whose.0) {
                offsets.entry(Arc::clone(group)).or_default().insert(whose, lane);
            } else {
                gone.push(lane);
            }
        })?;
        let group = |(name, lanes): (Arc<str>, _)| (Arc::clone(&name), Arc::new(Group::new(name, lanes)));
        *known = Some(offsets.into_iter().map(group).collect());
        // A topic may be missing because its directory is damaged: what was committed is kept for its repair.
        if !engine.is_read_only() && engine.report.damage.is_empty() {
            self.bury(engine, &gone);
        }
        Ok(())
    }

    /// The groups of this log, if somebody has asked for them.
    fn there(&self) -> Vec<Arc<Group>> {
        lock(&self.groups).iter().flat_map(|groups| groups.values().cloned()).collect()
    }

    /// The partition of `__offsets`, made if there is none.
    pub(crate) fn partition(&self, engine: &Engine) -> Result<&Arc<Partition>> {
        if let Some(partition) = self.offsets.get() {
            return Ok(partition);
        }
        let topic = match engine.topic(OFFSETS_TOPIC) {
            Ok(topic) => topic,
            Err(_) => engine.create_topic(OFFSETS_TOPIC, offsets_settings())?,
        };
        let partition = topic.partition(0)?;
        Ok(self.offsets.get_or_init(|| partition))
    }

    /// A group, made if there is none.
    pub(crate) fn group(&self, name: &str) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        let groups = groups.get_or_insert_default();
        if let Some(group) = groups.get(name) {
            return Arc::clone(group);
        }
        let name: Arc<str> = name.into();
        let group = Arc::new(Group::new(Arc::clone(&name), HashMap::new()));
        groups.insert(name, Arc::clone(&group));
        group
    }

    /// A group that exists: it has members, or has committed something.
    pub(crate) fn existing(&self, name: &str) -> Option<Arc<Group>> {
        lock(&self.groups).as_ref()?.get(name).filter(|group| !group.is_empty()).cloned()
    }

    /// All groups that exist, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Group>> {
        self.there().into_iter().filter(|group| !group.is_empty()).collect()
    }

    /// Lets go of a group that nobody is in and that has committed nothing.
    pub(crate) fn forget_if_empty(&self, group: &Arc<Group>) {
        let mut groups = lock(&self.groups);
        if let Some(groups) = groups.as_mut()
            // This one, the map's, and nobody who is about to join.
            && Arc::strong_count(group) <= 2
            && group.is_empty()
        {
            groups.remove(&*group.name);
        }
    }
}

impl Extension for Groups {
    fn catalogue_changed(&self, engine: &Engine) {
        let topics = engine.topics();
        for group in self.there() {
            group.catalogue_changed(engine);
            let gone = group.forget_topics(|id| topics.iter().any(|topic| topic.id == id));
            self.bury(engine, &gone);
        }
    }

    fn due(&self, engine: &Engine, now: Duration) {
        self.send_queued(engine, Some(now));
        // Most of 10,000 groups ask nobody for anything: those are not even cloned.
        let asking: Vec<_> =
            lock(&self.groups).iter().flat_map(BTreeMap::values).filter(|group| group.asks()).cloned().collect();
        asking.iter().for_each(|group| group.due(engine, now));
    }

    fn draining(&self, engine: &Engine) {
        for group in self.there() {
            group.close();
        }
        self.send_all(engine);
    }
}
