//! What a member is told of its partitions, and what it can do before one goes.

use std::sync::Arc;

use super::core::Core;
use super::items::TopicPartition;
use crate::error::Result;
use crate::group::commit::Held;
use crate::group::record::Whose;
use crate::record::Message;

/// What becomes of a member's partitions, for [`Subscribe::on_rebalance`](crate::Subscribe::on_rebalance).
#[derive(Debug)]
#[non_exhaustive]
pub enum Rebalance<'a> {
    /// They are this member's from now on.
    Assigned(&'a [TopicPartition]),
    /// They are to go to other members, and do so when this call returns: the last moment to commit what is finished.
    Revoked(Revoked<'a>),
    /// They are somebody else's already: this member took too long to give them up, or the topic is gone. What it commits
    /// of them is refused as [`Fenced`](crate::ErrorKind::Fenced).
    Lost(&'a [TopicPartition]),
}

/// Partitions that are about to go.
#[derive(Debug)]
pub struct Revoked<'a> {
    pub(super) partitions: &'a [TopicPartition],
    pub(super) core: &'a Core,
    pub(super) whose: &'a [Whose],
}

impl Revoked<'_> {
    /// Which they are.
    pub fn partitions(&self) -> &[TopicPartition] {
        self.partitions
    }

    /// Everything up to this message, and the message, is finished. It is written along with the partition's going: whoever gets
    /// it next begins behind the message.
    ///
    /// # Errors
    ///
    /// As [`Consumer::commit`](crate::Consumer::commit).
    pub fn commit<T>(&self, message: &Message<T>) -> Result<()> {
        let (_, source) = self.core.source_of(message)?;
        self.say((Arc::clone(&source.lane), source.tenure), message.offset + 1)
    }

    /// Everything that was received of these partitions is finished.
    ///
    /// # Errors
    ///
    /// As [`Consumer::commit`](crate::Consumer::commit).
    pub fn commit_all(&self) -> Result<()> {
        for whose in self.whose {
            let index = self.core.by_partition.get(whose);
            if let Some(source) = index.and_then(|index| self.core.sources.get(*index)?.as_ref()) {
                self.say((Arc::clone(&source.lane), source.tenure), source.position)?;
            }
        }
        Ok(())
    }

    fn say(&self, held: Held, to: u64) -> Result<()> {
        self.core.groups.commit_soon(&self.core.log.engine, &held, super::core::SOON, |state| {
            state.finish_below(to);
            Ok(())
        })
    }
}

/// A user's function.
pub(super) type Listener = dyn FnMut(Rebalance<'_>) + Send;

impl Core {
    fn names(&self, of: &[Whose]) -> Vec<TopicPartition> {
        let source = |whose: &Whose| self.sources.get(*self.by_partition.get(whose)?)?.as_ref();
        let name =
            |whose: &Whose| Some(TopicPartition { topic: source(whose)?.topic.name.to_string(), partition: whose.1 });
        of.iter().filter_map(name).collect()
    }

    /// Tells the user's function, if there is one.
    pub(super) fn call(&mut self, what: impl Fn(&[TopicPartition]) -> Rebalance<'_>, of: &[Whose]) {
        if let Some(mut listener) = self.listener().take() {
            let names = self.names(of);
            listener(what(&names));
            *self.listener() = Some(listener);
        }
    }

    pub(super) fn call_revoked(&mut self, whose: &[Whose]) {
        let Some(mut listener) = self.listener().take() else { return };
        let partitions = self.names(whose);
        listener(Rebalance::Revoked(Revoked { partitions: &partitions, core: self, whose }));
        *self.listener() = Some(listener);
    }
}
