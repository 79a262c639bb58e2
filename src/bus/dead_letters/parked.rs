//! Which keys have dead letters: in a subscription that keeps their order, what follows waits behind them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use super::record::Place;
use crate::error::{Error, Result};
use crate::log::engine::Engine;
use crate::log::extension::Extension;
use crate::record::Message;
use crate::segment::lock;

/// The keys of a group that have dead letters in one topic, and the replays that have not come to their end.
#[derive(Debug, Default)]
pub(in super::super) struct Parked(Mutex<HashMap<Key, Held>>);

/// Topic, partition and key.
type Key = (Arc<str>, u32, Bytes);

#[derive(Debug, Default)]
struct Held {
    /// The offsets of the originals.
    letters: BTreeSet<u64>,
    replays: BTreeSet<u64>,
}

fn key_of(message: &Message) -> Option<Key> {
    let key = message.key()?;
    Some((Arc::clone(&*message.topic), message.partition(), Bytes::copy_from_slice(key)))
}

fn key_at(place: &Place, key: Option<&Bytes>) -> Option<Key> {
    Some((Arc::clone(&place.topic), place.partition, Bytes::copy_from_slice(key?)))
}

impl Parked {
    fn change(&self, key: Key, change: impl FnOnce(&mut Held)) {
        let mut keys = lock(&self.0);
        let held = keys.entry(key.clone()).or_default();
        change(held);
        if held.letters.is_empty() && held.replays.is_empty() {
            keys.remove(&key);
        }
    }

    /// Whether an event must wait behind a dead letter of its key. One that is replayed waits only behind those that came before it.
    pub(in super::super) fn must_park(&self, message: &Message, replay: bool) -> bool {
        let keys = lock(&self.0);
        if keys.is_empty() {
            return false;
        }
        let Some(held) = key_of(message).and_then(|key| keys.get(&key)) else { return false };
        match replay {
            true => held.letters.first().is_some_and(|first| *first < message.offset()),
            false => !held.letters.is_empty() || !held.replays.is_empty(),
        }
    }

    /// An event has become a dead letter.
    pub(in super::super) fn parked(&self, message: &Message, replay: bool) {
        if let Some(key) = key_of(message) {
            self.change(key, |held| {
                held.letters.insert(message.offset());
                if replay {
                    held.replays.remove(&message.offset());
                }
            });
        }
    }

    /// A replay has been handled.
    pub(in super::super) fn replayed(&self, message: &Message) {
        if let Some(key) = key_of(message) {
            self.change(key, |held| {
                held.replays.remove(&message.offset());
            });
        }
    }

    /// A dead letter is to be replayed, or is purged.
    pub(super) fn released(&self, place: &Place, key: Option<&Bytes>, replay: bool) {
        let Some(key) = key_at(place, key) else { return };
        self.change(key, |held| {
            held.letters.remove(&place.offset);
            if replay {
                held.replays.insert(place.offset);
            }
        });
    }

    /// A dead letter has come back, or somebody has purged it, perhaps in another process.
    #[cfg(feature = "kafka")]
    pub(in super::super) fn let_go(&self, message: &Message, replay: bool) {
        if let Some(key) = key_of(message) {
            self.change(key, |held| {
                held.letters.remove(&message.offset());
                if replay {
                    held.replays.insert(message.offset());
                }
            });
        }
    }

    /// All of it is to be found out anew.
    #[cfg(feature = "kafka")]
    pub(in super::super) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// A dead letter that could not be released.
    pub(super) fn kept(&self, place: &Place, key: Option<&Bytes>) {
        let Some(key) = key_at(place, key) else { return };
        self.change(key, |held| {
            held.letters.insert(place.offset);
            held.replays.remove(&place.offset);
        });
    }

    /// A dead letter that was found in the log.
    pub(in super::super) fn found(&self, place: &Place, key: Option<&Bytes>, replay: bool) {
        let Some(key) = key_at(place, key) else { return };
        self.change(key, |held| {
            let list = if replay { &mut held.replays } else { &mut held.letters };
            list.insert(place.offset);
        });
    }
}

/// A group, and a dead-letter topic.
type Whose = (Box<str>, Box<str>);

/// What is parked of which group in which topic, as long as a subscription wants to know.
#[derive(Debug, Default)]
pub(super) struct Registry {
    known: Mutex<HashMap<Whose, Weak<Parked>>>,
    /// Held by who replays or purges.
    pub(super) working: tokio::sync::Mutex<()>,
}

impl Extension for Registry {}

impl Registry {
    pub(super) fn of(engine: &Engine) -> Result<Arc<Self>> {
        engine.extensions.get_or_init(Self::default).ok_or_else(Error::closed)
    }

    pub(super) fn get(&self, group: &str, topic: &str) -> Option<Arc<Parked>> {
        lock(&self.known).get(&(group.into(), topic.into()))?.upgrade()
    }

    pub(super) fn put(&self, group: &str, topic: &str, parked: &Arc<Parked>) {
        let mut known = lock(&self.known);
        known.retain(|_, parked| parked.strong_count() > 0);
        known.insert((group.into(), topic.into()), Arc::downgrade(parked));
    }
}
