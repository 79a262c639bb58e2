//! Finding records by the value of a header, or by their key.
//!
//! Which records may have it says a view (`views::index`), for each partition up to some place in the log; what lies behind that is
//! read and taken in before anything is looked up ([`index`]). Nothing is done where records are appended. Whatever the view says is
//! held against the records themselves ([`search`]), so it may name too many; that it names too few it would have noticed.

mod blocking;
mod index;
mod matcher;
mod newest;
mod read;
mod search;
mod stream;
mod worker;

#[cfg(test)]
mod tests;

pub use blocking::BlockingFind;
pub use stream::Find;

pub(crate) use index::register;
pub(crate) use newest::{mark_of, newest};
pub(crate) use search::Scope;
