//! Records as people and programs want them.

use std::fmt::Write as _;

use annals::{Header, Headers, Message};
use chrono::SecondsFormat;
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::base64;
use crate::failure::Outcome;
use crate::output::{Output, Palette};

/// How records are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordFormat {
    /// One line for each record; control characters are escaped
    #[default]
    Text,
    /// One JSON object a line; bytes as text, or as {"base64": …} if they are not UTF-8
    Json,
    /// Keys and values in hexadecimal
    Hex,
    /// Values alone, byte for byte, each with a line feed; a tombstone is an empty line
    Raw,
}

/// How lists and figures are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Writes a record.
pub(crate) fn record(out: &mut Output, format: RecordFormat, message: &Message) -> Outcome {
    match format {
        RecordFormat::Text => {
            let line = text(message, out.palette);
            out.line(line)
        }
        RecordFormat::Json => out.line(as_json(message).to_string()),
        RecordFormat::Hex => {
            let lines = hex(message, out.palette);
            out.bytes(lines.as_bytes())
        }
        RecordFormat::Raw => {
            out.bytes(message.value().map_or(&[], |value| &value[..]))?;
            out.bytes(b"\n")
        }
    }
}

pub(crate) fn time(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn front(message: &Message, palette: Palette) -> String {
    let Palette { place, dim, .. } = palette;
    let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
    format!("{dim}{}{dim:#} {place}{topic}/{partition}@{offset}{place:#}", time(message.timestamp()))
}

fn text(message: &Message, palette: Palette) -> String {
    let Palette { key, dim, .. } = palette;
    let mut line = front(message, palette);
    if let Some(bytes) = message.key() {
        // Writing to a string cannot fail, here and below.
        let _ = write!(line, " {key}{}{key:#}", shown(bytes));
    }
    if !message.headers().is_empty() {
        let headers: Vec<String> = message
            .headers()
            .iter()
            .map(|header| match header.value() {
                Some(value) => format!("{}={}", shown(header.name().as_bytes()), shown(value)),
                None => shown(header.name().as_bytes()),
            })
            .collect();
        let _ = write!(line, " {dim}{{{}}}{dim:#}", headers.join(", "));
    }
    match message.value() {
        Some(value) => {
            let _ = write!(line, " {}", shown(value));
        }
        None => {
            let _ = write!(line, " {dim}(tombstone){dim:#}");
        }
    }
    line
}

/// Bytes as text without control characters, so that no record can take the terminal over; what is not UTF-8 as base64.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return format!("base64:{}", base64::encode(bytes)) };
    if !text.chars().any(|c| c.is_control() || is_invisible(c)) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() || is_invisible(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    escaped
}

/// Characters that change the direction or the order of what is shown around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A record as a JSON object.
pub(crate) fn as_json(message: &Message) -> Value {
    json!({
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "commit": message.commit(),
        "time": time(message.timestamp()),
        "key": message.key().map(|key| bytes_as_json(key)),
        "headers": headers_as_json(message.headers()),
        "value": message.value().map(|value| bytes_as_json(value)),
    })
}

pub(crate) fn headers_as_json(headers: &Headers) -> Value {
    let header =
        |header: &Header| json!({"name": header.name(), "value": header.value().map(|value| bytes_as_json(value))});
    headers.iter().map(header).collect()
}

pub(crate) fn bytes_as_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({"base64": base64::encode(bytes)}),
    }
}

fn hex(message: &Message, palette: Palette) -> String {
    let mut lines = front(message, palette);
    lines.push('\n');
    for header in message.headers() {
        let _ = writeln!(lines, "  header {}", shown(header.name().as_bytes()));
        header.value().into_iter().for_each(|value| dump(&mut lines, value));
    }
    if let Some(key) = message.key() {
        let _ = writeln!(lines, "  key, {} bytes", key.len());
        dump(&mut lines, key);
    }
    match message.value() {
        Some(value) => {
            let _ = writeln!(lines, "  value, {} bytes", value.len());
            dump(&mut lines, value);
        }
        None => lines.push_str("  tombstone\n"),
    }
    lines
}

/// 16 bytes a line, in hexadecimal and as ASCII.
fn dump(lines: &mut String, bytes: &[u8]) {
    for (index, chunk) in bytes.chunks(16).enumerate() {
        let _ = write!(lines, "    {:06x} ", index * 16);
        for at in 0..16 {
            let _ = match chunk.get(at) {
                Some(byte) => write!(lines, " {byte:02x}"),
                None => write!(lines, "   "),
            };
        }
        let ascii =
            chunk.iter().map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' });
        let _ = writeln!(lines, "  |{}|", ascii.collect::<String>());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_shown_moves_the_cursor() {
        assert_eq!(shown(b"a\x1b[2J\n\tb"), "a\\u{1b}[2J\\n\\tb");
        assert_eq!(shown("Ærø ☕".as_bytes()), "Ærø ☕");
        assert_eq!(shown("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(shown(&[0xff, 0xfe]), "base64://4=");
    }

    proptest! {
        #[test]
        fn shown_bytes_have_no_control_characters(bytes: Vec<u8>, text: String) {
            prop_assert!(!shown(&bytes).chars().any(char::is_control));
            prop_assert!(!shown(text.as_bytes()).chars().any(char::is_control));
        }

        #[test]
        fn a_dump_has_every_byte(bytes: Vec<u8>) {
            let mut lines = String::new();
            dump(&mut lines, &bytes);
            let digits: String = lines.lines().map(|line| line[11..59].replace(' ', "")).collect();
            prop_assert_eq!(digits, bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
    }
}
