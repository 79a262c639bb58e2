//! Strategies of [proptest](https://docs.rs/proptest) for what goes into a log: keys, headers, records, batches, and sequences of
//! [operations](Operation).
//!
//! They favour what finds bugs: few keys, so that records share them; headers with names that repeat and values that are absent;
//! tombstones; values that are empty, and some that are larger than a page of the disk. And they shrink to what is easy to read:
//! the first key, a short value, no headers, a single record.
//!
//! ```
//! use annals::testing::strategy;
//! use annals::{Log, Raw, TopicDef, TopicSettings};
//! use proptest::prelude::*;
//!
//! const ORDERS: TopicDef<bytes::Bytes, Raw> = TopicDef::new("orders");
//!
//! # fn main() {
//! proptest!(ProptestConfig::with_cases(16), |(records in strategy::batch(0..20))| {
//!     let log = Log::in_memory()?;
//!     let topic = log.blocking_create_topic(ORDERS, TopicSettings::default())?;
//!     prop_assert_eq!(topic.blocking_produce_batch(records.clone())?.len(), records.len());
//! });
//! # }
//! ```

use std::time::Duration;

use bytes::Bytes;
use proptest::collection::{SizeRange, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::Operation;
use crate::record::{Header, Headers, Record, datetime_from_micros};

/// How many keys most records share.
const KEYS: u8 = 6;
/// 2100-01-01T00:00:00Z, in microseconds since 1970.
const YEAR_2100_MICROS: i64 = 4_102_444_800_000_000;

/// A key: most often one of six, `key-0` to `key-5`; sometimes any bytes, or none at all (which is a key, too). Shrinks to `key-0`.
pub fn key() -> impl Strategy<Value = Bytes> + Clone {
    prop_oneof![
        9 => (0..KEYS).prop_map(|number| Bytes::from(format!("key-{number}"))),
        1 => bytes(24),
    ]
}

/// Up to four headers: names that often repeat, values that may be absent or empty. Shrinks to none.
pub fn headers() -> impl Strategy<Value = Headers> + Clone {
    let name = prop_oneof![
        6 => select(vec!["type", "source", "hop"]).prop_map(str::to_owned),
        1 => "\\PC{1,20}",
    ];
    let value = option::weighted(0.8, bytes(16));
    let header = (name, value).prop_map(|(name, value)| match value {
        Some(value) => Header::new(name, value),
        None => Header::absent(name),
    });
    vec(header, 0..=4).prop_map(Headers::from_iter)
}

/// A value: most often up to 64 bytes, sometimes up to 9,000. Shrinks to an empty one.
pub fn value() -> impl Strategy<Value = Bytes> + Clone {
    prop_oneof![9 => bytes(64), 1 => bytes(9_000)]
}

/// Up to so many bytes, of all kinds. They follow from a number and a length, since those shrink within a few steps, where a list
/// takes one for each byte, and proptest gives up after some thousand. Shrinks to none, or to zeros.
fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> + Clone {
    (0..=len_max, any::<u64>()).prop_map(|(len, seed)| {
        let mut state = seed;
        let next = |_| {
            // Odd, so that nothing but 0 stays as it is.
            state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
            (state >> 56) as u8
        };
        (0..len).map(next).collect()
    })
}

/// A record: with a key (four of five) or without one, a value (nine of ten) or a tombstone, [`headers`], and with a timestamp of
/// its own (two of five; from 1970 to 2100, or before) or the time of sending. It names no partition. Shrinks to an empty value
/// alone.
pub fn record() -> impl Strategy<Value = Record> + Clone {
    parts(option::weighted(0.8, key()))
}

/// The same, always with a key: for compacted topics.
pub fn keyed_record() -> impl Strategy<Value = Record> + Clone {
    parts(key().prop_map(Some))
}

fn parts(key: impl Strategy<Value = Option<Bytes>> + Clone) -> impl Strategy<Value = Record> + Clone {
    // What comes first is what it shrinks to.
    let value = prop_oneof![9 => value().prop_map(Some), 1 => Just(None)];
    let micros = prop_oneof![3 => Just(None), 2 => (-1_000_000..YEAR_2100_MICROS).prop_map(Some)];
    (key, value, headers(), micros).prop_map(|(key, value, headers, micros)| {
        let mut record = Record::tombstone();
        record.key = key;
        record.value = value;
        record.headers = headers;
        record.timestamp = micros.map(datetime_from_micros);
        record
    })
}

/// So many [`record`]s, for one batch. Shrinks to fewer of them.
pub fn batch(len: impl Into<SizeRange>) -> impl Strategy<Value = Vec<Record>> + Clone {
    vec(record(), len)
}

/// So many operations on these topics, of which one at least must be named: half of them produce a single record; the others
/// produce batches, over one topic or several, sync, let time pass, close and open the log, kill the process, cut the power.
/// Shrinks to fewer, and to simpler ones.
///
/// A [`Harness`](super::Harness) carries them out:
///
/// ```
/// use annals::testing::{Harness, SimulatedDisk, strategy};
/// use annals::{Log, TopicSettings};
/// use proptest::prelude::*;
///
/// # fn main() {
/// let operations = strategy::operations(["orders", "payments"], 0..20);
/// proptest!(ProptestConfig::with_cases(16), |(seed: u64, operations in operations)| {
///     let settings = TopicSettings::default().partitions(3);
///     let topics = ["orders", "payments"].map(|name| (name, settings.clone()));
///     let mut harness = Harness::open(SimulatedDisk::new(seed), Log::builder(), topics)?;
///     for operation in &operations {
///         harness.apply(operation)?;
///     }
///     harness.check()?;
/// });
/// # }
/// ```
///
/// # Panics
///
/// If no topic is named.
pub fn operations<N: Into<String>>(
    topics: impl IntoIterator<Item = N>,
    len: impl Into<SizeRange>,
) -> impl Strategy<Value = Vec<Operation>> + Clone {
    operations_of(topics, record(), len)
}

/// [`operations`] with records of your own: of [`keyed_record`]s for compacted topics, or of what your application writes.
///
/// # Panics
///
/// If no topic is named.
pub fn operations_of<N: Into<String>>(
    topics: impl IntoIterator<Item = N>,
    records: impl Strategy<Value = Record> + Clone + 'static,
    len: impl Into<SizeRange>,
) -> impl Strategy<Value = Vec<Operation>> + Clone {
    let names: Vec<String> = topics.into_iter().map(Into::into).collect();
    assert!(!names.is_empty(), "operations are about one topic at least");
    let topic = select(names);
    // What comes first is what it shrinks to.
    let operation = prop_oneof![
        10 => (topic.clone(), records.clone()).prop_map(|(topic, record)| Operation::Produce { topic, record }),
        2 => (topic.clone(), vec(records.clone(), 1..8))
            .prop_map(|(topic, records)| Operation::Batch { topic, records }),
        2 => vec((topic, records), 1..8).prop_map(|records| Operation::Transaction { records }),
        1 => Just(Operation::Sync),
        1 => (0..60_000u64).prop_map(|millis| Operation::Advance(Duration::from_millis(millis))),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::Kill),
        2 => Just(Operation::PowerLoss),
    ];
    vec(operation, len)
}
