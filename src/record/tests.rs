use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::{Header, Headers, IntoBytes, Message, Record, datetime_from_micros};
use crate::error::ErrorKind;

fn message<T>(value: Option<T>) -> Message<T> {
    Message {
        topic: Arc::new(Arc::from("orders")),
        partition: 3,
        offset: 17,
        commit: 40,
        timestamp_micros: -1,
        key: Some(Bytes::from_static(b"key")),
        headers: Headers::from_iter([Header::new("a", "1")]),
        value,
    }
}

#[test]
fn every_kind_of_text_and_bytes_gives_the_same_key() {
    let text = String::from("key");
    let expected = Bytes::from_static(b"key");
    let all: [Bytes; 13] = [
        text.as_str().into_bytes(),
        (&text).into_bytes(),
        IntoBytes::into_bytes(text.clone()),
        IntoBytes::into_bytes(b"key".to_vec()),
        (&b"key".to_vec()).into_bytes(),
        b"key".as_slice().into_bytes(),
        b"key".into_bytes(),
        (*b"key").into_bytes(),
        expected.clone().into_bytes(),
        (&expected).into_bytes(),
        b"key".to_vec().into_boxed_slice().into_bytes(),
        Cow::Borrowed(text.as_str()).into_bytes(),
        Cow::Borrowed(b"key".as_slice()).into_bytes(),
    ];
    for bytes in all {
        assert_eq!(bytes, expected);
    }
}

#[test]
fn owned_bytes_are_moved_not_copied() {
    let bytes = vec![7; 100];
    let address = bytes.as_ptr();
    assert_eq!(Record::new(()).key(bytes).key.unwrap().as_ptr(), address);
}

#[test]
fn the_builder_sets_every_field() {
    let at = DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap();
    let record = Record::new(5).key("k").header("h", [1]).header_absent("n").timestamp(at).partition(2);
    assert_eq!(record.value, Some(5));
    assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(record.headers, Headers::from(vec![Header::new("h", [1]), Header::absent("n")]));
    assert_eq!(record.timestamp_micros(), Some(1_700_000_000_000_001));
    assert_eq!(record.partition, Some(2));
    assert_eq!(Record::from(5), Record::new(5));
    assert!(!record.is_tombstone());
    assert!(Record::<u8>::tombstone().is_tombstone());
    assert!(Record::<u8>::tombstone().map(u32::from).is_tombstone());
}

#[test]
fn headers_keep_order_and_duplicates_and_tell_absent_from_empty() {
    let mut headers = Headers::new();
    headers.extend([Header::new("a", "1"), Header::new("b", ""), Header::new("a", [0xff]), Header::absent("c")]);
    assert_eq!(headers.iter().map(Header::name).collect::<Vec<_>>(), ["a", "b", "a", "c"]);
    assert_eq!(headers.get("a").unwrap().as_ref(), [0xff]);
    assert_eq!(headers.get_str("a"), None, "no UTF-8");
    assert_eq!(headers.get_str("b"), Some(""));
    assert_eq!(headers.get("c"), None);
    assert!(headers.contains("c") && !headers.contains("C"));
    assert_eq!(headers.get_all("a").filter_map(Header::value).count(), 2);
    assert_eq!((&headers).into_iter().count(), headers.len());
    assert_eq!(Headers::from_iter(headers.clone()), headers);
    assert!(!headers.is_empty() && Headers::new().is_empty());
}

#[test]
fn header_names_have_1_to_255_bytes() {
    let named = |name: &str| Record::new(()).header_absent(name).validate();
    assert!(named("a").is_ok());
    assert!(named(&"a".repeat(255)).is_ok());
    let error = named("").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), "the header name \"\" has 0 bytes; 1 to 255 are allowed");
    // 128 characters, but 256 bytes: bytes are what the format counts.
    let error = named(&"é".repeat(128)).unwrap_err();
    assert!(error.to_string().contains("has 256 bytes"), "{error}");
    assert!(error.to_string().len() < 250, "{error}");
}

#[test]
fn a_record_has_at_most_65535_headers() {
    let mut record = Record::new(());
    record.headers = std::iter::repeat_n(Header::absent("n"), 65_535).collect();
    record.validate().unwrap();
    record.headers.push(Header::absent("n"));
    let error = record.validate().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), "the record has 65536 headers, of which 65535 are allowed");
}

#[test]
fn a_message_shows_where_it_stands() {
    let message = message(Some(5));
    assert_eq!((message.topic(), message.partition(), message.offset(), message.commit()), ("orders", 3, 17, 40));
    assert_eq!(message.timestamp().to_rfc3339(), "1969-12-31T23:59:59.999999+00:00");
    assert_eq!(message.key().unwrap().as_ref(), b"key");
    assert_eq!(message.headers().get_str("a"), Some("1"));
    assert_eq!((message.event(), message.value(), message.is_tombstone()), (Some(&5), Some(&5), false));
    assert_eq!(message.into_value(), Some(5));
}

#[test]
fn a_message_that_cannot_be_converted_comes_back_whole() {
    assert_eq!(message(Some(5)).map(|n| n.to_string()), message(Some(String::from("5"))));
    assert_eq!(message(Some(5)).try_map(|n| Ok::<_, ()>(n + 1)), Ok(message(Some(6))));
    assert_eq!(message(None::<u8>).try_map(|_| Err::<u8, _>("never called")), Ok(message(None)));
    assert_eq!(message(Some(5)).try_map(|_| Err::<u8, _>("no")), Err((message(None), "no")));
}

#[test]
fn timestamps_beyond_the_calendar_are_its_ends() {
    assert_eq!(datetime_from_micros(i64::MIN), DateTime::<Utc>::MIN_UTC);
    assert_eq!(datetime_from_micros(i64::MAX), DateTime::<Utc>::MAX_UTC);
}

proptest! {
    #[test]
    fn timestamps_survive_in_microseconds(micros in -8_000_000_000_000_000_000i64..8_000_000_000_000_000_000) {
        let at = datetime_from_micros(micros);
        prop_assert_eq!(Record::new(()).timestamp(at).timestamp_micros(), Some(micros));
    }
}
