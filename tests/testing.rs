//! What users test their applications with does what it says: each check finds what it is for and nothing else, the disk loses
//! and keeps what it should, the harness finds a planted defect where it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use annals::testing::{
    CheckFailure, CrashTest, DiskOptions, Fault, Harness, History, Loss, ManualClock, Observed, Operation, Progress,
    SimulatedDisk, Violation, check, crash_at_every_step, redeliver_at_every_step, strategy,
};
use annals::{Batch, Durability, ErrorKind, Log, Message, Receipt, Record, Start, Topic, TopicDef, TopicSettings};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use futures_util::StreamExt;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestError, TestRunner};

/// Longer than anything here takes, however busy the machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many cases, unless `PROPTEST_CASES` says otherwise.
fn config(cases: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => ProptestConfig { cases, ..config },
    }
}

fn settings() -> TopicSettings {
    TopicSettings::default().partitions(2)
}

fn topic(log: &Log, name: &str, settings: TopicSettings) -> Topic {
    log.blocking_create_topic(TopicDef::named(name), settings).unwrap()
}

fn values(log: &Log, name: &str) -> Vec<String> {
    let mut replay = log.raw_topic(name).unwrap().replay(Start::Earliest).blocking().unwrap();
    let mut values = Vec::new();
    while let Some(message) = replay.next_message().unwrap() {
        values.push(String::from_utf8(message.value().unwrap().to_vec()).unwrap());
    }
    values
}

/// A log with `count` records of three keys, and what there is to know about it.
fn written(log: &Log, count: usize) -> (History, Vec<Message>) {
    let orders = topic(log, "orders", settings().partitions(3));
    let mut history = History::new();
    for number in 0..count {
        let record = Record::new(Bytes::from(format!("{number}"))).key(format!("key-{}", number % 3));
        let receipt = orders.blocking_produce(record.clone()).unwrap();
        history.acknowledged_bytes("orders", &record, &receipt);
    }
    let mut replay = orders.replay(Start::Earliest).blocking().unwrap();
    let mut messages = Vec::new();
    while let Some(message) = replay.next_message().unwrap() {
        messages.push(message);
    }
    (history, messages)
}

fn observed<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Observed {
    let mut observed = Observed::new();
    messages.into_iter().for_each(|message| observed.message(message));
    observed
}

mod checks {
    use super::*;

    #[test]
    fn a_right_history_is_accepted_wherever_the_log_lives() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimulatedDisk::new(1);
        let logs = [Log::in_memory(), Log::blocking_open(dir.path()), disk.open(Log::builder())];
        for log in logs {
            let log = log.unwrap();
            let (history, messages) = written(&log, 30);
            assert_eq!((history.len(), messages.len()), (30, 30));
            check::all(&history, &Observed::replay(&log).unwrap()).unwrap();
            check::all(&history, &observed(&messages)).unwrap();
        }
        // Beside its writer or after it, as in production.
        let everything = Observed::replay(&Log::blocking_open_read_only(dir.path()).unwrap()).unwrap();
        assert_eq!(everything.len(), 30);
        check::all(&History::new(), &everything).unwrap();
    }

    #[test]
    fn a_loss_is_found() {
        let (history, messages) = written(&Log::in_memory().unwrap(), 30);
        let missing = &messages[17];
        let seen = observed(messages.iter().filter(|message| *message != missing));
        let violation = check::no_loss(&history, &seen).unwrap_err();
        let Violation::Lost { topic, place, key } = &violation else { panic!("{violation}") };
        assert_eq!((&**topic, place.partition, place.offset), ("orders", missing.partition(), missing.offset()));
        assert_eq!(key.as_ref(), missing.key());
        let commit = missing.commit();
        assert_eq!(
            violation.to_string(),
            format!(
                "topic orders, partition {}, offset {} (commit {commit}): the record of key \"key-2\" was acknowledged and is lost",
                missing.partition(),
                missing.offset()
            )
        );
    }

    #[test]
    fn a_changed_record_is_found() {
        let log = Log::in_memory().unwrap();
        let orders = topic(&log, "orders", settings().partitions(1));
        let sent = Record::new(Bytes::from("17 EUR")).key("a").header("type", "paid");
        let receipt = orders.blocking_produce(sent.clone()).unwrap();
        let seen = Observed::replay(&log).unwrap();
        let judge = |record: &Record| {
            let mut history = History::new();
            history.acknowledged_bytes("orders", record, &receipt);
            check::no_loss(&history, &seen)
        };
        judge(&sent).unwrap();
        let mut others =
            vec![sent.clone().key("b"), sent.clone().header("more", ""), sent.clone().header_absent("type")];
        others.push(sent.clone().map(|_| Bytes::from("18 EUR")));
        others.push(Record::tombstone().key("a").header("type", "paid"));
        for other in others {
            assert!(matches!(judge(&other), Err(Violation::Altered { .. })), "{other:?}");
        }
        let mut late = receipt;
        late.timestamp_micros += 1;
        let mut history = History::new();
        history.acknowledged_bytes("orders", &sent, &late);
        assert!(matches!(check::no_loss(&history, &seen), Err(Violation::Altered { .. })));
        // Who does not tell the content is not asked for it.
        let mut history = History::new();
        history.acknowledged("orders", &Record::new(1).key("a"), &receipt);
        check::no_loss(&history, &seen).unwrap();
    }

    #[test]
    fn what_was_not_durable_may_go_with_the_power() {
        let log = Log::in_memory().unwrap();
        let clicks = topic(&log, "clicks", settings().durability(Durability::Os));
        let orders = topic(&log, "orders", settings());
        let mut history = History::new();
        let produce = |history: &mut History, topic: &Topic| {
            let record = Record::new(Bytes::from("x"));
            history.acknowledged_bytes(topic.name(), &record, &topic.blocking_produce(record.clone()).unwrap());
        };
        produce(&mut history, &clicks);
        history.synced();
        produce(&mut history, &clicks);
        produce(&mut history, &orders);
        assert_eq!(history.len(), 3);
        history.power_lost();
        assert_eq!(history.len(), 2, "the second click is given up");
        history.synced();
        assert_eq!(history.len(), 2, "and does not come back");
        assert!(check::no_loss(&history, &Observed::new()).is_err());
    }

    #[test]
    fn what_came_twice_is_found() {
        let (_, messages) = written(&Log::in_memory().unwrap(), 30);
        let mut seen = observed(&messages);
        seen.message(&messages[29]);
        let violation = check::no_duplicates(&seen).unwrap_err();
        assert!(matches!(&violation, Violation::Duplicate { first, then, .. } if first == then), "{violation}");
        // After a restart it is a redelivery, but within it nothing may come twice again.
        let mut seen = observed(&messages);
        seen.restarted();
        seen.message(&messages[29]);
        check::no_duplicates(&seen).unwrap();
        seen.message(&messages[29]);
        assert!(check::no_duplicates(&seen).is_err());
    }

    #[test]
    fn one_identity_at_two_places_is_found() {
        let log = Log::in_memory().unwrap();
        let orders = topic(&log, "orders", settings());
        for id in ["one", "two", "one"] {
            orders.blocking_produce(Record::new(Bytes::from("x")).id(id).key(id)).unwrap();
        }
        let violation = check::no_duplicates(&Observed::replay(&log).unwrap()).unwrap_err();
        let Violation::Duplicate { first, then, key, .. } = &violation else { panic!("{violation}") };
        assert!(first.partition == then.partition && first.offset < then.offset, "{violation}");
        assert_eq!(key.as_deref(), Some(&b"one"[..]));
        assert!(violation.to_string().contains("has one identity and came twice"), "{violation}");
        // Another topic may have it, too.
        topic(&log, "other", settings()).blocking_produce(Record::new(Bytes::from("x")).id("two")).unwrap();
        check::no_duplicates(&Observed::replay_topics(&log, ["other"]).unwrap()).unwrap();
    }

    #[test]
    fn a_gap_is_found() {
        let (_, messages) = written(&Log::in_memory().unwrap(), 30);
        let partition = messages[0].partition();
        let is_gone = |message: &Message| message.partition() == partition && [3, 4].contains(&message.offset());
        let seen = observed(messages.iter().filter(|message| !is_gone(message)));
        let violation = check::no_gaps(&seen).unwrap_err();
        let wanted = Violation::Gap { topic: "orders".to_owned(), partition, from: 3, to: 5 };
        assert_eq!(violation, wanted);
        assert!(violation.to_string().ends_with("offsets 3 to 4 are missing"), "{violation}");
        // The beginning may be gone, and the order is another question.
        check::no_gaps(&observed(messages.iter().rev().filter(|message| message.offset() > 1))).unwrap();
        // What a life before the restart has seen counts.
        let (early, late): (Vec<_>, Vec<_>) = messages.iter().partition(|message| message.offset() < 4);
        let mut seen = observed(early);
        seen.restarted();
        late.into_iter().for_each(|message| seen.message(message));
        check::no_gaps(&seen).unwrap();
    }

    #[test]
    fn a_key_out_of_order_is_found() {
        let (history, messages) = written(&Log::in_memory().unwrap(), 30);
        let key_by_key = (0..3).flat_map(|first| messages.iter().skip(first).step_by(3));
        check::key_order(&history, &observed(key_by_key)).unwrap();
        let swapped = [&messages[0], &messages[6], &messages[3]];
        for known in [&history, &History::new()] {
            let violation = check::key_order(known, &observed(swapped)).unwrap_err();
            let Violation::OutOfOrder { topic, key, first, then } = &violation else { panic!("{violation}") };
            assert_eq!((&**topic, &key[..]), ("orders", &b"key-0"[..]));
            assert_eq!((first.commit, then.commit), (messages[6].commit(), messages[3].commit()));
        }
    }

    #[test]
    fn redelivery_is_in_order_and_what_was_skipped_is_not() {
        let (history, messages) = written(&Log::in_memory().unwrap(), 12);
        let again = |first: &[usize], second: &[usize]| {
            let mut seen = observed(first.iter().map(|at| &messages[*at]));
            seen.restarted();
            second.iter().for_each(|at| seen.message(&messages[*at]));
            check::key_order(&history, &seen)
        };
        again(&[0, 3, 6], &[3, 6, 9]).unwrap();
        again(&[0, 3, 6], &[0, 3, 6, 9]).unwrap();
        assert!(again(&[0, 6], &[3, 6]).is_err(), "3 came for the first time after 6");
        assert!(again(&[0, 3, 6], &[6, 3]).is_err(), "within a life nothing goes back");
    }

    #[test]
    fn a_key_that_is_spread_over_partitions_has_the_order_of_its_commits() {
        let log = Log::in_memory().unwrap();
        let orders = topic(&log, "orders", settings());
        let mut history = History::new();
        for number in 0..4 {
            let record = Record::new(Bytes::from(format!("{number}"))).key("a").partition(number % 2);
            history.acknowledged("orders", &record, &orders.blocking_produce(record.clone()).unwrap());
        }
        check::key_order(&History::new(), &Observed::replay(&log).unwrap()).unwrap();
        let mut by_partition = Observed::new();
        for partition in 0..2 {
            let mut replay = orders.replay_partition(partition, Start::Earliest).blocking().unwrap();
            while let Some(record) = replay.next().unwrap() {
                by_partition.record(&record);
            }
        }
        for known in [&history, &History::new()] {
            assert!(matches!(check::key_order(known, &by_partition), Err(Violation::OutOfOrder { .. })));
        }
    }

    /// Two records of one commit: only who has sent them knows their order.
    #[test]
    fn within_a_commit_the_history_tells() {
        let log = Log::in_memory().unwrap();
        let orders = topic(&log, "orders", settings());
        let records = [1, 0].map(|partition| Record::new(Bytes::from("x")).key("a").partition(partition));
        let receipts = orders.blocking_produce_batch(records.clone()).unwrap();
        let mut history = History::new();
        records.iter().zip(&receipts).for_each(|(record, receipt)| history.acknowledged("orders", record, receipt));
        let seen = |partitions: [u32; 2]| {
            let mut seen = Observed::new();
            for partition in partitions {
                let mut replay = orders.replay_partition(partition, Start::Earliest).blocking().unwrap();
                seen.message(&replay.next_message().unwrap().unwrap());
            }
            seen
        };
        check::key_order(&history, &seen([1, 0])).unwrap();
        assert!(check::key_order(&history, &seen([0, 1])).is_err());
        check::key_order(&History::new(), &seen([0, 1])).unwrap();
    }

    #[test]
    fn a_commit_past_unfinished_work_is_found() {
        let mut progress = Progress::new();
        for offset in 0..5 {
            progress.delivered("orders", 1, offset);
            progress.delivered("orders", 0, offset);
        }
        progress.committed("orders", 1, 0);
        for offset in [0, 1, 3] {
            progress.finished("orders", 1, offset);
        }
        progress.committed("orders", 1, 2);
        progress.committed_but("orders", 1, 4, [2]);
        check::no_commit_past_unfinished(&progress).unwrap();

        let mut forgotten = progress.clone();
        forgotten.committed("orders", 1, 4);
        let wanted = Violation::CommittedPastUnfinished {
            topic: "orders".to_owned(),
            partition: 1,
            committed: 4,
            unfinished: 2,
        };
        assert_eq!(check::no_commit_past_unfinished(&forgotten), Err(wanted.clone()));
        forgotten.finished("orders", 1, 2);
        assert_eq!(check::no_commit_past_unfinished(&forgotten), Err(wanted), "too late");

        // Delivered once more, it is still done.
        progress.finished("orders", 1, 2);
        progress.delivered("orders", 1, 2);
        progress.committed("orders", 1, 4);
        check::no_commit_past_unfinished(&progress).unwrap();
        progress.committed("orders", 0, 1);
        assert!(check::no_commit_past_unfinished(&progress).is_err(), "each partition by itself");
    }
}

mod disk {
    use super::*;

    #[test]
    fn what_is_acknowledged_stays_and_what_is_not_synced_goes() {
        let disk = SimulatedDisk::with_options(3, DiskOptions::default().loss(Loss::Nothing).writeback_one_in(0));
        let log = disk.open(Log::builder()).unwrap();
        let orders = topic(&log, "orders", settings());
        let clicks = topic(&log, "clicks", settings().durability(Durability::Os));
        for number in 0..3 {
            orders.blocking_produce(Record::new(Bytes::from(format!("{number}")))).unwrap();
            clicks.blocking_produce(Record::new(Bytes::from(format!("{number}")))).unwrap();
        }
        log.blocking_sync().unwrap();
        clicks.blocking_produce(Record::new("3".into())).unwrap();
        assert_eq!(values(&log, "clicks").len(), 4);

        disk.power_loss();
        let log = disk.open(Log::builder()).unwrap();
        assert!(!log.recovery().clean && !log.recovery().created);
        assert_eq!(values(&log, "orders"), ["0", "1", "2"]);
        assert_eq!(values(&log, "clicks"), ["0", "1", "2"]);

        // A killed process loses nothing that it has written.
        log.raw_topic("clicks").unwrap().blocking_produce(Record::new("3".into())).unwrap();
        disk.kill();
        let log = disk.open(Log::builder()).unwrap();
        assert_eq!(values(&log, "clicks"), ["0", "1", "2", "3"]);
    }

    #[test]
    fn the_old_handles_end_with_the_power() {
        let disk = SimulatedDisk::new(4);
        let old = disk.open(Log::builder()).unwrap();
        let orders = topic(&old, "orders", settings());
        orders.blocking_produce(Record::new("0".into())).unwrap();
        assert_eq!(disk.open(Log::builder()).unwrap_err().kind(), ErrorKind::Locked);

        disk.power_loss();
        let new = disk.open(Log::builder()).unwrap();
        assert!(orders.blocking_produce(Record::new("1".into())).is_err());
        assert!(old.blocking_sync().is_err());
        assert!(old.raw_topic("orders").is_err());
        drop((old, orders));
        // They have taken nothing along: neither the lock nor the records.
        assert_eq!(disk.open(Log::builder()).unwrap_err().kind(), ErrorKind::Locked);
        assert_eq!(values(&new, "orders"), ["0"]);
        new.raw_topic("orders").unwrap().blocking_produce(Record::new("1".into())).unwrap();
        new.blocking_close().unwrap();
        let new = disk.open(Log::builder()).unwrap();
        assert!(new.recovery().clean);
        assert_eq!(values(&new, "orders"), ["0", "1"]);
    }

    #[tokio::test]
    async fn who_follows_gets_an_end() {
        let disk = SimulatedDisk::new(5);
        let log = disk.open(Log::builder()).unwrap();
        let orders = log.create_raw_topic("orders", settings()).await.unwrap();
        let mut tail = orders.replay(Start::Earliest).follow();
        orders.produce(Record::new("0".into())).await.unwrap();
        assert!(tail.next().await.unwrap().is_ok());
        let waiting = tokio::spawn(async move { tail.next().await });
        tokio::task::yield_now().await;
        disk.power_loss();
        let end = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
        assert_eq!(end.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }

    /// Some of everything, and the trace of it.
    fn life(seed: u64) -> (u64, u64) {
        let disk = SimulatedDisk::new(seed);
        for round in 0..3u8 {
            let log = disk.open(Log::builder()).unwrap();
            let orders = topic(&log, "orders", settings());
            let clicks = topic(&log, "clicks", settings().durability(Durability::Interval(Duration::from_secs(1))));
            for number in 0..20u8 {
                let record = Record::new(Bytes::from(vec![number; 200])).key([number]);
                orders.blocking_produce(record.clone()).unwrap();
                clicks.blocking_produce(record.clone()).unwrap();
                let mut batch = Batch::new();
                batch.add(&orders, record.clone()).unwrap();
                batch.add(&clicks, record.key([number + 1])).unwrap();
                log.blocking_produce_all(batch).unwrap();
                disk.clock().advance(Duration::from_millis(u64::from(number) * 10));
            }
            if round == 1 {
                log.blocking_close().unwrap();
            }
            disk.power_loss();
        }
        (disk.trace(), disk.calls())
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        assert_eq!(life(6), life(6));
        assert_ne!(life(6).0, life(7).0);
    }

    #[test]
    fn tasks_that_wait_for_each_record_give_the_same_trace() {
        let life = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let disk = SimulatedDisk::new(8);
                let log = disk.open(Log::builder()).unwrap();
                let orders = log.create_raw_topic("orders", settings()).await.unwrap();
                for number in 0..50u8 {
                    orders.produce(Record::new(Bytes::from(vec![number; 100])).key([number])).await.unwrap();
                }
                log.close().await.unwrap();
                disk.trace()
            })
        };
        assert_eq!(life(), life());
    }

    #[test]
    fn a_full_disk_refuses_and_heals() {
        let disk = SimulatedDisk::with_options(9, DiskOptions::default().capacity(1 << 20));
        let log = disk.open(Log::builder()).unwrap();
        let orders = topic(&log, "orders", settings().partitions(1));
        let large = Bytes::from(vec![7; 50_000]);
        let mut acknowledged = 0;
        let error = loop {
            match orders.blocking_produce(Record::new(large.clone())) {
                Ok(_) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!((5..=20).contains(&acknowledged), "{acknowledged} records of 50,000 bytes are in 1 MiB");
        assert!(disk.used() <= 1 << 20);
        disk.set_capacity(None);
        orders.blocking_produce(Record::new(large)).unwrap();
        disk.power_loss();
        let log = disk.open(Log::builder()).unwrap();
        assert_eq!(log.raw_topic("orders").unwrap().watermarks(0).unwrap().high_watermark, acknowledged + 1);
    }

    #[test]
    fn a_call_fails_once() {
        let disk = SimulatedDisk::new(10);
        let log = disk.open(Log::builder()).unwrap();
        let orders = topic(&log, "orders", settings());
        orders.blocking_produce(Record::new("0".into())).unwrap();
        disk.fail_call(disk.calls(), Fault::Full);
        assert_eq!(orders.blocking_produce(Record::new("1".into())).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(disk.faults_hit(), 1);
        orders.blocking_produce(Record::new("2".into())).unwrap();
        disk.fail_call(disk.calls(), Fault::ShortWrite);
        orders.blocking_produce(Record::new("3".into())).unwrap();
        assert_eq!(disk.faults_hit(), 2);
        // A call that does not come cannot fail.
        disk.fail_call(disk.calls() + 1_000, Fault::Io);
        orders.blocking_produce(Record::new("4".into())).unwrap();
        disk.clear_faults();
        let mut found = values(&log, "orders");
        found.sort();
        assert_eq!(found, ["0", "2", "3", "4"]);
    }

    #[test]
    fn calls_fail_until_the_fault_is_cleared() {
        let disk = SimulatedDisk::new(11);
        let log = disk.open(Log::builder()).unwrap();
        let clicks = topic(&log, "clicks", settings().durability(Durability::Os));
        disk.fail_calls_from(disk.calls(), Fault::Full);
        for _ in 0..3 {
            assert!(clicks.blocking_produce(Record::new(Bytes::from(vec![1; 5_000]))).is_err());
        }
        assert!(disk.faults_hit() >= 2, "{}", disk.faults_hit());
        // An opening meets the faults as well.
        disk.kill();
        let kind = || disk.open(Log::builder()).unwrap_err().kind();
        assert_eq!([kind(), kind()], [ErrorKind::StorageFull; 2]);
        disk.clear_faults();
        let log = disk.open(Log::builder()).unwrap();
        assert!(values(&log, "clicks").is_empty());
        log.raw_topic("clicks").unwrap().blocking_produce(Record::new("1".into())).unwrap();
    }

    #[test]
    fn after_a_failed_sync_nothing_is_acknowledged_that_could_be_lost() {
        for seed in 0..20 {
            let disk = SimulatedDisk::new(seed);
            let log = disk.open(Log::builder()).unwrap();
            let orders = topic(&log, "orders", settings().partitions(1));
            let mut acknowledged = Vec::new();
            for number in 0..10 {
                if number == 5 {
                    disk.fail_call(disk.calls(), Fault::FailedSync);
                }
                if orders.blocking_produce(Record::new(Bytes::from(format!("{number}")))).is_ok() {
                    acknowledged.push(format!("{number}"));
                }
            }
            assert_eq!(acknowledged.len(), 5, "the partition takes nothing more");
            disk.power_loss();
            let found = values(&disk.open(Log::builder()).unwrap(), "orders");
            assert_eq!(found[..5], acknowledged, "seed {seed}");
        }
    }

    #[test]
    fn the_power_goes_at_the_call_that_was_named() {
        let disk = SimulatedDisk::new(12);
        disk.lose_power_at(30);
        let mut acknowledged = 0;
        let mut produce_for_ever = || -> annals::Result<std::convert::Infallible> {
            let log = disk.open(Log::builder())?;
            let orders: Topic = log.blocking_create_topic(TopicDef::named("orders"), settings())?;
            loop {
                orders.blocking_produce(Record::new("x".into()))?;
                acknowledged += 1;
            }
        };
        let error = produce_for_ever().unwrap_err();
        assert!(disk.is_off(), "{error}");
        assert_eq!(disk.calls(), 31);
        assert!(disk.open(Log::builder()).is_err(), "nothing gets through");
        assert_eq!(disk.calls(), 31, "nor is it counted");
        // The same state in several ways.
        for seed in 0..8 {
            let fork = disk.fork(seed);
            fork.power_loss();
            let log = fork.open(Log::builder()).unwrap();
            let found = log.raw_topic("orders").map_or(0, |_| values(&log, "orders").len());
            assert!(found >= acknowledged, "{found} of {acknowledged}");
        }
        assert!(disk.is_off(), "a fork is another disk");
        disk.power_loss();
        assert!(!disk.is_off());
        disk.open(Log::builder()).unwrap();
    }

    #[test]
    fn calls_are_counted_by_what_they_do() {
        let disk = SimulatedDisk::new(13);
        let log = disk.open(Log::builder()).unwrap();
        let orders = topic(&log, "orders", settings());
        let before = disk.call_counts();
        assert!(before.names > 0 && before.directory_syncs > 0 && before.writes > 0);
        orders.blocking_produce_batch((0..100).map(|_| Record::new(Bytes::from("x")).partition(0))).unwrap();
        let after = disk.call_counts();
        assert_eq!(after.syncs, before.syncs + 1);
        assert_eq!((after.names, after.directory_syncs), (before.names, before.directory_syncs));
        let sum = after.writes + after.stores + after.syncs + after.directory_syncs + after.names;
        assert_eq!(sum, disk.calls());
    }
}

/// What the background would do waits for the clock, and nothing waits for the background: rotation of segments and of the journal
/// among it.
#[test]
fn a_log_whose_clock_never_moves_goes_on() {
    let disk = SimulatedDisk::new(14);
    let builder = Log::builder().commit_bytes_max(128 << 10).journal_bytes(256 << 10);
    let log = disk.open(builder.clone()).unwrap();
    let small = settings().segment_bytes_max(64 << 10).record_bytes_max(64 << 10);
    let topics = [topic(&log, "a", small.clone()), topic(&log, "b", small)];
    let mut history = History::new();
    for number in 0..600u32 {
        let records = [0, 1].map(|partition| {
            Record::new(Bytes::from(vec![number as u8; 2_000])).key(number.to_le_bytes()).partition(partition)
        });
        let mut batch = Batch::new();
        for (topic, record) in topics.iter().flat_map(|topic| records.iter().map(move |record| (topic, record))) {
            batch.add(topic, record.clone()).unwrap();
        }
        let receipts = log.blocking_produce_all(batch).unwrap();
        for ((name, record), receipt) in
            ["a", "b"].iter().flat_map(|name| records.iter().map(move |record| (name, record))).zip(&receipts)
        {
            history.acknowledged_bytes(name, record, receipt);
        }
    }
    disk.power_loss();
    let log = disk.open(builder).unwrap();
    assert_eq!(history.len(), 2_400);
    check::all(&history, &Observed::replay(&log).unwrap()).unwrap();
}

mod clock {
    use super::*;

    #[test]
    fn it_stands_until_it_is_moved() {
        let begin = DateTime::from_timestamp(1_000_000_000, 0).unwrap();
        let clock = ManualClock::new(begin);
        let dir = tempfile::tempdir().unwrap();
        let disk = SimulatedDisk::new(1);
        let builder = Log::builder().clock(&clock);
        for log in [builder.clone().in_memory(), builder.clone().blocking_open(dir.path()), disk.open(builder)] {
            let log = log.unwrap();
            clock.set(begin);
            let orders = topic(&log, "orders", settings());
            let stamp = || orders.blocking_produce(Record::new("x".into())).unwrap().timestamp();
            assert_eq!(log.created_at(), begin);
            assert_eq!([stamp(), stamp()], [begin; 2]);
            clock.advance(Duration::from_millis(1_500));
            assert_eq!([stamp(), stamp()], [begin + TimeDelta::milliseconds(1_500); 2]);
            clock.set(begin - TimeDelta::days(1));
            assert_eq!(stamp(), begin - TimeDelta::days(1));
            assert_eq!(clock.clone().now(), clock.now());
        }
        assert_ne!(disk.clock().now(), clock.now(), "a disk has a clock of its own");
    }

    fn aging(log: &Log) -> Topic {
        let hour = Duration::from_secs(3600);
        let events = topic(
            log,
            "events",
            settings().partitions(1).segment_bytes_max(64 << 10).retention_age_max(hour).durability(Durability::Os),
        );
        for _ in 0..10 {
            events.blocking_produce(Record::new(Bytes::from(vec![1; 20_000]))).unwrap();
        }
        events
    }

    #[test]
    fn retention_goes_by_it_without_waiting() {
        let disk = SimulatedDisk::new(2);
        let log = disk.open(Log::builder()).unwrap();
        let events = aging(&log);
        let start = || events.watermarks(0).unwrap().log_start;
        disk.clock().advance(Duration::from_secs(3_500));
        assert_eq!(start(), 0);
        disk.clock().advance(Duration::from_secs(200));
        assert!(start() > 0, "done before the clock returns");
    }

    #[test]
    fn a_log_with_threads_is_woken_by_it() {
        let clock = ManualClock::default();
        let log = Log::builder().clock(&clock).in_memory().unwrap();
        let events = aging(&log);
        // By now, most often, the upkeep has seen the sealed segments, and sleeps for the hour that is left to them.
        std::thread::sleep(Duration::from_millis(200));
        clock.advance(Duration::from_secs(7200));
        let pause = Duration::from_millis(2);
        let mut start = 0;
        for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
            start = events.watermarks(0).unwrap().log_start;
            if start > 0 {
                break;
            }
            std::thread::sleep(pause);
        }
        assert!(start > 0, "an hour of the clock has passed, and the log slept");
    }

    #[test]
    fn an_interval_ends_when_the_clock_says_so() {
        let disk = SimulatedDisk::new(3);
        let log = disk.open(Log::builder()).unwrap();
        let clicks =
            topic(&log, "clicks", settings().partitions(1).durability(Durability::Interval(Duration::from_secs(5))));
        clicks.blocking_produce(Record::new("x".into())).unwrap();
        let durable = || clicks.watermarks(0).unwrap().durable_end;
        disk.clock().advance(Duration::from_secs(4));
        assert_eq!(durable(), 0);
        disk.clock().advance(Duration::from_secs(1));
        assert_eq!(durable(), 1);
    }

    #[test]
    fn a_seed_decides_the_identities() {
        let id = |seed| Log::builder().clock(&ManualClock::default()).seed(seed).in_memory().unwrap().id();
        assert_eq!(id(1), id(1));
        assert_ne!(id(1), id(2));
        let disk = |seed| SimulatedDisk::new(seed).open(Log::builder()).unwrap().id();
        assert_eq!(disk(1), disk(1));
        assert_ne!(disk(1), disk(2));
    }
}

mod strategies {
    use super::*;

    fn samples<S: Strategy>(strategy: S, count: usize) -> Vec<S::Value> {
        let mut runner = TestRunner::deterministic();
        (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
    }

    /// What a property that `fails` for is shrunk to.
    fn minimal<S: Strategy<Value: Clone>>(strategy: S, fails: impl Fn(&S::Value) -> bool) -> S::Value {
        // As many steps as proptest takes if nobody says otherwise.
        let config = ProptestConfig { cases: 2_000, max_shrink_iters: 1_024, ..config(2_000) };
        let judge = |value: S::Value| match fails(&value) {
            true => Err(TestCaseError::fail("that")),
            false => Ok(()),
        };
        match TestRunner::new(config).run(&strategy, judge) {
            Err(TestError::Fail(_, minimal)) => minimal,
            other => panic!("nothing was found: {other:?}"),
        }
    }

    #[test]
    fn records_are_of_all_kinds() {
        let records = samples(strategy::record(), 2_000);
        let count = |is: fn(&Record) -> bool| records.iter().filter(|record| is(record)).count();
        type Case = (&'static str, fn(&Record) -> bool, std::ops::Range<usize>);
        let cases: [Case; 9] = [
            ("without a key", |record| record.key.is_none(), 300..500),
            ("tombstones", |record| record.is_tombstone(), 100..300),
            ("empty values", |record| record.value.as_ref().is_some_and(Bytes::is_empty), 5..200),
            ("large values", |record| record.value.as_ref().is_some_and(|value| value.len() > 4096), 40..200),
            ("with a timestamp", |record| record.timestamp.is_some(), 600..1_000),
            (
                "names that repeat",
                |record| {
                    let names: Vec<_> = record.headers.iter().map(|header| header.name()).collect();
                    names.iter().collect::<BTreeSet<_>>().len() < names.len()
                },
                200..1_500,
            ),
            ("absent values", |record| record.headers.iter().any(|header| header.value().is_none()), 200..1_500),
            ("without headers", |record| record.headers.is_empty(), 200..600),
            ("to a partition", |record| record.partition.is_some(), 0..1),
        ];
        for (name, is, wanted) in cases {
            let found = count(is);
            assert!(wanted.contains(&found), "{name}: {found}");
        }
        let keys: BTreeSet<_> = records.iter().filter_map(|record| record.key.clone()).collect();
        assert!((0..6).all(|number| keys.contains(format!("key-{number}").as_bytes())));
        assert!(samples(strategy::keyed_record(), 300).iter().all(|record| record.key.is_some()));
        assert!(samples(strategy::batch(3..=5), 100).iter().all(|batch| (3..=5).contains(&batch.len())));
    }

    #[test]
    fn they_shrink_to_what_is_easy_to_read() {
        assert_eq!(minimal(strategy::record(), |_| true), Record::new(Bytes::new()));
        assert_eq!(minimal(strategy::key(), |_| true), "key-0");
        let keyed = minimal(strategy::batch(0..40), |records| records.iter().any(|record| record.key.is_some()));
        assert_eq!(keyed, [Record::new(Bytes::new()).key("key-0")]);
        let tombstone = minimal(strategy::batch(0..40), |records| records.iter().any(Record::is_tombstone));
        assert_eq!(tombstone, [Record::tombstone()]);
        let repeated = minimal(strategy::headers(), |headers| {
            headers.iter().any(|header| headers.get_all(header.name()).count() > 1)
        });
        assert_eq!(repeated.len(), 2);
        let names = ["a", "b"];
        let crash = minimal(strategy::operations(names, 0..40), |all| all.contains(&Operation::PowerLoss));
        assert_eq!(crash, [Operation::PowerLoss]);
        let both = minimal(strategy::operations(names, 0..40), |all| {
            let produced = |name| {
                all.iter().any(|operation| matches!(operation, Operation::Produce { topic, .. } if topic == name))
            };
            produced("a") && produced("b")
        });
        let simplest = |operation: &_| matches!(operation, Operation::Produce { record, .. } if *record == Record::new(Bytes::new()));
        assert!(both.len() == 2 && both.iter().all(simplest), "{both:?}");
    }

    #[test]
    fn operations_are_of_all_kinds_and_about_the_topics_that_were_named() {
        let all: Vec<Operation> = samples(strategy::operations(["a", "b"], 30), 50).into_iter().flatten().collect();
        assert_eq!(all.len(), 1_500);
        let kind = |operation: &Operation| format!("{operation:?}").split([' ', '(']).next().unwrap().to_owned();
        let kinds: BTreeSet<String> = all.iter().map(kind).collect();
        let wanted = ["Advance", "Batch", "Kill", "PowerLoss", "Produce", "Reopen", "Sync", "Transaction"];
        assert!(kinds.iter().eq(wanted), "{kinds:?}");
        let mut topics = BTreeSet::new();
        for operation in &all {
            match operation {
                Operation::Produce { topic, .. } | Operation::Batch { topic, .. } => {
                    topics.insert(topic.as_str());
                }
                Operation::Transaction { records } => {
                    assert!(!records.is_empty());
                    topics.extend(records.iter().map(|(topic, _)| topic.as_str()));
                }
                _ => {}
            }
        }
        assert!(topics.iter().eq(["a", "b"].iter()), "{topics:?}");
    }

    #[test]
    #[should_panic(expected = "one topic at least")]
    fn operations_need_a_topic() {
        let _strategy = strategy::operations([] as [&str; 0], 1..2);
    }
}

mod harness {
    use super::*;

    fn harness(seed: u64, options: DiskOptions) -> Harness {
        let level = |durability| TopicSettings::default().partitions(3).durability(durability);
        let topics = [
            ("sync", level(Durability::Sync)),
            ("interval", level(Durability::Interval(Duration::from_secs(10)))),
            ("os", level(Durability::Os)),
        ];
        Harness::open(SimulatedDisk::with_options(seed, options), Log::builder(), topics).unwrap()
    }

    proptest! {
        #![proptest_config(config(60))]

        #[test]
        fn annals_keeps_its_promises(
            seed: u64,
            operations in strategy::operations(["sync", "interval", "os"], 0..30),
        ) {
            let mut harness = harness(seed, DiskOptions::default());
            for operation in &operations {
                harness.apply(operation)?;
            }
            harness.check()?;
        }

        /// Whatever fails is not acknowledged, and the next opening has the rest.
        #[test]
        fn and_with_calls_that_fail(
            seed: u64,
            at in 0..200u64,
            fault in proptest::sample::select(vec![Fault::Io, Fault::Full, Fault::ShortWrite, Fault::FailedSync]),
            operations in strategy::operations(["sync", "interval", "os"], 0..30),
        ) {
            let mut harness = harness(seed, DiskOptions::default());
            harness.disk().fail_call(harness.disk().calls() + at, fault);
            for operation in &operations {
                let _refused = harness.apply(operation);
            }
            harness.disk().clear_faults();
            harness.apply(&Operation::PowerLoss)?;
            harness.check()?;
        }
    }

    #[test]
    fn it_remembers_what_must_be_there() {
        let mut harness = harness(1, DiskOptions::default().loss(Loss::Nothing).writeback_one_in(0));
        let produce = |topic: &str| Operation::Produce { topic: topic.to_owned(), record: Record::new("x".into()) };
        for topic in ["sync", "interval", "os"] {
            harness.apply(&produce(topic)).unwrap();
        }
        assert_eq!(harness.history().len(), 3);
        harness.apply(&Operation::Kill).unwrap();
        assert_eq!(harness.history().len(), 3);
        harness.check().unwrap();
        harness.apply(&Operation::PowerLoss).unwrap();
        assert_eq!(harness.history().len(), 1, "of the others nobody had said that they are on the disk");
        harness.check().unwrap();
        harness.apply(&produce("os")).unwrap();
        let kept = harness.history().len();
        harness.apply(&Operation::PowerLoss).unwrap();
        assert_eq!(harness.history().len(), kept - 1, "nobody had synced it");
        harness.apply(&produce("os")).unwrap();
        harness.apply(&Operation::Sync).unwrap();
        harness.apply(&Operation::PowerLoss).unwrap();
        assert_eq!(harness.history().len(), kept);
        harness.check().unwrap();
        harness.apply(&produce("os")).unwrap();
        harness.apply(&Operation::Reopen).unwrap();
        harness.apply(&Operation::PowerLoss).unwrap();
        assert_eq!(harness.history().len(), kept + 1, "a clean close has synced it");
        assert_eq!(harness.apply(&produce("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// What is not in the log as it was acknowledged is found, whoever took it.
    #[test]
    fn it_notices_what_is_missing() {
        let mut harness = harness(2, DiskOptions::default());
        let records = (0..5).map(|number| Record::new(Bytes::from(format!("{number}"))).partition(0)).collect();
        harness.apply(&Operation::Batch { topic: "sync".to_owned(), records }).unwrap();
        harness.check().unwrap();
        harness.log().blocking_delete_records("sync", 0, 1).unwrap();
        let error = harness.check().unwrap_err();
        let CheckFailure::Violation(Violation::Lost { place, .. }) = error else { panic!("{error}") };
        assert_eq!((place.partition, place.offset), (0, 0));
    }
}

mod crashes {
    use super::*;

    fn produce(topic: &Topic, number: u32) -> annals::Result<Receipt> {
        topic.blocking_produce(Record::new(Bytes::from(format!("{number}"))))
    }

    fn orders(log: &Log) -> annals::Result<Topic> {
        log.blocking_create_topic(TopicDef::named("orders"), settings().partitions(1))
    }

    #[test]
    fn what_is_right_survives_each_step() {
        let survived = CrashTest::new(1)
            .ways(3)
            .run(
                |disk, acknowledged: &mut u64| {
                    let log = disk.open(Log::builder())?;
                    let orders = orders(&log)?;
                    for number in 0..4 {
                        produce(&orders, number)?;
                        *acknowledged += 1;
                    }
                    log.blocking_close()?;
                    Ok(())
                },
                |disk, acknowledged| {
                    let log = disk.open(Log::builder())?;
                    let found = orders(&log)?.watermarks(0)?.high_watermark;
                    // One more may have been written, with the answer lost.
                    assert!((*acknowledged..=acknowledged + 1).contains(&found), "{found} of {acknowledged}");
                    Ok(())
                },
            )
            .unwrap();
        assert!(survived.calls > 20, "{survived:?}");
        assert_eq!(survived.power_losses, survived.calls * 2 * 3);
    }

    /// The record counts as acknowledged before it is written: the first call after that is the first at which it shows.
    #[test]
    fn a_planted_defect_is_found_at_its_step() {
        let planted = Cell::new(0);
        let run = |disk: &SimulatedDisk, acknowledged: &mut u64| {
            let log = disk.open(Log::builder())?;
            let orders = orders(&log)?;
            for number in 0..4 {
                if number == 2 {
                    // The defect.
                    *acknowledged += 1;
                    planted.set(disk.calls());
                    produce(&orders, number)?;
                } else {
                    produce(&orders, number)?;
                    *acknowledged += 1;
                }
            }
            Ok(())
        };
        let check = |disk: &SimulatedDisk, acknowledged: &u64| {
            let found = orders(&disk.open(Log::builder())?)?.watermarks(0)?.high_watermark;
            match found >= *acknowledged {
                true => Ok(()),
                false => Err(format!("{found} of {acknowledged} are there").into()),
            }
        };
        let options = DiskOptions::default().loss(Loss::Nothing).writeback_one_in(0);
        let failure = CrashTest::new(2).disk(options).run(run, check).unwrap_err();
        assert_eq!(failure.call, Some(planted.get()));
        assert_eq!(failure.what, "2 of 3 are there");
        let told = failure.to_string();
        assert!(told.contains(&format!("CrashTest::new(2).only({})", planted.get())), "{told}");
        assert!(told.contains("a write to a file"), "{told}");
        // As it says, it comes back alone; and the step before it is no failure.
        let again = CrashTest::new(2).disk(options).only(planted.get()).run(run, check).unwrap_err();
        assert_eq!(again, failure);
        CrashTest::new(2).disk(options).only(planted.get() - 1).run(run, check).unwrap();
        let beyond = CrashTest::new(2).disk(options).only(10_000).run(run, |_, _| Ok(())).unwrap_err();
        assert!(beyond.what.starts_with("the run makes "), "{beyond}");
        // With losses that the seed decides it is the same call, since that is not done at first.
        assert_eq!(crash_at_every_step(2, run, check).unwrap_err().call, Some(planted.get()));
    }

    /// The last sync of a record is done, and its acknowledgement is lost: who sends it again has it twice.
    #[test]
    fn a_lost_acknowledgement_is_among_the_steps() {
        let test = |id: Option<&'static str>| {
            let send = move |disk: &SimulatedDisk| -> annals::Result<Topic> {
                let log = disk.open(Log::builder())?;
                let settings = settings().partitions(1).dedup_count_max(100);
                let orders: Topic = log.blocking_create_topic(TopicDef::named("orders"), settings)?;
                let record = Record::new(Bytes::from("paid"));
                orders.blocking_produce(id.map_or(record.clone(), |id| record.id(id)))?;
                Ok(orders)
            };
            CrashTest::new(5).disk(DiskOptions::default().loss(Loss::Nothing).writeback_one_in(0)).run(
                move |disk, acknowledged: &mut bool| {
                    send(disk)?;
                    *acknowledged = true;
                    Ok(())
                },
                move |disk, acknowledged| match acknowledged {
                    true => Ok(()),
                    // The customer clicks once more.
                    false => match send(disk)?.watermarks(0)?.high_watermark {
                        1 => Ok(()),
                        count => Err(format!("{count} payments").into()),
                    },
                },
            )
        };
        let failure = test(None).unwrap_err();
        assert_eq!(failure.what, "2 payments");
        assert!(failure.problem.contains("the sync of a file, done, yet not answered"), "{failure}");
        test(Some("payment-17")).unwrap();
    }

    #[test]
    fn what_fails_without_a_power_loss_is_told_as_such() {
        let open = |disk: &SimulatedDisk, _: &mut ()| {
            disk.open(Log::builder())?;
            Ok(())
        };
        let failure = crash_at_every_step(3, |_, (): &mut ()| Err("no".into()), |_, ()| Ok(())).unwrap_err();
        assert_eq!((failure.call, &*failure.problem, &*failure.what), (None, "the run itself failed", "no"));
        let failure = crash_at_every_step(3, open, |_, ()| panic!("never {}", "right")).unwrap_err();
        assert_eq!((failure.call, &*failure.what), (None, "never right"));
        assert_eq!(failure.to_string(), "the check failed after the run: never right (seed 3)");
        // The first power loss: nothing is there that could be wrong, but this check wants a log.
        let there = |disk: &SimulatedDisk, _: &()| {
            disk.open(Log::builder().create(false))?;
            Ok(())
        };
        let failure = crash_at_every_step(3, open, there).unwrap_err();
        assert_eq!(failure.call, Some(0), "{failure}");
        // A run that does not do the same each time.
        let mut runs = 0;
        let fickle = |disk: &SimulatedDisk, _: &mut ()| {
            runs += 1;
            if runs > 1 { Err("another".into()) } else { open(disk, &mut ()) }
        };
        let failure = crash_at_every_step(3, fickle, |_, ()| Ok(())).unwrap_err();
        assert!(failure.problem.contains("does not do the same"), "{failure}");
    }

    /// Whoever waits for records in the run would wait for ever, if the log did not end with the power.
    #[test]
    fn a_run_that_follows_comes_to_its_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let survived = CrashTest::new(4).ways(1).every(5).run(
            |disk, (): &mut ()| {
                let log = disk.open(Log::builder())?;
                let orders = orders(&log)?;
                let mut tail = orders.replay(Start::Earliest).follow();
                runtime.block_on(async {
                    for number in 0..3 {
                        // Sent, and read back without asking whether it was written.
                        let _delivery = orders.send(Record::new(Bytes::from(format!("{number}")))).await;
                        tail.next().await.transpose()?;
                    }
                    Ok(())
                })
            },
            |disk, ()| {
                disk.open(Log::builder())?;
                Ok(())
            },
        );
        let survived = survived.unwrap();
        assert_eq!(survived.power_losses, survived.calls.div_ceil(5) * 2);
    }
}

mod redeliveries {
    use super::*;

    const MESSAGES: [u32; 5] = [10, 20, 30, 40, 50];

    #[test]
    fn a_handler_that_remembers_bears_them() {
        let mut deliveries = 0;
        let runs = redeliver_at_every_step(
            &MESSAGES,
            |effects: &mut BTreeSet<u32>, message| {
                deliveries += 1;
                effects.insert(*message);
                Ok(())
            },
            |effects| {
                assert!(effects.iter().eq(&MESSAGES));
                Ok(())
            },
        );
        assert_eq!(runs, Ok(1 + 15));
        // All of them once; then, for each combination, `handled + 1` of them and those from `from` on.
        let combinations = (0..5usize).flat_map(|handled| (0..=handled).map(move |from| handled + 1 + 5 - from));
        assert_eq!(deliveries, 5 + combinations.sum::<usize>());
    }

    #[test]
    fn one_that_does_not_is_found_at_the_first() {
        let push = |effects: &mut Vec<u32>, message: &u32| {
            effects.push(*message);
            Ok(())
        };
        let failure = redeliver_at_every_step(&MESSAGES, push, |effects| {
            assert!(effects.is_sorted_by(|one, other| one < other), "{effects:?}");
            Ok(())
        })
        .unwrap_err();
        assert_eq!((failure.handled, failure.from, &*failure.what), (Some(0), Some(0), "[10, 10, 20, 30, 40, 50]"));
        let failure = redeliver_at_every_step(&MESSAGES, push, |_| Err("never".into())).unwrap_err();
        assert_eq!((failure.handled, failure.to_string()), (None, "no message came again: never".to_owned()));
        let refuses = |(): &mut (), _: &u32| Err("no".into());
        assert_eq!(redeliver_at_every_step(&MESSAGES, refuses, |()| Ok(())).unwrap_err().what, "no");
        assert_eq!(redeliver_at_every_step(&[], refuses, |()| Ok(())), Ok(1));
    }
}
