//! [`KeyCache`]: the public face of the map, which adds the clock and the time-to-live.

use core::fmt;
use core::time::Duration;

use super::builder::Builder;
use super::lease::Lease;
use super::map::SnapshotMap;
use crate::clock::nanos;
use crate::{Clock, CoarseClock, KeyHash};

/// The cache of the reference system: from key hash to trust id.
///
/// ```
/// use trust_key_cache::{KeyHash, TrustKeyCache};
/// use uuid::Uuid;
///
/// let cache = TrustKeyCache::new();
/// let (hash, id) = (KeyHash::of("key"), Uuid::from_u128(7));
/// assert!(cache.lease(&hash).remember(id));
/// assert_eq!(cache.lookup(&hash), Some(id));
/// ```
pub type TrustKeyCache = KeyCache<uuid::Uuid>;

/// A lock-free cache from [`KeyHash`] to `V`, in which nothing outlives its time-to-live or an
/// invalidation.
///
/// Share it by reference or in an [`Arc`](std::sync::Arc); all methods take `&self`. Values are
/// cloned out, or borrowed by [`lookup_with`](Self::lookup_with).
///
/// # Progress
///
/// [`lookup`](Self::lookup) is wait-free: no lock, no allocation, no retry, no write to memory that
/// another thread's lookup reads. Two exceptions: a thread's first operation registers it, and the
/// first after a rest, during which a writer has found it at rest, says that it is back.
/// [`Lease::remember`] and [`invalidate_key`](Self::invalidate_key) are lock-free; one in 128 (in a
/// small cache, in 8 at least) also frees what was replaced, and where a thread rests
/// makes a system call for it. [`invalidate`](Self::invalidate) is one atomic read-modify-write.
/// Where [`reclamation`](crate::reclamation) is `CrossbeamEpoch`, each 128th lookup of a thread
/// helps that collector, too. What the platform's clock and atomic instructions make of "wait-free"
/// is in `docs/limits.md`.
///
/// No method may be called in a signal handler: a handler that interrupts a lookup finds the
/// thread's registration half-made.
///
/// # Values
///
/// A value is cloned whenever its bucket is copied: up to 15 times in each `remember` or
/// `invalidate_key` of a neighbour. Ids and [`Arc`](std::sync::Arc)s are what this is made for.
/// `Clone` must not write to the cache: a copy that undoes itself never ends. A value's `Drop` runs
/// on a thread that writes to the cache or drops it, some time after the value was replaced, and
/// must not panic. It may write to other caches. Writes to its own cache must be rare, since each
/// clone is dropped: see `docs/limits.md`.
///
/// # Examples
///
/// ```
/// use trust_key_cache::{KeyCache, KeyHash};
///
/// let cache = KeyCache::<u32>::new();
/// let hash = KeyHash::of("key of trust 7");
///
/// assert_eq!(cache.lookup(&hash), None);
/// let lease = cache.lease(&hash); // before the database is read
/// let id = 7; // the database's answer
/// assert!(lease.remember(id));
/// assert_eq!(cache.lookup(&hash), Some(7));
///
/// cache.invalidate_key(&hash);
/// assert_eq!(cache.lookup(&hash), None);
/// ```
///
/// A cache is not a cache of a supertype of its values, since values are also put in:
///
/// ```compile_fail,E0308
/// # use trust_key_cache::KeyCache;
/// fn narrowed<'a>(cache: &'a KeyCache<for<'s> fn(&'s str)>) -> &'a KeyCache<fn(&'static str)> {
///     cache
/// }
/// ```
pub struct KeyCache<V, C = CoarseClock> {
    map: SnapshotMap<V>,
    clock: C,
    ttl: Duration,
    /// How long after its lease a value is shown, in nanoseconds of the clock: the time-to-live
    /// less what the clock may lag.
    lifetime: u64,
    capacity: usize,
}

impl<V: Clone + Send + Sync + 'static> KeyCache<V> {
    /// The reference system's time-to-live: 60 seconds.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(60);

    /// The capacity of a cache that was not told one: 16,384 keys, which costs 32 KiB as long as it
    /// is empty.
    pub const DEFAULT_CAPACITY: usize = 16_384;

    /// A cache with the default time-to-live, capacity and clock.
    ///
    /// # Panics
    ///
    /// When the allocator refuses the 32 KiB of an empty cache, as `Vec` would.
    #[must_use]
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(cache) => cache,
            Err(error) => panic!("{error}"),
        }
    }

    /// A builder with the default time-to-live, capacity and clock.
    ///
    /// ```
    /// use std::time::Duration;
    /// use trust_key_cache::{BuildError, KeyCache};
    ///
    /// let cache = KeyCache::<u32>::builder().ttl(Duration::from_secs(5)).capacity(1_000).build()?;
    /// assert_eq!(cache.capacity(), 1_000);
    /// # Ok::<(), BuildError>(())
    /// ```
    pub fn builder() -> Builder<V> {
        Builder::new()
    }
}

impl<V: Clone + Send + Sync + 'static> Default for KeyCache<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V, C: Clock> KeyCache<V, C> {
    /// For [`Builder`], which has checked the arguments: `lifetime` is `ttl` less the clock's
    /// resolution.
    pub(super) fn from_parts(
        map: SnapshotMap<V>,
        clock: C,
        ttl: Duration,
        lifetime: Duration,
        capacity: usize,
    ) -> Self {
        Self { map, clock, ttl, lifetime: nanos(lifetime), capacity }
    }

    fn now(&self) -> u64 {
        nanos(self.clock.now())
    }
}

impl<V: Clone + Send + Sync + 'static, C: Clock> KeyCache<V, C> {
    /// The value remembered for `hash`, cloned, unless it has expired or was invalidated.
    ///
    /// A hit is a hint, never an answer: verify the live row before granting anything.
    ///
    /// Wait-free; O(1): one bucket of at most 16 entries is searched. Reads the clock once, first:
    /// a lookup that began before a value expired may return it.
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = KeyCache::<u32>::new();
    /// assert_eq!(cache.lookup(&KeyHash::of("nobody")), None);
    /// ```
    #[inline]
    #[must_use]
    pub fn lookup(&self, hash: &KeyHash) -> Option<V> {
        self.map.get(hash, self.now(), V::clone)
    }

    /// Shows the value to `read` instead of cloning it, and returns what `read` made of it.
    ///
    /// While `read` runs, nothing that is replaced in any cache of the process is freed. Keep it
    /// short, and do not block in it. It may use the cache, also to change it; what it borrows
    /// stays as it was.
    ///
    /// Wait-free up to the call of `read`. A panic in `read` passes through and leaves the cache as
    /// it was.
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// # use std::sync::Arc;
    /// let cache = KeyCache::<Arc<str>>::new();
    /// let hash = KeyHash::of("key");
    /// assert!(cache.lease(&hash).remember("St. Mary".into()));
    /// assert_eq!(cache.lookup_with(&hash, |name| name.len()), Some(8));
    /// ```
    #[inline]
    pub fn lookup_with<R>(&self, hash: &KeyHash, read: impl FnOnce(&V) -> R) -> Option<R> {
        self.map.get(hash, self.now(), read)
    }

    /// Announces that the value of `hash` is about to be read from the source of truth. Take the
    /// lease **before** that read, and give the answer to [`Lease::remember`].
    ///
    /// The lease fixes two things: the moment from which the time-to-live runs, and the
    /// invalidations that the answer may already reflect. Any later one makes the lease
    /// worthless. Wait-free; O(1); nothing is stored, so a lease that is dropped leaves no
    /// trace.
    ///
    /// Leases are from Nishtala et al., "Scaling Memcache at Facebook" (NSDI 2013), section 3.2.1.
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = KeyCache::<u32>::new();
    /// let hash = KeyHash::of("key");
    ///
    /// let lease = cache.lease(&hash);
    /// let answer = 7; // read from the database...
    /// cache.invalidate(); // ...which meanwhile revokes the key
    /// assert!(!lease.remember(answer));
    /// assert_eq!(cache.lookup(&hash), None);
    /// ```
    pub fn lease(&self, hash: &KeyHash) -> Lease<'_, V, C> {
        // The clock first: the time until the stamp is taken then counts against the value.
        let taken_at = self.now();
        Lease { cache: self, hash: *hash, taken_at, stamp: self.map.stamp(hash) }
    }

    /// What [`Lease::remember`] does.
    pub(super) fn remember(&self, lease: &Lease<'_, V, C>, value: V) -> bool {
        let expires_at = lease.taken_at.saturating_add(self.lifetime);
        self.map.insert(&lease.hash, lease.stamp, self.now(), expires_at, value)
    }

    /// Drops every value, and supersedes every lease taken so far. Call it after a change of the
    /// source of truth was committed.
    ///
    /// A [`lookup`](Self::lookup) that happens-after this returns no value whose lease was taken
    /// before (G1). Wait-free and O(1) at any size: one atomic increment. The memory of dropped
    /// values goes as their buckets are written again.
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = KeyCache::<u32>::new();
    /// let hash = KeyHash::of("key");
    /// assert!(cache.lease(&hash).remember(7));
    /// cache.invalidate();
    /// assert_eq!(cache.lookup(&hash), None);
    /// ```
    pub fn invalidate(&self) {
        self.map.invalidate();
    }

    /// Drops the value of `hash`, and supersedes every lease for `hash` taken so far. Call it after
    /// a change that concerns this key alone was committed.
    ///
    /// No other value is lost. A lease in flight for a key of the same bucket may be superseded
    /// too; its holder's value is then not stored, which costs one more read of the source of
    /// truth. Works the same whether or not the key is cached. Lock-free; O(1): one bucket of
    /// at most 16 entries is copied.
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = KeyCache::<u32>::new();
    /// let (revoked, other) = (KeyHash::of("revoked"), KeyHash::of("other"));
    /// assert!(cache.lease(&revoked).remember(1));
    /// assert!(cache.lease(&other).remember(2));
    ///
    /// cache.invalidate_key(&revoked);
    /// assert_eq!(cache.lookup(&revoked), None);
    /// assert_eq!(cache.lookup(&other), Some(2));
    /// ```
    pub fn invalidate_key(&self, hash: &KeyHash) {
        self.map.invalidate_key(hash);
    }

    /// How many values a lookup could return now. While writers run, the count is of no single
    /// moment.
    ///
    /// Visits every bucket: O([`capacity`](Self::capacity)), for tests and gauges. No lock, no
    /// allocation.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len(self.now())
    }

    /// Whether no lookup could return a value now. As [`len`](Self::len), but stops at the first
    /// that could be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty(self.now())
    }
}

impl<V, C> KeyCache<V, C> {
    /// How long a value is returned at most, counted from its lease.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The number of live keys that the cache was built for. It keeps at least 99.9 % of as many,
    /// and never more than four times as many.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl<V, C> fmt::Debug for KeyCache<V, C> {
    /// Time-to-live and capacity. No keys, no values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCache")
            .field("ttl", &self.ttl)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
