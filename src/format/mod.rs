//! The bytes: frames, records, segment headers and footers, indexes, the manifest, the checkpoint, journal entries.
//!
//! Pure functions over byte slices: no I/O, no clock, no randomness. Every integer is little-endian, every checksum is the
//! CRC-32 of IEEE 802.3 (as crc32fast computes it). docs/FORMAT.md shows the same tables with a worked example, and golden
//! files pin them.

pub(crate) mod checkpoint;
pub(crate) mod compression;
pub(crate) mod cursor;
pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod journal;
pub(crate) mod manifest;
pub(crate) mod record;
pub(crate) mod segment;
pub(crate) mod sparse;

#[cfg(test)]
mod tests;

/// The version of every file in a log directory. A reader refuses a higher one; there is no lower one.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// Why bytes are not what they should be. The layer above adds where they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("there are only zeros")]
    Zeros,
    #[error("the bytes end too early")]
    Short,
    #[error("the magic number is not that of annals")]
    Magic,
    #[error("format version {0} is newer than the {FORMAT_VERSION} that this annals reads; use a newer annals")]
    Newer(u16),
    #[error("the header's checksum does not match")]
    HeaderChecksum,
    #[error("the body's checksum does not match")]
    BodyChecksum,
    #[error("the bytes belong to another incarnation of the file")]
    Incarnation,
    #[error("frame kind {0} is unknown here")]
    Kind(u8),
    #[error("compression {0} is unknown; use a newer annals")]
    Compression(u8),
    #[error("flags {0:#x} are unknown; use a newer annals")]
    Flags(u16),
    #[error("a length is out of bounds")]
    Length,
    #[error("the offset does not follow the one before it")]
    Offset,
    #[error("a compressed body does not decompress to what it says")]
    Decompression,
    #[error("a record inside a frame is malformed")]
    Record,
}

impl FormatError {
    /// Whether the bytes are intact, as their checksum says, and from a later version of annals: whoever cannot read them
    /// must leave them alone.
    pub(crate) fn is_from_the_future(self) -> bool {
        matches!(self, Self::Newer(_) | Self::Kind(_) | Self::Compression(_) | Self::Flags(_))
    }
}

pub(crate) type FormatResult<T> = Result<T, FormatError>;
