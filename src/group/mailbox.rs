//! Where a member of a group is told things: partitions that have something new, and what becomes of its assignment. Whoever
//! tells never waits; the member looks when it likes, or sleeps until there is something.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::lane::Lane;
use crate::log::topic::TopicState;
use crate::partition::Partition;
use crate::partition::watch::Watch;
use crate::segment::lock;

/// A partition that a member may read from now on.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) topic: Arc<TopicState>,
    pub(crate) partition: Arc<Partition>,
    pub(crate) lane: Arc<Lane>,
    /// What tells this time of owning the partition from all others.
    pub(crate) tenure: u64,
}

/// What becomes of an assignment.
#[derive(Debug)]
pub(crate) enum Notice {
    Granted(Grant),
    /// Asked to give a partition up.
    Asked((u128, u32)),
    /// It belongs to somebody else by now.
    Lost((u128, u32)),
    /// A topic that the member has named was deleted.
    Deleted(Arc<str>),
}

/// The mailbox of one member.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// Lets a member that is busy pass without the lock.
    news: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ready: Vec<usize>,
    notices: Vec<Notice>,
    closed: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    /// Answers with who is to be woken: other people's code, which runs under no lock.
    fn put(&self, change: impl FnOnce(&mut Inner)) -> Option<Waker> {
        let mut inner = lock(&self.inner);
        change(&mut inner);
        self.news.store(true, Ordering::Release);
        inner.waker.take()
    }

    #[must_use = "whoever sleeps is to be woken"]
    pub(crate) fn tell(&self, notice: Notice) -> Option<Waker> {
        self.put(|inner| inner.notices.push(notice))
    }

    /// Says that nothing follows.
    #[must_use = "whoever sleeps is to be woken"]
    pub(crate) fn close(&self) -> Option<Waker> {
        self.put(|inner| inner.closed = true)
    }

    /// Whether there may be something.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    /// Whether the member is asked for a partition, and has lost none meanwhile.
    pub(crate) fn is_asked(&self) -> bool {
        let inner = lock(&self.inner);
        let is = |wanted: fn(&Notice) -> bool| inner.notices.iter().any(wanted);
        is(|notice| matches!(notice, Notice::Asked(_))) && !is(|notice| matches!(notice, Notice::Lost(_)))
    }

    /// Takes everything out, into empty lists. Answers whether the mailbox is closed.
    pub(crate) fn take(&self, ready: &mut Vec<usize>, notices: &mut Vec<Notice>) -> bool {
        let mut inner = lock(&self.inner);
        self.news.store(inner.closed, Ordering::Relaxed);
        std::mem::swap(&mut inner.ready, ready);
        std::mem::swap(&mut inner.notices, notices);
        inner.closed
    }

    /// Resolves when there is something to take.
    pub(crate) fn poll_news(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = lock(&self.inner);
        if inner.closed || !inner.ready.is_empty() || !inner.notices.is_empty() {
            return Poll::Ready(());
        }
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Watch for Mailbox {
    fn changed(&self, number: usize) -> Option<Waker> {
        self.put(|inner| inner.ready.push(number))
    }
}
