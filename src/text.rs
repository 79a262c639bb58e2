//! Other people's text inside our messages.

/// The text in quotes, escaped and cut, so that a name of a megabyte or of control characters cannot spoil a message.
pub(crate) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut quoted = String::from("\"");
    let mut chars = text.chars();
    for c in chars.by_ref().take(CHARS_MAX) {
        quoted.extend(c.escape_debug());
    }
    quoted.push_str(if chars.next().is_some() { "…\"" } else { "\"" });
    quoted
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn text_is_escaped_and_cut() {
        assert_eq!(quoted("orders"), r#""orders""#);
        assert_eq!(quoted("a\0\n\"é"), r#""a\0\n\"é""#);
        assert_eq!(quoted(&"x".repeat(64)), format!("\"{}\"", "x".repeat(64)));
        assert_eq!(quoted(&"é".repeat(65)), format!("\"{}…\"", "é".repeat(64)));
    }
}
