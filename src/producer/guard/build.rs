//! Reading from the log what a guard must know before it can decide.

use std::sync::Arc;

use super::saved::Dedup;
use super::window::{At, Limits, Window};
use super::{Needs, PartitionGuard, Place, Versions};
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::FrameHeader;
use crate::format::record::{RawRecord, RecordIter};
use crate::log::engine::Engine;
use crate::partition::Partition;
use crate::partition::cursor::PartitionCursor;
use crate::record::MESSAGE_ID;
use crate::segment::index::Target;

/// The duty to read, and to let those go on who wait for it. Given up, they try again and one of them has the duty.
#[derive(Debug)]
pub(crate) struct Build {
    guard: Arc<PartitionGuard>,
    partition: Arc<Partition>,
    engine: Arc<Engine>,
    needs: Needs,
}

impl Build {
    pub(super) fn new(
        guard: Arc<PartitionGuard>,
        partition: Arc<Partition>,
        engine: Arc<Engine>,
        needs: Needs,
    ) -> Self {
        Self { guard, partition, engine, needs }
    }

    /// Commits what is under way, and reads.
    pub(crate) fn run(self) -> Result<()> {
        let Self { guard, partition, engine, needs } = &self;
        // Nothing that the guard has not seen can come any more: it was attached before, and both locks below tell.
        engine.committer.flush(|work| engine.carry_out(work));
        drop(partition.writer());
        let versions = if needs.versions { Some(self.versions()?) } else { None };
        let window = needs.window.map(|limits| self.window(limits)).transpose()?;
        let mut state = guard.lock();
        // All of it has been answered, and is in what was read.
        state.sweep();
        state.settled = true;
        state.versions = versions.or(state.versions.take());
        if let Some((window, saved)) = window {
            (state.window, state.saved) = (Some(window), saved);
        }
        Ok(())
    }

    fn versions(&self) -> Result<Versions> {
        let mut versions = Versions::default();
        read(&self.partition, self.partition.log_start(), |_, record| {
            if let Some(key) = record.key {
                versions.found(self.guard.hash(key), record.offset, record.value.is_none());
            }
        })?;
        Ok(versions)
    }

    /// The window, out of the view as far as that goes, and the position up to which the view has it.
    fn window(&self, limits: Limits) -> Result<(Window, Option<u64>)> {
        let partition = &self.partition;
        let saved = Dedup::of(&self.engine).and_then(|dedup| dedup.load(partition, limits));
        let mut window = Window::new();
        let position = saved.as_ref().map(|saved| saved.meta.position);
        let from = match saved {
            Some(saved) => {
                for entry in saved.entries {
                    window.pass(entry.time);
                    let at = At::Written(Place { offset: entry.offset, commit: entry.commit });
                    window.add(entry.id.into(), entry.timestamp, at, limits);
                }
                window.pass(saved.meta.time);
                saved.meta.position.max(partition.log_start())
            }
            None => window_start(partition, limits)?,
        };
        read(partition, from, |header, record| match message_id(record) {
            Some(id) => {
                let at = At::Written(Place { offset: record.offset, commit: header.commit });
                window.add(id.into(), record.timestamp, at, limits);
            }
            None => window.pass(record.timestamp),
        })?;
        Ok((window, position))
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.guard.lock().building = false;
        self.guard.ready.notify(usize::MAX);
    }
}

/// Where the first record may be that is not too old: all before it are older than the newest time by more than the window.
fn window_start(partition: &Arc<Partition>, limits: Limits) -> Result<u64> {
    let newest = partition.max_timestamp().filter(|_| limits.age_max != Limits::ANY_AGE);
    let oldest = newest.and_then(|newest| newest.checked_sub(limits.age_max));
    match oldest {
        Some(oldest) => Ok(partition.find(Target::Timestamp(oldest))?.max(partition.log_start())),
        None => Ok(partition.log_start()),
    }
}

/// The identity of a record: the last header of its name that has a value.
pub(crate) fn message_id<'a>(record: &RawRecord<'a>) -> Option<&'a [u8]> {
    record.headers.iter().filter(|(name, _)| *name == MESSAGE_ID).last().and_then(|(_, value)| value)
}

/// Every record from an offset on.
fn read(partition: &Arc<Partition>, from: u64, mut each: impl FnMut(&FrameHeader, &RawRecord<'_>)) -> Result<()> {
    let mut cursor = PartitionCursor::new(Arc::clone(partition), from);
    let end = partition.visible_end();
    loop {
        let frame = match cursor.next_frame(end) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            // Retention was faster: what has gone is not looked for.
            Err(error) if error.gap().is_some() => continue,
            Err(error) => return Err(error),
        };
        let mut records = RecordIter::new(&frame.header, &frame.body);
        while let Some(record) = records.next_record().map_err(|why| malformed(partition, &frame.header, why))? {
            if record.offset >= from {
                each(&frame.header, &record);
            }
        }
    }
}

fn malformed(partition: &Partition, header: &FrameHeader, why: crate::format::FormatError) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "topic {}, partition {}, the records from offset {} on: {why}",
            partition.owner.topic, partition.owner.partition, header.base_offset
        ),
    )
}
