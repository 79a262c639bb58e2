//! Publishing events, with the standard headers filled in.

use super::Bus;
use super::context::Context;
use crate::codec::{Codec, TopicDef};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{
    CAUSATION_DEPTH, CAUSATION_ID, CONTENT_TYPE, CORRELATION_ID, ENVIRONMENT, EVENT_TYPE, MESSAGE_ID, SOURCE,
    TRACEPARENT, TRACESTATE, TraceParent, type_name_of,
};
use crate::producer::Receipt;
use crate::record::{Header, Headers, Message, Record};
use crate::topic::Topic;

impl Bus {
    /// Publishes an event: the record with the [standard headers](crate::event) that it lacks. Inside of a handler it inherits the
    /// correlation of the event that is being handled, and names it as its cause. It is written at once, whatever becomes of the
    /// handler; [`Context::publish`](super::Context::publish) writes it with the handler's success.
    ///
    /// # Errors
    ///
    /// As [`Topic::produce`]; [`NotFound`](ErrorKind::NotFound) for a topic that does not exist, if the bus makes none;
    /// [`Invalid`](ErrorKind::Invalid) if the chain of causes has become [too long](super::BusSettings::causation_depth_max).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the event may be published or not.
    ///
    /// # Example
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> annals::Result<()> {
    /// use annals::{Json, Log, Record, TopicDef};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct OrderPlaced { amount: u64 }
    ///
    /// const ORDERS: TopicDef<OrderPlaced, Json> = TopicDef::new("orders");
    ///
    /// let bus = Log::in_memory()?.bus();
    /// bus.publish(ORDERS, OrderPlaced { amount: 17 }).await?;
    /// bus.publish(ORDERS, Record::new(OrderPlaced { amount: 4 }).key("order-18").user_id("eve")).await?;
    ///
    /// let last = &bus.history(ORDERS, 1).await?[0];
    /// assert_eq!(last.event_type(), Some("order.placed"));
    /// assert!(last.correlation_id().is_some());
    /// # Ok(()) }
    /// ```
    pub async fn publish<T, C>(&self, topic: TopicDef<T, C>, record: impl Into<Record<T>>) -> Result<Receipt>
    where
        C: Codec<T> + Default,
    {
        let record = self.filled::<T, C>(record.into(), Context::current().as_ref())?;
        self.target(&topic).await?.publish(self, record).await
    }

    /// Publishes an event to one partition, whatever its key.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish); [`Invalid`](ErrorKind::Invalid) for a partition that does not exist.
    ///
    /// # Cancel safety
    ///
    /// As [`publish`](Self::publish).
    pub async fn publish_to<T, C>(
        &self,
        topic: TopicDef<T, C>,
        partition: u32,
        record: impl Into<Record<T>>,
    ) -> Result<Receipt>
    where
        C: Codec<T> + Default,
    {
        self.publish(topic, record.into().partition(partition)).await
    }

    /// Publishes events as one: all of them are there, or none is. Answers in their order.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish); nothing is published then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped all may be published or none.
    pub async fn publish_batch<T, C, R>(
        &self,
        topic: TopicDef<T, C>,
        records: impl IntoIterator<Item = R>,
    ) -> Result<Vec<Receipt>>
    where
        C: Codec<T> + Default,
        R: Into<Record<T>>,
    {
        let current = Context::current();
        let records: Result<Vec<_>> =
            records.into_iter().map(|record| self.filled::<T, C>(record.into(), current.as_ref())).collect();
        let (records, topic) = (records?, self.target(&topic).await?);
        let count = records.len() as u64;
        let receipts = topic.publish_all(self, records).await?;
        self.inner.stats.published.add(count);
        Ok(receipts)
    }

    /// Puts everything that was published so far, at whatever level, on the disk.
    ///
    /// # Errors
    ///
    /// As [`Log::sync`](crate::Log::sync).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped the sync goes on.
    pub async fn flush(&self) -> Result<()> {
        self.sync().await
    }

    pub(super) async fn produce<T, C: Codec<T>>(&self, topic: &Topic<T, C>, record: Record<T>) -> Result<Receipt> {
        let span = tracing::debug_span!(
            "publish",
            topic = topic.name(),
            event_type = record.headers.get_str(EVENT_TYPE),
            message_id = record.headers.get_str(MESSAGE_ID),
            traceparent = record.headers.get_str(TRACEPARENT),
            offset = tracing::field::Empty,
        );
        let receipt = tracing::Instrument::instrument(topic.produce(record), span.clone()).await?;
        span.record("offset", receipt.offset);
        self.inner.stats.published.add(1);
        Ok(receipt)
    }

    /// The record with all standard headers that it lacks.
    pub(super) fn filled<T, C: Codec<T>>(&self, mut record: Record<T>, cause: Option<&Context>) -> Result<Record<T>> {
        let (settings, ids) = (&self.inner.settings, &self.inner.ids);
        let now = self.log().inner.engine.env.clock.now_micros();
        let cause = cause.map(Context::message);
        let headers = &mut record.headers;
        let id = match headers.get_str(MESSAGE_ID) {
            Some(id) => id.to_owned(),
            None => {
                let id = ids.uuid(now).to_string();
                headers.push(Header::standard(MESSAGE_ID, &id));
                id
            }
        };
        if !headers.contains(CORRELATION_ID) {
            // What begins something is called after itself.
            let inherited = cause.and_then(|cause| cause.correlation_id().or(cause.headers.get_str(MESSAGE_ID)));
            headers.push(Header::standard(CORRELATION_ID, inherited.unwrap_or(&id)));
        }
        put(headers, SOURCE, || settings.source.clone());
        put(headers, EVENT_TYPE, type_name_of::<T>);
        put(headers, CONTENT_TYPE, || C::CONTENT_TYPE.to_owned());
        if let Some(environment) = &settings.environment {
            put(headers, ENVIRONMENT, || environment.clone());
        }
        if let Some(cause) = cause {
            if let Some(id) = cause.headers.get_str(MESSAGE_ID) {
                put(headers, CAUSATION_ID, || id.to_owned());
            }
            self.deepen(headers, cause)?;
        }
        if settings.trace_context && !headers.contains(TRACEPARENT) {
            let parent = cause.and_then(Message::trace_parent);
            let parent = match parent {
                Some(parent) => parent.with_span_id(ids.number()),
                None => TraceParent::new(u128::from(ids.number()) << 64 | u128::from(ids.number()), ids.number(), true),
            };
            headers.push(Header::standard(TRACEPARENT, parent.to_string()));
            if let Some(state) = cause.and_then(|cause| cause.headers.get(TRACESTATE)) {
                put_bytes(headers, TRACESTATE, state.clone());
            }
        }
        Ok(record)
    }

    /// Counts how far the event is from the one that began it all.
    fn deepen(&self, headers: &mut Headers, cause: &Message) -> Result<()> {
        let depth = cause.headers.get_str(CAUSATION_DEPTH).and_then(|depth| depth.parse::<u32>().ok()).unwrap_or(0);
        let max = self.inner.settings.causation_depth_max;
        if depth >= max {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the event would be number {} of a chain in which each was published by the handler of the one before; {max} are \
                     allowed. Do two handlers answer each other? (it began with correlation_id {})",
                    u64::from(depth) + 1,
                    cause.correlation_id().unwrap_or("none")
                ),
            ));
        }
        headers.remove_all(CAUSATION_DEPTH);
        headers.push(Header::standard(CAUSATION_DEPTH, (depth + 1).to_string()));
        Ok(())
    }
}

fn put(headers: &mut Headers, name: &'static str, value: impl FnOnce() -> String) {
    if !headers.contains(name) {
        headers.push(Header::standard(name, value()));
    }
}

fn put_bytes(headers: &mut Headers, name: &'static str, value: bytes::Bytes) {
    if !headers.contains(name) {
        headers.push(Header::standard(name, value));
    }
}
