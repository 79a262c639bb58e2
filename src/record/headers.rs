//! The names and values that travel beside a value.

use bytes::Bytes;

use super::IntoBytes;
use super::names::Name;
use crate::error::{Error, Result};
use crate::text::quoted;

/// The header that holds a record's identity.
pub const MESSAGE_ID: &str = "message_id";

/// The longest identity of a record, in bytes.
const MESSAGE_ID_BYTES_MAX: usize = 255;

/// The longest name of a header, in bytes: one byte of the format holds the length.
pub(crate) const HEADER_NAME_BYTES_MAX: usize = 255;

/// The most headers of one record: two bytes of the format hold the count.
const HEADERS_MAX: usize = 65_535;

/// One header: a name, and a value that may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    name: Name,
    value: Option<Bytes>,
}

impl Header {
    /// A header with a value, be it empty.
    pub fn new(name: impl Into<Box<str>>, value: impl IntoBytes) -> Self {
        Self { name: Name::own(name.into()), value: Some(value.into_bytes()) }
    }

    /// A header without a value.
    pub fn absent(name: impl Into<Box<str>>) -> Self {
        Self { name: Name::own(name.into()), value: None }
    }

    /// A header out of what was read.
    pub(crate) fn read(name: &str, value: Option<Bytes>) -> Self {
        Self { name: Name::of(name), value }
    }

    /// A header of a name that stands in the program.
    pub(crate) fn standard(name: &'static str, value: impl IntoBytes) -> Self {
        Self { name: Name::of(name), value: Some(value.into_bytes()) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value; `None` where it is absent.
    pub fn value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// The value as text; `None` where it is absent or no UTF-8.
    pub fn value_str(&self) -> Option<&str> {
        std::str::from_utf8(self.value.as_ref()?).ok()
    }
}

/// The headers of a record, in the order in which they were added. Names may repeat.
///
/// ```
/// use annals::{Header, Headers};
///
/// let headers = Headers::from_iter([Header::new("hop", "a"), Header::new("hop", "b"), Header::absent("seen")]);
/// assert_eq!(headers.get_str("hop"), Some("b"));
/// assert_eq!(headers.get("seen"), None);
/// assert!(headers.contains("seen"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<Header>);

impl Headers {
    /// No headers; allocates nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header at the end.
    pub fn push(&mut self, header: Header) {
        self.0.push(header);
    }

    /// The identity: the last header of its name that has a value.
    pub(crate) fn message_id(&self) -> Option<&Bytes> {
        self.get_all(MESSAGE_ID).rev().find_map(Header::value)
    }

    /// The same headers, with memory of their own.
    pub(crate) fn detached(&self) -> Self {
        let copy = |header: &Header| Header {
            name: header.name.clone(),
            value: header.value.as_deref().map(Bytes::copy_from_slice),
        };
        Self(self.0.iter().map(copy).collect())
    }

    /// Takes away the headers of which `keep` says no.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Header) -> bool) {
        self.0.retain(keep);
    }

    /// Takes away every header of this name.
    pub(crate) fn remove_all(&mut self, name: &str) {
        self.0.retain(|header| header.name() != name);
    }

    /// How many there are, repeated names counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.0.iter()
    }

    /// Whether there is a header of this name, with or without a value. Names are compared byte by byte.
    pub fn contains(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    /// The last header of this name: who adds one later means to correct those before.
    pub fn last(&self, name: &str) -> Option<&Header> {
        self.0.iter().rfind(|header| header.name() == name)
    }

    /// The value of the [last](Headers::last) header of this name; `None` where there is no such header, or where it
    /// has no value.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.last(name)?.value()
    }

    /// [`get`](Headers::get) as text; `None` also where the value is no UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.last(name)?.value_str()
    }

    /// Every header of this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Header> {
        self.0.iter().filter(move |header| header.name() == name)
    }
}

impl FromIterator<Header> for Headers {
    fn from_iter<I: IntoIterator<Item = Header>>(headers: I) -> Self {
        Self(headers.into_iter().collect())
    }
}

impl From<Vec<Header>> for Headers {
    fn from(headers: Vec<Header>) -> Self {
        Self(headers)
    }
}

impl Extend<Header> for Headers {
    fn extend<I: IntoIterator<Item = Header>>(&mut self, headers: I) {
        self.0.extend(headers);
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a Header;
    type IntoIter = std::slice::Iter<'a, Header>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Headers {
    type Item = Header;
    type IntoIter = std::vec::IntoIter<Header>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Checks the names of a record's headers, how many they are, and its identity.
#[inline]
pub(super) fn validate<'a>(headers: impl ExactSizeIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Result<()> {
    let count = headers.len();
    if count > HEADERS_MAX {
        return Err(Error::invalid(format!("the record has {count} headers, of which {HEADERS_MAX} are allowed")));
    }
    for (name, value) in headers {
        let bytes = name.len();
        if bytes == 0 || bytes > HEADER_NAME_BYTES_MAX {
            let name = quoted(name);
            return Err(Error::invalid(format!(
                "the header name {name} has {bytes} bytes; 1 to {HEADER_NAME_BYTES_MAX} are allowed"
            )));
        }
        let id = value.filter(|_| name == MESSAGE_ID).map_or(1, <[u8]>::len);
        if id == 0 || id > MESSAGE_ID_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the identity of the record has {id} bytes; 1 to {MESSAGE_ID_BYTES_MAX} are allowed"
            )));
        }
    }
    Ok(())
}
