//! Where event sourcing begins: on a topic, and on the log.

use std::sync::Arc;

use super::log::Log;
use crate::codec::Codec;
use crate::record::IntoBytes;
use crate::sourcing::{EventStream, ProjectionBuilder};
use crate::topic::Topic;

impl<T, C: Codec<T>> Topic<T, C> {
    /// The stream of the events that have this key.
    ///
    /// # Example
    ///
    /// See [`EventStream`].
    pub fn stream(&self, key: impl IntoBytes) -> EventStream<T, C> {
        EventStream::new(self.clone(), key.into_bytes())
    }
}

impl Log {
    /// A projection that is to be: a state of its own that follows topics. Its name is that of its directory. Raise the version
    /// whenever the functions, or the types of the values, change: a state of another version is not used, but built anew.
    ///
    /// # Example
    ///
    /// See [`Projection`](crate::Projection).
    pub fn projection(&self, name: impl Into<String>, version: u32) -> ProjectionBuilder {
        ProjectionBuilder::new(Arc::clone(&self.inner), name.into(), version)
    }
}
