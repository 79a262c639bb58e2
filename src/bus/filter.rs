//! Which events a subscription is for.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::event::EVENT_TYPE;
use crate::group::pattern::{check_text_pattern, matches};
use crate::record::{IntoBytes, Message};

/// Which events a subscription's handler is called with. What does not pass counts as done.
///
/// ```
/// use annals::Filter;
///
/// let paid = Filter::event_type("order.*");
/// let mine = Filter::header("tenant_id", "acme").or(Filter::key("order-17"));
/// let large = Filter::by(|message| message.value().is_some_and(|value| value.len() > 1000));
/// let all_of_it = paid.and(mine).and(large.not());
/// ```
#[derive(Clone)]
pub struct Filter(Test);

#[derive(Clone)]
enum Test {
    EventType(Arc<str>),
    Header(Arc<str>, Bytes),
    Key(Bytes),
    By(Arc<dyn Fn(&Message) -> bool + Send + Sync>),
    And(Arc<(Test, Test)>),
    Or(Arc<(Test, Test)>),
    Not(Arc<Test>),
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventType(pattern) => write!(f, "event_type is {pattern:?}"),
            Self::Header(name, value) => write!(f, "{name} is {value:?}"),
            Self::Key(key) => write!(f, "key is {key:?}"),
            Self::By(_) => f.write_str("by a function"),
            Self::And(both) => write!(f, "({:?} and {:?})", both.0, both.1),
            Self::Or(both) => write!(f, "({:?} or {:?})", both.0, both.1),
            Self::Not(other) => write!(f, "not {other:?}"),
        }
    }
}

impl Filter {
    /// Events of a type, or of types that match a pattern in which `*` stands for any text. An event without a type does not pass.
    pub fn event_type(pattern: impl Into<Arc<str>>) -> Self {
        Self(Test::EventType(pattern.into()))
    }

    /// Events whose last header of this name has this value.
    pub fn header(name: impl Into<Arc<str>>, value: impl IntoBytes) -> Self {
        Self(Test::Header(name.into(), value.into_bytes()))
    }

    /// Events of a key.
    pub fn key(key: impl IntoBytes) -> Self {
        Self(Test::Key(key.into_bytes()))
    }

    /// Events that a function says yes to. A panic in it counts as a failure of the event.
    pub fn by(test: impl Fn(&Message) -> bool + Send + Sync + 'static) -> Self {
        Self(Test::By(Arc::new(test)))
    }

    /// Events that pass both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(Test::And(Arc::new((self.0, other.0))))
    }

    /// Events that pass one of the two.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(Test::Or(Arc::new((self.0, other.0))))
    }

    /// Events that do not pass.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "it reads as the other two do")]
    pub fn not(self) -> Self {
        Self(Test::Not(Arc::new(self.0)))
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.0.validate()
    }

    pub(super) fn passes(&self, message: &Message) -> bool {
        self.0.passes(message)
    }
}

impl Test {
    fn validate(&self) -> Result<()> {
        match self {
            Self::EventType(pattern) => check_text_pattern("event type", pattern),
            Self::And(both) | Self::Or(both) => both.0.validate().and(both.1.validate()),
            Self::Not(other) => other.validate(),
            Self::Header(..) | Self::Key(_) | Self::By(_) => Ok(()),
        }
    }

    fn passes(&self, message: &Message) -> bool {
        match self {
            Self::EventType(pattern) => {
                message.headers().get_str(EVENT_TYPE).is_some_and(|name| matches(pattern, name))
            }
            Self::Header(name, value) => message.headers().get(name) == Some(value),
            Self::Key(key) => message.key() == Some(key),
            Self::By(test) => test(message),
            Self::And(both) => both.0.passes(message) && both.1.passes(message),
            Self::Or(both) => both.0.passes(message) || both.1.passes(message),
            Self::Not(other) => !other.passes(message),
        }
    }
}
