//! Holding a table against what is allowed, and writing its values in one way: lengths of time as the topics' own files have them,
//! sizes as numbers.

use std::str::FromStr;
use std::time::Duration;

use chrono::DateTime;
use toml::{Table, Value};

use super::schema::{Keys, Kind, Node};
use crate::error::{Error, Result};
use crate::log::settings::{Compression, Durability};
use crate::replay::Start;
use crate::text::{nearest, quoted};
use crate::units::{parse_size, parse_time, shown_size, shown_time, time_text};

/// A key below another, as TOML writes it.
fn below(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let key = if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The table with all of its values checked.
pub(super) fn table(keys: Keys, path: &str, found: Table) -> Result<Table> {
    let checked = found.into_iter().map(|(key, value)| {
        let path = below(path, &key);
        let Some((_, node)) = keys.iter().find(|(known, _)| *known == key) else {
            return Err(unknown(&path, &key, keys.iter().map(|(known, _)| *known)));
        };
        let value = match node {
            Node::Leaf(kind) => checked(*kind, &path, value)?,
            Node::Table(keys) => Value::Table(table(keys, &path, as_table(&path, value)?)?),
            Node::Named(keys) => {
                let named = as_table(&path, value)?.into_iter().map(|(name, value)| {
                    let path = below(&path, &name);
                    let value = table(keys, &path, as_table(&path, value)?)?;
                    Ok((name, Value::Table(value)))
                });
                Value::Table(named.collect::<Result<_>>()?)
            }
        };
        Ok((key, value))
    });
    checked.collect()
}

pub(super) fn unknown<'a>(path: &str, key: &str, known: impl Iterator<Item = &'a str> + Clone) -> Error {
    Error::invalid(match nearest(key, known.clone()) {
        Some(near) => format!("`{path}` is unknown; did you mean `{near}`?"),
        None => {
            let known: Vec<String> = known.map(|known| format!("`{known}`")).collect();
            format!("`{path}` is unknown; known are {}", known.join(", "))
        }
    })
}

fn as_table(path: &str, value: Value) -> Result<Table> {
    match value {
        Value::Table(table) => Ok(table),
        other => Err(refused(path, &other, "a table is allowed")),
    }
}

fn refused(path: &str, value: &Value, allowed: &str) -> Error {
    const CHARS_MAX: usize = 64;
    let value = match value {
        Value::String(text) => quoted(text),
        Value::Table(_) => "a table".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(CHARS_MAX) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    };
    Error::invalid(format!("`{path}` is {value}; {allowed}"))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

fn strings(value: &Value) -> bool {
    value.as_array().is_some_and(|values| values.iter().all(Value::is_str))
}

/// The value as it is kept, if it is one that is allowed.
pub(super) fn checked(kind: Kind, path: &str, value: Value) -> Result<Value> {
    let text = value.as_str();
    let kept = match kind {
        Kind::Text => text.is_some().then(|| value.clone()),
        Kind::Word(words) => text.is_some_and(|text| words.contains(&text)).then(|| value.clone()),
        Kind::Flag => value.is_bool().then(|| value.clone()),
        Kind::Names => strings(&value).then(|| value.clone()),
        Kind::Count { min, max, or } => {
            let is_word = text.is_some() && text == or;
            let count = value.as_integer().and_then(|count| u64::try_from(count).ok());
            (is_word || count.is_some_and(|count| (min..=max).contains(&count))).then(|| value.clone())
        }
        Kind::Number { min, max } => number(&value).filter(|number| (min..=max).contains(number)).map(Value::Float),
        Kind::Pair { min, max } => pair(&value, min, max),
        Kind::Size { min, max } => {
            let count = value.as_integer().and_then(|count| u64::try_from(count).ok());
            let bytes = count.or_else(|| parse_size(text?)).filter(|bytes| (min..=max).contains(bytes));
            bytes.and_then(|bytes| i64::try_from(bytes).ok()).map(Value::Integer)
        }
        Kind::Time { min, max } => {
            let time = text.and_then(parse_time).filter(|time| (min..=max).contains(time));
            time.map(|time| Value::String(time_text(time)))
        }
        Kind::Durability => text.and_then(durability).map(Value::String),
        Kind::Compression => {
            let compression = text.and_then(|text| Compression::from_str(text).ok());
            compression
                .filter(|compression| compression.validate().is_ok())
                .map(|known| Value::String(known.to_string()))
        }
        Kind::Start => text.and_then(start).map(|_| value.clone()),
    };
    kept.ok_or_else(|| refused(path, &value, &allowed(kind)))
}

fn durability(text: &str) -> Option<String> {
    let durability = match text.strip_prefix("interval ") {
        Some(time) => Durability::Interval(parse_time(time)?),
        None => text.parse().ok()?,
    };
    durability.validate().ok()?;
    Some(durability.to_string())
}

fn pair(value: &Value, min: f64, max: f64) -> Option<Value> {
    let [least, most] = value.as_array()?.as_slice() else { return None };
    let (least, most) = (number(least)?, number(most)?);
    (min <= least && least <= most && most <= max).then(|| Value::Array(vec![least.into(), most.into()]))
}

/// Where a group begins, as text. It has no use for offsets and counts, which are of single partitions.
pub(super) fn start(text: &str) -> Option<Start> {
    match text.split_once(':') {
        None if text == "earliest" => Some(Start::Earliest),
        None if text == "latest" => Some(Start::Latest),
        Some(("commit", commit)) => commit.parse().ok().map(Start::Commit),
        Some(("time", time)) => DateTime::parse_from_rfc3339(time).ok().map(|time| Start::Timestamp(time.to_utc())),
        _ => None,
    }
}

/// What is allowed, as the end of a sentence.
fn allowed(kind: Kind) -> String {
    let words = |words: &[&str]| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" and ");
    match kind {
        Kind::Text => "text is allowed".to_owned(),
        Kind::Word(known) => format!("{} are allowed", words(known)),
        Kind::Flag => "true and false are allowed".to_owned(),
        Kind::Names => "a list of texts is allowed".to_owned(),
        Kind::Count { min, max, or: None } => format!("{min} to {max} are allowed"),
        Kind::Count { min, max, or: Some(word) } => format!("{min} to {max} and {word:?} are allowed"),
        Kind::Number { min, max } => format!("{min} to {max} are allowed"),
        Kind::Pair { min, max } => format!("two numbers of {min} to {max} are allowed, the lesser first"),
        Kind::Size { min, max } if max == i64::MAX as u64 => format!("{} and more are allowed", shown_size(min)),
        Kind::Size { min, max } => format!("{} to {} are allowed", shown_size(min), shown_size(max)),
        Kind::Time { min, max } => {
            format!(
                "{} to {} are allowed, such as \"250ms\", \"30s\", \"5m\", \"1h30m\"",
                shown_time(min),
                shown_time(max)
            )
        }
        Kind::Durability => "\"sync\", \"interval 250ms\" (1ms to 1h) and \"os\" are allowed".to_owned(),
        Kind::Compression => "\"none\", \"lz4\" and \"zstd 3\" (1 to 22) are allowed".to_owned(),
        Kind::Start => {
            "\"earliest\", \"latest\", \"time:2026-01-31T12:00:00Z\" and \"commit:17\" are allowed".to_owned()
        }
    }
}

/// The value that a text from the environment stands for. What is none is found out when it is checked.
pub(super) fn from_text(kind: Kind, text: &str) -> Value {
    let as_it_is = || Value::String(text.to_owned());
    let float = |text: &str| text.trim().parse::<f64>().ok().map(Value::Float);
    match kind {
        Kind::Flag => text.parse().map_or_else(|_| as_it_is(), Value::Boolean),
        Kind::Count { .. } => text.parse().map_or_else(|_| as_it_is(), Value::Integer),
        Kind::Number { .. } => float(text).unwrap_or_else(as_it_is),
        Kind::Pair { .. } => {
            let numbers: Option<Vec<Value>> = text.split(',').map(float).collect();
            numbers.map_or_else(as_it_is, Value::Array)
        }
        Kind::Names => {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            Value::Array(names.map(|name| Value::String(name.to_owned())).collect())
        }
        Kind::Text
        | Kind::Word(_)
        | Kind::Size { .. }
        | Kind::Time { .. }
        | Kind::Durability
        | Kind::Compression
        | Kind::Start => as_it_is(),
    }
}

/// A length of time that was checked.
pub(super) fn time(text: &str) -> Duration {
    parse_time(text).unwrap_or_default()
}
