//! One benchmark for what each layer does most: `cargo bench --manifest-path benches/micro/Cargo.toml`.

use annals::bench::{compress_frame, decode_frame, decompress_frame, encode_frame, journal_entry, murmur2};
use annals::{Compression, Durability, Log, Record, Start, TopicSettings};
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const KEY: &[u8] = b"order-17";

fn value() -> Vec<u8> {
    (0..92_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn format(c: &mut Criterion) {
    let value = value();
    let mut group = c.benchmark_group("format");
    for records in [1, 100] {
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(format!("encode a frame of {records}"), |b| b.iter(|| encode_frame(records, KEY, &value)));
        let frame = encode_frame(records, KEY, &value);
        group.bench_function(format!("check and decode a frame of {records}"), |b| b.iter(|| decode_frame(&frame)));
    }
    let frame = encode_frame(1, KEY, &value);
    group.throughput(Throughput::Elements(64));
    group.bench_function("journal entry of 64 frames", |b| b.iter(|| journal_entry(64, &frame)));
    group.finish();
    c.bench_function("murmur2 of 8 bytes", |b| b.iter(|| murmur2(KEY)));
}

/// Half of each value is noise, as in records that carry identifiers and numbers among their text.
fn compression(c: &mut Criterion) {
    let value = [&b"{\"event\":\"order.paid\",\"currency\":\"EUR\",\"id\":"[..], &value()[..46]].concat();
    let mut group = c.benchmark_group("compression");
    for records in [10, 1000] {
        group.throughput(Throughput::Bytes((records * (value.len() + KEY.len())) as u64));
        for compression in [Compression::Lz4, Compression::Zstd { level: 1 }, Compression::Zstd { level: 3 }] {
            group.bench_function(format!("{compression}, build and compress a frame of {records}"), |b| {
                b.iter(|| compress_frame(compression, records, KEY, &value));
            });
            let (frame, mut into) = (compress_frame(compression, records, KEY, &value), BytesMut::new());
            group.bench_function(format!("{compression}, check and decompress a frame of {records}"), |b| {
                b.iter(|| decompress_frame(&frame, &mut into));
            });
        }
    }
    group.finish();
}

fn log(c: &mut Criterion) {
    let value = Bytes::from(value());
    let record = || Record::new(value.clone()).key(Bytes::from_static(KEY));
    let mut group = c.benchmark_group("log in memory");
    let log = Log::in_memory().expect("a log in memory opens");
    let settings = TopicSettings::default().durability(Durability::Os);
    let relaxed =
        log.blocking_create_topic(annals::TopicDef::<Bytes, annals::Raw>::new("os"), settings).expect("created");
    let synced = annals::TopicDef::<Bytes, annals::Raw>::new("sync");
    let synced = log.blocking_create_topic(synced, TopicSettings::default()).expect("created");
    group.throughput(Throughput::Elements(1));
    group
        .bench_function("append one, page cache", |b| b.iter(|| relaxed.blocking_produce(record()).expect("produced")));
    group.bench_function("append one, group commit alone", |b| {
        b.iter(|| synced.blocking_produce(record()).expect("produced"));
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function("append a batch of 100, page cache", |b| {
        b.iter_batched(
            || (0..100).map(|_| record()).collect::<Vec<_>>(),
            |batch| relaxed.blocking_produce_batch(batch).expect("produced"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn replay(c: &mut Criterion) {
    const RECORDS: u64 = 100_000;
    let value = Bytes::from(value());
    let log = Log::temporary().expect("a temporary log opens");
    let settings = TopicSettings::default().durability(Durability::Os).partitions(4);
    let topic =
        log.blocking_create_topic(annals::TopicDef::<Bytes, annals::Raw>::new("os"), settings).expect("created");
    for batch in 0..RECORDS / 100 {
        let records = (0..100).map(|_| Record::new(value.clone()).partition((batch % 4) as u32));
        topic.blocking_produce_batch(records).expect("produced");
    }
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(RECORDS));
    group.sample_size(20);
    group.bench_function("four partitions in causal order", |b| {
        b.iter(|| {
            let mut history = topic.replay(Start::Earliest).blocking().expect("begins");
            let mut seen = 0;
            while let Some(record) = history.next().expect("reads") {
                seen += record.value().map_or(0, <[u8]>::len);
            }
            seen
        });
    });
    group.finish();
}

criterion_group!(benches, format, compression, log, replay);
criterion_main!(benches);
