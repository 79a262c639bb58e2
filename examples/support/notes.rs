//! What the handlers of one group have done to the world outside: a note of each attempt, and whether they came as they should.

use crate::GROUPS;
use crate::plan::{Plan, Verdict};

/// One attempt, as its handler has noted it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note {
    /// Which run of the program.
    pub(crate) run: u64,
    /// Which event of the input.
    pub(crate) index: usize,
    pub(crate) attempt: u32,
    pub(crate) verdict: Verdict,
}

/// The last attempt at an event of a case.
#[derive(Clone, Copy)]
struct Last {
    run: u64,
    nth: u64,
    attempt: u32,
    ended: bool,
}

pub(crate) struct Notes {
    group: usize,
    /// For each case how many of its events have ended.
    ended: Vec<u64>,
    last: Vec<Option<Last>>,
    /// For each event the attempts so far.
    attempts: Vec<u32>,
    pub(crate) done: u64,
    pub(crate) dead: u64,
    pub(crate) tried: u64,
    pub(crate) failed: u64,
    pub(crate) panicked: u64,
    /// Attempts at what had ended already: a kill was faster than the note in the log that it had.
    pub(crate) again: u64,
}

impl Notes {
    pub(crate) fn new(group: usize, plan: &Plan, events: usize) -> Self {
        Self {
            group,
            ended: vec![0; plan.cases.len()],
            last: vec![None; plan.cases.len()],
            attempts: vec![0; events],
            done: 0,
            dead: 0,
            tried: 0,
            failed: 0,
            panicked: 0,
            again: 0,
        }
    }

    /// Takes in an attempt. Between two kills a case's events are tried one after the other, each until it has ended; a kill
    /// may set the case back, and never lets it skip anything.
    pub(crate) fn take(&mut self, plan: &Plan, note: Note) -> Result<(), String> {
        let Note { run, index, attempt, verdict } = note;
        let (case, nth) = plan.place(index);
        let key = &plan.cases[case].key;
        let wrong = |why: &str| Err(format!("event {nth} of {key:?}, attempt {attempt}: {why}"));
        if !plan.concerns(self.group, index) {
            return wrong("it is none of the group's business");
        }
        if attempt == 0 || attempt > plan.attempts_max(self.group, index) || attempt > self.attempts[index] + 1 {
            return wrong("is not to be, or the one before was never made");
        }
        if verdict != plan.verdict(self.group, index, attempt) {
            return wrong(&format!("ended as {}, which was not the plan", verdict.word()));
        }
        if nth > self.ended[case] {
            return wrong(&format!("event {} has not ended", self.ended[case]));
        }
        if let Some(last) = self.last[case].filter(|last| last.run == run) {
            let right = match last.ended {
                true => nth == last.nth + 1,
                false => nth == last.nth && attempt == last.attempt + 1,
            };
            if !right {
                return wrong(&format!(
                    "came after attempt {} at event {}, with no kill between",
                    last.attempt, last.nth
                ));
            }
        }
        let ended = plan.ends(self.group, index, attempt);
        self.attempts[index] = self.attempts[index].max(attempt);
        self.last[case] = Some(Last { run, nth, attempt, ended });
        self.tried += 1;
        self.panicked += u64::from(verdict == Verdict::Panicked);
        self.failed += u64::from(verdict != Verdict::Done);
        if nth < self.ended[case] {
            self.again += 1;
        } else if ended {
            self.ended[case] += 1;
            let dead = u64::from(plan.is_dead(self.group, index));
            (self.done, self.dead) = (self.done + 1 - dead, self.dead + dead);
        }
        Ok(())
    }

    /// Every event that there is must have ended.
    pub(crate) fn check_whole(&self, plan: &Plan) -> Result<(), String> {
        for (case, ended) in plan.cases.iter().zip(&self.ended) {
            let mut left = case.events.iter().skip(*ended as usize);
            if let Some(lost) = left.find(|index| plan.concerns(self.group, **index)) {
                let nth = plan.place(*lost).1;
                return Err(format!("event {nth} of {:?} is lost: it was never handled to its end", case.key));
            }
        }
        Ok(())
    }

    pub(crate) fn headings() -> String {
        let [group, rest @ ..] = ["GROUP", "DONE", "DEAD LETTERS", "ATTEMPTS", "FAILED", "PANICKED", "AGAIN"];
        let cells: String = rest.iter().map(|cell| format!(" {cell:>12}")).collect();
        format!("{group:<8}{cells}\n")
    }

    pub(crate) fn row(&self) -> String {
        let numbers = [self.done, self.dead, self.tried, self.failed, self.panicked, self.again];
        let cells: String = numbers.iter().map(|number| format!(" {:>12}", crate::console::grouped(*number))).collect();
        format!("{:<8}{cells}\n", GROUPS[self.group])
    }
}
