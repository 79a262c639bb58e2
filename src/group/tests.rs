//! Rebalance storms, and what reading the offsets goes through.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Groups;
use super::mailbox::{Mailbox, Notice};
use super::membership::{Group, Joining};
use super::pattern::Subscription;
use super::record::{OFFSETS_TOPIC, Whose};
use crate::codec::Raw;
use crate::handle::Log;
use crate::log::engine::Engine;
use crate::log::settings::TopicSettings;
use crate::record::Record;
use crate::storage::clock::{Random, SeededRandom};
use crate::{ErrorKind, TopicDef};

/// A member as the group sees it: somebody who reads notices when it likes.
struct Member {
    mailbox: Arc<Mailbox>,
    owned: BTreeMap<Whose, (Arc<super::lane::Lane>, u64)>,
    asked: Vec<Whose>,
}

impl Member {
    fn read(&mut self) {
        let (mut ready, mut notices) = (Vec::new(), Vec::new());
        self.mailbox.take(&mut ready, &mut notices);
        for notice in notices {
            match notice {
                Notice::Granted(grant) => drop(self.owned.insert(grant.lane.whose, (grant.lane, grant.tenure))),
                Notice::Asked(whose) => self.asked.push(whose),
                Notice::Lost(whose) => {
                    self.owned.remove(&whose);
                    self.asked.retain(|asked| *asked != whose);
                }
                Notice::Deleted(_) => {}
            }
        }
    }
}

struct Storm<'a> {
    engine: &'a Engine,
    groups: Arc<Groups>,
    group: Arc<Group>,
    members: BTreeMap<u64, Member>,
    random: SeededRandom,
}

impl Storm<'_> {
    fn below(&self, limit: usize) -> usize {
        (self.random.next_u64() % limit as u64) as usize
    }

    fn join(&mut self) {
        let mailbox = Arc::new(Mailbox::default());
        let topics = if self.below(3) == 0 { &["storm.a"][..] } else { &["storm.*"] };
        let joining = Joining {
            subscription: Subscription::new(topics.iter().copied()).unwrap(),
            name: None,
            wants_to_be_asked: self.below(4) == 0,
            from_now_on: false,
            revoke_timeout: Duration::from_secs(1),
        };
        let id = self.group.join(self.engine, joining, Arc::clone(&mailbox)).unwrap();
        self.members.insert(id, Member { mailbox, owned: BTreeMap::new(), asked: Vec::new() });
    }

    fn any(&self) -> Option<u64> {
        self.members.keys().nth(self.below(self.members.len().max(1))).copied()
    }

    fn step(&mut self) {
        let Some(id) = self.any() else { return self.join() };
        match self.below(8) {
            0 if self.members.len() < 100 => self.join(),
            0 | 1 => {
                self.members.remove(&id);
                self.group.leave(self.engine, &self.groups, id);
            }
            2 => self.group.due(self.engine, Duration::MAX),
            3 => {
                // Takes something into its hands, or finishes what it has.
                let finish = self.below(2) == 0;
                let Some(member) = self.members.get_mut(&id) else { return };
                member.read();
                for (lane, tenure) in member.owned.values() {
                    let mut state = lane.lock();
                    if state.is_owned_by(*tenure) {
                        state.claimed = if finish { state.progress.low } else { state.progress.low + 1 };
                    }
                }
            }
            _ => {
                let Some(member) = self.members.get_mut(&id) else { return };
                member.read();
                let asked = std::mem::take(&mut member.asked);
                let kept = self.group.release(self.engine, &self.groups, id, &asked);
                asked.iter().filter(|whose| !kept.contains(whose)).for_each(|whose| drop(member.owned.remove(whose)));
            }
        }
    }

    /// Every partition has one owner, and of all who think they have it at most one may move it.
    fn check(&mut self, partitions: usize, step: usize) {
        let mut owners: BTreeMap<(Arc<str>, u32), Vec<u64>> = BTreeMap::new();
        for member in self.group.members() {
            for place in member.assigned {
                owners.entry(place).or_default().push(member.id);
            }
        }
        let of_all = owners.values().all(|owners| owners.len() == 1);
        assert!(of_all, "step {step}: a partition has two owners: {owners:?}");
        if !self.members.is_empty() {
            let read_by_all = partitions / 2;
            assert!(
                owners.len() == partitions || owners.len() == read_by_all,
                "step {step}: {} are owned",
                owners.len()
            );
        }
        let mut tenures: BTreeMap<Whose, usize> = BTreeMap::new();
        for member in self.members.values() {
            for (whose, (lane, tenure)) in &member.owned {
                *tenures.entry(*whose).or_default() += usize::from(lane.lock().is_owned_by(*tenure));
            }
        }
        assert!(tenures.values().all(|count| *count <= 1), "step {step}: two members may commit");
    }
}

#[test]
fn in_a_storm_of_rebalances_every_partition_has_one_owner() {
    let log = Log::in_memory().unwrap();
    for name in ["storm.a", "storm.b"] {
        let settings = TopicSettings::default().partitions(32);
        log.blocking_create_topic(TopicDef::<Bytes, Raw>::named(name), settings).unwrap();
    }
    let engine = &log.inner.engine;
    let groups = Groups::of(engine).unwrap();
    let group = groups.group("storm");
    let random = SeededRandom::new(11);
    let mut storm = Storm { engine, groups, group, members: BTreeMap::new(), random };
    for step in 0..10_000 {
        storm.step();
        storm.check(64, step);
    }
    // When it is over, everybody has their share.
    for round in 0..200 {
        for id in storm.members.keys().copied().collect::<Vec<_>>() {
            let Some(member) = storm.members.get_mut(&id) else { continue };
            member.read();
            let asked = std::mem::take(&mut member.asked);
            let kept = storm.group.release(engine, &storm.groups, id, &asked);
            asked.iter().filter(|whose| !kept.contains(whose)).for_each(|whose| drop(member.owned.remove(whose)));
        }
        storm.check(64, round);
    }
    let shares: Vec<usize> = storm.group.members().iter().map(|member| member.assigned.len()).collect();
    let held: usize = storm.members.values().map(|member| member.owned.len()).sum();
    assert_eq!(held, shares.iter().sum::<usize>(), "members know what is theirs");
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 1 || shares.len() < 3, "{shares:?}");
}

/// A record of `__offsets` that nobody can read is no reason to begin anywhere.
#[test]
fn offsets_that_cannot_be_read_are_an_error() {
    let log = Log::in_memory().unwrap();
    let topic = log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("t"), TopicSettings::default()).unwrap();
    let engine = &log.inner.engine;
    let settings = TopicSettings::default().compaction(true);
    let own = engine.create_topic(OFFSETS_TOPIC, settings).unwrap();
    let partition = own.partition(0).unwrap();
    let put = |key: &[u8], value: &[u8]| {
        let (key, value) = (key.to_vec(), value.to_vec());
        let leader = crate::log::committer::Leader::Caller;
        let ticket = engine.enqueue(&partition, 100, leader, |frame| {
            frame.push(0, Some(&key), Some(&value), std::iter::empty());
        });
        engine.lead();
        ticket.unwrap().group.wait().clone().unwrap();
    };
    put(&[9; 30], &[1]);
    topic.blocking_produce(Record::new(Bytes::new())).unwrap();
    let refused = topic.subscribe("g").blocking_build().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.to_string().contains("__offsets") && refused.to_string().contains("version 9"), "{refused}");
    assert_eq!(log.blocking_groups().unwrap_err().kind(), ErrorKind::Corrupt);
}
