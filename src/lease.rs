//! [`Lease`]: the right to remember one answer. The next invalidation of the key ends that right.

use core::fmt;

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
    pub(super) hash: KeyHash,
    /// Nanoseconds of the cache's clock.
    pub(super) taken_at: u64,
    pub(super) stamp: Stamp,
}

impl<V: Clone + Send + Sync + 'static, C: Clock> Lease<'_, V, C> {
    /// Stores `value` for the lease's key, unless an invalidation has superseded the lease.
    ///
    /// Returns `true` if the value was stored, in place of an earlier value. Returns `false` if the
    /// lease was superseded: then nothing is stored (G1, G2, G4). The request that has read the
    /// value may still use it.
    ///
    /// Lookups return the value until the time-to-live has passed since the *lease* was taken. A
    /// lease that is older than the time-to-live removes an earlier value and stores nothing.
    /// `true` means that the lease was valid when it was checked: a concurrent invalidation may
    /// have dropped the value already. A full bucket evicts the value that expires first.
    ///
    /// Lock-free; O(1): one bucket of at most 16 entries is copied. Allocates one bucket.
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
        self.cache.remember(&self, value)
    }
}

impl<V, C> fmt::Debug for Lease<'_, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("hash", &self.hash)
            .field("stamp", &self.stamp)
            .finish_non_exhaustive()
    }
}
