//! Appends are told to a reader, which sleeps when there is nothing: it must come to see them all. If it sleeps through one,
//! nobody is left who could go on, and loom reports that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::spawn;

use crate::group::mailbox::Mailbox;
use crate::partition::Partition;
use crate::partition::watch::Watcher;
use crate::task::block_after;

struct Source {
    partition: Arc<Partition>,
    watcher: Arc<Watcher>,
    next: u64,
    queued: bool,
}

/// A consumer without groups and frames: the steps of `Core::poll_item`.
struct Reader {
    mailbox: Arc<Mailbox>,
    sources: Vec<Source>,
    ready: VecDeque<usize>,
    closed: bool,
}

impl Reader {
    fn new(partitions: &[Arc<Partition>]) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let mut sources = Vec::new();
        for (index, partition) in partitions.iter().enumerate() {
            let watcher = Watcher::new(Arc::clone(&mailbox) as _, index);
            partition.watch(Arc::clone(&watcher));
            sources.push(Source { partition: Arc::clone(partition), watcher, next: 0, queued: true });
        }
        Self { mailbox, ready: (0..sources.len()).collect(), sources, closed: false }
    }

    /// Comes further in some partition, or to the end of all.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.mailbox.has_news() {
                let (mut ready, mut notices) = (Vec::new(), Vec::new());
                self.closed |= self.mailbox.take(&mut ready, &mut notices);
                for index in ready {
                    if !std::mem::replace(&mut self.sources[index].queued, true) {
                        self.ready.push_back(index);
                    }
                }
            }
            if self.closed {
                return Poll::Ready(());
            }
            while let Some(index) = self.ready.pop_front() {
                let source = &mut self.sources[index];
                source.queued = false;
                if !source.watcher.is_at_end(&source.partition, source.next) {
                    let end = source.partition.visible_end();
                    assert!(end > source.next && source.partition.written() >= end);
                    (source.next, source.queued) = (end, true);
                    self.ready.push_back(index);
                    return Poll::Ready(());
                }
            }
            if self.mailbox.poll_news(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Reads until it has seen `end` in each partition, or the mailbox is closed.
    fn read_to(&mut self, end: u64) {
        while !self.closed && self.sources.iter().any(|source| source.next < end) {
            // A thread that looks for a while before it sleeps has no more to lose than one that sleeps at once.
            block_after(0, |cx| self.poll(cx));
        }
    }
}

fn partition(number: u32) -> Arc<Partition> {
    Arc::new(Partition::new((1, number)))
}

pub(crate) fn one_partition() {
    let partition = partition(0);
    let mut reader = Reader::new(&[Arc::clone(&partition)]);
    let producer = spawn(move || (1..=3).for_each(|end| partition.append(end)));
    reader.read_to(3);
    producer.join().unwrap();
}

pub(crate) fn two_partitions() {
    let partitions = [partition(0), partition(1)];
    let mut reader = Reader::new(&partitions);
    let producers = partitions.map(|partition| spawn(move || partition.append(1)));
    reader.read_to(1);
    producers.into_iter().for_each(|producer| producer.join().unwrap());
}

pub(crate) fn close() {
    let partition = partition(0);
    let mut reader = Reader::new(&[Arc::clone(&partition)]);
    let mailbox = Arc::clone(&reader.mailbox);
    let producer = spawn(move || partition.append(1));
    let closer = spawn(move || mailbox.close().into_iter().for_each(Waker::wake));
    reader.read_to(u64::MAX);
    assert!(reader.closed && reader.mailbox.has_news(), "what is closed stays so");
    producer.join().unwrap();
    closer.join().unwrap();
}
