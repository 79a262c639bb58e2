//! The offsets that compacted files stand for: a frame whose own file is gone has lost nothing if one of them spans it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::frame::FrameHeader;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::{Segment, scan};
use crate::storage::files::read_full_at;
use crate::storage::{Env, OpenMode};

/// What the sealed compacted files of some partitions span, by the partitions' directories; each is looked at once.
#[derive(Debug, Default)]
pub(super) struct Spans(BTreeMap<PathBuf, Vec<Range<u64>>>);

impl Spans {
    /// Whether a compacted file in `dir` spans the offsets of a frame. Between it and where the frame's file was there may be
    /// other files that it stands for, compacted ones among them: not all of them may have been removed.
    pub(super) fn hold(&mut self, env: &Env, dir: &Path, frame: &FrameHeader) -> Result<bool> {
        if !self.0.contains_key(dir) {
            let spans = spans(env, dir).map_err(|error| Error::io(format!("cannot read {}", dir.display()), error))?;
            self.0.insert(dir.to_path_buf(), spans);
        }
        let spans = self.0.get(dir).map_or(&[][..], Vec::as_slice);
        Ok(spans.iter().any(|span| span.start <= frame.base_offset && frame.next_offset() <= span.end))
    }

    /// Looks at the files of `dir` anew when it is asked for again.
    pub(super) fn forget(&mut self, dir: &Path) {
        self.0.remove(dir);
    }
}

fn spans(env: &Env, dir: &Path) -> io::Result<Vec<Range<u64>>> {
    let entries = env.storage.list(dir)?;
    let bases = entries.iter().filter_map(|entry| Segment::parse_file_name(&entry.name));
    let spans = bases.map(|base| Ok(end_of_compacted(env, &dir.join(Segment::file_name(base)))?.map(|end| base..end)));
    spans.filter_map(io::Result::transpose).collect()
}

/// The offset after the last that a sealed compacted file stands for; `None` for any other.
fn end_of_compacted(env: &Env, path: &Path) -> io::Result<Option<u64>> {
    let file = match env.storage.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = read_full_at(&*file, &mut bytes, 0)?;
    let Some(header) = SegmentHeader::decode(&bytes[..read]).ok().filter(|header| header.compacted) else {
        return Ok(None);
    };
    let footer = scan::footer(&file, header.incarnation, file.len()?)?;
    Ok(footer.map(|(footer, ..)| footer.next_offset()))
}
