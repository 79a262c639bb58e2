//! A record of Kafka as one of the log.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, Utc};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use siphasher::sip128::SipHasher13;
use uuid::Uuid;

use super::super::checkpoint::Place;
use super::super::origin::{ORIGIN_LOG, ORIGIN_OFFSET, ORIGIN_PARTITION, ORIGIN_TOPIC};
use crate::error::{Error, ErrorKind, Result};

/// Headers as a borrowed record has them.
pub(super) type HeaderList<'a> = Vec<(&'a str, Option<&'a [u8]>)>;

/// The headers in their order, duplicates and absent values included.
pub(super) fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Result<HeaderList<'a>> {
    let Some(headers) = message.headers() else { return Ok(Vec::new()) };
    // The client library's binding panics over a name that is no text.
    let read = || headers.iter().map(|header| (header.key, header.value)).collect();
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| Error::new(ErrorKind::Unsupported, "a header of the record has a name that is no text in UTF-8"))
}

/// Which log the headers name as the origin, however badly.
pub(super) fn named_origin<'a>(headers: &HeaderList<'a>) -> Option<Option<&'a [u8]>> {
    headers.iter().rev().find(|(name, _)| *name == ORIGIN_LOG).map(|(_, value)| *value)
}

/// Whether a record with these headers was written to this log first.
pub(super) fn is_own(headers: &HeaderList<'_>, log: Uuid) -> bool {
    let text = named_origin(headers).flatten().and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()) == Some(log)
}

pub(super) fn time(message: &BorrowedMessage<'_>) -> Option<DateTime<Utc>> {
    message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis)
}

/// The bytes of a record's key, value and headers.
pub(super) fn bytes_of(message: &BorrowedMessage<'_>, headers: &HeaderList<'_>) -> usize {
    let of_headers = headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len));
    message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len) + of_headers.sum::<usize>()
}

/// The origin of records that no log wrote: the place in Kafka, with the cluster in place of a log.
#[derive(Debug)]
pub(super) struct ClusterOrigin {
    cluster: String,
    topic: String,
    partition: String,
    offset: String,
}

impl ClusterOrigin {
    pub(super) fn new(cluster: &str, place: &Place) -> Self {
        let (topic, partition) = (place.0.clone(), place.1.to_string());
        Self { cluster: cluster_uuid(cluster).to_string(), topic, partition, offset: String::new() }
    }

    /// Adds the four headers.
    pub(super) fn add<'a>(&'a mut self, headers: &mut HeaderList<'a>, offset: i64) {
        self.offset = offset.to_string();
        for (name, text) in [
            (ORIGIN_LOG, &self.cluster),
            (ORIGIN_TOPIC, &self.topic),
            (ORIGIN_PARTITION, &self.partition),
            (ORIGIN_OFFSET, &self.offset),
        ] {
            headers.push((name, Some(text.as_bytes())));
        }
    }
}

/// The identity that stands for a cluster where that of a log would. It must be the same for ever: mirrors tell by it what is theirs.
fn cluster_uuid(cluster: &str) -> Uuid {
    Uuid::from_u128(SipHasher13::new().hash(cluster.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{ClusterOrigin, HeaderList, cluster_uuid, is_own, named_origin};
    use crate::mirror::{ORIGIN_LOG, Origin};
    use crate::record::{Header, Headers};

    #[test]
    fn own_records_are_known_by_their_last_origin() {
        let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (own_text, other_text) = (own.to_string(), other.to_string().to_uppercase());
        let named =
            |texts: &[&str]| is_own(&texts.iter().map(|text| (ORIGIN_LOG, Some(text.as_bytes()))).collect(), own);
        assert!(named(&[&own_text]));
        assert!(named(&[&other_text, &own_text.to_uppercase()]));
        assert!(!named(&[&own_text, &other_text]));
        assert!(!named(&["x"]) && !named(&[]));
        let absent: HeaderList<'_> = vec![(ORIGIN_LOG, None)];
        assert!(!is_own(&absent, own));
        assert_eq!(named_origin(&absent), Some(None));
    }

    #[test]
    fn a_place_in_kafka_is_an_origin() {
        let mut origin = ClusterOrigin::new("MkU3OEVBNTcwNTJENDM2Qg", &("orders".into(), 3));
        for offset in [0, i64::MAX] {
            let mut list = vec![("own", None)];
            origin.add(&mut list, offset);
            let headers = list.iter().map(|(name, value)| match value {
                Some(value) => Header::new(*name, *value),
                None => Header::absent(*name),
            });
            let found = Origin::of(&Headers::from_iter(headers)).unwrap();
            assert_eq!((found.topic.as_str(), found.partition, found.offset), ("orders", 3, offset as u64));
            // A literal: whatever computes it may never change it.
            assert_eq!(found.log, cluster_uuid("MkU3OEVBNTcwNTJENDM2Qg"));
            assert_eq!(found.log.to_string(), "09f9680d-763a-00af-97e3-018c1a93da27");
        }
        assert_ne!(cluster_uuid("a"), cluster_uuid("b"));
    }
}
