//! What an exporter of metrics wants to know of a subscription's handler. Until somebody asks for it, and without the feature
//! `metrics` always, nothing is measured.

#[cfg(feature = "metrics")]
use std::sync::OnceLock;
use std::time::Duration;

use crate::record::Message;
use crate::storage::Env;

/// The histograms of a group, once somebody wants them.
#[derive(Debug, Default)]
pub(super) struct Meter {
    #[cfg(feature = "metrics")]
    handles: OnceLock<Handles>,
    /// What the exporter has told so far. Kept here, so that nothing is told twice, however the exporter comes to know of it.
    #[cfg(feature = "metrics")]
    told: std::sync::Mutex<super::stats::SubscriptionStats>,
}

#[cfg(not(feature = "metrics"))]
impl Meter {
    /// An attempt begins: the time, if somebody measures.
    #[inline]
    pub(super) fn attempt_begins(&self, _: &Env, _: &Message, _attempt: u32) -> Option<Duration> {
        None
    }

    /// The attempt has ended.
    #[inline]
    pub(super) fn attempt_ended(&self, _: &Env, _began: Option<Duration>) {}
}

#[cfg(feature = "metrics")]
mod handles {
    use metrics::{Histogram, Unit, describe_histogram, histogram};

    use super::super::stats::SubscriptionStats;
    use super::{Duration, Env, Message, Meter};
    use crate::segment::lock;

    pub(super) struct Handles {
        handler: Histogram,
        delivery: Histogram,
    }

    impl std::fmt::Debug for Handles {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Handles").finish_non_exhaustive()
        }
    }

    const HANDLER: &str = "annals_bus_handler_seconds";
    const DELIVERY: &str = "annals_bus_delivery_seconds";

    impl Meter {
        /// Begins to measure, with the recorder that is installed now. A second call changes nothing.
        pub(in super::super) fn turn_on(&self, group: &str) {
            self.handles.get_or_init(|| {
                describe_histogram!(HANDLER, Unit::Seconds, "How long an attempt of the handler has taken");
                describe_histogram!(
                    DELIVERY,
                    Unit::Seconds,
                    "How old an event was, by its timestamp, when its handler was first called with it"
                );
                Handles {
                    handler: histogram!(HANDLER, "group" => group.to_owned()),
                    delivery: histogram!(DELIVERY, "group" => group.to_owned()),
                }
            });
        }

        /// Takes note of what is told now; answers what was told before.
        pub(in super::super) fn tell(&self, now: SubscriptionStats) -> SubscriptionStats {
            std::mem::replace(&mut *lock(&self.told), now)
        }

        /// An attempt begins: the time, if somebody measures.
        pub(in super::super) fn attempt_begins(&self, env: &Env, message: &Message, attempt: u32) -> Option<Duration> {
            let handles = self.handles.get()?;
            if attempt == 1 {
                let age = env.clock.now_micros().saturating_sub(message.timestamp_micros);
                // A timestamp that its sender has set may be of any time.
                handles.delivery.record(Duration::from_micros(u64::try_from(age).unwrap_or(0)));
            }
            Some(env.clock.monotonic())
        }

        /// The attempt has ended.
        pub(in super::super) fn attempt_ended(&self, env: &Env, began: Option<Duration>) {
            if let (Some(handles), Some(began)) = (self.handles.get(), began) {
                handles.handler.record(env.clock.monotonic().saturating_sub(began));
            }
        }
    }
}

#[cfg(feature = "metrics")]
use handles::Handles;
