//! What cannot be brought about from outside: damage that is met while a projection runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::Rebuild;
use crate::{ErrorKind, Log, Message, Projection, ProjectionState, Raw, Record, Topic, TopicDef, TopicSettings};

fn topic(log: &Log) -> Topic {
    log.blocking_create_topic(TopicDef::<Bytes, Raw>::named("t"), TopicSettings::default()).unwrap()
}

fn count(state: &mut ProjectionState, message: &Message) -> Result<(), crate::ApplyError> {
    let key = message.key().cloned().unwrap_or_default();
    Ok(state.update(key, |count: &mut u64| *count += 1)?)
}

fn record(key: &'static str) -> Record<Bytes> {
    Record::new(Bytes::from_static(b"value")).key(key)
}

fn spawn(log: &Log) -> Projection {
    log.projection("counts", 1).on_raw("t", count).blocking_spawn().unwrap()
}

/// In memory and on the disk.
fn logs() -> [Log; 2] {
    [Log::in_memory().unwrap(), Log::temporary().unwrap()]
}

#[test]
fn damage_that_somebody_meets_is_answered_with_busy_until_it_is_mended() {
    for log in logs() {
        let topic = topic(&log);
        for _ in 0..10 {
            topic.blocking_produce(record("a")).unwrap();
        }
        let projection = spawn(&log);
        projection.blocking_ready().unwrap();
        for round in 0..3 {
            projection.spoil(b"a");
            let ask = |how: usize| match how {
                0 => projection.get::<u64>("a").map(drop),
                _ => projection.range::<u64>("").map(drop),
            };
            assert_eq!(ask(round % 2).unwrap_err().kind(), ErrorKind::Busy);
            projection.blocking_ready().unwrap();
            assert_eq!(projection.get::<u64>("a").unwrap(), Some(10));
            assert_eq!(projection.last_rebuild(), Some(Rebuild::Damaged));
            // What was told is about this building.
            assert_eq!(projection.progress().done, 10);
        }
    }
}

#[test]
fn damage_that_a_function_or_a_batch_meets_is_mended() {
    for log in logs() {
        let topic = topic(&log);
        for _ in 0..10 {
            topic.blocking_produce(record("a")).unwrap();
        }
        let projection = spawn(&log);
        projection.blocking_ready().unwrap();
        projection.spoil(b"a");
        let receipt = topic.blocking_produce(record("a")).unwrap();
        projection.blocking_wait_for(&receipt).unwrap();
        assert_eq!(projection.get::<u64>("a").unwrap(), Some(11));
        assert_eq!(projection.last_rebuild(), Some(Rebuild::Damaged));
        projection.blocking_close();

        // One that puts without having asked: what it puts is put over what is damaged.
        let blind = |state: &mut ProjectionState, _: &Message| Ok(state.put("last", &1_u64)?);
        let projection = log.projection("blind", 1).on_raw("t", blind).blocking_spawn().unwrap();
        projection.blocking_ready().unwrap();
        projection.spoil(b"last");
        let receipt = topic.blocking_produce(record("a")).unwrap();
        projection.blocking_wait_for(&receipt).unwrap();
        assert_eq!(projection.last_rebuild(), Some(Rebuild::Damaged));
        assert_eq!(projection.get::<u64>("last").unwrap(), Some(1));
    }
}

/// A view that fails again and again is not built for ever.
#[test]
fn a_view_that_fails_whenever_it_is_built_stops_the_projection() {
    let log = Log::in_memory().unwrap();
    let topic = topic(&log);
    let receipt = topic.blocking_produce(record("a")).unwrap();
    let tried = Arc::new(AtomicU64::new(0));
    let spoiling = Arc::clone(&tried);
    let projection = log.projection("failing", 1).on_raw("t", move |state, _| {
        spoiling.fetch_add(1, Ordering::Relaxed);
        state.spoil(b"a");
        state.get::<u64>("a")?;
        Ok(())
    });
    let projection = projection.blocking_spawn().unwrap();
    assert_eq!(projection.blocking_wait_for(&receipt).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(tried.load(Ordering::Relaxed), 4);
}

/// The application's own function may close what calls it, and drop the last handle of it and of its log.
#[test]
fn a_function_may_close_its_own_projection() {
    let log = Log::temporary().unwrap();
    let topic = topic(&log);
    let (give, take) = std::sync::mpsc::channel::<Projection>();
    let (said, told) = std::sync::mpsc::channel();
    let builder = log.projection("closing", 1).on_raw("t", move |_, _| {
        if let Ok(projection) = take.recv() {
            projection.blocking_close();
        }
        said.send(())?;
        Ok(())
    });
    give.send(builder.blocking_spawn().unwrap()).unwrap();
    topic.blocking_produce(record("a")).unwrap();
    told.recv().unwrap();
    log.blocking_close().unwrap();
}
