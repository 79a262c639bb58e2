//! Event sourcing: streams of events by their key, states that are folds of them, and projections over whole topics.
//!
//! A [stream](stream) is what one partition has of one key, found by the index of keys. An [aggregate](aggregate) is folded from it, from
//! a [snapshot](snapshots) on where there is one. A [projection] follows topics and keeps its state in a view, along with the places
//! that it has come to. Whatever is kept here can be made again from the log, and is believed only if it [holds](place) against it.

mod aggregate;
mod place;
mod projection;
mod snapshots;
mod stream;

#[cfg(test)]
mod tests;

pub use aggregate::{Aggregate, Loaded, Snapshot};
pub use projection::{ApplyError, Progress, Projection, ProjectionBuilder, ProjectionState, Rebuild};
pub use stream::EventStream;
