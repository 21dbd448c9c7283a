//! [`BuildError`]: the settings that [`Builder::build`](crate::Builder::build) refuses.

use core::fmt;
use core::time::Duration;

/// Reports why a [`Builder`](crate::Builder) builds no cache, and which setting to change.
///
/// ```
/// use std::time::Duration;
/// use trust_key_cache::{BuildError, KeyCache};
///
/// let error = KeyCache::<u32>::builder().ttl(Duration::ZERO).build().unwrap_err();
/// assert_eq!(error, BuildError::ZeroTtl);
/// assert_eq!(
///     error.to_string(),
///     "the time-to-live is zero, so no lookup could return a value; choose a positive one"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The time-to-live is zero.
    ZeroTtl,
    /// The time-to-live is longer than [`MAX_TTL`](Self::MAX_TTL).
    TtlTooLong {
        /// The requested time-to-live.
        ttl: Duration,
    },
    /// The clock may lag by the whole time-to-live or more. Every value would have expired when it
    /// is stored.
    TtlBelowResolution {
        /// The requested time-to-live.
        ttl: Duration,
        /// The longest lag of the clock.
        resolution: Duration,
    },
    /// The capacity is zero.
    ZeroCapacity,
    /// The capacity is larger than [`MAX_CAPACITY`](Self::MAX_CAPACITY).
    CapacityTooLarge {
        /// The requested capacity.
        capacity: usize,
    },
    /// The allocator refused the table of an empty cache: four bytes for each key of capacity.
    OutOfMemory {
        /// The requested capacity.
        capacity: usize,
    },
}

impl BuildError {
    /// The longest time-to-live: 365 days.
    pub const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    /// The largest capacity: 2^28 keys, whose empty table costs 512 MiB.
    pub const MAX_CAPACITY: usize = 1 << 28;
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroTtl => {
                write!(
                    f,
                    "the time-to-live is zero, so no lookup could return a value; \
                     choose a positive one"
                )
            }
            Self::TtlTooLong { ttl } => {
                write!(
                    f,
                    "the time-to-live of {ttl:?} is too long; choose at most {:?}",
                    Self::MAX_TTL
                )
            }
            Self::TtlBelowResolution { ttl, resolution } => write!(
                f,
                "the time-to-live of {ttl:?} is not longer than the clock may lag \
                 ({resolution:?}), so no lookup could return a value; \
                 choose a longer one or a finer clock"
            ),
            Self::ZeroCapacity => {
                write!(f, "the capacity is zero, so no key could be kept; choose at least 1")
            }
            Self::CapacityTooLarge { capacity } => {
                write!(
                    f,
                    "the capacity of {capacity} keys is too large; choose at most {}",
                    Self::MAX_CAPACITY
                )
            }
            Self::OutOfMemory { capacity } => write!(
                f,
                "the allocator refused the empty table of {capacity} keys (four bytes each); \
                 choose a smaller capacity"
            ),
        }
    }
}

impl core::error::Error for BuildError {}
