//! What is to become of each event, known before it happens: so that it can be proved afterwards.

use std::collections::HashMap;

use crate::ndjson::Input;
use crate::{ATTEMPTS, GROUPS, PANICKY, SAGA, SHAKY, SLOW, STAGE};

/// A saga takes so many steps at most. What takes them back is kept with its state, which would grow with every event of a long case.
const STEPS_MAX: u64 = 16;

/// What a handler does with an event, whoever calls it and however often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// So many attempts fail before one succeeds.
    Done { failures: u32 },
    /// Every attempt fails.
    Exhausted,
    /// The first says that no other would be of use.
    Refused,
}

/// How one attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    Failed,
    Refused,
    Panicked,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Panicked => "panicked",
        }
    }
}

/// What an event does to the saga of its case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// One more step.
    Step,
    /// The last step.
    Last,
    /// It cannot go on, and takes its steps back.
    Fail,
    /// The saga is over.
    None,
}

/// The events of one key, in their order.
pub(crate) struct Case {
    pub(crate) key: String,
    pub(crate) events: Vec<usize>,
}

pub(crate) struct Plan {
    pub(crate) cases: Vec<Case>,
    /// The type of event that closes a case: the one that is the last of the most cases.
    pub(crate) closing: String,
    /// For each event its case, and the how manieth of it it is.
    places: Vec<(usize, u64)>,
    roles: Vec<Role>,
    fates: [Vec<Fate>; GROUPS.len()],
}

/// A number that looks like chance, and is the same each time.
fn dice(seed: u64, number: u64) -> u64 {
    let mut mixed = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn fate(group: usize, line: u64) -> Fate {
    match (group, dice(group as u64 + 1, line) % 100) {
        (SHAKY, 0..10) | (PANICKY, 0..5) | (SLOW | STAGE | SAGA, 0..6) => Fate::Done { failures: 1 },
        (SHAKY, 10..16) | (PANICKY, 5..7) => Fate::Done { failures: 2 },
        (SHAKY, 16..19) | (PANICKY, 7..9) => Fate::Exhausted,
        (SHAKY, 19..22) => Fate::Refused,
        _ => Fate::Done { failures: 0 },
    }
}

impl Plan {
    pub(crate) fn of(input: &Input) -> Self {
        let mut known: HashMap<&str, usize> = HashMap::new();
        let (mut cases, mut places) = (Vec::<Case>::new(), Vec::with_capacity(input.events.len()));
        for (index, event) in input.events.iter().enumerate() {
            let case = *known.entry(&event.key).or_insert(cases.len());
            if case == cases.len() {
                cases.push(Case { key: event.key.clone(), events: Vec::new() });
            }
            places.push((case, cases[case].events.len() as u64));
            cases[case].events.push(index);
        }
        let mut last: HashMap<&str, (usize, usize)> = HashMap::new();
        for index in cases.iter().filter_map(|case| case.events.last()) {
            // Of two that are the last equally often, the one that was first so.
            last.entry(&input.events[*index].kind).or_insert((0, usize::MAX - index)).0 += 1;
        }
        let closing = last.into_iter().max_by_key(|(_, often)| *often).map_or("", |(kind, _)| kind).to_owned();
        let mut roles = vec![Role::None; input.events.len()];
        for (number, case) in cases.iter().enumerate() {
            let chance = dice(99, number as u64);
            let fails_at = chance.is_multiple_of(4).then_some(1 + (chance >> 8) % 5);
            for (nth, index) in (0..STEPS_MAX).zip(&case.events) {
                roles[*index] = match &input.events[*index].kind {
                    _ if fails_at == Some(nth) => Role::Fail,
                    kind if *kind == closing || nth == STEPS_MAX - 1 => Role::Last,
                    _ => Role::Step,
                };
                if roles[*index] != Role::Step {
                    break;
                }
            }
        }
        let fates = std::array::from_fn(|group| input.events.iter().map(|event| fate(group, event.line)).collect());
        Self { cases, closing, places, roles, fates }
    }

    /// The case of an event, and the how manieth of it it is.
    pub(crate) fn place(&self, index: usize) -> (usize, u64) {
        self.places[index]
    }

    pub(crate) fn role(&self, index: usize) -> Role {
        self.roles[index]
    }

    /// Whether the handler of a group is called with an event at all.
    pub(crate) fn concerns(&self, group: usize, index: usize) -> bool {
        group != SAGA || self.roles[index] != Role::None
    }

    /// How the attempt of this number ends.
    pub(crate) fn verdict(&self, group: usize, index: usize, attempt: u32) -> Verdict {
        let fails = match self.fates[group][index] {
            Fate::Done { failures } => attempt <= failures,
            Fate::Exhausted => true,
            Fate::Refused => return Verdict::Refused,
        };
        match fails {
            false => Verdict::Done,
            true if group == PANICKY => Verdict::Panicked,
            true => Verdict::Failed,
        }
    }

    /// How many attempts there are to be, if none has to be made again.
    pub(crate) fn attempts(&self, group: usize, index: usize) -> u32 {
        match self.fates[group][index] {
            Fate::Done { failures } => failures + 1,
            Fate::Exhausted => ATTEMPTS,
            Fate::Refused => 1,
        }
    }

    /// Whether an attempt of this number is the last, unless a kill is faster than the note in the log that it was.
    pub(crate) fn ends(&self, group: usize, index: usize, attempt: u32) -> bool {
        attempt >= self.attempts(group, index)
    }

    /// How many attempts there may be. A kill between a refusal and its dead letter leaves the failure counted, and the event open:
    /// the handler is called with it once more, and refuses it again.
    pub(crate) fn attempts_max(&self, group: usize, index: usize) -> u32 {
        match self.fates[group][index] {
            Fate::Refused => ATTEMPTS,
            _ => self.attempts(group, index),
        }
    }

    /// Whether an event is to end as a dead letter of a group.
    pub(crate) fn is_dead(&self, group: usize, index: usize) -> bool {
        self.concerns(group, index) && !matches!(self.fates[group][index], Fate::Done { .. })
    }

    /// The attempts of all groups at all events, if none has to be made again.
    pub(crate) fn attempts_in_all(&self) -> u64 {
        let all = (0..GROUPS.len()).flat_map(|group| (0..self.roles.len()).map(move |index| (group, index)));
        let attempts = |(group, index)| u64::from(self.attempts(group, index));
        all.filter(|(group, index)| self.concerns(*group, *index)).map(attempts).sum()
    }

    /// What the saga of a case is to do, as lines of the input: the steps that it takes, and those that it takes back.
    pub(crate) fn steps(&self, case: &Case) -> (Vec<usize>, Vec<usize>) {
        let with = |role| case.events.iter().copied().filter(move |index| self.roles[*index] == role);
        let steps: Vec<usize> = with(Role::Step).collect();
        let back = if with(Role::Fail).count() > 0 { steps.iter().rev().copied().collect() } else { Vec::new() };
        (steps.into_iter().chain(with(Role::Last)).collect(), back)
    }

    /// Whether the saga of a case comes to no end.
    pub(crate) fn is_under_way(&self, case: &Case) -> bool {
        case.events.iter().all(|index| self.roles[*index] == Role::Step)
    }

    pub(crate) fn is_compensated(&self, case: &Case) -> bool {
        case.events.iter().any(|index| self.roles[*index] == Role::Fail)
    }
}
