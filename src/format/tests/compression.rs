use bytes::BytesMut;
use proptest::prelude::*;

use super::super::FormatError;
use super::super::compression::{BODY_BYTES_MIN, Compression, Method, compress, decompress};
use super::super::frame::{self, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader};
use super::super::record::FrameBuilder;
use super::{Owned, every_cut_is_detected, every_flip_is_detected, owned, place, read_all};

const ALL: [Compression; 3] = [Compression::Lz4, Compression::Zstd { level: 1 }, Compression::Zstd { level: 19 }];

/// Bytes that no compression makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|number: u32| format!("order {number} was paid; ").into_bytes()).take(len).collect()
}

fn packed(compression: Compression, body: &[u8]) -> (Method, Vec<u8>) {
    let mut out = Vec::new();
    let method = compress(compression, body, &mut out);
    (method, out)
}

fn unpacked(method: Method, stored: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut out = BytesMut::new();
    decompress(method, stored, &mut out).map(|()| out.to_vec())
}

fn with_raw_len(stored: &[u8], raw_len: u32) -> Vec<u8> {
    [&raw_len.to_le_bytes()[..], &stored[4..]].concat()
}

#[test]
fn what_shrinks_comes_back_at_every_size() {
    for compression in ALL {
        for len in [BODY_BYTES_MIN, 257, 1000, 65_535, 65_536, 70_000, 1 << 20] {
            let body = text(len);
            let (method, stored) = packed(compression, &body);
            assert_eq!(
                method != Method::Plain,
                stored.len() < body.len() && !stored.is_empty(),
                "{compression}, {len}"
            );
            assert!(len < 1000 || stored.len() < len / 2, "{compression}: {len} became {}", stored.len());
            assert_eq!(unpacked(method, &stored).unwrap(), body, "{compression}, {len}");
        }
    }
}

#[test]
fn what_does_not_shrink_or_is_too_small_is_left_as_it_is() {
    for compression in ALL {
        for body in [noise(BODY_BYTES_MIN), noise(5000), noise(1 << 20), text(BODY_BYTES_MIN - 1), Vec::new()] {
            let mut out = b"before".to_vec();
            assert_eq!(compress(compression, &body, &mut out), Method::Plain, "{compression}, {}", body.len());
            assert_eq!(out, b"before");
        }
    }
    assert_eq!(packed(Compression::None, &text(1000)), (Method::Plain, Vec::new()));
}

#[test]
fn a_claimed_length_is_held_to_what_comes() {
    for compression in ALL {
        let body = text(2000);
        let (method, stored) = packed(compression, &body);
        for raw_len in [0, 1, 1999, 2001, 4000, FRAME_BODY_BYTES_MAX, FRAME_BODY_BYTES_MAX + 1, u32::MAX] {
            let error = unpacked(method, &with_raw_len(&stored, raw_len)).unwrap_err();
            assert!(matches!(error, FormatError::Decompression | FormatError::Length), "{raw_len}: {error}");
        }
        for len in 0..stored.len() {
            assert!(unpacked(method, &stored[..len]).is_err(), "{compression}: a cut at {len} passes");
        }
        assert!(unpacked(Method::Plain, &stored).is_err(), "nothing to decompress");
    }
}

/// A length that only stands there takes no memory.
#[test]
fn memory_is_taken_for_what_comes_and_not_for_what_is_claimed() {
    for compression in ALL {
        let (method, stored) = packed(compression, &text(2000));
        let mut out = BytesMut::new();
        decompress(method, &with_raw_len(&stored, FRAME_BODY_BYTES_MAX), &mut out).unwrap_err();
        assert!(out.capacity() <= 256 << 10, "{compression}: {} bytes for {}", out.capacity(), stored.len());
    }
    // The frame's own header claims as much: 200 MiB as the content size of a single segment, then one raw block of 5 bytes.
    let content_size = (200_u32 << 20).to_le_bytes();
    let lie = [&[0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000][..], &content_size, &[5 << 3 | 1, 0, 0], b"hello"].concat();
    let stored = with_raw_len(&[&[0; 4][..], &lie].concat(), 200 << 20);
    let mut out = BytesMut::new();
    assert_eq!(decompress(Method::Zstd, &stored, &mut out), Err(FormatError::Decompression));
    assert!(out.capacity() <= 256 << 10, "{}", out.capacity());
}

/// Much more than the first step comes out of very little.
#[test]
fn an_honest_giant_is_read_in_steps() {
    let zeros = vec![0; 20 << 20];
    for compression in [Compression::Zstd { level: 3 }, Compression::Lz4] {
        let (method, stored) = packed(compression, &zeros);
        assert!(stored.len() < zeros.len() / 200, "{}", stored.len());
        assert!(unpacked(method, &stored).unwrap() == zeros);
        // All of it comes, and is more than is said.
        let error = unpacked(method, &with_raw_len(&stored, (20 << 20) - 1)).unwrap_err();
        assert_eq!(error, FormatError::Decompression);
    }
}

fn packed_frame(compression: Compression) -> (FrameHeader, Vec<u8>) {
    let mut builder = FrameBuilder::new();
    Owned::plain(5, &text(300)).push_to(&mut builder);
    builder.compress(compression);
    let (header, bytes) = builder.finish(place(1000));
    (header, bytes.to_vec())
}

/// The checksum is over what is stored, so damage never reaches a decompressor.
#[test]
fn every_flip_and_every_cut_of_a_compressed_frame_is_detected() {
    for (compression, byte) in [(Compression::Lz4, 1), (Compression::Zstd { level: 3 }, 2)] {
        let (header, bytes) = packed_frame(compression);
        assert_eq!(bytes[5], byte);
        let parse =
            |bytes: &[u8]| frame::parse(bytes, header.incarnation).map(|(header, body)| (header, body.to_vec()));
        every_flip_is_detected(&bytes, parse);
        every_cut_is_detected(&bytes, parse);
    }
}

/// What a decompressor is given under a checksum that holds may still be anything.
#[test]
fn every_flip_under_a_checksum_that_holds_is_an_error_or_some_bytes() {
    for compression in ALL {
        let (method, stored) = packed(compression, &text(600));
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut out = BytesMut::new();
            if decompress(method, &damaged, &mut out).is_ok() {
                assert_eq!(out.len() as u32, u32::from_le_bytes(*damaged.first_chunk().unwrap()));
            }
            assert!(out.capacity() <= 256 << 10, "bit {bit}: {} bytes", out.capacity());
        }
    }
}

#[test]
fn a_builder_compresses_once_and_begins_again_with_the_next_record() {
    let mut builder = FrameBuilder::new();
    let record = Owned::plain(7, &text(2000));
    record.push_to(&mut builder);
    let raw = builder.len();
    builder.compress(Compression::Lz4);
    let stored = builder.len();
    assert!(stored < raw / 2);
    builder.compress(Compression::Zstd { level: 9 });
    assert_eq!(builder.len(), stored, "the second time it is left alone");
    let (header, bytes) = builder.finish(place(1));
    assert_eq!((header.compression, header.frame_len(), bytes.len()), (Method::Lz4, stored, stored));
    record.push_to(&mut builder);
    assert!(builder.len() > raw, "what was compressed lacks this record");
    builder.compress(Compression::Zstd { level: 9 });
    let (header, bytes) = builder.finish(place(1));
    assert_eq!((header.compression, header.record_count), (Method::Zstd, 2));
    let body = unpacked(header.compression, &bytes[FRAME_HEADER_BYTES..]).unwrap();
    assert_eq!(body, builder.body());
    assert_eq!(read_all(&header, &body).unwrap().len(), 2);
    builder.clear();
    assert_eq!(builder.len(), 0);
    Owned::plain(7, b"small").push_to(&mut builder);
    builder.compress(Compression::Lz4);
    assert_eq!(builder.finish(place(1)).0.compression, Method::Plain);
}

fn compressions() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        Just(Compression::Lz4),
        (1..=6_u8).prop_map(|level| Compression::Zstd { level })
    ]
}

proptest! {
    #[test]
    fn frames_come_back(
        records in prop::collection::vec(owned(), 1..20),
        repeats in 1..4_usize,
        compression in compressions(),
    ) {
        let mut builder = FrameBuilder::new();
        let sent: Vec<_> = std::iter::repeat_n(records, repeats).flatten().collect();
        sent.iter().for_each(|record| record.push_to(&mut builder));
        let raw = builder.body().to_vec();
        builder.compress(compression);
        let len = builder.len();
        prop_assert!(len <= raw.len() + FRAME_HEADER_BYTES);
        let (header, bytes) = builder.finish(place(1000));
        prop_assert_eq!(bytes.len(), len);
        let (header, stored) = frame::parse(bytes, header.incarnation).map(|(_, body)| (header, body.to_vec())).unwrap();
        let body = match header.compression {
            Method::Plain => stored,
            method => unpacked(method, &stored).unwrap(),
        };
        prop_assert_eq!(&body, &raw);
        let read = read_all(&header, &body).unwrap();
        prop_assert!(read.iter().map(|(_, record)| record).eq(&sent));
        let (stored, shared) = builder.into_bytes();
        prop_assert_eq!(stored.len(), len);
        prop_assert_eq!(&shared[..], &raw[..]);
    }

    #[test]
    fn bodies_come_back(
        piece in prop::collection::vec(any::<u8>(), 1..60),
        len in 0..20_000_usize,
        tail in prop::collection::vec(any::<u8>(), 0..300),
        compression in compressions(),
    ) {
        let body: Vec<u8> = piece.iter().copied().cycle().take(len).chain(tail).collect();
        let (method, stored) = packed(compression, &body);
        prop_assert_eq!(method == Method::Plain, stored.is_empty());
        if method != Method::Plain {
            prop_assert!(stored.len() < body.len());
            prop_assert_eq!(unpacked(method, &stored).unwrap(), body);
        }
    }

    #[test]
    fn arbitrary_bytes_are_decompressed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), lz4: bool) {
        let method = if lz4 { Method::Lz4 } else { Method::Zstd };
        if let Ok(body) = unpacked(method, &bytes) {
            prop_assert_eq!(body.len() as u32, u32::from_le_bytes(*bytes.first_chunk().unwrap()));
        }
    }
}
