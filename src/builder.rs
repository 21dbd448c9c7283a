//! [`Builder`]: checks the settings of a cache, and builds the cache.

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::time::Duration;

use super::cache::{EntryTtl, KeyCache};
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
    entry_ttl: Option<EntryTtl<V>>,
}

impl<V: Clone + Send + Sync + 'static> Builder<V> {
    pub(super) fn new() -> Self {
        Self {
            ttl: KeyCache::<V>::DEFAULT_TTL,
            capacity: KeyCache::<V>::DEFAULT_CAPACITY,
            clock: CoarseClock,
            entry_ttl: None,
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
    /// takes four bytes for each key of capacity.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets the clock that counts the time-to-live. Default: [`CoarseClock`].
    pub fn clock<D: Clock>(self, clock: D) -> Builder<V, D> {
        let Self { ttl, capacity, entry_ttl, .. } = self;
        Builder { ttl, capacity, clock, entry_ttl }
    }

    /// Sets a function that returns how long one value may be returned, counted from its lease.
    /// Default: the time-to-live, for every value.
    ///
    /// For values with their own end: a key that ends in 30 s is not cached for 60. The function
    /// applies to every stored value, of any lease or shared load. The time that the function
    /// returns shortens the time-to-live and never lengthens it. The clock's
    /// [resolution](Clock::resolution) counts against the value (G3). A time of zero, or one not
    /// longer than the resolution, removes an earlier value and stores nothing, as
    /// [`Lease::remember_for`](crate::Lease::remember_for) does.
    ///
    /// No loader names a time: a value that [`get_or_try_load`](KeyCache::get_or_try_load) or its
    /// async form stores has the time-to-live, or this function's time if that is shorter. The time
    /// counts from the lease that was taken before `load` was called, so the duration of `load`
    /// counts against the value. The caller whose `load` ran receives the value whatever its time.
    /// A caller that waits receives the value only before that time has passed.
    ///
    /// The function runs once for each value that is to be stored, on the thread that stores the
    /// value, before the cache is changed. It also runs for each caller to which
    /// [`get_or_try_load`](KeyCache::get_or_try_load) gives another caller's value. No guard or
    /// lock is held, so the function may use any cache, and may block. A panic in the function
    /// unwinds through [`remember`](crate::Lease::remember): nothing is stored, and the cache is
    /// not changed. Lookups never call the function and cost the same with one.
    ///
    /// If the end is a wall-clock time, return the time that is left until then. The time counts
    /// from the lease, which is earlier than the call, so the value ends early by the duration of
    /// the read. A wall clock that is set back lengthens the time that is left, up to the
    /// time-to-live.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use trust_key_cache::{BuildError, KeyCache, KeyHash};
    ///
    /// #[derive(Clone)]
    /// struct Principal {
    ///     user: u64,
    ///     ends: SystemTime,
    /// }
    ///
    /// # fn main() -> Result<(), BuildError> {
    /// let cache = KeyCache::<Principal>::builder()
    ///     .entry_ttl(|principal| {
    ///         // An error: the principal has ended.
    ///         principal.ends.duration_since(SystemTime::now()).unwrap_or_default()
    ///     })
    ///     .build()?;
    /// let (hash, now) = (KeyHash::of("key"), SystemTime::now());
    ///
    /// let ended = Principal { user: 7, ends: now - Duration::from_secs(1) };
    /// cache.lease(&hash).remember(ended);
    /// assert!(cache.is_empty());
    ///
    /// let valid = Principal { user: 7, ends: now + Duration::from_secs(30) };
    /// cache.lease(&hash).remember(valid);
    /// assert_eq!(cache.lookup_with(&hash, |principal| principal.user), Some(7));
    /// # Ok(()) }
    /// ```
    pub fn entry_ttl(mut self, entry_ttl: impl Fn(&V) -> Duration + Send + Sync + 'static) -> Self {
        self.entry_ttl = Some(AssertUnwindSafe(Box::new(entry_ttl)));
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that names the setting and its limit. Frees all memory in that
    /// case.
    pub fn build(self) -> Result<KeyCache<V, C>, BuildError> {
        let Self { ttl, capacity, clock, entry_ttl } = self;
        if ttl.is_zero() {
            return Err(BuildError::ZeroTtl);
        }
        if ttl > BuildError::MAX_TTL {
            return Err(BuildError::TtlTooLong { ttl });
        }
        let resolution = clock.resolution();
        if ttl <= resolution {
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
        Ok(KeyCache::from_parts(map, clock, ttl, resolution, entry_ttl, capacity))
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
