//! Settings of a topic that may change while it is open.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crate::format::compression::Compression;

/// What a partition looks up at each append, for it may have another value the next time.
#[derive(Debug)]
pub(crate) struct LiveSettings {
    compression: AtomicU16,
    segment_bytes_max: AtomicU64,
    reserve_bytes: AtomicU64,
}

impl LiveSettings {
    pub(crate) fn new(compression: Compression, segment_bytes_max: u64, reserve_bytes: u64) -> Self {
        let settings = Self {
            compression: AtomicU16::new(0),
            segment_bytes_max: AtomicU64::new(0),
            reserve_bytes: AtomicU64::new(0),
        };
        settings.apply(compression, segment_bytes_max, reserve_bytes);
        settings
    }

    /// How frames are compressed from now on.
    #[inline]
    pub(crate) fn compression(&self) -> Compression {
        match self.compression.load(Ordering::Relaxed) {
            0 => Compression::None,
            1 => Compression::Lz4,
            level => Compression::Zstd { level: (level >> 8) as u8 },
        }
    }

    /// Changes how frames are compressed from now on.
    pub(crate) fn set_compression(&self, compression: Compression) {
        let packed = match compression {
            Compression::None => 0,
            Compression::Lz4 => 1,
            Compression::Zstd { level } => 2 | u16::from(level) << 8,
        };
        self.compression.store(packed, Ordering::Relaxed);
    }

    /// The size at which a partition begins another segment.
    #[inline]
    pub(crate) fn segment_bytes_max(&self) -> u64 {
        self.segment_bytes_max.load(Ordering::Relaxed)
    }

    /// How much room is kept behind the end, for when the disk is full.
    #[inline]
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes.load(Ordering::Relaxed)
    }

    /// Changes them, from now on.
    pub(crate) fn apply(&self, compression: Compression, segment_bytes_max: u64, reserve_bytes: u64) {
        self.set_compression(compression);
        self.segment_bytes_max.store(segment_bytes_max, Ordering::Relaxed);
        self.reserve_bytes.store(reserve_bytes, Ordering::Relaxed);
    }
}
