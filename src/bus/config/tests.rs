use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::Config;
use super::schema::{Keys, Node, ROOT};
use crate::bus::policy::{GiveUp, Policy};
use crate::bus::{Context, Event};
use crate::codec::Raw;
use crate::error::ErrorKind;
use crate::log::settings::{Compression, Durability};
use crate::replay::Start;

/// Every key.
const ALL: &str = r#"
[log]
commit_bytes_max = "16MiB"
journal_bytes = 67108864
tail_bytes_max = "1MiB"
mapped_appends = false
open_files_max = 1024
maintenance_bytes_per_second_max = "128MiB"
create = false
refresh_interval = "50ms"

[bus]
source = "billing"
environment = "staging"
create_topics = true
causation_depth_max = 50
trace_context = false

[bus.topic_defaults]
partitions = 2
compression = "lz4"

[topics.orders]
partitions = 4
durability = "interval 1m"
segment_bytes_max = "8MiB"
record_bytes_max = "256KiB"
retention_bytes_max = "1GiB"
retention_age_max = "30d"
dedup_count_max = 1000
dedup_age_max = "1h"
indexed_headers = ["correlation_id", "event_type"]
index_keys = true
reserve_bytes = 0
compression = "zstd 3"
compaction = false
tombstone_age_max = "24h"
compaction_dirty_ratio_min = 0.25

[topics."orders.dlq"]
retention_age_max = "90d"

[subscriptions.billing]
concurrency = 8
deadline = "10s"
ttl = "1h"
waiting_max = 100
waiting_bytes_max = "1MiB"
shutdown_timeout = "1m"
dead_letter = "orders.dlq"
sequenced = true
start = "commit:100"
retry = { attempts = 7, base = "250ms", factor = 3, ceiling = "5m", jitter = [0.5, 2] }
circuit_breaker = { failures = 10, open_for = "1m" }

[subscriptions.audit]
on_failure = "skip"
retry.attempts = "forever"
"#;

fn policy(config: &Config, group: &str) -> Policy {
    let mut policy = Policy::default();
    config.sections.subscriptions[group].apply(&mut policy);
    policy
}

#[test]
fn every_key_is_read() {
    let config = Config::from_toml(ALL).unwrap();
    let log = format!("{:?}", config.log());
    for part in [
        "commit_bytes_max: 16777216",
        "journal_bytes: 67108864",
        "tail_bytes_max: 1048576",
        "mapped_appends: false",
        "open_files_max: 1024",
        "maintenance_bytes_per_second_max: 134217728",
        "create: false",
        "refresh_interval: 50ms",
    ] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
    let bus = config.bus();
    assert_eq!((&*bus.source, bus.environment.as_deref(), bus.create_topics), ("billing", Some("staging"), true));
    assert_eq!((bus.causation_depth_max, bus.trace_context), (50, false));
    assert_eq!((bus.topic_defaults.partitions, bus.topic_defaults.compression), (2, Compression::Lz4));

    let orders = config.topic("orders");
    assert_eq!((orders.partitions, orders.durability), (4, Durability::Interval(Duration::from_secs(60))));
    assert_eq!((orders.segment_bytes_max, orders.record_bytes_max), (8 << 20, 256 << 10));
    assert_eq!(orders.retention_bytes_max, Some(1 << 30));
    assert_eq!(orders.retention_age_max, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!((orders.dedup_count_max, orders.dedup_age_max), (1000, Some(Duration::from_secs(3600))));
    assert_eq!(orders.indexed_headers, ["correlation_id", "event_type"]);
    assert_eq!((orders.index_keys, orders.reserve_bytes), (true, 0));
    let kept = Config::from_toml("[topics.kept]\nreserve_bytes = \"1MiB\"").unwrap();
    assert_eq!(kept.topic("kept").reserve_bytes, 1 << 20);
    assert_eq!((orders.compression, orders.compaction), (Compression::Zstd { level: 3 }, false));
    assert_eq!((orders.tombstone_age_max, orders.compaction_dirty_ratio_min), (Duration::from_secs(86_400), 0.25));
    let letters = config.topic("orders.dlq");
    assert_eq!((letters.partitions, letters.compression), (2, Compression::Lz4), "what it leaves out");
    assert_eq!(config.topic("unheard"), bus.topic_defaults);

    let billing = policy(&config, "billing");
    assert_eq!((billing.concurrency, billing.waiting_max, billing.waiting_bytes_max), (8, 100, 1 << 20));
    assert_eq!((billing.deadline, billing.ttl), (Some(Duration::from_secs(10)), Some(Duration::from_secs(3600))));
    assert_eq!(billing.shutdown_timeout, Duration::from_secs(60));
    let retry = format!("{:?}", billing.retry);
    assert!(retry.contains("attempts: 7, base: 250ms, factor: 3.0, ceiling: 300s, jitter: (0.5, 2.0)"), "{retry}");
    let breaker = billing.breaker.unwrap();
    assert_eq!((breaker.failures, breaker.open_for), (10, Duration::from_secs(60)));
    let section = &config.sections.subscriptions["billing"];
    assert_eq!((section.dead_letter.as_deref(), section.sequenced), (Some("orders.dlq"), Some(true)));
    assert_eq!(section.start.map(|start| start.0), Some(Start::Commit(100)));

    let audit = policy(&config, "audit");
    assert!(matches!(audit.give_up, GiveUp::Skip));
    assert_eq!(audit.retry.attempts(), u32::MAX);
    assert_eq!(audit.concurrency, 1, "as the program has it");
    assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
}

#[test]
fn errors_name_the_key_the_value_and_what_is_allowed() {
    for (text, expected) in [
        ("[buss]", "`buss` is unknown; did you mean `bus`?"),
        ("[bus]\nsorce = 'a'", "`bus.sorce` is unknown; did you mean `source`?"),
        (
            "[subscriptions.billing]\nconcurency = 8",
            "`subscriptions.billing.concurency` is unknown; did you mean `concurrency`?",
        ),
        (
            "[subscriptions.\"my group\"]\nretry.foo = 8",
            "`subscriptions.\"my group\".retry.foo` is unknown; known are `attempts`, `base`, `factor`, `ceiling`, `jitter`",
        ),
        ("bus = 3", "`bus` is 3; a table is allowed"),
        ("[subscriptions]\nbilling = 'x'", "`subscriptions.billing` is \"x\"; a table is allowed"),
        ("[bus]\nsource = 3", "`bus.source` is 3; text is allowed"),
        ("[bus]\ncreate_topics = 'yes'", "`bus.create_topics` is \"yes\"; true and false are allowed"),
        ("[bus]\ncausation_depth_max = 0", "`bus.causation_depth_max` is 0; 1 to 4294967295 are allowed"),
        ("[topics.a]\npartitions = 10001", "`topics.a.partitions` is 10001; 1 to 10000 are allowed"),
        ("[topics.a]\npartitions = -1", "`topics.a.partitions` is -1; 1 to 10000 are allowed"),
        ("[topics.a]\npartitions = '4'", "`topics.a.partitions` is \"4\"; 1 to 10000 are allowed"),
        ("[log]\ncommit_bytes_max = '1KiB'", "`log.commit_bytes_max` is \"1KiB\"; 128KiB to 256MiB are allowed"),
        (
            "[log]\ncommit_bytes_max = '8 quarts'",
            "`log.commit_bytes_max` is \"8 quarts\"; 128KiB to 256MiB are allowed",
        ),
        (
            "[topics.a]\ndurability = 'interval 2h'",
            "`topics.a.durability` is \"interval 2h\"; \"sync\", \"interval 250ms\" (1ms to 1h) and",
        ),
        (
            "[topics.a]\ncompression = 'zstd 99'",
            "`topics.a.compression` is \"zstd 99\"; \"none\", \"lz4\" and \"zstd 3\" (1 to 22)",
        ),
        ("[topics.a]\nindexed_headers = [3]", "`topics.a.indexed_headers` is [3]; a list of texts is allowed"),
        (
            "[subscriptions.a]\ndeadline = 10",
            "`subscriptions.a.deadline` is 10; 1ns to 365d are allowed, such as \"250ms\"",
        ),
        ("[subscriptions.a]\ndeadline = '0s'", "`subscriptions.a.deadline` is \"0s\"; 1ns to 365d"),
        (
            "[subscriptions.a]\non_failure = 'panic'",
            "`subscriptions.a.on_failure` is \"panic\"; \"stop\" and \"skip\" are allowed",
        ),
        ("[subscriptions.a]\nstart = 'noon'", "`subscriptions.a.start` is \"noon\"; \"earliest\", \"latest\""),
        (
            "[subscriptions.a.retry]\nattempts = 'never'",
            "`subscriptions.a.retry.attempts` is \"never\"; 1 to 1000000 and \"forever\" are allowed",
        ),
        ("[subscriptions.a.retry]\nfactor = nan", "`subscriptions.a.retry.factor` is nan; 1 to 100 are allowed"),
        (
            "[subscriptions.a.retry]\njitter = [2, 1]",
            "`subscriptions.a.retry.jitter` is [2, 1]; two numbers of 0 to 10 are allowed, the lesser first",
        ),
        ("[subscriptions.a.retry]\nceiling = '8d'", "`subscriptions.a.retry.ceiling` is \"8d\"; 0s to 7d are allowed"),
        (
            "[subscriptions.a.circuit_breaker]\nopen_for = '25h'",
            "`subscriptions.a.circuit_breaker.open_for` is \"25h\"; 1ms to 1d",
        ),
        // What is wrong only together.
        ("[log]\ncommit_bytes_max = '16MiB'", "in `log`: `journal_bytes` is 16777216, which is outside 33554432 to"),
        ("[topics.a]\nretention_bytes_max = '1MiB'", "in `topics.a`: `retention_bytes_max` is 1048576, but"),
        ("[topics.__offsets]", "in `topics.__offsets`: the topic name \"__offsets\" begins with"),
        ("[bus]\nenvironment = 'a b'", "in `bus`: `environment` is \"a b\"; 1 to 64"),
        ("[subscriptions.\"\"]", "in `subscriptions.`: the group name \"\" has 0 bytes"),
        (
            "[subscriptions.a]\ndead_letter = 'b'\non_failure = 'skip'",
            "`on_failure` is \"skip\", and `dead_letter` is set as well",
        ),
        ("a = 1\n[x\n", "the configuration is no TOML, in line 2: "),
    ] {
        let error = Config::from_toml(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(expected), "{text:?}: {error}");
    }
}

/// The documentation has every key, and its example is one.
#[test]
fn the_documentation_is_complete() {
    fn check(keys: Keys, front: &str, text: &str) {
        for (key, node) in keys {
            match node {
                Node::Leaf(_) => assert!(text.contains(&format!("| `{front}{key}` |")), "`{front}{key}` is not there"),
                Node::Table(keys) if matches!(*key, "retry" | "circuit_breaker") => {
                    check(keys, &format!("{key}."), text)
                }
                Node::Table(keys) | Node::Named(keys) => check(keys, "", text),
            }
        }
    }
    let text = include_str!("../../../docs/CONFIGURATION.md");
    check(ROOT, "", text);
    let example = text.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let config = Config::from_toml(example).unwrap();
    assert_eq!((config.topic("orders").partitions, config.topic("orders").compression), (8, Compression::Lz4));
}

#[test]
fn what_others_read_is_let_be_and_not_kept() {
    let text = "[bus]\nsource = \"x\"\n[kafka]\nsasl_password = \"hunter2\"\n[mirror]\ntopics = [\"orders\"]\n";
    let config = Config::from_toml(text).unwrap();
    assert_eq!(config.to_toml(), "[bus]\nsource = \"x\"\n");
    assert!(!format!("{config:?} {}", config.to_toml()).contains("hunter2"));
    assert!(Config::from_toml("[kafkas]\n").is_err());
}

fn with(variables: &[(&str, &str)]) -> crate::error::Result<Config> {
    Config::from_toml(ALL)?.with_vars(variables.iter().copied())
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = with(&[
        ("ANNALS_LOG_CREATE", "true"),
        ("ANNALS_LOG_TAIL_BYTES_MAX", "2MiB"),
        ("ANNALS_BUS_SOURCE", "audit"),
        ("ANNALS_BUS_TOPIC_DEFAULTS_PARTITIONS", "3"),
        ("ANNALS_TOPICS_ORDERS_PARTITIONS", "5"),
        ("ANNALS_TOPICS_ORDERS_DLQ_PARTITIONS", "6"),
        ("ANNALS_TOPICS_NEW_ONES_INDEXED_HEADERS", "a, b"),
        ("ANNALS_SUBSCRIPTIONS_BILLING_CONCURRENCY", "16"),
        ("ANNALS_SUBSCRIPTIONS_BILLING_RETRY_ATTEMPTS", "forever"),
        ("ANNALS_SUBSCRIPTIONS_BILLING_RETRY_JITTER", "1, 1.5"),
        ("ANNALS_SUBSCRIPTIONS_BILLING_RETRY_FACTOR", "2"),
        ("ANNALS_SUBSCRIPTIONS_BILLING_CIRCUIT_BREAKER_OPEN_FOR", "2m"),
        ("ANNALS_SUBSCRIPTIONS_NEW_WAITING_BYTES_MAX", "65536"),
        // Nobody's business here.
        ("ANNALS_DIR", "data"),
        ("ANNALS_BUSY", "very"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!((&*config.bus().source, config.bus().environment.as_deref()), ("audit", Some("staging")));
    assert_eq!(config.bus().topic_defaults.partitions, 3);
    assert_eq!(["orders", "orders.dlq", "new_ones"].map(|topic| config.topic(topic).partitions), [5, 6, 3]);
    assert_eq!(config.topic("new_ones").indexed_headers, ["a", "b"]);
    assert_eq!(config.subscriptions().collect::<Vec<_>>(), ["audit", "billing", "new"]);
    let billing = policy(&config, "billing");
    assert_eq!((billing.concurrency, billing.retry.attempts()), (16, u32::MAX));
    assert!(format!("{:?}", billing.retry).contains("factor: 2.0, ceiling: 300s, jitter: (1.0, 1.5)"));
    assert_eq!(billing.breaker.map(|breaker| breaker.open_for), Some(Duration::from_secs(120)));
    assert_eq!(policy(&config, "new").waiting_bytes_max, 65_536);
    assert!(format!("{:?}", config.log()).contains("create: true"));
    assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);

    for (variable, value, expected) in [
        ("ANNALS_BUS_SORCE", "a", "`ANNALS_BUS_SORCE` is unknown; did you mean `ANNALS_BUS_SOURCE`?"),
        (
            "ANNALS_SUBSCRIPTIONS_BILLING_CONCURENCY",
            "1",
            "`ANNALS_SUBSCRIPTIONS_BILLING_CONCURENCY` is unknown; did you mean",
        ),
        ("ANNALS_SUBSCRIPTIONS_CONCURRENCY", "1", "`ANNALS_SUBSCRIPTIONS_CONCURRENCY` is unknown"),
        (
            "ANNALS_SUBSCRIPTIONS_BILLING_CONCURRENCY",
            "many",
            "`ANNALS_SUBSCRIPTIONS_BILLING_CONCURRENCY` is \"many\"; 1 to 10000",
        ),
        ("ANNALS_SUBSCRIPTIONS_BILLING_CONCURRENCY", "", "is \"\"; 1 to 10000 are allowed"),
        ("ANNALS_LOG_MAPPED_APPENDS", "1", "`ANNALS_LOG_MAPPED_APPENDS` is \"1\"; true and false are allowed"),
        ("ANNALS_BUS", "1", "`ANNALS_BUS` is unknown"),
        ("ANNALS_SUBSCRIPTIONS_AUDIT_DEAD_LETTER", "orders.dlq", "in `subscriptions.audit`: `on_failure` is \"skip\""),
    ] {
        let error = with(&[(variable, value)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(expected), "{variable}={value}: {error}");
    }
    // What this process has is about its tests, and none of it about the bus.
    assert_eq!(Config::default().with_env().unwrap(), Config::default());
    let twice = Config::from_toml("[topics.a-b]\n[topics.a_b]").unwrap();
    let error = twice.with_vars([("ANNALS_TOPICS_A_B_PARTITIONS", "1")]).unwrap_err();
    assert!(error.to_string().contains("may be about \"a-b\" and about \"a_b\""), "{error}");
}

#[test]
fn a_subscription_takes_over_what_is_said_of_its_group() {
    let config = Config::from_toml(ALL).unwrap();
    let bus = crate::handle::Log::in_memory().unwrap().bus_with(config.bus()).unwrap();
    let topic = crate::codec::TopicDef::<Bytes, Raw>::new("orders");
    let on = |group: &str| bus.on(topic.clone(), group, |_: Event<Bytes>, _: Context| Ok::<_, crate::error::Error>(()));
    let billing =
        on("billing").concurrency(2).dead_letter("other.dlq").config(&config).deadline(Duration::from_secs(3));
    assert_eq!((billing.policy.concurrency, billing.policy.deadline), (8, Some(Duration::from_secs(3))));
    assert_eq!((billing.dead_letter.as_deref(), billing.sequenced), (Some("orders.dlq"), true));
    assert_eq!(billing.start, Start::Commit(100));
    let audit = on("audit").concurrency(2).dead_letter("audit.dlq").config(&config);
    assert_eq!((audit.policy.concurrency, audit.dead_letter), (2, None));
    assert!(matches!(audit.policy.give_up, GiveUp::Skip));
    let unheard = on("unheard").concurrency(2).dead_letter("a.dlq").config(&config);
    assert_eq!((unheard.policy.concurrency, unheard.dead_letter.as_deref()), (2, Some("a.dlq")));
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("annals.toml");
    assert_eq!(Config::from_file(&path).unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::write(&path, ALL).unwrap();
    assert_eq!(Config::from_file(&path).unwrap(), Config::from_toml(ALL).unwrap());
    std::fs::write(&path, "[bus]\nsorce = 1").unwrap();
    let error = Config::from_file(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("annals.toml: `bus.sorce` is unknown"), "{error}");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(Config::from_file(&path).unwrap_err().kind(), ErrorKind::Invalid);
}

/// Lines that are near to what is meant.
fn line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "partitions",
        "durability",
        "retention_age_max",
        "segment_bytes_max",
        "concurrency",
        "deadline",
        "start",
        "dead_letter",
        "sequenced",
        "on_failure",
        "retry",
        "attempts",
        "base",
        "factor",
        "jitter",
        "source",
        "environment",
        "create_topics",
        "topic_defaults",
        "commit_bytes_max",
        "indexed_headers",
        "compression",
        "failures",
        "open_for",
        "nonsense",
    ]);
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        "[a-z0-9:]{0,8}".prop_map(|text| format!("{text:?}")),
        prop::sample::select(vec![
            "true",
            "\"1h\"",
            "\"64MiB\"",
            "[0.5, 1.5]",
            "[\"a\"]",
            "\"commit:9\"",
            "\"sync\"",
            "\"lz4\"",
            "{}",
            "{ attempts = 3 }",
            "1",
            "4",
            "\"forever\"",
            "\"skip\"",
            "0.5",
        ])
        .prop_map(str::to_owned),
    ];
    let section = prop::sample::select(vec![
        "[log]",
        "[bus]",
        "[bus.topic_defaults]",
        "[topics.a]",
        "[subscriptions.a]",
        "[subscriptions.a.retry]",
        "[subscriptions.a.circuit_breaker]",
        "[topics.\"\"]",
        "[x]",
    ]);
    prop_oneof![3 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")), 1 => section.prop_map(str::to_owned)]
}

/// A section with one key of it.
fn right() -> impl Strategy<Value = String> {
    let time = (1..100_u32, prop::sample::select(vec!["ms", "s", "m"])).prop_map(|(n, unit)| format!("\"{n}{unit}\""));
    prop_oneof![
        (1..10_000_u32).prop_map(|n| format!("[subscriptions.a]\nconcurrency = {n}\n")),
        time.clone().prop_map(|time| format!("[subscriptions.b]\nttl = {time}\n")),
        (time, 1..9_u32).prop_map(|(time, n)| format!("[subscriptions.c.retry]\nbase = {time}\nattempts = {n}\n")),
        "[a-z]{1,9}".prop_map(|name| format!("[bus]\nsource = \"{name}\"\n")),
        (64..1000_u32).prop_map(|n| format!("[topics.t]\nsegment_bytes_max = \"{n}KiB\"\n")),
        (0.0..1.0_f64).prop_map(|n| format!("[topics.u]\ncompaction_dirty_ratio_min = {n:?}\n")),
    ]
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(text: String, lines in prop::collection::vec(line(), 0..8)) {
        for text in [text, lines.join("\n")] {
            match Config::from_toml(&text) {
                Ok(config) => prop_assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config),
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid),
            }
        }
    }

    #[test]
    fn what_is_right_is_read_and_written_again(one in right(), variable in "ANNALS_(BUS|TOPICS_T|SUBSCRIPTIONS_[A-C])_[A-Z_]{1,12}", value: String) {
        let config = Config::from_toml(&one).unwrap();
        prop_assert_eq!(&Config::from_toml(&config.to_toml()).unwrap(), &config);
        match config.with_vars([(variable, value)]) {
            Ok(_) => {}
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid),
        }
    }
}
