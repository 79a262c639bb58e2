//! Compressed bodies of frames of records.
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | `raw_len` | bytes of the body once it is decompressed, at most 288 MiB |
//! | 4 | the rest | | an LZ4 block without a size of its own, or a Zstandard frame (RFC 8878) |
//!
//! The checksum of the frame is over the stored bytes: it holds or fails without decompressing anything. Which of the two it is
//! says the frame's header. A body that does not shrink is stored as it is, so every reader reads both, and no setting tells it.
//!
//! `raw_len` is a claim. No memory is taken for it beyond what the stored bytes can justify: LZ4 makes of each byte 255 at the
//! most; what Zstandard makes of a byte has no useful bound, so its output grows in steps, each a small multiple of what the
//! last one has filled.

use std::cell::RefCell;

use bytes::BytesMut;
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use zstd::zstd_safe::{CCtx, DCtx, zstd_sys::ZSTD_ErrorCode};

use super::frame::FRAME_BODY_BYTES_MAX;
use super::{FormatError, FormatResult};
use crate::planted::{self, Bug};

/// How the records of a topic are compressed, frame by frame: what one append call, or the group of those that wait together,
/// becomes. Set per topic.
///
/// | | for |
/// |---|---|
/// | [`None`](Compression::None) | the default |
/// | [`Lz4`](Compression::Lz4) | speed: some hundred megabytes a second to compress, gigabytes to read |
/// | [`Zstd`](Compression::Zstd) | size: the lower levels are a few times slower than LZ4, the higher ones very slow |
///
/// It concerns frames that are written from then on. Whatever does not shrink, and whatever is too small to be worth it, is stored
/// as it is; readers read all of it without a setting. A frame of many records shrinks better than many of one, so batches and
/// pipelined sends gain most. Who compresses is the caller of a batch or of a relaxed append, and else who leads the commit.
///
/// As text it is `none`, `lz4` or `zstd 3`:
///
/// ```
/// use annals::Compression;
///
/// let compression: Compression = "zstd 3".parse()?;
/// assert_eq!(compression, Compression::Zstd { level: 3 });
/// assert_eq!(compression.to_string(), "zstd 3");
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// None.
    #[default]
    None,
    /// LZ4, its block format.
    Lz4,
    /// Zstandard.
    Zstd {
        /// 1 (fast) to 22 (small, and very slow; from about 16 on it needs hundreds of megabytes for large batches).
        level: u8,
    },
}

/// How the body of a frame is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Method {
    Plain = 0,
    Lz4 = 1,
    Zstd = 2,
}

impl Method {
    /// What the byte in a header stands for.
    #[inline]
    pub(crate) fn of(byte: u8) -> FormatResult<Self> {
        match byte {
            0 => Ok(Self::Plain),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            other => Err(FormatError::Compression(other)),
        }
    }
}

/// Smaller bodies are not worth trying.
pub(crate) const BODY_BYTES_MIN: usize = 256;
const RAW_LEN_BYTES: usize = 4;
/// A context that a high level has grown beyond this is given back.
const CONTEXT_BYTES_MAX: usize = 16 << 20;
/// The first step of an output whose length is only claimed, and by how much the stored bytes and each step may be exceeded.
const STEP_BYTES: usize = 256 << 10;
const STEP_INPUT_FACTOR: usize = 16;
const STEP_FACTOR: usize = 8;
/// Zstandard's answer where more would come than there is room for.
const OUTPUT_FULL: usize = (ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();

#[derive(Default)]
struct Contexts {
    lz4: Option<Box<CompressTable>>,
    zstd: Option<CCtx<'static>>,
    unzstd: Option<DCtx<'static>>,
}

thread_local! {
    /// What (de)compressing needs beside its input and output: kept, since making it costs more than using it.
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

/// Appends `body` compressed to `out`, if it gets smaller by that; else `out` is as it was.
pub(crate) fn compress(compression: Compression, body: &[u8], out: &mut Vec<u8>) -> Method {
    if body.len() < BODY_BYTES_MIN {
        return Method::Plain;
    }
    let front = out.len();
    let at = front + RAW_LEN_BYTES;
    let mut contexts = CONTEXTS.take();
    let (method, written) = match compression {
        Compression::None => (Method::Plain, None),
        Compression::Lz4 => {
            out.resize(at + get_maximum_output_size(body.len()), 0);
            let table = contexts.lz4.get_or_insert_with(|| Box::new(CompressTable::small()));
            (Method::Lz4, compress_into_with_table(body, &mut out[at..], table).ok())
        }
        Compression::Zstd { level } => {
            // What has no room here has not become smaller.
            out.resize(front + body.len() - 1, 0);
            contexts.zstd = contexts.zstd.take().or_else(CCtx::try_create);
            let context = contexts.zstd.as_mut();
            (Method::Zstd, context.and_then(|context| context.compress(&mut out[at..], body, i32::from(level)).ok()))
        }
    };
    contexts.zstd = contexts.zstd.take().filter(|context| context.sizeof() <= CONTEXT_BYTES_MAX);
    CONTEXTS.set(contexts);
    match written {
        Some(written) if RAW_LEN_BYTES + written < body.len() => {
            out[front..at].copy_from_slice(&(body.len() as u32).to_le_bytes());
            out.truncate(at + written);
            method
        }
        _ => {
            out.truncate(front);
            Method::Plain
        }
    }
}

/// Puts into `out`, which is emptied first, what the stored bytes of a body hold.
pub(crate) fn decompress(method: Method, stored: &[u8], out: &mut BytesMut) -> FormatResult<()> {
    out.clear();
    let (raw_len, packed) = stored.split_first_chunk::<RAW_LEN_BYTES>().ok_or(FormatError::Short)?;
    let raw_len = u32::from_le_bytes(*raw_len);
    if raw_len > FRAME_BODY_BYTES_MAX {
        return Err(FormatError::Length);
    }
    let raw_len = raw_len as usize;
    let made = match method {
        Method::Plain => return Err(FormatError::Compression(0)),
        Method::Lz4 => unpack_lz4(packed, raw_len, out)?,
        Method::Zstd => unpack_zstd(packed, raw_len, out)?,
    };
    if planted::is(Bug::DecompressedLengthTrusted) {
        out.resize(raw_len, 0);
        return Ok(());
    }
    if made == raw_len { Ok(()) } else { Err(FormatError::Decompression) }
}

fn unpack_lz4(packed: &[u8], raw_len: usize, out: &mut BytesMut) -> FormatResult<usize> {
    if raw_len > packed.len().saturating_mul(255) {
        return Err(FormatError::Length);
    }
    out.resize(raw_len, 0);
    decompress_into(packed, out).map_err(|_| FormatError::Decompression)
}

fn unpack_zstd(packed: &[u8], raw_len: usize, out: &mut BytesMut) -> FormatResult<usize> {
    let mut contexts = CONTEXTS.take();
    contexts.unzstd = contexts.unzstd.take().or_else(DCtx::try_create);
    let answer = match &mut contexts.unzstd {
        Some(context) => unpack_in_steps(context, packed, raw_len, out),
        None => Err(FormatError::Decompression),
    };
    CONTEXTS.set(contexts);
    answer
}

fn unpack_in_steps(context: &mut DCtx<'_>, packed: &[u8], raw_len: usize, out: &mut BytesMut) -> FormatResult<usize> {
    let mut room = raw_len.min(packed.len().saturating_mul(STEP_INPUT_FACTOR).max(STEP_BYTES));
    loop {
        out.clear();
        out.resize(room, 0);
        match context.decompress(&mut out[..], packed) {
            Ok(made) => return Ok(made),
            // All of the room but the end of one block was filled: that much, at least, is no mere claim.
            Err(OUTPUT_FULL) if room < raw_len => room = raw_len.min(room * STEP_FACTOR),
            Err(_) => return Err(FormatError::Decompression),
        }
    }
}
