//! How events become bytes and bytes become events: [`Codec`], the built-in ones, and [`TopicDef`], which names a topic
//! together with its types.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};

#[cfg(test)]
mod tests;

/// Turns values of a type into bytes and back.
///
/// The log frames and checksums what a codec writes; a codec sees exactly the bytes that it wrote once. It must turn
/// down bytes that it would not have written rather than guess, above all bytes left over at the end.
///
/// ```
/// use annals::{Codec, CodecError};
/// use bytes::Bytes;
///
/// /// A temperature in tenths of a degree, in two bytes.
/// struct Tenths;
///
/// impl Codec<i16> for Tenths {
///     const CONTENT_TYPE: &'static str = "application/x-tenths";
///
///     fn encode(&self, value: &i16, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         out.extend(value.to_le_bytes());
///         Ok(())
///     }
///
///     fn decode(&self, bytes: &Bytes) -> Result<i16, CodecError> {
///         let bytes = <[u8; 2]>::try_from(bytes.as_ref()).map_err(CodecError::new)?;
///         Ok(i16::from_le_bytes(bytes))
///     }
/// }
///
/// let mut out = Vec::new();
/// Tenths.encode(&215, &mut out)?;
/// assert_eq!(Tenths.decode(&Bytes::from(out))?, 215);
/// assert!(Tenths.decode(&Bytes::from_static(&[1, 2, 3])).is_err());
/// # Ok::<(), CodecError>(())
/// ```
pub trait Codec<T>: Send + Sync + 'static {
    /// The media type of the bytes, for those who meet them outside annals.
    const CONTENT_TYPE: &'static str;

    /// Appends the bytes of `value` to `out`. What stands in `out` already is not the codec's; after an error, the
    /// caller cuts `out` back to where it was.
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The value of which `bytes`, all of them, are the encoding. The value may share their memory.
    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError>;

    /// [`decode`](Codec::decode) of bytes that nobody else wants: saves a codec whose value holds them a count of who does.
    fn decode_owned(&self, bytes: Bytes) -> Result<T, CodecError> {
        self.decode(&bytes)
    }

    /// The encoding, where the value simply holds it: saves [`encode`](Codec::encode) a copy.
    fn as_bytes<'a>(&self, value: &'a T) -> Option<&'a [u8]> {
        let _ = value;
        None
    }
}

/// Why a [`Codec`] could not encode or decode.
#[derive(Debug)]
pub struct CodecError(Box<dyn std::error::Error + Send + Sync>);

impl CodecError {
    /// From any error, or from a sentence.
    ///
    /// ```
    /// let error = annals::CodecError::new("there is no currency ABC");
    /// assert_eq!(error.to_string(), "there is no currency ABC");
    /// ```
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }

    /// The crate's error, with a sentence that says which value of which topic it was.
    pub(crate) fn in_context(self, context: impl Into<String>) -> Error {
        // The box itself is handed on: one link less in the chain of sources.
        Error::with_source(ErrorKind::Codec, context, self.0)
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for CodecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl From<CodecError> for Error {
    fn from(error: CodecError) -> Self {
        error.in_context("a value could not be encoded or decoded")
    }
}

/// Compact and fast, and the default: [bincode](https://docs.rs/bincode) 2 in its standard configuration
/// (little-endian, variable-length integers), by way of serde.
///
/// The bytes do not describe themselves: fields are known by their order alone. A type that is going to grow does
/// better with [`Json`], and so does one with serde's `flatten`, `skip`, `untagged` or `tag`, which bincode cannot
/// decode.
///
/// A length in the bytes cannot make the decoder allocate more than a fixed multiple of the bytes that are there, or
/// about 1 MiB a level of nesting. Nothing bounds the depth of a type that contains itself, nor the count of elements
/// that take no bytes, such as those of a `Vec<()>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bincode;

/// Readable by everything, and forgiving when a type grows: [serde_json](https://docs.rs/serde_json).
///
/// JSON has no numbers beyond the finite: a NaN or an infinity is written as `null`, which does not decode as a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json;

/// Bytes as they are: for [`Bytes`], `Vec<u8>` and (checked on decoding to be UTF-8) `String`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Raw;

impl Bincode {
    /// bincode counts what it is about to read by the width of the type, and refuses a length that exceeds the limit
    /// before it allocates. The widest integer has 16 bytes and takes one at least, so no honest value reads as more
    /// than this multiple of its encoding.
    const WIDTH_MAX: usize = 16;
    const SMALL: usize = 64 << 10;
    const MEDIUM: usize = 1 << 20;
    /// The largest record that any topic can hold.
    const LARGE: usize = 64 << 20;

    fn decode_within<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
        bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<LIMIT>())
            .map_err(CodecError::new)
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Bincode {
    const CONTENT_TYPE: &'static str = "application/x-bincode";

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        bincode::serde::encode_into_std_write(value, out, bincode::config::standard()).map_err(CodecError::new)?;
        Ok(())
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        // The limit is a constant to bincode; three steps keep it near what a value of this size can ask for.
        let (value, read) = match bytes.len() {
            len if len <= Self::SMALL => Self::decode_within::<T, { Self::SMALL * Self::WIDTH_MAX }>(bytes)?,
            len if len <= Self::MEDIUM => Self::decode_within::<T, { Self::MEDIUM * Self::WIDTH_MAX }>(bytes)?,
            len if len <= Self::LARGE => Self::decode_within::<T, { Self::LARGE * Self::WIDTH_MAX }>(bytes)?,
            len => return Err(CodecError::new(format!("{len} bytes are more than a record can have"))),
        };
        match bytes.len() - read {
            0 => Ok(value),
            left => Err(CodecError::new(format!("{left} bytes are left over after the value"))),
        }
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, value).map_err(CodecError::new)
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        // Refuses whatever but white space follows the value.
        serde_json::from_slice(bytes).map_err(CodecError::new)
    }
}

impl Codec<Bytes> for Raw {
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn encode(&self, value: &Bytes, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &Bytes) -> Result<Bytes, CodecError> {
        Ok(bytes.clone())
    }

    fn decode_owned(&self, bytes: Bytes) -> Result<Bytes, CodecError> {
        Ok(bytes)
    }

    fn as_bytes<'a>(&self, value: &'a Bytes) -> Option<&'a [u8]> {
        Some(value)
    }
}

impl Codec<Vec<u8>> for Raw {
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &Bytes) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }

    fn as_bytes<'a>(&self, value: &'a Vec<u8>) -> Option<&'a [u8]> {
        Some(value)
    }
}

impl Codec<String> for Raw {
    const CONTENT_TYPE: &'static str = "text/plain; charset=utf-8";

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &Bytes) -> Result<String, CodecError> {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(CodecError::new)
    }

    fn as_bytes<'a>(&self, value: &'a String) -> Option<&'a [u8]> {
        Some(value.as_bytes())
    }
}

/// The name of a topic together with the type of its events and their codec, written down once.
///
/// ```
/// use annals::{Json, TopicDef};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderPaid {
///     order: u64,
/// }
///
/// const ORDERS: TopicDef<OrderPaid, Json> = TopicDef::new("orders");
/// assert_eq!(ORDERS.name(), "orders");
///
/// // Where the name is known only as the program runs:
/// let shard: TopicDef<OrderPaid, Json> = TopicDef::named(format!("orders-{}", 7));
/// assert_eq!(shard.name(), "orders-7");
/// ```
pub struct TopicDef<T, C = Bincode> {
    name: Cow<'static, str>,
    // Neither an event nor a codec is held, so the definition is `Send` and `Sync` whatever they are.
    types: PhantomData<fn() -> (T, C)>,
}

impl<T, C> TopicDef<T, C> {
    /// A definition for a `const`. The name is checked when the topic is created or opened.
    pub const fn new(name: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), types: PhantomData }
    }

    /// A definition with a name that is made at run time.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Cow::Owned(name.into()), types: PhantomData }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<T, C: Codec<T> + Default> TopicDef<T, C> {
    /// The codec of the topic's events.
    pub fn codec(&self) -> C {
        C::default()
    }
}

impl<T, C> Clone for TopicDef<T, C> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), types: PhantomData }
    }
}

impl<T, C> fmt::Debug for TopicDef<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicDef")
            .field("name", &self.name)
            .field("event", &std::any::type_name::<T>())
            .field("codec", &std::any::type_name::<C>())
            .finish()
    }
}
