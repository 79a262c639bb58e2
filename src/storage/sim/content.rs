//! The bytes of a simulated file: what the page cache shows, and what the disk holds.
//!
//! The page is the unit of writing back, the sector the unit of tearing. Pages are shared until they are written to, so
//! that a sync, a fork and the saving of a page's durable bytes cost a reference count each.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::dice::{Dice, Hash};

pub(super) const PAGE_BYTES: usize = 4096;
pub(super) const SECTOR_BYTES: usize = 512;

type Page = [u8; PAGE_BYTES];

/// How a power loss treats what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of it is gone.
    Oldest,
    /// All of it made it to the disk.
    Newest,
    /// Each file, page and name is decided by itself.
    Each,
}

/// One page in its two images; `None` is a hole, that is, zeros.
#[derive(Debug, Clone, Default)]
struct Slot {
    live: Option<Arc<Page>>,
    durable: Option<Arc<Page>>,
}

/// The two images of a file.
///
/// Invariants: live bytes past `len` are zeros; a page that is neither `dirty` nor `dropped` is the same in both images; no
/// page is both; dropped pages lie within `len`.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    len: u64,
    durable_len: u64,
    slots: Vec<Slot>,
    /// Pages that a sync has yet to write.
    dirty: BTreeSet<usize>,
    /// Pages whose writing failed: the cache takes them for clean, the disk has the bytes of before.
    dropped: BTreeSet<usize>,
    /// Live pages that are no holes.
    allocated: usize,
}

fn place(position: u64) -> (usize, usize) {
    ((position / PAGE_BYTES as u64) as usize, (position % PAGE_BYTES as u64) as usize)
}

fn page_count(len: u64) -> usize {
    len.div_ceil(PAGE_BYTES as u64) as usize
}

fn same(a: Option<&Arc<Page>>, b: Option<&Arc<Page>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        (Some(page), None) | (None, Some(page)) => page.iter().all(|byte| *byte == 0),
    }
}

/// Puts zeros over the end of a page; true if there was anything else.
fn clear_from(page: &mut Option<Arc<Page>>, offset: usize) -> bool {
    match page {
        Some(page) if page[offset..].iter().any(|byte| *byte != 0) => {
            Arc::make_mut(page)[offset..].fill(0);
            true
        }
        _ => false,
    }
}

impl Content {
    /// A file with these bytes in both images.
    pub(super) fn settled(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write(bytes, 0);
        content.sync();
        content
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Pages that take up room on the disk.
    pub(super) fn allocated(&self) -> usize {
        self.allocated
    }

    pub(super) fn read(&self, buf: &mut [u8], position: u64) -> usize {
        let wanted = self.len.saturating_sub(position).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let (page, offset) = place(position + done as u64);
            let step = (PAGE_BYTES - offset).min(wanted - done);
            let target = &mut buf[done..done + step];
            match self.slots.get(page).and_then(|slot| slot.live.as_ref()) {
                Some(live) => target.copy_from_slice(&live[offset..offset + step]),
                None => target.fill(0),
            }
            done += step;
        }
        wanted
    }

    /// How many of `bytes` at `position` fit if no more than `free` pages can be allocated.
    pub(super) fn fitting(&self, bytes: usize, position: u64, free: usize) -> usize {
        let (first, _) = place(position);
        let end = page_count(position + bytes as u64);
        let is_hole = |page: &usize| self.slots.get(*page).is_none_or(|slot| slot.live.is_none());
        match (first..end).filter(is_hole).nth(free) {
            Some(unfit) => ((unfit * PAGE_BYTES) as u64).saturating_sub(position) as usize,
            None => bytes,
        }
    }

    pub(super) fn write(&mut self, buf: &[u8], position: u64) {
        let mut done = 0;
        while done < buf.len() {
            let (page, offset) = place(position + done as u64);
            let step = (PAGE_BYTES - offset).min(buf.len() - done);
            let source = &buf[done..done + step];
            let live = self.touch(page);
            let was_hole = live.is_none();
            match <&Page>::try_from(source) {
                Ok(whole) => *live = Some(Arc::new(*whole)),
                Err(_) => {
                    let live = live.get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
                    Arc::make_mut(live)[offset..offset + step].copy_from_slice(source);
                }
            }
            self.allocated += usize::from(was_hole);
            done += step;
        }
        if !buf.is_empty() {
            self.len = self.len.max(position + buf.len() as u64);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (page, offset) = place(len);
            if offset > 0 && self.slots.get(page).is_some_and(|slot| slot.live.is_some()) {
                clear_from(self.touch(page), offset);
            }
            for page in page_count(len)..self.slots.len() {
                let was_allocated = self.touch(page).take().is_some();
                self.allocated -= usize::from(was_allocated);
            }
        }
        self.len = len;
    }

    /// The live bytes of a page that is about to change, and so becomes dirty.
    fn touch(&mut self, page: usize) -> &mut Option<Arc<Page>> {
        if self.slots.len() <= page {
            self.slots.resize_with(page + 1, Slot::default);
        }
        self.dirty.insert(page);
        self.dropped.remove(&page);
        &mut self.slots[page].live
    }

    /// Whether the disk holds all that the cache shows.
    pub(super) fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.dropped.is_empty() && self.len == self.durable_len
    }

    fn write_back(&mut self, page: usize) {
        let slot = &mut self.slots[page];
        slot.durable = slot.live.clone();
    }

    pub(super) fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            self.write_back(page);
        }
        self.durable_len = self.len;
        // Past the length both images are empty now: a dropped page there became dirty when it was cut off.
        self.slots.truncate(page_count(self.len));
    }

    /// A sync that the end of the machine cut short.
    pub(super) fn sync_partly(&mut self, dice: &Dice) {
        for page in std::mem::take(&mut self.dirty) {
            if dice.coin() {
                self.write_back(page);
            } else {
                self.dirty.insert(page);
            }
        }
        if dice.coin() {
            self.durable_len = self.len;
        }
    }

    /// What a kernel does now and then by itself: one dirty page goes to the disk as it is at this moment, so that later
    /// overwriting of it leaves neither the oldest nor the newest bytes behind.
    pub(super) fn write_back_one(&mut self, dice: &Dice) {
        if self.dirty.is_empty() {
            return;
        }
        let nth = dice.below(self.dirty.len() as u64) as usize;
        if let Some(page) = self.dirty.iter().nth(nth).copied() {
            self.dirty.remove(&page);
            self.write_back(page);
        }
    }

    /// A sync that fails the way Linux does: some or all dirty pages are not written, and all count as clean afterwards.
    pub(super) fn drop_dirty(&mut self, dice: &Dice) {
        // Pages that were cut off are part of the length, which is not written by pages.
        let mut beyond = self.dirty.split_off(&page_count(self.len));
        let dirty = std::mem::take(&mut self.dirty);
        let all = dice.coin();
        // One at least is not written, or there would have been no error.
        let unlucky = dice.below(dirty.len().max(1) as u64) as usize;
        for (nth, page) in dirty.into_iter().enumerate() {
            if !all && nth != unlucky && dice.coin() {
                self.write_back(page);
            } else {
                self.dropped.insert(page);
            }
        }
        if dice.coin() {
            for page in std::mem::take(&mut beyond) {
                self.write_back(page);
            }
            self.durable_len = self.len;
        }
        self.dirty = beyond;
    }

    /// The cache forgets some of the pages whose writing failed, and reads show what the disk has.
    pub(super) fn evict(&mut self, dice: &Dice) {
        for page in std::mem::take(&mut self.dropped) {
            if !dice.coin() {
                self.dropped.insert(page);
                continue;
            }
            let start = page as u64 * PAGE_BYTES as u64;
            let slot = &mut self.slots[page];
            self.allocated -= usize::from(slot.live.is_some());
            slot.live = slot.durable.clone();
            let within = self.len.saturating_sub(start).min(PAGE_BYTES as u64) as usize;
            // The disk may hold bytes past the length; then the images still differ.
            if clear_from(&mut slot.live, within) {
                self.dropped.insert(page);
            }
            self.allocated += usize::from(slot.live.is_some());
        }
    }

    /// The power goes: what the disk holds afterwards is all there is.
    pub(super) fn power_loss(&mut self, fate: Fate, dice: &Dice) {
        for page in std::mem::take(&mut self.dropped) {
            let slot = &mut self.slots[page];
            slot.live = slot.durable.clone();
        }
        let dirty = std::mem::take(&mut self.dirty);
        if self.len != self.durable_len || !dirty.is_empty() {
            self.settle_len(fate, dice);
        }
        let regime = if fate == Fate::Each && !dirty.is_empty() { dice.below(8) } else { 8 };
        let in_order = dice_cut(regime, dirty.len(), dice);
        for (nth, page) in dirty.into_iter().enumerate() {
            let slot = &mut self.slots[page];
            let settled = match (fate, regime) {
                (Fate::Oldest, _) | (_, 0) => slot.durable.clone(),
                (Fate::Newest, _) | (_, 1) => slot.live.clone(),
                (_, 2 | 3) if nth < in_order => slot.live.clone(),
                (_, 2 | 3) if nth > in_order => slot.durable.clone(),
                (_, 2 | 3) => first_sectors(slot, dice.below((PAGE_BYTES / SECTOR_BYTES) as u64 + 1) as usize),
                _ => match dice.below(3) {
                    0 => slot.durable.clone(),
                    1 => slot.live.clone(),
                    _ => mixed_sectors(slot, dice.below(1 << (PAGE_BYTES / SECTOR_BYTES))),
                },
            };
            slot.live = settled.clone();
            slot.durable = settled;
        }
        self.cut_at_len();
    }

    fn settle_len(&mut self, fate: Fate, dice: &Dice) {
        let (old, new) = (self.durable_len, self.len);
        self.len = match fate {
            Fate::Oldest => old,
            Fate::Newest => new,
            Fate::Each => match dice.below(4) {
                0 => old,
                1 if new > old => old + dice.below(new - old + 1),
                _ => new,
            },
        };
        self.durable_len = self.len;
    }

    /// After a power loss: nothing exists past the length, and both images are the same again.
    fn cut_at_len(&mut self) {
        let count = page_count(self.len);
        self.slots.truncate(count);
        let (page, offset) = place(self.len);
        if let Some(last) = self.slots.get_mut(page).filter(|_| offset > 0) {
            clear_from(&mut last.live, offset);
            last.durable = last.live.clone();
        }
        self.allocated = self.slots.iter().filter(|slot| slot.live.is_some()).count();
        debug_assert!(self.slots.iter().all(|slot| same(slot.live.as_ref(), slot.durable.as_ref())));
    }

    /// Damage at rest: one bit is the other way in both images. Pages in the cache are taken to be read again.
    pub(super) fn flip_bit(&mut self, byte: u64, bit: u8) {
        let (page, offset) = place(byte);
        assert!(byte < self.len && bit < 8, "no such bit");
        if self.slots.len() <= page {
            self.slots.resize_with(page + 1, Slot::default);
        }
        let slot = &mut self.slots[page];
        self.allocated += usize::from(slot.live.is_none());
        let shared = same(slot.live.as_ref(), slot.durable.as_ref());
        let flip = |image: &mut Option<Arc<Page>>| {
            Arc::make_mut(image.get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))[offset] ^= 1 << bit;
        };
        flip(&mut slot.live);
        if shared {
            slot.durable = slot.live.clone();
        } else {
            flip(&mut slot.durable);
        }
    }

    pub(super) fn hash_live(&self, hash: &mut Hash) {
        self.hash_image(self.len, |slot| slot.live.as_ref(), hash);
    }

    pub(super) fn hash_durable(&self, hash: &mut Hash) {
        self.hash_image(self.durable_len, |slot| slot.durable.as_ref(), hash);
    }

    /// A hole and a page of zeros hash alike.
    fn hash_image(&self, len: u64, image: impl Fn(&Slot) -> Option<&Arc<Page>>, hash: &mut Hash) {
        static ZEROS: Page = [0; PAGE_BYTES];
        hash.number(len);
        let mut left = len;
        for page in 0..page_count(len) {
            let bytes = self.slots.get(page).and_then(&image).map_or(&ZEROS, |page| &**page);
            let step = left.min(PAGE_BYTES as u64);
            hash.bytes(&bytes[..step as usize]);
            left -= step;
        }
    }
}

/// For pages written in order: the number of the page that the power loss hit.
fn dice_cut(regime: u64, pages: usize, dice: &Dice) -> usize {
    if matches!(regime, 2 | 3) { dice.below(pages as u64) as usize } else { 0 }
}

fn bytes(page: Option<&Arc<Page>>) -> Page {
    page.map_or([0; PAGE_BYTES], |page| **page)
}

/// The page after the writing of it stopped at a sector.
fn first_sectors(slot: &Slot, sectors: usize) -> Option<Arc<Page>> {
    let mut page = bytes(slot.durable.as_ref());
    let written = sectors * SECTOR_BYTES;
    page[..written].copy_from_slice(&bytes(slot.live.as_ref())[..written]);
    Some(Arc::new(page))
}

/// The page after the sectors that `mask` names were written, in whatever order.
fn mixed_sectors(slot: &Slot, mask: u64) -> Option<Arc<Page>> {
    let mut page = bytes(slot.durable.as_ref());
    let live = bytes(slot.live.as_ref());
    for (nth, (target, source)) in page.chunks_mut(SECTOR_BYTES).zip(live.chunks(SECTOR_BYTES)).enumerate() {
        if mask >> nth & 1 == 1 {
            target.copy_from_slice(source);
        }
    }
    Some(Arc::new(page))
}
