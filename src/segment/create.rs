//! The first bytes of a segment file, and the last of a sealed one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Owner, Segment};
use crate::error::{Error, Result};
use crate::format::checkpoint::SegmentPlace;
use crate::format::compression::Method;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use crate::format::segment::{FOOTER_BODY_BYTES, Footer, SegmentHeader};
use crate::planted::{self, Bug};
use crate::storage::files::write_all_at;
use crate::storage::{Env, File, OpenMode};

/// The footer frame of a segment that ends at `place`.
pub(crate) fn footer_bytes(place: &SegmentPlace, durable_upto: u64) -> Vec<u8> {
    let body = Footer {
        frame_count: place.frame_count,
        record_count: place.record_count,
        chain_crc: place.chain_crc,
        first_commit: place.first_commit,
        last_commit: place.last_commit,
    }
    .encode();
    let header = FrameHeader {
        kind: FrameKind::Footer,
        compression: Method::Plain,
        body_len: FOOTER_BODY_BYTES as u32,
        body_crc: crc32fast::hash(&body),
        incarnation: place.incarnation,
        base_offset: place.segment_base,
        record_count: 0,
        last_offset_delta: (place.next_offset - place.segment_base).saturating_sub(1) as u32,
        base_timestamp: place.max_timestamp,
        max_timestamp: place.max_timestamp,
        durable_upto,
        commit: place.last_commit,
    };
    let mut front = [0; FRAME_HEADER_BYTES];
    header.encode_into(&mut front);
    [&front[..], &body[..]].concat()
}

/// Creates an empty segment in `dir`; durable with its name before it is returned if `synced`.
pub(crate) fn create(
    env: &Env,
    dir: &Path,
    owner: &Arc<Owner>,
    log_id: u128,
    base_offset: u64,
    synced: bool,
) -> Result<Segment> {
    let header = SegmentHeader {
        log_id,
        topic_id: owner.topic_id,
        partition: owner.partition,
        base_offset,
        incarnation: env.random.next_u64(),
        created_at: env.clock.now_micros(),
        compacted: false,
    };
    let path = dir.join(Segment::file_name(base_offset));
    let failed = |error: io::Error| Error::io(format!("cannot create {}", path.display()), error);
    let bytes = header.encode();
    let begin = || -> io::Result<Arc<dyn File>> {
        // What an earlier attempt left behind holds no record: its segment was never used.
        match env.storage.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = env.storage.open(&path, OpenMode::CreateNew)?;
        write_all_at(&*file, &bytes, 0)?;
        if synced && !planted::is(Bug::SegmentHeaderNotSynced) {
            file.sync_data()?;
        }
        if synced && !planted::is(Bug::SegmentDirNotSynced) {
            env.storage.sync_dir(dir)?;
        }
        Ok(file)
    };
    let file = begin().map_err(|error| {
        // Best effort, as recovery and the next attempt do the same.
        if let Err(second) = env.storage.remove_file(&path) {
            tracing::debug!(error = %second, "a segment that was not begun is left to the next open");
        }
        failed(error)
    })?;
    let segment = Segment::existing(env, Arc::clone(owner), path.clone(), &header, bytes.len() as u64, None);
    segment.adopt_file(file);
    Ok(segment)
}
