//! The mirror against real brokers.

mod child;
mod compare;
mod events;
mod identity;
mod kill;
mod refused;
mod world;
