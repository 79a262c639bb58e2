//! Where a forwarded record comes from, in its headers.

use uuid::Uuid;

use crate::record::Headers;

/// The header with the identity of the log, as the text of a UUID.
pub const ORIGIN_LOG: &str = "annals.origin.log";
/// The header with the topic in that log.
pub const ORIGIN_TOPIC: &str = "annals.origin.topic";
/// The header with the partition of the topic, in decimal digits.
pub const ORIGIN_PARTITION: &str = "annals.origin.partition";
/// The header with the offset in the partition, in decimal digits.
pub const ORIGIN_OFFSET: &str = "annals.origin.offset";
/// The header that says that a record is no event but a mark of the mirror: `gap`, or `skipped`.
pub const MARKER: &str = "annals.marker";
/// The header of a gap with the first offset that is missing.
pub const GAP_FROM: &str = "annals.gap.from";
/// The header of a gap with the first offset after it that is there.
pub const GAP_TO: &str = "annals.gap.to";

/// Where a record that came through Kafka was first written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The identity of the log.
    pub log: Uuid,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
}

impl Origin {
    /// The origin that headers name; `None` if they name none, or not wholly.
    ///
    /// ```
    /// use annals::mirror::{ORIGIN_LOG, Origin};
    ///
    /// let mut headers = annals::Headers::default();
    /// headers.push(annals::Header::new(ORIGIN_LOG, "not a UUID"));
    /// assert_eq!(Origin::of(&headers), None);
    /// ```
    pub fn of(headers: &Headers) -> Option<Self> {
        fn text<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
            headers.get_str(name)
        }
        Some(Self {
            log: text(headers, ORIGIN_LOG)?.parse().ok()?,
            topic: text(headers, ORIGIN_TOPIC)?.to_owned(),
            partition: text(headers, ORIGIN_PARTITION)?.parse().ok()?,
            offset: text(headers, ORIGIN_OFFSET)?.parse().ok()?,
        })
    }

    /// Whether headers name any log as their origin, however badly.
    pub(super) fn is_named(headers: &Headers) -> bool {
        headers.contains(ORIGIN_LOG)
    }
}
