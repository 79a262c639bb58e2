//! The view of the header indexes: at which offsets the records are that have a header with a value of this hash.
//!
//! What was made together is a run, sorted and divided into [pages](super::pages). A lookup reads one page of each run, and that
//! tells by itself whether anything is missing in it. A run that is added takes in those before it that are not twice as large, so
//! there are few, and each entry is written anew once for each doubling. Runs whose records have gone are taken out as a whole.
//!
//! Pages are written before what names their run, and removed after it has stopped to: whatever a crash leaves of a run that is not
//! named is found and removed.

use std::path::Path;

use super::pages::{
    END, METAS, PAGE_ENTRIES, PAGES, decode_page, digest, encode_page, entry, hash_of, meta_key, offset_of,
};
pub(crate) use super::pages::{Mark, Run, Runs};
use super::pages::{Page, page_key, read_meta_key, read_page_key};
use super::pairs::{Change, Memory, Pairs};
pub(crate) use super::values::Whose;
use super::{Store, damaged};
use crate::storage::Env;

/// So many pages are written as one.
const CHUNK: usize = 64;
/// A run of so many entries is not merged any more, which bounds how long a merge takes.
const RUN_ENTRIES_MAX: u64 = 16 << 20;
/// Offsets in a run are kept as 32 bits.
pub(crate) const RUN_OFFSETS_MAX: u64 = u32::MAX as u64 - 1;
/// A view that fails more often than this is kept in memory.
const FAILURES_MAX: u32 = 2;

/// The view has failed. What it had is set aside, and it is empty now.
#[derive(Debug)]
pub(crate) struct Anew;

/// The view.
#[derive(Debug)]
pub(crate) struct IndexView {
    place: Place,
    failures: u32,
}

#[derive(Debug)]
enum Place {
    Kept(Box<Store>),
    Memory(Memory),
}

/// A run that is to be added.
#[derive(Debug)]
pub(crate) struct Added<'a> {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) mark: Mark,
    /// Which headers were looked at.
    pub(crate) names: &'a [String],
    /// Hashes and offsets, in any order.
    pub(crate) entries: Vec<(u32, u64)>,
    /// Records before it have gone.
    pub(crate) log_start: u64,
}

impl IndexView {
    /// Opens the view of the log in `root`. One that cannot be opened is kept in memory.
    pub(crate) fn open(env: &Env, root: &Path, log_id: u128) -> Self {
        match Store::open(env, root, "index", log_id) {
            Ok(store) => Self { place: Place::Kept(Box::new(store)), failures: 0 },
            Err(error) => {
                tracing::warn!(%error, "the header indexes are kept in memory only");
                Self::in_memory()
            }
        }
    }

    /// A view that is gone with the log's last handle.
    pub(crate) fn in_memory() -> Self {
        Self { place: Place::Memory(Memory::default()), failures: 0 }
    }

    fn with<T>(&mut self, work: impl Fn(&dyn Pairs) -> sled::Result<T>) -> Result<T, Anew> {
        let failed = match &mut self.place {
            Place::Kept(store) => match store.with(|db| work(db)) {
                Ok(answer) => return Ok(answer),
                Err(error) => error.to_string(),
            },
            Place::Memory(memory) => match work(memory) {
                Ok(answer) => return Ok(answer),
                Err(error) => error.to_string(),
            },
        };
        self.failures += 1;
        if self.failures > FAILURES_MAX {
            tracing::warn!(error = failed, "the header indexes are kept in memory from now on");
            self.place = Place::Memory(Memory::default());
        }
        Err(Anew)
    }

    /// What there is of a partition. Pages that a crash has left are removed.
    pub(crate) fn load(&mut self, whose: Whose) -> Result<Option<Runs>, Anew> {
        self.with(|pairs| {
            let runs = read_meta(pairs, whose)?;
            remove_pages(pairs, whose, runs.as_ref())?;
            Ok(runs)
        })
    }

    /// Adds a run behind `runs`, and answers with what there is then.
    pub(crate) fn add(&mut self, whose: Whose, runs: &Runs, mut added: Added<'_>) -> Result<Runs, Anew> {
        added.entries.sort_unstable();
        added.entries.dedup();
        self.with(|pairs| add(pairs, whose, runs, &added))
    }

    /// Says `runs` of the partition, and removes what it does not name.
    pub(crate) fn keep(&mut self, whose: Whose, runs: &Runs) -> Result<(), Anew> {
        self.with(|pairs| {
            write_meta(pairs, whose, runs)?;
            remove_pages(pairs, whose, Some(runs))
        })
    }

    /// Forgets a partition.
    pub(crate) fn forget(&mut self, whose: Whose) -> Result<(), Anew> {
        self.with(|pairs| forget(pairs, whose))
    }

    /// Forgets the partitions that are not there any more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(Whose) -> bool) -> Result<(), Anew> {
        self.with(|pairs| retain(pairs, &is_there))
    }

    /// The first `limit` offsets from `from` up to `upto` that a run has for this hash.
    pub(crate) fn matches(
        &mut self,
        whose: Whose,
        run: &Run,
        hash: u32,
        (from, upto): (u64, u64),
        limit: usize,
    ) -> Result<Vec<u64>, Anew> {
        self.with(|pairs| matches(pairs, whose, run, hash, (from, upto), limit))
    }

    /// Writes everything out.
    pub(crate) fn flush(&mut self) -> Result<(), Anew> {
        match &mut self.place {
            Place::Kept(store) => store.with(|db| db.flush().map(drop)).map_err(|_| Anew),
            Place::Memory(_) => Ok(()),
        }
    }
}

fn read_meta(pairs: &dyn Pairs, whose: Whose) -> sled::Result<Option<Runs>> {
    let key = meta_key(whose);
    match pairs.get(&key)? {
        None => Ok(None),
        Some(value) => {
            Runs::decode(&key, &value).map(Some).ok_or_else(|| damaged("what is said of the runs is damaged"))
        }
    }
}

fn write_meta(pairs: &dyn Pairs, whose: Whose, runs: &Runs) -> sled::Result<()> {
    let key = meta_key(whose);
    let value = runs.encode(&key);
    pairs.write(vec![(key, Some(value))])
}

/// Removes the pages of all runs that are not in `named`, without looking at those that are.
fn remove_pages(pairs: &dyn Pairs, whose: Whose, named: Option<&Runs>) -> sled::Result<()> {
    let mut next = page_key(whose, 0, 0);
    let mut removed = Vec::new();
    while let Some((key, _)) = pairs.at_or_after(&next)? {
        let Some((_, serial, first)) = read_page_key(&key).filter(|(owner, ..)| *owner == whose) else { break };
        if named.is_some_and(|runs| runs.runs.iter().any(|run| run.serial == serial)) {
            next = page_key(whose, serial, END);
            continue;
        }
        removed.push((key, None));
        if removed.len() == CHUNK {
            pairs.write(std::mem::take(&mut removed))?;
        }
        next = page_key(whose, serial, first.saturating_add(1));
    }
    if removed.is_empty() { Ok(()) } else { pairs.write(removed) }
}

fn forget(pairs: &dyn Pairs, whose: Whose) -> sled::Result<()> {
    pairs.write(vec![(meta_key(whose), None)])?;
    remove_pages(pairs, whose, None)
}

fn retain(pairs: &dyn Pairs, is_there: &impl Fn(Whose) -> bool) -> sled::Result<()> {
    let mut next = METAS.to_vec();
    while let Some((key, _)) = pairs.at_or_after(&next)? {
        let Some(whose) = read_meta_key(&key) else { break };
        if !is_there(whose) {
            forget(pairs, whose)?;
        }
        next = key;
        next.push(0);
    }
    // Pages that nothing names any more.
    let mut next = PAGES.to_vec();
    while let Some((key, _)) = pairs.at_or_after(&next)? {
        let Some((whose, ..)) = read_page_key(&key) else { break };
        if !is_there(whose) {
            remove_pages(pairs, whose, None)?;
        }
        next = page_key(whose, u64::MAX, END);
        next.push(0);
    }
    Ok(())
}

fn read_page(whose: Whose, run: &Run, key: &[u8], value: &[u8]) -> sled::Result<Page> {
    let is_its = read_page_key(key).is_some_and(|(owner, serial, _)| (owner, serial) == (whose, run.serial));
    let page = decode_page(key, run, value).filter(|_| is_its);
    page.ok_or_else(|| damaged("a page is missing or damaged"))
}

/// The page that begins with this entry.
fn page_at(pairs: &dyn Pairs, whose: Whose, run: &Run, first: u64) -> sled::Result<Page> {
    let key = page_key(whose, run.serial, first);
    let value = pairs.get(&key)?.ok_or_else(|| damaged("a page is missing"))?;
    read_page(whose, run, &key, &value)
}

fn matches(
    pairs: &dyn Pairs,
    whose: Whose,
    run: &Run,
    hash: u32,
    (from, upto): (u64, u64),
    limit: usize,
) -> sled::Result<Vec<u64>> {
    let (from, upto) = (from.max(run.from), upto.min(run.to));
    let mut found = Vec::new();
    if from >= upto {
        return Ok(found);
    }
    let (lowest, highest) = (entry(hash, from, run.from), entry(hash, upto - 1, run.from));
    let before = pairs.at_or_before(&page_key(whose, run.serial, lowest))?;
    let (key, value) = before.ok_or_else(|| damaged("the first page is missing"))?;
    let mut page = read_page(whose, run, &key, &value)?;
    // Should the page be missing that what is wanted begins in, this is an earlier one, and the next one that it names is not there.
    loop {
        let within = page.entries.iter().filter(|entry| (lowest..=highest).contains(*entry));
        found.extend(within.take(limit - found.len()).map(|entry| offset_of(*entry, run.from)));
        if found.len() == limit || page.next > highest {
            return Ok(found);
        }
        page = page_at(pairs, whose, run, page.next)?;
    }
}

/// The entries of a run in their order, as hashes and offsets.
struct Entries<'a> {
    pairs: &'a dyn Pairs,
    whose: Whose,
    run: Run,
    page: std::vec::IntoIter<u64>,
    next_page: u64,
}

impl<'a> Entries<'a> {
    fn of(pairs: &'a dyn Pairs, whose: Whose, run: Run) -> Self {
        Self { pairs, whose, run, page: Vec::new().into_iter(), next_page: 0 }
    }

    fn next(&mut self) -> sled::Result<Option<(u32, u64)>> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some((hash_of(entry), offset_of(entry, self.run.from))));
            }
            if self.next_page == END {
                return Ok(None);
            }
            let page = page_at(self.pairs, self.whose, &self.run, self.next_page)?;
            if page.next <= self.next_page {
                return Err(damaged("pages are not in order"));
            }
            (self.page, self.next_page) = (page.entries.into_iter(), page.next);
        }
    }
}

/// Writes the pages of a run, in the order of their entries.
struct Pages<'a> {
    pairs: &'a dyn Pairs,
    whose: Whose,
    run: Run,
    first: u64,
    entries: Vec<u64>,
    changes: Vec<Change>,
}

impl Pages<'_> {
    fn push(&mut self, entry: u64) -> sled::Result<()> {
        if self.entries.len() == PAGE_ENTRIES {
            self.write_page(entry)?;
        }
        self.entries.push(entry);
        self.run.count += 1;
        Ok(())
    }

    fn write_page(&mut self, next: u64) -> sled::Result<()> {
        let key = page_key(self.whose, self.run.serial, self.first);
        let value = encode_page(&key, &self.run, next, &self.entries);
        self.changes.push((key, Some(value)));
        self.entries.clear();
        self.first = next;
        if self.changes.len() < CHUNK && next != END {
            return Ok(());
        }
        self.pairs.write(std::mem::take(&mut self.changes))
    }

    fn finish(mut self) -> sled::Result<Run> {
        self.write_page(END)?;
        Ok(self.run)
    }
}

fn add(pairs: &dyn Pairs, whose: Whose, before: &Runs, added: &Added<'_>) -> sled::Result<Runs> {
    let mut runs = Runs { names: added.names.to_vec(), ..before.clone() };
    runs.runs.retain(|run| run.to > added.log_start);
    let (mut from, mut count) = (added.from, added.entries.len() as u64);
    let mut merged = Vec::new();
    while let Some(last) = runs.runs.pop_if(|last| {
        last.count < 2 * count.max(1)
            && last.count + count <= RUN_ENTRIES_MAX
            && added.to - last.from <= RUN_OFFSETS_MAX
    }) {
        (from, count) = (last.from, count + last.count);
        merged.push(last);
    }
    if runs.runs.is_empty() {
        from = from.max(added.log_start.min(added.from));
    }
    let serial = runs.next_serial;
    runs.next_serial += 1;
    let run = Run { serial, from, to: added.to, mark: added.mark, names: digest(added.names), count: 0 };
    let mut pages = Pages { pairs, whose, run, first: 0, entries: Vec::new(), changes: Vec::new() };
    // For one hash what comes from an earlier run has the lower offsets.
    let mut sources: Vec<_> = merged.iter().rev().map(|run| Entries::of(pairs, whose, *run)).collect();
    let mut heads = sources.iter_mut().map(Entries::next).collect::<sled::Result<Vec<_>>>()?;
    let mut new = added.entries.iter().copied().peekable();
    loop {
        let oldest = heads.iter().enumerate().filter_map(|(at, head)| Some(((*head)?, at))).min();
        let (hash, offset) = match (oldest, new.peek()) {
            (None, None) => break,
            (Some((head, at)), next) if next.is_none_or(|next| head < *next) => {
                if let (Some(source), Some(place)) = (sources.get_mut(at), heads.get_mut(at)) {
                    *place = source.next()?;
                }
                head
            }
            (_, Some(next)) => {
                let next = *next;
                new.next();
                next
            }
            (Some(_), None) => unreachable!("without a next one the head is taken"),
        };
        if offset >= from {
            pages.push(entry(hash, offset, from))?;
        }
    }
    runs.runs.push(pages.finish()?);
    write_meta(pairs, whose, &runs)?;
    if runs.runs.len() <= before.runs.len() {
        remove_pages(pairs, whose, Some(&runs))?;
    }
    Ok(runs)
}
