use std::time::Duration;

use proptest::prelude::*;

use super::{Compression, Durability, LogSettings, TopicSettings};
use crate::error::{ErrorKind, Result};

fn refusal(result: Result<()>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

fn interval(duration: Duration) -> TopicSettings {
    TopicSettings::default().durability(Durability::Interval(duration))
}

#[test]
fn the_defaults_are_valid_and_as_documented() {
    let log = LogSettings::default();
    log.validate().unwrap();
    TopicSettings::default().validate_in(&log).unwrap();
    assert_eq!(TopicSettings::default().durability, Durability::Sync);
    assert_eq!((log.commit_bytes_max, log.journal_bytes, log.tail_bytes_max), (8 << 20, 16 << 20, 256 << 10));
}

#[test]
fn the_ends_of_each_range_are_allowed_and_what_lies_beyond_is_not() {
    let topic = TopicSettings::default;
    for settings in [
        topic().partitions(1),
        topic().partitions(10_000),
        topic().segment_bytes_max(4 << 10),
        topic().segment_bytes_max(1 << 30),
        topic().record_bytes_max(1),
        topic().record_bytes_max(64 << 20),
        topic().tombstone_age_max(Duration::ZERO),
        topic().tombstone_age_max(Duration::from_secs(10 * 366 * 86_400)),
        topic().compaction_dirty_ratio_min(0.0),
        topic().compaction_dirty_ratio_min(1.0),
        interval(Duration::from_millis(1)),
        interval(Duration::from_secs(3600)),
        topic().retention_bytes_max(64 << 20),
        topic().retention_bytes_max(u64::MAX).retention_age_max(Duration::from_secs(1)),
        topic().retention_age_max(Duration::from_secs(1000 * 366 * 86_400)),
        topic().indexed_headers(["x".repeat(255)]),
        topic().indexed_headers((0..8).map(|number| number.to_string())),
        topic().compression(Compression::Lz4),
        topic().compression(Compression::Zstd { level: 1 }),
        topic().compression(Compression::Zstd { level: 22 }),
    ] {
        settings.validate().unwrap();
    }
    assert_eq!(refusal(topic().partitions(0).validate()), "`partitions` is 0, which is outside 1 to 10000");
    assert!(refusal(topic().partitions(10_001).validate()).starts_with("`partitions` is 10001"));
    assert!(refusal(topic().segment_bytes_max(4095).validate()).starts_with("`segment_bytes_max` is 4095"));
    assert!(refusal(topic().segment_bytes_max((1 << 30) + 1).validate()).ends_with("to 1073741824"));
    assert!(refusal(topic().reserve_bytes((64 << 20) + 1).validate()).ends_with("outside 0 to 67108864"));
    assert_eq!(
        refusal(topic().durability(Durability::Os).reserve_bytes(1).validate()),
        "`reserve_bytes` is set, but the durability is `os`, not `sync`"
    );
    assert!(refusal(topic().record_bytes_max(0).validate()).starts_with("`record_bytes_max` is 0"));
    assert!(refusal(topic().record_bytes_max((64 << 20) + 1).validate()).ends_with("1 to 67108864"));
    assert_eq!(
        refusal(interval(Duration::from_micros(999)).validate()),
        "`durability` is an interval of 999µs, which is outside 1ms to 3600s"
    );
    assert_eq!(
        refusal(topic().retention_bytes_max((64 << 20) - 1).validate()),
        "`retention_bytes_max` is 67108863, but nothing smaller than a segment can go, and `segment_bytes_max` is 67108864"
    );
    assert_eq!(
        refusal(topic().retention_age_max(Duration::from_millis(999)).validate()),
        "`retention_age_max` is 999ms, which is outside 1s to 31622400000s"
    );
    assert!(refusal(topic().retention_age_max(Duration::MAX).validate()).contains("`retention_age_max`"));
    let indexed = |names: &[&str]| refusal(topic().indexed_headers(names.iter().copied()).validate());
    assert_eq!(indexed(&["a", "b", "a"]), r#"`indexed_headers` has the name "a" twice"#);
    assert_eq!(indexed(&["a", ""]), r#"`indexed_headers` has the name "" of 0 bytes; 1 to 255 are allowed"#);
    assert!(indexed(&[&"x".repeat(256)]).ends_with("of 256 bytes; 1 to 255 are allowed"));
    assert_eq!(
        indexed(&["0", "1", "2", "3", "4", "5", "6", "7", "8"]),
        "`indexed_headers` has 9 names, of which 8 are allowed"
    );
    let zstd = |level| topic().compression(Compression::Zstd { level });
    assert_eq!(refusal(zstd(0).validate()), "`zstd level` is 0, which is outside 1 to 22");
    assert!(refusal(zstd(23).validate()).contains("is 23"));
    let old = topic().tombstone_age_max(Duration::from_secs(10 * 366 * 86_400 + 1));
    assert_eq!(refusal(old.validate()), "`tombstone_age_max` is 316224001s, which is outside 0ns to 316224000s");
    for ratio in [-0.01, 1.01, f64::NAN, f64::INFINITY] {
        assert!(refusal(topic().compaction_dirty_ratio_min(ratio).validate()).ends_with("which is outside 0 to 1"));
    }
    assert!(refusal(interval(Duration::from_nanos(3_600_000_000_001)).validate()).contains("3600.000000001s"));
}

#[test]
fn a_journal_file_holds_two_of_the_largest_commits() {
    let log =
        |commit_bytes_max, journal_bytes| LogSettings { commit_bytes_max, journal_bytes, ..LogSettings::default() };
    log(128 << 10, 256 << 10).validate().unwrap();
    log(256 << 20, 512 << 20).validate().unwrap();
    log(256 << 20, 1 << 30).validate().unwrap();
    assert_eq!(
        refusal(log(8 << 20, (16 << 20) - 1).validate()),
        "`journal_bytes` is 16777215, which is outside 16777216 to 1073741824"
    );
    assert!(refusal(log(8 << 20, (1 << 30) + 1).validate()).contains("`journal_bytes` is 1073741825"));
    assert!(refusal(log((128 << 10) - 1, 16 << 20).validate()).contains("`commit_bytes_max` is 131071"));
    assert!(refusal(log(u64::MAX, u64::MAX).validate()).contains("`commit_bytes_max`"));
    let tail = LogSettings { tail_bytes_max: (64 << 20) + 1, ..LogSettings::default() };
    assert!(refusal(tail.validate()).contains("`tail_bytes_max` is 67108865"));
    let idle = LogSettings { maintenance_bytes_per_second_max: 0, ..LogSettings::default() };
    assert!(refusal(idle.validate()).contains("`maintenance_bytes_per_second_max` is 0"));
}

#[test]
fn the_largest_record_fits_a_commit() {
    let log = LogSettings { commit_bytes_max: 128 << 10, ..LogSettings::default() };
    let topic = TopicSettings::default().record_bytes_max(64 << 10);
    topic.validate_in(&log).unwrap();
    let message = refusal(topic.record_bytes_max((64 << 10) + 1).validate_in(&log));
    assert_eq!(
        message,
        "`record_bytes_max` is 65537, but the log's `commit_bytes_max` of 131072 leaves room for 65536: it must be \
         larger by 65536"
    );
}

#[test]
fn durability_has_an_order() {
    use Durability::{Interval, Os, Sync};
    let ordered = [Sync, Interval(Duration::from_millis(1)), Interval(Duration::from_secs(1)), Os];
    for (i, stronger) in ordered.into_iter().enumerate() {
        for (j, weaker) in ordered.into_iter().enumerate() {
            assert_eq!(stronger.is_at_least(weaker), i <= j, "{stronger} {weaker}");
        }
    }
}

#[test]
fn durability_is_readable_text() {
    for text in ["sync", "os", "interval 1s", "interval 250ms", "interval 1500us", "interval 1000001ns"] {
        assert_eq!(text.parse::<Durability>().unwrap().to_string(), text);
    }
    assert_eq!("interval 1000ms".parse::<Durability>().unwrap().to_string(), "interval 1s");
    for text in ["", "Sync", "interval", "interval ", "interval 5", "interval ms", "interval +5ms", "interval -5ms"] {
        assert!(text.parse::<Durability>().is_err(), "{text}");
    }
    for text in ["interval 5 ms", "interval 5é", "interval 99999999999999999999s", "sync ", "interval 5ms "] {
        assert!(text.parse::<Durability>().is_err(), "{text}");
    }
    let error = "fast\n".parse::<Durability>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), r#"the durability "fast\n" is none of `sync`, `interval 250ms`, `os`"#);
}

#[test]
fn settings_in_a_file_may_name_what_differs_and_nothing_unknown() {
    let settings: TopicSettings = serde_json::from_str(r#"{"partitions": 3, "durability": "os"}"#).unwrap();
    assert_eq!(settings, TopicSettings::default().partitions(3).durability(Durability::Os));
    let settings: TopicSettings =
        serde_json::from_str(r#"{"compaction": true, "tombstone_age_max": "90s", "compaction_dirty_ratio_min": 1}"#)
            .unwrap();
    let expected = TopicSettings::default().compaction(true).tombstone_age_max(Duration::from_secs(90));
    assert_eq!(settings, expected.compaction_dirty_ratio_min(1.0));
    let error = serde_json::from_str::<TopicSettings>(r#"{"tombstone_age_max": "2 h"}"#).unwrap_err();
    assert!(error.to_string().contains(r#"the length of time "2 h" is none such as `250ms`"#), "{error}");
    let error = serde_json::from_str::<TopicSettings>(r#"{"partition": 3}"#).unwrap_err();
    assert!(error.to_string().contains("unknown field `partition`"), "{error}");
}

#[test]
fn compression_is_readable_text() {
    for text in ["none", "lz4", "zstd 1", "zstd 22", "zstd 255"] {
        assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
    }
    for text in ["", "None", "lz4 ", "lz4 1", "zstd", "zstd ", "zstd  3", "zstd +3", "zstd -3", "zstd 256", "zstd 3 "] {
        assert!(text.parse::<Compression>().is_err(), "{text}");
    }
    let error = "gzip\n".parse::<Compression>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), r#"the compression "gzip\n" is none of `none`, `lz4`, `zstd 3`"#);
}

pub(crate) fn compressions() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        Just(Compression::Lz4),
        (1..=22_u8).prop_map(|level| Compression::Zstd { level })
    ]
}

pub(crate) fn durabilities() -> impl Strategy<Value = Durability> {
    prop_oneof![
        Just(Durability::Sync),
        Just(Durability::Os),
        (1_000_000u64..=3_600_000_000_000).prop_map(|nanos| Durability::Interval(Duration::from_nanos(nanos))),
        (1u64..=3_600_000).prop_map(|millis| Durability::Interval(Duration::from_millis(millis))),
    ]
}

pub(crate) fn topic_settings() -> impl Strategy<Value = TopicSettings> {
    let sizes = (1u32..=10_000, 4096u64..=1 << 30, 1u32..=64 << 20);
    let ages = prop::option::of((1_000u64..=u64::from(u32::MAX)).prop_map(Duration::from_millis));
    let dedups = prop::option::of((1u32..=10_000_000, ages));
    let indexed = (prop::collection::btree_set("\\PC{1,60}", 0..=8), any::<bool>());
    let compaction = (any::<bool>(), 0u64..=316_224_000_000_000_000, 0u32..=100, 0u64..=64 << 20);
    (sizes, durabilities(), compressions(), retentions(), dedups, (compaction, indexed)).prop_map(
        |(
            (partitions, segment_bytes_max, record_bytes_max),
            durability,
            compression,
            (bytes, age),
            dedup,
            (compaction, (indexed, index_keys)),
        )| {
            let (compaction, tombstones, percent, reserve) = compaction;
            TopicSettings {
                partitions,
                durability,
                segment_bytes_max,
                record_bytes_max,
                retention_bytes_max: bytes,
                retention_age_max: age,
                dedup_count_max: dedup.map_or(0, |(count, _)| count),
                dedup_age_max: dedup.and_then(|(_, age)| age),
                indexed_headers: indexed.into_iter().collect(),
                reserve_bytes: if durability == Durability::Sync { reserve } else { 0 },
                index_keys,
                compression,
                compaction,
                tombstone_age_max: Duration::from_nanos(tombstones),
                compaction_dirty_ratio_min: f64::from(percent) / 100.0,
            }
        },
    )
}

fn retentions() -> impl Strategy<Value = (Option<u64>, Option<Duration>)> {
    // The numbers of the file format are signed.
    let bytes = prop::option::of((1u64 << 30)..=i64::MAX as u64);
    (bytes, prop::option::of((1_000u64..=u64::from(u32::MAX)).prop_map(Duration::from_millis)))
}

proptest! {
    #[test]
    fn durability_text_round_trip(nanos: u64) {
        let durability = Durability::Interval(Duration::from_nanos(nanos));
        prop_assert_eq!(durability.to_string().parse::<Durability>().unwrap(), durability);
    }

    #[test]
    fn settings_round_trip(settings in topic_settings()) {
        prop_assert!(settings.validate().is_ok());
        let json = serde_json::to_string(&settings).unwrap();
        prop_assert_eq!(serde_json::from_str::<TopicSettings>(&json).unwrap(), settings);
    }
}
