//! Checks of what was recorded, each a question that is answered with the first thing that is wrong.
//!
//! | check | asks |
//! |---|---|
//! | [`no_loss`] | is everything there that was acknowledged, as it was sent? |
//! | [`no_duplicates`] | did anything come twice? |
//! | [`no_gaps`] | are offsets missing between others? |
//! | [`key_order`] | did the records of each key come in their order? |
//! | [`all`] | all of the above |
//! | [`no_commit_past_unfinished`] | would a crash lose what a consumer was at work on? |
//!
//! A handler that is fed by two workers, each with a part of what is there, and does not wait for the first:
//!
//! ```
//! use annals::testing::{History, Observed, check};
//! use annals::{Log, Raw, Record, Start, TopicDef, TopicSettings};
//!
//! const ORDERS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("orders");
//!
//! # fn main() -> annals::Result<()> {
//! let log = Log::in_memory()?;
//! let orders = log.blocking_create_topic(ORDERS, TopicSettings::default())?;
//! orders.blocking_produce_batch(["placed", "paid", "sent"].map(|event| Record::new(event.into()).key("17")))?;
//!
//! let mut handled = Observed::new();
//! for (from, count) in [(1, 2), (0, 1)] {
//!     let mut part = orders.replay(Start::Offset(from)).blocking()?;
//!     for _ in 0..count {
//!         handled.message(&part.next_message()?.unwrap());
//!     }
//! }
//! assert!(check::no_gaps(&handled).is_ok() && check::no_duplicates(&handled).is_ok());
//! assert_eq!(
//!     check::key_order(&History::new(), &handled).unwrap_err().to_string(),
//!     "topic orders: of key \"17\" partition 0, offset 0 (commit 1) was written first and came after partition 0, offset 2 (commit 1)"
//! );
//! # Ok(()) }
//! ```
//!
//! They take what a test has recorded, and so need no simulated disk: they work as well for a log in memory, for the real disk, and
//! for a copy of a production directory. A [`Violation`] is an error, for `?` and for `prop_assert!`:
//!
//! ```
//! use annals::testing::{Observed, check};
//! use proptest::prelude::*;
//!
//! fn property(seen: &Observed) -> Result<(), TestCaseError> {
//!     check::no_gaps(seen).map_err(|violation| TestCaseError::fail(violation.to_string()))
//! }
//! # property(&Observed::new()).unwrap();
//! ```

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;

use super::history::{Acknowledged, Seen, Step};
use super::{History, Observed, Place, Progress, Violation};

/// A topic, and where in it.
type At<'a> = (&'a str, Place);

/// Everything that must be there according to `history` has been seen, with the key it was sent with, and with value, headers and
/// timestamp where the history knows them.
///
/// Of a log after a crash, ask it with a [replay](Observed::replay) of its own: what was seen before the crash may have been lost
/// in it. Not for topics that let records go, by retention or compaction.
///
/// # Errors
///
/// [`Violation::Lost`], [`Violation::Altered`]: the first record, in the order in which they were acknowledged.
pub fn no_loss(history: &History, seen: &Observed) -> Result<(), Violation> {
    let there: HashMap<At<'_>, &Seen> =
        seen.records.iter().map(|record| ((&*record.topic, record.place), record)).collect();
    for Acknowledged { topic, place, key, content, given_up, .. } in &history.records {
        let (name, key, place) = (topic.to_string(), key.clone(), *place);
        match there.get(&(&**topic, place)) {
            _ if *given_up => {}
            None => return Err(Violation::Lost { topic: name, place, key }),
            Some(found) => {
                let same = found.content.is_none() || content.is_none() || found.content == *content;
                if found.key != key || !same {
                    return Err(Violation::Altered { topic: name, place, key });
                }
            }
        }
    }
    Ok(())
}

/// No record has come twice, and no two records with one [identity](crate::Record::id) have. What comes again after a
/// [restart](Observed::restarted) is a redelivery, and does not count: to ask for effects that happen exactly once, record the
/// effects, and no restart.
///
/// # Errors
///
/// [`Violation::Duplicate`]: the first one that came again.
pub fn no_duplicates(seen: &Observed) -> Result<(), Violation> {
    let mut places = HashSet::new();
    let mut ids: HashMap<(u32, &str, &Bytes), Place> = HashMap::new();
    for record in &seen.records {
        let (life, topic, then) = (record.life, &*record.topic, record.place);
        let duplicate = |first| Violation::Duplicate { topic: topic.to_owned(), key: record.key.clone(), first, then };
        if !places.insert((life, topic, then.partition, then.offset)) {
            return Err(duplicate(then));
        }
        if let Some(first) = record.id.as_ref().and_then(|id| ids.insert((life, topic, id), then)) {
            return Err(duplicate(first));
        }
    }
    Ok(())
}

/// Of each partition, whatever came lies without a gap between the lowest and the highest offset that came; of a reader that was
/// [restarted](Observed::restarted), in all its lives together. The order does not matter: see [`key_order`].
///
/// Not for compacted topics, nor for readers that skip records.
///
/// # Errors
///
/// [`Violation::Gap`]: the first one, by topic, partition and offset.
pub fn no_gaps(seen: &Observed) -> Result<(), Violation> {
    let mut partitions: BTreeMap<(&str, u32), BTreeSet<u64>> = BTreeMap::new();
    for Seen { topic, place, .. } in &seen.records {
        partitions.entry((topic, place.partition)).or_default().insert(place.offset);
    }
    for ((topic, partition), offsets) in partitions {
        for (before, to) in offsets.iter().zip(offsets.iter().skip(1)) {
            let from = before + 1;
            if from != *to {
                return Err(Violation::Gap { topic: topic.to_owned(), partition, from, to: *to });
            }
        }
    }
    Ok(())
}

/// The records of each key came in the order in which they were written.
///
/// That is the order of their offsets in a partition. Where an application spreads a key over several partitions it is the order
/// in which `history` has them, or else the order of their commits; two of one commit that the history does not know have none.
/// What comes again after a [restart](Observed::restarted) may begin anew, but nothing may come for the first time that lies
/// before what has come already. Records without a key have no order.
///
/// # Errors
///
/// [`Violation::OutOfOrder`]: the first record that came after one that was written later.
pub fn key_order(history: &History, seen: &Observed) -> Result<(), Violation> {
    let sent: HashMap<At<'_>, usize> =
        history.records.iter().enumerate().map(|(at, record)| ((&*record.topic, record.place), at)).collect();
    let order = |topic: &str, one: Place, other: Place| {
        if one.partition == other.partition {
            // The commit first: an offset that a power loss took back is used again.
            return (one.commit, one.offset).cmp(&(other.commit, other.offset));
        }
        match (sent.get(&(topic, one)), sent.get(&(topic, other))) {
            (Some(one), Some(other)) => one.cmp(other),
            _ => one.commit.cmp(&other.commit),
        }
    };
    let mut known = HashSet::new();
    // Of each key: the last in each partition, in this life and in all of them.
    let mut lasts: HashMap<(&str, &Bytes), Lasts> = HashMap::new();
    for record in &seen.records {
        let Some(key) = &record.key else { continue };
        let (topic, then) = (&*record.topic, record.place);
        let lasts = lasts.entry((topic, key)).or_default();
        if lasts.life != record.life {
            lasts.life = record.life;
            lasts.here.clear();
        }
        let is_new = known.insert((topic, then));
        let before = if is_new { &lasts.ever } else { &lasts.here };
        if let Some(first) = before.values().find(|last| order(topic, **last, then) == Ordering::Greater) {
            return Err(Violation::OutOfOrder { topic: topic.to_owned(), key: key.clone(), first: *first, then });
        }
        lasts.here.insert(then.partition, then);
        if is_new {
            lasts.ever.insert(then.partition, then);
        }
    }
    Ok(())
}

/// The last records of a key, by partition.
#[derive(Default)]
struct Lasts {
    life: u32,
    here: BTreeMap<u32, Place>,
    ever: BTreeMap<u32, Place>,
}

/// [`no_loss`], [`no_duplicates`], [`no_gaps`] and [`key_order`].
///
/// # Errors
///
/// What the first of them says that finds something.
pub fn all(history: &History, seen: &Observed) -> Result<(), Violation> {
    no_loss(history, seen)?;
    no_duplicates(seen)?;
    no_gaps(seen)?;
    key_order(history, seen)
}

/// Whenever something was committed, every record before it that had been delivered was finished, or the commit
/// [remembers](Progress::committed_but) that it is not. A record that was finished once counts as finished, also when it is
/// delivered again.
///
/// # Errors
///
/// [`Violation::CommittedPastUnfinished`]: the first such commit, and the lowest offset that it passes.
pub fn no_commit_past_unfinished(progress: &Progress) -> Result<(), Violation> {
    let mut partitions: HashMap<(&str, u32), Work> = HashMap::new();
    for (topic, partition, step) in &progress.steps {
        let work = partitions.entry((topic, *partition)).or_default();
        match step {
            Step::Delivered(offset) => {
                if !work.finished.contains(offset) {
                    work.unfinished.insert(*offset);
                }
            }
            Step::Finished(offset) => {
                work.finished.insert(*offset);
                work.unfinished.remove(offset);
            }
            Step::Committed { next, remembered } => {
                let passed = work.unfinished.range(..next).find(|offset| !remembered.contains(offset));
                if let Some(unfinished) = passed {
                    return Err(Violation::CommittedPastUnfinished {
                        topic: topic.to_string(),
                        partition: *partition,
                        committed: *next,
                        unfinished: *unfinished,
                    });
                }
            }
        }
    }
    Ok(())
}

/// What a consumer has of a partition.
#[derive(Default)]
struct Work {
    finished: HashSet<u64>,
    unfinished: BTreeSet<u64>,
}
