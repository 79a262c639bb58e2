//! Text and bytes, owned or borrowed, as [`Bytes`].

use std::borrow::Cow;

use bytes::Bytes;

/// What can be a key or the value of a header: text or bytes. What is owned is moved; what is borrowed is copied.
///
/// The standard conversions into [`Bytes`] take borrowed text only where it is `'static`; keys seldom are. To share
/// static bytes without a copy, pass [`Bytes::from_static`].
pub trait IntoBytes {
    /// Converts into shared bytes.
    fn into_bytes(self) -> Bytes;
}

macro_rules! owned {
    ($($type:ty),+) => {$(
        impl IntoBytes for $type {
            fn into_bytes(self) -> Bytes {
                Bytes::from(self)
            }
        }
    )+};
}

macro_rules! borrowed {
    ($($type:ty),+) => {$(
        impl IntoBytes for $type {
            fn into_bytes(self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        }
    )+};
}

owned!(String, Vec<u8>, Box<[u8]>);
borrowed!(&str, &String, &[u8], &Vec<u8>);

impl IntoBytes for Bytes {
    fn into_bytes(self) -> Bytes {
        self
    }
}

impl IntoBytes for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl<const N: usize> IntoBytes for [u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self)
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl IntoBytes for Cow<'_, str> {
    fn into_bytes(self) -> Bytes {
        Bytes::from(self.into_owned())
    }
}

impl IntoBytes for Cow<'_, [u8]> {
    fn into_bytes(self) -> Bytes {
        Bytes::from(self.into_owned())
    }
}
