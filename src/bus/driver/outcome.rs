//! What becomes of an event when its turn is over.

use std::task::Context as Waking;
use std::time::Duration;

use super::super::backend::{LetterTopic, Output};
use super::super::context::Context;
use super::super::dead_letters::record::DeadLetterRecord;
use super::super::handler::{HandlerError, Reason};
use super::super::policy::GiveUp;
use super::Driver;
use super::work::{Ended, Over, Purpose, Turn, Work, is_passing};
use crate::error::{Error, ErrorKind, Result};

/// How long to wait when the disk is full, or will not do what it is asked.
const PASSING_WAIT: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn over(&mut self, over: Over, waking: &mut Waking<'_>) {
        let Over { work, cx, ended } = over;
        match ended {
            Ended::Attempt(answer) => {
                let outputs = cx.as_ref().and_then(Context::take_outputs);
                let answer = answer.inspect_err(|_| cx.iter().for_each(Context::failed));
                let now = self.alarm.now();
                self.breaker.ended(now, answer.is_ok());
                self.shared.set_breaker(self.breaker.state(now));
                match (answer, outputs) {
                    (Ok(()), None) => {
                        cx.iter().for_each(Context::committed);
                        self.finish(&work.delivered);
                        self.succeeded(&work);
                    }
                    (Ok(()), Some(outputs)) => {
                        let purpose = Purpose::Success { records: outputs.len() as u64 };
                        self.commit(work, cx, purpose, outputs, waking);
                    }
                    (Err(error), _) => self.failed(work, error, waking),
                }
            }
            Ended::Commit(purpose, Ok(_)) => match purpose {
                Purpose::Success { records } => {
                    cx.iter().for_each(Context::committed);
                    self.bus.inner.stats.published.add(records);
                    self.succeeded(&work);
                }
                Purpose::DeadLetter => {
                    self.shared.counters.dead_lettered.add(1);
                    if let Some(parked) = &self.parked {
                        parked.parked(&work.shown, work.is_replay());
                    }
                    self.waiting.done(&work.key);
                }
            },
            Ended::Commit(purpose, Err(error)) => {
                cx.iter().for_each(Context::failed);
                self.not_committed(work, purpose, error, waking);
            }
        }
    }

    fn succeeded(&mut self, work: &Work) {
        self.shared.counters.succeeded.add(1);
        if let Some(parked) = self.parked.as_ref().filter(|_| work.is_replay()) {
            parked.replayed(&work.shown);
        }
        self.waiting.done(&work.key);
    }

    /// Commits records together with the note that the event is done.
    fn commit(
        &mut self,
        work: Box<Work>,
        cx: Option<Context>,
        purpose: Purpose,
        records: Output,
        waking: &mut Waking<'_>,
    ) {
        match self.feed.commit(records, &work.delivered) {
            Ok(commit) => self.turn(Turn::commit(work, cx, purpose, commit), waking),
            Err(error) => self.not_committed(work, purpose, error, waking),
        }
    }

    fn not_committed(&mut self, work: Box<Work>, purpose: Purpose, error: Error, waking: &mut Waking<'_>) {
        match (error.kind(), purpose) {
            // The partition is somebody else's by now, who gets the event again.
            (ErrorKind::Fenced, _) => self.waiting.done(&work.key),
            (ErrorKind::Closed | ErrorKind::Poisoned, _) => self.fail(error),
            _ if is_passing(&error) => {
                self.shared.met(error);
                let at = self.alarm.now().saturating_add(PASSING_WAIT);
                self.waiting.put_back(work, at);
            }
            (_, Purpose::Success { .. }) => self.failed(work, error.into(), waking),
            (_, Purpose::DeadLetter) => self.fail(error),
        }
    }

    /// An attempt has failed: there is another, or the event is given up.
    fn failed(&mut self, mut work: Box<Work>, error: HandlerError, waking: &mut Waking<'_>) {
        self.shared.counters.failed.add(1);
        match self.feed.note_failure(&work.delivered) {
            Ok(tries) => (work.failures, work.first_failure) = (tries.count, tries.first_at),
            Err(error) if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Invalid) => {
                return self.waiting.done(&work.key);
            }
            Err(error) => {
                // Counted here, if it cannot be written now.
                self.shared.met(error);
                work.failures = work.failures.saturating_add(1);
                if work.first_failure == 0 {
                    work.first_failure = self.bus.log().inner.engine.env.clock.now_micros();
                }
            }
        }
        tracing::debug!(
            group = &*self.shared.group,
            topic = work.shown.topic(),
            partition = work.shown.partition(),
            offset = work.shown.offset(),
            attempt = work.failures,
            reason = %error.reason(),
            %error,
            "an attempt has failed"
        );
        if self.policy.retry.again(work.failures, &error) {
            let wait = self.policy.retry.wait(work.failures, self.bus.inner.ids.number());
            self.waiting.put_back(work, whole_millis(self.alarm.now().saturating_add(wait)));
        } else {
            self.give_up(work, error, waking);
        }
    }

    /// No further attempt: the event becomes a dead letter, is skipped, or ends the subscription.
    pub(super) fn give_up(&mut self, work: Box<Work>, error: HandlerError, waking: &mut Waking<'_>) {
        match &self.policy.give_up {
            GiveUp::DeadLetter(topic) => match self.dead_letter(topic, &work, &error) {
                Ok(output) => {
                    if error.reason() == Reason::Parked {
                        self.shared.counters.parked.add(1);
                    }
                    // Should it not get there at once, it is given up again, and not tried again.
                    let work = Box::new(Work { given_up: Some(error), ..*work });
                    self.commit(work, None, Purpose::DeadLetter, output, waking);
                }
                Err(error) => self.fail(error),
            },
            GiveUp::Skip => {
                tracing::warn!(
                    group = &*self.shared.group,
                    topic = work.shown.topic(),
                    partition = work.shown.partition(),
                    offset = work.shown.offset(),
                    attempts = work.failures,
                    %error,
                    "an event was given up and skipped"
                );
                self.shared.counters.skipped.add(1);
                self.finish(&work.delivered);
                self.waiting.done(&work.key);
            }
            GiveUp::Stop => {
                let message = &work.shown;
                let sentence = format!(
                    "group {} has given up the event at topic {}, partition {}, offset {} after {} attempts ({}), and has neither a \
                     dead-letter topic nor leave to skip it",
                    self.shared.group,
                    message.topic(),
                    message.partition(),
                    message.offset(),
                    work.failures,
                    error.reason()
                );
                self.fail(Error::with_source(ErrorKind::Invalid, sentence, error.chain().join(": ")));
            }
        }
    }

    /// The dead letter, to be committed together with the note that the event is done.
    fn dead_letter(&self, topic: &LetterTopic, work: &Work, error: &HandlerError) -> Result<Output> {
        let now = self.bus.log().inner.engine.env.clock.now_micros();
        let record = DeadLetterRecord {
            message: &work.shown,
            group: &self.shared.group,
            error,
            attempts: work.failures,
            attempts_max: self.policy.retry.attempts(),
            first_failure: work.first_failure,
            now,
        };
        let mut output = Output::new(&self.bus);
        output.add(topic, record.to_record())?;
        Ok(output)
    }
}

/// Rounded up, so that those that wait about as long are woken together.
fn whole_millis(time: Duration) -> Duration {
    let nanos = time.subsec_nanos().next_multiple_of(1_000_000);
    Duration::new(time.as_secs(), 0).saturating_add(Duration::from_nanos(u64::from(nanos)))
}
