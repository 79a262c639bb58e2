//! Process managers on the event bus.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use annals::{Bus, Event, HandlerError, Json, Log, On, Record, Retry, Saga, Step, TopicDef, TopicSettings};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Move {
    Reserve,
    Pay,
    Refuse,
    Ship,
    Count,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Trip {
    moves: u32,
}

const MOVES: TopicDef<Move, Json> = TopicDef::new("moves");
const EFFECTS: TopicDef<String, Json> = TopicDef::new("effects");

/// Every third call fails after it has done everything.
fn trips(bus: &Bus, calls: &Arc<AtomicU32>) -> On {
    let calls = Arc::clone(calls);
    bus.saga(MOVES, Saga::new("trips").by_key(), move |event: Event<Move>, mut step: Step<Trip>| {
        let calls = Arc::clone(&calls);
        async move {
            let of = |what: &str, step: &Step<Trip>| format!("{what} {} {}", step.instance(), step.state().moves);
            step.state_mut().moves += 1;
            match event.value().unwrap() {
                Move::Reserve => {
                    assert!(step.is_new());
                    step.publish(EFFECTS, of("reserve", &step)).await?;
                    let back = of("release", &step);
                    step.compensate_with(&EFFECTS, back)?;
                }
                Move::Pay => {
                    step.publish(EFFECTS, of("pay", &step)).await?;
                    let back = of("refund", &step);
                    step.compensate_with(&EFFECTS, back)?;
                }
                Move::Refuse => step.fail(),
                Move::Ship => {
                    step.publish(EFFECTS, of("ship", &step)).await?;
                    step.complete();
                }
                Move::Count => {}
            }
            if calls.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                return Err(HandlerError::from("not this time"));
            }
            Ok(step)
        }
    })
    .retry(Retry::fixed(10, Duration::from_micros(50)))
}

async fn effects(bus: &Bus, of: &str) -> Vec<String> {
    let all = bus.history(EFFECTS, 10_000).await.unwrap();
    all.into_iter().filter_map(annals::Message::into_value).filter(|effect| effect.contains(of)).collect()
}

#[tokio::test]
async fn steps_are_taken_once_and_taken_back_in_reverse() {
    let dir = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let publish = async |bus: &Bus, one: Move, key: &str| bus.publish(MOVES, Record::new(one).key(key)).await.unwrap();
    {
        let log = Log::open(dir.path()).await.unwrap();
        let bus = log.bus();
        let saga = trips(&bus, &calls).spawn().await.unwrap();
        for key in ["a", "b"] {
            publish(&bus, Move::Reserve, key).await;
            publish(&bus, Move::Pay, key).await;
        }
        saga.idle().await.unwrap();
        assert_eq!(bus.saga_count(&Saga::new("trips")).await.unwrap(), 2);
        log.close().await.unwrap();
    }
    // What is under way survives the process.
    let log = Log::open(dir.path()).await.unwrap();
    let bus = log.bus();
    let saga = trips(&bus, &calls).concurrency(4).spawn().await.unwrap();
    publish(&bus, Move::Refuse, "a").await;
    publish(&bus, Move::Ship, "b").await;
    saga.idle().await.unwrap();
    assert_eq!(effects(&bus, " a ").await, ["reserve a 1", "pay a 2", "refund a 2", "release a 1"]);
    assert_eq!(effects(&bus, " b ").await, ["reserve b 1", "pay b 2", "ship b 3"]);
    assert_eq!(bus.saga_count(&Saga::new("trips")).await.unwrap(), 0);
    // A process that has ended begins anew.
    publish(&bus, Move::Reserve, "a").await;
    saga.idle().await.unwrap();
    assert_eq!(effects(&bus, " a ").await.last().unwrap(), "reserve a 1");
    let compensation = &bus.history(EFFECTS, 10_000).await.unwrap()[4..]
        .iter()
        .find(|event| event.value().unwrap().starts_with("refund"))
        .cloned()
        .unwrap();
    assert_eq!(compensation.event_type(), Some("string"));
    assert!(compensation.causation_id().is_some());
    log.close().await.unwrap();
}

#[tokio::test]
async fn steps_of_one_process_from_many_partitions_do_not_overlap() {
    let log = Log::in_memory().unwrap();
    log.create_topic(MOVES, TopicSettings::default().partitions(4)).await.unwrap();
    let bus = log.bus();
    let last = Arc::new(AtomicU32::new(0));
    let noted = Arc::clone(&last);
    // All events belong to one process, whatever their keys.
    let saga = bus
        .saga(
            MOVES,
            Saga::new("one").by(|_| Some("the one".to_owned())),
            move |_: Event<Move>, mut step: Step<Trip>| {
                let noted = Arc::clone(&noted);
                async move {
                    let before = step.state().moves;
                    tokio::task::yield_now().await;
                    step.state_mut().moves = before + 1;
                    noted.store(before + 1, Ordering::Relaxed);
                    Ok::<_, HandlerError>(step)
                }
            },
        )
        .concurrency(8);
    let saga = saga.spawn().await.unwrap();
    for number in 0..40 {
        bus.publish(MOVES, Record::new(Move::Count).key(format!("key {number}"))).await.unwrap();
    }
    saga.idle().await.unwrap();
    assert_eq!(last.load(Ordering::Relaxed), 40);
}

#[tokio::test]
async fn an_event_of_no_process_and_a_topic_that_cannot_hold_states() {
    let log = Log::in_memory().unwrap();
    log.create_raw_topic("wrong.saga", TopicSettings::default()).await.unwrap();
    let bus = log.bus();
    let on = |name: &str, none: bool| {
        bus.saga(
            MOVES,
            Saga::new(name).by(move |_| (!none).then(|| "x".to_owned())),
            |_: Event<Move>, step: Step<Trip>| async move { Ok::<_, HandlerError>(step) },
        )
        .retry(Retry::never())
        .dead_letter("dlq")
    };
    let nobody = on("nobody", true).spawn().await.unwrap();
    let wrong = on("wrong", false).spawn().await.unwrap();
    bus.publish(MOVES, Move::Count).await.unwrap();
    nobody.idle().await.unwrap();
    wrong.idle().await.unwrap();
    assert_eq!(nobody.stats().succeeded, 1);
    let letters = bus.dead_letters("wrong", "dlq").unwrap().list(1).await.unwrap();
    assert!(letters[0].errors[0].contains("is not compacted"), "{:?}", letters[0].errors);
}
