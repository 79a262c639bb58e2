//! The view of the de-duplication windows: which message identities were written lately, and where.

use std::path::Path;

use sled::{Batch, Db};

use super::values::{METAS, entries_prefix, entry_key, meta_key, whose_meta};
pub(crate) use super::values::{Meta, SavedEntry, Whose};
use super::{Store, damaged};
use crate::error::Result;
use crate::storage::Env;

/// So many changes are written as one: after a crash all of them are there or none is.
const CHUNK: usize = 1000;

/// The view.
#[derive(Debug)]
pub(crate) struct DedupView {
    store: Store,
}

/// What the view has of a partition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) meta: Meta,
    /// By their offsets.
    pub(crate) entries: Vec<SavedEntry>,
}

impl DedupView {
    /// Opens the view of the log in `root`.
    pub(crate) fn open(env: &Env, root: &Path, log_id: u128) -> Result<Self> {
        Ok(Self { store: Store::open(env, root, "dedup", log_id)? })
    }

    /// What is known of a partition; `None` if nothing is.
    pub(crate) fn load(&mut self, whose: Whose) -> Result<Option<Saved>> {
        self.store.with(|db| load(db, whose))
    }

    /// Forgets the partitions that are not there any more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(Whose) -> bool) -> Result<()> {
        self.store.with(|db| retain(db, &is_there))
    }

    /// Takes in `entries`, which follow those that are there, and lets go of those before `oldest`. `meta` is about all of
    /// them but for its sums. `anew` forgets first what is there.
    pub(crate) fn save(
        &mut self,
        whose: Whose,
        meta: Meta,
        entries: &[SavedEntry],
        oldest: u64,
        anew: bool,
    ) -> Result<()> {
        self.store.with(|db| save(db, whose, meta, entries, oldest, anew))
    }

    /// Writes everything out.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.store.with(|db| db.flush().map(drop))
    }
}

fn read_meta(db: &Db, whose: Whose) -> sled::Result<Option<Meta>> {
    let key = meta_key(whose);
    match db.get(&key)? {
        None => Ok(None),
        Some(value) => Meta::decode(&key, &value).map(Some).ok_or_else(|| damaged("a sum is damaged")),
    }
}

fn load(db: &Db, whose: Whose) -> sled::Result<Option<Saved>> {
    let meta = read_meta(db, whose)?;
    let (mut entries, mut sum) = (Vec::new(), 0_u64);
    for item in db.scan_prefix(entries_prefix(whose)) {
        let (key, value) = item?;
        let (entry, crc) = SavedEntry::decode(&key, &value).ok_or_else(|| damaged("an entry is damaged"))?;
        sum = sum.wrapping_add(crc);
        entries.push(entry);
    }
    match meta {
        None if entries.is_empty() => Ok(None),
        Some(meta) if (meta.count, meta.sum) == (entries.len() as u64, sum) => Ok(Some(Saved { meta, entries })),
        _ => Err(damaged("entries are missing, or too many")),
    }
}

fn retain(db: &Db, is_there: &impl Fn(Whose) -> bool) -> sled::Result<()> {
    for item in db.scan_prefix(METAS) {
        let (key, _) = item?;
        let Some(whose) = whose_meta(&key).filter(|whose| !is_there(*whose)) else { continue };
        // The sums last: what is left of a partition without them is not believed.
        for entry in db.scan_prefix(entries_prefix(whose)) {
            db.remove(entry?.0)?;
        }
        db.remove(key)?;
    }
    Ok(())
}

fn save(db: &Db, whose: Whose, meta: Meta, entries: &[SavedEntry], oldest: u64, anew: bool) -> sled::Result<()> {
    let mut now = read_meta(db, whose)?.unwrap_or_default();
    let outdated = entries_prefix(whose)..entry_key(whose, if anew { u64::MAX } else { oldest });
    let mut old = db.range(outdated).peekable();
    let mut new = entries.iter().peekable();
    if anew {
        // Nothing is said of a partition while its entries are being replaced: a crash in between leaves what is not believed.
        now = Meta { count: now.count, sum: now.sum, ..Meta::default() };
    }
    loop {
        let mut batch = Batch::default();
        let mut changes = 0;
        while let Some(item) = old.next_if(|_| changes < CHUNK) {
            let (key, value) = item?;
            let (_, crc) = SavedEntry::decode(&key, &value).ok_or_else(|| damaged("an entry is damaged"))?;
            (now.count, now.sum) = (now.count.wrapping_sub(1), now.sum.wrapping_sub(crc));
            batch.remove(key);
            changes += 1;
        }
        while let Some(entry) = new.next_if(|_| changes < CHUNK) {
            let key = entry_key(whose, entry.offset);
            let (value, crc) = entry.encode(&key);
            (now.count, now.sum) = (now.count.wrapping_add(1), now.sum.wrapping_add(crc));
            (now.position, now.commit, now.time) = (entry.offset + 1, entry.commit, entry.time);
            batch.insert(key, value);
            changes += 1;
        }
        let done = old.peek().is_none() && new.peek().is_none();
        let said = if done { Meta { count: now.count, sum: now.sum, ..meta } } else { now };
        let key = meta_key(whose);
        let value = said.encode(&key);
        batch.insert(key, value);
        db.apply_batch(batch)?;
        if done {
            return Ok(());
        }
    }
}
