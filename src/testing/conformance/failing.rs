//! What happens when handlers fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::cases::{NUMBERS, Noting, OTHERS};
use super::{Outcome, ensure};
use crate::bus::{Bus, Context, Event, HandlerError, Reason, Retry};
use crate::codec::{Json, TopicDef};
use crate::record::{Message, Record};

const DLQ: &str = "numbers.dlq";

fn quick(attempts: u32) -> Retry {
    Retry::fixed(attempts, Duration::from_micros(200))
}

pub(super) async fn one_subscription_does_not_harm_another(bus: Bus) -> Outcome {
    let seen = Noting::default();
    let good = bus.on(NUMBERS, "good", seen.clone()).spawn().await?;
    let bad = bus
        .on(NUMBERS, "bad", |event: Event<u64>, _: Context| async move {
            match event.value() {
                Some(0) => panic!("as the case has it"),
                Some(1) => std::future::pending().await,
                _ => Err::<(), _>(HandlerError::permanent("as the case has it")),
            }
        })
        .deadline(Duration::from_millis(10))
        .retry(quick(2))
        .skip_failed();
    let bad = bad.spawn().await?;
    for number in 0..3 {
        bus.publish(NUMBERS, number).await?;
    }
    good.idle().await?;
    bad.idle().await?;
    ensure!(seen.values() == [0, 1, 2], "{:?}", seen.values());
    let stats = bad.stats();
    ensure!((stats.skipped, stats.failed) == (3, 5), "{stats:?}");
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn failures_are_tried_again(bus: Bus) -> Outcome {
    let seen = Noting::default();
    let noted = seen.clone();
    let handler = move |event: Event<u64>, cx: Context| {
        if event.value() == Some(&1) && cx.attempt() < 3 {
            return Err("not yet");
        }
        noted.note(&event);
        Ok(())
    };
    let subscription = bus.on(NUMBERS, "group", handler).retry(quick(5)).spawn().await?;
    for (number, key) in [(1, "a"), (2, "a"), (3, "b")] {
        bus.publish(NUMBERS, Record::new(number).key(key)).await?;
    }
    subscription.idle().await?;
    let values = seen.values();
    let of_a: Vec<_> = values.iter().copied().filter(|value| *value != 3).collect();
    ensure!(of_a == [1, 2] && values.len() == 3, "{values:?}");
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn outputs_are_there_once(bus: Bus) -> Outcome {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let handler = move |event: Event<u64>, cx: Context| {
        let counted = Arc::clone(&counted);
        async move {
            cx.publish(OTHERS, event.value().copied().unwrap_or(0)).await?;
            // Each event fails once, after it has published.
            match counted.fetch_add(1, Ordering::Relaxed) % 2 {
                0 => Err(HandlerError::from("not this time")),
                _ => Ok(()),
            }
        }
    };
    let subscription = bus.on(NUMBERS, "group", handler).retry(quick(50)).spawn().await?;
    bus.publish_batch(NUMBERS, (0..20).map(|number| Record::new(number).key("k"))).await?;
    subscription.idle().await?;
    let outputs: Vec<_> = bus.history(OTHERS, 100).await?.into_iter().filter_map(Message::into_value).collect();
    ensure!(outputs == (0..20).collect::<Vec<_>>(), "{outputs:?}");
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn what_fails_for_good_is_a_dead_letter(bus: Bus) -> Outcome {
    let handler = |event: Event<u64>, _: Context| if event.value() == Some(&1) { Err("no") } else { Ok(()) };
    let subscription = bus.on(NUMBERS, "group", handler).retry(quick(3)).dead_letter(DLQ).spawn().await?;
    for number in 0..3 {
        bus.publish(NUMBERS, Record::new(number).key("k")).await?;
    }
    bus.publish(TopicDef::<String, Json>::new("numbers"), "no number".to_owned()).await?;
    subscription.idle().await?;
    let letters = bus.dead_letters("group", DLQ)?.list(10).await?;
    let mut why: Vec<_> = letters.iter().map(|letter| (letter.source_offset, letter.reason, letter.attempts)).collect();
    // Of different keys, either may come first.
    why.sort_by_key(|(offset, ..)| *offset);
    ensure!(why == [(1, Reason::Failed, 3), (3, Reason::Undecodable, 1)], "{why:?}");
    ensure!(letters.iter().any(|letter| letter.errors == ["no"]), "the error is not told");
    ensure!(subscription.stats().succeeded == 2, "{:?}", subscription.stats());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn dead_letters_are_replayed_to_their_group(bus: Bus) -> Outcome {
    let (broken, seen, others) = (Arc::new(AtomicBool::new(true)), Noting::default(), Noting::default());
    let (state, noted) = (Arc::clone(&broken), seen.clone());
    let handler = move |event: Event<u64>, _: Context| {
        if state.load(Ordering::Relaxed) && event.value() == Some(&1) {
            return Err("broken");
        }
        noted.note(&event);
        Ok(())
    };
    let subscription =
        bus.on(NUMBERS, "group", handler).retry(Retry::never()).dead_letter(DLQ).sequenced().spawn().await?;
    let other = bus.on(NUMBERS, "other", others.clone()).dead_letter(DLQ).spawn().await?;
    for number in 0..4 {
        bus.publish(NUMBERS, Record::new(number).key("k")).await?;
    }
    subscription.idle().await?;
    ensure!(seen.values() == [0], "{:?} went on behind a dead letter", seen.values());
    broken.store(false, Ordering::Relaxed);
    let letters = bus.dead_letters("group", DLQ)?;
    let replayed = letters.replay_all().await?;
    ensure!(replayed == 3, "{replayed} replayed of 3");
    subscription.idle().await?;
    other.idle().await?;
    ensure!(seen.values() == [0, 1, 2, 3], "{:?}", seen.values());
    ensure!(others.values() == [0, 1, 2, 3], "another group has got the replay: {:?}", others.values());
    ensure!(letters.count().await? == 0, "dead letters are left");
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn expired_events_are_skipped(bus: Bus) -> Outcome {
    let seen = Noting::default();
    let long_ago = chrono::DateTime::from_timestamp(1_000_000_000, 0).ok_or("no such time")?;
    bus.publish(NUMBERS, Record::new(1).timestamp(long_ago).ttl(Duration::from_secs(1))).await?;
    bus.publish(NUMBERS, Record::new(2).ttl(Duration::from_secs(86_400))).await?;
    let subscription = bus.on(NUMBERS, "group", seen.clone()).spawn().await?;
    subscription.idle().await?;
    ensure!(seen.values() == [2], "{:?}", seen.values());
    ensure!(subscription.stats().expired == 1, "{:?}", subscription.stats());
    bus.log().close().await?;
    Ok(())
}
