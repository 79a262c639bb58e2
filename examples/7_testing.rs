//! Testing: a small bank on annals, and the tests that a bank needs. Transfers go to a topic with several partitions; a projection
//! keeps the balances, each partition's worker by itself, and stores them in the same log. The tests of `annals::testing` let any
//! transfers come, let the workers take turns in any order, and cut the power at each call to the disk. The bank passes. Two other
//! versions of it, each with a defect of the kind that reviews miss, do not, and the smallest case that shows it is printed.
//!
//! `cargo run --release --example 7_testing --features testing -- [--cases N]`; `--help` tells the rest.
//!
//! Read `keeps_order` and `survives_power_losses` first: they are the tests. The bank is below them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use annals::testing::{Checked, CrashTest, History, Observed, SimulatedDisk, Survived, check};
use annals::{Batch, Json, Log, Message, Receipt, Record, Start, Topic, TopicDef, TopicSettings};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};

const HELP: &str = "\
Tests a small bank with annals::testing: in a version that is right, and in two that are not.

usage: cargo run --release --example 7_testing --features testing -- [--cases N]

  --cases N  how many sequences of transfers are tried with each version, 1 to 1,000,000; 256 if not given
  --help     print this

exit code: 0 if the right version passes and both defects are found, 1 if not, 2 if the arguments cannot be used
";

/// Cents that go to an account, or, below zero, away from it; the account is the key.
const TRANSFERS: TopicDef<i64, Json> = TopicDef::new("transfers");
/// What is on each account, as far as the projection has come.
const BALANCES: TopicDef<i64, Json> = TopicDef::new("balances");
/// How far it has come: the next offset of each partition.
const POSITIONS: TopicDef<u64, Json> = TopicDef::new("positions");

const PARTITIONS: u32 = 3;
/// So many transfers a worker takes at once.
const CHUNK: usize = 2;

/// The bank as it should be, or with a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Right,
    /// "Spread the load": transfers go round robin over the partitions, also those of one account.
    RoundRobin,
    /// "Two small writes are simpler than one batch": first the position, then the balances.
    TwoWrites,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cases = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(256),
        ["--help"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        ["--cases", cases] => cases.parse().ok().filter(|cases| (1..=1_000_000).contains(cases)),
        _ => None,
    };
    let Some(cases) = cases else {
        eprintln!("7_testing: expected nothing, or --cases N with N from 1 to 1,000,000; --help explains");
        return ExitCode::from(2);
    };
    // That the right version passes says little, unless the others fail: each in the test that is for such a defect.
    let mut wrong = 0;
    for version in [Version::Right, Version::RoundRobin, Version::TwoWrites] {
        println!("{version:?}");
        let order = keeps_order(version, cases);
        println!("  order         {}", told(&order, |cases| format!("holds in {cases} cases")));
        let losses = survives_power_losses(version);
        let survived = |Survived { calls, power_losses, .. }: &_| {
            format!("hold {power_losses} times, in several ways at each of {calls} calls to the disk")
        };
        println!("  power losses  {}", told(&losses, survived));
        let as_it_should = match version {
            Version::Right => order.is_ok() && losses.is_ok(),
            Version::RoundRobin => order.is_err(),
            Version::TwoWrites => order.is_ok() && losses.is_err(),
        };
        wrong += u8::from(!as_it_should);
    }
    match wrong {
        0 => {
            println!("The right version passes, and both defects are found.");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("7_testing: CHECK FAILED: a version passes that should not, or fails that should pass");
            ExitCode::from(1)
        }
    }
}

fn told<T>(answer: &Result<T, String>, holds: impl Fn(&T) -> String) -> String {
    match answer {
        Ok(value) => holds(value),
        Err(why) => format!("FOUND: {}", why.replace('\n', "\n                ")),
    }
}

/// Transfers, and which worker's turn it is: when all turns are taken, each goes on to its end.
#[derive(Debug, Clone)]
struct Case {
    transfers: Vec<(&'static str, i64)>,
    turns: Vec<u32>,
}

fn any_case() -> impl Strategy<Value = Case> {
    let transfer = (prop::sample::select(vec!["ann", "bob", "cid"]), -500i64..=500);
    (prop::collection::vec(transfer, 0..20), prop::collection::vec(0..PARTITIONS, 0..10))
        .prop_map(|(transfers, turns)| Case { transfers, turns })
}

/// **The property test**: whatever is transferred, and whichever worker is faster, each transfer is applied once, and those of an
/// account in the order in which they were made.
///
/// Answers how many cases held, or tells the smallest that does not.
fn keeps_order(version: Version, cases: u32) -> Result<u32, String> {
    // The same cases each time; a test of yours would rather take others each time.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 10_000, ..ProptestConfig::default() };
    let holds = |case: Case| {
        let bank = Bank::open(Log::in_memory()?, version)?;
        let mut history = History::new();
        for (account, cents) in &case.transfers {
            let (record, receipt) = bank.transfer(account, *cents)?;
            history.acknowledged(TRANSFERS.name(), &record, &receipt);
        }
        let mut applied = Observed::new();
        let mut projection = Projection::resume(&bank)?;
        projection.run(&case.turns, |message| applied.message(message))?;

        check::all(&history, &applied)?;
        prop_assert_eq!(projection.balances, one_after_the_other(case.transfers));
        Ok(())
    };
    match TestRunner::new_with_rng(config, rng).run(&any_case(), holds) {
        Ok(()) => Ok(cases),
        Err(TestError::Fail(why, Case { transfers, turns })) => {
            let mut text = format!("{why}\nthe smallest case, transfer by transfer:");
            for (account, cents) in transfers {
                let _ = write!(text, " {account} {cents:+},");
            }
            let _ = write!(text, " and these partitions' workers first: {turns:?}");
            Err(text)
        }
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}

/// **The crash test**: whenever the power goes, the projection goes on from what is in the log, and the balances are right.
fn survives_power_losses(version: Version) -> Result<Survived, String> {
    let transfers = [("ann", 500), ("bob", 200), ("ann", -300), ("cid", 50), ("ann", -300), ("bob", -200)];
    let run = |disk: &SimulatedDisk, acknowledged: &mut usize| -> Checked {
        let bank = Bank::open(disk.open(Log::builder())?, version)?;
        for (account, cents) in transfers {
            bank.transfer(account, cents)?;
            *acknowledged += 1;
        }
        Projection::resume(&bank)?.run(&[], |_| ())?;
        Ok(())
    };
    // The next process goes on where this one ended.
    let check = |disk: &SimulatedDisk, acknowledged: &usize| -> Checked {
        let bank = Bank::open(disk.open(Log::builder())?, version)?;
        let mut projection = Projection::resume(&bank)?;
        projection.run(&[], |_| ())?;

        let made = bank.history()?;
        if made.len() < *acknowledged {
            return Err(format!("{acknowledged} transfers were acknowledged, and {} are there", made.len()).into());
        }
        let right = one_after_the_other(made);
        if projection.balances != right {
            return Err(format!("the balances are {:?}, and should be {right:?}", projection.balances).into());
        }
        Ok(())
    };
    CrashTest::new(7).run(run, check).map_err(|failure| failure.to_string())
}

/// What the balances are if nothing is done at the same time: nobody can take away more than there is.
fn one_after_the_other(transfers: impl IntoIterator<Item = (impl Into<String>, i64)>) -> BTreeMap<String, i64> {
    let mut balances = BTreeMap::new();
    for (account, cents) in transfers {
        apply(&mut balances, &account.into(), cents);
    }
    balances
}

fn apply(balances: &mut BTreeMap<String, i64>, account: &str, cents: i64) {
    let balance = balances.entry(account.to_owned()).or_default();
    if *balance + cents >= 0 {
        *balance += cents;
    }
}

/// The bank.
struct Bank {
    log: Log,
    version: Version,
    /// How many transfers this process has made.
    made: Cell<u32>,
    transfers: Topic<i64, Json>,
    balances: Topic<i64, Json>,
    positions: Topic<u64, Json>,
}

impl Bank {
    fn open(log: Log, version: Version) -> annals::Result<Self> {
        let transfers = log.blocking_create_topic(TRANSFERS, TopicSettings::default().partitions(PARTITIONS))?;
        let state = TopicSettings::default().compaction(true);
        let balances = log.blocking_create_topic(BALANCES, state.clone())?;
        let positions = log.blocking_create_topic(POSITIONS, state)?;
        Ok(Self { log, version, made: Cell::new(0), transfers, balances, positions })
    }

    fn transfer(&self, account: &str, cents: i64) -> annals::Result<(Record<i64>, Receipt)> {
        let mut record = Record::new(cents).key(account);
        if self.version == Version::RoundRobin {
            let turn = self.made.replace(self.made.get() + 1);
            record = record.partition(turn % PARTITIONS);
        }
        let receipt = self.transfers.blocking_produce(record.clone())?;
        Ok((record, receipt))
    }

    /// All transfers, in the order in which they were made.
    fn history(&self) -> annals::Result<Vec<(String, i64)>> {
        let mut replay = self.transfers.replay(Start::Earliest).blocking()?;
        let mut made = Vec::new();
        while let Some(message) = replay.next_message()? {
            made.push((key(&message), message.into_value().unwrap_or_default()));
        }
        Ok(made)
    }
}

fn key<T>(message: &Message<T>) -> String {
    String::from_utf8_lossy(message.key().map_or(&[][..], |key| &key[..])).into_owned()
}

/// The balances, and how far in each partition they go.
struct Projection<'a> {
    bank: &'a Bank,
    balances: BTreeMap<String, i64>,
    positions: BTreeMap<u32, u64>,
}

impl<'a> Projection<'a> {
    /// Begins with what is stored: the last value of each key.
    fn resume(bank: &'a Bank) -> annals::Result<Self> {
        let mut projection = Self { bank, balances: BTreeMap::new(), positions: BTreeMap::new() };
        let mut balances = bank.balances.replay(Start::Earliest).blocking()?;
        while let Some(message) = balances.next_message()? {
            projection.balances.insert(key(&message), message.into_value().unwrap_or_default());
        }
        let mut positions = bank.positions.replay(Start::Earliest).blocking()?;
        while let Some(message) = positions.next_message()? {
            let partition = key(&message).parse().unwrap_or(PARTITIONS);
            projection.positions.insert(partition, message.into_value().unwrap_or_default());
        }
        Ok(projection)
    }

    /// Lets the workers of the partitions take these turns, and then each go on to the end of its partition.
    ///
    /// A real bank has a thread for each worker. Here it is one after the other, in an order that the test decides: so what it finds
    /// can be found again.
    fn run(&mut self, turns: &[u32], mut applied: impl FnMut(&Message<i64>)) -> annals::Result<()> {
        for partition in turns {
            self.turn(*partition, &mut applied)?;
        }
        for partition in 0..PARTITIONS {
            while self.turn(partition, &mut applied)? {}
        }
        Ok(())
    }

    /// Applies the next chunk of a partition and stores what has come of it. Answers whether there was any.
    fn turn(&mut self, partition: u32, applied: &mut impl FnMut(&Message<i64>)) -> annals::Result<bool> {
        let Bank { log, version, transfers, balances, positions, .. } = self.bank;
        let from = self.positions.get(&partition).copied().unwrap_or(0);
        let mut replay = transfers.replay_partition(partition, Start::Offset(from)).blocking()?;
        let (mut next, mut changed) = (from, Vec::new());
        while changed.len() < CHUNK
            && let Some(message) = replay.next_message()?
        {
            next = message.offset() + 1;
            apply(&mut self.balances, &key(&message), message.value().copied().unwrap_or_default());
            applied(&message);
            changed.push(key(&message));
        }
        if changed.is_empty() {
            return Ok(false);
        }
        let position = Record::new(next).key(partition.to_string());
        let values = changed.iter().map(|account| Record::new(self.balances[account]).key(account));
        if *version == Version::TwoWrites {
            positions.blocking_produce(position)?;
            balances.blocking_produce_batch(values)?;
        } else {
            // All of it, or nothing.
            let mut batch = Batch::new();
            batch.add(positions, position)?;
            for value in values {
                batch.add(balances, value)?;
            }
            log.blocking_produce_all(batch)?;
        }
        self.positions.insert(partition, next);
        Ok(true)
    }
}
