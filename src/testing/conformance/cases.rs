//! What happens when nothing goes wrong.

use std::sync::{Arc, Mutex};

use super::{Outcome, ensure};
use crate::bus::{Bus, Context, Event, Filter, Handler, HandlerError};
use crate::codec::{Json, TopicDef};
use crate::error::{ErrorKind, Result};
use crate::log::settings::TopicSettings;
use crate::record::{Message, Record};
use crate::segment::lock;

pub(super) const NUMBERS: TopicDef<u64, Json> = TopicDef::new("numbers");
pub(super) const OTHERS: TopicDef<u64, Json> = TopicDef::new("others");

/// A handler that takes note of what it is called with.
#[derive(Debug, Clone, Default)]
pub(super) struct Noting(Arc<Mutex<Vec<(String, u64)>>>);

impl Noting {
    pub(super) fn note(&self, event: &Event<u64>) {
        let key = event.key().map_or(String::new(), |key| String::from_utf8_lossy(key).into_owned());
        lock(&self.0).push((key, event.value().copied().unwrap_or(u64::MAX)));
    }

    pub(super) fn values(&self) -> Vec<u64> {
        lock(&self.0).iter().map(|(_, value)| *value).collect()
    }

    fn of_key(&self, wanted: &str) -> Vec<u64> {
        lock(&self.0).iter().filter(|(key, _)| key == wanted).map(|(_, value)| *value).collect()
    }
}

impl Handler<u64> for Noting {
    async fn handle(&self, event: Event<u64>, _: Context) -> Result<(), HandlerError> {
        self.note(&event);
        Ok(())
    }
}

async fn topic(bus: &Bus, partitions: u32) -> Result<()> {
    bus.create_topic(NUMBERS, TopicSettings::default().partitions(partitions)).await
}

pub(super) async fn an_event_reaches_every_group(bus: Bus) -> Outcome {
    let (first, second) = (Noting::default(), Noting::default());
    let a = bus.on(NUMBERS, "a", first.clone()).spawn().await?;
    bus.publish(NUMBERS, 1).await?;
    let b = bus.on(NUMBERS, "b", second.clone()).spawn().await?;
    bus.publish(NUMBERS, 2).await?;
    a.idle().await?;
    b.idle().await?;
    ensure!(first.values() == [1, 2] && second.values() == [1, 2], "{:?} and {:?}", first.values(), second.values());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn members_of_a_group_share_the_events(bus: Bus) -> Outcome {
    topic(&bus, 4).await?;
    let (first, second) = (Noting::default(), Noting::default());
    let a = bus.on(NUMBERS, "group", first.clone()).spawn().await?;
    let b = bus.on(NUMBERS, "group", second.clone()).spawn().await?;
    for number in 0..100 {
        bus.publish(NUMBERS, Record::new(number).key(format!("key {number}"))).await?;
    }
    a.idle().await?;
    b.idle().await?;
    ensure!(!first.values().is_empty() && !second.values().is_empty(), "one member has got everything");
    let mut all = [first.values(), second.values()].concat();
    all.sort_unstable();
    ensure!(all == (0..100).collect::<Vec<_>>(), "not each event once: {all:?}");
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn topics_are_isolated(bus: Bus) -> Outcome {
    let seen = Noting::default();
    let subscription = bus.on(NUMBERS, "group", seen.clone()).spawn().await?;
    bus.publish(OTHERS, 1).await?;
    bus.publish(NUMBERS, 2).await?;
    subscription.idle().await?;
    ensure!(seen.values() == [2], "{:?}", seen.values());
    bus.log().close().await?;
    Ok(())
}

async fn in_order(bus: Bus, concurrency: usize) -> Outcome {
    topic(&bus, 3).await?;
    let seen = Noting::default();
    let noted = seen.clone();
    let handler = move |event: Event<u64>, _: Context| {
        let noted = noted.clone();
        async move {
            for _ in 0..event.value().copied().unwrap_or(0) % 5 {
                tokio::task::yield_now().await;
            }
            noted.note(&event);
            Ok::<_, HandlerError>(())
        }
    };
    let subscription = bus.on(NUMBERS, "group", handler).concurrency(concurrency).spawn().await?;
    for number in 0..200 {
        bus.publish(NUMBERS, Record::new(number).key(format!("key {}", number % 7))).await?;
    }
    subscription.idle().await?;
    ensure!(seen.values().len() == 200, "{} events of 200", seen.values().len());
    for key in 0..7 {
        let of_key = seen.of_key(&format!("key {key}"));
        ensure!(of_key.is_sorted(), "key {key}: {of_key:?}");
    }
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn events_of_a_key_come_in_order(bus: Bus) -> Outcome {
    in_order(bus, 1).await
}

pub(super) async fn events_of_a_key_come_in_order_with_many_at_once(bus: Bus) -> Outcome {
    in_order(bus, 16).await
}

pub(super) async fn a_batch_is_whole(bus: Bus) -> Outcome {
    let receipts = bus.publish_batch(NUMBERS, 0..50).await?;
    ensure!(receipts.len() == 50, "{} receipts", receipts.len());
    let wrong = bus.publish_batch(NUMBERS, [Record::new(1), Record::new(2).partition(99)]).await;
    ensure!(wrong.is_err(), "a batch with a record for a partition that does not exist was published");
    let history = bus.history(NUMBERS, 1000).await?;
    ensure!(history.len() == 50, "{} events, of which 50 were published", history.len());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn headers_are_kept_and_filled_in(bus: Bus) -> Outcome {
    let record =
        Record::new(1).key("k").header("mine", "1").header("mine", "2").header_absent("gone").event_type("chosen");
    bus.publish(NUMBERS, record).await?;
    let events = bus.history(NUMBERS, 1).await?;
    let event = events.first().ok_or("no event")?;
    let mine: Vec<_> = event.headers().get_all("mine").filter_map(|header| header.value_str()).collect();
    ensure!(mine == ["1", "2"], "{mine:?}");
    ensure!(event.headers().contains("gone") && event.headers().get("gone").is_none(), "an absent value was not kept");
    ensure!(event.event_type() == Some("chosen"), "the type is {:?}", event.event_type());
    ensure!(event.message_id().is_some(), "no message_id");
    ensure!(event.correlation_id().is_some() && event.source().is_some(), "no correlation_id or source");
    ensure!(event.content_type() == Some("application/json"), "the content type is {:?}", event.content_type());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn what_a_handler_publishes_names_its_cause(bus: Bus) -> Outcome {
    let handler = |event: Event<u64>, cx: Context| async move {
        cx.publish(OTHERS, event.value().copied().unwrap_or(0) + 1).await?;
        Ok::<_, HandlerError>(())
    };
    let subscription = bus.on(NUMBERS, "group", handler).spawn().await?;
    bus.publish(NUMBERS, 1).await?;
    subscription.idle().await?;
    let (causes, effects) = (bus.history(NUMBERS, 1).await?, bus.history(OTHERS, 10).await?);
    let (Some(cause), [effect]) = (causes.first(), &effects[..]) else {
        return Err(format!("{} effects of one event", effects.len()).into());
    };
    ensure!(effect.correlation_id() == cause.correlation_id(), "the correlation was not inherited");
    let id = cause.message_id().and_then(|id| std::str::from_utf8(id).ok());
    ensure!(effect.causation_id() == id, "the cause is {:?}, and not {id:?}", effect.causation_id());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn history_is_kept_and_can_be_cleared(bus: Bus) -> Outcome {
    bus.publish_batch(NUMBERS, 0..5).await?;
    bus.publish(OTHERS, 9).await?;
    let values = async |topic, count| -> Result<Vec<u64>> {
        Ok(bus.history(topic, count).await?.into_iter().filter_map(Message::into_value).collect())
    };
    ensure!(values(NUMBERS, 2).await? == [3, 4], "not the last two");
    bus.clear_history("numbers").await?;
    ensure!(values(NUMBERS, 10).await?.is_empty(), "the history was not cleared");
    ensure!(values(OTHERS, 10).await? == [9], "another topic's history was cleared");
    ensure!(values(TopicDef::new("none"), 10).await?.is_empty(), "a topic that does not exist has a history");
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn subscribers_are_counted(bus: Bus) -> Outcome {
    ensure!(bus.subscriber_count("numbers") == 0, "subscribers before there are any");
    let a = bus.on(NUMBERS, "a", Noting::default()).spawn().await?;
    let _b = bus.on(NUMBERS, "b", Noting::default()).spawn().await?;
    let _c = bus.on(OTHERS, "a", Noting::default()).spawn().await?;
    ensure!(bus.subscriber_count("numbers") == 2, "{} of 2", bus.subscriber_count("numbers"));
    a.unsubscribe().await?;
    ensure!(bus.subscriber_count("numbers") == 1, "{} of 1", bus.subscriber_count("numbers"));
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn unsubscribing_ends_the_calls_and_keeps_the_place(bus: Bus) -> Outcome {
    let seen = Noting::default();
    let subscription = bus.on(NUMBERS, "group", seen.clone()).spawn().await?;
    bus.publish(NUMBERS, 1).await?;
    subscription.idle().await?;
    subscription.unsubscribe().await?;
    bus.publish(NUMBERS, 2).await?;
    ensure!(subscription.is_stopped() && seen.values() == [1], "{:?} after it was ended", seen.values());
    let again = bus.on(NUMBERS, "group", seen.clone()).spawn().await?;
    again.idle().await?;
    ensure!(seen.values() == [1, 2], "{:?} after it was begun again", seen.values());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn pausing_holds_events_back(bus: Bus) -> Outcome {
    let seen = Noting::default();
    let subscription = bus.on(NUMBERS, "group", seen.clone()).spawn().await?;
    subscription.idle().await?;
    subscription.pause();
    bus.publish(NUMBERS, 1).await?;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    ensure!(seen.values().is_empty(), "called while paused");
    subscription.resume();
    subscription.idle().await?;
    ensure!(seen.values() == [1], "{:?} after it was resumed", seen.values());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn patterns_match_topics_that_come_later(bus: Bus) -> Outcome {
    let seen = Noting::default();
    let subscription = bus.on(TopicDef::<u64, Json>::new("eu.*"), "group", seen.clone()).spawn().await?;
    bus.publish(TopicDef::<u64, Json>::new("eu.berlin"), 1).await?;
    bus.publish(TopicDef::<u64, Json>::new("us.boston"), 2).await?;
    subscription.idle().await?;
    ensure!(seen.values() == [1], "{:?}", seen.values());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn filtered_events_are_done(bus: Bus) -> Outcome {
    let seen = Noting::default();
    let on = || bus.on(NUMBERS, "group", seen.clone());
    let subscription = on().filter(Filter::header("wanted", "yes")).spawn().await?;
    bus.publish(NUMBERS, 1).await?;
    bus.publish(NUMBERS, Record::new(2).header("wanted", "yes")).await?;
    subscription.idle().await?;
    subscription.unsubscribe().await?;
    let all = on().spawn().await?;
    all.idle().await?;
    ensure!(seen.values() == [2], "{:?}", seen.values());
    bus.log().close().await?;
    Ok(())
}

pub(super) async fn publishing_after_close_is_an_error(bus: Bus) -> Outcome {
    let subscription = bus.on(NUMBERS, "group", Noting::default()).spawn().await?;
    bus.publish(NUMBERS, 1).await?;
    bus.log().close().await?;
    subscription.stopped().await?;
    let kind = bus.publish(NUMBERS, 2).await.map_err(|error| error.kind());
    ensure!(kind == Err(ErrorKind::Closed), "{kind:?}");
    ensure!(!bus.health().live, "it says that it is live");
    Ok(())
}
