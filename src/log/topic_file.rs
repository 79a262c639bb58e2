//! `topic.toml`: what a topic is, in a file that a person can read.
//!
//! ```toml
//! # A topic of an annals log: its identity and its settings.
//! # annals writes this file. Do not edit it: the checksum in the last line covers every byte above it.
//!
//! format_version = 1
//! id = "0198c0de-0000-7000-8000-000000000001"
//! name = "orders"
//! created_at = "2026-01-31T12:00:00.000000Z"
//! partitions = 4
//! durability = "interval 250ms"
//! segment_bytes_max = 67108864
//! record_bytes_max = 1048576
//! compression = "none"
//! compaction = false
//! tombstone_age_max = "86400s"
//! compaction_dirty_ratio_min = 0.5
//! checksum = "crc32:43811049"
//! ```
//!
//! The file is written once, in one piece, when the topic is created. The checksum line has a fixed length and is
//! compared byte by byte with the one that the bytes before it call for, so damage to any bit, the line's own included,
//! is found before anything is parsed. That line is the part of the format that never changes: a later version can be
//! told from a damaged file.

use std::str;

use chrono::{DateTime, Datelike, SecondsFormat, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use toml::Table;
use uuid::Uuid;

use super::names::validate_topic_name;
use super::settings::TopicSettings;
use crate::error::{Corruption, Error, ErrorKind, Result};
use crate::record::datetime_from_micros;

#[cfg(test)]
mod tests;

/// The name of the file in the topic's directory.
pub(crate) const TOPIC_FILE_NAME: &str = "topic.toml";

/// More than any version will need; whoever reads the file refuses a larger one before reading it.
pub(crate) const TOPIC_FILE_BYTES_MAX: u64 = 64 << 10;

/// The version that this code writes, and the newest that it reads.
pub(crate) const TOPIC_FILE_VERSION: u32 = 1;

const COMMENT: &str = "\
# A topic of an annals log: its identity and its settings.
# annals writes this file. Do not edit it: the checksum in the last line covers every byte above it.

";

const CHECKSUM_LINE_BYTES: usize = "checksum = \"crc32:00000000\"\n".len();

/// What a topic is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TopicFile {
    /// Tells a topic from another of the same name that was there before.
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) settings: TopicSettings,
}

/// The part beside the settings, as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format_version: u32,
    id: String,
    name: String,
    created_at: String,
}

impl TopicFile {
    /// A new topic. A moment that RFC 3339 has no digits for (a clock that lost its mind) becomes the nearest one that
    /// it has: it informs people, nothing else, and must not keep a topic from being created.
    pub(crate) fn new(id: Uuid, name: impl Into<String>, created_at_micros: i64, settings: TopicSettings) -> Self {
        let created_at = datetime_from_micros(created_at_micros);
        let created_at = match created_at.year() {
            0..=9999 => created_at,
            year => datetime_from_micros(if year < 0 { -62_167_219_200_000_000 } else { 253_402_300_799_999_999 }),
        };
        Self { id, name: name.into(), created_at: created_at.trunc_subsecs(6), settings }
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let identity = Identity {
            format_version: TOPIC_FILE_VERSION,
            id: self.id.to_string(),
            name: self.name.clone(),
            created_at: self.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        };
        let failed = |error: toml::ser::Error| Error::with_source(ErrorKind::Codec, "writing a topic's file", error);
        let mut text = COMMENT.to_owned();
        text += &toml::to_string(&identity).map_err(failed)?;
        text += &toml::to_string(&self.settings).map_err(failed)?;
        let checksum = checksum_line(text.as_bytes());
        text += &checksum;
        Ok(text.into_bytes())
    }

    /// The topic that the bytes of `file` (relative to the log's directory) describe.
    ///
    /// `Corrupt` if they are not the bytes that annals wrote; `Invalid` if annals wrote them but this version cannot
    /// serve them. Whether the name is that of the directory is for the caller to compare.
    pub(crate) fn decode(bytes: &[u8], file: &str) -> Result<Self> {
        let mut table = parse(bytes, file)?;
        let invalid = |problem: String| Error::invalid(format!("the topic file {file} {problem}"));
        check_version(&table).map_err(invalid)?;

        let mut identity = Table::new();
        for key in ["format_version", "id", "name", "created_at"] {
            identity.extend(table.remove_entry(key));
        }
        let identity: Identity = identity.try_into().map_err(|error| invalid(explain(&error)))?;
        let settings: TopicSettings = table.try_into().map_err(|error| invalid(explain(&error)))?;

        let id = Uuid::try_parse(&identity.id).map_err(|error| invalid(format!("has a bad `id`: {error}")))?;
        let created_at = DateTime::parse_from_rfc3339(&identity.created_at)
            .map_err(|error| invalid(format!("has a bad `created_at`: {error}")))?
            .to_utc();
        validate_topic_name(&identity.name)
            .and_then(|()| settings.validate())
            .map_err(|error| Error::with_source(ErrorKind::Invalid, format!("the topic file {file}"), error))?;
        Ok(Self { id, name: identity.name, created_at, settings })
    }
}

fn checksum_line(body: &[u8]) -> String {
    format!("checksum = \"crc32:{:08x}\"\n", crc32fast::hash(body))
}

/// Checks the checksum, and only then what it covers.
fn parse(bytes: &[u8], file: &str) -> Result<Table> {
    let corrupt = |problem: &str, position: usize| {
        let corruption = Corruption {
            file: file.to_owned(),
            topic: None,
            partition: None,
            position: position as u64,
            first_offset: None,
            next_offset: None,
        };
        Error::corrupt(format!("the topic file {problem}"), corruption)
    };
    let end = bytes.len().saturating_sub(CHECKSUM_LINE_BYTES);
    let (body, line) = bytes.split_at_checked(end).unwrap_or_default();
    if line != checksum_line(body).as_bytes() {
        return Err(corrupt("does not end in its checksum: it is damaged, or was edited by hand", end));
    }
    let text = str::from_utf8(body).map_err(|error| corrupt("is no UTF-8", error.valid_up_to()))?;
    text.parse().map_err(|error: toml::de::Error| {
        let position = error.span().map_or(0, |span| span.start);
        corrupt(&format!("is no TOML: {}", error.message()), position)
    })
}

/// The version decides how the rest is read, so it comes first.
fn check_version(table: &Table) -> Result<(), String> {
    match table.get("format_version").and_then(toml::Value::as_integer) {
        Some(version) if version == i64::from(TOPIC_FILE_VERSION) => Ok(()),
        Some(version) if version > i64::from(TOPIC_FILE_VERSION) => Err(format!(
            "has format version {version}; this version of annals reads up to {TOPIC_FILE_VERSION}: use a newer annals"
        )),
        Some(version) => Err(format!("has format version {version}, which never existed")),
        None => Err("has no format version".to_owned()),
    }
}

fn explain(error: &toml::de::Error) -> String {
    format!("has contents that this version of annals does not know: {}", error.message())
}
