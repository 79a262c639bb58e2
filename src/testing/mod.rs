//! Testing your own application on annals, with the feature `testing`.
//!
//! | you want to know | take |
//! |---|---|
//! | whether it survives a power loss, wherever it comes | [`crash_at_every_step`], [`CrashTest`] |
//! | whether its handler bears messages that come again | [`redeliver_at_every_step`] |
//! | what it does when the disk is full, fails, or loses power right now | [`SimulatedDisk`] |
//! | whether what it does about time is right, without waiting | [`ManualClock`] |
//! | whether it holds for any records, in any order of events | [`strategy`], with [proptest](https://docs.rs/proptest) |
//! | the same through closes, kills and power losses | [`Harness`] and [`Operation`] |
//! | whether an event bus of yours, on whatever it is, does what one must | [`conformance`] |
//! | whether what came out is right: nothing lost, doubled, out of order | [`check`], over [`History`], [`Observed`] and [`Progress`] |
//!
//! Add it to what tests alone need:
//!
//! ```toml
//! [dev-dependencies]
//! annals = { version = "0.1", features = ["testing"] }
//! proptest = "1"
//! ```
//!
//! The simulated disk is the one that annals itself is tested with: it keeps of each file and each directory what is on the disk
//! apart from what the system has, and loses, tears and mixes the difference at a power loss. The log on it is the real one.
//!
//! # A test of an application
//!
//! A handler keeps a balance for each account and applies the events that come. That each account's events reach it in their
//! order, once, and all of them, is asked for where it applies them:
//!
//! ```
//! use annals::testing::{History, Observed, check, strategy};
//! use annals::{Log, Raw, Record, Start, TopicDef, TopicSettings};
//! use bytes::Bytes;
//! use proptest::prelude::*;
//!
//! const EVENTS: TopicDef<Bytes, Raw> = TopicDef::new("events");
//!
//! # fn main() {
//! proptest!(ProptestConfig::with_cases(16), |(records in strategy::batch(0..30))| {
//!     let log = Log::in_memory()?;
//!     let events = log.blocking_create_topic(EVENTS, TopicSettings::default().partitions(4))?;
//!     let mut history = History::new();
//!     for record in &records {
//!         let receipt = events.blocking_produce(record.clone())?;
//!         history.acknowledged_bytes("events", record, &receipt);
//!     }
//!
//!     let mut applied = Observed::new();
//!     let mut replay = events.replay(Start::Earliest).blocking()?;   // here stands the application
//!     while let Some(record) = replay.next()? {
//!         applied.record(&record);
//!     }
//!     check::all(&history, &applied)?;
//! });
//! # }
//! ```
//!
//! `cargo run --example 7_testing --features testing` does this with a small application that is right, and with one that is not.
//!
//! # What is random, and what is not
//!
//! Everything follows from the seeds that you give: that of the disk, and that of proptest, which it prints for a failure. A test
//! that does one thing at a time makes the same calls each time ([`SimulatedDisk::trace`] tells), so a failure at call 17 comes back
//! at call 17.

pub mod check;
mod clock;
pub mod conformance;
mod crash;
mod disk;
mod harness;
mod history;
mod open;
mod redelivery;
pub mod strategy;
#[cfg(test)]
mod tests;
mod violation;

pub use clock::ManualClock;
pub use crash::{Checked, CrashFailure, CrashTest, Survived, crash_at_every_step};
pub use disk::{CallCounts, DiskOptions, Fault, Loss, SimulatedDisk};
pub use harness::{CheckFailure, Harness, Operation};
pub use history::{History, Observed, Progress};
pub use redelivery::{RedeliveryFailure, redeliver_at_every_step};
pub use violation::{Place, Violation};
