//! What must not be shown.

use std::fmt;

/// A password, a token, a key: there to be used, never to be shown.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::kafka) struct Secret(Box<str>);

impl Secret {
    pub(in crate::kafka) fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// For the client library, and for nobody else.
    pub(in crate::kafka) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
