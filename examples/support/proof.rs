//! What must hold at the end, whatever has happened on the way.

use std::collections::HashMap;

use annals::{Codec, Message, Projection, Saga, Start, TopicDef};
use futures_util::StreamExt;

use crate::console::grouped;
use crate::notes::{Note, Notes};
use crate::plan::{Case, Verdict};
use crate::story::{Failure, broken};
use crate::{ANSWERS, APOLOGIES, EVENTS, GROUPS, PANICKY, SAGA, STEPS, World, trace};

/// What was found to hold, in words, and a table of the groups.
pub(crate) struct Proof {
    pub(crate) rows: Vec<(&'static str, String)>,
    pub(crate) table: String,
}

impl World {
    /// Reads all of it again, and checks it against the input and the plan.
    pub(crate) async fn prove(&self, open_cases: &Projection) -> Result<Proof, Failure> {
        let total = self.input.events.len();
        if self.survey().await? < total {
            return broken("not every event of the input is there");
        }
        let (mut table, mut ended, mut dead, mut again) = (Notes::headings(), 0, 0, 0);
        for (group, name) in GROUPS.iter().enumerate() {
            let notes = self.check_notes(group).await?;
            let letters = self.check_dead_letters(group).await?;
            if letters != notes.dead {
                let failed = notes.dead;
                return broken(format!("{name}: {failed} events have failed for good, and {letters} are dead letters"));
            }
            (ended, dead, again) = (ended + notes.done, dead + notes.dead, again + notes.again);
            table += &notes.row();
        }
        self.check_answers().await?;
        let (taken, back) = self.check_steps().await?;
        let open = self.check_projection(open_cases)?;
        let cases = &self.plan.cases;
        let compensated = cases.iter().filter(|case| self.plan.is_compensated(case));
        let under_way = cases.iter().filter(|case| self.plan.is_under_way(case)).count();
        let sagas = self.bus.saga_count(&Saga::new(GROUPS[SAGA])).await?;
        if sagas != under_way {
            return broken(format!("{sagas} sagas are under way, and {under_way} should be"));
        }
        let total = grouped(total as u64);
        let rows = vec![
            (
                "nothing lost",
                format!("{} done and {} dead letters, of {} groups", grouped(ended), grouped(dead), GROUPS.len()),
            ),
            ("dead letters", format!("{}, each as planned", grouped(dead))),
            ("order per key", "holds in each group, through retries and kills".to_owned()),
            ("handled again", format!("{} attempts, each after a kill", grouped(again))),
            ("exactly once", format!("{total} answers to {total} events")),
            (
                "projection",
                format!("{} open cases, as the input says ({:?} closes one)", grouped(open), self.plan.closing),
            ),
            ("sagas", format!("{} steps taken, {under_way} cases under way", grouped(taken))),
            ("compensations", format!("{} of {} cases, the last step first", grouped(back), compensated.count())),
        ];
        Ok(Proof { rows, table })
    }

    /// What a group has done to the world outside: each attempt must be one that was to come then.
    async fn check_notes(&self, group: usize) -> Result<Notes, Failure> {
        let wrong = |why: String| Failure::Broken(format!("group {}: {why}", GROUPS[group]));
        let mut notes = Notes::new(group, &self.plan, self.input.events.len());
        let mut history = self.notes.replay_partition(group as u32, Start::Earliest);
        while let Some(message) = history.next().await {
            let text = message?.into_value().unwrap_or_default();
            let note = self.read_note(&text).ok_or_else(|| wrong(format!("{text:?} is no note")))?;
            notes.take(&self.plan, note).map_err(wrong)?;
        }
        notes.check_whole(&self.plan).map_err(wrong)?;
        let behind = self.behind(GROUPS[group]).await?;
        if behind > 0 {
            return Err(wrong(format!("it is at its end, and {behind} events are not noted as finished")));
        }
        Ok(notes)
    }

    fn read_note(&self, text: &str) -> Option<Note> {
        let mut words = text.split(' ');
        let (run, line) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (attempt, word) = (words.next()?.parse().ok()?, words.next()?);
        let all = [Verdict::Done, Verdict::Failed, Verdict::Refused, Verdict::Panicked];
        let verdict = all.into_iter().find(|verdict| verdict.word() == word)?;
        Some(Note { run, index: self.input.index_of(line)?, attempt, verdict })
    }

    /// The dead letters of a group are those that are planned, and each is the event as it was. Answers how many there are.
    async fn check_dead_letters(&self, group: usize) -> Result<u64, Failure> {
        let topic = format!("{}.dlq", GROUPS[group]);
        let letters = self.bus.dead_letters(GROUPS[group], &topic)?.list(usize::MAX).await?;
        let mut open = HashMap::new();
        for letter in &letters {
            let line = letter.headers.get_str("line").and_then(|line| line.parse().ok());
            let index =
                line.and_then(|line| self.input.index_of(line)).filter(|index| self.plan.is_dead(group, *index));
            let Some(index) = index else {
                return broken(format!(
                    "{topic}: offset {} was not planned: {}",
                    letter.offset,
                    letter.errors.join(": ")
                ));
            };
            let event = &self.input.events[index];
            // Of what had failed for good just before a kill, the log knows how often, and not how.
            let reasons = if group == PANICKY { &["panicked", "failed"][..] } else { &["failed"] };
            let attempts = self.plan.attempts(group, index)..=self.plan.attempts_max(group, index);
            let whole = letter.value.as_ref() == Some(&event.text)
                && letter.key.as_deref() == Some(event.key.as_bytes())
                && letter.source_topic == EVENTS.name()
                && letter.timestamp == event.time;
            if !whole || !attempts.contains(&letter.attempts) || !reasons.contains(&letter.reason.as_str()) {
                return broken(format!(
                    "{topic}: the dead letter of line {} is not as planned: {letter:?}",
                    event.line
                ));
            }
            if open.insert(index, letter).is_some() {
                return broken(format!("{topic}: line {} is there twice", event.line));
            }
        }
        let mut planned = (0..self.input.events.len()).filter(|index| self.plan.is_dead(group, *index));
        match planned.find(|index| !open.contains_key(index)) {
            Some(lost) => broken(format!("{topic}: line {} was to be there", self.input.events[lost].line)),
            None => Ok(letters.len() as u64),
        }
    }

    /// Calls `each` with all events of a topic.
    async fn each<T, C>(
        &self,
        topic: TopicDef<T, C>,
        mut each: impl FnMut(Message<T>) -> Result<(), Failure>,
    ) -> Result<(), Failure>
    where
        T: Send + 'static,
        C: Codec<T> + Default,
    {
        // That nobody has ever published to it, and it is not there, is the same.
        for message in self.bus.history(topic, u64::MAX).await? {
            each(message)?;
        }
        Ok(())
    }

    /// Each event has one answer: what failed attempts and killed processes had published is not there.
    async fn check_answers(&self) -> Result<(), Failure> {
        let mut answered = vec![false; self.input.events.len()];
        self.each(ANSWERS, |answer| {
            let line = answer.causation_id().and_then(|id| id.strip_prefix("line-")?.parse().ok());
            let Some(index) = line.and_then(|line| self.input.index_of(line)) else {
                return broken(format!("{:?} answers no event", answer.value()));
            };
            let key = &self.input.events[index].key;
            if answer.value() != Some(&self.answer(index)) || answer.correlation_id() != Some(key) {
                return broken(format!("{:?} is not the answer to {:?}", answer.value(), answer.causation_id()));
            }
            match std::mem::replace(&mut answered[index], true) {
                true => broken(format!("line {} has two answers", self.input.events[index].line)),
                false => Ok(()),
            }
        })
        .await?;
        match answered.iter().position(|answered| !answered) {
            Some(index) => broken(format!("line {} has no answer", self.input.events[index].line)),
            None => Ok(()),
        }
    }

    /// What the sagas have done: each step once, in order, and where a case could not go on each taken back, the last one first.
    /// Answers how many were taken, and how many of them back.
    async fn check_steps(&self) -> Result<(u64, u64), Failure> {
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        self.each(STEPS, |step| {
            let key = step.key().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default();
            found.entry(key).or_default().extend(step.into_value());
            Ok(())
        })
        .await?;
        let (mut taken, mut back, mut apologies) = (0, 0, Vec::new());
        for case in &self.plan.cases {
            let (steps, taken_back) = self.plan.steps(case);
            let line = |index: &usize| self.input.events[*index].line;
            let mut planned: Vec<String> = steps.iter().map(|index| format!("taken {}", line(index))).collect();
            planned.extend(taken_back.iter().map(|index| format!("taken back {}", line(index))));
            apologies.extend(taken_back.iter().map(|index| format!("sorry: taken back {}", line(index))));
            let found = found.remove(&case.key).unwrap_or_default();
            if found != planned {
                return broken(format!("the saga of {:?} has done {found:?}, and {planned:?} was planned", case.key));
            }
            (taken, back) = (taken + steps.len() as u64, back + taken_back.len() as u64);
        }
        let mut written = Vec::new();
        self.each(APOLOGIES, |apology| {
            written.extend(apology.into_value());
            Ok(())
        })
        .await?;
        written.sort_unstable();
        apologies.sort_unstable();
        if written != apologies {
            return broken(format!("{} steps were taken back, and the clerk has written {written:?}", apologies.len()));
        }
        match found.keys().next() {
            Some(key) => broken(format!("there are steps of a case {key:?}, which is not in the input")),
            None => Ok((taken, back)),
        }
    }

    /// The projection is what counting the input says. Answers how many cases are open.
    fn check_projection(&self, projection: &Projection) -> Result<u64, Failure> {
        let (mut open, mut types) = (Vec::new(), HashMap::<&str, u64>::new());
        for event in &self.input.events {
            *types.entry(&event.kind).or_default() += 1;
        }
        for case in &self.plan.cases {
            let last = case.events.last().map(|index| self.input.events[*index].kind.clone());
            open.extend(
                last.filter(|kind| *kind != self.plan.closing).map(|kind| (case.key.clone().into_bytes(), kind)),
            );
        }
        open.sort_unstable();
        let found = projection.range::<String>("case ")?;
        let found: Vec<_> = found.into_iter().map(|(key, kind)| (key["case ".len()..].to_vec(), kind)).collect();
        if found != open {
            return broken(format!(
                "{} cases are open in the projection, and {} in the input",
                found.len(),
                open.len()
            ));
        }
        let counted = projection.range::<u64>("type ")?;
        let right = |(kind, count): &(bytes::Bytes, u64)| {
            std::str::from_utf8(&kind["type ".len()..]).is_ok_and(|kind| types.get(kind) == Some(count))
        };
        match counted.len() == types.len() && counted.iter().all(right) {
            true => Ok(open.len() as u64),
            false => broken(format!("the projection has counted {counted:?}, and the input has {types:?}")),
        }
    }

    /// The story of one case, the shortest of those in which the most has happened.
    pub(crate) async fn trace(&self) -> Result<(String, (String, usize)), Failure> {
        let has_dead_letter = |case: &Case| {
            case.events.iter().any(|index| (0..GROUPS.len()).any(|group| self.plan.is_dead(group, *index)))
        };
        let dullness = |case: &&Case| (self.plan.steps(case).1.len() < 2, !has_dead_letter(case), case.events.len());
        let Some(case) = self.plan.cases.iter().min_by_key(dullness) else {
            return Ok((String::new(), (String::new(), 0)));
        };
        Ok((case.key.clone(), trace::tree(&self.log, &case.key).await?))
    }
}
