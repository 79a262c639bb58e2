//! Exporting what a source shows to the recorder of the crate `metrics`.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::status::SourceStatus;

/// How often it is done.
const INTERVAL: Duration = Duration::from_secs(1);

/// What was exported so far: the lag of partitions that are no more is set to zero.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Exporter {
    /// By the log's monotonic clock.
    exported_at: Option<Duration>,
    partitions: BTreeSet<(String, u32)>,
}

impl Exporter {
    /// Hands on what a source shows, unless it has done so a moment ago.
    pub(in crate::mirror) fn export(&mut self, source: &str, now: Duration, status: impl FnOnce() -> SourceStatus) {
        match self.exported_at {
            None => describe(),
            Some(exported_at) if now.saturating_sub(exported_at) < INTERVAL => return,
            Some(_) => {}
        }
        self.exported_at = Some(now);
        let (name, status) = (source.to_owned(), status());
        let count = |metric: &'static str, value: u64| counter!(metric, "source" => name.clone()).absolute(value);
        count("annals_source_received_total", status.received);
        count("annals_source_received_bytes_total", status.received_bytes);
        count("annals_source_passed_over_total", status.passed_over);
        count("annals_source_refused_total", status.refused);
        count("annals_source_transactions_total", status.committed);
        let paused = status.partitions.iter().filter(|partition| partition.paused.is_some()).count();
        gauge!("annals_source_paused_partitions", "source" => name.clone()).set(paused as f64);
        let mut gone = std::mem::take(&mut self.partitions);
        let show = |(topic, partition): &(String, u32), lag: u64| {
            let (topic, partition) = (topic.clone(), partition.to_string());
            gauge!("annals_source_lag_records", "source" => name.clone(), "topic" => topic, "partition" => partition)
                .set(lag as f64);
        };
        for partition in status.partitions {
            let place = (partition.topic, partition.partition);
            show(&place, partition.lag_records);
            gone.remove(&place);
            self.partitions.insert(place);
        }
        gone.iter().for_each(|place| show(place, 0));
    }
}

fn describe() {
    describe_counter!("annals_source_received_total", "records that the source has brought into the log");
    describe_counter!("annals_source_received_bytes_total", Unit::Bytes, "bytes of their keys, values and headers");
    describe_counter!("annals_source_passed_over_total", "records that came from this log");
    describe_counter!("annals_source_refused_total", "records that the log has refused for good");
    describe_counter!("annals_source_transactions_total", "transactions of the log that were committed");
    describe_counter!("annals_source_errors_total", "errors, by class");
    describe_gauge!("annals_source_paused_partitions", "partitions that are paused for an error");
    describe_gauge!(
        "annals_source_lag_records",
        "about how many records are committed in Kafka and not in the log yet"
    );
}
