//! The decompressors, given anything: what a checksum that holds may still be over.

use bytes::BytesMut;

use crate::format::compression::{Compression, Method, compress, decompress as unpack};

/// As much as a step of the output may be beyond what has come: see `format/compression.rs`.
const SLACK_BYTES: usize = 3 << 20;

/// Never panics; gives as many bytes as are said, and takes no memory for a number alone. What is compressed comes back.
pub fn decompress(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let mut out = BytesMut::new();
    for method in [Method::Lz4, Method::Zstd] {
        let said = rest.first_chunk().map(|four| u32::from_le_bytes(*four) as usize);
        if unpack(method, rest, &mut out).is_ok() {
            assert_eq!(Some(out.len()), said);
        }
        // Four bytes of Zstandard may stand for 2 MiB, each; a byte of LZ4 for 255.
        let justified = if method == Method::Lz4 { rest.len() * 255 } else { rest.len() * (8 << 20) + SLACK_BYTES };
        assert!(out.capacity() <= justified.max(64), "{} bytes for {}", out.capacity(), rest.len());
        out = BytesMut::new();
    }
    let raw: Vec<u8> = rest.iter().copied().cycle().take(rest.len() * (1 + usize::from(first % 16))).collect();
    let zstd = Compression::Zstd { level: first % 5 + 1 };
    for compression in [Compression::Lz4, zstd] {
        let mut stored = Vec::new();
        match compress(compression, &raw, &mut stored) {
            Method::Plain => assert!(stored.is_empty()),
            method => {
                assert!(stored.len() < raw.len());
                assert_eq!(unpack(method, &stored, &mut out), Ok(()));
                assert!(out == raw);
            }
        }
    }
}
