use proptest::prelude::*;
use uuid::Uuid;

use super::super::settings::tests::topic_settings;
use super::{TOPIC_FILE_BYTES_MAX, TopicFile, checksum_line};
use crate::error::{Error, ErrorKind};
use crate::log::settings::{Durability, TopicSettings};

const FILE: &str = "topics/orders/topic.toml";

fn sample() -> TopicFile {
    let settings =
        TopicSettings::default().partitions(4).durability(Durability::Interval(std::time::Duration::from_millis(250)));
    TopicFile::new(
        Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_0001),
        "orders",
        1_769_860_800_000_000,
        settings,
    )
}

fn body(bytes: &[u8]) -> String {
    let text = str::from_utf8(bytes).unwrap();
    text[..text.rfind("checksum").unwrap()].to_owned()
}

/// Decodes a text of somebody who knows how to compute the checksum.
fn decode_text(mut text: String) -> Result<TopicFile, Error> {
    text += &checksum_line(text.as_bytes());
    TopicFile::decode(text.as_bytes(), FILE)
}

fn refusal(text: String) -> String {
    let error = decode_text(text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(FILE), "{error}");
    error.to_string()
}

/// The example in the module's documentation is the file of `sample`.
#[test]
fn the_file_is_byte_for_byte_as_documented() {
    let documented: String = include_str!("../topic_file.rs")
        .lines()
        .skip_while(|line| *line != "//! ```toml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| format!("{}\n", line.strip_prefix("//!").unwrap().trim_start()))
        .collect();
    assert_eq!(String::from_utf8(sample().encode().unwrap()).unwrap(), documented);
}

/// Settings that are not given are left out, so files of topics that do not use them are what they always were.
#[test]
fn names_of_headers_stand_in_the_file_where_there_are_any() {
    let mut file = sample();
    assert!(!body(&file.encode().unwrap()).contains("indexed_headers"));
    file.settings = file.settings.indexed_headers(["correlation_id", "a \"b\"\n"]);
    let bytes = file.encode().unwrap();
    assert!(body(&bytes).contains("indexed_headers = [\"correlation_id\", "), "{}", body(&bytes));
    assert_eq!(TopicFile::decode(&bytes, FILE).unwrap(), file);
    let text = body(&bytes).replace("\"correlation_id\"", "\"\"");
    let error = decode_text(text).unwrap_err();
    assert!(error.to_string().contains("`indexed_headers` has the name"), "{error}");
}

#[test]
fn any_toml_reader_finds_the_checksum_at_the_top_level() {
    let text = String::from_utf8(sample().encode().unwrap()).unwrap();
    let table: toml::Table = text.parse().unwrap();
    assert!(table["checksum"].as_str().unwrap().starts_with("crc32:"));
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = sample().encode().unwrap();
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << bit;
            let error = TopicFile::decode(&damaged, FILE).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit} of byte {position}: {error}");
            assert_eq!(error.corruption().unwrap().file, FILE);
        }
    }
}

#[test]
fn every_cut_and_every_byte_too_many_is_found() {
    let bytes = sample().encode().unwrap();
    for len in 0..bytes.len() {
        assert_eq!(TopicFile::decode(&bytes[..len], FILE).unwrap_err().kind(), ErrorKind::Corrupt, "cut at {len}");
    }
    for extra in [&b"\n"[..], b" ", b"\0", b"# more\n"] {
        assert!(TopicFile::decode(&[&bytes, extra].concat(), FILE).is_err());
        assert!(TopicFile::decode(&[extra, &bytes].concat(), FILE).is_err());
    }
    let windows = String::from_utf8(bytes).unwrap().replace('\n', "\r\n");
    assert_eq!(TopicFile::decode(windows.as_bytes(), FILE).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_newer_version_is_named() {
    let text = body(&sample().encode().unwrap());
    let newer = refusal(text.replace("format_version = 1", "format_version = 2\nshape = \"round\""));
    assert_eq!(
        newer,
        format!("the topic file {FILE} has format version 2; this version of annals reads up to 1: use a newer annals")
    );
    assert!(refusal(text.replace("format_version = 1", "format_version = 0")).contains("version 0"));
    assert!(refusal(text.replace("format_version = 1", "format_version = \"1\"")).contains("no format version"));
    assert!(refusal(text.replace("format_version = 1\n", "")).contains("no format version"));
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let text = body(&sample().encode().unwrap());
    assert!(refusal(format!("{text}retention = 5\n")).contains("unknown field `retention`"));
    assert!(refusal(format!("{text}checksum = \"crc32:00000000\"\n")).contains("unknown field `checksum`"));
    assert!(refusal(format!("{text}[deep]\nx = 1\n")).contains("unknown field `deep`"));
}

#[test]
fn contents_that_annals_would_not_have_written_are_refused() {
    let text = body(&sample().encode().unwrap());
    for (from, to, problem) in [
        ("partitions = 4", "partitions = 0", "`partitions` is 0"),
        ("partitions = 4", "partitions = \"4\"", "expected u32"),
        ("partitions = 4", "partitions = -4", "expected u32"),
        ("interval 250ms", "interval 2h", "the durability"),
        ("name = \"orders\"", "name = \"../x\"", "contains '/'"),
        ("name = \"orders\"\n", "", "missing field `name`"),
        ("id = \"0198", "id = \"x198", "bad `id`"),
        ("2026-01-31", "2026-02-31", "bad `created_at`"),
    ] {
        assert!(text.contains(from), "{from}");
        let message = refusal(text.replace(from, to));
        assert!(message.contains(problem), "{to}: {message}");
    }
    let twice = decode_text(format!("{text}partitions = 5\n")).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Corrupt, "{twice}");
}

#[test]
fn a_clock_that_lost_its_mind_still_makes_a_file_that_can_be_read() {
    for (micros, year) in [(i64::MIN, "0000-01-01T"), (i64::MAX, "9999-12-31T"), (-1, "1969-12-31T")] {
        let file = TopicFile::new(Uuid::nil(), "t", micros, TopicSettings::default());
        let bytes = file.encode().unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains(year), "{micros}");
        assert_eq!(TopicFile::decode(&bytes, FILE).unwrap(), file);
    }
}

proptest! {
    #[test]
    fn round_trip(id: u128, name in "[A-Za-z0-9_-]{1,249}", micros: i64, settings in topic_settings()) {
        let file = TopicFile::new(Uuid::from_u128(id), name, micros, settings);
        let bytes = file.encode().unwrap();
        prop_assert!(bytes.len() as u64 <= TOPIC_FILE_BYTES_MAX);
        prop_assert_eq!(TopicFile::decode(&bytes, FILE).unwrap(), file);
    }

    #[test]
    fn any_bytes_are_taken_without_harm(bytes: Vec<u8>) {
        prop_assert!(TopicFile::decode(&bytes, FILE).is_err());
    }

    #[test]
    fn any_text_with_a_right_checksum_is_taken_without_harm(text in "\\PC{0,200}\n") {
        prop_assert!(decode_text(text).is_err());
    }
}
