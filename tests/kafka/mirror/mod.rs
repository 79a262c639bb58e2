//! The mirror against real brokers.

mod beside;
mod child;
mod cluster;
mod compare;
mod events;
mod identity;
mod kill;
mod refused;
mod replies;
mod retention;
mod settings;
pub(crate) mod world;
