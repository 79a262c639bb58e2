//! Writing again what was found: frames that no later one proves to be on the disk.

use std::io;
use std::sync::Arc;

use crate::format::checkpoint::SegmentPlace;
use crate::segment::{first_place, scan};
use crate::storage::File;
use crate::storage::files::{read_full_at, write_all_at};

/// How much of an adopted tail is written out again at once.
const REWRITE_BYTES: usize = 1024 * 1024;

/// The first frame of a walk, from which to look for the first that no later frame proves to be on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unproven {
    pub(super) position: u64,
    pub(super) base_offset: u64,
}

impl Unproven {
    /// The position of the first frame that ends above `proven`.
    fn first_from(self, proven: u64, file: &Arc<dyn File>, end: &SegmentPlace) -> Option<u64> {
        let mut at = first_place(self.base_offset, end.incarnation);
        at.position = self.position;
        let mut first = None;
        let walked = scan::headers(file, &mut at, end.position, |position, header| {
            if first.is_none() && header.next_offset() > proven {
                first = Some(position);
            }
        });
        match walked {
            Ok(_) => first,
            // Rather too much than too little.
            Err(_) => Some(self.position),
        }
    }
}

/// Writes the frames again that nothing proves to be on the disk. Answers whether there were any.
pub(super) fn rewrite_unproven(
    file: &Arc<dyn File>,
    place: &SegmentPlace,
    unproven: Option<Unproven>,
    proven: u64,
) -> io::Result<bool> {
    match unproven.and_then(|unproven| unproven.first_from(proven, file, place)) {
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
