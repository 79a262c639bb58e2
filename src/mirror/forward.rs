//! Sending records, and what stands for those that cannot be sent.

use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::lane::{Lane, Next};
use super::origin::Origin;
use super::outgoing::{bytes_of, millis};
use super::producer::{Outgoing, Trouble};
use super::run::{Runner, Sent, Session};
use super::settings::{OnBreach, OnRefused, Partitions};
use super::status::ErrorClass;
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::from_kafka;
use crate::partitioner::partition_of_key;
use crate::record::{Message, Record};

impl Runner {
    /// Sends a record, passes it over, or does with it what is to be done with one that the target refuses. Answers how many bytes it
    /// has.
    pub(super) fn take_record(&mut self, session: &Session, index: usize, message: Message) -> Result<usize, Trouble> {
        let offset = message.offset();
        let foreign = !self.settings.forward_foreign && Origin::is_named(message.headers());
        let unwanted = || self.settings.filter.as_ref().is_some_and(|keep| !keep(&message));
        if foreign || unwanted() {
            self.unit.open(self.now());
            self.unit.passed_over += 1;
            self.advance(index, message);
            return Ok(0);
        }
        let Some(lane) = self.lanes.get(index) else { return Ok(0) };
        if let Some(error) = lane.memory.refused.get(&offset).cloned() {
            return self.replace(session, index, message, error);
        }
        let Some(timestamp) = millis(&message) else {
            let error = Error::invalid(format!(
                "the record at offset {offset} has the time {}, which Kafka has no number for: the first millisecond of 1970 and the one \
                 before it stand for no time there",
                message.timestamp()
            ));
            return self.refused(session, index, message, error);
        };
        let partition = match self.partition(index, &message) {
            Ok(partition) => partition,
            Err(error) => return self.refused(session, index, message, error),
        };
        let bytes = bytes_of(&message);
        let Some(lane) = self.lanes.get_mut(index) else { return Ok(0) };
        let careful = lane.is_careful();
        let headers = lane.texts.headers(&message);
        let target = Arc::clone(&lane.target);
        let outgoing = Outgoing {
            topic: &target,
            partition,
            key: message.key().map(|key| &**key),
            value: message.value().map(|value| &**value),
            headers,
            timestamp: Some(timestamp),
        };
        if let Sent::Refused(code) = self.send(session, index, offset, outgoing)? {
            let error = from_kafka(
                format!("the record at offset {offset} has {bytes} bytes, and the client does not take it"),
                KafkaError::MessageProduction(code),
            );
            return self.refused(session, index, message, error);
        }
        self.unit.records += 1;
        self.unit.bytes += bytes;
        self.advance(index, message);
        if careful {
            let shared = Arc::clone(&self.shared);
            session.producer.flush(|| shared.is_stopping())?;
            // Each of them takes a round trip.
            self.look_at_clock();
        }
        Ok(bytes)
    }

    fn advance(&mut self, index: usize, message: Message) {
        let next = message.offset() + 1;
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.advance(Some(message), next);
        }
    }

    fn partition(&self, index: usize, message: &Message) -> Result<u32> {
        let Some(lane) = self.lanes.get(index) else { return Ok(0) };
        let (own, there) = (lane.place.1, lane.target_partitions);
        let picked = match &self.settings.partitions {
            Partitions::Preserve => own,
            Partitions::ByKey => match message.key() {
                Some(key) => partition_of_key(key, there),
                None => own.checked_rem(there).unwrap_or(0),
            },
            Partitions::Custom(pick) => pick(message, there),
        };
        if picked >= there {
            return Err(Error::invalid(format!(
                "partition {picked} was picked for the record at offset {} of topic {}, partition {own}; topic {} has {there}, so 0 to \
                 {} are allowed",
                message.offset(),
                lane.place.0,
                lane.target,
                there.saturating_sub(1)
            )));
        }
        Ok(picked)
    }

    /// The target, or its client, will never take this record.
    fn refused(&mut self, session: &Session, index: usize, message: Message, error: Error) -> Result<usize, Trouble> {
        if self.settings.on_refused != OnRefused::Stop {
            return self.replace(session, index, message, error);
        }
        self.hold_back(index, message, error)
    }

    /// Pauses a partition before a record.
    fn hold_back(&mut self, index: usize, message: Message, error: Error) -> Result<usize, Trouble> {
        let now = self.now();
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.put_back(Next::Record(message));
            lane.pause(&self.shared, now, error);
        }
        Ok(0)
    }

    /// Does with a record what the settings say of those that are refused.
    fn replace(&mut self, session: &Session, index: usize, message: Message, error: Error) -> Result<usize, Trouble> {
        let offset = message.offset();
        match self.settings.on_refused.clone() {
            OnRefused::Stop => return self.hold_back(index, message, error),
            // A dead letter of a dead letter would be refused as well, and so on.
            OnRefused::DeadLetter(topic) if topic == message.topic() => {
                let what = format!("topic {topic} is where dead letters go, and has one that is refused itself");
                return self.hold_back(index, message, Error::with_source(error.kind(), what, error));
            }
            OnRefused::DeadLetter(topic) => {
                let is_buried = |lane: &Lane| lane.memory.buried.contains(&offset);
                if !self.lanes.get(index).is_some_and(is_buried) {
                    match self.bury(&topic, &message, &error) {
                        Err(why) if why.kind() == ErrorKind::Invalid => {
                            let what = format!("topic {topic} does not take the dead letter: {why}");
                            return self.hold_back(index, message, Error::with_source(error.kind(), what, error));
                        }
                        buried => buried?,
                    }
                }
                if let Some(lane) = self.lanes.get_mut(index) {
                    lane.memory.buried.insert(offset);
                }
                // Each of them waits for the disk.
                self.look_at_clock();
            }
            OnRefused::Skip => {
                let partition = self.partition(index, &message).unwrap_or(0);
                let Some(lane) = self.lanes.get_mut(index) else { return Ok(0) };
                let headers = lane.texts.skipped(offset, &error);
                let target = Arc::clone(&lane.target);
                let key = message.key().map(|key| &**key);
                // The mark's own time: that of the record may be what is refused.
                let outgoing = Outgoing { topic: &target, partition, key, value: Some(&[]), headers, timestamp: None };
                self.send_mark(session, index, offset, outgoing)?;
            }
        }
        self.unit.open(self.now());
        self.unit.refused += 1;
        self.shared.met(ErrorClass::Skipped, Some((message.topic().to_owned(), message.partition())), error);
        self.advance(index, message);
        Ok(0)
    }

    /// Writes a dead letter: the record, and in its headers where it comes from and why it is here.
    fn bury(&self, topic: &str, message: &Message, error: &Error) -> Result<()> {
        let mut record = match message.value() {
            Some(value) => Record::new(value.clone()),
            None => Record::tombstone(),
        };
        record = record.timestamp(message.timestamp());
        if let Some(key) = message.key() {
            record = record.key(key.clone());
        }
        for header in message.headers().iter() {
            record = match header.value() {
                Some(value) => record.header(header.name(), value.clone()),
                None => record.header_absent(header.name()),
            };
        }
        let record = record
            .header("dead-letter.mirror", self.settings.name.clone())
            .header("dead-letter.topic", message.topic().to_owned())
            .header("dead-letter.partition", message.partition().to_string())
            .header("dead-letter.offset", message.offset().to_string())
            .header("dead-letter.error", said(error));
        self.settings.log.raw_topic(topic)?.blocking_produce(record).map(drop)
    }

    /// Retention has let records go before they were forwarded.
    pub(super) fn take_gap(&mut self, session: &Session, index: usize, from: u64, to: u64) -> Result<usize, Trouble> {
        let now = self.now();
        let Some(lane) = self.lanes.get_mut(index) else { return Ok(0) };
        let (topic, own) = lane.place.clone();
        let sentence = format!(
            "retention has let offsets {from} to {} of topic {topic}, partition {own} go before they were forwarded",
            to - 1
        );
        let error = Error::new(ErrorKind::OffsetOutOfRange, sentence);
        if self.settings.on_breach != OnBreach::Skip {
            lane.put_back(Next::Gap { from, to });
            lane.pause(&self.shared, now, error);
            return Ok(0);
        }
        self.shared.met(ErrorClass::Skipped, Some((topic.clone(), own)), error);
        let headers = lane.texts.gap(from, to);
        let (target, there) = (Arc::clone(&lane.target), lane.target_partitions);
        let partition = if self.preserves() { own } else { own.checked_rem(there).unwrap_or(0) };
        let key = format!("annals.gap/{topic}/{own}");
        let outgoing = Outgoing {
            topic: &target,
            partition,
            key: Some(key.as_bytes()),
            value: Some(&[]),
            headers,
            timestamp: None,
        };
        self.send_mark(session, index, from, outgoing)?;
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.advance(None, to);
        }
        Ok(0)
    }

    /// Sends a mark. One that is refused is met again as a failure of all of the transaction.
    fn send_mark(
        &mut self,
        session: &Session,
        index: usize,
        offset: u64,
        outgoing: Outgoing<'_>,
    ) -> Result<(), Trouble> {
        match self.send(session, index, offset, outgoing)? {
            Sent::Yes => Ok(()),
            Sent::Refused(code) => Err(cannot_mark(code)),
        }
    }
}

pub(super) fn cannot_mark(code: Code) -> Trouble {
    Trouble::Fatal(from_kafka("the target does not take the mirror's own records", KafkaError::MessageProduction(code)))
}

/// What an error says, and what is behind it.
fn said(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
