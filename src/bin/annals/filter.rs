//! Which records are shown.

use std::str::FromStr;

use annals::Message;

/// The header that says what kind of event a record is.
pub(crate) const EVENT_TYPE: &str = "event_type";

/// A header with a value, or of any value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderFilter {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

impl FromStr for HeaderFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() {
            return Err(format!("{text:?} names no header; expected NAME=VALUE, or NAME for any value"));
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

/// What a record must have: all of it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Filter {
    /// Only records with this key
    #[arg(long, value_name = "KEY", help_heading = "Filters")]
    pub(crate) key: Option<String>,
    /// Only records with this header; may be repeated
    #[arg(long = "header", value_name = "NAME[=VALUE]", help_heading = "Filters")]
    pub(crate) headers: Vec<HeaderFilter>,
    /// Only records whose header `event_type` is this
    #[arg(long = "type", value_name = "TYPE", help_heading = "Filters")]
    pub(crate) event_type: Option<String>,
}

impl Filter {
    pub(crate) fn accepts(&self, message: &Message) -> bool {
        let key = self.key.as_ref().is_none_or(|key| message.key().is_some_and(|other| other == key.as_bytes()));
        let has = |name: &str, value: &str| {
            message.headers().get_all(name).any(|header| header.value().is_some_and(|other| other == value.as_bytes()))
        };
        let headers = self.headers.iter().all(|filter| match &filter.value {
            Some(value) => has(&filter.name, value),
            None => message.headers().contains(&filter.name),
        });
        key && headers && self.event_type.as_ref().is_none_or(|event_type| has(EVENT_TYPE, event_type))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers() {
        let filter = |name: &str, value: Option<&str>| HeaderFilter { name: name.into(), value: value.map(Into::into) };
        assert_eq!("a=b=c".parse(), Ok(filter("a", Some("b=c"))));
        assert_eq!("a=".parse(), Ok(filter("a", Some(""))));
        assert_eq!("a".parse(), Ok(filter("a", None)));
        for text in ["", "=", "=x"] {
            text.parse::<HeaderFilter>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_filter_or_an_error(text: String) {
            match text.parse::<HeaderFilter>() {
                Ok(filter) => prop_assert!(text.starts_with(&filter.name) && !filter.name.is_empty()),
                Err(_) => prop_assert!(text.is_empty() || text.starts_with('=')),
            }
        }
    }
}
