//! The mirror against real brokers.

mod child;
mod compare;
mod events;
mod kill;
