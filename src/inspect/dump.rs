//! A segment file, shown frame by frame.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use uuid::Uuid;

use super::segment::{records_of, unreadable};
use crate::error::{Error, Result};
use crate::format::compression::Method;
use crate::format::frame::{self, FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::format::record::{RawRecord, RecordIter};
use crate::format::segment::{Footer, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::record::datetime_from_micros;
use crate::segment::scan;
use crate::storage::files::read_full_at;
use crate::storage::{File, OpenMode, Storage};

/// How much of a key or a value is shown.
const SHOWN_BYTES: usize = 80;

/// Writes a segment file to `out` as text: its header, then each frame with its position, the fields of its header, whether the
/// checksums hold, and its records; what is damaged is named and passed over to the next header of the same incarnation. The
/// file may be part of a log or not; nothing but the file is read.
///
/// # Errors
///
/// [`Io`](crate::ErrorKind::Io) if the file cannot be read or `out` cannot be written, whose source is the error of the system.
/// Damage is shown, and is no error.
pub fn dump_segment(path: impl AsRef<Path>, out: &mut impl Write) -> Result<()> {
    let path = path.as_ref();
    let file = crate::storage::disk::Disk.open(path, OpenMode::Read).map_err(|error| unreadable(path, error))?;
    let mut dump = Dump::new(path, file, out)?;
    dump.segment()
}

/// A file that is being shown.
pub(super) struct Dump<'a, W> {
    path: &'a Path,
    pub(super) file: Arc<dyn File>,
    pub(super) len: u64,
    out: &'a mut W,
}

impl<'a, W: Write> Dump<'a, W> {
    pub(super) fn new(path: &'a Path, file: Arc<dyn File>, out: &'a mut W) -> Result<Self> {
        let len = file.len().map_err(|error| unreadable(path, error))?;
        Ok(Self { path, file, len, out })
    }

    pub(super) fn line(&mut self, line: &str) -> Result<()> {
        writeln!(self.out, "{line}").map_err(|error| Error::io("cannot write what is shown", error))
    }

    pub(super) fn failed(&self, error: io::Error) -> Error {
        unreadable(self.path, error)
    }

    /// Up to `len` bytes at a position.
    pub(super) fn bytes(&self, position: u64, len: usize) -> Result<Vec<u8>> {
        let left = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(left)];
        let read = read_full_at(&*self.file, &mut bytes, position).map_err(|error| self.failed(error))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn segment(&mut self) -> Result<()> {
        let bytes = self.bytes(0, SEGMENT_HEADER_BYTES)?;
        let len = self.len;
        self.line(&format!("segment file of {len} bytes"))?;
        let incarnation = match SegmentHeader::decode(&bytes) {
            Ok(header) => {
                self.line("0: segment header, checksum ok")?;
                self.line(&format!("  log_id {}", Uuid::from_u128(header.log_id)))?;
                self.line(&format!("  topic_id {}, partition {}", Uuid::from_u128(header.topic_id), header.partition))?;
                self.line(&format!(
                    "  base_offset {}, incarnation {:016x}, created_at {}{}",
                    header.base_offset,
                    header.incarnation,
                    time(header.created_at),
                    if header.compacted { ", compacted" } else { "" }
                ))?;
                Some(header.incarnation)
            }
            Err(why) => {
                self.line(&format!("0: NO SEGMENT HEADER: {why}"))?;
                None
            }
        };
        self.frames(SEGMENT_HEADER_BYTES as u64, incarnation)
    }

    fn frames(&mut self, mut position: u64, mut incarnation: Option<u64>) -> Result<()> {
        while position < self.len {
            let front = self.bytes(position, FRAME_HEADER_BYTES)?;
            let header = match FrameHeader::decode(&front) {
                Ok(header) if incarnation.is_none_or(|known| known == header.incarnation) => header,
                other => {
                    let Some(next) = self.not_a_frame(position, incarnation, other)? else { return Ok(()) };
                    position = next;
                    continue;
                }
            };
            incarnation.get_or_insert(header.incarnation);
            let body = self.bytes(position + FRAME_HEADER_BYTES as u64, header.body_len as usize)?;
            let whole = header.check_body(&body);
            let state = whole.map_or_else(|why| format!("BODY DAMAGED: {why}"), |()| "body checksum ok".to_owned());
            self.line(&format!("{position}: {}, header checksum ok, {state}", kind(header.kind)))?;
            fields(&header).iter().try_for_each(|fields| self.line(&format!("  {fields}")))?;
            if whole.is_err() {
                // The length in a header that holds can be believed, unless the bytes end before it.
                position = (position + header.frame_len() as u64).min(self.len);
                continue;
            }
            match header.kind {
                FrameKind::Records => self.records(&header, &body)?,
                FrameKind::Footer => self.footer(&body)?,
                FrameKind::Journal => self.line("  a journal entry: no segment has one; see the journal's own dump")?,
            }
            position += header.frame_len() as u64;
        }
        Ok(())
    }

    /// Says what is there instead of a frame; answers with where to go on, if anywhere.
    fn not_a_frame(
        &mut self,
        position: u64,
        incarnation: Option<u64>,
        decoded: Result<FrameHeader, crate::format::FormatError>,
    ) -> Result<Option<u64>> {
        let len = self.len;
        if scan::only_zeros(&self.file, position, len).map_err(|error| self.failed(error))? {
            self.line(&format!("{position}: zeros up to the end of the file, {} bytes", len - position))?;
            return Ok(None);
        }
        let why = match decoded {
            Ok(header) => format!("a frame of another incarnation, {:016x}", header.incarnation),
            Err(why) => why.to_string(),
        };
        let next = match incarnation {
            Some(incarnation) => {
                let found = scan::find_frame(&self.file, incarnation, position + 1, len, |_, _| true);
                found.map_err(|error| self.failed(error))?.map(|(next, _)| next)
            }
            None => self.first_header(position + 1)?,
        };
        let upto = next.map_or_else(|| "the end of the file".to_owned(), |next| next.to_string());
        let bytes = next.unwrap_or(len) - position;
        self.line(&format!("{position}: NO FRAME: {why}; {bytes} bytes up to {upto} are passed over"))?;
        Ok(next)
    }

    /// The next header of whatever incarnation.
    fn first_header(&self, from: u64) -> Result<Option<u64>> {
        const STEP_BYTES: usize = 1024 * 1024;
        let mut position = from;
        while position < self.len {
            let bytes = self.bytes(position, STEP_BYTES)?;
            let found = bytes.windows(FRAME_HEADER_BYTES).position(|window| {
                // The kind is cheaper to look at than a checksum.
                matches!(window.get(4..6), Some([1..=3, _])) && FrameHeader::decode(window).is_ok()
            });
            if let Some(found) = found {
                return Ok(Some(position + found as u64));
            }
            if bytes.len() < STEP_BYTES {
                break;
            }
            position += (bytes.len() - (FRAME_HEADER_BYTES - 1)) as u64;
        }
        Ok(None)
    }

    fn records(&mut self, header: &FrameHeader, body: &[u8]) -> Result<()> {
        if header.record_count == 0 {
            let last = header.next_offset() - 1;
            return self.line(&format!("  no record: offsets {} to {last} are a hole", header.base_offset));
        }
        let mut unpacked = BytesMut::new();
        let body = match records_of(header, body, &mut unpacked) {
            Ok(body) => body,
            Err(why) => return self.line(&format!("  BODY DAMAGED: it does not decompress: {why}")),
        };
        let mut records = RecordIter::new(header, body);
        loop {
            match records.next_record() {
                Ok(Some(record)) => self.line(&format!("  {}", shown_record(&record)))?,
                Ok(None) => return Ok(()),
                Err(why) => return self.line(&format!("  RECORDS DAMAGED: {why}")),
            }
        }
    }

    fn footer(&mut self, body: &[u8]) -> Result<()> {
        match Footer::decode(body) {
            Ok(footer) => self.line(&format!(
                "  frame_count {}, record_count {}, chain_crc {:08x}, first_commit {}, last_commit {}",
                footer.frame_count, footer.record_count, footer.chain_crc, footer.first_commit, footer.last_commit
            )),
            Err(why) => self.line(&format!("  FOOTER DAMAGED: {why}")),
        }
    }
}

fn kind(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Records => "frame of records",
        FrameKind::Footer => "footer",
        FrameKind::Journal => "journal entry",
    }
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Plain => "none",
        Method::Lz4 => "lz4",
        Method::Zstd => "zstd",
    }
}

/// The fields of a frame's header, in lines.
pub(super) fn fields(header: &FrameHeader) -> [String; 3] {
    [
        format!(
            "base_offset {}, record_count {}, last_offset_delta {}, compression {}, body_len {}, body_crc {:08x}",
            header.base_offset,
            header.record_count,
            header.last_offset_delta,
            method(header.compression),
            header.body_len,
            header.body_crc
        ),
        format!("base_timestamp {}, max_timestamp {}", time(header.base_timestamp), time(header.max_timestamp)),
        format!(
            "durable_upto {}, commit {}, incarnation {:016x}",
            header.durable_upto, header.commit, header.incarnation
        ),
    ]
}

fn shown_record(record: &RawRecord<'_>) -> String {
    let mut line = format!("offset {}, {}", record.offset, time(record.timestamp));
    if let Some(key) = record.key {
        // Writing to a string cannot fail.
        let _ = write!(line, ", key {}", shown(key));
    }
    for (name, value) in record.headers.iter() {
        let value = value.map_or_else(|| "absent".to_owned(), shown);
        let _ = write!(line, ", header {}={value}", crate::text::quoted(name));
    }
    match record.value {
        Some(value) => {
            let _ = write!(line, ", value of {} bytes {}", value.len(), shown(value));
        }
        None => line.push_str(", tombstone"),
    }
    line
}

/// Bytes in quotes, escaped and cut.
fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if cut.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{more}\"", cut.escape_ascii())
}

pub(super) fn time(micros: i64) -> String {
    format!("{} ({micros})", datetime_from_micros(micros).to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

/// The checksum of a frame inside of a journal entry.
pub(super) fn shown_crc(frame: &[u8]) -> String {
    frame.first_chunk().map_or_else(String::new, |header| format!("{:08x}", frame::header_crc(header)))
}
