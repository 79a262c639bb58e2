//! What the way into a frame asks of a record, so that there is one way for the owned and the borrowed.

use std::cell::RefCell;

use crate::codec::Codec;
use crate::error::Result;
use crate::record::{MESSAGE_ID, Record, RecordRef};

thread_local! {
    /// Where values are encoded, outside of every lock.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A scratch buffer that one large value has grown beyond this is given back.
pub(super) const SCRATCH_BYTES_MAX: usize = 1 << 20;

/// A record to be sent.
pub(crate) trait Outgoing {
    fn key(&self) -> Option<&[u8]>;

    fn headers(&self) -> impl ExactSizeIterator<Item = (&str, Option<&[u8]>)>;

    fn timestamp_micros(&self) -> Option<i64>;

    fn partition(&self) -> Option<u32>;

    /// The identity: the last header of its name that has a value.
    #[inline]
    fn message_id(&self) -> Option<&[u8]> {
        self.headers().filter(|(name, _)| *name == MESSAGE_ID).filter_map(|(_, value)| value).last()
    }

    /// Checks what does not depend on the topic.
    fn validate(&self) -> Result<()>;

    /// Runs `then` with the encoded value, which is `None` for a tombstone.
    fn with_value<R>(&self, then: impl FnOnce(Option<&[u8]>) -> Result<R>) -> Result<R>;
}

/// A record together with the codec of its value.
pub(crate) struct Owned<'a, T, C> {
    pub(crate) record: &'a Record<T>,
    pub(crate) codec: &'a C,
}

impl<T, C: Codec<T>> Outgoing for Owned<'_, T, C> {
    #[inline]
    fn key(&self) -> Option<&[u8]> {
        self.record.key.as_deref()
    }

    #[inline]
    fn headers(&self) -> impl ExactSizeIterator<Item = (&str, Option<&[u8]>)> {
        self.record.headers.iter().map(|header| (header.name(), header.value().map(|value| &value[..])))
    }

    #[inline]
    fn timestamp_micros(&self) -> Option<i64> {
        self.record.timestamp_micros()
    }

    #[inline]
    fn partition(&self) -> Option<u32> {
        self.record.partition
    }

    #[inline]
    fn validate(&self) -> Result<()> {
        self.record.validate()
    }

    /// The value is borrowed where the codec can lend it, and encoded into a buffer of the thread where it cannot.
    #[inline]
    fn with_value<R>(&self, then: impl FnOnce(Option<&[u8]>) -> Result<R>) -> Result<R> {
        let Some(value) = &self.record.value else { return then(None) };
        if let Some(bytes) = self.codec.as_bytes(value) {
            return then(Some(bytes));
        }
        // Taken out, so that a codec that itself sends records finds another buffer.
        let mut scratch = SCRATCH.take();
        scratch.clear();
        let encoded = self.codec.encode(value, &mut scratch);
        let answer = match encoded {
            Ok(()) => then(Some(&scratch)),
            Err(error) => Err(error.in_context("the value could not be encoded")),
        };
        if scratch.capacity() <= SCRATCH_BYTES_MAX {
            SCRATCH.set(scratch);
        }
        answer
    }
}

impl Outgoing for RecordRef<'_> {
    #[inline]
    fn key(&self) -> Option<&[u8]> {
        self.key
    }

    #[inline]
    fn headers(&self) -> impl ExactSizeIterator<Item = (&str, Option<&[u8]>)> {
        self.headers.iter().copied()
    }

    #[inline]
    fn timestamp_micros(&self) -> Option<i64> {
        self.timestamp_micros()
    }

    #[inline]
    fn partition(&self) -> Option<u32> {
        self.partition
    }

    #[inline]
    fn validate(&self) -> Result<()> {
        self.validate()
    }

    #[inline]
    fn with_value<R>(&self, then: impl FnOnce(Option<&[u8]>) -> Result<R>) -> Result<R> {
        then(self.value)
    }
}
