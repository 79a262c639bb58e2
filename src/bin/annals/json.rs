//! Fields of JSON objects by dotted paths.

use serde_json::Value;

/// The field that a path leads to: `a.b` is `b` in `a`, or a field that is called `a.b`; `items.0` is the first of an array.
pub(crate) fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => {
            if let Some(found) = fields.get(path) {
                return Some(found);
            }
            path.match_indices('.').find_map(|(dot, _)| find(fields.get(&path[..dot])?, &path[dot + 1..]))
        }
        Value::Array(items) => {
            let (index, rest) = path.split_once('.').map_or((path, None), |(index, rest)| (index, Some(rest)));
            let item = items.get(index.parse::<usize>().ok()?)?;
            rest.map_or(Some(item), |rest| find(item, rest))
        }
        _ => None,
    }
}

/// Text, numbers and booleans as the text that they are.
pub(crate) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What kind of value it is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let value =
            json!({"a": {"b": 1, "c.d": 2}, "a.b": 3, "e": [{"f": 4}, 5], "org:group": "V30", "x": {"y.z": {"w": 6}}});
        for (path, expected) in [("a.b", 3), ("a.c.d", 2), ("e.0.f", 4), ("e.1", 5), ("x.y.z.w", 6)] {
            assert_eq!(find(&value, path), Some(&json!(expected)), "{path}");
        }
        assert_eq!(find(&value, "org:group").and_then(scalar).as_deref(), Some("V30"));
        for path in ["", "b", "a.x", "e.2", "e.x", "e.0.f.g", ".", "a.", "a..b"] {
            assert_eq!(find(&value, path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_leads_somewhere_or_nowhere(path in "[a-c.0-2]{0,20}", text: String) {
            let value = json!({"a": {"b": [1, {"c": {"a.b": 1}}]}, "b.c": [[2]]});
            let _ = find(&value, &path);
            let _ = find(&value, &text);
        }
    }
}
