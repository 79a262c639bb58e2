//! The names of headers. Those that many records have are not copied for each of them.

use std::fmt;
use std::ops::Deref;

/// The name of a header.
#[derive(Clone)]
pub(super) enum Name {
    Known(&'static str),
    Own(Box<str>),
}

impl Name {
    /// A name that somebody owns already.
    pub(super) fn own(name: Box<str>) -> Self {
        match known(&name) {
            Some(known) => Self::Known(known),
            None => Self::Own(name),
        }
    }

    /// A name that is somebody else's.
    pub(super) fn of(name: &str) -> Self {
        match known(name) {
            Some(known) => Self::Known(known),
            None => Self::Own(name.into()),
        }
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Known(name) => name,
            Self::Own(name) => name,
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

macro_rules! known {
    ($($name:literal)+) => {
        /// The name as it stands in the program, if it is one of the standard headers of events.
        #[inline]
        pub(crate) fn known(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some($name),)+
                _ => None,
            }
        }
    };
}

known! {
    "message_id" "correlation_id" "source" "event_type" "causation_id" "causation_depth" "category" "content_type" "schema_version"
    "destination" "traceparent" "tracestate" "operation_name" "priority" "routing_key" "ttl" "environment" "tenant_id" "user_id"
    "permissions" "retry_count" "max_retries"
}
