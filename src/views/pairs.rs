//! Sorted pairs of keys and values, as little of them as a view needs: in sled, or in memory where there is no directory for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A key with its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// What is done at once: a value is put, or a key is taken out.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Takes a pair, and answers whether it wants more.
pub(super) type Each<'a> = dyn FnMut(&[u8], &[u8]) -> sled::Result<bool> + 'a;

/// Sorted pairs.
pub(super) trait Pairs {
    fn get(&self, key: &[u8]) -> sled::Result<Option<Vec<u8>>>;
    /// The pair with the greatest key up to this one.
    fn at_or_before(&self, key: &[u8]) -> sled::Result<Option<Pair>>;
    /// The pair with the smallest key from this one on.
    fn at_or_after(&self, key: &[u8]) -> sled::Result<Option<Pair>>;
    /// Calls `each` with the pairs from this key on, in their order, as long as it wants more.
    fn scan(&self, from: &[u8], each: &mut Each<'_>) -> sled::Result<()>;
    /// Makes the changes: after a crash all of them are there or none is.
    fn write(&self, changes: Vec<Change>) -> sled::Result<()>;
}

fn owned<V: AsRef<[u8]>>(pair: (V, V)) -> Pair {
    (pair.0.as_ref().to_vec(), pair.1.as_ref().to_vec())
}

impl Pairs for sled::Db {
    fn get(&self, key: &[u8]) -> sled::Result<Option<Vec<u8>>> {
        Ok(sled::Tree::get(self, key)?.map(|value| value.to_vec()))
    }

    fn at_or_before(&self, key: &[u8]) -> sled::Result<Option<Pair>> {
        self.range(..=key).next_back().transpose().map(|pair| pair.map(owned))
    }

    fn at_or_after(&self, key: &[u8]) -> sled::Result<Option<Pair>> {
        self.range(key..).next().transpose().map(|pair| pair.map(owned))
    }

    fn scan(&self, from: &[u8], each: &mut Each<'_>) -> sled::Result<()> {
        for pair in self.range(from..) {
            let (key, value) = pair?;
            if !each(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: Vec<Change>) -> sled::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.apply_batch(batch)
    }
}

/// Pairs in memory.
#[derive(Debug, Default)]
pub(super) struct Memory(RefCell<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Pairs for Memory {
    fn get(&self, key: &[u8]) -> sled::Result<Option<Vec<u8>>> {
        Ok(self.0.borrow().get(key).cloned())
    }

    fn at_or_before(&self, key: &[u8]) -> sled::Result<Option<Pair>> {
        let pairs = self.0.borrow();
        let before = pairs.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        Ok(before.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn at_or_after(&self, key: &[u8]) -> sled::Result<Option<Pair>> {
        let pairs = self.0.borrow();
        let after = pairs.range::<[u8], _>((Bound::Included(key), Bound::Unbounded)).next();
        Ok(after.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn scan(&self, from: &[u8], each: &mut Each<'_>) -> sled::Result<()> {
        for (key, value) in self.0.borrow().range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
            if !each(key, value)? {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: Vec<Change>) -> sled::Result<()> {
        let mut pairs = self.0.borrow_mut();
        for (key, value) in changes {
            match value {
                Some(value) => drop(pairs.insert(key, value)),
                None => drop(pairs.remove(&key)),
            }
        }
        Ok(())
    }
}
