//! What those need who work on many messages at once, and have some of them under way while they wait for others.

use std::task::Context;

use super::Consumer;
use crate::error::Result;
use crate::group::progress::Tries;
use crate::record::Message;

impl<T, C> Consumer<T, C> {
    /// Whether somebody else is to have a partition of this member. It goes with the next call that takes news in: time to
    /// finish what is under way before.
    pub(crate) fn is_asked(&self) -> bool {
        self.core.mailbox.has_news() && self.core.mailbox.is_asked()
    }

    /// Lets partitions come and go, without delivering anything. Wakes whoever polls when there may be more to deliver.
    pub(crate) fn poll_rebalance(&mut self, cx: &mut Context<'_>) {
        loop {
            if self.core.mailbox.has_news() {
                self.core.read_mail();
            }
            if self.core.closed || self.core.mailbox.poll_news(cx).is_pending() {
                return;
            }
        }
    }

    /// Whether nothing follows.
    pub(crate) fn is_closed(&self) -> bool {
        self.core.closed
    }

    /// Whether everything that there is was delivered.
    pub(crate) fn is_at_end(&self) -> bool {
        !self.core.mailbox.has_news()
            && self.core.told.is_empty()
            && self.core.current.is_none()
            && self.core.is_at_end()
    }

    /// Notes a try that has failed, and commits that in the background.
    pub(crate) fn note_failure<V>(&self, message: &Message<V>) -> Result<Tries> {
        let now = self.core.log.engine.env.clock.now_micros();
        let mut tries = None;
        self.soon(message, |state| {
            tries = state.progress.note_attempt(message.offset, now);
            state.unsent |= tries.is_some();
        })?;
        Ok(tries.unwrap_or_default())
    }

    /// How often a message was tried in vain.
    pub(crate) fn tries<V>(&self, message: &Message<V>) -> Result<Tries> {
        self.with_lane(message, |state| state.progress.tries(message.offset))
    }
}
