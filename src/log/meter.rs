//! What an exporter of metrics wants to know of the way to the disk. Until somebody asks for it, and without the feature `metrics`
//! always, nothing is measured: an append looks at one flag at the most.

#[cfg(feature = "metrics")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::storage::Env;

/// The histograms, once somebody wants them.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    #[cfg(feature = "metrics")]
    handles: OnceLock<Handles>,
    /// How often something was refused since the disk is full. Counted always: it is rare.
    disk_full: AtomicU64,
}

/// Which way to the disk it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The file of one partition.
    Partition,
    /// The journal.
    Journal,
    /// In the background, at the interval of a relaxed topic.
    Interval,
}

impl Way {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Journal => "journal",
            Self::Interval => "interval",
        }
    }
}

impl Meter {
    pub(super) fn note_disk_full(&self) {
        self.disk_full.fetch_add(1, Ordering::Relaxed);
    }

    /// How often something was refused since the disk is full.
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "only an exporter asks"))]
    pub(crate) fn disk_full(&self) -> u64 {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// The time, if somebody measures.
    #[inline]
    pub(super) fn begin(&self, env: &Env) -> Option<Duration> {
        self.is_on().then(|| env.clock.monotonic())
    }

    /// How long it is since then.
    #[inline]
    pub(super) fn took(&self, env: &Env, began: Option<Duration>) -> Option<Duration> {
        began.map(|began| env.clock.monotonic().saturating_sub(began))
    }
}

#[cfg(not(feature = "metrics"))]
impl Meter {
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        false
    }

    #[inline]
    pub(super) fn synced(&self, _took: Option<Duration>, _: Way) {}

    #[inline]
    pub(super) fn appended(&self, _took: Option<Duration>) {}

    #[inline]
    pub(super) fn committed(&self, _records: u64) {}
}

#[cfg(feature = "metrics")]
mod handles {
    use metrics::{Histogram, Unit, describe_histogram, histogram};

    use super::{Duration, Meter, Way};

    pub(super) struct Handles {
        sync: [Histogram; 3],
        append: Histogram,
        commit_records: Histogram,
    }

    impl std::fmt::Debug for Handles {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Handles").finish_non_exhaustive()
        }
    }

    const SYNC: &str = "annals_sync_seconds";
    const APPEND: &str = "annals_append_seconds";
    const COMMIT_RECORDS: &str = "annals_commit_records";

    impl Meter {
        /// Begins to measure, with the recorder that is installed now. A second call changes nothing.
        pub(crate) fn turn_on(&self) {
            self.handles.get_or_init(|| {
                describe_histogram!(
                    SYNC,
                    Unit::Seconds,
                    "How long bringing records onto the disk has taken, by the way there"
                );
                describe_histogram!(
                    APPEND,
                    Unit::Seconds,
                    "How long the first append of a commit has waited for its acknowledgement (synced topics)"
                );
                describe_histogram!(COMMIT_RECORDS, Unit::Count, "How many records have shared a commit");
                let of = |way: Way| histogram!(SYNC, "way" => way.as_str());
                Handles {
                    sync: [Way::Partition, Way::Journal, Way::Interval].map(of),
                    append: histogram!(APPEND),
                    commit_records: histogram!(COMMIT_RECORDS),
                }
            });
        }

        #[inline]
        pub(in super::super) fn is_on(&self) -> bool {
            self.handles.get().is_some()
        }

        pub(in super::super) fn synced(&self, took: Option<Duration>, way: Way) {
            if let (Some(handles), Some(took)) = (self.handles.get(), took) {
                handles.sync[way as usize].record(took);
            }
        }

        pub(in super::super) fn appended(&self, took: Option<Duration>) {
            if let (Some(handles), Some(took)) = (self.handles.get(), took) {
                handles.append.record(took);
            }
        }

        pub(in super::super) fn committed(&self, records: u64) {
            if let Some(handles) = self.handles.get() {
                handles.commit_records.record(records as f64);
            }
        }
    }
}

#[cfg(feature = "metrics")]
use handles::Handles;
