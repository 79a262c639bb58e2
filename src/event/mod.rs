//! The standard headers of an event: their names, how they are written, and how they are read.
//!
//! A header is bytes under a name, and every one of these is text, so that it can be read in a console, by another language, and
//! on the other side of a mirror. Those who publish through a [`Bus`](crate::Bus) get the first five filled in; every header can be
//! set by hand, and then stays as it is.
//!
//! | header | what it holds |
//! |---|---|
//! | [`message_id`](crate::Record::id) | the identity of the event, a UUID of version 7 |
//! | [`correlation_id`](CORRELATION_ID) | what belongs together: inherited from the event that is being handled |
//! | [`source`](SOURCE) | the name of the service that has published it |
//! | [`event_type`](EVENT_TYPE) | what has happened, dotted: `order.placed` |
//! | (the record's timestamp) | when it happened |
//! | [`causation_id`](CAUSATION_ID) | the `message_id` of the event that was being handled when this one was published |
//! | [`causation_depth`](CAUSATION_DEPTH) | how many events lie between it and the one that began it all |
//! | [`category`](CATEGORY) | `event`, `command` or `intent` |
//! | [`content_type`](CONTENT_TYPE) | the media type of the value, from the codec |
//! | [`schema_version`](SCHEMA_VERSION) | a number |
//! | [`destination`](DESTINATION) | whom it is meant for |
//! | [`traceparent`](TRACEPARENT), [`tracestate`](TRACESTATE) | the [W3C trace context](https://www.w3.org/TR/trace-context/) |
//! | [`operation_name`](OPERATION_NAME) | the operation that it is part of |
//! | [`priority`](PRIORITY) | `low`, `normal`, `high` or `critical`: to filter by; it never changes the order of a partition |
//! | [`routing_key`](ROUTING_KEY) | a text to filter by |
//! | [`ttl`](TTL) | how long it is of use, in milliseconds from its timestamp on |
//! | [`environment`](ENVIRONMENT) | `dev`, `staging`, `prod` |
//! | [`tenant_id`](TENANT_ID), [`user_id`](USER_ID), [`permissions`](PERMISSIONS) | on whose behalf; never a token or a password |
//! | [`retry_count`](RETRY_COUNT), [`max_retries`](MAX_RETRIES) | of a dead letter: how often it was tried again, and how often it might have been |
//!
//! The key of the record is the event's `partition_key`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::record::{Header, IntoBytes, Message, Record};
use crate::text::quoted;

mod trace;

pub use crate::record::MESSAGE_ID;
pub use trace::TraceParent;

/// What belongs together.
pub const CORRELATION_ID: &str = "correlation_id";
/// The service that has published it.
pub const SOURCE: &str = "source";
/// What has happened.
pub const EVENT_TYPE: &str = "event_type";
/// The identity of the event that has caused it.
pub const CAUSATION_ID: &str = "causation_id";
/// How long the chain of causes is.
pub const CAUSATION_DEPTH: &str = "causation_depth";
/// Event, command or intent.
pub const CATEGORY: &str = "category";
/// The media type of the value.
pub const CONTENT_TYPE: &str = "content_type";
/// The version of the value's schema.
pub const SCHEMA_VERSION: &str = "schema_version";
/// Whom it is meant for.
pub const DESTINATION: &str = "destination";
/// The W3C trace context: trace, span and flags.
pub const TRACEPARENT: &str = "traceparent";
/// The W3C trace context: what vendors add.
pub const TRACESTATE: &str = "tracestate";
/// The operation that it is part of.
pub const OPERATION_NAME: &str = "operation_name";
/// Low, normal, high or critical.
pub const PRIORITY: &str = "priority";
/// A text to filter by.
pub const ROUTING_KEY: &str = "routing_key";
/// How long it is of use, in milliseconds.
pub const TTL: &str = "ttl";
/// Development, staging, production.
pub const ENVIRONMENT: &str = "environment";
/// On behalf of which tenant.
pub const TENANT_ID: &str = "tenant_id";
/// On behalf of which user.
pub const USER_ID: &str = "user_id";
/// What that user may do, separated by commas.
pub const PERMISSIONS: &str = "permissions";
/// How often a dead letter was tried again.
pub const RETRY_COUNT: &str = "retry_count";
/// How often a dead letter might have been tried again.
pub const MAX_RETRIES: &str = "max_retries";

/// What kind of message an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Category {
    /// Something has happened.
    #[default]
    Event,
    /// Something is to be done.
    Command,
    /// Something is wished for, and somebody may do something about it.
    Intent,
}

/// How important an event is. It never changes the order of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Priority {
    /// Less than usual.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// More than usual.
    High,
    /// Most.
    Critical,
}

macro_rules! words {
    ($type:ident, $what:literal, $($variant:ident = $word:literal),+) => {
        impl $type {
            /// The word in the header.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(word: &str) -> Result<Self> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Error::invalid(format!(
                        concat!($what, " {} is not known; ", $("\"", $word, "\" ",)+ "are allowed"), quoted(word)
                    ))),
                }
            }
        }
    };
}

words!(Category, "the category", Event = "event", Command = "command", Intent = "intent");
words!(Priority, "the priority", Low = "low", Normal = "normal", High = "high", Critical = "critical");

/// Setting the standard headers. Each takes the place of one of the same name that is there.
///
/// ```
/// use annals::Record;
/// use annals::event::Priority;
/// use std::time::Duration;
///
/// let record = Record::new("17 EUR")
///     .key("order-17")
///     .event_type("order.paid")
///     .priority(Priority::High)
///     .ttl(Duration::from_secs(60));
/// assert_eq!(record.headers.get_str("event_type"), Some("order.paid"));
/// assert_eq!(record.headers.get_str("ttl"), Some("60000"));
/// ```
impl<T> Record<T> {
    /// Sets a header, in the place of all of the same name that are there.
    #[must_use]
    pub fn set_header(mut self, name: &'static str, value: impl IntoBytes) -> Self {
        self.headers.remove_all(name);
        self.headers.push(Header::standard(name, value));
        self
    }

    /// Sets what belongs together with this event; most often a UUID.
    #[must_use]
    pub fn correlation_id(self, id: impl IntoBytes) -> Self {
        self.set_header(CORRELATION_ID, id)
    }

    /// Sets the identity of the event that has caused this one.
    #[must_use]
    pub fn causation_id(self, id: impl IntoBytes) -> Self {
        self.set_header(CAUSATION_ID, id)
    }

    /// Sets what has happened, dotted: `order.placed`.
    #[must_use]
    pub fn event_type(self, name: impl IntoBytes) -> Self {
        self.set_header(EVENT_TYPE, name)
    }

    /// Sets the service that publishes it.
    #[must_use]
    pub fn source(self, name: impl IntoBytes) -> Self {
        self.set_header(SOURCE, name)
    }

    /// Sets what kind of message it is.
    #[must_use]
    pub fn category(self, category: Category) -> Self {
        self.set_header(CATEGORY, category.as_str())
    }

    /// Sets the version of the value's schema.
    #[must_use]
    pub fn schema_version(self, version: u32) -> Self {
        self.set_header(SCHEMA_VERSION, version.to_string())
    }

    /// Sets whom it is meant for.
    #[must_use]
    pub fn destination(self, name: impl IntoBytes) -> Self {
        self.set_header(DESTINATION, name)
    }

    /// Sets the trace that it belongs to.
    #[must_use]
    pub fn trace_parent(self, parent: TraceParent) -> Self {
        self.set_header(TRACEPARENT, parent.to_string())
    }

    /// Sets the operation that it is part of.
    #[must_use]
    pub fn operation_name(self, name: impl IntoBytes) -> Self {
        self.set_header(OPERATION_NAME, name)
    }

    /// Sets how important it is, for subscriptions to filter by.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        self.set_header(PRIORITY, priority.as_str())
    }

    /// Sets a text for subscriptions to filter by.
    #[must_use]
    pub fn routing_key(self, key: impl IntoBytes) -> Self {
        self.set_header(ROUTING_KEY, key)
    }

    /// Sets how long it is of use, from its timestamp on. What is finer than a millisecond is cut off.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.set_header(TTL, ttl.as_millis().to_string())
    }

    /// Sets the tenant on whose behalf it is.
    #[must_use]
    pub fn tenant_id(self, id: impl IntoBytes) -> Self {
        self.set_header(TENANT_ID, id)
    }

    /// Sets the user on whose behalf it is.
    #[must_use]
    pub fn user_id(self, id: impl IntoBytes) -> Self {
        self.set_header(USER_ID, id)
    }

    /// Sets what the user may do. A comma separates, so none may be in a name.
    #[must_use]
    pub fn permissions<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<_> = names.into_iter().collect();
        self.set_header(PERMISSIONS, names.join(","))
    }
}

/// Reading the standard headers. What is absent, or cannot be read, is `None`.
impl<T> Message<T> {
    /// What belongs together with this event.
    pub fn correlation_id(&self) -> Option<&str> {
        self.headers.get_str(CORRELATION_ID)
    }

    /// The identity of the event that has caused it.
    pub fn causation_id(&self) -> Option<&str> {
        self.headers.get_str(CAUSATION_ID)
    }

    /// What has happened.
    pub fn event_type(&self) -> Option<&str> {
        self.headers.get_str(EVENT_TYPE)
    }

    /// The service that has published it.
    pub fn source(&self) -> Option<&str> {
        self.headers.get_str(SOURCE)
    }

    /// What kind of message it is.
    pub fn category(&self) -> Option<Category> {
        self.headers.get_str(CATEGORY)?.parse().ok()
    }

    /// The media type of the value.
    pub fn content_type(&self) -> Option<&str> {
        self.headers.get_str(CONTENT_TYPE)
    }

    /// The version of the value's schema.
    pub fn schema_version(&self) -> Option<u32> {
        self.headers.get_str(SCHEMA_VERSION)?.parse().ok()
    }

    /// Whom it is meant for.
    pub fn destination(&self) -> Option<&str> {
        self.headers.get_str(DESTINATION)
    }

    /// The trace that it belongs to.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.headers.get_str(TRACEPARENT)?.parse().ok()
    }

    /// The operation that it is part of.
    pub fn operation_name(&self) -> Option<&str> {
        self.headers.get_str(OPERATION_NAME)
    }

    /// How important it is.
    pub fn priority(&self) -> Option<Priority> {
        self.headers.get_str(PRIORITY)?.parse().ok()
    }

    /// The text to filter by.
    pub fn routing_key(&self) -> Option<&str> {
        self.headers.get_str(ROUTING_KEY)
    }

    /// How long it is of use.
    pub fn ttl(&self) -> Option<Duration> {
        self.headers.get_str(TTL)?.parse().ok().map(Duration::from_millis)
    }

    /// Where it was published: development, staging, production.
    pub fn environment(&self) -> Option<&str> {
        self.headers.get_str(ENVIRONMENT)
    }

    /// The tenant on whose behalf it is.
    pub fn tenant_id(&self) -> Option<&str> {
        self.headers.get_str(TENANT_ID)
    }

    /// The user on whose behalf it is.
    pub fn user_id(&self) -> Option<&str> {
        self.headers.get_str(USER_ID)
    }

    /// What the user may do.
    pub fn permissions(&self) -> impl Iterator<Item = &str> {
        self.headers.get_str(PERMISSIONS).unwrap_or("").split(',').filter(|name| !name.is_empty())
    }
}

/// The type of an event whose publisher has not said it: the name of its Rust type, in small letters, with dots between the words.
pub(crate) fn type_name_of<T>() -> String {
    let name = std::any::type_name::<T>();
    let name = name.split('<').next().unwrap_or(name);
    let name = name.rsplit("::").next().unwrap_or(name);
    let mut dotted = String::with_capacity(name.len() + 4);
    let mut chars = name.chars().filter(|c| c.is_alphanumeric() || *c == '_').peekable();
    let mut before = None::<char>;
    while let Some(c) = chars.next() {
        let begins = c.is_uppercase()
            && before
                .is_some_and(|before| !before.is_uppercase() || chars.peek().is_some_and(|next| next.is_lowercase()));
        if (begins || c == '_') && !dotted.is_empty() && !dotted.ends_with('.') {
            dotted.push('.');
        }
        if c != '_' {
            dotted.extend(c.to_lowercase());
        }
        before = Some(c);
    }
    dotted
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Category, Priority, type_name_of};
    use crate::error::ErrorKind;
    use crate::record::{Record, known};

    struct OrderPlaced;
    struct HTTPRequestSeen;
    #[expect(non_camel_case_types, reason = "some write them so")]
    struct Snake_case;
    struct Generic<T>(std::marker::PhantomData<T>);

    #[test]
    fn a_type_says_what_has_happened() {
        assert_eq!(type_name_of::<OrderPlaced>(), "order.placed");
        assert_eq!(type_name_of::<HTTPRequestSeen>(), "http.request.seen");
        assert_eq!(type_name_of::<Snake_case>(), "snake.case");
        assert_eq!(type_name_of::<Generic<OrderPlaced>>(), "generic");
        assert_eq!(type_name_of::<String>(), "string");
    }

    /// Records with these names are made and read without copying them.
    #[test]
    fn the_names_are_known_to_the_records() {
        let names = [
            super::MESSAGE_ID,
            super::CORRELATION_ID,
            super::SOURCE,
            super::EVENT_TYPE,
            super::CAUSATION_ID,
            super::CAUSATION_DEPTH,
            super::CATEGORY,
            super::CONTENT_TYPE,
            super::SCHEMA_VERSION,
            super::DESTINATION,
            super::TRACEPARENT,
            super::TRACESTATE,
            super::OPERATION_NAME,
            super::PRIORITY,
            super::ROUTING_KEY,
            super::TTL,
            super::ENVIRONMENT,
            super::TENANT_ID,
            super::USER_ID,
            super::PERMISSIONS,
            super::RETRY_COUNT,
            super::MAX_RETRIES,
        ];
        assert!(names.iter().all(|name| known(name) == Some(*name)));
        assert_eq!(known("another"), None);
    }

    #[test]
    fn words_are_read_back_and_others_refused() {
        for category in [Category::Event, Category::Command, Category::Intent] {
            assert_eq!(category.as_str().parse::<Category>().unwrap(), category);
        }
        for priority in [Priority::Low, Priority::Normal, Priority::High, Priority::Critical] {
            assert_eq!(priority.as_str().parse::<Priority>().unwrap(), priority);
        }
        let error = "urgent".parse::<Priority>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("\"low\" \"normal\" \"high\" \"critical\""), "{error}");
    }

    #[test]
    fn setting_again_replaces() {
        let record = Record::new(1).ttl(Duration::from_secs(1)).ttl(Duration::from_secs(2)).permissions(["a", "b"]);
        assert_eq!(record.headers.get_all("ttl").count(), 1);
        assert_eq!(record.headers.get_str("ttl"), Some("2000"));
        assert_eq!(record.headers.get_str("permissions"), Some("a,b"));
    }
}
