//! [`Lease`] and [`OwnedLease`]: the right to remember one answer. The next invalidation of the key
//! ends that right. The two differ in how they hold the cache alone.

use core::fmt;
use core::time::Duration;
// Not loom's: the models share an `OwnedLease` as callers do.
use std::sync::Arc;

use super::cache::KeyCache;
use super::map::Stamp;
use crate::clock::{Clock, CoarseClock};
use crate::key_hash::KeyHash;

/// Holds the right to [`remember`](Self::remember) one value for one key.
///
/// [`KeyCache::lease`] takes a lease, before the source of truth is read. A lease holds no lock and
/// no reclamation guard. A caller may keep a lease for any time, send it to another thread, and
/// hold it across `.await`. A lease that is dropped without use changes nothing.
///
/// # Examples
///
/// A loader may fail, or find no row. In both cases the lease is dropped:
///
/// ```
/// use trust_key_cache::{KeyCache, KeyHash};
///
/// # #[derive(Debug)]
/// # struct DatabaseError;
/// async fn load(key: &str, cache: &KeyCache<u32>) -> Result<Option<u32>, DatabaseError> {
///     let hash = KeyHash::of(key);
///     let lease = cache.lease(&hash);
///     let found: Option<u32> = read_database(&hash).await?;
///     if let Some(id) = found {
///         lease.remember(id);
///     }
///     Ok(found)
/// }
/// # async fn read_database(_: &KeyHash) -> Result<Option<u32>, DatabaseError> { Ok(Some(7)) }
/// # let cache = KeyCache::new();
/// # let future = std::pin::pin!(load("key", &cache));
/// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// # assert!(std::future::Future::poll(future, &mut context).is_ready());
/// # assert_eq!(cache.lookup(&KeyHash::of("key")), Some(7));
/// ```
#[must_use = "a lease does nothing until it remembers a value"]
pub struct Lease<'a, V, C = CoarseClock> {
    pub(super) cache: &'a KeyCache<V, C>,
    pub(super) terms: Terms,
}

/// Holds the right to [`remember`](Self::remember) one value for one key, and a share of the cache.
///
/// [`KeyCache::lease_owned`] takes an owned lease. The lease is `'static`, for a task or a thread
/// that borrows nothing, and is a [`Lease`] in every other respect. The last owner drops the cache,
/// and that may be an owned lease.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::thread;
/// use trust_key_cache::{KeyCache, KeyHash};
///
/// let cache = Arc::new(KeyCache::<u32>::new());
/// let hash = KeyHash::of("key");
///
/// let lease = cache.lease_owned(&hash); // before the database is read
/// let loading = thread::spawn(move || lease.remember(7)); // or tokio::spawn
/// assert!(loading.join().unwrap());
/// assert_eq!(cache.lookup(&hash), Some(7));
/// ```
#[must_use = "a lease does nothing until it remembers a value"]
pub struct OwnedLease<V, C = CoarseClock> {
    pub(super) cache: Arc<KeyCache<V, C>>,
    pub(super) terms: Terms,
}

/// What a lease records when it is taken. [`KeyCache::remember`] checks a value against it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) hash: KeyHash,
    /// Nanoseconds of the cache's clock.
    pub(super) taken_at: u64,
    pub(super) stamp: Stamp,
}

impl Terms {
    fn fmt_as(&self, lease: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(lease)
            .field("hash", &self.hash)
            .field("stamp", &self.stamp)
            .finish_non_exhaustive()
    }
}

impl<V: Clone + Send + Sync + 'static, C: Clock> Lease<'_, V, C> {
    /// Stores `value` for the lease's key, unless an invalidation has superseded the lease.
    ///
    /// Returns `true` if the value was stored, in place of an earlier value. Returns `false` if the
    /// lease was superseded: then nothing is stored (G1, G2, G4). The request that has read the
    /// value may still use it.
    ///
    /// Lookups return the value until the time-to-live has passed since the *lease* was taken, or
    /// the shorter time that [`Builder::entry_ttl`](crate::Builder::entry_ttl) has given for the
    /// value. A lease that is older than that removes an earlier value and stores nothing. `true`
    /// means that the lease was valid when it was checked: a concurrent invalidation may have
    /// dropped the value already. A full bucket evicts the value that expires first.
    ///
    /// Lock-free; O(1): one bucket of at most 16 entries is copied. Allocates one bucket. A lease
    /// that was superseded while another writer changed the bucket may copy it, too.
    ///
    /// # Panics
    ///
    /// If the function given to `entry_ttl` panics. The function runs before the cache is changed,
    /// so nothing is stored and an earlier value stays.
    ///
    /// ```
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = KeyCache::<u32>::new();
    /// let hash = KeyHash::of("key");
    /// assert!(cache.lease(&hash).remember(1));
    /// assert!(cache.lease(&hash).remember(2));
    /// assert_eq!(cache.lookup(&hash), Some(2));
    /// ```
    pub fn remember(self, value: V) -> bool {
        self.remember_for(value, Duration::MAX)
    }

    /// Stores `value` as [`remember`](Self::remember) does, for at most `at_most` from the lease.
    ///
    /// Use it for a key that ends before the time-to-live does. The shortest of three times counts:
    /// `at_most`, the time-to-live, and the result of
    /// [`Builder::entry_ttl`](crate::Builder::entry_ttl). The clock's
    /// [resolution](Clock::resolution) counts against the value (G3), so the value may expire
    /// early. No time is left if `at_most` is not longer than the resolution, or if the lease is
    /// older than `at_most`. Then an earlier value is removed and nothing is stored. The answer is
    /// newer than the removed value, and the result is `true`.
    ///
    /// Results, panics, progress and cost are those of [`remember`](Self::remember).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use trust_key_cache::{BuildError, KeyCache, KeyHash, ManualClock};
    /// # fn main() -> Result<(), BuildError> {
    /// let clock = ManualClock::new();
    /// let cache = KeyCache::builder().clock(clock.clone()).build()?; // 60 s
    /// let hash = KeyHash::of("a key that ends in 30 s");
    /// assert!(cache.lease(&hash).remember_for(7, Duration::from_secs(30)));
    ///
    /// clock.advance(Duration::from_secs(29));
    /// assert_eq!(cache.lookup(&hash), Some(7));
    /// clock.advance(Duration::from_secs(1));
    /// assert_eq!(cache.lookup(&hash), None);
    /// # Ok(()) }
    /// ```
    pub fn remember_for(self, value: V, at_most: Duration) -> bool {
        self.cache.remember(&self.terms, value, at_most)
    }
}

impl<V: Clone + Send + Sync + 'static, C: Clock> OwnedLease<V, C> {
    /// Stores `value` for the lease's key, unless an invalidation has superseded the lease.
    ///
    /// The contract is that of [`Lease::remember`].
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = Arc::new(KeyCache::<u32>::new());
    /// let hash = KeyHash::of("key");
    /// let lease = cache.lease_owned(&hash);
    /// cache.invalidate_key(&hash);
    /// assert!(!lease.remember(7));
    /// ```
    pub fn remember(self, value: V) -> bool {
        self.remember_for(value, Duration::MAX)
    }

    /// Stores `value` as [`remember`](Self::remember) does, for at most `at_most` from the lease.
    ///
    /// The contract is that of [`Lease::remember_for`].
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// # use trust_key_cache::{KeyCache, KeyHash};
    /// let cache = Arc::new(KeyCache::<u32>::new());
    /// let hash = KeyHash::of("a key that has ended");
    /// assert!(cache.lease_owned(&hash).remember_for(7, Duration::ZERO));
    /// assert_eq!(cache.lookup(&hash), None);
    /// ```
    pub fn remember_for(self, value: V, at_most: Duration) -> bool {
        self.cache.remember(&self.terms, value, at_most)
    }
}

impl<V, C> fmt::Debug for Lease<'_, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.terms.fmt_as("Lease", f)
    }
}

impl<V, C> fmt::Debug for OwnedLease<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.terms.fmt_as("OwnedLease", f)
    }
}
