//! A file of the journal, shown entry by entry.

use std::io::Write;
use std::path::Path;

use uuid::Uuid;

use super::dump::{Dump, fields, shown_crc};
use super::segment::unreadable;
use crate::error::Result;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::format::journal::{JOURNAL_HEADER_BYTES, JournalHeader, frames};
use crate::segment::{Segment, scan};
use crate::storage::{OpenMode, Storage};

/// Writes a file of the journal to `out` as text: its header, then each entry with its position, its number, its commit,
/// whether the checksums hold, and where each of its frames belongs. What an earlier use of the file has left behind the last
/// entry is told, and not shown.
///
/// # Errors
///
/// As [`dump_segment`](super::dump_segment).
pub fn dump_journal(path: impl AsRef<Path>, out: &mut impl Write) -> Result<()> {
    let path = path.as_ref();
    let file = crate::storage::disk::Disk.open(path, OpenMode::Read).map_err(|error| unreadable(path, error))?;
    Dump::new(path, file, out)?.journal()
}

impl<W: Write> Dump<'_, W> {
    fn journal(&mut self) -> Result<()> {
        let len = self.len;
        self.line(&format!("journal file of {len} bytes"))?;
        let header = match JournalHeader::decode(&self.bytes(0, JOURNAL_HEADER_BYTES)?) {
            Ok(header) => header,
            Err(why) => return self.line(&format!("0: NO JOURNAL HEADER: {why}; nothing behind it can be told")),
        };
        self.line("0: journal header, checksum ok")?;
        self.line(&format!("  log_id {}", Uuid::from_u128(header.log_id)))?;
        self.line(&format!(
            "  sequence {}, first_entry {}, incarnation {:016x}",
            header.sequence, header.first_entry, header.incarnation
        ))?;
        self.entries(header.incarnation)
    }

    fn entries(&mut self, incarnation: u64) -> Result<()> {
        let mut position = JOURNAL_HEADER_BYTES as u64;
        while position < self.len {
            let header = match FrameHeader::decode(&self.bytes(position, FRAME_HEADER_BYTES)?) {
                Ok(header) if header.incarnation == incarnation && header.kind == FrameKind::Journal => header,
                other => {
                    let why = other.map_or_else(|why| why.to_string(), |_| "what an earlier use has left".to_owned());
                    let Some(next) = self.no_entry(position, incarnation, &why)? else { return Ok(()) };
                    position = next;
                    continue;
                }
            };
            let body = self.bytes(position + FRAME_HEADER_BYTES as u64, header.body_len as usize)?;
            let whole = header.check_body(&body);
            let state = whole.map_or_else(|why| format!("BODY DAMAGED: {why}"), |()| "body checksum ok".to_owned());
            let number = header.base_offset;
            self.line(&format!("{position}: entry {number}, header checksum ok, {state}"))?;
            self.line(&format!(
                "  commit {}, {} frames, body_len {}, entries below {} were on the disk",
                header.commit, header.record_count, header.body_len, header.durable_upto
            ))?;
            if whole.is_ok() {
                self.inner(&header, &body)?;
            }
            position += header.frame_len() as u64;
        }
        Ok(())
    }

    fn no_entry(&mut self, position: u64, incarnation: u64, why: &str) -> Result<Option<u64>> {
        let len = self.len;
        if scan::only_zeros(&self.file, position, len).map_err(|error| self.failed(error))? {
            self.line(&format!("{position}: zeros up to the end of the file, {} bytes", len - position))?;
            return Ok(None);
        }
        let found =
            scan::find_frame(&self.file, incarnation, position + 1, len, |header, _| header.kind == FrameKind::Journal);
        let next = found.map_err(|error| self.failed(error))?.map(|(next, _)| next);
        match next {
            Some(next) => self.line(&format!("{position}: NO ENTRY: {why}; passed over up to {next}"))?,
            None => self.line(&format!("{position}: no further entry: {why}"))?,
        }
        Ok(next)
    }

    fn inner(&mut self, header: &FrameHeader, body: &[u8]) -> Result<()> {
        let inner = match frames(header, body) {
            Ok(inner) => inner,
            Err(why) => return self.line(&format!("  FRAMES DAMAGED: {why}")),
        };
        for frame in inner {
            let target = frame.target;
            self.line(&format!(
                "  frame for topic_id {}, partition {}, {} at {}, header_crc {}",
                Uuid::from_u128(target.topic_id),
                target.partition,
                Segment::file_name(target.segment_base),
                target.position,
                shown_crc(frame.bytes)
            ))?;
            fields(&frame.header).iter().try_for_each(|fields| self.line(&format!("    {fields}")))?;
        }
        Ok(())
    }
}
