//! The state as the application's functions see it: what is kept, and over it what the batch has changed so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shared::Shared;
use crate::codec::{Bincode, Codec};
use crate::error::{Error, ErrorKind, Result};

/// The state of a [`Projection`](super::Projection), as its functions see and change it: keys, which are bytes, and values of any type
/// that serde knows, kept with [`Bincode`].
///
/// What a function changes is visible to the next one at once, and to others once its batch is written. If it fails, its changes are
/// taken back.
///
/// # Example
///
/// See [`Projection`](super::Projection).
#[derive(Debug)]
pub struct ProjectionState {
    shared: Arc<Shared>,
    /// What has changed since the last batch.
    changed: BTreeMap<Vec<u8>, Changed>,
    /// What was changed by the current record, and what there was before in `changed`.
    undo: Vec<(Vec<u8>, Option<Changed>)>,
    bytes: usize,
}

/// What a key has become: a value, or one that is taken out.
type Changed = Option<Vec<u8>>;

/// Keys and their values, of a type.
pub(super) type Entries<V> = Vec<(Bytes, V)>;

/// The bytes as a value of this type.
pub(super) fn decode<V: Serialize + DeserializeOwned>(key: &[u8], value: Vec<u8>) -> Result<V> {
    Bincode.decode(&Bytes::from(value)).map_err(|error| codec_error(key, error))
}

fn codec_error(key: &[u8], error: crate::codec::CodecError) -> Error {
    Error::with_source(
        ErrorKind::Codec,
        format!("the value of the key {} is not of this type", crate::text::quoted(&String::from_utf8_lossy(key))),
        error,
    )
}

impl ProjectionState {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, changed: BTreeMap::new(), undo: Vec::new(), bytes: 0 }
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) for a value of another type; [`Io`](ErrorKind::Io) if what is kept is damaged: the projection is
    /// built again then, whatever the function makes of the error.
    pub fn get<V: Serialize + DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<V>> {
        let key = key.as_ref();
        let value = match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => self.shared.kept(|view| view.get(key))?,
        };
        value.map(|value| decode(key, value)).transpose()
    }

    /// Gives a key a value.
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) for a value that cannot be encoded.
    pub fn put<V: Serialize + DeserializeOwned>(&mut self, key: impl AsRef<[u8]>, value: &V) -> Result<()> {
        let (key, mut bytes) = (key.as_ref(), Vec::new());
        Bincode.encode(value, &mut bytes).map_err(|error| codec_error(key, error))?;
        self.change(key, Some(bytes));
        Ok(())
    }

    /// Takes a key out. There need not be one.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.change(key.as_ref(), None);
    }

    /// Changes the value of a key; where there is none, it begins with the default.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get) and [`put`](Self::put).
    pub fn update<V: Serialize + DeserializeOwned + Default>(
        &mut self,
        key: impl AsRef<[u8]>,
        change: impl FnOnce(&mut V),
    ) -> Result<()> {
        let key = key.as_ref();
        let mut value = self.get(key)?.unwrap_or_default();
        change(&mut value);
        self.put(key, &value)
    }

    /// The keys that begin with `prefix` and their values, sorted by the keys. An empty prefix is all.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn range<V: Serialize + DeserializeOwned>(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Bytes, V)>> {
        let prefix = prefix.as_ref();
        let kept = self.shared.kept(|view| view.range(prefix, prefix, usize::MAX))?;
        let mut all: BTreeMap<Vec<u8>, Changed> = kept.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let changed = self.changed.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        all.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
        let there = all.into_iter().filter_map(|(key, value)| Some((key, value?)));
        there.map(|(key, value)| decode(&key, value).map(|value| (Bytes::from(key), value))).collect()
    }

    #[cfg(test)]
    pub(in crate::sourcing) fn spoil(&self, key: &[u8]) {
        self.shared.spoil(key);
    }

    fn change(&mut self, key: &[u8], value: Changed) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        let before = self.changed.insert(key.to_vec(), value);
        self.undo.push((key.to_vec(), before));
    }

    /// How many bytes were changed since the last batch, more or less.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record is done.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// Takes back what the record has changed.
    pub(super) fn take_back(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(before) => drop(self.changed.insert(key, before)),
                None => drop(self.changed.remove(&key)),
            }
        }
    }

    /// What the batch has changed.
    pub(super) fn take(&mut self) -> Vec<(Vec<u8>, Changed)> {
        self.bytes = 0;
        self.undo.clear();
        std::mem::take(&mut self.changed).into_iter().collect()
    }
}
