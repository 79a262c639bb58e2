//! kill -9 on the real disk: a child process appends at every level, acknowledges through a pipe, and is killed at random
//! moments, in its recovery, too. Whatever it acknowledged must be there, whole and in order, and the next child goes on.
//!
//! A kill leaves the page cache, so each level must keep everything; power losses are the simulation's matter. What each child
//! does follows from the seed. When it is killed does not: no seed brings the same moment back.
//!
//! `ANNALS_KILL_CYCLES` is how many kills are wanted, `ANNALS_KILL_SEED` chooses the work.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails where it must, on the real clock")]

#[path = "support/keeper.rs"]
mod keeper;
#[path = "support/kill.rs"]
mod workload;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use annals::{Log, Start};
use keeper::Kept;
use workload::{Chance, Id, Step, TOPICS, plan};

const CYCLES_DEFAULT: u64 = 25;
const CYCLES_PER_DIRECTORY: u64 = 50;
const CHILD_DIR: &str = "ANNALS_KILL_CHILD_DIR";
const CHILD_RUN: &str = "ANNALS_KILL_CHILD_RUN";
const SEED: &str = "ANNALS_KILL_SEED";
const TEST: &str = "a_kill_loses_nothing_that_was_acknowledged";

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, and should be a number")))
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    // The test runs itself as the child.
    if let (Ok(dir), Some(run), Some(seed)) = (std::env::var(CHILD_DIR), number(CHILD_RUN), number(SEED)) {
        workload::append_until_killed(Path::new(&dir), seed, run as u32);
    }
    let seed = number(SEED).unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let cycles = number("ANNALS_KILL_CYCLES").unwrap_or(CYCLES_DEFAULT);
    let began = Instant::now();
    let (mut killed, mut totals, mut run) = (0, Totals::default(), 0);
    while killed < cycles {
        let mut directory = Directory::new(seed, run);
        let last = (killed + CYCLES_PER_DIRECTORY).min(cycles);
        while killed < last {
            killed += directory.kill_some(last - killed);
            directory.check_what_is_new();
        }
        directory.check_all();
        directory.totals.compactions = directory.kept.compactions;
        directory.totals.deletions = directory.kept.deletions;
        totals.add(&directory.totals);
        run = directory.run;
    }
    println!(
        "{killed} kills in {:.1} s (seed {seed}): {} records and {} steps acknowledged, {} records found, {} of them \
         unacknowledged, {} unclean openings, {} frames restored from the journal, {} bytes cut off, {} compactions, {} \
         deletions",
        began.elapsed().as_secs_f64(),
        totals.acknowledged_records,
        totals.acknowledged_steps,
        totals.found,
        totals.found - totals.acknowledged_records,
        totals.unclean,
        totals.restored,
        totals.cut_bytes,
        totals.compactions,
        totals.deletions
    );
    // A run that killed only idle children would prove nothing.
    assert!(totals.acknowledged_records > cycles, "seed {seed}: hardly anything was acknowledged before the kills");
    assert!(
        cycles < 100 || totals.compactions > 10 && totals.deletions > 10,
        "seed {seed}: hardly anything was removed"
    );
}

#[derive(Default)]
struct Totals {
    acknowledged_records: u64,
    acknowledged_steps: u64,
    found: u64,
    unclean: u64,
    restored: u64,
    cut_bytes: u64,
    compactions: u64,
    deletions: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.acknowledged_records += other.acknowledged_records;
        self.acknowledged_steps += other.acknowledged_steps;
        self.found += other.found;
        self.unclean += other.unclean;
        self.restored += other.restored;
        self.cut_bytes += other.cut_bytes;
        self.compactions += other.compactions;
        self.deletions += other.deletions;
    }
}

/// What children have acknowledged: records one by one, and steps as a whole.
#[derive(Default)]
struct Acknowledged {
    records: HashSet<Id>,
    steps: HashSet<(u32, u32, u32)>,
}

/// A log that child after child is killed over.
struct Directory {
    dir: Option<tempfile::TempDir>,
    seed: u64,
    chance: Chance,
    /// The number of the next child.
    run: u32,
    /// Acknowledged since the last check, and ever.
    new: Acknowledged,
    all: Acknowledged,
    /// Where the next check begins: the offset behind what was checked, by topic and partition, and the commit.
    checked: Checked,
    kept: Kept,
    totals: Totals,
}

#[derive(Default, Clone, PartialEq, Eq, Debug)]
struct Checked {
    ends: BTreeMap<(String, u32), u64>,
    commit: u64,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = self.dir.take().map(tempfile::TempDir::keep);
            eprintln!("{SEED}={}, children up to {}, directory kept: {kept:?}", self.seed, self.run);
        }
    }
}

impl Directory {
    fn new(seed: u64, run: u32) -> Self {
        // The target directory is on a disk; the system's temporary one may live in memory.
        let dir = tempfile::Builder::new().prefix("kill-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self {
            dir: Some(dir),
            seed,
            chance: Chance::new(&[seed, u64::from(run)]),
            run,
            new: Acknowledged::default(),
            all: Acknowledged::default(),
            checked: Checked::default(),
            kept: Kept::default(),
            totals: Totals::default(),
        }
    }

    fn path(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// Kills up to three children, one after the other: those behind the first meet a log that nobody has repaired.
    fn kill_some(&mut self, most: u64) -> u64 {
        let kills = (1 + self.chance.below(3)).min(most);
        for _ in 0..kills {
            self.kill_one();
        }
        kills
    }

    fn kill_one(&mut self) {
        let run = self.run;
        self.run += 1;
        let mut child = self.start(run);
        let (opened, is_open) = mpsc::channel();
        let output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || read_until_killed(output, &opened));
        // One in four is killed as it opens the log, which after the first is a recovery.
        if self.chance.below(4) > 0 {
            // An error is a child that has gone, which is told from its output below.
            let _ = is_open.recv_timeout(Duration::from_secs(60));
        }
        std::thread::sleep(Duration::from_micros(self.chance.below(20_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let lines = reader.join().unwrap();
        assert_eq!(status.code(), None, "child {run} ended by itself: {:?}", lines.last());
        for line in &lines {
            self.acknowledge(run, line);
        }
    }

    fn start(&self, run: u32) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, self.path())
            .env(CHILD_RUN, run.to_string())
            .env(SEED, self.seed.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn acknowledge(&mut self, run: u32, line: &str) {
        assert!(!line.starts_with("failed"), "child {run}: {line}");
        if self.kept.hear(run, line) {
            return;
        }
        let Some(rest) = line.strip_prefix("ack ") else { return };
        let numbers: Vec<u32> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
        match numbers[..] {
            [thread, step] => {
                let planned = plan(self.seed, run, thread, step);
                self.new.steps.insert((run, thread, step));
                self.new.records.extend(planned.records.iter().map(|record| record.id));
            }
            [thread, step, index] => {
                self.new.records.insert(Id { run, thread, step, index });
            }
            _ => panic!("child {run} said {line:?}"),
        }
    }

    /// Recovers the log, checks what came since the last check, and closes it.
    fn check_what_is_new(&mut self) {
        let log = workload::open(self.path()).unwrap();
        let report = log.recovery();
        assert!(report.damage.is_empty(), "{report:?}");
        self.totals.unclean += u64::from(!report.clean);
        self.totals.restored += report.journal_frames_restored;
        self.totals.cut_bytes += report.cut_bytes;
        let new = std::mem::take(&mut self.new);
        self.kept.check(&log);
        let (checked, found) = check(&log, self.seed, &self.checked, &new);
        self.checked = checked;
        self.totals.found += found;
        self.totals.acknowledged_records += new.records.len() as u64;
        self.totals.acknowledged_steps += new.steps.len() as u64;
        self.all.records.extend(new.records);
        self.all.steps.extend(new.steps);
        log.blocking_close().unwrap();
    }

    /// Checks everything once more, from the first record on, after a clean close.
    fn check_all(&mut self) {
        let log = workload::open(self.path()).unwrap();
        assert!(log.recovery().clean, "{:?}", log.recovery());
        self.kept.check(&log);
        let (checked, found) = check(&log, self.seed, &Checked::default(), &self.all);
        assert_eq!(checked, self.checked);
        assert_eq!(found, self.totals.found);
        log.blocking_close().unwrap();
    }
}

/// What the child said; `opened` hears when it begins to append. A line that the kill has cut does not count.
fn read_until_killed(output: impl std::io::Read, opened: &mpsc::Sender<()>) -> Vec<String> {
    let mut output = BufReader::new(output);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let Some(whole) = line.strip_suffix('\n') else { return lines };
        if whole == "open" {
            let _ = opened.send(());
        }
        lines.push(whole.to_owned());
    }
}

/// What was found of one step.
struct Found {
    step: Step,
    indexes: HashSet<u32>,
    commits: Vec<u64>,
}

/// Reads all topics in causal order from where the last check ended, and checks what comes against what was acknowledged.
/// Answers where it ended, and how many records there were.
fn check(log: &Log, seed: u64, from: &Checked, acknowledged: &Acknowledged) -> (Checked, u64) {
    let mut checked = from.clone();
    let mut found: HashMap<(u32, u32, u32), Found> = HashMap::new();
    // The last record of each thread of each child in each partition: it may send on, never back.
    let mut last: HashMap<(String, u32, u32, u32), Id> = HashMap::new();
    let mut count = 0;
    // A child that was killed early enough has created no topic.
    let there: HashSet<String> = log.topics().unwrap().into_iter().map(|topic| topic.name).collect();
    let names = TOPICS.iter().map(|topic| topic.name).filter(|name| there.contains(*name));
    let replay = log.replay_topics(names, Start::Commit(from.commit + 1)).unwrap();
    let mut history = replay.blocking().unwrap();
    while let Some(record) = history.next().unwrap() {
        let place = (record.topic().to_owned(), record.partition());
        let end = checked.ends.entry(place.clone()).or_insert(0);
        assert_eq!(record.offset(), *end, "{place:?}: the offsets go on without a gap");
        *end += 1;
        count += 1;
        assert!(record.commit() >= checked.commit, "{place:?}: commits never go down");
        checked.commit = record.commit();

        let id = Id::of_value(record.value().unwrap());
        let step = found.entry((id.run, id.thread, id.step)).or_insert_with(|| Found {
            step: plan(seed, id.run, id.thread, id.step),
            indexes: HashSet::new(),
            commits: Vec::new(),
        });
        let planned = &step.step.records[id.index as usize];
        assert_eq!(
            (TOPICS[planned.topic].name, planned.partition),
            (record.topic(), record.partition()),
            "{id:?}: its place"
        );
        assert_eq!(record.value(), Some(&planned.value()[..]), "{id:?}: its bytes");
        assert_eq!(record.key(), Some(&planned.key()[..]), "{id:?}: its key");
        assert!(step.indexes.insert(id.index), "{id:?} is there twice");
        step.commits.push(record.commit());
        if let Some(before) = last.insert((place.0, place.1, id.run, id.thread), id) {
            assert!(before < id, "{before:?} comes before {id:?}, and was sent after it");
        }
    }
    for id in &acknowledged.records {
        let is_there = found.get(&(id.run, id.thread, id.step)).is_some_and(|step| step.indexes.contains(&id.index));
        assert!(is_there, "{id:?} was acknowledged, and is lost");
    }
    check_steps(&found, acknowledged);
    for topic in log.topics().unwrap().iter().filter(|topic| TOPICS.iter().any(|plan| plan.name == topic.name)) {
        for partition in &topic.partitions {
            let end = checked.ends.get(&(topic.name.clone(), partition.partition)).copied().unwrap_or(0);
            assert_eq!((partition.log_start, partition.high_watermark), (0, end), "{} {partition:?}", topic.name);
        }
    }
    (checked, count)
}

/// Steps that are atomic are whole, the others have no holes, and a thread's later step has later commits.
fn check_steps(found: &HashMap<(u32, u32, u32), Found>, acknowledged: &Acknowledged) {
    for (&(run, thread, step), this) in found {
        let records = &this.step.records;
        let name = format!("child {run}, thread {thread}, step {step}");
        if this.step.is_atomic() {
            assert_eq!(this.indexes.len(), records.len(), "{name}: {:?} is cut", this.step.kind);
            assert!(this.commits.iter().all(|commit| *commit == this.commits[0]), "{name}: one commit");
        }
        for record in records.iter().filter(|record| !this.indexes.contains(&record.id.index)) {
            let behind = records[record.id.index as usize..].iter();
            let mut same = behind.filter(|later| (later.topic, later.partition) == (record.topic, record.partition));
            let hole = same.find(|later| this.indexes.contains(&later.id.index));
            assert!(hole.is_none(), "{name}: {:?} is lost, and {:?} behind it is there", record.id, hole.unwrap().id);
        }
        if let Some(before) = step.checked_sub(1) {
            assert!(
                acknowledged.steps.contains(&(run, thread, before)),
                "{name}: sent before step {before} was acknowledged"
            );
            let before = &found[&(run, thread, before)];
            assert!(
                before.commits.iter().max() < this.commits.iter().min(),
                "{name}: commits follow the acknowledgements"
            );
        }
    }
}
