//! Dead letters in Kafka: which are open, and replaying and purging them.
//!
//! A dead letter is a record of a topic like any other. Which of them a group has replayed or purged is a record of annals' own compacted
//! topic `__dead_letters`, which is written in one transaction with what is replayed; a consumer group's offsets would be forgotten by
//! the brokers a week after the last of them was committed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::desk::{Place, place_of};
use super::read::in_time;
use super::records::Outgoing;
use super::topics::{TopicInfo, not_found};
use super::wanted::ensure_replays;
use super::writer::{Failure, Writer};
use super::{Cluster, places_of};
use crate::bus::dead_letters::Parked;
use crate::bus::dead_letters::record::{GROUP, Place as Source, replayed, to_release, to_replay};
use crate::error::Result;
use crate::group::progress::Progress;
use crate::group::record::Committed;
use crate::log::settings::TopicSettings;
use crate::record::{Message, Record};

const STATES: &str = "__dead_letters";

/// So many dead letters are replayed in one transaction.
const AT_ONCE: usize = 100;

/// What a record of [`STATES`] is called by.
fn key(group: &str, (topic, partition): &Place) -> String {
    format!("{topic} {partition} {group}")
}

/// The dead letters of a group in a topic that were looked at.
struct Looked {
    progress: BTreeMap<Place, Progress>,
    open: Vec<Message>,
}

impl Cluster {
    /// The open dead letters of a group, oldest first.
    pub(in crate::bus) fn letters(&self, group: &str, topic: &str) -> Result<Vec<Message>> {
        self.check_open()?;
        let Some(topic) = self.find(topic)? else { return Err(not_found(topic)) };
        Ok(self.look_at(group, &topic)?.open)
    }

    /// Reads what is open. Letters of others are finished in passing.
    fn look_at(&self, group: &str, topic: &TopicInfo) -> Result<Looked> {
        let places = places_of(topic);
        let mut progress = self.states(group, &places)?;
        let mut ranges = self.ranges(&places)?;
        for (place, (from, _)) in &mut ranges {
            *from = progress.get(place).map_or(*from, |progress| progress.low.max(*from));
        }
        let mut found: HashMap<Place, Vec<Message>> = HashMap::new();
        self.read(ranges, |message| {
            let place = place_of(&message);
            let done = progress.entry(place.clone()).or_default();
            let ours =
                message.headers().get_str(GROUP) == Some(group) && Source::of_dead_letter(message.headers()).is_some();
            if !ours {
                done.finish(message.offset, message.offset + 1);
            } else if !done.is_finished(message.offset) {
                found.entry(place).or_default().push(message);
            }
            Ok(true)
        })?;
        Ok(Looked { progress, open: in_time(found.into_values()) })
    }

    /// What the group has replayed or purged in these partitions.
    fn states(&self, group: &str, places: &[Place]) -> Result<BTreeMap<Place, Progress>> {
        let Some(states) = self.find(STATES)? else { return Ok(BTreeMap::new()) };
        let wanted: HashMap<String, &Place> = places.iter().map(|place| (key(group, place), place)).collect();
        let mut found = BTreeMap::new();
        self.read(self.ranges(&places_of(&states))?, |state| {
            let place = state.key().and_then(|key| wanted.get(std::str::from_utf8(key).ok()?));
            if let (Some(place), Some(value)) = (place, state.value()) {
                found.insert((*place).clone(), Progress::of(&Committed::decode(value)?));
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Replays or purges open dead letters: those at these places, or all. Answers how many; `Err` with the place of one that is not open.
    pub(in crate::bus) fn act(
        self: &Arc<Self>,
        group: &str,
        topic: &str,
        replay: bool,
        which: Option<&BTreeSet<(u32, u64)>>,
    ) -> Result<std::result::Result<u64, (u32, u64)>> {
        self.check_open()?;
        let Some(letters) = self.find(topic)? else { return Err(not_found(topic)) };
        let states = self.ensure_states()?;
        // Whoever else is at it is shut out, and what it has begun is decided, before anything is looked at.
        let writer =
            Writer::open(&self.config, &format!("annals-dead-letters-{topic}-{group}"), Arc::clone(self.clock()))?;
        let Looked { mut progress, mut open } = self.look_at(group, &letters)?;
        if let Some(which) = which {
            let there: BTreeSet<_> = open.iter().map(|letter| (letter.partition, letter.offset)).collect();
            if let Some(missing) = which.difference(&there).next() {
                return Ok(Err(*missing));
            }
            open.retain(|letter| which.contains(&(letter.partition, letter.offset)));
        }
        let mut open: Vec<(Source, Message)> =
            open.into_iter().filter_map(|letter| Some((Source::of_dead_letter(letter.headers())?, letter))).collect();
        open.sort_by(|(a, _), (b, _)| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
        let now = self.clock().now_micros();
        for some in open.chunks(AT_ONCE) {
            let mut records = Vec::with_capacity(some.len() + 1);
            let mut changed = BTreeSet::new();
            for (source, letter) in some {
                let place = place_of(letter);
                progress.entry(place.clone()).or_default().finish(letter.offset, letter.offset + 1);
                changed.insert(place);
                records.push(self.to_the_group(letter, source, group, replay)?);
            }
            for place in changed {
                let Some(progress) = progress.get(&place) else { continue };
                // All of it, however much that is: what is left out would be open again.
                let state =
                    Committed { done: progress.done.iter().collect(), ..progress.committed(0, 0, now) }.encode();
                records.push(Outgoing::new(&states, Record::new(Bytes::from(state)).key(key(group, &place)))?);
            }
            let records: Vec<&Outgoing> = records.iter().collect();
            writer.write(&records, None).map_err(Failure::into_error)?;
        }
        Ok(Ok(open.len() as u64))
    }

    /// What the group is told: the event once more, or that it is not to wait for it any longer.
    fn to_the_group(
        self: &Arc<Self>,
        letter: &Message,
        source: &Source,
        group: &str,
        replay: bool,
    ) -> Result<Outgoing> {
        let topic = ensure_replays(self, &source.topic, source.partition.saturating_add(1))?;
        let record = if replay { to_replay(letter, source, group) } else { to_release(letter, source, group) };
        Outgoing::new(&topic, Record { partition: Some(source.partition), ..record })
    }

    fn ensure_states(&self) -> Result<Arc<TopicInfo>> {
        let settings = TopicSettings::default().compaction(true);
        let states = self.ensure(STATES, &settings)?;
        // One that forgets would have letters open again that were replayed or purged.
        self.check_keeps(STATES)?;
        Ok(states)
    }

    /// What keys wait for: open dead letters of events of these partitions, and replays that are not done.
    pub(super) fn park(
        &self,
        group: &str,
        letters: &str,
        parked: &Parked,
        sources: &[Place],
        replays: &HashMap<Place, Progress>,
    ) -> Result<()> {
        parked.clear();
        for letter in self.letters(group, letters)? {
            let Some(source) = Source::of_dead_letter(letter.headers()) else { continue };
            let place: Place = (Arc::clone(&source.topic), i32::try_from(source.partition).unwrap_or(i32::MAX));
            if sources.contains(&place) {
                parked.found(&source, letter.key(), false);
            }
        }
        let places: Vec<Place> = replays.keys().cloned().collect();
        let ends = self.ends(&places)?;
        let open =
            replays.iter().map(|(place, done)| (place.clone(), (done.low, ends.get(place).copied().unwrap_or(0))));
        self.read(open.collect(), |replay| {
            let done = replays.get(&place_of(&replay)).is_some_and(|done| done.is_finished(replay.offset));
            if !done && let Some(Some(original)) = replayed(&replay, group) {
                let (topic, timestamp) = (Arc::clone(&*original.topic), original.timestamp());
                let source = Source { topic, partition: original.partition, offset: original.offset, timestamp };
                parked.found(&source, original.key(), true);
            }
            Ok(true)
        })
    }
}
