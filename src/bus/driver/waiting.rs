//! Events that wait: for another attempt, for one of their key that is before them, or for a handler to be free.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::work::{Key, Work};
use crate::record::Message;

/// The keys of which something is under way or waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    keys: HashMap<Key, Line>,
    due: BTreeMap<(Duration, u64), Key>,
    ready: VecDeque<Key>,
    next: u64,
    count: usize,
    bytes: usize,
}

/// The events of a key, in order.
#[derive(Debug, Default)]
struct Line {
    /// The first is under way.
    running: bool,
    /// When the first of the queue may be tried again.
    due: Option<(Duration, u64)>,
    queue: VecDeque<Box<Work>>,
}

impl Waiting {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether an event of the key has to stand in line.
    pub(super) fn is_busy(&self, key: &Key) -> bool {
        !self.keys.is_empty() && self.keys.contains_key(key)
    }

    /// An event of the key is under way, and takes time.
    pub(super) fn running(&mut self, key: &Key) {
        self.keys.entry(key.clone()).or_default().running = true;
    }

    /// Puts an event at the end of its key's line.
    pub(super) fn push(&mut self, mut work: Box<Work>) {
        work.detach();
        self.took(&work);
        self.keys.entry(work.key.clone()).or_default().queue.push_back(work);
    }

    /// Puts an event that was under way back to the beginning of its key's line, to be tried again at `at`.
    pub(super) fn put_back(&mut self, mut work: Box<Work>, at: Duration) {
        work.detach();
        self.took(&work);
        self.next += 1;
        let due = (at, self.next);
        self.due.insert(due, work.key.clone());
        let line = self.keys.entry(work.key.clone()).or_default();
        (line.running, line.due) = (false, Some(due));
        line.queue.push_front(work);
    }

    /// The event of the key that was under way is so no more, and does not come back. The next may begin.
    pub(super) fn done(&mut self, key: &Key) {
        if self.keys.is_empty() {
            return;
        }
        let Some(line) = self.keys.get_mut(key) else { return };
        line.running = false;
        if line.queue.is_empty() {
            self.keys.remove(key);
        } else if line.due.is_none() {
            self.ready.push_back(key.clone());
        }
    }

    /// Lets those begin whose time has come. Answers when the next one's comes.
    pub(super) fn wake(&mut self, now: Duration) -> Option<Duration> {
        while let Some(first) = self.due.first_entry() {
            if first.key().0 > now {
                return Some(first.key().0);
            }
            let key = first.remove();
            if let Some(line) = self.keys.get_mut(&key) {
                line.due = None;
                self.ready.push_back(key);
            }
        }
        None
    }

    /// The next event that may begin: the first of its key.
    pub(super) fn next_ready(&mut self) -> Option<Box<Work>> {
        loop {
            let key = self.ready.pop_front()?;
            let Some(line) = self.keys.get_mut(&key) else { continue };
            // Whatever has happened to the line since it was put on the list.
            if line.running || line.due.is_some() {
                continue;
            }
            let Some(work) = line.queue.pop_front() else { continue };
            line.running = true;
            self.let_go(&work);
            return Some(work);
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Forgets the events that wait of which `is_gone` says so.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&Message) -> bool) {
        let (mut count, mut bytes) = (0, 0);
        let (due, ready) = (&mut self.due, &mut self.ready);
        self.keys.retain(|key, line| {
            let first = line.queue.front().map(|work| work.delivered.offset);
            line.queue.retain(|work| !is_gone(&work.delivered));
            count += line.queue.len();
            bytes += line.queue.iter().map(|work| work.bytes()).sum::<usize>();
            if let Some(at) = line.due.take_if(|_| line.queue.front().map(|work| work.delivered.offset) != first) {
                due.remove(&at);
                if !line.queue.is_empty() && !line.running {
                    ready.push_back(key.clone());
                }
            }
            line.running || !line.queue.is_empty()
        });
        (self.count, self.bytes) = (count, bytes);
    }

    fn took(&mut self, work: &Work) {
        self.count += 1;
        self.bytes += work.bytes();
    }

    fn let_go(&mut self, work: &Work) {
        self.count -= 1;
        self.bytes -= work.bytes();
    }
}
