//! [`Builder`]: checks the settings of a cache, and builds the cache.

use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;

use super::cache::KeyCache;
use super::map::{Shape, SnapshotMap};
use super::sync::random_seed;
use crate::build_error::BuildError;
use crate::clock::{Clock, CoarseClock};

/// Configures a [`KeyCache`]. [`KeyCache::builder`] returns a builder.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_key_cache::{BuildError, KeyCache, ManualClock};
///
/// # fn main() -> Result<(), BuildError> {
/// let cache = KeyCache::<u32>::builder()
///     .ttl(Duration::from_secs(30))
///     .capacity(1_000_000)
///     .clock(ManualClock::new())
///     .build()?;
/// assert_eq!(cache.ttl(), Duration::from_secs(30));
///
/// let error = KeyCache::<u32>::builder().capacity(0).build().unwrap_err();
/// assert_eq!(error, BuildError::ZeroCapacity);
/// # Ok(()) }
/// ```
#[must_use = "a builder builds nothing until `build`"]
pub struct Builder<V, C = CoarseClock> {
    ttl: Duration,
    capacity: usize,
    clock: C,
    values: PhantomData<fn() -> V>,
}

impl<V: Clone + Send + Sync + 'static> Builder<V> {
    pub(super) fn new() -> Self {
        Self {
            ttl: KeyCache::<V>::DEFAULT_TTL,
            capacity: KeyCache::<V>::DEFAULT_CAPACITY,
            clock: CoarseClock,
            values: PhantomData,
        }
    }
}

impl<V: Clone + Send + Sync + 'static, C: Clock> Builder<V, C> {
    /// Sets the longest time that a value is returned, counted from its lease. Default: 60 s.
    ///
    /// The time-to-live must be longer than the clock's resolution, and at most
    /// [`BuildError::MAX_TTL`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the number of live keys to keep. Default: 16,384.
    ///
    /// The capacity must be from 1 to [`BuildError::MAX_CAPACITY`]. The cache keeps at least 99.9 %
    /// of that number of live keys, and never more than four times that number. An empty cache
    /// takes two bytes for each key of capacity.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets the clock that counts the time-to-live. Default: [`CoarseClock`].
    pub fn clock<D: Clock>(self, clock: D) -> Builder<V, D> {
        Builder { ttl: self.ttl, capacity: self.capacity, clock, values: PhantomData }
    }

    /// Builds the cache.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that names the setting and its limit. Frees all memory in that
    /// case.
    pub fn build(self) -> Result<KeyCache<V, C>, BuildError> {
        let Self { ttl, capacity, clock, .. } = self;
        if ttl.is_zero() {
            return Err(BuildError::ZeroTtl);
        }
        if ttl > BuildError::MAX_TTL {
            return Err(BuildError::TtlTooLong { ttl });
        }
        let resolution = clock.resolution();
        let lifetime = ttl.saturating_sub(resolution);
        if lifetime.is_zero() {
            return Err(BuildError::TtlBelowResolution { ttl, resolution });
        }
        if capacity == 0 {
            return Err(BuildError::ZeroCapacity);
        }
        if capacity > BuildError::MAX_CAPACITY {
            return Err(BuildError::CapacityTooLarge { capacity });
        }
        let map = SnapshotMap::new(Shape::for_capacity(capacity), random_seed())
            .map_err(|_| BuildError::OutOfMemory { capacity })?;
        Ok(KeyCache::from_parts(map, clock, ttl, lifetime, capacity))
    }
}

impl<V, C> fmt::Debug for Builder<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("ttl", &self.ttl)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
