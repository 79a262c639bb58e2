//! Writing again what was found: frames that no later one proves to be on the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::format::checkpoint::SegmentPlace;
use crate::format::frame::FrameHeader;
use crate::segment::{first_place, scan};
use crate::storage::File;
use crate::storage::files::{read_full_at, write_all_at};

/// How much of an adopted tail is written out again at once.
const REWRITE_BYTES: usize = 256 * 1024;

/// How many frames are remembered one by one.
const REMEMBERED_MAX: usize = 64;

/// The frames of a walk that nothing yet proves to be on the disk, oldest first. Most often that is the last one: each frame
/// says that those before it were there.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    frames: VecDeque<Found>,
    /// The first frame that was not remembered.
    rest: Option<Found>,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    position: u64,
    base_offset: u64,
    next_offset: u64,
}

impl Unproven {
    /// Notes a frame of the walk; all below `proven` is on the disk.
    pub(super) fn note(&mut self, position: u64, header: &FrameHeader, proven: u64) {
        self.forget(proven);
        if proven >= header.base_offset {
            // All that was not remembered is.
            self.rest = None;
        }
        let found = Found { position, base_offset: header.base_offset, next_offset: header.next_offset() };
        if self.rest.is_some() || self.frames.len() >= REMEMBERED_MAX {
            self.rest.get_or_insert(found);
        } else {
            self.frames.push_back(found);
        }
    }

    fn forget(&mut self, proven: u64) {
        while self.frames.front().is_some_and(|first| first.next_offset <= proven) {
            self.frames.pop_front();
        }
    }

    /// The position of the first frame that ends above `proven`.
    pub(super) fn first_from(mut self, proven: u64, file: &Arc<dyn File>, end: &SegmentPlace) -> Option<u64> {
        self.forget(proven);
        let Some(rest) = self.rest.filter(|_| self.frames.is_empty()) else {
            return self.frames.front().map(|first| first.position);
        };
        let mut at = first_place(rest.base_offset, end.incarnation);
        at.position = rest.position;
        let mut first = None;
        let walked = scan::headers(file, &mut at, end.position, |position, header| {
            if first.is_none() && header.next_offset() > proven {
                first = Some(position);
            }
        });
        match walked {
            Ok(_) => first,
            // Rather too much than too little.
            Err(_) => Some(rest.position),
        }
    }
}

/// Writes the frames again that nothing proves to be on the disk. Answers whether there were any.
pub(super) fn rewrite_unproven(
    file: &Arc<dyn File>,
    place: &SegmentPlace,
    unproven: Unproven,
    proven: u64,
) -> io::Result<bool> {
    match unproven.first_from(proven, file, place) {
        Some(from) => rewrite(&**file, from, place.position).map(|()| true),
        None => Ok(false),
    }
}

/// Writes `[from, to)` again.
pub(super) fn rewrite(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let mut buffer = vec![0; REWRITE_BYTES.min((to - from) as usize)];
    let mut position = from;
    while position < to {
        let step = buffer.len().min((to - position) as usize);
        let read = read_full_at(file, &mut buffer[..step], position)?;
        if read < step {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all_at(file, &buffer[..step], position)?;
        position += step as u64;
    }
    Ok(())
}
