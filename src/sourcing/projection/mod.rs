//! Projections: states that follow topics, kept in a view along with the places that they have come to.
//!
//! A projection is a thread of its own ([`worker`]), since what it does blocks: sled, files, and the application's functions. What
//! its handles, the registry of the log and the thread share is in [`shared`]. What one batch of records changes, and the places
//! behind it, are written as one.

mod builder;
mod handle;
mod opening;
mod registry;
mod shared;
mod state;
mod worker;

pub use builder::{ApplyError, ProjectionBuilder};
pub use handle::Projection;
pub use shared::{Progress, Rebuild};
pub use state::ProjectionState;
