//! What recovery would make of a file, where nothing may be changed.

use super::found::Found;
use super::{Recovery, Unproven};
use crate::error::{Error, Result};
use crate::format::checkpoint::SegmentPlace;
use crate::planted::{self, Bug};
use crate::segment::Summary;
use crate::segment::scan::ScanEnd;

impl Recovery<'_> {
    /// Takes the frames up to `place` for what the file holds, and what lies behind them for a write that is not finished,
    /// unless it is damage. Answers with the damage.
    ///
    /// Frames of a synced partition that nothing proves to be on the disk are synced: what is shown must not go away with a
    /// power loss. (If a sync of the writer's has failed, that proves nothing. Only the writer can know.)
    pub(super) fn take_as_it_is(
        &self,
        found: &mut Vec<Found>,
        index: usize,
        place: &SegmentPlace,
        end: ScanEnd,
        unproven: Unproven,
        proven: &mut u64,
    ) -> Result<Option<Error>> {
        let next_base = self.next_base(found, index);
        let continues = next_base.is_none_or(|base| base == place.next_offset);
        if let Some(base) = next_base.filter(|_| continues && self.config.synced) {
            // A synced partition begins a file only once all before it is on the disk.
            *proven = (*proven).max(base);
        }
        let is_sealed = end == ScanEnd::Sealed && continues;
        // Where the next file goes on with the next offset, all that can be damaged here is the footer.
        let only_footer = next_base.is_some() && continues;
        if !is_sealed && !only_footer && (end != ScanEnd::Clean || !continues) {
            if let Some(rot) = self.rot(found, index, place, end)? {
                return Ok(Some(rot));
            }
            // Recovery sets them aside.
            found.truncate(index + 1);
        }
        let follows = index + 1 < found.len();
        let Some(at) = found.get(index) else { return Ok(None) };
        let (Found { segment, .. }, file) = (at, &at.file()?);
        let unsynced = self.config.synced && !planted::is(Bug::ReadOnlyUnsynced);
        if unsynced && unproven.first_from(*proven, file, place).is_some() {
            file.sync_data().map_err(|error| segment.io("sync what was found in", error))?;
        }
        if is_sealed || follows {
            segment.set_sealed(Summary::of(place));
        }
        Ok(None)
    }
}
