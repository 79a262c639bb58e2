//! Random stories of an event bus on a disk that loses power: handlers fail, panic, hang and are given up, the process dies at any call to
//! the disk, dead letters are replayed. Whatever happens, each event comes to one end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::testing::SimulatedDisk;
use annals::{
    Bus, CircuitBreaker, Context, Event, HandlerError, Json, Log, Record, Retry, Subscription, TopicDef, TopicSettings,
};
use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::runtime::Runtime;

const EVENTS: TopicDef<usize, Json> = TopicDef::new("events");
const OUTPUT: TopicDef<usize, Json> = TopicDef::new("output");
const DLQ: &str = "dlq";
const GROUP: &str = "group";

/// What the handler does in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Succeed,
    /// Succeeds once others had their turn.
    SucceedLater,
    Fail,
    FailForGood,
    Panic,
    Hang,
}

impl Behaviour {
    fn succeeds(self) -> bool {
        matches!(self, Self::Succeed | Self::SucceedLater)
    }
}

#[derive(Debug, Clone)]
struct Story {
    seed: u64,
    partitions: u32,
    /// The key of each event, and what becomes of each call with it; when that is told, calls succeed.
    events: Vec<(Option<u8>, Vec<Behaviour>)>,
    concurrency: usize,
    attempts: u32,
    sequenced: bool,
    breaker: bool,
    /// So many of the events are published while dead letters are being replayed.
    late: usize,
    /// After so many calls to the disk the process dies; whether the power goes with it.
    deaths: Vec<(u64, bool)>,
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    use Behaviour::*;
    prop_oneof![
        3 => Just(Succeed), 2 => Just(SucceedLater), 4 => Just(Fail), 1 => Just(FailForGood), 1 => Just(Panic), 1 => Just(Hang)
    ]
}

fn story() -> impl Strategy<Value = Story> {
    let event = (proptest::option::weighted(0.8, 0..3_u8), proptest::collection::vec(behaviour(), 0..5));
    (
        any::<u64>(),
        1..3_u32,
        proptest::collection::vec(event, 1..14),
        1..4_usize,
        1..4_u32,
        any::<bool>(),
        proptest::bool::weighted(0.3),
        0..4_usize,
        proptest::collection::vec((0..60_u64, any::<bool>()), 0..4),
    )
        .prop_map(|(seed, partitions, events, concurrency, attempts, sequenced, breaker, late, deaths)| Story {
            seed,
            partitions,
            late: late.min(events.len()),
            events,
            concurrency,
            attempts,
            sequenced,
            breaker,
            deaths,
        })
}

/// What happened, over all lives of the process.
#[derive(Default)]
struct Told {
    /// How often the handler was called with an event.
    calls: BTreeMap<usize, usize>,
    attempts_most: u32,
    /// What is being handled right now, by key: never two of one.
    busy: BTreeSet<u8>,
    wrong: Vec<String>,
}

type Shared = Arc<Mutex<Told>>;

/// Says that an event of a key is being handled, until it is dropped.
struct Busy(Shared, Option<u8>);

impl Busy {
    fn new(told: &Shared, key: Option<u8>) -> Self {
        if let Some(key) = key {
            let mut told = told.lock().unwrap();
            if !told.busy.insert(key) {
                told.wrong.push(format!("two events of key {key} are handled at once"));
            }
        }
        Self(Arc::clone(told), key)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let (Some(key), Ok(mut told)) = (self.1, self.0.lock()) {
            told.busy.remove(&key);
        }
    }
}

async fn subscribe(bus: &Bus, story: &Story, told: &Shared) -> annals::Result<Subscription> {
    let (events, shared) = (story.events.clone(), Arc::clone(told));
    let handler = move |event: Event<usize>, cx: Context| {
        let id = *event.value().unwrap();
        let (key, script) = &events[id];
        let busy = Busy::new(&shared, *key);
        let behaviour = {
            let mut told = shared.lock().unwrap();
            told.attempts_most = told.attempts_most.max(cx.attempt());
            let calls = told.calls.entry(id).or_insert(0);
            *calls += 1;
            let at = *calls - 1;
            script.get(at).copied().unwrap_or(Behaviour::Succeed)
        };
        let output = Record::new(id).key(key.map_or_else(String::new, |key| key.to_string()));
        async move {
            let _busy = busy;
            cx.publish(OUTPUT, output).await?;
            match behaviour {
                Behaviour::Succeed => Ok(()),
                Behaviour::SucceedLater => {
                    tokio::task::yield_now().await;
                    Ok(())
                }
                Behaviour::Fail => Err(HandlerError::from("it failed")),
                Behaviour::FailForGood => Err(HandlerError::permanent("it failed for good")),
                Behaviour::Panic => panic!("part of the story"),
                Behaviour::Hang => std::future::pending().await,
            }
        }
    };
    let mut on = bus
        .on(EVENTS, GROUP, handler)
        .concurrency(story.concurrency)
        .deadline(Duration::from_secs(1))
        .retry(Retry::exponential(story.attempts).base(Duration::from_millis(20)))
        .dead_letter(DLQ);
    if story.sequenced {
        on = on.sequenced();
    }
    if story.breaker {
        on = on.circuit_breaker(CircuitBreaker::default().failures(2).open_for(Duration::from_secs(2)));
    }
    on.spawn().await
}

/// Lets time pass until everything is done, or the process is dead.
async fn settle(disk: &SimulatedDisk, subscription: &Subscription) {
    let idle = subscription.idle();
    tokio::pin!(idle);
    for round in 0..20_000 {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        if disk.is_off() {
            return;
        }
        if let Some(ended) = (&mut idle).now_or_never() {
            return ended.unwrap();
        }
        disk.clock().advance(Duration::from_millis(50));
        if round > 200 {
            // Threads that read files need time that really passes.
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    panic!("it never comes to rest: {:?}, {:?}", subscription.stats(), subscription.last_error());
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// Opens the log and what is in it. An error is that the power has gone.
async fn begin(disk: &SimulatedDisk, story: &Story, told: &Shared) -> annals::Result<(Bus, Subscription)> {
    let log = disk.open(Log::builder())?;
    log.create_topic(EVENTS, TopicSettings::default().partitions(story.partitions)).await?;
    // Made before: a handler that waits for a thread to make it would meet its deadline on a clock that does not wait.
    log.create_topic(OUTPUT, TopicSettings::default()).await?;
    let bus = log.bus();
    let subscription = subscribe(&bus, story, told).await?;
    Ok((bus, subscription))
}

/// The ids of the outputs, in order.
async fn outputs(bus: &Bus) -> Vec<usize> {
    bus.history(OUTPUT, 10_000).await.unwrap().into_iter().filter_map(annals::Message::into_value).collect()
}

fn run(story: &Story) -> Result<(), TestCaseError> {
    let disk = SimulatedDisk::new(story.seed);
    let told = Shared::default();
    let mut published = vec![false; story.events.len()];
    let mut order = Vec::new();
    let early = story.events.len() - story.late;
    // Each death has a life before it, in which a part of the events is published.
    for (life, (calls, power)) in story.deaths.iter().enumerate() {
        let runtime = runtime();
        disk.lose_power_at(disk.calls() + calls);
        runtime.block_on(async {
            let Ok((bus, subscription)) = begin(&disk, story, &told).await else { return };
            for id in (0..early).filter(|id| id % (story.deaths.len() + 1) == life) {
                order.push(id);
                published[id] = publish(&bus, story, id).await.is_ok();
            }
            settle(&disk, &subscription).await;
        });
        if *power || disk.is_off() {
            disk.power_loss();
        } else {
            disk.kill();
        }
        drop(runtime);
        told.lock().unwrap().busy.clear();
    }
    // The last life comes to its end.
    let runtime = runtime();
    disk.lose_power_at(u64::MAX);
    let (outputs_then, letters, outputs_now) = runtime.block_on(async {
        let (bus, subscription) = begin(&disk, story, &told).await.unwrap();
        for (id, published) in published.iter_mut().enumerate().take(early) {
            if !order.contains(&id) {
                order.push(id);
                publish(&bus, story, id).await.unwrap();
                *published = true;
            }
        }
        settle(&disk, &subscription).await;
        let outputs_then = outputs(&bus).await;
        let dead = bus.dead_letters(GROUP, DLQ).unwrap();
        let letters = dead.list(10_000).await.unwrap();
        // Each replay is a call more, until what is told of it is over.
        for round in 0..100 {
            let replayed = dead.replay_all().await.unwrap();
            if round == 0 {
                assert_eq!(replayed, letters.len() as u64);
                for (id, published) in published.iter_mut().enumerate().skip(early) {
                    order.push(id);
                    publish(&bus, story, id).await.unwrap();
                    *published = true;
                }
            }
            settle(&disk, &subscription).await;
            if dead.count().await.unwrap() == 0 {
                break;
            }
        }
        assert_eq!(dead.count().await.unwrap(), 0);
        let outputs_now = outputs(&bus).await;
        bus.log().close().await.unwrap();
        (outputs_then, letters, outputs_now)
    });
    let told = told.lock().unwrap();
    prop_assert!(told.wrong.is_empty(), "{:?}", told.wrong);
    prop_assert!(told.attempts_most <= story.attempts);
    let letter_ids: Vec<usize> =
        letters.iter().map(|letter| serde_json::from_slice(letter.value.as_ref().unwrap()).unwrap()).collect();
    for (id, (key, script)) in story.events.iter().enumerate() {
        let done = outputs_then.iter().filter(|output| **output == id).count();
        let dead = letter_ids.iter().filter(|letter| **letter == id).count();
        prop_assert!(done + dead <= 1, "event {id} has come to {done} ends as done and {dead} as a dead letter");
        prop_assert!(done + dead == 1 || !published[id] || id >= early, "event {id} is lost");
        let replayed = outputs_now.iter().filter(|output| **output == id).count();
        prop_assert!(replayed <= 1 && replayed >= done + dead, "event {id} after the replay: {replayed}");
        prop_assert!(replayed == 1 || !published[id], "event {id} is lost in the replay");
        // Where nobody died it is known how each ends.
        if story.deaths.is_empty() && !story.sequenced && id < early {
            let tried = script.iter().take(story.attempts as usize);
            let until_end: Vec<_> = tried
                .copied()
                .chain(std::iter::repeat_n(Behaviour::Succeed, story.attempts as usize))
                .take(story.attempts as usize)
                .collect();
            let succeeds = until_end.iter().take_while(|one| **one != Behaviour::FailForGood).any(|one| one.succeeds());
            prop_assert_eq!(done == 1, succeeds, "event {} of key {:?}: {:?}", id, key, until_end);
        }
    }
    let place = |id: usize| order.iter().position(|known| *known == id);
    for key in 0..3 {
        let of_key = |ids: &[usize]| -> Vec<usize> {
            ids.iter().copied().filter(|id| story.events[*id].0 == Some(key)).collect()
        };
        let (done, dead, all) = (of_key(&outputs_then), of_key(&letter_ids), of_key(&outputs_now));
        prop_assert!(done.is_sorted_by_key(|id| place(*id)), "key {key} was handled in the order {done:?}");
        prop_assert!(dead.is_sorted_by_key(|id| place(*id)), "dead letters of key {key}: {dead:?}");
        if story.sequenced {
            prop_assert!(all.is_sorted_by_key(|id| place(*id)), "key {key}, with its dead letters: {all:?}");
        }
    }
    Ok(())
}

async fn publish(bus: &Bus, story: &Story, id: usize) -> annals::Result<()> {
    let record = Record::new(id);
    let record = match story.events[id].0 {
        Some(key) => record.key(key.to_string()),
        None => record,
    };
    bus.publish(EVENTS, record).await.map(drop)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_event_comes_to_one_end(story in story()) {
        std::panic::set_hook(Box::new(|what| {
            if !what.to_string().contains("part of the story") {
                eprintln!("{what}");
            }
        }));
        run(&story)?;
    }
}
