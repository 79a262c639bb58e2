use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Bincode, Codec, CodecError, Json, Raw, TopicDef};
use crate::error::{Error, ErrorKind};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Event {
    Opened,
    Paid { cents: i64, by: Option<String> },
    Tagged(BTreeMap<String, Vec<u128>>),
    Scanned(char, bool, Vec<u8>),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Opened),
        (any::<i64>(), any::<Option<String>>()).prop_map(|(cents, by)| Event::Paid { cents, by }),
        proptest::collection::btree_map(any::<String>(), proptest::collection::vec(any::<u128>(), 0..4), 0..4)
            .prop_map(Event::Tagged),
        (any::<char>(), any::<bool>(), any::<Vec<u8>>()).prop_map(|(c, b, v)| Event::Scanned(c, b, v)),
    ]
}

fn encoded<T, C: Codec<T>>(codec: &C, value: &T) -> Vec<u8> {
    let mut out = b"before".to_vec();
    codec.encode(value, &mut out).unwrap();
    assert!(out.starts_with(b"before"), "a codec appends");
    out.split_off(b"before".len())
}

/// The round trip, and that no byte may be missing or left over.
fn check<T: Debug + PartialEq, C: Codec<T>>(codec: &C, value: &T, junk: u8) {
    let bytes = encoded(codec, value);
    assert_eq!(&codec.decode(&Bytes::from(bytes.clone())).unwrap(), value);
    for len in 0..bytes.len() {
        assert!(codec.decode(&Bytes::copy_from_slice(&bytes[..len])).is_err(), "cut at {len}");
    }
    let mut longer = bytes;
    longer.push(junk);
    assert!(codec.decode(&Bytes::from(longer)).is_err(), "a byte left over");
}

proptest! {
    #[test]
    fn bincode_round_trip(event in events(), junk: u8) {
        check(&Bincode, &event, junk);
    }

    #[test]
    fn json_round_trip(event in events(), junk in b'!'..=b'~') {
        check(&Json, &event, junk);
    }

    #[test]
    fn raw_round_trip(bytes: Vec<u8>, text: String) {
        let shared = Bytes::from(bytes.clone());
        prop_assert_eq!(encoded(&Raw, &bytes), bytes.clone());
        prop_assert_eq!(encoded(&Raw, &shared), bytes.clone());
        prop_assert_eq!(encoded(&Raw, &text), text.as_bytes());
        prop_assert_eq!(Raw.as_bytes(&bytes), Some(&bytes[..]));
        prop_assert_eq!(Raw.as_bytes(&shared), Some(&bytes[..]));
        prop_assert_eq!(Raw.as_bytes(&text), Some(text.as_bytes()));
        prop_assert_eq!(Codec::<Vec<u8>>::decode(&Raw, &shared).unwrap(), bytes);
        prop_assert_eq!(Codec::<Bytes>::decode(&Raw, &shared).unwrap(), shared);
        prop_assert_eq!(Codec::<String>::decode(&Raw, &Bytes::from(text.clone())).unwrap(), text);
    }

    #[test]
    fn bincode_takes_any_bytes_without_harm(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        if let Ok(event) = Codec::<Event>::decode(&Bincode, &bytes) {
            // Two encodings of one value may exist (a longer form of an integer), but never two values of one encoding.
            prop_assert_eq!(Codec::<Event>::decode(&Bincode, &Bytes::from(encoded(&Bincode, &event))).unwrap(), event);
        }
    }
}

#[test]
fn raw_text_is_checked() {
    assert!(Codec::<String>::decode(&Raw, &Bytes::from_static(&[0xff])).is_err());
}

#[test]
fn raw_bytes_are_shared_not_copied() {
    let bytes = Bytes::from(vec![1; 100]);
    assert_eq!(Codec::<Bytes>::decode(&Raw, &bytes).unwrap().as_ptr(), bytes.as_ptr());
    assert_eq!(Codec::<Event>::as_bytes(&Json, &Event::Opened), None);
}

/// bincode's own words for a refusal ahead of the allocation, as opposed to running out of bytes after it.
fn is_refused_ahead<T: Debug + Serialize + for<'de> Deserialize<'de>>(bytes: Vec<u8>) -> bool {
    let error = Codec::<T>::decode(&Bincode, &Bytes::from(bytes)).unwrap_err();
    format!("{error:?}").contains("LimitExceeded")
}

#[test]
fn a_length_in_the_bytes_cannot_make_bincode_allocate() {
    let length = |len: u64| encoded(&Bincode, &len);
    assert!(is_refused_ahead::<String>(length(u64::MAX)));
    assert!(is_refused_ahead::<String>(length(1 << 40)));
    assert!(is_refused_ahead::<String>(length(2 << 20)));
    assert!(is_refused_ahead::<(u8, Vec<String>)>([vec![0], length(3), length(1 << 30)].concat()));
    // A list of numbers is read one by one into memory that grows: it runs out of bytes, not of memory.
    assert!(Codec::<Vec<u64>>::decode(&Bincode, &Bytes::from(length(u64::MAX))).is_err());
}

#[test]
fn the_limit_never_refuses_an_honest_value() {
    // One byte each, counted as sixteen: the most that any encoding counts for, on both sides of each step.
    for count in [60 << 10, 66 << 10, 1000 << 10, 1100 << 10] {
        let value = vec![1u128; count];
        let bytes = Bytes::from(encoded(&Bincode, &value));
        assert!(Codec::<Vec<u128>>::decode(&Bincode, &bytes).unwrap() == value, "{count}");
    }
}

#[test]
fn bytes_beyond_any_record_are_refused() {
    let bytes = Bytes::from(vec![0; Bincode::LARGE + 1]);
    let error = Codec::<u8>::decode(&Bincode, &bytes).unwrap_err();
    assert_eq!(error.to_string(), "67108865 bytes are more than a record can have");
}

#[test]
fn a_value_that_cannot_be_encoded_is_an_error() {
    let map: BTreeMap<Vec<u8>, u8> = BTreeMap::from([(vec![1], 1)]);
    assert!(Json.encode(&map, &mut Vec::new()).is_err(), "a JSON key is text");
}

#[test]
fn a_codec_error_becomes_the_crate_s_with_kind_and_context() {
    let json: Error = Codec::<u8>::decode(&Json, &Bytes::from_static(b"x")).unwrap_err().into();
    assert_eq!(json.kind(), ErrorKind::Codec);
    let error = CodecError::new("no such currency").in_context("topic orders, partition 0, offset 3");
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert_eq!(error.to_string(), "topic orders, partition 0, offset 3: no such currency");
}

#[test]
fn a_definition_is_a_constant_whatever_the_event() {
    struct NotSend(#[expect(dead_code, reason = "only its type matters")] *const u8);
    fn shared<T: Send + Sync + Clone + Debug>(_: &T) {}
    const DEF: TopicDef<NotSend, Raw> = TopicDef::new("orders");
    shared(&DEF);
    assert_eq!(DEF.clone().name(), "orders");
    let named: TopicDef<u8> = TopicDef::named("n");
    assert_eq!(named.name(), "n");
    assert_eq!(named.codec(), Bincode);
    assert!(format!("{named:?}").contains("Bincode"), "{named:?}");
}
