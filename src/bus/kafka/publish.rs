//! Publishing to Kafka.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Timestamp;
use rdkafka::producer::{DeliveryFuture, FutureRecord, Producer as _};

use super::clients::{self, Producer};
use super::records::{Outgoing, millis, native_headers};
use super::topics::TopicInfo;
use super::writer::{Failure, Writer, receipt};
use super::{Cluster, DELIVERY_MAX};
use crate::bus::Bus;
use crate::bus::backend::Store;
use crate::bus::timers::{Sleep, Timers};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EVENT_TYPE, MESSAGE_ID, TRACEPARENT};
use crate::kafka::from_kafka;
use crate::producer::Receipt;
use crate::record::Record;
use crate::segment::lock;
use crate::task::unblock;
use crate::text::quoted;

/// How long to wait for room among what is on its way.
const ROOM_AFTER: Duration = Duration::from_millis(5);

/// Publishes an event; it is there on all replicas in sync when this resolves.
pub(in crate::bus) async fn publish(bus: &Bus, topic: &Arc<TopicInfo>, record: Record) -> Result<Receipt> {
    let Store::Kafka(cluster) = &bus.inner.store else {
        return Err(Error::invalid("the topic belongs to another bus"));
    };
    let span = tracing::debug_span!(
        "publish",
        topic = &*topic.name,
        event_type = record.headers.get_str(EVENT_TYPE),
        message_id = record.headers.get_str(MESSAGE_ID),
        traceparent = record.headers.get_str(TRACEPARENT),
        offset = tracing::field::Empty,
    );
    let published = tracing::Instrument::instrument(cluster.publish(topic, &record), span.clone()).await;
    let trouble = |error: &&Error| matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied);
    *lock(&cluster.trouble) = published.as_ref().err().filter(trouble).cloned();
    let receipt = published?;
    span.record("offset", receipt.offset);
    bus.inner.stats.published.add(1);
    Ok(receipt)
}

impl Cluster {
    async fn publish(self: &Arc<Self>, topic: &Arc<TopicInfo>, record: &Record) -> Result<Receipt> {
        self.check_open()?;
        if topic.check_partition(record.partition).is_err() {
            // It may have got more partitions.
            match self.find_away(&topic.name).await? {
                Some(topic) => topic.check_partition(record.partition)?,
                None => return Err(super::not_found(&topic.name)),
            }
        }
        let (producer, delivery) = self.send(topic, record).await?;
        match delivery.await {
            Ok(Ok(delivery)) => {
                let time = match delivery.timestamp {
                    Timestamp::CreateTime(millis) | Timestamp::LogAppendTime(millis) => millis,
                    Timestamp::NotAvailable => millis(record, self.clock().now_micros()),
                };
                Ok(receipt(delivery.partition, delivery.offset, time))
            }
            Ok(Err((error, _))) => {
                // A producer that has come to its end has more to say than that it lets go of what it has.
                let end = producer.client().fatal_error().map(|(code, _)| KafkaError::MessageProduction(code));
                Err(self.not_published(topic, end.unwrap_or(error)))
            }
            Err(_) => Err(Error::closed()),
        }
    }

    /// Hands the event to the client; waits while that has no room.
    async fn send(&self, topic: &TopicInfo, record: &Record) -> Result<(Producer, DeliveryFuture)> {
        let timers = Timers::of(&self.engine)?;
        let until = self.now().saturating_add(DELIVERY_MAX);
        loop {
            let native = FutureRecord {
                topic: &topic.name,
                partition: record.partition.and_then(|partition| i32::try_from(partition).ok()),
                payload: record.value.as_deref(),
                key: record.key.as_deref(),
                timestamp: Some(millis(record, self.clock().now_micros())),
                headers: Some(native_headers(&record.headers)),
            };
            let producer = self.producer()?;
            match producer.send_result::<[u8], [u8]>(native) {
                Ok(delivery) => return Ok((producer, delivery)),
                Err((KafkaError::MessageProduction(Code::QueueFull), _)) if self.now() < until => {
                    Sleep::new(&self.engine, &timers, ROOM_AFTER).await;
                }
                Err((KafkaError::MessageProduction(Code::QueueFull), _)) => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        "there is no room for more events on their way: the brokers are slower than the publishers",
                    ));
                }
                Err((error, _)) => return Err(self.not_published(topic, error)),
            }
        }
    }

    /// The producer; another if this one has come to its end.
    fn producer(&self) -> Result<Producer> {
        let mut producer = lock(&self.producer);
        if producer.client().fatal_error().is_some() {
            *producer = clients::producer(&self.config)?;
        }
        Ok(producer.clone())
    }

    fn not_published(&self, topic: &TopicInfo, error: KafkaError) -> Error {
        if matches!(
            error.rdkafka_error_code(),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
        ) {
            self.forget(&topic.name);
        }
        from_kafka(format!("cannot publish to topic {}", quoted(&topic.name)), error)
    }

    /// Publishes events as one.
    pub(in crate::bus) async fn publish_all(self: &Arc<Self>, records: Vec<Outgoing>) -> Result<Vec<Receipt>> {
        self.check_open()?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let cluster = Arc::clone(self);
        unblock(move || cluster.write_batch(&records)).await
    }

    fn write_batch(&self, records: &[Outgoing]) -> Result<Vec<Receipt>> {
        let mut writer = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match writer.take() {
            Some(open) => open,
            None => Writer::open(&self.config, &self.id, Arc::clone(self.clock()))?,
        };
        let records: Vec<&Outgoing> = records.iter().collect();
        let written = open.write(&records, None);
        if !matches!(written, Err(Failure::Broken(_) | Failure::Unknown(_))) {
            *writer = Some(open);
        }
        written.map_err(Failure::into_error)
    }

    /// Waits until everything that was handed over is with the brokers.
    pub(in crate::bus) async fn flush(self: &Arc<Self>) -> Result<()> {
        self.check_open()?;
        let producer = self.producer()?;
        unblock(move || {
            producer.flush(DELIVERY_MAX).map_err(|error| from_kafka("not all events could be published in time", error))
        })
        .await
    }
}
