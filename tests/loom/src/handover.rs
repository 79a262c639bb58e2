//! A partition changes hands while its owner hands records out: whoever has it next knows of them, or there were none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::spawn;
use std::time::Duration;

use crate::group::Groups;
use crate::group::lane::{Begin, Lane};
use crate::group::mailbox::{Mailbox, Notice};
use crate::group::membership::{Group, Joining};
use crate::group::pattern::Subscription;
use crate::group::record::Whose;
use crate::log::engine::{Clock, Engine, Env, Upkeep};
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::task::block_after;

/// A group over two partitions, so that a second member gets one.
struct World {
    engine: Engine,
    groups: Groups,
    group: Group,
}

impl World {
    fn new() -> Arc<Self> {
        let partitions = (0..2).map(|number| Arc::new(Partition::new((1, number)))).collect();
        let engine = Engine {
            topics: vec![Arc::new(TopicState { name: "t".into(), partitions })],
            upkeep: Upkeep,
            env: Env { clock: Clock },
        };
        Arc::new(Self { engine, groups: Groups, group: Groups::begin("g") })
    }
}

/// A partition in the hands of a member.
struct Owned {
    lane: Arc<Lane>,
    tenure: u64,
    next: u64,
}

/// What a member did in a partition.
#[derive(Debug, Default)]
struct Did {
    /// Where it began.
    from: u64,
    /// The offset behind the last record that it handed out.
    handed_to: u64,
    /// The offset behind the last that it finished, and was allowed to say so.
    finished_to: u64,
}

struct Member {
    world: Arc<World>,
    id: u64,
    mailbox: Arc<Mailbox>,
    owned: BTreeMap<Whose, Owned>,
    did: BTreeMap<Whose, Did>,
    has_lost: bool,
}

impl Member {
    fn join(world: &Arc<World>, wants_to_be_asked: bool) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let joining = Joining {
            subscription: Subscription::new(["t"]).unwrap(),
            name: None,
            wants_to_be_asked,
            from_now_on: false,
            revoke_timeout: Duration::from_secs(1),
        };
        let id = world.group.join(&world.engine, joining, Arc::clone(&mailbox)).unwrap();
        let (owned, did) = (BTreeMap::new(), BTreeMap::new());
        Self { world: Arc::clone(world), id, mailbox, owned, did, has_lost: false }
    }

    fn read_mail(&mut self) {
        let (mut ready, mut notices) = (Vec::new(), Vec::new());
        self.mailbox.take(&mut ready, &mut notices);
        for notice in notices {
            match notice {
                Notice::Granted(grant) => {
                    let from = begin(&grant.lane);
                    let whose = grant.lane.whose;
                    self.did.insert(whose, Did { from, handed_to: from, finished_to: from });
                    self.owned.insert(whose, Owned { lane: grant.lane, tenure: grant.tenure, next: from });
                }
                Notice::Asked(whose) => {
                    let World { engine, groups, group } = &*self.world;
                    if self.owned.contains_key(&whose) && group.release(engine, groups, self.id, &[whose]).is_empty() {
                        self.owned.remove(&whose);
                        self.has_lost = true;
                    }
                }
                Notice::Lost(whose) => {
                    self.owned.remove(&whose);
                    self.has_lost = true;
                }
                Notice::Deleted(_) => unreachable!("nobody deletes a topic"),
            }
        }
    }

    /// Sleeps until `is_so`.
    fn wait(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            block_after(0, |cx: &mut Context<'_>| {
                if self.mailbox.has_news() {
                    self.read_mail();
                    return Poll::Ready(());
                }
                self.mailbox.poll_news(cx)
            });
        }
    }

    /// Hands out the next record of each partition.
    fn hand_out(&mut self) {
        for (whose, owned) in &mut self.owned {
            if owned.lane.claim(owned.tenure, owned.next + 1) {
                owned.next += 1;
                self.did.get_mut(whose).unwrap().handed_to = owned.next;
            }
        }
    }

    /// Says that what was handed out is finished.
    fn finish(&mut self) {
        for (whose, owned) in &self.owned {
            let mut state = owned.lane.lock();
            if state.check(owned.tenure, &owned.lane).is_ok() {
                state.finish_below(owned.next);
                self.did.get_mut(whose).unwrap().finished_to = owned.next;
            }
        }
    }
}

/// Where a new owner begins.
fn begin(lane: &Lane) -> u64 {
    let mut state = lane.lock();
    match state.begin() {
        Begin::Send => state.progress.low,
        Begin::At { .. } => 0,
        Begin::Wait(_) => unreachable!("nothing is sent"),
    }
}

/// The first member reads while a second one joins, and gets one of its partitions. Answers what either did in it.
fn run(wants_to_be_asked: bool, is_late: bool) -> (Did, Did) {
    let world = World::new();
    let mut first = Member::join(&world, wants_to_be_asked);
    first.read_mail();
    assert_eq!(first.owned.len(), 2);
    let second = spawn(move || {
        let mut second = Member::join(&world, false);
        if is_late {
            Groups::all_due(&world.engine, &world.group);
        }
        second.wait(|member| !member.owned.is_empty());
        second.hand_out();
        second.did
    });
    first.hand_out();
    first.finish();
    first.hand_out();
    first.finish();
    first.wait(|member| member.has_lost);
    let mut second = second.join().unwrap();
    let (whose, after) = second.pop_first().unwrap();
    assert!(second.is_empty(), "one of two partitions");
    assert_eq!(after.handed_to, after.from + 1, "nobody takes it away from the second");
    (first.did.remove(&whose).unwrap(), after)
}

/// Nobody is late: who has begun a record is let finish it, and nobody else gets it.
pub(crate) fn given_up() {
    let (before, after) = run(false, false);
    assert_eq!(before.handed_to, before.finished_to, "what was handed out is not taken away");
    assert_eq!(before.finished_to, after.from, "the second begins behind what the first has finished");
}

/// It is taken from an owner that is asked and does not answer: what that finished is known to the next, or was refused.
pub(crate) fn taken_away() {
    let (before, after) = run(true, true);
    assert_eq!(before.finished_to, after.from, "a commit is seen, or refused");
}
