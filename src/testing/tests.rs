//! What users test with finds defects of annals itself, planted one by one. (The simulation, which finds them all, looks deeper.)

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::{Checked, CrashTest, Fault, Harness, History, Observed, Operation, SimulatedDisk, check, strategy};
use crate::planted::{self, Bug};
use crate::{Batch, Durability, Log, Record, Topic, TopicDef, TopicSettings};

const NAMES: [&str; 2] = ["a", "b"];

fn topic(log: &Log, name: &str) -> crate::Result<Topic> {
    log.blocking_create_topic(TopicDef::named(name), TopicSettings::default().partitions(2))
}

/// Single records and batches over two topics, acknowledged one after the other.
fn run(disk: &SimulatedDisk, history: &mut History) -> Checked {
    let log = disk.open(Log::builder())?;
    let topics = [topic(&log, NAMES[0])?, topic(&log, NAMES[1])?];
    for number in 0..6u8 {
        let record = Record::new(Bytes::from(vec![number; 700])).key([number % 3]);
        let receipt = topics[0].blocking_produce(record.clone())?;
        history.acknowledged_bytes(NAMES[0], &record, &receipt);
        let mut batch = Batch::new();
        for topic in &topics {
            batch.add(topic, record.clone())?;
        }
        for (name, receipt) in NAMES.iter().zip(log.blocking_produce_all(batch)?) {
            history.acknowledged_bytes(name, &record, &receipt);
        }
    }
    log.blocking_close()?;
    Ok(())
}

/// All of it is there, also after a second power loss.
fn judge(disk: &SimulatedDisk, history: &History) -> Checked {
    for _ in 0..2 {
        let log = disk.open(Log::builder())?;
        check::all(history, &Observed::replay(&log)?)?;
        disk.power_loss();
    }
    Ok(())
}

/// Random operations, and a call that fails.
fn live(seed: u64, at: u64, fault: Fault, operations: &[Operation]) -> Result<(), TestCaseError> {
    let level = |durability| TopicSettings::default().partitions(2).durability(durability);
    let topics = [(NAMES[0], level(Durability::Sync)), (NAMES[1], level(Durability::Os))];
    let mut harness = Harness::open(SimulatedDisk::new(seed), Log::builder(), topics)?;
    harness.disk().fail_call(harness.disk().calls() + at, fault);
    for operation in operations {
        let _refused = harness.apply(operation);
    }
    harness.disk().clear_faults();
    for end in [Operation::PowerLoss, Operation::Reopen, Operation::PowerLoss] {
        harness.apply(&end)?;
        harness.check()?;
    }
    Ok(())
}

fn find(bug: Option<Bug>) -> Option<String> {
    planted::with(bug, || {
        if let Err(failure) = CrashTest::new(1).run(run, judge) {
            return Some(failure.to_string());
        }
        let config =
            ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let faults = proptest::sample::select(vec![Fault::Io, Fault::Full, Fault::ShortWrite, Fault::FailedSync]);
        let lives = (any::<u64>(), 0..100u64, faults, strategy::operations(NAMES, 0..25));
        let ran = TestRunner::new_with_rng(config, rng)
            .run(&lives, |(seed, at, fault, operations)| live(seed, at, fault, &operations));
        ran.err().map(|error| error.to_string())
    })
}

/// Those that losses and failed calls alone bring to light, within this little time.
const FOUND: [Bug; 17] = [
    Bug::AckBeforeSync,
    Bug::JournalAckBeforeSync,
    Bug::SegmentDirNotSynced,
    Bug::SegmentHeaderNotSynced,
    Bug::TopicDirNotSynced,
    Bug::RetriedSync,
    Bug::ResyncPastHole,
    Bug::BodyNotChecked,
    Bug::AdoptedTailNotSynced,
    Bug::CheckpointBeforeSync,
    Bug::JournalNotRedone,
    Bug::PartialRedo,
    Bug::OldJournalIgnored,
    Bug::FailedWriteAdvances,
    Bug::RedoNotSynced,
    Bug::ReceiptOffByOne,
    Bug::CheckpointAhead,
];

#[test]
fn defects_of_the_log_itself_are_found() {
    assert_eq!(find(None), None);
    let missed: Vec<_> = FOUND.into_iter().filter(|bug| find(Some(*bug)).is_none()).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
