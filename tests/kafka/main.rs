//! Against real brokers of Apache Kafka. See README.md.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails where it must, on the real clock")]

mod brokers;
mod bus;
#[cfg(feature = "cli")]
mod command;
#[cfg(feature = "metrics")]
mod metrics;
mod mirror;
mod source;
mod support;
