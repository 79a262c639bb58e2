//! Little-endian reading that cannot run past the end, and the variable-length integers.

use super::{FormatError, FormatResult};

/// The longest encoding of a `u64`.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Reads from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> FormatResult<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(FormatError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> FormatResult<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(FormatError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> FormatResult<u8> {
        let (first, rest) = self.rest.split_first().ok_or(FormatError::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn u16(&mut self) -> FormatResult<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> FormatResult<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> FormatResult<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> FormatResult<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A LEB128 integer: seven bits a byte, the lowest first. A longer encoding than needed is refused, so that every
    /// value has one encoding only.
    #[inline]
    pub(crate) fn varint(&mut self) -> FormatResult<u64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.varint_rest(first)
    }

    fn varint_rest(&mut self, first: u8) -> FormatResult<u64> {
        let mut value = u64::from(first & 0x7f);
        for index in 1..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if index == VARINT_BYTES_MAX - 1 && bits > 1 {
                return Err(FormatError::Record);
            }
            value |= bits << (7 * index);
            if byte < 0x80 {
                return if byte == 0 { Err(FormatError::Record) } else { Ok(value) };
            }
        }
        Err(FormatError::Record)
    }

    /// A length that must fit into what is left.
    #[inline]
    pub(crate) fn slice(&mut self) -> FormatResult<&'a [u8]> {
        let len = self.varint()?;
        if len > self.rest.len() as u64 {
            return Err(FormatError::Short);
        }
        self.take(len as usize)
    }
}

/// Appends a LEB128 integer.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Folds the sign into the lowest bit, so that small differences of either sign are short.
#[inline]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Undoes [`zigzag`].
#[inline]
pub(crate) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}
