//! Groups held to a model: members that come and go, receive, commit, finish in any order and transact, beside closes and crashes.
//! The model knows what was committed, and nothing about how partitions change hands.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/copy.rs"]
mod copy;

use std::collections::{BTreeMap, BTreeSet};

use annals::{Consumer, ErrorKind, Log, Message, Record, Reset, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;
use copy::killed;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const PARTITIONS: u32 = 3;
const GROUPS: [&str; 2] = ["a", "b"];

#[derive(Debug, Clone)]
enum Step {
    Produce(u32, u8),
    Join(usize),
    Leave(usize),
    /// Forgotten for a while, or gone for good: nothing is committed on the way.
    Receive(usize, u8),
    /// The message at this place among those that the member has.
    Commit(usize, usize),
    CommitAsync(usize, usize),
    Finish(usize, usize),
    CommitFinished(usize),
    Transact(usize, usize, bool),
    Seek(usize, u32),
    Reset(usize, u64),
    Describe(usize),
    Close,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let member = 0..6_usize;
    let place = 0..20_usize;
    prop_oneof![
        4 => (0..PARTITIONS, 1..5_u8).prop_map(|(partition, count)| Step::Produce(partition, count)),
        3 => (0..GROUPS.len()).prop_map(Step::Join),
        1 => member.clone().prop_map(Step::Leave),
        8 => (member.clone(), 1..6_u8).prop_map(|(member, count)| Step::Receive(member, count)),
        4 => (member.clone(), place.clone()).prop_map(|(member, place)| Step::Commit(member, place)),
        1 => (member.clone(), place.clone()).prop_map(|(member, place)| Step::CommitAsync(member, place)),
        4 => (member.clone(), place.clone()).prop_map(|(member, place)| Step::Finish(member, place)),
        2 => member.clone().prop_map(Step::CommitFinished),
        4 => (member.clone(), place, any::<bool>()).prop_map(|(member, place, commit)| Step::Transact(member, place, commit)),
        1 => (member, 0..PARTITIONS).prop_map(|(member, partition)| Step::Seek(member, partition)),
        1 => (0..GROUPS.len(), 0..6_u64).prop_map(|(group, offset)| Step::Reset(group, offset)),
        2 => (0..GROUPS.len()).prop_map(Step::Describe),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

/// What a group has finished in a partition.
#[derive(Debug, Clone, Default, PartialEq)]
struct Done {
    low: u64,
    above: BTreeSet<u64>,
}

impl Done {
    fn below(&mut self, to: u64) {
        self.low = self.low.max(to);
        self.settle();
    }

    fn one(&mut self, offset: u64) {
        if offset >= self.low {
            self.above.insert(offset);
        }
        self.settle();
    }

    fn settle(&mut self) {
        while self.above.remove(&self.low) {
            self.low += 1;
        }
        let low = self.low;
        self.above.retain(|offset| *offset > low);
    }

    fn has(&self, offset: u64) -> bool {
        offset < self.low || self.above.contains(&offset)
    }
}

struct Member {
    consumer: Consumer,
    group: usize,
    messages: Vec<Message>,
    /// The next offset that it has to get, by partition, since it has it.
    next: BTreeMap<u32, u64>,
}

#[derive(Default)]
struct Model {
    ends: [u64; PARTITIONS as usize],
    /// Acknowledged, by group and partition.
    committed: BTreeMap<(usize, u32), Done>,
    /// What the owners have said and not had acknowledged.
    said: BTreeMap<(usize, u32), Done>,
    /// Something may be on the disk that nobody was told of.
    unsure: BTreeSet<(usize, u32)>,
    output: Vec<String>,
}

struct World {
    dir: tempfile::TempDir,
    log: Log,
    input: Topic,
    output: Topic,
    members: Vec<Member>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::blocking_open(dir.path()).unwrap();
        let create = |name, partitions| {
            let settings = TopicSettings::default().partitions(partitions);
            log.blocking_create_topic(TopicDef::named(name), settings).unwrap()
        };
        let (input, output) = (create("in", PARTITIONS), create("out", 1));
        Self { dir, log, input, output, members: Vec::new(), model: Model::default() }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Produce(partition, count) => {
                let records = (0..count).map(|_| Record::new(Bytes::new()).partition(partition));
                self.input.blocking_produce_batch(records).unwrap();
                self.model.ends[partition as usize] += u64::from(count);
            }
            Step::Join(group) => {
                let consumer = self.input.subscribe(GROUPS[group]).blocking_build().unwrap();
                self.members.push(Member { consumer, group, messages: Vec::new(), next: BTreeMap::new() });
                self.take_turns();
            }
            Step::Leave(at) if at < self.members.len() => {
                // What it has said goes along to whoever begins next, and to the disk at some time.
                drop(self.members.remove(at));
                self.take_turns();
            }
            Step::Receive(at, count) => self.receive(at, count),
            Step::Commit(at, place) => self.with_message(at, place, |log, member, message, model| {
                let _ = log;
                let key = (member.group, message.partition());
                match member.consumer.blocking_commit(message) {
                    Ok(()) => {
                        let mut said = model.said(key);
                        said.below(message.offset() + 1);
                        model.acknowledge(key, said);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
                }
            }),
            Step::CommitAsync(at, place) => self.with_message(at, place, |_, member, message, model| {
                let key = (member.group, message.partition());
                if member.consumer.commit_async(message).is_ok() {
                    let mut said = model.said(key);
                    said.below(message.offset() + 1);
                    model.said.insert(key, said);
                    model.unsure.insert(key);
                }
            }),
            Step::Finish(at, place) => self.with_message(at, place, |_, member, message, model| {
                let key = (member.group, message.partition());
                if member.consumer.finish(message).is_ok() {
                    let mut said = model.said(key);
                    said.one(message.offset());
                    model.said.insert(key, said);
                    // Whoever gives the partition up says so, too.
                    model.unsure.insert(key);
                }
            }),
            Step::CommitFinished(at) if at < self.members.len() => {
                let member = &self.members[at];
                match member.consumer.blocking_commit_finished() {
                    Ok(()) => {
                        for place in member.consumer.assignment() {
                            let key = (member.group, place.partition);
                            if let Some(said) = self.model.said.get(&key).cloned() {
                                self.model.acknowledge(key, said);
                            }
                        }
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
                }
            }
            Step::Transact(at, place, commit) => {
                let output = self.output.clone();
                self.with_message(at, place, |log, member, message, model| {
                    let key = (member.group, message.partition());
                    let text = format!("{key:?} {}", message.offset());
                    let mut tx = log.transaction();
                    tx.produce(&output, Record::new(Bytes::from(text.clone()))).unwrap();
                    match tx.finish(&member.consumer, message) {
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
                        Ok(()) if !commit => tx.abort(),
                        Ok(()) => match tx.blocking_commit() {
                            Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
                            Ok(_) => {
                                model.output.push(text);
                                let mut said = model.said(key);
                                said.one(message.offset());
                                model.acknowledge(key, said);
                            }
                        },
                    }
                });
            }
            Step::Seek(at, partition) if at < self.members.len() => {
                let member = &mut self.members[at];
                let key = (member.group, partition);
                // A seek makes what is said begin anew: only where nothing was, and nothing is finished further on.
                let committed = self.model.committed.get(&key).cloned().unwrap_or_default();
                if member.next.contains_key(&partition)
                    && !self.model.said.contains_key(&key)
                    && committed.above.is_empty()
                    && member.consumer.blocking_seek("in", partition, Start::Offset(committed.low)).is_ok()
                {
                    member.next.insert(partition, committed.low);
                }
            }
            Step::Reset(group, offset) => {
                let answer = self.log.blocking_reset_group(GROUPS[group], ["in"], Reset::Offset(offset));
                let active = self.members.iter().any(|member| member.group == group);
                let beyond = self.model.ends.iter().any(|end| *end < offset);
                match answer {
                    Ok(_) => {
                        assert!(!active && !beyond);
                        for partition in 0..PARTITIONS {
                            self.model.acknowledge((group, partition), Done { low: offset, above: BTreeSet::new() });
                        }
                    }
                    Err(error) if beyond => assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange),
                    Err(error) => assert!(active && error.kind() == ErrorKind::Busy, "{error}"),
                }
            }
            Step::Describe(group) => self.describe(group),
            Step::Close | Step::Crash => self.reopen(matches!(step, Step::Crash)),
            Step::Leave(_) | Step::CommitFinished(_) | Step::Seek(..) => {}
        }
    }

    fn with_message(&mut self, at: usize, place: usize, work: impl FnOnce(&Log, &Member, &Message, &mut Model)) {
        let Some(member) = self.members.get(at).filter(|member| !member.messages.is_empty()) else { return };
        let message = &member.messages[place % member.messages.len()];
        // What was taken from it may be fenced; what it has again since is another delivery.
        let is_current = member.next.get(&message.partition()).is_some_and(|next| message.offset() < *next);
        if is_current {
            work(&self.log, member, message, &mut self.model);
        }
    }

    /// Everybody looks once, and so gives up what is to go.
    fn take_turns(&mut self) {
        for _ in 0..2 {
            for at in 0..self.members.len() {
                self.receive(at, 0);
            }
        }
    }

    fn receive(&mut self, at: usize, count: u8) {
        let Some(member) = self.members.get_mut(at) else { return };
        for _ in 0..count.max(1) {
            let got = member.consumer.try_recv().unwrap();
            let owned: BTreeSet<u32> = member.consumer.assignment().iter().map(|place| place.partition).collect();
            let lost: Vec<u32> = member.next.keys().copied().filter(|partition| !owned.contains(partition)).collect();
            for partition in lost {
                member.next.remove(&partition);
                member.messages.retain(|message| message.partition() != partition);
            }
            for partition in owned {
                let key = (member.group, partition);
                let begin = self.model.said(key).low;
                member.next.entry(partition).or_insert(begin);
            }
            let Some(message) = got else { return };
            let key = (member.group, message.partition());
            let next = member.next.get_mut(&message.partition()).unwrap();
            let done = self.model.said.get(&key).or(self.model.committed.get(&key)).cloned().unwrap_or_default();
            let skipped = (*next..message.offset()).all(|offset| done.has(offset));
            assert!(message.offset() >= *next && skipped, "{key:?}: {} comes after {next}", message.offset());
            *next = message.offset() + 1;
            member.messages.push(message);
        }
    }

    /// All that was said is committed.
    fn acknowledge_said(&mut self, group: usize) {
        let said: Vec<_> = self.model.said.keys().filter(|key| key.0 == group).copied().collect();
        for key in said {
            let done = self.model.said(key);
            self.model.acknowledge(key, done);
        }
    }

    fn describe(&mut self, group: usize) {
        let described = match self.log.blocking_describe_group(GROUPS[group]) {
            Ok(described) => described,
            Err(error) => return assert_eq!(error.kind(), ErrorKind::NotFound),
        };
        let mut owners = BTreeMap::new();
        for member in &described.members {
            for place in &member.assignment {
                assert!(owners.insert(place.partition, &member.id).is_none(), "{place} has two owners");
            }
        }
        if !described.members.is_empty() {
            assert_eq!(owners.len() as u32, PARTITIONS, "every partition has an owner");
        }
        for place in &described.partitions {
            let key = (group, place.partition.partition);
            let acknowledged = self.model.committed.get(&key);
            if !self.model.unsure.contains(&key) {
                assert_eq!(place.committed, acknowledged.map(|done| done.low), "{key:?}");
            }
            assert!(place.committed.unwrap_or(0) <= self.model.ends[place.partition.partition as usize]);
        }
    }

    fn reopen(&mut self, crash: bool) {
        let copy = crash.then(|| killed(self.dir.path()));
        self.members.clear();
        self.log.blocking_close().unwrap();
        if let Some(copy) = copy {
            self.dir = copy;
        } else {
            (0..GROUPS.len()).for_each(|group| self.acknowledge_said(group));
        }
        self.log = Log::blocking_open(self.dir.path()).unwrap();
        (self.input, self.output) = (self.log.raw_topic("in").unwrap(), self.log.raw_topic("out").unwrap());
        self.model.said.clear();
        // What nobody was told of is there or not; nothing that was acknowledged is missing.
        for (group, name) in GROUPS.into_iter().enumerate() {
            let described = self.log.blocking_describe_group(name);
            let found: BTreeMap<u32, annals::GroupPartition> = described
                .iter()
                .flat_map(|found| found.partitions.clone())
                .map(|place| (place.partition.partition, place))
                .collect();
            for partition in 0..PARTITIONS {
                let key = (group, partition);
                let acknowledged = self.model.committed.get(&key).map(|done| done.low);
                let there = found.get(&partition).and_then(|place| place.committed);
                if self.model.unsure.remove(&key) {
                    assert!(there >= acknowledged, "{key:?}: {there:?} instead of {acknowledged:?}");
                    if there.is_some() {
                        self.learn(key);
                    }
                } else {
                    assert_eq!(there, acknowledged, "{key:?}");
                    let ahead = self.model.committed.get(&key).map_or(0, |done| done.above.len() as u64);
                    assert_eq!(found.get(&partition).map_or(0, |place| place.finished_ahead), ahead, "{key:?}");
                }
            }
        }
        let mut history = self.output.replay(Start::Earliest).blocking().unwrap();
        let mut output = Vec::new();
        while let Some(message) = history.next_message().unwrap() {
            output.push(String::from_utf8(message.value().unwrap().to_vec()).unwrap());
        }
        assert_eq!(output, self.model.output, "transactions are there, once, and those that were given up are not");
    }

    /// Takes over what the log says of a group in a partition: everything that is not finished is delivered.
    fn learn(&mut self, key: (usize, u32)) {
        let mut consumer = self.input.subscribe(GROUPS[key.0]).blocking_build().unwrap();
        let mut unfinished = BTreeSet::new();
        while let Some(message) = consumer.try_recv().unwrap() {
            if message.partition() == key.1 {
                unfinished.insert(message.offset());
            }
        }
        let end = self.model.ends[key.1 as usize];
        let mut done = Done::default();
        (0..end).filter(|offset| !unfinished.contains(offset)).for_each(|offset| done.one(offset));
        let before = self.model.committed.get(&key).cloned().unwrap_or_default();
        assert!((0..end).all(|offset| !before.has(offset) || done.has(offset)), "{key:?}: {done:?} after {before:?}");
        self.model.committed.insert(key, done);
    }
}

impl Model {
    /// What the owner says by now.
    fn said(&self, key: (usize, u32)) -> Done {
        self.said.get(&key).or(self.committed.get(&key)).cloned().unwrap_or_default()
    }

    fn acknowledge(&mut self, key: (usize, u32), done: Done) {
        self.said.remove(&key);
        self.unsure.remove(&key);
        self.committed.insert(key, done);
    }
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/group_model.txt"))),
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 150;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn groups_are_the_model_through_closes_and_crashes(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
        }
        world.reopen(true);
    }
}
