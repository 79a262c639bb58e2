//! The thread that commits for a subscription: what is done, and together with it what handlers have published.
//!
//! A commit of Kafka is one offset for each partition: everything below is done. Events that overtook others are told beside it, in a
//! [text](super::note), and so are those whose outputs are written: outputs and what is done of all partitions are one transaction.
//! So an event whose outputs are there is not handled again, though events before it may be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Cluster;
use super::desk::{Desk, Part, Place, State, Wish};
use super::member::Member;
use super::note;
use super::records::Outgoing;
use super::writer::{Failure, Offsets, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::group::progress::Progress;
use crate::kafka::from_kafka;

/// How long what is done without outputs waits for more of it.
const GATHERED_FOR: Duration = Duration::from_millis(20);
/// After a commit that has failed.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// So many events' outputs, and so many records, are committed as one.
const EVENTS_MAX: usize = 1000;
const RECORDS_MAX: usize = 10_000;
/// How long to wait without looking.
const LOOK_AFTER: Duration = Duration::from_secs(60);

pub(super) struct Committer {
    pub(super) cluster: Arc<Cluster>,
    pub(super) desk: Arc<Desk>,
    pub(super) member: Arc<Member>,
    /// What its transactions are known by. Nobody else has this name.
    pub(super) id: String,
    pub(super) writer: Option<Writer>,
}

/// What a commit is to say of the partitions, and what of each is known to it.
struct Said {
    list: TopicPartitionList,
    /// Turn and version.
    of: HashMap<Place, (u64, u64)>,
}

impl Committer {
    /// Works until the subscription ends. Answers whether all that was done is committed.
    pub(super) fn run(mut self) -> Result<()> {
        let mut outcome = Ok(());
        loop {
            let wanted = |state: &State| state.stop || state.soon || !state.wishes.is_empty();
            let state = self.desk.wait_until(LOOK_AFTER, wanted);
            let (stop, wishes, soon) = (state.stop, !state.wishes.is_empty(), state.soon);
            drop(state);
            if wishes {
                self.commit_wishes();
            } else if soon {
                if !stop {
                    // What is done meanwhile goes with it, unless somebody is waiting.
                    drop(self.desk.wait_until(GATHERED_FOR, |state| state.is_urgent() || !state.wishes.is_empty()));
                }
                if self.desk.lock().wishes.is_empty() {
                    outcome = self.commit_done();
                }
            }
            if stop && !wishes {
                return outcome.and_then(|()| self.has_said_all());
            }
            if let Err(error) = &outcome
                && !stop
            {
                self.desk.say(Err(error.clone()));
                drop(self.desk.wait_until(AGAIN_AFTER, |state| state.stop || !state.wishes.is_empty()));
                self.desk.tell(|state| state.soon = true);
                outcome = Ok(());
            }
        }
    }

    /// Commits what is done without outputs. The group does not share its partitions out anew in the middle of it: the commit would be
    /// taken as one of the new owner's.
    fn commit_done(&self) -> Result<()> {
        let said = self.desk.tell(|state| {
            state.soon = false;
            // It may be less than the brokers have.
            (!state.rewind).then(|| {
                state.saying = true;
                said(state, &[])
            })
        });
        let Some(said) = said else { return Ok(()) };
        let committed = said.and_then(|said| {
            if !said.of.is_empty() {
                let commit = self.member.consumer.commit(&said.list, CommitMode::Sync);
                commit.map_err(|error| {
                    from_kafka(format!("cannot commit what group {} has done", self.desk.group), error)
                })?;
                self.desk.tell(|state| settle(state, &said, &[]));
            }
            Ok(())
        });
        self.desk.tell(|state| state.saying = false);
        committed
    }

    /// Whether nothing is left, in the end: who does not know what the brokers have commits nothing.
    fn has_said_all(&self) -> Result<()> {
        let state = self.desk.lock();
        if !state.rewind || state.parts.values().all(Part::is_said) {
            return Ok(());
        }
        let sentence = format!(
            "group {} was to read from the brokers what it has done, and ended before: what is not committed is handled again",
            self.desk.group
        );
        Err(Error::new(ErrorKind::Unavailable, sentence))
    }

    fn commit_wishes(&mut self) {
        let wishes = self.desk.tell(|state| {
            state.committing = true;
            let mut records = 0;
            let mut take = 0;
            for wish in state.wishes.iter().take(EVENTS_MAX) {
                records += wish.records.len();
                if take > 0 && records > RECORDS_MAX {
                    break;
                }
                take += 1;
            }
            state.wishes.drain(..take).collect::<Vec<_>>()
        });
        self.commit_together(wishes);
        self.desk.tell(|state| state.committing = false);
    }

    /// Commits events with their outputs as one; if one of them cannot be written, each by itself.
    fn commit_together(&mut self, wishes: Vec<Wish>) {
        let Err((error, wishes)) = self.try_commit(wishes) else { return };
        let is_about_one = !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fenced | ErrorKind::Busy);
        if is_about_one && wishes.len() > 1 {
            for wish in wishes {
                if let Err((error, wishes)) = self.try_commit(vec![wish]) {
                    refuse(wishes, &error);
                }
            }
        } else {
            refuse(wishes, &error);
        }
    }

    fn try_commit(&mut self, wishes: Vec<Wish>) -> std::result::Result<(), (Error, Vec<Wish>)> {
        // A commit says how far the group has come, and that is not known: it would take back what the one before it has said.
        if self.desk.lock().rewind {
            let sentence =
                "what the group has done is read from the brokers first; the event is handled again, unless it is done";
            return Err((Error::new(ErrorKind::Fenced, sentence), wishes));
        }
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => match Writer::open(&self.cluster.config, &self.id, Arc::clone(&self.desk.clock)) {
                Ok(writer) => writer,
                Err(error) => return Err((error, wishes)),
            },
        };
        // Before it is looked which partitions are this member's: should they be shared out anew after that, this is out of date, and
        // the transaction is refused.
        let Some(member) = self.member.consumer.group_metadata() else {
            self.writer = Some(writer);
            return Err((Error::new(ErrorKind::Fenced, "this member is in its group no more"), wishes));
        };
        let (wishes, done) = self.still_open(wishes);
        if wishes.is_empty() {
            self.writer = Some(writer);
            return Ok(());
        }
        let said = match said(&self.desk.lock(), &done) {
            Ok(said) => said,
            Err(error) => {
                self.writer = Some(writer);
                return Err((error, wishes));
            }
        };
        let records: Vec<&Outgoing> = wishes.iter().flat_map(|wish| &wish.records).collect();
        match writer.write(&records, Some(&Offsets { list: &said.list, member: &member })) {
            Ok(_) => {
                self.writer = Some(writer);
                self.desk.tell(|state| settle(state, &said, &done));
                for wish in wishes {
                    // Nobody has to wait for it.
                    let _gone = wish.answer.send(Ok(())).is_err();
                }
                Ok(())
            }
            Err(Failure::Aborted(error)) => {
                self.writer = Some(writer);
                if error.kind() == ErrorKind::Fenced {
                    self.desk.tell(|state| state.rewind = true);
                }
                Err((error, wishes))
            }
            Err(Failure::Broken(error) | Failure::Unknown(error)) => {
                // What is committed is read from the brokers, once whatever this writer has left is decided.
                let sentence = "a transaction has failed; what the group has done is read from the brokers again";
                self.desk.say(Err(Error::with_source(ErrorKind::Unavailable, sentence, error.clone())));
                self.desk.tell(|state| state.rewind = true);
                let sentence = "what became of the event is read from the brokers";
                Err((Error::with_source(ErrorKind::Fenced, sentence, error), wishes))
            }
        }
    }

    /// Those whose events are still this member's and not done, and these events. The others are told so.
    fn still_open(&self, wishes: Vec<Wish>) -> (Vec<Wish>, Vec<(Place, u64)>) {
        let mut met = HashSet::new();
        let (open, lost): (Vec<Wish>, Vec<Wish>) = {
            let state = self.desk.lock();
            let is_open = |wish: &Wish| {
                let part = state.parts.get(&wish.place);
                part.is_some_and(|part| !part.progress.is_finished(wish.offset))
                    && met.insert((wish.place.clone(), wish.offset))
            };
            wishes.into_iter().partition(is_open)
        };
        refuse(lost, &Error::new(ErrorKind::Fenced, "the event is done already, or is somebody else's by now"));
        let done = open.iter().map(|wish| (wish.place.clone(), wish.offset)).collect();
        (open, done)
    }
}

impl Drop for Committer {
    /// Nobody waits for it any more, however it has ended.
    fn drop(&mut self) {
        self.desk.tell(|state| state.ended = true);
    }
}

fn refuse(wishes: Vec<Wish>, error: &Error) {
    for wish in wishes {
        let _gone = wish.answer.send(Err(error.clone())).is_err();
    }
}

/// What is to be committed: what is done of the partitions of which that is not committed, and these events.
fn said(state: &State, done: &[(Place, u64)]) -> Result<Said> {
    let mut said = Said { list: TopicPartitionList::new(), of: HashMap::new() };
    for (place, part) in &state.parts {
        let mut with: Option<Progress> = None;
        for (_, offset) in done.iter().filter(|(of, _)| of == place) {
            with.get_or_insert_with(|| part.progress.clone()).finish(*offset, offset + 1);
        }
        if with.is_none() && part.is_said() {
            continue;
        }
        let progress = with.as_ref().unwrap_or(&part.progress);
        let text = note::write(progress).ok_or_else(|| {
            Error::invalid(format!(
                "too many events of topic {} are done before others to be told in a commit",
                place.0
            ))
        })?;
        put(&mut said.list, place, progress.low, &text)?;
        said.of.insert(place.clone(), (part.turn, part.version));
    }
    Ok(said)
}

pub(super) fn put(list: &mut TopicPartitionList, (topic, partition): &Place, offset: u64, text: &str) -> Result<()> {
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    let mut one = list.add_partition(topic, *partition);
    one.set_offset(Offset::Offset(offset)).map_err(|error| from_kafka("cannot say an offset", error))?;
    if !text.is_empty() {
        one.set_metadata(text);
    }
    Ok(())
}

/// It is committed.
fn settle(state: &mut State, said: &Said, done: &[(Place, u64)]) {
    for (place, (turn, version)) in &said.of {
        let Some(part) = state.parts.get_mut(place).filter(|part| part.turn == *turn) else { continue };
        part.committed = part.committed.max(*version);
        for (_, offset) in done.iter().filter(|(of, _)| of == place) {
            let news = part.finish(*offset);
            // This one is committed; what was said meanwhile is not.
            part.committed += u64::from(news);
        }
    }
}
