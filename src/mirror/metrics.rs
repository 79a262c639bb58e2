//! Exporting what a mirror shows to the recorder of the crate `metrics`.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::status::{ErrorClass, MirrorStatus};

/// What was exported so far: gauges of partitions that are no more are set to zero.
#[derive(Debug, Default)]
pub(super) struct Exporter {
    described: bool,
    partitions: BTreeSet<(String, u32)>,
}

impl Exporter {
    /// Hands on what a mirror shows. `since_commit` is how long ago it has last committed.
    pub(super) fn export(&mut self, mirror: &str, status: &MirrorStatus, since_commit: Duration, fenced: bool) {
        if !std::mem::replace(&mut self.described, true) {
            describe();
        }
        let name = mirror.to_owned();
        let count = |metric: &'static str, value: u64| counter!(metric, "mirror" => name.clone()).absolute(value);
        count("annals_mirror_forwarded_total", status.forwarded);
        count("annals_mirror_forwarded_bytes_total", status.forwarded_bytes);
        count("annals_mirror_passed_over_total", status.passed_over);
        count("annals_mirror_refused_total", status.refused);
        count("annals_mirror_transactions_total", status.committed);
        count("annals_mirror_aborts_total", status.aborted);
        count("annals_mirror_fences_total", u64::from(fenced));
        gauge!("annals_mirror_transaction_age_seconds", "mirror" => name.clone()).set(since_commit.as_secs_f64());
        let paused = status.partitions.iter().filter(|partition| partition.paused.is_some()).count();
        gauge!("annals_mirror_paused_partitions", "mirror" => name.clone()).set(paused as f64);
        let mut gone = std::mem::take(&mut self.partitions);
        let show = |metric: &'static str, topic: &str, partition: u32, value: f64| {
            gauge!(metric, "mirror" => name.clone(), "topic" => topic.to_owned(), "partition" => partition.to_string())
                .set(value);
        };
        for partition in &status.partitions {
            let (topic, number) = (&partition.topic, partition.partition);
            show("annals_mirror_lag_records", topic, number, partition.lag_records as f64);
            show("annals_mirror_lag_bytes", topic, number, partition.lag_bytes as f64);
            show("annals_mirror_lag_seconds", topic, number, partition.lag.as_secs_f64());
            if let Some(headroom) = partition.headroom_bytes {
                show("annals_mirror_retention_headroom_bytes", topic, number, headroom as f64);
            }
            gone.remove(&(topic.clone(), number));
            self.partitions.insert((topic.clone(), number));
        }
        for (topic, number) in gone {
            for metric in ["annals_mirror_lag_records", "annals_mirror_lag_bytes", "annals_mirror_lag_seconds"] {
                show(metric, &topic, number, 0.0);
            }
        }
    }
}

/// Counts an error of a mirror, or of a source.
pub(super) fn count_error(what: &'static str, name: &str, class: ErrorClass) {
    let class = match class {
        ErrorClass::Passing => "passing",
        ErrorClass::Skipped => "skipped",
        ErrorClass::Partition => "partition",
        ErrorClass::Fatal => "fatal",
    };
    counter!(format!("annals_{what}_errors_total"), what => name.to_owned(), "class" => class).increment(1);
}

fn describe() {
    describe_counter!("annals_mirror_forwarded_total", "records that the mirror has forwarded");
    describe_counter!("annals_mirror_forwarded_bytes_total", Unit::Bytes, "bytes of their keys, values and headers");
    describe_counter!("annals_mirror_passed_over_total", "records that it was not to forward");
    describe_counter!("annals_mirror_refused_total", "records that the target has refused for good");
    describe_counter!("annals_mirror_transactions_total", "transactions that were committed");
    describe_counter!("annals_mirror_aborts_total", "transactions that were aborted");
    describe_counter!("annals_mirror_fences_total", "whether another instance has taken over");
    describe_counter!("annals_mirror_errors_total", "errors, by class");
    describe_gauge!(
        "annals_mirror_transaction_age_seconds",
        Unit::Seconds,
        "how long ago the last transaction was committed"
    );
    describe_gauge!("annals_mirror_paused_partitions", "partitions that are paused for an error");
    describe_gauge!("annals_mirror_lag_records", "records that are durable and not in the target yet");
    describe_gauge!("annals_mirror_lag_bytes", Unit::Bytes, "about how many bytes these have");
    describe_gauge!("annals_mirror_lag_seconds", Unit::Seconds, "how old the first of them is");
    describe_gauge!("annals_mirror_retention_headroom_bytes", Unit::Bytes, "bytes until the retention hold is broken");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::time::Duration;

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::super::shared::Shared;
    use super::super::source::{self, SourcePartition};
    use super::super::status::{ErrorClass, MirrorPartition};
    use super::{Exporter, count_error};

    /// Keeps the names that were described, and those that were used.
    #[derive(Default)]
    struct Names {
        described: Mutex<BTreeSet<String>>,
        used: Mutex<BTreeSet<String>>,
    }

    impl Names {
        fn describe(&self, key: &KeyName) {
            self.described.lock().unwrap().insert(key.as_str().to_owned());
        }

        fn register(&self, key: &Key) {
            self.used.lock().unwrap().insert(key.name().to_owned());
        }
    }

    impl Recorder for Names {
        fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
            self.describe(&key);
        }

        fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
            self.describe(&key);
        }

        fn describe_histogram(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
            self.describe(&key);
        }

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.register(key);
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.register(key);
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.register(key);
            Histogram::noop()
        }
    }

    fn check(names: &Names, prefix: &str) {
        let documented: BTreeSet<String> = include_str!("../../docs/OBSERVABILITY.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .collect();
        assert!(documented.len() > 7);
        assert_eq!(*names.used.lock().unwrap(), documented);
        assert_eq!(*names.described.lock().unwrap(), documented);
    }

    #[test]
    fn what_is_documented_is_exported_and_nothing_else() {
        let names = Names::default();
        let shared: Shared<MirrorPartition> = Shared::new("mirror", "m");
        shared.set_partitions(vec![MirrorPartition {
            topic: "orders".to_owned(),
            partition: 0,
            target: "orders".to_owned(),
            next_offset: 3,
            lag_records: 1,
            lag_bytes: 100,
            lag: Duration::from_secs(1),
            headroom_bytes: Some(7),
            paused: None,
        }]);
        metrics::with_local_recorder(&names, || {
            Exporter::default().export("m", &shared.status(), Duration::ZERO, false);
            count_error("mirror", "m", ErrorClass::Passing);
        });
        check(&names, "annals_mirror_");
    }

    #[test]
    fn the_same_holds_for_a_source() {
        let names = Names::default();
        let shared: Shared<SourcePartition> = Shared::new("source", "s");
        shared.set_partitions(vec![SourcePartition {
            topic: "orders".to_owned(),
            partition: 0,
            target: "orders".to_owned(),
            next_offset: 3,
            lag_records: 1,
            paused: None,
        }]);
        metrics::with_local_recorder(&names, || {
            let mut exporter = source::metrics::Exporter::default();
            exporter.export("s", Duration::ZERO, || source::status::of(&shared));
            exporter.export("s", Duration::from_millis(10), || panic!("a moment ago it did"));
            count_error("source", "s", ErrorClass::Passing);
        });
        check(&names, "annals_source_");
    }
}
