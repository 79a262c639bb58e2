//! Which topics a subscription is about: names, and patterns in which `*` stands for any text.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::names::{is_reserved, validate_user_topic_name};
use crate::text::quoted;

/// What a member wants to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) names: Vec<Arc<str>>,
    patterns: Vec<Arc<str>>,
}

impl Subscription {
    /// Names, and patterns: whatever has a `*` in it.
    pub(crate) fn new<'a>(topics: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut subscription = Self::default();
        for topic in topics {
            let list = if topic.contains('*') {
                check_pattern(topic)?;
                &mut subscription.patterns
            } else {
                validate_user_topic_name(topic)?;
                &mut subscription.names
            };
            if !list.iter().any(|known| **known == *topic) {
                list.push(topic.into());
            }
        }
        if subscription.names.is_empty() && subscription.patterns.is_empty() {
            return Err(Error::invalid("a subscription needs at least one topic, or a pattern such as \"orders.*\""));
        }
        Ok(subscription)
    }

    /// The same, with topics of annals' own, by their names.
    pub(crate) fn and_internal(mut self, topics: &[&str]) -> Self {
        self.names.extend(topics.iter().map(|topic| Arc::from(*topic)));
        self
    }

    /// Whether there is a pattern among them.
    #[cfg(feature = "kafka")]
    pub(crate) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether a topic is meant. Of annals' own topics no pattern is.
    pub(crate) fn matches(&self, topic: &str) -> bool {
        self.names.iter().any(|name| **name == *topic)
            || (!is_reserved(topic) && self.patterns.iter().any(|pattern| matches(pattern, topic)))
    }
}

fn check_pattern(pattern: &str) -> Result<()> {
    // A name that the pattern could stand for.
    let name: String = pattern.chars().map(|c| if c == '*' { 'x' } else { c }).collect();
    validate_user_topic_name(&name).map_err(|error| {
        Error::invalid(format!("the pattern {} matches no topic that there can be: {error}", quoted(pattern)))
    })
}

/// Checks a pattern for texts of whatever kind.
pub(crate) fn check_text_pattern(what: &str, pattern: &str) -> Result<()> {
    if pattern.is_empty() || pattern.len() > TEXT_PATTERN_BYTES_MAX || pattern.contains(char::is_control) {
        return Err(Error::invalid(format!(
            "the {what} {} is no name and no pattern; 1 to {TEXT_PATTERN_BYTES_MAX} bytes without control characters are allowed",
            quoted(pattern)
        )));
    }
    Ok(())
}

const TEXT_PATTERN_BYTES_MAX: usize = 1024;

/// Whether a text is one that a pattern stands for.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        // The first place is the best: it leaves the most to the parts that follow.
        let Some(at) = name.find(part) else { return false };
        name = name.get(at + part.len()..).unwrap_or("");
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Subscription, matches};
    use crate::error::ErrorKind;

    #[test]
    fn a_star_stands_for_any_text() {
        let cases = [
            ("*", "orders", true),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders.eu.paid", true),
            ("orders.*", "orders", false),
            ("orders.*", "old.orders.eu", false),
            ("*.paid", "orders.eu.paid", true),
            ("*.paid", "orders.paid.eu", false),
            ("orders.*.paid", "orders.eu.paid", true),
            ("orders.*.paid", "orders.paid", false),
            ("a*b*a", "aba", true),
            ("a*b*a", "aaba", true),
            ("a*b*a", "ab", false),
            ("a*a", "a", false),
            ("a**", "a", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_subscription_says_what_is_wrong_with_it() {
        let refused = |topics: &[&str], part: &str| {
            let error = Subscription::new(topics.iter().copied()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(part), "{error}");
        };
        refused(&[], "at least one topic");
        refused(&["../x"], "contains '/'");
        refused(&["a/*"], "the pattern \"a/*\"");
        refused(&["__offsets"], "reserved");
        let all = Subscription::new(["*", "orders", "orders"]).unwrap();
        assert_eq!(all.names.len(), 1);
        assert!(all.matches("anything") && !all.matches("__offsets"));
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_was_made_from(parts in proptest::collection::vec("[ab]{0,3}", 1..5), fill in proptest::collection::vec("[ab]{0,3}", 5)) {
            let pattern = parts.join("*");
            let mut name = parts[0].clone();
            for (part, fill) in parts[1..].iter().zip(&fill) {
                name.push_str(fill);
                name.push_str(part);
            }
            prop_assert!(matches(&pattern, &name), "{pattern} {name}");
        }

        #[test]
        fn matching_is_what_trying_everything_says(pattern in "[ab*]{0,6}", name in "[ab]{0,7}") {
            fn slow(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|at| slow(rest, &name[at..])),
                    Some((c, rest)) => name.first() == Some(c) && slow(rest, &name[1..]),
                }
            }
            prop_assert_eq!(matches(&pattern, &name), slow(pattern.as_bytes(), name.as_bytes()), "{} {}", pattern, name);
        }
    }
}
