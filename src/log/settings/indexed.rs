//! What a topic indexes: headers by their names, and the key.

use super::TopicSettings;
use crate::error::{Error, Result};
use crate::record::HEADER_NAME_BYTES_MAX;
use crate::text::quoted;

/// Each is looked for in every record, once.
const INDEXED_HEADERS_MAX: usize = 8;

/// The name under which an index has the key: one that no header can have.
pub(crate) const KEY: &str = "";

impl TopicSettings {
    /// The names of all that is indexed.
    pub(crate) fn indexed(&self) -> Vec<String> {
        let key = self.index_keys.then(|| KEY.to_owned());
        self.indexed_headers.iter().cloned().chain(key).collect()
    }

    pub(crate) fn indexes_any(&self) -> bool {
        self.index_keys || !self.indexed_headers.is_empty()
    }
}

pub(super) fn validate(names: &[String]) -> Result<()> {
    if names.len() > INDEXED_HEADERS_MAX {
        return Err(Error::invalid(format!(
            "`indexed_headers` has {} names, of which {INDEXED_HEADERS_MAX} are allowed",
            names.len()
        )));
    }
    for (at, name) in names.iter().enumerate() {
        if name.is_empty() || name.len() > HEADER_NAME_BYTES_MAX {
            return Err(Error::invalid(format!(
                "`indexed_headers` has the name {} of {} bytes; 1 to {HEADER_NAME_BYTES_MAX} are allowed",
                quoted(name),
                name.len()
            )));
        }
        if names.iter().take(at).any(|other| other == name) {
            return Err(Error::invalid(format!("`indexed_headers` has the name {} twice", quoted(name))));
        }
    }
    Ok(())
}
