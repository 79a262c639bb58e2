//! A batch whose commit takes something along: frames that are made at the moment when it is sent, if something holds then.

use std::sync::Arc;

use event_listener::Listener;

use super::batch::Batch;
use super::delivery::Receipt;
use super::guarded::{GuardedBatch, Sent, Step};
use crate::error::{Error, Result};
use crate::log::committer::{Group, Leader, Refused, UnitFrames};
use crate::log::engine::Engine;
use crate::partition::Pass;

/// Hands frames over. Answers with the commit that tells what became of them, if they were taken.
pub(crate) type SendAlong<'a> = dyn FnMut(UnitFrames) -> Result<Option<Arc<Group>>> + 'a;

/// What goes along.
pub(crate) trait Along {
    /// Calls `send` with the frames that go along, if what they say holds, and lets nothing change that meanwhile. Answers with a
    /// commit that must come to its end first, if there is one: then `send` was not called.
    ///
    /// # Errors
    ///
    /// That it does not hold, and will not.
    fn send(&self, send: &mut SendAlong<'_>) -> Result<Option<Arc<Group>>>;
}

/// What became of an attempt.
enum Outcome {
    Done(Vec<Receipt>),
    Sent(Arc<Group>),
    SentGuarded(Sent),
    Full,
    Wait(super::guard::Wait),
    /// Some partition has a guard.
    Guarded,
}

impl Batch {
    /// Writes the batch and what goes along as one commit.
    pub(crate) async fn produce_along(
        self,
        engine: &Arc<Engine>,
        along: &(impl Along + ?Sized),
    ) -> Result<Vec<Receipt>> {
        let mut sending = Sending::new(self, engine)?;
        loop {
            let space = engine.committer.space.listen();
            match sending.attempt(along, Leader::Thread)? {
                Err(first) => {
                    let _failed = first.answered().await.is_err();
                }
                Ok(Outcome::Done(receipts)) => return Ok(receipts),
                Ok(Outcome::Sent(group)) => {
                    let _failed = group.answered().await.is_err();
                    return sending.answer(&group);
                }
                Ok(Outcome::SentGuarded(sent)) => {
                    let _failed = sent.group.answered().await.is_err();
                    return sending.answer_guarded(&sent);
                }
                Ok(Outcome::Full) => space.await,
                Ok(Outcome::Wait(wait)) => wait.wait().await?,
                Ok(Outcome::Guarded) => sending.guard()?,
            }
        }
    }

    /// [`produce_along`](Self::produce_along) on this thread.
    pub(crate) fn blocking_produce_along(
        self,
        engine: &Arc<Engine>,
        along: &(impl Along + ?Sized),
    ) -> Result<Vec<Receipt>> {
        let mut sending = Sending::new(self, engine)?;
        loop {
            let space = engine.committer.space.listen();
            match sending.attempt(along, Leader::Caller)? {
                Err(first) => {
                    engine.lead();
                    let _failed = first.wait().is_err();
                }
                Ok(Outcome::Done(receipts)) => return Ok(receipts),
                Ok(Outcome::Sent(group)) => {
                    engine.lead();
                    let _failed = group.wait().is_err();
                    return sending.answer(&group);
                }
                Ok(Outcome::SentGuarded(sent)) => {
                    engine.lead();
                    let _failed = sent.group.wait().is_err();
                    return sending.answer_guarded(&sent);
                }
                Ok(Outcome::Full) => {
                    engine.lead();
                    space.wait();
                }
                Ok(Outcome::Wait(wait)) => wait.block(engine)?,
                Ok(Outcome::Guarded) => sending.guard()?,
            }
        }
    }
}

/// A batch on its way, with or without guards.
struct Sending<'a> {
    engine: &'a Arc<Engine>,
    plain: Option<Batch>,
    guarded: Option<GuardedBatch<'a>>,
    numbers: Vec<u32>,
}

impl<'a> Sending<'a> {
    fn new(batch: Batch, engine: &'a Arc<Engine>) -> Result<Self> {
        let is_guarded = batch.is_guarded();
        let mut sending = Self { engine, numbers: batch.numbers(), plain: Some(batch), guarded: None };
        if is_guarded {
            sending.guard()?;
        }
        Ok(sending)
    }

    fn guard(&mut self) -> Result<()> {
        if let Some(batch) = self.plain.take() {
            self.guarded = Some(GuardedBatch::new(batch, None, self.engine)?);
        }
        Ok(())
    }

    /// `Err` of a commit that must come to its end first.
    fn attempt(
        &mut self,
        along: &(impl Along + ?Sized),
        leader: Leader,
    ) -> Result<std::result::Result<Outcome, Arc<Group>>> {
        let mut outcome = Outcome::Full;
        let first = along.send(&mut |frames| {
            let (what, group) = match (&mut self.plain, &mut self.guarded) {
                (Some(batch), _) => send_plain(batch, frames, self.engine, leader)?,
                (None, Some(batch)) => match batch.attempt_along(frames, leader)? {
                    Step::Done(receipts) => (Outcome::Done(receipts), None),
                    Step::Full => (Outcome::Full, None),
                    Step::Wait(wait) => (Outcome::Wait(wait), None),
                    Step::Sent(sent) => {
                        let group = Arc::clone(&sent.group);
                        (Outcome::SentGuarded(sent), Some(group))
                    }
                },
                (None, None) => return Err(Error::closed()),
            };
            outcome = what;
            Ok(group)
        })?;
        Ok(match first {
            Some(first) => Err(first),
            None => Ok(outcome),
        })
    }

    fn answer(&self, group: &Group) -> Result<Vec<Receipt>> {
        let batch = self.plain.as_ref().ok_or_else(Error::closed)?;
        batch.answer(group, &self.numbers)
    }

    fn answer_guarded(&self, sent: &Sent) -> Result<Vec<Receipt>> {
        self.guarded.as_ref().ok_or_else(Error::closed)?.answer(sent)
    }
}

fn send_plain(
    batch: &mut Batch,
    along: UnitFrames,
    engine: &Engine,
    leader: Leader,
) -> Result<(Outcome, Option<Arc<Group>>)> {
    batch.check_with(along.iter().map(|(_, builder)| builder.len()).sum(), engine)?;
    let mut frames = batch.take_frames();
    let own = frames.len();
    frames.extend(along);
    if frames.is_empty() {
        return Ok((Outcome::Done(Vec::new()), None));
    }
    match engine.committer.enqueue_unit_by(Pass::Open, frames, leader) {
        Ok(group) => Ok((Outcome::Sent(Arc::clone(&group)), Some(group))),
        Err((Refused::Failed(error), _)) => Err(error),
        Err((refused, mut back)) => {
            back.truncate(own);
            batch.give_back::<()>(back);
            let outcome = if matches!(refused, Refused::Full) { Outcome::Full } else { Outcome::Guarded };
            Ok((outcome, None))
        }
    }
}
