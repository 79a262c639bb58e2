//! A recorder of the crate `metrics` that keeps what it is told.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// Keeps everything: the sum of a counter, the last value of a gauge, all values of a histogram.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<BTreeMap<String, Vec<f64>>>>);

struct One(Kept, String);

fn named(key: &Key) -> String {
    let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

impl One {
    fn change(&self, change: impl FnOnce(&mut Vec<f64>)) {
        change(self.0.0.lock().unwrap().entry(self.1.clone()).or_default());
    }
}

impl CounterFn for One {
    fn increment(&self, value: u64) {
        self.change(|values| {
            let sum = values.pop().unwrap_or(0.0) + value as f64;
            values.push(sum);
        });
    }

    fn absolute(&self, value: u64) {
        self.change(|values| *values = vec![value as f64]);
    }
}

impl GaugeFn for One {
    fn increment(&self, _: f64) {
        unreachable!("nothing here is told so");
    }

    fn decrement(&self, _: f64) {
        unreachable!("nothing here is told so");
    }

    fn set(&self, value: f64) {
        self.change(|values| *values = vec![value]);
    }
}

impl HistogramFn for One {
    fn record(&self, value: f64) {
        self.change(|values| values.push(value));
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(One(self.clone(), named(key))))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(One(self.clone(), named(key))))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(One(self.clone(), named(key))))
    }
}

impl Kept {
    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> f64 {
        match self.all(name)[..] {
            [value] => value,
            ref other => panic!("{name}: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn all(&self, name: &str) -> Vec<f64> {
        let all = self.0.lock().unwrap();
        all.get(name).cloned().unwrap_or_else(|| panic!("{name} is not among {:?}", all.keys()))
    }

    pub(crate) fn all_or_none(&self, name: &str) -> Vec<f64> {
        self.0.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().keys().map(|key| key.split('{').next().unwrap().to_owned()).collect()
    }
}
