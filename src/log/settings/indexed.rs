//! The names of the headers that a topic indexes.

use crate::error::{Error, Result};
use crate::record::HEADER_NAME_BYTES_MAX;
use crate::text::quoted;

/// Each is looked for in every record, once.
const INDEXED_HEADERS_MAX: usize = 8;

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
