//! The keys and values of the view of the header indexes.
//!
//! | key | value |
//! |---|---|
//! | `p`, topic id (16), partition (4), run (8), first entry (8) | crc (4), first entry of the next page (8), entries (8 each) |
//! | `m`, topic id (16), partition (4) | crc (4), what is said of all runs |
//!
//! An entry is the hash of a header's name and value (32 bits) above the record's offset, counted from where its run begins (32
//! bits). The entries of a run are sorted, and divided into pages. A page is good for all entries from its own first one up to that
//! of the next page, so none can be missing unseen, be it an entry or a page: the first page of a run begins with 0, and each names
//! the one after it. Its checksum covers the key and the run as well, so it cannot be taken for a page of another run.
//!
//! Numbers in keys are big-endian, so that keys sort as numbers do; in values they are little-endian.

use super::values::{Whose, crc_of};

/// What the keys of pages, and of what is said of them, begin with.
pub(super) const PAGES: &[u8] = b"p";
pub(super) const METAS: &[u8] = b"m";
/// So many entries a page has at the most: 16 KiB, since a page costs sled about as much as a byte of it does not. Tests want many
/// pages of few entries.
pub(super) const PAGE_ENTRIES: usize = if cfg!(test) { 512 } else { 2048 };
/// What follows the last page; no entry, since offsets in a run are smaller.
pub(super) const END: u64 = u64::MAX;

/// The hash and the offset, sorted as they are.
pub(super) fn entry(hash: u32, offset: u64, run_from: u64) -> u64 {
    u64::from(hash) << 32 | (offset - run_from) & u64::from(u32::MAX)
}

pub(super) fn hash_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

pub(super) fn offset_of(entry: u64, run_from: u64) -> u64 {
    run_from + (entry & u64::from(u32::MAX))
}

/// Entries that were made together, of the records from `from` up to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// What tells it from the others of its partition.
    pub(super) serial: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// What the record before `to` is known by.
    pub(crate) mark: Mark,
    /// Which headers were looked at.
    pub(super) names: u32,
    pub(crate) count: u64,
}

/// What a record is known by: offsets are used again after a power loss, and commit numbers in a log that was copied back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) commit: u64,
    pub(crate) crc: u32,
}

/// What the view has of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// In the order of their offsets, each where the one before it ends.
    pub(crate) runs: Vec<Run>,
    pub(crate) names: Vec<String>,
    /// How many entries there were when all of it was made, and up to where the partition was compacted then.
    pub(crate) built_count: u64,
    pub(crate) clean_end: u64,
    pub(super) next_serial: u64,
}

impl Run {
    /// What stands for the run in the checksums of its pages. How many entries it has is known only behind the last of them.
    fn described(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        let words =
            [self.serial, self.from, self.to, self.mark.commit, u64::from(self.mark.crc) << 32 | u64::from(self.names)];
        for (into, word) in bytes.chunks_exact_mut(8).zip(words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

pub(super) fn meta_key(whose: Whose) -> Vec<u8> {
    [METAS, &whose.0.to_be_bytes(), &whose.1.to_be_bytes()].concat()
}

pub(super) fn page_key(whose: Whose, serial: u64, first: u64) -> Vec<u8> {
    [PAGES, &whose.0.to_be_bytes(), &whose.1.to_be_bytes(), &serial.to_be_bytes(), &first.to_be_bytes()].concat()
}

fn split_whose(rest: &[u8]) -> Option<(Whose, &[u8])> {
    let (topic, rest) = rest.split_first_chunk::<16>()?;
    let (partition, rest) = rest.split_first_chunk::<4>()?;
    Some(((u128::from_be_bytes(*topic), u32::from_be_bytes(*partition)), rest))
}

/// Whose page it is, of which run, and its first entry.
pub(super) fn read_page_key(key: &[u8]) -> Option<(Whose, u64, u64)> {
    let (whose, rest) = split_whose(key.strip_prefix(PAGES)?)?;
    let (serial, first) = rest.split_first_chunk::<8>()?;
    Some((whose, u64::from_be_bytes(*serial), u64::from_be_bytes(first.try_into().ok()?)))
}

pub(super) fn read_meta_key(key: &[u8]) -> Option<Whose> {
    let (whose, rest) = split_whose(key.strip_prefix(METAS)?)?;
    rest.is_empty().then_some(whose)
}

/// A page that was read.
#[derive(Debug)]
pub(super) struct Page {
    /// The first entry of the next page.
    pub(super) next: u64,
    pub(super) entries: Vec<u64>,
}

pub(super) fn encode_page(key: &[u8], run: &Run, next: u64, entries: &[u64]) -> Vec<u8> {
    let mut value = vec![0; 4];
    value.reserve_exact(8 + 8 * entries.len());
    std::iter::once(&next).chain(entries).for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
    let crc = crc_of(&[key, &run.described(), &value[4..]]);
    value[..4].copy_from_slice(&crc.to_le_bytes());
    value
}

/// The page, if it is one of this run.
pub(super) fn decode_page(key: &[u8], run: &Run, value: &[u8]) -> Option<Page> {
    let (crc, words) = value.split_first_chunk::<4>()?;
    if crc_of(&[key, &run.described(), words]) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut words = words.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
    let next = words.next()?;
    Some(Page { next, entries: words.collect() })
}

impl Runs {
    /// The offset up to which the view goes.
    pub(crate) fn position(&self) -> Option<u64> {
        self.runs.last().map(|run| run.to)
    }

    /// How many entries there are.
    pub(crate) fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    pub(super) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut value = vec![0; 4];
        let mut put = |words: &[u64]| words.iter().for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
        put(&[self.built_count, self.clean_end, self.next_serial, self.runs.len() as u64, self.names.len() as u64]);
        for run in &self.runs {
            let crcs = u64::from(run.mark.crc) << 32 | u64::from(run.names);
            put(&[run.serial, run.from, run.to, run.mark.commit, crcs, run.count]);
        }
        for name in &self.names {
            value.extend_from_slice(&(name.len() as u64).to_le_bytes());
            value.extend_from_slice(name.as_bytes());
        }
        let crc = crc_of(&[key, &value[4..]]);
        value[..4].copy_from_slice(&crc.to_le_bytes());
        value
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (crc, mut rest) = value.split_first_chunk::<4>()?;
        if crc_of(&[key, rest]) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut word = || {
            let (word, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(u64::from_le_bytes(*word))
        };
        let (built_count, clean_end, next_serial) = (word()?, word()?, word()?);
        let (runs, names) = (word()?, word()?);
        let runs = (0..runs).map(|_| {
            let (serial, from, to, commit, crcs, count) = (word()?, word()?, word()?, word()?, word()?, word()?);
            let mark = Mark { commit, crc: (crcs >> 32) as u32 };
            Some(Run { serial, from, to, mark, names: crcs as u32, count })
        });
        let runs = runs.collect::<Option<Vec<_>>>()?;
        let names = (0..names).map(|_| {
            let (len, after) = rest.split_first_chunk::<8>()?;
            let (name, after) = after.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
            rest = after;
            String::from_utf8(name.to_vec()).ok()
        });
        let names = names.collect::<Option<Vec<_>>>()?;
        let in_order = runs.windows(2).all(|pair| matches!(pair, [one, next] if one.to == next.from))
            && runs.iter().all(|run| run.from < run.to && run.serial < next_serial);
        (rest.is_empty() && in_order).then_some(Self { runs, names, built_count, clean_end, next_serial })
    }
}

/// What stands for the headers that were looked at, in whatever order.
pub(super) fn digest(names: &[String]) -> u32 {
    let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let lens: Vec<[u8; 8]> = sorted.iter().map(|name| (name.len() as u64).to_le_bytes()).collect();
    let parts: Vec<&[u8]> = sorted.iter().zip(&lens).flat_map(|(name, len)| [&len[..], name.as_bytes()]).collect();
    crc_of(&parts)
}
