//! Real events as records, in all the shapes that a record can have.
//!
//! `ANNALS_KAFKA_EVENTS` names a file of events, NDJSON, plain or gzip; unless set, they are those of examples/data.

use std::path::PathBuf;
use std::sync::OnceLock;

use annals::{Header, Record};
use bytes::Bytes;
use chrono::TimeDelta;

#[path = "../../../examples/support/ndjson.rs"]
#[allow(dead_code, reason = "the examples need more of it")]
mod ndjson;

/// The header that tells one record from every other: which run has written it, and as which.
pub(crate) const ID: &str = "id";

/// Times are taken modulo this: a broker takes none that is far in the future.
const SECONDS: i64 = 1_700_000_000;

pub(crate) struct Events(Vec<ndjson::Event>);

impl Events {
    /// The events, read once.
    pub(crate) fn get() -> &'static Self {
        static EVENTS: OnceLock<Events> = OnceLock::new();
        EVENTS.get_or_init(|| {
            let path = std::env::var_os("ANNALS_KAFKA_EVENTS").map(PathBuf::from);
            let input = ndjson::Input::read(path.as_deref()).unwrap();
            assert!(!input.events.is_empty(), "{} has no events", input.name);
            Self(input.events)
        })
    }

    /// The record that a run writes as its so-manieth. After the last event comes the first one again.
    pub(crate) fn record(&self, run: u32, number: u64) -> Record<Bytes> {
        let event = &self.0[number as usize % self.0.len()];
        let mut record = Record::new(event.text.clone()).key(&event.key);
        // An event in a hundred or so is none like the others; which ones has nothing to do with how many events there are.
        if number % 31 == 3 {
            record.value = None;
        }
        if number % 37 == 5 {
            record.value = Some(Bytes::new());
        }
        if number % 41 == 7 {
            record.value = Some(Bytes::from(event.text.repeat(1 + 20_000 / event.text.len())));
        }
        if number % 43 == 11 {
            record.key = None;
        }
        if number % 47 == 13 {
            record.key = Some(Bytes::new());
        }
        if number % 53 == 17 {
            record.key = Some(Bytes::from_static(&[0xff, 0, b'\n', b' ', 0x80]));
        }
        record = record.header("type", &event.kind).header(ID, format!("{run}.{number}"));
        if number % 7 == 2 {
            record = record.header("hop", "a").header("hop", "").header_absent("hop").header("hop", [0xfe, 0, b'=']);
        }
        if number % 11 == 4 {
            record.headers = std::iter::once(Header::absent("first")).chain(record.headers.iter().cloned()).collect();
        }
        let time = event.time + TimeDelta::seconds(event.time.timestamp().rem_euclid(SECONDS) - event.time.timestamp());
        // Kafka counts milliseconds: what is finer is cut off.
        let finer = TimeDelta::microseconds((number % 1000) as i64);
        // One of many has no time of its own.
        if number % 59 == 19 { record } else { record.timestamp(time + finer) }
    }
}

#[test]
fn records_come_in_all_shapes_and_each_is_another() {
    let records: Vec<_> = (0..2_000).map(|number| Events::get().record(1, number)).collect();
    let has = |what: fn(&Record<Bytes>) -> bool| records.iter().filter(|record| what(record)).count() > 10;
    assert!(has(Record::is_tombstone));
    assert!(has(|record| record.value.as_ref().is_some_and(Bytes::is_empty)));
    assert!(has(|record| record.value.as_ref().is_some_and(|value| value.len() > 20_000)));
    assert!(has(|record| record.key.is_none()));
    assert!(has(|record| record.key.as_ref().is_some_and(Bytes::is_empty)));
    assert!(has(|record| record.key.as_ref().is_some_and(|key| std::str::from_utf8(key).is_err())));
    assert!(has(|record| record.headers.get_all("hop").count() == 4));
    assert!(has(|record| record.headers.iter().next().is_some_and(|header| header.name() == "first")));
    assert!(has(|record| record.timestamp.is_some_and(|time| time.timestamp_subsec_micros() % 1000 > 0)));
    let past = |record: &Record<Bytes>| record.timestamp.is_none_or(|time| (1..=SECONDS).contains(&time.timestamp()));
    assert!(records.iter().all(past));
    let ids: std::collections::BTreeSet<_> = records.iter().map(|record| record.headers.get_str(ID)).collect();
    assert_eq!(ids.len(), records.len());
    assert!(has(|record| record.timestamp.is_none()));
}
