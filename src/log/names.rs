//! The names that a topic may have: they become names of directories, on every file system alike.

use crate::error::{Error, Result};
use crate::text::quoted;

/// The longest name, in bytes: Kafka's limit, which leaves a directory name room for a suffix.
pub(crate) const TOPIC_NAME_BYTES_MAX: usize = 249;

/// What annals' own topics begin with.
const RESERVED_PREFIX: &str = "__";

/// Checks a name from outside: [well-formed](validate_topic_name), and not one of annals' own.
pub(crate) fn validate_user_topic_name(name: &str) -> Result<()> {
    validate_topic_name(name)?;
    if is_reserved(name) {
        return Err(Error::invalid(format!(
            "the topic name {} begins with \"{RESERVED_PREFIX}\", which is reserved for annals itself",
            quoted(name)
        )));
    }
    Ok(())
}

/// Checks that a name is well-formed, be it annals' own.
///
/// An allow-list, not a list of what is bad: no separator, no `..`, no NUL, nothing that a file system normalises. A
/// dot at the start would hide the directory; Windows drops one at the end, which would make two topics share a
/// directory.
pub(crate) fn validate_topic_name(name: &str) -> Result<()> {
    let refuse = |problem: &str| Err(Error::invalid(format!("the topic name {} {problem}", quoted(name))));
    if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX {
        return refuse(&format!("has {} bytes; 1 to {TOPIC_NAME_BYTES_MAX} are allowed", name.len()));
    }
    if let Some(c) = name.chars().find(|c| !is_allowed(*c)) {
        return refuse(&format!("contains {c:?}; ASCII letters, digits, '.', '_' and '-' are allowed"));
    }
    if name.starts_with('.') || name.ends_with('.') {
        return refuse("starts or ends with '.'; dots are allowed in between");
    }
    Ok(())
}

/// Whether the name is one that annals keeps for itself.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED_PREFIX)
}

/// Refuses to let anybody but annals write to, or change, one of its own topics.
pub(crate) fn refuse_reserved(name: &str) -> Result<()> {
    if is_reserved(name) {
        return Err(Error::invalid(format!(
            "topic {} is annals' own: nobody else writes to it or changes it; `replay_topics` reads it",
            quoted(name)
        )));
    }
    Ok(())
}

/// Whether two topics of these names would share a directory where the file system takes no notice of case.
pub(crate) fn collides(a: &str, b: &str) -> bool {
    a != b && a.eq_ignore_ascii_case(b)
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{collides, is_reserved, validate_topic_name, validate_user_topic_name};
    use crate::error::ErrorKind;

    fn refusal(name: &str) -> String {
        let error = validate_topic_name(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    }

    #[test]
    fn names_that_are_allowed() {
        for name in ["a", "orders", "orders.eu-west_1", "A..b", "_x", "-", "0", &"n".repeat(249)] {
            validate_user_topic_name(name).unwrap();
        }
    }

    #[test]
    fn names_that_are_not_say_why() {
        assert_eq!(refusal(""), "the topic name \"\" has 0 bytes; 1 to 249 are allowed");
        assert!(refusal(&"n".repeat(250)).contains("nnn…\" has 250 bytes"));
        assert!(refusal("../x").contains("contains '/'"));
        assert!(refusal("a\\b").contains(r"contains '\\'"));
        assert_eq!(
            refusal("a\0b"),
            r#"the topic name "a\0b" contains '\0'; ASCII letters, digits, '.', '_' and '-' are allowed"#
        );
        for name in ["ordérs", "a b", "a:b", "a*", "a\n", "lost+found"] {
            assert!(refusal(name).contains("contains"), "{name}");
        }
        for name in [".", "..", ".hidden", "orders."] {
            assert!(refusal(name).contains("starts or ends with '.'"), "{name}");
        }
    }

    #[test]
    fn reserved_names_are_for_annals_only() {
        validate_topic_name("__offsets").unwrap();
        assert!(is_reserved("__offsets") && !is_reserved("_offsets"));
        let error = validate_user_topic_name("__offsets").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("reserved"), "{error}");
    }

    #[test]
    fn names_that_differ_in_case_only_collide() {
        assert!(collides("Orders", "orders"));
        assert!(!collides("orders", "orders") && !collides("orders", "orders2"));
    }

    proptest! {
        #[test]
        fn what_is_outside_the_allow_list_is_refused(name: String, at: usize, c in "[^A-Za-z0-9._-]") {
            let at = name.char_indices().map(|(at, _)| at).nth(at % name.chars().count().max(1)).unwrap_or(0);
            let name = [&name[..at], &c, &name[at..]].concat();
            prop_assert!(validate_topic_name(&name).is_err());
        }

        #[test]
        fn the_whole_allow_list_is_allowed(name in "[A-Za-z0-9_-]([A-Za-z0-9._-]{0,247}[A-Za-z0-9_-])?") {
            prop_assert!(validate_topic_name(&name).is_ok());
            // One plain component of a path: it cannot lead out of the directory that it is joined to.
            let path = std::path::Path::new(&name);
            prop_assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(name.as_str()));
            prop_assert_eq!(path.components().count(), 1);
        }
    }
}
