use proptest::prelude::*;

use super::super::FormatError;
use super::super::cursor::{Cursor, VARINT_BYTES_MAX, put_varint, unzigzag, zigzag};

fn encoded(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, value);
    out
}

#[test]
fn known_encodings() {
    for (value, bytes) in [
        (0, &[0][..]),
        (1, &[1]),
        (127, &[0x7f]),
        (128, &[0x80, 1]),
        (300, &[0xac, 2]),
        (16_383, &[0xff, 0x7f]),
        (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
    ] {
        assert_eq!(encoded(value), bytes);
    }
    assert_eq!(encoded(u64::MAX).len(), VARINT_BYTES_MAX);
    for (value, folded) in [(0, 0), (-1, 1), (1, 2), (-2, 3), (i64::MAX, u64::MAX - 1), (i64::MIN, u64::MAX)] {
        assert_eq!(zigzag(value), folded);
        assert_eq!(unzigzag(folded), value);
    }
}

#[test]
fn longer_encodings_than_needed_are_refused() {
    for bytes in [
        &[0x80, 0][..],
        &[0xff, 0],
        &[0x80, 0x80, 0],
        &[0x81, 0x80, 0x80, 0],
        // Bits beyond the 64th.
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
        // An eleventh byte.
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x81, 1],
    ] {
        assert_eq!(Cursor::new(bytes).varint(), Err(FormatError::Record), "{bytes:x?}");
    }
}

#[test]
fn two_bytes_are_read_as_one_value_or_refused() {
    let mut seen = std::collections::BTreeSet::new();
    for first in 0..=u8::MAX {
        for second in 0..=u8::MAX {
            let bytes = [first, second];
            let mut cursor = Cursor::new(&bytes);
            if let Ok(value) = cursor.varint() {
                let used = 2 - cursor.rest().len();
                assert_eq!(encoded(value), bytes[..used]);
                assert!(used == 1 || seen.insert(value), "{value} has two encodings");
            }
        }
    }
    assert_eq!(seen.len(), 128 * 127);
}

#[test]
fn a_length_beyond_the_input_is_refused_before_anything_is_made_of_it() {
    for len in [1, 2, 1 << 20, u64::from(u32::MAX), u64::MAX] {
        let mut bytes = encoded(len + u64::from(len == 1));
        bytes.push(0);
        assert_eq!(Cursor::new(&bytes).slice(), Err(FormatError::Short), "{len}");
    }
}

proptest! {
    #[test]
    fn every_value_comes_back_and_nothing_is_left(value: u64, shift in 0..64_u32) {
        let value = value >> shift;
        let bytes = encoded(value);
        let mut cursor = Cursor::new(&bytes);
        prop_assert_eq!(cursor.varint(), Ok(value));
        prop_assert!(cursor.is_empty());
        for len in 0..bytes.len() {
            prop_assert_eq!(Cursor::new(&bytes[..len]).varint(), Err(FormatError::Short));
        }
    }

    #[test]
    fn signs_fold_and_unfold(value: i64) {
        prop_assert_eq!(unzigzag(zigzag(value)), value);
        prop_assert_eq!(zigzag(unzigzag(value as u64)), value as u64);
    }

    #[test]
    fn whatever_is_read_is_the_only_encoding_of_its_value(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
        let mut cursor = Cursor::new(&bytes);
        if let Ok(value) = cursor.varint() {
            let used = bytes.len() - cursor.rest().len();
            prop_assert_eq!(encoded(value), &bytes[..used]);
        }
    }
}
