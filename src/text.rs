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

/// The known name that `name` was most likely meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|known| (distance(name, known), known)).min()?;
    let allowed = (near.1.len() / 3).max(2);
    (near.0 <= allowed).then_some(near.1)
}

/// How many letters have to be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    // Names that are much longer than any key are not near to one.
    const CHARS_MAX: usize = 64;
    let a: Vec<char> = a.chars().take(CHARS_MAX).collect();
    let b: Vec<char> = b.chars().take(CHARS_MAX).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest, quoted};

    #[test]
    fn text_is_escaped_and_cut() {
        assert_eq!(quoted("orders"), r#""orders""#);
        assert_eq!(quoted("a\0\n\"é"), r#""a\0\n\"é""#);
        assert_eq!(quoted(&"x".repeat(64)), format!("\"{}\"", "x".repeat(64)));
        assert_eq!(quoted(&"é".repeat(65)), format!("\"{}…\"", "é".repeat(64)));
    }

    #[test]
    fn the_nearest_key() {
        assert_eq!(distance("kitten", "sitting"), 3);
        let keys = ["concurrency", "deadline", "ttl"];
        assert_eq!(nearest("concurency", keys.into_iter()), Some("concurrency"));
        assert_eq!(nearest("dead_line", keys.into_iter()), Some("deadline"));
        assert_eq!(nearest("partitions", keys.into_iter()), None);
        assert_eq!(nearest("", keys.into_iter()), None);
    }
}
