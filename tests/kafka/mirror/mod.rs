//! The mirror against real brokers.

mod compare;
mod events;
mod child;
mod kill;
