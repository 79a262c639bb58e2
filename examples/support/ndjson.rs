//! Reads a stream of events: one JSON object a line, plain or gzip.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use annals::Record;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::Value;

const SAMPLE: &[u8] = include_bytes!("../data/sample.ndjson");
const SAMPLE_NAME: &str = "examples/data/sample.ndjson";

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Key, type and text of an event travel in one record, so a record has at most three times this.
pub(crate) const LINE_BYTES_MAX: usize = 2 << 20;

const EXPECTED: &str =
    r#"expected one JSON object with "type" and "key" (text) and "time" (RFC 3339, as 1969-07-20T20:17:40+00:00)"#;

/// One event of the input.
pub(crate) struct Event {
    /// The line it stands in, from 1: its identity.
    pub(crate) line: u64,
    pub(crate) kind: String,
    /// The case that the event belongs to.
    pub(crate) key: String,
    pub(crate) time: DateTime<Utc>,
    /// The line as it stands there, with whatever other fields it has.
    pub(crate) text: Bytes,
}

impl Event {
    /// As a record: its key chooses the partition, and its time is kept, whatever the order.
    pub(crate) fn record(&self) -> Record<Bytes> {
        Record::new(self.text.clone())
            .key(&self.key)
            .timestamp(self.time)
            .header("type", &self.kind)
            .header("line", self.line.to_string())
    }
}

/// All events of a file, in its order.
///
/// They are kept in memory, because the replay is compared with them byte for byte.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) events: Vec<Event>,
}

impl Input {
    /// Reads a file, or the sample. Every line is checked before the first event goes anywhere.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Self::read_from(SAMPLE_NAME.to_owned(), SAMPLE) };
        let name = path.display().to_string();
        let unreadable =
            |error: io::Error| format!("{name}: cannot be read ({error}); expected a file of NDJSON, plain or gzip");
        let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
        // The content tells, not the name.
        if file.fill_buf().map_err(unreadable)?.starts_with(&GZIP_MAGIC) {
            // A gzip file may have several members: that is what `cat a.gz b.gz` makes.
            return Self::read_from(name, BufReader::new(MultiGzDecoder::new(file)));
        }
        Self::read_from(name, file)
    }

    fn read_from(name: String, mut reader: impl BufRead) -> Result<Self, String> {
        let mut events = Vec::new();
        let mut buffer = Vec::new();
        for line in 1.. {
            buffer.clear();
            let read = reader
                .read_until(b'\n', &mut buffer)
                .map_err(|error| format!("{name}:{line}: cannot be read ({error})"))?;
            if read == 0 {
                break;
            }
            if let Some(event) = parse_line(line, &buffer).map_err(|why| format!("{name}:{line}: {why}"))? {
                events.push(event);
            }
        }
        Ok(Self { name, events })
    }

    /// The place among the events of the one in this line. Blank lines hold none.
    pub(crate) fn index_of(&self, line: u64) -> Option<usize> {
        self.events.binary_search_by_key(&line, |event| event.line).ok()
    }
}

/// The fields that every event has; whatever else is there is kept, and is nobody's business here.
#[derive(Deserialize)]
struct Fields {
    r#type: Option<Value>,
    key: Option<Value>,
    time: Option<Value>,
}

/// The event of a line; `None` for a blank one.
fn parse_line(line: u64, bytes: &[u8]) -> Result<Option<Event>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("is not UTF-8; {EXPECTED}"))?;
    let text = if line == 1 { text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text) } else { text };
    // Takes the line's end off, too, be it LF or CRLF.
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > LINE_BYTES_MAX {
        return Err(format!("has {} bytes; expected {LINE_BYTES_MAX} at most", text.len()));
    }
    // serde would take an array for the fields in their order.
    if !text.starts_with('{') {
        return Err(format!("is no JSON object; {EXPECTED}"));
    }
    let fields: Fields = serde_json::from_str(text).map_err(|error| format!("{}; {EXPECTED}", json_error(&error)))?;
    let time = text_of("time", fields.time)?;
    let time =
        DateTime::parse_from_rfc3339(&time).map_err(|error| format!("\"time\" is {time:?} ({error}); {EXPECTED}"))?;
    Ok(Some(Event {
        line,
        kind: text_of("type", fields.r#type)?,
        key: text_of("key", fields.key)?,
        time: time.to_utc(),
        text: Bytes::copy_from_slice(text.as_bytes()),
    }))
}

fn text_of(name: &str, field: Option<Value>) -> Result<String, String> {
    match field {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("{name:?} is {}, which is no text; {EXPECTED}", shortened(&other.to_string()))),
        None => Err(format!("{name:?} is missing or null; {EXPECTED}")),
    }
}

/// What serde_json says, without its line number, which is always 1 here.
fn json_error(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let reason = said.split(" at line ").next().unwrap_or(&said);
    format!("is no JSON ({reason}, column {})", error.column())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
