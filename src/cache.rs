//! [`KeyCache`]: the public type. It adds the clock and the time-to-live to the map.

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::sync::Arc;

use super::builder::Builder;
use super::lease::{Lease, OwnedLease, Terms};
use super::loads::Table;
use super::map::{SnapshotMap, Stamp};
use super::read_lease::ReadLease;
use crate::clock::{Clock, CoarseClock, nanos};
use crate::key_hash::KeyHash;

/// A cache from key hash to the id of a trust: a tenant that has API keys.
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

/// A lock-free cache from [`KeyHash`] to `V`. No value outlives its time-to-live or an
/// invalidation.
///
/// Share the cache by reference or in an [`Arc`](std::sync::Arc): all methods take `&self`.
/// [`lookup`](Self::lookup) clones a value, and [`lookup_with`](Self::lookup_with) borrows it.
///
/// # Progress
///
/// [`lookup`](Self::lookup) is wait-free: no lock, no allocation, no retry, no write to memory that
/// another thread's lookup reads. There are two exceptions. A thread's first operation registers
/// the thread. After a writer's scan for readers, a thread that was idle registers its return with
/// its next operation.
///
/// [`Lease::remember`] and [`invalidate_key`](Self::invalidate_key) are lock-free. So is
/// [`invalidate_where`](Self::invalidate_where), for each bucket. One write in 128 also frees
/// replaced buckets, and makes a system call if a thread is idle. In a small cache, at most one
/// write in 8 does. [`invalidate`](Self::invalidate) is one atomic read-modify-write.
/// Where [`reclamation`](crate::reclamation) is `CrossbeamEpoch`, each 128th lookup of a thread
/// also helps that collector. `docs/limits.md` describes what the platform's clock and atomic
/// instructions add.
///
/// Call no method in a signal handler: the handler may interrupt the registration of its own
/// thread.
///
/// # Values
///
/// A value is cloned whenever its bucket is copied: each `remember` or `invalidate_key` of a key in
/// the same bucket clones up to 15 values. Use ids or [`Arc`](std::sync::Arc)s.
///
/// `Clone` must not write to the cache that holds the value: the copy would repeat without end. A
/// value's `Drop` runs on a thread that writes to the cache or drops it, some time after the value
/// was replaced. `Drop` must not panic. `Drop` may write to other caches. `Drop` may write to its
/// own cache only rarely, because each clone is dropped: see `docs/limits.md`.
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
/// A cache cannot be used as a cache of a supertype of its values, because values are also
/// inserted:
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
    /// The most that the clock can lag.
    resolution: Duration,
    entry_ttl: Option<EntryTtl<V>>,
    capacity: usize,
    /// The loads of [`get_or_try_load`](Self::get_or_try_load) that are under way.
    pub(super) loads: Table,
}

/// The function of [`Builder::entry_ttl`]. It runs before the cache is changed: a panic in it
/// leaves the cache as it was, and what the function itself holds is its author's concern.
pub(super) type EntryTtl<V> = AssertUnwindSafe<Box<dyn Fn(&V) -> Duration + Send + Sync>>;

impl<V: Clone + Send + Sync + 'static> KeyCache<V> {
    /// The default time-to-live: 60 seconds.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(60);

    /// The default capacity: 16,384 keys. An empty cache of that capacity takes 64 KiB.
    pub const DEFAULT_CAPACITY: usize = 16_384;

    /// Returns a cache with the default time-to-live, capacity and clock.
    ///
    /// # Panics
    ///
    /// If the allocator refuses the 64 KiB of an empty cache.
    #[must_use]
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(cache) => cache,
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns a builder with the default time-to-live, capacity and clock.
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
    /// Makes a cache from settings that [`Builder`] has checked. `resolution` is the clock's.
    pub(super) fn from_parts(
        map: SnapshotMap<V>,
        clock: C,
        ttl: Duration,
        resolution: Duration,
        entry_ttl: Option<EntryTtl<V>>,
        capacity: usize,
    ) -> Self {
        Self { map, clock, ttl, resolution, entry_ttl, capacity, loads: Table::new() }
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.now_nanos()
    }

    /// Returns a time that no lease shows which is taken less than `within` from now, in true time.
    /// The clock lags by its resolution at most, so the true time is no later than `now` and the
    /// resolution (G2.14).
    fn closed_until(&self, within: Duration) -> u64 {
        self.now().saturating_add(nanos(self.resolution)).saturating_add(nanos(within))
    }

    /// Returns when a value expires: of `at_most`, the value's own time and the time-to-live, the
    /// shortest counts from the lease on.
    pub(super) fn expires_at(&self, taken_at: u64, at_most: Duration, own: Duration) -> u64 {
        let lifetime = self.ttl.min(at_most).min(own).saturating_sub(self.resolution);
        taken_at.saturating_add(nanos(lifetime))
    }

    /// Returns the time that the function of [`Builder::entry_ttl`] gives a value. The function is
    /// the user's: call it under no guard and no lock.
    pub(super) fn own_ttl(&self, value: &V) -> Duration {
        self.entry_ttl.as_ref().map_or(Duration::MAX, |entry_ttl| entry_ttl(value))
    }

    /// Returns what a lease for `hash` is checked against. Its time is read before the call.
    pub(super) fn stamp(&self, hash: &KeyHash, taken_at: u64) -> Stamp {
        self.map.stamp(hash, taken_at)
    }
}

impl<V: Clone + Send + Sync + 'static, C: Clock> KeyCache<V, C> {
    /// Returns a clone of the value remembered for `hash`, unless the value has expired or was
    /// invalidated.
    ///
    /// # When a hit may be the answer
    ///
    /// A hit may be the answer if the request needs only the cached value (a principal), and this
    /// contract suffices:
    ///
    /// * *In this process, after an invalidation:* once [`invalidate`](Self::invalidate) or
    ///   [`invalidate_key`](Self::invalidate_key) has returned, no lookup returns a value whose
    ///   lease was taken before (G1, G2). A later `remember` under such a lease is refused.
    /// * *In this process, without an invalidation:* a value is returned for at most the
    ///   time-to-live, counted from its lease (G3). A change that is made by hand in the database
    ///   is such a case.
    /// * *In other processes:* each cache returns its values until the time-to-live ends, unless
    ///   that process invalidates, too.
    ///
    /// # When the row must be read
    ///
    /// Read the row if a key that was revoked in another process or by hand must be refused at
    /// once. Compare the row's digest with `hash`, by the `==` of [`KeyHash`]. Cache the id of the
    /// row then. A stale entry costs one round trip and never grants access. `trust-auth` works in
    /// this way.
    ///
    /// Wait-free; O(1): one bucket of at most 16 entries is searched. Reads the clock once, at the
    /// start: a lookup that began before a value expired may return the value.
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = KeyCache::<u32>::new();
    /// assert_eq!(cache.lookup(&KeyHash::of("an unknown key")), None);
    /// ```
    #[inline]
    #[must_use]
    pub fn lookup(&self, hash: &KeyHash) -> Option<V> {
        self.map.get(hash, || self.now(), V::clone)
    }

    /// Calls `read` with a reference to the value, and returns the result of `read`.
    ///
    /// The value is not cloned. The contract of a hit is that of [`lookup`](Self::lookup).
    ///
    /// While `read` runs, no cache of the process frees what is replaced. Keep `read` short, and do
    /// not block in it. `read` may use the cache and also change it: the borrowed value does not
    /// change.
    ///
    /// Wait-free up to the call of `read`. A panic in `read` unwinds through the lookup and leaves
    /// the cache as it was.
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
        self.map.get(hash, || self.now(), read)
    }

    /// Returns a clone of the value remembered for `hash`, as [`lookup`](Self::lookup) does, if the
    /// read lease is valid.
    ///
    /// The value may be granted without a read of the source of truth. It was read after every
    /// change that was committed before the lease's last renewal began, and the lease is valid when
    /// the call reads the lease's clock (G11). [`ReadLease`] describes what the holder and the
    /// changers do for that.
    ///
    /// Returns `None` if no value is cached, or if the lease is not valid: at or past its deadline,
    /// before its first renewal, or relinquished. Then read the source of truth under a
    /// [cache lease](Self::lease). [`ReadLease::is_valid`] distinguishes the two cases. Do not call
    /// [`lookup`](Self::lookup), [`get_or_try_load`](Self::get_or_try_load) or
    /// [`get_or_try_load_async`](Self::get_or_try_load_async) instead: they return a value also
    /// where the read lease is not valid, until its time-to-live ends.
    ///
    /// Wait-free; O(1): a lookup, one more load, and on a hit one read of the lease's clock.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_key_cache::{KeyCache, KeyHash, ManualClock, ReadLease};
    /// let cache = KeyCache::<u32>::new();
    /// let clock = ManualClock::new();
    /// let lease = ReadLease::with_clock(Duration::from_secs(10), clock.clone());
    /// let hash = KeyHash::of("key");
    /// assert!(cache.lease(&hash).remember(7));
    /// assert_eq!(cache.lookup_held(&lease, &hash), None);
    ///
    /// lease.begin().complete();
    /// assert_eq!(cache.lookup_held(&lease, &hash), Some(7));
    /// clock.advance(Duration::from_secs(8));
    /// assert_eq!(cache.lookup_held(&lease, &hash), None);
    /// assert!(!lease.is_valid());
    /// ```
    #[inline]
    #[must_use]
    pub fn lookup_held<D: Clock>(&self, lease: &ReadLease<D>, hash: &KeyHash) -> Option<V> {
        self.lookup_held_with(lease, hash, V::clone)
    }

    /// Calls `read` with a reference to the value, and returns the result of `read`, if the read
    /// lease is valid.
    ///
    /// The contract of a hit is that of [`lookup_held`](Self::lookup_held), and that of `read` is
    /// that of [`lookup_with`](Self::lookup_with). The lease's clock is read just before `read` is
    /// called. What `read` decides later may come after the deadline.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// # use trust_key_cache::{KeyCache, KeyHash, ManualClock, ReadLease};
    /// let cache = KeyCache::<Arc<str>>::new();
    /// let lease = ReadLease::with_clock(Duration::from_secs(10), ManualClock::new());
    /// let hash = KeyHash::of("key");
    /// assert!(cache.lease(&hash).remember("St. Mary".into()));
    /// lease.begin().complete();
    /// assert_eq!(cache.lookup_held_with(&lease, &hash, |name| name.len()), Some(8));
    /// ```
    #[inline]
    pub fn lookup_held_with<D: Clock, R>(
        &self,
        lease: &ReadLease<D>,
        hash: &KeyHash,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R> {
        // The deadline, then the entry, then the clock (G11.6, G11.8).
        let deadline = lease.deadline();
        let if_valid = |value: &V| lease.is_before(deadline).then(|| read(value));
        self.map.get(hash, || self.now(), if_valid).flatten()
    }

    /// Takes a lease for `hash`: the right to remember one value that is read afterwards.
    ///
    /// Take the lease **before** the source of truth is read, and pass the answer to
    /// [`Lease::remember`]. The lease records the start of the time-to-live, and the invalidations
    /// so far. Any later invalidation of the key supersedes the lease.
    ///
    /// Wait-free; O(1). Stores nothing: a lease that is dropped changes nothing.
    ///
    /// The technique is from Nishtala et al., "Scaling Memcache at Facebook" (NSDI 2013), section
    /// 3.2.1.
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
        Lease { cache: self, terms: self.terms(hash) }
    }

    /// Takes a lease for `hash` that owns a share of the cache, and is `'static`.
    ///
    /// For a load on another thread or in a spawned task. In every other respect the lease is that
    /// of [`lease`](Self::lease). Wait-free; O(1): the count of the [`Arc`] is raised.
    ///
    /// ```
    /// # use std::{sync::Arc, thread};
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = Arc::new(KeyCache::<u32>::new());
    /// let hash = KeyHash::of("key");
    /// let lease = cache.lease_owned(&hash);
    /// thread::spawn(move || lease.remember(7)).join().unwrap();
    /// assert_eq!(cache.lookup(&hash), Some(7));
    /// ```
    pub fn lease_owned(self: &Arc<Self>, hash: &KeyHash) -> OwnedLease<V, C> {
        OwnedLease { cache: Arc::clone(self), terms: self.terms(hash) }
    }

    fn terms(&self, hash: &KeyHash) -> Terms {
        // The clock is read before the stamp, so that the time between them counts against the
        // value.
        let taken_at = self.now();
        Terms { hash: *hash, taken_at, stamp: self.map.stamp(hash, taken_at) }
    }

    /// Stores `value` under the `terms` of a lease, for at most `at_most` from the lease on.
    pub(super) fn remember(&self, terms: &Terms, value: V, at_most: Duration) -> bool {
        // The caller's code runs here, under no guard and before the map is read.
        let own = self.own_ttl(&value);
        let expires_at = self.expires_at(terms.taken_at, at_most, own);
        self.map.insert(&terms.hash, terms.stamp, self.now(), expires_at, value)
    }

    /// Drops every value, and supersedes every lease taken so far.
    ///
    /// Call `invalidate` after a change of the source of truth was committed. The change is final
    /// in this process once `invalidate` has returned: a [`lookup`](Self::lookup) that
    /// happens-after returns no value whose lease was taken before (G1). Caches of other processes
    /// are not changed.
    ///
    /// Wait-free, and O(1) at any size: one atomic increment. The memory of a dropped value is
    /// freed when its bucket is written again.
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

    /// Drops the value of `hash`, and supersedes every lease for `hash` taken so far.
    ///
    /// Call `invalidate_key` after a change of this key alone was committed. The change is final in
    /// this process once `invalidate_key` has returned (G2). The leases of a key that is not cached
    /// are superseded, too.
    ///
    /// No other value is lost. A lease for another key of the same bucket may be superseded, too.
    /// The value of that lease is not stored, which costs one more read of the source of truth.
    ///
    /// Lock-free; O(1): one bucket of at most 16 entries is copied.
    ///
    /// A change that names a row by its id returns the hash from the database:
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// # struct Database;
    /// # impl Database {
    /// #     fn delete_returning_hash(&self, _: u64) -> Result<Option<String>, String> {
    /// #         Ok(Some(KeyHash::of("key").to_hex()))
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (cache, database) = (KeyCache::<u64>::new(), Database);
    /// # let lease = cache.lease(&KeyHash::of("key"));
    /// // DELETE FROM api_keys WHERE id = $1 RETURNING key_hash
    /// if let Some(digits) = database.delete_returning_hash(7)? {
    ///     cache.invalidate_key(&digits.parse()?); // after the commit
    /// }
    /// # assert!(!lease.remember(7));
    /// # Ok(()) }
    /// ```
    ///
    /// Other keys keep their values:
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
        self.map.invalidate_key(hash, 0);
    }

    /// Drops every value, and lets no lease store anything that was taken so far or is taken within
    /// `within`.
    ///
    /// The contract is that of [`invalidate_key_for`](Self::invalidate_key_for), for every key.
    /// Until the time has passed, no value is stored at all, and each lookup misses. A later
    /// [`invalidate`](Self::invalidate) does not end the time.
    ///
    /// Lock-free, and O(1) at any size: two atomic read-modify-writes.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_key_cache::{BuildError, KeyCache, KeyHash, ManualClock};
    /// # fn main() -> Result<(), BuildError> {
    /// let clock = ManualClock::new();
    /// let cache = KeyCache::builder().clock(clock.clone()).build()?;
    /// let hash = KeyHash::of("key");
    ///
    /// cache.invalidate_for(Duration::from_secs(5));
    /// assert!(!cache.lease(&hash).remember(7));
    /// clock.advance(Duration::from_secs(5));
    /// assert!(cache.lease(&hash).remember(7));
    /// # Ok(()) }
    /// ```
    pub fn invalidate_for(&self, within: Duration) {
        self.map.invalidate_for(self.closed_until(within));
    }

    /// Drops the value of `hash`. Supersedes every lease for `hash` that was taken so far or is
    /// taken within `within`.
    ///
    /// Call `invalidate_key_for` **before** a change, with a duration that is longer than the
    /// change can take. The call covers a change whose caller is dropped between the commit and
    /// [`invalidate_key`](Self::invalidate_key). For example, a client hangs up, the server drops
    /// the handler that waits for the statement, and the database still commits. A guard that
    /// invalidates in its `Drop` does not cover this case, because the commit may follow the drop.
    ///
    /// Once `invalidate_key_for` has returned, no lookup returns a value of `hash` whose lease was
    /// taken before the call. The same holds for a lease that is taken less than `within` after the
    /// call has read the clock (G2). The read of the clock is the first step of the call, so choose
    /// `within` with a margin. [`Lease::remember`] returns `false` for such a lease. A lease that
    /// is taken later stores its value as usual. A clock that lags counts against the lease: leases
    /// may be refused for up to twice the clock's [resolution](Clock::resolution) longer.
    /// [`Duration::MAX`] never ends.
    ///
    /// Of two durations, the one that ends later counts. No call shortens a duration, because
    /// another change may rely on it. Leases for the other keys of the bucket are refused for the
    /// same time, and their values stay.
    ///
    /// Lock-free; O(1): one bucket of at most 16 entries is copied. Lookups cost the same during
    /// the time.
    ///
    /// Use `invalidate_key_for` before the change, and `invalidate_key` after it:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// # #[derive(Debug)]
    /// # struct DatabaseError;
    /// # struct Database;
    /// # impl Database {
    /// #     async fn disable(&self, _: &KeyHash) -> Result<(), DatabaseError> { Ok(()) }
    /// # }
    /// /// After so long the database aborts the statement.
    /// const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
    /// const MARGIN: Duration = Duration::from_secs(1);
    ///
    /// async fn disable(
    ///     cache: &KeyCache<u64>,
    ///     database: &Database,
    ///     hash: &KeyHash,
    /// ) -> Result<(), DatabaseError> {
    ///     cache.invalidate_key_for(hash, STATEMENT_TIMEOUT + MARGIN);
    ///     // If this future is dropped here, the key may be disabled or not. No lease that could
    ///     // have read the key as it was before stores its value.
    ///     database.disable(hash).await?;
    ///     cache.invalidate_key(hash); // final from here on
    ///     Ok(())
    /// }
    /// # let cache = KeyCache::new();
    /// # let hash = KeyHash::of("key");
    /// # assert!(cache.lease(&hash).remember(7));
    /// # let future = std::pin::pin!(disable(&cache, &Database, &hash));
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # assert!(std::future::Future::poll(future, &mut context).is_ready());
    /// # assert_eq!(cache.lookup(&hash), None);
    /// # assert!(!cache.lease(&hash).remember(7));
    /// ```
    pub fn invalidate_key_for(&self, hash: &KeyHash, within: Duration) {
        self.map.invalidate_key(hash, self.closed_until(within));
    }

    /// Drops every value that `named` returns `true` for, and supersedes every lease taken so far.
    /// Returns the number of dropped values.
    ///
    /// Use it for a change that concerns many keys: all keys of one user, or of one organization.
    /// Call `invalidate_where` after the change was committed. The change is final in this process
    /// once `invalidate_where` has returned. A [`lookup`](Self::lookup) that happens-after returns
    /// no named value whose lease was taken before (G2). No other value is lost.
    ///
    /// Leases in flight for any key are refused, because the cache does not have their values yet.
    /// For the same reason, a copy of **every** bucket is published, also of an empty one. Copies
    /// of only the buckets with a named value would not suffice. A `remember` that has checked its
    /// lease could store a named value after the call has passed its bucket.
    ///
    /// `named` is called for values that a lookup could return. It must give the same answer each
    /// time: a bucket that another writer changes meanwhile is read again. The result counts each
    /// dropped value once, and no expired one. While writers run, it is not the count of a single
    /// moment, and values that an [`invalidate`](Self::invalidate) drops meanwhile may be counted.
    ///
    /// O([`capacity`](Self::capacity)): all buckets are copied, and an empty cache gets its
    /// buckets. Use it for administration, not for requests. Lock-free for each bucket.
    ///
    /// # What `named` may do
    ///
    /// `named` may make lookups in any cache, and change *other* caches. If `named` changes this
    /// cache, the bucket that it has changed is read again: a function that does so in each call
    /// repeats without end. While `named` runs, nothing that is replaced in any cache of the
    /// process is freed: keep `named` short, and do not block in it.
    ///
    /// # Panics
    ///
    /// If `named` panics. The cache stays whole: buckets before that one are done, the others are
    /// as they were, and the change is not final. Call [`invalidate`](Self::invalidate) then. If
    /// the panic came as a bucket was read again, misses in it cost more until it is written.
    ///
    /// ```
    /// use trust_key_cache::{KeyCache, KeyHash};
    ///
    /// #[derive(Clone)]
    /// struct Principal {
    ///     user: u64,
    /// }
    ///
    /// let cache = KeyCache::<Principal>::new();
    /// for (key, user) in [("laptop", 7), ("phone", 7), ("other", 8)] {
    ///     assert!(cache.lease(&KeyHash::of(key)).remember(Principal { user }));
    /// }
    /// // After the commit that disables the user:
    /// assert_eq!(cache.invalidate_where(|_, principal| principal.user == 7), 2);
    /// assert!(cache.lookup(&KeyHash::of("laptop")).is_none());
    /// assert!(cache.lookup(&KeyHash::of("other")).is_some());
    /// ```
    pub fn invalidate_where(&self, named: impl Fn(&KeyHash, &V) -> bool) -> usize {
        self.map.invalidate_where(self.now(), named)
    }

    /// Returns the number of values that a lookup could return now.
    ///
    /// While writers run, the count is not that of a single moment. Takes no lock and allocates
    /// nothing. Visits every bucket, in O([`capacity`](Self::capacity)): use it in tests and
    /// gauges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len(self.now())
    }

    /// Returns whether no lookup could return a value now.
    ///
    /// Visits buckets as [`len`](Self::len) does, up to the first value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty(self.now())
    }
}

impl<V, C> KeyCache<V, C> {
    /// Returns the time-to-live: the longest time that a value is returned, counted from its lease.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns the number of live keys that the cache was built for.
    ///
    /// The cache keeps at least 99.9 % of that number of live keys, and never more than four times
    /// that number.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl<V, C> fmt::Debug for KeyCache<V, C> {
    /// Writes the time-to-live, the capacity and the number of shared loads under way, without keys
    /// or values. The number is left out while another thread changes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("KeyCache");
        shown.field("ttl", &self.ttl).field("capacity", &self.capacity);
        if let Some(loads) = self.loads.len() {
            shown.field("loads_under_way", &loads);
        }
        shown.finish_non_exhaustive()
    }
}
