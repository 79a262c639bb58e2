//! Sending what lanes say to `__offsets`: at once, in the background, or together with the records of a transaction.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use event_listener::Listener;

use super::Groups;
use super::lane::{Lane, LaneState};
use super::progress::Progress;
use super::record::{Committed, OFFSETS_TOPIC, encode_key};
use crate::error::{Error, Result};
use crate::format::record::{FrameBuilder, RECORD_OVERHEAD_BYTES_MAX};
use crate::log::committer::{Group as Answer, Leader, Refused};
use crate::log::engine::Engine;
use crate::partition::Pass;
use crate::segment::lock;

/// A lane that is committed, and what its owner holds it by.
pub(crate) type Held = (Arc<Lane>, u64);

/// What became of an attempt to send.
enum Attempt {
    /// It is on its way.
    Sent(Arc<Answer>),
    /// There was nothing to send.
    Nothing,
    /// Another commit must answer first.
    Wait(Arc<Answer>),
    /// There is no room for it now.
    Full,
}

/// How long what is said in the background waits for more of it.
pub(crate) const GATHERED_FOR: Duration = Duration::from_millis(5);
/// So many lanes are sent in one frame.
const LANES_MAX: usize = 256;

/// A record of `__offsets`, encoded.
pub(crate) struct OffsetRecord {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl OffsetRecord {
    pub(crate) fn new(lane: &Lane, committed: Option<&Committed>) -> Self {
        Self { key: encode_key(&lane.group, lane.whose), value: committed.map(Committed::encode) }
    }

    fn len(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len) + RECORD_OVERHEAD_BYTES_MAX
    }

    pub(crate) fn put(&self, builder: &mut FrameBuilder, now: i64) {
        builder.push(now, Some(&self.key), self.value.as_deref(), std::iter::empty());
    }
}

impl LaneState {
    /// What a commit says now. Its number is one that is taken: whatever is appended later has a higher one.
    pub(crate) fn say(&self, engine: &Engine, progress: &Progress, now: i64) -> Committed {
        progress.committed(engine.next_commit().saturating_sub(1), self.generation, now)
    }
}

impl Groups {
    /// Sends what the lanes say, in one frame. They are locked in the order of [`sort`].
    fn send(
        &self,
        engine: &Engine,
        states: &mut [(&Arc<Lane>, MutexGuard<'_, LaneState>)],
        leader: Leader,
    ) -> Result<Attempt> {
        let now = engine.env.clock.now_micros();
        let mut records = Vec::with_capacity(states.len());
        for (lane, state) in states.iter_mut() {
            state.sweep();
            if let Some(answer) = state.bars(false) {
                return Ok(Attempt::Wait(Arc::clone(answer)));
            }
            if state.unsent {
                let said = state.say(engine, &state.progress, now);
                records.push((OffsetRecord::new(lane, Some(&said)), said));
            }
        }
        if records.is_empty() {
            return Ok(Attempt::Nothing);
        }
        let len = records.iter().map(|(record, _)| record.len()).sum();
        let fill = |builder: &mut FrameBuilder| records.iter().for_each(|(record, _)| record.put(builder, now));
        match engine.enqueue_by(Pass::Open, self.partition(engine)?, len, leader, fill) {
            Ok(ticket) => {
                let unsent = states.iter_mut().filter(|(_, state)| state.unsent);
                for ((_, state), (_, said)) in unsent.zip(records) {
                    state.sent(Arc::clone(&ticket.group), Some(said), false);
                }
                Ok(Attempt::Sent(ticket.group))
            }
            Err(Refused::Full) => Ok(Attempt::Full),
            Err(Refused::Failed(error)) => Err(error),
            Err(Refused::Guarded) => Err(Error::invalid("annals' own topics take no guarded appends")),
        }
    }

    /// Lets the owners say something and sends it. All or none of it is said: who owns one of them no more is fenced.
    fn attempt(
        &self,
        engine: &Engine,
        held: &[Held],
        leader: Leader,
        say: &mut dyn FnMut(usize, &mut LaneState) -> Result<()>,
    ) -> Result<Attempt> {
        let mut states: Vec<_> = held.iter().map(|(lane, _)| (lane, lane.lock())).collect();
        for ((_, state), (lane, tenure)) in states.iter().zip(held) {
            state.check(*tenure, lane)?;
        }
        for (at, (_, state)) in states.iter_mut().enumerate() {
            say(at, state)?;
        }
        let attempt = self.send(engine, &mut states, leader)?;
        // Somebody else may have sent it.
        Ok(match attempt {
            Attempt::Nothing => {
                states.iter().find_map(|(_, state)| state.last_sent().cloned()).map_or(Attempt::Nothing, Attempt::Sent)
            }
            other => other,
        })
    }

    /// Says something of lanes, [sorted](sort), and resolves once it is on the disk.
    pub(crate) async fn commit(
        &self,
        engine: &Engine,
        held: &[Held],
        mut say: impl FnMut(usize, &mut LaneState) -> Result<()>,
    ) -> Result<()> {
        loop {
            let space = engine.committer.space.listen();
            match self.attempt(engine, held, Leader::Thread, &mut say)? {
                Attempt::Nothing => return Ok(()),
                Attempt::Sent(answer) => return answer.answered().await.as_ref().map(drop).map_err(Error::clone),
                Attempt::Wait(answer) => {
                    let _failed = answer.answered().await.is_err();
                }
                Attempt::Full => space.await,
            }
        }
    }

    /// [`commit`](Self::commit) on this thread, which carries it out itself if nobody else is at it.
    pub(crate) fn blocking_commit(
        &self,
        engine: &Engine,
        held: &[Held],
        mut say: impl FnMut(usize, &mut LaneState) -> Result<()>,
    ) -> Result<()> {
        loop {
            let space = engine.committer.space.listen();
            match self.attempt(engine, held, Leader::Caller, &mut say)? {
                Attempt::Nothing => return Ok(()),
                Attempt::Sent(answer) => {
                    engine.lead();
                    return answer.wait().as_ref().map(drop).map_err(Error::clone);
                }
                Attempt::Wait(answer) => {
                    engine.lead();
                    let _failed = answer.wait().is_err();
                }
                Attempt::Full => {
                    engine.lead();
                    space.wait();
                }
            }
        }
    }

    /// Says something of a lane, to be sent in the background within `delay`.
    pub(crate) fn commit_soon(
        &self,
        engine: &Engine,
        held: &Held,
        delay: Duration,
        say: impl FnOnce(&mut LaneState) -> Result<()>,
    ) -> Result<()> {
        let (lane, tenure) = held;
        let mut state = lane.lock();
        state.check(*tenure, lane)?;
        if let Some(error) = state.take_failure() {
            return Err(error);
        }
        say(&mut state)?;
        if state.unsent && !state.queued {
            state.queued = true;
            drop(state);
            self.queue(engine, lane, delay);
        }
        Ok(())
    }

    fn queue(&self, engine: &Engine, lane: &Arc<Lane>, delay: Duration) {
        let at = engine.env.clock.monotonic().saturating_add(delay);
        lock(&self.queued).push((at, Arc::clone(lane)));
        engine.upkeep.want_call(at);
    }

    /// Sends what has waited long enough; all of it if there is no `now`.
    pub(super) fn send_queued(&self, engine: &Engine, now: Option<Duration>) {
        let due = |at: &Duration| now.is_none_or(|now| *at <= now);
        let mut lanes: Vec<_> = lock(&self.queued).extract_if(.., |(at, _)| due(at)).map(|(_, lane)| lane).collect();
        sort_lanes(&mut lanes);
        for lanes in lanes.chunks(LANES_MAX) {
            let mut states: Vec<_> = lanes.iter().map(|lane| (lane, lane.lock())).collect();
            states.iter_mut().for_each(|(_, state)| state.queued = false);
            let attempt = self.send(engine, &mut states, Leader::Thread);
            match attempt {
                Ok(Attempt::Sent(_) | Attempt::Nothing) => {}
                Ok(Attempt::Wait(_) | Attempt::Full) => {
                    states.iter_mut().for_each(|(_, state)| state.queued = true);
                    drop(states);
                    lanes.iter().for_each(|lane| self.queue(engine, lane, GATHERED_FOR));
                }
                // Said again by the next commit, or, if there is none, delivered again.
                Err(error) => tracing::warn!(%error, "offsets could not be committed in the background"),
            }
        }
        if let Some(next) = lock(&self.queued).iter().map(|(at, _)| *at).min() {
            engine.upkeep.want_call(next);
        }
    }

    /// Sends everything that is to be sent, and waits for the answers: the log closes.
    pub(super) fn send_all(&self, engine: &Engine) {
        while !lock(&self.queued).is_empty() {
            self.send_queued(engine, None);
            engine.committer.flush(|work| engine.carry_out(work));
            if self.partition(engine).is_ok_and(|partition| partition.check_open().is_err()) {
                return;
            }
        }
    }

    /// Sends, at once, what the lanes of somebody who goes have to say; what there is no room for goes in the background.
    pub(super) fn send_rest(&self, engine: &Engine, lane: &Arc<Lane>) {
        let mut state = lane.lock();
        if !state.unsent {
            return;
        }
        let mut states = [(lane, state)];
        let attempt = self.send(engine, &mut states, Leader::Thread);
        let [(_, again)] = states;
        state = again;
        if matches!(attempt, Ok(Attempt::Wait(_) | Attempt::Full)) && !state.queued {
            state.queued = true;
            drop(state);
            self.queue(engine, lane, GATHERED_FOR);
        }
    }
}

/// The order in which several lanes are locked.
pub(crate) fn sort(held: &mut [Held]) {
    held.sort_by(|(a, _), (b, _)| (a.whose, &a.group).cmp(&(b.whose, &b.group)));
}

fn sort_lanes(lanes: &mut Vec<Arc<Lane>>) {
    lanes.sort_by(|a, b| (a.whose, &a.group).cmp(&(b.whose, &b.group)));
    lanes.dedup_by(|a, b| Arc::ptr_eq(a, b));
}

impl Groups {
    /// Takes back what is committed about records that are no more. What is not taken back now is at the next opening.
    pub(super) fn bury(&self, engine: &Engine, lanes: &[Arc<Lane>]) {
        let committed = |lane: &&Arc<Lane>| lane.lock().committed().is_some();
        let Ok(topic) = engine.topic(OFFSETS_TOPIC) else { return };
        let Ok(partition) = topic.partition(0) else { return };
        for lane in lanes.iter().filter(committed) {
            let (record, now) = (OffsetRecord::new(lane, None), engine.env.clock.now_micros());
            let fill = |builder: &mut FrameBuilder| record.put(builder, now);
            if engine.enqueue_by(Pass::Open, &partition, record.len(), Leader::Thread, fill).is_err() {
                return;
            }
        }
    }
}
