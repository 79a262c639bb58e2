//! Whether the target holds what the log holds, record by record.

use std::collections::BTreeMap;
use std::fmt;

use annals::mirror::{ORIGIN_LOG, ORIGIN_OFFSET, ORIGIN_PARTITION, ORIGIN_TOPIC};
use annals::{Log, Message, Start};

use crate::support::Dumped;

/// A record as it should be in the target, or is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Forwarded {
    pub(crate) partition: u32,
    /// In the log.
    pub(crate) offset: u64,
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    /// With those of the origin behind the record's own.
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) value: Option<Vec<u8>>,
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| bytes.escape_ascii().to_string());
        let (key, mut value) = (text(&self.key), text(&self.value));
        if let Some(value) = value.as_mut().filter(|value| value.len() > 200) {
            *value = format!("{}... ({} characters)", &value[..200], value.len());
        }
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name, text(value))).collect();
        let (partition, offset, timestamp) = (self.partition, self.offset, self.timestamp);
        write!(
            f,
            "partition {partition}, offset {offset}, time {timestamp}, key {key:?}, headers {headers:?}, value {value:?}"
        )
    }
}

impl Forwarded {
    /// What should be made of a record whose partition is preserved.
    pub(crate) fn of_message(log: &Log, message: &Message) -> Self {
        let own =
            message.headers().iter().map(|header| (header.name().to_owned(), header.value().map(|it| it.to_vec())));
        let origin = [
            (ORIGIN_LOG, log.id().to_string()),
            (ORIGIN_TOPIC, message.topic().to_owned()),
            (ORIGIN_PARTITION, message.partition().to_string()),
            (ORIGIN_OFFSET, message.offset().to_string()),
        ];
        let origin = origin.into_iter().map(|(name, value)| (name.to_owned(), Some(value.into_bytes())));
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().timestamp_micros().div_euclid(1000),
            key: message.key().map(|key| key.to_vec()),
            headers: own.chain(origin).collect(),
            value: message.value().map(|value| value.to_vec()),
        }
    }

    /// What was found in the target. What does not say where it comes from is nothing that a mirror has forwarded.
    pub(crate) fn of_dumped(dumped: &Dumped) -> Self {
        let offset = dumped.header(ORIGIN_OFFSET).and_then(|offset| offset.parse().ok());
        Self {
            partition: dumped.partition,
            offset: offset.unwrap_or_else(|| panic!("a record without an origin: {dumped:?}")),
            timestamp: dumped.timestamp,
            key: dumped.key.clone(),
            headers: dumped.headers.clone(),
            value: dumped.value.clone(),
        }
    }
}

/// All that a topic of the log holds, as it should be in the target.
pub(crate) fn expected(log: &Log, topic: &str) -> Vec<Forwarded> {
    let topic = log.raw_topic(topic).unwrap();
    let mut expected = Vec::new();
    for partition in 0..topic.partitions() {
        let mut replay = topic.replay_partition(partition, Start::Earliest).blocking().unwrap();
        while let Some(message) = replay.next_message().unwrap() {
            expected.push(Forwarded::of_message(log, &message));
        }
    }
    expected
}

/// Whether each record is there once, in its partition and in order, and nothing else.
pub(crate) fn exactly_once(expected: &[Forwarded], dumped: &[Dumped]) -> Result<(), String> {
    let found: Vec<Forwarded> = dumped.iter().map(Forwarded::of_dumped).collect();
    for (partition, expected) in by_partition(expected) {
        let found: Vec<&Forwarded> = found.iter().filter(|record| record.partition == partition).collect();
        for (place, (expected, found)) in expected.iter().zip(&found).enumerate() {
            if expected != found {
                return Err(format!(
                    "partition {partition} has, as record {place} of {}, not\n  {expected:?}, but\n  {found:?}",
                    found_count(found, dumped)
                ));
            }
        }
        if let Some(missing) = expected.get(found.len()) {
            return Err(format!(
                "partition {partition} has {} records of {}; the first that is missing: {missing:?}",
                found.len(),
                expected.len()
            ));
        }
        if let Some(more) = found.get(expected.len()) {
            return Err(format!("partition {partition} has more than was ever written: {more:?}"));
        }
    }
    let strange = found.iter().find(|record| expected.iter().all(|expected| expected.partition != record.partition));
    strange.map_or(Ok(()), |strange| Err(format!("there is a record in a partition that should be empty: {strange:?}")))
}

fn found_count(found: &Forwarded, dumped: &[Dumped]) -> usize {
    dumped.iter().filter(|dumped| dumped.partition == found.partition).count()
}

/// That something came again: the offset in the log from which a partition of the target begins anew, and how many records back
/// that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repeat {
    pub(crate) partition: u32,
    pub(crate) from: u64,
    pub(crate) back: u64,
}

/// Whether each record is there, and what comes again comes again in order from some offset on. Answers with what came again.
pub(crate) fn at_least_once(expected: &[Forwarded], dumped: &[Dumped]) -> Result<Vec<Repeat>, String> {
    let found: Vec<Forwarded> = dumped.iter().map(Forwarded::of_dumped).collect();
    let mut repeats = Vec::new();
    for (partition, expected) in by_partition(expected) {
        let places: BTreeMap<u64, usize> = expected.iter().enumerate().map(|(place, it)| (it.offset, place)).collect();
        let mut next = 0;
        let mut most = 0;
        for found in found.iter().filter(|record| record.partition == partition) {
            let place = places.get(&found.offset).copied();
            let Some(place) = place.filter(|place| expected[*place] == found) else {
                return Err(format!("partition {partition} has a record that was never written so: {found:?}"));
            };
            if place > next {
                return Err(format!("partition {partition} lacks {:?} before {found:?}", expected[next]));
            }
            if place < next {
                repeats.push(Repeat { partition, from: found.offset, back: (most - place) as u64 });
            }
            next = place + 1;
            most = most.max(next);
        }
        if next < expected.len() {
            return Err(format!("partition {partition} ends before {:?}", expected[next]));
        }
    }
    Ok(repeats)
}

fn by_partition(records: &[Forwarded]) -> BTreeMap<u32, Vec<&Forwarded>> {
    let mut partitions: BTreeMap<u32, Vec<&Forwarded>> = BTreeMap::new();
    for record in records {
        partitions.entry(record.partition).or_default().push(record);
    }
    partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(partition: u32, number: u64) -> Dumped {
        Dumped {
            partition,
            offset: 0,
            timestamp: number as i64,
            timestamp_type: "CreateTime".to_owned(),
            key: None,
            headers: vec![("a".into(), None), (ORIGIN_OFFSET.into(), Some((10 + number).to_string().into_bytes()))],
            value: Some(vec![number as u8]),
        }
    }

    fn some(numbers: &[u64]) -> Vec<Dumped> {
        numbers.iter().map(|number| dumped(0, *number)).chain([dumped(1, 0)]).collect()
    }

    fn written() -> Vec<Forwarded> {
        some(&[0, 1, 2, 3]).iter().map(Forwarded::of_dumped).collect()
    }

    #[test]
    fn what_is_missing_doubled_swapped_or_changed_is_found() {
        assert_eq!(exactly_once(&written(), &some(&[0, 1, 2, 3])), Ok(()));
        for wrong in [&[0, 1, 2][..], &[1, 2, 3], &[0, 2, 3], &[0, 1, 1, 2, 3], &[0, 2, 1, 3], &[0, 1, 2, 3, 4], &[]] {
            assert!(exactly_once(&written(), &some(wrong)).is_err(), "{wrong:?}");
        }
        let changes: [fn(&mut Dumped); 6] = [
            |dumped| dumped.key = Some(vec![]),
            |dumped| dumped.value = None,
            |dumped| dumped.timestamp += 1,
            |dumped| dumped.headers[0].1 = Some(vec![]),
            |dumped| dumped.headers.swap(0, 1),
            |dumped| dumped.partition = 2,
        ];
        for change in changes {
            for place in [0, 2, 4] {
                let mut changed = some(&[0, 1, 2, 3]);
                change(&mut changed[place]);
                assert!(exactly_once(&written(), &changed).is_err(), "{:?}", changed[place]);
                assert!(at_least_once(&written(), &changed).is_err(), "{:?}", changed[place]);
            }
        }
    }

    #[test]
    fn what_comes_again_must_come_in_order_and_leave_nothing_out() {
        assert_eq!(at_least_once(&written(), &some(&[0, 1, 2, 3])), Ok(vec![]));
        let again = |from, back| Repeat { partition: 0, from, back };
        assert_eq!(at_least_once(&written(), &some(&[0, 1, 2, 1, 2, 3])), Ok(vec![again(11, 2)]));
        assert_eq!(at_least_once(&written(), &some(&[0, 0, 1, 2, 3, 3])), Ok(vec![again(10, 1), again(13, 1)]));
        assert_eq!(
            at_least_once(&written(), &some(&[0, 1, 2, 0, 1, 0, 1, 2, 3])),
            Ok(vec![again(10, 3), again(10, 3)])
        );
        for wrong in [&[0, 1, 2][..], &[0, 2, 3], &[0, 1, 2, 3, 1, 2], &[0, 1, 0, 2, 3], &[1, 2, 3]] {
            assert!(at_least_once(&written(), &some(wrong)).is_err(), "{wrong:?}");
        }
    }
}
