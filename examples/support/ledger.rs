//! What one group has processed, and whether it did so as it should: everything in order, and nothing twice without a crash.

use std::collections::{HashMap, HashSet};

use crate::ndjson::Input;

/// For each event of the input its key, as a number, and the how manieth of that key it is.
pub(crate) struct Cases {
    of_event: Vec<(usize, u64)>,
    keys: usize,
}

impl Cases {
    pub(crate) fn of(input: &Input) -> Self {
        let mut known: HashMap<&str, (usize, u64)> = HashMap::new();
        let mut of_event = Vec::with_capacity(input.events.len());
        for event in &input.events {
            let next = known.len();
            let (key, count) = known.entry(&event.key).or_insert((next, 0));
            of_event.push((*key, *count));
            *count += 1;
        }
        Self { of_event, keys: known.len() }
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys as u64
    }
}

/// One event where the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Which event of the input.
    pub(crate) index: usize,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

pub(crate) struct Ledger {
    /// For each partition the first offset that is not processed.
    next: Vec<u64>,
    /// For each key, how many of its events are processed.
    done: Vec<u64>,
    /// What a crash has left processed and not committed: it has to come once more.
    at_risk: HashSet<(u32, u64)>,
    /// How many events are processed, each counted once.
    pub(crate) processed: u64,
    /// How often an event was processed that had been before.
    pub(crate) redelivered: u64,
}

impl Ledger {
    pub(crate) fn new(cases: &Cases, partitions: u32) -> Self {
        Self {
            next: vec![0; partitions as usize],
            done: vec![0; cases.keys],
            at_risk: HashSet::new(),
            processed: 0,
            redelivered: 0,
        }
    }

    /// Takes in what was processed in an earlier process. Answers whether it was processed before.
    pub(crate) fn recall(&mut self, cases: &Cases, place: Place) -> Result<bool, String> {
        let Place { index, partition, offset } = place;
        let (key, nth) = cases.of_event[index];
        let next = &mut self.next[partition as usize];
        if offset > *next {
            return Err(format!("offset {offset} of partition {partition} is processed before offset {next}"));
        }
        if nth > self.done[key] {
            return Err(format!("event {nth} of a key is processed before event {} of it", self.done[key]));
        }
        let again = offset < *next;
        if again != (nth < self.done[key]) {
            return Err(format!("offset {offset} of partition {partition} holds another event than before"));
        }
        if again {
            self.redelivered += 1;
        } else {
            *next += 1;
            self.done[key] += 1;
            self.processed += 1;
        }
        Ok(again)
    }

    /// Takes in what is processed now. Whatever comes again must have been left open by a crash, and comes again once.
    pub(crate) fn note(&mut self, cases: &Cases, place: Place) -> Result<(), String> {
        let Place { partition, offset, .. } = place;
        if self.recall(cases, place)? && !self.at_risk.remove(&(partition, offset)) {
            return Err(format!(
                "offset {offset} of partition {partition} is processed again, and no crash was the cause"
            ));
        }
        Ok(())
    }

    /// A member has crashed that had processed this and not committed it.
    pub(crate) fn left_open(&mut self, places: impl IntoIterator<Item = (u32, u64)>) {
        self.at_risk.extend(places);
    }

    /// The whole process has crashed: what is above the committed offsets was left open.
    pub(crate) fn reopened(&mut self, committed: &[u64]) -> Result<(), String> {
        self.check_committed(committed)?;
        for (partition, (committed, next)) in committed.iter().zip(&self.next).enumerate() {
            self.at_risk.extend((*committed..*next).map(|offset| (partition as u32, offset)));
        }
        Ok(())
    }

    /// Nothing is committed that is not processed.
    pub(crate) fn check_committed(&self, committed: &[u64]) -> Result<(), String> {
        let mut both = committed.iter().zip(&self.next).enumerate();
        match both.find(|(_, (committed, next))| committed > next) {
            Some((partition, (committed, next))) => Err(format!(
                "partition {partition} is committed up to offset {committed}, and processed up to {next} only"
            )),
            None => Ok(()),
        }
    }

    /// For each partition the first offset that is not processed.
    pub(crate) fn next(&self) -> &[u64] {
        &self.next
    }

    /// How much is still to come once more.
    pub(crate) fn at_risk(&self) -> u64 {
        self.at_risk.len() as u64
    }
}
