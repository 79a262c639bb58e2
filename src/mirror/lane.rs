//! One partition on its way to the target: what was read of it, and how far it has come.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use uuid::Uuid;

use super::checkpoint::{Checkpoint, Place, Print};
use super::outgoing::OriginTexts;
use super::shared::Shared;
use super::status::ErrorClass;
use crate::codec::Raw;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Message;
use crate::replay::{Replay, Start};
use crate::topic::Topic;

/// What comes next in a partition.
pub(super) enum Next {
    Record(Message),
    /// Offsets that retention has let go.
    Gap {
        from: u64,
        to: u64,
    },
}

/// Why a partition is not forwarded.
#[derive(Debug, Clone)]
pub(super) struct Paused {
    pub(super) error: Error,
    /// Since when, by the clock that waiting goes by.
    pub(super) since: Duration,
}

/// What is kept of a partition when the connection is begun anew.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) paused: Option<Paused>,
    /// Records that the target refuses, and that are to be replaced.
    pub(super) refused: BTreeMap<u64, Error>,
    /// Those of them that have a dead letter already: their transaction may have to be begun anew.
    pub(super) buried: BTreeSet<u64>,
    /// Below this offset each record is sent by itself: one of them is refused, and it is not known which.
    pub(super) careful_until: u64,
}

pub(super) struct Lane {
    pub(super) place: Place,
    pub(super) topic: Topic<Bytes, Raw>,
    pub(super) topic_id: Uuid,
    pub(super) target: Arc<str>,
    pub(super) target_partitions: u32,
    /// The first offset that is not in the target.
    pub(super) committed: u64,
    /// The first offset that is not in the transaction either.
    pub(super) next: u64,
    /// What the last record before `next` was.
    pub(super) last: Option<Message>,
    last_print: Option<Print>,
    /// What the log has noted of it.
    pub(super) cached: Option<u64>,
    pub(super) texts: OriginTexts,
    pub(super) memory: Memory,
    replay: Option<Replay<Bytes, Raw>>,
    /// Read, but not sent.
    held: Option<Next>,
    /// What is durable was last seen to end here.
    durable_end: u64,
}

impl Lane {
    pub(super) fn new(
        log: Uuid,
        place: Place,
        topic: Topic<Bytes, Raw>,
        topic_id: Uuid,
        target: (Arc<str>, u32),
        memory: Memory,
    ) -> Self {
        Self {
            texts: OriginTexts::new(log, &place),
            place,
            topic,
            topic_id,
            target: target.0,
            target_partitions: target.1,
            committed: 0,
            next: 0,
            last: None,
            last_print: None,
            cached: None,
            memory,
            replay: None,
            held: None,
            durable_end: 0,
        }
    }

    /// Begins where the log says that the mirror had come to, or with the first record that there is.
    pub(super) fn begin_first(&mut self, noted: Option<u64>) -> Result<()> {
        let watermarks = self.topic.watermarks(self.place.1)?;
        let at = noted.unwrap_or(watermarks.log_start).min(watermarks.high_watermark);
        (self.committed, self.next) = (at, at);
        Ok(())
    }

    /// Begins where the target says that the mirror had come to.
    pub(super) fn begin_at(&mut self, checkpoint: &Checkpoint) {
        let at = checkpoint.next_offset;
        (self.committed, self.next, self.last_print) = (at, at, checkpoint.last);
    }

    /// What comes next, once it is on the disk: what is not could still be lost here, and would then be in the target only. `Ready(None)`
    /// if there is something that is not on the disk yet.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Next>>> {
        let next = match self.held.take() {
            Some(next) => next,
            None => {
                let (partition, from) = (self.place.1, self.next);
                let replay = self
                    .replay
                    .get_or_insert_with(|| self.topic.replay_partition(partition, Start::Offset(from)).follow());
                match Pin::new(replay).poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(message))) => Next::Record(message),
                    Poll::Ready(Some(Err(error))) => match (error.gap(), error.offset_range()) {
                        (Some(gap), _) => Next::Gap { from: self.next.min(gap.from), to: gap.to },
                        // The place itself is gone.
                        (None, Some(range)) if from < range.log_start => {
                            self.replay = None;
                            Next::Gap { from, to: range.log_start }
                        }
                        _ => {
                            self.replay = None;
                            return Poll::Ready(Err(error));
                        }
                    },
                    // A follower has no end.
                    Poll::Ready(None) => return Poll::Ready(Err(Error::closed())),
                }
            }
        };
        if let Next::Record(message) = &next
            && message.offset() >= self.durable_end
        {
            self.durable_end = self.topic.watermarks(self.place.1)?.durable_end;
            if message.offset() >= self.durable_end {
                self.held = Some(next);
                return Poll::Ready(Ok(None));
            }
        }
        Poll::Ready(Ok(Some(next)))
    }

    /// Whether its topic is still there: the name of one that is gone may be that of another one by now, whose place is not to be set.
    pub(super) fn is_there(&self) -> bool {
        let gone = self.topic.watermarks(self.place.1).err();
        gone.is_none_or(|error| error.kind() != ErrorKind::NotFound)
    }

    /// Does not forward it any more, and says why.
    pub(super) fn pause(&mut self, shared: &Shared, now: Duration, error: Error) {
        if self.memory.paused.is_none() {
            shared.met(ErrorClass::Partition, Some(self.place.clone()), error.clone());
        }
        self.memory.paused = Some(Paused { error, since: now });
    }

    /// Tries it again.
    pub(super) fn unpause(&mut self) {
        if self.memory.paused.take().is_some() {
            self.memory.refused.clear();
        }
    }

    /// Puts back what cannot be sent now.
    pub(super) fn put_back(&mut self, next: Next) {
        self.held = Some(next);
    }

    /// Lets go of what was read ahead: there are many partitions, and this one had its turn.
    pub(super) fn close_reader(&mut self) {
        (self.replay, self.held) = (None, None);
    }

    /// Takes note that everything before an offset is in the transaction.
    pub(super) fn advance(&mut self, last: Option<Message>, next: u64) {
        if last.is_some() {
            self.last = last;
        }
        self.next = next;
    }

    /// Whether there is anything that is not in the target.
    pub(super) fn has_changed(&self) -> bool {
        self.next != self.committed
    }

    /// What is written to the target about it.
    pub(super) fn checkpoint(&mut self, log: Uuid, epoch: u64) -> Checkpoint {
        if let Some(last) = &self.last {
            self.last_print = Some(Print::of(last));
        }
        Checkpoint::new(log, self.topic_id, self.next, epoch, self.last_print)
    }

    /// Everything before `next` is in the target.
    pub(super) fn is_committed(&mut self) {
        (self.committed, self.last) = (self.next, None);
        self.memory.refused = self.memory.refused.split_off(&self.next);
        self.memory.buried = self.memory.buried.split_off(&self.next);
    }

    /// Whether records are sent one by one.
    pub(super) fn is_careful(&self) -> bool {
        self.next < self.memory.careful_until
    }
}
